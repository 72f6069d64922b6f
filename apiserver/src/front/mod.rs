//! The fronts: HTTP, WebSocket, SPDY and wire bytes on one side, the core's requests on the other. All of it
//! without sockets and clocks.
//!
//! [`Front`] owns the core and every connection's state. The shell (or a test, or the simulation) accepts
//! connections, feeds bytes and time, writes what `output` gives, and carries the store's messages. After each
//! call that feeds something, [`Front::poll_changed`] names the connections to look at again.
//!
//! `http` is one HTTP/1.1 connection, `rest` and `negotiate` read a request, `render` writes an answer,
//! `special` answers what is no resource, `web` and `wire` drive a connection of their kind; `pods` and `sessions`
//! join a client with streams to a node, in the forms that `stream` knows.

pub mod discovery;
#[cfg(any(test, feature = "check"))]
pub mod hostile;
pub mod http;
pub mod limits;
pub mod negotiate;
pub mod openapi;
pub mod out;
mod pods;
mod relay;
pub mod render;
pub mod rest;
mod sessions;
pub mod special;
pub mod stream;
pub mod uri;
mod web;
mod wire;

use crate::authn::{Authenticator, token};
use crate::server::{Output, RequestId, Server, StoreTag};
use pintle_base::{Now, Time};
use pintle_wire::StreamId;
use pintle_wire::msg::{Body, api, store};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Number of a connection; never reused within a process.
pub type ConnId = u64;

/// What is known of the other end of a connection, apart from what it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The uid of a process on a unix socket.
    pub uid: Option<u32>,
    /// The client's certificate chain (DER, its own first); empty when it showed none.
    pub chain: Vec<Vec<u8>>,
    /// For the log: an address.
    pub address: String,
}

/// What the front must know from the start.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `HOST:PORT` under which clients reach this server.
    pub server_address: String,
    /// For [`pintle_wire::msg::Info`].
    pub version: String,
    /// For [`pintle_wire::msg::Info`].
    pub pid: u32,
}

/// What the store must be told.
#[derive(Debug, PartialEq, Eq)]
pub enum ToStore {
    /// A request; its replies come back by [`Front::handle_store`] with the same tag.
    Request(StoreTag, store::Request),
    /// The replies are no longer wanted.
    Cancel(StoreTag),
}

/// Whose request it is that the core answers.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Http(ConnId),
    Wire(ConnId, StreamId),
}

enum Link {
    Http(Box<web::Link>),
    Wire(Box<wire::Link>),
}

/// All connections and the core behind them.
pub struct Front {
    core: Server,
    authn: Authenticator,
    config: Config,
    links: BTreeMap<ConnId, Link>,
    owners: BTreeMap<RequestId, Owner>,
    /// The connection of each node's kubelet.
    nodes: BTreeMap<String, ConnId>,
    /// Streams that pass from a wire client to a node, by each of their ends.
    relays: BTreeMap<relay::End, relay::Relay>,
    next_conn: ConnId,
    next_request: RequestId,
    /// Connections to look at again, each once.
    changed: VecDeque<ConnId>,
    in_changed: BTreeSet<ConnId>,
    /// Connections on which another request or an event may be waiting.
    todo: VecDeque<ConnId>,
    timers: BTreeSet<(Time, ConnId)>,
    to_store: VecDeque<ToStore>,
    store_connected: bool,
    /// By path: signature of what is served, etag, document.
    openapi: BTreeMap<String, (String, String, Body)>,
    requests_total: BTreeMap<(String, u16), u64>,
}

impl Front {
    /// A front before the given core.
    pub fn new(core: Server, authn: Authenticator, config: Config) -> Front {
        Front {
            core,
            authn,
            config,
            links: BTreeMap::new(),
            owners: BTreeMap::new(),
            nodes: BTreeMap::new(),
            relays: BTreeMap::new(),
            next_conn: 1,
            next_request: 1,
            changed: VecDeque::new(),
            in_changed: BTreeSet::new(),
            todo: VecDeque::new(),
            timers: BTreeSet::new(),
            to_store: VecDeque::new(),
            store_connected: false,
            openapi: BTreeMap::new(),
            requests_total: BTreeMap::new(),
        }
    }

