//! ConfigMaps, Secrets and service-account tokens that pods of this node use: what is asked for, what is known.
//!
//! A kubelet may read only what pods bound to its node refer to (the Node authorizer), so each object is
//! fetched by name when a pod needs it and then watched by name as long as one does: a change reaches the pods
//! at once, and nothing is asked while nothing changes. Tokens are renewed before they expire.

use crate::limits;
use crate::spec::{Container, Pod, TokenProjection};
use pintle_base::{Now, Time, Wall};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Something that a pod needs from the API server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefKey {
    /// A ConfigMap: namespace, name.
    ConfigMap(String, String),
    /// A Secret: namespace, name.
    Secret(String, String),
    /// A PersistentVolumeClaim: namespace, name.
    Claim(String, String),
    /// A PersistentVolume that a claim is bound to.
    Volume(String),
    /// A token of a pod's service account.
    Token {
        /// Uid of the pod it is bound to.
        uid: String,
        /// Audience; empty = the API server.
        audience: String,
        /// Life in seconds.
        seconds: i64,
    },
}

impl RefKey {
    /// `configmap "x"`, as messages name it.
    pub fn describe(&self) -> String {
        match self {
            RefKey::ConfigMap(_, name) => format!("configmap {name:?}"),
            RefKey::Secret(_, name) => format!("secret {name:?}"),
            RefKey::Claim(_, name) => format!("persistentvolumeclaim {name:?}"),
            RefKey::Volume(name) => format!("persistentvolume {name:?}"),
            RefKey::Token { .. } => "service account token".to_string(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    // `None`: not answered yet. `Some(Err)`: not there, or refused: the text says it.
    value: Option<Result<Arc<Value>, String>>,
    asked: bool,
    // When to ask (again).
    due: Time,
    pause: Duration,
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Refs {
    entries: BTreeMap<RefKey, Entry>,
}

impl Refs {
    /// Makes exactly `wanted` known about: new ones are due at once, others are forgotten and given back.
    pub fn retain(&mut self, wanted: &BTreeSet<RefKey>, now: Time) -> Vec<RefKey> {
        let gone = self.entries.keys().filter(|k| !wanted.contains(k)).cloned().collect();
        self.entries.retain(|k, _| wanted.contains(k));
        for key in wanted {
            if !self.entries.contains_key(key) {
                self.want(key.clone(), now);
            }
        }
        gone
    }

    /// The object is watched from here on: it is not asked for again until the watch ends.
    pub fn watching(&mut self, key: &RefKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.due = Time(u64::MAX);
        }
    }

    /// Its watch has ended: it is asked for again.
    pub fn watch_ended(&mut self, key: &RefKey, now: Time) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.due = now + limits::RETRY_FIRST;
        }
    }

    /// One more that is needed.
    pub fn want(&mut self, key: RefKey, now: Time) {
        self.entries.entry(key).or_insert(Entry {
            value: None,
            asked: false,
            due: now,
            pause: limits::RETRY_FIRST,
        });
    }

    /// Those that must be asked for now; they count as asked from here on.
    pub fn take_due(&mut self, now: Time) -> Vec<RefKey> {
        let mut due = Vec::new();
        for (key, entry) in &mut self.entries {
            if !entry.asked && entry.due <= now {
                entry.asked = true;
                due.push(key.clone());
            }
        }
        due
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Time> {
        let due = self.entries.values().filter(|e| !e.asked).map(|e| e.due);
        due.filter(|at| *at != Time(u64::MAX)).min()
    }

    /// An answer came; gives whether the value is another than before.
    pub fn answered(&mut self, key: &RefKey, result: Result<Value, String>, now: Now) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.asked = false;
        match result {
            Ok(value) => {
                entry.pause = limits::RETRY_FIRST;
                entry.due = now.mono + lifetime(key, &value, now.wall);
                let same = matches!(&entry.value, Some(Ok(old)) if same_content(key, old, &value));
                if !same {
                    entry.value = Some(Ok(Arc::new(value)));
                }
                !same
            }
            Err(text) => {
                entry.due = now.mono + entry.pause;
                entry.pause = (entry.pause * 2).min(limits::RETRY_MAX);
                let same = matches!(&entry.value, Some(Err(old)) if *old == text);
                // A token or object that was there is used on while the API server cannot be asked.
                let keep = matches!(entry.value, Some(Ok(_))) && text != NOT_FOUND;
                if !same && !keep {
                    entry.value = Some(Err(text));
                }
                !same && !keep
            }
        }
    }

    /// The connection went: what was asked must be asked again.
    pub fn disconnected(&mut self) {
        for entry in self.entries.values_mut() {
            entry.asked = false;
        }
    }

    /// What is known: nothing yet, the object, or why not.
    pub fn get(&self, key: &RefKey) -> Option<Result<&Arc<Value>, &str>> {
        self.entries.get(key)?.value.as_ref().map(|v| v.as_ref().map_err(String::as_str))
    }
}

/// The text that stands for an object that is not there.
pub const NOT_FOUND: &str = "not found";

fn same_content(key: &RefKey, old: &Value, new: &Value) -> bool {
    match key {
        RefKey::Token { .. } => old == new,
        RefKey::Claim(..) | RefKey::Volume(_) => old.get("spec") == new.get("spec"),
        RefKey::ConfigMap(..) | RefKey::Secret(..) => {
            old.get("data") == new.get("data") && old.get("binaryData") == new.get("binaryData")
        }
    }
}

fn lifetime(key: &RefKey, value: &Value, now: Wall) -> Duration {
    let RefKey::Token { seconds, .. } = key else { return limits::REFERENCE_TTL };
    let expires = value["status"]["expirationTimestamp"].as_str().and_then(Wall::parse_rfc3339);
    let life = match expires {
        Some(at) => at - now,
        None => Duration::from_secs(u64::try_from(*seconds).unwrap_or(0)),
    };
    (life / 100 * u32::try_from(limits::TOKEN_RENEW_PERCENT).unwrap_or(80)).max(limits::RETRY_FIRST)
}

/// The key of a projected token of a pod.
pub fn token_key(pod: &Pod, t: &TokenProjection) -> RefKey {
    RefKey::Token {
        uid: pod.metadata.uid.clone(),
        audience: t.audience.clone(),
        seconds: t.expiration_seconds.unwrap_or(limits::TOKEN_SECONDS_DEFAULT),
    }
}

/// All that a pod's volumes need, with whether it may be absent.
pub fn of_volumes(pod: &Pod) -> Vec<(RefKey, bool, String)> {
    let ns = &pod.metadata.namespace;
    let mut out = Vec::new();
    for v in &pod.spec.volumes {
        let mut add = |key, optional| out.push((key, optional, v.name.clone()));
        if let Some(c) = &v.config_map {
            add(RefKey::ConfigMap(ns.clone(), c.name.clone()), c.optional);
        }
        if let Some(s) = &v.secret {
            add(RefKey::Secret(ns.clone(), s.secret_name.clone()), s.optional);
        }
        if let Some(c) = &v.persistent_volume_claim {
            add(RefKey::Claim(ns.clone(), c.claim_name.clone()), false);
        }
        for source in v.projected.iter().flat_map(|p| &p.sources) {
            if let Some(c) = &source.config_map {
                add(RefKey::ConfigMap(ns.clone(), c.name.clone()), c.optional);
            }
            if let Some(s) = &source.secret {
                add(RefKey::Secret(ns.clone(), s.name.clone()), s.optional);
            }
            if let Some(t) = &source.service_account_token {
                add(token_key(pod, t), false);
            }
        }
    }
    out
}

/// The volumes that the pod's claims are bound to, as far as the claims are known.
pub fn bound_volumes(pod: &Pod, refs: &Refs) -> BTreeSet<RefKey> {
    let claims = of_volumes(pod).into_iter().filter(|(key, _, _)| matches!(key, RefKey::Claim(..)));
    let names = claims.filter_map(|(key, _, _)| volume_of(refs, &key));
    names.map(RefKey::Volume).collect()
}

/// Name of the volume that a claim is bound to.
pub fn volume_of(refs: &Refs, claim: &RefKey) -> Option<String> {
    let name = refs.get(claim)?.ok()?["spec"]["volumeName"].as_str()?;
    (!name.is_empty()).then(|| name.to_string())
}

/// All that a container's environment needs.
pub fn of_env(pod: &Pod, c: &Container) -> Vec<RefKey> {
    let ns = &pod.metadata.namespace;
    let mut out = Vec::new();
    for from in &c.env_from {
        out.extend(
            from.config_map_ref.iter().map(|r| RefKey::ConfigMap(ns.clone(), r.name.clone())),
        );
        out.extend(from.secret_ref.iter().map(|r| RefKey::Secret(ns.clone(), r.name.clone())));
    }
    for source in c.env.iter().filter_map(|e| e.value_from.as_ref()) {
        let configs = source.config_map_key_ref.iter();
        out.extend(configs.map(|r| RefKey::ConfigMap(ns.clone(), r.name.clone())));
        let secrets = source.secret_key_ref.iter();
        out.extend(secrets.map(|r| RefKey::Secret(ns.clone(), r.name.clone())));
    }
    out
}

/// All that a pod needs.
pub fn of_pod(pod: &Pod) -> BTreeSet<RefKey> {
    let volumes = of_volumes(pod).into_iter().map(|(key, _, _)| key);
    let env = pod.all_containers().flat_map(|(_, c)| of_env(pod, c));
    volumes.chain(env).collect()
}
