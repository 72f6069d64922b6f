//! A reference model: the whole state at every revision, kept as plain maps. Random requests go to both.

use std::collections::{BTreeMap, BTreeSet};

use pintle_base::Prng;
use pintle_wire::msg::store::{
    Compare, Durability, Error, Event, KeyValue, Op, OpReply, RangeReply, RangeRequest, Reply,
    Request,
};

use super::{Rig, at_ms, body};
use crate::Tag;

pub(crate) type Keys = BTreeMap<Vec<u8>, KeyValue>;

/// What a store must look like.
#[derive(Clone)]
pub(crate) struct Model {
    /// State by revision, from the first on.
    pub(crate) states: BTreeMap<u64, Keys>,
    pub(crate) leases: BTreeSet<u64>,
    pub(crate) compact: u64,
}

impl Model {
    pub(crate) fn new() -> Model {
        Model { states: [(1, Keys::new())].into(), leases: BTreeSet::new(), compact: 1 }
    }

    pub(crate) fn revision(&self) -> u64 {
        *self.states.keys().next_back().unwrap()
    }

    pub(crate) fn now(&self) -> &Keys {
        self.states.values().next_back().unwrap()
    }

    fn holds(&self, c: &Compare) -> bool {
        let get = |k: &Vec<u8>| self.now().get(k);
        match c {
            Compare::ModRevision(k, r) => get(k).map_or(0, |v| v.mod_revision) == *r,
            Compare::CreateRevision(k, r) => get(k).map_or(0, |v| v.create_revision) == *r,
            Compare::Version(k, n) => get(k).map_or(0, |v| v.version) == *n,
            Compare::Value(k, want) => get(k).is_some_and(|v| v.value[..] == want[..]),
        }
    }

    /// The reply that a transaction must get.
    pub(crate) fn txn(&mut self, compare: &[Compare], then: &[Op], otherwise: &[Op]) -> Reply {
        let succeeded = compare.iter().all(|c| self.holds(c));
        let ops = if succeeded { then } else { otherwise };
        let revision = self.revision() + 1;
        let mut next = self.now().clone();
        let mut written = BTreeSet::new();
        for op in ops {
            if let Op::Put { key, lease, .. } = op {
                if *lease != 0 && !self.leases.contains(lease) {
                    return Reply::Error(Error::LeaseNotFound(*lease));
                }
                if !written.insert(key.clone()) {
                    return Reply::Error(Error::Invalid(String::new()));
                }
            }
        }
        let mut changed = !written.is_empty();
        let mut counts = Vec::new();
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    let old = self.now().get(key);
                    next.insert(
                        key.clone(),
                        KeyValue {
                            key: key.clone(),
                            create_revision: old.map_or(revision, |o| o.create_revision),
                            mod_revision: revision,
                            version: old.map_or(1, |o| o.version + 1),
                            lease: *lease,
                            value: value.clone(),
                        },
                    );
                }
                Op::Delete { key, range_end } => {
                    let gone: Vec<_> =
                        self.now().keys().filter(|k| within(k, key, range_end)).cloned().collect();
                    if gone.iter().any(|k| written.contains(k)) {
                        return Reply::Error(Error::Invalid(String::new()));
                    }
                    let n = gone.iter().filter(|k| next.remove(*k).is_some()).count();
                    changed |= n > 0;
                    counts.push(n as u64);
                }
                Op::Range(_) => {}
            }
        }
        if changed {
            self.states.insert(revision, next);
        }
        let revision = self.revision();
        let mut counts = counts.into_iter();
        let replies = ops
            .iter()
            .map(|op| match op {
                Op::Put { .. } => OpReply::Put,
                Op::Delete { .. } => OpReply::Delete(counts.next().unwrap()),
                Op::Range(r) => match self.range(r) {
                    Reply::Range(_, r) => OpReply::Range(r),
                    other => panic!("{other:?}"),
                },
            })
            .collect();
        Reply::Txn { succeeded, revision, replies }
    }

    pub(crate) fn range(&self, r: &RangeRequest) -> Reply {
        let newest = self.revision();
        let at = if r.revision == 0 { newest } else { r.revision };
        if at > newest {
            return Reply::Error(Error::FutureRevision { revision: newest });
        }
        if at < self.compact {
            return Reply::Error(Error::Compacted { compact_revision: self.compact });
        }
        let state = &self.states[&at];
        let mut kvs: Vec<_> =
            state.values().filter(|kv| within(&kv.key, &r.key, &r.range_end)).cloned().collect();
        let count = kvs.len() as u64;
        let more = !r.count_only && r.limit != 0 && count > u64::from(r.limit);
        if r.count_only {
            kvs.clear();
        } else if r.limit != 0 {
            kvs.truncate(r.limit as usize);
        }
        if r.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = body(""));
        }
        Reply::Range(newest, RangeReply { kvs, more, count })
    }

    /// All events after `from - 1`, with the previous values.
    pub(crate) fn events(&self, from: u64, key: &[u8], end: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for (revision, state) in self.states.range(from..) {
            let before = &self.states[&(revision - 1)];
            let keys: BTreeSet<_> = state.keys().chain(before.keys()).collect();
            for k in keys.into_iter().filter(|k| within(k, key, end)) {
                let prev = before.get(k).cloned();
                match state.get(k) {
                    Some(kv) if kv.mod_revision == *revision => {
                        events.push(Event { deleted: false, kv: kv.clone(), prev });
                    }
                    None => events.push(Event {
                        deleted: true,
                        kv: KeyValue {
                            key: k.clone(),
                            create_revision: 0,
                            mod_revision: *revision,
                            version: 0,
                            lease: 0,
                            value: body(""),
                        },
                        prev,
                    }),
                    Some(_) => {}
                }
            }
        }
        events
    }
}

