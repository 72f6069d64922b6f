//! Validation of decoded and defaulted objects, with Kubernetes' findings.
//!
//! The rules are kube-apiserver's; a comment says where one looks odd and is meant so (a path without its
//! index, a value that is not the field's). Kinds without rules here are checked in their metadata alone.
//! What needs other objects (allocation, quota, references) is admission, not validation.

use crate::Gvk;
use crate::status::FieldError;
use serde_json::Value;

mod container;
mod core;
mod cron;
mod env;
mod extension;
mod job;
mod kit;
mod meta;
mod network;
mod pod;
mod rest;
mod scheduling;
mod security;
mod service;
mod storage;
pub mod text;
mod volumes;
mod workloads;

/// Findings about a new object (its name and namespace are set already).
pub fn create(gvk: &Gvk<'_>, object: &Value) -> Vec<FieldError> {
    let mut e = Vec::new();
    // Reviews and requests are answered and not stored: they need no name.
    if crate::resources::find_kind(gvk).is_some_and(|r| r.has_verb("get")) {
        meta::create(gvk, object, &mut e);
    }
    body(gvk, object, &mut e);
    e
}

/// Rules that hold for an object as such, new or changed.
fn body(gvk: &Gvk<'_>, o: &Value, e: &mut Vec<FieldError>) {
    match (gvk.group, gvk.kind) {
        ("", "Pod") => pod::create(o, e),
        ("", "PodTemplate") => {
            let root = crate::Path::root();
            let template = o.get("template").unwrap_or(&Value::Null);
            pod::template(template, &root.field("template"), e);
        }
        ("", "ReplicationController") => workloads::replication_controller(o, e),
        ("", "Service") => service::create(o, e),
        ("", "Endpoints") => service::endpoints(o, e),
        ("", "ConfigMap") => core::config_map(o, e),
        ("", "Secret") => core::secret(o, e),
        ("", "Namespace") => core::namespace(o, e),
        ("", "Node") => core::node(o, e),
        ("", "ResourceQuota") => core::quota(o, e),
        ("", "LimitRange") => core::limit_range(o, e),
        ("", "ServiceAccount") => core::service_account(o, e),
        ("", "Event") => core::event(o, e),
        ("events.k8s.io", "Event") => core::new_event(o, e),
        ("", "PersistentVolume") => storage::volume(o, e),
        ("", "PersistentVolumeClaim") => storage::claim(o, e),
        ("apps", "Deployment") => workloads::deployment(o, e),
        ("apps", "ReplicaSet") => workloads::replica_set(o, e),
        ("apps", "DaemonSet") => workloads::daemon_set(o, e),
        ("apps", "StatefulSet") => workloads::stateful_set(o, e),
        ("batch", "Job") => job::create(o, e),
        ("batch", "CronJob") => job::cron_job(o, e),
        ("discovery.k8s.io", "EndpointSlice") => service::endpoint_slice(o, e),
        ("networking.k8s.io", "Ingress") => network::ingress(o, e),
        ("networking.k8s.io", "IngressClass") => network::ingress_class(o, e),
        ("networking.k8s.io", "NetworkPolicy") => network::policy(o, e),
        ("storage.k8s.io", "StorageClass") => storage::class(o, e),
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver(o, e),
        ("storage.k8s.io", "VolumeAttachment") => storage::attachment(o, e),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => rest::role(o, e),
        ("rbac.authorization.k8s.io", _) => rest::binding(o, e),
        ("coordination.k8s.io", "Lease") => rest::lease(o, e),
        ("policy", "PodDisruptionBudget") => rest::budget(o, e),
        ("scheduling.k8s.io", "PriorityClass") => rest::priority_class(o, e),
        ("node.k8s.io", "RuntimeClass") => rest::runtime_class(o, e),
        ("autoscaling", "HorizontalPodAutoscaler") => rest::autoscaler(o, gvk.version, e),
        ("autoscaling", "Scale") => rest::scale(o, e),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => extension::crd(o, e),
        ("certificates.k8s.io", "CertificateSigningRequest") => extension::signing_request(o, e),
        _ => {}
    }
}

/// Findings about a change: `subresource` is empty, `status`, `ephemeralcontainers`, ... The server has
/// already carried over what this subresource must not change (spec on status and the reverse).
pub fn update(gvk: &Gvk<'_>, subresource: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut e = Vec::new();
    // Kubernetes checks metadata in general and again for the kind, and lists each finding twice.
    meta::update(new, old, &mut e);
    e.extend(e.clone());
    match subresource {
        "" => changed(gvk, new, old, &mut e),
        "status" => match (gvk.group, gvk.kind) {
            ("", "Pod") => pod::update_status(new, old, &mut e),
            ("apps", kind) => workloads::status(kind, new, &mut e),
            _ => {}
        },
        _ => {}
    }
    e
}

fn changed(gvk: &Gvk<'_>, new: &Value, old: &Value, e: &mut Vec<FieldError>) {
    match (gvk.group, gvk.kind) {
        ("", "Pod") => return pod::update(new, old, e),
        ("", "ConfigMap") => core::update_map(new, old, &["data", "binaryData"], e),
        ("", "Secret") => core::update_secret(new, old, e),
        ("", "Node") => core::update_node(new, old, e),
        ("", "Service") => service::update(new, old, e),
        ("", "Event") | ("events.k8s.io", _) => return core::update_event(new, old, e),
        ("", "PersistentVolume") => storage::update_volume(new, old, e),
        ("", "PersistentVolumeClaim") => storage::update_claim(new, old, e),
        ("apps", kind @ ("Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet")) => {
            workloads::update(kind, new, old, e);
        }
        ("batch", "Job") => return job::update(new, old, e),
        ("storage.k8s.io", "StorageClass") => return storage::update_class(new, old, e),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            rest::update_binding(new, old, e);
        }
        ("scheduling.k8s.io", "PriorityClass") => return rest::update_priority_class(new, old, e),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => extension::update_crd(new, old, e),
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            return extension::update_signing_request(new, old, e);
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            kit::immutable(e, &crate::Path::root(), new, old, "addressType");
        }
        _ => {}
    }
    body(gvk, new, e);
}

#[cfg(test)]
mod tests;
