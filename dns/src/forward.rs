//! Questions to upstream resolvers, and the answers that are kept: sans-IO.
//!
//! Every try has a number and (in the shell) a socket of its own, so that each has a random source port besides a
//! random id. The same question asked by many waits once; that also ends a circle, when an upstream asks us what we
//! ask it: the second question joins the first and both run into its time limit.

use crate::limits::{
    CACHE_BYTES_MAX, CACHE_ENTRIES_MAX, CACHE_TTL_S_MAX, PENDING_MAX, TCP_BYTES_MAX,
    UPSTREAM_TRIES_MAX, UPSTREAM_TRY_MS, WAITERS_MAX,
};
use crate::message::{Query, kind, read_answer, read_name, records, write_question};
use pintle_base::{Prng, Time};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

/// Number of a try.
pub type Try = u64;

/// What the shell is to do with an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a socket to `server` and send `message`.
    Send {
        /// Answers and failures name it.
        id: Try,
        /// Whom.
        server: SocketAddr,
        /// By TCP (two bytes of length first).
        tcp: bool,
        /// The question.
        message: Vec<u8>,
    },
    /// Close the socket of this try.
    Close(Try),
}

/// What identifies a question: name (lower case, wire form), type, and what changes the answer's form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question {
    name: Vec<u8>,
    kind: u16,
    edns: bool,
    dnssec_ok: bool,
    checking_disabled: bool,
    tcp: bool,
}

impl Question {
    /// The question for `name` that is asked in the form of `query`.
    pub fn new(name: &[u8], query: &Query, tcp: bool) -> Question {
        Question {
            name: name.to_ascii_lowercase(),
            kind: query.kind,
            edns: query.edns_bytes.is_some(),
            dnssec_ok: query.dnssec_ok,
            checking_disabled: query.checking_disabled,
            tcp,
        }
    }
}

struct Pending<W> {
    question: Question,
    query: Query,
    waiters: Vec<W>,
    /// Id in the message under way.
    message_id: u16,
    server: usize,
    tries: u32,
    deadline: Time,
}

struct Kept {
    message: Vec<u8>,
    since: Time,
    until: Time,
    /// Order of age.
    serial: u64,
}

/// How a question ended: an upstream's message (with an id of ours), or nobody knew.
#[derive(Debug)]
pub struct Ended<W> {
    /// Who asked.
    pub waiters: Vec<W>,
    /// The answer.
    pub message: Option<Vec<u8>>,
}

/// Upstreams, questions under way, answers kept. `W` is what the core keeps for one who waits.
pub struct Forward<W> {
    servers: Vec<SocketAddr>,
    /// Who answered last.
    preferred: usize,
    pending: BTreeMap<Try, Pending<W>>,
    by_question: HashMap<Question, Try>,
    deadlines: BTreeMap<(Time, Try), ()>,
    outputs: Vec<Output>,
    kept: HashMap<Question, Kept>,
    kept_by_age: BTreeMap<u64, Question>,
    kept_bytes: usize,
    next: u64,
    prng: Prng,
}

/// What became of a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// It waits.
    Waiting,
    /// There is no upstream, or too much waits.
    Refused(&'static str),
}

impl<W> Forward<W> {
    /// Forwards to these. `seed` must be unpredictable: it makes the ids.
    pub fn new(servers: Vec<SocketAddr>, seed: u64) -> Forward<W> {
        Forward {
            servers,
            preferred: 0,
            pending: BTreeMap::new(),
            by_question: HashMap::new(),
            deadlines: BTreeMap::new(),
            outputs: Vec::new(),
            kept: HashMap::new(),
            kept_by_age: BTreeMap::new(),
            kept_bytes: 0,
            next: 1,
            prng: Prng::new(seed),
        }
    }

    /// Other upstreams from now on; what is under way goes on.
    pub fn set_servers(&mut self, servers: Vec<SocketAddr>) {
        self.servers = servers;
        self.preferred = 0;
    }

