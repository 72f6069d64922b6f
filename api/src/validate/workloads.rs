//! Deployments, ReplicaSets, StatefulSets, DaemonSets, ReplicationControllers.

use super::kit::{
    Errors, equal, int, map, non_negative, one_of, one_of_if_set, optional_text, or_null, s,
    selector, set, shown_selector,
};
use super::{pod, text};
use crate::intorstring::IntOrString;
use crate::path::Path;
use crate::selector::Labels;
use crate::status::FieldError;
use serde_json::Value;

/// Selector and template: the selector is there, not empty, good, and selects the template.
fn selector_and_template(v: &Value, kind: &str, p: &Path<'_>, e: &mut Errors) {
    let at = p.field("selector");
    let chosen = or_null(v, "selector");
    let template = or_null(v, "template");
    if chosen.is_null() {
        e.push(FieldError::required(at, ""));
    } else {
        selector(e, &at, chosen);
        let parsed = Labels::of(chosen);
        if parsed.as_ref().is_ok_and(Labels::is_everything) {
            let detail = format!("empty selector is invalid for {kind}");
            e.push(FieldError::invalid_shown(at, &shown_selector(chosen), &detail));
        }
    }
    matches(chosen, template, p, e);
    pod::template(template, &p.field("template"), e);
}

/// The template's labels are selected.
fn matches(chosen: &Value, template: &Value, p: &Path<'_>, e: &mut Errors) {
    let labels = crate::object::at(template, &["metadata", "labels"]);
    match compile(chosen) {
        Some(l) => {
            let selected =
                if chosen.is_null() { false } else { l.matches(labels.and_then(Value::as_object)) };
            if !l.is_everything() && !selected {
                let shown = labels.unwrap_or(&Value::Null);
                let detail = "`selector` does not match template `labels`";
                let at = p.field("template");
                let at = at.field("metadata");
                e.push(FieldError::invalid(at.field("labels"), shown, detail));
            }
        }
        None => {
            let detail = "invalid label selector";
            e.push(FieldError::invalid_shown(p.field("selector"), &shown_selector(chosen), detail));
        }
    }
}

/// The selector, unless a part of it cannot be understood.
fn compile(chosen: &Value) -> Option<Labels> {
    let l = Labels::of(chosen).ok()?;
    let bad = l.requirements().iter().any(|r| {
        use crate::selector::Operator as O;
        let n = r.values.len();
        !text::qualified_name(&r.key).is_empty()
            || (matches!(r.operator, O::In | O::NotIn) && n == 0)
            || (matches!(r.operator, O::Exists | O::DoesNotExist) && n > 0)
    });
    (!bad).then_some(l)
}

fn always(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let spec = or_null(or_null(v, "template"), "spec");
    let p = p.field("template");
    let p = p.field("spec");
    one_of(e, &p, spec, "restartPolicy", &["Always"]);
}

fn no_deadline(v: &Value, kind: &str, p: &Path<'_>, e: &mut Errors) {
    let spec = or_null(or_null(v, "template"), "spec");
    if set(spec, "activeDeadlineSeconds").is_some() {
        let p = p.field("template");
        let p = p.field("spec");
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        e.push(FieldError::forbidden(p.field("activeDeadlineSeconds"), &detail));
    }
}

/// A count or a percentage; returns it as a number (percentages as they are).
fn amount(e: &mut Errors, p: &Path<'_>, v: &Value) -> Option<i64> {
    match IntOrString::of(v)? {
        IntOrString::Int(n) => {
            if n < 0 {
                let detail = "must be greater than or equal to 0";
                e.push(FieldError::invalid(p, v, detail));
            }
            Some(i64::from(n))
        }
        IntOrString::Str(t) => {
            super::kit::texts(e, p, t, text::percent(t));
            IntOrString::Str(t).percent().map(i64::from)
        }
    }
}

fn at_most_all(e: &mut Errors, p: &Path<'_>, v: &Value) {
    if let Some(Value::String(t)) = Some(v)
        && IntOrString::Str(t).percent().is_some_and(|n| n > 100)
    {
        e.push(FieldError::invalid(p, v, "must not be greater than 100%"));
    }
}

fn shown_strategy(v: &Value) -> String {
    let rolling = if set(v, "rollingUpdate").is_some() { "{}" } else { "null" };
    format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", Value::from(s(v, "type")))
}

fn not_supported_shown(p: &Path<'_>, shown: &str, good: &[&str]) -> FieldError {
    let mut f = FieldError::not_supported(p, "", good);
    f.body = f.body.replacen("\"\"", shown, 1);
    f
}

