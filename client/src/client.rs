//! Joins a [`Daemon`] with a wire connection, sans-IO.

use crate::caches::{Caches, key_of, revision_of};
use crate::limits::{IN_FLIGHT_MAX, QUEUE_MAX, REQUEST_TIMEOUT};
use crate::reflector::{Reflector, State};
use crate::{ApiError, Daemon, Event, Object, Outbox, Token};
use pintle_base::{Now, Prng, Time, log};
use pintle_wire::conn::{self, Conn, ResetCode, SendError, StreamId};
use pintle_wire::msg;
use pintle_wire::msg::api::{EventType, Reply, Request, Verb};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Joins a [`Daemon`] with a wire connection, sans-IO: the shell (or the simulation) owns the [`conn::Conn`]
/// and its bytes; the client opens streams on it and is fed its events.
pub struct Client<D> {
    /// The daemon's core.
    pub daemon: D,
    /// What it watches.
    pub caches: Caches,
    reflectors: Vec<Reflector>,
    /// What our open streams are for.
    streams: BTreeMap<StreamId, Owner>,
    /// Requests that wait to be sent.
    queue: VecDeque<(Token, Request)>,
    /// Answers that were found without the server; handed out at the next turn.
    local: VecDeque<(Token, Result<Value, ApiError>)>,
    /// When requests were sent, oldest first.
    sent: VecDeque<(Time, StreamId)>,
    in_flight: usize,
    out: Outbox,
    connected: bool,
    told_synced: bool,
    prng: Prng,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Reflector(usize),
    Request(Token),
    /// A watch that the daemon asked for by itself: many answers, no time limit.
    Watch(Token),
}

impl<D: Daemon> Client<D> {
    /// A client that is not connected yet.
    pub fn new(daemon: D, seed: u64) -> Client<D> {
        let reflectors: Vec<Reflector> = daemon.watches().into_iter().map(Reflector::new).collect();
        Client {
            caches: Caches::new(reflectors.len()),
            daemon,
            reflectors,
            streams: BTreeMap::new(),
            queue: VecDeque::new(),
            local: VecDeque::new(),
            sent: VecDeque::new(),
            in_flight: 0,
            out: Outbox::default(),
            connected: false,
            told_synced: false,
            prng: Prng::new(seed),
        }
    }

    /// The connection's handshake is done: reflectors start (again). Those that have listed before resume their
    /// watch where it was cut.
    pub fn connected(&mut self, conn: &mut Conn, now: Now) {
        self.connected = true;
        for reflector in &mut self.reflectors {
            reflector.go_on();
        }
        self.tell(Event::Connected, now);
        self.check_synced(now);
        self.start_reflectors(conn, now);
        self.send_queued(conn, now);
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, now: Now) {
        if !self.connected {
            return;
        }
        self.connected = false;
        for reflector in &mut self.reflectors {
            reflector.interrupted();
        }
        self.in_flight = 0;
        self.sent.clear();
        let streams = std::mem::take(&mut self.streams);
        let queued = std::mem::take(&mut self.queue);
        self.tell(Event::Disconnected, now);
        let under_way = streams.into_values().filter_map(|owner| match owner {
            Owner::Request(token) | Owner::Watch(token) => Some(token),
            Owner::Reflector(_) => None,
        });
        for token in under_way.chain(queued.into_iter().map(|(token, _)| token)) {
            self.tell(Event::Reply { token, result: Err(ApiError::Disconnected) }, now);
        }
    }

