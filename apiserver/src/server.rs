//! The core's surface, as the shells, the fronts and the simulation see it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use pintle_base::{Now, Prng, Time};
use pintle_wire::msg::{Body, api, store};

use crate::alloc::Alloc;
use crate::authn::token;
use crate::authz::rbac::Rbac;
use crate::bootstrap::Boot;
use crate::cache::Cache;
use crate::index::Expiry;
use crate::limits;
use crate::registry::{EndpointId, Registry};
use crate::status::{self, Failure};
use crate::sync::Link;
use crate::watch::{Emit, Hub};
use crate::write::Flight;

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

/// A request on its way through the core.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// Whom to answer.
    pub origin: Origin,
    /// Who asks.
    pub who: Arc<Identity>,
    /// What is asked for.
    pub request: Arc<api::Request>,
    /// Where it goes.
    pub endpoint: EndpointId,
    /// Times that it lost a race at the store.
    pub tries: u32,
}

/// Where a request came from, so whom to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client.
    Client(RequestId),
    /// One deletion of a collection's.
    Collection(u64),
    /// The core itself; nobody waits for the answer.
    Internal,
}

/// A request that waits until the cache has reached a revision.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub work: Work,
    /// Gives up then.
    pub deadline: Option<Time>,
    /// Not authorized and routed yet.
    pub raw: bool,
}

