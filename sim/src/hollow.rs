//! A kubelet without containers: it registers a node, renews its lease, takes pods through their lives after
//! random delays and lets some of them fail. What runs "on the machine" outlives the process.

use pintle_base::{Now, Prng, Time};
use pintle_client::requests::{LEASES, NODES, PODS};
use pintle_client::{ApiError, Caches, Daemon, Event, Outbox, Token, WatchSpec};
use pintle_wire::msg::api::{PatchType, Request};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

const LEASE_RENEW: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_millis(500);

/// The machine: what a restart of the kubelet does not touch.
#[derive(Default)]
pub struct Machine {
    runs: BTreeMap<String, Run>,
}

/// A pod that runs on the machine.
struct Run {
    ip: String,
    ready_at: Time,
    /// It ends by itself then, well or not.
    ends: Option<(Time, bool)>,
    kill_at: Option<Time>,
    restarts: u64,
    /// Once more not ready, from the first time to the second.
    limp: Option<(Time, Time)>,
    /// Wall time as text of: start, last change of readiness.
    started: String,
    turned: (bool, String),
    finished: Option<String>,
    /// How it ended; that never changes.
    over: Option<&'static str>,
}

/// The daemon.
pub struct Hollow {
    name: String,
    address: String,
    machine: Rc<RefCell<Machine>>,
    /// Nothing fails any more.
    calm: Rc<Cell<bool>>,
    prng: Prng,
    synced: bool,
    next_token: Token,
    /// Requests under way, by what they are about.
    under_way: BTreeMap<Token, String>,
    busy: BTreeSet<String>,
    lease_due: Time,
    lease_missing: bool,
    beat_due: Time,
    retry_at: BTreeMap<String, Time>,
    wake_at: Option<Time>,
    now: Time,
}

impl Hollow {
    /// A kubelet of the node with this number.
    pub fn new(
        number: usize,
        machine: &Rc<RefCell<Machine>>,
        calm: &Rc<Cell<bool>>,
        seed: u64,
    ) -> Hollow {
        Hollow {
            name: format!("n{number}"),
            address: format!("192.168.0.{}", number + 1),
            machine: machine.clone(),
            calm: calm.clone(),
            prng: Prng::new(seed),
            synced: false,
            next_token: 1,
            under_way: BTreeMap::new(),
            busy: BTreeSet::new(),
            lease_due: Time(0),
            lease_missing: false,
            beat_due: Time(0),
            retry_at: BTreeMap::new(),
            wake_at: None,
            now: Time(0),
        }
    }

    fn send(&mut self, about: &str, request: Request, now: Now, out: &mut Outbox) {
        if self.busy.contains(about) {
            return;
        }
        if let Some(at) = self.retry_at.get(about).copied().filter(|at| *at > now.mono) {
            self.wake(at);
            return;
        }
        self.next_token += 1;
        self.under_way.insert(self.next_token, about.to_owned());
        self.busy.insert(about.to_owned());
        out.send(self.next_token, request);
    }

    // What is due already waits for an answer, which is an event of its own.
    fn wake(&mut self, at: Time) {
        if at <= self.now {
            return;
        }
        self.wake_at = Some(self.wake_at.map_or(at, |t| t.min(at)));
    }

