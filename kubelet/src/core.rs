//! The kubelet as a daemon core: objects and results in, requests and jobs out.
//!
//! What is decided for one pod is in `pods`, what results change in `observe`. Invariant: at most one
//! [`Job::Pod`] of a pod is with the workers, and a pod's address belongs to exactly one sandbox.

use crate::env::Facts;
use crate::event::{About, Kind, Recorder};
use crate::ipam::Ipam;
use crate::limits;
use crate::node::{self, Machine, Node};
use crate::observe::Termination;
use crate::podfiles::DnsFacts;
use crate::refs::{self, RefKey, Refs};
use crate::spec::{Meta, Pod};
use crate::state::{PodState, Waiting, label};
use crate::volume::Layout;
use crate::work::Job;
use pintle_base::{Now, Time, Wall, log};
use pintle_client::{ApiError, Caches, Daemon, Event, Outbox, Token, WatchSpec};
use pintle_runtime::net;
use pintle_runtime::sandbox as rt;
use pintle_wire::msg::api::{Request, Verb};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What the shell says once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node.
    pub node: String,
    /// Its address.
    pub node_ip: Option<IpAddr>,
    /// Where things are kept.
    pub layout: Layout,
    /// Pod CIDR that does not come from the Node object.
    pub pod_cidr: Option<String>,
    /// Names.
    pub dns: DnsFacts,
    /// The machine.
    pub machine: Machine,
    /// Interface that pods are joined by.
    pub bridge: String,
    /// MTU of it and of the pods' interfaces, bytes.
    pub mtu: u32,
    /// Prefix length of the service range. The bridge carries the cluster DNS address with it, so that this
    /// machine has a route to service addresses (which rules then turn into endpoints) also without a
    /// default route.
    pub service_prefix: u8,
    /// Seed for event names.
    pub seed: u64,
}

const PODS: usize = 0;
const NODE: usize = 1;
pub(crate) const SERVICES: usize = 2;

/// What a request was for.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    Node(node::Purpose),
    Reference(RefKey),
    // Events of a watch of one object, until it ends.
    Watch(RefKey),
    // The pod's uid; whether the status said that the pod had ended and all of it was dead.
    Status(String, bool),
    Delete(String),
    Event(String),
}

/// The pod network of this node.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub cidr: String,
    pub ipam: Option<Ipam>,
    pub bridge_up: bool,
    pub asked: bool,
    pub retry_at: Option<Time>,
    // Address -> sandbox.
    pub owners: BTreeMap<IpAddr, String>,
}

/// One status patch of a pod under way.
#[derive(Debug, Default)]
pub(crate) struct StatusTrack {
    pub under_way: bool,
    pub revision: u64,
}

/// The core.
#[derive(Debug)]
pub struct Kubelet {
    pub(crate) config: Config,
    pub(crate) pods: BTreeMap<String, PodState>,
    pub(crate) tracks: BTreeMap<String, StatusTrack>,
    pub(crate) by_key: BTreeMap<String, String>,
    pub(crate) wakes: BTreeMap<String, Time>,
    pub(crate) refs: Refs,
    pub(crate) users: BTreeMap<RefKey, BTreeSet<String>>,
    // Watches of single objects under way, and those that are no longer wanted.
    watches: BTreeMap<RefKey, Token>,
    cancels: Vec<Token>,
    pub(crate) network: Network,
    pub(crate) node: Node,
    pub(crate) recorder: Recorder,
    pub(crate) jobs: Vec<Job>,
    pub(crate) purposes: BTreeMap<Token, Purpose>,
    next_token: Token,
    synced: bool,
    pub(crate) connected: bool,
    // Events made where no outbox is at hand.
    pub(crate) pending: Vec<(Purpose, Request)>,
}

