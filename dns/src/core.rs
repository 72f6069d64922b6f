//! The DNS daemon's state machine: questions in; answers now or later, and work for the upstreams' sockets out.

use crate::forward::{Asked, Ended, Forward, Output, Question, Try};
use crate::limits::{CNAME_STEPS_MAX, TCP_BYTES_MAX};
use crate::message::{
    Bad, Builder, Data, HEADER_BYTES, Name, Query, Rcode, Section, kind, read_answer, read_name,
    records, refusal,
};
use crate::zone::{Found, Zone};
use pintle_base::{Now, Time, log};
use pintle_client::{Caches, Daemon, Event, Outbox, WatchSpec};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const SERVICES: usize = 0;
const SLICES: usize = 1;
const NAMESPACES: usize = 2;

/// Time between two complaints about the same, in seconds.
const COMPLAINT_S: u64 = 60;

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The answer stands in the buffer.
    Answered,
    /// It comes later, by [`Dns::poll_answer`].
    Waiting,
    /// There will be none.
    Silent,
}

/// One client's question that waits for an upstream.
struct Waiter<C> {
    client: C,
    query: Query,
    tcp: bool,
    /// CNAME records of the cluster that led to the name that was asked upstream.
    chain: Vec<(Name, Name)>,
}

/// The DNS server of one node. `C` is how the shell knows a client again.
pub struct Dns<C> {
    zone: Zone,
    forward: Forward<Waiter<C>>,
    answers: Vec<(C, Vec<u8>)>,
    synced: bool,
    rotate: usize,
    complained: Option<Time>,
}

/// Where the name to look at next stands, and how the question ended.
enum Walk {
    Done(Rcode),
    Upstream(Name, Vec<(Name, Name)>),
}

impl<C> Dns<C> {
    /// A server for `domain` (`cluster.local`) that answers on `own` and forwards other names to `servers`. `seed` must
    /// be unpredictable. `None` when the domain is no name.
    pub fn new(domain: &str, own: IpAddr, servers: Vec<SocketAddr>, seed: u64) -> Option<Dns<C>> {
        Some(Dns {
            zone: Zone::new(domain, own)?,
            forward: Forward::new(servers, seed),
            answers: Vec::new(),
            synced: false,
            rotate: 0,
            complained: None,
        })
    }

    /// The cluster's names are known.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Services that have names.
    pub fn services_count(&self) -> usize {
        self.zone.services_count()
    }

    /// Questions that wait for upstreams.
    pub fn pending_count(&self) -> usize {
        self.forward.pending_count()
    }

    /// Other upstreams from now on.
    pub fn set_upstreams(&mut self, servers: Vec<SocketAddr>) {
        self.forward.set_servers(servers);
    }

    /// A message came from a client. `out` is emptied first.
    pub fn handle_query(
        &mut self,
        client: C,
        message: &[u8],
        tcp: bool,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Step {
        out.clear();
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(Bad::Drop) => return Step::Silent,
            Err(bad) => {
                out.extend(refusal(message, bad).unwrap_or_default());
                return if out.is_empty() { Step::Silent } else { Step::Answered };
            }
        };
        self.rotate = self.rotate.wrapping_add(1);
        let limit = if tcp { TCP_BYTES_MAX } else { query.udp_bytes_max() };
        let mut builder = Builder::new(out, &query, limit);
        match walk(&self.zone, &query, self.rotate, &mut builder) {
            Walk::Done(_) if !self.synced => {
                out.clear();
                Builder::new(out, &query, limit).finish(Rcode::ServFail, false);
                Step::Answered
            }
            Walk::Done(code) => {
                if builder.count(Section::Answer) == 0 {
                    self.zone.write_authority(&mut builder, Section::Authority);
                }
                builder.finish(code, true);
                Step::Answered
            }
            Walk::Upstream(name, chain) => {
                out.clear();
                self.ask(Waiter { client, query, tcp, chain }, &name, now, out)
            }
        }
    }

