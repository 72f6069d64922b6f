//! A Deployment's status and its conditions `Available` and `Progressing`.

use super::{Picture, count, rollout, size};
use crate::Kind;
use crate::plan::{Action, Plan, key_of};
use crate::replicaset::patch_to;
use pintle_base::{Now, Wall};
use serde_json::{Value, json};
use std::time::Duration;

/// Everything is updated, available, and nothing old is left.
pub fn complete(p: &Picture<'_>, new: &Value) -> bool {
    let replicas: i64 = p.all().map(|rs| count(rs, "replicas")).sum();
    count(new, "replicas") == p.desired()
        && replicas == p.desired()
        && count(new, "availableReplicas") == p.desired()
        && size(new) == p.desired()
}

/// Adds the status patch (when something differs) and the time of the progress deadline.
pub fn add(p: &Picture<'_>, now: Now, plan: &mut Plan) {
    let d = p.deployment;
    let sum = |field: &str| p.all().map(|rs| count(rs, field)).sum::<i64>();
    let available = sum("availableReplicas");
    let mut s = json!({"observedGeneration": d["metadata"]["generation"]});
    for (field, n) in [
        ("replicas", sum("replicas")),
        ("updatedReplicas", p.new.map_or(0, |rs| count(rs, "replicas"))),
        ("readyReplicas", sum("readyReplicas")),
        ("availableReplicas", available),
        ("unavailableReplicas", (p.all().map(size).sum::<i64>() - available).max(0)),
        ("terminatingReplicas", sum("terminatingReplicas")),
    ] {
        if n > 0 {
            s[field] = json!(n);
        }
    }
    if !d["status"]["collisionCount"].is_null() {
        s["collisionCount"] = d["status"]["collisionCount"].clone();
    }
    let mut conditions: Vec<Value> =
        d["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let enough = available >= p.desired() - rollout::unavailable(p);
    set(
        &mut conditions,
        "Available",
        enough,
        if enough { "MinimumReplicasAvailable" } else { "MinimumReplicasUnavailable" },
        if enough {
            "Deployment has minimum availability."
        } else {
            "Deployment does not have minimum availability."
        },
        now.wall,
        false,
    );
    plan.requeue_after = progress(p, &s, &mut conditions, now.wall);
    s["conditions"] = json!(conditions);
    if d["status"] != s {
        plan.actions.push(Action::status(Kind::Deployment, &key_of(d), patch_to(&d["status"], &s)));
    }
}

// Sets the condition Progressing; gives the time until the deadline when one is running.
fn progress(
    p: &Picture<'_>,
    s: &Value,
    conditions: &mut Vec<Value>,
    now: Wall,
) -> Option<Duration> {
    let d = p.deployment;
    let deadline =
        d["spec"]["progressDeadlineSeconds"].as_u64().filter(|n| *n < i32::MAX as u64)?;
    let name = |rs: &Value| rs["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if d["spec"]["paused"] == true {
        let reason = find(conditions, "Progressing").map(|c| c["reason"].clone());
        if reason.is_none_or(|r| r != "DeploymentPaused" && r != "ProgressDeadlineExceeded") {
            set(
                conditions,
                "Progressing",
                true,
                "DeploymentPaused",
                "Deployment is paused",
                now,
                false,
            );
        }
        return None;
    }
    let subject = match p.new {
        Some(new) => format!("ReplicaSet \"{}\"", name(new)),
        None => format!("Deployment \"{}\"", name(d)),
    };
    let was_complete =
        find(conditions, "Progressing").is_some_and(|c| c["reason"] == "NewReplicaSetAvailable");
    if let Some(new) = p.new
        && complete(p, new)
    {
        let text = format!("{subject} has successfully progressed.");
        set(conditions, "Progressing", true, "NewReplicaSetAvailable", &text, now, false);
        return None;
    }
    let more =
        |field: &str| s[field].as_i64().unwrap_or(0) > d["status"][field].as_i64().unwrap_or(0);
    let old = |v: &Value| {
        v["replicas"].as_i64().unwrap_or(0) - v["updatedReplicas"].as_i64().unwrap_or(0)
    };
    let moved = more("updatedReplicas")
        || more("readyReplicas")
        || more("availableReplicas")
        || old(s) < old(&d["status"])
        || d["status"]["observedGeneration"] != d["metadata"]["generation"];
    match find(conditions, "Progressing") {
        None => {
            let text = format!("{subject} is progressing.");
            set(conditions, "Progressing", true, "ReplicaSetUpdated", &text, now, true);
        }
        Some(_) if moved || was_complete && p.new.is_none() => {
            let text = format!("{subject} is progressing.");
            set(conditions, "Progressing", true, "ReplicaSetUpdated", &text, now, true);
        }
        Some(_) if was_complete => return None,
        Some(c) => {
            if c["reason"] == "ProgressDeadlineExceeded" {
                return None;
            }
            let since = c["lastUpdateTime"].as_str().and_then(Wall::parse_rfc3339).unwrap_or(now);
            let been = now - since;
            if been >= Duration::from_secs(deadline) {
                let text = format!("{subject} has timed out progressing.");
                set(conditions, "Progressing", false, "ProgressDeadlineExceeded", &text, now, true);
                return None;
            }
            return Some(Duration::from_secs(deadline) - been + Duration::from_secs(1));
        }
    }
    Some(Duration::from_secs(deadline + 1))
}

fn find<'a>(conditions: &'a [Value], kind: &str) -> Option<&'a Value> {
    conditions.iter().find(|c| c["type"] == kind)
}

// `touch`: the update time moves even when nothing else changes.
fn set(
    conditions: &mut Vec<Value>,
    kind: &str,
    on: bool,
    reason: &str,
    message: &str,
    now: Wall,
    touch: bool,
) {
    let status = if on { "True" } else { "False" };
    let before = find(conditions, kind).cloned();
    let same = before
        .as_ref()
        .is_some_and(|c| c["status"] == status && c["reason"] == reason && c["message"] == message);
    if same && !touch {
        return;
    }
    let transition = match &before {
        Some(c) if c["status"] == status => c["lastTransitionTime"].clone(),
        Some(_) | None => json!(now.rfc3339()),
    };
    let next = json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastUpdateTime": now.rfc3339(), "lastTransitionTime": transition,
    });
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(slot) => *slot = next,
        None => conditions.push(next),
    }
}
