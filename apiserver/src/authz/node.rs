//! The node authorizer, in simple form: what a kubelet may do follows from the pods bound to its node.
//!
//! A node reads secrets, config maps, claims and volumes only when a pod on it references them, writes its own
//! Node, lease, CSINode and the status of its own pods, makes tokens for their service accounts, and posts
//! events. Everything that every kubelet needs alike (watching pods by node, services, ...) is here too.
//!
//! References: "Using Node Authorization"; plugin/pkg/auth/authorizer/node.

use pintle_api::object;
use serde_json::Value;

use crate::server::{Attributes, Identity, Server};

/// User name prefix of nodes.
pub const PREFIX: &str = "system:node:";

/// Name of the node that this user is.
pub fn node_of(who: &Identity) -> Option<&str> {
    let node = who.user.strip_prefix(PREFIX)?;
    who.groups.iter().any(|g| g == "system:nodes").then_some(node)
}

/// Verbs on resources that every node has.
const RULES: &[(&str, &str, &str)] = &[
    ("", "services", "get list watch"),
    ("", "nodes", "create get list watch"),
    ("", "nodes/status", "patch update"),
    ("", "pods", "get list watch create delete"),
    ("", "pods/status", "patch update"),
    ("", "pods/eviction", "create"),
    ("", "events", "create patch update"),
    ("", "endpoints", "get"),
    ("", "serviceaccounts", "get"),
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("authorization.k8s.io", "subjectaccessreviews", "create"),
    ("authorization.k8s.io", "localsubjectaccessreviews", "create"),
    ("certificates.k8s.io", "certificatesigningrequests", "create get list watch"),
    ("certificates.k8s.io", "clustertrustbundles", "get list watch"),
    ("coordination.k8s.io", "leases", "create get patch update delete list watch"),
    ("discovery.k8s.io", "endpointslices", "get list watch"),
    ("events.k8s.io", "events", "create patch update"),
    ("node.k8s.io", "runtimeclasses", "get list watch"),
    ("storage.k8s.io", "csidrivers", "get list watch"),
    ("storage.k8s.io", "csinodes", "create delete get patch update"),
    ("networking.k8s.io", "networkpolicies", "get list watch"),
    ("", "namespaces", "get list watch"),
];

impl Server {
    /// Whether the node authorizer allows this; the error is its reason.
    pub(crate) fn node_allows(&self, who: &Identity, a: &Attributes<'_>) -> Result<bool, String> {
        let Some(node) = node_of(who) else { return Ok(false) };
        if !a.path.is_empty() {
            return Ok(false);
        }
        let no_relation =
            || Err(format!("no relationship found between node '{node}' and this object"));
        match (a.group, a.resource) {
            ("", "secrets" | "configmaps") => {
                if !matches!(a.verb, "get" | "list" | "watch") {
                    return Err("can only read resources of this type".into());
                }
                if a.name.is_empty() {
                    return Err("No Object name found".into());
                }
                if self.node_uses(node, a.namespace, a.resource, a.name) {
                    Ok(true)
                } else {
                    no_relation()
                }
            }
            ("", "persistentvolumeclaims") if a.verb == "get" => {
                if self.node_uses(node, a.namespace, a.resource, a.name) {
                    Ok(true)
                } else {
                    no_relation()
                }
            }
            ("", "persistentvolumes") if a.verb == "get" => Ok(true),
            ("storage.k8s.io", "volumeattachments") if a.verb == "get" => Ok(true),
            ("", "serviceaccounts") if a.subresource == "token" => {
                if a.verb == "create" && self.node_uses(node, a.namespace, a.resource, a.name) {
                    Ok(true)
                } else {
                    no_relation()
                }
            }
            ("coordination.k8s.io", "leases") => {
                let own = a.namespace == "kube-node-lease" && (a.name == node || a.name.is_empty());
                if own {
                    Ok(true)
                } else {
                    Err("can only access node lease with the same name as the requesting node"
                        .into())
                }
            }
            _ => {
                let resource = a.resource_with_sub();
                Ok(RULES.iter().any(|(group, r, verbs)| {
                    *group == a.group && *r == resource && verbs.split(' ').any(|v| v == a.verb)
                }))
            }
        }
    }

    /// Whether a pod of this node references the object.
    fn node_uses(&self, node: &str, namespace: &str, plural: &str, name: &str) -> bool {
        let Some(id) = self.registry.resource_of("", "pods") else { return false };
        let resource = self.registry.resource(id);
        let at = resource.fields.iter().position(|f| f == "spec.nodeName");
        self.cache
            .table(id)
            .iter(namespace)
            .filter(|o| at.and_then(|i| o.fields.get(i)).is_some_and(|v| **v == *node))
            .any(|o| references(&o.parse(), plural, name))
    }
}

/// Whether a pod references this secret, config map, claim or service account.
fn references(pod: &Value, plural: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    match plural {
        "serviceaccounts" => {
            let account = object::str_at(spec, &["serviceAccountName"]);
            account == name || (account.is_empty() && name == "default")
        }
        "secrets" => mentions(
            spec,
            &["secretName", "secretRef", "secretKeyRef", "secret", "imagePullSecrets"],
            name,
        ),
        "configmaps" => mentions(spec, &["configMap", "configMapRef", "configMapKeyRef"], name),
        "persistentvolumeclaims" => mentions(spec, &["claimName"], name),
        _ => false,
    }
}

/// Whether somewhere below `v` one of `keys` holds `name`, or an object (or list of them) whose name is it.
fn mentions(v: &Value, keys: &[&str], name: &str) -> bool {
    let named = |v: &Value| v.as_str() == Some(name) || v["name"].as_str() == Some(name);
    match v {
        Value::Object(m) => m.iter().any(|(k, v)| {
            (keys.contains(&k.as_str())
                && (named(v) || v.as_array().is_some_and(|l| l.iter().any(named))))
                || mentions(v, keys, name)
        }),
        Value::Array(l) => l.iter().any(|v| mentions(v, keys, name)),
        _ => false,
    }
}