/// The core. One a process; single-threaded; never waits.
pub struct Server {
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    pub(crate) cache: Cache,
    pub(crate) hub: Hub,
    pub(crate) rbac: Rbac,
    pub(crate) prng: Prng,
    pub(crate) alloc: Alloc,
    pub(crate) boot: Boot,
    pub(crate) expiry: Expiry,
    pub(crate) keys: Option<Arc<token::Keys>>,
    pub(crate) out: VecDeque<Output>,
    pub(crate) link: Link,
    /// Newest revision that the store has told us of; a fresh read waits for it.
    pub(crate) known_revision: u64,
    pub(crate) next_tag: StoreTag,
    pub(crate) flights: HashMap<StoreTag, Flight>,
    pub(crate) waiting: BTreeMap<(u64, u64), Waiting>,
    pub(crate) next_waiting: u64,
    pub(crate) collections: HashMap<u64, crate::write::Collection>,
    pub(crate) now: Now,
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
        let registry = Registry::builtin();
        let cache = Cache::new(registry.resources().len());
        let prng = Prng::new(config.seed);
        let alloc = Alloc::new(&config.service_cidr, config.node_port_range);
        Server {
            config,
            registry,
            cache,
            hub: Hub::default(),
            rbac: Rbac::default(),
            prng,
            alloc,
            boot: Boot::default(),
            expiry: Expiry::default(),
            keys: None,
            out: VecDeque::new(),
            link: Link::Away,
            known_revision: 0,
            next_tag: 1,
            flights: HashMap::new(),
            waiting: BTreeMap::new(),
            next_waiting: 0,
            collections: HashMap::new(),
            now,
        }
    }

    /// The keys that sign and verify service-account tokens (TokenRequest, TokenReview). Without them those
    /// requests are answered with an error.
    pub fn set_token_keys(&mut self, keys: Arc<token::Keys>) {
        self.keys = Some(keys);
    }

    /// State is loaded from the store and the bootstrap objects stand: `/readyz` is ok.
    pub fn ready(&self) -> bool {
        matches!(self.link, Link::Running { .. }) && self.boot.done
    }

    /// What is served, for discovery.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// For the fronts: whether `who` may do what does not go through `handle_request` (paths that are no
    /// resources, exec, attach, port-forward, logs, impersonation). From the caches, at once.
    ///
    /// # Errors
    /// The 403 reply, its Status in Kubernetes' words.
    pub fn authorize(&self, who: &Identity, what: &Attributes<'_>) -> Result<(), api::Reply> {
        self.permit(who, what).map_err(|f| status::reply(&f, Vec::new()))
    }

    /// For the fronts: an object of the watch cache as JSON, with no question who asks (the pod of an exec, the
    /// service account of a token). The version is the one that is stored.
    pub fn peek(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Body> {
        self.lookup(group, resource, namespace, name).map(|o| o.body.clone())
    }

    /// A request from an authenticated client.
    pub fn handle_request(
        &mut self,
        id: RequestId,
        who: &Identity,
        request: api::Request,
        now: Now,
    ) {
        self.now = now;
        let origin = Origin::Client(id);
        if !self.loaded() {
            // Nobody can be authorized before the roles are known.
            let work = Work {
                origin,
                who: Arc::new(who.clone()),
                request: Arc::new(request),
                endpoint: EndpointId(0),
                tries: 0,
            };
            let deadline = Some(now.mono + limits::STORE_AWAY_WAIT);
            return self.hold(Waiting { work, deadline, raw: true }, 0);
        }
        self.admit(origin, Arc::new(who.clone()), Arc::new(request));
    }

    /// Authorizes and starts a request.
    pub(crate) fn admit(&mut self, origin: Origin, who: Arc<Identity>, request: Arc<api::Request>) {
        let endpoint = match self.route(&who, &request) {
            Ok(id) => id,
            Err(f) => return self.answer(origin, Err(f)),
        };
        self.start(Work { origin, who, request, endpoint, tries: 0 });
    }

    fn route(&self, who: &Identity, request: &api::Request) -> Result<EndpointId, Failure> {
        self.permit(who, &Attributes::of(request))?;
        let endpoint = self
            .registry
            .find(&request.group, &request.version, &request.resource)
            .ok_or_else(Failure::no_such_path)?;
        let verbs = match request.subresource.as_str() {
            "" => &endpoint.verbs,
            sub => &endpoint.subresource(sub).ok_or_else(Failure::no_such_path)?.verbs,
        };
        let verb = request.verb.as_str();
        if !verbs.iter().any(|v| v == verb) {
            return Err(Failure::method_not_allowed());
        }
        if endpoint.namespaced && request.namespace.is_empty() {
            let across = matches!(request.verb, api::Verb::List | api::Verb::Watch);
            let review = endpoint.list_kind.is_empty();
            if !across && !review {
                return Err(Failure::method_not_allowed());
            }
        }
        Ok(endpoint.id)
    }

    /// Carries a request out, or lets it wait until the cache is as new as it must be.
    pub(crate) fn start(&mut self, work: Work) {
        let deadline = Some(self.now.mono + limits::FUTURE_READ_WAIT);
        match self.wanted_revision(&work) {
            Err(f) => self.answer(work.origin, Err(f)),
            Ok(wanted) if wanted > self.cache.revision() => {
                let deadline = if wanted > self.known_revision { deadline } else { None };
                self.wait(work, wanted, deadline);
            }
            Ok(_) => self.carry_out(work),
        }
    }

    pub(crate) fn wait(&mut self, work: Work, revision: u64, deadline: Option<Time>) {
        self.hold(Waiting { work, deadline, raw: false }, revision);
    }

    fn hold(&mut self, waiting: Waiting, revision: u64) {
        if self.waiting.len() >= limits::WAITING_MAX {
            let f = Failure::too_many_requests("too many requests wait, please try again later", 1);
            return self.answer(waiting.work.origin, Err(f));
        }
        self.next_waiting += 1;
        self.waiting.insert((revision, self.next_waiting), waiting);
    }

    fn carry_out(&mut self, work: Work) {
        match (work.request.verb, work.request.subresource.as_str()) {
            (api::Verb::Watch, _) => self.start_watch(&work),
            (api::Verb::Get | api::Verb::List, "" | "status") => {
                let answer = self.read(&work);
                self.answer(work.origin, answer);
            }
            _ => self.start_write(work),
        }
    }

    /// Requests that waited for a revision that the cache has reached.
    pub(crate) fn wake_waiting(&mut self) {
        let reached = self.cache.revision();
        let later = self.waiting.split_off(&(reached + 1, 0));
        let due = std::mem::replace(&mut self.waiting, later);
        self.release(due);
    }

    /// Tries everything that waits again: the link with the store stands.
    pub(crate) fn synced(&mut self) {
        let all = std::mem::take(&mut self.waiting);
        self.release(all);
        self.boot_step();
    }

    fn release(&mut self, due: BTreeMap<(u64, u64), Waiting>) {
        for (_, w) in due {
            if w.raw {
                self.admit(w.work.origin, w.work.who, w.work.request);
            } else {
                self.start(w.work);
            }
        }
    }

    /// Sends the answer where it belongs.
    pub(crate) fn answer(&mut self, origin: Origin, answer: Answer) {
        let reply = match answer {
            Ok(reply) => reply,
            Err(f) => status::reply(&f, Vec::new()),
        };
        match origin {
            Origin::Client(id) => self.out.push_back(Output::Reply(id, reply)),
            Origin::Collection(id) => self.collection_item(id, &reply),
            Origin::Internal => {
                crate::write::log_internal(&reply);
                self.boot.under_way = self.boot.under_way.saturating_sub(1);
                self.boot_step();
            }
        }
    }

    /// The client is gone or lost interest.
    pub fn cancel(&mut self, id: RequestId) {
        if self.hub.remove(id) {
            return;
        }
        // What only reads need not be done; a write goes on and its answer is dropped by the caller.
        let reads = |w: &Waiting| {
            matches!(w.work.request.verb, api::Verb::Get | api::Verb::List | api::Verb::Watch)
        };
        self.waiting.retain(|_, w| w.work.origin != Origin::Client(id) || !reads(w));
    }

    /// The client of this watch does not take any more for now; events are held back (bounded) until `resume`.
    pub fn pause(&mut self, id: RequestId) {
        self.hub.pause(id);
    }

    /// It takes events again.
    pub fn resume(&mut self, id: RequestId) {
        self.hub.resume(id);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(o) = self.out.pop_front() {
            return Some(o);
        }
        match self.hub.poll(&self.registry, &self.cache)? {
            Emit::Event(id, kind, revision, body) => {
                Some(Output::Reply(id, api::Reply::Event { kind, revision, body }))
            }
            Emit::Failed(id, body) => {
                self.out.push_back(Output::End(id));
                let kind = api::EventType::Error;
                Some(Output::Reply(id, api::Reply::Event { kind, revision: 0, body }))
            }
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        for id in self.hub.expire(now.mono) {
            self.out.push_back(Output::End(id));
        }
        self.expire_events();
        let late: Vec<(u64, u64)> = self
            .waiting
            .iter()
            .filter(|(_, w)| w.deadline.is_some_and(|d| d <= now.mono))
            .map(|(k, _)| *k)
            .collect();
        for key in late {
            if let Some(w) = self.waiting.remove(&key) {
                let f = if self.loaded() && key.0 > self.known_revision && key.0 < u64::MAX {
                    status::future_revision(key.0, self.cache.revision())
                } else {
                    Failure::unavailable("the store does not answer, please try again later")
                };
                self.answer(w.work.origin, Err(f));
            }
        }
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        let waiting = self.waiting.values().filter_map(|w| w.deadline).min();
        [self.hub.poll_timeout(), waiting, self.expiry.poll_timeout()].into_iter().flatten().min()
    }
}

/// A reply, or what became of the request instead.
pub(crate) type Answer = Result<api::Reply, Failure>;
