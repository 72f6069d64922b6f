//! Create: decode, admit, default, validate, allocate, put.

use pintle_api::{default, managed, object, validate};
use serde_json::Value;

use super::{Done, Effect, Plan, Planned, canonical, meta, strategy};
use crate::alloc::Reserved;
use crate::convert;
use crate::limits;
use crate::server::{Server, Work};
use crate::status::{Failure, Result};

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

impl Server {
    pub(crate) fn plan_create(&mut self, work: &Work) -> Result<Planned> {
        let r = work.request.clone();
        let (mut object, mut warnings) = self.decode(work, &r.body)?;
        let endpoint = self.registry.endpoint(work.endpoint).clone();
        warnings.extend(crate::read::deprecations(&endpoint));
        if endpoint.list_kind.is_empty() {
            return self.plan_review(work, &endpoint, object);
        }
        meta::settle_namespace(&endpoint, &mut object, &r.namespace)?;
        if !object::resource_version(&object).is_empty() {
            return Err(Failure::plain(
                500,
                "",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        self.plan_new(work, object, warnings)
    }

    /// The way of an object that does not exist yet, from a create, an update or an apply.
    pub(crate) fn plan_new(
        &mut self,
        work: &Work,
        mut object: Value,
        mut warnings: Vec<String>,
    ) -> Result<Planned> {
        let endpoint = self.registry.endpoint(work.endpoint).clone();
        let resource = self.registry.resource(endpoint.resource).clone();
        default::object(&endpoint.gvk(), &mut object);
        strategy::clear_status(&endpoint, &mut object);
        // What admission and the server add belongs to nobody, so managers are noted before.
        if !self.applied(work) {
            // Kubernetes' own conversion shows managers an annotation that is not stored.
            let daemons = endpoint.group == "apps" && endpoint.kind == "DaemonSet";
            if daemons {
                object::set(&mut object, &["metadata", "annotations", TEMPLATE_GENERATION], "0");
            }
            self.track(work, &endpoint, &Value::Null, &mut object, "");
            if daemons {
                object::remove(&mut object, &["metadata", "annotations", TEMPLATE_GENERATION]);
                if object::map_at(&object, &["metadata", "annotations"])
                    .is_some_and(serde_json::Map::is_empty)
                {
                    object::remove(&mut object, &["metadata", "annotations"]);
                }
            }
        }
        let mut object = convert::to_stored(object, &resource, &endpoint);
        let given = object::name(&object).to_owned();
        let base = object::str_at(&object, &["metadata", "generateName"]).to_owned();
        meta::fill_new(&mut object, &mut self.prng, self.now.wall);
        let mut name = given.clone();
        if given.is_empty() && !base.is_empty() {
            name = meta::generate_name(&base, &mut self.prng);
            meta::of(&mut object).insert("name".into(), name.clone().into());
        }
        strategy::prepare_create(&endpoint, &mut object, self.now.wall);
        self.admit_create(work, &endpoint, &mut object, &mut warnings)?;
        default::object(&resource.gvk(), &mut object);
        strategy::derive(&endpoint, &mut object);
        let mut object = canonical(&resource, object);
        let mut reserved = Reserved::default();
        self.allocate_create(&endpoint, &mut object, &mut reserved)?;
        let findings = validate::create(&resource.gvk(), &object);
        if !findings.is_empty() {
            self.alloc.release(&reserved);
            return Err(Failure::invalid(&resource.group, &resource.kind, &name, &findings));
        }
        let finished = self.finish_create(work, object, warnings, &given, &base, &reserved);
        if !matches!(finished, Ok(Planned::Commit(_))) {
            self.alloc.release(&reserved);
        }
        finished
    }

    fn finish_create(
        &mut self,
        work: &Work,
        mut object: Value,
        mut warnings: Vec<String>,
        given: &str,
        base: &str,
        reserved: &Reserved,
    ) -> Result<Planned> {
        let endpoint = self.registry.endpoint(work.endpoint).clone();
        self.validate_admission(work, &endpoint, Some(&object), None, &mut warnings)?;
        let table = self.cache.table(endpoint.resource);
        let namespace = object::namespace(&object).to_owned();
        let mut key = endpoint.key(&namespace, object::name(&object));
        let mut tries = 0;
        while table.get(&key).is_some() {
            if !given.is_empty() || tries >= limits::GENERATE_NAME_TRIES_MAX {
                let name = object::name(&object);
                let mut f = Failure::already_exists(&endpoint.group, &endpoint.plural, name);
                let there = table.get(&key).map(|o| o.parse());
                if there.as_ref().is_some_and(object::is_deleting) {
                    f.message = format!("object is being deleted: {}", f.message);
                }
                if !base.is_empty() {
                    f.message.push_str(
                        ", the server was not able to generate a unique name for the object",
                    );
                    if let Some(d) = &mut f.details {
                        d.retry_after_s = 1;
                    }
                }
                return Err(f);
            }
            tries += 1;
            let name = meta::generate_name(base, &mut self.prng);
            key = endpoint.key(&namespace, &name);
            meta::of(&mut object).insert("name".into(), name.into());
        }
        if work.request.options.dry_run {
            let answer = self.unwritten(work, 201, endpoint.resource, object, 0, warnings)?;
            return Ok(Planned::Answer(answer));
        }
        Ok(Planned::Commit(Box::new(Plan {
            resource: endpoint.resource,
            key,
            expect: 0,
            effect: Effect::Put(object),
            done: Done::Object(201),
            also: Vec::new(),
            warnings,
            reserved: reserved.clone(),
        })))
    }

    /// Keeps managedFields.
    pub(crate) fn track(
        &self,
        work: &Work,
        endpoint: &crate::registry::Endpoint,
        old: &Value,
        new: &mut Value,
        subresource: &str,
    ) {
        let manager = self.manager(work);
        self.track_as(&manager, endpoint, old, new, subresource);
    }

    /// Keeps managedFields for a manager.
    pub(crate) fn track_as(
        &self,
        manager: &str,
        endpoint: &crate::registry::Endpoint,
        old: &Value,
        new: &mut Value,
        subresource: &str,
    ) {
        let time = self.now.wall.rfc3339();
        let gvk = endpoint.gvk();
        managed::track(old, new, &managed::Write { manager, gvk, subresource, time: &time });
    }

    /// The field manager of a request.
    pub(crate) fn manager(&self, work: &Work) -> String {
        match work.request.options.field_manager.as_deref() {
            Some(m) if !m.is_empty() => m.to_owned(),
            _ => {
                let user = &work.who.user;
                user.rsplit(':').next().unwrap_or("unknown").to_owned()
            }
        }
    }
}