pub(super) fn deployment(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    non_negative(
        e,
        &p,
        v,
        &["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
    );
    selector_and_template(v, "deployment", &p, e);
    always(v, &p, e);
    no_deadline(v, "ReplicaSet", &p, e);
    strategy(or_null(v, "strategy"), &p.field("strategy"), e);
    let ready = int(v, "minReadySeconds").unwrap_or(0);
    if let Some(n) = int(v, "progressDeadlineSeconds")
        && n <= ready
    {
        let detail = "must be greater than minReadySeconds";
        e.push(FieldError::invalid(p.field("progressDeadlineSeconds"), &n.into(), detail));
    }
}

fn strategy(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let rolling = set(v, "rollingUpdate");
    match s(v, "type") {
        "Recreate" => {
            if rolling.is_some() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                e.push(FieldError::forbidden(p.field("rollingUpdate"), detail));
            }
        }
        "RollingUpdate" => match rolling {
            None => {
                let detail = "this should be defaulted and never be nil";
                e.push(FieldError::required(p.field("rollingUpdate"), detail));
            }
            Some(r) => {
                let p = p.field("rollingUpdate");
                let unavailable =
                    amount(e, &p.field("maxUnavailable"), or_null(r, "maxUnavailable"));
                let surge = amount(e, &p.field("maxSurge"), or_null(r, "maxSurge"));
                if unavailable == Some(0) && surge == Some(0) {
                    let detail = "may not be 0 when `maxSurge` is 0";
                    let shown = or_null(r, "maxUnavailable");
                    e.push(FieldError::invalid(p.field("maxUnavailable"), shown, detail));
                }
                at_most_all(e, &p.field("maxUnavailable"), or_null(r, "maxUnavailable"));
            }
        },
        _ => e.push(not_supported_shown(p, &shown_strategy(v), &["Recreate", "RollingUpdate"])),
    }
}

pub(super) fn replica_set(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    non_negative(e, &p, v, &["replicas", "minReadySeconds"]);
    selector_and_template(v, "replicaset", &p, e);
    always(v, &p, e);
    no_deadline(v, "ReplicaSet", &p, e);
}

pub(super) fn replication_controller(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    non_negative(e, &p, v, &["replicas", "minReadySeconds"]);
    let chosen = map(v, "selector");
    if chosen.is_none_or(|m| m.is_empty()) {
        e.push(FieldError::required(p.field("selector"), ""));
    }
    let Some(template) = set(v, "template") else {
        e.push(FieldError::required(p.field("template"), ""));
        return;
    };
    let labels = crate::object::at(template, &["metadata", "labels"]);
    if let Some(chosen) = chosen
        && !Labels::of_map(chosen).matches(labels.and_then(Value::as_object))
    {
        let at = p.field("template");
        let at = at.field("metadata");
        let detail = "`selector` does not match template `labels`";
        e.push(FieldError::invalid(at.field("labels"), labels.unwrap_or(&Value::Null), detail));
    }
    pod::template(template, &p.field("template"), e);
    always(v, &p, e);
    no_deadline(v, "ReplicationController", &p, e);
}

pub(super) fn daemon_set(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    non_negative(e, &p, v, &["minReadySeconds", "revisionHistoryLimit"]);
    selector_and_template(v, "daemonset", &p, e);
    always(v, &p, e);
    no_deadline(v, "DaemonSet", &p, e);
    let u = or_null(v, "updateStrategy");
    let at = p.field("updateStrategy");
    match s(u, "type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let Some(r) = set(u, "rollingUpdate") else {
                e.push(FieldError::required(at.field("rollingUpdate"), ""));
                return;
            };
            let p = at.field("rollingUpdate");
            let unavailable = amount(e, &p.field("maxUnavailable"), or_null(r, "maxUnavailable"));
            let surge = amount(e, &p.field("maxSurge"), or_null(r, "maxSurge"));
            at_most_all(e, &p.field("maxUnavailable"), or_null(r, "maxUnavailable"));
            at_most_all(e, &p.field("maxSurge"), or_null(r, "maxSurge"));
            match (unavailable.unwrap_or(0), surge.unwrap_or(0)) {
                (0, 0) => {
                    let detail = "cannot be 0 when maxSurge is 0";
                    e.push(FieldError::required(p.field("maxUnavailable"), detail));
                }
                (u, s) if u != 0 && s != 0 => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    e.push(FieldError::invalid(
                        p.field("maxSurge"),
                        or_null(r, "maxSurge"),
                        detail,
                    ));
                }
                _ => {}
            }
        }
        _ => e.push(not_supported_shown(&at, &shown_strategy(u), &["RollingUpdate", "OnDelete"])),
    }
}

