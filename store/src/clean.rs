//! Cleaning: what is still needed of the oldest segment is written again, then the segment goes. Always the
//! oldest first, so that the segments that are left hold everything: every live value, and for every key that
//! was deleted either the delete or nothing at all.
//!
//! A mistake here deletes user data, so the rules are few. A segment goes only when
//! 1. history is compacted beyond its last revision (no watch and no older revision needs its order),
//! 2. every value in it is garbage, or lives on in a copy (a `relocate` operation) that is durable,
//! 3. every lease made in it has ended, or is made again in a record that is durable,
//! 4. compaction and reserved revisions are written again, durably.
//!
//! A value that is overwritten but still history stops the cleaning until history passes it: a copy of it
//! behind its own delete could bring a deleted key back after the delete's segment went.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use pintle_base::Now;
use pintle_wire::msg::Body;

use crate::core::Store;
use crate::index::{Fate, Key, Place, Version};
use crate::job::{Leftover, Work};
use crate::limits;
use crate::log::{Log, Room};
use crate::record::{LogOp, PutOp};

/// How far the cleaning is.
#[derive(Default)]
pub(crate) struct Cleaning {
    step: Step,
    /// Places that were changed by copies which may not be durable yet: key, revision, old place, batch.
    moved: VecDeque<(Key, u64, Place, u64)>,
    /// Not before history is compacted to this revision.
    not_before: u64,
}

#[derive(Default)]
enum Step {
    #[default]
    Idle,
    /// The segment is to be read.
    Examine(u64),
    /// It is being read.
    Examining(u64),
    /// What is needed is being copied.
    Copying { number: u64, left: VecDeque<Leftover>, shadowed: BTreeSet<Key> },
    /// The last copy is in this batch.
    Syncing { number: u64, batch: u64 },
    /// The segment is to be removed.
    Remove(u64),
    /// It is being removed.
    Removing,
}

impl Cleaning {
    /// Disk work that is due.
    pub(crate) fn take_work(&mut self, log: &Log) -> Option<Work> {
        match self.step {
            Step::Examine(number) => {
                let file = Arc::clone(&log.segments.get(&number)?.file);
                self.step = Step::Examining(number);
                Some(Work::Examine { number, file, store_id: log.store_id })
            }
            Step::Remove(number) => {
                self.step = Step::Removing;
                Some(Work::Remove { number })
            }
            _ => None,
        }
    }
}

impl Store {
    /// Goes on with cleaning, or begins it when it is worth while. Called when disk work ended.
    pub(crate) fn clean(&mut self, now: Now) {
        if self.closing {
            return;
        }
        match self.cleaning.step {
            Step::Idle => {
                if let Some(number) = self.worth_cleaning() {
                    self.cleaning.step = Step::Examine(number);
                }
            }
            Step::Copying { .. } => self.copy_some(now),
            Step::Examine(_)
            | Step::Examining(_)
            | Step::Syncing { .. }
            | Step::Remove(_)
            | Step::Removing => {}
        }
    }

    /// The oldest segment, when it may go and there is enough garbage.
    fn worth_cleaning(&self) -> Option<u64> {
        let (number, last_revision) = self.log.oldest()?;
        let needed = self.index.live_bytes() + self.index.history_bytes();
        let most = needed * 2 + self.config.slack_segments * self.config.segment_bytes;
        let too_much = self.log.closed_bytes() > most || self.log.no_space();
        let may_go = last_revision <= self.compact && self.cleaning.not_before <= self.compact;
        (too_much && may_go).then_some(number)
    }

    /// The segment was read.
    pub(crate) fn examined(&mut self, number: u64, left: Vec<Leftover>) {
        let expected = matches!(self.cleaning.step, Step::Examining(n) if n == number);
        assert!(expected, "segment {number} was examined and nobody asked for it");
        let left = left.into();
        self.cleaning.step = Step::Copying { number, left, shadowed: BTreeSet::new() };
    }

