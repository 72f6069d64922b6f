//! Events about pods and the node, with Kubernetes' wording. The same event again raises its count.

use crate::limits;
use crate::spec::Meta;
use pintle_base::Now;
use pintle_wire::msg::api::{PatchType, Request, Verb};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Normal or Warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Something went as it should.
    Normal,
    /// Something did not.
    Warning,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// `Pod` or `Node`.
    pub kind: &'static str,
    /// Namespace; empty for a node.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// `spec.containers{web}` or empty.
    pub field_path: String,
}

impl About {
    /// A pod, or one of its containers.
    pub fn pod(m: &Meta, container: Option<(crate::spec::Role, &str)>) -> About {
        use crate::spec::Role;
        let field_path = match container {
            Some((Role::Main, name)) => format!("spec.containers{{{name}}}"),
            Some((Role::Init | Role::Sidecar, name)) => format!("spec.initContainers{{{name}}}"),
            Some((Role::Ephemeral, name)) => format!("spec.ephemeralContainers{{{name}}}"),
            None => String::new(),
        };
        About {
            kind: "Pod",
            namespace: m.namespace.clone(),
            name: m.name.clone(),
            uid: m.uid.clone(),
            field_path,
        }
    }
}

/// Makes requests out of events.
#[derive(Debug)]
pub struct Recorder {
    node: String,
    // Reason, uid, field path, message -> name, namespace and count of the event object.
    known: BTreeMap<(String, String, String, String), (String, u64)>,
    serial: u64,
}

impl Recorder {
    /// For a node; `seed` makes event names unique between lives of the kubelet.
    pub fn new(node: &str, seed: u64) -> Recorder {
        Recorder { node: node.into(), known: BTreeMap::new(), serial: seed }
    }

    /// The request that records an event.
    pub fn record(
        &mut self,
        about: &About,
        kind: Kind,
        reason: &str,
        message: &str,
        now: Now,
    ) -> Request {
        let message: String = message.chars().take(1024).collect();
        let key =
            (reason.to_string(), about.uid.clone(), about.field_path.clone(), message.clone());
        let namespace = if about.namespace.is_empty() { "default" } else { &about.namespace };
        let time = now.wall.rfc3339();
        if let Some((name, count)) = self.known.get_mut(&key) {
            *count += 1;
            let mut request = request(Verb::Patch, namespace);
            request.name = name.clone();
            request.patch_type = Some(PatchType::Merge);
            request.body = body(&json!({"count": *count, "lastTimestamp": time}));
            return request;
        }
        self.serial = self.serial.wrapping_add(1);
        let name = format!("{}.{:x}", about.name, self.serial);
        if self.known.len() >= limits::EVENTS_REMEMBERED_MAX {
            self.known.clear();
        }
        self.known.insert(key, (name.clone(), 1));
        let mut involved = json!({"apiVersion": "v1", "kind": about.kind, "name": about.name,
            "uid": about.uid});
        if !about.namespace.is_empty() {
            involved["namespace"] = json!(about.namespace);
        }
        if !about.field_path.is_empty() {
            involved["fieldPath"] = json!(about.field_path);
        }
        let mut request = request(Verb::Create, namespace);
        request.body = body(&json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": involved,
            "reason": reason, "message": message,
            "type": if kind == Kind::Normal { "Normal" } else { "Warning" },
            "source": {"component": "kubelet", "host": self.node},
            "reportingComponent": "kubelet", "reportingInstance": self.node,
            "firstTimestamp": time, "lastTimestamp": time, "count": 1,
        }));
        request
    }

    /// The event object is gone (it has aged out): the next one is made anew.
    pub fn forget(&mut self, name: &str) {
        self.known.retain(|_, (n, _)| n != name);
    }
}

fn request(verb: Verb, namespace: &str) -> Request {
    let mut r = Request::new(verb, "", "v1", "events");
    r.namespace = namespace.into();
    r
}

/// A JSON body.
pub fn body(v: &Value) -> pintle_wire::msg::Body {
    v.to_string().into_bytes().into()
}
