//! Pods and pod templates.

use super::container::{self, Pod, Role};
use super::kit::{
    Errors, equal, flag, in_range, int, list, one_of, one_of_if_set, optional_text, or_null, s,
    set, texts,
};
use super::{scheduling, security, text, volumes};
use crate::path::Path;
use crate::status::FieldError;
use serde_json::Value;
use std::collections::BTreeSet;

/// A new Pod.
pub(super) fn create(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    spec(v, &p, e);
    if !list(v, "ephemeralContainers").is_empty() {
        e.push(FieldError::forbidden(p.field("ephemeralContainers"), "cannot be set on create"));
    }
}

/// `spec` of a pod or template.
pub(super) fn spec(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let names = volumes::check(v, p, e);
    let mut shared = Pod {
        volumes: names,
        host_users: v.get("hostUsers").and_then(Value::as_bool),
        names: BTreeSet::new(),
        host_ports: BTreeSet::new(),
    };
    containers(v, &mut shared, p, e);
    if s(v, "restartPolicy").is_empty() {
        e.push(FieldError::required(p.field("restartPolicy"), ""));
    } else {
        one_of(e, p, v, "restartPolicy", &["Always", "OnFailure", "Never"]);
    }
    const DNS: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(e, p, v, "dnsPolicy", &DNS);
    dns_config(v, p, e);
    in_range(e, p, v, "activeDeadlineSeconds", 1, i64::from(i32::MAX));
    for key in ["hostname", "subdomain"] {
        optional_text(e, p, v, key, text::dns1123_label);
    }
    for key in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        optional_text(e, p, v, key, text::dns1123_subdomain);
    }
    one_of_if_set(e, p, v, "preemptionPolicy", &["Never", "PreemptLowerPriority"]);
    host_aliases(v, p, e);
    let gates = p.field("readinessGates");
    for (i, g) in list(v, "readinessGates").iter().enumerate() {
        let kind = s(g, "conditionType");
        texts(e, &gates.index(i).field("conditionType"), kind, text::qualified_name(kind));
    }
    if let Some(os) = set(v, "os") {
        let name = s(os, "name");
        if name.is_empty() {
            e.push(FieldError::required(p.field("os").field("name"), "cannot be empty"));
        } else if !["linux", "windows"].contains(&name) {
            e.push(FieldError::not_supported(p.field("os"), name, &["linux", "windows"]));
        }
    }
    if v.get("hostUsers").and_then(Value::as_bool) == Some(false) {
        for key in ["hostNetwork", "hostPID", "hostIPC"] {
            if flag(v, key) {
                e.push(FieldError::forbidden(p.field(key), "when `hostUsers` is false"));
            }
        }
    }
    for (name, q) in super::kit::map(v, "overhead").into_iter().flatten() {
        container::resource_value(name, q, &p.field("overhead").key(name), e);
    }
    security::pod(v, p, e);
    scheduling::check(v, p, e);
}

fn containers<'a>(v: &'a Value, shared: &mut Pod<'a>, p: &Path<'_>, e: &mut Errors) {
    if list(v, "containers").is_empty() {
        e.push(FieldError::required(p.field("containers"), ""));
    }
    for (key, role) in [
        ("containers", Role::Regular),
        ("initContainers", Role::Init),
        ("ephemeralContainers", Role::Ephemeral),
    ] {
        let p = p.field(key);
        if role == Role::Init {
            // Init containers run one after the other and may share host ports.
            shared.host_ports.clear();
        }
        for (i, c) in list(v, key).iter().enumerate() {
            container::check(c, role, shared, &p.index(i), e);
        }
    }
}

