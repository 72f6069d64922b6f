//! Containers: names, images, ports, environment, mounts, probes, resources.

use super::kit::{
    Errors, flag, int, list, map, non_negative, one_of, one_of_if_set, or_null, port, required, s,
    set, texts,
};
use super::{security, text};
use crate::path::Path;
use crate::quantity::Quantity;
use crate::status::FieldError;
use serde_json::Value;
use std::collections::BTreeSet;

/// What the containers of a pod share.
pub(super) struct Pod<'a> {
    /// Names of the volumes.
    pub volumes: BTreeSet<&'a str>,
    /// `hostUsers` as given.
    pub host_users: Option<bool>,
    /// Container names met so far.
    pub names: BTreeSet<&'a str>,
    /// Host ports met so far, `TCP//80`.
    pub host_ports: BTreeSet<String>,
}

/// Which list a container stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Regular,
    Init,
    Ephemeral,
}

pub(super) fn check<'a>(c: &'a Value, role: Role, pod: &mut Pod<'a>, p: &Path<'_>, e: &mut Errors) {
    name(c, pod, p, e);
    let image = s(c, "image");
    if image.is_empty() {
        e.push(FieldError::required(p.field("image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        e.push(FieldError::invalid_str(p.field("image"), image, detail));
    }
    one_of(e, p, c, "imagePullPolicy", &["Always", "IfNotPresent", "Never"]);
    one_of(e, p, c, "terminationMessagePolicy", &["FallbackToLogsOnError", "File"]);
    restart_policy(c, role, p, e);
    if role != Role::Ephemeral {
        ports(c, pod, p, e);
    }
    super::env::check(c, p, e);
    mounts(c, pod, p, e);
    handlers(c, role, p, e);
    resources(or_null(c, "resources"), &p.field("resources"), e);
    security::container(c, pod.host_users, &p.field("securityContext"), e);
}

fn name<'a>(c: &'a Value, pod: &mut Pod<'a>, p: &Path<'_>, e: &mut Errors) {
    let name = s(c, "name");
    let p = p.field("name");
    if name.is_empty() {
        e.push(FieldError::required(p, ""));
        return;
    }
    texts(e, &p, name, text::dns1123_label(name));
    if !pod.names.insert(name) {
        e.push(FieldError::duplicate(p, &name.into()));
    }
}

fn restart_policy(c: &Value, role: Role, p: &Path<'_>, e: &mut Errors) {
    if set(c, "restartPolicy").is_none() {
        return;
    }
    match role {
        Role::Init | Role::Regular => {
            one_of(e, p, c, "restartPolicy", &["Always", "Never", "OnFailure"]);
        }
        Role::Ephemeral => {
            let detail = "cannot be set for an Ephemeral Container";
            e.push(FieldError::forbidden(p.field("restartPolicy"), detail));
        }
    }
}

fn ports(c: &Value, pod: &mut Pod<'_>, p: &Path<'_>, e: &mut Errors) {
    let p = p.field("ports");
    let mut names = BTreeSet::new();
    for (i, x) in list(c, "ports").iter().enumerate() {
        let p = p.index(i);
        let name = s(x, "name");
        if !name.is_empty() {
            let complaints = text::port_name(name);
            if complaints.is_empty() && !names.insert(name) {
                e.push(FieldError::duplicate(p.field("name"), &name.into()));
            }
            texts(e, &p.field("name"), name, complaints);
        }
        match int(x, "containerPort").unwrap_or(0) {
            0 => e.push(FieldError::required(p.field("containerPort"), "")),
            _ => super::kit::in_range(e, &p, x, "containerPort", 1, 65535),
        }
        let host = int(x, "hostPort").unwrap_or(0);
        if host != 0 {
            super::kit::in_range(e, &p, x, "hostPort", 1, 65535);
            let key = format!("{}/{}/{host}", s(x, "protocol"), s(x, "hostIP"));
            if !pod.host_ports.insert(key.clone()) {
                e.push(FieldError::duplicate(p.field("hostPort"), &key.into()));
            }
        }
        one_of(e, &p, x, "protocol", &["SCTP", "TCP", "UDP"]);
        super::kit::optional_text(e, &p, x, "hostIP", text::ip);
    }
}

fn mounts(c: &Value, pod: &Pod<'_>, p: &Path<'_>, e: &mut Errors) {
    let all = p.field("volumeMounts");
    let mut paths = BTreeSet::new();
    for (i, m) in list(c, "volumeMounts").iter().enumerate() {
        let p = all.index(i);
        let (name, at) = (s(m, "name"), s(m, "mountPath"));
        if name.is_empty() {
            e.push(FieldError::required(p.field("name"), ""));
        } else if !pod.volumes.contains(name) {
            e.push(FieldError::not_found(p.field("name"), name));
        }
        if at.is_empty() {
            e.push(FieldError::required(p.field("mountPath"), ""));
        }
        if !paths.insert(at) {
            e.push(FieldError::invalid_str(p.field("mountPath"), at, "must be unique"));
        }
        // Kubernetes names the list here and not the item.
        for key in ["subPath", "subPathExpr"] {
            super::volumes::descending(s(m, key), &all.field(key), e);
        }
        if !s(m, "subPath").is_empty() && !s(m, "subPathExpr").is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            e.push(FieldError::invalid_str(all.field("subPathExpr"), s(m, "subPathExpr"), detail));
        }
        if set(m, "mountPropagation").is_some() {
            one_of(e, &all, m, "mountPropagation", &["Bidirectional", "HostToContainer", "None"]);
            let privileged = flag(or_null(c, "securityContext"), "privileged");
            if s(m, "mountPropagation") == "Bidirectional" && !privileged {
                let detail =
                    "Bidirectional mount propagation is available only to privileged containers";
                e.push(FieldError::forbidden(all.field("mountPropagation"), detail));
            }
        }
        one_of_if_set(e, &p, m, "recursiveReadOnly", &["Disabled", "Enabled", "IfPossible"]);
    }
    let all = p.field("volumeDevices");
    let mut devices = BTreeSet::new();
    for (i, d) in list(c, "volumeDevices").iter().enumerate() {
        let p = all.index(i);
        let (name, at) = (s(d, "name"), s(d, "devicePath"));
        if name.is_empty() {
            e.push(FieldError::required(p.field("name"), ""));
        } else if !pod.volumes.contains(name) {
            e.push(FieldError::not_found(p.field("name"), name));
        }
        if at.is_empty() {
            e.push(FieldError::required(p.field("devicePath"), ""));
        }
        if !devices.insert(at) {
            e.push(FieldError::invalid_str(p.field("devicePath"), at, "must be unique"));
        }
    }
}

fn handlers(c: &Value, role: Role, p: &Path<'_>, e: &mut Errors) {
    let sidecar = role == Role::Init && s(c, "restartPolicy") == "Always";
    let forbidden = match role {
        Role::Init if !sidecar => "may not be set for init containers without restartPolicy=Always",
        Role::Ephemeral => "cannot be set for an Ephemeral Container",
        _ => "",
    };
    for key in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
        let Some(v) = set(c, key) else { continue };
        if !forbidden.is_empty() {
            e.push(FieldError::forbidden(p.field(key), forbidden));
            continue;
        }
        let p = p.field(key);
        if key == "lifecycle" {
            for when in ["postStart", "preStop"] {
                if let Some(h) = set(v, when) {
                    handler(h, &p.field(when), e);
                }
            }
        } else {
            probe(v, key != "readinessProbe", &p, e);
        }
    }
}

