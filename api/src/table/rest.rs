//! Rows of the other groups.

use super::Cells;
use crate::intorstring::IntOrString;
use crate::object::{self, bool_at, str_at};
use crate::{Gvk, duration};
use serde_json::Value;

pub(super) fn cells(gvk: &Gvk<'_>, c: &Cells<'_>) -> Option<Vec<Value>> {
    Some(match (gvk.group, gvk.kind) {
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => binding(c),
        ("policy", "PodDisruptionBudget") => vec![
            c.name(),
            int_or_string(c, "minAvailable"),
            int_or_string(c, "maxUnavailable"),
            c.int(&["status", "disruptionsAllowed"]),
            c.age(),
        ],
        ("coordination.k8s.io", "Lease") => {
            vec![c.name(), c.str(&["spec", "holderIdentity"]), c.age()]
        }
        ("scheduling.k8s.io", "PriorityClass") => vec![
            c.name(),
            c.int(&["value"]),
            bool_at(c.o, &["globalDefault"]).into(),
            c.age(),
            c.str(&["preemptionPolicy"]),
        ],
        ("node.k8s.io", "RuntimeClass") => vec![c.name(), c.str(&["handler"]), c.age()],
        ("autoscaling", "Scale") => {
            vec![c.name(), c.int(&["spec", "replicas"]), c.int(&["status", "replicas"]), c.age()]
        }
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaler(c, gvk.version),
        ("certificates.k8s.io", "CertificateSigningRequest") => signing_request(c),
        ("apiregistration.k8s.io", "APIService") => api_service(c),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => flow_schema(c),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => priority_level(c),
        ("admissionregistration.k8s.io", kind) => return admission(kind, c),
        ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => vec![c.name(), c.age()],
        ("resource.k8s.io", "ResourceClaim") => vec![c.name(), claim_state(c).into(), c.age()],
        ("resource.k8s.io", "ResourceSlice") => vec![
            c.name(),
            c.str(&["spec", "nodeName"]),
            c.str(&["spec", "driver"]),
            c.str(&["spec", "pool", "name"]),
            c.age(),
        ],
        _ => return None,
    })
}

fn binding(c: &Cells<'_>) -> Vec<Value> {
    let of = |kind: &str| {
        let subjects = c.list(&["subjects"]).iter().filter(|s| str_at(s, &["kind"]) == kind);
        let name = |s: &Value| match kind {
            "ServiceAccount" => {
                format!("{}/{}", str_at(s, &["namespace"]), str_at(s, &["name"]))
            }
            _ => str_at(s, &["name"]).to_owned(),
        };
        Value::from(subjects.map(name).collect::<Vec<_>>().join(", "))
    };
    let role = format!("{}/{}", c.text(&["roleRef", "kind"]), c.text(&["roleRef", "name"]));
    vec![c.name(), role.into(), c.age(), of("User"), of("Group"), of("ServiceAccount")]
}

fn int_or_string(c: &Cells<'_>, key: &str) -> Value {
    let v = object::at(c.o, &["spec", key]);
    match v.and_then(IntOrString::of) {
        Some(IntOrString::Int(n)) => n.to_string().into(),
        Some(IntOrString::Str(s)) => s.into(),
        None => "N/A".into(),
    }
}

fn autoscaler(c: &Cells<'_>, version: &str) -> Vec<Value> {
    let reference = |k: &str| c.text(&["spec", "scaleTargetRef", k]);
    let target = format!("{}/{}", reference("kind"), reference("name"));
    let min = object::int_at(c.o, &["spec", "minReplicas"]);
    let metrics = if version == "v1" {
        let percent = |steps: &[&str]| object::int_at(c.o, steps).map(|n| format!("{n}%"));
        match percent(&["spec", "targetCPUUtilizationPercentage"]) {
            Some(wanted) => {
                let now = percent(&["status", "currentCPUUtilizationPercentage"]);
                format!("cpu: {}/{wanted}", now.as_deref().unwrap_or("<unknown>"))
            }
            None => "<none>".to_owned(),
        }
    } else {
        metrics(c)
    };
    vec![
        c.name(),
        target.into(),
        metrics.into(),
        min.map_or_else(|| "<unset>".to_owned(), |n| n.to_string()).into(),
        c.int(&["spec", "maxReplicas"]),
        c.int(&["status", "currentReplicas"]),
        c.age(),
    ]
}

/// Two metrics as `current/target`, then `+ N more...`.
fn metrics(c: &Cells<'_>) -> String {
    const SHOWN: usize = 2;
    let (specs, statuses) = (c.list(&["spec", "metrics"]), c.list(&["status", "currentMetrics"]));
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let show = |(i, spec): (usize, &Value)| metric(spec, statuses.get(i).unwrap_or(&Value::Null));
    let all: Vec<String> = specs.iter().enumerate().map(show).collect();
    if all.len() <= SHOWN {
        return all.join(", ");
    }
    format!("{} + {} more...", all[..SHOWN].join(", "), all.len() - SHOWN)
}

