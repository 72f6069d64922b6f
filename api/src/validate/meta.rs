//! metadata of every object.

use super::kit::{Errors, flag, int, list, map, or_null, s, texts};
use super::text;
use crate::Gvk;
use crate::path::Path;
use crate::resources;
use crate::status::FieldError;
use serde_json::Value;

const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Which rule a kind's names follow.
pub(super) fn name_rule(gvk: &Gvk<'_>) -> fn(&str) -> Vec<String> {
    match (gvk.group, gvk.kind) {
        ("", "Namespace") => text::dns1123_label,
        ("", "Service") => text::dns1123_label,
        ("rbac.authorization.k8s.io", _) | ("certificates.k8s.io", _) => text::path_segment,
        ("networking.k8s.io", "IPAddress") => ip_name,
        ("", "Event") | ("events.k8s.io", _) => text::dns1123_subdomain,
        ("batch", "CronJob") => cron_job_name,
        ("apps", "StatefulSet") => text::dns1123_subdomain,
        ("apiregistration.k8s.io", _) => text::path_segment,
        _ => text::dns1123_subdomain,
    }
}

fn ip_name(s: &str) -> Vec<String> {
    text::ip(s)
}

/// Jobs of a CronJob append 11 characters to its name.
fn cron_job_name(s: &str) -> Vec<String> {
    let mut out = text::dns1123_subdomain(s);
    if s.len() > 52 {
        out.push(text::max_len(52));
    }
    out
}

/// metadata of a new object.
pub(super) fn create(gvk: &Gvk<'_>, object: &Value, e: &mut Errors) {
    let meta = or_null(object, "metadata");
    let root = Path::root();
    let p = root.field("metadata");
    let rule = name_rule(gvk);
    let prefix = s(meta, "generateName");
    if !prefix.is_empty() {
        // A generated name's last character is not the prefix's.
        let masked = match prefix.strip_suffix('-') {
            Some(front) => format!("{front}a"),
            None => prefix.to_owned(),
        };
        texts(e, &p.field("generateName"), prefix, rule(&masked));
    }
    let name = s(meta, "name");
    if name.is_empty() {
        e.push(FieldError::required(p.field("name"), "name or generateName is required"));
    } else {
        texts(e, &p.field("name"), name, rule(name));
    }
    namespace(gvk, meta, &p, e);
    common(meta, &p, e);
}

fn namespace(gvk: &Gvk<'_>, meta: &Value, p: &Path<'_>, e: &mut Errors) {
    let Some(r) = resources::find_kind(gvk) else { return };
    let namespace = s(meta, "namespace");
    match (r.namespaced, namespace.is_empty()) {
        (true, true) => e.push(FieldError::required(p.field("namespace"), "")),
        (true, false) => {
            texts(e, &p.field("namespace"), namespace, text::dns1123_label(namespace));
        }
        (false, false) => {
            e.push(FieldError::forbidden(p.field("namespace"), "not allowed on this type"));
        }
        (false, true) => {}
    }
}

fn common(meta: &Value, p: &Path<'_>, e: &mut Errors) {
    super::kit::non_negative(e, p, meta, &["generation"]);
    super::kit::labels(e, &p.field("labels"), or_null(meta, "labels"));
    let annotations = p.field("annotations");
    let mut size = 0;
    for (k, v) in map(meta, "annotations").into_iter().flatten() {
        size += k.len() + v.as_str().map_or(0, str::len);
        // Annotation keys may have upper case letters in their prefix.
        texts(e, &annotations, k, text::qualified_name(&k.to_lowercase()));
    }
    if size > ANNOTATIONS_BYTES_MAX {
        e.push(FieldError::too_long(annotations, ANNOTATIONS_BYTES_MAX));
    }
    owners(meta, p, e);
    finalizers(meta, p, e);
}

const OWNER: [&str; 6] = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];

fn owners(meta: &Value, p: &Path<'_>, e: &mut Errors) {
    let p = p.field("ownerReferences");
    let mut controller = String::new();
    for o in list(meta, "ownerReferences") {
        let (api_version, kind, name) = (s(o, "apiVersion"), s(o, "kind"), s(o, "name"));
        let mut empty = |key: &str, detail: &str| {
            if s(o, key).is_empty() {
                e.push(FieldError::invalid_str(p.field(key), "", detail));
            }
        };
        empty("apiVersion", "version must not be empty");
        empty("kind", "must not be empty");
        empty("name", "must not be empty");
        empty("uid", "must not be empty");
        if kind == "Event" && matches!(api_version, "v1" | "events.k8s.io/v1") {
            let shown = super::kit::ordered(o, &OWNER);
            let (group, version) = crate::gvk::split_api_version(api_version);
            let detail =
                format!("{group}/{version}, Kind={kind} is disallowed from being an owner");
            e.push(FieldError::invalid_shown(p, &shown, &detail));
        }
        if flag(o, "controller") {
            let current = format!("{kind}/{name}");
            if controller.is_empty() {
                controller = current;
            } else {
                let all = list(meta, "ownerReferences").iter();
                let all: Vec<String> = all.map(|o| super::kit::ordered(o, &OWNER)).collect();
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references \
                     for {controller} and {current}"
                );
                e.push(FieldError::invalid_shown(p, &format!("[{}]", all.join(",")), &detail));
            }
        }
    }
}

fn finalizers(meta: &Value, p: &Path<'_>, e: &mut Errors) {
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    let p = p.field("finalizers");
    for (i, f) in list(meta, "finalizers").iter().filter_map(Value::as_str).enumerate() {
        texts(e, &p, f, text::qualified_name(f));
        if !f.contains('/') && !STANDARD.contains(&f) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            e.push(FieldError::invalid_str(p.index(i), f, detail));
        }
    }
}

/// metadata of a changed object.
pub(super) fn update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (or_null(new, "metadata"), or_null(old, "metadata"));
    let root = Path::root();
    let p = root.field("metadata");
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp"] {
        if key == "deletionTimestamp" && old.get(key).is_none() {
            continue;
        }
        super::kit::immutable(e, &p, new, old, key);
    }
    if old.get("deletionTimestamp").is_some() {
        let had = list(old, "finalizers");
        let mut fresh: Vec<&str> = list(new, "finalizers")
            .iter()
            .filter(|f| !had.contains(f))
            .filter_map(Value::as_str)
            .collect();
        fresh.sort_unstable();
        if !fresh.is_empty() {
            let shown: Vec<String> = fresh.iter().map(|f| crate::status::quote(f)).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers \
                 []string{{{}}}",
                shown.join(", ")
            );
            e.push(FieldError::forbidden(p.field("finalizers"), &detail));
        }
    }
    if let (Some(a), Some(b)) = (int(new, "generation"), int(old, "generation"))
        && a < b
    {
        let detail = "must not be decremented";
        e.push(FieldError::invalid(p.field("generation"), &a.into(), detail));
    }
    common(new, &p, e);
}