    /// An event of the connection on a stream that this client opened. Gives the event back when the stream
    /// is not one of ours (a stream that the API server opened: exec, logs).
    pub fn handle_wire(
        &mut self,
        conn: &mut Conn,
        event: conn::Event,
        now: Now,
    ) -> Option<conn::Event> {
        let stream = match &event {
            conn::Event::Message(s, _)
            | conn::Event::Finished(s)
            | conn::Event::Reset(s, _)
            | conn::Event::Writable(s) => *s,
            conn::Event::Opened(..) | conn::Event::Connected(_) | conn::Event::GoAway => {
                return Some(event);
            }
        };
        if stream == 0 {
            self.start_reflectors(conn, now);
            self.send_queued(conn, now);
            return None;
        }
        let Some(owner) = self.streams.get(&stream).copied() else { return Some(event) };
        match (event, owner) {
            (conn::Event::Message(_, bytes), owner) => {
                conn.consumed(stream, bytes.len());
                match (msg::decode::<Reply>(&bytes), owner) {
                    (Ok(reply), Owner::Reflector(spec)) => {
                        self.reflect(conn, spec, stream, reply, now);
                    }
                    (Ok(reply), Owner::Watch(token)) => {
                        self.watched(conn, stream, token, reply, now);
                    }
                    (Ok(reply), Owner::Request(token)) => {
                        self.close(conn, stream);
                        self.tell(Event::Reply { token, result: outcome(reply) }, now);
                    }
                    (Err(error), owner) => {
                        log::error("reply cannot be decoded", &[("error", &error)]);
                        self.ended(conn, stream, owner, now);
                    }
                }
            }
            (conn::Event::Finished(_), owner) => self.ended(conn, stream, owner, now),
            (conn::Event::Reset(_, code), owner) => {
                self.streams.remove(&stream);
                self.cut(stream, owner, code, now);
            }
            (_, Owner::Reflector(_) | Owner::Request(_) | Owner::Watch(_)) => {}
        }
        self.start_reflectors(conn, now);
        self.send_queued(conn, now);
        None
    }

    /// Runs the daemon's `turn` and sends what it wants. Call after each batch of events and on timeouts.
    pub fn turn(&mut self, mut conn: Option<&mut Conn>, now: Now) {
        // Answers given here may be followed by new local answers; those wait for the next turn.
        for (token, result) in std::mem::take(&mut self.local) {
            self.tell(Event::Reply { token, result }, now);
        }
        if let Some(conn) = conn.as_deref_mut().filter(|_| self.connected) {
            self.expire(conn, now);
            self.start_reflectors(conn, now);
        }
        self.daemon.turn(&self.caches, now, &mut self.out);
        let cancels = std::mem::take(&mut self.out.cancels);
        for (token, request) in self.out.requests.drain(..) {
            if self.queue.len() < QUEUE_MAX {
                self.queue.push_back((token, request));
            } else {
                self.local.push_back((token, Err(ApiError::Disconnected)));
            }
        }
        self.queue.retain(|(token, _)| !cancels.contains(token));
        if let Some(conn) = conn.filter(|_| self.connected) {
            self.cancel(conn, &cancels);
            self.send_queued(conn, now);
        }
    }

    fn cancel(&mut self, conn: &mut Conn, cancels: &[Token]) {
        if cancels.is_empty() {
            return;
        }
        self.streams.retain(|stream, owner| match owner {
            Owner::Watch(token) if cancels.contains(token) => {
                conn.reset(*stream, ResetCode::Cancel);
                false
            }
            Owner::Watch(_) | Owner::Request(_) | Owner::Reflector(_) => true,
        });
    }

    /// A message on a stream of a watch that the daemon asked for.
    fn watched(&mut self, conn: &mut Conn, stream: StreamId, token: Token, reply: Reply, now: Now) {
        let result = match reply {
            Reply::Event { kind: EventType::Bookmark, .. } => return,
            Reply::Event { kind: EventType::Error, body, .. } | Reply::Object { body, .. } => {
                let (code, reason, message) = status(&body);
                Err(ApiError::Status { code, reason, message })
            }
            Reply::Event { kind, body, .. } => {
                let object: Value = serde_json::from_slice(&body).unwrap_or_default();
                Ok(serde_json::json!({"type": kind.as_str(), "object": object}))
            }
        };
        if result.is_err() {
            self.streams.remove(&stream);
            conn.reset(stream, ResetCode::Cancel);
        }
        self.tell(Event::Reply { token, result }, now);
    }

