//! Jobs and CronJobs.

use super::cron;
use super::kit::{
    Errors, equal, int, list, non_negative, one_of, one_of_if_set, or_null, s, selector, set,
    shown_selector, texts,
};
use super::{pod, text};
use crate::path::Path;
use crate::selector::Labels;
use crate::status::FieldError;
use serde_json::Value;

pub(super) fn create(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    spec(v, &p, e);
    let chosen = or_null(v, "selector");
    if chosen.is_null() {
        e.push(FieldError::required(p.field("selector"), ""));
    } else {
        selector(e, &p.field("selector"), chosen);
    }
    let template = or_null(v, "template");
    let labels = crate::object::at(template, &["metadata", "labels"]);
    if let Ok(l) = Labels::of(chosen)
        && !l.matches(labels.and_then(Value::as_object))
    {
        let at = p.field("template");
        let at = at.field("metadata");
        let detail = "`selector` does not match template `labels`";
        e.push(FieldError::invalid(at.field("labels"), labels.unwrap_or(&Value::Null), detail));
    }
    if v.get("manualSelector").and_then(Value::as_bool) != Some(true) {
        auto_selector(o, v, &p, e);
    }
}

/// Without manualSelector the selector is the one that the server makes from the uid.
fn auto_selector(o: &Value, v: &Value, p: &Path<'_>, e: &mut Errors) {
    let uid = crate::object::uid(o);
    let expected = serde_json::json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    let old = serde_json::json!({"matchLabels": {"controller-uid": uid}});
    let chosen = or_null(v, "selector");
    if !chosen.is_null() && *chosen != expected && *chosen != old {
        let detail = "`selector` not auto-generated";
        e.push(FieldError::invalid_shown(p.field("selector"), &shown_selector(chosen), detail));
    }
}

fn spec(v: &Value, p: &Path<'_>, e: &mut Errors) {
    const COUNTS: [&str; 7] = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    non_negative(e, p, v, &COUNTS);
    one_of_if_set(e, p, v, "completionMode", &["NonIndexed", "Indexed"]);
    let indexed = s(v, "completionMode") == "Indexed";
    if indexed && set(v, "completions").is_none() {
        let detail = "when completion mode is Indexed";
        e.push(FieldError::required(p.field("completions"), detail));
    }
    for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        if set(v, key).is_some() && !indexed {
            let detail = "requires indexed completion mode";
            e.push(FieldError::invalid(p.field(key), or_null(v, key), detail));
        }
    }
    if let Some(by) = set(v, "managedBy").and_then(Value::as_str)
        && !by.contains('/')
    {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        e.push(FieldError::invalid_str(p.field("managedBy"), by, detail));
    }
    one_of_if_set(e, p, v, "podReplacementPolicy", &["Failed", "TerminatingOrFailed"]);
    if let Some(policy) = set(v, "podFailurePolicy") {
        failure_policy(policy, v, &p.field("podFailurePolicy"), e);
    }
    let at = p.field("template");
    let template = or_null(v, "template");
    pod::template(template, &at, e);
    restart_policy(v, template, &at, e);
}

fn restart_policy(v: &Value, template: &Value, at: &Path<'_>, e: &mut Errors) {
    let pods = or_null(template, "spec");
    let at = at.field("spec");
    let policy = s(pods, "restartPolicy");
    if matches!(policy, "" | "Always") {
        let detail = "valid values: \"OnFailure\", \"Never\"";
        e.push(FieldError::required(at.field("restartPolicy"), detail));
    } else if !matches!(policy, "OnFailure" | "Never") {
        e.push(FieldError::not_supported(
            at.field("restartPolicy"),
            policy,
            &["OnFailure", "Never"],
        ));
    } else if set(v, "podFailurePolicy").is_some() && policy != "Never" {
        let detail = "only \"Never\" is supported when podFailurePolicy is specified";
        e.push(FieldError::invalid_str(at.field("restartPolicy"), policy, detail));
    }
}

fn failure_policy(policy: &Value, v: &Value, p: &Path<'_>, e: &mut Errors) {
    let all = p.field("rules");
    for (i, r) in list(policy, "rules").iter().enumerate() {
        let p = all.index(i);
        match s(r, "action") {
            "" => e.push(FieldError::required(p.field("action"), "")),
            "FailIndex" if set(v, "backoffLimitPerIndex").is_none() => {
                let detail = "requires the backoffLimitPerIndex to be set";
                e.push(FieldError::invalid_str(p.field("action"), "FailIndex", detail));
            }
            _ => one_of(e, &p, r, "action", &["Count", "FailIndex", "FailJob", "Ignore"]),
        }
        let codes = set(r, "onExitCodes");
        if let Some(c) = codes {
            exit_codes(c, v, &p.field("onExitCodes"), e);
        }
        let conditions = list(r, "onPodConditions");
        let at = p.field("onPodConditions");
        for (j, c) in conditions.iter().enumerate() {
            let p = at.index(j);
            texts(e, &p.field("type"), s(c, "type"), text::qualified_name(s(c, "type")));
            one_of(e, &p, c, "status", &["False", "True", "Unknown"]);
        }
        match (codes.is_some(), !conditions.is_empty()) {
            (false, false) => {
                let body = "specifying one of OnExitCodes and OnPodConditions is required";
                e.push(FieldError::invalid_shown(p, body, ""));
            }
            (true, true) => {
                let body = "specifying both OnExitCodes and OnPodConditions is not supported";
                e.push(FieldError::invalid_shown(p, body, ""));
            }
            _ => {}
        }
    }
}