fn within(k: &[u8], key: &[u8], end: &[u8]) -> bool {
    match end {
        [] => k == key,
        [0] => k >= key,
        end => k >= key && k < end,
    }
}

pub(crate) fn random_key(p: &mut Prng) -> Vec<u8> {
    format!("/k/{}", p.below(12)).into_bytes()
}

fn random_span(p: &mut Prng) -> (Vec<u8>, Vec<u8>) {
    match p.below(4) {
        0 => (random_key(p), vec![0]),
        1 => (random_key(p), random_key(p)),
        2 => (b"/k/".to_vec(), b"/k0".to_vec()),
        _ => (random_key(p), Vec::new()),
    }
}

pub(crate) fn random_value(p: &mut Prng) -> pintle_wire::msg::Body {
    let len = if p.chance(1, 10) { p.below(900) } else { p.below(40) };
    (0..len).map(|_| p.next_u64() as u8).collect()
}

fn random_range(p: &mut Prng, newest: u64) -> RangeRequest {
    let (key, range_end) = random_span(p);
    RangeRequest {
        key,
        range_end,
        revision: if p.chance(1, 2) { 0 } else { p.below(newest + 3) },
        limit: if p.chance(1, 2) { 0 } else { p.below(6) as u32 },
        keys_only: p.chance(1, 4),
        count_only: p.chance(1, 6),
    }
}

fn random_ops(p: &mut Prng, leases: &BTreeSet<u64>) -> Vec<Op> {
    (0..p.below(4))
        .map(|_| match p.below(6) {
            0 => {
                let (key, range_end) = random_span(p);
                Op::Delete { key, range_end }
            }
            1 => Op::Range(RangeRequest { revision: 0, ..random_range(p, 0) }),
            _ => {
                let lease = match p.below(8) {
                    0 => 99,
                    1 | 2 => leases.iter().next().copied().unwrap_or(0),
                    _ => 0,
                };
                Op::Put { key: random_key(p), value: random_value(p), lease }
            }
        })
        .collect()
}

fn random_compare(p: &mut Prng, model: &Model) -> Vec<Compare> {
    (0..p.below(3))
        .map(|_| {
            let key = random_key(p);
            let old = model.now().get(&key);
            let right = p.chance(3, 4);
            let off = u64::from(!right);
            match p.below(4) {
                0 => Compare::ModRevision(key, old.map_or(0, |o| o.mod_revision) + off),
                1 => Compare::CreateRevision(key, old.map_or(0, |o| o.create_revision) + off),
                2 => Compare::Version(key, old.map_or(0, |o| o.version) + off),
                _ => {
                    let value = old.map_or(Vec::new(), |o| o.value.to_vec());
                    Compare::Value(key, if right { value } else { b"other".to_vec() })
                }
            }
        })
        .collect()
}

/// A random transaction.
pub(crate) fn random_txn(p: &mut Prng, model: &Model) -> (Vec<Compare>, Vec<Op>, Vec<Op>) {
    (random_compare(p, model), random_ops(p, &model.leases), random_ops(p, &model.leases))
}

/// Texts of errors are for people and not compared.
pub(crate) fn without_text(reply: Reply) -> Reply {
    match reply {
        Reply::Error(Error::Invalid(_)) => Reply::Error(Error::Invalid(String::new())),
        other => other,
    }
}

struct Watcher {
    tag: Tag,
    from: u64,
    key: Vec<u8>,
    end: Vec<u8>,
}

fn collect_events(rig: &mut Rig, tag: Tag) -> Vec<Event> {
    let mut all: Vec<Event> = Vec::new();
    while let Some(reply) = rig.reply(tag) {
        match reply {
            Reply::WatchCreated { .. } | Reply::WatchProgress { .. } => {}
            Reply::WatchEvents { events, revision } => {
                let first = events.first().unwrap().kv.mod_revision;
                assert!(
                    all.last().is_none_or(|l| l.kv.mod_revision < first),
                    "a revision was split"
                );
                assert!(events.last().unwrap().kv.mod_revision <= revision);
                all.extend(events);
            }
            other => panic!("watch: {other:?}"),
        }
    }
    // The order within a revision is that of the operations; the model's is that of the keys.
    all.sort_by(|a, b| (a.kv.mod_revision, &a.kv.key).cmp(&(b.kv.mod_revision, &b.kv.key)));
    all
}