impl Kubelet {
    /// A core that knows of no pod. Call [`Kubelet::adopt`] with what is on the node before the first turn.
    pub fn new(config: Config) -> Kubelet {
        let node = Node::new(&config.node, config.machine.clone(), config.node_ip);
        let recorder = Recorder::new(&config.node, config.seed);
        let mut kubelet = Kubelet {
            pods: BTreeMap::new(),
            tracks: BTreeMap::new(),
            by_key: BTreeMap::new(),
            wakes: BTreeMap::new(),
            refs: Refs::default(),
            users: BTreeMap::new(),
            watches: BTreeMap::new(),
            cancels: Vec::new(),
            network: Network::default(),
            node,
            recorder,
            jobs: vec![Job::Images],
            purposes: BTreeMap::new(),
            next_token: 1,
            synced: false,
            connected: false,
            pending: Vec::new(),
            config,
        };
        if let Some(cidr) = kubelet.config.pod_cidr.clone() {
            kubelet.set_pod_cidr(&cidr);
        }
        kubelet
    }

    /// Takes the jobs that are to be done.
    pub fn take_jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    /// Sandboxes (with their containers) that are on the node when the kubelet starts. `pods`: the last
    /// known objects of their pods, by uid. `message` reads a termination message.
    pub fn adopt(
        &mut self,
        sandboxes: &[rt::SandboxState],
        pods: &BTreeMap<String, Value>,
        message: &dyn Fn(&Termination) -> String,
        now: Now,
    ) {
        for found in sandboxes {
            self.adopt_one(found, pods, now);
        }
        // Pods that have ended keep a folder with their logs and no sandbox.
        for (uid, known) in pods {
            let pod = Pod::deserialize(known).unwrap_or_default();
            let s = self.pods.entry(uid.clone()).or_insert_with(|| PodState::new(pod));
            s.pod.metadata.uid = uid.clone();
            (s.wanted, s.cleaned) = (false, false);
        }
        for c in sandboxes.iter().flat_map(|s| &s.containers) {
            let Some(t) = self.termination_of(c) else { continue };
            let uid = c.labels.get(label::POD_UID).cloned().unwrap_or_default();
            let run = self.pods.get_mut(&uid).and_then(|s| s.run_mut(&c.id));
            if let Some(run) = run.filter(|r| r.exited()) {
                run.message = message(&t);
            }
        }
    }

    fn adopt_one(&mut self, found: &rt::SandboxState, pods: &BTreeMap<String, Value>, now: Now) {
        let Some((uid, sandbox)) = crate::container::sandbox_from(found, self.config.node_ip)
        else {
            log::warn("sandbox of no pod is left alone", &[("sandbox", &found.id)]);
            return;
        };
        let s = self.pods.entry(uid.clone()).or_insert_with(|| {
            let known = pods.get(&uid).and_then(|v| Pod::deserialize(v).ok());
            let mut s = PodState::new(known.unwrap_or_else(|| pod_of_labels(&found.labels)));
            // Until the API server says otherwise; decided when the caches are there.
            s.wanted = false;
            s
        });
        s.cleaned = false;
        s.sandbox_attempts = s.sandbox_attempts.max(sandbox.attempt + 1);
        for c in &found.containers {
            s.observe(&found.id, c, now);
        }
        if found.labels.contains_key(label::IP)
            && let Some(ip) = sandbox.ip
        {
            self.network.owners.insert(ip, sandbox.id.clone());
            if let Some(ipam) = &mut self.network.ipam {
                ipam.take(ip);
            }
        }
        match &s.sandbox {
            Some(newer) if newer.attempt > sandbox.attempt => {
                s.old_sandboxes.push(sandbox.id);
            }
            _ => {
                let older = s.sandbox.replace(sandbox);
                s.old_sandboxes.extend(older.map(|o| o.id));
            }
        }
    }

    /// Pods that the node keeps (for streams): uid of `namespace/name`.
    pub fn pod_by_key(&self, namespace: &str, name: &str) -> Option<&PodState> {
        let uid = self.by_key.get(&format!("{namespace}/{name}"))?;
        self.pods.get(uid)
    }

    /// A pod by uid.
    pub fn pod(&self, uid: &str) -> Option<&PodState> {
        self.pods.get(uid)
    }

    /// All pods, for `/pods` and `/stats`.
    pub fn all_pods(&self) -> impl Iterator<Item = &PodState> {
        self.pods.values()
    }

    /// The images on the node changed.
    pub fn images_changed(&mut self) {
        self.jobs.push(Job::Images);
        // Whoever waits for an image looks at once.
        for (uid, s) in &mut self.pods {
            let mut any = false;
            for w in s.waiting.values_mut().filter(|w| w.reason.contains("Image")) {
                w.retry_at = Time(0);
                any = true;
            }
            if any {
                s.dirty = true;
                self.wakes.insert(uid.clone(), Time(0));
            }
        }
    }

