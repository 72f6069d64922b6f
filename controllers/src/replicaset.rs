//! ReplicaSets: as many pods of a template as asked for.

use crate::Kind;
use crate::manager::{Change, Controller};
use crate::plan::{Action, Plan, Selector, key_of};
use crate::view::{View, controller_of};
use pintle_base::{Now, Wall};
use pintle_client::Key;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Pods made or deleted in one plan (upstream's burst).
const BURST: usize = 500;

/// The controller.
pub struct ReplicaSets;

impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    fn wake(&self, change: &Change<'_>, view: View<'_>, keys: &mut BTreeSet<Key>) {
        match change.kind {
            Kind::ReplicaSet => {
                keys.insert(change.key.to_owned());
            }
            Kind::Pod => wake_owner_of_pod("ReplicaSet", Kind::ReplicaSet, change, view, keys),
            _ => {}
        }
    }

    fn plan(&self, key: &str, view: View<'_>, now: Now) -> Plan {
        match view.get(Kind::ReplicaSet, key) {
            Some(rs) => plan(rs, view, now),
            None => Plan::default(),
        }
    }
}

/// A pod's change touches its controlling owner; a pod without one touches everything that could adopt it.
pub fn wake_owner_of_pod(
    owner_kind: &str,
    kind: Kind,
    change: &Change<'_>,
    view: View<'_>,
    keys: &mut BTreeSet<Key>,
) {
    for pod in [change.old, change.new].into_iter().flatten() {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        match controller_of(pod) {
            Some(owner) if owner["kind"] == owner_kind => {
                keys.insert(format!("{namespace}/{}", owner["name"].as_str().unwrap_or_default()));
            }
            Some(_) => {}
            None => keys.extend(
                view.list_in(kind, namespace)
                    .filter(|o| {
                        let selector = Selector::read(&o["spec"]["selector"]);
                        !selector.is_empty() && selector.matches(&pod["metadata"]["labels"])
                    })
                    .map(key_of),
            ),
        }
    }
}

fn plan(rs: &Value, view: View<'_>, now: Now) -> Plan {
    let mut plan = Plan::default();
    let selector = Selector::read(&rs["spec"]["selector"]);
    let claim = view.claimable(Kind::Pod, rs, &selector);
    let deleting = !rs["metadata"]["deletionTimestamp"].is_null();
    for pod in claim.release.iter().filter(|p| !terminal(p)) {
        plan.actions.push(release(Kind::Pod, pod, rs));
    }
    for pod in claim.adopt.iter().filter(|p| !terminal(p)) {
        plan.actions.push(adopt(Kind::Pod, pod, rs));
    }
    let alive: Vec<&Value> = claim
        .mine
        .iter()
        .copied()
        .filter(|p| !terminal(p) && p["metadata"]["deletionTimestamp"].is_null())
        .collect();
    let wanted = usize::try_from(rs["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
    let have = alive.len() + claim.adopt.len();
    if !deleting && have < wanted {
        for _ in 0..(wanted - have).min(BURST) {
            plan.actions.push(Action::Create(Kind::Pod, pod_of(rs, &rs["spec"]["template"])));
        }
    } else if !deleting && have > wanted {
        let count = |pod: &Value| {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            alive.iter().filter(|p| !node.is_empty() && p["spec"]["nodeName"] == node).count()
        };
        let mut victims = alive.clone();
        victims.sort_by_cached_key(|p| deletion_rank(p, count(p), now.wall));
        for pod in victims.into_iter().take((have - wanted).min(BURST)) {
            plan.actions.push(Action::delete(Kind::Pod, pod));
        }
    }
    let min_ready = Duration::from_secs(rs["spec"]["minReadySeconds"].as_u64().unwrap_or(0));
    let (status, next) = status(rs, &claim.mine, min_ready, now.wall);
    plan.requeue_after = next;
    if rs["status"] != status {
        plan.actions.push(Action::status(
            Kind::ReplicaSet,
            &key_of(rs),
            patch_to(&rs["status"], &status),
        ));
    }
    plan
}

/// Succeeded or Failed: does not count as a replica any more.
pub fn terminal(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// When the pod became ready, if it is.
pub fn ready_since(pod: &Value) -> Option<Wall> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let ready = conditions.iter().find(|c| c["type"] == "Ready" && c["status"] == "True")?;
    let since = ready["lastTransitionTime"].as_str().and_then(Wall::parse_rfc3339);
    Some(since.unwrap_or_default())
}

/// Ready for at least `min_ready`. Gives the time that is missing as an error (`None` = not ready at all).
pub fn available(pod: &Value, min_ready: Duration, now: Wall) -> Result<(), Option<Duration>> {
    let since = ready_since(pod).ok_or(None)?;
    let been = now - since;
    if min_ready.is_zero() || been >= min_ready { Ok(()) } else { Err(Some(min_ready - been)) }
}

/// A reference from an owned object to the one that controls it.
pub fn owner_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    })
}

