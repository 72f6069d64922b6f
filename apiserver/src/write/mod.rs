//! Writes: plan from the watch cache, one compare-and-swap transaction at the store, answer.
//!
//! A write plans against the cached object and compares its revision in the transaction. When it loses a race
//! it waits until the cache has what beat it and plans again, so that a stale client sees its conflict and a
//! patch is applied to the newest state. What is acknowledged is in the store.

mod create;
mod delete;
mod eviction;
mod meta;
mod patch;
mod service;
mod special;
mod strategy;
mod update;

use pintle_api::decode;
use pintle_wire::msg::{Body, api, store};
use serde_json::Value;

use crate::cache::{self, encode_at};
use crate::convert;
use crate::limits;
use crate::registry::{EndpointId, ResourceId};
use crate::server::{Answer, Server, StoreTag, Work};
use crate::status::{Failure, Result};
use crate::sync::Link;

pub(crate) use delete::Collection;

/// What a planned write does to its object.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Put this object (in the stored version).
    Put(Value),
    /// Delete it.
    Delete,
}

/// What the client is told when the transaction went through.
#[derive(Debug)]
pub(crate) enum Done {
    /// The object that was written, in the endpoint's version.
    Object(u16),
    /// Another body (a Status, the last state of what is deleted).
    Body(u16, Value),
    /// Another body that shows the new revision (a Scale made of the object).
    Revised(u16, Value),
}

/// A write that is ready for the store.
#[derive(Debug)]
pub(crate) struct Plan {
    pub resource: ResourceId,
    /// Key within the resource.
    pub key: String,
    /// Mod revision that the object must still have; 0 = it must not exist.
    pub expect: u64,
    pub effect: Effect,
    pub done: Done,
    /// Other objects that change with it, at the same revision: resource, key, expected revision, object.
    pub also: Vec<(ResourceId, String, u64, Value)>,
    pub warnings: Vec<String>,
    /// Addresses and ports taken for it; given back when it fails.
    pub reserved: crate::alloc::Reserved,
}

/// What planning came to.
#[derive(Debug)]
pub(crate) enum Planned {
    /// Ask the store.
    Commit(Box<Plan>),
    /// Nothing to write (dry run, no change): this is the answer.
    Answer(api::Reply),
}

/// A transaction under way.
#[derive(Debug)]
pub(crate) struct Flight {
    work: Work,
    plan: Plan,
}

impl Server {
    pub(crate) fn start_write(&mut self, work: Work) {
        if !matches!(self.link, Link::Running { .. }) {
            let deadline = Some(self.now.mono + limits::STORE_AWAY_WAIT);
            return self.wait(work, u64::MAX, deadline);
        }
        if work.request.verb == api::Verb::DeleteCollection {
            return self.start_collection(&work);
        }
        match self.plan(&work) {
            Err(f) => self.answer(work.origin, Err(f)),
            Ok(Planned::Answer(reply)) => self.answer(work.origin, Ok(reply)),
            Ok(Planned::Commit(plan)) => self.take_off(work, *plan),
        }
    }

    fn plan(&mut self, work: &Work) -> Result<Planned> {
        let r = work.request.clone();
        if !r.subresource.is_empty() && r.subresource != "status" {
            return self.plan_special(work);
        }
        match r.verb {
            api::Verb::Create => self.plan_create(work),
            api::Verb::Update => self.plan_update(work),
            api::Verb::Patch => self.plan_patch(work),
            api::Verb::Delete => self.plan_delete(work),
            _ => Err(Failure::method_not_allowed()),
        }
    }

    fn take_off(&mut self, work: Work, plan: Plan) {
        let resource = self.registry.resource(plan.resource);
        let key = resource.store_key(&plan.key);
        let (op, durability) = match &plan.effect {
            Effect::Put(value) => {
                let old = self.cache.table(plan.resource).get(&plan.key);
                let durability = strategy::durability(resource, old.map(|o| &**o), value);
                let value = cache::encode(value).into();
                (store::Op::Put { key: key.clone(), value, lease: 0 }, durability)
            }
            Effect::Delete => {
                let op = store::Op::Delete { key: key.clone(), range_end: Vec::new() };
                (op, strategy::delete_durability(resource))
            }
        };
        let mut compare = vec![store::Compare::ModRevision(key, plan.expect)];
        let mut then = vec![op];
        for (id, key, expect, value) in &plan.also {
            let key = self.registry.resource(*id).store_key(key);
            compare.push(store::Compare::ModRevision(key.clone(), *expect));
            then.push(store::Op::Put { key, value: cache::encode(value).into(), lease: 0 });
        }
        let tag = self.ask_store(store::Request::Txn {
            compare,
            then,
            otherwise: Vec::new(),
            durability,
        });
        self.flights.insert(tag, Flight { work, plan });
    }

    /// The store answered a transaction.
    pub(crate) fn land_flight(&mut self, tag: StoreTag, reply: store::Reply) {
        let Some(Flight { mut work, plan }) = self.flights.remove(&tag) else { return };
        match reply {
            store::Reply::Txn { succeeded: true, revision, .. } => {
                self.known_revision = self.known_revision.max(revision);
                self.alloc.commit(&plan.reserved, &plan.key);
                let reply = self.finish(&work, plan, revision);
                self.answer(work.origin, Ok(reply));
            }
            store::Reply::Txn { succeeded: false, revision, .. } => {
                self.alloc.release(&plan.reserved);
                work.tries += 1;
                if work.tries >= limits::WRITE_TRIES_MAX {
                    let e = self.registry.endpoint(work.endpoint);
                    let f = Failure::modified(&e.group, &e.plural, &work.request.name);
                    return self.answer(work.origin, Err(f));
                }
                self.known_revision = self.known_revision.max(revision);
                self.start(work);
            }
            store::Reply::Error(e) => {
                self.alloc.release(&plan.reserved);
                self.answer(work.origin, Err(store_failure(&e)));
            }
            other => {
                self.alloc.release(&plan.reserved);
                let f =
                    Failure::internal(&format!("the store answered a transaction with {other:?}"));
                self.answer(work.origin, Err(f));
            }
        }
    }

