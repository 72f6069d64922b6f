//! Streaming requests under way: between a client's connection and the streams opened over its node's connection,
//! with flow control end to end.
//!
//! Towards the client: what a node sends is acknowledged (and so may be followed by more) only while the
//! client's output is low. Towards the node: what has no credit waits here, and while more than a little waits
//! nothing is read from the client.

use super::limits::{NODE_QUEUE_BYTES_MAX, OUTPUT_HIGH_BYTES, OUTPUT_LOW_BYTES};
use super::pods::{Begin, FIRST_SLOT, Start, refused};
use super::render::Rendered;
use super::stream::{Act, Io, NodeEvent, Session, Slot};
use super::web::Work;
use super::{ConnId, Front, web};
use crate::error::Failure;
use pintle_base::Now;
use pintle_wire::msg::node::{Frame, Request};
use pintle_wire::msg::{self, Body, Open};
use pintle_wire::{ResetCode, SendError, StreamId};
use std::collections::{BTreeMap, VecDeque};

/// A streaming request under way.
pub(super) struct Streaming {
    session: Session,
    /// How the answer begins, until it has.
    start: Option<Start>,
    node: ConnId,
    slots: BTreeMap<Slot, NodeStream>,
}

struct NodeStream {
    stream: StreamId,
    /// Frames without credit.
    queue: VecDeque<Frame>,
    queued_bytes: usize,
    /// Bytes of messages that were taken and not acknowledged.
    owed_bytes: usize,
}

impl Streaming {
    /// So much waits for the node that nothing should be read from the client.
    pub(super) fn is_blocked(&self) -> bool {
        self.slots.values().any(|s| s.queued_bytes > NODE_QUEUE_BYTES_MAX)
    }
}

fn size_of(frame: &Frame) -> usize {
    match frame {
        Frame::Data { bytes, .. } => bytes.len() + 8,
        _ => 8,
    }
}

/// The last frame that a node sends on a stream.
fn is_last(event: &NodeEvent) -> bool {
    match event {
        NodeEvent::Gone(_)
        | NodeEvent::Frame(Frame::Exit { .. } | Frame::End | Frame::Failed { .. }) => true,
        NodeEvent::Frame(
            Frame::Accepted
            | Frame::Data { .. }
            | Frame::CloseChannel { .. }
            | Frame::Resize { .. },
        ) => false,
    }
}

impl Front {
    /// Begins what was decided.
    pub(super) fn begin_stream(&mut self, id: ConnId, begin: Begin, now: Now) {
        let Begin { node, session, start, open } = begin;
        let mut streaming = Streaming { session, start: Some(start), node, slots: BTreeMap::new() };
        let waits = open.is_some();
        if let Some(request) = open
            && let Err(why) = self.open_slot(id, &mut streaming, FIRST_SLOT, request)
        {
            let f = Failure::internal(format!("error dialing backend: {why}"));
            return self.answer(id, Rendered::from(f), now);
        }
        if !waits {
            self.start_answer(id, &mut streaming, now);
        }
        if let Some(link) = self.web(id) {
            link.work = Work::Streaming(Box::new(streaming));
        }
    }

    fn open_slot(
        &mut self,
        id: ConnId,
        streaming: &mut Streaming,
        slot: Slot,
        request: Request,
    ) -> Result<(), String> {
        let node = streaming.node;
        let Some(link) = self.link(node) else {
            return Err("the node's connection is gone".into());
        };
        let stream = match link.conn.open(&msg::encode(&Open::Node(request))) {
            Ok(stream) => stream,
            Err(SendError::Blocked) => return Err("the node takes no more streams now".into()),
            Err(SendError::Closed) => return Err("the node is going away".into()),
            Err(SendError::TooLarge) => return Err("the request is too large".into()),
        };
        link.node_streams.insert(stream, (id, slot));
        let new = NodeStream { stream, queue: VecDeque::new(), queued_bytes: 0, owed_bytes: 0 };
        streaming.slots.insert(slot, new);
        self.touch(node);
        Ok(())
    }