fn dns_config(v: &Value, p: &Path<'_>, e: &mut Errors) {
    const NAMESERVERS_MAX: usize = 3;
    const SEARCHES_MAX: usize = 32;
    let none = s(v, "dnsPolicy") == "None";
    let p = p.field("dnsConfig");
    let Some(c) = set(v, "dnsConfig") else {
        if none {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            e.push(FieldError::required(p, detail));
        }
        return;
    };
    let servers = list(c, "nameservers");
    if none && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        e.push(FieldError::required(p.field("nameservers"), detail));
    }
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        e.push(FieldError::invalid(p.field("nameservers"), or_null(c, "nameservers"), &detail));
    }
    let at = p.field("nameservers");
    for (i, x) in servers.iter().filter_map(Value::as_str).enumerate() {
        texts(e, &at.index(i), x, text::ip(x));
    }
    let searches = list(c, "searches");
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        e.push(FieldError::invalid(p.field("searches"), or_null(c, "searches"), &detail));
    }
    let at = p.field("searches");
    for (i, x) in searches.iter().filter_map(Value::as_str).enumerate() {
        let bare = x.strip_suffix('.').unwrap_or(x);
        if x != "." {
            texts(e, &at.index(i), x, text::dns_search(bare));
        }
    }
    let at = p.field("options");
    for (i, x) in list(c, "options").iter().enumerate() {
        if s(x, "name").is_empty() {
            e.push(FieldError::required(at.index(i), "must not be empty"));
        }
    }
}

fn host_aliases(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let all = p.field("hostAliases");
    for (i, a) in list(v, "hostAliases").iter().enumerate() {
        let p = all.index(i);
        let ip = s(a, "ip");
        texts(e, &p.field("ip"), ip, text::ip(ip));
        let names = p.field("hostnames");
        for (j, h) in list(a, "hostnames").iter().filter_map(Value::as_str).enumerate() {
            texts(e, &names.index(j), h, text::dns1123_subdomain(h));
        }
    }
}

/// `template` of a workload. Errors carry the template's path.
pub(super) fn template(t: &Value, p: &Path<'_>, e: &mut Errors) {
    super::kit::labels(
        e,
        &p.field("metadata").field("labels"),
        crate::object::at(t, &["metadata", "labels"]).unwrap_or(&Value::Null),
    );
    spec(or_null(t, "spec"), &p.field("spec"), e);
}

/// A changed Pod.
pub(super) fn update(new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let (n, o) = (or_null(new, "spec"), or_null(old, "spec"));
    let count = |v: &Value, k: &str| list(v, k).len();
    for key in ["containers", "initContainers"] {
        if count(n, key) != count(o, key) {
            let detail = "pod updates may not add or remove containers";
            e.push(FieldError::forbidden(p.field(key), detail));
            return;
        }
    }
    for key in ["containers", "initContainers"] {
        let p = p.field(key);
        for (i, c) in list(n, key).iter().enumerate() {
            let image = s(c, "image");
            if image.is_empty() {
                e.push(FieldError::required(p.index(i).field("image"), ""));
            } else if image.trim() != image {
                let detail = "must not have leading or trailing whitespace";
                e.push(FieldError::invalid_str(p.index(i).field("image"), image, detail));
            }
        }
    }
    deadline(n, o, &p, e);
    tolerations(n, o, &p, e);
    rest(n, o, &p, e);
}

fn deadline(n: &Value, o: &Value, p: &Path<'_>, e: &mut Errors) {
    let p = p.field("activeDeadlineSeconds");
    match (int(n, "activeDeadlineSeconds"), int(o, "activeDeadlineSeconds")) {
        (Some(n), Some(o)) if n > o => {
            let detail = "must be less than or equal to previous value";
            e.push(FieldError::invalid(p, &n.into(), detail));
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            e.push(FieldError::invalid(p, &Value::Null, detail));
        }
        (Some(n), None) => {
            for c in text::in_range(n, 0, i64::from(i32::MAX)) {
                e.push(FieldError::invalid(p, &n.into(), &c));
            }
        }
        _ => {}
    }
}