    /// Copies up to a batch's worth, and finishes when nothing is left.
    fn copy_some(&mut self, now: Now) {
        let Step::Copying { number, mut left, mut shadowed } =
            std::mem::take(&mut self.cleaning.step)
        else {
            return;
        };
        let most = limits::CLEAN_BYTES.min(self.record_bytes_max());
        let mut bytes = 0;
        let mut copies: Vec<(Key, Version, Body)> = Vec::new();
        let mut leases: Vec<(u64, u64)> = Vec::new();
        // What is taken from `left` now, to be put back when there is no room.
        let mut taken = Vec::new();
        while bytes < most
            && let Some(item) = left.pop_front()
        {
            match &item {
                Leftover::Lease(id) => {
                    if let Some(lease) = self.leases.get(*id) {
                        bytes += 24;
                        leases.push((*id, lease.ttl_ms));
                    }
                }
                Leftover::Value { key, mod_revision, place } => {
                    match self.index.fate(key, *mod_revision, *place) {
                        Fate::Gone => {}
                        Fate::Live(key, v) => match self.values.read(&self.log, &v) {
                            Ok(value) => {
                                bytes += 8 + 8 + 36 + key.len() + value.len();
                                copies.push((key, v, value));
                            }
                            // A damaged value stays where it is, and its segment with it; whoever reads the
                            // key is told.
                            Err(_) => {
                                self.cleaning.not_before = u64::MAX;
                                return;
                            }
                        },
                        Fate::History(by) => {
                            self.cleaning.not_before = by;
                            return;
                        }
                        Fate::Shadowed(key) => {
                            shadowed.insert(key);
                        }
                    }
                }
            }
            taken.push(item);
        }
        let last = left.is_empty();
        if Log::record_bytes(bytes + 32) > self.log.largest_record() {
            // One value fills a segment: it goes into a record of its own or not at all.
            self.cleaning.not_before = u64::MAX;
            return;
        }
        let room = |store: &Store| store.log.room(Log::record_bytes(bytes + 32), true) == Room::Yes;
        if !room(self) || (last && !self.unshadow(&shadowed, now)) || !room(self) {
            for item in taken.into_iter().rev() {
                left.push_front(item);
            }
            self.cleaning.step = Step::Copying { number, left, shadowed };
            return;
        }
        self.write_copies(&copies, &leases, last, now);
        self.cleaning.step = if last {
            // The record that was just written is in the newest batch.
            Step::Syncing { number, batch: self.log.pending_batch().unwrap_or(0) }
        } else {
            Step::Copying { number, left, shadowed }
        };
    }

    /// Writes the values of these keys into the log, where they are in memory only; false when it could not.
    fn unshadow(&mut self, keys: &BTreeSet<Key>, now: Now) -> bool {
        let in_memory =
            |s: &Store| keys.iter().any(|k| s.index.latest(k).is_some_and(Version::in_memory));
        if in_memory(self) {
            self.put_keys_again(keys, now);
        }
        !in_memory(self)
    }

    fn write_copies(
        &mut self,
        copies: &[(Key, Version, Body)],
        leases: &[(u64, u64)],
        last: bool,
        now: Now,
    ) {
        let mut ops: Vec<LogOp<'_>> = copies
            .iter()
            .map(|(key, v, value)| LogOp::Relocate {
                mod_revision: v.mod_revision,
                put: PutOp {
                    key,
                    create_revision: v.create_revision,
                    version: u64::from(v.version),
                    lease: v.lease,
                    volatile: v.volatile,
                    value_crc: v.crc,
                    value,
                    value_offset: 0,
                },
            })
            .collect();
        ops.extend(
            leases.iter().map(|(id, ttl_ms)| LogOp::LeaseGrant { id: *id, ttl_ms: *ttl_ms }),
        );
        if last {
            ops.push(LogOp::Compact(self.compact));
            if self.ceiling > self.head {
                ops.push(LogOp::Reserve(self.ceiling));
            }
        }
        if ops.is_empty() {
            return;
        }
        let places = self.append_plain(&ops, now);
        let batch = self.log.pending_batch().unwrap_or(0);
        for ((key, v, value), place) in copies.iter().zip(places) {
            self.index.set_place(key, v.mod_revision, place);
            self.values.cache(place, Body::clone(value), self.log.durable_end());
            self.cleaning.moved.push_back((Key::clone(key), v.mod_revision, v.place, batch));
        }
    }

    /// A batch is durable.
    pub(crate) fn cleaned_batch(&mut self, batch: u64) {
        while self.cleaning.moved.front().is_some_and(|(_, _, _, b)| *b <= batch) {
            self.cleaning.moved.pop_front();
        }
        if let Step::Syncing { number, batch: last } = self.cleaning.step
            && last <= batch
        {
            self.cleaning.step = Step::Remove(number);
        }
    }

    /// The segment is gone.
    pub(crate) fn removed(&mut self, number: u64) {
        self.log.segments.remove(&number);
        self.cleaning.step = Step::Idle;
    }

    /// Copies that were not written are forgotten; the values are where they were. Called before the index
    /// is rolled back.
    pub(crate) fn abandon_cleaning(&mut self) {
        for (key, revision, place, _) in std::mem::take(&mut self.cleaning.moved) {
            self.index.set_place(&key, revision, place);
        }
        match self.cleaning.step {
            // What was copied before is durable, what was not is copied when the segment comes again.
            Step::Copying { .. } | Step::Syncing { .. } => self.cleaning.step = Step::Idle,
            Step::Idle
            | Step::Examine(_)
            | Step::Examining(_)
            | Step::Remove(_)
            | Step::Removing => {}
        }
    }
}
