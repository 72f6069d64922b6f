//! Which node a pod runs on, and why not on the others.
//!
//! [`Scheduler`] is a pure [`Daemon`]: pods and nodes in, bindings, events and conditions out. It keeps node sums
//! in a flat array (`node`), decides one pod at a time in order of priority and age (`decide`), and counts a pod
//! on its node from the moment of the decision, before the API server has confirmed it.
//!
//! Not here: sockets, clocks, preemption, volumes and inter-pod rules (a later milestone).

mod decide;
mod node;
mod pod;
mod resources;

pub use decide::{Decision, decide, refusals};
pub use node::{Node, Nodes};
pub use pod::Pod;
pub use resources::Resources;

use pintle_base::{Now, Time};
use pintle_client::{ApiError, Caches, Daemon, Event, Outbox, Token, WatchSpec};
use pintle_wire::msg::api::{PatchType, Request, Verb};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

const PODS: usize = 0;
const NODES: usize = 1;
const NAME: &str = "default-scheduler";

/// First pause after a failed binding, and the longest (upstream's podInitialBackoff and podMaxBackoff).
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Order of the queue: highest priority first, then who has waited longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    priority: std::cmp::Reverse<i64>,
    arrival: u64,
}

#[derive(Debug)]
struct Waiting {
    pod: Pod,
    rank: Rank,
    attempts: u32,
    state: WaitingState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitingState {
    /// To be tried at the next turn.
    Active,
    /// Nothing fits; tried again when something changes that could help.
    Unschedulable,
    /// A binding failed; tried again at this time.
    Paused(Time),
}

#[derive(Debug)]
struct Placed {
    pod: Pod,
    node: String,
    /// The API server has not confirmed the binding yet.
    assumed: bool,
}

/// The scheduler's core.
#[derive(Debug, Default)]
pub struct Scheduler {
    nodes: Nodes,
    placed: HashMap<String, Placed>,
    waiting: BTreeMap<String, Waiting>,
    bindings: HashMap<Token, String>,
    next_token: Token,
    arrivals: u64,
    synced: bool,
}

impl Scheduler {
    /// A scheduler that knows nothing yet.
    pub fn new() -> Scheduler {
        Scheduler::default()
    }

    /// Pods that wait for a node.
    pub fn pending(&self) -> usize {
        self.waiting.len()
    }

    fn pod_changed(&mut self, key: &str, object: Option<&Value>) {
        let pod = object.map(Pod::read);
        match pod {
            Some(p) if p.terminal => self.forget(key),
            Some(p) if !p.node.is_empty() => self.place(key, p),
            Some(p) if p.scheduler == NAME && !p.deleting && !p.gated => self.enqueue(key, p),
            Some(_) | None => self.forget(key),
        }
    }

    fn place(&mut self, key: &str, pod: Pod) {
        self.waiting.remove(key);
        if let Some(before) = self.placed.remove(key) {
            self.nodes.remove_pod(&before.pod, &before.node);
            if before.pod.requests != pod.requests || before.node != pod.node {
                self.something_freed();
            }
        }
        let node = pod.node.clone();
        self.nodes.add_pod(&pod, &node);
        self.placed.insert(key.to_owned(), Placed { pod, node, assumed: false });
    }

    fn enqueue(&mut self, key: &str, pod: Pod) {
        match self.placed.get(key) {
            // The same pod, bound by us, and this is news from before the binding.
            Some(p) if p.assumed && p.pod.uid == pod.uid => return,
            Some(_) => self.forget(key),
            None => {}
        }
        match self.waiting.get_mut(key) {
            Some(w) => {
                let changed =
                    w.pod.requests != pod.requests || w.pod.tolerations != pod.tolerations;
                if changed && w.state == WaitingState::Unschedulable {
                    w.state = WaitingState::Active;
                }
                w.pod = pod;
            }
            None => {
                self.arrivals += 1;
                let rank =
                    Rank { priority: std::cmp::Reverse(pod.priority), arrival: self.arrivals };
                let state = WaitingState::Active;
                self.waiting.insert(key.to_owned(), Waiting { pod, rank, attempts: 0, state });
            }
        }
    }

    fn forget(&mut self, key: &str) {
        self.waiting.remove(key);
        if let Some(before) = self.placed.remove(key) {
            self.nodes.remove_pod(&before.pod, &before.node);
            self.something_freed();
        }
    }

    fn something_freed(&mut self) {
        for w in self.waiting.values_mut() {
            if w.state == WaitingState::Unschedulable {
                w.state = WaitingState::Active;
            }
        }
    }

    fn binding_answered(&mut self, key: &str, result: Result<Value, ApiError>, now: Now) {
        let Err(error) = result else { return };
        let gone = matches!(&error, ApiError::Status { reason, .. } if reason == "NotFound" || reason == "Conflict");
        match self.placed.get(key) {
            Some(p) if p.assumed => {}
            // Confirmed by the watch meanwhile, or deleted: the answer is old news.
            Some(_) | None => return,
        }
        let Some(before) = self.placed.remove(key) else { return };
        self.nodes.remove_pod(&before.pod, &before.node);
        if !gone {
            self.enqueue(key, before.pod);
            if let Some(w) = self.waiting.get_mut(key) {
                w.attempts += 1;
                let pause = PAUSE_MIN.saturating_mul(1 << w.attempts.min(4)).min(PAUSE_MAX);
                w.state = WaitingState::Paused(now.mono + pause);
            }
        }
        self.something_freed();
    }

