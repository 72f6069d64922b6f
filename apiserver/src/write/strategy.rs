//! What kinds do differently: status on create, what each subresource may change, generation, deletion.
//!
//! Everything here is about one object and its predecessor; nothing looks at other objects (that is admission).
//!
//! References: pkg/registry/*/strategy.go.

use pintle_api::object;
use pintle_base::Wall;
use pintle_wire::msg::store::Durability;
use serde_json::{Value, json};

use super::meta;
use crate::cache::Object;
use crate::registry::{Endpoint, Resource};

/// Kinds whose objects count the changes of what is desired.
const WITH_GENERATION: &[&str] = &[
    "Pod",
    "ReplicationController",
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
    "CronJob",
    "Job",
    "EndpointSlice",
    "FlowSchema",
    "PriorityLevelConfiguration",
    "NetworkPolicy",
    "Ingress",
    "IngressClass",
    "PodDisruptionBudget",
    "ResourceSlice",
    "PriorityClass",
    "DeviceClass",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

fn has_generation(e: &Endpoint) -> bool {
    WITH_GENERATION.contains(&e.kind.as_str())
}

fn has_status(e: &Endpoint) -> bool {
    e.subresource("status").is_some()
}

/// An update of an object that does not exist creates it.
pub(crate) fn created_by_update(e: &Endpoint) -> bool {
    matches!(
        (e.group.as_str(), e.kind.as_str()),
        ("", "Endpoints" | "Event" | "LimitRange" | "Service" | "ReplicationController")
            | ("events.k8s.io", "Event")
            | ("coordination.k8s.io", "Lease")
            | ("rbac.authorization.k8s.io", _)
    )
}

/// An update must carry the resourceVersion that it was made from.
pub(crate) fn needs_revision(e: &Endpoint) -> bool {
    matches!(
        e.kind.as_str(),
        "Lease"
            | "PodDisruptionBudget"
            | "CustomResourceDefinition"
            | "MutatingWebhookConfiguration"
            | "ValidatingWebhookConfiguration"
            | "MutatingAdmissionPolicy"
            | "MutatingAdmissionPolicyBinding"
            | "ValidatingAdmissionPolicy"
            | "ValidatingAdmissionPolicyBinding"
            | "RuntimeClass"
            | "VolumeAttachment"
            | "CSIDriver"
            | "CSINode"
            | "CSIStorageCapacity"
            | "FlowSchema"
            | "PriorityLevelConfiguration"
            | "APIService"
            | "ResourceClaim"
            | "ResourceClaimTemplate"
            | "ResourceSlice"
            | "DeviceClass"
    )
}

/// A new object has no status of its own (nodes bring theirs).
pub(crate) fn clear_status(e: &Endpoint, v: &mut Value) {
    if has_status(e) && !matches!(e.kind.as_str(), "Node" | "APIService") {
        object::remove(v, &["status"]);
    }
}

/// A new object before admission, with the status that its kind begins with.
pub(crate) fn prepare_create(e: &Endpoint, v: &mut Value, now: Wall) {
    if has_generation(e) {
        meta::of(v).insert("generation".into(), 1.into());
    }
    match (e.group.as_str(), e.kind.as_str()) {
        ("", "Namespace") => {
            object::set(v, &["status"], json!({"phase": "Active"}));
            let finalizers = object::list_at(v, &["spec", "finalizers"]);
            if !finalizers.iter().any(|f| f == "kubernetes") {
                let mut all = finalizers.to_vec();
                all.push("kubernetes".into());
                object::set(v, &["spec", "finalizers"], all);
            }
        }
        ("", "Pod") => object::set(v, &["status"], json!({"phase": "Pending"})),
        ("", "PersistentVolume") => {
            let status = json!({"phase": "Pending", "lastPhaseTransitionTime": now.rfc3339()});
            object::set(v, &["status"], status);
        }
        ("", "PersistentVolumeClaim") => object::set(v, &["status"], json!({"phase": "Pending"})),
        ("batch", "Job") => select_by_uid(v),
        _ => {}
    }
}

/// A job's pods are told by the job's uid, unless its author takes care of the selector.
fn select_by_uid(job: &mut Value) {
    if object::bool_at(job, &["spec", "manualSelector"]) {
        return;
    }
    let (uid, name) = (object::uid(job).to_owned(), object::name(job).to_owned());
    let labels = [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ];
    // A selector of the author's own is left for validation to refuse.
    for (key, value) in labels {
        object::set(job, &["spec", "template", "metadata", "labels", key], value.clone());
    }
    object::set(
        job,
        &["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"],
        uid.clone(),
    );
    if object::labels(job).is_none_or(|l| l.is_empty()) {
        // As the defaulting of a job does: its labels are those of its pods.
        let labels = object::at(job, &["spec", "template", "metadata", "labels"]).cloned();
        if let Some(labels) = labels {
            object::set(job, &["metadata", "labels"], labels);
        }
    }
}

/// What follows from the whole object: a pod's QoS class.
pub(crate) fn derive(e: &Endpoint, v: &mut Value) {
    if e.group.is_empty() && e.kind == "Pod" {
        let class = crate::pod::qos_class(v);
        object::set(v, &["status", "qosClass"], class);
    }
}

/// Takes the part at `path` over from `old`.
fn keep(new: &mut Value, old: &Value, path: &[&str]) {
    match object::at(old, path) {
        Some(v) => object::set(new, path, v.clone()),
        None => {
            object::remove(new, path);
        }
    }
}

/// What this subresource (or the object itself) may not change is taken over from the object that is there.
pub(crate) fn prepare_update(e: &Endpoint, sub: &str, new: &mut Value, old: &Value) {
    match sub {
        "" => {
            if has_status(e) {
                keep(new, old, &["status"]);
            }
            if e.kind == "Namespace" {
                keep(new, old, &["spec", "finalizers"]);
            }
            if e.group.is_empty() && e.kind == "Pod" {
                keep(new, old, &["status", "qosClass"]);
            }
        }
        "status" => prepare_status(e, new, old),
        _ => {}
    }
    if e.kind == "CertificateSigningRequest" {
        // What was asked for never changes; approvers decide, signers sign.
        keep(new, old, &["spec"]);
        if sub == "approval" {
            keep(new, old, &["status", "certificate"]);
        }
    }
}

/// Conditions of a signing request get their times from the server.
pub(crate) fn stamp_conditions(e: &Endpoint, new: &mut Value, old: &Value, now: Wall) {
    if e.kind != "CertificateSigningRequest" {
        return;
    }
    let before = object::list_at(old, &["status", "conditions"]).to_vec();
    let mut list = object::list_at(new, &["status", "conditions"]).to_vec();
    for c in &mut list {
        let was = before.iter().find(|b| b["type"] == c["type"] && b["status"] == c["status"]);
        for key in ["lastUpdateTime", "lastTransitionTime"] {
            if c.get(key).is_none_or(Value::is_null) {
                let kept = was.filter(|_| key == "lastTransitionTime").map(|b| b[key].clone());
                object::set(c, &[key], kept.unwrap_or_else(|| now.rfc3339().into()));
            }
        }
    }
    if !list.is_empty() {
        object::set(new, &["status", "conditions"], list);
    }
}

fn prepare_status(e: &Endpoint, new: &mut Value, old: &Value) {
    let status = object::at(new, &["status"]).cloned();
    let metadata = object::at(new, &["metadata"]).cloned();
    let keeps_metadata = !matches!(
        (e.group.as_str(), e.kind.as_str()),
        (
            "",
            "Pod" | "Node" | "Namespace" | "PersistentVolume" | "PersistentVolumeClaim" | "Service"
        ) | ("", "ResourceQuota" | "ReplicationController")
            | ("apps" | "batch" | "policy" | "networking.k8s.io" | "autoscaling", _)
            | ("certificates.k8s.io", _)
    );
    let mut out = old.clone();
    if let Some(m) = out.as_object_mut() {
        m.remove("status");
    }
    if let Some(s) = status {
        object::set(&mut out, &["status"], s);
    }
    if !keeps_metadata && let Some(m) = metadata {
        object::set(&mut out, &["metadata"], m);
        keep(&mut out, old, &["metadata", "ownerReferences"]);
        if e.group == "apps" {
            keep(&mut out, old, &["metadata", "labels"]);
        }
    } else {
        // managedFields follow the writer; track() reads them from the new object.
        if let Some(m) = object::at(new, &["metadata", "managedFields"]).cloned() {
            object::set(&mut out, &["metadata", "managedFields"], m);
        }
    }
    if e.group.is_empty() && e.kind == "Pod" && object::at(new, &["status", "qosClass"]).is_none() {
        keep(&mut out, old, &["status", "qosClass"]);
    }
    *new = out;
}

/// Counts a change of what is desired.
pub(crate) fn bump_generation(e: &Endpoint, new: &mut Value, old: &Value) {
    // A priority class counts nothing, a CSI driver begins to count with its first change.
    let counts = (has_generation(e) && e.kind != "PriorityClass") || e.kind == "CSIDriver";
    if !counts && (object::generation(old) == 0 || e.kind == "PriorityClass") {
        return;
    }
    if meta::desired(new) != meta::desired(old) {
        let next = object::generation(old) + 1;
        meta::of(new).insert("generation".into(), next.into());
    }
}

/// Deletion has begun and nothing holds the object any more.
pub(crate) fn deletion_complete(v: &Value) -> bool {
    object::is_deleting(v)
        && object::finalizers(v).next().is_none()
        && object::int_at(v, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0
        && object::list_at(v, &["spec", "finalizers"]).is_empty()
}

/// Whether a write must be on disk before it is answered.
pub(crate) fn durability(resource: &Resource, old: Option<&Object>, new: &Value) -> Durability {
    let volatile = match (resource.group.as_str(), resource.kind.as_str(), old) {
        ("", "Event", _) => true,
        ("coordination.k8s.io", "Lease", Some(old)) => {
            // A renewal changes the time only; a change of the holder is for the disk.
            let old = old.parse();
            let holder = |v: &Value| object::at(v, &["spec", "holderIdentity"]).cloned();
            object::namespace(new) == "kube-node-lease" || holder(&old) == holder(new)
        }
        ("", "Node", Some(old)) => without_heartbeats(&old.parse()) == without_heartbeats(new),
        _ => false,
    };
    if volatile { Durability::Volatile } else { Durability::Durable }
}

/// Whether a deletion must be on disk before it is answered.
pub(crate) fn delete_durability(resource: &Resource) -> Durability {
    if resource.group.is_empty() && resource.kind == "Event" {
        Durability::Volatile
    } else {
        Durability::Durable
    }
}

/// A node without what a heartbeat changes.
fn without_heartbeats(node: &Value) -> Value {
    let mut v = node.clone();
    object::remove(&mut v, &["metadata", "resourceVersion"]);
    object::remove(&mut v, &["metadata", "managedFields"]);
    if let Some(list) = v.pointer_mut("/status/conditions").and_then(Value::as_array_mut) {
        for c in list {
            object::remove(c, &["lastHeartbeatTime"]);
        }
    }
    v
}