pub(super) fn stateful_set(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    match s(v, "podManagementPolicy") {
        "" => e.push(FieldError::required(p.field("podManagementPolicy"), "")),
        "OrderedReady" | "Parallel" => {}
        other => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            e.push(FieldError::invalid_str(p.field("podManagementPolicy"), other, detail));
        }
    }
    let u = or_null(v, "updateStrategy");
    let at = p.field("updateStrategy");
    match (s(u, "type"), set(u, "rollingUpdate")) {
        ("", _) => e.push(FieldError::required(at, "")),
        ("OnDelete", Some(r)) => {
            let shown = format!(
                "{{\"Partition\":{},\"MaxUnavailable\":{}}}",
                int(r, "partition").unwrap_or(0),
                or_null(r, "maxUnavailable")
            );
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            e.push(FieldError::invalid_shown(at.field("rollingUpdate"), &shown, detail));
        }
        ("RollingUpdate", Some(r)) => {
            let p = at.field("rollingUpdate");
            non_negative(e, &p, r, &["partition"]);
            if set(r, "maxUnavailable").is_some() {
                let path = p.field("maxUnavailable");
                if amount(e, &path, or_null(r, "maxUnavailable")) == Some(0) {
                    e.push(FieldError::invalid(path, &0.into(), "cannot be 0"));
                }
                at_most_all(e, &path, or_null(r, "maxUnavailable"));
            }
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        _ => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            e.push(FieldError::invalid_shown(at, &shown_strategy(u), detail));
        }
    }
    non_negative(e, &p, v, &["replicas", "minReadySeconds", "revisionHistoryLimit"]);
    if let Some(ordinals) = set(v, "ordinals") {
        non_negative(e, &p.field("ordinals"), ordinals, &["start"]);
    }
    optional_text(e, &p, v, "serviceName", text::dns1123_label);
    if let Some(r) = set(v, "persistentVolumeClaimRetentionPolicy") {
        let p = p.field("persistentVolumeClaimRetentionPolicy");
        for key in ["whenDeleted", "whenScaled"] {
            one_of_if_set(e, &p, r, key, &["Retain", "Delete"]);
        }
    }
    selector_and_template(v, "statefulset", &p, e);
    always(v, &p, e);
    no_deadline(v, "StatefulSet", &p, e);
}

/// Selectors of apps/v1 may not change.
pub(super) fn update(kind: &str, new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let (n, o) = (or_null(new, "spec"), or_null(old, "spec"));
    if kind != "StatefulSet" {
        if !equal(or_null(n, "selector"), or_null(o, "selector")) {
            let shown = shown_selector(or_null(n, "selector"));
            e.push(FieldError::invalid_shown(p.field("selector"), &shown, "field is immutable"));
        }
        return;
    }
    const FREE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let mut masked = n.clone();
    for key in FREE {
        match o.get(key) {
            Some(was) => crate::object::set(&mut masked, &[key], was.clone()),
            None => {
                crate::object::remove(&mut masked, &[key]);
            }
        }
    }
    if !equal(&masked, o) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
                      'template', 'updateStrategy', 'revisionHistoryLimit', \
                      'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        e.push(FieldError::forbidden(p, detail));
    }
}

/// Status of a Deployment, ReplicaSet, StatefulSet or DaemonSet.
pub(super) fn status(kind: &str, new: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("status");
    let v = or_null(new, "status");
    let counts: &[&str] = match kind {
        "Deployment" => {
            &["updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"]
        }
        "ReplicaSet" => &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        "StatefulSet" => {
            &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"]
        }
        _ => {
            const DAEMONS: [&str; 8] = [
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
                "observedGeneration",
            ];
            non_negative(e, &p, v, &DAEMONS);
            return;
        }
    };
    non_negative(e, &p, v, &["replicas", "observedGeneration"]);
    non_negative(e, &p, v, counts);
    let all = int(v, "replicas").unwrap_or(0);
    for key in counts.iter().filter(|k| **k != "unavailableReplicas") {
        let n = int(v, key).unwrap_or(0);
        if n > all {
            let detail = "cannot be greater than status.replicas";
            e.push(FieldError::invalid(p.field(key), &n.into(), detail));
        }
    }
    let (ready, available) =
        (int(v, "readyReplicas").unwrap_or(0), int(v, "availableReplicas").unwrap_or(0));
    if available > ready {
        let detail = "cannot be greater than readyReplicas";
        e.push(FieldError::invalid(p.field("availableReplicas"), &available.into(), detail));
    }
}
