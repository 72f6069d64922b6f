//! Environment of containers.

use super::kit::{Errors, list, required, s, set, texts};
use super::text;
use crate::path::Path;
use crate::status::FieldError;
use serde_json::Value;

/// Fields of a pod that may be read through the downward API.
const CONVERTIBLE: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const IN_ENV: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const IN_VOLUMES: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// Where a field reference stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Env,
    Volume,
}

pub(super) fn check(c: &Value, p: &Path<'_>, e: &mut Errors) {
    let all = p.field("env");
    for (i, v) in list(c, "env").iter().enumerate() {
        let p = all.index(i);
        let name = s(v, "name");
        if name.is_empty() {
            e.push(FieldError::required(p.field("name"), ""));
        } else {
            texts(e, &p.field("name"), name, text::env_var_name(name));
        }
        if let Some(from) = set(v, "valueFrom") {
            value_from(from, !s(v, "value").is_empty(), &p.field("valueFrom"), e);
        }
    }
    let all = p.field("envFrom");
    for (i, v) in list(c, "envFrom").iter().enumerate() {
        let p = all.index(i);
        if !s(v, "prefix").is_empty() {
            texts(e, &p.field("prefix"), s(v, "prefix"), text::env_var_name(s(v, "prefix")));
        }
        let mut found = 0;
        for key in ["configMapRef", "secretRef"] {
            if let Some(r) = set(v, key) {
                found += 1;
                required(e, &p.field(key), r, "name");
            }
        }
        // Kubernetes names the list here and not the item.
        match found {
            0 => {
                let detail = "must specify one of: `configMapRef` or `secretRef`";
                e.push(FieldError::invalid_str(all, "", detail));
            }
            1 => {}
            _ => {
                let detail = "may not have more than one field specified at a time";
                e.push(FieldError::invalid_str(all, "", detail));
            }
        }
    }
}

fn value_from(from: &Value, has_value: bool, p: &Path<'_>, e: &mut Errors) {
    let mut found = 0;
    for key in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let Some(r) = set(from, key) else { continue };
        found += 1;
        let p = p.field(key);
        match key {
            "fieldRef" => field_ref(r, Use::Env, &p, e),
            "resourceFieldRef" => resource_ref(r, Use::Env, &p, e),
            "fileKeyRef" => {
                required(e, &p, r, "key");
                required(e, &p, r, "volumeName");
                required(e, &p, r, "path");
            }
            _ => {
                required(e, &p, r, "name");
                if required(e, &p, r, "key") {
                    texts(e, &p.field("key"), s(r, "key"), text::config_map_key(s(r, "key")));
                }
            }
        }
    }
    let complaint = if found == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
         `fileKeyRef`"
    } else if has_value {
        "may not be specified when `value` is not empty"
    } else if found > 1 {
        "may not have more than one field specified at a time"
    } else {
        return;
    };
    e.push(FieldError::invalid_str(p, "", complaint));
}

/// A reference to a field of the pod.
pub(super) fn field_ref(r: &Value, place: Use, p: &Path<'_>, e: &mut Errors) {
    if !required(e, p, r, "fieldPath") {
        return;
    }
    let path = s(r, "fieldPath");
    let at = p.field("fieldPath");
    // `metadata.labels['key']`.
    if let Some((front, rest)) = path.split_once('[') {
        let key = rest.strip_suffix(']').map(|k| k.trim_matches(['\'', '"']));
        match (front, key) {
            ("metadata.labels", Some(key)) => texts(e, &at, key, text::qualified_name(key)),
            ("metadata.annotations", Some(key)) => {
                texts(e, &at, key, text::qualified_name(&key.to_lowercase()));
            }
            _ => {
                let detail = format!(
                    "error converting fieldPath: field label does not support subscript: {path}"
                );
                e.push(FieldError::invalid_str(at, path, &detail));
            }
        }
        return;
    }
    if !CONVERTIBLE.contains(&path) {
        let detail = format!("error converting fieldPath: field label not supported: {path}");
        e.push(FieldError::invalid_str(at, path, &detail));
        return;
    }
    let allowed: &[&str] = if place == Use::Env { &IN_ENV } else { &IN_VOLUMES };
    if !allowed.contains(&path) {
        e.push(FieldError::not_supported(at, path, allowed));
    }
}

/// A reference to a container's resource.
pub(super) fn resource_ref(r: &Value, place: Use, p: &Path<'_>, e: &mut Errors) {
    const NAMES: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    if place == Use::Volume {
        required(e, p, r, "containerName");
    }
    if !required(e, p, r, "resource") {
        return;
    }
    let name = s(r, "resource");
    let huge = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if !NAMES.contains(&name) && !huge {
        e.push(FieldError::not_supported(p.field("resource"), name, &NAMES));
    }
}
