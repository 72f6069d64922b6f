//! The user: makes, changes and deletes objects as the seed says, and remembers what was promised to her.

use crate::oracle::Shared;
use pintle_base::{Now, Prng, Time};
use pintle_client::requests::{
    CONFIG_MAPS, DEPLOYMENTS, JOBS, NAMESPACES, PODS, Resource, SERVICES, at_revision,
};
use pintle_client::{Caches, Daemon, Event, Outbox, Token, WatchSpec};
use pintle_wire::msg::api::Request;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

const WATCHED: &[(&str, &str)] = &[
    ("", "namespaces"),
    ("", "configmaps"),
    ("", "services"),
    ("", "pods"),
    ("apps", "deployments"),
    ("batch", "jobs"),
];
const NAMESPACE: usize = 0;
const CONFIG_MAP: usize = 1;
const POD: usize = 3;
const DEPLOYMENT: usize = 4;
const JOB: usize = 5;

/// A counter in a ConfigMap that only the user writes.
struct Promise {
    key: String,
    uid: String,
    n: u64,
}

/// The daemon.
pub struct User {
    prng: Prng,
    oracle: Shared,
    /// The workload has ended: only what is left open is closed.
    finish: Rc<Cell<bool>>,
    synced: bool,
    next_token: Token,
    next_op: Time,
    promises: BTreeMap<Token, Promise>,
    closing: BTreeMap<Token, String>,
    look_again: Option<Time>,
    serial: u64,
    /// Longest pause between two operations.
    pause_ms: u64,
    /// Failing pods and low back-off limits are drawn too.
    wild: bool,
}

impl User {
    /// A user with habits drawn from the seed.
    pub fn new(seed: u64, wild: bool, finish: &Rc<Cell<bool>>, oracle: &Shared) -> User {
        let mut prng = Prng::new(seed);
        let pause_ms = 200 + prng.below(3_000);
        User {
            prng,
            oracle: oracle.clone(),
            finish: finish.clone(),
            synced: false,
            next_token: 1,
            next_op: Time(0),
            promises: BTreeMap::new(),
            closing: BTreeMap::new(),
            look_again: None,
            serial: 0,
            pause_ms,
            wild,
        }
    }

    fn send(&mut self, what: &str, request: Request, now: Now, out: &mut Outbox) -> Token {
        self.next_token += 1;
        let text = format!("user: {what} {}/{}", request.namespace, request.name);
        self.oracle.borrow_mut().note(now, &text);
        out.send(self.next_token, request);
        self.next_token
    }

    fn operate(&mut self, caches: &Caches, now: Now, out: &mut Outbox) {
        let ns = ["default", "a", "b"][self.prng.below(3) as usize];
        match self.prng.below(24) {
            0..=5 => self.create_deployment(ns, now, out),
            6..=10 => self.change_deployment(caches, now, out),
            11..=13 => self.create_job(ns, now, out),
            14 => self.change_job(caches, now, out),
            15 | 16 => self.create_service(ns, now, out),
            17 => self.delete(caches, now, out),
            18 => self.delete_pod(caches, now, out),
            19 => {
                let spaces = ["a", "b"];
                let name = spaces[self.prng.below(2) as usize];
                let object =
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
                self.send("create namespace", NAMESPACES.create("", &object), now, out);
            }
            20 if self.prng.chance(1, 3) => {
                let name = if self.prng.chance(1, 2) { "a" } else { "b" };
                if caches.get(NAMESPACE, name).is_some() {
                    self.send("delete namespace", NAMESPACES.delete("", name, None), now, out);
                }
            }
            _ => self.count(ns, caches, now, out),
        }
    }

    fn template(&mut self, app: &str) -> Value {
        let version = self.prng.below(3);
        json!({
            "metadata": {"labels": {"app": app}},
            "spec": {
                "terminationGracePeriodSeconds": 5,
                "containers": [{
                    "name": "c", "image": format!("i:v{version}"),
                    "ports": [{"name": "http", "containerPort": 8000 + version}],
                    "resources": {"requests": {"cpu": "50m"}},
                }],
            },
        })
    }

