//! What the peer's bytes do: frames are cut out, checked against the state, and carried out.

use crate::conn::{Conn, Error, Event, ResetCode, Side, StreamId};
use crate::frame::{FLAG_FIN, FLAG_MORE, HEADER_BYTES, Header, Kind};
use crate::limits::CREDIT_BYTES_MAX;
use crate::stream::{Blocked, Stream};

impl Conn {
    pub(crate) fn receive(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            match self.reader.frame {
                None => {
                    let want = HEADER_BYTES - self.reader.header_len;
                    let (now, rest) = bytes.split_at(want.min(bytes.len()));
                    let at = self.reader.header_len;
                    self.reader.header[at..at + now.len()].copy_from_slice(now);
                    self.reader.header_len += now.len();
                    bytes = rest;
                    if self.reader.header_len == HEADER_BYTES {
                        self.reader.header_len = 0;
                        let header = Header::parse(&self.reader.header)?;
                        self.begin(header)?;
                        self.reader.frame = Some((header, header.len));
                        if header.len == 0 {
                            self.end(header)?;
                        }
                    }
                }
                Some((header, left)) => {
                    let (now, rest) = bytes.split_at(left.min(bytes.len()));
                    bytes = rest;
                    self.take(header, now);
                    self.reader.frame = Some((header, left - now.len()));
                    if left == now.len() {
                        self.end(header)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A header arrived: everything that can be wrong is found out before its payload is kept.
    fn begin(&mut self, header: Header) -> Result<(), Error> {
        let expected_first = match self.side {
            Side::Connector => Kind::Welcome,
            Side::Acceptor => Kind::Hello,
        };
        if (self.peer.is_none()) != (header.kind == expected_first) {
            return Err(Error::Protocol(format!("{:?} frame at the wrong time", header.kind)));
        }
        match header.kind {
            Kind::Open => self.begin_open(header),
            Kind::Data => self.begin_data(header),
            Kind::Hello | Kind::Welcome if header.kind == expected_first => Ok(()),
            Kind::Hello | Kind::Welcome => {
                Err(Error::Protocol(format!("{:?} frame from the wrong side", header.kind)))
            }
            Kind::Finish | Kind::Reset | Kind::Credit => self.check_known(header),
            Kind::Ping | Kind::Pong | Kind::GoAway => Ok(()),
        }
    }

    /// A stream that is or once was open; frames of a stream that we have cut may still be under way.
    fn check_known(&self, header: Header) -> Result<(), Error> {
        let id = header.stream;
        let opened = if self.is_ours(id) {
            self.next_id == 0 || id < self.next_id
        } else {
            id <= self.peer_highest
        };
        if opened {
            return Ok(());
        }
        Err(Error::Protocol(format!(
            "{:?} frame on stream {id}, which was never opened",
            header.kind
        )))
    }

    fn begin_open(&mut self, header: Header) -> Result<(), Error> {
        let id = header.stream;
        if self.is_ours(id) || id <= self.peer_highest {
            return Err(Error::Protocol(format!(
                "peer opens stream {id}, its last was {}",
                self.peer_highest
            )));
        }
        if self.theirs_open >= self.limits.streams_max {
            return Err(Error::Protocol(format!(
                "peer opens stream {id} with {} open, limit {}",
                self.theirs_open, self.limits.streams_max
            )));
        }
        let credit = self.peer.map_or(0, |p| p.window_bytes);
        self.peer_highest = id;
        self.theirs_open += 1;
        self.streams.insert(id, Stream::new(self.limits.window_bytes, credit, true));
        self.begin_data(header)
    }

    fn begin_data(&mut self, header: Header) -> Result<(), Error> {
        self.check_known(header)?;
        let id = header.stream;
        let Some(stream) = self.streams.get_mut(&id) else {
            self.reader.wanted = false;
            return Ok(());
        };
        if stream.remote_done {
            return Err(Error::Protocol(format!("data on stream {id} after its finish")));
        }
        let len = header.len as u32;
        if len > stream.recv_window {
            return Err(Error::Protocol(format!(
                "frame of {len} bytes on stream {id}, credit left {}",
                stream.recv_window
            )));
        }
        stream.recv_window -= len;
        let message = stream.partial.len() + header.len;
        self.reader.wanted = message <= self.limits.message_bytes_max
            && self.input_bytes + header.len <= self.limits.input_bytes_max;
        if !self.reader.wanted {
            // Not the connection's death: others use it too. The peer learns why this stream ended.
            let opening = stream.opening;
            self.frame(Kind::Reset, id, &(ResetCode::Limit as u32).to_le_bytes());
            self.remove(id);
            if !opening {
                self.events.push_back(Event::Reset(id, ResetCode::Limit));
            }
        }
        Ok(())
    }

    /// Payload bytes of the current frame.
    fn take(&mut self, header: Header, bytes: &[u8]) {
        match header.kind {
            Kind::Open | Kind::Data => {
                if self.reader.wanted
                    && let Some(stream) = self.streams.get_mut(&header.stream)
                {
                    if stream.partial.capacity() == 0 {
                        stream.partial.reserve_exact(header.len);
                    }
                    stream.partial.extend_from_slice(bytes);
                    self.input_bytes += bytes.len();
                }
            }
            _ => self.reader.control.extend_from_slice(bytes),
        }
    }

    /// The frame is whole.
    fn end(&mut self, header: Header) -> Result<(), Error> {
        self.reader.frame = None;
        let control = std::mem::take(&mut self.reader.control);
        let id = header.stream;
        match header.kind {
            Kind::Hello | Kind::Welcome => self.handle_hello(&control)?,
            Kind::Open | Kind::Data => self.end_data(header),
            Kind::Finish => {
                if let Some(stream) = self.streams.get(&id)
                    && (stream.remote_done || !stream.partial.is_empty())
                {
                    return Err(Error::Protocol(format!(
                        "finish on stream {id} twice or within a message"
                    )));
                }
                self.end_remote(id);
            }
            Kind::Reset => {
                // A stream whose first message never became whole was never announced.
                if let Some(opening) = self.streams.get(&id).map(|s| s.opening) {
                    self.remove(id);
                    if !opening {
                        let code = ResetCode::from_u32(u32_of(&control));
                        self.events.push_back(Event::Reset(id, code));
                    }
                }
            }
            Kind::Credit => self.handle_credit(id, u32_of(&control))?,
            Kind::Ping => self.frame(Kind::Pong, 0, &control),
            Kind::Pong => {}
            Kind::GoAway => {
                if !self.peer_going_away {
                    self.peer_going_away = true;
                    self.events.push_back(Event::GoAway);
                }
            }
        }
        // Keeps the small buffer for the next control frame.
        self.reader.control = control;
        self.reader.control.clear();
        Ok(())
    }

    fn end_data(&mut self, header: Header) {
        let id = header.stream;
        let Some(stream) = self.streams.get_mut(&id).filter(|_| self.reader.wanted) else { return };
        if header.flags & FLAG_MORE == 0 {
            let message = std::mem::take(&mut stream.partial);
            let was_in_lane = std::mem::take(&mut stream.in_lane);
            if stream.opening {
                stream.opening = false;
                self.input_bytes -= message.len();
                self.events.push_back(Event::Opened(id, message));
            } else {
                stream.unconsumed += message.len();
                self.unconsumed_bytes += message.len();
                self.events.push_back(Event::Message(id, message));
            }
            if was_in_lane {
                self.leave_lane(id);
            }
        }
        if header.flags & FLAG_FIN != 0 {
            self.end_remote(id);
        } else {
            self.replenish(id);
        }
    }

    /// The peer sends no more on the stream.
    fn end_remote(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.remote_done = true;
        self.events.push_back(Event::Finished(id));
        self.close_if_done(id);
    }

    fn handle_credit(&mut self, id: StreamId, bytes: u32) -> Result<(), Error> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let credit = u64::from(stream.credit) + u64::from(bytes);
        if bytes == 0 || credit > CREDIT_BYTES_MAX {
            return Err(Error::Protocol(format!(
                "credit of {bytes} bytes on stream {id} that has {}",
                stream.credit
            )));
        }
        stream.credit = credit as u32;
        if stream.pending.is_some() {
            if !stream.in_round {
                stream.in_round = true;
                self.round.push_back(id);
            }
            self.pump();
        } else if stream.blocked == Blocked::Stream {
            stream.blocked = Blocked::No;
            self.events.push_back(Event::Writable(id));
        }
        Ok(())
    }

    /// Gives the peer credit on a stream when there is enough to be worth a frame.
    pub(crate) fn replenish(&mut self, id: StreamId) {
        let window = self.limits.window_bytes;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.in_lane && stream.starved() {
            stream.in_lane = true;
            self.lane.push_back(id);
        }
        // Its turn, unless the application has so much in hand that a large message had better wait. (What it has
        // in hand it will deal with; bytes of other unfinished messages could wait for this one for ever.)
        let alone = self.lane.front() == Some(&id)
            && self.unconsumed_bytes <= self.limits.input_bytes_max / 4;
        let grant = stream.grant(window, alone);
        if grant > 0 {
            stream.recv_window += grant;
            self.frame(Kind::Credit, id, &grant.to_le_bytes());
        }
    }

    /// Something happened that may let the first stream in the lane go on.
    pub(crate) fn serve_lane(&mut self) {
        if let Some(first) = self.lane.front().copied() {
            self.replenish(first);
        }
    }

    /// The stream's large message is complete, or the stream is gone: the next one has its turn.
    pub(crate) fn leave_lane(&mut self, id: StreamId) {
        let was_first = self.lane.front() == Some(&id);
        self.lane.retain(|s| *s != id);
        if was_first {
            self.serve_lane();
        }
    }
}

fn u32_of(payload: &[u8]) -> u32 {
    // The header's rule fixed the length to four.
    payload.try_into().map_or(0, u32::from_le_bytes)
}