/// Patch that makes `owner` the controller of an object as it was seen.
pub fn adopt(kind: Kind, object: &Value, owner: &Value) -> Action {
    let mut references: Vec<Value> = crate::view::owners(object)
        .filter(|o| o["uid"] != owner["metadata"]["uid"])
        .cloned()
        .collect();
    references.push(owner_reference(owner));
    Action::Patch {
        kind,
        key: key_of(object),
        subresource: "",
        patch: references_patch(object, references),
    }
}

/// Patch that ends `owner`'s control of an object as it was seen.
pub fn release(kind: Kind, object: &Value, owner: &Value) -> Action {
    let references: Vec<Value> = crate::view::owners(object)
        .filter(|o| o["uid"] != owner["metadata"]["uid"])
        .cloned()
        .collect();
    Action::Patch {
        kind,
        key: key_of(object),
        subresource: "",
        patch: references_patch(object, references),
    }
}

fn references_patch(object: &Value, references: Vec<Value>) -> Value {
    json!({"metadata": {
        "uid": object["metadata"]["uid"], "resourceVersion": object["metadata"]["resourceVersion"],
        "ownerReferences": references,
    }})
}

/// A pod of a template, controlled by `owner`, with a name that the API server completes.
pub fn pod_of(owner: &Value, template: &Value) -> Value {
    let meta = &template["metadata"];
    let mut metadata = json!({
        "generateName": format!("{}-", owner["metadata"]["name"].as_str().unwrap_or_default()),
        "namespace": owner["metadata"]["namespace"],
        "ownerReferences": [owner_reference(owner)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !meta[field].is_null() {
            metadata[field] = meta[field].clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

// Which pod goes first (upstream's ActivePodsWithRanks): not on a node, pending, unknown, not ready, cheap to delete,
// crowded node, ready for a shorter time (in powers of two), more restarts, younger.
fn deletion_rank(pod: &Value, on_node: usize, now: Wall) -> impl Ord + use<> {
    let assigned = pod["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    let phase = match pod["status"]["phase"].as_str() {
        Some("Pending") | None => 0,
        Some("Running") => 2,
        Some(_) => 1,
    };
    let cost = pod["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"]
        .as_str()
        .and_then(|s| s.parse::<i32>().ok())
        .unwrap_or(0);
    let ready = ready_since(pod);
    let ready_log = ready.map_or(0, |t| 64 - (now - t).as_secs().leading_zeros());
    let restarts: i64 = pod["status"]["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| c["restartCount"].as_i64())
        .max()
        .unwrap_or(0);
    let created = pod["metadata"]["creationTimestamp"]
        .as_str()
        .and_then(Wall::parse_rfc3339)
        .unwrap_or_default();
    (
        assigned,
        phase,
        ready.is_some(),
        cost,
        std::cmp::Reverse(on_node),
        ready_log,
        std::cmp::Reverse(restarts),
        std::cmp::Reverse(created),
        key_of(pod),
    )
}

fn status(
    rs: &Value,
    mine: &[&Value],
    min_ready: Duration,
    now: Wall,
) -> (Value, Option<Duration>) {
    let template_labels = Selector::of_map(&rs["spec"]["template"]["metadata"]["labels"]);
    let (mut replicas, mut labeled, mut ready, mut available_now, mut terminating) =
        (0, 0, 0, 0, 0);
    let mut next: Option<Duration> = None;
    for pod in mine.iter().filter(|p| !terminal(p)) {
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            terminating += 1;
            continue;
        }
        replicas += 1;
        labeled += i64::from(template_labels.matches(&pod["metadata"]["labels"]));
        ready += i64::from(ready_since(pod).is_some());
        match available(pod, min_ready, now) {
            Ok(()) => available_now += 1,
            Err(missing) => next = [next, missing].into_iter().flatten().min(),
        }
    }
    let mut s = json!({"replicas": replicas, "observedGeneration": rs["metadata"]["generation"]});
    for (field, n) in [
        ("fullyLabeledReplicas", labeled),
        ("readyReplicas", ready),
        ("availableReplicas", available_now),
        ("terminatingReplicas", terminating),
    ] {
        if n > 0 {
            s[field] = json!(n);
        }
    }
    if let Some(conditions) = rs["status"]["conditions"].as_array() {
        s["conditions"] = json!(conditions);
    }
    (s, next)
}

/// Merge patch that turns one object into another, at every depth: fields that are gone become null (a merge
/// patch leaves alone what it does not name). Lists are replaced whole.
pub fn patch_to(old: &Value, new: &Value) -> Value {
    let (Some(o), Some(n)) = (old.as_object(), new.as_object()) else { return new.clone() };
    let mut patch = serde_json::Map::new();
    for (field, value) in n {
        let before = o.get(field).unwrap_or(&Value::Null);
        if value != before {
            patch.insert(field.clone(), patch_to(before, value));
        }
    }
    for field in o.keys().filter(|f| !n.contains_key(*f)) {
        patch.insert(field.clone(), Value::Null);
    }
    Value::Object(patch)
}
