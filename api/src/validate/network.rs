//! Ingresses, ingress classes, network policies.

use super::kit::{
    Errors, int, list, one_of, optional_text, or_null, port, required, s, selector, set, texts,
};
use super::text;
use crate::path::Path;
use crate::status::FieldError;
use serde_json::Value;

pub(super) fn ingress(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    let default = set(v, "defaultBackend");
    if default.is_none() && list(v, "rules").is_empty() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        e.push(FieldError::invalid_shown(p, "null", detail));
    }
    if let Some(b) = default {
        backend(b, &p.field("defaultBackend"), e);
    }
    optional_text(e, &p, v, "ingressClassName", text::dns1123_subdomain);
    let all = p.field("tls");
    for (i, t) in list(v, "tls").iter().enumerate() {
        let at = all.index(i);
        let hosts = at.field("hosts");
        for (j, h) in list(t, "hosts").iter().filter_map(Value::as_str).enumerate() {
            let rule = if h.contains('*') {
                text::wildcard_dns1123_subdomain
            } else {
                text::dns1123_subdomain
            };
            texts(e, &hosts.index(j), h, rule(h));
        }
    }
    let all = p.field("rules");
    for (i, r) in list(v, "rules").iter().enumerate() {
        rule(r, &all.index(i), e);
    }
}

fn rule(r: &Value, p: &Path<'_>, e: &mut Errors) {
    let host = s(r, "host");
    if !host.is_empty() {
        let at = p.field("host");
        if host.parse::<std::net::IpAddr>().is_ok() {
            e.push(FieldError::invalid_str(at, host, "must be a DNS name, not an IP address"));
        } else if host.contains('*') {
            texts(e, &at, host, text::wildcard_dns1123_subdomain(host));
        } else {
            texts(e, &at, host, text::dns1123_subdomain(host));
        }
    }
    let Some(http) = set(r, "http") else { return };
    let all = p.field("http");
    let all = all.field("paths");
    if list(http, "paths").is_empty() {
        e.push(FieldError::required(all, ""));
    }
    for (i, x) in list(http, "paths").iter().enumerate() {
        let p = all.index(i);
        path(x, &p, e);
        backend(or_null(x, "backend"), &p.field("backend"), e);
    }
}

fn path(x: &Value, p: &Path<'_>, e: &mut Errors) {
    let (kind, value) = (s(x, "pathType"), s(x, "path"));
    let at = p.field("path");
    if set(x, "pathType").is_none() {
        e.push(FieldError::required(p.field("pathType"), "pathType must be specified"));
        return;
    }
    match kind {
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                e.push(FieldError::invalid_str(at, value, "must be an absolute path"));
            }
            if !value.is_empty() {
                for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                    if value.contains(bad) {
                        e.push(FieldError::invalid_str(
                            at,
                            value,
                            &format!("must not contain '{bad}'"),
                        ));
                    }
                }
                for bad in ["/..", "/."] {
                    if value.ends_with(bad) {
                        e.push(FieldError::invalid_str(
                            at,
                            value,
                            &format!("cannot end with '{bad}'"),
                        ));
                    }
                }
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !value.starts_with('/') {
                e.push(FieldError::invalid_str(at, value, "must be an absolute path"));
            }
        }
        _ => one_of(e, p, x, "pathType", &["Exact", "ImplementationSpecific", "Prefix"]),
    }
}

fn backend(b: &Value, p: &Path<'_>, e: &mut Errors) {
    match (set(b, "service"), set(b, "resource")) {
        (Some(_), Some(_)) => {
            let detail = "cannot set both resource and service backends";
            e.push(FieldError::invalid_str(p, "", detail));
        }
        (None, None) => {
            e.push(FieldError::invalid_str(p, "", "resource or service backend is required"));
        }
        (None, Some(r)) => {
            let p = p.field("resource");
            required(e, &p, r, "kind");
            required(e, &p, r, "name");
        }
        (Some(v), None) => {
            let at = p.field("service");
            if required(e, &at, v, "name") {
                texts(e, &at.field("name"), s(v, "name"), text::dns1035_label(s(v, "name")));
            }
            let x = or_null(v, "port");
            let (name, number) = (s(x, "name"), int(x, "number").unwrap_or(0));
            let at = at.field("port");
            if !name.is_empty() && number != 0 {
                e.push(FieldError::invalid_str(p, "", "cannot set both port name & port number"));
            } else if !name.is_empty() {
                texts(e, &at.field("name"), name, text::port_name(name));
            } else if number != 0 {
                for c in text::port_number(number) {
                    e.push(FieldError::invalid(at.field("number"), &number.into(), &c));
                }
            } else {
                e.push(FieldError::required(p, "port name or number is required"));
            }
        }
    }
}

