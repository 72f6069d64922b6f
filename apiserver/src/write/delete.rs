//! Delete: at once, gracefully, or not before the finalizers are gone; one object or a collection.

use std::sync::Arc;
use std::time::Duration;

use pintle_api::object;
use pintle_api::status::FieldError;
use pintle_base::Wall;
use pintle_wire::msg::api;
use serde_json::{Value, json};

use super::{Done, Effect, Plan, Planned, json_reply, meta};
use crate::alloc::Reserved;
use crate::convert;
use crate::read::select;
use crate::registry::Endpoint;
use crate::server::{Origin, Server, Work};
use crate::status::{Failure, Result};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

const JOB_ORPHANS: &str = "child pods are preserved by default when jobs are deleted; set \
propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

/// A deletion of a collection under way.
#[derive(Debug)]
pub(crate) struct Collection {
    origin: Origin,
    left: usize,
    answer: api::Reply,
}

impl Server {
    pub(crate) fn plan_delete(&mut self, work: &Work) -> Result<Planned> {
        let r = work.request.clone();
        let endpoint = self.registry.endpoint(work.endpoint).clone();
        check_options(&r.options)?;
        let key = endpoint.key(&r.namespace, &r.name);
        let current = self
            .cache
            .table(endpoint.resource)
            .get(&key)
            .cloned()
            .ok_or_else(|| Failure::not_found(&endpoint.group, &endpoint.plural, &r.name))?;
        let old = current.parse();
        check_preconditions(&r.options, &endpoint, &old)?;
        self.admit_delete(work, &endpoint, &old)?;
        let change = plan_deletion(&endpoint, &old, &r.options, self.now.wall);
        let resource = self.registry.resource(endpoint.resource);
        let dry = r.options.dry_run;
        let mut warnings = crate::read::deprecations(&endpoint);
        if endpoint.kind == "Job"
            && r.options.propagation_policy.is_none()
            && r.options.orphan_dependents.is_none()
        {
            warnings.push(JOB_ORPHANS.into());
        }
        let commit = |effect, done| {
            Planned::Commit(Box::new(Plan {
                resource: endpoint.resource,
                key: key.clone(),
                expect: current.revision,
                effect,
                done,
                also: Vec::new(),
                warnings,
                reserved: Reserved::default(),
            }))
        };
        let code = if r.options.orphan_dependents == Some(false) { 202 } else { 200 };
        Ok(match change {
            Change::Nothing => Planned::Answer(self.unwritten(
                work,
                200,
                endpoint.resource,
                old,
                current.revision,
                Vec::new(),
            )?),
            Change::Mark(new) if dry => Planned::Answer(self.unwritten(
                work,
                200,
                endpoint.resource,
                new,
                current.revision,
                Vec::new(),
            )?),
            Change::Mark(new) => commit(Effect::Put(new), Done::Object(code)),
            Change::Remove => {
                let body = if returns_object(&endpoint) {
                    let mut body = old.clone();
                    if endpoint.kind == "Pod" {
                        mark(&mut body, self.now.wall, 0);
                    }
                    convert::to_endpoint(body, resource, &endpoint)
                } else {
                    deleted_status(&endpoint, &old)
                };
                if dry {
                    Planned::Answer(json_reply(200, &body))
                } else {
                    let done = if returns_object(&endpoint) { Done::Revised } else { Done::Body };
                    commit(Effect::Delete, done(200, body))
                }
            }
        })
    }

    pub(crate) fn start_collection(&mut self, work: &Work) {
        let listed = self.plan_collection(work);
        let (keys, answer) = match listed {
            Ok(all) => all,
            Err(f) => return self.answer(work.origin, Err(f)),
        };
        if keys.is_empty() {
            return self.answer(work.origin, Ok(answer));
        }
        self.next_waiting += 1;
        let id = self.next_waiting;
        let left = keys.len();
        self.collections.insert(id, Collection { origin: work.origin, left, answer });
        for (namespace, name) in keys {
            let mut one = (*work.request).clone();
            one.verb = api::Verb::Delete;
            one.namespace = namespace;
            one.name = name;
            one.options.label_selector = None;
            one.options.field_selector = None;
            self.start(Work {
                origin: Origin::Collection(id),
                who: work.who.clone(),
                request: Arc::new(one),
                endpoint: work.endpoint,
                tries: 0,
            });
        }
    }

