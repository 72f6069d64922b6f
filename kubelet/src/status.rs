//! The status that a pod shows: phase, conditions and container statuses, as Kubernetes' kubelet computes them,
//! and the patch that leads there from what the API server has.

use crate::plan;
use crate::resources;
use crate::spec::{Container, Role};
use crate::state::{LOST_MESSAGE, LOST_REASON, Phase, PodState, Run};
use pintle_base::{Now, Wall};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// Fields of the status that the kubelet owns: taken away again when it no longer sets them.
const OWNED: &[&str] = &[
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
    "observedGeneration",
];

/// The status of a pod, without the conditions that others set. `None` = leave what the API server has.
pub fn compute(s: &PodState, host_ip: Option<IpAddr>, now: Now) -> Option<Value> {
    if s.runs.is_empty() && s.verdict.is_none() && plan::finished(s).is_some() {
        return None;
    }
    let phase = phase(s);
    let mut out = Map::new();
    // A pod ends when its last container has: until then it shows what it showed.
    let shown = match (phase, s.any_alive()) {
        ("Succeeded" | "Failed", true) => match s.pod.status["phase"].as_str() {
            Some("Pending") => "Pending",
            _ => "Running",
        },
        (phase, _) => phase,
    };
    out.insert("phase".into(), json!(shown));
    if let Some(v) = &s.verdict {
        out.insert("reason".into(), json!(v.reason));
        out.insert("message".into(), json!(v.message));
    }
    if s.pod.metadata.generation > 0 {
        out.insert("observedGeneration".into(), json!(s.pod.metadata.generation));
    }
    if let Some(ip) = host_ip {
        out.insert("hostIP".into(), json!(ip.to_string()));
        out.insert("hostIPs".into(), json!([{ "ip": ip.to_string() }]));
    }
    // The address stays in the status of a pod that ended, as in Kubernetes.
    let ip = s.sandbox.as_ref().and_then(|b| b.ip).map(|ip| ip.to_string());
    let ip = ip.or_else(|| s.pod.status["podIP"].as_str().map(String::from));
    if let Some(ip) = ip {
        out.insert("podIP".into(), json!(ip));
        out.insert("podIPs".into(), json!([{ "ip": ip }]));
    }
    if let Some(start) = s.start_time {
        out.insert("startTime".into(), json!(start.rfc3339()));
    }
    out.insert("qosClass".into(), json!(resources::qos(&s.pod).as_str()));
    container_lists(s, phase, &mut out);
    out.insert("conditions".into(), conditions(s, phase, now));
    Some(Value::Object(out))
}

/// The phase.
pub fn phase(s: &PodState) -> &'static str {
    if s.verdict.is_some() {
        return "Failed";
    }
    if let Some(phase) = plan::finished(s) {
        return phase;
    }
    let main = || s.pod.spec.containers.iter().map(|c| s.last_run(&c.name));
    if s.deleting() && !s.any_alive() && !s.runs.is_empty() {
        let good = main().all(|r| r.is_some_and(Run::succeeded));
        return if good { "Succeeded" } else { "Failed" };
    }
    if main().any(|r| r.is_none_or(|r| r.phase == Phase::Created)) {
        return "Pending";
    }
    "Running"
}

fn container_lists(s: &PodState, phase: &str, out: &mut Map<String, Value>) {
    // A pod that was refused has no container statuses.
    if s.runs.is_empty() && s.verdict.is_some() {
        return;
    }
    let list = |wanted: &[Role]| -> Vec<Value> {
        s.pod
            .all_containers()
            .filter(|(role, _)| wanted.contains(role))
            .map(|(role, c)| container_status(s, role, c, phase))
            .collect()
    };
    let init = list(&[Role::Init, Role::Sidecar]);
    if !init.is_empty() {
        out.insert("initContainerStatuses".into(), Value::Array(init));
    }
    let mut main = list(&[Role::Main]);
    main.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    out.insert("containerStatuses".into(), Value::Array(main));
    let ephemeral = list(&[Role::Ephemeral]);
    if !ephemeral.is_empty() {
        out.insert("ephemeralContainerStatuses".into(), Value::Array(ephemeral));
    }
}

/// `containerID` of a run.
pub fn container_id(run: &Run) -> String {
    format!("pintle://{}", run.id)
}

