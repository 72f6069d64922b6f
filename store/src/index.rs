//! The multi-version index: which key had which version at which revision, and where its value lies.
//!
//! Keys, revisions and places live here; values do not (those of volatile writes excepted, which have no
//! other place). Nothing here does I/O. Invariants: the versions of a key ascend by revision; `changes` is
//! sorted by revision and names every change above the compacted revision.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use pintle_wire::msg::Body;

/// A key, shared between the tree and the list of changes.
pub type Key = Arc<[u8]>;

/// Where a value lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Segment of the log; 0 = not in the log, `offset` is then a slot of [`MemoryValues`].
    pub segment: u32,
    /// Byte in the segment.
    pub offset: u32,
}

/// One version of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Revision of the put or delete.
    pub mod_revision: u64,
    /// Revision in which the key came to be; 0 in a tombstone.
    pub create_revision: u64,
    /// Lease or 0.
    pub lease: u64,
    /// Where the value lies.
    pub place: Place,
    /// Puts since creation (saturating); 0 in a tombstone.
    pub version: u32,
    /// Length of the value.
    pub len: u32,
    /// Checksum of the value, when it lies in the log.
    pub crc: u32,
    /// The key's newer values may be in memory only.
    pub volatile: bool,
}

impl Version {
    /// A delete at `revision`.
    pub fn tombstone(revision: u64) -> Version {
        Version { mod_revision: revision, ..Version::default() }
    }

    /// The key did not exist after this.
    pub fn deleted(&self) -> bool {
        self.version == 0
    }

    /// The value is in no log.
    pub fn in_memory(&self) -> bool {
        !self.deleted() && self.place.segment == 0
    }
}

/// Bytes of memory and disk that a version costs beyond its value: what history limits count.
const VERSION_COST_BYTES: u64 = 64;

fn cost(key: &[u8], v: &Version) -> u64 {
    VERSION_COST_BYTES + key.len() as u64 + u64::from(v.len)
}

#[derive(Debug)]
struct Entry {
    head: Version,
    /// Ascending, all before `head`.
    older: Vec<Version>,
}

impl Entry {
    fn iter(&self) -> impl DoubleEndedIterator<Item = &Version> {
        self.older.iter().chain(std::iter::once(&self.head))
    }

    fn at(&self, revision: u64) -> Option<&Version> {
        self.iter().rev().find(|v| v.mod_revision <= revision)
    }
}

/// What has become of a value in the log; see [`Index::fate`].
pub enum Fate {
    /// Nothing needs it.
    Gone,
    /// It is the key's value now.
    Live(Key, Version),
    /// It is readable at older revisions; it was overwritten or deleted at this revision.
    History(u64),
    /// The key's newest value is in memory only: after a crash this one, or a later one in the log, shows.
    Shadowed(Key),
}

/// One change, in the list that watches read.
#[derive(Clone, Debug)]
pub struct Change {
    /// Revision.
    pub revision: u64,
    /// Key that was put or deleted.
    pub key: Key,
}

type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// A key or a range of keys, in etcd's notation of `range_end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    key: Vec<u8>,
    end: Vec<u8>,
}

impl Span {
    /// `end` empty = the key alone; `[0]` = all keys from `key` on; else `key..end`.
    pub fn new(key: Vec<u8>, end: Vec<u8>) -> Span {
        Span { key, end }
    }

    /// The key lies in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self.end.as_slice() {
            [] => key == self.key,
            [0] => key >= self.key.as_slice(),
            end => key >= self.key.as_slice() && key < end,
        }
    }

    fn bounds(&self) -> Option<Bounds<'_>> {
        let from = Bound::Included(self.key.as_slice());
        match self.end.as_slice() {
            [] => Some((from, Bound::Included(self.key.as_slice()))),
            [0] => Some((from, Bound::Unbounded)),
            end if end > self.key.as_slice() => Some((from, Bound::Excluded(end))),
            _ => None,
        }
    }
}

/// The index.
#[derive(Default, Debug)]
pub struct Index {
    keys: BTreeMap<Key, Entry>,
    changes: VecDeque<Change>,
    live: u64,
    key_bytes: u64,
    live_bytes: u64,
    history_bytes: u64,
    versions: u64,
}

impl Index {
    /// Live keys.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// What the live keys and values cost.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// What history costs: overwritten values and tombstones.
    pub fn history_bytes(&self) -> u64 {
        self.history_bytes
    }

    /// Changes that are kept.
    pub fn changes_len(&self) -> usize {
        self.changes.len()
    }

