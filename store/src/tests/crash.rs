//! Power cuts, failed calls and full disks at every single call, by seed.

use pintle_base::Prng;
use pintle_base::disk::{Fault, SimDisk};
use pintle_wire::msg::store::{Durability, Error, Reply, Request};

use super::model::{Keys, Model, random_txn};
use super::{Rig, at_ms};
use crate::Tag;

/// What clients know when the crash comes.
struct Known {
    /// The states that were asked for, whether answered or not.
    model: Model,
    /// Highest revision that anybody was told of.
    told: u64,
    compact: u64,
    /// Several writes may wait for the disk. (Not with a disk that is full for want of a segment: it takes a
    /// delete behind a put that it refused, which the model cannot foresee.)
    pipelined: bool,
}

impl Known {
    fn new() -> Known {
        Known { model: Model::new(), told: 1, compact: 1, pipelined: true }
    }
}

/// Writes by the seed until the disk is dead, the store gave up, or all is done.
fn work(rig: &mut Rig, known: &mut Known, seed: u64, steps: u64, churn: bool) {
    let mut p = Prng::new(seed);
    let mut asked: Vec<(Tag, u64, bool)> = Vec::new();
    for _ in 0..steps {
        if p.chance(if churn { 6 } else { 1 }, 25) {
            let revision = known.compact + p.below(known.told.saturating_sub(known.compact) + 1);
            rig.ask(Request::Compact { revision });
            known.compact = known.compact.max(revision);
        } else {
            let (compare, mut then, otherwise) = random_txn(&mut p, &known.model);
            if churn && p.chance(1, 2) {
                then = vec![super::put("/churn", &"x".repeat(1500))];
            }
            let before = known.model.revision();
            let reply = known.model.txn(&compare, &then, &otherwise);
            let durability = Durability::Durable;
            let tag = rig.ask(Request::Txn { compare, then, otherwise, durability });
            // A refused one leaves the model as it was.
            if let Reply::Txn { revision, .. } = reply {
                asked.push((tag, revision, revision > before));
            }
        }
        for _ in 0..p.below(3) {
            rig.step(&mut p);
        }
        if !known.pipelined {
            rig.settle();
        }
        take_replies(rig, known, &mut asked);
        if rig.disk.is_dead() || rig.fatal.is_some() {
            return;
        }
    }
    rig.settle();
    take_replies(rig, known, &mut asked);
}

fn take_replies(rig: &mut Rig, known: &mut Known, asked: &mut Vec<(Tag, u64, bool)>) {
    rig.collect();
    asked.retain(|(tag, want, wrote)| match rig.reply(*tag) {
        None => true,
        Some(Reply::Txn { revision, .. }) => {
            assert_eq!(revision, *want);
            known.told = known.told.max(revision);
            false
        }
        // Refused: it and all that came after it did not happen.
        Some(Reply::Error(Error::NoSpace(_))) => {
            if *wrote {
                known.model.states.split_off(want);
            }
            false
        }
        Some(other) => panic!("{other:?}"),
    });
}

/// Everything that anybody was told of is there, nothing is half there, and the past is what it was.
fn check(rig: &mut Rig, known: &Known, what: &str) -> u64 {
    rig.settle();
    let revision = rig.store.status().revision;
    let asked = known.model.revision();
    assert!(
        known.told <= revision && revision <= asked,
        "{what}: {} {revision} {asked}",
        known.told
    );
    let compact = rig.store.status().compact_revision;
    assert!(compact <= known.compact.max(1), "{what}");
    for at in compact..=revision {
        let want: Vec<_> = known.model.states[&at].values().cloned().collect();
        assert_eq!(rig.all(at), want, "{what}: revision {at} of {revision}");
    }
    rig.store.check_deeply();
    revision
}

