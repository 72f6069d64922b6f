//! The garbage collector: what becomes of an object when its owners go.
//!
//! - all owners gone: the object goes (background deletion)
//! - an owner waits for its dependents (finalizer `foregroundDeletion`): they go first, then the finalizer
//! - an owner lets them live (finalizer `orphan`): its references are taken out, then the finalizer
//!
//! An owner that the view does not show may not have arrived yet, so the API server is asked before anything is
//! deleted for it. Every branch below names the state that it has seen.

use crate::Kind;
use crate::manager::{Change, Controller};
use crate::plan::{Action, Plan, key_of};
use crate::view::{View, owners};
use pintle_base::Now;
use pintle_client::Key;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// The controller. Its keys are `Kind|namespace/name`.
pub struct Garbage;

fn gc_key(kind: Kind, key: &str) -> Key {
    format!("{}|{key}", kind.spec())
}

fn parse(key: &str) -> Option<(Kind, &str)> {
    let (spec, key) = key.split_once('|')?;
    Some((Kind::of_spec(spec.parse().ok()?)?, key))
}

impl Controller for Garbage {
    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    fn wake(&self, change: &Change<'_>, view: View<'_>, keys: &mut BTreeSet<Key>) {
        let Some(object) = change.object() else { return };
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let deleting = !object["metadata"]["deletionTimestamp"].is_null();
        if let Some(new) = change.new
            && (owners(new).next().is_some()
                || deleting && (has_finalizer(new, FOREGROUND) || has_finalizer(new, ORPHAN)))
        {
            keys.insert(gc_key(change.kind, change.key));
        }
        if change.new.is_none() || deleting {
            keys.extend(view.owned_keys(uid).map(|(kind, key)| gc_key(*kind, key)));
        }
        // An owner that waits for its dependents looks again when one of them changes or goes.
        for old in [change.old, change.new].into_iter().flatten() {
            for reference in owners(old) {
                if let Some((kind, key)) = owner_key(old, reference)
                    && view
                        .get(kind, &key)
                        .is_some_and(|o| !o["metadata"]["deletionTimestamp"].is_null())
                {
                    keys.insert(gc_key(kind, &key));
                }
            }
        }
    }

    fn plan(&self, key: &str, view: View<'_>, _now: Now) -> Plan {
        let mut plan = Plan::default();
        let Some((kind, key)) = parse(key) else { return plan };
        let Some(object) = view.get(kind, key) else { return plan };
        let deleting = !object["metadata"]["deletionTimestamp"].is_null();
        if deleting && has_finalizer(object, ORPHAN) {
            orphan_dependents(kind, object, view, &mut plan);
        } else if deleting && has_finalizer(object, FOREGROUND) {
            wait_for_dependents(kind, object, view, &mut plan);
        } else if deleting {
            // On its way already; its owners have no more say.
        } else {
            judge(kind, object, view, &mut plan);
        }
        plan
    }
}

fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|f| f.iter().any(|x| x == finalizer))
}

fn without_finalizer(kind: Kind, object: &Value, finalizer: &str) -> Action {
    let rest: Vec<&Value> = object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|f| *f != finalizer)
        .collect();
    guarded_patch(kind, object, json!({ "finalizers": rest }))
}

