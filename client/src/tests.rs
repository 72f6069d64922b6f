//! A client against a fake API server at the other end of two connections in memory, with everything that can
//! go wrong drawn from a seed: cut connections, compacted revisions, ended and refused watches, lost answers.

use crate::requests::PODS;
use crate::{ApiError, Caches, Client, Daemon, Event, Object, Outbox, Token, WatchSpec};
use pintle_base::{Now, Prng, Time, Wall};
use pintle_wire::conn::{self, Conn, Hello, Limits, ResetCode, StreamId};
use pintle_wire::msg::api::{EventType, Reply, Request, Verb};
use pintle_wire::msg::{self, Open};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Objects and history of two resources.
struct Server {
    revision: u64,
    compacted: u64,
    objects: BTreeMap<(String, String), Value>,
    /// Resource, what happened, object.
    history: Vec<(String, EventType, u64, Value)>,
    /// Watches: resource, next revision wanted.
    watches: BTreeMap<StreamId, (String, u64)>,
    created: u64,
    /// Refuses and cuts nothing any more.
    calm: bool,
}

impl Server {
    fn new() -> Server {
        Server {
            revision: 1,
            compacted: 0,
            objects: BTreeMap::new(),
            history: Vec::new(),
            watches: BTreeMap::new(),
            created: 0,
            calm: false,
        }
    }

    fn trouble(&self, p: &mut Prng, one_in: u64) -> bool {
        !self.calm && p.chance(1, one_in)
    }

    fn mutate(&mut self, p: &mut Prng) {
        let resource = ["pods", "nodes"][p.below(2) as usize].to_owned();
        let name = format!("o{}", p.below(30));
        self.put(resource, name, p.chance(1, 3));
    }

    fn put(&mut self, resource: String, name: String, delete: bool) {
        let place = (resource.clone(), name.clone());
        self.revision += 1;
        let revision = self.revision;
        let mut object = json!({"metadata": {"name": name, "namespace": "ns"}});
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let kind = match (self.objects.contains_key(&place), delete) {
            (false, true) => return,
            (true, true) => {
                self.objects.remove(&place);
                EventType::Deleted
            }
            (existed, false) => {
                self.objects.insert(place, object.clone());
                if existed { EventType::Modified } else { EventType::Added }
            }
        };
        self.history.push((resource, kind, revision, object));
    }

    fn serve(&mut self, conn: &mut Conn, p: &mut Prng) {
        while let Some(event) = conn.poll_event() {
            match event {
                conn::Event::Opened(stream, first) => {
                    let Ok(Open::Api(request)) = msg::decode::<Open>(&first) else {
                        panic!("not a request");
                    };
                    self.answer(conn, stream, &request, p);
                }
                conn::Event::Reset(stream, _) => {
                    self.watches.remove(&stream);
                }
                _ => {}
            }
        }
        self.push_watches(conn, p);
    }

    fn answer(&mut self, conn: &mut Conn, stream: StreamId, request: &Request, p: &mut Prng) {
        let reply = match request.verb {
            Verb::Watch => {
                let from: u64 = request
                    .options
                    .resource_version
                    .as_ref()
                    .and_then(|s| s.parse().ok())
                    .expect("a watch has a revision");
                if from < self.compacted {
                    let status = status(410, "Expired");
                    if p.chance(1, 2) {
                        status
                    } else {
                        let Reply::Object { body, .. } = status else { unreachable!() };
                        Reply::Event { kind: EventType::Error, revision: 0, body }
                    }
                } else {
                    self.watches.insert(stream, (request.resource.clone(), from + 1));
                    return;
                }
            }
            Verb::List if self.trouble(p, 10) => status(503, "ServiceUnavailable"),
            Verb::List => self.list(request),
            Verb::Create if p.chance(1, 10) => status(409, "AlreadyExists"),
            Verb::Create => {
                self.created += 1;
                self.put("pods".into(), format!("made{}", self.created), false);
                object(200, &json!({"kind": "Pod"}))
            }
            other => panic!("{other:?}"),
        };
        if self.trouble(p, 30) {
            conn.reset(stream, ResetCode::Internal);
            return;
        }
        let (head, body) = msg::split::reply(&reply);
        conn.send_shared(stream, &head, &body).expect("room");
        conn.finish(stream);
    }

