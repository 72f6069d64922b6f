//! One HTTP connection's requests, from bytes to the core and back.

use super::http::{self, Head};
use super::limits::{CERTIFICATE_TIME, OUTPUT_HIGH_BYTES, OUTPUT_LOW_BYTES, REQUEST_TIME};
use super::negotiate::{self, Accepted};
use super::render::{self, Kind, Rendered};
use super::rest::{self, Target};
use super::sessions::Streaming;
use super::uri::Query;
use super::{ConnId, Front, Owner, Peer, error_code, pods};
use crate::authn::{bearer_token, impersonate};
use crate::error::Failure;
use crate::server::{Attributes, Identity, RequestId};
use pintle_base::{Now, Time, Wall, log};
use pintle_wire::msg::api;

/// What the current request of a connection is doing.
pub(super) enum Work {
    /// There is none.
    Idle,
    /// The core was asked for one answer.
    Waiting { request: RequestId, accepted: Accepted, kind: Kind, deadline: Time },
    /// The core sends events.
    Watching(Watching),
    /// Bytes go between the client and a node.
    Streaming(Box<Streaming>),
}

/// A watch under way.
pub(super) struct Watching {
    request: RequestId,
    accepted: Accepted,
    kind: Kind,
    /// The head of the answer was sent.
    begun: bool,
    /// An event was sent, and with it a table's columns.
    columns_sent: bool,
    /// The core was told to hold events back.
    paused: bool,
}

/// For the access log.
#[derive(Default)]
struct Access {
    method: String,
    uri: String,
    user: String,
    verb: &'static str,
    since: Time,
}

/// One HTTP connection.
pub(super) struct Link {
    pub(super) conn: http::Conn,
    pub(super) timer: Option<Time>,
    pub(super) work: Work,
    peer: Peer,
    /// Who the client's certificate speaks for, and until when that is believed without a look.
    known: Option<(Identity, Time)>,
    access: Access,
}

impl Link {
    pub(super) fn new(peer: Peer, now: Now) -> Link {
        Link {
            conn: http::Conn::new(now.mono),
            timer: None,
            work: Work::Idle,
            peer,
            known: None,
            access: Access::default(),
        }
    }

    /// The next request. None while much of earlier answers was not taken: pipelined requests would else cost
    /// as many answers.
    fn next_request(&mut self) -> Option<http::Request> {
        if self.conn.output_len() > OUTPUT_LOW_BYTES {
            return None;
        }
        self.conn.poll_request()
    }

    /// When something is to be done though no byte moves.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let work = match &self.work {
            Work::Waiting { deadline, .. } => Some(*deadline),
            Work::Idle | Work::Watching(_) | Work::Streaming(_) => None,
        };
        match (self.conn.poll_timeout(), work) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether bytes should be read from the client now.
    pub(super) fn wants_input(&self) -> bool {
        let blocked = match &self.work {
            Work::Streaming(s) => s.is_blocked(),
            Work::Idle | Work::Waiting { .. } | Work::Watching(_) => false,
        };
        !blocked && self.conn.wants_input()
    }
}

/// What is to be done about a request.
enum Next {
    Answer(Rendered),
    Ask(Box<Ask>),
    Stream(Box<pods::Begin>),
}

struct Ask {
    who: Identity,
    request: api::Request,
    accepted: Accepted,
    kind: Kind,
}

impl Front {
    pub(super) fn web(&mut self, id: ConnId) -> Option<&mut Link> {
        match self.links.get_mut(&id) {
            Some(super::Link::Http(link)) => Some(link),
            _ => None,
        }
    }

    /// Takes up the requests that have arrived whole.
    pub(super) fn serve_http(&mut self, id: ConnId, now: Now) {
        while let Some(request) = self.web(id).and_then(Link::next_request) {
            self.serve_one(id, request, now);
        }
        self.stream_input(id, now);
    }

    fn serve_one(&mut self, id: ConnId, mut request: http::Request, now: Now) {
        let Some(link) = self.web(id) else { return };
        link.access = Access {
            method: request.method.clone(),
            uri: match request.query.is_empty() {
                true => request.path.clone(),
                false => format!("{}?{}", request.path, request.query),
            },
            since: now.mono,
            ..Access::default()
        };
        let chain = std::mem::take(&mut link.peer.chain);
        let next = self.decide(id, &chain, &mut request, now);
        if let Some(link) = self.web(id) {
            link.peer.chain = chain;
        }
        match next {
            Ok(Next::Answer(answer)) | Err(answer) => self.answer(id, answer, now),
            Ok(Next::Ask(ask)) => self.ask_core(id, *ask, now),
            Ok(Next::Stream(begin)) => self.begin_stream(id, *begin, now),
        }
    }