    /// When `turn` wants to be called though nothing happened.
    pub fn poll_timeout(&self) -> Option<Time> {
        let local = (!self.local.is_empty()).then_some(Time(0));
        let mut first = [local, self.daemon.poll_timeout()].into_iter().flatten().min();
        if self.connected {
            let request = self.sent.front().map(|(at, _)| *at + REQUEST_TIMEOUT);
            // Those that are due already wait for room on the connection, which is an event of its own.
            let retry = self.reflectors.iter().filter_map(Reflector::wants).filter(|t| t.0 > 0);
            first = first.into_iter().chain(request).chain(retry).min();
        }
        first
    }

    /// Requests that were sent and not answered, and those that wait to be sent.
    pub fn pending_requests(&self) -> (usize, usize) {
        (self.in_flight, self.queue.len())
    }

    fn tell(&mut self, event: Event, now: Now) {
        self.daemon.handle(event, &self.caches, now, &mut self.out);
    }

    fn check_synced(&mut self, now: Now) {
        if !self.told_synced && self.caches.synced() {
            self.told_synced = true;
            self.tell(Event::Synced, now);
        }
    }

    fn start_reflectors(&mut self, conn: &mut Conn, now: Now) {
        for (spec, reflector) in self.reflectors.iter_mut().enumerate() {
            if reflector.wants().is_none_or(|at| at > now.mono) {
                continue;
            }
            let (mut first, body) = msg::split::request(&reflector.request());
            first.extend_from_slice(&body);
            match conn.request(&first) {
                Ok(stream) => {
                    self.streams.insert(stream, Owner::Reflector(spec));
                    reflector.started(stream);
                }
                // Writable(0) comes when there is room.
                Err(SendError::Blocked) => reflector.go_on(),
                Err(SendError::Closed | SendError::TooLarge) => {
                    reflector.retry(now.mono, &mut self.prng);
                }
            }
        }
    }

    fn send_queued(&mut self, conn: &mut Conn, now: Now) {
        while self.in_flight < IN_FLIGHT_MAX
            && let Some((token, request)) = self.queue.pop_front()
        {
            let (mut first, body) = msg::split::request(&request);
            first.extend_from_slice(&body);
            match conn.request(&first) {
                Ok(stream) if request.verb == Verb::Watch => {
                    self.streams.insert(stream, Owner::Watch(token));
                }
                Ok(stream) => {
                    self.streams.insert(stream, Owner::Request(token));
                    self.sent.push_back((now.mono, stream));
                    self.in_flight += 1;
                }
                Err(SendError::Blocked) => {
                    self.queue.push_front((token, request));
                    return;
                }
                Err(SendError::TooLarge) => {
                    let message = format!("request of {} bytes is too large", first.len());
                    let reason = "RequestEntityTooLarge".into();
                    let error = ApiError::Status { code: 413, reason, message };
                    self.local.push_back((token, Err(error)));
                }
                Err(SendError::Closed) => {
                    self.local.push_back((token, Err(ApiError::Disconnected)));
                }
            }
        }
    }

    /// Our interest in a stream is over.
    fn close(&mut self, conn: &mut Conn, stream: StreamId) {
        conn.reset(stream, ResetCode::Cancel);
        if let Some(Owner::Request(_)) = self.streams.remove(&stream) {
            self.answered();
        }
    }

    /// One request less is under way.
    fn answered(&mut self) {
        self.in_flight -= 1;
        while let Some((_, stream)) = self.sent.front()
            && !self.streams.contains_key(stream)
        {
            self.sent.pop_front();
        }
    }

    /// The server said all it had to say on a stream, or said nonsense.
    fn ended(&mut self, conn: &mut Conn, stream: StreamId, owner: Owner, now: Now) {
        conn.reset(stream, ResetCode::Cancel);
        self.streams.remove(&stream);
        self.cut(stream, owner, ResetCode::Internal, now);
    }

