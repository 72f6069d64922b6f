//! What the core derives from the cache and keeps up to date: the RBAC tables, the addresses in use, the ages
//! of events.

use std::collections::VecDeque;

use pintle_base::{Time, Wall};
use pintle_wire::msg::api;

use crate::cache::Change;
use crate::limits;
use crate::registry::ResourceId;
use crate::server::Server;

/// Events in the order of their last write, with the time when they end.
#[derive(Debug, Default)]
pub(crate) struct Expiry {
    queue: VecDeque<(Time, String, u64)>,
}

impl Expiry {
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.queue.front().map(|(t, ..)| *t)
    }
}

impl Server {
    /// Everything again, after a load.
    pub(crate) fn rebuild(&mut self) {
        self.rbac.touch();
        self.rbac.refresh(&self.registry, &self.cache);
        self.alloc.clear();
        if let Some(id) = self.registry.resource_of("", "services") {
            for o in self.cache.table(id).iter("") {
                self.alloc.observe(&o.key, Some(&o.parse()));
            }
        }
        self.expiry = Expiry::default();
        let Some(id) = self.registry.resource_of("", "events") else { return };
        let mut ages: Vec<(Time, String, u64)> = Vec::new();
        for o in self.cache.table(id).iter("") {
            let v = o.parse();
            let text = ["lastTimestamp", "eventTime"]
                .iter()
                .filter_map(|k| v[*k].as_str())
                .chain(v["metadata"]["creationTimestamp"].as_str());
            let written = text.filter_map(Wall::parse_rfc3339).max().unwrap_or(self.now.wall);
            let age = self.now.wall - written;
            let left = limits::EVENT_TTL.saturating_sub(age);
            ages.push((self.now.mono + left, o.key.to_string(), o.revision));
        }
        ages.sort();
        self.expiry.queue = ages.into();
    }

    /// One change came from the store.
    pub(crate) fn changed(&mut self, id: ResourceId, change: &Change) {
        let resource = self.registry.resource(id);
        match (resource.group.as_str(), resource.plural.as_str()) {
            ("", "services") => {
                let value = (!change.deleted).then(|| change.object.parse());
                self.alloc.observe(&change.object.key, value.as_ref());
            }
            ("", "events") if !change.deleted => {
                let at = self.now.mono + limits::EVENT_TTL;
                let key = change.object.key.to_string();
                self.expiry.queue.push_back((at, key, change.revision));
            }
            (crate::authz::rbac::GROUP, _) => self.rbac.touch(),
            _ => {}
        }
    }

    /// Deletes events whose time is over.
    pub(crate) fn expire_events(&mut self) {
        let (Some(id), Some(e)) = (
            self.registry.resource_of("", "events"),
            self.registry.find("", "v1", "events").map(|e| e.id),
        ) else {
            return;
        };
        while let Some((at, ..)) = self.expiry.queue.front()
            && *at <= self.now.mono
        {
            let Some((_, key, revision)) = self.expiry.queue.pop_front() else { break };
            let current = self.cache.table(id).get(&key).map(|o| o.revision);
            if current != Some(revision) {
                continue;
            }
            let (namespace, name) = key.split_once('/').unwrap_or(("", &key));
            let mut r = api::Request::new(api::Verb::Delete, "", "v1", "events");
            r.namespace = namespace.into();
            r.name = name.into();
            let work = self.own_work(e, r);
            self.boot.under_way += 1;
            self.start(work);
        }
    }
}
