//! Writes: transactions, leases, and the records that the store writes for itself.

use std::collections::BTreeSet;

use pintle_base::Now;
use pintle_wire::msg::Body;
use pintle_wire::msg::store::{Compare, Durability, Error, Op, OpReply, RangeRequest, Reply};

use crate::core::{LeaseUndo, OldVolatile, Stalled, Store, Tag};
use crate::index::{Key, Place, Span, Version};
use crate::limits;
use crate::log::{Log, Room};
use crate::record::{self, LogOp, PutOp};

/// A transaction as it was asked for.
pub(crate) struct Txn {
    pub(crate) compare: Vec<Compare>,
    pub(crate) then: Vec<Op>,
    pub(crate) otherwise: Vec<Op>,
    pub(crate) durability: Durability,
}

/// A put that was decided, its place in the log not yet known.
struct Put<'a> {
    key: &'a [u8],
    value: &'a Body,
    version: Version,
}

/// What the operations of a transaction come to, before anything is changed.
#[derive(Default)]
struct Plan<'a> {
    puts: Vec<(&'a [u8], &'a Body, u64)>,
    /// One list a delete operation.
    deletes: Vec<Vec<Key>>,
    ops_bytes: usize,
}

impl Store {
    /// Carries out a transaction and queues its reply. Gives it back when it must wait for a segment.
    pub(crate) fn txn(&mut self, tag: Tag, txn: Txn, now: Now) -> Option<Txn> {
        match self.try_txn(tag, &txn, now) {
            Ok(Room::Wait) => Some(txn),
            Ok(_) => None,
            Err(e) => {
                self.reply(tag, Reply::Error(e));
                None
            }
        }
    }

    fn try_txn(&mut self, tag: Tag, txn: &Txn, now: Now) -> Result<Room, Error> {
        check_limits(txn)?;
        let mut succeeded = true;
        for compare in &txn.compare {
            succeeded &= self.holds(compare)?;
        }
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let plan = self.plan(ops)?;
        let volatile = txn.durability == Durability::Volatile;
        let writes = !plan.puts.is_empty() || plan.deletes.iter().any(|d| !d.is_empty());
        if writes {
            let revision = self.head + 1;
            if volatile && revision <= self.ceiling && self.stays_in_memory(&plan) {
                self.write_memory(&plan, revision);
            } else {
                let frees = plan.puts.is_empty();
                // Room for a reserve operation too.
                if self.room(plan.ops_bytes + 16, frees)? == Room::Wait {
                    return Ok(Room::Wait);
                }
                self.write_log(&plan, revision, volatile, now);
            }
            self.head = revision;
        }
        let replies = self.op_replies(ops, &plan.deletes)?;
        let reply = Reply::Txn { succeeded, revision: self.head, replies };
        self.reply_durable(tag, reply);
        self.publish(now);
        Ok(Room::Yes)
    }

    fn holds(&mut self, compare: &Compare) -> Result<bool, Error> {
        Ok(match compare {
            Compare::ModRevision(key, want) => {
                self.index.latest(key).map_or(0, |v| v.mod_revision) == *want
            }
            Compare::CreateRevision(key, want) => {
                self.index.latest(key).map_or(0, |v| v.create_revision) == *want
            }
            Compare::Version(key, want) => {
                self.index.latest(key).map_or(0, |v| u64::from(v.version)) == *want
            }
            Compare::Value(key, want) => match self.index.latest(key) {
                Some(v) if v.len as usize == want.len() => {
                    self.values.read(&self.log, v).map_err(Error::Damaged)?[..] == want[..]
                }
                _ => false,
            },
        })
    }

