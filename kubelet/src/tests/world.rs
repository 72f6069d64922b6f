//! A fake node and API server around the core. Jobs are done when [`World::settle`] is called; it also holds
//! the law that a settled world wants nothing more.

use crate::core::{Config, Kubelet};
use crate::node::Machine;
use crate::podfiles::DnsFacts;
use crate::state::label;
use crate::volume::Layout;
use crate::work::{Check, Done, Job, Outcome, StartResult, Step, StepResult, Ticket};
use pintle_base::{Now, Time, Wall};
use pintle_client::{ApiError, Caches, Daemon, Event, Outbox, Token};
use pintle_runtime::sandbox as rt;
use pintle_wire::msg::api::{Request, Verb};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const START_NS: i64 = 1_790_000_000_000_000_000;

/// The fake.
pub struct World {
    pub kubelet: Kubelet,
    pub caches: Caches,
    pub now: Now,
    pub images: BTreeSet<String>,
    /// Objects other than pods: `configmaps/ns/name`.
    pub objects: BTreeMap<String, Value>,
    pub sandboxes: BTreeMap<String, rt::SandboxState>,
    /// `name: reason: message` of events, in order.
    pub events: Vec<String>,
    /// What was done, in words.
    pub log: Vec<String>,
    /// `source on destination` of all mounts of started containers.
    pub mounted: Vec<String>,
    /// Containers whose start fails.
    pub broken: BTreeSet<String>,
    /// Containers that ignore SIGTERM.
    pub stubborn: BTreeSet<String>,
    /// Checks that wait for an answer.
    pub checks: Vec<(Ticket, Check)>,
    /// Jobs that were taken and are not done, by pod: never two.
    pub hold_jobs: bool,
    pub held: Vec<Job>,
    revision: u64,
    watches: BTreeMap<String, Token>,
}

impl World {
    /// A node with a pod network and the image `img`.
    pub fn new() -> World {
        let mut w = World {
            kubelet: Kubelet::new(config()),
            caches: Caches::new(3),
            now: Now { mono: Time(1_000_000_000_000), wall: Wall(START_NS) },
            images: BTreeSet::from(["img".to_string()]),
            objects: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            events: Vec::new(),
            log: Vec::new(),
            mounted: Vec::new(),
            broken: BTreeSet::new(),
            stubborn: BTreeSet::new(),
            checks: Vec::new(),
            hold_jobs: false,
            held: Vec::new(),
            revision: 1,
            watches: BTreeMap::new(),
        };
        w.connect();
        w
    }

    fn connect(&mut self) {
        (0..3).for_each(|spec| self.caches.set_listed(spec));
        self.feed(Event::Connected);
        self.feed(Event::Synced);
        self.settle();
    }

    fn feed(&mut self, event: Event) {
        let mut out = Outbox::default();
        self.kubelet.handle(event, &self.caches, self.now, &mut out);
        assert!(out.requests.is_empty());
    }

    /// The kubelet dies and a new one starts on the same node.
    pub fn restart_kubelet(&mut self) {
        self.kubelet = Kubelet::new(config());
        self.watches.clear();
        let found: Vec<rt::SandboxState> = self.sandboxes.values().cloned().collect();
        self.kubelet.adopt(&found, &BTreeMap::new(), &|_| String::new(), self.now);
        self.feed(Event::Connected);
        let pods: Vec<(String, pintle_client::Object)> =
            self.caches.list(0).map(|(k, o)| (k.clone(), o.clone())).collect();
        for (key, new) in pods {
            self.feed(Event::Changed { spec: 0, key, old: None, new: Some(new) });
        }
        self.feed(Event::Synced);
        self.settle();
    }

