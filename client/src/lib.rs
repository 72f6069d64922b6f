//! What every daemon does with the API server, without sockets and clocks.
//!
//! [`Client`] keeps one reflector a watched resource (list, then watch from there, relist after 410), hands
//! out cached objects and carries requests. [`Daemon`] is what a scheduler, a controller manager, a kubelet
//! core, a proxy core or a DNS core implements: events in, requests out. The same pair runs over a real
//! connection (the shells in `cli/`) and in the simulation.

use pintle_base::{Now, Time};
use pintle_wire::conn;
use pintle_wire::msg::api::Request;
use serde_json::Value;
use std::sync::Arc;

/// A resource that a daemon wants to keep a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchSpec {
    /// API group, empty for core.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Plural name.
    pub resource: &'static str,
    /// Empty = all namespaces.
    pub namespace: String,
    /// Empty = everything.
    pub label_selector: String,
    /// Empty = everything.
    pub field_selector: String,
}

/// One cached object: parsed once, shared.
#[derive(Clone, Debug)]
pub struct Object {
    /// The whole object as JSON.
    pub value: Arc<Value>,
    /// Its `metadata.resourceVersion`.
    pub revision: u64,
}

/// `namespace/name`, or `name` for cluster-scoped objects.
pub type Key = String;

/// Number that a daemon gives to a request to know its answer again.
pub type Token = u64;

/// What a daemon hears.
#[derive(Debug)]
pub enum Event {
    /// Every watched resource has been listed at least once; decisions may start.
    Synced,
    /// An object in the cache of `watches()[spec]` was added (`old` is none), changed, or went (`new` is none).
    Changed {
        /// Index into `watches()`.
        spec: usize,
        /// Key of the object.
        key: Key,
        /// Before.
        old: Option<Object>,
        /// After.
        new: Option<Object>,
    },
    /// The answer to a request: the object, or what the API server said against it.
    Reply {
        /// Token of the request.
        token: Token,
        /// The body of the answer.
        result: Result<Value, ApiError>,
    },
    /// The connection is gone: requests under way are answered with `ApiError::Disconnected`, caches stay.
    Disconnected,
    /// The connection is back.
    Connected,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq)]
pub enum ApiError {
    /// The API server answered with a Status.
    Status {
        /// HTTP code.
        code: u16,
        /// `NotFound`, `Conflict`, `AlreadyExists`, `Invalid`, ...
        reason: String,
        /// For humans.
        message: String,
    },
    /// No answer came and none will; it may or may not have been carried out.
    Disconnected,
}

/// What a daemon's core wants done.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Requests to send, with their tokens.
    pub requests: Vec<(Token, Request)>,
}

/// A daemon's core: pure. It is called with events and time and fills the outbox; it never waits.
pub trait Daemon {
    /// What to keep a copy of. Asked once.
    fn watches(&self) -> Vec<WatchSpec>;
    /// Something happened. `caches` already contains it.
    fn handle(&mut self, event: Event, caches: &Caches, now: Now, out: &mut Outbox);
    /// A batch of events has been handled: decide. Called once a turn, after all `handle`s.
    fn turn(&mut self, caches: &Caches, now: Now, out: &mut Outbox);
    /// When `turn` wants to be called though nothing happened.
    fn poll_timeout(&self) -> Option<Time>;
}

/// The objects of all watched resources, by spec index.
#[derive(Debug, Default)]
pub struct Caches {
    _private: (),
}

impl Caches {
    /// One object.
    pub fn get(&self, spec: usize, key: &str) -> Option<&Object> {
        let _ = (spec, key);
        None
    }

    /// All objects of a resource, in key order.
    pub fn list(&self, spec: usize) -> impl Iterator<Item = (&Key, &Object)> {
        let _ = spec;
        std::iter::empty()
    }

    /// Every resource has been listed at least once.
    pub fn synced(&self) -> bool {
        false
    }
}

/// Joins a [`Daemon`] with a wire connection, sans-IO: the shell (or the simulation) owns the [`conn::Conn`]
/// and its bytes; the client opens streams on it and is fed its events.
pub struct Client<D> {
    /// The daemon's core.
    pub daemon: D,
    /// What it watches.
    pub caches: Caches,
}

impl<D: Daemon> Client<D> {
    /// A client that is not connected yet.
    pub fn new(daemon: D, seed: u64) -> Client<D> {
        let _ = seed;
        Client { daemon, caches: Caches::default() }
    }

    /// The connection's handshake is done: reflectors start (again).
    pub fn connected(&mut self, conn: &mut conn::Conn, now: Now) {
        let _ = (conn, now);
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, now: Now) {
        let _ = now;
    }

    /// An event of the connection on a stream that this client opened. Gives the event back when the stream
    /// is not one of ours (a stream that the API server opened: exec, logs).
    pub fn handle_wire(
        &mut self,
        conn: &mut conn::Conn,
        event: conn::Event,
        now: Now,
    ) -> Option<conn::Event> {
        let _ = (conn, now);
        Some(event)
    }

    /// Runs the daemon's `turn` and sends what it wants. Call after each batch of events and on timeouts.
    pub fn turn(&mut self, conn: Option<&mut conn::Conn>, now: Now) {
        let _ = (conn, now);
    }

    /// When `turn` wants to be called though nothing happened.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.daemon.poll_timeout()
    }
}
