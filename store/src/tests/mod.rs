//! The store against a reference model, and against a disk that fails at every call.

mod crash;
mod damage;
mod model;
mod unit;

use std::collections::{BTreeMap, VecDeque};

use pintle_base::disk::SimDisk;
use pintle_base::{Now, Prng, Time, Wall};
use pintle_wire::msg::Body;
use pintle_wire::msg::store::{Durability, KeyValue, Op, RangeReply, RangeRequest, Reply, Request};

use crate::{Config, Job, OpenError, Output, Recovery, Store, Tag};

/// Small segments, so that a short test crosses many of them.
pub(crate) fn config() -> Config {
    Config {
        segment_bytes: 8192,
        cache_bytes: 2048,
        slack_segments: 0,
        store_id: 0x5eed,
        ..Config::default()
    }
}

pub(crate) fn at_ms(ms: u64) -> Now {
    Now {
        mono: Time(ms * 1_000_000),
        wall: Wall(1_700_000_000_000_000_000 + ms as i64 * 1_000_000),
    }
}

/// A store on a simulated disk, with the disk's work queued until the test lets it go on.
pub(crate) struct Rig {
    pub(crate) store: Store,
    pub(crate) disk: SimDisk,
    pub(crate) now: Now,
    pub(crate) commits: VecDeque<Job>,
    pub(crate) chores: VecDeque<Job>,
    pub(crate) replies: BTreeMap<Tag, VecDeque<Reply>>,
    pub(crate) fatal: Option<String>,
    pub(crate) full: bool,
    next_tag: Tag,
}

impl Rig {
    pub(crate) fn open(disk: &SimDisk, now: Now) -> Result<(Rig, Recovery), OpenError> {
        Rig::open_with(disk, config(), now)
    }

    pub(crate) fn open_with(
        disk: &SimDisk,
        config: Config,
        now: Now,
    ) -> Result<(Rig, Recovery), OpenError> {
        let (store, recovery) = Store::open(disk, config, now)?;
        let rig = Rig {
            store,
            disk: disk.clone(),
            now,
            commits: VecDeque::new(),
            chores: VecDeque::new(),
            replies: BTreeMap::new(),
            fatal: None,
            full: false,
            next_tag: 1,
        };
        Ok((rig, recovery))
    }

    pub(crate) fn new(seed: u64) -> Rig {
        Rig::open(&SimDisk::new(512, seed), at_ms(0)).unwrap().0
    }

    pub(crate) fn ask(&mut self, request: Request) -> Tag {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.store.handle_request(tag, request, self.now);
        tag
    }

    /// Takes what the store wants, without doing any of it.
    pub(crate) fn collect(&mut self) {
        while let Some(output) = self.store.poll_output() {
            match output {
                Output::Reply(tag, reply) => {
                    let sent = matches!(reply, Reply::WatchEvents { .. });
                    self.replies.entry(tag).or_default().push_back(reply);
                    if sent {
                        self.store.watch_sent(tag, self.now);
                    }
                }
                Output::Job(job) if job.is_commit() => self.commits.push_back(job),
                Output::Job(job) => self.chores.push_back(job),
                Output::Full(full) => self.full = full,
                Output::Fatal(why) => self.fatal = Some(why),
            }
        }
    }

    pub(crate) fn run_job(&mut self, commit: bool) -> bool {
        let queue = if commit { &mut self.commits } else { &mut self.chores };
        let Some(job) = queue.pop_front() else { return false };
        let done = job.run(&self.disk);
        self.store.handle_done(done, self.now);
        self.collect();
        true
    }

    /// Lets the disk do one of its pieces of work, by chance.
    pub(crate) fn step(&mut self, prng: &mut Prng) -> bool {
        self.collect();
        let commit = prng.chance(3, 4);
        self.run_job(commit) || self.run_job(!commit)
    }

    /// Lets the disk do everything.
    pub(crate) fn settle(&mut self) {
        self.collect();
        while self.fatal.is_none() && (self.run_job(true) || self.run_job(false)) {}
    }

    pub(crate) fn reply(&mut self, tag: Tag) -> Option<Reply> {
        self.replies.get_mut(&tag)?.pop_front()
    }

    /// Asks, lets the disk do everything, gives the first reply.
    pub(crate) fn call(&mut self, request: Request) -> Reply {
        let tag = self.ask(request);
        self.settle();
        self.reply(tag).unwrap_or_else(|| panic!("no reply"))
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) -> u64 {
        match self.call(txn(vec![put(key, value)])) {
            Reply::Txn { revision, .. } => revision,
            other => panic!("put {key}: {other:?}"),
        }
    }

    /// All keys as of a revision (0 = now).
    pub(crate) fn all(&mut self, revision: u64) -> Vec<KeyValue> {
        match self.call(range_at(b"\0", b"\0", revision)) {
            Reply::Range(_, RangeReply { kvs, more: false, .. }) => kvs,
            other => panic!("range at {revision}: {other:?}"),
        }
    }

    pub(crate) fn get(&mut self, key: &str) -> Option<String> {
        match self.call(range_at(key.as_bytes(), b"", 0)) {
            Reply::Range(_, r) => {
                r.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
            }
            other => panic!("get {key}: {other:?}"),
        }
    }

    /// Closes in order.
    pub(crate) fn close(mut self) -> SimDisk {
        self.store.close(self.now);
        self.settle();
        assert!(self.store.is_idle());
        self.disk
    }
}

pub(crate) fn body(text: &str) -> Body {
    Body::from(text.as_bytes())
}

pub(crate) fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: body(value), lease: 0 }
}

pub(crate) fn delete(key: &str) -> Op {
    Op::Delete { key: key.into(), range_end: Vec::new() }
}

pub(crate) fn txn(then: Vec<Op>) -> Request {
    Request::Txn {
        compare: Vec::new(),
        then,
        otherwise: Vec::new(),
        durability: Durability::Durable,
    }
}

pub(crate) fn volatile(then: Vec<Op>) -> Request {
    Request::Txn {
        compare: Vec::new(),
        then,
        otherwise: Vec::new(),
        durability: Durability::Volatile,
    }
}

pub(crate) fn range_at(key: &[u8], end: &[u8], revision: u64) -> Request {
    Request::Range(RangeRequest {
        key: key.to_vec(),
        range_end: end.to_vec(),
        revision,
        ..RangeRequest::default()
    })
}

pub(crate) fn watch_from(from_revision: u64) -> Request {
    Request::Watch { key: vec![0], range_end: vec![0], from_revision, prev_kv: true }
}