    fn decide(
        &mut self,
        id: ConnId,
        chain: &[Vec<u8>],
        request: &mut http::Request,
        now: Now,
    ) -> Result<Next, Rendered> {
        let path = rest::decoded_path(&request.path)?;
        let query = Query::parse(&request.query);
        let who = self.who(id, chain, request, now)?;
        let target = Target::parse(&path);
        let verb = match &target {
            Some(t) => t.verb_for_authorization(&request.method, &query).to_string(),
            None => request.method.to_ascii_lowercase(),
        };
        let attributes = attributes(target.as_ref(), &verb, &path);
        let who = match impersonate::wanted(request)? {
            Some(wanted) => wanted.apply(&who, &attributes, &self.core)?,
            None => who,
        };
        if let Some(link) = self.web(id) {
            link.access.user.clone_from(&who.user);
        }
        let Some(target) = &target else {
            return self.special(&who, request, &path, &query, now.wall).map(Next::Answer);
        };
        if pods::is_stream(target) {
            return Ok(match self.pod_stream(&who, target, request, &query, now.wall)? {
                pods::Decision::Begin(begin) => Next::Stream(begin),
                pods::Decision::Answer(answer) => Next::Answer(answer),
            });
        }
        let Some(verb) = target.verb(&request.method, &query) else {
            self.core.authorize(&who, &attributes)?;
            return Err(self.no_such_method(target).into());
        };
        if let Some(link) = self.web(id) {
            link.access.verb = verb.as_str();
        }
        // Somebody who may not do it at all is not told what is wrong with how.
        let read = negotiate::negotiate(request.header("accept"), &query)
            .and_then(|accepted| Ok((accepted, rest::request(target, verb, request, &query)?)));
        match read {
            Ok((accepted, asked)) => {
                let kind = self.kind_of(target);
                Ok(Next::Ask(Box::new(Ask { who, request: asked, accepted, kind })))
            }
            Err(failure) => {
                self.core.authorize(&who, &attributes)?;
                Err(failure.into())
            }
        }
    }

    // A certificate is verified once in a while and not for each request of its connection.
    fn who(
        &mut self,
        id: ConnId,
        chain: &[Vec<u8>],
        request: &http::Request,
        now: Now,
    ) -> Result<Identity, Failure> {
        if let Some((who, until)) = self.web(id).and_then(|link| link.known.as_ref())
            && now.mono < *until
        {
            return Ok(who.clone());
        }
        let bearer = request.header("authorization").and_then(bearer_token);
        let found = self.authn.identify(chain, bearer, &self.core, now.wall);
        let who = found.map_err(|refused| {
            log::debug("request not authenticated", &[("reason", &refused.0)]);
            Failure::plain(401, "Unauthorized", "Unauthorized")
        })?;
        let by_certificate =
            who.extra.iter().any(|(_, v)| v.iter().any(|v| v.starts_with("X509SHA256=")));
        if by_certificate && let Some(link) = self.web(id) {
            link.known = Some((who.clone(), now.mono + CERTIFICATE_TIME));
        }
        Ok(who)
    }

    fn no_such_method(&self, target: &Target) -> Failure {
        match self.core.registry().find(&target.group, &target.version, &target.resource) {
            Some(_) => {
                let mut f = Failure::plain(
                    405,
                    "MethodNotAllowed",
                    "the server does not allow this method on the requested resource",
                );
                f.details = Some(Box::default());
                f
            }
            None => Failure::no_such_path(),
        }
    }

    fn kind_of(&self, target: &Target) -> Kind {
        let found = self.core.registry().find(&target.group, &target.version, &target.resource);
        let Some(r) = found else { return Kind::default() };
        let (group, version, kind) = match r.subresource(&target.subresource) {
            Some(s) => (&s.group, &s.version, &s.kind),
            None => (&r.group, &r.version, &r.kind),
        };
        Kind { group: group.clone(), version: version.clone(), kind: kind.clone() }
    }

