//! What every daemon does with the API server, without sockets and clocks.
//!
//! [`Client`] keeps one reflector a watched resource (list, then watch from there, relist after 410), hands
//! out cached objects and carries requests. [`Daemon`] is what a scheduler, a controller manager, a kubelet
//! core, a proxy core or a DNS core implements: events in, requests out. The same pair runs over a real
//! connection (the shells in `cli/`) and in the simulation.
//!
//! What a daemon can count on: `Changed` events of one object come in the order of its revisions, and after any
//! loss of connection, restart of the API server or expired revision the differences to what it last heard are
//! delivered as `Changed`, deletions included. Each request is answered exactly once. The caches contain a change
//! before `handle` hears of it.
//!
//! Further tools, all pure: [`WorkQueue`] (keys with back-off), [`Recorder`] (Event objects), [`Elector`] (leader
//! election by Lease), [`requests`] (builders).

mod caches;
mod client;
mod elector;
pub mod limits;
mod queue;
mod recorder;
mod reflector;
pub mod requests;
#[cfg(test)]
mod tests;

pub use caches::{Caches, key_of};
pub use client::Client;
pub use elector::Elector;
pub use queue::WorkQueue;
pub use recorder::{ObjectRef, Recorder};

use pintle_base::{Now, Time};
use pintle_wire::msg::api::Request;
use serde_json::Value;
use std::fmt;
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
    /// The answer to a request: the object, or what the API server said against it. A request to watch has an
    /// answer an event (a WatchEvent: `{"type": "ADDED", "object": {..}}`), and an error as its last one.
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

impl ApiError {
    /// The Status reason is this one: `error.is("NotFound")`.
    pub fn is(&self, expected: &str) -> bool {
        matches!(self, ApiError::Status { reason, .. } if reason == expected)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApiError::Status { code, reason, message } => write!(f, "{message} ({reason}, {code})"),
            ApiError::Disconnected => f.write_str("connection to the API server was lost"),
        }
    }
}

impl std::error::Error for ApiError {}

/// What a daemon's core wants done.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Requests to send, with their tokens.
    pub requests: Vec<(Token, Request)>,
    /// Watches (requests with [`Verb::Watch`](pintle_wire::msg::api::Verb)) that are no longer wanted; no answer
    /// comes for them any more.
    pub cancels: Vec<Token>,
}

impl Outbox {
    /// Sends a request; its answer comes as `Event::Reply` with this token.
    pub fn send(&mut self, token: Token, request: Request) {
        self.requests.push((token, request));
    }
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
