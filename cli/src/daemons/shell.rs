//! The shell around any [`Daemon`] core: one loop that connects, feeds the core, sends what it wants, says when it
//! is ready, and ends on SIGTERM or SIGINT.
//!
//! A daemon with nothing else to wait for is `run(core, &upstream, "scheduler")`. One with descriptors, threads or
//! streams of its own implements [`Hooks`] and calls [`run_with`] on a loop in which it has registered them.

use super::upstream::{Upstream, feed};
use pintle_base::{Now, Time, log};
use pintle_client::{Client, Daemon};
use pintle_reactor::{Event, Loop, Signal, Token, notify};
use pintle_wire::conn::{self, ResetCode};

/// What a shell does beyond feeding its core. Every method has a default that does nothing.
pub trait Hooks<D: Daemon, T> {
    /// An event that is neither the API connection's nor a signal to end.
    fn event(&mut self, l: &mut Loop<T>, client: &mut Client<D>, event: Event<T>, now: Now) {
        let _ = (l, client, event, now);
    }

    /// Something on a stream of the API connection that is not the client's: one that the API server opened (exec,
    /// logs). Without an override such a stream is refused.
    fn stream(
        &mut self,
        l: &mut Loop<T>,
        api: Token,
        client: &mut Client<D>,
        event: conn::Event,
        now: Now,
    ) {
        let _ = (client, now);
        if let conn::Event::Opened(stream, _) = event
            && let Some(conn) = l.wire(api)
        {
            conn.reset(stream, ResetCode::Unsupported);
        }
    }

    /// The connection to the API server is gone; the client knows already. Its streams are dead.
    fn disconnected(&mut self, l: &mut Loop<T>, client: &mut Client<D>, now: Now) {
        let _ = (l, client, now);
    }

    /// After each turn of the core: carry out what it wants beyond requests.
    fn turned(&mut self, l: &mut Loop<T>, client: &mut Client<D>, now: Now) -> Result<(), String> {
        let _ = (l, client, now);
        Ok(())
    }

    /// When `turned` wants to be called though nothing happened.
    fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// The daemon does its work: the supervisor is told once.
    fn ready(&self, client: &Client<D>) -> bool {
        client.caches.synced()
    }
}

/// For daemons that have only the API server to talk to.
pub struct NoHooks;

impl<D: Daemon> Hooks<D, ()> for NoHooks {}

/// Runs a core that needs nothing but the API server until it is told to end.
pub fn run(core: impl Daemon, upstream: &Upstream, name: &'static str) -> Result<(), String> {
    let mut l: Loop<()> = Loop::new().map_err(|e| format!("cannot make the event loop: {e}"))?;
    run_with(&mut l, core, upstream, name, &mut NoHooks)
}

/// Runs a core in a loop that may already have sources registered, until it is told to end or a hook fails.
pub fn run_with<D: Daemon, T>(
    l: &mut Loop<T>,
    core: D,
    upstream: &Upstream,
    name: &'static str,
    hooks: &mut impl Hooks<D, T>,
) -> Result<(), String> {
    l.signals(&[Signal::SIGTERM, Signal::SIGINT]).map_err(|e| format!("signals: {e}"))?;
    let api = upstream.connect(l, name);
    // Jitter only: nothing that others could profit from guessing.
    let seed = l.now().wall.0 as u64 ^ u64::from(std::process::id());
    let mut client = Client::new(core, seed);
    let mut ready = false;
    loop {
        let wants = [client.poll_timeout(), hooks.poll_timeout()];
        let now = l
            .poll(wants.into_iter().flatten().min())
            .map_err(|e| format!("cannot wait for events: {e}"))?;
        while let Some(event) = l.next() {
            match event {
                Event::Signal(Signal::SIGTERM | Signal::SIGINT) => {
                    log::info("told to end", &[("daemon", &name)]);
                    notify::stopping();
                    return Ok(());
                }
                Event::Wire(t, event) if t == api => {
                    let left = match l.wire(api) {
                        Some(conn) => client.handle_wire(conn, event, now),
                        // The connection went down later in this turn: `WireDown` follows.
                        None => None,
                    };
                    if let Some(event) = left {
                        hooks.stream(l, api, &mut client, event, now);
                    }
                }
                Event::WireDown(t, _) if t == api => {
                    feed(l, api, &mut client, event, now);
                    hooks.disconnected(l, &mut client, now);
                }
                event => {
                    if let Some(event) = feed(l, api, &mut client, event, now) {
                        hooks.event(l, &mut client, event, now);
                    }
                }
            }
        }
        client.turn(l.wire(api), now);
        hooks.turned(l, &mut client, now)?;
        if !ready && hooks.ready(&client) {
            ready = true;
            log::info("ready", &[("daemon", &name)]);
            notify::ready();
        }
    }
}