    /// A kept answer: its bytes, with TTLs as they are now and the given id.
    pub fn kept(&self, question: &Question, id: u16, now: Time) -> Option<Vec<u8>> {
        let kept = self.kept.get(question).filter(|k| now < k.until)?;
        let age_s = u32::try_from(now.saturating_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        let mut message = kept.message.clone();
        message[..2].copy_from_slice(&id.to_be_bytes());
        let head = read_answer(&message, &question.name, question.kind)?;
        for record in records(&message, head.records_at)? {
            if record.kind != kind::OPT {
                let left = record.ttl.saturating_sub(age_s).to_be_bytes();
                message[record.ttl_at..record.ttl_at + 4].copy_from_slice(&left);
            }
        }
        Some(message)
    }

    /// Asks an upstream, or joins who waits for the same already.
    pub fn ask(&mut self, question: Question, query: &Query, waiter: W, now: Time) -> Asked {
        if let Some(pending) =
            self.by_question.get(&question).and_then(|id| self.pending.get_mut(id))
        {
            if pending.waiters.len() >= WAITERS_MAX {
                return Asked::Refused("too many clients wait for this name");
            }
            pending.waiters.push(waiter);
            return Asked::Waiting;
        }
        if self.servers.is_empty() {
            return Asked::Refused("no upstream resolver");
        }
        if self.pending.len() >= PENDING_MAX {
            return Asked::Refused("too many questions under way");
        }
        let pending = Pending {
            question,
            query: query.clone(),
            waiters: vec![waiter],
            message_id: 0,
            server: self.preferred % self.servers.len(),
            tries: 0,
            deadline: now,
        };
        self.send(pending, now);
        Asked::Waiting
    }

    fn send(&mut self, mut pending: Pending<W>, now: Time) {
        let id = self.next;
        self.next += 1;
        pending.tries += 1;
        pending.message_id = self.prng.next_u64() as u16;
        pending.deadline = now + Duration::from_millis(UPSTREAM_TRY_MS);
        let question = &pending.question;
        let message =
            write_question(pending.message_id, &question.name, question.kind, &pending.query);
        let server = self.servers[pending.server % self.servers.len()];
        self.outputs.push(Output::Send { id, server, tcp: question.tcp, message });
        self.by_question.insert(question.clone(), id);
        self.deadlines.insert((pending.deadline, id), ());
        self.pending.insert(id, pending);
    }

    fn take(&mut self, id: Try) -> Option<Pending<W>> {
        let pending = self.pending.remove(&id)?;
        self.deadlines.remove(&(pending.deadline, id));
        self.by_question.remove(&pending.question);
        self.outputs.push(Output::Close(id));
        Some(pending)
    }

    /// Bytes came on the socket of a try. Those that do not answer its question are passed over: somebody else may
    /// have sent them.
    pub fn handle_answer(&mut self, id: Try, message: &[u8], now: Time) -> Option<Ended<W>> {
        let pending = self.pending.get(&id)?;
        let question = &pending.question;
        let head = read_answer(message, &question.name, question.kind)?;
        let readable = records(message, head.records_at).filter(|all| {
            let mut name = Vec::new();
            all.iter().all(|r| {
                name.clear();
                read_name(message, r.owner, &mut name).is_some()
            })
        });
        if head.id != pending.message_id || message.len() > TCP_BYTES_MAX || readable.is_none() {
            return None;
        }
        // This upstream cannot say; another one may.
        if matches!(head.code, 2 | 5) && self.may_retry(pending) {
            return self.failed(id, now);
        }
        let pending = self.take(id)?;
        self.preferred = pending.server;
        if !head.truncated && matches!(head.code, 0 | 3) {
            self.keep(pending.question, message, now);
        }
        Some(Ended { waiters: pending.waiters, message: Some(message.to_vec()) })
    }

    fn may_retry(&self, pending: &Pending<W>) -> bool {
        pending.tries < UPSTREAM_TRIES_MAX && self.servers.len() > 1
    }

    /// The socket of a try failed: the next upstream is asked, or nobody knew.
    pub fn failed(&mut self, id: Try, now: Time) -> Option<Ended<W>> {
        let mut pending = self.take(id)?;
        if pending.tries >= UPSTREAM_TRIES_MAX || self.servers.is_empty() {
            return Some(Ended { waiters: pending.waiters, message: None });
        }
        pending.server = (pending.server + 1) % self.servers.len();
        self.send(pending, now);
        None
    }

    /// Tries whose time is over. Call until it gives nothing.
    pub fn handle_timeout(&mut self, now: Time) -> Vec<Ended<W>> {
        let mut ended = Vec::new();
        while let Some((&(at, id), ())) = self.deadlines.first_key_value() {
            if at > now {
                break;
            }
            ended.extend(self.failed(id, now));
        }
        ended
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.deadlines.first_key_value().map(|((at, _), ())| *at)
    }

    /// What the shell is to do.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Questions under way.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    fn keep(&mut self, question: Question, message: &[u8], now: Time) {
        let Some(ttl_s) = ttl_of(message, &question).filter(|t| *t > 0) else { return };
        self.forget(&question);
        while self.kept.len() >= CACHE_ENTRIES_MAX
            || (self.kept_bytes + message.len() > CACHE_BYTES_MAX && !self.kept.is_empty())
        {
            let Some((_, oldest)) = self.kept_by_age.first_key_value() else { break };
            let oldest = oldest.clone();
            self.forget(&oldest);
        }
        let serial = self.next;
        self.next += 1;
        self.kept_bytes += message.len();
        self.kept_by_age.insert(serial, question.clone());
        let until = now + Duration::from_secs(u64::from(ttl_s));
        self.kept.insert(question, Kept { message: message.to_vec(), since: now, until, serial });
    }

    fn forget(&mut self, question: &Question) {
        if let Some(old) = self.kept.remove(question) {
            self.kept_bytes -= old.message.len();
            self.kept_by_age.remove(&old.serial);
        }
    }

    /// Answers kept, and their bytes.
    pub fn kept_size(&self) -> (usize, usize) {
        (self.kept.len(), self.kept_bytes)
    }
}

/// For how long an answer may be kept, in seconds: the shortest TTL of its answers; without answers what the SOA record
/// in its authority section says; `None` without one.
fn ttl_of(message: &[u8], question: &Question) -> Option<u32> {
    let head = read_answer(message, &question.name, question.kind)?;
    let all = records(message, head.records_at)?;
    let answers = all.iter().filter(|r| r.section == 0).map(|r| r.ttl).min();
    let ttl = match answers {
        Some(ttl) => ttl,
        None => {
            let soa = all.iter().find(|r| r.section == 1 && r.kind == kind::SOA)?;
            let minimum = message.get((soa.data + soa.len).checked_sub(4)?..soa.data + soa.len)?;
            let minimum = u32::from_be_bytes(minimum.try_into().ok()?);
            soa.ttl.min(minimum)
        }
    };
    Some(ttl.min(CACHE_TTL_S_MAX))
}