    fn node(&mut self, node: Option<&Value>, now: Now, out: &mut Outbox) {
        let time = now.wall.rfc3339();
        let condition = |since: &Value| {
            json!({"conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready",
                "lastHeartbeatTime": time,
                "lastTransitionTime": if since.is_null() { json!(time) } else { since.clone() },
            }]})
        };
        let Some(node) = node else {
            let mut status = condition(&Value::Null);
            status["allocatable"] = json!({"cpu": "8", "memory": "32Gi", "pods": "110"});
            status["capacity"] = status["allocatable"].clone();
            status["addresses"] = json!([{"type": "InternalIP", "address": self.address}]);
            let object = json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name},
                "spec": {}, "status": status,
            });
            self.send("node", NODES.create("", &object), now, out);
            return;
        };
        let conditions = node["status"]["conditions"].as_array();
        let old = conditions.into_iter().flatten().find(|c| c["type"] == "Ready");
        let good = old.is_some_and(|c| c["status"] == "True");
        if !good || self.beat_due <= now.mono {
            let since =
                old.filter(|_| good).map_or(Value::Null, |c| c["lastTransitionTime"].clone());
            let patch = json!({"status": condition(&since)});
            if !self.busy.contains("status") {
                self.beat_due = now.mono + HEARTBEAT;
            }
            self.send("status", NODES.strategic_patch("", &self.name, "status", &patch), now, out);
        }
        self.wake(self.beat_due);
        if self.lease_due <= now.mono && !self.busy.contains("lease") {
            self.lease_due = now.mono + LEASE_RENEW;
            let spec = json!({
                "holderIdentity": self.name, "leaseDurationSeconds": 40,
                "renewTime": now.wall.rfc3339_micro(),
            });
            let space = "kube-node-lease";
            let request = if self.lease_missing {
                let object = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": self.name, "namespace": space}, "spec": spec,
                });
                LEASES.create(space, &object)
            } else {
                LEASES.merge_patch(space, &self.name, &json!({"spec": spec}))
            };
            self.send("lease", request, now, out);
        }
        self.wake(self.lease_due);
    }

    // An address of the node's range that no run has.
    fn address(&self, range: &str) -> Option<String> {
        let base = range.split_once('/')?.0.rsplit_once('.')?.0.to_owned();
        let machine = self.machine.borrow();
        let used: BTreeSet<&str> = machine.runs.values().map(|r| r.ip.as_str()).collect();
        (2..250).map(|i| format!("{base}.{i}")).find(|ip| !used.contains(ip.as_str()))
    }

    fn start(&mut self, pod: &Value, range: &str, now: Now) {
        let Some(ip) = self.address(range) else { return };
        let ms =
            |p: &mut Prng, from: u64, to: u64| Duration::from_millis(from + p.below(to - from));
        let p = &mut self.prng;
        let ready_at = now.mono + ms(p, 100, 3_000);
        let trouble = !self.calm.get();
        let always = pod["spec"]["restartPolicy"].as_str().unwrap_or("Always") == "Always";
        let ends = if always {
            // Now and then a pod is evicted.
            (trouble && p.chance(1, 25)).then(|| (ready_at + ms(p, 500, 30_000), false))
        } else {
            Some((ready_at + ms(p, 500, 12_000), !p.chance(1, if trouble { 6 } else { 30 })))
        };
        let limp = (always && trouble && p.chance(1, 8)).then(|| {
            let from = ready_at + ms(p, 500, 20_000);
            (from, from + ms(p, 500, 15_000))
        });
        let text = now.wall.rfc3339();
        let run = Run {
            ip,
            ready_at,
            ends,
            kill_at: None,
            restarts: 0,
            limp,
            turned: (false, text.clone()),
            started: text,
            finished: None,
            over: None,
        };
        self.machine.borrow_mut().runs.insert(uid_of(pod), run);
    }

    fn pod(&mut self, key: &str, pod: &Value, range: Option<&str>, now: Now, out: &mut Outbox) {
        let uid = uid_of(pod);
        let over = crate::oracle::terminal(pod);
        let deleting = !pod["metadata"]["deletionTimestamp"].is_null();
        let runs = self.machine.borrow().runs.contains_key(&uid);
        if let Some(range) = range
            && !(runs || over || deleting)
        {
            self.start(pod, range, now);
        }
        let machine = self.machine.clone();
        let mut machine = machine.borrow_mut();
        let calm = self.calm.get();
        if deleting {
            let stopped = match machine.runs.get_mut(&uid).filter(|_| !over) {
                Some(run) => {
                    let pause = Duration::from_millis(self.prng.below(3_000));
                    let at = *run.kill_at.get_or_insert(now.mono + pause);
                    self.wake(at);
                    at <= now.mono
                }
                None => true,
            };
            if stopped && (over || !machine.runs.contains_key(&uid)) {
                machine.runs.remove(&uid);
                let (ns, name) = key.split_once('/').unwrap_or_default();
                let mut request = PODS.delete(ns, name, Some(&uid));
                request.options.grace_period_s = Some(0);
                self.send(&format!("delete {uid}"), request, now, out);
                return;
            }
        } else if over {
            machine.runs.remove(&uid);
            return;
        }
        let Some(run) = machine.runs.get_mut(&uid) else { return };
        if calm {
            run.limp = run.limp.map(|(a, b)| (a, b.min(now.mono)));
        }
        let killed = run.kill_at.is_some_and(|t| t <= now.mono);
        let ended = run.ends.filter(|(t, _)| *t <= now.mono);
        let limping = run.limp.is_some_and(|(a, b)| a <= now.mono && now.mono < b);
        let ready = run.ready_at <= now.mono && !limping && ended.is_none() && !killed;
        if run.limp.is_some_and(|(_, b)| b <= now.mono) {
            run.limp = None;
            run.restarts += 1;
        }
        if run.turned.0 != ready {
            run.turned = (ready, now.wall.rfc3339());
        }
        let times = [
            (!killed).then_some(run.kill_at).flatten(),
            run.ends.filter(|_| ended.is_none()).map(|(t, _)| t),
            Some(run.ready_at).filter(|t| *t > now.mono),
            run.limp.map(|(a, b)| if a > now.mono { a } else { b }),
        ];
        let phase = match (run.over, ended, killed) {
            (Some(phase), ..) => phase,
            (None, Some((_, true)), _) => "Succeeded",
            (None, Some((_, false)), _) | (None, None, true) => "Failed",
            (None, None, false) if run.ready_at <= now.mono => "Running",
            (None, None, false) => "Pending",
        };
        run.over = Some(phase).filter(|p| matches!(*p, "Succeeded" | "Failed"));
        if (ended.is_some() || killed) && run.finished.is_none() {
            run.finished = Some(now.wall.rfc3339());
        }
        let status = status_of(run, phase, ready, &self.address);
        let request = difference(pod, &status).then(|| {
            let (ns, name) = key.split_once('/').unwrap_or_default();
            let patch = json!({"metadata": {"uid": uid}, "status": status});
            PODS.patch(PatchType::Strategic, ns, name, "status", &patch)
        });
        drop(machine);
        for at in times.into_iter().flatten() {
            self.wake(at);
        }
        if let Some(request) = request {
            self.send(&format!("status {uid}"), request, now, out);
        }
    }
}

