//! The loop itself: poll, read the clock once, drain what is ready within a budget, queue events.

use crate::addr::{Listen, Listener, Peer};
use crate::bytes::BytesEntry;
use crate::clock::RealClock;
use crate::limits::{ACCEPT_BUDGET, ACCEPT_RETRY, ACCEPTED_MAX, SLOW_TURN};
use crate::sources::{ChildEntry, Exit, FdEntry, is_waker};
use crate::tls::Transport;
use crate::wires::WireEntry;
use mio::unix::SourceFd;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use pintle_base::slab::{Key, Slab};
use pintle_base::{Clock, Now, Prng, Time, log};
use pintle_wire::conn::{self, Hello, Limits};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

/// What was registered, until it is closed. Never used again for anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub(crate) Key);

/// What happened.
#[derive(Debug)]
pub enum Event<T> {
    /// A wire connection's handshake is done: who it is by socket and TLS, and who it says it is.
    WireUp(Token, Peer, Hello),
    /// Something on a wire connection. (`conn::Event::Connected` comes as `WireUp`.)
    Wire(Token, conn::Event),
    /// A wire connection is gone, or could not be made (then without a `WireUp` before); the text says why. One
    /// that we connected is tried again; one that was accepted is closed.
    WireDown(Token, String),
    /// A listener has a new byte connection, TLS handshake done.
    Accepted {
        /// The listener.
        listener: Token,
        /// The connection.
        conn: Token,
        /// Who it is.
        peer: Peer,
    },
    /// A byte connection that we made is there, TLS handshake done.
    Connected(Token),
    /// A byte connection has new input: see `input`.
    Bytes(Token),
    /// The peer of a byte connection sends no more; it may still read.
    End(Token),
    /// A byte connection that had much to write has little left.
    Drained(Token),
    /// A byte connection is gone (or could not be made); the text says why.
    Closed(Token, String),
    /// A watched descriptor is ready.
    Fd {
        /// The descriptor's.
        token: Token,
        /// Something to read, an error, or the other end hung up.
        readable: bool,
        /// Room to write, or an error.
        writable: bool,
    },
    /// A signal came.
    Signal(Signal),
    /// A watched process (pid) has ended. Its token is dead.
    Child(Token, u32, Exit),
    /// A thread posted this.
    Posted(T),
    /// The deadline given to `poll` has passed.
    Timer,
}

impl<T> Event<T> {
    fn token(&self) -> Option<Token> {
        match self {
            Event::WireUp(t, ..)
            | Event::Wire(t, _)
            | Event::WireDown(t, _)
            | Event::Accepted { conn: t, .. }
            | Event::Connected(t)
            | Event::Bytes(t)
            | Event::End(t)
            | Event::Drained(t)
            | Event::Closed(t, _)
            | Event::Fd { token: t, .. }
            | Event::Child(t, ..) => Some(*t),
            Event::Signal(_) | Event::Posted(_) | Event::Timer => None,
        }
    }
}

pub(crate) enum Entry {
    WireListener(Listener, Box<(Hello, Limits)>),
    Listener(Listener),
    Wire(Box<WireEntry>),
    Bytes(Box<BytesEntry>),
    Fd(FdEntry),
    Child(ChildEntry),
    Signals(SignalFd),
}

pub(crate) const WAKER: mio::Token = mio::Token(usize::MAX);

/// The loop; see the crate's documentation.
pub struct Loop<T = ()> {
    pub(crate) poll: mio::Poll,
    polled: mio::Events,
    pub(crate) entries: Slab<Entry>,
    pub(crate) events: VecDeque<Event<T>>,
    /// Entries with something to do at the next turn, each once.
    ready: BTreeSet<Key>,
    timers: BTreeSet<(Time, Key)>,
    /// Watched descriptors to arm again.
    pub(crate) fired: Vec<Key>,
    pub(crate) accepted: usize,
    pub(crate) posted: Receiver<T>,
    pub(crate) sender: Sender<T>,
    pub(crate) waker: Arc<mio::Waker>,
    pub(crate) now: Now,
    pub(crate) prng: Prng,
    /// Where reads go first.
    pub(crate) scratch: Vec<u8>,
}