    /// Where things are kept.
    pub fn layout(&self) -> &Layout {
        &self.config.layout
    }

    /// The node is registered and its network is up.
    pub fn ready(&self) -> bool {
        self.synced && self.network.bridge_up
    }

    pub(crate) fn facts(&self, ip: Option<IpAddr>) -> Facts {
        Facts {
            pod_ip: ip,
            host_ip: self.config.node_ip,
            node_cpu_milli: self.config.machine.cpus * 1000,
            node_memory_bytes: self.config.machine.memory_bytes,
            node_storage_bytes: self.config.machine.disk_bytes,
        }
    }

    pub(crate) fn event(
        &mut self,
        about: &About,
        kind: Kind,
        reason: &str,
        message: &str,
        now: Now,
    ) {
        let request = self.recorder.record(about, kind, reason, message, now);
        self.pending.push((Purpose::Event(request.name.clone()), request));
    }

    fn set_pod_cidr(&mut self, cidr: &str) {
        if cidr.is_empty() || self.network.cidr == cidr {
            return;
        }
        match Ipam::new(cidr) {
            Ok(mut ipam) => {
                self.network.owners.keys().for_each(|ip| ipam.take(*ip));
                self.network.cidr = cidr.into();
                self.network.ipam = Some(ipam);
                self.network.asked = false;
                self.network.bridge_up = false;
            }
            Err(why) => log::error("pod network cannot be used", &[("reason", &why)]),
        }
    }

    fn network_turn(&mut self, now: Now) {
        let n = &mut self.network;
        let Some(ipam) = &n.ipam else { return };
        if n.bridge_up || n.asked || n.retry_at.is_some_and(|at| at > now.mono) {
            return;
        }
        n.asked = true;
        let mut addresses = vec![(ipam.gateway(), ipam.prefix())];
        if let Ok(dns) = self.config.dns.cluster_dns.parse::<IpAddr>() {
            addresses.push((dns, self.config.service_prefix));
        }
        let bridge =
            net::Bridge { name: self.config.bridge.clone(), addresses, mtu: self.config.mtu };
        self.jobs.push(Job::Network(bridge));
    }

    fn pod_changed(&mut self, key: &str, new: Option<&pintle_client::Object>, now: Now) {
        let Some(object) = new else {
            if let Some(uid) = self.by_key.remove(key) {
                self.pod_gone(&uid);
            }
            return;
        };
        let pod = match Pod::deserialize(&*object.value) {
            Ok(pod) => pod,
            Err(e) => {
                log::error("pod cannot be read", &[("pod", &key), ("error", &e)]);
                return;
            }
        };
        if let Err(why) = pod.check_names() {
            log::error("pod is refused", &[("pod", &key), ("reason", &why)]);
            return;
        }
        let uid = pod.metadata.uid.clone();
        if let Some(old) = self.by_key.insert(key.to_string(), uid.clone())
            && old != uid
        {
            self.pod_gone(&old);
        }
        let needs = refs::of_pod(&pod);
        for key in needs {
            self.refs.want(key.clone(), now.mono);
            self.users.entry(key).or_default().insert(uid.clone());
        }
        let track = self.tracks.entry(uid.clone()).or_default();
        let s = self.pods.entry(uid).or_insert_with(|| {
            let mut s = PodState::new(pod.clone());
            s.wanted = false;
            s
        });
        let newer_status = (object.revision < track.revision).then(|| s.pod.status.take());
        let spec_changed = s.pod.metadata.labels != pod.metadata.labels
            || s.pod.metadata.annotations != pod.metadata.annotations;
        s.pod = pod;
        let first = !std::mem::replace(&mut s.wanted, true);
        if let Some(status) = newer_status {
            s.pod.status = status;
        }
        // Labels and annotations may be in downwardAPI files.
        if spec_changed
            && s.pod.spec.volumes.iter().any(|v| v.downward_api.is_some() || v.projected.is_some())
        {
            s.volumes_ready = false;
        }
        if first {
            s.recall(now);
        }
        s.object = Some(object.value.clone());
        s.dirty = true;
        if s.start_time.is_none() {
            let known = s.pod.status["startTime"].as_str().and_then(Wall::parse_rfc3339);
            s.start_time = Some(known.unwrap_or(now.wall));
        }
    }