fn uid_of(pod: &Value) -> String {
    pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn status_of(run: &Run, phase: &str, ready: bool, host: &str) -> Value {
    let text = if ready { "True" } else { "False" };
    let state = match (phase, &run.finished) {
        ("Succeeded" | "Failed", Some(at)) => json!({"terminated": {
            "exitCode": i32::from(phase == "Failed"), "startedAt": run.started, "finishedAt": at,
            "reason": if phase == "Failed" { "Error" } else { "Completed" },
        }}),
        ("Pending", _) => json!({"waiting": {"reason": "ContainerCreating"}}),
        _ => json!({"running": {"startedAt": run.started}}),
    };
    let condition =
        |kind: &str| json!({"type": kind, "status": text, "lastTransitionTime": run.turned.1});
    let mut status = json!({
        "phase": phase, "hostIP": host, "startTime": run.started,
        "conditions": [condition("Ready"), condition("ContainersReady")],
        "containerStatuses": [{
            "name": "c", "ready": ready, "restartCount": run.restarts, "image": "i", "imageID": "",
            "state": state,
        }],
    });
    if phase != "Pending" {
        status["podIP"] = json!(run.ip);
        status["podIPs"] = json!([{"ip": run.ip}]);
    }
    status
}

// What the API server shows is not what is.
fn difference(pod: &Value, wanted: &Value) -> bool {
    let have = &pod["status"];
    let ready = |s: &Value| {
        let list = s["conditions"].as_array();
        let c = list.into_iter().flatten().find(|c| c["type"] == "Ready");
        c.map(|c| c["status"].clone())
    };
    let state = |s: &Value| {
        let c = &s["containerStatuses"][0];
        (c["restartCount"].clone(), c["state"].as_object().and_then(|m| m.keys().next().cloned()))
    };
    have["phase"] != wanted["phase"]
        || have["podIP"] != wanted["podIP"]
        || ready(have) != ready(wanted)
        || state(have) != state(wanted)
}

impl Daemon for Hollow {
    fn watches(&self) -> Vec<WatchSpec> {
        let spec = |resource, field_selector| WatchSpec {
            group: "",
            version: "v1",
            resource,
            namespace: String::new(),
            label_selector: String::new(),
            field_selector,
        };
        vec![
            spec("pods", format!("spec.nodeName={}", self.name)),
            spec("nodes", format!("metadata.name={}", self.name)),
        ]
    }

    fn handle(&mut self, event: Event, _caches: &Caches, now: Now, _out: &mut Outbox) {
        match event {
            Event::Synced => self.synced = true,
            Event::Reply { token, result } => {
                let Some(about) = self.under_way.remove(&token) else { return };
                self.busy.remove(&about);
                match result {
                    Ok(_) => {
                        self.retry_at.remove(&about);
                        if about == "lease" {
                            self.lease_missing = false;
                        }
                    }
                    Err(error) => {
                        if about == "lease" {
                            self.lease_missing = error.is("NotFound");
                            self.lease_due = now.mono + RETRY;
                        }
                        if about == "status" {
                            self.beat_due = now.mono + RETRY;
                        }
                        // What Kubernetes refuses for good is still worth another try: the cache may lag.
                        let _: ApiError = error;
                        self.retry_at.insert(about, now.mono + RETRY);
                    }
                }
            }
            Event::Changed { .. } | Event::Connected | Event::Disconnected => {}
        }
    }

    fn turn(&mut self, caches: &Caches, now: Now, out: &mut Outbox) {
        self.wake_at = None;
        self.now = now.mono;
        if !self.synced {
            return;
        }
        let node = caches.list(1).next().map(|(_, o)| o.value.clone());
        self.node(node.as_deref(), now, out);
        let range = node.as_ref().and_then(|n| n["spec"]["podCIDR"].as_str());
        let pods: Vec<(String, std::sync::Arc<Value>)> =
            caches.list(0).map(|(k, o)| (k.clone(), o.value.clone())).collect();
        let mut here = BTreeSet::new();
        for (key, pod) in &pods {
            here.insert(uid_of(pod));
            self.pod(key, pod, range, now, out);
        }
        // Whose object is gone is stopped; its address is free at once.
        self.machine.borrow_mut().runs.retain(|uid, _| here.contains(uid));
        self.retry_at.retain(|_, at| *at > now.mono);
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.wake_at
    }
}
