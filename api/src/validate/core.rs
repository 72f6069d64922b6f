//! ConfigMaps, Secrets, Namespaces, Nodes, quotas, limit ranges, events.

use super::kit::{
    Errors, equal, flag, list, map, one_of, optional_text, or_null, required, s, set, texts,
};
use super::{container, text};
use crate::path::Path;
use crate::quantity::Quantity;
use crate::status::FieldError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

const DATA_BYTES_MAX: usize = 1024 * 1024;

pub(super) fn config_map(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let mut size = 0;
    for key in ["data", "binaryData"] {
        let at = root.field(key);
        for (k, v) in map(o, key).into_iter().flatten() {
            texts(e, &at.key(k), k, text::config_map_key(k));
            let n = v.as_str().map_or(0, str::len);
            size += if key == "data" { n } else { n / 4 * 3 };
            if key == "data" && map(o, "binaryData").is_some_and(|b| b.contains_key(k)) {
                let detail = format!("duplicate of key present in binaryData: {k}");
                e.push(FieldError::invalid_str(at.key(k), k, &detail));
            }
        }
    }
    if size > DATA_BYTES_MAX {
        // Kubernetes gives this finding a path that prints so.
        e.push(FieldError::too_long("[]", DATA_BYTES_MAX));
    }
}

/// Immutable maps: data stays, and immutable stays true.
pub(super) fn update_map(new: &Value, old: &Value, keys: &[&str], e: &mut Errors) {
    if !flag(old, "immutable") {
        return;
    }
    let root = Path::root();
    let detail = "field is immutable when `immutable` is set";
    if !flag(new, "immutable") {
        e.push(FieldError::forbidden(root.field("immutable"), detail));
    }
    for key in keys {
        if !equal(or_null(new, key), or_null(old, key)) {
            e.push(FieldError::forbidden(root.field(key), detail));
        }
    }
}

pub(super) fn secret(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let at = root.field("data");
    let empty = Map::new();
    let data = map(o, "data").unwrap_or(&empty);
    let mut size = 0;
    for (k, v) in data {
        texts(e, &at.key(k), k, text::config_map_key(k));
        size += v.as_str().map_or(0, str::len) / 4 * 3;
    }
    if size > DATA_BYTES_MAX {
        e.push(FieldError::too_long(at, DATA_BYTES_MAX));
    }
    let mut need = |key: &str| {
        if !data.contains_key(key) {
            e.push(FieldError::required(at.key(key), ""));
        }
    };
    match s(o, "type") {
        "kubernetes.io/tls" => ["tls.crt", "tls.key"].into_iter().for_each(need),
        "kubernetes.io/ssh-auth" => need("ssh-privatekey"),
        "kubernetes.io/basic-auth"
            if !data.contains_key("username") && !data.contains_key("password") =>
        {
            ["username", "password"].into_iter().for_each(need);
        }
        "kubernetes.io/dockerconfigjson" => docker_config(data, ".dockerconfigjson", &at, e),
        "kubernetes.io/dockercfg" => docker_config(data, ".dockercfg", &at, e),
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            if crate::object::annotation(o, name).unwrap_or("").is_empty() {
                let at = root.field("metadata");
                let at = at.field("annotations");
                e.push(FieldError::required(at.key(name), ""));
            }
        }
        _ => {}
    }
}

fn docker_config(data: &Map<String, Value>, key: &str, at: &Path<'_>, e: &mut Errors) {
    let Some(v) = data.get(key) else {
        e.push(FieldError::required(at.key(key), ""));
        return;
    };
    let bytes = STANDARD.decode(v.as_str().unwrap_or("")).unwrap_or_default();
    if let Err(why) = serde_json::from_slice::<Map<String, Value>>(&bytes) {
        let text = String::from_utf8_lossy(&bytes);
        let why = crate::decode::go_syntax_error(&text, &why);
        e.push(FieldError::invalid_str(at.key(key), "<secret contents redacted>", &why));
    }
}

pub(super) fn update_secret(new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    super::kit::immutable(e, &root, new, old, "type");
    update_map(new, old, &["data"], e);
}

pub(super) fn namespace(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let all = p.field("finalizers");
    for f in list(or_null(o, "spec"), "finalizers").iter().filter_map(Value::as_str) {
        texts(e, &all, f, text::qualified_name(f));
        if f != "kubernetes" && !f.contains('/') {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            e.push(FieldError::invalid_str(all, f, detail));
        }
    }
}