    fn ask_core(&mut self, id: ConnId, ask: Ask, now: Now) {
        let request = self.ask(Owner::Http(id));
        let watch = ask.request.verb == api::Verb::Watch;
        let Some(link) = self.web(id) else { return };
        let (accepted, kind) = (ask.accepted, ask.kind);
        link.work = if watch {
            Work::Watching(Watching {
                request,
                accepted,
                kind,
                begun: false,
                columns_sent: false,
                paused: false,
            })
        } else {
            Work::Waiting { request, accepted, kind, deadline: now.mono + REQUEST_TIME }
        };
        self.core.handle_request(request, &ask.who, ask.request, now);
        if watch {
            // What the core refuses, it refuses at once; else the client wants to see that its watch stands.
            while let Some(output) = self.core.poll_output() {
                self.perform(output, now);
            }
            self.begin_watch(id, now);
        }
    }

    fn begin_watch(&mut self, id: ConnId, now: Now) {
        let Some(link) = self.web(id) else { return };
        let Work::Watching(watching) = &mut link.work else { return };
        if !watching.begun {
            watching.begun = true;
            let head = stamp(Head::new(200, watching.accepted.format.content_type()), now.wall);
            link.conn.begin(&head, now.mono);
            self.touch(id);
        }
    }

    pub(super) fn answer(&mut self, id: ConnId, answer: Rendered, now: Now) {
        let Some(link) = self.web(id) else { return };
        link.work = Work::Idle;
        let code = answer.head.code;
        link.conn.respond(&stamp(answer.head, now.wall), &answer.body, now.mono);
        self.finished(id, code, now);
    }

    /// An answer has ended: log it, and look for the next request.
    pub(super) fn finished(&mut self, id: ConnId, code: u16, now: Now) {
        let Some(link) = self.web(id) else { return };
        let access = std::mem::take(&mut link.access);
        log_access(&access, &link.peer.address, code, now);
        self.count(if access.verb.is_empty() { "path" } else { access.verb }, code);
        self.todo.push_back(id);
        self.touch(id);
    }

    /// The core answered a request of this connection.
    pub(super) fn http_reply(
        &mut self,
        id: ConnId,
        request: RequestId,
        reply: api::Reply,
        now: Now,
    ) {
        let Some(link) = self.web(id) else { return };
        match (&link.work, reply) {
            (
                Work::Waiting { request: own, accepted, kind, .. },
                api::Reply::Object { code, warnings, body },
            ) if *own == request => {
                let answer = render::reply(code, &warnings, &body, accepted, kind, now.wall);
                self.owners.remove(&request);
                self.answer(id, answer, now);
            }
            (Work::Watching(w), reply) if w.request == request => match reply {
                api::Reply::Event { kind, body, .. } => {
                    self.begin_watch(id, now);
                    self.send_event(id, kind, &body, now);
                }
                reply if !w.begun => {
                    debug_assert!(error_code(&reply) > 0, "a watch is answered by events");
                    self.owners.remove(&request);
                    self.answer(id, reply.into(), now);
                }
                api::Reply::Object { body, .. } => {
                    // Too late for a status code: the client gets it as the last event.
                    self.owners.remove(&request);
                    self.send_event(id, api::EventType::Error, &body, now);
                    self.http_end(id, now);
                }
            },
            _ => {}
        }
    }

    fn send_event(
        &mut self,
        id: ConnId,
        event: api::EventType,
        body: &pintle_wire::msg::Body,
        now: Now,
    ) {
        let Some(link) = self.web(id) else { return };
        let Work::Watching(w) = &mut link.work else { return };
        let bytes =
            render::event(event.as_str(), body, &w.accepted, &w.kind, !w.columns_sent, now.wall);
        w.columns_sent = true;
        link.conn.chunk(&bytes.head, &bytes.body, bytes.tail, now.mono);
        if link.conn.output_len() > OUTPUT_HIGH_BYTES && !w.paused {
            w.paused = true;
            let request = w.request;
            self.core.pause(request);
        }
        self.touch(id);
    }

    /// The core ended a watch of this connection.
    pub(super) fn http_end(&mut self, id: ConnId, now: Now) {
        self.begin_watch(id, now);
        let Some(link) = self.web(id) else { return };
        link.work = Work::Idle;
        link.conn.end(now.mono);
        self.finished(id, 200, now);
    }