    /// Puts a pod (or its new form) into the API server.
    pub fn apply(&mut self, name: &str, spec: Value) {
        let pod = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
            "spec": spec, "status": {"phase": "Pending"}});
        self.put(pod);
        self.settle();
    }

    fn put(&mut self, mut pod: Value) -> Value {
        self.revision += 1;
        pod["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let (key, old) = self.caches.put(0, pod.clone());
        let new = self.caches.get(0, &key).cloned();
        self.feed(Event::Changed { spec: 0, key, old, new });
        pod
    }

    /// Somebody deletes a pod with this grace.
    pub fn delete(&mut self, name: &str, grace_seconds: i64) {
        let mut pod = self.pod(name);
        pod["metadata"]["deletionTimestamp"] = json!(self.now.wall.rfc3339());
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace_seconds);
        self.put(pod);
        self.settle();
    }

    /// The pod vanishes from the API server at once.
    pub fn vanish(&mut self, name: &str) {
        let key = format!("ns/{name}");
        let old = self.caches.remove(0, &key);
        self.feed(Event::Changed { spec: 0, key, old, new: None });
        self.settle();
    }

    /// The pod at the API server; null when it is gone.
    pub fn pod(&self, name: &str) -> Value {
        self.caches.get(0, &format!("ns/{name}")).map_or(Value::Null, |o| (*o.value).clone())
    }

    /// Its status.
    pub fn status(&self, name: &str) -> Value {
        self.pod(name)["status"].clone()
    }

    /// Whether a condition is true.
    pub fn condition(&self, name: &str, kind: &str) -> bool {
        let status = self.status(name);
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == kind && c["status"] == "True")
    }

    /// The container's state of one word: `running`, `exit 3`, `waiting CrashLoopBackOff`, ...
    pub fn state(&self, pod: &str, container: &str) -> String {
        let status = self.status(pod);
        let lists = ["initContainerStatuses", "containerStatuses"];
        let all = lists.iter().filter_map(|l| status[l].as_array()).flatten();
        let Some(c) = all.into_iter().find(|c| c["name"] == container) else {
            return "none".into();
        };
        let s = &c["state"];
        if s["running"].is_object() {
            "running".into()
        } else if s["terminated"].is_object() {
            format!("exit {}", s["terminated"]["exitCode"])
        } else {
            format!("waiting {}", s["waiting"]["reason"].as_str().unwrap_or_default())
        }
    }

    /// Restart count.
    pub fn restarts(&self, pod: &str) -> i64 {
        self.status(pod)["containerStatuses"][0]["restartCount"].as_i64().unwrap_or(-1)
    }

    /// Names of the containers that run.
    pub fn running(&self) -> Vec<String> {
        let all = self.sandboxes.values().flat_map(|s| &s.containers);
        let running = all.filter(|c| c.status == rt::ContainerStatus::Running);
        running.map(|c| c.labels[label::CONTAINER_NAME].clone()).collect()
    }

    /// The last run of a container ends.
    pub fn exit(&mut self, container: &str, code: i32) {
        self.end(container, code, 0);
        self.settle();
    }

    fn end(&mut self, container: &str, code: i32, signal: i32) {
        let now = self.now;
        let found = self.sandboxes.iter_mut().find_map(|(id, s)| {
            let c = s.containers.iter_mut().find(|c| {
                c.labels[label::CONTAINER_NAME] == container
                    && c.status == rt::ContainerStatus::Running
            })?;
            c.status = rt::ContainerStatus::Exited { code, signal, oom_killed: false };
            c.finished_ns = now.wall.0;
            Some((id.clone(), c.clone()))
        });
        let (sandbox, state) = found.expect("a running container of this name");
        self.log.push(format!("{container} ends {code}"));
        self.kubelet.container_exited(&sandbox, &state, format!("said {code}"), now);
    }

    /// The shim of a pod dies, and all in its sandbox with it.
    pub fn lose_sandbox(&mut self, pod: &str) {
        let found = self.sandboxes.values_mut().find(|s| s.labels[label::POD_NAME] == pod);
        let s = found.expect("a sandbox");
        s.shim_pid = 0;
        for c in &mut s.containers {
            c.status = rt::ContainerStatus::Exited { code: 137, signal: 9, oom_killed: false };
        }
        let id = s.id.clone();
        self.kubelet.sandbox_lost(&id, self.now);
        self.settle();
    }

    /// Answers the oldest open check of this kind of ticket.
    pub fn answer(&mut self, what: crate::work::What, success: bool) {
        let i = self.checks.iter().position(|(t, _)| t.what == what).expect("an open check");
        let (ticket, _) = self.checks.remove(i);
        let outcome = Outcome { success, message: "said so".into() };
        self.kubelet.done(Done::Check { ticket, outcome }, self.now);
        self.settle();
    }

    /// Lets time pass, stopping wherever the core wants to be called.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        for _ in 0..100_000 {
            let next = self.kubelet.poll_timeout().unwrap_or(end).clamp(self.now.mono, end);
            let step = (next - self.now.mono).max(Duration::from_millis(1));
            self.now = Now { mono: self.now.mono + step, wall: self.now.wall + step };
            self.settle();
            if self.now.mono >= end {
                return;
            }
        }
        panic!("the core wants to be called all the time");
    }

    /// Runs until nothing is left to do at this time.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            let mut out = Outbox::default();
            self.kubelet.turn(&self.caches, self.now, &mut out);
            self.watches.retain(|_, token| !out.cancels.contains(token));
            let mut jobs = self.kubelet.take_jobs();
            if self.hold_jobs {
                self.held.append(&mut jobs);
            }
            if out.requests.is_empty() && jobs.is_empty() {
                return;
            }
            for (token, request) in out.requests {
                if request.verb == Verb::Watch {
                    let key =
                        format!("{}/{}/{}", request.resource, request.namespace, request.name);
                    assert_eq!(self.watches.insert(key, token), None, "one watch an object");
                    continue;
                }
                let result = self.serve(&request);
                self.feed(Event::Reply { token, result });
            }
            for job in jobs {
                self.carry_out(job);
            }
        }
        panic!("the core never settles: {:?}", self.log);
    }

    /// Does the jobs that were held back.
    pub fn release(&mut self) {
        self.hold_jobs = false;
        for job in std::mem::take(&mut self.held) {
            self.carry_out(job);
        }
        self.settle();
    }

    fn serve(&mut self, r: &Request) -> Result<Value, ApiError> {
        let body: Value = serde_json::from_slice(&r.body).unwrap_or_default();
        let missing = || ApiError::Status {
            code: 404,
            reason: "NotFound".into(),
            message: format!("{} {:?} not found", r.resource, r.name),
        };
        match (r.resource.as_str(), r.verb) {
            ("pods", Verb::Patch) => {
                let mut pod = self.pod(&r.name);
                if pod.is_null() || pod["metadata"]["uid"] != body["metadata"]["uid"] {
                    return Err(missing());
                }
                merge_status(&mut pod["status"], &body["status"]);
                Ok(self.put(pod))
            }
            ("pods", Verb::Delete) => {
                assert_eq!(r.options.grace_period_s, Some(0));
                self.log.push(format!("delete {}", r.name));
                self.vanish_quietly(&r.name);
                Ok(Value::Null)
            }
            ("events", Verb::Create) => {
                let field = |f: &str| body[f].as_str().unwrap_or_default().to_string();
                let name = body["involvedObject"]["name"].as_str().unwrap_or_default();
                self.events.push(format!("{name}: {}: {}", field("reason"), field("message")));
                Ok(body)
            }
            ("events" | "nodes" | "leases", _) => Ok(Value::Null),
            ("serviceaccounts", _) => Ok(json!({"status": {"token": "t"}})),
            (resource, Verb::Get) => {
                let key = format!("{resource}/{}/{}", r.namespace, r.name);
                self.objects.get(&key).cloned().ok_or_else(missing)
            }
            other => panic!("unexpected request {other:?}"),
        }
    }

    /// A ConfigMap or Secret (`configmaps/ns/name`) is made, changed or (null) deleted.
    pub fn put_object(&mut self, key: &str, value: Value) {
        let kind = if value.is_null() { "DELETED" } else { "MODIFIED" };
        if value.is_null() {
            self.objects.remove(key);
        } else {
            self.objects.insert(key.into(), value.clone());
        }
        if let Some(token) = self.watches.get(key).copied() {
            let result = Ok(json!({"type": kind, "object": value}));
            self.feed(Event::Reply { token, result });
        }
        self.settle();
    }

    /// All watches of single objects end.
    pub fn end_watches(&mut self) {
        for (_, token) in std::mem::take(&mut self.watches) {
            self.feed(Event::Reply { token, result: Err(ApiError::Disconnected) });
        }
        self.settle();
    }

    /// Single objects that are watched.
    pub fn watched(&self) -> usize {
        self.watches.len()
    }

    fn vanish_quietly(&mut self, name: &str) {
        let key = format!("ns/{name}");
        let old = self.caches.remove(0, &key);
        self.feed(Event::Changed { spec: 0, key, old, new: None });
    }

    fn carry_out(&mut self, job: Job) {
        let done = match job {
            Job::Pod { uid, steps } => {
                let results = steps.into_iter().map(|s| self.step(&uid, s)).collect();
                Done::Pod { uid, results }
            }
            Job::Signal { run, signal, .. } => {
                let name = self.name_of(&run);
                self.log.push(format!("signal {signal} to {name}"));
                if (signal == 9 || !self.stubborn.contains(&name)) && self.running().contains(&name)
                {
                    self.end(&name, 128 + signal, signal);
                }
                return;
            }
            Job::Check { ticket, check, .. } => {
                self.checks.push((ticket, check));
                return;
            }
            Job::Network(_) => Done::Network(Ok(())),
            Job::Images => Done::Images(Vec::new()),
        };
        self.kubelet.done(done, self.now);
    }

    fn name_of(&self, run: &str) -> String {
        let mut all = self.sandboxes.values().flat_map(|s| &s.containers);
        all.find(|c| c.id == run)
            .map(|c| c.labels[label::CONTAINER_NAME].clone())
            .unwrap_or_default()
    }

    fn step(&mut self, uid: &str, step: Step) -> StepResult {
        match step {
            Step::RemoveSandbox { id } => {
                self.log.push(format!("remove {id}"));
                self.sandboxes.remove(&id);
                StepResult::SandboxRemoved { id, result: Ok(()) }
            }
            Step::Sandbox { config, port } => {
                if let Some(port) = &port {
                    let ip = port.address.0.to_string();
                    let owners =
                        self.sandboxes.values().filter(|s| s.labels.get(label::IP) == Some(&ip));
                    assert_eq!(owners.count(), 0, "{ip} belongs to a sandbox already");
                }
                let id = config.id.clone();
                assert!(!self.sandboxes.contains_key(&id), "{id} is there already");
                self.log.push(format!("sandbox {id}"));
                let state = rt::SandboxState {
                    id: id.clone(),
                    shim_pid: 1,
                    netns: "/netns".into(),
                    labels: config.labels.clone(),
                    containers: Vec::new(),
                    created_ns: self.now.wall.0,
                };
                self.sandboxes.insert(id.clone(), state.clone());
                StepResult::Sandbox { id, result: Ok(Box::new(state)) }
            }
            Step::Volumes { .. } => {
                self.log.push(format!("volumes {uid}"));
                StepResult::Volumes(Ok(()))
            }
            Step::Start(spec) => {
                let (name, attempt) = (spec.name.clone(), spec.attempt);
                StepResult::Started { name, attempt, result: self.start(*spec) }
            }
            Step::RemoveRun { sandbox, run, .. } => {
                if let Some(s) = self.sandboxes.get_mut(&sandbox) {
                    s.containers.retain(|c| c.id != run);
                }
                StepResult::RunRemoved { run }
            }
            Step::CleanUp { .. } => {
                self.log.push(format!("clean {uid}"));
                StepResult::CleanedUp(Ok(()))
            }
        }
    }

    fn start(&mut self, spec: crate::container::StartSpec) -> StartResult {
        if !self.images.contains(&spec.config.image) {
            return StartResult::NoImage(format!("image {:?} is not here", spec.config.image));
        }
        let s = self.sandboxes.get_mut(&spec.sandbox).expect("the sandbox of a start is there");
        assert_ne!(s.shim_pid, 0, "nothing starts in a dead sandbox");
        assert!(!s.containers.iter().any(|c| c.id == spec.config.id), "a run starts once");
        let mount = |m: &crate::volume::MountPlan| {
            format!("{} on {}", m.source.display(), m.destination.display())
        };
        self.mounted.extend(spec.mounts.iter().map(mount));
        let broken = self.broken.contains(&spec.name);
        let status =
            if broken { rt::ContainerStatus::Created } else { rt::ContainerStatus::Running };
        let state = rt::ContainerState {
            id: spec.config.id,
            pid: 7,
            status,
            created_ns: self.now.wall.0,
            started_ns: self.now.wall.0,
            finished_ns: 0,
            image_id: "sha256:1".into(),
            labels: spec.config.labels,
        };
        s.containers.push(state.clone());
        self.log.push(format!("start {}", spec.name));
        if broken {
            StartResult::NotStarted(Box::new(state), "no such file".into())
        } else {
            StartResult::Running(Box::new(state))
        }
    }
}

