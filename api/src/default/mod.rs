//! Defaulting of the built-in kinds, as kube-apiserver does it.
//!
//! Only what an unset field comes to mean; what the server allocates or sets itself (names, uids, addresses,
//! status resets) is not here. Defaulting is idempotent.

use crate::Gvk;
use serde_json::{Map, Value};

mod admission;
mod network;
mod pod;
mod rest;
mod storage;
mod workloads;

pub use pod::{pod_spec, pull_policy};

/// Fills in the defaults of a decoded object. Objects that are defaulted already don't change.
pub fn object(gvk: &Gvk<'_>, object: &mut Value) {
    let Value::Object(o) = object else { return };
    match (gvk.group, gvk.kind) {
        ("", "Pod") => pod::pod(o),
        ("", "PodTemplate") => pod::template_of(o),
        ("", "ReplicationController") => workloads::replication_controller(o),
        ("", "Service") => network::service(o),
        ("", "Endpoints") => network::endpoints(o),
        ("", "Namespace") => rest::namespace(o),
        ("", "Node") => rest::node(o),
        ("", "Secret") => rest::secret(o),
        ("", "PersistentVolume") => storage::volume(o),
        ("", "PersistentVolumeClaim") => storage::claim(o),
        ("", "LimitRange") => rest::limit_range(o),
        ("", "ResourceQuota") => {
            in_map(o, "spec", |s| rest::resource_list(s, "hard"));
            in_map(o, "status", |s| {
                rest::resource_list(s, "hard");
                rest::resource_list(s, "used");
            });
        }
        ("apps", "Deployment") => workloads::deployment(o),
        ("apps", "ReplicaSet") => workloads::replica_set(o),
        ("apps", "StatefulSet") => workloads::stateful_set(o),
        ("apps", "DaemonSet") => workloads::daemon_set(o),
        ("batch", "Job") => workloads::job(o),
        ("batch", "CronJob") => workloads::cron_job(o),
        ("autoscaling", "HorizontalPodAutoscaler") => rest::autoscaler(o, gvk.version),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(o),
        ("networking.k8s.io", "NetworkPolicy") => network::policy(o),
        ("networking.k8s.io", "IngressClass") => network::ingress_class(o),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => rest::binding(o),
        ("storage.k8s.io", "StorageClass") => storage::class(o),
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver(o),
        ("scheduling.k8s.io", "PriorityClass") => {
            put(o, "preemptionPolicy", "PreemptLowerPriority")
        }
        ("authentication.k8s.io", "TokenRequest") => {
            in_map(o, "spec", |s| put(s, "expirationSeconds", 3600));
        }
        ("admissionregistration.k8s.io", kind) => admission::object(kind, o),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => admission::crd(o),
        ("apiregistration.k8s.io", "APIService") => {
            in_map(o, "spec", |s| in_map(s, "service", |s| put(s, "port", 443)));
        }
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => rest::flow_schema(o),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => rest::priority_level(o),
        ("resource.k8s.io", "ResourceClaim") => in_map(o, "spec", rest::claim_spec),
        ("resource.k8s.io", "ResourceClaimTemplate") => {
            in_map(o, "spec", |s| in_map(s, "spec", rest::claim_spec));
        }
        _ => {}
    }
}

type Object = Map<String, Value>;

/// Sets a field that is absent (or empty text, or null).
fn put(o: &mut Object, key: &str, value: impl Into<Value>) {
    let unset = match o.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(_) => false,
    };
    if unset {
        o.insert(key.to_owned(), value.into());
    }
}

/// [`put`] for numbers whose zero means unset.
fn put_nonzero(o: &mut Object, key: &str, value: i64) {
    if o.get(key).and_then(Value::as_i64).unwrap_or(0) == 0 {
        o.insert(key.to_owned(), value.into());
    }
}

/// Sets an absent field to an empty object.
fn put_empty(o: &mut Object, key: &str) {
    put(o, key, Value::Object(Object::new()));
}

/// Works on the object in a field when there is one.
fn in_map(o: &mut Object, key: &str, f: impl FnOnce(&mut Object)) {
    if let Some(Value::Object(m)) = o.get_mut(key) {
        f(m);
    }
}

/// Works on the object in a field, made when it is absent.
fn in_made(o: &mut Object, key: &str, f: impl FnOnce(&mut Object)) {
    put_empty(o, key);
    in_map(o, key, f);
}

/// Works on each object of a list.
fn each(o: &mut Object, key: &str, mut f: impl FnMut(&mut Object)) {
    if let Some(Value::Array(items)) = o.get_mut(key) {
        items.iter_mut().filter_map(Value::as_object_mut).for_each(&mut f);
    }
}

fn text<'a>(o: &'a Object, key: &str) -> &'a str {
    o.get(key).and_then(Value::as_str).unwrap_or("")
}

fn is_true(o: &Object, key: &str) -> bool {
    o.get(key).and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests;