/// One life with a fault at a call, then recovery, work, a second crash by power, recovery.
fn live(seed: u64, call: u64, fault: Fault, sector: usize, churn: bool) -> bool {
    let what = format!("seed {seed} call {call} fault {fault:?} sector {sector}");
    let disk = SimDisk::new(sector, seed ^ call << 20);
    disk.fail_at(call, fault);
    let mut known = Known::new();
    known.pipelined = fault != Fault::Enospc || !churn;
    let opened = Rig::open(&disk, at_ms(0));
    let mut struck = disk.calls() > call;
    assert_eq!(opened.is_err(), struck, "{what}");
    if let Ok((mut rig, _)) = opened {
        work(&mut rig, &mut known, seed, if churn { 120 } else { 40 }, churn);
        struck = disk.calls() > call;
        if fault == Fault::Eio {
            // A failed write, sync, creation or removal ends the process and is never retried.
            assert_eq!(rig.fatal.is_some(), struck, "{what}");
        }
        if fault == Fault::Enospc && rig.fatal.is_none() {
            // Service goes on: the fault was passing. The first request may still be refused.
            rig.call(super::txn(Vec::new()));
            check(&mut rig, &known, &what);
            let mut p = Prng::new(seed);
            while rig.step(&mut p) {}
        }
    }
    if fault == Fault::Eio && seed.is_multiple_of(2) {
        disk.process_restart()
    } else {
        disk.power_cycle()
    }
    disk.clear_faults();
    let (mut rig, _) = Rig::open(&disk, at_ms(1000)).unwrap_or_else(|e| panic!("{what}: {e}"));
    let revision = check(&mut rig, &known, &what);
    // What was not told of and is not there never was; life goes on from here.
    known.model.states.split_off(&(revision + 1));
    known.told = revision;
    known.compact = rig.store.status().compact_revision;
    let more = disk.calls() + 7;
    disk.fail_at(more, Fault::PowerCut);
    work(&mut rig, &mut known, seed + 1, 15, churn);
    drop(rig);
    disk.power_cycle();
    disk.clear_faults();
    let (mut rig, _) =
        Rig::open(&disk, at_ms(2000)).unwrap_or_else(|e| panic!("{what} again: {e}"));
    check(&mut rig, &known, &what);
    struck
}

fn every_call(fault: Fault, seeds: std::ops::Range<u64>) -> u64 {
    let mut points = 0;
    for seed in seeds {
        let sector = if seed.is_multiple_of(2) { 512 } else { 4096 };
        let mut call = 0;
        while live(seed, call, fault, sector, false) {
            points += 1;
            call += 1;
        }
    }
    points
}

#[test]
fn a_power_cut_at_every_call_loses_nothing_that_was_told() {
    let points = every_call(Fault::PowerCut, 0..60);
    assert!(points > 2000, "{points}");
}

#[test]
fn an_io_error_at_every_call_ends_the_store_and_loses_nothing() {
    let points = every_call(Fault::Eio, 0..40);
    assert!(points > 1000, "{points}");
}

#[test]
fn a_full_disk_at_every_call_refuses_and_goes_on() {
    let points = every_call(Fault::Enospc, 0..40);
    assert!(points > 1000, "{points}");
}

/// The same while segments are cleaned and removed all the time; calls are drawn by chance.
#[test]
fn faults_while_segments_are_cleaned_lose_nothing() {
    for seed in 0..300 {
        let mut p = Prng::new(seed);
        for fault in [Fault::PowerCut, Fault::Eio, Fault::Enospc] {
            live(seed, p.below(200), fault, 512, true);
        }
    }
    // It is about cleaning: without a fault the same work removes segments.
    let mut rig = Rig::new(3);
    let mut known = Known::new();
    work(&mut rig, &mut known, 3, 120, true);
    let names = pintle_base::disk::Disk::list(&rig.disk).unwrap();
    assert!(!names.contains(&"000000000003.wal".to_owned()) && rig.disk.calls() > 150, "{names:?}");
    check(&mut rig, &known, "without a fault");
}

/// A crash while recovering, at every call of it, changes nothing.
#[test]
fn a_crash_during_recovery_is_recovered_from() {
    for seed in 0..60 {
        for call in 0..12 {
            let disk = SimDisk::new(512, seed);
            let mut known = Known::new();
            disk.fail_at(20 + seed % 30, Fault::PowerCut);
            let (mut rig, _) = Rig::open(&disk, at_ms(0)).unwrap();
            work(&mut rig, &mut known, seed, 60, false);
            drop(rig);
            disk.power_cycle();
            disk.clear_faults();
            disk.fail_at(disk.calls() + call, Fault::PowerCut);
            if let Ok((mut rig, _)) = Rig::open(&disk, at_ms(1)) {
                rig.settle();
            }
            disk.power_cycle();
            disk.clear_faults();
            let (mut rig, _) = Rig::open(&disk, at_ms(2)).unwrap();
            check(&mut rig, &known, &format!("seed {seed} call {call}"));
        }
    }
}