    /// Estimated bytes of memory.
    pub fn memory_bytes(&self) -> u64 {
        // A tree slot is a key pointer and an entry, two thirds full; a shared key has two counts.
        let slot = (size_of::<Key>() + size_of::<Entry>()) as u64 * 3 / 2;
        self.keys.len() as u64 * (slot + 32)
            + self.key_bytes
            + (self.versions - self.keys.len() as u64) * size_of::<Version>() as u64
            + self.changes.len() as u64 * size_of::<Change>() as u64
    }

    /// The newest version of a key, if it exists now.
    pub fn latest(&self, key: &[u8]) -> Option<&Version> {
        self.keys.get(key).map(|e| &e.head).filter(|v| !v.deleted())
    }

    /// The version of a key that was current at `revision`, if it existed then.
    #[cfg(test)]
    pub fn at(&self, key: &[u8], revision: u64) -> Option<&Version> {
        self.keys.get(key).and_then(|e| e.at(revision)).filter(|v| !v.deleted())
    }

    /// Exactly the version made at `revision` (a tombstone too) and the one before it.
    pub fn change(&self, key: &[u8], revision: u64) -> Option<(&Version, Option<&Version>)> {
        let entry = self.keys.get(key)?;
        let mut before = None;
        for v in entry.iter() {
            if v.mod_revision == revision {
                return Some((v, before.filter(|b: &&Version| !b.deleted())));
            }
            before = Some(v);
        }
        None
    }

    /// The keys of a span that existed at `revision`, in order.
    pub fn range(&self, span: &Span, revision: u64) -> impl Iterator<Item = (&Key, &Version)> {
        span.bounds()
            .into_iter()
            .flat_map(|bounds| self.keys.range::<[u8], _>(bounds))
            .filter_map(move |(k, e)| e.at(revision).filter(|v| !v.deleted()).map(|v| (k, v)))
    }

    /// Adds the newest version of a key and lists the change. Answers the shared key and the version that
    /// was live before.
    pub fn push(&mut self, key: &[u8], v: Version) -> (Key, Option<Version>) {
        let (key, before) = self.insert_newest(key, v);
        self.changes.push_back(Change { revision: v.mod_revision, key: Arc::clone(&key) });
        (key, before)
    }

    fn insert_newest(&mut self, key: &[u8], v: Version) -> (Key, Option<Version>) {
        self.versions += 1;
        if v.deleted() {
            self.history_bytes += cost(key, &v);
        } else {
            self.live += 1;
            self.live_bytes += cost(key, &v);
        }
        let Some((shared, _)) = self.keys.get_key_value(key) else {
            let shared: Key = key.into();
            self.key_bytes += key.len() as u64;
            self.keys.insert(Arc::clone(&shared), Entry { head: v, older: Vec::new() });
            return (shared, None);
        };
        let shared = Arc::clone(shared);
        let mut before = None;
        if let Some(entry) = self.keys.get_mut(key) {
            let old = std::mem::replace(&mut entry.head, v);
            if entry.older.is_empty() {
                entry.older.reserve_exact(1);
            }
            entry.older.push(old);
            if !old.deleted() {
                self.live -= 1;
                self.live_bytes -= cost(key, &old);
                self.history_bytes += cost(key, &old);
                before = Some(old);
            }
        }
        (shared, before)
    }

    /// Takes back the newest change, if it is above `revision`: its key, the version that goes and the one
    /// that is live again.
    pub fn undo(&mut self, revision: u64) -> Option<(Key, Version, Option<Version>)> {
        if self.changes.back().is_none_or(|c| c.revision <= revision) {
            return None;
        }
        let change = self.changes.pop_back()?;
        let entry = self.keys.get_mut(&change.key)?;
        let gone = entry.head;
        self.versions -= 1;
        if gone.deleted() {
            self.history_bytes -= cost(&change.key, &gone);
        } else {
            self.live -= 1;
            self.live_bytes -= cost(&change.key, &gone);
        }
        let mut again = None;
        match entry.older.pop() {
            None => {
                self.key_bytes -= change.key.len() as u64;
                self.keys.remove(&change.key);
            }
            Some(old) => {
                entry.head = old;
                if !old.deleted() {
                    self.live += 1;
                    self.live_bytes += cost(&change.key, &old);
                    self.history_bytes -= cost(&change.key, &old);
                    again = Some(old);
                }
            }
        }
        Some((change.key, gone, again))
    }