    fn create_deployment(&mut self, ns: &str, now: Now, out: &mut Outbox) {
        let name = format!("d{}", self.prng.below(3));
        let template = self.template(&name);
        let p = &mut self.prng;
        let strategy = match p.below(5) {
            0 => json!({"type": "Recreate"}),
            1 => {
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})
            }
            2 => {
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "100%", "maxUnavailable": 0}})
            }
            3 => {
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
            }
            _ => json!({"type": "RollingUpdate"}),
        };
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": ns},
            "spec": {
                "replicas": p.below(6), "selector": {"matchLabels": {"app": name}},
                "strategy": strategy, "template": template, "minReadySeconds": p.below(3),
                "revisionHistoryLimit": p.below(4),
            },
        });
        self.send(&format!("create deployment {name}"), DEPLOYMENTS.create(ns, &object), now, out);
    }

    fn change_deployment(&mut self, caches: &Caches, now: Now, out: &mut Outbox) {
        let Some((ns, name)) = self.any(caches, DEPLOYMENT) else { return };
        let (what, patch) = match self.prng.below(6) {
            0 | 1 => ("scale", json!({"spec": {"replicas": self.prng.below(8)}})),
            2 | 3 => ("roll out", json!({"spec": {"template": self.template(&name)}})),
            4 => ("pause", json!({"spec": {"paused": true}})),
            _ => ("resume", json!({"spec": {"paused": false}})),
        };
        let request = DEPLOYMENTS.merge_patch(&ns, &name, &patch);
        self.send(&format!("{what} deployment {}", patch["spec"]["replicas"]), request, now, out);
    }

    fn create_job(&mut self, ns: &str, now: Now, out: &mut Outbox) {
        self.serial += 1;
        let p = &mut self.prng;
        let name = format!("j{}-{}", p.below(3), self.serial);
        let mut spec = json!({
            "backoffLimit": if self.wild { p.below(3) } else { 6 },
            "parallelism": 1 + p.below(4), "completions": 1 + p.below(6),
            "template": {"spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 3,
                "containers": [{"name": "c", "image": "i:v0"}],
            }},
        });
        if p.chance(1, 3) {
            spec["completionMode"] = json!("Indexed");
        }
        if p.chance(1, 4) {
            spec["suspend"] = json!(true);
        }
        if p.chance(1, 4) {
            spec["ttlSecondsAfterFinished"] = json!(p.below(20));
        }
        let object = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": ns},
            "spec": spec,
        });
        self.send(&format!("create job {name}"), JOBS.create(ns, &object), now, out);
    }

    fn change_job(&mut self, caches: &Caches, now: Now, out: &mut Outbox) {
        let Some((ns, name)) = self.any(caches, JOB) else { return };
        let patch = match self.prng.below(3) {
            0 => json!({"spec": {"suspend": true}}),
            1 => json!({"spec": {"suspend": false}}),
            _ => json!({"spec": {"parallelism": 1 + self.prng.below(4)}}),
        };
        let what = format!("change job {}", patch["spec"]);
        self.send(&what, JOBS.merge_patch(&ns, &name, &patch), now, out);
    }

    fn create_service(&mut self, ns: &str, now: Now, out: &mut Outbox) {
        let name = format!("s{}", self.prng.below(3));
        let port = if self.prng.chance(1, 2) { json!("http") } else { json!(8000) };
        let mut object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": ns},
            "spec": {
                "selector": {"app": format!("d{}", self.prng.below(3))},
                "ports": [{"port": 80, "targetPort": port}],
            },
        });
        match self.prng.below(4) {
            0 => object["spec"]["type"] = json!("NodePort"),
            1 => object["spec"]["clusterIP"] = json!("None"),
            _ => {}
        }
        self.send(&format!("create service {name}"), SERVICES.create(ns, &object), now, out);
    }

    fn delete(&mut self, caches: &Caches, now: Now, out: &mut Outbox) {
        let kinds: [(usize, Resource); 3] = [(DEPLOYMENT, DEPLOYMENTS), (JOB, JOBS), (2, SERVICES)];
        let (spec, resource) = kinds[self.prng.below(3) as usize];
        let Some((ns, name)) = self.any(caches, spec).filter(|(_, n)| n != "kubernetes") else {
            return;
        };
        let mut request = resource.delete(&ns, &name, None);
        let policy = ["Background", "Foreground", "Orphan"][self.prng.below(3) as usize];
        request.options.propagation_policy = Some(policy.to_owned());
        self.send(&format!("delete {} {policy}", resource.resource), request, now, out);
    }

    fn delete_pod(&mut self, caches: &Caches, now: Now, out: &mut Outbox) {
        if let Some((ns, name)) = self.any(caches, POD).filter(|_| self.wild) {
            self.send("delete pod", PODS.delete(&ns, &name, None), now, out);
        }
    }

    fn any(&mut self, caches: &Caches, spec: usize) -> Option<(String, String)> {
        let keys: Vec<String> = caches.list(spec).map(|(k, _)| k.clone()).collect();
        let key = keys.get(self.prng.below(keys.len() as u64) as usize)?;
        key.split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned()))
    }

    // Counts up a ConfigMap that nobody else writes: what was acknowledged must stay.
    fn count(&mut self, ns: &str, caches: &Caches, now: Now, out: &mut Outbox) {
        let name = format!("c{}", self.prng.below(2));
        let key = format!("{ns}/{name}");
        match caches.get(CONFIG_MAP, &key) {
            None => {
                let object = json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "data": {"n": "0"},
                    "metadata": {"name": name, "namespace": ns},
                });
                self.send(
                    &format!("create configmap {name}"),
                    CONFIG_MAPS.create(ns, &object),
                    now,
                    out,
                );
            }
            Some(o) => {
                let n =
                    o.value["data"]["n"].as_str().and_then(|s| s.parse().ok()).unwrap_or(0u64) + 1;
                let uid = crate::oracle::uid(&o.value).to_owned();
                let patch = at_revision(json!({"data": {"n": n.to_string()}}), o.revision);
                let request = CONFIG_MAPS.merge_patch(ns, &name, &patch);
                let token = self.send(&format!("count {n}"), request, now, out);
                self.promises.insert(token, Promise { key, uid, n });
            }
        }
    }

    // After the end nothing stays paused or suspended.
    fn close(&mut self, caches: &Caches, now: Now, out: &mut Outbox) {
        let kinds = [(DEPLOYMENT, DEPLOYMENTS, "paused"), (JOB, JOBS, "suspend")];
        for (spec, resource, field) in kinds {
            let keys: Vec<String> = caches
                .list(spec)
                .filter(|(_, o)| o.value["spec"][field] == true)
                .filter(|(_, o)| o.value["metadata"]["deletionTimestamp"].is_null())
                .map(|(k, _)| k.clone())
                .collect();
            for key in keys {
                let about = format!("{spec}/{key}");
                if self.closing.values().any(|a| *a == about) {
                    continue;
                }
                let (ns, name) = key.split_once('/').unwrap_or_default();
                let patch = json!({"spec": {field: false}});
                let request = resource.merge_patch(ns, name, &patch);
                let token = self.send(&format!("unset {field}"), request, now, out);
                self.closing.insert(token, about);
            }
        }
    }

    // What was acknowledged has been published: it must be there, or what came after it.
    fn keep(&mut self, promise: &Promise) {
        let mut oracle = self.oracle.borrow_mut();
        let found = oracle
            .objects
            .get(&format!("/registry/core/configmaps/{}", promise.key))
            .map(|o| o.value.clone());
        let Some(found) = found.filter(|v| crate::oracle::uid(v) == promise.uid) else { return };
        let n = found["data"]["n"].as_str().and_then(|s| s.parse().ok()).unwrap_or(0u64);
        if n < promise.n {
            oracle.violated(format!(
                "{} was acknowledged with {} and holds {n}",
                promise.key, promise.n
            ));
        }
    }
}

