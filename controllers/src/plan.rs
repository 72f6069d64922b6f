//! What a controller wants done: data.

use crate::Kind;
use pintle_client::Key;
use pintle_wire::msg::api::{PatchType, Request, Verb};
use serde_json::{Value, json};
use std::time::Duration;

/// The outcome of looking at one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order. The manager stops at the first that fails and asks again.
    pub actions: Vec<Action>,
    /// Look again after this time though nothing changed.
    pub requeue_after: Option<Duration>,
}

/// One request to the API server.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make an object. `AlreadyExists` counts as done.
    Create(Kind, Value),
    /// Replace an object whole; `metadata.resourceVersion` guards it.
    Update(Kind, Value),
    /// JSON merge patch of an object; put `metadata.uid`/`resourceVersion` in to guard it.
    Patch {
        /// Resource.
        kind: Kind,
        /// Object.
        key: Key,
        /// `status`, `finalize`, ...; empty = the object itself.
        subresource: &'static str,
        /// The patch.
        patch: Value,
    },
    /// Replace a subresource whole.
    UpdateSub {
        /// Resource.
        kind: Kind,
        /// Object.
        key: Key,
        /// `finalize`, `status`, ...
        subresource: &'static str,
        /// The whole object.
        object: Value,
    },
    /// Delete one object. `NotFound` counts as done.
    Delete {
        /// Resource.
        kind: Kind,
        /// Object.
        key: Key,
        /// Only if it still has this uid; empty = any.
        uid: String,
        /// Only if it still has this resourceVersion; empty = any.
        resource_version: String,
        /// `Background`, `Foreground`, `Orphan`; empty = the default.
        policy: &'static str,
        /// Seconds to end in; `None` = the object's own.
        grace_s: Option<i64>,
    },
    /// Ask the API server whether an object still exists; what is gone is remembered
    /// ([`crate::View::confirmed_gone`]). The view alone cannot tell "not yet" from "no longer".
    Confirm {
        /// Resource.
        kind: Kind,
        /// Object.
        key: Key,
        /// Its uid; empty = any object of this name counts.
        uid: String,
        /// What to remember when it is gone.
        remember: String,
    },
    /// Delete everything of a resource in a namespace.
    DeleteCollection {
        /// Resource.
        kind: Kind,
        /// Namespace.
        namespace: String,
    },
    /// Delete all events of a namespace; they are not watched.
    DeleteEvents {
        /// Namespace.
        namespace: String,
    },
    /// Tell users something about an object (a core/v1 Event).
    Event {
        /// The object that it is about.
        about: Box<Value>,
        /// `Normal` or `Warning`.
        warning: bool,
        /// CamelCase.
        reason: &'static str,
        /// For humans.
        message: String,
    },
}

/// Splits `namespace/name`; cluster-scoped keys have an empty namespace.
pub fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

/// The key of an object.
pub fn key_of(object: &Value) -> Key {
    let meta = &object["metadata"];
    let name = meta["name"].as_str().unwrap_or_default();
    match meta["namespace"].as_str() {
        Some(ns) if !ns.is_empty() => format!("{ns}/{name}"),
        _ => name.to_owned(),
    }
}

impl Action {
    /// A status patch.
    pub fn status(kind: Kind, key: &str, status: Value) -> Action {
        Action::Patch {
            kind,
            key: key.to_owned(),
            subresource: "status",
            patch: json!({ "status": status }),
        }
    }