    /// A stream has ended before its work was done.
    fn cut(&mut self, stream: StreamId, owner: Owner, code: ResetCode, now: Now) {
        match owner {
            Owner::Watch(token) => {
                self.tell(Event::Reply { token, result: Err(ApiError::Disconnected) }, now);
            }
            Owner::Request(token) => {
                self.answered();
                let result = Err(match code {
                    ResetCode::Forbidden | ResetCode::Unsupported | ResetCode::Limit => {
                        ApiError::Status {
                            code: 400,
                            reason: "BadRequest".into(),
                            message: format!("the API server cut the request off: {code:?}"),
                        }
                    }
                    _ => ApiError::Disconnected,
                });
                self.tell(Event::Reply { token, result }, now);
            }
            Owner::Reflector(spec) => {
                let Some(reflector) = self.reflectors.get_mut(spec) else { return };
                if reflector.stream() != Some(stream) {
                    return;
                }
                // A watch that delivered something resumes soon: its failures were reset then.
                reflector.retry(now.mono, &mut self.prng);
            }
        }
    }

    /// Gives up requests that were never answered.
    fn expire(&mut self, conn: &mut Conn, now: Now) {
        while let Some((at, stream)) = self.sent.front().copied()
            && at + REQUEST_TIMEOUT <= now.mono
        {
            self.sent.pop_front();
            if let Some(Owner::Request(token)) = self.streams.get(&stream).copied() {
                self.close(conn, stream);
                self.tell(Event::Reply { token, result: Err(ApiError::Disconnected) }, now);
            }
        }
    }

    /// A message on a reflector's stream.
    fn reflect(&mut self, conn: &mut Conn, spec: usize, stream: StreamId, reply: Reply, now: Now) {
        let Some(reflector) = self.reflectors.get_mut(spec) else { return };
        match (&mut reflector.state, reply) {
            (State::Listing { objects, .. }, Reply::Object { code, body, .. }) if code < 400 => {
                let objects = std::mem::take(objects);
                reflector.go_on();
                self.close(conn, stream);
                self.page(spec, objects, &body, now);
            }
            (State::Watching(_), Reply::Event { kind, revision, body }) => match kind {
                EventType::Added | EventType::Modified | EventType::Deleted => {
                    reflector.succeeded();
                    self.change(spec, kind, revision, &body, now);
                }
                EventType::Bookmark => {
                    reflector.succeeded();
                    reflector.revision = reflector.revision.max(revision);
                }
                EventType::Error => {
                    let code = status(&body).0;
                    self.refused(conn, spec, stream, code, &body, now);
                }
            },
            (_, Reply::Object { code, body, .. }) => {
                self.refused(conn, spec, stream, code, &body, now);
            }
            (_, Reply::Event { body, .. }) => self.refused(conn, spec, stream, 500, &body, now),
        }
    }

    /// A list or watch failed: 410 means that what we know is too old.
    fn refused(
        &mut self,
        conn: &mut Conn,
        spec: usize,
        stream: StreamId,
        code: u16,
        body: &[u8],
        now: Now,
    ) {
        self.close(conn, stream);
        let Some(reflector) = self.reflectors.get_mut(spec) else { return };
        let (_, reason, message) = status(body);
        if code == 410 {
            reflector.relist();
        }
        let failures = reflector.retry(now.mono, &mut self.prng);
        // The first few are normal while a server starts; then less and less is said.
        if code != 410 && failures >= 4 && failures.is_power_of_two() {
            let fields: [(&str, &dyn std::fmt::Display); 4] = [
                ("resource", &reflector.name()),
                ("reason", &reason),
                ("message", &message),
                ("failures", &failures),
            ];
            log::warn("watch refused, trying again", &fields);
        }
    }