pub(super) fn node(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    let all = p.field("taints");
    let mut seen = BTreeSet::new();
    for (i, t) in list(v, "taints").iter().enumerate() {
        let p = all.index(i);
        texts(e, &p.field("key"), s(t, "key"), text::qualified_name(s(t, "key")));
        texts(e, &p.field("value"), s(t, "value"), text::label_value(s(t, "value")));
        if s(t, "effect").is_empty() {
            e.push(FieldError::required(p.field("effect"), ""));
        } else {
            one_of(e, &p, t, "effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        }
        if !seen.insert((s(t, "key"), s(t, "effect"))) {
            let detail = "taints must be unique by key and effect pair";
            let mut f = FieldError::duplicate(p, t);
            f.body = format!("{}: {detail}", f.body);
            e.push(f);
        }
    }
    let all = p.field("podCIDRs");
    for (i, c) in list(v, "podCIDRs").iter().filter_map(Value::as_str).enumerate() {
        texts(e, &all.index(i), c, text::cidr(c));
    }
    let p = root.field("status");
    let v = or_null(o, "status");
    for key in ["capacity", "allocatable"] {
        let at = p.field(key);
        for (k, x) in map(v, key).into_iter().flatten() {
            container::resource_value(k, x, &at.key(k), e);
        }
    }
}

/// A node's pod network stays once it is given, and so does its provider.
pub(super) fn update_node(new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let (n, o) = (or_null(new, "spec"), or_null(old, "spec"));
    if !s(o, "podCIDR").is_empty() && !equal(or_null(n, "podCIDRs"), or_null(o, "podCIDRs")) {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        e.push(FieldError::forbidden(p.field("podCIDRs"), detail));
    }
    if !s(o, "providerID").is_empty() && s(o, "providerID") != s(n, "providerID") {
        let detail = "node updates may not change providerID except from \"\" to valid";
        e.push(FieldError::forbidden(p.field("providerID"), detail));
    }
}

pub(super) fn quota(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    let at = p.field("hard");
    for (k, x) in map(v, "hard").into_iter().flatten() {
        let at = at.key(k);
        quota_name(k, &at, e);
        let text = x.as_str().unwrap_or("");
        let Some(q) = Quantity::parse(text) else { continue };
        if q.sign() < 0 {
            e.push(FieldError::invalid_str(at, text, "must be greater than or equal to 0"));
        }
        let whole =
            !["cpu", "memory", "storage"].iter().any(|r| k.contains(r)) || k.starts_with("count/");
        if whole && q.milli() % 1000 != 0 {
            e.push(FieldError::invalid_str(at, text, "must be an integer"));
        }
    }
    scopes(v, &p, e);
}

fn quota_name(name: &str, p: &Path<'_>, e: &mut Errors) {
    const STANDARD_NAMES: [&str; 19] = [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.storage",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "persistentvolumeclaims",
        "configmaps",
        "services.nodeports",
        "services.loadbalancers",
    ];
    let complaints = text::qualified_name(name);
    let good = complaints.is_empty();
    texts(e, p, name, complaints);
    if name.contains('/') {
        return;
    }
    let known = STANDARD_NAMES.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-");
    if !known {
        if good {
            let detail = "must be a standard resource type or fully qualified";
            e.push(FieldError::invalid_str(p, name, detail));
        }
        e.push(FieldError::invalid_str(p, name, "must be a standard resource for quota"));
    }
}

/// A scope that looks at pods can count nothing else.
fn scope_fits(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            resource.contains("storage") || resource == "persistentvolumeclaims"
        }
        _ => {
            matches!(resource, "pods" | "count/pods" | "cpu" | "memory" | "ephemeral-storage")
                || resource.starts_with("limits.")
                || (resource.starts_with("requests.") && resource != "requests.storage")
        }
    }
}

fn scopes(v: &Value, p: &Path<'_>, e: &mut Errors) {
    const KNOWN: [&str; 7] = [
        "Terminating",
        "NotTerminating",
        "BestEffort",
        "NotBestEffort",
        "PriorityClass",
        "CrossNamespacePodAffinity",
        "VolumeAttributesClass",
    ];
    let at = p.field("scopes");
    let given: Vec<&str> = list(v, "scopes").iter().filter_map(Value::as_str).collect();
    let shown = or_null(v, "scopes");
    for scope in &given {
        if !KNOWN.contains(scope) {
            e.push(FieldError::invalid(at, shown, "unsupported scope"));
            continue;
        }
        for name in map(v, "hard").into_iter().flatten().map(|(k, _)| k) {
            if !scope_fits(scope, name) {
                e.push(FieldError::invalid(at, shown, "unsupported scope applied to resource"));
            }
        }
    }
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if given.contains(&a) && given.contains(&b) {
            e.push(FieldError::invalid(at, shown, "conflicting scopes"));
        }
    }
    let at = p.field("scopeSelector");
    let at = at.field("matchExpressions");
    for x in list(or_null(v, "scopeSelector"), "matchExpressions") {
        let (operator, scope) = (s(x, "operator"), s(x, "scopeName"));
        let simple =
            !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && KNOWN.contains(&scope);
        let path = at.field("operator");
        if !["In", "NotIn", "Exists", "DoesNotExist"].contains(&operator) {
            e.push(FieldError::invalid_str(path, operator, "not a valid selector operator"));
        } else if simple && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                          ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                          ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            e.push(FieldError::invalid_str(path, operator, detail));
        }
    }
}

pub(super) fn limit_range(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let all = root.field("spec");
    let all = all.field("limits");
    let mut types = BTreeSet::new();
    for (i, x) in list(or_null(o, "spec"), "limits").iter().enumerate() {
        let p = all.index(i);
        let kind = s(x, "type");
        if !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind) && !kind.contains('/') {
            let detail = "must be a standard limit type or fully qualified";
            e.push(FieldError::invalid_str(p.field("type"), kind, detail));
        }
        if !types.insert(kind) {
            e.push(FieldError::duplicate(p.field("type"), &kind.into()));
        }
        limit_item(x, kind, &p, e);
    }
}

