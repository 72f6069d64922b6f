//! Between the version that is stored and the one that a client asked for.
//!
//! Only few built-in kinds have two: events (core v1 is stored) and HorizontalPodAutoscalers (autoscaling/v2
//! is stored). Everything else passes through without being touched.

use pintle_api::object;
use pintle_wire::msg::Body;
use serde_json::Value;

use crate::cache::{Object, encode_at};
use crate::registry::{Endpoint, Resource};

/// The two are the same version.
pub fn same(resource: &Resource, endpoint: &Endpoint) -> bool {
    resource.group == endpoint.group && resource.version == endpoint.version
}

/// An object's bytes in the endpoint's version: shared when it is the stored one.
pub fn body(object: &Object, resource: &Resource, endpoint: &Endpoint) -> Body {
    if same(resource, endpoint) {
        return object.body.clone();
    }
    encode_at(&to_endpoint(object.parse(), resource, endpoint), object.revision)
}

/// Appends an object as a list item of the endpoint's version.
pub fn push_item(out: &mut Vec<u8>, object: &Object, resource: &Resource, endpoint: &Endpoint) {
    if same(resource, endpoint) {
        if resource.custom {
            out.extend_from_slice(&object.body);
        } else {
            object.push_item(out);
        }
        return;
    }
    let mut value = to_endpoint(object.parse(), resource, endpoint);
    if !resource.custom
        && let Some(m) = value.as_object_mut()
    {
        m.remove("apiVersion");
        m.remove("kind");
    }
    // Writing to a vector cannot fail.
    let _ = serde_json::to_writer(out, &value);
}

/// Name of a selectable field in the stored version.
pub fn stored_field<'a>(resource: &Resource, path: &'a str) -> std::borrow::Cow<'a, str> {
    if resource.kind == "Event"
        && let Some(rest) = path.strip_prefix("regarding.")
    {
        return format!("involvedObject.{rest}").into();
    }
    if resource.kind == "Event" && path == "reportingController" {
        return "reportingComponent".into();
    }
    path.into()
}

/// A stored object in the endpoint's version.
pub fn to_endpoint(mut value: Value, resource: &Resource, endpoint: &Endpoint) -> Value {
    if same(resource, endpoint) {
        return value;
    }
    match endpoint.kind.as_str() {
        "Event" => {
            rename(&mut value, &EVENT_NAMES, false);
            for key in ["reportingController", "reportingInstance"] {
                if value[key] == "" {
                    object::remove(&mut value, &[key]);
                }
            }
        }
        "HorizontalPodAutoscaler" => hpa_to_v1(&mut value),
        _ => {}
    }
    object::set(&mut value, &["apiVersion"], endpoint.api_version());
    value
}

/// A client's object in the stored version.
pub fn to_stored(mut value: Value, resource: &Resource, endpoint: &Endpoint) -> Value {
    if same(resource, endpoint) {
        return value;
    }
    match endpoint.kind.as_str() {
        "Event" => {
            rename(&mut value, &EVENT_NAMES, true);
            for key in ["reportingComponent", "reportingInstance"] {
                if value.get(key).is_none() {
                    object::set(&mut value, &[key], "");
                }
            }
        }
        "HorizontalPodAutoscaler" => hpa_to_v2(&mut value),
        _ => {}
    }
    object::set(&mut value, &["apiVersion"], resource.api_version());
    value
}

// (core v1, events.k8s.io/v1)
const EVENT_NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(value: &mut Value, names: &[(&str, &str)], to_core: bool) {
    let Some(m) = value.as_object_mut() else { return };
    for (core, other) in names {
        let (from, to) = if to_core { (other, core) } else { (core, other) };
        if let Some(v) = m.remove(*from) {
            m.insert((*to).into(), v);
        }
    }
}

const HPA_METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";

/// Whether this metric is the one that v1 has a field for.
fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"]["type"] == "Utilization"
}

fn hpa_to_v1(value: &mut Value) {
    if let Some(metrics) = object::remove(value, &["spec", "metrics"]) {
        let mut rest = Vec::new();
        for m in metrics.as_array().into_iter().flatten() {
            if is_cpu_utilization(m) {
                let percent = m["resource"]["target"]["averageUtilization"].clone();
                object::set(value, &["spec", "targetCPUUtilizationPercentage"], percent);
            } else {
                rest.push(m.clone());
            }
        }
        if !rest.is_empty() {
            let text = Value::Array(rest).to_string();
            object::set(value, &["metadata", "annotations", HPA_METRICS], text);
        }
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("conditions");
        if let Some(metrics) = status.remove("currentMetrics") {
            let cpu =
                metrics.as_array().into_iter().flatten().find(|m| m["resource"]["name"] == "cpu");
            if let Some(m) = cpu {
                status.insert(
                    "currentCPUUtilizationPercentage".into(),
                    m["resource"]["current"]["averageUtilization"].clone(),
                );
            }
        }
    }
}

fn hpa_to_v2(value: &mut Value) {
    let mut metrics = Vec::new();
    if let Some(m) = value.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        && let Some(text) = m.remove(HPA_METRICS)
        && let Some(Value::Array(list)) = text.as_str().and_then(|t| serde_json::from_str(t).ok())
    {
        metrics = list;
    }
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut)
        && let Some(percent) = spec.remove("targetCPUUtilizationPercentage")
    {
        metrics.insert(
            0,
            serde_json::json!({"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}),
        );
    }
    if !metrics.is_empty() {
        object::set(value, &["spec", "metrics"], Value::Array(metrics));
    }
}
