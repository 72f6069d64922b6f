//! Deployments: ReplicaSets of successive templates, rolled over within bounds.
//!
//! `rollout` computes sizes (pure arithmetic), `status` the status and its conditions; this file joins them.
//! Annotations are upstream's, so that kubectl's rollout verbs work: `deployment.kubernetes.io/revision`,
//! `desired-replicas`, `max-replicas`.

mod rollout;
mod status;

use crate::Kind;
use crate::hash;
use crate::manager::{Change, Controller};
use crate::plan::{Action, Plan, Selector, key_of};
use crate::replicaset::{adopt, owner_reference, release};
use crate::view::{View, controller_of};
use pintle_base::Now;
use pintle_client::Key;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// The controller.
pub struct Deployments;

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn wake(&self, change: &Change<'_>, view: View<'_>, keys: &mut BTreeSet<Key>) {
        match change.kind {
            Kind::Deployment => {
                keys.insert(change.key.to_owned());
            }
            Kind::ReplicaSet => {
                crate::replicaset::wake_owner_of_pod(
                    "Deployment",
                    Kind::Deployment,
                    change,
                    view,
                    keys,
                );
            }
            // Recreate waits for old pods to be gone.
            Kind::Pod if change.new.is_none() => {
                let Some(pod) = change.old else { return };
                let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
                let owner = controller_of(pod).filter(|o| o["kind"] == "ReplicaSet");
                let rs = owner
                    .and_then(|o| view.get_in(Kind::ReplicaSet, namespace, o["name"].as_str()?));
                if let Some(d) = rs.and_then(controller_of).and_then(|o| o["name"].as_str()) {
                    keys.insert(format!("{namespace}/{d}"));
                }
            }
            _ => {}
        }
    }

    fn plan(&self, key: &str, view: View<'_>, now: Now) -> Plan {
        match view.get(Kind::Deployment, key) {
            Some(d) => plan(d, view, now),
            None => Plan::default(),
        }
    }
}

/// A deployment with its ReplicaSets, sorted out.
struct Picture<'a> {
    deployment: &'a Value,
    /// The one with today's template, when it exists.
    new: Option<&'a Value>,
    /// The others, oldest first.
    old: Vec<&'a Value>,
}

impl<'a> Picture<'a> {
    fn all(&self) -> impl Iterator<Item = &'a Value> + use<'a, '_> {
        self.old.iter().copied().chain(self.new)
    }

    fn desired(&self) -> i64 {
        self.deployment["spec"]["replicas"].as_i64().unwrap_or(1)
    }

    fn rolling(&self) -> bool {
        self.deployment["spec"]["strategy"]["type"] != "Recreate"
    }
}

/// `spec.replicas` of a ReplicaSet.
fn size(rs: &Value) -> i64 {
    rs["spec"]["replicas"].as_i64().unwrap_or(1)
}

/// `status.FIELD` of a ReplicaSet.
fn count(rs: &Value, field: &str) -> i64 {
    rs["status"][field].as_i64().unwrap_or(0)
}

fn revision(object: &Value) -> i64 {
    object["metadata"]["annotations"][REVISION].as_str().and_then(|s| s.parse().ok()).unwrap_or(0)
}

fn plan(d: &Value, view: View<'_>, now: Now) -> Plan {
    let mut plan = Plan::default();
    let selector = Selector::read(&d["spec"]["selector"]);
    let claim = view.claimable(Kind::ReplicaSet, d, &selector);
    plan.actions.extend(claim.release.iter().map(|rs| release(Kind::ReplicaSet, rs, d)));
    plan.actions.extend(claim.adopt.iter().map(|rs| adopt(Kind::ReplicaSet, rs, d)));
    if !plan.actions.is_empty() {
        return plan;
    }
    let picture = sort_out(d, claim.mine);
    if d["metadata"]["deletionTimestamp"].is_null() {
        let paused = d["spec"]["paused"] == true;
        if paused || rollout::is_scaling(&picture) {
            scale_in_place(&picture, &mut plan);
        } else {
            roll(&picture, view, &mut plan);
            clean_up_history(&picture, &mut plan);
        }
    }
    status::add(&picture, now, &mut plan);
    plan
}

