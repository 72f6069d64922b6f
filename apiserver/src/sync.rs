//! The core's link with the store: load everything once, then follow its one watch.
//!
//! Away -> Loading (range by pages at one revision) -> Running (watch from the next revision). After a lost
//! connection the watch goes on where the cache stands; when the store no longer has that history everything is
//! loaded again and all watchers are cut off, because their past may differ.

use pintle_base::Now;
use pintle_wire::msg::{api, store};

use crate::cache::Object;
use crate::limits;
use crate::registry::KEY_ROOT;
use crate::server::{Output, Server, StoreTag};
use crate::status::Failure;

/// Where the core stands with the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// No connection, nothing loaded yet.
    Away,
    /// Reading everything; `revision` is 0 until the first page told it.
    Loading { tag: StoreTag, revision: u64 },
    /// The watch was asked for.
    Subscribing { tag: StoreTag },
    /// The watch stands.
    Running { tag: StoreTag },
    /// No connection; the cache stands as it was.
    Lost,
}

fn root_end() -> Vec<u8> {
    let mut end = KEY_ROOT.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

impl Server {
    /// The cache holds a state of the store, maybe not the newest.
    pub(crate) fn loaded(&self) -> bool {
        matches!(self.link, Link::Subscribing { .. } | Link::Running { .. } | Link::Lost)
    }

    /// Sends a request to the store.
    pub(crate) fn ask_store(&mut self, request: store::Request) -> StoreTag {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.out.push_back(Output::Store(tag, request));
        tag
    }

    /// The connection to the store is there (again).
    pub fn store_connected(&mut self, now: Now) {
        self.now = now;
        match self.link {
            Link::Lost => self.subscribe(),
            _ => self.load_page(KEY_ROOT.as_bytes().to_vec(), 0),
        }
    }

    /// The connection to the store is gone: writes under way fail with "may or may not have happened".
    pub fn store_disconnected(&mut self, now: Now) {
        self.now = now;
        self.link = if self.loaded() { Link::Lost } else { Link::Away };
        self.fail_flights();
    }

    fn load_page(&mut self, key: Vec<u8>, revision: u64) {
        let tag = self.ask_store(store::Request::Range(store::RangeRequest {
            key,
            range_end: root_end(),
            revision,
            limit: limits::LOAD_PAGE_KEYS,
            keys_only: false,
            count_only: false,
        }));
        self.link = Link::Loading { tag, revision };
    }

    fn subscribe(&mut self) {
        let tag = self.ask_store(store::Request::Watch {
            key: KEY_ROOT.as_bytes().to_vec(),
            range_end: root_end(),
            from_revision: self.cache.revision() + 1,
            prev_kv: false,
        });
        self.link = Link::Subscribing { tag };
    }

    fn reload(&mut self) {
        let f = Failure::expired("the store's history was replaced; list again");
        let body: pintle_wire::msg::Body = f.to_value().to_string().into_bytes().into();
        for id in self.hub.remove_all() {
            let kind = api::EventType::Error;
            let event = api::Reply::Event { kind, revision: 0, body: body.clone() };
            self.out.push_back(Output::Reply(id, event));
            self.out.push_back(Output::End(id));
        }
        self.known_revision = 0;
        self.load_page(KEY_ROOT.as_bytes().to_vec(), 0);
    }

    /// The store answered.
    pub fn handle_store(&mut self, tag: StoreTag, reply: store::Reply, now: Now) {
        self.now = now;
        if self.flights.contains_key(&tag) {
            return self.land_flight(tag, reply);
        }
        match (self.link.clone(), reply) {
            (Link::Loading { tag: t, revision }, store::Reply::Range(at, page)) if t == tag => {
                self.loaded_page(if revision == 0 { at } else { revision }, revision == 0, page);
            }
            (Link::Subscribing { tag: t }, store::Reply::WatchCreated { .. }) if t == tag => {
                self.link = Link::Running { tag };
                self.synced();
            }
            (Link::Running { tag: t }, store::Reply::WatchEvents { events, revision })
                if t == tag =>
            {
                self.follow(&events, revision);
            }
            (Link::Running { tag: t }, store::Reply::WatchProgress { revision }) if t == tag => {
                self.advance(revision);
            }
            (
                Link::Loading { tag: t, .. }
                | Link::Subscribing { tag: t }
                | Link::Running { tag: t },
                store::Reply::Error(_),
            ) if t == tag => self.reload(),
            // An answer to what was given up with the old connection.
            _ => {}
        }
    }

    fn loaded_page(&mut self, revision: u64, first: bool, page: store::RangeReply) {
        if first {
            self.cache.begin_load(revision);
        }
        let next = page.kvs.last().map(|kv| [kv.key.as_slice(), &[0]].concat());
        for kv in &page.kvs {
            let Some((id, key)) = self.registry.parse_key(&kv.key) else { continue };
            let resource = self.registry.resource(id);
            match Object::from_stored(resource, key, &kv.value, kv.mod_revision) {
                Some(object) => self.cache.load(id, object),
                None => damaged(&kv.key),
            }
        }
        match next {
            Some(key) if page.more => self.load_page(key, revision),
            _ => {
                self.known_revision = self.known_revision.max(revision);
                self.rebuild();
                self.subscribe();
            }
        }
    }

    fn follow(&mut self, events: &[store::Event], revision: u64) {
        for e in events {
            // A store that repeats itself after a reconnect must not lead back in time.
            if e.kv.mod_revision <= self.cache.revision() {
                continue;
            }
            let Some((id, key)) = self.registry.parse_key(&e.kv.key) else { continue };
            let resource = self.registry.resource(id);
            let at = self.now.mono;
            let change = if e.deleted {
                self.cache.delete(id, resource, key, e.kv.mod_revision, at)
            } else {
                match Object::from_stored(resource, key, &e.kv.value, e.kv.mod_revision) {
                    Some(object) => Some(self.cache.put(id, object, at)),
                    None => {
                        damaged(&e.kv.key);
                        None
                    }
                }
            };
            if let Some(change) = change {
                self.changed(id, &change);
                self.hub.wake(id);
            }
        }
        self.advance(revision);
    }

    fn advance(&mut self, revision: u64) {
        self.cache.advance(revision);
        self.known_revision = self.known_revision.max(self.cache.revision());
        self.rbac.refresh(&self.registry, &self.cache);
        self.wake_waiting();
        self.boot_step();
    }
}

fn damaged(key: &[u8]) {
    let key = String::from_utf8_lossy(key);
    pintle_base::log::error("stored value is no JSON object, skipped", &[("key", &key)]);
}