/// Volatile keys: no revision that was told of is given out twice, every durable write is there, and a
/// volatile key shows one of the values that it had.
#[test]
fn volatile_writes_may_be_lost_but_nothing_goes_back() {
    let mut lost = 0;
    for seed in 0..300 {
        let mut p = Prng::new(seed);
        let disk = SimDisk::new(512, seed);
        let (mut rig, _) = Rig::open(&disk, at_ms(0)).unwrap();
        let mut durable = Keys::new();
        let (mut told, mut last) = (1, String::new());
        disk.fail_at(disk.calls() + 5 + p.below(60), Fault::PowerCut);
        for n in 0..80 {
            let is_volatile = p.chance(2, 3);
            let (key, value) = (if is_volatile { "hb" } else { "obj" }, format!("{n}"));
            let ops = vec![super::put(key, &value)];
            let tag = rig.ask(if is_volatile { super::volatile(ops) } else { super::txn(ops) });
            while rig.step(&mut p) {}
            match rig.reply(tag) {
                Some(Reply::Txn { revision, .. }) => told = revision,
                None => break,
                Some(other) => panic!("{other:?}"),
            }
            if is_volatile {
                last = value;
            } else {
                let kv = rig.all(0).into_iter().find(|kv| kv.key == b"obj").unwrap();
                durable.insert(b"obj".to_vec(), kv);
            }
        }
        drop(rig);
        disk.power_cycle();
        disk.clear_faults();
        let (mut rig, _) = Rig::open(&disk, at_ms(5)).unwrap();
        rig.settle();
        assert!(rig.store.status().revision >= told, "seed {seed}");
        let found: Keys = rig.all(0).into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        if let Some(want) = durable.get(&b"obj"[..]) {
            // The write under way when the power went may be there too.
            let got = &found[&b"obj"[..]];
            assert!(
                got.mod_revision == want.mod_revision || got.mod_revision > told,
                "seed {seed}"
            );
        }
        if !last.is_empty() {
            let got = &found[&b"hb"[..]];
            lost += u64::from(got.value[..] != *last.as_bytes());
            assert!(rig.put("hb", "again") > told);
        }
    }
    assert!(lost > 0, "volatile writes were all on disk");
}

/// Volatile keys, leases and cleaning together: old segments hold the only durable values of keys whose newest
/// values are in memory, and the grants of leases that live on. No fault may lose a key or a lease by that.
#[test]
fn cleaning_keeps_what_only_old_segments_hold() {
    let mut removed = 0;
    for seed in 0..200 {
        let mut p = Prng::new(seed);
        let disk = SimDisk::new(512, seed);
        let (mut rig, _) = Rig::open(&disk, at_ms(0)).unwrap();
        rig.call(Request::LeaseGrant { id: 3, ttl_ms: 1_000_000 });
        let leased = super::Op::Put { key: "leased".into(), value: super::body("l"), lease: 3 };
        rig.call(super::txn(vec![leased]));
        rig.call(super::txn(vec![super::put("still", "s")]));
        for k in 0..3 {
            rig.call(super::volatile(vec![super::put(&format!("hb{k}"), "0")]));
        }
        let (mut told, mut n) = (rig.store.status().revision, 0);
        let fault = if p.chance(1, 2) { Fault::PowerCut } else { Fault::Eio };
        disk.fail_at(disk.calls() + p.below(160), fault);
        while !rig.disk.is_dead() && rig.fatal.is_none() && n < 200 {
            n += 1;
            let hb = vec![super::put(&format!("hb{}", p.below(3)), &n.to_string())];
            let tags = [
                rig.ask(super::txn(vec![super::put("churn", &"x".repeat(1500))])),
                rig.ask(super::volatile(hb)),
            ];
            if p.chance(1, 3) {
                let revision = rig.store.status().revision;
                rig.ask(Request::Compact { revision });
            }
            while rig.step(&mut p) {}
            for tag in tags {
                if let Some(Reply::Txn { revision, .. }) = rig.reply(tag) {
                    told = told.max(revision);
                }
            }
        }
        drop(rig);
        if p.chance(1, 2) {
            disk.power_cycle()
        } else {
            disk.process_restart()
        }
        disk.clear_faults();
        let (mut rig, _) = Rig::open(&disk, at_ms(1)).unwrap_or_else(|e| panic!("{seed}: {e}"));
        rig.settle();
        removed += u64::from(disk.contents("000000000001.wal").is_none());
        assert!(rig.store.status().revision >= told, "seed {seed}");
        for key in ["leased", "still", "hb0", "hb1", "hb2"] {
            assert!(rig.get(key).is_some(), "seed {seed}: {key} is lost after {n} rounds");
        }
        assert!(rig.put("churn", "again") > told);
        assert!(
            matches!(rig.call(Request::LeaseRevoke { id: 3 }), Reply::Done { .. }),
            "seed {seed}"
        );
        assert_eq!(rig.get("leased"), None, "seed {seed}: the key came off its lease");
    }
    assert!(removed > 50, "only {removed} runs removed the first segment");
}
