//! Namespaces, nodes, bindings, autoscalers, quotas and the other small ones.

use super::{Object, each, in_made, in_map, put, put_nonzero, text};
use crate::quantity::Quantity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Resources are counted in thousandths at the finest.
pub(super) fn resource_list(o: &mut Object, key: &str) {
    let Some(Value::Object(list)) = o.get_mut(key) else { return };
    for v in list.values_mut() {
        let Some(q) = v.as_str().and_then(Quantity::parse) else { continue };
        if q.nanos() % 1_000_000 != 0 {
            *v = Quantity::from_milli(q.milli()).canonical().into();
        }
    }
}

/// `stringData` is only for writing: it goes into `data`.
pub(super) fn secret(o: &mut Object) {
    put(o, "type", "Opaque");
    if let Some(Value::Object(texts)) = o.remove("stringData") {
        in_made(o, "data", |data| {
            for (k, v) in texts {
                let encoded = STANDARD.encode(v.as_str().unwrap_or(""));
                data.insert(k, encoded.into());
            }
        });
    }
}

pub(super) fn namespace(o: &mut Object) {
    let name = o.get("metadata").map_or("", |m| crate::object::str_at(m, &["name"])).to_owned();
    if !name.is_empty() {
        in_made(o, "metadata", |m| {
            in_made(m, "labels", |l| {
                l.insert("kubernetes.io/metadata.name".to_owned(), name.into());
            });
        });
    }
    in_made(o, "status", |s| put(s, "phase", "Active"));
}

pub(super) fn node(o: &mut Object) {
    in_map(o, "status", |s| {
        resource_list(s, "capacity");
        resource_list(s, "allocatable");
        if let Some(capacity) = s.get("capacity").cloned() {
            put(s, "allocatable", capacity);
        }
    });
}

pub(super) fn limit_range(o: &mut Object) {
    in_map(o, "spec", |s| {
        each(s, "limits", |item| {
            for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                resource_list(item, key);
            }
            if text(item, "type") != "Container" {
                return;
            }
            let from = |item: &mut Object, to: &str, from: &str| {
                let Some(Value::Object(have)) = item.get(from).cloned() else { return };
                in_made(item, to, |t| {
                    for (k, v) in have {
                        t.entry(k).or_insert(v);
                    }
                });
            };
            from(item, "default", "max");
            from(item, "defaultRequest", "default");
            from(item, "defaultRequest", "min");
        });
    });
}

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn binding(o: &mut Object) {
    in_map(o, "roleRef", |r| put(r, "apiGroup", RBAC));
    each(o, "subjects", |s| {
        if matches!(text(s, "kind"), "User" | "Group") {
            put(s, "apiGroup", RBAC);
        }
    });
}

pub(super) fn autoscaler(o: &mut Object, version: &str) {
    in_map(o, "spec", |s| {
        put(s, "minReplicas", 1);
        if version == "v1" {
            return;
        }
        if s.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            let cpu = json!([{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
            s.insert("metrics".to_owned(), cpu);
        }
        in_map(s, "behavior", |b| {
            in_made(b, "scaleUp", |r| {
                put(r, "stabilizationWindowSeconds", 0);
                scaling_rules(
                    r,
                    json!([
                        {"type": "Pods", "value": 4, "periodSeconds": 15},
                        {"type": "Percent", "value": 100, "periodSeconds": 15},
                    ]),
                );
            });
            in_made(b, "scaleDown", |r| {
                scaling_rules(r, json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
            });
        });
    });
}

fn scaling_rules(r: &mut Object, policies: Value) {
    put(r, "selectPolicy", "Max");
    if r.get("policies").is_none_or(Value::is_null) {
        r.insert("policies".to_owned(), policies);
    }
}

pub(super) fn flow_schema(o: &mut Object) {
    in_map(o, "spec", |s| put_nonzero(s, "matchingPrecedence", 1000));
}

pub(super) fn priority_level(o: &mut Object) {
    in_map(o, "spec", |s| {
        if text(s, "type") == "Exempt" {
            in_made(s, "exempt", |e| {
                put(e, "nominalConcurrencyShares", 0);
                put(e, "lendablePercent", 0);
            });
        }
        in_map(s, "limited", |l| {
            put(l, "nominalConcurrencyShares", 30);
            put(l, "lendablePercent", 0);
            in_map(l, "limitResponse", |r| {
                in_map(r, "queuing", |q| {
                    put_nonzero(q, "queues", 64);
                    put_nonzero(q, "queueLengthLimit", 50);
                    put_nonzero(q, "handSize", 8);
                });
            });
        });
    });
}

/// Spec of a ResourceClaim.
pub(super) fn claim_spec(s: &mut Object) {
    let request = |r: &mut Object| {
        put(r, "allocationMode", "ExactCount");
        if text(r, "allocationMode") == "ExactCount" {
            put_nonzero(r, "count", 1);
        }
        each(r, "tolerations", |t| put(t, "operator", "Equal"));
    };
    in_map(s, "devices", |d| {
        each(d, "requests", |r| {
            in_map(r, "exactly", request);
            each(r, "firstAvailable", request);
        });
    });
}
