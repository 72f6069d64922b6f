//! An API server in memory, for tests of plans: it applies actions to a view at once and completely.

use crate::Kind;
use crate::manager::Controller;
use crate::plan::{Action, Plan, key_of, split};
use crate::view::{Memory, OwnerIndex, View};
use pintle_base::{Now, Time, Wall};
use pintle_client::{Caches, Key};
use serde_json::{Value, json};
use std::time::Duration;

/// Everything that controllers see, and the time.
pub struct Cluster {
    pub caches: Caches,
    pub index: OwnerIndex,
    pub memory: Memory,
    pub now: Now,
    revision: u64,
    serial: u64,
}

/// JSON merge patch (RFC 7386).
pub fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (k, v) in fields {
        if v.is_null() {
            if let Some(map) = target.as_object_mut() {
                map.remove(k);
            }
        } else {
            merge(&mut target[k.as_str()], v);
        }
    }
}

impl Cluster {
    pub fn new() -> Cluster {
        let wall = Wall::parse_rfc3339("2026-11-23T09:00:00Z").expect("a time");
        Cluster {
            caches: Caches::new(Kind::ALL.len()),
            index: OwnerIndex::default(),
            memory: Memory::default(),
            now: Now { mono: Time(1_000_000_000_000), wall },
            revision: 0,
            serial: 0,
        }
    }

    pub fn pass(&mut self, s: u64) {
        self.now.mono += Duration::from_secs(s);
        self.now.wall = self.now.wall + Duration::from_secs(s);
    }

