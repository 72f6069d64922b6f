//! Exec, attach, logs and port-forward for clients that speak the wire protocol themselves (the `pintle` command):
//! frames pass between the client's stream and one that is opened over the node's connection, as they are.
//!
//! What one side sent is acknowledged when the other side has taken it, so a slow end costs no more than a window.

use super::{ConnId, Front};
use crate::error::Failure;
use crate::server::{Attributes, Identity};
use pintle_wire::msg::node::{Frame, Request, Target};
use pintle_wire::msg::{self, Open, api};
use pintle_wire::{ResetCode, SendError, StreamId};
use serde_json::Value;
use std::collections::VecDeque;

/// One end of a relayed stream: the connection and the stream on it.
pub(super) type End = (ConnId, StreamId);

/// What one end sends to the other.
pub(super) struct Relay {
    other: End,
    /// Messages from this end that the other has no credit for.
    queue: VecDeque<Vec<u8>>,
    /// This end sends no more.
    finished: bool,
}

fn parts(request: &mut Request) -> Option<(&mut Target, &'static str)> {
    match request {
        Request::Exec { target, .. } => Some((target, "exec")),
        Request::Attach { target, .. } => Some((target, "attach")),
        Request::Logs { target, .. } => Some((target, "log")),
        Request::PortForward { target, .. } => Some((target, "portforward")),
        Request::Get { .. } => None,
    }
}

fn failed(failure: &Failure) -> Frame {
    Frame::Failed {
        code: failure.code,
        reason: failure.reason.to_string(),
        message: failure.message.clone(),
    }
}

// The core's own refusal, a Status, as a frame.
fn refusal(reply: &api::Reply) -> Frame {
    let (code, body) = match reply {
        api::Reply::Object { code, body, .. } => (*code, body),
        api::Reply::Event { body, .. } => (500, body),
    };
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    Frame::Failed { code, reason: text("reason"), message: text("message") }
}

impl Front {
    /// A client wants something of a pod. It names the pod; uid and container are found here when it did not.
    pub(super) fn relay_open(&mut self, client: End, who: Option<Identity>, mut request: Request) {
        let Some(who) = who else { return self.relay_refuse(client, ResetCode::Forbidden) };
        let Some((target, subresource)) = parts(&mut request) else {
            return self.relay_refuse(client, ResetCode::Unsupported);
        };
        let made = self.relay_prepare(&who, target, subresource);
        let node = match made {
            Ok(node) => node,
            Err(frame) => return self.relay_failed(client, &frame),
        };
        let opened = match self.link(node) {
            Some(link) => link.conn.open(&msg::encode(&Open::Node(request))),
            None => Err(SendError::Closed),
        };
        match opened {
            Ok(stream) => {
                let far = (node, stream);
                self.relays
                    .insert(client, Relay { other: far, queue: VecDeque::new(), finished: false });
                self.relays
                    .insert(far, Relay { other: client, queue: VecDeque::new(), finished: false });
                self.touch(node);
            }
            Err(_) => {
                let text = "error dialing backend: the node takes no more streams now";
                self.relay_failed(client, &failed(&Failure::internal(text)));
            }
        }
    }

    fn relay_prepare(
        &mut self,
        who: &Identity,
        target: &mut Target,
        subresource: &str,
    ) -> Result<ConnId, Frame> {
        let verb = if subresource == "log" { "get" } else { "create" };
        let (namespace, name) = (target.namespace.clone(), target.pod.clone());
        let attributes = Attributes {
            verb,
            group: "",
            version: "v1",
            resource: "pods",
            subresource,
            namespace: &namespace,
            name: &name,
            path: "",
        };
        self.core.authorize(who, &attributes).map_err(|reply| refusal(&reply))?;
        self.pod_target(target, subresource != "portforward").map_err(|f| failed(&f))
    }

    fn relay_refuse(&mut self, client: End, code: ResetCode) {
        if let Some(link) = self.link(client.0) {
            link.conn.reset(client.1, code);
        }
        self.touch(client.0);
    }

    fn relay_failed(&mut self, client: End, frame: &Frame) {
        if let Some(link) = self.link(client.0) {
            // A fresh stream has credit for so small a message.
            let _ = link.conn.send(client.1, &msg::encode(frame), &[]);
            link.conn.finish(client.1);
        }
        self.touch(client.0);
    }

    /// A message on a relayed stream; false when it is none.
    pub(super) fn relay_message(&mut self, from: End, bytes: &[u8]) -> bool {
        let Some(relay) = self.relays.get_mut(&from) else { return false };
        relay.queue.push_back(bytes.to_vec());
        self.relay_flush(from);
        true
    }

    /// One end sends no more; false when the stream is not relayed.
    pub(super) fn relay_finished(&mut self, from: End) -> bool {
        let Some(relay) = self.relays.get_mut(&from) else { return false };
        relay.finished = true;
        self.relay_flush(from);
        true
    }

    /// One end has credit again; false when the stream is not relayed.
    pub(super) fn relay_writable(&mut self, end: End) -> bool {
        let Some(other) = self.relays.get(&end).map(|r| r.other) else { return false };
        self.relay_flush(other);
        true
    }

    /// One end was cut; false when the stream is not relayed.
    pub(super) fn relay_cut(&mut self, end: End, code: ResetCode) -> bool {
        let Some(relay) = self.relays.remove(&end) else { return false };
        self.relays.remove(&relay.other);
        if let Some(link) = self.link(relay.other.0) {
            link.conn.reset(relay.other.1, code);
        }
        self.touch(relay.other.0);
        true
    }

    /// A connection is gone: its relayed streams are cut at the other end.
    pub(super) fn relay_closed(&mut self, id: ConnId) {
        let ends: Vec<End> = self.relays.keys().filter(|(conn, _)| *conn == id).copied().collect();
        for end in ends {
            self.relay_cut(end, ResetCode::Internal);
        }
    }

    // Hands on what `from` sent as far as the other end has credit.
    fn relay_flush(&mut self, from: End) {
        let Some(mut relay) = self.relays.remove(&from) else { return };
        let (mut taken, mut gone) = (0, false);
        if let Some(link) = self.link(relay.other.0) {
            while let Some(bytes) = relay.queue.front() {
                match link.conn.send(relay.other.1, bytes, &[]) {
                    Ok(()) => {
                        taken += bytes.len();
                        relay.queue.pop_front();
                    }
                    Err(SendError::Blocked) => break,
                    Err(SendError::Closed | SendError::TooLarge) => {
                        gone = true;
                        break;
                    }
                }
            }
            if relay.finished && relay.queue.is_empty() {
                link.conn.finish(relay.other.1);
            }
        }
        if taken > 0
            && let Some(link) = self.link(from.0)
        {
            link.conn.consumed(from.1, taken);
        }
        let other = relay.other;
        let ended = relay.finished && relay.queue.is_empty();
        self.relays.insert(from, relay);
        if gone {
            self.relay_cut(from, ResetCode::Cancel);
        } else if ended && self.relays.get(&other).is_none_or(|r| r.finished && r.queue.is_empty())
        {
            self.relays.remove(&from);
            self.relays.remove(&other);
        }
        self.touch(from.0);
        self.touch(other.0);
    }
}
