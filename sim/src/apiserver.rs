//! The API server as a process: what `cli/src/daemons/apiserver.rs` does, over simulated connections.

use crate::process::{Outputs, Process};
use crate::world::LinkId;
use pintle_apiserver::authn::Authenticator;
use pintle_apiserver::front::{Config, ConnId, Front, Peer, ToStore};
use pintle_apiserver::server::{self, Server, StoreTag};
use pintle_base::{Now, Time};
use pintle_wire::conn::{Conn, Event, Hello, Limits, ResetCode, SendError, StreamId};
use pintle_wire::msg::{self, Open, store};
use std::collections::{BTreeMap, VecDeque};

/// The process.
pub struct ApiProcess {
    front: Front,
    clients: BTreeMap<LinkId, ConnId>,
    links: BTreeMap<ConnId, LinkId>,
    store: Option<(LinkId, Conn)>,
    streams: BTreeMap<StreamId, StoreTag>,
    tags: BTreeMap<StoreTag, StreamId>,
    backlog: VecDeque<(StoreTag, store::Request)>,
    dead: Vec<LinkId>,
}

impl ApiProcess {
    /// A server that knows nothing yet.
    pub fn new(seed: u64, now: Now) -> ApiProcess {
        let config = server::Config {
            service_cidr: "10.96.0.0/24".into(),
            node_port_range: (30000, 30063),
            seed,
            advertise: (std::net::Ipv4Addr::LOCALHOST.into(), 6443),
        };
        let core = Server::new(config, now);
        let front = Front::new(
            core,
            Authenticator::new(None, None),
            Config { server_address: "127.0.0.1:6443".into(), version: "sim".into(), pid: 1 },
        );
        ApiProcess {
            front,
            clients: BTreeMap::new(),
            links: BTreeMap::new(),
            store: None,
            streams: BTreeMap::new(),
            tags: BTreeMap::new(),
            backlog: VecDeque::new(),
            dead: Vec::new(),
        }
    }

    fn store_events(&mut self, now: Now) {
        while let Some(event) = self.store.as_mut().and_then(|(_, conn)| conn.poll_event()) {
            match event {
                Event::Connected(_) => self.front.set_store_connected(true, now),
                Event::Message(stream, bytes) => {
                    if let Some((_, conn)) = &mut self.store {
                        conn.consumed(stream, bytes.len());
                    }
                    let Some(tag) = self.streams.get(&stream).copied() else { continue };
                    match msg::decode::<store::Reply>(&bytes) {
                        Ok(reply) => self.front.handle_store(tag, reply, now),
                        Err(_) => self.cut_stream(stream, now),
                    }
                }
                Event::Finished(stream) => {
                    if let Some(tag) = self.streams.remove(&stream) {
                        self.tags.remove(&tag);
                    }
                }
                Event::Reset(stream, _) => self.cut_stream(stream, now),
                Event::Writable(_) | Event::Opened(..) | Event::GoAway => {}
            }
        }
        self.flush_store(now);
    }

    fn cut_stream(&mut self, stream: StreamId, now: Now) {
        if let Some(tag) = self.streams.remove(&stream) {
            self.tags.remove(&tag);
            let error = store::Error::Invalid("the store cut the request".into());
            self.front.handle_store(tag, store::Reply::Error(error), now);
        }
    }

    fn flush_store(&mut self, now: Now) {
        while let Some((tag, request)) = self.backlog.pop_front() {
            let Some((_, conn)) = &mut self.store else { return };
            match conn.request(&msg::encode(&Open::Store(request.clone()))) {
                Ok(stream) => {
                    self.streams.insert(stream, tag);
                    self.tags.insert(tag, stream);
                }
                Err(SendError::Blocked) => {
                    self.backlog.push_front((tag, request));
                    return;
                }
                Err(SendError::Closed) => return,
                Err(SendError::TooLarge) => {
                    let error = store::Error::TooLarge("larger than a message".into());
                    self.front.handle_store(tag, store::Reply::Error(error), now);
                }
            }
        }
    }

    fn store_gone(&mut self, now: Now) {
        self.store = None;
        self.streams.clear();
        self.tags.clear();
        self.backlog.clear();
        if self.front.store_connected() {
            self.front.set_store_connected(false, now);
        }
    }

    fn output(&mut self, id: ConnId, now: Now, out: &mut Outputs) {
        let Some(link) = self.links.get(&id).copied() else { return };
        loop {
            let bytes = self.front.output(id).to_vec();
            if bytes.is_empty() {
                break;
            }
            self.front.written(id, bytes.len(), now);
            out.bytes.push((link, bytes));
        }
        if self.front.is_done(id) {
            self.front.closed(id, now);
            self.links.remove(&id);
            self.clients.remove(&link);
            out.close.push(link);
        }
    }
}

impl Process for ApiProcess {
    fn accepted(&mut self, link: LinkId, who: &str, now: Now) {
        let peer = Peer { uid: Some(0), chain: Vec::new(), address: who.to_owned() };
        let id = self.front.accept_wire(peer, now);
        self.clients.insert(link, id);
        self.links.insert(id, link);
    }

    fn connected(&mut self, link: LinkId, now: Now) {
        let hello = Hello { daemon: "apiserver".into(), ..Hello::default() };
        self.store = Some((link, Conn::connect(hello, Limits::default(), now.mono)));
    }

    fn cut(&mut self, link: LinkId, now: Now) {
        if self.store.as_ref().is_some_and(|(l, _)| *l == link) {
            self.store_gone(now);
        } else if let Some(id) = self.clients.remove(&link) {
            self.links.remove(&id);
            self.front.closed(id, now);
        }
    }

    fn input(&mut self, link: LinkId, bytes: &[u8], now: Now) {
        match &mut self.store {
            Some((l, conn)) if *l == link => {
                let result = conn.handle_input(bytes, now.mono);
                self.store_events(now);
                if result.is_err() {
                    self.dead.push(link);
                }
            }
            _ => {
                if let Some(id) = self.clients.get(&link).copied() {
                    self.front.handle_input(id, bytes, now);
                }
            }
        }
    }

    fn timeout(&mut self, now: Now) {
        if let Some((link, conn)) = &mut self.store
            && conn.handle_timeout(now.mono).is_err()
        {
            self.dead.push(*link);
        }
        self.front.handle_timeout(now);
    }

    fn turn(&mut self, now: Now, out: &mut Outputs) {
        loop {
            if let Some(message) = self.front.poll_store() {
                match message {
                    ToStore::Request(tag, request) => {
                        self.backlog.push_back((tag, request));
                        self.flush_store(now);
                    }
                    ToStore::Cancel(tag) => {
                        self.backlog.retain(|(t, _)| *t != tag);
                        if let Some(stream) = self.tags.remove(&tag) {
                            self.streams.remove(&stream);
                            if let Some((_, conn)) = &mut self.store {
                                conn.reset(stream, ResetCode::Cancel);
                            }
                        }
                    }
                }
            } else if let Some(id) = self.front.poll_changed() {
                self.output(id, now, out);
            } else {
                let before = out.bytes.len();
                if let Some((link, conn)) = &mut self.store {
                    out.drain(*link, conn);
                }
                self.store_events(now);
                if out.bytes.len() == before {
                    break;
                }
            }
        }
        for link in std::mem::take(&mut self.dead) {
            self.store_gone(now);
            out.close.push(link);
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        let store = self.store.as_ref().and_then(|(_, conn)| conn.poll_timeout());
        store.into_iter().chain(self.front.poll_timeout()).min()
    }

    fn ready(&self) -> bool {
        self.front.core().ready()
    }
}
