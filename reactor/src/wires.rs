//! Wire connections: a `Conn`, a transport under it, and for those that we make, the will to make them again.

use crate::addr::{Endpoint, Peer};
use crate::limits::{CONNECT_TIMEOUT, READ_BUDGET_BYTES, RECONNECT_MAX, RECONNECT_MIN};
use crate::looper::{Entry, Event, Loop, Token};
use crate::tls::{Transport, WIRE_ALPN};
use pintle_base::slab::Key;
use pintle_base::{Now, Time};
use pintle_wire::conn::{self, Conn, Hello, Limits};
use std::io;
use std::sync::Arc;

/// What is needed to connect again.
struct Dial {
    endpoint: Endpoint,
    hello: Hello,
    limits: Limits,
    /// Attempts since it last worked.
    failures: u32,
    /// When to try again.
    retry_at: Option<Time>,
}

struct Live {
    transport: Transport,
    conn: Conn,
    /// The socket is still connecting.
    connecting: bool,
    /// The wire handshake is done.
    up: bool,
    can_read: bool,
    can_write: bool,
    /// Socket and TLS must be done by then.
    connect_by: Time,
}

pub(crate) struct WireEntry {
    dial: Option<Dial>,
    live: Option<Live>,
    pub(crate) timer: Option<Time>,
}

impl WireEntry {
    pub(crate) fn readiness(&mut self, readable: bool, writable: bool) {
        if let Some(live) = &mut self.live {
            live.can_read |= readable;
            live.can_write |= writable;
        }
    }

    pub(crate) fn is_accepted(&self) -> bool {
        self.dial.is_none()
    }

    fn wants(&self) -> Option<Time> {
        match &self.live {
            Some(live) if live.connecting || live.transport.handshaking() => Some(live.connect_by),
            Some(live) => live.conn.poll_timeout(),
            None => self.dial.as_ref().and_then(|d| d.retry_at),
        }
    }
}

/// What a connection's turn gave.
struct Turn {
    events: Vec<conn::Event>,
    peer: Option<Peer>,
    more: bool,
    dead: Option<String>,
}

impl Live {
    fn new(transport: Transport, conn: Conn, connecting: bool, now: Now) -> Live {
        let connect_by = now.mono + CONNECT_TIMEOUT;
        // Level at registration is unknown: edge-triggered epoll reports it once.
        Live {
            transport,
            conn,
            connecting,
            up: false,
            can_read: false,
            can_write: false,
            connect_by,
        }
    }

    fn turn(&mut self, scratch: &mut [u8], now: Now) -> Turn {
        let mut turn = Turn { events: Vec::new(), peer: None, more: false, dead: None };
        if let Err(why) = self.step(scratch, now, &mut turn) {
            // What is left may tell the peer why.
            let _ = self.flush();
            turn.dead = Some(why);
        }
        while let Some(event) = self.conn.poll_event() {
            if matches!(event, conn::Event::Connected(_)) {
                self.up = true;
                turn.peer = Some(self.transport.peer());
            }
            turn.events.push(event);
        }
        turn
    }

    fn step(&mut self, scratch: &mut [u8], now: Now, turn: &mut Turn) -> Result<(), String> {
        if self.connecting {
            if self.can_write {
                self.connecting = !self.transport.sock.connected().map_err(text)?;
            }
            if self.connecting {
                self.can_write = false;
                return self.check_connect(now);
            }
        }
        self.read(scratch, now, turn)?;
        if self.transport.handshaking() {
            self.check_connect(now)?;
        } else if self.conn.poll_timeout().is_some_and(|at| at <= now.mono) {
            self.conn.handle_timeout(now.mono).map_err(|e| e.to_string())?;
        }
        self.flush().map_err(text)
    }