    /// What has become of the value that was put at `revision` and lies at `place`.
    pub fn fate(&self, key: &[u8], revision: u64, place: Place) -> Fate {
        let Some((shared, entry)) = self.keys.get_key_value(key) else { return Fate::Gone };
        let is_it = |v: &Version| v.mod_revision == revision && v.place == place && !v.deleted();
        if is_it(&entry.head) {
            return Fate::Live(Arc::clone(shared), entry.head);
        }
        match entry.older.iter().position(is_it) {
            Some(at) => Fate::History(entry.older.get(at + 1).unwrap_or(&entry.head).mod_revision),
            None if entry.head.in_memory() => Fate::Shadowed(Arc::clone(shared)),
            None => Fate::Gone,
        }
    }

    /// Says where the value of the version made at `revision` lies.
    pub fn set_place(&mut self, key: &[u8], revision: u64, place: Place) {
        if let Some(entry) = self.keys.get_mut(key) {
            if entry.head.mod_revision == revision {
                entry.head.place = place;
            } else if let Some(v) = entry.older.iter_mut().find(|v| v.mod_revision == revision) {
                v.place = place;
            }
        }
    }

    /// Recovery met a relocated put: it takes the place of the version that it repeats, or, when the segment
    /// that held that one is gone, becomes it.
    pub fn relocate(&mut self, key: &[u8], v: Version) {
        let Some(entry) = self.keys.get_mut(key) else {
            self.insert_newest(key, v);
            return;
        };
        if let Some(same) = entry
            .older
            .iter_mut()
            .chain(std::iter::once(&mut entry.head))
            .find(|o| o.mod_revision == v.mod_revision)
        {
            same.place = v.place;
        } else if entry.head.mod_revision < v.mod_revision {
            self.insert_newest(key, v);
        } else {
            let at = entry.older.partition_point(|o| o.mod_revision < v.mod_revision);
            entry.older.insert(at, v);
            self.versions += 1;
            self.history_bytes += cost(key, &v);
        }
    }

    /// The changes from `revision` on, in order.
    pub fn changes_from(&self, revision: u64) -> impl Iterator<Item = &Change> {
        let at = self.changes.partition_point(|c| c.revision < revision);
        self.changes.range(at..)
    }

    /// Forgets every version that was overwritten or deleted at or below `revision`, from the oldest on,
    /// until `enough` says stop after a revision. Answers the last revision that was dealt with. Slots of
    /// values in memory that go are handed to `free`.
    pub fn compact(
        &mut self,
        revision: u64,
        mut free: impl FnMut(u32),
        enough: impl Fn(&Index) -> bool,
    ) -> Option<u64> {
        let mut done = None;
        while let Some(change) = self.changes.front() {
            if change.revision > revision {
                break;
            }
            if done.is_some_and(|d| d < change.revision) && enough(self) {
                return done;
            }
            done = Some(change.revision);
            if let Some(change) = self.changes.pop_front() {
                self.compact_key(&change.key, change.revision, &mut free);
            }
        }
        done
    }

    fn compact_key(&mut self, key: &Key, revision: u64, free: &mut impl FnMut(u32)) {
        let Some(entry) = self.keys.get_mut(key) else { return };
        // The versions before the newest one at or below `revision` go; a tombstone goes too.
        let mut drop_n = entry.older.partition_point(|v| v.mod_revision <= revision);
        let head_goes = if entry.head.mod_revision <= revision {
            entry.head.deleted()
        } else {
            drop_n = match drop_n.checked_sub(1) {
                None => 0,
                Some(keep) if entry.older[keep].deleted() => keep + 1,
                Some(keep) => keep,
            };
            false
        };
        for v in entry.older.drain(..drop_n) {
            self.history_bytes -= cost(key, &v);
            self.versions -= 1;
            if v.in_memory() {
                free(v.place.offset);
            }
        }
        if entry.older.is_empty() {
            entry.older = Vec::new();
        }
        if head_goes {
            self.history_bytes -= cost(key, &entry.head);
            self.versions -= 1;
            self.key_bytes -= key.len() as u64;
            self.keys.remove(key);
        }
    }

    /// Forgets one overwritten volatile version; answers its slot when it was there.
    pub fn forget_volatile(&mut self, key: &[u8], revision: u64) -> Option<u32> {
        let entry = self.keys.get_mut(key)?;
        let at = entry.older.iter().position(|v| v.mod_revision == revision && v.in_memory())?;
        let v = entry.older.remove(at);
        self.history_bytes -= cost(key, &v);
        self.versions -= 1;
        Some(v.place.offset)
    }

