//! A server, a store in memory that speaks the store's messages, and a clock that tests move.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use pintle_apiserver::server::{Config, Identity, Output, RequestId, Server, StoreTag};
use pintle_base::{Now, Time, Wall};
use pintle_wire::msg::api::{EventType, PatchType, Reply, Request, Verb};
use pintle_wire::msg::{Body, store};
use serde_json::Value;

#[derive(Default)]
pub struct FakeStore {
    pub revision: u64,
    pub kvs: BTreeMap<Vec<u8>, store::KeyValue>,
    pub history: Vec<store::Event>,
    pub watches: Vec<StoreTag>,
    pub writes: Vec<store::Durability>,
    /// The next watch is refused: its history is gone.
    pub compacted: bool,
}

impl FakeStore {
    fn in_range(key: &[u8], from: &[u8], end: &[u8]) -> bool {
        if end.is_empty() { key == from } else { key >= from && key < end }
    }

    pub fn handle(
        &mut self,
        tag: StoreTag,
        request: store::Request,
    ) -> Vec<(StoreTag, store::Reply)> {
        match request {
            store::Request::Range(r) => {
                let all: Vec<_> = self
                    .kvs
                    .values()
                    .filter(|kv| Self::in_range(&kv.key, &r.key, &r.range_end))
                    .cloned()
                    .collect();
                let count = all.len() as u64;
                let limit = if r.limit == 0 { all.len() } else { r.limit as usize };
                let more = all.len() > limit;
                let kvs = all.into_iter().take(limit).collect();
                let reply = store::RangeReply { kvs, more, count };
                vec![(tag, store::Reply::Range(self.revision, reply))]
            }
            store::Request::Watch { .. } if std::mem::take(&mut self.compacted) => {
                let compact_revision = self.revision;
                vec![(tag, store::Reply::Error(store::Error::Compacted { compact_revision }))]
            }
            store::Request::Watch { from_revision, .. } => {
                self.watches.push(tag);
                let mut out = vec![(tag, store::Reply::WatchCreated { from_revision })];
                let events: Vec<_> = self
                    .history
                    .iter()
                    .filter(|e| e.kv.mod_revision >= from_revision)
                    .cloned()
                    .collect();
                if !events.is_empty() {
                    let revision = self.revision;
                    out.push((tag, store::Reply::WatchEvents { events, revision }));
                }
                out
            }
            store::Request::Txn { compare, then, durability, .. } => {
                let holds = compare.iter().all(|c| match c {
                    store::Compare::ModRevision(key, r) => {
                        self.kvs.get(key).map_or(0, |kv| kv.mod_revision) == *r
                    }
                    other => panic!("the rig compares mod revisions only, not {other:?}"),
                });
                if !holds {
                    let reply = store::Reply::Txn {
                        succeeded: false,
                        revision: self.revision,
                        replies: vec![],
                    };
                    return vec![(tag, reply)];
                }
                self.writes.push(durability);
                self.revision += 1;
                let mut events = Vec::new();
                for op in then {
                    events.extend(self.apply(op));
                }
                self.history.extend(events.clone());
                let mut out = Vec::new();
                let revision = self.revision;
                for w in &self.watches {
                    let events = events.clone();
                    out.push((*w, store::Reply::WatchEvents { events, revision }));
                }
                let replies = vec![];
                out.push((tag, store::Reply::Txn { succeeded: true, revision, replies }));
                out
            }
            other => panic!("the rig does not know {other:?}"),
        }
    }

    fn apply(&mut self, op: store::Op) -> Option<store::Event> {
        match op {
            store::Op::Put { key, value, lease } => {
                let old = self.kvs.get(&key);
                let kv = store::KeyValue {
                    key: key.clone(),
                    create_revision: old.map_or(self.revision, |o| o.create_revision),
                    mod_revision: self.revision,
                    version: old.map_or(1, |o| o.version + 1),
                    lease,
                    value,
                };
                self.kvs.insert(key, kv.clone());
                Some(store::Event { deleted: false, kv, prev: None })
            }
            store::Op::Delete { key, .. } => {
                let mut kv = self.kvs.remove(&key)?;
                kv.mod_revision = self.revision;
                kv.value = Body::from([]);
                Some(store::Event { deleted: true, kv, prev: None })
            }
            store::Op::Range(_) => None,
        }
    }
}

pub struct Rig {
    pub server: Server,
    pub store: FakeStore,
    pub now: Now,
    next: RequestId,
    pub replies: HashMap<RequestId, Vec<Reply>>,
    pub ended: HashSet<RequestId>,
    /// Store replies are held back while this is set.
    pub hold: bool,
    held: Vec<(StoreTag, store::Reply)>,
}

pub fn admin() -> Identity {
    Identity {
        user: "kubernetes-admin".into(),
        groups: vec!["system:masters".into(), "system:authenticated".into()],
        ..Identity::default()
    }
}

pub fn user(name: &str) -> Identity {
    Identity {
        user: name.into(),
        groups: vec!["system:authenticated".into()],
        ..Identity::default()
    }
}

pub fn config() -> Config {
    Config {
        service_cidr: "10.96.0.0/16".into(),
        node_port_range: (30000, 32767),
        seed: 7,
        advertise: ("192.0.2.10".parse().expect("an address"), 6443),
    }
}

impl Rig {
    /// A server that has bootstrapped on an empty store.
    pub fn new() -> Rig {
        Rig::over(FakeStore { revision: 1, ..FakeStore::default() })
    }