fn metric(spec: &Value, status: &Value) -> String {
    let kind = str_at(spec, &["type"]);
    let mut source = kind.to_owned();
    if let Some(first) = source.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    let source = source.as_str();
    let target = |k: &str| object::at(spec, &[source, "target", k]);
    let current = |k: &str| object::at(status, &[source, "current", k]);
    let shown = |v: Option<&Value>| match v {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Number(n)) => format!("{n}%"),
        _ => "<unknown>".to_owned(),
    };
    let average = target("averageValue").filter(|v| !v.is_null());
    match kind {
        "Resource" | "ContainerResource" => {
            let name = str_at(spec, &[source, "name"]);
            if average.is_some() {
                return format!("{name}: {}/{}", shown(current("averageValue")), shown(average));
            }
            let wanted = target("averageUtilization");
            let wanted = if wanted.is_some() { shown(wanted) } else { "<auto>".to_owned() };
            format!("{name}: {}/{wanted}", shown(current("averageUtilization")))
        }
        "Pods" => format!("{}/{}", shown(current("averageValue")), shown(average)),
        "Object" | "External" if average.is_some() => {
            format!("{}/{} (avg)", shown(current("averageValue")), shown(average))
        }
        "Object" | "External" => {
            format!("{}/{}", shown(current("value")), shown(target("value")))
        }
        _ => "<unknown type>".to_owned(),
    }
}

fn signing_request(c: &Cells<'_>) -> Vec<Value> {
    let has = |k: &str| c.list(&["status", "conditions"]).iter().any(|x| str_at(x, &["type"]) == k);
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !c.text(&["status", "certificate"]).is_empty() {
        state.push_str(",Issued");
    }
    let seconds = object::int_at(c.o, &["spec", "expirationSeconds"]);
    vec![
        c.name(),
        c.age(),
        c.or(&["spec", "signerName"], "<none>"),
        c.str(&["spec", "username"]),
        seconds.map_or_else(|| "<none>".to_owned(), duration::human).into(),
        state.into(),
    ]
}

fn api_service(c: &Cells<'_>) -> Vec<Value> {
    let service = match c.text(&["spec", "service", "name"]) {
        "" => "Local".to_owned(),
        name => format!("{}/{name}", c.text(&["spec", "service", "namespace"])),
    };
    let available = object::condition(c.o, "Available").map_or("Unknown".to_owned(), |a| {
        match str_at(a, &["status"]) {
            "True" => "True".to_owned(),
            other => format!("{other} ({})", str_at(a, &["reason"])),
        }
    });
    vec![c.name(), service.into(), available.into(), c.age()]
}

fn flow_schema(c: &Cells<'_>) -> Vec<Value> {
    let dangling = object::condition(c.o, "Dangling").map_or("?", |d| str_at(d, &["status"]));
    vec![
        c.name(),
        c.str(&["spec", "priorityLevelConfiguration", "name"]),
        c.int(&["spec", "matchingPrecedence"]),
        c.or(&["spec", "distinguisherMethod", "type"], "<none>"),
        c.age(),
        dangling.into(),
    ]
}

fn priority_level(c: &Cells<'_>) -> Vec<Value> {
    let number = |steps: &[&str]| {
        object::int_at(c.o, steps).map_or_else(|| Value::from("<none>"), Value::from)
    };
    let kind = c.text(&["spec", "type"]);
    let part = if kind == "Exempt" { "exempt" } else { "limited" };
    let queuing = |k: &str| number(&["spec", "limited", "limitResponse", "queuing", k]);
    vec![
        c.name(),
        kind.into(),
        number(&["spec", part, "nominalConcurrencyShares"]),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        c.age(),
    ]
}

fn admission(kind: &str, c: &Cells<'_>) -> Option<Vec<Value>> {
    let param_kind = || match c.text(&["spec", "paramKind", "kind"]) {
        "" => Value::from("<unset>"),
        kind => format!("{}/{kind}", c.text(&["spec", "paramKind", "apiVersion"])).into(),
    };
    Some(match kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            vec![c.name(), c.len(&["webhooks"]).into(), c.age()]
        }
        "ValidatingAdmissionPolicy" => {
            vec![c.name(), c.len(&["spec", "validations"]).into(), param_kind(), c.age()]
        }
        "MutatingAdmissionPolicy" => {
            vec![c.name(), c.len(&["spec", "mutations"]).into(), param_kind(), c.age()]
        }
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            let p = |k: &str| c.text(&["spec", "paramRef", k]);
            let param = match (object::at(c.o, &["spec", "paramRef"]).is_some(), p("namespace")) {
                (false, _) => "<unset>".to_owned(),
                (true, "") => format!("*/{}", p("name")),
                (true, namespace) => format!("{namespace}/{}", p("name")),
            };
            vec![c.name(), c.str(&["spec", "policyName"]), param.into(), c.age()]
        }
        _ => return None,
    })
}

fn claim_state(c: &Cells<'_>) -> String {
    let deleted = object::is_deleting(c.o);
    let allocated = object::at(c.o, &["status", "allocation"]).is_some();
    let mut states = Vec::new();
    if deleted {
        states.push("deleted");
    }
    if allocated {
        states.push("allocated");
        if !c.list(&["status", "reservedFor"]).is_empty() {
            states.push("reserved");
        }
    } else if !deleted {
        states.push("pending");
    }
    states.join(",")
}
