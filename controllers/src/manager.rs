//! The daemon around the controllers: who is asked when, and what becomes of the answers.
//!
//! One key of one controller is either idle, due, paused after a failure, or busy. Busy means that requests are
//! under way, or that they were answered and the view has not shown their results yet: asking again before would
//! do everything twice. News about a busy key makes it due afterwards.

use crate::plan::{Action, Plan, key_of};
use crate::view::{Memory, OwnerIndex, View};
use crate::{Kind, deployment, endpointslice, garbage, job, namespace, node, replicaset};
use pintle_base::{Now, Time, log};
use pintle_client::{ApiError, Caches, Daemon, Event, Key, Outbox, Token, WatchSpec};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// First pause of a key whose requests failed, and the longest; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long to wait for the view to show an acknowledged write. Only a relist that skips the object's whole life
/// makes this necessary.
const VIEW_LAG_MAX: Duration = Duration::from_secs(30);

/// Uids known to be gone that are remembered; about 1 MB.
const GONE_MAX: usize = 16_384;

/// What the controllers must know of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// PEM of the cluster's CA, published as ConfigMap kube-root-ca.crt in every namespace.
    pub root_ca_pem: String,
    /// Range that nodes' pod ranges are cut from, `10.244.0.0/16`.
    pub cluster_cidr: String,
    /// Prefix length of a node's pod range, 24.
    pub node_cidr_bits: u8,
}

/// One change of one object.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Resource.
    pub kind: Kind,
    /// Object.
    pub key: &'a str,
    /// Before.
    pub old: Option<&'a Value>,
    /// After.
    pub new: Option<&'a Value>,
}

impl<'a> Change<'a> {
    /// The object, after the change if it is still there, else before.
    pub fn object(&self) -> Option<&'a Value> {
        self.new.or(self.old)
    }
}

/// One reconciler.
pub trait Controller {
    /// For logs and events.
    fn name(&self) -> &'static str;
    /// Which of its keys a change touches.
    fn wake(&self, change: &Change<'_>, view: View<'_>, keys: &mut BTreeSet<Key>);
    /// What to do about a key. Pure: the same view and time give the same plan.
    fn plan(&self, key: &str, view: View<'_>, now: Now) -> Plan;
}

#[derive(Debug, Default)]
struct KeyState {
    due: bool,
    attempts: u32,
    not_before: Option<Time>,
    requeue_at: Option<Time>,
    under_way: usize,
    failed: bool,
    /// Results that the view must show before the key is looked at again: revision by object.
    unseen: BTreeMap<(Kind, Key), u64>,
    unseen_until: Option<Time>,
}

impl KeyState {
    fn busy(&self) -> bool {
        self.under_way > 0 || !self.unseen.is_empty()
    }

    fn idle(&self) -> bool {
        !self.due
            && !self.busy()
            && self.not_before.is_none()
            && self.requeue_at.is_none()
            && self.attempts == 0
    }

    fn next_time(&self) -> Option<Time> {
        if self.under_way > 0 {
            return None;
        }
        if !self.unseen.is_empty() {
            return self.unseen_until;
        }
        if self.due { self.not_before } else { self.requeue_at }
    }
}

type Id = (usize, Key);

/// The controller manager's core.
pub struct Manager {
    controllers: Vec<Box<dyn Controller>>,
    index: OwnerIndex,
    memory: Memory,
    keys: BTreeMap<Id, KeyState>,
    waiting_for: HashMap<(Kind, Key), BTreeSet<Id>>,
    under_way: HashMap<Token, (Id, &'static str, Action)>,
    due: BTreeSet<Id>,
    timers: BTreeSet<(Time, Id)>,
    next_token: Token,
    synced: bool,
}

impl Manager {
    /// A manager with every controller.
    pub fn new(config: &Config) -> Manager {
        Manager::with(all(config))
    }

    /// A manager with these controllers only.
    pub fn with(controllers: Vec<Box<dyn Controller>>) -> Manager {
        Manager {
            controllers,
            index: OwnerIndex::default(),
            memory: Memory::default(),
            keys: BTreeMap::new(),
            waiting_for: HashMap::new(),
            under_way: HashMap::new(),
            due: BTreeSet::new(),
            timers: BTreeSet::new(),
            next_token: 0,
            synced: false,
        }
    }