    /// A server that starts on what is in the store.
    pub fn over(store: FakeStore) -> Rig {
        let now = Now { mono: Time(1_000_000_000), wall: Wall::from_unix_s(1_795_424_482) };
        let server = Server::new(config(), now);
        let mut rig = Rig {
            server,
            store,
            now,
            next: 1,
            replies: HashMap::new(),
            ended: HashSet::new(),
            hold: false,
            held: Vec::new(),
        };
        rig.server.store_connected(now);
        rig.settle();
        assert!(rig.server.ready(), "the bootstrap did not come to its end");
        for account in ["default", "kube-system"] {
            let body = format!(
                r#"{{"apiVersion":"v1","kind":"ServiceAccount","metadata":{{"name":"default","namespace":"{account}"}}}}"#
            );
            rig.send(rig.request(Verb::Create, "serviceaccounts", account, "", &body));
        }
        rig
    }

    /// Lets store and server talk until both have nothing to say.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            match self.server.poll_output() {
                Some(Output::Reply(id, reply)) => self.replies.entry(id).or_default().push(reply),
                Some(Output::End(id)) => {
                    self.ended.insert(id);
                }
                Some(Output::Store(tag, request)) => {
                    let replies = self.store.handle(tag, request);
                    self.held.extend(replies);
                }
                Some(Output::StoreCancel(_)) => {}
                None if self.held.is_empty() || self.hold => return,
                None => {}
            }
            if !self.hold {
                for (tag, reply) in std::mem::take(&mut self.held) {
                    self.server.handle_store(tag, reply, self.now);
                }
            }
        }
        panic!("server and store never come to rest");
    }

    /// The store forgets its watches, as when the connection ends.
    pub fn forget_watches(&mut self) {
        self.store.watches.clear();
    }

    /// Answers of the store that were held back are lost.
    pub fn drop_held(&mut self) {
        self.held.clear();
        self.store.watches.clear();
    }

    /// Moves both clocks.
    pub fn pass(&mut self, by: Duration) {
        self.now.mono += by;
        self.now.wall = self.now.wall + by;
        self.server.handle_timeout(self.now);
        self.settle();
    }

    pub fn request(&self, verb: Verb, plural: &str, ns: &str, name: &str, body: &str) -> Request {
        let (group, version, plural) = match plural.split('/').collect::<Vec<_>>()[..] {
            [group, version, plural] => (group, version, plural),
            _ => ("", "v1", plural),
        };
        let (plural, sub) = plural.split_once(':').unwrap_or((plural, ""));
        let mut r = Request::new(verb, group, version, plural);
        r.subresource = sub.into();
        r.namespace = ns.into();
        r.name = name.into();
        r.body = body.as_bytes().into();
        r
    }

    /// Sends as somebody and returns the number of the request.
    pub fn submit(&mut self, who: &Identity, request: Request) -> RequestId {
        let id = self.next;
        self.next += 1;
        self.server.handle_request(id, who, request, self.now);
        self.settle();
        id
    }

    /// Sends as the administrator and returns code and body.
    pub fn send(&mut self, request: Request) -> (u16, Value) {
        self.send_as(&admin(), request)
    }

    pub fn send_as(&mut self, who: &Identity, request: Request) -> (u16, Value) {
        let id = self.submit(who, request);
        self.answer(id)
    }

    /// The answer to a request.
    pub fn answer(&mut self, id: RequestId) -> (u16, Value) {
        let replies = self.replies.remove(&id).unwrap_or_default();
        match replies.as_slice() {
            [Reply::Object { code, body, .. }] => {
                (*code, serde_json::from_slice(body).expect("a body of JSON"))
            }
            other => panic!("not one answer but {other:?}"),
        }
    }

    pub fn get(&mut self, plural: &str, ns: &str, name: &str) -> (u16, Value) {
        self.send(self.request(Verb::Get, plural, ns, name, ""))
    }

    pub fn create(&mut self, plural: &str, ns: &str, body: &str) -> (u16, Value) {
        self.send(self.request(Verb::Create, plural, ns, "", body))
    }

    pub fn update(&mut self, plural: &str, ns: &str, name: &str, body: &Value) -> (u16, Value) {
        self.send(self.request(Verb::Update, plural, ns, name, &body.to_string()))
    }

    pub fn delete(&mut self, plural: &str, ns: &str, name: &str) -> (u16, Value) {
        self.send(self.request(Verb::Delete, plural, ns, name, ""))
    }

    pub fn merge(&mut self, plural: &str, ns: &str, name: &str, body: &str) -> (u16, Value) {
        let mut r = self.request(Verb::Patch, plural, ns, name, body);
        r.patch_type = Some(PatchType::Merge);
        self.send(r)
    }

    /// Events of a watch since the last call: type, name, resourceVersion.
    pub fn events(&mut self, id: RequestId) -> Vec<(EventType, String, u64)> {
        self.settle();
        let replies = self.replies.remove(&id).unwrap_or_default();
        replies
            .iter()
            .map(|r| match r {
                Reply::Event { kind, revision, body } => {
                    let v: Value = serde_json::from_slice(body).expect("JSON");
                    let name = v["metadata"]["name"].as_str().unwrap_or("").to_owned();
                    (*kind, name, *revision)
                }
                other => panic!("a watch answered {other:?}"),
            })
            .collect()
    }
}