fn tolerations(n: &Value, o: &Value, p: &Path<'_>, e: &mut Errors) {
    let without_time = |t: &Value| {
        let mut t = t.clone();
        crate::object::remove(&mut t, &["tolerationSeconds"]);
        t
    };
    let new: Vec<Value> = list(n, "tolerations").iter().map(without_time).collect();
    if list(o, "tolerations").iter().any(|t| !new.contains(&without_time(t))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        e.push(FieldError::forbidden(p.field("tolerations"), detail));
    }
}

/// Everything that no rule above allows to change.
fn rest(n: &Value, o: &Value, p: &Path<'_>, e: &mut Errors) {
    let mut masked = n.clone();
    for key in ["containers", "initContainers"] {
        let images: Vec<Value> = list(o, key).iter().map(|c| or_null(c, "image").clone()).collect();
        if let Some(Value::Array(items)) = masked.get_mut(key) {
            for (c, image) in items.iter_mut().zip(images) {
                crate::object::set(c, &["image"], image);
            }
        }
    }
    for key in ["activeDeadlineSeconds", "tolerations"] {
        crate::object::set(&mut masked, &[key], or_null(o, key).clone());
    }
    let grace = |v: &Value| int(v, "terminationGracePeriodSeconds");
    if grace(o).is_some_and(|g| g < 0) && grace(n) == Some(1) {
        let was = or_null(o, "terminationGracePeriodSeconds").clone();
        crate::object::set(&mut masked, &["terminationGracePeriodSeconds"], was);
    }
    // Pods behind gates may still narrow where they run.
    if !list(o, "schedulingGates").is_empty() {
        for key in ["schedulingGates", "nodeSelector", "affinity"] {
            crate::object::set(&mut masked, &[key], or_null(o, key).clone());
        }
    }
    if !equal(&masked, o) {
        let detail = "pod updates may not change fields other than \
                      `spec.containers[*].image`,`spec.initContainers[*].image`,\
                      `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
                      tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
                      was previously negative)";
        e.push(FieldError::forbidden(p, detail));
    }
}

/// A changed status of a Pod.
pub(super) fn update_status(new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("status");
    let (n, o) = (or_null(new, "status"), or_null(old, "status"));
    let nominated = s(n, "nominatedNodeName");
    if nominated != s(o, "nominatedNodeName")
        && !nominated.is_empty()
        && !s(or_null(new, "spec"), "nodeName").is_empty()
    {
        let detail = "may not be set on pods that are already bound to a node";
        e.push(FieldError::forbidden(p.field("nominatedNodeName"), detail));
    }
    let ips = p.field("podIPs");
    for (i, ip) in list(n, "podIPs").iter().enumerate() {
        texts(e, &ips.index(i), s(ip, "ip"), text::ip(s(ip, "ip")));
    }
    if !s(o, "qosClass").is_empty() {
        super::kit::immutable(e, &p, n, o, "qosClass");
    }
    container_states(n, o, or_null(new, "spec"), &p, e);
}

/// Containers that have ended do not start again unless the pod's policy says so.
fn container_states(n: &Value, o: &Value, spec: &Value, p: &Path<'_>, e: &mut Errors) {
    if s(spec, "restartPolicy") == "Always" {
        return;
    }
    let p = p.field("containerStatuses");
    let state = |c: &Value, k: &str| crate::object::at(c, &["state", k]).is_some();
    for (i, c) in list(n, "containerStatuses").iter().enumerate() {
        let before = list(o, "containerStatuses").iter().find(|b| s(b, "name") == s(c, "name"));
        let Some(before) = before else { continue };
        let ok = state(before, "terminated")
            && crate::object::int_at(before, &["state", "terminated", "exitCode"]).unwrap_or(0)
                == 0;
        let ended_for_good =
            state(before, "terminated") && (s(spec, "restartPolicy") == "Never" || ok);
        if ended_for_good && !state(c, "terminated") {
            let detail = "may not be transitioned to non-terminated state";
            e.push(FieldError::forbidden(p.index(i).field("state"), detail));
        }
    }
}
