//! Update: of the object or of its status, by PUT or with what a patch made of it.

use pintle_api::status::FieldError;
use pintle_api::{default, validate};
use serde_json::Value;

use super::{Done, Effect, Plan, Planned, canonical, meta, strategy};
use crate::alloc::Reserved;
use crate::cache::encode_at;
use crate::convert;
use crate::server::{Server, Work};
use crate::status::{Failure, Result};

impl Server {
    pub(crate) fn plan_update(&mut self, work: &Work) -> Result<Planned> {
        let r = work.request.clone();
        let (mut object, warnings) = self.decode(work, &r.body)?;
        let endpoint = self.registry.endpoint(work.endpoint).clone();
        meta::check_name(&endpoint, &mut object, &r.namespace, &r.name)?;
        let key = endpoint.key(&r.namespace, &r.name);
        if self.cache.table(endpoint.resource).get(&key).is_none() {
            if strategy::created_by_update(&endpoint) && r.subresource.is_empty() {
                if meta::revision_in(&endpoint.kind, &endpoint.group, &object)?.is_some() {
                    return Err(Failure::not_found(&endpoint.group, &endpoint.plural, &r.name));
                }
                meta::of(&mut object).remove("resourceVersion");
                return self.plan_new(work, object, warnings);
            }
            return Err(Failure::not_found(&endpoint.group, &endpoint.plural, &r.name));
        }
        self.plan_change(work, object, warnings, false)
    }

    /// The way of a changed object (in the endpoint's version) that exists. `patched`: the object was made from
    /// the cached one, so a race is no conflict.
    pub(crate) fn plan_change(
        &mut self,
        work: &Work,
        mut new: Value,
        mut warnings: Vec<String>,
        patched: bool,
    ) -> Result<Planned> {
        let r = work.request.clone();
        let endpoint = self.registry.endpoint(work.endpoint).clone();
        let resource = self.registry.resource(endpoint.resource).clone();
        let key = endpoint.key(&r.namespace, &r.name);
        let not_found = || Failure::not_found(&endpoint.group, &endpoint.plural, &r.name);
        let current =
            self.cache.table(endpoint.resource).get(&key).cloned().ok_or_else(not_found)?;
        let old = current.parse();
        match meta::revision_in(&endpoint.kind, &endpoint.group, &new)? {
            Some(v) if v != current.revision => {
                return Err(Failure::modified(&endpoint.group, &endpoint.plural, &r.name));
            }
            None if !patched && strategy::needs_revision(&endpoint) => {
                let at = "metadata.resourceVersion";
                let e = FieldError::invalid_shown(at, "0", "must be specified for an update");
                return Err(Failure::invalid(&endpoint.group, &endpoint.kind, &r.name, &[e]));
            }
            _ => {}
        }
        warnings.extend(crate::read::deprecations(&endpoint));
        default::object(&endpoint.gvk(), &mut new);
        let mut new = convert::to_stored(new, &resource, &endpoint);
        if self.applied(work) {
            // A uid that differs is told by validation, in other words than an update's.
            let uid = meta::of(&mut new).get("uid").cloned();
            meta::of(&mut new).remove("uid");
            meta::keep_system_fields(&endpoint, &r.name, &mut new, &old)?;
            if let Some(uid) = uid {
                meta::of(&mut new).insert("uid".into(), uid);
            }
        } else {
            meta::keep_system_fields(&endpoint, &r.name, &mut new, &old)?;
        }
        let sub = r.subresource.as_str();
        strategy::prepare_update(&endpoint, sub, &mut new, &old);
        strategy::stamp_conditions(&endpoint, &mut new, &old, self.now.wall);
        if !self.applied(work) {
            self.track(work, &endpoint, &old, &mut new, sub);
        }
        self.admit_update(work, &endpoint, &mut new, &old, &mut warnings)?;
        default::object(&resource.gvk(), &mut new);
        let mut reserved = Reserved::default();
        if sub.is_empty() {
            strategy::bump_generation(&endpoint, &mut new, &old);
            self.allocate_update(&endpoint, &mut new, &old, &mut reserved)?;
        }
        let new = canonical(&resource, new);
        let findings = validate::update(&resource.gvk(), sub, &new, &old);
        if !findings.is_empty() {
            self.alloc.release(&reserved);
            return Err(Failure::invalid(&resource.group, &resource.kind, &r.name, &findings));
        }
        let checked =
            self.validate_admission(work, &endpoint, Some(&new), Some(&old), &mut warnings);
        if let Err(f) = checked {
            self.alloc.release(&reserved);
            return Err(f);
        }
        self.settle_change(work, &current, new, warnings, reserved)
    }

    /// Decides what a changed object does at the store: nothing, a put, or the deletion that it completes.
    pub(crate) fn settle_change(
        &mut self,
        work: &Work,
        current: &crate::cache::Object,
        new: Value,
        warnings: Vec<String>,
        reserved: Reserved,
    ) -> Result<Planned> {
        let resource = self.registry.endpoint(work.endpoint).resource;
        let unchanged = encode_at(&new, current.revision) == current.body;
        if unchanged || work.request.options.dry_run {
            self.alloc.release(&reserved);
            let answer = self.unwritten(work, 200, resource, new, current.revision, warnings)?;
            return Ok(Planned::Answer(answer));
        }
        let plan = |effect, done| {
            Planned::Commit(Box::new(Plan {
                resource,
                key: current.key.to_string(),
                expect: current.revision,
                effect,
                done,
                also: Vec::new(),
                warnings,
                reserved,
            }))
        };
        if strategy::deletion_complete(&new) {
            // The last finalizer is gone: this write is the deletion. The answer is the object as asked for.
            let mut body = new;
            let text = current.revision.to_string();
            meta::of(&mut body).insert("resourceVersion".into(), text.into());
            let r = self.registry.resource(resource);
            let e = self.registry.endpoint(work.endpoint);
            let body = convert::to_endpoint(body, r, e);
            return Ok(plan(Effect::Delete, Done::Body(200, body)));
        }
        Ok(plan(Effect::Put(new), Done::Object(200)))
    }

    /// The request is a server-side apply, whose managedFields stand already.
    pub(crate) fn applied(&self, work: &Work) -> bool {
        work.request.patch_type == Some(pintle_wire::msg::api::PatchType::Apply)
    }

    /// The current object in the endpoint's version, with its resourceVersion.
    pub(crate) fn current_of(&self, work: &Work) -> Option<Value> {
        let r = &work.request;
        let endpoint = self.registry.endpoint(work.endpoint);
        let key = endpoint.key(&r.namespace, &r.name);
        let current = self.cache.table(endpoint.resource).get(&key)?;
        let resource = self.registry.resource(endpoint.resource);
        Some(convert::to_endpoint(current.parse(), resource, endpoint))
    }
}
