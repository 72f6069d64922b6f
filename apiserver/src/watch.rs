//! Watchers: each has a place in its resource's ring of changes and takes from there what its selectors let
//! through, one event at a time, when its client has room. Nothing is buffered a watcher: one that stays
//! paused until its place has left the ring is cut off with 410 and lists again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use pintle_api::selector::{Fields, Labels};
use pintle_base::Time;
use pintle_wire::msg::Body;
use pintle_wire::msg::api::EventType;
use serde_json::{Value, json};

use crate::cache::{Cache, Change, Gone, Object, encode_at};
use crate::convert;
use crate::limits;
use crate::registry::{Endpoint, EndpointId, Registry, Resource, ResourceId};
use crate::server::RequestId;
use crate::status::Failure;

/// What a list or watch selects.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Namespace, empty = all.
    pub namespace: String,
    /// By labels.
    pub labels: Labels,
    /// By fields.
    pub fields: Fields,
}

impl Selection {
    /// Selects everything of its namespace.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.terms.is_empty()
    }

    /// Whether this object is selected.
    pub fn matches(&self, resource: &Resource, object: &Object) -> bool {
        if !self.namespace.is_empty() && object.namespace() != self.namespace {
            return false;
        }
        let terms = self.fields.terms.iter().all(|t| {
            let value = match t.path.as_str() {
                "metadata.name" => object.name(),
                "metadata.namespace" => object.namespace(),
                path => {
                    let path = convert::stored_field(resource, path);
                    let at = resource.fields.iter().position(|f| *f == path);
                    at.and_then(|i| object.fields.get(i)).map_or("", |v| v)
                }
            };
            (value == t.value) != t.negated
        });
        terms && self.labels.matches(object.labels.as_ref())
    }
}

/// What a new watch begins with.
#[derive(Debug)]
pub enum Start {
    /// With the objects that are there, then changes from this place on.
    Objects(Vec<Arc<Object>>, u64),
    /// With changes from this place on.
    Changes(u64),
}

/// What a client wants of a watch.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which resource in which version.
    pub endpoint: EndpointId,
    /// What it selects.
    pub selection: Selection,
    /// Bookmarks now and then.
    pub bookmarks: bool,
    /// A bookmark after the initial objects.
    pub mark_initial_end: bool,
    /// When it ends.
    pub deadline: Option<Time>,
}

#[derive(Debug)]
struct Watcher {
    wish: Wish,
    resource: ResourceId,
    initial: VecDeque<Arc<Object>>,
    initial_revision: u64,
    initial_end_due: bool,
    bookmark_due: bool,
    next_bookmark: Option<Time>,
    seq: u64,
    /// Revision of the last change that was looked at.
    seen: u64,
    paused: bool,
    queued: bool,
}

/// One thing for the client of a watch.
#[derive(Debug)]
pub enum Emit {
    /// An event.
    Event(RequestId, EventType, u64, Body),
    /// An Error event with this body; the watch is over.
    Failed(RequestId, Body),
}

/// All watchers.
#[derive(Debug, Default)]
pub struct Hub {
    watchers: HashMap<RequestId, Watcher>,
    by_resource: HashMap<ResourceId, Vec<RequestId>>,
    ready: VecDeque<RequestId>,
}

impl Hub {
    /// A new watcher.
    pub fn add(
        &mut self,
        id: RequestId,
        resource: ResourceId,
        wish: Wish,
        start: Start,
        revision: u64,
        now: Time,
    ) {
        let (initial, seq) = match start {
            Start::Objects(objects, seq) => (objects.into(), seq),
            Start::Changes(seq) => (VecDeque::new(), seq),
        };
        let next_bookmark = wish.bookmarks.then(|| bookmark_time(now, wish.deadline));
        let initial_end_due = wish.mark_initial_end;
        let watcher = Watcher {
            wish,
            resource,
            initial,
            initial_revision: revision,
            initial_end_due,
            bookmark_due: false,
            next_bookmark,
            seq,
            seen: revision,
            paused: false,
            queued: true,
        };
        self.watchers.insert(id, watcher);
        self.by_resource.entry(resource).or_default().push(id);
        self.ready.push_back(id);
    }

    /// Forgets a watcher; false when there was none.
    pub fn remove(&mut self, id: RequestId) -> bool {
        let Some(w) = self.watchers.remove(&id) else { return false };
        if let Some(list) = self.by_resource.get_mut(&w.resource) {
            list.retain(|other| *other != id);
        }
        true
    }

