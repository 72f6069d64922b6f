//! One wire connection: a daemon's requests for the core, and the streams that are opened back to its node.

use super::stream::{NodeEvent, Slot};
use super::{Config, ConnId, Front, Owner, Peer};
use crate::authn;
use crate::server::{Identity, RequestId};
use pintle_base::{Now, Time, log};
use pintle_wire::msg::{self, Body, Info, Open, api};
use pintle_wire::{Conn, Event, Hello, Limits, ResetCode, SendError, StreamId};
use std::collections::{BTreeMap, VecDeque};

/// What a stream of the peer's is.
struct Stream {
    request: RequestId,
    /// It is a watch: it has no end of its own.
    watch: bool,
    /// Messages that did not fit into the stream's credit; while there are some, the watch is paused.
    queue: VecDeque<(Vec<u8>, Body)>,
    /// Finish the stream when the queue is empty.
    ending: bool,
    /// The core was told to hold events back.
    paused: bool,
}

/// One wire connection.
pub(super) struct Link {
    pub(super) conn: Conn,
    pub(super) timer: Option<Time>,
    pub(super) dead: bool,
    /// The server is about to end.
    pub(super) draining: bool,
    /// It is on the list of connections with events.
    pub(super) queued: bool,
    peer: Peer,
    hello: Hello,
    who: Option<Identity>,
    streams: BTreeMap<StreamId, Stream>,
    /// Streams that were opened to the node, and for which client.
    pub(super) node_streams: BTreeMap<StreamId, (ConnId, Slot)>,
}

impl Link {
    pub(super) fn new(peer: Peer, config: &Config, now: Now) -> Link {
        let hello = Hello {
            daemon: "apiserver".into(),
            version: config.version.clone(),
            ..Hello::default()
        };
        Link {
            conn: Conn::accept(hello, Limits::default(), now.mono),
            timer: None,
            dead: false,
            draining: false,
            queued: false,
            peer,
            hello: Hello::default(),
            who: None,
            streams: BTreeMap::new(),
            node_streams: BTreeMap::new(),
        }
    }

    /// The connection is to be closed.
    pub(super) fn is_done(&self) -> bool {
        self.dead || (self.draining && self.streams.values().all(|s| s.watch))
    }
}

/// A reply as the two parts of a message: the envelope, and the object's bytes, which stay shared.
fn split(reply: api::Reply) -> (Vec<u8>, Body) {
    let empty = Body::from([]);
    let (bare, body) = match reply {
        api::Reply::Object { code, warnings, body } => {
            (api::Reply::Object { code, warnings, body: empty }, body)
        }
        api::Reply::Event { kind, revision, body } => {
            (api::Reply::Event { kind, revision, body: empty }, body)
        }
    };
    // The body is the last field of both: the empty one is its length, a single zero byte.
    let mut head = msg::encode(&bare);
    head.pop();
    head.extend_from_slice(&msg::encode(&(body.len() as u64)));
    (head, body)
}

impl Front {
    pub(super) fn link(&mut self, id: ConnId) -> Option<&mut Link> {
        match self.links.get_mut(&id) {
            Some(super::Link::Wire(link)) => Some(link),
            _ => None,
        }
    }

    /// Takes bytes from a daemon.
    pub(super) fn wire_input(&mut self, id: ConnId, bytes: &[u8], now: Now) {
        let Some(link) = self.link(id) else { return };
        if let Err(e) = link.conn.handle_input(bytes, now.mono) {
            log::warn(
                "wire connection refused",
                &[("peer", &link.peer.address), ("daemon", &link.hello.daemon), ("err", &e)],
            );
            link.dead = true;
        }
        self.wire_events(id, now);
    }

    /// Handles what a connection has to tell. Sending and writing give events too (`Writable`), so that this is
    /// called after everything that touches one.
    pub(super) fn wire_events(&mut self, id: ConnId, now: Now) {
        if let Some(link) = self.link(id) {
            link.queued = false;
        }
        while let Some(event) = self.link(id).and_then(|link| link.conn.poll_event()) {
            self.wire_event(id, event, now);
        }
    }

