//! Where a pod may run: selectors, affinity, tolerations, spreading, gates.

use super::kit::{
    Errors, int, list, one_of, optional_text, or_null, required_text, s, selector, set, texts,
};
use super::text;
use crate::path::Path;
use crate::status::FieldError;
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) fn check(spec: &Value, p: &Path<'_>, e: &mut Errors) {
    super::kit::labels(e, &p.field("nodeSelector"), or_null(spec, "nodeSelector"));
    if let Some(a) = set(spec, "affinity") {
        let p = p.field("affinity");
        if let Some(n) = set(a, "nodeAffinity") {
            node_affinity(n, &p.field("nodeAffinity"), e);
        }
        for key in ["podAffinity", "podAntiAffinity"] {
            if let Some(a) = set(a, key) {
                pod_affinity(a, &p.field(key), e);
            }
        }
    }
    tolerations(spec, p, e);
    spreading(spec, p, e);
    gates(spec, p, e);
}

fn weight(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let n = int(v, "weight").unwrap_or(0);
    if !(1..=100).contains(&n) {
        e.push(FieldError::invalid(p.field("weight"), &n.into(), "must be in the range 1-100"));
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn node_affinity(v: &Value, p: &Path<'_>, e: &mut Errors) {
    if let Some(r) = set(v, REQUIRED) {
        node_selector(r, &p.field(REQUIRED), e);
    }
    let p = p.field(PREFERRED);
    for (i, t) in list(v, PREFERRED).iter().enumerate() {
        let p = p.index(i);
        weight(t, &p, e);
        node_term(or_null(t, "preference"), &p.field("preference"), e);
    }
}

/// A NodeSelector (also of persistent volumes).
pub(super) fn node_selector(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let p = p.field("nodeSelectorTerms");
    let terms = list(v, "nodeSelectorTerms");
    if terms.is_empty() {
        e.push(FieldError::required(p, "must have at least one node selector term"));
    }
    for (i, t) in terms.iter().enumerate() {
        node_term(t, &p.index(i), e);
    }
}

fn node_term(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let expressions = p.field("matchExpressions");
    for (i, x) in list(v, "matchExpressions").iter().enumerate() {
        let p = expressions.index(i);
        requirement(x, &p, e);
        texts(e, &p.field("key"), s(x, "key"), text::qualified_name(s(x, "key")));
    }
    let fields = p.field("matchFields");
    for (i, x) in list(v, "matchFields").iter().enumerate() {
        let p = fields.index(i);
        if !matches!(s(x, "operator"), "In" | "NotIn") {
            let detail = "not a valid selector operator";
            e.push(FieldError::invalid_str(p.field("operator"), s(x, "operator"), detail));
        } else if list(x, "values").len() != 1 {
            let detail =
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            e.push(FieldError::required(p.field("values"), detail));
        }
        if s(x, "key") != "metadata.name" {
            let detail = "not a valid field selector key";
            e.push(FieldError::invalid_str(p.field("key"), s(x, "key"), detail));
        }
    }
}

fn requirement(x: &Value, p: &Path<'_>, e: &mut Errors) {
    let n = list(x, "values").len();
    match s(x, "operator") {
        "In" | "NotIn" => {
            if n == 0 {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                e.push(FieldError::required(p.field("values"), detail));
            }
        }
        "Exists" | "DoesNotExist" => {
            if n > 0 {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                e.push(FieldError::forbidden(p.field("values"), detail));
            }
        }
        "Gt" | "Lt" => {
            if n != 1 {
                let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                e.push(FieldError::required(p.field("values"), detail));
            }
        }
        other => {
            let detail = "not a valid selector operator";
            e.push(FieldError::invalid_str(p.field("operator"), other, detail));
        }
    }
}

fn pod_affinity(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let required = p.field(REQUIRED);
    for (i, t) in list(v, REQUIRED).iter().enumerate() {
        pod_term(t, &required.index(i), e);
    }
    let preferred = p.field(PREFERRED);
    for (i, t) in list(v, PREFERRED).iter().enumerate() {
        let p = preferred.index(i);
        weight(t, &p, e);
        pod_term(or_null(t, "podAffinityTerm"), &p.field("podAffinityTerm"), e);
    }
}

fn pod_term(t: &Value, p: &Path<'_>, e: &mut Errors) {
    for key in ["labelSelector", "namespaceSelector"] {
        if let Some(l) = set(t, key) {
            selector(e, &p.field(key), l);
        }
    }
    let namespaces = p.field("namespaces");
    for (i, n) in list(t, "namespaces").iter().filter_map(Value::as_str).enumerate() {
        texts(e, &namespaces.index(i), n, text::dns1123_label(n));
    }
    let key = s(t, "topologyKey");
    let p = p.field("topologyKey");
    if key.is_empty() {
        e.push(FieldError::required(p, "can not be empty"));
    }
    texts(e, &p, key, text::qualified_name(key));
}

fn tolerations(spec: &Value, p: &Path<'_>, e: &mut Errors) {
    let p = p.field("tolerations");
    for (i, t) in list(spec, "tolerations").iter().enumerate() {
        toleration(t, &p.index(i), e);
    }
}

/// One toleration (also of runtime classes).
pub(super) fn toleration(t: &Value, p: &Path<'_>, e: &mut Errors) {
    let (key, operator, value, effect) =
        (s(t, "key"), s(t, "operator"), s(t, "value"), s(t, "effect"));
    optional_text(e, p, t, "key", text::qualified_name);
    if key.is_empty() && operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        e.push(FieldError::invalid_str(p.field("operator"), operator, detail));
    }
    if set(t, "tolerationSeconds").is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        e.push(FieldError::invalid_str(p.field("effect"), effect, detail));
    }
    match operator {
        "" | "Equal" => {
            let complaints = text::label_value(value);
            if !complaints.is_empty() {
                e.push(FieldError::invalid_str(p.field("operator"), value, &complaints.join(";")));
            }
        }
        "Exists" => {
            if !value.is_empty() {
                let detail = "value must be empty when `operator` is 'Exists'";
                e.push(FieldError::invalid_str(p.field("operator"), value, detail));
            }
        }
        _ => one_of(e, p, t, "operator", &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        one_of(e, p, t, "effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
}

fn spreading(spec: &Value, p: &Path<'_>, e: &mut Errors) {
    let p = p.field("topologySpreadConstraints");
    let mut seen = BTreeSet::new();
    for (i, c) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let p = p.index(i);
        let when = s(c, "whenUnsatisfiable");
        if int(c, "maxSkew").unwrap_or(0) <= 0 {
            let n = int(c, "maxSkew").unwrap_or(0).into();
            e.push(FieldError::invalid(p.field("maxSkew"), &n, "must be greater than zero"));
        }
        let key = s(c, "topologyKey");
        if key.is_empty() {
            e.push(FieldError::required(p.field("topologyKey"), "can not be empty"));
        } else {
            texts(e, &p.field("topologyKey"), key, text::qualified_name(key));
        }
        one_of(e, &p, c, "whenUnsatisfiable", &["DoNotSchedule", "ScheduleAnyway"]);
        if let Some(n) = int(c, "minDomains") {
            let path = p.field("minDomains");
            if n <= 0 {
                e.push(FieldError::invalid(path, &n.into(), "must be greater than zero"));
            }
            if when != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}"
                );
                e.push(FieldError::invalid(path, &n.into(), &detail));
            }
        }
        if !seen.insert((key, when)) {
            let pair = format!("{{{key}, {when}}}");
            e.push(FieldError::duplicate(
                p.field("{topologyKey, whenUnsatisfiable}"),
                &pair.into(),
            ));
        }
        for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            super::kit::one_of_if_set(e, &p, c, key, &["Honor", "Ignore"]);
        }
        if let Some(l) = set(c, "labelSelector") {
            selector(e, &p.field("labelSelector"), l);
        }
    }
}

fn gates(spec: &Value, p: &Path<'_>, e: &mut Errors) {
    let gates = p.field("schedulingGates");
    let mut seen = BTreeSet::new();
    for (i, g) in list(spec, "schedulingGates").iter().enumerate() {
        let p = gates.index(i);
        required_text(e, &p, g, "name", text::qualified_name);
        if !seen.insert(s(g, "name")) {
            e.push(FieldError::duplicate(p, &s(g, "name").into()));
        }
    }
    if !seen.is_empty() && !s(spec, "nodeName").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        e.push(FieldError::forbidden(p.field("nodeName"), detail));
    }
}