    /// A page of a list arrived.
    fn page(&mut self, spec: usize, mut objects: BTreeMap<String, Object>, body: &[u8], now: Now) {
        let Some(reflector) = self.reflectors.get_mut(spec) else { return };
        let Ok(mut list) = serde_json::from_slice::<Value>(body) else {
            log::error("list is not JSON", &[("resource", &reflector.name())]);
            reflector.relist();
            reflector.retry(now.mono, &mut self.prng);
            return;
        };
        // Items of a list do not say what they are; the list does.
        let version = list["apiVersion"].clone();
        let kind = list["kind"].as_str().and_then(|k| k.strip_suffix("List")).map(Value::from);
        if let Value::Array(items) = list["items"].take() {
            for mut item in items {
                if let (Some(kind), Some(fields)) = (&kind, item.as_object_mut()) {
                    fields.entry("apiVersion").or_insert_with(|| version.clone());
                    fields.entry("kind").or_insert_with(|| kind.clone());
                }
                let (key, revision) = (key_of(&item), revision_of(&item));
                objects.insert(key, Object { value: Arc::new(item), revision });
            }
        }
        reflector.succeeded();
        reflector.go_on();
        let token = list["metadata"]["continue"].as_str().unwrap_or_default();
        if !token.is_empty() {
            reflector.next_page = Some((token.into(), objects));
            return;
        }
        reflector.revision = revision_of(&list).max(1);
        self.replace(spec, objects, now);
        self.caches.set_listed(spec);
        self.check_synced(now);
    }

    /// A whole list replaces the cache; the daemon hears the differences.
    fn replace(&mut self, spec: usize, objects: BTreeMap<String, Object>, now: Now) {
        for key in self.caches.missing(spec, &objects) {
            let old = self.caches.remove(spec, &key);
            self.tell(Event::Changed { spec, key, old, new: None }, now);
        }
        for (key, object) in objects {
            let known = self.caches.get(spec, &key);
            if known.is_some_and(|o| o.revision == object.revision) {
                continue;
            }
            let old = self.caches.insert(spec, key.clone(), object.clone());
            self.tell(Event::Changed { spec, key, old, new: Some(object) }, now);
        }
    }

    /// A change arrived.
    fn change(&mut self, spec: usize, kind: EventType, revision: u64, body: &[u8], now: Now) {
        let Some(reflector) = self.reflectors.get_mut(spec) else { return };
        let Ok(value) = serde_json::from_slice::<Value>(body) else {
            log::error("object is not JSON", &[("resource", &reflector.name())]);
            return;
        };
        // (An initial event of a watch may be older than what we have.)
        reflector.revision = reflector.revision.max(revision);
        let key = key_of(&value);
        if kind == EventType::Deleted {
            if let Some(old) = self.caches.remove(spec, &key) {
                self.tell(Event::Changed { spec, key, old: Some(old), new: None }, now);
            }
            return;
        }
        if self.caches.get(spec, &key).is_some_and(|o| o.revision >= revision) {
            return;
        }
        let object = Object { value: Arc::new(value), revision };
        let old = self.caches.insert(spec, key.clone(), object.clone());
        self.tell(Event::Changed { spec, key, old, new: Some(object) }, now);
    }
}

/// The answer to a request, as the daemon sees it.
fn outcome(reply: Reply) -> Result<Value, ApiError> {
    match reply {
        Reply::Object { code, body, .. } if code < 400 => {
            Ok(serde_json::from_slice(&body).unwrap_or(Value::Null))
        }
        Reply::Object { code, body, .. } => {
            let (_, reason, message) = status(&body);
            Err(ApiError::Status { code, reason, message })
        }
        Reply::Event { .. } => Err(ApiError::Status {
            code: 500,
            reason: "InternalError".into(),
            message: "the API server answered a request with a watch event".into(),
        }),
    }
}

/// Code, reason and message of a Status.
fn status(body: &[u8]) -> (u16, String, String) {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |field: &str| status[field].as_str().unwrap_or("unknown").to_owned();
    let code = status["code"].as_u64().and_then(|c| u16::try_from(c).ok()).unwrap_or(500);
    (code, text("reason"), text("message"))
}