fn sort_out<'a>(deployment: &'a Value, mut sets: Vec<&'a Value>) -> Picture<'a> {
    let created =
        |rs: &Value| rs["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
    sets.sort_by_cached_key(|rs| (created(rs), key_of(rs)));
    let wanted = without_hash(&deployment["spec"]["template"]);
    let at = sets.iter().position(|rs| without_hash(&rs["spec"]["template"]) == wanted);
    let new = at.map(|i| sets.remove(i));
    Picture { deployment, new, old: sets }
}

// Templates are compared without the label that this controller adds. An empty map equals an absent one.
fn without_hash(template: &Value) -> Value {
    let mut t = template.clone();
    if let Some(labels) = t["metadata"]["labels"].as_object_mut() {
        labels.remove(HASH_LABEL);
        if labels.is_empty()
            && let Some(meta) = t["metadata"].as_object_mut()
        {
            meta.remove("labels");
        }
    }
    if let Some(meta) = t["metadata"].as_object_mut() {
        meta.retain(|_, v| !v.is_null());
    }
    if t["metadata"].as_object().is_none_or(serde_json::Map::is_empty)
        && let Some(map) = t.as_object_mut()
    {
        map.remove("metadata");
    }
    t
}

fn scale_in_place(p: &Picture<'_>, plan: &mut Plan) {
    for (rs, to) in rollout::proportional(p) {
        resize(p, rs, to, plan);
    }
}

fn roll(p: &Picture<'_>, view: View<'_>, plan: &mut Plan) {
    if p.rolling() {
        let Some(new) = p.new else {
            create_new(p, rollout::first_size(p), plan);
            return;
        };
        let before = plan.actions.len();
        keep_revision(p, new, plan);
        if plan.actions.len() > before {
            // The sizes are guarded by the revision that this changes.
            return;
        }
        if let Some(to) = rollout::grow_new(p, new) {
            resize(p, new, to, plan);
            return;
        }
        for (rs, to) in rollout::shrink_old(p, new) {
            resize(p, rs, to, plan);
        }
        return;
    }
    let mut waiting = false;
    for rs in &p.old {
        if size(rs) > 0 {
            resize(p, rs, 0, plan);
            waiting = true;
        }
        let uid = rs["metadata"]["uid"].as_str().unwrap_or_default();
        waiting |= view.owned(Kind::Pod, uid).any(|pod| !crate::replicaset::terminal(pod));
    }
    if waiting {
        return;
    }
    match p.new {
        None => create_new(p, p.desired(), plan),
        Some(new) => {
            let before = plan.actions.len();
            keep_revision(p, new, plan);
            if plan.actions.len() == before && size(new) != p.desired() {
                resize(p, new, p.desired(), plan);
            }
        }
    }
}

fn next_revision(p: &Picture<'_>) -> i64 {
    p.old.iter().map(|rs| revision(rs)).max().unwrap_or(0) + 1
}

// A template that was used before becomes the newest revision again (a rollback).
fn keep_revision(p: &Picture<'_>, new: &Value, plan: &mut Plan) {
    let wanted = next_revision(p);
    if revision(new) >= wanted && p.old.iter().all(|rs| revision(rs) < revision(new)) {
        return tell_revision(p, revision(new), plan);
    }
    plan.actions.push(Action::Patch {
        kind: Kind::ReplicaSet,
        key: key_of(new),
        subresource: "",
        patch: json!({"metadata": {"annotations": {REVISION: wanted.to_string()}}}),
    });
}

// The deployment names the revision that it stands at; `kubectl rollout undo` replaces its annotations.
fn tell_revision(p: &Picture<'_>, current: i64, plan: &mut Plan) {
    if revision(p.deployment) != current {
        plan.actions.push(Action::Patch {
            kind: Kind::Deployment,
            key: key_of(p.deployment),
            subresource: "",
            patch: json!({"metadata": {"annotations": {REVISION: current.to_string()}}}),
        });
    }
}

fn create_new(p: &Picture<'_>, replicas: i64, plan: &mut Plan) {
    let d = p.deployment;
    let collisions = d["status"]["collisionCount"].as_u64().unwrap_or(0);
    let hash = hash::of_template(&d["spec"]["template"], collisions);
    let name = format!("{}-{hash}", d["metadata"]["name"].as_str().unwrap_or_default());
    let mut template = d["spec"]["template"].clone();
    template["metadata"]["labels"][HASH_LABEL] = json!(hash);
    let mut selector = d["spec"]["selector"].clone();
    selector["matchLabels"][HASH_LABEL] = json!(hash);
    let mut annotations = copied_annotations(d);
    annotations[REVISION] = json!(next_revision(p).to_string());
    annotations[DESIRED] = json!(p.desired().to_string());
    annotations[MAX] = json!((p.desired() + rollout::surge(p)).to_string());
    let mut rs = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": name, "namespace": d["metadata"]["namespace"],
            "labels": template["metadata"]["labels"], "annotations": annotations,
            "ownerReferences": [owner_reference(d)],
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    });
    if let Some(min_ready) = d["spec"]["minReadySeconds"].as_i64() {
        rs["spec"]["minReadySeconds"] = json!(min_ready);
    }
    plan.actions.push(Action::Create(Kind::ReplicaSet, rs));
    if replicas > 0 {
        plan.actions.push(scaled(d, &name, 0, replicas));
    }
}