    fn ask(&mut self, waiter: Waiter<C>, name: &Name, now: Now, out: &mut Vec<u8>) -> Step {
        let question = Question::new(name.wire(), &waiter.query, waiter.tcp);
        if let Some(message) = self.forward.kept(&question, waiter.query.id, now.mono) {
            relay(&waiter, &message, out);
            return Step::Answered;
        }
        let query = waiter.query.clone();
        let tcp = waiter.tcp;
        match self.forward.ask(question, &query, waiter, now.mono) {
            Asked::Waiting => Step::Waiting,
            Asked::Refused(reason) => {
                self.complain(reason, name, now.mono);
                let limit = if tcp { TCP_BYTES_MAX } else { query.udp_bytes_max() };
                Builder::new(out, &query, limit).finish(Rcode::ServFail, false);
                Step::Answered
            }
        }
    }

    fn complain(&mut self, reason: &str, name: &Name, now: Time) {
        let quiet = Duration::from_secs(COMPLAINT_S);
        if self.complained.is_none_or(|at| now.saturating_since(at) >= quiet) {
            self.complained = Some(now);
            log::warn("cannot forward a question", &[("name", name), ("err", &reason)]);
        }
    }

    /// Bytes came from an upstream.
    pub fn handle_upstream(&mut self, id: Try, message: &[u8], now: Now) {
        let ended = self.forward.handle_answer(id, message, now.mono);
        self.end(ended, now);
    }

    /// An upstream's socket failed.
    pub fn upstream_failed(&mut self, id: Try, now: Now) {
        let ended = self.forward.failed(id, now.mono);
        self.end(ended, now);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Now) {
        for ended in self.forward.handle_timeout(now.mono) {
            self.end(Some(ended), now);
        }
    }

    fn end(&mut self, ended: Option<Ended<Waiter<C>>>, now: Now) {
        let Some(ended) = ended else { return };
        if let (None, Some(first)) = (&ended.message, ended.waiters.first()) {
            let name = Name::from_wire(&first.query.name);
            self.complain("no upstream resolver answers", &name, now.mono);
        }
        for waiter in ended.waiters {
            let mut out = Vec::new();
            match &ended.message {
                Some(message) => relay(&waiter, message, &mut out),
                None => {
                    let limit =
                        if waiter.tcp { TCP_BYTES_MAX } else { waiter.query.udp_bytes_max() };
                    Builder::new(&mut out, &waiter.query, limit).finish(Rcode::ServFail, false);
                }
            }
            self.answers.push((waiter.client, out));
        }
    }

    /// An answer that was waited for.
    pub fn poll_answer(&mut self) -> Option<(C, Vec<u8>)> {
        self.answers.pop()
    }

    /// What is to be done with upstreams' sockets, in order.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        self.forward.take_outputs()
    }
}

/// Looks a question up in the zone and follows aliases inside of it.
fn walk(zone: &Zone, query: &Query, rotate: usize, out: &mut Builder<'_>) -> Walk {
    let mut chain: Vec<(Name, Name)> = Vec::new();
    for _ in 0..CNAME_STEPS_MAX {
        let target = chain.last().map(|(_, target)| target.clone());
        let (name, owner) = match &target {
            None => (query.name.as_slice(), None),
            Some(target) => (target.wire(), Some(target.wire())),
        };
        match zone.answer(name, owner, query.kind, rotate, out) {
            Found::Exists => return Walk::Done(Rcode::NoError),
            Found::NoSuchName => return Walk::Done(Rcode::NxDomain),
            Found::Elsewhere => return Walk::Upstream(Name::from_wire(name), chain),
            Found::Outside(step) => {
                for (_, target) in &step {
                    out.add(
                        Section::Answer,
                        owner,
                        crate::limits::CLUSTER_TTL_S,
                        Data::Alias(target.wire()),
                    );
                }
                chain.extend(step);
                if matches!(query.kind, kind::CNAME | kind::ANY) {
                    return Walk::Done(Rcode::NoError);
                }
            }
        }
    }
    // Aliases in a circle.
    Walk::Done(Rcode::ServFail)
}