    fn changed(&mut self, change: &Change<'_>, revision: Option<u64>, caches: &Caches, now: Now) {
        self.index.update(change.kind, change.key, change.old, change.new);
        if change.kind == Kind::Lease {
            match change.new {
                Some(_) => self.memory.lease_seen.insert(change.key.to_owned(), now.mono),
                None => self.memory.lease_seen.remove(change.key),
            };
        }
        let view = View { caches, index: &self.index, memory: &self.memory };
        let mut touched = BTreeSet::new();
        for (i, controller) in self.controllers.iter().enumerate() {
            let mut keys = BTreeSet::new();
            controller.wake(change, view, &mut keys);
            touched.extend(keys.into_iter().map(|k| (i, k)));
        }
        for id in touched {
            self.make_due(id);
        }
        self.seen(change.kind, change.key, revision);
    }

    fn make_due(&mut self, id: Id) {
        let state = self.keys.entry(id.clone()).or_default();
        state.due = true;
        if !state.busy() && state.not_before.is_none() {
            self.due.insert(id);
        }
    }

    // `revision` none: the object is gone, whatever was awaited of it has happened.
    fn seen(&mut self, kind: Kind, key: &str, revision: Option<u64>) {
        let object = (kind, key.to_owned());
        let Some(ids) = self.waiting_for.get_mut(&object) else { return };
        let mut freed = Vec::new();
        ids.retain(|id| {
            let Some(state) = self.keys.get_mut(id) else { return false };
            let still =
                revision.is_some_and(|r| state.unseen.get(&object).is_some_and(|want| r < *want));
            if !still {
                state.unseen.remove(&object);
                freed.push(id.clone());
            }
            still
        });
        if ids.is_empty() {
            self.waiting_for.remove(&object);
        }
        for id in freed {
            self.settle(&id);
        }
    }

    fn answered(
        &mut self,
        token: Token,
        result: Result<Value, ApiError>,
        caches: &Caches,
        now: Now,
    ) {
        let Some((id, controller, action)) = self.under_way.remove(&token) else { return };
        let Some(state) = self.keys.get_mut(&id) else { return };
        state.under_way -= 1;
        match (&action, result) {
            (Action::Event { .. }, _) => {}
            (Action::Confirm { uid, remember, .. }, Ok(object))
                if !uid.is_empty() && object["metadata"]["uid"] != *uid =>
            {
                remember_gone(&mut self.memory, remember);
                state.due = true;
            }
            (Action::Confirm { remember, .. }, Err(ApiError::Status { reason, .. }))
                if reason == "NotFound" =>
            {
                remember_gone(&mut self.memory, remember);
                state.due = true;
            }
            (action, Ok(object)) => {
                if let Some((kind, key, revision)) = written(action, &object)
                    && caches.get(kind.spec(), &key).is_none_or(|o| o.revision < revision)
                    && !(matches!(action, Action::Delete { .. })
                        && caches.get(kind.spec(), &key).is_none())
                {
                    state.unseen.insert((kind, key.clone()), revision);
                    state.unseen_until = Some(now.mono + VIEW_LAG_MAX);
                    self.waiting_for.entry((kind, key)).or_default().insert(id.clone());
                }
            }
            (Action::Delete { .. }, Err(ApiError::Status { reason, .. }))
                if reason == "NotFound" => {}
            (_, Err(error)) => {
                state.failed = true;
                if let ApiError::Status { reason, message, .. } = &error
                    && !matches!(reason.as_str(), "Conflict" | "AlreadyExists" | "NotFound")
                {
                    log::warn(
                        "controller request failed",
                        &[
                            ("controller", &controller),
                            ("key", &id.1),
                            ("reason", reason),
                            ("error", message),
                        ],
                    );
                }
            }
        }
        if state.under_way == 0 && state.failed {
            state.failed = false;
            state.due = true;
            let pause = PAUSE_MIN.saturating_mul(1 << state.attempts.min(14)).min(PAUSE_MAX);
            state.attempts = state.attempts.saturating_add(1);
            state.not_before = Some(now.mono + pause);
        } else if state.under_way == 0 {
            state.attempts = 0;
        }
        self.settle(&id);
    }

    // Puts a key that may have become free where its state says.
    fn settle(&mut self, id: &Id) {
        let Some(state) = self.keys.get(id) else { return };
        if let Some(at) = state.next_time() {
            self.timers.insert((at, id.clone()));
        }
        if state.idle() {
            self.keys.remove(id);
        } else if state.due && !state.busy() && state.not_before.is_none() {
            self.due.insert(id.clone());
        }
    }