    /// Time passed: a request that the core (or the store behind it) does not answer is given up.
    pub(super) fn http_timeout(&mut self, id: ConnId, now: Now) {
        let Some(link) = self.web(id) else { return };
        let Work::Waiting { request, deadline, .. } = &link.work else { return };
        if *deadline > now.mono {
            return;
        }
        let request = *request;
        self.owners.remove(&request);
        self.core.cancel(request);
        let text = "Timeout: request did not complete within the allotted timeout";
        let mut f = Failure::plain(504, "Timeout", text);
        f.details = Some(Box::default());
        self.answer(id, f.into(), now);
    }

    /// The client took bytes: a paused watch may go on.
    pub(super) fn after_written(&mut self, id: ConnId, now: Now) {
        let Some(link) = self.web(id) else { return };
        if link.conn.output_len() > OUTPUT_LOW_BYTES {
            return;
        }
        if matches!(link.work, Work::Streaming(_)) {
            return self.stream_drained(id, now);
        }
        self.todo.push_back(id);
        let Some(link) = self.web(id) else { return };
        if let Work::Watching(w) = &mut link.work
            && w.paused
        {
            w.paused = false;
            let request = w.request;
            self.core.resume(request);
        }
    }

    /// The client sends no more: one answer may still be on its way.
    pub(super) fn http_input_ended(&mut self, id: ConnId) {
        let Some(link) = self.web(id) else { return };
        match link.work {
            Work::Idle | Work::Waiting { .. } if link.conn.is_answering() => link.conn.drain(),
            Work::Idle | Work::Waiting { .. } | Work::Watching(_) | Work::Streaming(_) => {
                link.conn.abort();
            }
        }
    }

    /// The server is about to end: so does a watch.
    pub(super) fn http_drain(&mut self, id: ConnId, now: Now) {
        let Some(link) = self.web(id) else { return };
        let Work::Watching(watching) = &link.work else { return };
        let request = watching.request;
        self.owners.remove(&request);
        self.core.cancel(request);
        self.http_end(id, now);
    }

    /// The connection is gone.
    pub(super) fn http_closed(&mut self, link: Link) {
        match link.work {
            Work::Idle => {}
            Work::Streaming(streaming) => self.stream_closed(streaming),
            Work::Waiting { request, .. } | Work::Watching(Watching { request, .. }) => {
                self.owners.remove(&request);
                self.core.cancel(request);
            }
        }
    }
}

fn attributes<'a>(target: Option<&'a Target>, verb: &'a str, path: &'a str) -> Attributes<'a> {
    match target {
        Some(t) => Attributes {
            verb,
            group: &t.group,
            version: &t.version,
            resource: &t.resource,
            subresource: &t.subresource,
            // A namespace is asked about inside itself.
            namespace: match t.resource == "namespaces" && t.group.is_empty() {
                true => &t.name,
                false => &t.namespace,
            },
            name: &t.name,
            path: "",
        },
        None => Attributes { verb, path, ..Attributes::default() },
    }
}

// Header lines that every answer has.
pub(super) fn stamp(mut head: Head, now: Wall) -> Head {
    if !head.headers.iter().any(|(k, _)| k == "Cache-Control") {
        head.push("Cache-Control", "no-cache, private");
    }
    head.push("Date", &http_date(now));
    head
}

// RFC 9110 IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(now: Wall) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let day = DAYS[now.unix_s().div_euclid(86_400).rem_euclid(7) as usize];
    let text = now.rfc3339();
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    let month = part(5, 7).parse::<usize>().ok().and_then(|m| MONTHS.get(m.wrapping_sub(1)));
    format!(
        "{day}, {} {} {} {} GMT",
        part(8, 10),
        month.unwrap_or(&"Jan"),
        part(0, 4),
        part(11, 19)
    )
}

fn log_access(access: &Access, peer: &str, code: u16, now: Now) {
    let took_us = (now.mono - access.since).as_micros();
    log::debug(
        "request",
        &[
            ("method", &access.method),
            ("uri", &access.uri),
            ("user", &access.user),
            ("peer", &peer),
            ("code", &code),
            ("took_us", &took_us),
        ],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_http() {
        assert_eq!(http_date(Wall::from_unix_s(784_111_777)), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(Wall::from_unix_s(0)), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