    /// Pages of 7, whatever the limit; the token is the first name of the next page and the first page's
    /// revision, which must still be there.
    fn list(&self, request: &Request) -> Reply {
        let token = request.options.continue_token.clone().unwrap_or_default();
        let (from, revision) = token.split_once('@').unwrap_or(("", ""));
        let revision = revision.parse().unwrap_or(self.revision);
        if revision < self.compacted {
            return status(410, "Expired");
        }
        // State as of that revision.
        let mut then: BTreeMap<&str, &Value> = BTreeMap::new();
        for (resource, kind, at, object) in &self.history {
            if *resource == request.resource && *at <= revision {
                let name = object["metadata"]["name"].as_str().expect("name");
                match kind {
                    EventType::Deleted => then.remove(name),
                    _ => then.insert(name, object),
                };
            }
        }
        let mut left = then.iter().filter(|(name, _)| **name >= from);
        let items: Vec<&Value> = left.by_ref().take(7).map(|(_, o)| *o).collect();
        let mut list = json!({"metadata": {"resourceVersion": revision.to_string()}});
        list["items"] = json!(items);
        if let Some((next, _)) = left.next() {
            list["metadata"]["continue"] = json!(format!("{next}@{revision}"));
        }
        object(200, &list)
    }

    fn push_watches(&mut self, conn: &mut Conn, p: &mut Prng) {
        for (stream, (resource, next)) in std::mem::take(&mut self.watches) {
            let mut next = next;
            let mut open = true;
            let events = self.history.iter().filter(|(r, _, at, _)| *r == resource && *at >= next);
            for (_, kind, revision, o) in events.collect::<Vec<_>>() {
                let body = serde_json::to_vec(o).expect("JSON").into();
                let reply = Reply::Event { kind: *kind, revision: *revision, body };
                if conn.send(stream, &msg::encode(&reply), b"").is_err() {
                    break;
                }
                next = revision + 1;
            }
            if p.chance(1, 10) && next <= self.revision {
                let everything =
                    !self.history.iter().any(|(r, _, at, _)| *r == resource && *at >= next);
                if everything {
                    let body = json!({"metadata": {"resourceVersion": self.revision.to_string()}});
                    let body = serde_json::to_vec(&body).expect("JSON").into();
                    let revision = self.revision;
                    let reply = Reply::Event { kind: EventType::Bookmark, revision, body };
                    let _ = conn.send(stream, &msg::encode(&reply), b"");
                }
            }
            if self.trouble(p, 60) {
                conn.finish(stream);
                open = false;
            } else if self.trouble(p, 60) {
                conn.reset(stream, ResetCode::Internal);
                open = false;
            }
            if open {
                self.watches.insert(stream, (resource, next));
            }
        }
    }
}

fn object(code: u16, value: &Value) -> Reply {
    let body = serde_json::to_vec(value).expect("JSON").into();
    Reply::Object { code, warnings: vec![], body }
}

fn status(code: u16, reason: &str) -> Reply {
    object(code, &json!({"kind": "Status", "code": code, "reason": reason, "message": "no"}))
}

/// A daemon that only believes what it is told, and checks it.
#[derive(Default)]
struct Mirror {
    seen: [BTreeMap<String, u64>; 2],
    synced: bool,
    connected: bool,
    send: u64,
    next_token: Token,
    open: Vec<Token>,
    answered: u64,
    refused: u64,
    relisted_away: u64,
}

impl Daemon for Mirror {
    fn watches(&self) -> Vec<WatchSpec> {
        ["pods", "nodes"]
            .into_iter()
            .map(|resource| WatchSpec {
                group: "",
                version: "v1",
                resource,
                namespace: String::new(),
                label_selector: String::new(),
                field_selector: String::new(),
            })
            .collect()
    }

    fn handle(&mut self, event: Event, caches: &Caches, _now: Now, _out: &mut Outbox) {
        match event {
            Event::Synced => {
                assert!(!self.synced && caches.synced());
                self.synced = true;
            }
            Event::Connected => self.connected = true,
            Event::Disconnected => self.connected = false,
            Event::Changed { spec, key, old, new } => {
                let revision = |o: &Option<Object>| o.as_ref().map(|o| o.revision);
                let known = match revision(&new) {
                    Some(r) => self.seen[spec].insert(key.clone(), r),
                    None => self.seen[spec].remove(&key),
                };
                assert_eq!(known, revision(&old), "{key}");
                assert!(new.is_some() || old.is_some());
                assert!(
                    revision(&new).is_none_or(|n| known.is_none_or(|k| k < n)),
                    "{key} goes back"
                );
                assert_eq!(caches.get(spec, &key).map(|o| o.revision), revision(&new));
                self.relisted_away += u64::from(new.is_none());
            }
            Event::Reply { token, result } => {
                let at = self.open.iter().position(|t| *t == token).expect("answered once");
                self.open.swap_remove(at);
                match result {
                    Ok(pod) => {
                        assert_eq!(pod["kind"], "Pod");
                        self.answered += 1;
                    }
                    Err(ApiError::Status { reason, .. }) => assert_eq!(reason, "AlreadyExists"),
                    Err(ApiError::Disconnected) => self.refused += 1,
                }
            }
        }
    }