impl Daemon for User {
    fn watches(&self) -> Vec<WatchSpec> {
        let spec = |(group, resource): &(&'static str, &'static str)| WatchSpec {
            group,
            version: "v1",
            resource,
            namespace: String::new(),
            label_selector: String::new(),
            field_selector: String::new(),
        };
        WATCHED.iter().map(spec).collect()
    }

    fn handle(&mut self, event: Event, _caches: &Caches, now: Now, _out: &mut Outbox) {
        match event {
            Event::Synced => {
                self.synced = true;
                self.next_op = now.mono;
            }
            Event::Reply { token, result } => {
                let promise = self.promises.remove(&token);
                if self.closing.remove(&token).is_some() {
                    self.look_again = Some(now.mono + Duration::from_millis(500));
                }
                match (result, promise) {
                    (Ok(_), Some(promise)) => self.keep(&promise),
                    (Ok(_), None) => {}
                    (Err(e), _) => {
                        self.oracle.borrow_mut().note(now, &format!("user: {token} {e}"))
                    }
                }
            }
            Event::Changed { spec: CONFIG_MAP, old: Some(old), new: Some(new), key } => {
                let n = |v: &Value| v["data"]["n"].as_str().and_then(|s| s.parse::<u64>().ok());
                let same = crate::oracle::uid(&old.value) == crate::oracle::uid(&new.value);
                if same && n(&new.value) < n(&old.value) {
                    let what = format!("{key} counted back from {:?}", n(&old.value));
                    self.oracle.borrow_mut().violated(what);
                }
            }
            Event::Changed { .. } | Event::Connected | Event::Disconnected => {}
        }
    }

    fn turn(&mut self, caches: &Caches, now: Now, out: &mut Outbox) {
        if !self.synced {
            return;
        }
        if self.finish.get() {
            if self.look_again.is_none_or(|at| at <= now.mono) {
                self.look_again = None;
                self.close(caches, now, out);
            }
        } else if self.next_op <= now.mono {
            self.operate(caches, now, out);
            self.next_op = now.mono + Duration::from_millis(self.prng.below(self.pause_ms));
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        let next = if self.finish.get() { self.look_again } else { Some(self.next_op) };
        next.filter(|_| self.synced)
    }
}