    // Sends the head of the answer.
    fn start_answer(&mut self, id: ConnId, streaming: &mut Streaming, now: Now) {
        let Some(start) = streaming.start.take() else { return };
        let Some(link) = self.web(id) else { return };
        match start {
            Start::Upgrade(headers) => {
                let headers: Vec<(&str, &str)> =
                    headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
                link.conn.upgrade(&headers, now.mono);
            }
            Start::Chunked(head) => link.conn.begin(&web::stamp(head, now.wall), now.mono),
        }
        let mut io = Io::default();
        streaming.session.begun(&mut io);
        self.perform_io(id, streaming, io, now);
    }

    /// Bytes may have arrived on an upgraded connection.
    pub(super) fn stream_input(&mut self, id: ConnId, now: Now) {
        let Some(mut streaming) = self.take_streaming(id) else { return };
        let mut over = false;
        while !over && !streaming.is_blocked() {
            let bytes = self.web(id).map(|link| link.conn.take_raw()).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            let mut io = Io::default();
            streaming.session.client(&bytes, &mut io);
            over = self.perform_io(id, &mut streaming, io, now);
        }
        self.put_streaming(id, streaming, over, now);
    }

    /// Something happened on a node stream that was opened for a client.
    pub(super) fn stream_node(
        &mut self,
        node: ConnId,
        stream: StreamId,
        event: NodeEvent,
        bytes: usize,
        now: Now,
    ) {
        let last = is_last(&event);
        let Some(link) = self.link(node) else { return };
        let Some((id, slot)) = link.node_streams.get(&stream).copied() else { return };
        if last {
            link.node_streams.remove(&stream);
            link.conn.consumed(stream, bytes);
            link.conn.finish(stream);
            self.touch(node);
        }
        let Some(mut streaming) = self.take_streaming(id) else { return };
        if last {
            streaming.slots.remove(&slot);
        } else if let Some(s) = streaming.slots.get_mut(&slot) {
            s.owed_bytes += bytes;
        }
        if streaming.start.is_some() {
            if event != NodeEvent::Frame(Frame::Accepted) {
                self.abandon(&mut streaming);
                return self.answer(id, refused(&event), now);
            }
            self.start_answer(id, &mut streaming, now);
        }
        let mut io = Io::default();
        streaming.session.node(slot, event, &mut io);
        let over = self.perform_io(id, &mut streaming, io, now);
        self.acknowledge(id, &mut streaming);
        self.put_streaming(id, streaming, over, now);
    }

    /// A node stream has credit again.
    pub(super) fn stream_writable(&mut self, node: ConnId, stream: StreamId, now: Now) {
        let Some(link) = self.link(node) else { return };
        let Some((id, slot)) = link.node_streams.get(&stream).copied() else { return };
        let Some(mut streaming) = self.take_streaming(id) else { return };
        self.flush_slot(&mut streaming, slot);
        self.put_streaming(id, streaming, false, now);
        self.todo.push_back(id);
    }

    /// The client took bytes: the nodes may send more.
    pub(super) fn stream_drained(&mut self, id: ConnId, now: Now) {
        let Some(mut streaming) = self.take_streaming(id) else { return };
        self.acknowledge(id, &mut streaming);
        self.put_streaming(id, streaming, false, now);
    }

    fn take_streaming(&mut self, id: ConnId) -> Option<Box<Streaming>> {
        let link = self.web(id)?;
        match std::mem::replace(&mut link.work, Work::Idle) {
            Work::Streaming(streaming) => Some(streaming),
            other => {
                link.work = other;
                None
            }
        }
    }