    #[allow(clippy::type_complexity)]
    fn plan_collection(&mut self, work: &Work) -> Result<(Vec<(String, String)>, api::Reply)> {
        let r = &*work.request;
        check_options(&r.options)?;
        let endpoint = self.registry.endpoint(work.endpoint);
        let resource = self.registry.resource(endpoint.resource);
        let selection = select(r, endpoint)?;
        let keys = self
            .cache
            .table(resource.id)
            .iter(&r.namespace)
            .filter(|o| selection.matches(resource, o))
            .map(|o| (o.namespace().to_owned(), o.name().to_owned()))
            .collect();
        let mut list = r.clone();
        list.verb = api::Verb::List;
        list.options.resource_version = None;
        list.options.limit = 0;
        let list = Work { request: Arc::new(list), ..work.clone() };
        Ok((keys, self.read(&list)?))
    }

    /// One object of a collection has been dealt with.
    pub(crate) fn collection_item(&mut self, id: u64, reply: &api::Reply) {
        let Some(c) = self.collections.get_mut(&id) else { return };
        c.left -= 1;
        if let api::Reply::Object { code, .. } = reply
            && *code >= 400
            && *code != 404
        {
            c.answer = reply.clone();
        }
        if c.left == 0
            && let Some(c) = self.collections.remove(&id)
        {
            self.answer(c.origin, Ok(c.answer));
        }
    }
}

/// The objects of these kinds come back when they are deleted, of the others a Status.
fn returns_object(e: &Endpoint) -> bool {
    matches!(
        (e.group.as_str(), e.kind.as_str()),
        (
            "",
            "Pod"
                | "PersistentVolume"
                | "PersistentVolumeClaim"
                | "PodTemplate"
                | "ResourceQuota"
                | "ServiceAccount"
                | "Service"
        ) | (
            "storage.k8s.io",
            "CSIDriver" | "CSINode" | "StorageClass" | "VolumeAttachment" | "VolumeAttributesClass"
        ) | ("resource.k8s.io", _)
    )
}