fn container_status(s: &PodState, role: Role, c: &Container, phase: &str) -> Value {
    let run = s.last_run(&c.name);
    let waiting = s.waiting.get(&c.name).filter(|_| run.is_none_or(Run::exited));
    let ended = matches!(phase, "Succeeded" | "Failed");
    let mut last_state = json!({});
    let state = match (waiting, run) {
        (Some(w), run) if !ended => {
            if let Some(run) = run {
                last_state = terminated(run);
            }
            json!({"waiting": {"reason": w.reason, "message": w.message}})
        }
        (None, Some(run)) if !ended && starts_over(s, role, c, run) => {
            last_state = terminated(run);
            json!({"waiting": {"reason": begins(s)}})
        }
        (_, Some(run)) => {
            last_state = match s.previous_run(&c.name) {
                Some(previous) => terminated(previous),
                None => kept_last_state(s, run),
            };
            match run.phase {
                Phase::Created => json!({"waiting": {"reason": "ContainerCreating"}}),
                Phase::Running => json!({"running": {"startedAt": run.started.rfc3339()}}),
                Phase::Exited { .. } => terminated(run),
            }
        }
        (_, None) if ended => json!({"terminated": {
            "reason": LOST_REASON,
            "message": LOST_MESSAGE,
            "exitCode": 137,
            "startedAt": null, "finishedAt": null}}),
        (_, None) => json!({"waiting": {"reason": begins(s)}}),
    };
    let mut out = json!({
        "name": c.name,
        "state": state,
        "lastState": last_state,
        "ready": is_ready(s, role, c),
        "restartCount": run.map_or(0, |r| r.attempt),
        "image": run.map_or(c.image.as_str(), |r| r.image.as_str()),
        "imageID": run.map_or("", |r| r.image_id.as_str()),
        "started": run.is_some_and(|r| s.probes.started(c, r)),
    });
    if let Some(run) = run {
        out["containerID"] = json!(container_id(run));
    }
    if !c.volume_mounts.is_empty() {
        out["volumeMounts"] = c.volume_mounts.iter().map(mount_status).collect();
    }
    if !c.resources.requests.is_empty() || !c.resources.limits.is_empty() {
        out["resources"] = json!({"requests": c.resources.requests, "limits": c.resources.limits});
        out["allocatedResources"] = json!(c.resources.requests);
    }
    out
}

fn mount_status(m: &crate::spec::VolumeMount) -> Value {
    let mut out = json!({"name": m.name, "mountPath": m.mount_path});
    if m.read_only {
        out["readOnly"] = json!(true);
        out["recursiveReadOnly"] = json!("Disabled");
    }
    out
}

/// Reason of a container that has not had its turn yet.
fn begins(s: &PodState) -> &'static str {
    if s.pod.spec.init_containers.is_empty() { "ContainerCreating" } else { "PodInitializing" }
}

/// It ran in an earlier sandbox and waits for its turn in the present one.
fn starts_over(s: &PodState, role: Role, c: &Container, run: &Run) -> bool {
    s.sandbox.as_ref().is_some_and(|b| b.id != run.sandbox) && s.restarts(role, c, run)
}

/// What the API server remembers of the run before, when this kubelet does not (it was collected).
fn kept_last_state(s: &PodState, run: &Run) -> Value {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let all = lists.iter().filter_map(|l| s.pod.status[l].as_array()).flatten();
    let mut own = all.filter(|c| c["containerID"].as_str() == Some(container_id(run).as_str()));
    own.next().map_or_else(|| json!({}), |c| c["lastState"].clone())
}

fn terminated(run: &Run) -> Value {
    let Phase::Exited { code, signal, oom_killed } = run.phase else { return json!({}) };
    let reason = match &run.reason {
        Some(reason) => reason.as_str(),
        None if oom_killed => "OOMKilled",
        None if code == 0 => "Completed",
        None => "Error",
    };
    let time = |w: Wall| if w.0 == 0 { Value::Null } else { json!(w.rfc3339()) };
    let mut out = json!({
        "exitCode": code,
        "reason": reason,
        "startedAt": time(run.started),
        "finishedAt": time(run.finished),
        "containerID": container_id(run),
    });
    if signal != 0 {
        out["signal"] = json!(signal);
    }
    if !run.message.is_empty() {
        out["message"] = json!(run.message);
    }
    json!({ "terminated": out })
}

fn is_ready(s: &PodState, role: Role, c: &Container) -> bool {
    match (role, s.last_run(&c.name)) {
        (_, None) | (Role::Ephemeral, _) => false,
        (Role::Init, Some(run)) => run.succeeded(),
        (Role::Main | Role::Sidecar, Some(run)) => s.probes.ready(c, run),
    }
}

/// One condition: type, status, reason, message.
type Condition = (&'static str, bool, &'static str, String);

fn conditions(s: &PodState, phase: &str, now: Now) -> Value {
    let sandbox_up =
        s.sandbox.as_ref().is_some_and(|b| b.ready) && !matches!(phase, "Succeeded" | "Failed");
    let containers = containers_ready(s, phase);
    let mut ready = containers.clone();
    ready.0 = "Ready";
    if containers.1
        && let Some(message) = gates_missing(s)
    {
        ready = ("Ready", false, "ReadinessGatesNotReady", message);
    }
    let all = [
        ("PodReadyToStartContainers", sandbox_up, "", String::new()),
        initialized(s, phase),
        ready,
        containers,
        ("PodScheduled", true, "", String::new()),
    ];
    let old = s.pod.status["conditions"].as_array();
    let generation = s.pod.metadata.generation;
    let values = all.into_iter().map(|(kind, status, reason, message)| {
        let status = if status { "True" } else { "False" };
        let before = old.into_iter().flatten().find(|c| c["type"] == kind);
        let since = before
            .filter(|c| c["status"] == status)
            .and_then(|c| c["lastTransitionTime"].as_str())
            .map_or_else(|| now.wall.rfc3339(), String::from);
        let mut c = json!({"type": kind, "status": status, "lastProbeTime": null,
            "lastTransitionTime": since});
        if generation > 0 {
            c["observedGeneration"] = json!(generation);
        }
        if !reason.is_empty() {
            c["reason"] = json!(reason);
        }
        if !message.is_empty() {
            c["message"] = json!(message);
        }
        c
    });
    Value::Array(values.collect())
}

