//! Namespaces: what every one has (a service account, the cluster's CA), and how one ends.
//!
//! A namespace that is being deleted is emptied, pods first (KEP-5080), then everything else; when the view shows
//! nothing in it any more, its finalizer goes.

use crate::Kind;
use crate::manager::{Change, Controller};
use crate::plan::{Action, Plan};
use crate::view::View;
use pintle_base::Now;
use pintle_client::Key;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Empties and finalizes namespaces.
pub struct Namespaces;

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn wake(&self, change: &Change<'_>, view: View<'_>, keys: &mut BTreeSet<Key>) {
        if change.kind == Kind::Namespace {
            keys.insert(change.key.to_owned());
        } else if let Some(ns) = change.object().and_then(|o| o["metadata"]["namespace"].as_str())
            && view.get(Kind::Namespace, ns).is_some_and(terminating)
        {
            keys.insert(ns.to_owned());
        }
    }

    fn plan(&self, key: &str, view: View<'_>, _now: Now) -> Plan {
        let mut plan = Plan::default();
        let Some(ns) = view.get(Kind::Namespace, key) else { return plan };
        let finalizers = ns["spec"]["finalizers"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !terminating(ns) || !finalizers.iter().any(|f| f == "kubernetes") {
            return plan;
        }
        let pods_left = view.list_in(Kind::Pod, key).next().is_some();
        let mut left = false;
        for kind in Kind::ALL.iter().copied().filter(|k| k.namespaced()) {
            let mut objects = view.list_in(kind, key).peekable();
            if objects.peek().is_none() {
                continue;
            }
            left = true;
            let untouched = objects.any(|o| o["metadata"]["deletionTimestamp"].is_null());
            if untouched && (kind == Kind::Pod || !pods_left) {
                plan.actions.push(Action::DeleteCollection { kind, namespace: key.to_owned() });
            }
        }
        if !left {
            plan.actions.push(Action::DeleteEvents { namespace: key.to_owned() });
            let mut object = ns.clone();
            let rest: Vec<Value> =
                finalizers.iter().filter(|f| *f != "kubernetes").cloned().collect();
            object["spec"]["finalizers"] = json!(rest);
            let key = key.to_owned();
            plan.actions.push(Action::UpdateSub {
                kind: Kind::Namespace,
                key,
                subresource: "finalize",
                object,
            });
        }
        plan
    }
}

/// Being deleted.
pub fn terminating(ns: &Value) -> bool {
    !ns["metadata"]["deletionTimestamp"].is_null()
}

/// Keeps a service account `default` and the ConfigMap `kube-root-ca.crt` in every namespace.
pub struct Furnishings {
    /// PEM of the cluster's CA; empty = publish none.
    pub root_ca_pem: String,
}

const ROOT_CA: &str = "kube-root-ca.crt";

impl Controller for Furnishings {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    fn wake(&self, change: &Change<'_>, _view: View<'_>, keys: &mut BTreeSet<Key>) {
        let (namespace, name) = crate::plan::split(change.key);
        match change.kind {
            Kind::Namespace => keys.insert(change.key.to_owned()),
            Kind::ServiceAccount if name == "default" => keys.insert(namespace.to_owned()),
            Kind::ConfigMap if name == ROOT_CA => keys.insert(namespace.to_owned()),
            _ => false,
        };
    }

    fn plan(&self, key: &str, view: View<'_>, _now: Now) -> Plan {
        let mut plan = Plan::default();
        if view.get(Kind::Namespace, key).is_none_or(terminating) {
            return plan;
        }
        if view.get_in(Kind::ServiceAccount, key, "default").is_none() {
            let sa = json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": key},
            });
            plan.actions.push(Action::Create(Kind::ServiceAccount, sa));
        }
        if self.root_ca_pem.is_empty() {
            return plan;
        }
        let data = json!({"ca.crt": self.root_ca_pem});
        match view.get_in(Kind::ConfigMap, key, ROOT_CA) {
            Some(cm) if cm["data"] == data => {}
            Some(cm) => {
                let mut next = cm.clone();
                next["data"] = data;
                plan.actions.push(Action::Update(Kind::ConfigMap, next));
            }
            None => plan.actions.push(Action::Create(
                Kind::ConfigMap,
                json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "data": data,
                    "metadata": {
                        "name": ROOT_CA, "namespace": key,
                    },
                }),
            )),
        }
        plan
    }
}
