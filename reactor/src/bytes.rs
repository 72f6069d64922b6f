//! Byte connections: buffered both ways, bounded, with TLS or not. The HTTPS front, probes, port-forward and
//! shims use them.

use crate::addr::{Endpoint, Sock};
use crate::limits::{
    CONNECT_TIMEOUT, INPUT_BYTES_MAX, LINGER_TIMEOUT, OUTPUT_BYTES_MAX, OUTPUT_HIGH_BYTES,
    OUTPUT_LOW_BYTES, READ_BUDGET_BYTES,
};
use crate::looper::{Entry, Event, Loop, Token};
use crate::tls::Transport;
use pintle_base::slab::Key;
use pintle_base::{Now, Outbuf, Time};
use std::fmt;
use std::io;
use std::sync::Arc;

/// Why bytes were not taken for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The output holds `OUTPUT_BYTES_MAX` already: wait for `Event::Drained`.
    Full,
    /// The connection is gone or was finished.
    Closed,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WriteError::Full => "output is full: the peer does not read",
            WriteError::Closed => "the connection is closed",
        })
    }
}

impl std::error::Error for WriteError {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Accepted by this listener; announced once TLS is done.
    Accepted(Token),
    /// Made by us; announced once connected and TLS done.
    Dialed,
    /// Handed over connected.
    Adopted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Handshaking,
    Open,
    /// `finish` was called; output still waits.
    Finishing,
    /// All is written and our direction closed; waiting for the peer's.
    Lingering,
}

pub(crate) struct BytesEntry {
    transport: Transport,
    origin: Origin,
    state: State,
    can_read: bool,
    can_write: bool,
    paused: bool,
    /// The peer's direction is closed.
    ended: bool,
    input: Vec<u8>,
    /// Bytes of `input` that were consumed.
    used: usize,
    out: Outbuf,
    /// The output was high, or refused: `Drained` is owed.
    owes_drained: bool,
    /// Connecting and handshaking, or lingering, must be over by then.
    by: Option<Time>,
    pub(crate) timer: Option<Time>,
}

/// What a connection's turn gave.
#[derive(Default)]
struct Turn {
    announce: bool,
    bytes: bool,
    end: bool,
    drained: bool,
    more: bool,
    dead: Option<String>,
}

impl BytesEntry {
    fn new(transport: Transport, origin: Origin, state: State, now: Now) -> BytesEntry {
        BytesEntry {
            transport,
            origin,
            state,
            can_read: false,
            can_write: false,
            paused: false,
            ended: false,
            input: Vec::new(),
            used: 0,
            out: Outbuf::default(),
            owes_drained: false,
            by: (state != State::Open).then_some(now.mono + CONNECT_TIMEOUT),
            timer: None,
        }
    }

    pub(crate) fn readiness(&mut self, readable: bool, writable: bool) {
        self.can_read |= readable;
        self.can_write |= writable;
    }

    pub(crate) fn is_accepted(&self) -> bool {
        matches!(self.origin, Origin::Accepted(_))
    }

    fn unread(&self) -> usize {
        self.input.len() - self.used
    }

    fn turn(&mut self, scratch: &mut [u8], now: Now) -> Turn {
        let mut turn = Turn::default();
        if let Err(why) = self.step(scratch, now, &mut turn) {
            turn.dead = Some(why);
        }
        turn
    }

