//! Rows of apps/v1 and batch/v1.

use super::{Cells, labels};
use crate::{duration, object};
use pintle_base::Wall;
use serde_json::Value;

const CONTAINERS: [&str; 4] = ["spec", "template", "spec", "containers"];

pub(super) fn cells(kind: &str, c: &Cells<'_>) -> Option<Vec<Value>> {
    let [names, images] = c.containers(&CONTAINERS);
    let number = |steps: &[&str]| object::int_at(c.o, steps).unwrap_or(0);
    let selector = c.selector(&["spec", "selector"]);
    let ready =
        format!("{}/{}", number(&["status", "readyReplicas"]), number(&["spec", "replicas"]));
    Some(match kind {
        "Deployment" => vec![
            c.name(),
            ready.into(),
            c.int(&["status", "updatedReplicas"]),
            c.int(&["status", "availableReplicas"]),
            c.age(),
            names,
            images,
            selector,
        ],
        "ReplicaSet" => vec![
            c.name(),
            c.int(&["spec", "replicas"]),
            c.int(&["status", "replicas"]),
            c.int(&["status", "readyReplicas"]),
            c.age(),
            names,
            images,
            selector,
        ],
        "StatefulSet" => vec![c.name(), ready.into(), c.age(), names, images],
        "DaemonSet" => vec![
            c.name(),
            c.int(&["status", "desiredNumberScheduled"]),
            c.int(&["status", "currentNumberScheduled"]),
            c.int(&["status", "numberReady"]),
            c.int(&["status", "updatedNumberScheduled"]),
            c.int(&["status", "numberAvailable"]),
            labels(object::map_at(c.o, &["spec", "template", "spec", "nodeSelector"])),
            c.age(),
            names,
            images,
            selector,
        ],
        "ControllerRevision" => vec![c.name(), owner(c.o).into(), c.int(&["revision"]), c.age()],
        "Job" => job(c, names, images, selector),
        "CronJob" => cron_job(c),
        _ => return None,
    })
}

/// `statefulset.apps/w`.
fn owner(o: &Value) -> String {
    let Some(r) = object::controller_of(o) else { return "<none>".to_owned() };
    let (group, _) = crate::gvk::split_api_version(object::str_at(r, &["apiVersion"]));
    let kind = crate::status::qualified(group, &object::str_at(r, &["kind"]).to_lowercase());
    format!("{kind}/{}", object::str_at(r, &["name"]))
}

fn job(c: &Cells<'_>, names: Value, images: Value, selector: Value) -> Vec<Value> {
    const STATES: [(&str, &str); 5] = [
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
        ("FailureTarget", "FailureTarget"),
    ];
    let state = STATES.iter().find(|(k, _)| object::condition_true(c.o, k)).map(|(_, s)| *s);
    let state = state.unwrap_or(if object::is_deleting(c.o) { "Terminating" } else { "Running" });
    let done = object::int_at(c.o, &["status", "succeeded"]).unwrap_or(0);
    let parallel = object::int_at(c.o, &["spec", "parallelism"]).unwrap_or(0);
    let completions = match object::int_at(c.o, &["spec", "completions"]) {
        Some(n) => format!("{done}/{n}"),
        None if parallel > 1 => format!("{done}/1 of {parallel}"),
        None => format!("{done}/1"),
    };
    let time = |k: &str| Wall::parse_rfc3339(c.text(&["status", k]));
    let took = time("startTime").map_or_else(String::new, |start| {
        let end = time("completionTime").unwrap_or(c.now);
        duration::human(end.unix_s().saturating_sub(start.unix_s()))
    });
    vec![c.name(), state.into(), completions.into(), took.into(), c.age(), names, images, selector]
}

fn cron_job(c: &Cells<'_>) -> Vec<Value> {
    let [names, images] =
        c.containers(&["spec", "jobTemplate", "spec", "template", "spec", "containers"]);
    let suspend = match object::at(c.o, &["spec", "suspend"]).and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = super::age(c.text(&["status", "lastScheduleTime"]), c.now);
    vec![
        c.name(),
        c.str(&["spec", "schedule"]),
        c.or(&["spec", "timeZone"], "<none>"),
        suspend.into(),
        c.len(&["status", "active"]).into(),
        last.unwrap_or_else(|| "<none>".to_owned()).into(),
        c.age(),
        names,
        images,
        c.selector(&["spec", "jobTemplate", "spec", "selector"]),
    ]
}
