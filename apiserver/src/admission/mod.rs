//! Admission: what is checked and set by looking at other objects. Mutation first, then checks.
//!
//! The order is Kubernetes': NamespaceLifecycle, ServiceAccount, Priority, DefaultTolerationSeconds, the
//! finalizers that protect storage in use.
//!
//! References: plugin/pkg/admission.

mod limit_ranger;
mod namespace;
mod pod_security;
mod pods;

use pintle_api::object;
use serde_json::{Value, json};

use crate::registry::Endpoint;
use crate::server::{Server, Work};
use crate::status::Result;

impl Server {
    /// Before a new object is defaulted for good and validated.
    pub(crate) fn admit_create(
        &mut self,
        work: &Work,
        e: &Endpoint,
        v: &mut Value,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let _ = warnings;
        self.namespace_lifecycle(work, e, v)?;
        match (e.group.as_str(), e.kind.as_str()) {
            ("", "Pod") => {
                self.limit_defaults(v);
                self.admit_pod(v)?;
            }
            ("", "Namespace") => {
                let name = object::name(v).to_owned();
                object::set(v, &["metadata", "labels", "kubernetes.io/metadata.name"], name);
            }
            ("", "Node") => taint_new_node(v),
            ("", "PersistentVolume") => add_finalizer(v, "kubernetes.io/pv-protection"),
            ("", "PersistentVolumeClaim") => {
                add_finalizer(v, "kubernetes.io/pvc-protection");
                self.default_storage_class(v);
            }
            ("storage.k8s.io", "VolumeAttributesClass") => {
                add_finalizer(v, "kubernetes.io/vac-protection");
            }
            ("certificates.k8s.io", "CertificateSigningRequest") => {
                object::set(v, &["spec", "username"], work.who.user.clone());
                object::set(v, &["spec", "groups"], work.who.groups.clone());
                if !work.who.uid.is_empty() {
                    object::set(v, &["spec", "uid"], work.who.uid.clone());
                }
                for (key, values) in &work.who.extra {
                    object::set(v, &["spec", "extra", key], values.clone());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Before a changed object is defaulted for good and validated.
    pub(crate) fn admit_update(
        &mut self,
        work: &Work,
        e: &Endpoint,
        new: &mut Value,
        old: &Value,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let _ = (work, warnings);
        if e.group.is_empty() && e.kind == "Namespace" {
            let name = object::name(old).to_owned();
            object::set(new, &["metadata", "labels", "kubernetes.io/metadata.name"], name);
        }
        Ok(())
    }

    /// Checks on the object as it will be stored.
    pub(crate) fn validate_admission(
        &mut self,
        work: &Work,
        e: &Endpoint,
        new: Option<&Value>,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        if e.group == crate::authz::rbac::GROUP
            && let Some(new) = new
        {
            self.check_escalation(work, e, new, old)?;
        }
        if let Some(new) = new
            && work.request.subresource.is_empty()
        {
            if e.group.is_empty() && e.kind == "Namespace" {
                self.pod_security_labels(new, old, warnings)?;
            } else if old.is_none() || e.kind != "Pod" {
                self.pod_security(e, new, warnings)?;
            }
        }
        if let (Some(new), true) = (new, e.group.is_empty() && work.request.subresource.is_empty())
        {
            match (e.kind.as_str(), old) {
                ("Pod", None) => self.check_limits("pods", new)?,
                ("PersistentVolumeClaim", _) => self.check_limits("persistentvolumeclaims", new)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the object may be deleted at all.
    pub(crate) fn admit_delete(&mut self, work: &Work, e: &Endpoint, old: &Value) -> Result<()> {
        let _ = work;
        namespace::check_delete(e, old)
    }

    /// The class that is marked as the default, for a claim that names none.
    fn default_storage_class(&self, claim: &mut Value) {
        if object::at(claim, &["spec", "storageClassName"]).is_some() {
            return;
        }
        let Some(id) = self.registry.resource_of("storage.k8s.io", "storageclasses") else {
            return;
        };
        let class = self.cache.table(id).iter("").map(|o| o.parse()).find(|c| {
            object::annotation(c, "storageclass.kubernetes.io/is-default-class") == Some("true")
        });
        if let Some(class) = class {
            object::set(claim, &["spec", "storageClassName"], object::name(&class));
        }
    }
}

/// A new node takes no pods until the node controller has seen it ready (TaintNodesByCondition).
fn taint_new_node(v: &mut Value) {
    let key = "node.kubernetes.io/not-ready";
    let list = object::list_at(v, &["spec", "taints"]);
    let has = |t: &Value| {
        object::str_at(t, &["key"]) == key && object::str_at(t, &["effect"]) == "NoSchedule"
    };
    if !list.iter().any(has) {
        let mut all = list.to_vec();
        all.push(json!({"key": key, "effect": "NoSchedule"}));
        object::set(v, &["spec", "taints"], all);
    }
}

fn add_finalizer(v: &mut Value, finalizer: &str) {
    let list = object::list_at(v, &["metadata", "finalizers"]);
    if !list.iter().any(|f| f == finalizer) {
        let mut all = list.to_vec();
        all.push(finalizer.into());
        object::set(v, &["metadata", "finalizers"], all);
    }
}
