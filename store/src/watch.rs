//! Watches: each is a place in the list of changes. Events of one revision are never split, come in order,
//! once, and only when they are durable. A watch that is not read costs nothing but its place; when history
//! is compacted past that place it ends with `Compacted`.

use std::collections::BTreeMap;

use pintle_base::{Now, Time};
use pintle_wire::msg::store::{Error, Event, Reply};

use crate::core::{Output, Store, Tag};
use crate::index::Span;
use crate::limits;
use crate::read::key_value;
use crate::txn::check_key;

struct Watch {
    span: Span,
    prev_kv: bool,
    /// First revision not yet looked at.
    next: u64,
    /// Newest revision that the watcher knows to have all of.
    told: u64,
    /// A message is on its way.
    paused: bool,
}

/// All watches.
#[derive(Default)]
pub(crate) struct Watches {
    watches: BTreeMap<Tag, Watch>,
    progress_at: Option<Time>,
}

impl Watches {
    pub(crate) fn remove(&mut self, tag: Tag) {
        self.watches.remove(&tag);
    }

    /// The watch may get its next message; false when there is none of this tag.
    pub(crate) fn resume(&mut self, tag: Tag) -> bool {
        self.watches.get_mut(&tag).map(|w| w.paused = false).is_some()
    }

    pub(crate) fn progress_at(&self) -> Option<Time> {
        self.progress_at
    }
}

impl Store {
    /// Begins a watch.
    pub(crate) fn watch(
        &mut self,
        tag: Tag,
        key: Vec<u8>,
        range_end: Vec<u8>,
        from_revision: u64,
        prev_kv: bool,
        now: Now,
    ) {
        let from = if from_revision == 0 { self.visible + 1 } else { from_revision };
        let refusal = if let Err(e) = check_key(&key) {
            Some(e)
        } else if from <= self.compact {
            Some(Error::Compacted { compact_revision: self.compact })
        } else if self.watches.watches.len() >= limits::WATCHES_MAX {
            Some(Error::TooLarge(format!("there are {} watches, the limit", limits::WATCHES_MAX)))
        } else {
            None
        };
        if let Some(error) = refusal {
            self.reply(tag, Reply::Error(error));
            return;
        }
        let span = Span::new(key, range_end);
        let watch = Watch { span, prev_kv, next: from, told: from - 1, paused: false };
        self.watches.watches.insert(tag, watch);
        self.reply(tag, Reply::WatchCreated { from_revision: from });
        self.pump(tag, now);
    }

    /// Brings all watches on.
    pub(crate) fn pump_all(&mut self, now: Now) {
        let waiting: Vec<Tag> =
            self.watches.watches.iter().filter(|(_, w)| !w.paused).map(|(t, _)| *t).collect();
        for tag in waiting {
            self.pump(tag, now);
        }
    }

    /// Brings one watch on: to its next message or to the newest visible revision.
    pub(crate) fn pump(&mut self, tag: Tag, now: Now) {
        let Some(watch) = self.watches.watches.get_mut(&tag) else { return };
        if watch.paused || watch.next > self.visible {
            return;
        }
        if watch.next <= self.compact {
            let compact_revision = self.compact;
            self.end_watch(tag, Error::Compacted { compact_revision });
            return;
        }
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut reached = self.visible;
        let mut last = 0;
        let mut failure = None;
        for change in self.index.changes_from(watch.next) {
            if change.revision > self.visible {
                break;
            }
            if bytes > limits::EVENTS_BYTES_MAX && change.revision != last {
                reached = last;
                break;
            }
            last = change.revision;
            if !watch.span.contains(&change.key) {
                continue;
            }
            // A volatile version may be forgotten; a newer one of the key follows.
            let Some((v, before)) = self.index.change(&change.key, change.revision) else {
                continue;
            };
            let kv = key_value(&mut self.values, &self.log, &change.key, v, true);
            let prev = before
                .filter(|_| watch.prev_kv)
                .map(|b| key_value(&mut self.values, &self.log, &change.key, b, true))
                .transpose();
            match (kv, prev) {
                (Ok(kv), Ok(prev)) => {
                    bytes += kv.key.len() + kv.value.len() + 64;
                    bytes += prev.as_ref().map_or(0, |p| p.value.len() + 64);
                    events.push(Event { deleted: v.deleted(), kv, prev });
                }
                (Err(e), _) | (_, Err(e)) => {
                    failure = Some(e);
                    break;
                }
            }
        }
        if let Some(error) = failure {
            self.end_watch(tag, error);
            return;
        }
        watch.next = reached + 1;
        if events.is_empty() {
            if watch.told < reached && self.watches.progress_at.is_none() {
                self.watches.progress_at = Some(now.mono + limits::PROGRESS_AFTER);
            }
        } else {
            watch.told = reached;
            watch.paused = true;
            self.outputs
                .push_back(Output::Reply(tag, Reply::WatchEvents { events, revision: reached }));
        }
    }

    fn end_watch(&mut self, tag: Tag, error: Error) {
        self.watches.remove(tag);
        self.reply(tag, Reply::Error(error));
    }

    /// Tells the watchers that nothing matched how far they are.
    pub(crate) fn send_progress(&mut self, now: Now) {
        if self.watches.progress_at.is_none_or(|at| at > now.mono) {
            return;
        }
        self.watches.progress_at = None;
        for (tag, watch) in &mut self.watches.watches {
            if !watch.paused && watch.next > self.visible && watch.told < self.visible {
                watch.told = self.visible;
                let reply = Reply::WatchProgress { revision: self.visible };
                self.outputs.push_back(Output::Reply(*tag, reply));
            }
        }
    }
}