fn copied_annotations(d: &Value) -> Value {
    let mut copy = json!({});
    for (k, v) in d["metadata"]["annotations"].as_object().into_iter().flatten() {
        if k != "kubectl.kubernetes.io/last-applied-configuration"
            && ![REVISION, DESIRED, MAX].contains(&k.as_str())
        {
            copy[k] = v.clone();
        }
    }
    copy
}

fn resize(p: &Picture<'_>, rs: &Value, to: i64, plan: &mut Plan) {
    let desired = p.desired().to_string();
    let max = (p.desired() + rollout::surge(p)).to_string();
    let annotations = &rs["metadata"]["annotations"];
    if size(rs) == to && annotations[DESIRED] == *desired && annotations[MAX] == *max {
        return;
    }
    plan.actions.push(Action::Patch {
        kind: Kind::ReplicaSet,
        key: key_of(rs),
        subresource: "",
        patch: json!({
            "metadata": {
                "resourceVersion": rs["metadata"]["resourceVersion"], "uid": rs["metadata"]["uid"],
                "annotations": {DESIRED: desired, MAX: max},
            },
            "spec": {"replicas": to},
        }),
    });
    if size(rs) != to {
        plan.actions.push(scaled(
            p.deployment,
            rs["metadata"]["name"].as_str().unwrap_or_default(),
            size(rs),
            to,
        ));
    }
}

fn scaled(d: &Value, name: &str, from: i64, to: i64) -> Action {
    let way = if to > from { "up" } else { "down" };
    Action::Event {
        about: Box::new(
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": d["metadata"]}),
        ),
        warning: false,
        reason: "ScalingReplicaSet",
        message: format!("Scaled {way} replica set {name} from {from} to {to}"),
    }
}

// Empty old ReplicaSets beyond the history limit go, oldest revision first.
fn clean_up_history(p: &Picture<'_>, plan: &mut Plan) {
    let Some(limit) = p.deployment["spec"]["revisionHistoryLimit"].as_u64() else { return };
    if p.new.is_none_or(|new| !status::complete(p, new)) {
        return;
    }
    let mut empty: Vec<&Value> = p
        .old
        .iter()
        .copied()
        .filter(|rs| {
            let deleting = !rs["metadata"]["deletionTimestamp"].is_null();
            let observed = rs["metadata"]["generation"] == rs["status"]["observedGeneration"];
            size(rs) == 0 && count(rs, "replicas") == 0 && observed && !deleting
        })
        .collect();
    empty.sort_by_key(|rs| revision(rs));
    let surplus = empty.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    plan.actions
        .extend(empty.into_iter().take(surplus).map(|rs| Action::delete(Kind::ReplicaSet, rs)));
}

#[cfg(test)]
mod tests;