    /// Resolves and checks the operations; changes nothing.
    fn plan<'a>(&self, ops: &'a [Op]) -> Result<Plan<'a>, Error> {
        let mut plan = Plan::default();
        let mut put_keys = BTreeSet::new();
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    if *lease != 0 && !self.leases.contains(*lease) {
                        return Err(Error::LeaseNotFound(*lease));
                    }
                    if !put_keys.insert(key.as_slice()) {
                        return Err(twice(key));
                    }
                    plan.ops_bytes += 8 + 36 + key.len() + value.len();
                    plan.puts.push((key, value, *lease));
                }
                Op::Delete { key, range_end } => {
                    let span = Span::new(key.clone(), range_end.clone());
                    let gone: Vec<Key> =
                        self.index.range(&span, u64::MAX).map(|(k, _)| Key::clone(k)).collect();
                    plan.ops_bytes += gone.iter().map(|k| 8 + k.len()).sum::<usize>();
                    plan.deletes.push(gone);
                }
                Op::Range(_) => {}
            }
        }
        let mut deleted = BTreeSet::new();
        for gone in &mut plan.deletes {
            if let Some(key) = gone.iter().find(|k| put_keys.contains(&k[..])) {
                return Err(twice(key));
            }
            gone.retain(|k| deleted.insert(Key::clone(k)));
        }
        let max = self.record_bytes_max();
        if Log::record_bytes(plan.ops_bytes + 16) > max {
            let bytes = plan.ops_bytes;
            return Err(Error::TooLarge(format!(
                "a transaction of {bytes} bytes in the log is over the limit of {max} bytes"
            )));
        }
        Ok(plan)
    }

    pub(crate) fn record_bytes_max(&self) -> usize {
        limits::RECORD_BYTES_MAX.min(self.config.segment_bytes as usize / 8 * 3)
    }

    /// All keys are known as volatile in the log, so that a crash cannot make their loss a surprise.
    fn stays_in_memory(&self, plan: &Plan<'_>) -> bool {
        plan.deletes.iter().all(Vec::is_empty)
            && plan.puts.iter().all(|(key, _, lease)| {
                self.index.latest(key).is_some_and(|v| v.volatile && v.lease == *lease)
            })
    }

    fn write_memory(&mut self, plan: &Plan<'_>, revision: u64) {
        for (key, value, lease) in &plan.puts {
            let slot = self.values.memory.insert(Body::clone(value));
            let mut version = self.next_version(key, value, *lease, revision);
            version.volatile = true;
            version.place = Place { segment: 0, offset: slot };
            self.push(key, version);
        }
    }

    fn write_log(&mut self, plan: &Plan<'_>, revision: u64, volatile: bool, now: Now) {
        let mut puts = Vec::with_capacity(plan.puts.len());
        for (key, value, lease) in &plan.puts {
            let mut version = self.next_version(key, value, *lease, revision);
            version.volatile = volatile;
            version.crc = record::value_crc(value);
            // Until its place is known: nothing reads it before.
            version.place = Place { segment: u32::MAX, offset: 0 };
            self.push(key, version);
            puts.push(Put { key, value, version });
        }
        for key in plan.deletes.iter().flatten() {
            self.push(key, Version::tombstone(revision));
        }
        let mut ops: Vec<LogOp<'_>> =
            puts.iter().map(|p| log_put(p.key, p.value, &p.version)).collect();
        ops.extend(plan.deletes.iter().flatten().map(|k| LogOp::Delete(k)));
        if volatile && self.ceiling < revision + limits::RESERVE_REVISIONS / 2 {
            self.ceiling = revision + limits::RESERVE_REVISIONS;
            ops.push(LogOp::Reserve(self.ceiling));
        }
        let places = self.log.append(&ops, revision, true, now.wall.0);
        for (put, place) in puts.iter().zip(places) {
            self.index.set_place(put.key, revision, place);
            self.values.cache(place, Body::clone(put.value), self.log.durable_end());
        }
    }

    fn next_version(&self, key: &[u8], value: &Body, lease: u64, revision: u64) -> Version {
        let before = self.index.latest(key);
        Version {
            mod_revision: revision,
            create_revision: before.map_or(revision, |b| b.create_revision),
            version: before.map_or(1, |b| b.version.saturating_add(1)),
            lease,
            len: value.len() as u32,
            ..Version::default()
        }
    }

    /// Puts a version into the index, and what follows from it elsewhere.
    fn push(&mut self, key: &[u8], version: Version) {
        let (key, before) = self.index.push(key, version);
        self.leases.attach(&key, before.map_or(0, |b| b.lease), version.lease);
        if let Some(before) = before.filter(Version::in_memory) {
            let bytes = before.len as usize;
            self.old_volatile_bytes += bytes;
            self.old_volatile.push_back(OldVolatile {
                key,
                revision: before.mod_revision,
                bytes,
                by: version.mod_revision,
            });
        }
    }

    /// Forgets overwritten volatile values beyond their limit, oldest first.
    pub(crate) fn trim_volatile(&mut self) {
        while self.old_volatile_bytes > limits::VOLATILE_HISTORY_BYTES
            && self.old_volatile.front().is_some_and(|old| old.by <= self.visible)
        {
            let Some(old) = self.old_volatile.pop_front() else { break };
            self.old_volatile_bytes -= old.bytes;
            if let Some(slot) = self.index.forget_volatile(&old.key, old.revision) {
                self.values.memory.remove(slot);
                self.forgotten += 1;
            }
        }
        if self.forgotten > 1024 && self.forgotten * 2 > self.index.changes_len() {
            self.index.sweep_changes();
            self.forgotten = 0;
        }
    }

    fn op_replies(&mut self, ops: &[Op], deletes: &[Vec<Key>]) -> Result<Vec<OpReply>, Error> {
        let mut deletes = deletes.iter();
        let revision = self.head;
        ops.iter()
            .map(|op| {
                Ok(match op {
                    Op::Put { .. } => OpReply::Put,
                    Op::Delete { .. } => OpReply::Delete(deletes.next().map_or(0, Vec::len) as u64),
                    Op::Range(r) => OpReply::Range(self.range(r, revision)?),
                })
            })
            .collect()
    }

    /// Makes a lease and queues the reply. Gives the request back when it must wait.
    pub(crate) fn grant(&mut self, tag: Tag, id: u64, ttl_ms: u64, now: Now) -> Option<Stalled> {
        let (min, max) =
            (limits::LEASE_TTL_MIN.as_millis() as u64, limits::LEASE_TTL_MAX.as_millis() as u64);
        let refusal = if self.leases.contains(id) {
            Some(Error::Invalid(format!("lease {id} exists already")))
        } else if self.leases.len() >= limits::LEASES_MAX {
            Some(Error::TooLarge(format!("there are {} leases, the limit", limits::LEASES_MAX)))
        } else if !(min..=max).contains(&ttl_ms) {
            Some(Error::Invalid(format!(
                "a time to live of {ttl_ms} ms is not in {min}..={max} ms"
            )))
        } else {
            match self.room(24, false) {
                Ok(Room::Wait) => return Some(Stalled::Grant { tag, id, ttl_ms }),
                Ok(_) => None,
                Err(e) => Some(e),
            }
        };
        if let Some(error) = refusal {
            self.reply(tag, Reply::Error(error));
            return None;
        }
        let id = if id == 0 { self.leases.free_id() } else { id };
        self.append_plain(&[LogOp::LeaseGrant { id, ttl_ms }], now);
        self.leases.grant(id, ttl_ms, now.mono);
        if let Some(batch) = self.log.pending_batch() {
            self.lease_undo.push_back((batch, LeaseUndo::Granted(id)));
        }
        self.reply_durable(tag, Reply::Lease { id, ttl_ms });
        None
    }

    /// Ends a lease and queues the reply. Gives the request back when it must wait.
    pub(crate) fn revoke(&mut self, tag: Tag, id: u64, now: Now) -> Option<Stalled> {
        if !self.leases.contains(id) {
            self.reply(tag, Reply::Error(Error::LeaseNotFound(id)));
            return None;
        }
        while self.leases.contains(id) {
            match self.revoke_room(id) {
                Ok(Room::Wait) => return Some(Stalled::Revoke { tag, id }),
                Ok(_) => {
                    self.revoke_part(id, now);
                }
                Err(e) => {
                    self.reply(tag, Reply::Error(e));
                    return None;
                }
            }
        }
        let revision = self.head;
        self.reply_durable(tag, Reply::Done { revision });
        self.publish(now);
        None
    }

    /// The keys that one record deletes, and its size.
    fn revoke_keys(&self, id: u64) -> (Vec<Key>, usize) {
        let mut bytes = 16;
        let mut keys = Vec::new();
        for key in self.leases.get(id).into_iter().flat_map(|l| &l.keys) {
            bytes += 8 + key.len();
            if keys.len() == limits::TXN_OPS_MAX
                || Log::record_bytes(bytes) > self.record_bytes_max()
            {
                break;
            }
            keys.push(Key::clone(key));
        }
        (keys, bytes)
    }

    fn revoke_room(&mut self, id: u64) -> Result<Room, Error> {
        let (_, bytes) = self.revoke_keys(id);
        self.room(bytes, true)
    }

    /// Deletes as many keys of a lease as fit a record, and the lease with the last of them. False when there
    /// is no room.
    pub(crate) fn revoke_part(&mut self, id: u64, now: Now) -> bool {
        let (keys, bytes) = self.revoke_keys(id);
        if self.room(bytes, true) != Ok(Room::Yes) {
            return false;
        }
        let all = self.leases.get(id).is_none_or(|l| l.keys.len() == keys.len());
        let mut ops: Vec<LogOp<'_>> = keys.iter().map(|k| LogOp::Delete(k)).collect();
        if all {
            ops.push(LogOp::LeaseRevoke(id));
        }
        if keys.is_empty() {
            self.append_plain(&ops, now);
        } else {
            self.head += 1;
            let revision = self.head;
            for key in &keys {
                self.push(key, Version::tombstone(revision));
            }
            self.log.append(&ops, revision, true, now.wall.0);
        }
        if all
            && let Some(lease) = self.leases.remove(id)
            && let Some(batch) = self.log.pending_batch()
        {
            self.lease_undo.push_back((batch, LeaseUndo::Revoked(id, lease)));
        }
        true
    }

    /// After a crash: watchers may have seen newer values of the volatile keys than the log has, so each gets
    /// its logged value at a new revision. True when it must wait for a segment.
    pub(crate) fn restate(&mut self, boundary: u64, now: Now) -> bool {
        self.put_again(now, |_, v| v.volatile && v.mod_revision <= boundary)
    }

    /// Writes the newest values of these keys, where they are in memory only. True when it must wait.
    pub(crate) fn put_keys_again(&mut self, keys: &BTreeSet<Key>, now: Now) -> bool {
        self.put_again(now, |key, v| v.in_memory() && keys.contains(key))
    }

    /// Before the end: writes what is in memory only, then that the store was closed in order.
    pub(crate) fn write_close(&mut self, now: Now) -> bool {
        if self.put_again(now, |_, v| v.in_memory()) {
            return true;
        }
        match self.room(8, true) {
            Ok(Room::Wait) => true,
            // Without room the next start takes it for a crash, which costs nothing but a revision.
            Err(_) => false,
            Ok(_) => {
                self.append_plain(&[LogOp::Clean], now);
                false
            }
        }
    }

    /// Puts the newest values of some keys again, at new revisions, as few as possible. True when it must
    /// wait for a segment.
    fn put_again(&mut self, now: Now, wanted: impl Fn(&Key, &Version) -> bool) -> bool {
        loop {
            let mut bytes = 0;
            let mut chosen: Vec<(Key, Version)> = Vec::new();
            for (key, v) in self.index.heads().filter(|(k, v)| wanted(k, v)) {
                let more = 8 + 36 + key.len() + v.len as usize;
                if bytes > 0 && Log::record_bytes(bytes + more) > self.record_bytes_max() {
                    break;
                }
                bytes += more;
                chosen.push((Key::clone(key), *v));
            }
            if chosen.is_empty() {
                return false;
            }
            match self.room(bytes + 16, false) {
                Ok(Room::Wait) => return true,
                Ok(_) => {}
                // Only the next start is the poorer for it; cleaning looks at the room again.
                Err(_) => return false,
            }
            let mut values = Vec::with_capacity(chosen.len());
            for (_, v) in &chosen {
                match self.values.read(&self.log, v) {
                    Ok(value) => values.push(value),
                    // Damage is reported when somebody reads the key.
                    Err(_) => return false,
                }
            }
            let revision = self.head + 1;
            let plan = Plan {
                puts: chosen.iter().zip(&values).map(|((k, v), b)| (&k[..], b, v.lease)).collect(),
                ..Plan::default()
            };
            self.write_log(&plan, revision, true, now);
            self.head = revision;
        }
    }
}