    fn turn(&mut self, _caches: &Caches, _now: Now, out: &mut Outbox) {
        for _ in 0..std::mem::take(&mut self.send) {
            self.next_token += 1;
            self.open.push(self.next_token);
            out.send(self.next_token, PODS.create("ns", &json!({"metadata": {"name": "x"}})));
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

fn carry(from: &mut Conn, to: &mut Conn, max: usize, now: Time) {
    let bytes = from.poll_output();
    let bytes = bytes[..bytes.len().min(max)].to_vec();
    from.written(bytes.len());
    to.handle_input(&bytes, now).expect("sound bytes");
}

struct World {
    client: Client<Mirror>,
    server: Server,
    ends: Option<(Conn, Conn)>,
    p: Prng,
    now: Now,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            client: Client::new(Mirror::default(), seed),
            server: Server::new(),
            ends: None,
            p: Prng::new(seed),
            now: Now { mono: Time(1), wall: Wall(1) },
        }
    }

    fn connect(&mut self) {
        let limits = Limits { window_bytes: 4096, streams_max: 20, ..Limits::default() };
        let hello = Hello::default();
        let a = Conn::connect(hello.clone(), limits, self.now.mono);
        self.ends = Some((a, Conn::accept(hello, limits, self.now.mono)));
    }

    fn cut(&mut self) {
        if self.ends.take().is_some() {
            self.server.watches.clear();
            self.client.disconnected(self.now);
        }
    }

    fn step(&mut self, calm: bool) {
        self.now.mono += Duration::from_millis(1 + self.p.below(20));
        let Some((a, b)) = &mut self.ends else {
            self.client.turn(None, self.now);
            return;
        };
        let max = if calm { usize::MAX } else { 1 + self.p.below(4000) as usize };
        for _ in 0..3 {
            carry(a, b, max, self.now.mono);
            carry(b, a, max, self.now.mono);
        }
        while let Some(event) = a.poll_event() {
            if matches!(event, conn::Event::Connected(_)) {
                self.client.connected(a, self.now);
            } else {
                self.client.handle_wire(a, event, self.now);
            }
        }
        self.client.turn(Some(a), self.now);
        if b.is_open() {
            self.server.serve(b, &mut self.p);
        }
        a.handle_timeout(self.now.mono).expect("alive");
        b.handle_timeout(self.now.mono).expect("alive");
        let (in_flight, _) = self.client.pending_requests();
        assert!(in_flight <= crate::limits::IN_FLIGHT_MAX);
    }

    fn chaos(&mut self) {
        match self.p.below(40) {
            0 => self.cut(),
            1..4 if self.ends.is_none() => self.connect(),
            4 => {
                let keep = self.p.below(30);
                let before = self.server.compacted;
                self.server.compacted = before.max(self.server.revision.saturating_sub(keep));
            }
            5..20 => self.server.mutate(&mut self.p),
            20..24 => self.client.daemon.send += self.p.below(4),
            _ => {}
        }
        self.step(false);
    }

    fn check_equal(&self, seed: u64) {
        for (spec, resource) in ["pods", "nodes"].into_iter().enumerate() {
            let truth: BTreeMap<String, u64> = self
                .server
                .objects
                .iter()
                .filter(|((r, _), _)| r == resource)
                .map(|((_, n), o)| (format!("ns/{n}"), crate::caches::revision_of(o)))
                .collect();
            assert_eq!(self.client.daemon.seen[spec], truth, "seed {seed}: {resource}");
            let cached: BTreeMap<String, u64> =
                self.client.caches.list(spec).map(|(k, o)| (k.clone(), o.revision)).collect();
            assert_eq!(cached, truth, "seed {seed}: cache of {resource}");
        }
    }
}

#[test]
fn whatever_breaks_the_daemon_hears_of_every_change_and_every_answer() {
    let (mut answered, mut refused, mut deleted) = (0, 0, 0);
    for seed in 0..60 {
        let mut w = World::new(seed);
        for _ in 0..600 {
            w.chaos();
        }
        if w.ends.is_none() {
            w.connect();
        }
        w.server.calm = true;
        // Longer than the longest pause, 5 s, at 10 ms a step, and the list after it.
        for _ in 0..1200 {
            w.step(true);
        }
        w.check_equal(seed);
        let d = &w.client.daemon;
        assert!(d.synced && d.connected && d.open.is_empty(), "seed {seed}: {:?}", d.open);
        assert!(d.answered <= w.server.created);
        answered += d.answered;
        refused += d.refused;
        deleted += d.relisted_away;
    }
    // The seeds do reach what they are for.
    assert!(answered > 1000 && refused > 50 && deleted > 1000, "{answered} {refused} {deleted}");
}

#[test]
fn requests_made_without_a_connection_are_sent_when_it_comes() {
    let mut w = World::new(1);
    w.client.daemon.send = 3;
    w.step(true);
    assert_eq!(w.client.daemon.open.len(), 3);
    w.connect();
    for _ in 0..200 {
        w.step(true);
    }
    assert!(w.client.daemon.open.is_empty());
}

#[test]
fn a_request_without_an_answer_is_given_up() {
    let mut w = World::new(1);
    w.connect();
    w.step(true);
    let Some((a, _)) = &mut w.ends else { unreachable!() };
    w.client.daemon.send = 1;
    w.client.turn(Some(a), w.now);
    let at = w.client.poll_timeout().expect("a deadline");
    assert!(at - w.now.mono <= crate::limits::REQUEST_TIMEOUT);
    w.now.mono += crate::limits::REQUEST_TIMEOUT;
    w.client.turn(Some(a), w.now);
    assert_eq!((w.client.daemon.refused, w.client.daemon.open.len()), (1, 0));
}

#[test]
fn a_client_at_rest_wants_no_timer() {
    let mut w = World::new(3);
    w.connect();
    for _ in 0..50 {
        w.step(true);
    }
    let watching = |w: &World| w.server.watches.len() == 2;
    let mut steps = 0;
    while !watching(&w) || w.client.poll_timeout().is_some() {
        w.step(true);
        steps += 1;
        assert!(steps < 1000, "never at rest");
    }
}

/// Asks for a watch of one object and writes down what it hears.
#[derive(Default)]
struct Watching {
    asked: bool,
    cancel: bool,
    heard: Vec<String>,
}

impl Daemon for Watching {
    fn watches(&self) -> Vec<WatchSpec> {
        Vec::new()
    }