    fn fire_timers(&mut self, now: Now) {
        while let Some((at, id)) = self.timers.first().cloned() {
            if at > now.mono {
                return;
            }
            self.timers.pop_first();
            let Some(state) = self.keys.get_mut(&id) else { continue };
            // A timer whose reason has changed meanwhile is stale.
            if state.next_time().is_none_or(|t| t > now.mono) {
                continue;
            }
            for object in std::mem::take(&mut state.unseen).into_keys() {
                if let Some(ids) = self.waiting_for.get_mut(&object) {
                    ids.remove(&id);
                }
            }
            state.not_before = None;
            state.requeue_at = None;
            state.due = true;
            self.due.insert(id);
        }
    }

    fn run(&mut self, id: Id, caches: &Caches, now: Now, out: &mut Outbox) {
        let Some(state) = self.keys.get_mut(&id) else { return };
        if state.busy() || !state.due {
            return;
        }
        let Some(controller) = self.controllers.get(id.0) else { return };
        state.due = false;
        state.not_before = None;
        let plan =
            controller.plan(&id.1, View { caches, index: &self.index, memory: &self.memory }, now);
        state.requeue_at = plan.requeue_after.map(|d| now.mono + d);
        state.under_way = plan.actions.len();
        let name = controller.name();
        let stamp = now.wall.rfc3339();
        for action in plan.actions {
            self.next_token += 1;
            let unique = format!("{:x}{:x}", now.wall.0, self.next_token);
            out.requests.push((self.next_token, action.request(name, &stamp, &unique)));
            self.under_way.insert(self.next_token, (id.clone(), name, action));
        }
        self.settle(&id);
    }
}

// Uids never come back, so an entry is never wrong; the bound only limits memory.
fn remember_gone(memory: &mut Memory, uid: &str) {
    if memory.gone.len() >= GONE_MAX {
        memory.gone.clear();
    }
    memory.gone.insert(uid.to_owned());
}

// Which object, and from which revision on, shows that an action was carried out.
fn written(action: &Action, object: &Value) -> Option<(Kind, Key, u64)> {
    let kind = match action {
        Action::Create(kind, _) | Action::Update(kind, _) => *kind,
        Action::Patch { kind, .. }
        | Action::UpdateSub { kind, .. }
        | Action::Delete { kind, .. }
        | Action::Confirm { kind, .. } => *kind,
        Action::DeleteCollection { .. } | Action::DeleteEvents { .. } | Action::Event { .. } => {
            return None;
        }
    };
    let (_, _, _, name) = kind.names();
    if object["kind"] != name {
        return None;
    }
    let revision = object["metadata"]["resourceVersion"].as_str()?.parse().ok()?;
    Some((kind, key_of(object), revision))
}

/// Every controller there is.
fn all(config: &Config) -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(deployment::Deployments),
        Box::new(replicaset::ReplicaSets),
        Box::new(job::Jobs),
        Box::new(job::LostPods),
        Box::new(endpointslice::EndpointSlices),
        Box::new(namespace::Namespaces),
        Box::new(namespace::Furnishings { root_ca_pem: config.root_ca_pem.clone() }),
        Box::new(garbage::Garbage),
        Box::new(node::Lifecycle),
        Box::new(node::Ranges {
            cluster_cidr: config.cluster_cidr.clone(),
            node_bits: config.node_cidr_bits,
        }),
        Box::new(node::LostPods),
    ]
}

impl Daemon for Manager {
    fn watches(&self) -> Vec<WatchSpec> {
        Kind::ALL.iter().map(|k| k.watch()).collect()
    }

    fn handle(&mut self, event: Event, caches: &Caches, now: Now, _out: &mut Outbox) {
        match event {
            Event::Synced => self.synced = true,
            Event::Changed { spec, key, old, new } => {
                let Some(kind) = Kind::of_spec(spec) else { return };
                let change = Change {
                    kind,
                    key: &key,
                    old: old.as_ref().map(|o| &*o.value),
                    new: new.as_ref().map(|o| &*o.value),
                };
                self.changed(&change, new.as_ref().map(|o| o.revision), caches, now);
            }
            Event::Reply { token, result } => self.answered(token, result, caches, now),
            Event::Connected | Event::Disconnected => {}
        }
    }

    fn turn(&mut self, caches: &Caches, now: Now, out: &mut Outbox) {
        if !self.synced {
            return;
        }
        self.fire_timers(now);
        for id in std::mem::take(&mut self.due) {
            self.run(id, caches, now, out);
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }
}
