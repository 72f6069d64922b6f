//! Webhooks, admission policies, CRDs.

use super::network::webhook_service;
use super::{Object, each, in_made, in_map, put, put_empty, text};
use serde_json::Value;

/// Objects of admissionregistration.k8s.io.
pub(super) fn object(kind: &str, o: &mut Object) {
    match kind {
        "MutatingWebhookConfiguration" => each(o, "webhooks", |w| {
            webhook(w);
            put(w, "reinvocationPolicy", "Never");
        }),
        "ValidatingWebhookConfiguration" => each(o, "webhooks", webhook),
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => in_map(o, "spec", |s| {
            put(s, "failurePolicy", "Fail");
            in_map(s, "matchConstraints", match_resources);
        }),
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            in_map(o, "spec", |s| in_map(s, "matchResources", match_resources));
        }
        _ => {}
    }
}

fn webhook(w: &mut Object) {
    put(w, "failurePolicy", "Fail");
    put(w, "matchPolicy", "Equivalent");
    put_empty(w, "namespaceSelector");
    put_empty(w, "objectSelector");
    put(w, "timeoutSeconds", 10);
    each(w, "rules", |r| put(r, "scope", "*"));
    in_map(w, "clientConfig", webhook_service);
}

fn match_resources(m: &mut Object) {
    put(m, "matchPolicy", "Equivalent");
    put_empty(m, "namespaceSelector");
    put_empty(m, "objectSelector");
    for key in ["resourceRules", "excludeResourceRules"] {
        each(m, key, |r| put(r, "scope", "*"));
    }
}

pub(super) fn crd(o: &mut Object) {
    in_map(o, "spec", |s| {
        in_map(s, "names", |n| {
            let kind = text(n, "kind").to_owned();
            if !kind.is_empty() {
                put(n, "singular", kind.to_lowercase());
                put(n, "listKind", format!("{kind}List"));
            }
        });
        in_made(s, "conversion", |c| {
            put(c, "strategy", "None");
            in_map(c, "webhook", |w| in_map(w, "clientConfig", webhook_service));
        });
    });
    let storage: Vec<Value> = o
        .get("spec")
        .and_then(|s| s.get("versions")?.as_array())
        .into_iter()
        .flatten()
        .filter(|v| v["storage"] == true)
        .take(1)
        .map(|v| v["name"].clone())
        .collect();
    in_made(o, "status", |s| {
        let empty = s.get("storedVersions").and_then(Value::as_array).is_none_or(Vec::is_empty);
        if empty && !storage.is_empty() {
            s.insert("storedVersions".to_owned(), Value::Array(storage));
        }
    });
}