pub(super) fn ingress_class(o: &Value, e: &mut Errors) {
    const BYTES_MAX: usize = 250;
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    let controller = s(v, "controller");
    if controller.is_empty() {
        e.push(FieldError::required(p.field("controller"), ""));
    } else if controller.len() > BYTES_MAX {
        e.push(FieldError::too_long(p.field("controller"), BYTES_MAX));
    } else if !controller.contains('/') {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        e.push(FieldError::invalid_str(p.field("controller"), controller, detail));
    }
    if let Some(x) = set(v, "parameters") {
        let p = p.field("parameters");
        required(e, &p, x, "kind");
        required(e, &p, x, "name");
        one_of(e, &p, x, "scope", &["Cluster", "Namespace"]);
    }
}

pub(super) fn policy(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    selector(e, &p.field("podSelector"), or_null(v, "podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let all = p.field(direction);
        for (i, r) in list(v, direction).iter().enumerate() {
            let p = all.index(i);
            let ports = p.field("ports");
            for (j, x) in list(r, "ports").iter().enumerate() {
                policy_port(x, &ports.index(j), e);
            }
            let all = p.field(peers);
            for (j, x) in list(r, peers).iter().enumerate() {
                peer(x, &all.index(j), e);
            }
        }
    }
    let types = list(v, "policyTypes");
    let at = p.field("policyTypes");
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        e.push(FieldError::invalid(at, or_null(v, "policyTypes"), detail));
        return;
    }
    for (i, t) in types.iter().filter_map(Value::as_str).enumerate() {
        if !["Egress", "Ingress"].contains(&t) {
            e.push(FieldError::not_supported(at.index(i), t, &["Egress", "Ingress"]));
        }
    }
}

fn policy_port(x: &Value, p: &Path<'_>, e: &mut Errors) {
    if set(x, "protocol").is_some() {
        one_of(e, p, x, "protocol", &["SCTP", "TCP", "UDP"]);
    }
    match (set(x, "port"), int(x, "endPort")) {
        (Some(n), end) => {
            port(e, &p.field("port"), n);
            match (n.as_i64(), end) {
                (Some(n), Some(end)) => {
                    if end < n {
                        let detail = "must be greater than or equal to `port`";
                        e.push(FieldError::invalid(p.field("endPort"), &end.into(), detail));
                    }
                    for c in text::port_number(end) {
                        e.push(FieldError::invalid(p.field("endPort"), &end.into(), &c));
                    }
                }
                (None, Some(end)) => {
                    let detail = "may not be specified when `port` is non-numeric";
                    e.push(FieldError::invalid(p.field("endPort"), &end.into(), detail));
                }
                _ => {}
            }
        }
        (None, Some(end)) => {
            let detail = "may not be specified when `port` is not specified";
            e.push(FieldError::invalid(p.field("endPort"), &end.into(), detail));
        }
        (None, None) => {}
    }
}

fn peer(x: &Value, p: &Path<'_>, e: &mut Errors) {
    let mut found = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if let Some(v) = set(x, key) {
            found += 1;
            selector(e, &p.field(key), v);
        }
    }
    if let Some(b) = set(x, "ipBlock") {
        if found > 0 {
            let detail = "may not specify both ipBlock and another peer";
            e.push(FieldError::forbidden(p, detail));
        }
        found += 1;
        ip_block(b, &p.field("ipBlock"), e);
    }
    if found == 0 {
        e.push(FieldError::required(p, "must specify a peer"));
    }
}

fn ip_block(b: &Value, p: &Path<'_>, e: &mut Errors) {
    let cidr = s(b, "cidr");
    if cidr.is_empty() {
        e.push(FieldError::required(p.field("cidr"), ""));
        return;
    }
    let complaints = text::cidr(cidr);
    let good = complaints.is_empty();
    texts(e, &p.field("cidr"), cidr, complaints);
    let at = p.field("except");
    for (i, x) in list(b, "except").iter().filter_map(Value::as_str).enumerate() {
        let complaints = text::cidr(x);
        if good && complaints.is_empty() && !is_inside(x, cidr) {
            let detail = format!("must be a strict subset of `cidr`: \"{cidr}\"");
            e.push(FieldError::invalid_str(at.index(i), x, &detail));
        }
        texts(e, &at.index(i), x, complaints);
    }
}

/// `inner` lies within `outer` and is smaller.
fn is_inside(inner: &str, outer: &str) -> bool {
    let (Some((a, n)), Some((b, m))) = (text::parse_cidr(inner), text::parse_cidr(outer)) else {
        return false;
    };
    let bits = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(v) => (u128::from(u32::from(v)) << 96, 32),
        std::net::IpAddr::V6(v) => (u128::from(v), 128),
    };
    let ((a, width), (b, other)) = (bits(a), bits(b));
    let mask = if m == 0 { 0 } else { u128::MAX << (128 - u32::from(m)) };
    width == other && n > m && a & mask == b & mask
}