fn initialized(s: &PodState, phase: &str) -> Condition {
    const KIND: &str = "Initialized";
    if phase == "Succeeded" {
        return (KIND, true, "PodCompleted", String::new());
    }
    let begun = s.pod.spec.containers.iter().any(|c| s.last_run(&c.name).is_some());
    let open: Vec<&str> = s
        .pod
        .all_containers()
        .filter(|(role, c)| match (role, s.last_run(&c.name)) {
            (Role::Init, run) => !run.is_some_and(Run::succeeded),
            (Role::Sidecar, run) => !run.is_some_and(|r| s.probes.started(c, r)),
            (Role::Main | Role::Ephemeral, _) => false,
        })
        .map(|(_, c)| c.name.as_str())
        .collect();
    if begun || open.is_empty() {
        return (KIND, true, "", String::new());
    }
    let message = format!("containers with incomplete status: [{}]", open.join(" "));
    (KIND, false, "ContainersNotInitialized", message)
}

fn containers_ready(s: &PodState, phase: &str) -> Condition {
    const KIND: &str = "ContainersReady";
    match phase {
        "Succeeded" => return (KIND, false, "PodCompleted", String::new()),
        "Failed" => return (KIND, false, "PodFailed", String::new()),
        _ => {}
    }
    let unready: Vec<&str> = s
        .pod
        .all_containers()
        .filter(|(role, _)| matches!(role, Role::Main | Role::Sidecar))
        .filter(|(role, c)| !is_ready(s, *role, c))
        .map(|(_, c)| c.name.as_str())
        .collect();
    if unready.is_empty() {
        return (KIND, true, "", String::new());
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    (KIND, false, "ContainersNotReady", message)
}

fn gates_missing(s: &PodState) -> Option<String> {
    let conditions = s.pod.status["conditions"].as_array();
    let mut messages = Vec::new();
    for gate in &s.pod.spec.readiness_gates {
        let kind = &gate.condition_type;
        match conditions.into_iter().flatten().find(|c| c["type"] == **kind) {
            None => messages.push(format!(
                "corresponding condition of pod readiness gate \"{kind}\" does not exist."
            )),
            Some(c) if c["status"] != "True" => messages.push(format!(
                "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                c["status"].as_str().unwrap_or_default()
            )),
            Some(_) => {}
        }
    }
    (!messages.is_empty()).then(|| messages.join(", "))
}

/// The strategic merge patch of the status that leads from `old` to `new`; `None` when nothing differs.
pub fn patch(uid: &str, old: &Value, new: &Value) -> Option<Value> {
    let mut change = Map::new();
    for key in OWNED {
        match (old.get(key), new.get(key)) {
            (Some(Value::Null) | None, None) => {}
            (Some(_), None) => {
                change.insert((*key).into(), Value::Null);
            }
            (before, Some(after)) if !same(before, after) => {
                let mut after = after.clone();
                // These lists are merged by ip: what is there must go.
                if matches!(*key, "podIPs" | "hostIPs")
                    && before.is_some_and(|b| b.as_array().is_some_and(|b| !b.is_empty()))
                    && let Some(list) = after.as_array_mut()
                {
                    list.insert(0, json!({"$patch": "replace"}));
                }
                change.insert((*key).into(), after);
            }
            (_, Some(_)) => {}
        }
    }
    let before = old["conditions"].as_array();
    let changed: Vec<Value> = new["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|c| {
            let mut before = before.into_iter().flatten();
            !before.any(|b| b["type"] == c["type"] && same(Some(b), c))
        })
        .map(with_nulls)
        .collect();
    if !changed.is_empty() {
        change.insert("conditions".into(), Value::Array(changed));
    }
    (!change.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": change}))
}

/// A merged condition keeps old reasons and messages unless they are taken away.
fn with_nulls(condition: &Value) -> Value {
    let mut c = condition.clone();
    for key in ["reason", "message"] {
        if c.get(key).is_none() {
            c[key] = Value::Null;
        }
    }
    c
}

/// Equal, where an absent field, a null and an empty object say the same.
fn same(a: Option<&Value>, b: &Value) -> bool {
    match (a.unwrap_or(&Value::Null), b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
            let nothing = Value::Null;
            keys.into_iter().all(|k| same(a.get(k), b.get(k).unwrap_or(&nothing)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), b))
        }
        (Value::Null, Value::Object(o)) | (Value::Object(o), Value::Null) => {
            o.values().all(|v| same(Some(v), &Value::Null))
        }
        (Value::Null, Value::String(s)) | (Value::String(s), Value::Null) => s.is_empty(),
        (Value::Null, Value::Array(l)) | (Value::Array(l), Value::Null) => l.is_empty(),
        (a, b) => a == b,
    }
}