    fn check_connect(&self, now: Now) -> Result<(), String> {
        if now.mono < self.connect_by {
            return Ok(());
        }
        Err(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))
    }

    fn read(&mut self, scratch: &mut [u8], now: Now, turn: &mut Turn) -> Result<(), String> {
        let mut budget = READ_BUDGET_BYTES;
        while self.can_read {
            if budget == 0 {
                turn.more = true;
                return Ok(());
            }
            let max = scratch.len().min(budget);
            match self.transport.read(&mut scratch[..max]) {
                Ok(0) => return Err("closed by the peer".into()),
                Ok(n) => {
                    budget -= n;
                    self.conn.handle_input(&scratch[..n], now.mono).map_err(|e| e.to_string())?;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.can_read = false,
                Err(e) => return Err(text(e)),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.connecting || !self.can_write {
            return Ok(());
        }
        self.transport.flush()?;
        while self.conn.output_len() > 0 {
            match self.transport.write(self.conn.poll_output_slices()) {
                Ok(n) => self.conn.written(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.can_write = false;
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// A TLS endpoint asks for the wire protocol, unless its configuration already asks for something.
fn with_alpn(endpoint: Endpoint) -> Endpoint {
    match endpoint {
        Endpoint::Tls { addr, name, config } if config.alpn_protocols.is_empty() => {
            let mut config = (*config).clone();
            config.alpn_protocols = vec![WIRE_ALPN.to_vec()];
            Endpoint::Tls { addr, name, config: Arc::new(config) }
        }
        other => other,
    }
}

fn text(error: io::Error) -> String {
    error.to_string()
}

impl<T> Loop<T> {
    /// Connects, and connects again whenever the connection is lost, until `close(token)`.
    pub fn wire_connect(&mut self, endpoint: Endpoint, hello: Hello, limits: Limits) -> Token {
        let retry_at = Some(self.now.mono);
        let endpoint = with_alpn(endpoint);
        let dial = Dial { endpoint, hello, limits, failures: 0, retry_at };
        let entry = WireEntry { dial: Some(dial), live: None, timer: None };
        let key = self.entries.insert(Entry::Wire(Box::new(entry)));
        self.make_ready(key);
        Token(key)
    }

    /// The connection, while it is up. What is queued on it goes out at the next `poll` or `flush`.
    pub fn wire(&mut self, token: Token) -> Option<&mut Conn> {
        self.make_ready(token.0);
        match self.entries.get_mut(token.0) {
            Some(Entry::Wire(w)) => w.live.as_mut().filter(|l| l.up).map(|l| &mut l.conn),
            _ => None,
        }
    }

    /// A lost connection is tried again now instead of after its pause.
    pub fn wire_retry_now(&mut self, token: Token) {
        if let Some(Entry::Wire(w)) = self.entries.get_mut(token.0)
            && let Some(dial) = &mut w.dial
            && dial.retry_at.is_some()
        {
            dial.retry_at = Some(self.now.mono);
            self.make_ready(token.0);
        }
    }

    pub(crate) fn accept_wire(
        &mut self,
        transport: Transport,
        hello: Hello,
        limits: Limits,
    ) -> io::Result<()> {
        let conn = Conn::accept(hello, limits, self.now.mono);
        let live = Live::new(transport, conn, false, self.now);
        let entry = WireEntry { dial: None, live: Some(live), timer: None };
        let key = self.entries.insert(Entry::Wire(Box::new(entry)));
        self.accepted += 1;
        let Some(mut entry) = self.take_wire(key) else { return Ok(()) };
        if let Some(live) = &mut entry.live
            && let Err(error) = self.register(&mut live.transport, key)
        {
            self.put_wire(key, entry);
            self.remove_entry(key);
            return Err(error);
        }
        self.put_wire(key, entry);
        self.make_ready(key);
        Ok(())
    }

    // The entry is moved out while it works, so that it and the loop can be borrowed together.
    fn take_wire(&mut self, key: Key) -> Option<Box<WireEntry>> {
        let empty = WireEntry { dial: None, live: None, timer: None };
        match self.entries.get_mut(key) {
            Some(Entry::Wire(w)) => Some(std::mem::replace(w, Box::new(empty))),
            _ => None,
        }
    }

    fn put_wire(&mut self, key: Key, entry: Box<WireEntry>) {
        if let Some(Entry::Wire(w)) = self.entries.get_mut(key) {
            *w = entry;
        }
    }

    /// One turn of a wire connection.
    pub(crate) fn run_wire(&mut self, key: Key) {
        let Some(mut entry) = self.take_wire(key) else { return };
        if entry.live.is_none() {
            self.dial(key, &mut entry);
        }
        if let Some(live) = &mut entry.live {
            let turn = live.turn(&mut self.scratch, self.now);
            self.report(key, &mut entry, turn);
        }
        let gone = entry.live.is_none() && entry.dial.is_none();
        let mut timer = entry.timer;
        self.set_timer(key, &mut timer, if gone { None } else { entry.wants() });
        entry.timer = timer;
        self.put_wire(key, entry);
        if gone {
            self.remove_entry(key);
        }
    }

    fn report(&mut self, key: Key, entry: &mut WireEntry, turn: Turn) {
        let token = Token(key);
        let mut peer = turn.peer;
        for event in turn.events {
            match event {
                conn::Event::Connected(hello) => {
                    if let Some(dial) = &mut entry.dial {
                        dial.failures = 0;
                    }
                    let peer = peer.take().unwrap_or_default();
                    self.events.push_back(Event::WireUp(token, peer, hello));
                }
                event => self.events.push_back(Event::Wire(token, event)),
            }
        }
        if turn.more {
            self.make_ready(key);
        }
        if let Some(why) = turn.dead {
            self.lose(key, entry, why);
        }
    }

    /// The connection is gone: says so and plans the next attempt.
    fn lose(&mut self, key: Key, entry: &mut WireEntry, why: String) {
        let was_up = entry.live.take().is_some_and(|l| l.up);
        let Some(dial) = &mut entry.dial else {
            // One that was accepted and never said who it was has not been announced.
            if was_up {
                self.events.push_back(Event::WireDown(Token(key), why));
            }
            return;
        };
        let pause = RECONNECT_MIN * 2u32.saturating_pow(dial.failures.min(10));
        let pause = pause.min(RECONNECT_MAX);
        dial.failures += 1;
        let jitter = self.prng.below(pause.as_nanos() as u64 / 2);
        dial.retry_at = Some(self.now.mono + pause / 2 + std::time::Duration::from_nanos(jitter));
        let why = format!("{}: {why}", dial.endpoint);
        self.events.push_back(Event::WireDown(Token(key), why));
    }

    fn dial(&mut self, key: Key, entry: &mut WireEntry) {
        let Some(dial) = &mut entry.dial else { return };
        if dial.retry_at.is_none_or(|at| at > self.now.mono) {
            return;
        }
        dial.retry_at = None;
        let made = Transport::client(&dial.endpoint).and_then(|mut transport| {
            self.register(&mut transport, key)?;
            Ok(transport)
        });
        match made {
            Ok(transport) => {
                let conn = Conn::connect(dial.hello.clone(), dial.limits, self.now.mono);
                entry.live = Some(Live::new(transport, conn, true, self.now));
            }
            Err(error) => self.lose(key, entry, error.to_string()),
        }
    }
}