    fn wire_event(&mut self, id: ConnId, event: Event, now: Now) {
        match event {
            Event::Connected(hello) => self.wire_connected(id, hello, now),
            Event::Opened(stream, first) => self.wire_opened(id, stream, &first, now),
            Event::Reset(stream, code) => {
                if self.relay_cut((id, stream), code) {
                    return;
                }
                self.node_gone(id, stream, &format!("the node cut the stream: {code:?}"), now);
                self.wire_gone(id, stream);
            }
            Event::Writable(stream) => {
                if self.relay_writable((id, stream)) {
                    return;
                }
                self.wire_flush(id, stream);
                self.stream_writable(id, stream, now);
            }
            Event::Message(stream, bytes) => self.wire_message(id, stream, &bytes, now),
            // Of a request it means nothing: every opener sends no more.
            Event::Finished(stream) => {
                if self.relay_finished((id, stream)) {
                    return;
                }
                self.node_gone(id, stream, "the node ended the stream in the middle", now);
            }
            Event::GoAway => {}
        }
    }

    fn wire_message(&mut self, id: ConnId, stream: StreamId, bytes: &[u8], now: Now) {
        if self.relay_message((id, stream), bytes) {
            return;
        }
        let Some(link) = self.link(id) else { return };
        if !link.node_streams.contains_key(&stream) {
            // A request is one message: what else comes on its stream has no meaning.
            link.conn.consumed(stream, bytes.len());
            return;
        }
        match msg::decode::<msg::node::Frame>(bytes) {
            Ok(frame) => self.stream_node(id, stream, NodeEvent::Frame(frame), bytes.len(), now),
            Err(e) => {
                link.conn.reset(stream, ResetCode::Internal);
                self.node_gone(id, stream, &format!("the node sent what is no frame: {e}"), now);
            }
        }
    }

    fn node_gone(&mut self, id: ConnId, stream: StreamId, why: &str, now: Now) {
        self.stream_node(id, stream, NodeEvent::Gone(why.into()), 0, now);
    }

    fn wire_connected(&mut self, id: ConnId, hello: Hello, now: Now) {
        let Some(super::Link::Wire(link)) = self.links.get_mut(&id) else { return };
        let who = match link.peer.uid {
            Some(0) => authn::local_daemon(&hello.daemon, &hello.node),
            Some(_) => None,
            None => match &self.authn.authority {
                Some(authority) => authority.identify(&link.peer.chain, now.wall).ok(),
                None => None,
            },
        };
        let user = who.as_ref().map_or("nobody", |w| w.user.as_str());
        log::info(
            "daemon connected",
            &[
                ("daemon", &hello.daemon),
                ("node", &hello.node),
                ("user", &user),
                ("peer", &link.peer.address),
            ],
        );
        let node = user.strip_prefix("system:node:").map(String::from);
        link.who = who;
        if hello.daemon == "kubelet"
            && let Some(node) = node
        {
            self.nodes.insert(node, id);
        }
        link.hello = hello;
    }

    fn wire_opened(&mut self, id: ConnId, stream: StreamId, first: &[u8], now: Now) {
        let open = msg::decode::<Open>(first);
        let Some(link) = self.link(id) else { return };
        link.conn.consumed(stream, first.len());
        match open {
            Ok(Open::Api(request)) => {
                let Some(who) = link.who.clone() else {
                    link.conn.reset(stream, ResetCode::Forbidden);
                    return;
                };
                let watch = request.verb == api::Verb::Watch;
                let request_id = self.ask(Owner::Wire(id, stream));
                if let Some(link) = self.link(id) {
                    let new = Stream {
                        request: request_id,
                        watch,
                        queue: VecDeque::new(),
                        ending: false,
                        paused: false,
                    };
                    link.streams.insert(stream, new);
                }
                self.core.handle_request(request_id, &who, *request, now);
            }
            Ok(Open::Info) => {
                let info = self.info();
                if let Some(link) = self.link(id) {
                    // A fresh stream has credit for so small a message.
                    let _ = link.conn.send(stream, &msg::encode(&info), &[]);
                    link.conn.finish(stream);
                }
            }
            Ok(Open::Node(request)) => {
                let who = link.who.clone();
                self.relay_open((id, stream), who, request);
            }
            Ok(Open::Store(_)) | Err(_) => {
                link.conn.reset(stream, ResetCode::Unsupported);
            }
        }
    }