    /// Forgets all and returns them.
    pub fn remove_all(&mut self) -> Vec<RequestId> {
        self.by_resource.clear();
        self.ready.clear();
        let mut ids: Vec<RequestId> = self.watchers.drain().map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// The client has no room.
    pub fn pause(&mut self, id: RequestId) {
        if let Some(w) = self.watchers.get_mut(&id) {
            w.paused = true;
        }
    }

    /// The client has room again.
    pub fn resume(&mut self, id: RequestId) {
        if let Some(w) = self.watchers.get_mut(&id) {
            w.paused = false;
            if !w.queued {
                w.queued = true;
                self.ready.push_back(id);
            }
        }
    }

    /// A resource has new changes.
    pub fn wake(&mut self, resource: ResourceId) {
        for id in self.by_resource.get(&resource).into_iter().flatten() {
            if let Some(w) = self.watchers.get_mut(id)
                && !w.queued
                && !w.paused
            {
                w.queued = true;
                self.ready.push_back(*id);
            }
        }
    }

    /// Watchers whose time is over; they are forgotten. A last bookmark is not sent: the deadline's is.
    pub fn expire(&mut self, now: Time) -> Vec<RequestId> {
        let due = |w: &Watcher| w.wish.deadline.is_some_and(|d| d <= now);
        let mut over: Vec<RequestId> =
            self.watchers.iter().filter(|(_, w)| due(w)).map(|(id, _)| *id).collect();
        over.sort_unstable();
        for id in &over {
            self.remove(*id);
        }
        for (id, w) in &mut self.watchers {
            if w.next_bookmark.is_some_and(|t| t <= now) {
                w.next_bookmark = Some(bookmark_time(now, w.wish.deadline));
                w.bookmark_due = true;
                if !w.queued && !w.paused {
                    w.queued = true;
                    self.ready.push_back(*id);
                }
            }
        }
        over
    }

    /// When `expire` has something to do next.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.watchers.values().flat_map(|w| [w.wish.deadline, w.next_bookmark]).flatten().min()
    }

    /// The next event of any watcher that has one and room for it; watchers take turns.
    pub fn poll(&mut self, registry: &Registry, cache: &Cache) -> Option<Emit> {
        while let Some(id) = self.ready.pop_front() {
            let Some(w) = self.watchers.get_mut(&id) else { continue };
            w.queued = false;
            if w.paused {
                continue;
            }
            match w.next(registry, cache) {
                Next::Nothing => continue,
                Next::Event(kind, revision, body) => {
                    w.queued = true;
                    self.ready.push_back(id);
                    return Some(Emit::Event(id, kind, revision, body));
                }
                Next::Lost(body) => {
                    self.remove(id);
                    return Some(Emit::Failed(id, body));
                }
            }
        }
        None
    }
}

enum Next {
    Nothing,
    Event(EventType, u64, Body),
    Lost(Body),
}

impl Watcher {
    fn next(&mut self, registry: &Registry, cache: &Cache) -> Next {
        let resource = registry.resource(self.resource);
        let endpoint = registry.endpoint(self.wish.endpoint);
        while let Some(o) = self.initial.pop_front() {
            if self.wish.selection.matches(resource, &o) {
                let body = convert::body(&o, resource, endpoint);
                return Next::Event(EventType::Added, o.revision, body);
            }
        }
        if self.initial_end_due {
            self.initial_end_due = false;
            let body = bookmark(endpoint, self.initial_revision, true);
            return Next::Event(EventType::Bookmark, self.initial_revision, body);
        }
        let table = cache.table(self.resource);
        loop {
            match table.change(self.seq) {
                Err(Gone) => {
                    let f = Failure::too_old(self.seen, table.window_start());
                    return Next::Lost(f.to_value().to_string().into_bytes().into());
                }
                Ok(None) => break,
                Ok(Some(change)) => {
                    self.seq += 1;
                    self.seen = change.revision;
                    if let Some(event) = self.select(resource, endpoint, change) {
                        return event;
                    }
                }
            }
        }
        if self.bookmark_due {
            self.bookmark_due = false;
            let revision = cache.revision();
            return Next::Event(EventType::Bookmark, revision, bookmark(endpoint, revision, false));
        }
        Next::Nothing
    }

    /// What a change is to this watcher: an object may enter or leave its selection without being new or gone.
    fn select(&self, resource: &Resource, endpoint: &Endpoint, change: &Change) -> Option<Next> {
        let s = &self.wish.selection;
        let is = !change.deleted && s.matches(resource, &change.object);
        let was = change.old.as_ref().is_some_and(|o| s.matches(resource, o));
        let revision = change.revision;
        let (kind, body) = match (was, is) {
            (false, false) => return None,
            (false, true) => (EventType::Added, convert::body(&change.object, resource, endpoint)),
            (true, true) => {
                (EventType::Modified, convert::body(&change.object, resource, endpoint))
            }
            (true, false) if change.deleted => {
                (EventType::Deleted, convert::body(&change.object, resource, endpoint))
            }
            (true, false) => {
                let old = change.old.as_ref()?.at_revision(resource, revision);
                (EventType::Deleted, convert::body(&old, resource, endpoint))
            }
        };
        Some(Next::Event(kind, revision, body))
    }
}

/// When the next bookmark is due: after the interval, but also shortly before the end, so that the client can
/// go on from there.
fn bookmark_time(now: Time, deadline: Option<Time>) -> Time {
    let regular = now + limits::BOOKMARK_INTERVAL;
    match deadline {
        Some(d) if d > now + limits::BOOKMARK_BEFORE_END => {
            let ns = u64::try_from(limits::BOOKMARK_BEFORE_END.as_nanos()).unwrap_or(0);
            regular.min(Time(d.0 - ns))
        }
        _ => regular,
    }
}

fn bookmark(endpoint: &Endpoint, revision: u64, initial_end: bool) -> Body {
    let mut object: Value =
        json!({"apiVersion": endpoint.api_version(), "kind": endpoint.kind, "metadata": {}});
    if initial_end {
        object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    encode_at(&object, revision)
}