    fn pod_gone(&mut self, uid: &str) {
        if let Some(s) = self.pods.get_mut(uid) {
            s.wanted = false;
            s.dirty = true;
        }
    }

    pub(crate) fn forget_pod(&mut self, uid: &str) {
        if let Some(s) = self.pods.remove(uid) {
            let key = s.pod.key();
            if self.by_key.get(&key).is_some_and(|u| u == uid) {
                self.by_key.remove(&key);
            }
        }
        self.tracks.remove(uid);
        self.wakes.remove(uid);
        self.users.retain(|_, pods| {
            pods.remove(uid);
            !pods.is_empty()
        });
        let wanted = self.users.keys().cloned().collect();
        for key in self.refs.retain(&wanted, Time(0)) {
            if let Some(token) = self.watches.remove(&key) {
                self.purposes.remove(&token);
                self.cancels.push(token);
            }
        }
    }

    fn reply(&mut self, purpose: Purpose, result: Result<Value, ApiError>, now: Now) {
        match purpose {
            Purpose::Node(p) => {
                let result = match &result {
                    Ok(_) => Ok(()),
                    Err(ApiError::Status { code, message, .. }) => {
                        if *code != 409 && *code != 404 {
                            log::warn("node request was refused", &[("message", message)]);
                        }
                        Err(Some(*code))
                    }
                    Err(ApiError::Disconnected) => Err(None),
                };
                self.node.answered(p, result, now.mono);
            }
            Purpose::Reference(key) => {
                let result = match result {
                    Ok(v) => Ok(v),
                    Err(ApiError::Status { code: 404, .. }) => Err(refs::NOT_FOUND.to_string()),
                    Err(ApiError::Status { message, .. }) => Err(message),
                    Err(ApiError::Disconnected) => return self.refs.disconnected(),
                };
                self.reference_answered(&key, result, now);
            }
            Purpose::Watch(key) => self.watched(&key, result, now),
            Purpose::Status(uid, terminal) => self.status_answered(&uid, terminal, result),
            Purpose::Delete(uid) => {
                if let Some(s) = self.pods.get_mut(&uid)
                    && let Err(e) = result
                    && !matches!(e, ApiError::Status { code: 404 | 409, .. })
                {
                    log::warn(
                        "pod was not deleted",
                        &[("pod", &s.pod.key()), ("error", &text(&e))],
                    );
                    s.delete_sent = false;
                }
            }
            Purpose::Event(name) => {
                if let Err(ApiError::Status { code, message, .. }) = result {
                    self.recorder.forget(&name);
                    if code != 404 {
                        log::warn("event was not recorded", &[("message", &message)]);
                    }
                }
            }
        }
    }

    fn reference_answered(&mut self, key: &RefKey, result: Result<Value, String>, now: Now) {
        let (revision, settled) = match &result {
            Ok(v) => {
                let text = |field: &str| v["metadata"][field].as_str().map(String::from);
                (text("resourceVersion"), v["immutable"] == true)
            }
            Err(_) => (None, false),
        };
        // What is refused (and not merely absent) cannot be watched either: it is asked for again later.
        let watchable = match &result {
            Ok(_) => matches!(key, RefKey::ConfigMap(..) | RefKey::Secret(..)),
            Err(why) => {
                matches!(key, RefKey::ConfigMap(..) | RefKey::Secret(..)) && why == refs::NOT_FOUND
            }
        };
        self.reference_changed(key, result, now);
        if watchable && settled {
            self.refs.watching(key);
        } else if watchable && !self.watches.contains_key(key) {
            self.watch(key, revision);
        }
    }