    fn step(&mut self, scratch: &mut [u8], now: Now, turn: &mut Turn) -> Result<(), String> {
        if self.by.is_some_and(|by| by <= now.mono) {
            return Err(match self.state {
                State::Lingering | State::Finishing => "the peer did not take the rest".into(),
                _ => format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()),
            });
        }
        if self.state == State::Connecting {
            if !self.can_write || !self.transport.sock.connected().map_err(text)? {
                self.can_write = false;
                return Ok(());
            }
            self.state = State::Handshaking;
        }
        // Write first: in a TLS handshake a client speaks first, and room made here lets input flow.
        self.flush(turn).map_err(text)?;
        self.read(scratch, turn).map_err(text)?;
        if self.state == State::Handshaking && !self.transport.handshaking() {
            self.state = State::Open;
            self.by = None;
            turn.announce = true;
        }
        self.flush(turn).map_err(text)?;
        if self.state == State::Finishing && self.out.is_empty() && self.flushed().map_err(text)? {
            self.transport.close_write();
            self.state = State::Lingering;
        }
        if self.state == State::Lingering && self.ended {
            return Err("finished".into());
        }
        Ok(())
    }

    fn flushed(&mut self) -> io::Result<bool> {
        self.transport.flush()
    }

    fn read(&mut self, scratch: &mut [u8], turn: &mut Turn) -> io::Result<()> {
        let mut budget = READ_BUDGET_BYTES;
        let discard = matches!(self.state, State::Finishing | State::Lingering);
        while self.can_read && !self.ended && (discard || !self.paused) {
            if budget == 0 {
                turn.more = true;
                return Ok(());
            }
            let room = if discard { scratch.len() } else { INPUT_BYTES_MAX - self.unread() };
            let max = scratch.len().min(budget).min(room);
            if max == 0 {
                // `consume` makes room and wakes us.
                return Ok(());
            }
            match self.transport.read(&mut scratch[..max]) {
                Ok(0) => {
                    if self.state == State::Handshaking {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.ended = true;
                    turn.end = !discard;
                }
                Ok(n) => {
                    budget -= n;
                    if !discard {
                        self.keep(&scratch[..n]);
                        turn.bytes = true;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.can_read = false,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.used == self.input.len() {
            self.input.clear();
            self.used = 0;
        } else if self.used > INPUT_BYTES_MAX / 2 {
            self.input.drain(..self.used);
            self.used = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    fn flush(&mut self, turn: &mut Turn) -> io::Result<()> {
        if !self.can_write {
            return Ok(());
        }
        self.transport.flush()?;
        if self.state == State::Handshaking {
            return Ok(());
        }
        while !self.out.is_empty() {
            match self.transport.write(self.out.slices()) {
                Ok(n) => self.out.written(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.can_write = false;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        if self.owes_drained && self.out.len() <= OUTPUT_LOW_BYTES {
            self.owes_drained = false;
            turn.drained = self.state == State::Open;
        }
        Ok(())
    }

    fn after_write(&mut self) {
        self.owes_drained |= self.out.len() > OUTPUT_HIGH_BYTES;
    }

    fn may_write(&mut self) -> Result<(), WriteError> {
        if matches!(self.state, State::Finishing | State::Lingering) {
            return Err(WriteError::Closed);
        }
        if self.out.len() >= OUTPUT_BYTES_MAX {
            self.owes_drained = true;
            return Err(WriteError::Full);
        }
        Ok(())
    }
}

fn text(error: io::Error) -> String {
    error.to_string()
}

impl<T> Loop<T> {
    /// Makes a byte connection, once: `Event::Connected` or `Event::Closed` follows. Output written before that
    /// waits.
    pub fn connect(&mut self, endpoint: &Endpoint) -> io::Result<Token> {
        let transport = Transport::client(endpoint)?;
        self.add_bytes(transport, Origin::Dialed, State::Connecting)
    }

    /// Takes over a connected unix stream (one end of a pair, a shim's socket).
    pub fn adopt(&mut self, stream: std::os::unix::net::UnixStream) -> io::Result<Token> {
        stream.set_nonblocking(true)?;
        let sock = Sock::Unix(mio::net::UnixStream::from_std(stream));
        self.add_bytes(Transport::new(sock, None), Origin::Adopted, State::Open)
    }

    /// Takes over a connected TCP stream.
    pub fn adopt_tcp(&mut self, stream: std::net::TcpStream) -> io::Result<Token> {
        stream.set_nonblocking(true)?;
        let sock = Sock::Tcp(mio::net::TcpStream::from_std(stream));
        self.add_bytes(Transport::new(sock, None), Origin::Adopted, State::Open)
    }

    pub(crate) fn accept_bytes(&mut self, transport: Transport, listener: Token) -> io::Result<()> {
        self.add_bytes(transport, Origin::Accepted(listener), State::Handshaking).map(drop)
    }

    fn add_bytes(
        &mut self,
        transport: Transport,
        origin: Origin,
        state: State,
    ) -> io::Result<Token> {
        let entry = BytesEntry::new(transport, origin, state, self.now);
        let accepted = entry.is_accepted();
        let key = self.entries.insert(Entry::Bytes(Box::new(entry)));
        let both = mio::Interest::READABLE | mio::Interest::WRITABLE;
        let id = mio::Token(key.to_u64() as usize);
        if let Some(Entry::Bytes(b)) = self.entries.get_mut(key)
            && let Err(error) = self.poll.registry().register(b.transport.sock.source(), id, both)
        {
            self.entries.remove(key);
            return Err(error);
        }
        self.accepted += usize::from(accepted);
        self.make_ready(key);
        Ok(Token(key))
    }

    fn bytes(&self, token: Token) -> Option<&BytesEntry> {
        match self.entries.get(token.0) {
            Some(Entry::Bytes(b)) => Some(b),
            _ => None,
        }
    }

    fn bytes_mut(&mut self, token: Token) -> Option<&mut BytesEntry> {
        match self.entries.get_mut(token.0) {
            Some(Entry::Bytes(b)) => Some(b),
            _ => None,
        }
    }

    /// Input that has arrived and was not consumed; empty for a connection that is gone.
    pub fn input(&self, token: Token) -> &[u8] {
        self.bytes(token).map_or(&[], |b| &b.input[b.used..])
    }

    /// The first `n` bytes of the input were dealt with.
    pub fn consume(&mut self, token: Token, n: usize) {
        let Some(b) = self.bytes_mut(token) else { return };
        b.used += n.min(b.unread());
        if b.used == b.input.len() {
            b.input.clear();
            b.used = 0;
            // A connection that idles holds no large buffer.
            b.input.shrink_to(4096);
        }
        if b.can_read {
            self.make_ready(token.0);
        }
    }

    /// Stops reading (the kernel's buffer fills and the peer waits) or goes on.
    pub fn pause(&mut self, token: Token, paused: bool) {
        let Some(b) = self.bytes_mut(token) else { return };
        b.paused = paused;
        if !paused {
            self.make_ready(token.0);
        }
    }

    /// Queues bytes. All are taken, or none.
    pub fn write(&mut self, token: Token, bytes: &[u8]) -> Result<(), WriteError> {
        let b = self.bytes_mut(token).ok_or(WriteError::Closed)?;
        b.may_write()?;
        b.out.push(bytes);
        b.after_write();
        self.make_ready(token.0);
        Ok(())
    }

    /// Queues a body that many connections share, without copying it when it is large.
    pub fn write_shared(&mut self, token: Token, body: &Arc<[u8]>) -> Result<(), WriteError> {
        let b = self.bytes_mut(token).ok_or(WriteError::Closed)?;
        b.may_write()?;
        b.out.push_shared(body, 0..body.len());
        b.after_write();
        self.make_ready(token.0);
        Ok(())
    }

    /// Bytes that wait to be written.
    pub fn output_len(&self, token: Token) -> usize {
        self.bytes(token).map_or(0, |b| b.out.len())
    }

    /// Writes the rest, then closes our direction; input is dropped from now on. `Event::Closed` comes when the
    /// peer has closed too, or did not in time.
    pub fn finish(&mut self, token: Token) {
        self.finish_by(token);
        self.make_ready(token.0);
    }

    fn finish_by(&mut self, token: Token) {
        let by = self.now.mono + LINGER_TIMEOUT;
        if let Some(b) = self.bytes_mut(token)
            && !matches!(b.state, State::Finishing | State::Lingering)
        {
            b.state = State::Finishing;
            b.by = Some(by);
            b.input = Vec::new();
            b.used = 0;
        }
    }

    /// One turn of a byte connection.
    pub(crate) fn run_bytes(&mut self, key: Key) {
        let Some(Entry::Bytes(b)) = self.entries.get_mut(key) else { return };
        let turn = b.turn(&mut self.scratch, self.now);
        let token = Token(key);
        if turn.announce {
            match b.origin {
                Origin::Accepted(listener) => {
                    let peer = b.transport.peer();
                    self.events.push_back(Event::Accepted { listener, conn: token, peer });
                }
                Origin::Dialed => self.events.push_back(Event::Connected(token)),
                Origin::Adopted => {}
            }
        }
        let announced = !matches!(b.state, State::Connecting | State::Handshaking);
        let (by, mut timer, accepted) = (b.by, b.timer, b.is_accepted());
        for (happened, event) in [
            (turn.bytes, Event::Bytes(token)),
            (turn.drained, Event::Drained(token)),
            (turn.end, Event::End(token)),
        ] {
            if happened {
                self.events.push_back(event);
            }
        }
        if let Some(why) = turn.dead {
            // One that was accepted and never got through TLS has not been announced.
            if announced || !accepted {
                self.events.push_back(Event::Closed(token, why));
            }
            self.remove_entry(key);
            return;
        }
        if turn.more {
            self.make_ready(key);
        }
        self.set_timer(key, &mut timer, by);
        if let Some(Entry::Bytes(b)) = self.entries.get_mut(key) {
            b.timer = timer;
        }
    }
}
