//! What the world asks of a simulated process: the events that a reactor would give a shell, and its outputs.

use crate::world::LinkId;
use pintle_base::{Now, Prng, Time};
use pintle_wire::conn::Conn;

/// One process. It dies by being dropped; whatever must outlive it (disk, containers) it shares with the world.
pub trait Process {
    /// Somebody connected to it.
    fn accepted(&mut self, link: LinkId, who: &str, now: Now) {
        let _ = (link, who, now);
    }
    /// Its own connection to its server stands: bytes may flow.
    fn connected(&mut self, link: LinkId, now: Now) {
        let _ = (link, now);
    }
    /// A connection is gone.
    fn cut(&mut self, link: LinkId, now: Now);
    /// Bytes arrived.
    fn input(&mut self, link: LinkId, bytes: &[u8], now: Now);
    /// A piece of disk work is due.
    fn disk(&mut self, chore: bool, now: Now) {
        let _ = (chore, now);
    }
    /// Time passed.
    fn timeout(&mut self, now: Now);
    /// A batch of events was handled: act.
    fn turn(&mut self, now: Now, out: &mut Outputs);
    /// When `timeout` wants to be called.
    fn poll_timeout(&self) -> Option<Time>;
    /// It is about to be killed: what is under way may be half done.
    fn dying(&mut self, prng: &mut Prng) {
        let _ = prng;
    }
    /// It does its work.
    fn ready(&self) -> bool;
    /// Differences between what it believes and what is, after everything has settled.
    fn differences(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a process did in a turn.
#[derive(Default)]
pub struct Outputs {
    /// Bytes for connections.
    pub bytes: Vec<(LinkId, Vec<u8>)>,
    /// Connections that it closes.
    pub close: Vec<LinkId>,
    /// Disk work that it queued: commits, chores.
    pub disk: (usize, usize),
    /// It ends by itself.
    pub exit: Option<String>,
}

impl Outputs {
    /// Moves everything that a connection wants to send.
    pub fn drain(&mut self, link: LinkId, conn: &mut Conn) {
        loop {
            let bytes = conn.poll_output();
            let n = bytes.len();
            if n == 0 {
                return;
            }
            self.bytes.push((link, bytes.to_vec()));
            conn.written(n);
        }
    }
}
