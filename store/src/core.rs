//! The store as a state machine: requests, ends of disk work and time in; replies and disk work out.
//!
//! A write is applied to the index at once and gets its revision, but nobody is told of it, and no read or
//! watch shows it, before it is durable: `visible` trails `head` by what waits for the disk. A transaction's
//! compares look at the head, and its answer waits for all that it looked at.

use std::collections::VecDeque;
use std::time::Duration;

use pintle_base::disk::Disk;
use pintle_base::{Now, Time};
use pintle_wire::msg::store::{Error, Reply, Request, Status};

use crate::clean::Cleaning;
use crate::error::OpenError;
use crate::index::{Index, Key, Place};
use crate::job::{Done, Ended, Failure, Job, Work};
use crate::lease::{Lease, Leases};
use crate::limits;
use crate::log::{Log, Room};
use crate::record::LogOp;
use crate::recover::{self, Recovery};
use crate::txn::Txn;
use crate::values::Values;
use crate::watch::Watches;

/// Number of a request, chosen by the shell; a watch keeps its own until it ends.
pub type Tag = u64;

/// Sizes and ages. The default is what `limits` says.
#[derive(Clone, Debug)]
pub struct Config {
    /// Size of new segments; at least four times the largest record that a test wants to write.
    pub segment_bytes: u64,
    /// Values kept in memory.
    pub cache_bytes: usize,
    /// History is compacted beyond this age.
    pub history_age: Duration,
    /// History is compacted beyond this size.
    pub history_bytes: u64,
    /// Segments of garbage that are left alone; see `clean`.
    pub slack_segments: u64,
    /// Identity for a store that is made new; should differ from store to store.
    pub store_id: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            segment_bytes: limits::SEGMENT_BYTES,
            cache_bytes: limits::CACHE_BYTES,
            history_age: limits::HISTORY_AGE,
            history_bytes: limits::HISTORY_BYTES,
            slack_segments: limits::SLACK_SEGMENTS,
            store_id: 0,
        }
    }
}

/// What the shell must do.
#[derive(Debug)]
pub enum Output {
    /// Send this to whoever asked with this tag. After `WatchEvents`, call [`Store::watch_sent`] when the
    /// message is on its way; the watch is silent until then.
    Reply(Tag, Reply),
    /// Run this where it may block, and bring its end to [`Store::handle_done`].
    Job(Job),
    /// The disk is full (true), or has space again: tell the operator. Puts are refused when the segment that
    /// is written now is nearly used up; reads, watches, deletes and compaction go on.
    Full(bool),
    /// The disk failed: say so and end the process with a failure. Nothing more comes.
    Fatal(String),
}

/// Something that waits for the next segment.
pub(crate) enum Stalled {
    Txn(Tag, Txn),
    Grant {
        tag: Tag,
        id: u64,
        ttl_ms: u64,
    },
    Revoke {
        tag: Tag,
        id: u64,
    },
    /// After a crash: give the volatile keys up to this revision a new one.
    Restate(u64),
    /// Before the end: write down what is in memory only.
    Close,
}

/// A change of leases that is not durable yet.
pub(crate) enum LeaseUndo {
    Granted(u64),
    Revoked(u64, Lease),
}

/// An overwritten value that is in memory only.
pub(crate) struct OldVolatile {
    pub(crate) key: Key,
    pub(crate) revision: u64,
    pub(crate) bytes: usize,
    /// Revision that overwrote it.
    pub(crate) by: u64,
}

/// The store.
pub struct Store {
    pub(crate) config: Config,
    pub(crate) index: Index,
    pub(crate) leases: Leases,
    pub(crate) watches: Watches,
    pub(crate) values: Values,
    pub(crate) log: Log,
    /// Newest revision.
    pub(crate) head: u64,
    /// Newest revision that is durable, or volatile with everything before it durable.
    pub(crate) visible: u64,
    /// Newest revision that is in the log and on disk.
    pub(crate) durable: u64,
    pub(crate) compact: u64,
    /// Volatile writes may use revisions up to here.
    pub(crate) ceiling: u64,
    /// (wall time, revision), about a minute apart.
    pub(crate) marks: VecDeque<(i64, u64)>,
    /// Replies that wait for a batch, in order.
    pub(crate) waiting: VecDeque<(u64, Tag, Reply)>,
    pub(crate) stalled: VecDeque<Stalled>,
    pub(crate) lease_undo: VecDeque<(u64, LeaseUndo)>,
    pub(crate) old_volatile: VecDeque<OldVolatile>,
    pub(crate) old_volatile_bytes: usize,
    /// Volatile versions that are forgotten while their changes are still listed.
    pub(crate) forgotten: usize,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) cleaning: Cleaning,
    pub(crate) closing: bool,
    fatal: bool,
    jobs_running: usize,
}