    fn reference_changed(&mut self, key: &RefKey, result: Result<Value, String>, now: Now) {
        let changed = self.refs.answered(key, result, now);
        for uid in self.users.get(key).into_iter().flatten() {
            if let Some(s) = self.pods.get_mut(uid) {
                s.dirty = true;
                if !changed {
                    continue;
                }
                if refs::of_volumes(&s.pod).iter().any(|(k, _, _)| k == key) {
                    s.volumes_ready = false;
                    s.volume_retry.at = None;
                }
                // What was missing may be there: whoever waits for it looks at once.
                let missing = |w: &&mut Waiting| w.reason == crate::pods::CONFIG_ERROR;
                s.waiting.values_mut().filter(missing).for_each(|w| w.retry_at = Time(0));
            }
        }
    }

    /// Watches one object from what is known of it on.
    fn watch(&mut self, key: &RefKey, revision: Option<String>) {
        let (resource, namespace, name) = match key {
            RefKey::ConfigMap(namespace, name) => ("configmaps", namespace, name),
            RefKey::Secret(namespace, name) => ("secrets", namespace, name),
            RefKey::Claim(..) | RefKey::Volume(_) | RefKey::Token { .. } => return,
        };
        let mut r = Request::new(Verb::Watch, "", "v1", resource);
        (r.namespace, r.name) = (namespace.clone(), name.clone());
        r.options.resource_version = revision;
        self.refs.watching(key);
        self.pending.push((Purpose::Watch(key.clone()), r));
    }

    fn watched(&mut self, key: &RefKey, result: Result<Value, ApiError>, now: Now) {
        match result {
            Ok(mut event) => {
                let object = event["object"].take();
                let gone = event["type"] == "DELETED";
                let result = if gone { Err(refs::NOT_FOUND.to_string()) } else { Ok(object) };
                self.reference_changed(key, result, now);
                self.refs.watching(key);
            }
            Err(_) => {
                if let Some(token) = self.watches.remove(key) {
                    self.purposes.remove(&token);
                }
                self.refs.watch_ended(key, now.mono);
            }
        }
    }

    fn status_answered(&mut self, uid: &str, terminal: bool, result: Result<Value, ApiError>) {
        let Some(s) = self.pods.get_mut(uid) else { return };
        let track = self.tracks.entry(uid.to_string()).or_default();
        track.under_way = false;
        s.dirty = true;
        match result {
            Ok(mut object) => {
                let revision = object["metadata"]["resourceVersion"].as_str();
                track.revision = revision.and_then(|r| r.parse().ok()).unwrap_or(track.revision);
                s.pod.status = object["status"].take();
                s.terminal_reported |= terminal;
            }
            Err(ApiError::Status { code: 404, .. }) => {}
            Err(e) => {
                log::warn(
                    "pod status was not taken",
                    &[("pod", &s.pod.key()), ("error", &text(&e))],
                );
            }
        }
    }

    pub(crate) fn send(&mut self, purpose: Purpose, request: Request, out: &mut Outbox) {
        let token = self.next_token;
        self.next_token += 1;
        if let Purpose::Watch(key) = &purpose {
            self.watches.insert(key.clone(), token);
        }
        self.purposes.insert(token, purpose);
        out.requests.push((token, request));
    }

    fn ask_references(&mut self, now: Now, out: &mut Outbox) {
        for key in self.refs.take_due(now.mono) {
            if let Some(request) = self.reference_request(&key) {
                self.send(Purpose::Reference(key), request, out);
            }
        }
    }

    fn reference_request(&self, key: &RefKey) -> Option<Request> {
        let get = |resource: &str, namespace: &str, name: &str| {
            let mut r = Request::new(Verb::Get, "", "v1", resource);
            (r.namespace, r.name) = (namespace.into(), name.into());
            r
        };
        Some(match key {
            RefKey::ConfigMap(namespace, name) => get("configmaps", namespace, name),
            RefKey::Secret(namespace, name) => get("secrets", namespace, name),
            RefKey::Claim(namespace, name) => get("persistentvolumeclaims", namespace, name),
            RefKey::Volume(name) => get("persistentvolumes", "", name),
            RefKey::Token { uid, audience, seconds } => {
                let pod = &self.pods.get(uid)?.pod;
                let account = match pod.spec.service_account_name.as_str() {
                    "" => "default",
                    name => name,
                };
                let mut r = Request::new(Verb::Create, "", "v1", "serviceaccounts");
                r.namespace = pod.metadata.namespace.clone();
                r.name = account.into();
                r.subresource = "token".into();
                let audiences: Vec<&String> =
                    Some(audience).filter(|a| !a.is_empty()).into_iter().collect();
                r.body = crate::event::body(&json!({
                    "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                    "spec": {"audiences": audiences, "expirationSeconds": seconds,
                        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod",
                            "name": pod.metadata.name, "uid": uid}},
                }));
                r
            }
        })
    }
}

