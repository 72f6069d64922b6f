//! A front with its core, its certificates and a store in memory, and clients made of bytes.

use crate::rig::{FakeStore, config};
use pintle_apiserver::authn::Authenticator;
use pintle_apiserver::authn::cert::Authority;
use pintle_apiserver::front::{Config, ConnId, Front, Peer, ToStore};
use pintle_apiserver::server::Server;
use pintle_base::{Now, Time, Wall};
use pintle_wire::msg::{self, Open, api, node};
use pintle_wire::{Conn, Event, Hello, Limits, StreamId};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use serde_json::Value;
use std::time::Duration;

pub struct Web {
    pub front: Front,
    pub now: Now,
    store: FakeStore,
    /// The store answers nothing while this is set.
    pub silent: bool,
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// An answer as a client reads it: code, head, body (chunks put together).
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl Web {
    pub fn new() -> Web {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key"));
        let ca = ca.expect("ca");
        let authority = Authority::new(&[ca.der().to_vec()]).expect("authority");
        let now = Now { mono: Time(1_000_000_000), wall: Wall::from_unix_s(1_795_424_482) };
        let core = Server::new(config(), now);
        let authn = Authenticator::new(Some(authority), None);
        let front = Front::new(core, authn, Config::default());
        let store = FakeStore { revision: 1, ..FakeStore::default() };
        let mut web = Web { front, now, store, silent: false, ca };
        web.front.set_store_connected(true, now);
        web.settle();
        assert!(web.front.core().ready());
        let mut admin = web.admin();
        let account =
            r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
        web.send(&mut admin, "POST", "/api/v1/namespaces/default/serviceaccounts", account);
        web
    }

    /// Carries messages between core and store until there are none.
    pub fn settle(&mut self) {
        while let Some(message) = self.front.poll_store() {
            if let ToStore::Request(tag, request) = message
                && !self.silent
            {
                for (tag, reply) in self.store.handle(tag, request) {
                    self.front.handle_store(tag, reply, self.now);
                }
            }
        }
    }

    pub fn pass(&mut self, by: Duration) {
        self.now.mono += by;
        self.now.wall = self.now.wall + by;
        self.front.handle_timeout(self.now);
        self.settle();
    }

    fn certificate(&self, user: &str, group: &str) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let key = KeyPair::generate().expect("key");
        params.signed_by(&key, &self.ca).expect("signed").der().to_vec()
    }

    pub fn client(&mut self, user: &str, group: &str) -> ConnId {
        let chain = vec![self.certificate(user, group)];
        self.front.accept_http(Peer { chain, ..Peer::default() }, self.now)
    }

    pub fn admin(&mut self) -> ConnId {
        self.client("kubernetes-admin", "system:masters")
    }

    pub fn nobody(&mut self) -> ConnId {
        self.front.accept_http(Peer::default(), self.now)
    }

    pub fn write(&mut self, conn: ConnId, bytes: &[u8]) {
        self.front.handle_input(conn, bytes, self.now);
        self.settle();
    }

    /// Takes at most `max` bytes that wait for the client.
    pub fn read_some(&mut self, conn: ConnId, max: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < max {
            let bytes = self.front.output(conn);
            let n = bytes.len().min(max - all.len());
            if n == 0 {
                break;
            }
            all.extend_from_slice(&bytes[..n]);
            self.front.written(conn, n, self.now);
            self.settle();
        }
        all
    }

    pub fn read(&mut self, conn: ConnId) -> Vec<u8> {
        self.read_some(conn, usize::MAX)
    }

    /// One request and its whole answer.
    pub fn ask(&mut self, conn: &mut ConnId, head: &str, body: &str) -> Answer {
        let text = format!("{head}\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.write(*conn, text.as_bytes());
        let bytes = self.read(*conn);
        parse(&bytes)
    }

    pub fn send(&mut self, conn: &mut ConnId, method: &str, path: &str, body: &str) -> Answer {
        self.ask(conn, &format!("{method} {path} HTTP/1.1"), body)
    }
}

pub fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).expect("a code");
    let body = match head.contains("Transfer-Encoding: chunked") {
        true => unchunk(rest),
        false => rest.to_string(),
    };
    Answer { code, head: head.into(), body }
}

pub fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let n = usize::from_str_radix(size, 16).expect("a chunk size");
        body.push_str(&tail[..n]);
        rest = &tail[n + 2..];
    }
    body
}

/// A daemon's connection.
pub struct Daemon {
    pub conn: Conn,
    pub id: ConnId,
}

impl Daemon {
    /// Over a unix socket, as root.
    pub fn connect(web: &mut Web, daemon: &str, node: &str) -> Daemon {
        let hello = Hello { daemon: daemon.into(), node: node.into(), ..Hello::default() };
        let conn = Conn::connect(hello, Limits::default(), web.now.mono);
        let id = web.front.accept_wire(Peer { uid: Some(0), ..Peer::default() }, web.now);
        let mut d = Daemon { conn, id };
        let events = d.turn(web);
        assert!(matches!(events.as_slice(), [Event::Connected(_)]), "{events:?}");
        d
    }

    /// Carries bytes both ways until there are none; gives what happened.
    pub fn turn(&mut self, web: &mut Web) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let out = self.conn.poll_output().to_vec();
            self.conn.written(out.len());
            if !out.is_empty() {
                web.front.handle_input(self.id, &out, web.now);
                web.settle();
            }
            let back = web.read_some(self.id, 64 << 10);
            if !back.is_empty() {
                self.conn.handle_input(&back, web.now.mono).expect("the server's bytes are good");
            }
            while let Some(event) = self.conn.poll_event() {
                events.push(event);
            }
            if out.is_empty() && back.is_empty() {
                return events;
            }
        }
    }

    pub fn ask(&mut self, web: &mut Web, request: api::Request) -> (u16, Value) {
        let open = msg::encode(&Open::Api(Box::new(request)));
        self.conn.request(&open).expect("room for a request");
        let events = self.turn(web);
        let Some(Event::Message(_, bytes)) = events.first() else { panic!("{events:?}") };
        match msg::decode(bytes).expect("a reply") {
            api::Reply::Object { code, body, .. } => {
                (code, serde_json::from_slice(&body).expect("JSON"))
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn send(&mut self, web: &mut Web, stream: StreamId, frame: &node::Frame) -> Vec<Event> {
        self.conn.send(stream, &msg::encode(frame), &[]).expect("credit");
        self.turn(web)
    }

    /// The one stream that the API server has opened since the last turn.
    pub fn opened(&mut self, web: &mut Web) -> (StreamId, node::Request) {
        let events = self.turn(web);
        let [Event::Opened(stream, first)] = events.as_slice() else { panic!("{events:?}") };
        match msg::decode(first).expect("an open") {
            Open::Node(request) => (*stream, request),
            other => panic!("{other:?}"),
        }
    }
}

/// The frames among events.
pub fn frames(events: &[Event]) -> Vec<node::Frame> {
    events
        .iter()
        .filter_map(|e| match e {
            Event::Message(_, bytes) => Some(msg::decode(bytes).expect("a frame")),
            _ => None,
        })
        .collect()
}
