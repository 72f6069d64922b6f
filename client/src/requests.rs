//! Builders for the requests that daemons send.
//!
//! Write by patch with the resourceVersion that the decision was made against where it matters, never by putting
//! back a typed view. `Resource` says where an object lives; the constants name the usual ones.

use pintle_wire::msg::Body;
use pintle_wire::msg::api::{PatchType, Request, Verb};
use serde_json::{Value, json};

/// A resource: group, version, plural name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group, empty for core.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Plural name.
    pub resource: &'static str,
}

const fn r(group: &'static str, version: &'static str, resource: &'static str) -> Resource {
    Resource { group, version, resource }
}

/// core/v1 pods.
pub const PODS: Resource = r("", "v1", "pods");
/// core/v1 nodes.
pub const NODES: Resource = r("", "v1", "nodes");
/// core/v1 events.
pub const EVENTS: Resource = r("", "v1", "events");
/// core/v1 services.
pub const SERVICES: Resource = r("", "v1", "services");
/// core/v1 namespaces.
pub const NAMESPACES: Resource = r("", "v1", "namespaces");
/// core/v1 configmaps.
pub const CONFIG_MAPS: Resource = r("", "v1", "configmaps");
/// core/v1 secrets.
pub const SECRETS: Resource = r("", "v1", "secrets");
/// core/v1 serviceaccounts.
pub const SERVICE_ACCOUNTS: Resource = r("", "v1", "serviceaccounts");
/// coordination.k8s.io/v1 leases.
pub const LEASES: Resource = r("coordination.k8s.io", "v1", "leases");
/// discovery.k8s.io/v1 endpointslices.
pub const ENDPOINT_SLICES: Resource = r("discovery.k8s.io", "v1", "endpointslices");
/// apps/v1 deployments.
pub const DEPLOYMENTS: Resource = r("apps", "v1", "deployments");
/// apps/v1 replicasets.
pub const REPLICA_SETS: Resource = r("apps", "v1", "replicasets");
/// batch/v1 jobs.
pub const JOBS: Resource = r("batch", "v1", "jobs");

impl Resource {
    fn request(self, verb: Verb, namespace: &str, name: &str) -> Request {
        let mut request = Request::new(verb, self.group, self.version, self.resource);
        request.namespace = namespace.into();
        request.name = name.into();
        request
    }

    /// Reads one object.
    pub fn get(self, namespace: &str, name: &str) -> Request {
        self.request(Verb::Get, namespace, name)
    }

    /// Reads a collection.
    pub fn list(self, namespace: &str) -> Request {
        self.request(Verb::List, namespace, "")
    }

    /// Makes an object.
    pub fn create(self, namespace: &str, object: &Value) -> Request {
        Request { body: body(object), ..self.request(Verb::Create, namespace, "") }
    }

    /// Makes a subresource of an object (`binding`, `eviction`, `token`).
    pub fn create_sub(self, namespace: &str, name: &str, sub: &str, object: &Value) -> Request {
        let subresource = sub.into();
        Request { subresource, body: body(object), ..self.request(Verb::Create, namespace, name) }
    }

    /// Replaces an object that was read whole; its resourceVersion is the precondition.
    pub fn update(self, namespace: &str, name: &str, object: &Value) -> Request {
        Request { body: body(object), ..self.request(Verb::Update, namespace, name) }
    }

    /// Changes parts of an object (RFC 7386: `null` deletes, lists are replaced).
    pub fn merge_patch(self, namespace: &str, name: &str, patch: &Value) -> Request {
        self.patch(PatchType::Merge, namespace, name, "", patch)
    }

    /// Changes parts of an object's status.
    pub fn merge_patch_status(self, namespace: &str, name: &str, patch: &Value) -> Request {
        self.patch(PatchType::Merge, namespace, name, "status", patch)
    }

    /// Changes parts of an object or subresource: lists with merge keys (conditions by type) are merged by them.
    pub fn strategic_patch(self, namespace: &str, name: &str, sub: &str, patch: &Value) -> Request {
        self.patch(PatchType::Strategic, namespace, name, sub, patch)
    }

    /// Any patch.
    pub fn patch(
        self,
        patch_type: PatchType,
        namespace: &str,
        name: &str,
        sub: &str,
        patch: &Value,
    ) -> Request {
        Request {
            subresource: sub.into(),
            patch_type: Some(patch_type),
            body: body(patch),
            ..self.request(Verb::Patch, namespace, name)
        }
    }

    /// Deletes one object. With a uid, only the object that has it: its namesake is left alone.
    pub fn delete(self, namespace: &str, name: &str, uid: Option<&str>) -> Request {
        let mut request = self.request(Verb::Delete, namespace, name);
        request.options.precondition_uid = uid.map(Into::into);
        request
    }
}

/// Makes a patch fail with Conflict unless the object still has this resourceVersion.
pub fn at_revision(mut patch: Value, revision: u64) -> Value {
    patch["metadata"]["resourceVersion"] = json!(revision.to_string());
    patch
}

/// Binds a pod to a node; the uid makes sure that it is still the same pod.
pub fn bind(namespace: &str, pod: &str, uid: &str, node: &str) -> Request {
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod, "namespace": namespace, "uid": uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    PODS.create_sub(namespace, pod, "binding", &binding)
}

/// JSON as a request's body.
pub fn body(value: &Value) -> Body {
    // A Value always serializes.
    serde_json::to_vec(value).unwrap_or_default().into()
}