fn probe(v: &Value, once: bool, p: &Path<'_>, e: &mut Errors) {
    handler(v, p, e);
    const NUMBERS: [&str; 5] = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    non_negative(e, p, v, &NUMBERS);
    if set(v, "terminationGracePeriodSeconds").is_some() {
        if !once {
            let detail = "must not be set for readinessProbes";
            let value = or_null(v, "terminationGracePeriodSeconds");
            e.push(FieldError::invalid(p.field("terminationGracePeriodSeconds"), value, detail));
        } else if int(v, "terminationGracePeriodSeconds").is_some_and(|n| n <= 0) {
            let value = or_null(v, "terminationGracePeriodSeconds");
            let detail = "must be greater than 0";
            e.push(FieldError::invalid(p.field("terminationGracePeriodSeconds"), value, detail));
        }
    }
    let n = int(v, "successThreshold").unwrap_or(1);
    if once && n != 1 {
        e.push(FieldError::invalid(p.field("successThreshold"), &n.into(), "must be 1"));
    }
}

/// A probe's or lifecycle hook's action.
fn handler(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let mut found = 0;
    for key in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(h) = set(v, key) else { continue };
        found += 1;
        if found > 1 {
            e.push(FieldError::forbidden(p.field(key), "may not specify more than 1 handler type"));
            continue;
        }
        let p = p.field(key);
        match key {
            "exec" if list(h, "command").is_empty() => {
                e.push(FieldError::required(p.field("command"), ""));
            }
            "httpGet" => {
                required(e, &p, h, "path");
                port(e, &p.field("port"), or_null(h, "port"));
                one_of(e, &p, h, "scheme", &["HTTP", "HTTPS"]);
                let headers = p.field("httpHeaders");
                for (i, x) in list(h, "httpHeaders").iter().enumerate() {
                    http_header(x, &headers.index(i), e);
                }
            }
            "tcpSocket" => port(e, &p.field("port"), or_null(h, "port")),
            "grpc" => super::kit::in_range(e, &p, h, "port", 1, 65535),
            _ => {}
        }
    }
    if found == 0 {
        e.push(FieldError::required(p, "must specify a handler type"));
    }
}

