//! What the application's calls do: messages become frames, now or when credit and turn allow.

use crate::conn::{Conn, Event, ResetCode, SendError, StreamId};
use crate::frame::{FLAG_FIN, FLAG_MORE, Header, Kind};
use crate::limits::{FRAME_PAYLOAD_BYTES_MAX as FRAME_PAYLOAD, PUMP_BYTES};
use crate::msg::Body;
use crate::stream::{Blocked, Pending, Stream};

/// A body that is not yet shared, or is.
enum Payload<'a> {
    Plain(&'a [u8]),
    Shared(&'a Body),
}

impl Payload<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Payload::Plain(b) => b,
            Payload::Shared(b) => b,
        }
    }
}

impl Conn {
    /// Opens a stream with its first message.
    pub fn open(&mut self, first: &[u8]) -> Result<StreamId, SendError> {
        let result = self.open_with(first, false);
        self.verify();
        result
    }

    /// Opens a stream with its only message: what `open` and `finish` do, in one frame. For requests.
    pub fn request(&mut self, only: &[u8]) -> Result<StreamId, SendError> {
        let result = self.open_with(only, true);
        self.verify();
        result
    }

    fn open_with(&mut self, first: &[u8], fin: bool) -> Result<StreamId, SendError> {
        if self.peer_going_away || self.going_away || self.next_id == 0 {
            return Err(SendError::Closed);
        }
        let Some(peer) = self.peer else {
            self.open_blocked = true;
            return Err(SendError::Blocked);
        };
        self.check_size(first.len())?;
        if self.ours_open >= peer.streams_max as usize || self.no_room(first.len()) {
            self.open_blocked = true;
            return Err(SendError::Blocked);
        }
        let id = self.next_id;
        self.next_id = id.checked_add(2).unwrap_or(0);
        self.ours_open += 1;
        let mut stream = Stream::new(self.limits.window_bytes, peer.window_bytes, false);
        stream.fin = fin;
        // The frame that opens goes out at once, so that streams begin in the order of their numbers.
        let now = first.len().min(FRAME_PAYLOAD).min(stream.credit as usize);
        stream.credit -= now as u32;
        let whole = now == first.len();
        let flags = if !whole { FLAG_MORE } else { fin_flag(fin) };
        self.out.push(&Header { len: now, kind: Kind::Open, flags, stream: id }.bytes());
        self.out.push(&first[..now]);
        stream.fin_sent = fin && whole;
        self.streams.insert(id, stream);
        if !whole {
            self.queue(id, Pending { head: Vec::new(), body: first[now..].into(), pos: 0 });
        }
        Ok(id)
    }

    /// Sends one message made of `head` followed by `body` (an envelope and a shared object body).
    pub fn send(&mut self, stream: StreamId, head: &[u8], body: &[u8]) -> Result<(), SendError> {
        let result = self.send_with(stream, head, Payload::Plain(body));
        self.verify();
        result
    }

    /// Like `send`, with a body that many streams share: it is not copied unless it is small.
    pub fn send_shared(
        &mut self,
        stream: StreamId,
        head: &[u8],
        body: &Body,
    ) -> Result<(), SendError> {
        let result = self.send_with(stream, head, Payload::Shared(body));
        self.verify();
        result
    }

    fn send_with(&mut self, id: StreamId, head: &[u8], body: Payload<'_>) -> Result<(), SendError> {
        let len = head.len() + body.bytes().len();
        self.check_size(len)?;
        let full = self.no_room(len);
        let Some(stream) = self.streams.get_mut(&id).filter(|s| !s.fin) else {
            return Err(SendError::Closed);
        };
        if stream.pending.is_some() || stream.credit == 0 {
            if stream.blocked == Blocked::Output {
                self.blocked_output.remove(&id);
            }
            stream.blocked = Blocked::Stream;
            return Err(SendError::Blocked);
        }
        if full {
            stream.blocked = Blocked::Output;
            self.blocked_output.insert(id);
            return Err(SendError::Blocked);
        }
        if stream.blocked == Blocked::Output {
            self.blocked_output.remove(&id);
        }
        stream.blocked = Blocked::No;
        if len <= FRAME_PAYLOAD && len <= stream.credit as usize {
            stream.credit -= len as u32;
            self.out.push(&Header { len, kind: Kind::Data, flags: 0, stream: id }.bytes());
            self.out.push(head);
            match body {
                Payload::Plain(b) => self.out.push(b),
                Payload::Shared(b) => self.out.push_shared(b, 0..b.len()),
            }
        } else {
            let body = match body {
                Payload::Plain(b) => b.into(),
                Payload::Shared(b) => b.clone(),
            };
            self.queue(id, Pending { head: head.to_vec(), body, pos: 0 });
        }
        Ok(())
    }

    fn check_size(&self, len: usize) -> Result<(), SendError> {
        let theirs = self.peer.map_or(usize::MAX, |p| p.message_bytes_max as usize);
        if len == 0 || len > self.limits.message_bytes_max.min(theirs) {
            return Err(SendError::TooLarge);
        }
        Ok(())
    }