fn text(e: &ApiError) -> String {
    match e {
        ApiError::Status { message, .. } => message.clone(),
        ApiError::Disconnected => "no connection to the API server".into(),
    }
}

fn pod_of_labels(labels: &BTreeMap<String, String>) -> Pod {
    let text = |key: &str| labels.get(key).cloned().unwrap_or_default();
    Pod {
        metadata: Meta {
            name: text(label::POD_NAME),
            namespace: text(label::POD_NAMESPACE),
            uid: text(label::POD_UID),
            ..Meta::default()
        },
        ..Pod::default()
    }
}

impl Daemon for Kubelet {
    fn watches(&self) -> Vec<WatchSpec> {
        let spec = |resource, field_selector: String| WatchSpec {
            group: "",
            version: "v1",
            resource,
            namespace: String::new(),
            label_selector: String::new(),
            field_selector,
        };
        vec![
            spec("pods", format!("spec.nodeName={}", self.config.node)),
            spec("nodes", format!("metadata.name={}", self.config.node)),
            spec("services", String::new()),
        ]
    }

    fn handle(&mut self, event: Event, _caches: &Caches, now: Now, _out: &mut Outbox) {
        match event {
            Event::Synced => {
                self.synced = true;
                for s in self.pods.values_mut() {
                    s.dirty = true;
                }
            }
            Event::Changed { spec: PODS, key, new, .. } => {
                self.pod_changed(&key, new.as_ref(), now)
            }
            Event::Changed { spec: NODE, new, .. } => {
                if let Some(node) = new
                    && self.config.pod_cidr.is_none()
                {
                    self.set_pod_cidr(node.value["spec"]["podCIDR"].as_str().unwrap_or_default());
                }
            }
            Event::Changed { .. } => {}
            Event::Reply { token, result } => {
                let purpose = match self.purposes.get(&token) {
                    Some(watch @ Purpose::Watch(_)) => Some(watch.clone()),
                    _ => self.purposes.remove(&token),
                };
                if let Some(purpose) = purpose {
                    self.reply(purpose, result, now);
                }
            }
            Event::Disconnected => {
                self.connected = false;
                self.node.disconnected();
                self.refs.disconnected();
                for track in self.tracks.values_mut() {
                    track.under_way = false;
                }
            }
            Event::Connected => {
                self.connected = true;
                for s in self.pods.values_mut() {
                    s.dirty = true;
                    s.delete_sent = false;
                }
            }
        }
    }

    fn turn(&mut self, caches: &Caches, now: Now, out: &mut Outbox) {
        if !self.synced {
            return;
        }
        self.network_turn(now);
        let due: Vec<String> = self
            .pods
            .iter()
            .filter(|(uid, s)| s.dirty || self.wakes.get(*uid).is_some_and(|at| *at <= now.mono))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in due {
            self.work(&uid, caches, now, out);
        }
        out.cancels.append(&mut self.cancels);
        if self.connected {
            self.ask_references(now, out);
            let node = caches.get(NODE, &self.config.node).map(|o| o.value.clone());
            for (purpose, request) in self.node.turn(node.as_deref(), now) {
                self.send(Purpose::Node(purpose), request, out);
            }
            for (purpose, request) in std::mem::take(&mut self.pending) {
                self.send(purpose, request, out);
            }
        }
        self.pending.truncate(limits::EVENTS_REMEMBERED_MAX);
    }

    fn poll_timeout(&self) -> Option<Time> {
        if !self.synced {
            return None;
        }
        let connected = self.connected.then(|| [self.refs.next_due(), self.node.poll_timeout()]);
        let others = connected.into_iter().flatten().flatten();
        let network =
            self.network.retry_at.filter(|_| !self.network.bridge_up && !self.network.asked);
        self.wakes.values().copied().chain(others).chain(network).min()
    }
}