impl<T> Loop<T> {
    /// An empty loop. Fails when the process has no descriptors left.
    pub fn new() -> io::Result<Loop<T>> {
        let poll = mio::Poll::new()?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKER)?);
        let (sender, posted) = std::sync::mpsc::channel();
        let now = RealClock.now();
        log::set_wall(now.wall);
        let seed = now.wall.0 as u64 ^ u64::from(std::process::id()).rotate_left(40);
        Ok(Loop {
            poll,
            polled: mio::Events::with_capacity(1024),
            entries: Slab::default(),
            events: VecDeque::new(),
            ready: BTreeSet::new(),
            timers: BTreeSet::new(),
            fired: Vec::new(),
            accepted: 0,
            posted,
            sender,
            waker,
            now,
            prng: Prng::new(seed),
            scratch: vec![0; 64 << 10],
        })
    }

    /// The time of this turn.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Writes what there is to write, waits until something happens or `deadline` passes, and gives the time
    /// of the turn. Returns at once while events are left that `next` has not given out.
    pub fn poll(&mut self, deadline: Option<Time>) -> io::Result<Now> {
        self.note_slow_turn();
        self.rearm();
        self.run_ready();
        let timeout = self.timeout(deadline);
        match self.poll.poll(&mut self.polled, timeout) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            _ => {}
        }
        self.now = RealClock.now();
        log::set_wall(self.now.wall);
        self.take_polled();
        self.run_timers();
        self.run_ready();
        if deadline.is_some_and(|d| d <= self.now.mono) {
            self.events.push_back(Event::Timer);
        }
        Ok(self.now)
    }

    /// The next event of this turn.
    #[expect(clippy::should_implement_trait, reason = "the loop is needed between two events")]
    pub fn next(&mut self) -> Option<Event<T>> {
        self.events.pop_front()
    }

    /// Writes what there is to write without waiting. `poll` does it too; this is for the last words.
    pub fn flush(&mut self) {
        self.run_ready();
    }

    /// Nothing that was accepted, connected or listening under this token exists any more afterwards; what it
    /// had to write and was not written is lost (see `finish`). No event comes for it.
    pub fn close(&mut self, token: Token) {
        self.remove_entry(token.0);
        self.events.retain(|e| e.token() != Some(token));
    }

    /// Address that a TCP listener got (for port 0).
    pub fn local_addr(&self, token: Token) -> Option<SocketAddr> {
        match self.entries.get(token.0)? {
            Entry::Listener(l) | Entry::WireListener(l, _) => l.local_addr(),
            _ => None,
        }
    }

    /// Accepts byte connections: `Event::Accepted`.
    pub fn listen(&mut self, listen: &Listen) -> io::Result<Token> {
        let listener = Listener::bind(listen)?;
        self.add_listener(Entry::Listener(listener))
    }

    /// Accepts wire connections: `Event::WireUp`, `Wire`, `WireDown`.
    pub fn wire_listen(
        &mut self,
        listen: &Listen,
        hello: Hello,
        limits: Limits,
    ) -> io::Result<Token> {
        let listener = Listener::bind(listen)?;
        self.add_listener(Entry::WireListener(listener, Box::new((hello, limits))))
    }

    fn add_listener(&mut self, entry: Entry) -> io::Result<Token> {
        let key = self.entries.insert(entry);
        let id = mio::Token(key.to_u64() as usize);
        if let Some(Entry::Listener(l) | Entry::WireListener(l, _)) = self.entries.get_mut(key) {
            let readable = mio::Interest::READABLE;
            if let Err(error) = self.poll.registry().register(l.source(), id, readable) {
                self.entries.remove(key);
                return Err(error);
            }
        }
        Ok(Token(key))
    }

    /// Registers a connection's socket for both directions, once.
    pub(crate) fn register(&mut self, transport: &mut Transport, key: Key) -> io::Result<()> {
        let both = mio::Interest::READABLE | mio::Interest::WRITABLE;
        let id = mio::Token(key.to_u64() as usize);
        self.poll.registry().register(transport.sock.source(), id, both)
    }

    /// The entry has something to do before the next wait.
    pub(crate) fn make_ready(&mut self, key: Key) {
        self.ready.insert(key);
    }

    /// Replaces an entry's timer; `old` is what it had.
    pub(crate) fn set_timer(&mut self, key: Key, old: &mut Option<Time>, at: Option<Time>) {
        if *old == at {
            return;
        }
        if let Some(time) = *old {
            self.timers.remove(&(time, key));
        }
        if let Some(time) = at {
            self.timers.insert((time, key));
        }
        *old = at;
    }

    /// Whoever turns slowly makes everybody wait who is on this thread.
    fn note_slow_turn(&self) {
        let took = RealClock.now_mono().saturating_since(self.now.mono);
        if took >= SLOW_TURN {
            log::warn("slow turn", &[("took_ms", &took.as_millis())]);
        }
    }

    fn timeout(&self, deadline: Option<Time>) -> Option<Duration> {
        if !self.events.is_empty() || !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let first = self.timers.first().map(|(at, _)| *at);
        let at = match (first, deadline) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        // The turn before may have taken long: this reads the clock for the wait, not for the turn.
        Some(at.saturating_since(RealClock.now().mono))
    }

    fn take_polled(&mut self) {
        let polled = std::mem::replace(&mut self.polled, mio::Events::with_capacity(0));
        for event in polled.iter() {
            if is_waker(event.token()) {
                self.take_posted();
                continue;
            }
            let key = Key::from_u64(event.token().0 as u64);
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            let writable = event.is_writable() || event.is_write_closed() || event.is_error();
            let Some(entry) = self.entries.get_mut(key) else { continue };
            match entry {
                Entry::Wire(w) => w.readiness(readable, writable),
                Entry::Bytes(b) => b.readiness(readable, writable),
                Entry::Fd(fd) => {
                    if !fd.fired {
                        fd.fired = true;
                        self.fired.push(key);
                        self.events.push_back(Event::Fd { token: Token(key), readable, writable });
                    }
                    continue;
                }
                Entry::Child(_) => {
                    self.handle_child(Token(key));
                    continue;
                }
                Entry::Signals(_) => {
                    self.handle_signals(Token(key));
                    continue;
                }
                Entry::Listener(_) | Entry::WireListener(..) => {}
            }
            self.make_ready(key);
        }
        self.polled = polled;
    }

    fn run_timers(&mut self) {
        while let Some((at, key)) = self.timers.first().copied()
            && at <= self.now.mono
        {
            self.timers.remove(&(at, key));
            match self.entries.get_mut(key) {
                Some(Entry::Wire(w)) => w.timer = None,
                Some(Entry::Bytes(b)) => b.timer = None,
                Some(_) => {}
                None => continue,
            }
            self.make_ready(key);
        }
    }

    /// Lets each ready entry do its work once; those that have more are ready again.
    fn run_ready(&mut self) {
        for key in std::mem::take(&mut self.ready) {
            match self.entries.get(key) {
                Some(Entry::Wire(_)) => self.run_wire(key),
                Some(Entry::Bytes(_)) => self.run_bytes(key),
                Some(Entry::Listener(_) | Entry::WireListener(..)) => self.run_listener(key),
                Some(Entry::Fd(_) | Entry::Child(_) | Entry::Signals(_)) | None => {}
            }
        }
    }

    fn run_listener(&mut self, key: Key) {
        for _ in 0..ACCEPT_BUDGET {
            if self.accepted >= ACCEPTED_MAX {
                // Somebody must go first; `remove_entry` wakes the listeners.
                return;
            }
            let (result, wire) = match self.entries.get(key) {
                Some(Entry::Listener(l)) => (l.accept(), None),
                Some(Entry::WireListener(l, how)) => (l.accept(), Some((**how).clone())),
                _ => return,
            };
            let (sock, config) = match result {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) =>
                {
                    continue;
                }
                Err(error) => {
                    log::warn("accept failed, trying again soon", &[("error", &error)]);
                    self.timers.insert((self.now.mono + ACCEPT_RETRY, key));
                    return;
                }
            };
            let added = Transport::server(sock, config).and_then(|transport| match wire {
                Some((hello, limits)) => self.accept_wire(transport, hello, limits),
                None => self.accept_bytes(transport, Token(key)),
            });
            if let Err(error) = added {
                log::warn("cannot take an accepted connection", &[("error", &error)]);
            }
        }
        self.make_ready(key);
    }

    /// Forgets an entry: its descriptor is closed, its timer and readiness are gone.
    pub(crate) fn remove_entry(&mut self, key: Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.ready.remove(&key);
        let registry = self.poll.registry();
        let (timer, accepted) = match entry {
            Entry::Wire(w) => (w.timer, w.is_accepted()),
            Entry::Bytes(b) => (b.timer, b.is_accepted()),
            Entry::Fd(fd) => {
                // The caller still has the descriptor; if it closed it first, it is gone from epoll already.
                let _ = registry.deregister(&mut SourceFd(&fd.fd));
                (None, false)
            }
            Entry::Child(c) => {
                let _ = registry.deregister(&mut SourceFd(&c.pidfd.as_raw_fd()));
                (None, false)
            }
            Entry::Signals(s) => {
                let _ = registry.deregister(&mut SourceFd(&s.as_raw_fd()));
                (None, false)
            }
            Entry::Listener(_) | Entry::WireListener(..) => {
                self.timers.retain(|(_, k)| *k != key);
                (None, false)
            }
        };
        if let Some(at) = timer {
            self.timers.remove(&(at, key));
        }
        if accepted {
            self.accepted -= 1;
            if self.accepted + 1 == ACCEPTED_MAX {
                let is_listener =
                    |e: &Entry| matches!(e, Entry::Listener(_) | Entry::WireListener(..));
                let all: Vec<Key> =
                    self.entries.iter().filter(|(_, e)| is_listener(e)).map(|(k, _)| k).collect();
                self.ready.extend(all);
            }
        }
    }
}