fn merge_status(status: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten() {
        if key == "conditions" {
            let mut old = status[key].as_array().cloned().unwrap_or_default();
            for c in value.as_array().into_iter().flatten() {
                old.retain(|o| o["type"] != c["type"]);
                let mut c = c.clone();
                if let Some(c) = c.as_object_mut() {
                    c.retain(|_, v| !v.is_null());
                }
                old.push(c);
            }
            status[key] = Value::Array(old);
            continue;
        }
        let mut value = value.clone();
        if let Some(list) = value.as_array_mut() {
            list.retain(|v| v["$patch"].is_null());
        }
        status[key] = value;
    }
    if let Some(status) = status.as_object_mut() {
        status.retain(|_, v| !v.is_null());
    }
}

fn config() -> Config {
    Config {
        node: "n".into(),
        node_ip: "10.0.0.1".parse().ok(),
        layout: Layout { pods: "/p".into(), secrets: "/s".into(), seccomp: "/c".into() },
        pod_cidr: Some("10.244.0.0/24".into()),
        dns: DnsFacts::default(),
        machine: Machine { cpus: 2, memory_bytes: 1 << 30, ..Machine::default() },
        bridge: "b".into(),
        mtu: 1500,
        service_prefix: 16,
        seed: 1,
    }
}