    fn finish(&mut self, work: &Work, plan: Plan, revision: u64) -> api::Reply {
        let Plan { resource, effect, done, warnings, .. } = plan;
        let (code, body) = match (done, effect) {
            (Done::Object(code), Effect::Put(value)) => {
                (code, self.endpoint_body(work.endpoint, resource, value, revision))
            }
            (Done::Body(code, value), _) => (code, value.to_string().into_bytes().into()),
            (Done::Revised(code, mut value), _) => {
                meta::of(&mut value).insert("resourceVersion".into(), revision.to_string().into());
                (code, value.to_string().into_bytes().into())
            }
            (Done::Object(code), Effect::Delete) => (code, Body::from(&b"{}"[..])),
        };
        api::Reply::Object { code, warnings, body }
    }

    /// Bytes of a stored object in the endpoint's version.
    fn endpoint_body(
        &self,
        endpoint: EndpointId,
        resource: ResourceId,
        value: Value,
        revision: u64,
    ) -> Body {
        let resource = self.registry.resource(resource);
        let endpoint = self.registry.endpoint(endpoint);
        encode_at(&convert::to_endpoint(value, resource, endpoint), revision)
    }

    /// The connection to the store is gone: nobody knows what became of these.
    pub(crate) fn fail_flights(&mut self) {
        let mut all: Vec<(StoreTag, Flight)> = self.flights.drain().collect();
        all.sort_by_key(|(tag, _)| *tag);
        for (_, flight) in all {
            self.alloc.release(&flight.plan.reserved);
            let text =
                "the connection to the store was lost; the write may or may not have happened";
            self.answer(flight.work.origin, Err(Failure::unavailable(text)));
        }
    }

    /// A body as an object of the endpoint's kind, and warnings.
    pub(crate) fn decode(&self, work: &Work, body: &[u8]) -> Result<(Value, Vec<String>)> {
        let endpoint = self.registry.endpoint(work.endpoint);
        if body.len() > limits::BODY_BYTES_MAX {
            let text = format!("limit is {}", limits::BODY_BYTES_MAX);
            return Err(Failure::too_large(format!("Request entity too large: {text}")));
        }
        let gvk = endpoint.gvk();
        let decoded = decode::json(body, &gvk)?;
        let warnings = strictness(&work.request.options, &gvk, decoded.strict)?;
        Ok((decoded.object, warnings))
    }
}

/// An object as Kubernetes would write it: what its Go type always writes is there. Custom objects stay.
pub(crate) fn canonical(resource: &crate::registry::Resource, object: Value) -> Value {
    let def = if resource.custom { None } else { pintle_api::schema::find(&resource.gvk()) };
    match def {
        Some(def) => decode::canonical(object.clone(), def).unwrap_or(object),
        None => object,
    }
}

/// What strict decoding found, as fieldValidation wants it: an error, warnings, or nothing.
pub(crate) fn strictness(
    o: &api::Options,
    gvk: &pintle_api::Gvk<'_>,
    strict: Vec<String>,
) -> Result<Vec<String>> {
    match o.field_validation.as_deref().unwrap_or("") {
        "Strict" if !strict.is_empty() => Err(decode::strict_error(gvk, &strict)),
        "Ignore" => Ok(Vec::new()),
        _ => Ok(strict),
    }
}

fn store_failure(e: &store::Error) -> Failure {
    match e {
        store::Error::TooLarge(text) => Failure::too_large(text.clone()),
        store::Error::NoSpace(text) => {
            Failure::plain(507, "InsufficientStorage", format!("the store's disk is full: {text}"))
        }
        other => Failure::internal(&format!("the store refused the write: {other:?}")),
    }
}

/// The answer to a request of the core itself: only failures are worth a line.
pub(crate) fn log_internal(reply: &api::Reply) {
    if let api::Reply::Object { code, body, .. } = reply
        && *code >= 400
        && *code != 409
    {
        let text = String::from_utf8_lossy(body);
        pintle_base::log::warn("own write failed", &[("code", code), ("status", &text)]);
    }
}

impl Server {
    /// A reply that carries an object which was not written (dry run, nothing changed).
    pub(crate) fn unwritten(
        &self,
        work: &Work,
        code: u16,
        resource: ResourceId,
        value: Value,
        revision: u64,
        warnings: Vec<String>,
    ) -> Answer {
        let body = if revision == 0 {
            // A dry-run create has no revision to show.
            let r = self.registry.resource(resource);
            let e = self.registry.endpoint(work.endpoint);
            let value = convert::to_endpoint(value, r, e);
            cache::encode(&value).into()
        } else {
            self.endpoint_body(work.endpoint, resource, value, revision)
        };
        Ok(api::Reply::Object { code, warnings, body })
    }
}

/// A reply with a JSON body.
pub(crate) fn json_reply(code: u16, body: &Value) -> api::Reply {
    let body = body.to_string().into_bytes().into();
    api::Reply::Object { code, warnings: Vec::new(), body }
}