fn exit_codes(c: &Value, v: &Value, p: &Path<'_>, e: &mut Errors) {
    one_of(e, p, c, "operator", &["In", "NotIn"]);
    if let Some(name) = set(c, "containerName").and_then(Value::as_str) {
        let pods = or_null(or_null(v, "template"), "spec");
        let known = ["containers", "initContainers"]
            .iter()
            .any(|k| list(pods, k).iter().any(|x| s(x, "name") == name));
        if !known {
            let detail = "must be one of the container or initContainer names in the pod template";
            e.push(FieldError::invalid_str(p.field("containerName"), name, detail));
        }
    }
    let values = list(c, "values");
    let at = p.field("values");
    if values.is_empty() {
        e.push(FieldError::invalid_shown(at, "[]", "at least one value is required"));
    }
    for (i, n) in values.iter().enumerate() {
        if s(c, "operator") == "In" && n.as_i64() == Some(0) {
            e.push(FieldError::invalid(at.index(i), n, "must not be 0 for the In operator"));
        }
        if values[..i].contains(n) {
            e.push(FieldError::duplicate(at.index(i), n));
        }
    }
}

/// A changed Job.
pub(super) fn update(new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let (n, o) = (or_null(new, "spec"), or_null(old, "spec"));
    for key in
        ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy"]
    {
        if !equal(or_null(n, key), or_null(o, key)) {
            let shown = match key {
                "selector" => shown_selector(or_null(n, key)),
                _ => or_null(n, key).to_string(),
            };
            e.push(FieldError::invalid_shown(p.field(key), &shown, "field is immutable"));
        }
    }
    let indexed = s(o, "completionMode") == "Indexed";
    let same = int(n, "completions") == int(n, "parallelism");
    if !(indexed && same) {
        super::kit::immutable(e, &p, n, o, "completions");
    }
    let suspended = |v: &Value| v.get("suspend").and_then(Value::as_bool) == Some(true);
    let unstarted = crate::object::at(old, &["status", "startTime"]).is_none();
    // A suspended job that has not started may still be told where and how to run.
    let open = suspended(o) && unstarted;
    if !open && !equal(or_null(n, "template"), or_null(o, "template")) {
        let shown = or_null(n, "template").to_string();
        e.push(FieldError::invalid_shown(p.field("template"), &shown, "field is immutable"));
    }
    non_negative(
        e,
        &p,
        n,
        &[
            "parallelism",
            "activeDeadlineSeconds",
            "backoffLimit",
            "ttlSecondsAfterFinished",
            "maxFailedIndexes",
        ],
    );
}

pub(super) fn cron_job(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    let schedule = s(v, "schedule");
    let at = p.field("schedule");
    if schedule.is_empty() {
        e.push(FieldError::required(at, ""));
    } else if schedule.contains("TZ") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        e.push(FieldError::invalid_str(at, schedule, detail));
    } else if let Err(why) = cron::check(schedule) {
        e.push(FieldError::invalid_str(at, schedule, &why));
    }
    if let Some(zone) = set(v, "timeZone").and_then(Value::as_str) {
        time_zone(zone, &p.field("timeZone"), e);
    }
    non_negative(
        e,
        &p,
        v,
        &["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"],
    );
    match s(v, "concurrencyPolicy") {
        "" => e.push(FieldError::required(p.field("concurrencyPolicy"), "")),
        _ => one_of(e, &p, v, "concurrencyPolicy", &["Allow", "Forbid", "Replace"]),
    }
    let at = p.field("jobTemplate");
    spec(or_null(or_null(v, "jobTemplate"), "spec"), &at.field("spec"), e);
}

/// The shape of an IANA name. Which zones there are is not known here.
fn time_zone(zone: &str, p: &Path<'_>, e: &mut Errors) {
    let part = |s: &str| {
        !s.is_empty() && s.bytes().all(|c| c.is_ascii_alphanumeric() || b"._+-".contains(&c))
    };
    if zone.is_empty() {
        e.push(FieldError::invalid_str(p, zone, "timeZone must be nil or non-empty string"));
    } else if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in \
                      https://www.iana.org/time-zones";
        e.push(FieldError::invalid_str(p, zone, detail));
    } else if !zone.split('/').all(part) || !is_region(zone) {
        e.push(FieldError::invalid_str(p, zone, &format!("unknown time zone {zone}")));
    }
}

/// The first part of a zone's name is one of a few.
fn is_region(zone: &str) -> bool {
    const REGIONS: [&str; 16] = [
        "Africa",
        "America",
        "Antarctica",
        "Arctic",
        "Asia",
        "Atlantic",
        "Australia",
        "Brazil",
        "Canada",
        "Chile",
        "Etc",
        "Europe",
        "Indian",
        "Mexico",
        "Pacific",
        "US",
    ];
    match zone.split_once('/') {
        Some((region, _)) => REGIONS.contains(&region),
        None => zone.bytes().next().is_some_and(|c| c.is_ascii_uppercase()),
    }
}