    /// A plain delete of an object as seen.
    pub fn delete(kind: Kind, object: &Value) -> Action {
        Action::Delete {
            kind,
            key: key_of(object),
            uid: object["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            resource_version: String::new(),
            policy: "Background",
            grace_s: None,
        }
    }

    /// The request that carries it out; `component` and `stamp` go into events.
    pub fn request(&self, component: &str, stamp: &str, unique: &str) -> Request {
        let new = |verb, kind: Kind| {
            let (group, version, resource, _) = kind.names();
            Request::new(verb, group, version, resource)
        };
        let at = |mut r: Request, key: &str| {
            let (ns, name) = split(key);
            r.namespace = ns.to_owned();
            r.name = name.to_owned();
            r
        };
        match self {
            Action::Create(kind, object) => {
                let mut r = at(new(Verb::Create, *kind), &key_of(object));
                r.name = String::new();
                r.body = bytes(object);
                r
            }
            Action::Update(kind, object) => {
                let mut r = at(new(Verb::Update, *kind), &key_of(object));
                r.body = bytes(object);
                r
            }
            Action::Patch { kind, key, subresource, patch } => {
                let mut r = at(new(Verb::Patch, *kind), key);
                r.subresource = (*subresource).to_owned();
                r.patch_type = Some(PatchType::Merge);
                r.body = bytes(patch);
                r
            }
            Action::UpdateSub { kind, key, subresource, object } => {
                let mut r = at(new(Verb::Update, *kind), key);
                r.subresource = (*subresource).to_owned();
                r.body = bytes(object);
                r
            }
            Action::Confirm { kind, key, .. } => at(new(Verb::Get, *kind), key),
            Action::Delete { kind, key, uid, resource_version, policy, grace_s } => {
                let mut r = at(new(Verb::Delete, *kind), key);
                let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
                r.options.precondition_uid = some(uid);
                r.options.precondition_resource_version = some(resource_version);
                r.options.propagation_policy = some(policy);
                r.options.grace_period_s = *grace_s;
                r
            }
            Action::DeleteCollection { kind, namespace } => {
                let mut r = new(Verb::DeleteCollection, *kind);
                r.namespace.clone_from(namespace);
                r
            }
            Action::DeleteEvents { namespace } => {
                let mut r = Request::new(Verb::DeleteCollection, "", "v1", "events");
                r.namespace.clone_from(namespace);
                r
            }
            Action::Event { about, warning, reason, message } => {
                event(about, *warning, reason, message, component, stamp, unique)
            }
        }
    }
}

fn event(
    about: &Value,
    warning: bool,
    reason: &str,
    message: &str,
    component: &str,
    stamp: &str,
    unique: &str,
) -> Request {
    let meta = &about["metadata"];
    let name = meta["name"].as_str().unwrap_or_default();
    let namespace = meta["namespace"].as_str().unwrap_or("default");
    let mut r = Request::new(Verb::Create, "", "v1", "events");
    r.namespace = namespace.to_owned();
    r.body = bytes(&json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{name}.{unique}"), "namespace": namespace},
        "involvedObject": {
            "apiVersion": about["apiVersion"], "kind": about["kind"], "name": name,
            "namespace": meta["namespace"], "uid": meta["uid"], "resourceVersion": meta["resourceVersion"],
        },
        "reason": reason, "message": message, "type": if warning { "Warning" } else { "Normal" },
        "source": {"component": component}, "reportingComponent": component, "reportingInstance": "",
        "firstTimestamp": stamp, "lastTimestamp": stamp, "count": 1,
    }));
    r
}

fn bytes(v: &Value) -> std::sync::Arc<[u8]> {
    v.to_string().into_bytes().into()
}

/// A LabelSelector object (matchLabels and matchExpressions), parsed once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<(String, Match)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Match {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Reads a LabelSelector; an empty one matches everything. An operator that is unknown matches nothing.
    pub fn read(v: &Value) -> Selector {
        let mut requirements = Selector::of_map(&v["matchLabels"]).requirements;
        for e in v["matchExpressions"].as_array().into_iter().flatten() {
            let values = || {
                e["values"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect()
            };
            let m = match e["operator"].as_str().unwrap_or_default() {
                "In" => Match::In(values()),
                "NotIn" => Match::NotIn(values()),
                "Exists" => Match::Exists,
                "DoesNotExist" => Match::DoesNotExist,
                _ => Match::In(Vec::new()),
            };
            requirements.push((e["key"].as_str().unwrap_or_default().to_owned(), m));
        }
        Selector { requirements }
    }

    /// From a plain map, as in a Service's selector.
    pub fn of_map(map: &Value) -> Selector {
        let requirements = map
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), Match::In(vec![v.as_str().unwrap_or_default().to_owned()])))
            .collect();
        Selector { requirements }
    }

    /// Selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object's labels (a JSON map, or null) match.
    pub fn matches(&self, labels: &Value) -> bool {
        self.requirements.iter().all(|(key, m)| {
            let value = labels[key.as_str()].as_str();
            match m {
                Match::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
                Match::NotIn(values) => !value.is_some_and(|v| values.iter().any(|x| x == v)),
                Match::Exists => value.is_some(),
                Match::DoesNotExist => value.is_none(),
            }
        })
    }
}