/// An upstream's message, made fit for the client that asked.
fn relay<C>(waiter: &Waiter<C>, message: &[u8], out: &mut Vec<u8>) {
    let query = &waiter.query;
    let limit = if waiter.tcp { TCP_BYTES_MAX } else { query.udp_bytes_max() };
    if !waiter.chain.is_empty() {
        relay_chain(waiter, message, limit, out);
        return;
    }
    if message.len() > limit {
        Builder::new(out, query, limit).finish_truncated();
        return;
    }
    out.extend_from_slice(message);
    out[..2].copy_from_slice(&query.id.to_be_bytes());
    // The client may compare the case of its letters.
    let end = HEADER_BYTES + query.name_as_asked.len();
    if let Some(name) = out.get_mut(HEADER_BYTES..end)
        && name.eq_ignore_ascii_case(&query.name_as_asked)
    {
        name.copy_from_slice(&query.name_as_asked);
    }
}

/// The cluster's CNAME records, followed by the upstream's addresses.
fn relay_chain<C>(waiter: &Waiter<C>, message: &[u8], limit: usize, out: &mut Vec<u8>) {
    let query = &waiter.query;
    let mut builder = Builder::new(out, query, limit);
    let mut owner: Option<&[u8]> = None;
    for (_, target) in &waiter.chain {
        let ttl_s = crate::limits::CLUSTER_TTL_S;
        builder.add(Section::Answer, owner, ttl_s, Data::Alias(target.wire()));
        owner = Some(target.wire());
    }
    let head = owner.and_then(|name| read_answer(message, name, query.kind));
    let Some(head) = head else { return builder.finish(Rcode::ServFail, false) };
    for record in records(message, head.records_at).unwrap_or_default() {
        if record.section != 0 || record.class != 1 {
            continue;
        }
        let (mut name, mut target) = (Vec::new(), Vec::new());
        if read_name(message, record.owner, &mut name).is_none() {
            continue;
        }
        let bytes = &message[record.data..record.data + record.len];
        let data = match record.kind {
            kind::A => <[u8; 4]>::try_from(bytes).ok().map(|b| Data::Address(b.into())),
            kind::AAAA => <[u8; 16]>::try_from(bytes).ok().map(|b| Data::Address(b.into())),
            kind::CNAME => {
                read_name(message, record.data, &mut target).map(|_| Data::Alias(&target))
            }
            _ => None,
        };
        if let Some(data) = data {
            builder.add(Section::Answer, Some(&name), record.ttl, data);
        }
    }
    let code = match head.code {
        0 => Rcode::NoError,
        3 => Rcode::NxDomain,
        _ => Rcode::ServFail,
    };
    if head.truncated { builder.finish_truncated() } else { builder.finish(code, false) }
}

impl<C> Daemon for Dns<C> {
    fn watches(&self) -> Vec<WatchSpec> {
        let watch = |group, resource| WatchSpec {
            group,
            version: "v1",
            resource,
            namespace: String::new(),
            label_selector: String::new(),
            field_selector: String::new(),
        };
        vec![
            watch("", "services"),
            watch("discovery.k8s.io", "endpointslices"),
            watch("", "namespaces"),
        ]
    }

    fn handle(&mut self, event: Event, _: &Caches, _: Now, _: &mut Outbox) {
        match event {
            Event::Synced => self.synced = true,
            Event::Changed { spec, key, old: _, new } => {
                let value = new.as_ref().map(|o| &*o.value);
                match spec {
                    SERVICES => self.zone.service(&key, value),
                    SLICES => self.zone.slice(&key, value),
                    NAMESPACES => self.zone.namespace(&key, value.is_some()),
                    _ => {}
                }
            }
            // Names stay known while the API server is away.
            Event::Reply { .. } | Event::Disconnected | Event::Connected => {}
        }
    }

    fn turn(&mut self, _: &Caches, now: Now, _: &mut Outbox) {
        self.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.forward.poll_timeout()
    }
}