    /// Neither the output nor the queue of messages that wait for credit may go over the limit; a message
    /// larger than the limit still goes when it is alone.
    fn no_room(&self, len: usize) -> bool {
        let max = self.limits.output_bytes_max;
        let waiting = if len <= FRAME_PAYLOAD {
            self.out.len()
        } else {
            self.pending_bytes.max(self.out.len())
        };
        waiting > 0 && waiting + len > max
    }

    /// Queues a message, or the rest of one, on a stream that has none.
    fn queue(&mut self, id: StreamId, pending: Pending) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        self.pending_bytes += pending.left();
        stream.pending = Some(pending);
        if stream.credit > 0 && !stream.in_round {
            stream.in_round = true;
            self.round.push_back(id);
        }
        self.pump();
    }

    /// Cuts frames from queued messages, one a stream in turn, while the output is short.
    pub(crate) fn pump(&mut self) {
        while self.out.len() < PUMP_BYTES
            && let Some(id) = self.round.pop_front()
        {
            self.cut(id);
        }
    }

    fn cut(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.in_round = false;
        let Some(p) = &mut stream.pending else { return };
        let len = p.left().min(FRAME_PAYLOAD).min(stream.credit as usize);
        let last = len == p.left();
        let flags = if !last { FLAG_MORE } else { fin_flag(stream.fin) };
        self.out.push(&Header { len, kind: Kind::Data, flags, stream: id }.bytes());
        let (from, to) = (p.pos, p.pos + len);
        let head_len = p.head.len();
        self.out.push(&p.head[from.min(head_len)..to.min(head_len)]);
        let body = from.saturating_sub(head_len)..to.saturating_sub(head_len);
        self.out.push_shared(&p.body, body);
        p.pos = to;
        stream.credit -= len as u32;
        self.pending_bytes -= len;
        if !last {
            if stream.credit > 0 {
                stream.in_round = true;
                self.round.push_back(id);
            }
            return;
        }
        stream.pending = None;
        stream.fin_sent = stream.fin;
        if stream.blocked == Blocked::Stream && stream.credit > 0 {
            stream.blocked = Blocked::No;
            self.events.push_back(Event::Writable(id));
        }
        self.close_if_done(id);
    }

    /// Says that no more will be sent on the stream.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.fin
        {
            stream.fin = true;
            if stream.blocked == Blocked::Output {
                self.blocked_output.remove(&id);
            }
            stream.blocked = Blocked::No;
            if stream.pending.is_none() {
                stream.fin_sent = true;
                self.frame(Kind::Finish, id, &[]);
                self.close_if_done(id);
            }
        }
        self.verify();
    }

    /// Cuts the stream in both directions. No event follows for it, but those that already wait still come.
    pub fn reset(&mut self, id: StreamId, code: ResetCode) {
        if self.streams.contains_key(&id) {
            self.frame(Kind::Reset, id, &(code as u32).to_le_bytes());
            self.remove(id);
        }
        self.verify();
    }

    /// A message of `bytes` bytes was dealt with: gives the peer credit for as many.
    pub fn consumed(&mut self, id: StreamId, bytes: usize) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let bytes = bytes.min(stream.unconsumed);
            stream.unconsumed -= bytes;
            self.input_bytes -= bytes;
            self.unconsumed_bytes -= bytes;
            self.replenish(id);
            self.serve_lane();
        }
        self.verify();
    }

    /// Announces that this side goes away: the peer opens no more streams; those that are open go on.
    pub fn go_away(&mut self) {
        if !self.going_away && self.peer.is_some() {
            self.going_away = true;
            self.frame(Kind::GoAway, 0, &[]);
        }
        self.verify();
    }

    /// Bytes for the peer that have not been written yet (contiguous; call again after `written`).
    pub fn poll_output(&mut self) -> &[u8] {
        self.out.front()
    }

    /// All bytes for the peer, in pieces: for a vectored write.
    pub fn poll_output_slices(&self) -> impl Iterator<Item = &[u8]> {
        self.out.slices()
    }

    /// Bytes that wait in `poll_output`.
    pub fn output_len(&self) -> usize {
        self.out.len()
    }

    /// The first `n` bytes of `poll_output` were written.
    pub fn written(&mut self, n: usize) {
        self.out.written(n);
        self.pump();
        let low = self.limits.output_bytes_max / 2;
        if self.out.len() <= low && self.pending_bytes <= low {
            for id in std::mem::take(&mut self.blocked_output) {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.blocked = Blocked::No;
                    self.events.push_back(Event::Writable(id));
                }
            }
            if self.open_blocked
                && self.peer.is_some_and(|p| self.ours_open < p.streams_max as usize)
            {
                self.open_blocked = false;
                self.events.push_back(Event::Writable(0));
            }
        }
        self.verify();
    }
}

fn fin_flag(fin: bool) -> u8 {
    if fin { FLAG_FIN } else { 0 }
}
