//! Any daemon core as a process: what `cli/src/daemons/shell.rs` does, over a simulated connection.

use crate::oracle::Shared;
use crate::process::{Outputs, Process};
use crate::world::LinkId;
use pintle_base::{Now, Time};
use pintle_client::{Client, Daemon, WatchSpec};
use pintle_wire::conn::{Conn, Event, Hello, Limits, StreamId};
use pintle_wire::msg::{self, api};
use std::collections::BTreeMap;

/// The process.
pub struct DaemonProcess<D: Daemon> {
    client: Client<D>,
    hello: Hello,
    link: Option<(LinkId, Conn)>,
    dead: Option<LinkId>,
    oracle: Shared,
    watches: Vec<WatchSpec>,
    /// Last revision on each watch stream: it never goes back.
    last: BTreeMap<StreamId, u64>,
}

impl<D: Daemon> DaemonProcess<D> {
    /// A daemon that is not connected yet.
    pub fn new(core: D, name: &str, node: &str, seed: u64, oracle: &Shared) -> DaemonProcess<D> {
        let watches = core.watches();
        DaemonProcess {
            client: Client::new(core, seed),
            hello: Hello { daemon: name.into(), node: node.into(), ..Hello::default() },
            link: None,
            dead: None,
            oracle: oracle.clone(),
            watches,
            last: BTreeMap::new(),
        }
    }

    // True = something happened.
    fn events(&mut self, now: Now) -> bool {
        let mut any = false;
        while let Some((_, conn)) = &mut self.link
            && let Some(event) = conn.poll_event()
        {
            any = true;
            if let Event::Connected(_) = event {
                self.client.connected(conn, now);
                continue;
            }
            if let Event::Message(stream, bytes) = &event {
                look(&self.oracle, &mut self.last, &self.hello.daemon, *stream, bytes);
            }
            let _ = self.client.handle_wire(conn, event, now);
        }
        any
    }

    fn gone(&mut self, now: Now) {
        self.link = None;
        self.last.clear();
        self.client.disconnected(now);
    }
}

// A watch is ordered, and shows nothing that the store has not published.
fn look(
    oracle: &Shared,
    last: &mut BTreeMap<StreamId, u64>,
    daemon: &str,
    stream: StreamId,
    bytes: &[u8],
) {
    let Ok(api::Reply::Event { kind, revision, body }) = msg::decode(bytes) else { return };
    if kind == api::EventType::Error {
        return;
    }
    let before = last.insert(stream, revision).unwrap_or(0);
    let mut oracle = oracle.borrow_mut();
    if revision < before {
        oracle.violated(format!(
            "watch of {daemon} went from revision {before} to {revision} ({kind:?})"
        ));
    }
    oracle.delivered(kind, revision, &body);
}

impl<D: Daemon> Process for DaemonProcess<D> {
    fn connected(&mut self, link: LinkId, now: Now) {
        self.link = Some((link, Conn::connect(self.hello.clone(), Limits::default(), now.mono)));
    }

    fn cut(&mut self, link: LinkId, now: Now) {
        if self.link.as_ref().is_some_and(|(l, _)| *l == link) {
            self.gone(now);
        }
    }

    fn input(&mut self, link: LinkId, bytes: &[u8], now: Now) {
        let Some((_, conn)) = self.link.as_mut().filter(|(l, _)| *l == link) else { return };
        let result = conn.handle_input(bytes, now.mono);
        self.events(now);
        if let Err(e) = result {
            self.oracle.borrow_mut().note(now, &format!("{}: {e}", self.hello.daemon));
            self.dead = Some(link);
        }
    }

    fn timeout(&mut self, now: Now) {
        if let Some((link, conn)) = &mut self.link
            && conn.handle_timeout(now.mono).is_err()
        {
            self.dead = Some(*link);
        }
    }

    fn turn(&mut self, now: Now, out: &mut Outputs) {
        if let Some(link) = self.dead.take() {
            self.gone(now);
            out.close.push(link);
        }
        loop {
            self.client.turn(self.link.as_mut().map(|(_, c)| c), now);
            if let Some((link, conn)) = &mut self.link {
                out.drain(*link, conn);
            }
            if !self.events(now) {
                return;
            }
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        let conn = self.link.as_ref().and_then(|(_, c)| c.poll_timeout());
        conn.into_iter().chain(self.client.poll_timeout()).min()
    }

    fn ready(&self) -> bool {
        self.client.caches.synced()
    }

    fn differences(&self) -> Vec<String> {
        let oracle = self.oracle.borrow();
        let mut wrong = Vec::new();
        for (spec, watch) in self.watches.iter().enumerate() {
            if !watch.field_selector.is_empty() {
                continue;
            }
            let truth = oracle.keys_of(watch.group, watch.resource);
            let known: BTreeMap<String, u64> =
                self.client.caches.list(spec).map(|(k, o)| (k.clone(), o.revision)).collect();
            if truth != known {
                let odd = truth.iter().find(|(k, r)| known.get(*k) != Some(r));
                let extra = known.keys().find(|k| !truth.contains_key(*k));
                wrong.push(format!(
                    "cache of {} differs in {}: {odd:?} {extra:?}",
                    self.hello.daemon, watch.resource
                ));
            }
        }
        wrong
    }
}
