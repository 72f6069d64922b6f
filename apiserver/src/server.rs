//! The core's surface, as the shells, the fronts and the simulation see it.

use crate::authn::token;
use pintle_base::{Now, Time};
use pintle_wire::msg::{Body, api, store};
use std::sync::Arc;

/// Number of a request within the process; chosen by the caller.
pub type RequestId = u64;

/// Number of a request to the store; chosen by the core.
pub type StoreTag = u64;

/// Who asks, as authentication found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `system:anonymous`, `kubernetes-admin`, `system:serviceaccount:ns:name`, `system:node:n`.
    pub user: String,
    /// Uid of the user when it has one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Extra, as in UserInfo.
    pub extra: Vec<(String, Vec<String>)>,
}

/// What the authorizer is asked, in RBAC's words. Either `resource` or `path` is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `create`, `impersonate`, ...
    pub verb: &'a str,
    /// API group, empty for core.
    pub group: &'a str,
    /// Version within the group.
    pub version: &'a str,
    /// Plural resource name.
    pub resource: &'a str,
    /// Subresource, empty = none.
    pub subresource: &'a str,
    /// Namespace, empty = cluster scope.
    pub namespace: &'a str,
    /// Object name, empty for collections.
    pub name: &'a str,
    /// Path of a request that is about no resource, `/healthz`.
    pub path: &'a str,
}

/// What the core wants done.
#[derive(Debug)]
pub enum Output {
    /// The (only) answer to a request, or one event of a watch.
    Reply(RequestId, api::Reply),
    /// The watch has ended in good order (its timeout passed): close the stream.
    End(RequestId),
    /// Send this to the store; its replies come back by `handle_store` with the same tag.
    Store(StoreTag, store::Request),
    /// Stop a store watch.
    StoreCancel(StoreTag),
}

/// The core. One a process; single-threaded; never waits.
pub struct Server {
    _private: (),
}

/// What the core must know from the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// ClusterIP range, `10.96.0.0/16`.
    pub service_cidr: String,
    /// NodePort range, inclusive.
    pub node_port_range: (u16, u16),
    /// Seed for uids and generated names.
    pub seed: u64,
    /// Address and port that the `kubernetes` service's endpoints show.
    pub advertise: (std::net::IpAddr, u16),
}

impl Server {
    /// A core that knows nothing yet; it asks the store for everything first.
    pub fn new(config: Config, now: Now) -> Server {
        let _ = (config, now);
        Server { _private: () }
    }

    /// The keys that sign and verify service-account tokens (TokenRequest, TokenReview). Without them those
    /// requests are answered with an error.
    pub fn set_token_keys(&mut self, keys: Arc<token::Keys>) {
        let _ = keys;
    }

    /// State is loaded from the store and the bootstrap objects stand: `/readyz` is ok.
    pub fn ready(&self) -> bool {
        false
    }

    /// For the fronts: whether `who` may do what does not go through `handle_request` (paths that are no
    /// resources, exec, attach, port-forward, logs, impersonation). From the caches, at once.
    ///
    /// # Errors
    /// The 403 reply, its Status in Kubernetes' words.
    pub fn authorize(&self, who: &Identity, what: &Attributes<'_>) -> Result<(), api::Reply> {
        let _ = (who, what);
        Ok(())
    }

    /// For the fronts: an object of the watch cache as JSON, with no question who asks (the pod of an exec, the
    /// service account of a token). The version is the one that is stored.
    pub fn peek(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Body> {
        let _ = (group, resource, namespace, name);
        None
    }

    /// A request from an authenticated client.
    pub fn handle_request(
        &mut self,
        id: RequestId,
        who: &Identity,
        request: api::Request,
        now: Now,
    ) {
        let _ = (id, who, request, now);
    }

    /// The client is gone or lost interest.
    pub fn cancel(&mut self, id: RequestId) {
        let _ = id;
    }

    /// The client of this watch does not take any more for now; events are held back (bounded) until `resume`.
    pub fn pause(&mut self, id: RequestId) {
        let _ = id;
    }

    /// It takes events again.
    pub fn resume(&mut self, id: RequestId) {
        let _ = id;
    }

    /// The store answered.
    pub fn handle_store(&mut self, tag: StoreTag, reply: store::Reply, now: Now) {
        let _ = (tag, reply, now);
    }

    /// The connection to the store is gone: writes under way fail with "may or may not have happened".
    pub fn store_disconnected(&mut self, now: Now) {
        let _ = now;
    }

    /// The connection to the store is there (again).
    pub fn store_connected(&mut self, now: Now) {
        let _ = now;
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Now) {
        let _ = now;
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }
}
