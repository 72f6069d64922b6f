//! NamespaceLifecycle: nothing is created in a namespace that is missing or ending; some are never deleted.

use pintle_api::object;
use pintle_api::status::{Cause, Status};
use serde_json::Value;

use crate::registry::Endpoint;
use crate::server::{Server, Work};
use crate::status::{Failure, Result};

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

impl Server {
    pub(crate) fn namespace_lifecycle(&self, work: &Work, e: &Endpoint, v: &Value) -> Result<()> {
        if !e.namespaced {
            return Ok(());
        }
        let namespace = object::namespace(v);
        let name = match object::name(v) {
            "" => work.request.name.as_str(),
            name => name,
        };
        let Some(ns) = self.lookup("", "namespaces", "", namespace) else {
            return Err(Failure::not_found("", "namespaces", namespace));
        };
        let ns = ns.parse();
        let ending =
            object::is_deleting(&ns) || object::str_at(&ns, &["status", "phase"]) == "Terminating";
        if ending {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let mut f = Status::forbidden(&e.group, &e.plural, name, &why);
            if let Some(d) = &mut f.details {
                d.causes.push(Cause {
                    reason: "NamespaceTerminating".into(),
                    message: format!("namespace {namespace} is being terminated"),
                    field: "metadata.namespace".into(),
                });
            }
            return Err(f);
        }
        Ok(())
    }
}

/// The namespaces that hold the cluster together cannot be deleted.
pub(super) fn check_delete(e: &Endpoint, old: &Value) -> Result<()> {
    let name = object::name(old);
    if e.group.is_empty() && e.kind == "Namespace" && IMMORTAL.contains(&name) {
        let why = "this namespace may not be deleted";
        return Err(Status::forbidden("", "namespaces", name, why));
    }
    Ok(())
}