fn log_put<'a>(key: &'a [u8], value: &'a Body, v: &Version) -> LogOp<'a> {
    LogOp::Put(PutOp {
        key,
        create_revision: v.create_revision,
        version: u64::from(v.version),
        lease: v.lease,
        volatile: v.volatile,
        value_crc: v.crc,
        value,
        value_offset: 0,
    })
}

fn twice(key: &[u8]) -> Error {
    let key = String::from_utf8_lossy(key);
    Error::Invalid(format!("key {key:?} is written twice in one transaction"))
}

fn check_limits(txn: &Txn) -> Result<(), Error> {
    let n = txn.compare.len() + txn.then.len() + txn.otherwise.len();
    if n > limits::TXN_OPS_MAX {
        return Err(Error::TooLarge(format!(
            "{n} compares and operations in one transaction are over the limit of {}",
            limits::TXN_OPS_MAX
        )));
    }
    for compare in &txn.compare {
        let (Compare::ModRevision(key, _)
        | Compare::CreateRevision(key, _)
        | Compare::Version(key, _)
        | Compare::Value(key, _)) = compare;
        check_key(key)?;
    }
    for op in txn.then.iter().chain(&txn.otherwise) {
        match op {
            Op::Put { key, value, .. } => {
                check_key(key)?;
                if value.len() > limits::VALUE_BYTES_MAX {
                    return Err(Error::TooLarge(format!(
                        "a value of {} bytes is over the limit of {} bytes",
                        value.len(),
                        limits::VALUE_BYTES_MAX
                    )));
                }
            }
            Op::Delete { key, .. } | Op::Range(RangeRequest { key, .. }) => check_key(key)?,
        }
    }
    Ok(())
}

/// A key has a length within bounds. (`[0]` with `range_end` `[0]` means all keys, as in etcd.)
pub(crate) fn check_key(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() {
        Err(Error::Invalid("the key is empty".to_owned()))
    } else if key.len() > limits::KEY_BYTES_MAX {
        Err(Error::TooLarge(format!(
            "a key of {} bytes is over the limit of {} bytes",
            key.len(),
            limits::KEY_BYTES_MAX
        )))
    } else {
        Ok(())
    }
}