fn limit_item(x: &Value, kind: &str, p: &Path<'_>, e: &mut Errors) {
    let q = |key: &str, r: &str| map(x, key).and_then(|m| Quantity::parse(m.get(r)?.as_str()?));
    if kind == "Pod" {
        for key in ["default", "defaultRequest"] {
            if map(x, key).is_some_and(|m| !m.is_empty()) {
                let detail = "may not be specified when `type` is 'Pod'";
                e.push(FieldError::forbidden(p.field(key), detail));
            }
        }
    }
    if kind == "PersistentVolumeClaim"
        && q("min", "storage").is_none()
        && q("max", "storage").is_none()
    {
        let detail =
            "either minimum or maximum storage value is required, but neither was provided";
        e.push(FieldError::required(p.field("limits"), detail));
    }
    let mut names = BTreeSet::new();
    for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        names.extend(map(x, key).into_iter().flatten().map(|(k, _)| k.as_str()));
    }
    // (field, its value is shown, lower, its name, upper, its name)
    const RULES: [(&str, &str, &str, &str, &str); 6] = [
        ("min", "min", "min value", "max", "max value"),
        ("defaultRequest", "min", "min value", "defaultRequest", "default request value"),
        ("defaultRequest", "defaultRequest", "default request value", "max", "max value"),
        (
            "defaultRequest",
            "defaultRequest",
            "default request value",
            "default",
            "default limit value",
        ),
        ("default", "min", "min value", "default", "default value"),
        ("default", "default", "default value", "max", "max value"),
    ];
    for r in names {
        for (field, low, low_name, high, high_name) in RULES {
            let (Some(a), Some(b)) = (q(low, r), q(high, r)) else { continue };
            if a.nanos() > b.nanos() {
                // Kubernetes shows the lower bound in one of these and the field in the others.
                let shown = match (field, low) {
                    ("defaultRequest", "min") => b,
                    ("default", "default") => q("max", r).unwrap_or(a),
                    ("default", "min") => a,
                    _ => a,
                };
                let detail = format!("{low_name} {a} is greater than {high_name} {b}");
                let shown = shown.canonical();
                e.push(FieldError::invalid_str(p.field(field).key(r), &shown, &detail));
            }
        }
        if let Some(ratio) = q("maxLimitRequestRatio", r)
            && ratio.nanos() < 1_000_000_000
        {
            let detail = format!("ratio {ratio} is less than 1");
            let at = p.field("maxLimitRequestRatio");
            e.push(FieldError::invalid_str(at.key(r), &ratio.canonical(), &detail));
        }
    }
}

/// An event of core/v1: it lies in its object's namespace.
pub(super) fn event(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let about = or_null(o, "involvedObject");
    let (namespace, of) = (crate::object::namespace(o), s(about, "namespace"));
    let cluster = of.is_empty() && matches!(namespace, "default" | "");
    if namespace != of && !cluster && !(of.is_empty() && namespace == "kube-system") {
        let at = root.field("involvedObject");
        e.push(FieldError::invalid_str(
            at.field("namespace"),
            of,
            "does not match event.namespace",
        ));
    }
}

/// An event of events.k8s.io/v1.
pub(super) fn new_event(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let about = or_null(o, "regarding");
    let (namespace, of) = (crate::object::namespace(o), s(about, "namespace"));
    let cluster = of.is_empty() && matches!(namespace, "default" | "" | "kube-system");
    if namespace != of && !cluster {
        let at = root.field("involvedObject");
        e.push(FieldError::invalid_str(
            at.field("namespace"),
            of,
            "does not match event.namespace",
        ));
    }
    if set(o, "eventTime").is_none() {
        e.push(FieldError::required(root.field("eventTime"), ""));
    }
    let kind = s(o, "type");
    if !matches!(kind, "Normal" | "Warning") {
        let detail = format!("has invalid value: {kind}");
        e.push(FieldError::invalid_str(root.field("type"), "", &detail));
    }
    // An event without its time is an old one, and is not held to the rest.
    if set(o, "eventTime").is_none() {
        return;
    }
    let controller = s(o, "reportingController");
    texts(e, &root.field("reportingController"), controller, text::qualified_name(controller));
    for key in ["reportingInstance", "action", "reason"] {
        required(e, &root, o, key);
    }
}

/// Fields of an event that stay.
pub(super) fn update_event(new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    for key in ["action", "reason", "eventTime", "reportingInstance", "reportingController", "type"]
    {
        // Kubernetes looks at these twice and lists each finding twice.
        super::kit::immutable(e, &root, new, old, key);
        super::kit::immutable(e, &root, new, old, key);
    }
}

pub(super) fn service_account(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let at = root.field("secrets");
    for (i, x) in list(o, "secrets").iter().enumerate() {
        optional_text(e, &at.index(i), x, "name", text::dns1123_subdomain);
    }
}