    fn info(&self) -> Info {
        let ready = self.core.ready();
        Info {
            daemon: "apiserver".into(),
            version: self.config.version.clone(),
            pid: self.config.pid,
            ready,
            detail: match (self.store_connected, ready) {
                (false, _) => "waits for the store".into(),
                (true, false) => "loads its state from the store".into(),
                (true, true) => format!(
                    "{} connections, {} requests and watches under way",
                    self.links.len(),
                    self.owners.len()
                ),
            },
        }
    }

    /// The core answered a request of this stream.
    pub(super) fn wire_reply(
        &mut self,
        id: ConnId,
        stream: StreamId,
        request: RequestId,
        reply: api::Reply,
    ) {
        let last = matches!(reply, api::Reply::Object { .. });
        if last {
            self.owners.remove(&request);
        }
        let Some(link) = self.link(id) else { return };
        let Some(s) = link.streams.get_mut(&stream) else { return };
        s.queue.push_back(split(reply));
        s.ending |= last;
        self.wire_flush(id, stream);
    }

    /// The core ended a watch of this stream.
    pub(super) fn wire_end(&mut self, id: ConnId, stream: StreamId) {
        let Some(link) = self.link(id) else { return };
        if let Some(s) = link.streams.get_mut(&stream) {
            s.ending = true;
        }
        self.wire_flush(id, stream);
    }

    // Sends what waits on a stream as far as its credit goes; pauses or resumes its watch.
    fn wire_flush(&mut self, id: ConnId, stream: StreamId) {
        let Some(link) = self.link(id) else { return };
        let Some(s) = link.streams.get_mut(&stream) else { return };
        let request = s.request;
        let mut blocked = false;
        while let Some((head, body)) = s.queue.front() {
            match link.conn.send_shared(stream, head, body) {
                Ok(()) => drop(s.queue.pop_front()),
                Err(SendError::Blocked) => {
                    blocked = true;
                    break;
                }
                Err(SendError::Closed | SendError::TooLarge) => {
                    link.conn.reset(stream, ResetCode::Limit);
                    self.wire_gone(id, stream);
                    self.touch(id);
                    return;
                }
            }
        }
        if !blocked && s.ending {
            link.streams.remove(&stream);
            link.conn.finish(stream);
        } else if blocked && !s.ending && !s.paused {
            s.paused = true;
            self.core.pause(request);
        } else if !blocked && s.paused {
            s.paused = false;
            self.core.resume(request);
        }
        self.touch(id);
    }

    // The peer lost interest in a stream.
    fn wire_gone(&mut self, id: ConnId, stream: StreamId) {
        let Some(link) = self.link(id) else { return };
        if let Some(s) = link.streams.remove(&stream) {
            self.owners.remove(&s.request);
            self.core.cancel(s.request);
        }
    }

    /// The connection is gone.
    pub(super) fn wire_closed(&mut self, id: ConnId, mut link: Link, now: Now) {
        self.nodes.retain(|_, conn| *conn != id);
        self.relay_closed(id);
        let streams = std::mem::take(&mut link.streams);
        let cut: Vec<StreamId> = link.node_streams.keys().copied().collect();
        // Back for a moment, so that its clients are found.
        self.links.insert(id, super::Link::Wire(Box::new(link)));
        for stream in cut {
            self.node_gone(id, stream, "the connection to the node is gone", now);
        }
        if let Some(super::Link::Wire(link)) = self.links.remove(&id)
            && let Some(at) = link.timer
        {
            self.timers.remove(&(at, id));
        }
        for (_, s) in streams {
            self.owners.remove(&s.request);
            self.core.cancel(s.request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_reply_is_the_same_message() {
        for n in [0usize, 1, 250, 251, 70_000] {
            let body = Body::from(vec![b'x'; n]);
            let replies = [
                api::Reply::Object { code: 200, warnings: vec!["w".into()], body: body.clone() },
                api::Reply::Event { kind: api::EventType::Modified, revision: 9, body },
            ];
            for reply in replies {
                let whole = msg::encode(&reply);
                let (head, body) = split(reply);
                assert!([&head[..], &body[..]].concat() == whole, "{n} bytes");
            }
        }
    }
}