impl Store {
    /// Opens the store in `disk`, or makes one when the folder is empty. Reads all of the log: blocks.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] names segment and offset; nothing was changed then.
    pub fn open(disk: &dyn Disk, config: Config, now: Now) -> Result<(Store, Recovery), OpenError> {
        let opened = recover::open(disk, config.segment_bytes, config.store_id, now)?;
        let state = opened.state;
        let mut store = Store {
            values: Values::new(config.cache_bytes),
            config,
            index: state.index,
            leases: state.leases,
            watches: Watches::default(),
            log: opened.log,
            head: state.head,
            visible: state.head,
            durable: state.head,
            compact: state.compact,
            ceiling: state.ceiling,
            marks: state.marks,
            waiting: VecDeque::new(),
            stalled: VecDeque::new(),
            lease_undo: VecDeque::new(),
            old_volatile: VecDeque::new(),
            old_volatile_bytes: 0,
            forgotten: 0,
            outputs: VecDeque::new(),
            cleaning: Cleaning::default(),
            closing: false,
            fatal: false,
            jobs_running: 0,
        };
        if !state.clean && store.index.heads().any(|(_, v)| v.volatile) {
            store.stalled.push_back(Stalled::Restate(state.head));
            store.run_stalled(now);
        }
        Ok((store, opened.recovery))
    }

    /// Takes a request. Its reply, or its replies for a watch, come out of [`Store::poll_output`].
    pub fn handle_request(&mut self, tag: Tag, request: Request, now: Now) {
        match request {
            Request::Range(range) => {
                let revision = self.visible;
                let reply = match self.range(&range, self.visible) {
                    Ok(found) => Reply::Range(revision, found),
                    Err(e) => Reply::Error(e),
                };
                self.reply(tag, reply);
            }
            Request::Txn { compare, then, otherwise, durability } => {
                self.write(Stalled::Txn(tag, Txn { compare, then, otherwise, durability }), now);
            }
            Request::Watch { key, range_end, from_revision, prev_kv } => {
                self.watch(tag, key, range_end, from_revision, prev_kv, now);
            }
            Request::LeaseGrant { id, ttl_ms } => {
                self.write(Stalled::Grant { tag, id, ttl_ms }, now);
            }
            Request::LeaseKeepAlive { id } => {
                let reply = match self.leases.keep_alive(id, now.mono) {
                    Some(ttl_ms) => Reply::Lease { id, ttl_ms },
                    None => Reply::Error(Error::LeaseNotFound(id)),
                };
                self.reply(tag, reply);
            }
            Request::LeaseRevoke { id } => self.write(Stalled::Revoke { tag, id }, now),
            Request::Compact { revision } => self.compact_request(tag, revision, now),
            Request::Status => {
                let status = self.status();
                self.reply(tag, Reply::Status(status));
            }
        }
    }

    /// Whoever asked with this tag is gone: its watch ends. A write that is under way happens all the same.
    pub fn cancel(&mut self, tag: Tag) {
        self.watches.remove(tag);
    }

    /// The last `WatchEvents` of this watch is on its way: the next may come.
    pub fn watch_sent(&mut self, tag: Tag, now: Now) {
        if self.watches.resume(tag) {
            self.pump(tag, now);
        }
    }

    /// A piece of disk work ended.
    pub fn handle_done(&mut self, done: Done, now: Now) {
        self.jobs_running = self.jobs_running.saturating_sub(1);
        match done.0 {
            Ended::Commit(Ok(())) => self.committed(now),
            Ended::Commit(Err(Failure::NoSpace)) => self.roll_back(now),
            Ended::Prepare { result: Err(Failure::Fatal(why)), .. } => self.fail(why),
            Ended::Prepare { number, size_bytes, result } => {
                let before = self.log.no_space();
                self.log.prepared(number, size_bytes, result.ok());
                if before != self.log.no_space() {
                    self.outputs.push_back(Output::Full(!before));
                }
                self.run_stalled(now);
                self.clean(now);
            }
            Ended::Examine { number, result: Ok(left) } => {
                self.examined(number, left);
                self.clean(now);
            }
            Ended::Remove { number, result: Ok(()) } => {
                self.removed(number);
                self.log.retry_prepare();
                self.clean(now);
            }
            Ended::Examine { number, result: Err(Failure::NoSpace) }
            | Ended::Remove { number, result: Err(Failure::NoSpace) } => {
                self.fail(format!("no space to clean segment {number}"));
            }
            Ended::Commit(Err(Failure::Fatal(why)))
            | Ended::Examine { result: Err(Failure::Fatal(why)), .. }
            | Ended::Remove { result: Err(Failure::Fatal(why)), .. } => self.fail(why),
        }
        self.check_invariants();
    }

