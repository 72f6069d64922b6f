//! Services, endpoints, policies, ingress classes.

use super::{Object, each, in_made, in_map, put, put_nonzero, text};
use serde_json::{Value, json};

pub(super) fn service(o: &mut Object) {
    in_map(o, "spec", |s| {
        put(s, "sessionAffinity", "None");
        put(s, "type", "ClusterIP");
        if text(s, "sessionAffinity") == "None" {
            s.remove("sessionAffinityConfig");
        }
        if text(s, "sessionAffinity") == "ClientIP" {
            in_made(s, "sessionAffinityConfig", |c| {
                in_made(c, "clientIP", |c| put(c, "timeoutSeconds", 10_800));
            });
        }
        each(s, "ports", |p| {
            put(p, "protocol", "TCP");
            let unset = match p.get("targetPort") {
                None | Some(Value::Null) => true,
                Some(Value::Number(n)) => n.as_i64() == Some(0),
                Some(Value::String(t)) => t.is_empty(),
                Some(_) => false,
            };
            if unset && let Some(port) = p.get("port").cloned() {
                p.insert("targetPort".to_owned(), port);
            }
        });
        let kind = text(s, "type").to_owned();
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            put(s, "externalTrafficPolicy", "Cluster");
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
            put(s, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            put(s, "allocateLoadBalancerNodePorts", true);
        }
    });
    in_map(o, "status", |s| {
        in_map(s, "loadBalancer", |l| {
            each(l, "ingress", |i| {
                if !text(i, "ip").is_empty() {
                    put(i, "ipMode", "VIP");
                }
            });
        });
    });
}

pub(super) fn endpoints(o: &mut Object) {
    each(o, "subsets", |s| each(s, "ports", |p| put(p, "protocol", "TCP")));
}

pub(super) fn endpoint_slice(o: &mut Object) {
    // Read-only in v1.
    each(o, "endpoints", |x| {
        x.remove("deprecatedTopology");
    });
    each(o, "ports", |p| {
        if p.get("name").is_none_or(Value::is_null) {
            p.insert("name".to_owned(), "".into());
        }
        put(p, "protocol", "TCP");
    });
}

pub(super) fn policy(o: &mut Object) {
    in_map(o, "spec", |s| {
        let some =
            |s: &Object, k: &str| s.get(k).and_then(Value::as_array).is_some_and(|a| !a.is_empty());
        if !some(s, "policyTypes") {
            let egress = some(s, "egress");
            let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
            s.insert("policyTypes".to_owned(), types);
        }
        for direction in ["ingress", "egress"] {
            each(s, direction, |r| each(r, "ports", |p| put(p, "protocol", "TCP")));
        }
    });
}

pub(super) fn ingress_class(o: &mut Object) {
    in_map(o, "spec", |s| in_map(s, "parameters", |p| put(p, "scope", "Cluster")));
}

/// `service` of a webhook's client configuration.
pub(super) fn webhook_service(config: &mut Object) {
    in_map(config, "service", |s| put_nonzero(s, "port", 443));
}