    fn put_streaming(&mut self, id: ConnId, mut streaming: Box<Streaming>, over: bool, now: Now) {
        if over {
            self.abandon(&mut streaming);
            if let Some(link) = self.web(id) {
                link.conn.end_raw();
                link.conn.end(now.mono);
            }
            self.finished(id, 200, now);
        } else if let Some(link) = self.web(id) {
            link.work = Work::Streaming(streaming);
        }
        self.touch(id);
    }

    // Carries out what a session wants. Gives whether it is over.
    fn perform_io(&mut self, id: ConnId, streaming: &mut Streaming, io: Io, now: Now) -> bool {
        if let Some(link) = self.web(id)
            && !io.out.is_empty()
        {
            if link.conn.is_raw() {
                link.conn.write_raw(&io.out, now.mono);
            } else {
                link.conn.chunk(&io.out, &Body::from([]), &[], now.mono);
            }
        }
        let mut over = false;
        for act in io.acts {
            match act {
                Act::Open(slot, request) => {
                    if let Err(why) = self.open_slot(id, streaming, slot, request) {
                        let mut io = Io::default();
                        streaming.session.node(slot, NodeEvent::Gone(why), &mut io);
                        over |= self.perform_io(id, streaming, io, now);
                    }
                }
                Act::Send(slot, frame) => {
                    if let Some(s) = streaming.slots.get_mut(&slot) {
                        s.queued_bytes += size_of(&frame);
                        s.queue.push_back(frame);
                        self.flush_slot(streaming, slot);
                    }
                }
                Act::Cut(slot) => self.cut_slot(streaming, slot),
                Act::End => over = true,
            }
        }
        over
    }

    fn flush_slot(&mut self, streaming: &mut Streaming, slot: Slot) {
        let node = streaming.node;
        let Some(s) = streaming.slots.get_mut(&slot) else { return };
        let Some(link) = self.link(node) else { return };
        while let Some(frame) = s.queue.front() {
            match link.conn.send(s.stream, &msg::encode(frame), &[]) {
                Ok(()) => {
                    s.queued_bytes -= size_of(frame);
                    s.queue.pop_front();
                }
                Err(SendError::Blocked) => break,
                // The node has ended the stream; its last frame or its reset is on the way.
                Err(SendError::Closed | SendError::TooLarge) => {
                    s.queue.clear();
                    s.queued_bytes = 0;
                }
            }
        }
        self.touch(node);
    }

    fn cut_slot(&mut self, streaming: &mut Streaming, slot: Slot) {
        let Some(s) = streaming.slots.remove(&slot) else { return };
        if let Some(link) = self.link(streaming.node) {
            link.node_streams.remove(&s.stream);
            link.conn.reset(s.stream, ResetCode::Cancel);
            self.touch(streaming.node);
        }
    }

    // Nobody is interested in what is left.
    fn abandon(&mut self, streaming: &mut Streaming) {
        let left: Vec<Slot> = streaming.slots.keys().copied().collect();
        for slot in left {
            self.cut_slot(streaming, slot);
        }
    }

    /// The client's connection is gone.
    pub(super) fn stream_closed(&mut self, mut streaming: Box<Streaming>) {
        self.abandon(&mut streaming);
    }

    // Gives the nodes credit for what the client's output has room for.
    fn acknowledge(&mut self, id: ConnId, streaming: &mut Streaming) {
        let waiting = self.web(id).map_or(0, |link| link.conn.output_len());
        let limit = match streaming.slots.values().any(|s| s.owed_bytes > OUTPUT_HIGH_BYTES) {
            true => OUTPUT_LOW_BYTES,
            false => OUTPUT_HIGH_BYTES,
        };
        if waiting > limit {
            return;
        }
        let node = streaming.node;
        let Some(link) = self.link(node) else { return };
        for s in streaming.slots.values_mut().filter(|s| s.owed_bytes > 0) {
            link.conn.consumed(s.stream, s.owed_bytes);
            s.owed_bytes = 0;
        }
        self.touch(node);
    }
}