fn guarded_patch(kind: Kind, object: &Value, mut metadata: Value) -> Action {
    metadata["uid"] = object["metadata"]["uid"].clone();
    metadata["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
    Action::Patch {
        kind,
        key: key_of(object),
        subresource: "",
        patch: json!({ "metadata": metadata }),
    }
}

fn owner_key(object: &Value, reference: &Value) -> Option<(Kind, Key)> {
    let kind = Kind::of_reference(reference["apiVersion"].as_str()?, reference["kind"].as_str()?)?;
    let name = reference["name"].as_str()?;
    if !kind.namespaced() {
        return Some((kind, name.to_owned()));
    }
    let namespace = object["metadata"]["namespace"].as_str()?;
    Some((kind, format!("{namespace}/{name}")))
}

fn orphan_dependents(kind: Kind, object: &Value, view: View<'_>, plan: &mut Plan) {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    for (dependent_kind, key) in view.owned_keys(uid) {
        let Some(dependent) = view.get(*dependent_kind, key) else { continue };
        let rest: Vec<&Value> = owners(dependent).filter(|o| o["uid"] != uid).collect();
        plan.actions.push(guarded_patch(
            *dependent_kind,
            dependent,
            json!({ "ownerReferences": rest }),
        ));
    }
    if plan.actions.is_empty() {
        plan.actions.push(without_finalizer(kind, object, ORPHAN));
    }
}

fn wait_for_dependents(kind: Kind, object: &Value, view: View<'_>, plan: &mut Plan) {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let mut blocked = false;
    for (dependent_kind, key) in view.owned_keys(uid) {
        let Some(dependent) = view.get(*dependent_kind, key) else { continue };
        blocked |= owners(dependent).any(|o| o["uid"] == uid && o["blockOwnerDeletion"] == true);
    }
    if !blocked {
        plan.actions.push(without_finalizer(kind, object, FOREGROUND));
    }
    // Else: each dependent's own key deletes it (`judge`), and its going wakes this one.
}

enum Owner {
    /// It exists and stays.
    Solid,
    /// It exists and waits for its dependents to go.
    Waiting,
    /// The API server says that it is gone.
    Gone,
    /// The view does not show it; the API server has not been asked.
    Unseen(Kind, Key),
}

fn look_at(object: &Value, reference: &Value, view: View<'_>) -> Owner {
    let uid = reference["uid"].as_str().unwrap_or_default();
    // A kind that is not watched here cannot be judged: its objects are left alone.
    let Some((kind, key)) = owner_key(object, reference) else { return Owner::Solid };
    match view.get(kind, &key) {
        Some(owner) if owner["metadata"]["uid"] == uid => {
            let deleting = !owner["metadata"]["deletionTimestamp"].is_null();
            if deleting && has_finalizer(owner, FOREGROUND) { Owner::Waiting } else { Owner::Solid }
        }
        Some(_) | None if view.confirmed_gone(uid) => Owner::Gone,
        Some(_) | None => Owner::Unseen(kind, key),
    }
}

fn judge(kind: Kind, object: &Value, view: View<'_>, plan: &mut Plan) {
    let (mut solid, mut waiting, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for reference in owners(object) {
        match look_at(object, reference, view) {
            Owner::Solid => solid.push(reference),
            Owner::Waiting => waiting.push(reference),
            Owner::Gone => gone.push(reference),
            Owner::Unseen(owner, key) => {
                let uid = reference["uid"].as_str().unwrap_or_default().to_owned();
                plan.actions.push(Action::Confirm { kind: owner, key, remember: uid.clone(), uid });
            }
        }
    }
    if !plan.actions.is_empty() {
        // Not all owners are known: nothing is done before they are.
        return;
    }
    if !solid.is_empty() && gone.is_empty() && waiting.is_empty() {
        // Owned as it says.
    } else if !solid.is_empty() {
        // Some owners stay: the others' references go.
        plan.actions.push(guarded_patch(kind, object, json!({ "ownerReferences": solid })));
    } else if !waiting.is_empty() {
        // All remaining owners wait for this one: it goes, its own dependents first.
        plan.actions.push(delete(kind, object, "Foreground"));
    } else if !gone.is_empty() {
        // Every owner is gone.
        plan.actions.push(delete(kind, object, "Background"));
    } else {
        // No owners at all: nobody's business.
    }
}

fn delete(kind: Kind, object: &Value, policy: &'static str) -> Action {
    Action::Delete {
        kind,
        key: key_of(object),
        uid: object["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
        // Somebody may have adopted it meanwhile.
        resource_version: object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        policy,
        grace_s: None,
    }
}