    fn bind(&mut self, pod: &Pod, node: &str, now: Now, out: &mut Outbox) {
        let token = self.token();
        self.bindings.insert(token, pod.key());
        let mut r = Request::new(Verb::Create, "", "v1", "pods");
        r.subresource = "binding".into();
        r.namespace.clone_from(&pod.namespace);
        r.name.clone_from(&pod.name);
        r.body = body(&json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }));
        out.requests.push((token, r));
        let text = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
        self.event(pod, "Normal", "Scheduled", &text, now, out);
    }

    fn explain(&mut self, pod: &Pod, message: &str, now: Now, out: &mut Outbox) {
        self.event(pod, "Warning", "FailedScheduling", message, now, out);
        let token = self.token();
        let mut r = Request::new(Verb::Patch, "", "v1", "pods");
        r.subresource = "status".into();
        r.namespace.clone_from(&pod.namespace);
        r.name.clone_from(&pod.name);
        r.patch_type = Some(PatchType::Strategic);
        r.body = body(&json!({"status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null, "lastTransitionTime": now.wall.rfc3339(),
        }]}}));
        out.requests.push((token, r));
    }

    fn event(
        &mut self,
        pod: &Pod,
        kind: &str,
        reason: &str,
        message: &str,
        now: Now,
        out: &mut Outbox,
    ) {
        let token = self.token();
        let mut r = Request::new(Verb::Create, "", "v1", "events");
        r.namespace.clone_from(&pod.namespace);
        let time = now.wall.rfc3339();
        r.body = body(&json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {
                "name": format!("{}.{:x}{token:x}", pod.name, now.wall.0), "namespace": pod.namespace,
            },
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "name": pod.name, "namespace": pod.namespace, "uid": pod.uid,
            },
            "reason": reason, "message": message, "type": kind, "source": {"component": NAME},
            "reportingComponent": NAME, "reportingInstance": "",
            "firstTimestamp": time, "lastTimestamp": time, "count": 1,
        }));
        out.requests.push((token, r));
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        self.next_token
    }
}

impl Daemon for Scheduler {
    fn watches(&self) -> Vec<WatchSpec> {
        let spec = |resource, field_selector: &str| WatchSpec {
            group: "",
            version: "v1",
            resource,
            namespace: String::new(),
            label_selector: String::new(),
            field_selector: field_selector.to_owned(),
        };
        vec![spec("pods", "status.phase!=Succeeded,status.phase!=Failed"), spec("nodes", "")]
    }

    fn handle(&mut self, event: Event, _caches: &Caches, now: Now, _out: &mut Outbox) {
        match event {
            Event::Synced => self.synced = true,
            Event::Changed { spec: PODS, key, new, .. } => {
                self.pod_changed(&key, new.as_ref().map(|o| &*o.value));
            }
            Event::Changed { spec: NODES, key, new, .. } => {
                let could_help = match &new {
                    Some(object) => self.nodes.set(&object.value),
                    None => {
                        self.nodes.remove(&key);
                        true
                    }
                };
                if could_help {
                    self.something_freed();
                }
            }
            Event::Changed { .. } => {}
            Event::Reply { token, result } => {
                if let Some(key) = self.bindings.remove(&token) {
                    self.binding_answered(&key, result, now);
                }
            }
            Event::Connected | Event::Disconnected => {}
        }
    }

    fn turn(&mut self, _caches: &Caches, now: Now, out: &mut Outbox) {
        if !self.synced {
            return;
        }
        let mut due: Vec<(Rank, String)> = Vec::new();
        for (key, w) in &mut self.waiting {
            match w.state {
                WaitingState::Active => due.push((w.rank, key.clone())),
                WaitingState::Paused(until) if now.mono >= until => due.push((w.rank, key.clone())),
                WaitingState::Paused(_) | WaitingState::Unschedulable => {}
            }
        }
        due.sort();
        for (_, key) in due {
            let Some(mut w) = self.waiting.remove(&key) else { continue };
            match decide(&w.pod, &self.nodes) {
                Decision::Node(node) => {
                    self.bind(&w.pod, &node, now, out);
                    self.nodes.add_pod(&w.pod, &node);
                    self.placed.insert(key, Placed { pod: w.pod, node, assumed: true });
                }
                Decision::Nowhere(message) => {
                    if w.pod.unschedulable_message != message {
                        self.explain(&w.pod, &message, now, out);
                        w.pod.unschedulable_message = message;
                    }
                    w.state = WaitingState::Unschedulable;
                    self.waiting.insert(key, w);
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.waiting
            .values()
            .filter_map(|w| match w.state {
                WaitingState::Paused(until) => Some(until),
                WaitingState::Active | WaitingState::Unschedulable => None,
            })
            .min()
    }
}

fn body(v: &Value) -> std::sync::Arc<[u8]> {
    v.to_string().into_bytes().into()
}

#[cfg(test)]
mod tests;