    /// The core.
    pub fn core(&self) -> &Server {
        &self.core
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn token_keys(&self) -> Option<&Arc<token::Keys>> {
        self.authn.keys.as_ref()
    }

    /// The connection to the store stands.
    pub fn store_connected(&self) -> bool {
        self.store_connected
    }

    /// A client connected and will speak HTTP.
    pub fn accept_http(&mut self, peer: Peer, now: Now) -> ConnId {
        let id = self.new_id();
        self.links.insert(id, Link::Http(Box::new(web::Link::new(peer, now))));
        self.touch(id);
        id
    }

    /// A daemon connected and will speak the wire protocol.
    pub fn accept_wire(&mut self, peer: Peer, now: Now) -> ConnId {
        let id = self.new_id();
        let link = wire::Link::new(peer, &self.config, now);
        self.links.insert(id, Link::Wire(Box::new(link)));
        self.touch(id);
        id
    }

    fn new_id(&mut self) -> ConnId {
        let id = self.next_conn;
        self.next_conn += 1;
        id
    }

    /// Takes bytes from a connection, all of them.
    pub fn handle_input(&mut self, id: ConnId, bytes: &[u8], now: Now) {
        match self.links.get_mut(&id) {
            Some(Link::Http(link)) => {
                link.conn.handle_input(bytes, now.mono);
                self.todo.push_back(id);
            }
            Some(Link::Wire(_)) => self.wire_input(id, bytes, now),
            None => return,
        }
        self.touch(id);
        self.run(now);
    }

    /// Bytes to write to a connection (contiguous; call again after `written`).
    pub fn output(&mut self, id: ConnId) -> &[u8] {
        match self.links.get_mut(&id) {
            Some(Link::Http(link)) => link.conn.output(),
            Some(Link::Wire(link)) => link.conn.poll_output(),
            None => &[],
        }
    }

    /// Bytes of answers that wait to be written to an HTTP client.
    pub fn output_len(&self, id: ConnId) -> usize {
        match self.links.get(&id) {
            Some(Link::Http(link)) => link.conn.output_len(),
            Some(Link::Wire(_)) | None => 0,
        }
    }

    /// The first `n` bytes of `output` were written.
    pub fn written(&mut self, id: ConnId, n: usize, now: Now) {
        match self.links.get_mut(&id) {
            Some(Link::Http(link)) => link.conn.written(n, now.mono),
            Some(Link::Wire(link)) => link.conn.written(n),
            None => return,
        }
        self.after_written(id, now);
        self.touch(id);
        self.run(now);
    }

    /// Whether bytes should be read from the connection now.
    pub fn wants_input(&self, id: ConnId) -> bool {
        match self.links.get(&id) {
            Some(Link::Http(link)) => link.wants_input(),
            Some(Link::Wire(_)) => true,
            None => false,
        }
    }

    /// Whether the connection is to be closed: everything is written that will be.
    pub fn is_done(&self, id: ConnId) -> bool {
        match self.links.get(&id) {
            Some(Link::Http(link)) => link.conn.is_done(),
            Some(Link::Wire(link)) => link.is_done(),
            None => true,
        }
    }

    /// The peer sends no more. A whole request is still answered; anything longer ends.
    pub fn input_ended(&mut self, id: ConnId, now: Now) {
        match self.links.get_mut(&id) {
            Some(Link::Http(_)) => self.http_input_ended(id),
            Some(Link::Wire(link)) => link.dead = true,
            None => return,
        }
        self.touch(id);
        self.run(now);
    }

    /// The connection is closed; its requests are cancelled.
    pub fn closed(&mut self, id: ConnId, now: Now) {
        let link = self.links.remove(&id);
        let timer = match &link {
            Some(Link::Http(link)) => link.timer,
            Some(Link::Wire(link)) => link.timer,
            None => return,
        };
        if let Some(at) = timer {
            self.timers.remove(&(at, id));
        }
        match link {
            Some(Link::Http(link)) => self.http_closed(*link),
            Some(Link::Wire(link)) => self.wire_closed(id, *link, now),
            None => {}
        }
        self.run(now);
    }

    /// The next connection whose output, `wants_input` or `is_done` may have changed.
    pub fn poll_changed(&mut self) -> Option<ConnId> {
        let id = self.changed.pop_front()?;
        self.in_changed.remove(&id);
        Some(id)
    }

    /// The next message for the store.
    pub fn poll_store(&mut self) -> Option<ToStore> {
        self.to_store.pop_front()
    }

    /// The store answered.
    pub fn handle_store(&mut self, tag: StoreTag, reply: store::Reply, now: Now) {
        self.core.handle_store(tag, reply, now);
        self.run(now);
    }

    /// The store can be reached (again).
    pub fn set_store_connected(&mut self, connected: bool, now: Now) {
        self.store_connected = connected;
        if connected {
            self.core.store_connected(now);
        } else {
            self.to_store.clear();
            self.core.store_disconnected(now);
        }
        self.run(now);
    }

    /// No new requests: watches end, idle connections end, the others when their answer has.
    pub fn drain(&mut self, now: Now) {
        let ids: Vec<ConnId> = self.links.keys().copied().collect();
        for id in ids {
            match self.links.get_mut(&id) {
                Some(Link::Http(link)) => {
                    link.conn.drain();
                    self.http_drain(id, now);
                }
                Some(Link::Wire(link)) => {
                    link.conn.go_away();
                    link.draining = true;
                }
                None => {}
            }
            self.touch(id);
        }
        self.run(now);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now.mono {
                break;
            }
            self.timers.remove(&(at, id));
            match self.links.get_mut(&id) {
                Some(Link::Http(link)) => {
                    link.timer = None;
                    link.conn.handle_timeout(now.mono);
                    self.http_timeout(id, now);
                }
                Some(Link::Wire(link)) => {
                    link.timer = None;
                    if link.conn.handle_timeout(now.mono).is_err() {
                        link.dead = true;
                    }
                }
                None => {}
            }
            self.touch(id);
        }
        if self.core.poll_timeout().is_some_and(|t| t <= now.mono) {
            self.core.handle_timeout(now);
        }
        self.run(now);
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        let timers = self.timers.first().map(|(t, _)| *t);
        match (timers, self.core.poll_timeout()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    // Does everything that can be done now: the core's outputs, then further requests, until nothing is left.
    fn run(&mut self, now: Now) {
        loop {
            if let Some(output) = self.core.poll_output() {
                self.perform(output, now);
            } else if let Some(id) = self.todo.pop_front() {
                match self.links.get(&id) {
                    Some(Link::Http(_)) => {
                        self.serve_http(id, now);
                        self.touch(id);
                    }
                    Some(Link::Wire(_)) => self.wire_events(id, now),
                    None => {}
                }
            } else {
                return;
            }
        }
    }

    fn perform(&mut self, output: Output, now: Now) {
        match output {
            Output::Store(tag, request) => self.to_store.push_back(ToStore::Request(tag, request)),
            Output::StoreCancel(tag) => self.to_store.push_back(ToStore::Cancel(tag)),
            Output::Reply(id, reply) => match self.owners.get(&id).copied() {
                Some(Owner::Http(conn)) => self.http_reply(conn, id, reply, now),
                Some(Owner::Wire(conn, stream)) => self.wire_reply(conn, stream, id, reply),
                // The client went away while the answer was on its way.
                None => {}
            },
            Output::End(id) => match self.owners.remove(&id) {
                Some(Owner::Http(conn)) => self.http_end(conn, now),
                Some(Owner::Wire(conn, stream)) => self.wire_end(conn, stream),
                None => {}
            },
        }
    }

    fn ask(&mut self, owner: Owner) -> RequestId {
        let id = self.next_request;
        self.next_request += 1;
        self.owners.insert(id, owner);
        id
    }

    // Puts a connection on the list to look at, and its timer where it belongs.
    fn touch(&mut self, id: ConnId) {
        if self.in_changed.insert(id) {
            self.changed.push_back(id);
        }
        let (wanted, current) = match self.links.get_mut(&id) {
            Some(Link::Http(link)) => (link.poll_timeout(), &mut link.timer),
            Some(Link::Wire(link)) => {
                if !link.queued {
                    link.queued = true;
                    self.todo.push_back(id);
                }
                (link.conn.poll_timeout(), &mut link.timer)
            }
            None => return,
        };
        if wanted != *current {
            if let Some(old) = current.take() {
                self.timers.remove(&(old, id));
            }
            if let Some(new) = wanted {
                self.timers.insert((new, id));
            }
            *current = wanted;
        }
    }

    // A document by its path below /openapi/v3/; the empty path is the index. Made again when what is served
    // has changed.
    fn openapi_cached(&mut self, key: &str) -> Option<(String, Body)> {
        let (group, version) = match key.split_once('/') {
            Some(("api", version)) => ("", version),
            Some(("apis", rest)) => rest.split_once('/').unwrap_or((rest, "")),
            _ => ("", ""),
        };
        let signature = openapi::signature(&self.core, group, version);
        if let Some((known, etag, body)) = self.openapi.get(key)
            && *known == signature
            && !key.is_empty()
        {
            return Some((etag.clone(), body.clone()));
        }
        let value = match key {
            "" => openapi::index(&self.core),
            _ => openapi::document(&self.core, key)?,
        };
        let body = Body::from(value.to_string().into_bytes());
        let etag = special::etag_of(&body);
        self.openapi.insert(key.into(), (signature, etag.clone(), body.clone()));
        Some((etag, body))
    }

    fn metrics_text(&self) -> String {
        let mut out = String::from(
            "# HELP apiserver_request_total Requests answered, by verb and code.\n\
             # TYPE apiserver_request_total counter\n",
        );
        for ((verb, code), n) in &self.requests_total {
            out.push_str(&format!(
                "apiserver_request_total{{code=\"{code}\",verb=\"{verb}\"}} {n}\n"
            ));
        }
        out.push_str(
            "# HELP apiserver_connections Open connections.\n# TYPE apiserver_connections gauge\n",
        );
        out.push_str(&format!("apiserver_connections {}\n", self.links.len()));
        out.push_str(
            "# HELP apiserver_current_inflight_requests Requests and watches under way.\n\
             # TYPE apiserver_current_inflight_requests gauge\n",
        );
        out.push_str(&format!("apiserver_current_inflight_requests {}\n", self.owners.len()));
        out
    }

    fn count(&mut self, verb: &str, code: u16) {
        *self.requests_total.entry((verb.to_string(), code)).or_default() += 1;
    }
}

/// The error code of a reply, 0 for one that is none.
fn error_code(reply: &api::Reply) -> u16 {
    match reply {
        api::Reply::Object { code, .. } if *code >= 400 => *code,
        _ => 0,
    }
}