    /// When [`Store::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.closing {
            // Leases that end now end again at the next start.
            return None;
        }
        match (self.leases.next_deadline(), self.watches.progress_at()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Time passed: leases end, idle watchers are told how far the store is.
    pub fn handle_timeout(&mut self, now: Now) {
        while !self.closing
            && let Some(id) = self.leases.expired(now.mono)
        {
            if !self.stalled.is_empty() || !self.revoke_part(id, now) {
                self.leases.postpone(id, now.mono + Duration::from_secs(1));
            }
        }
        self.send_progress(now);
    }

    /// The next thing to do. Call it when all requests that are there were handled: what came together is
    /// then written together.
    pub fn poll_output(&mut self) -> Option<Output> {
        if !self.fatal {
            if let Some(commit) = self.log.take_commit() {
                return Some(self.job(Work::Commit(commit)));
            }
            if let Some(work) = self.cleaning.take_work(&self.log) {
                return Some(self.job(work));
            }
            if let Some((number, size_bytes)) = self.log.take_prepare() {
                return Some(self.job(Work::Prepare { number, size_bytes }));
            }
        }
        self.outputs.pop_front()
    }

    fn job(&mut self, work: Work) -> Output {
        self.jobs_running += 1;
        Output::Job(Job(work))
    }

    /// Writes down what is in memory only, and that the store was closed in order. Requests that come after
    /// this are refused. Run the outputs until [`Store::is_idle`].
    pub fn close(&mut self, now: Now) {
        if !self.closing {
            self.closing = true;
            self.stalled.push_back(Stalled::Close);
            if self.stalled.len() == 1 {
                self.run_stalled(now);
            }
        }
    }

    /// No work is with the disk and none waits for it.
    pub fn is_idle(&self) -> bool {
        self.fatal
            || (self.jobs_running == 0
                && self.stalled.is_empty()
                && self.log.pending_batch().is_none()
                && self.outputs.is_empty())
    }

    /// Figures.
    pub fn status(&self) -> Status {
        Status {
            revision: self.visible,
            durable_revision: self.durable,
            compact_revision: self.compact,
            keys: self.index.live(),
            disk_bytes: self.log.disk_bytes(),
            memory_bytes: self.index.memory_bytes() + self.values.memory_bytes(),
        }
    }

    pub(crate) fn reply(&mut self, tag: Tag, reply: Reply) {
        self.outputs.push_back(Output::Reply(tag, reply));
    }

    /// Replies when everything that was written so far is durable.
    pub(crate) fn reply_durable(&mut self, tag: Tag, reply: Reply) {
        match self.log.pending_batch() {
            None => self.reply(tag, reply),
            Some(batch) => self.waiting.push_back((batch, tag, reply)),
        }
    }

    /// Does a write now, or queues it behind others that wait for the next segment.
    fn write(&mut self, write: Stalled, now: Now) {
        if self.closing {
            self.refuse(write, Error::Invalid("the store is closing".to_owned()));
        } else if self.stalled.len() >= limits::WAITING_MAX {
            let why = format!("{} requests wait for the disk already", limits::WAITING_MAX);
            self.refuse(write, Error::NoSpace(why));
        } else {
            let first = self.stalled.is_empty();
            self.stalled.push_back(write);
            if first {
                self.run_stalled(now);
            }
        }
    }

    fn refuse(&mut self, write: Stalled, error: Error) {
        match write {
            Stalled::Txn(tag, _) | Stalled::Grant { tag, .. } | Stalled::Revoke { tag, .. } => {
                self.reply(tag, Reply::Error(error));
            }
            Stalled::Restate(_) | Stalled::Close => {}
        }
    }

    fn run_stalled(&mut self, now: Now) {
        while let Some(write) = self.stalled.pop_front() {
            let wait = match write {
                Stalled::Txn(tag, txn) => self.txn(tag, txn, now).map(|t| Stalled::Txn(tag, t)),
                Stalled::Grant { tag, id, ttl_ms } => self.grant(tag, id, ttl_ms, now),
                Stalled::Revoke { tag, id } => self.revoke(tag, id, now),
                Stalled::Restate(to) => self.restate(to, now).then_some(Stalled::Restate(to)),
                Stalled::Close => self.write_close(now).then_some(Stalled::Close),
            };
            if let Some(write) = wait {
                self.stalled.push_front(write);
                return;
            }
        }
    }

    /// Room for a record, or the error for whoever wants it. Asking when there is none starts another try.
    pub(crate) fn room(&mut self, ops_bytes: usize, frees: bool) -> Result<Room, Error> {
        match self.log.room(Log::record_bytes(ops_bytes), frees) {
            Room::NoSpace => {
                self.log.retry_prepare();
                Err(Error::NoSpace(
                    "no space for the next segment of the log; deletes and compaction still work, \
                     writes go on when there is space"
                        .to_owned(),
                ))
            }
            room => Ok(room),
        }
    }

    /// Appends a record that makes no revision.
    pub(crate) fn append_plain(&mut self, ops: &[LogOp<'_>], now: Now) -> Vec<Place> {
        self.log.append(ops, self.head, false, now.wall.0)
    }

    fn committed(&mut self, now: Now) {
        let Some(batch) = self.log.committed() else { return };
        while self.waiting.front().is_some_and(|(b, _, _)| *b <= batch) {
            if let Some((_, tag, reply)) = self.waiting.pop_front() {
                self.outputs.push_back(Output::Reply(tag, reply));
            }
        }
        while self.lease_undo.front().is_some_and(|(b, _)| *b <= batch) {
            self.lease_undo.pop_front();
        }
        self.durable = self.log.first_pending_revision().map_or(self.head, |r| r - 1);
        self.publish(now);
        self.cleaned_batch(batch);
        self.clean(now);
    }

    /// Makes visible what no longer waits for the disk.
    pub(crate) fn publish(&mut self, now: Now) {
        let visible = self.log.first_pending_revision().map_or(self.head, |r| r - 1);
        if visible > self.visible {
            self.visible = visible;
            recover::mark(&mut self.marks, now.wall.0, visible);
            self.pump_all(now);
            if !self.closing {
                self.auto_compact(now);
            }
            self.trim_volatile();
        }
    }

    /// The disk was full when a batch was written: everything that is not visible is taken back.
    fn roll_back(&mut self, now: Now) {
        self.log.roll_back();
        self.abandon_cleaning();
        while let Some((_, undo)) = self.lease_undo.pop_back() {
            match undo {
                LeaseUndo::Granted(id) => {
                    self.leases.remove(id);
                }
                LeaseUndo::Revoked(id, lease) => self.leases.restore(id, lease),
            }
        }
        while let Some((key, gone, again)) = self.index.undo(self.visible) {
            if gone.in_memory() {
                self.values.memory.remove(gone.place.offset);
            }
            self.leases.attach(&key, gone.lease, again.map_or(0, |v| v.lease));
        }
        self.values.forget_from(self.log.durable_end());
        self.old_volatile.retain(|old| old.by <= self.visible);
        self.old_volatile_bytes = self.old_volatile.iter().map(|old| old.bytes).sum();
        self.head = self.visible;
        self.ceiling = self.visible;
        let error = Error::NoSpace("the disk is full; the write was not carried out".to_owned());
        for (_, tag, _) in std::mem::take(&mut self.waiting) {
            self.outputs.push_back(Output::Reply(tag, Reply::Error(error.clone())));
        }
        // Those that wait for a segment came after them and may have been asked because of them.
        for write in std::mem::take(&mut self.stalled) {
            match write {
                Stalled::Restate(_) | Stalled::Close => self.stalled.push_back(write),
                _ => self.refuse(write, error.clone()),
            }
        }
        self.run_stalled(now);
    }

    fn fail(&mut self, why: String) {
        self.fatal = true;
        self.outputs.clear();
        self.outputs.push_back(Output::Fatal(why));
    }

    /// Cheap enough to stay on in release.
    fn check_invariants(&self) {
        assert!(self.compact <= self.visible && self.visible <= self.head);
        assert!(self.fatal || self.waiting.is_empty() || self.log.pending_batch().is_some());
    }

    /// For tests: checks all counts of the index.
    #[cfg(test)]
    pub(crate) fn check_deeply(&self) {
        self.index.check_invariants();
    }
}