    pub fn view(&self) -> View<'_> {
        View { caches: &self.caches, index: &self.index, memory: &self.memory }
    }

    /// Stores an object; what a server sets is set. Gives its key.
    pub fn put(&mut self, kind: Kind, mut object: Value) -> Key {
        self.revision += 1;
        self.serial += 1;
        let (_, _, _, name) = kind.names();
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(name);
        let serial = self.serial;
        let stamp = self.now.wall.rfc3339();
        let meta = &mut object["metadata"];
        if meta["name"].is_null() {
            let base = meta["generateName"].as_str().unwrap_or("x-").to_owned();
            meta["name"] = json!(format!("{base}{serial:05}"));
        }
        let defaults = [
            ("uid", json!(format!("uid-{serial}"))),
            ("creationTimestamp", json!(stamp)),
            ("generation", json!(1)),
        ];
        for (field, value) in defaults {
            if meta[field].is_null() {
                meta[field] = value;
            }
        }
        meta["resourceVersion"] = json!(self.revision.to_string());
        let (key, old) = self.caches.put(kind.spec(), object);
        let new = self.caches.get(kind.spec(), &key).map(|o| o.value.clone());
        self.index.update(kind, &key, old.as_ref().map(|o| &*o.value), new.as_deref());
        key
    }

    pub fn get(&self, kind: Kind, key: &str) -> &Value {
        self.view().get(kind, key).unwrap_or(&Value::Null)
    }

    pub fn list(&self, kind: Kind) -> Vec<&Value> {
        self.view().list(kind).collect()
    }

    /// Changes an object as a user or a kubelet would.
    pub fn patch(&mut self, kind: Kind, key: &str, patch: &Value) {
        let mut object = self.get(kind, key).clone();
        assert!(!object.is_null(), "{kind:?} {key} does not exist");
        let before = object["spec"].clone();
        merge(&mut object, patch);
        if object["spec"] != before {
            object["metadata"]["generation"] =
                json!(object["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        let deleting = !object["metadata"]["deletionTimestamp"].is_null();
        let held = object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if deleting && !held && kind != Kind::Pod {
            self.remove(kind, key);
        } else {
            self.put(kind, object);
        }
    }

    pub fn remove(&mut self, kind: Kind, key: &str) {
        if let Some(old) = self.caches.remove(kind.spec(), key) {
            self.index.update(kind, key, Some(&old.value), None);
        }
    }

    fn guarded(&self, kind: Kind, key: &str, metadata: &Value) -> bool {
        let meta = &self.get(kind, key)["metadata"];
        ["uid", "resourceVersion"]
            .iter()
            .all(|f| metadata[*f].is_null() || metadata[*f] == meta[*f])
    }

    /// Carries an action out; false = the server would refuse it.
    pub fn apply(&mut self, action: &Action) -> bool {
        match action {
            Action::Create(kind, object) => {
                let exists = object["metadata"]["name"].is_string()
                    && !self.get(*kind, &key_of(object)).is_null();
                if !exists {
                    self.put(*kind, object.clone());
                }
                !exists
            }
            Action::Update(kind, object) => {
                self.put(*kind, object.clone());
                true
            }
            Action::UpdateSub { kind, key, object, .. } => {
                let held = object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
                if *kind == Kind::Namespace && !held {
                    self.remove(*kind, key);
                } else {
                    self.put(*kind, object.clone());
                }
                true
            }
            Action::Patch { kind, key, patch, .. } => {
                let allowed = self.guarded(*kind, key, &patch["metadata"]);
                if allowed && !self.get(*kind, key).is_null() {
                    let mut patch = patch.clone();
                    if let Some(Value::Object(meta)) = patch.get_mut("metadata") {
                        meta.retain(|f, _| f != "uid" && f != "resourceVersion");
                    }
                    self.patch(*kind, key, &patch);
                }
                allowed
            }
            Action::Delete { kind, key, uid, policy, grace_s, .. } => {
                self.delete(*kind, key, uid, policy, *grace_s == Some(0));
                true
            }
            Action::Confirm { kind, key, uid, remember } => {
                let found = self.get(*kind, key);
                let gone = found.is_null() || !uid.is_empty() && found["metadata"]["uid"] != *uid;
                if gone {
                    self.memory.gone.insert(remember.clone());
                }
                true
            }
            Action::DeleteCollection { kind, namespace } => {
                let keys: Vec<Key> = self.view().list_in(*kind, namespace).map(key_of).collect();
                for key in keys {
                    self.delete(*kind, &key, "", "Background", false);
                }
                true
            }
            Action::DeleteEvents { .. } | Action::Event { .. } => true,
        }
    }

    /// As the API server deletes: pods on nodes and objects with finalizers are only marked.
    pub fn delete(&mut self, kind: Kind, key: &str, uid: &str, policy: &str, force: bool) {
        let mut object = self.get(kind, key).clone();
        if object.is_null() || !uid.is_empty() && object["metadata"]["uid"] != *uid {
            return;
        }
        let finalizer = match policy {
            "Foreground" => Some("foregroundDeletion"),
            "Orphan" => Some("orphan"),
            _ => None,
        };
        let mut finalizers: Vec<Value> =
            object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        if let Some(f) = finalizer
            && !finalizers.iter().any(|x| x == f)
        {
            finalizers.push(json!(f));
        }
        let running = kind == Kind::Pod
            && object["spec"]["nodeName"].is_string()
            && !crate::replicaset::terminal(&object);
        if finalizers.is_empty() && (force || !running) {
            self.remove(kind, key);
        } else if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = json!(self.now.wall.rfc3339());
            if !finalizers.is_empty() {
                object["metadata"]["finalizers"] = json!(finalizers);
            }
            self.put(kind, object);
        }
    }

    /// A plan; the first law: the same view gives the same plan.
    pub fn plan(&self, controller: &dyn Controller, key: &str) -> Plan {
        let plan = controller.plan(key, self.view(), self.now);
        assert_eq!(plan, controller.plan(key, self.view(), self.now), "not a function: {key}");
        plan
    }

    /// Plans and applies once; gives the actions other than events.
    pub fn round(&mut self, controller: &dyn Controller, key: &str) -> Vec<Action> {
        let actions: Vec<Action> = self
            .plan(controller, key)
            .actions
            .into_iter()
            .filter(|a| !matches!(a, Action::Event { .. }))
            .collect();
        for action in &actions {
            assert!(self.apply(action), "refused: {action:?}");
        }
        actions
    }

    /// Until the controller wants nothing more: the second law, with the rounds that it took.
    pub fn settle(&mut self, controller: &dyn Controller, key: &str) -> usize {
        for n in 0..20 {
            if self.round(controller, key).is_empty() {
                return n;
            }
        }
        panic!("never satisfied: {:?}", self.plan(controller, key));
    }

    /// Takes all pods that are not yet on a node to it, ready; ends those that are being deleted.
    pub fn kubelet(&mut self) {
        let pods: Vec<(Key, bool)> = self
            .list(Kind::Pod)
            .iter()
            .map(|p| (key_of(p), !p["metadata"]["deletionTimestamp"].is_null()))
            .collect();
        for (key, deleting) in pods {
            if deleting {
                self.patch(Kind::Pod, &key, &json!({"status": {"phase": "Failed"}}));
                let held = self.get(Kind::Pod, &key)["metadata"]["finalizers"]
                    .as_array()
                    .is_some_and(|f| !f.is_empty());
                if !held {
                    self.remove(Kind::Pod, &key);
                }
            } else if self.get(Kind::Pod, &key)["status"]["phase"].is_null() {
                self.ready(&key, true);
            }
        }
    }

    /// Makes a pod ready or not.
    pub fn ready(&mut self, key: &str, ready: bool) {
        let (_, name) = split(key);
        let ip = format!("10.244.0.{}", 1 + name.bytes().fold(7u8, u8::wrapping_add) % 250);
        let since = self.now.wall.rfc3339();
        let node = self.get(Kind::Pod, key)["spec"]["nodeName"].as_str().unwrap_or("n1").to_owned();
        let text = if ready { "True" } else { "False" };
        self.patch(
            Kind::Pod,
            key,
            &json!({"spec": {"nodeName": node}, "status": {
                "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": text, "lastTransitionTime": since}],
            }}),
        );
    }

    /// Ends a pod.
    pub fn end(&mut self, key: &str, phase: &str) {
        let status = json!({"phase": phase, "conditions": [{"type": "Ready", "status": "False"}]});
        self.patch(Kind::Pod, key, &json!({"status": status}));
    }
}