    /// Drops the listed changes whose versions are forgotten.
    pub fn sweep_changes(&mut self) {
        let keys = &self.keys;
        self.changes.retain(|c| {
            keys.get(&c.key).is_some_and(|e| e.iter().any(|v| v.mod_revision == c.revision))
        });
    }

    /// The newest version of every key that exists now.
    pub fn heads(&self) -> impl Iterator<Item = (&Key, &Version)> {
        self.keys.iter().map(|(k, e)| (k, &e.head)).filter(|(_, v)| !v.deleted())
    }

    /// Recomputes every count and checks every order. For tests.
    #[cfg(test)]
    pub fn check_invariants(&self) {
        let (mut live, mut history, mut versions, mut key_bytes) = (0, 0, 0, 0);
        let mut live_bytes = 0;
        for (key, entry) in &self.keys {
            key_bytes += key.len() as u64;
            versions += 1 + entry.older.len() as u64;
            history += entry.older.iter().map(|v| cost(key, v)).sum::<u64>();
            if entry.head.deleted() {
                history += cost(key, &entry.head);
            } else {
                live += 1;
                live_bytes += cost(key, &entry.head);
            }
            assert!(
                entry
                    .iter()
                    .zip(entry.iter().skip(1))
                    .all(|(a, b)| a.mod_revision < b.mod_revision)
            );
        }
        assert_eq!(
            (live, live_bytes, history, versions, key_bytes),
            (self.live, self.live_bytes, self.history_bytes, self.versions, self.key_bytes)
        );
        assert!(
            self.changes
                .iter()
                .zip(self.changes.iter().skip(1))
                .all(|(a, b)| a.revision <= b.revision)
        );
    }
}

/// Values that are in no log, by slot.
#[derive(Default)]
pub struct MemoryValues {
    slots: Vec<Option<Body>>,
    free: Vec<u32>,
    bytes: u64,
}

impl MemoryValues {
    /// Keeps a value; answers its slot.
    pub fn insert(&mut self, value: Body) -> u32 {
        self.bytes += value.len() as u64;
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(value);
            return slot;
        }
        self.slots.push(Some(value));
        (self.slots.len() - 1) as u32
    }

    /// The value in a slot.
    pub fn get(&self, slot: u32) -> Option<&Body> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Forgets a value.
    pub fn remove(&mut self, slot: u32) {
        if let Some(value) = self.slots.get_mut(slot as usize).and_then(Option::take) {
            self.bytes -= value.len() as u64;
            self.free.push(slot);
        }
    }

    /// Bytes of all values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(revision: u64) -> Version {
        Version {
            mod_revision: revision,
            create_revision: 1,
            version: 1,
            place: Place { segment: 1, offset: 0 },
            ..Version::default()
        }
    }

    #[test]
    fn spans_are_etcds() {
        let s = |k: &str, e: &[u8]| Span::new(k.into(), e.to_vec());
        assert!(s("a", b"").contains(b"a") && !s("a", b"").contains(b"aa"));
        assert!(s("b", b"\0").contains(b"zz") && !s("b", b"\0").contains(b"a"));
        assert!(s("a", b"b").contains(b"az") && !s("a", b"b").contains(b"b"));
        assert!(s("b", b"a").bounds().is_none());
    }

    #[test]
    fn compaction_keeps_what_is_visible_at_its_revision() {
        let mut i = Index::default();
        i.push(b"a", v(1));
        i.push(b"a", v(2));
        i.push(b"b", v(3));
        i.push(b"b", Version::tombstone(4));
        i.push(b"a", v(5));
        i.check_invariants();
        assert_eq!(i.compact(4, |_| {}, |_| false), Some(4));
        i.check_invariants();
        assert_eq!(i.at(b"a", 4).map(|v| v.mod_revision), Some(2));
        assert_eq!(i.at(b"a", 1), None);
        assert_eq!(i.at(b"b", 4), None);
        assert_eq!(i.keys.len(), 1);
        assert_eq!(i.changes_from(0).count(), 1);
    }

    #[test]
    fn undo_takes_back_newest_first() {
        let mut i = Index::default();
        i.push(b"a", v(1));
        i.push(b"a", v(2));
        i.push(b"a", Version::tombstone(3));
        i.push(b"b", v(3));
        while i.undo(1).is_some() {
            i.check_invariants();
        }
        assert_eq!(i.latest(b"a"), Some(&v(1)));
        assert_eq!(i.latest(b"b"), None);
        assert_eq!(i.live(), 1);
    }
}
