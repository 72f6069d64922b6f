//! The store as a process: what `cli/src/daemons/store.rs` does, over simulated connections and disk.

use crate::oracle::Shared;
use crate::process::{Outputs, Process};
use crate::world::LinkId;
use pintle_base::disk::{Disk as _, Fault, SimDisk};
use pintle_base::{Now, Prng, Time};
use pintle_store::{Config, Job, Output, Store, Tag};
use pintle_wire::conn::{Conn, Event, Hello, Limits, ResetCode, SendError, StreamId};
use pintle_wire::msg::{self, Open, store};
use std::collections::{BTreeMap, VecDeque};

/// The oracle's own watch and its own reads.
const ORACLE: Tag = 0;
const AUDIT: Tag = 1;

struct Asker {
    link: LinkId,
    stream: StreamId,
    queue: VecDeque<(Vec<u8>, bool)>,
    watch: bool,
}

/// The process.
pub struct StoreProcess {
    store: Store,
    disk: SimDisk,
    oracle: Shared,
    conns: BTreeMap<LinkId, Conn>,
    dead: Vec<LinkId>,
    askers: BTreeMap<Tag, Asker>,
    streams: BTreeMap<(LinkId, StreamId), Tag>,
    next_tag: Tag,
    commits: VecDeque<Job>,
    chores: VecDeque<Job>,
    fatal: Option<String>,
}

impl StoreProcess {
    /// Opens what is on the disk; holds it against what was acknowledged before.
    pub fn open(disk: &SimDisk, oracle: &Shared, now: Now) -> Result<StoreProcess, String> {
        // Small segments, so that they are filled, cleaned and removed within a run.
        let config = Config { segment_bytes: 512 << 10, store_id: 7, ..Config::default() };
        let (mut store, _) = Store::open(disk, config, now).map_err(|e| e.to_string())?;
        let all = store::RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
        store.handle_request(AUDIT, store::Request::Range(all), now);
        // Revision 1 is the empty store.
        let from_revision = (oracle.borrow().revision + 1).max(2);
        let (key, range_end) = (vec![0], vec![0]);
        let watch = store::Request::Watch { key, range_end, from_revision, prev_kv: false };
        store.handle_request(ORACLE, watch, now);
        Ok(StoreProcess {
            store,
            disk: disk.clone(),
            oracle: oracle.clone(),
            conns: BTreeMap::new(),
            dead: Vec::new(),
            askers: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_tag: 2,
            commits: VecDeque::new(),
            chores: VecDeque::new(),
            fatal: None,
        })
    }

    fn events(&mut self, link: LinkId, now: Now) {
        while let Some(event) = self.conns.get_mut(&link).and_then(Conn::poll_event) {
            match event {
                Event::Opened(stream, bytes) => self.opened(link, stream, &bytes, now),
                Event::Message(stream, bytes) => {
                    if let Some(conn) = self.conns.get_mut(&link) {
                        conn.consumed(stream, bytes.len());
                    }
                }
                Event::Reset(stream, _) => {
                    if let Some(tag) = self.streams.remove(&(link, stream)) {
                        self.askers.remove(&tag);
                        self.store.cancel(tag);
                    }
                }
                Event::Writable(stream) => {
                    if let Some(tag) = self.streams.get(&(link, stream)).copied() {
                        self.send_queued(tag, now);
                    }
                }
                Event::Connected(_) | Event::Finished(_) | Event::GoAway => {}
            }
        }
    }

    fn opened(&mut self, link: LinkId, stream: StreamId, bytes: &[u8], now: Now) {
        let Ok(Open::Store(request)) = msg::decode::<Open>(bytes) else {
            if let Some(conn) = self.conns.get_mut(&link) {
                conn.reset(stream, ResetCode::Unsupported);
            }
            return;
        };
        let tag = self.next_tag;
        self.next_tag += 1;
        let watch = matches!(request, store::Request::Watch { .. });
        self.askers.insert(tag, Asker { link, stream, queue: VecDeque::new(), watch });
        self.streams.insert((link, stream), tag);
        self.store.handle_request(tag, request, now);
    }

    fn reply(&mut self, tag: Tag, reply: &store::Reply, now: Now) {
        match (tag, reply) {
            (ORACLE, store::Reply::WatchEvents { events, revision }) => {
                self.oracle.borrow_mut().published(events, *revision, now);
                self.store.watch_sent(ORACLE, now);
            }
            (ORACLE, store::Reply::Error(e)) => {
                self.oracle.borrow_mut().violated(format!("the store refuses the oracle: {e:?}"));
            }
            (ORACLE, store::Reply::WatchProgress { revision }) => {
                self.oracle.borrow_mut().published(&[], *revision, now);
            }
            (ORACLE, _) => {}
            (AUDIT, store::Reply::Range(revision, found)) => {
                self.oracle.borrow_mut().recovered(*revision, &found.kvs);
            }
            (AUDIT, other) => {
                self.oracle.borrow_mut().violated(format!("audit of the store: {other:?}"));
            }
            (tag, reply) => {
                let Some(asker) = self.askers.get_mut(&tag) else { return };
                let paced = matches!(reply, store::Reply::WatchEvents { .. });
                if matches!(reply, store::Reply::Error(_)) {
                    asker.watch = false;
                }
                asker.queue.push_back((msg::encode(reply), paced));
                self.send_queued(tag, now);
            }
        }
    }

