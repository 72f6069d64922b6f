//! Leases: a time to live, and the keys that hang on it.
//!
//! Deadlines are kept in memory only: keep-alives do not wear the disk. After a restart every lease has its
//! whole time to live again, so that nothing expires because the store was away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pintle_base::Time;

use crate::index::Key;

#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) ttl_ms: u64,
    deadline: Time,
    pub(crate) keys: BTreeSet<Key>,
}

/// All leases.
#[derive(Default, Debug)]
pub struct Leases {
    leases: BTreeMap<u64, Lease>,
    deadlines: BTreeSet<(Time, u64)>,
    last_id: u64,
}

impl Leases {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// There is this lease.
    pub fn contains(&self, id: u64) -> bool {
        self.leases.contains_key(&id)
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// An id that no living lease has.
    pub fn free_id(&self) -> u64 {
        let mut id = self.last_id.wrapping_add(1).max(1);
        while self.leases.contains_key(&id) {
            id = id.wrapping_add(1).max(1);
        }
        id
    }

    /// Makes a lease; its time runs from `now`.
    pub fn grant(&mut self, id: u64, ttl_ms: u64, now: Time) {
        let deadline = now + Duration::from_millis(ttl_ms);
        self.remove(id);
        self.last_id = self.last_id.max(id);
        self.leases.insert(id, Lease { ttl_ms, deadline, keys: BTreeSet::new() });
        self.deadlines.insert((deadline, id));
    }

    /// Lets the time of a lease end at `deadline`.
    fn set_deadline(&mut self, id: u64, deadline: Time) {
        if let Some(lease) = self.leases.get_mut(&id) {
            self.deadlines.remove(&(lease.deadline, id));
            lease.deadline = deadline;
            self.deadlines.insert((deadline, id));
        }
    }

    /// Gives a lease its whole time again; its time to live, or `None` when there is no such lease.
    pub fn keep_alive(&mut self, id: u64, now: Time) -> Option<u64> {
        let ttl_ms = self.leases.get(&id)?.ttl_ms;
        self.set_deadline(id, now + Duration::from_millis(ttl_ms));
        Some(ttl_ms)
    }

    /// Tries an expired lease again later: its revocation could not be written now.
    pub fn postpone(&mut self, id: u64, until: Time) {
        self.set_deadline(id, until);
    }

    /// Ends a lease.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        self.deadlines.remove(&(lease.deadline, id));
        Some(lease)
    }

    /// Takes back an ending.
    pub(crate) fn restore(&mut self, id: u64, lease: Lease) {
        self.deadlines.insert((lease.deadline, id));
        self.leases.insert(id, lease);
    }

    /// Moves a key from one lease (0 = none) to another.
    pub fn attach(&mut self, key: &Key, from: u64, to: u64) {
        if from == to {
            return;
        }
        if let Some(lease) = self.leases.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.leases.get_mut(&to) {
            lease.keys.insert(Key::clone(key));
        }
    }

    /// The first lease whose time is over.
    pub fn expired(&self, now: Time) -> Option<u64> {
        self.deadlines.first().filter(|(t, _)| *t <= now).map(|(_, id)| *id)
    }

    /// When the next one's time is over.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(t, _)| *t)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_moves_the_deadline() {
        let mut l = Leases::default();
        l.grant(5, 10, Time(0));
        assert_eq!(l.free_id(), 6);
        assert_eq!(l.expired(Time(9_999_999)), None);
        assert_eq!(l.keep_alive(5, Time(9_000_000)), Some(10));
        assert_eq!(l.expired(Time(10_000_000)), None);
        assert_eq!(l.expired(Time(19_000_000)), Some(5));
        assert!(l.remove(5).is_some());
        assert_eq!((l.len(), l.next_deadline(), l.keep_alive(5, Time(0))), (0, None, None));
    }
}