fn deleted_status(e: &Endpoint, old: &Value) -> Value {
    let mut details = json!({"name": object::name(old), "kind": e.plural, "uid": object::uid(old)});
    if !e.group.is_empty() {
        details["group"] = e.group.clone().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

fn check_options(o: &api::Options) -> Result<()> {
    let mut errors = Vec::new();
    if let Some(policy) = o.propagation_policy.as_deref() {
        if !matches!(policy, "Foreground" | "Background" | "Orphan") {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            errors.push(FieldError::not_supported("propagationPolicy", policy, &supported));
        }
        if o.orphan_dependents.is_some() {
            errors.push(FieldError::invalid_str(
                "propagationPolicy",
                policy,
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Failure::invalid("meta.k8s.io", "DeleteOptions", "", &errors))
    }
}

fn check_preconditions(o: &api::Options, e: &Endpoint, old: &Value) -> Result<()> {
    let differs = |what: &str, wanted: &str, is: &str, then: &str| {
        let why = format!(
            "the {what} in the precondition ({wanted}) does not match the {what} in record ({is}). The object might have been {then}"
        );
        Err(Failure::conflict(&e.group, &e.kind, object::name(old), &why))
    };
    if let Some(wanted) = o.precondition_uid.as_deref()
        && wanted != object::uid(old)
    {
        return differs("UID", wanted, object::uid(old), "deleted and then recreated");
    }
    if let Some(wanted) = o.precondition_resource_version.as_deref()
        && wanted != object::resource_version(old)
    {
        return differs("ResourceVersion", wanted, object::resource_version(old), "modified");
    }
    Ok(())
}

enum Change {
    /// Deletion is under way already.
    Nothing,
    /// The object stays, marked.
    Mark(Value),
    /// It goes.
    Remove,
}

fn plan_deletion(e: &Endpoint, old: &Value, o: &api::Options, now: Wall) -> Change {
    if e.group.is_empty() && e.kind == "Namespace" && !object::is_deleting(old) {
        let mut new = old.clone();
        set_finalizers(e, &mut new, o);
        mark(&mut new, now, 0);
        meta::of(&mut new).remove("deletionGracePeriodSeconds");
        object::set(&mut new, &["status", "phase"], "Terminating");
        if object::list_at(&new, &["spec", "finalizers"]).is_empty()
            && object::finalizers(&new).next().is_none()
        {
            return Change::Remove;
        }
        return Change::Mark(new);
    }
    let mut new = old.clone();
    let finalizers_changed = set_finalizers(e, &mut new, o);
    let grace = if e.group.is_empty() && e.kind == "Pod" { pod_grace(old, o) } else { 0 };
    let before = object::int_at(old, &["metadata", "deletionGracePeriodSeconds"]);
    if object::is_deleting(old) {
        let held = object::finalizers(&new).next().is_some()
            || !object::list_at(old, &["spec", "finalizers"]).is_empty();
        let before = before.unwrap_or(0);
        let shorter = o.grace_period_s.is_some_and(|g| g < before) && grace < before;
        if before > 0 && !shorter {
            return if finalizers_changed { Change::Mark(new) } else { Change::Nothing };
        }
        if before > 0 && grace > 0 {
            shorten(&mut new, before, grace);
            return Change::Mark(new);
        }
        if !held {
            return Change::Remove;
        }
        if before > 0 {
            shorten(&mut new, before, 0);
            return Change::Mark(new);
        }
        return if finalizers_changed { Change::Mark(new) } else { Change::Nothing };
    }
    if grace > 0 || object::finalizers(&new).next().is_some() {
        mark(&mut new, now, grace);
        return Change::Mark(new);
    }
    Change::Remove
}

/// Seconds that a pod has to end.
fn pod_grace(pod: &Value, o: &api::Options) -> i64 {
    let asked = o.grace_period_s;
    let own = object::int_at(pod, &["spec", "terminationGracePeriodSeconds"]);
    let over = matches!(object::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed");
    if object::str_at(pod, &["spec", "nodeName"]).is_empty() || over {
        return 0;
    }
    match asked.or(own).unwrap_or(0) {
        n if n < 0 => 1,
        n => n,
    }
}

fn mark(v: &mut Value, now: Wall, grace_s: i64) {
    let at = now + Duration::from_secs(u64::try_from(grace_s).unwrap_or(0));
    let m = meta::of(v);
    m.insert("deletionTimestamp".into(), at.rfc3339().into());
    m.insert("deletionGracePeriodSeconds".into(), grace_s.into());
    let generation = object::generation(v);
    if generation > 0 {
        meta::of(v).insert("generation".into(), (generation + 1).into());
    }
}

/// A second deletion gives less time than the first.
fn shorten(v: &mut Value, before_s: i64, grace_s: i64) {
    let text = object::str_at(v, &["metadata", "deletionTimestamp"]);
    if let Some(at) = Wall::parse_rfc3339(text) {
        let new = Wall::from_unix_s(at.unix_s() - before_s + grace_s);
        meta::of(v).insert("deletionTimestamp".into(), new.rfc3339().into());
    }
    meta::of(v).insert("deletionGracePeriodSeconds".into(), grace_s.into());
}

/// Sets the finalizers that the propagation policy asks for; true when that changed something.
fn set_finalizers(e: &Endpoint, v: &mut Value, o: &api::Options) -> bool {
    let before: Vec<String> = object::finalizers(v).map(String::from).collect();
    let has = |f: &str| before.iter().any(|b| b == f);
    let (orphan, foreground) = match (o.propagation_policy.as_deref(), o.orphan_dependents) {
        (Some(p), _) => (p == "Orphan", p == "Foreground"),
        (None, Some(orphan)) => (orphan, false),
        (None, None) if has(ORPHAN) || has(FOREGROUND) => (has(ORPHAN), !has(ORPHAN)),
        // From the days before garbage collection: these leave their pods behind when nothing is said.
        (None, None) => (matches!(e.kind.as_str(), "Job" | "ReplicationController"), false),
    };
    let mut after: Vec<String> =
        before.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    if orphan {
        after.push(ORPHAN.into());
    }
    if foreground {
        after.push(FOREGROUND.into());
    }
    let (mut a, mut b) = (before.clone(), after.clone());
    a.sort();
    b.sort();
    if a == b {
        return false;
    }
    if after.is_empty() {
        meta::of(v).remove("finalizers");
    } else {
        meta::of(v).insert("finalizers".into(), after.into());
    }
    true
}