    fn send_queued(&mut self, tag: Tag, now: Now) {
        let Some(asker) = self.askers.get_mut(&tag) else { return };
        let Some(conn) = self.conns.get_mut(&asker.link) else { return };
        while let Some((bytes, paced)) = asker.queue.front() {
            match conn.send(asker.stream, bytes, &[]) {
                Ok(()) => {
                    if *paced {
                        self.store.watch_sent(tag, now);
                    }
                    asker.queue.pop_front();
                }
                Err(SendError::Blocked) => return,
                Err(SendError::TooLarge) => {
                    conn.reset(asker.stream, ResetCode::Limit);
                    asker.queue.clear();
                    asker.watch = false;
                    self.store.cancel(tag);
                }
                Err(SendError::Closed) => asker.queue.clear(),
            }
        }
        if !asker.watch {
            conn.finish(asker.stream);
            self.streams.remove(&(asker.link, asker.stream));
            self.askers.remove(&tag);
        }
    }

    fn forget(&mut self, link: LinkId) {
        self.conns.remove(&link);
        let gone: Vec<_> =
            self.streams.range((link, 0)..=(link, StreamId::MAX)).map(|(k, t)| (*k, *t)).collect();
        for (key, tag) in gone {
            self.streams.remove(&key);
            self.askers.remove(&tag);
            self.store.cancel(tag);
        }
    }
}

impl Process for StoreProcess {
    fn accepted(&mut self, link: LinkId, _who: &str, now: Now) {
        let hello = Hello { daemon: "store".into(), ..Hello::default() };
        self.conns.insert(link, Conn::accept(hello, Limits::default(), now.mono));
    }

    fn cut(&mut self, link: LinkId, _now: Now) {
        self.forget(link);
    }

    fn input(&mut self, link: LinkId, bytes: &[u8], now: Now) {
        let Some(conn) = self.conns.get_mut(&link) else { return };
        let result = conn.handle_input(bytes, now.mono);
        self.events(link, now);
        if result.is_err() {
            self.dead.push(link);
        }
    }

    fn disk(&mut self, chore: bool, now: Now) {
        let queue = if chore { &mut self.chores } else { &mut self.commits };
        if let Some(job) = queue.pop_front() {
            let done = job.run(&self.disk);
            self.store.handle_done(done, now);
        }
    }

    fn timeout(&mut self, now: Now) {
        self.store.handle_timeout(now);
        for (link, conn) in &mut self.conns {
            if conn.handle_timeout(now.mono).is_err() {
                self.dead.push(*link);
            }
        }
    }

    fn turn(&mut self, now: Now, out: &mut Outputs) {
        loop {
            let mut idle = true;
            while let Some(output) = self.store.poll_output() {
                idle = false;
                match output {
                    Output::Reply(tag, reply) => self.reply(tag, &reply, now),
                    Output::Job(job) if job.is_commit() => {
                        self.commits.push_back(job);
                        out.disk.0 += 1;
                    }
                    Output::Job(job) => {
                        self.chores.push_back(job);
                        out.disk.1 += 1;
                    }
                    Output::Full(full) => {
                        let text =
                            if full { "store: the disk is full" } else { "store: there is space" };
                        self.oracle.borrow_mut().note(now, text);
                    }
                    Output::Fatal(why) => self.fatal = Some(why),
                }
            }
            let links: Vec<LinkId> = self.conns.keys().copied().collect();
            for link in links {
                let before = out.bytes.len();
                if let Some(conn) = self.conns.get_mut(&link) {
                    out.drain(link, conn);
                }
                idle &= out.bytes.len() == before;
                self.events(link, now);
            }
            if idle {
                break;
            }
        }
        for link in std::mem::take(&mut self.dead) {
            self.forget(link);
            out.close.push(link);
        }
        out.exit = self.fatal.take();
    }

    fn poll_timeout(&self) -> Option<Time> {
        let conns = self.conns.values().filter_map(Conn::poll_timeout);
        conns.chain(self.store.poll_timeout()).min()
    }

    // The power may go in the middle of a write.
    fn dying(&mut self, prng: &mut Prng) {
        if prng.chance(1, 2) {
            self.disk.fail_at(self.disk.calls() + prng.below(2), Fault::PowerCut);
            if let Some(job) = self.commits.pop_front() {
                let _ = job.run(&self.disk);
            }
            self.disk.clear_faults();
        }
        if prng.chance(1, 2) {
            self.disk.power_cycle();
        } else {
            self.disk.process_restart();
        }
        // A file that is opened afterwards belongs to the next process.
        let _ = self.disk.list();
    }

    fn ready(&self) -> bool {
        true
    }
}