    fn handle(&mut self, event: Event, _caches: &Caches, _now: Now, _out: &mut Outbox) {
        if let Event::Reply { token: 7, result } = event {
            self.heard.push(match result {
                Ok(v) => format!("{} {}", v["type"], v["object"]["n"]),
                Err(e) => format!("{e:?}"),
            });
        }
    }

    fn turn(&mut self, _caches: &Caches, _now: Now, out: &mut Outbox) {
        if !self.asked {
            self.asked = true;
            out.send(7, Request::new(Verb::Watch, "", "v1", "configmaps"));
        }
        if std::mem::take(&mut self.cancel) {
            out.cancels.push(7);
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

#[test]
fn a_daemons_own_watch_has_many_answers_until_it_is_cancelled() {
    let now = Now::default();
    let hello = Hello::default;
    let mut ours = Conn::connect(hello(), Limits::default(), now.mono);
    let mut theirs = Conn::accept(hello(), Limits::default(), now.mono);
    let mut client = Client::new(Watching::default(), 1);
    let exchange = |ours: &mut Conn, theirs: &mut Conn| {
        for _ in 0..8 {
            carry(ours, theirs, usize::MAX, now.mono);
            carry(theirs, ours, usize::MAX, now.mono);
        }
    };
    exchange(&mut ours, &mut theirs);
    client.connected(&mut ours, now);
    client.turn(Some(&mut ours), now);
    exchange(&mut ours, &mut theirs);
    let mut opened = None;
    let mut cut = false;
    for round in 0..3u64 {
        while let Some(event) = theirs.poll_event() {
            match event {
                conn::Event::Opened(stream, _) => opened = Some(stream),
                conn::Event::Reset(..) => cut = true,
                _ => {}
            }
        }
        let stream = opened.expect("a stream");
        let reply = Reply::Event {
            kind: EventType::Modified,
            revision: round,
            body: json!({ "n": round }).to_string().into_bytes().into(),
        };
        let sent = theirs.send(stream, &msg::encode(&reply), &[]);
        assert_eq!(sent.is_err(), cut, "round {round}");
        exchange(&mut ours, &mut theirs);
        while let Some(event) = ours.poll_event() {
            client.handle_wire(&mut ours, event, now);
        }
        client.daemon.cancel = round == 1;
        client.turn(Some(&mut ours), now);
        exchange(&mut ours, &mut theirs);
    }
    assert_eq!(client.daemon.heard, ["\"MODIFIED\" 0", "\"MODIFIED\" 1"]);
    assert!(cut, "the stream was cut by the cancel");
    client.disconnected(now);
    assert_eq!(client.daemon.heard.len(), 2, "and nothing comes for it any more");
}