fn http_header(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let name = s(v, "name");
    let good = !name.is_empty()
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
    if !good {
        let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                      'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
        e.push(FieldError::invalid_str(p.field("name"), name, detail));
    }
}

const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Resources of a container's domain: `example.org/gpu`.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.starts_with("requests.") && !is_native(name)
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A name in a container's resource list.
fn resource_name(name: &str, p: &Path<'_>, e: &mut Errors) {
    let complaints = text::qualified_name(name);
    if !complaints.is_empty() {
        texts(e, p, name, complaints);
        return;
    }
    if !name.contains('/') && !STANDARD.contains(&name) && !is_huge(name) {
        for detail in [
            "must be a standard resource type or fully qualified",
            "must be a standard resource for containers",
        ] {
            e.push(FieldError::invalid_str(p, name, detail));
        }
    }
}

/// A quantity that must not be negative, and whole where the resource is counted.
pub(super) fn resource_value(name: &str, v: &Value, p: &Path<'_>, e: &mut Errors) {
    let text = v.as_str().unwrap_or("");
    let Some(q) = Quantity::parse(text) else { return };
    if q.sign() < 0 {
        e.push(FieldError::invalid_str(p, text, "must be greater than or equal to 0"));
    }
    let counted = is_extended(name) || is_huge(name);
    if counted && q.milli() % 1000 != 0 {
        e.push(FieldError::invalid_str(p, text, "must be an integer"));
    }
}

/// `resources` of a container.
pub(super) fn resources(r: &Value, p: &Path<'_>, e: &mut Errors) {
    let (limits_path, requests_path) = (p.field("limits"), p.field("requests"));
    let (limits, requests) = (map(r, "limits"), map(r, "requests"));
    let (mut huge, mut basic) = (false, false);
    for (list, path) in [(limits, &limits_path), (requests, &requests_path)] {
        for (name, v) in list.into_iter().flatten() {
            let p = path.key(name);
            resource_name(name, &p, e);
            resource_value(name, v, &p, e);
            huge |= is_huge(name);
            basic |= matches!(name.as_str(), "cpu" | "memory");
        }
    }
    for (name, v) in requests.into_iter().flatten() {
        let Some(request) = v.as_str().and_then(Quantity::parse) else { continue };
        let limit = limits.and_then(|l| l.get(name)).and_then(Value::as_str);
        let fixed = is_extended(name) || is_huge(name);
        match limit.and_then(Quantity::parse) {
            Some(limit) if fixed && request != limit => {
                let detail = format!("must be equal to {name} limit of {limit}");
                e.push(FieldError::invalid_str(requests_path, &request.canonical(), &detail));
            }
            Some(limit) if !fixed && request.nanos() > limit.nanos() => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                e.push(FieldError::invalid_str(requests_path, &request.canonical(), &detail));
            }
            None if fixed => {
                let detail = "Limit must be set for non overcommitable resources";
                e.push(FieldError::required(limits_path, detail));
            }
            _ => {}
        }
    }
    if huge && !basic {
        e.push(FieldError::forbidden(p, "HugePages require cpu or memory"));
    }
}