fn run(seed: u64) {
    let mut p = Prng::new(seed);
    let mut rig = Rig::new(seed);
    let mut model = Model::new();
    let mut watchers: Vec<Watcher> = Vec::new();
    let mut expected: Vec<(Tag, Reply)> = Vec::new();
    for step in 0..300u64 {
        rig.now = at_ms(step);
        match p.below(20) {
            0 => {
                let (key, end) = random_span(&mut p);
                rig.settle();
                let from = model.compact + 1 + p.below(model.revision() - model.compact + 1);
                let request = Request::Watch {
                    key: key.clone(),
                    range_end: end.clone(),
                    from_revision: from,
                    prev_kv: true,
                };
                watchers.push(Watcher { tag: rig.ask(request), from, key, end });
            }
            1 => {
                let id = p.below(4);
                if id != 0 {
                    let want = if model.leases.insert(id) {
                        Reply::Lease { id, ttl_ms: 1_000_000 }
                    } else {
                        Reply::Error(Error::Invalid(String::new()))
                    };
                    expected.push((rig.ask(Request::LeaseGrant { id, ttl_ms: 1_000_000 }), want));
                }
            }
            2 if !model.leases.is_empty() => {
                let id = *model.leases.iter().next().unwrap();
                model.leases.remove(&id);
                let revision = model.revision() + 1;
                let mut next = model.now().clone();
                next.retain(|_, kv| kv.lease != id);
                if next.len() != model.now().len() {
                    model.states.insert(revision, next);
                }
                let revision = model.revision();
                expected.push((rig.ask(Request::LeaseRevoke { id }), Reply::Done { revision }));
            }
            3 if p.chance(1, 6) => {
                rig.settle();
                // Previous values behind the compacted revision are gone: let the watchers catch up first.
                check_watchers(&mut rig, &model, &mut watchers);
                let to = p.below(model.revision() + 2);
                let want = if to > model.revision() {
                    Reply::Error(Error::FutureRevision { revision: model.revision() })
                } else if to <= model.compact {
                    Reply::Error(Error::Compacted { compact_revision: model.compact })
                } else {
                    model.compact = to;
                    Reply::Done { revision: model.revision() }
                };
                assert_eq!(rig.call(Request::Compact { revision: to }), want);
            }
            4..8 => {
                rig.settle();
                let range = random_range(&mut p, model.revision());
                let want = model.range(&range);
                assert_eq!(rig.call(Request::Range(range.clone())), want, "{range:?}");
            }
            _ => {
                let (compare, then, otherwise) = random_txn(&mut p, &model);
                let want = model.txn(&compare, &then, &otherwise);
                let durability = Durability::Durable;
                let request = Request::Txn { compare, then, otherwise, durability };
                expected.push((rig.ask(request), want));
            }
        }
        for _ in 0..p.below(3) {
            rig.step(&mut p);
        }
        if p.chance(1, 20) {
            rig.settle();
            rig.store.check_deeply();
            for (tag, want) in expected.drain(..) {
                assert_eq!(rig.reply(tag).map(without_text), Some(want), "seed {seed} step {step}");
            }
        }
        if p.chance(1, 60) {
            // Close and open: everything is as it was.
            check_watchers(&mut rig, &model, &mut watchers);
            for (tag, want) in expected.drain(..) {
                assert_eq!(rig.reply(tag).map(without_text), Some(want), "seed {seed} step {step}");
            }
            let (now, disk) = (rig.now, rig.close());
            disk.process_restart();
            let (reopened, recovery) = Rig::open(&disk, now).unwrap();
            assert!(recovery.clean && recovery.torn_at.is_none());
            rig = reopened;
        }
    }
    check_watchers(&mut rig, &model, &mut watchers);
    for revision in model.compact..=model.revision() {
        let want: Vec<_> = model.states[&revision].values().cloned().collect();
        assert_eq!(rig.all(revision), want, "seed {seed} revision {revision}");
    }
    rig.store.check_deeply();
}

fn check_watchers(rig: &mut Rig, model: &Model, watchers: &mut Vec<Watcher>) {
    rig.settle();
    for w in watchers.drain(..) {
        rig.store.cancel(w.tag);
        assert_eq!(collect_events(rig, w.tag), model.events(w.from, &w.key, &w.end));
    }
}

#[test]
fn random_requests_get_the_models_replies() {
    for seed in 0..200 {
        run(seed);
    }
}
