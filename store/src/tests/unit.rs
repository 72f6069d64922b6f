//! One promise a test.

use pintle_base::disk::SimDisk;
use pintle_wire::msg::store::{Compare, Durability, Error, Op, RangeRequest, Reply, Request};

use super::{Rig, at_ms, body, config, delete, put, range_at, txn, volatile, watch_from};
use crate::{Config, limits};

#[test]
fn a_new_store_is_at_revision_one() {
    let mut rig = Rig::new(1);
    assert_eq!(rig.store.status().revision, 1);
    assert_eq!(rig.put("a", "1"), 2);
}

#[test]
fn a_write_is_told_and_shown_only_when_durable() {
    let mut rig = Rig::new(1);
    let watch = rig.ask(watch_from(0));
    let write = rig.ask(txn(vec![put("a", "1")]));
    rig.collect();
    assert!(matches!(rig.reply(watch), Some(Reply::WatchCreated { from_revision: 2 })));
    assert_eq!((rig.commits.len(), rig.reply(write), rig.reply(watch)), (1, None, None));
    let read = rig.ask(range_at(b"a", b"", 0));
    rig.collect();
    assert!(matches!(rig.reply(read), Some(Reply::Range(1, r)) if r.count == 0));
    assert!(rig.run_job(true));
    assert!(matches!(rig.reply(write), Some(Reply::Txn { revision: 2, .. })));
    assert!(matches!(rig.reply(watch), Some(Reply::WatchEvents { revision: 2, .. })));
}

#[test]
fn waiting_writes_share_one_sync_and_a_single_one_is_not_delayed() {
    let mut rig = Rig::new(1);
    rig.ask(txn(vec![put("first", "1")]));
    rig.collect();
    assert_eq!(rig.commits.len(), 1, "the first leaves at once");
    for n in 0..50 {
        rig.ask(txn(vec![put(&format!("k{n}"), "1")]));
        rig.collect();
    }
    assert_eq!(rig.commits.len(), 1, "one batch is with the disk at a time");
    let calls = rig.disk.calls();
    rig.settle();
    assert_eq!(rig.disk.calls() - calls, 2 * 2 + 3, "two writes, two syncs, one new segment");
    assert_eq!(rig.store.status().revision, 52);
}

#[test]
fn a_failed_compare_answers_after_what_it_saw() {
    let mut rig = Rig::new(1);
    rig.ask(txn(vec![put("a", "1")]));
    let lost = rig.ask(Request::Txn {
        compare: vec![Compare::ModRevision(b"a".to_vec(), 0)],
        then: vec![put("a", "2")],
        otherwise: vec![Op::Range(RangeRequest { key: b"a".to_vec(), ..RangeRequest::default() })],
        durability: Durability::Durable,
    });
    rig.collect();
    assert_eq!(rig.reply(lost), None);
    rig.settle();
    match rig.reply(lost) {
        Some(Reply::Txn { succeeded: false, revision: 2, replies }) => {
            assert_eq!(replies.len(), 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn leases_expire_with_their_keys_and_survive_a_restart_with_their_time_to_live() {
    let mut rig = Rig::new(1);
    rig.call(Request::LeaseGrant { id: 7, ttl_ms: 100 });
    let leased = |k: &str| Op::Put { key: k.into(), value: body("x"), lease: 7 };
    rig.call(txn(vec![leased("a"), leased("b"), put("c", "x")]));
    rig.now = at_ms(90);
    assert_eq!(rig.call(Request::LeaseKeepAlive { id: 7 }), Reply::Lease { id: 7, ttl_ms: 100 });
    rig.store.handle_timeout(at_ms(150));
    rig.settle();
    assert!(rig.get("a").is_some());
    let disk = rig.close();
    disk.process_restart();
    let (mut rig, _) = Rig::open(&disk, at_ms(10_000)).unwrap();
    assert_eq!(rig.store.poll_timeout(), Some(at_ms(10_100).mono));
    rig.now = at_ms(10_100);
    rig.store.handle_timeout(rig.now);
    rig.settle();
    assert_eq!((rig.get("a"), rig.get("b"), rig.get("c").is_some()), (None, None, true));
    let gone = Reply::Error(Error::LeaseNotFound(7));
    assert_eq!(rig.call(Request::LeaseKeepAlive { id: 7 }), gone);
    let disk = rig.close();
    disk.process_restart();
    let (mut rig, _) = Rig::open(&disk, at_ms(20_000)).unwrap();
    assert_eq!(rig.call(Request::LeaseRevoke { id: 7 }), gone);
}

#[test]
fn heartbeats_do_not_touch_the_disk() {
    let mut rig = Rig::new(1);
    rig.call(volatile(vec![put("hb", "0")]));
    let watch = rig.ask(watch_from(0));
    rig.settle();
    let calls = rig.disk.calls();
    for n in 0..1000 {
        rig.call(volatile(vec![put("hb", &n.to_string())]));
    }
    assert_eq!(rig.disk.calls(), calls);
    assert_eq!(rig.get("hb").as_deref(), Some("999"));
    assert_eq!(rig.replies[&watch].len(), 1001);
    for n in 0..limits::RESERVE_REVISIONS {
        rig.call(volatile(vec![put("hb", &n.to_string())]));
    }
    assert_eq!(rig.disk.calls() - calls, 2, "one reservation in as many revisions");
    let revision = rig.store.status().revision;
    let disk = rig.close();
    disk.process_restart();
    let (mut rig, recovery) = Rig::open(&disk, at_ms(1)).unwrap();
    assert_eq!((recovery.clean, recovery.revision), (true, revision + 1));
    assert_eq!(rig.get("hb").as_deref(), Some("4095"));
}

#[test]
fn a_killed_store_gives_volatile_keys_a_new_revision() {
    let mut rig = Rig::new(1);
    rig.call(volatile(vec![put("hb", "first")]));
    rig.call(volatile(vec![put("hb", "second")]));
    let told = rig.store.status().revision;
    let disk = rig.disk;
    disk.process_restart();
    let (mut rig, recovery) = Rig::open(&disk, at_ms(1)).unwrap();
    assert!(!recovery.clean && recovery.revision > told);
    let watch = rig.ask(watch_from(told + 1));
    rig.settle();
    assert!(matches!(rig.reply(watch), Some(Reply::WatchCreated { .. })));
    match rig.reply(watch) {
        Some(Reply::WatchEvents { events, .. }) => {
            assert_eq!(events[0].kv.value, body("first"));
            assert!(events[0].kv.mod_revision > told);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_refuses_puts_and_lets_deletes_reads_and_watches_go_on() {
    let mut rig = Rig::new(1);
    rig.put("a", "1");
    rig.disk.set_full(true);
    let watch = rig.ask(watch_from(0));
    let mut refused = None;
    for n in 0..500 {
        let reply = rig.call(txn(vec![put(&format!("k{n}"), "some value to fill the segments")]));
        if matches!(reply, Reply::Error(Error::NoSpace(_))) {
            refused = Some(n);
            break;
        }
    }
    let refused = refused.expect("a full disk was never noticed");
    assert!(rig.full);
    // However often it is tried, the last part of the segment stays free for deletes.
    for n in 0..100 {
        let reply = rig.call(txn(vec![put(&format!("k{n}"), "some value to fill the segments")]));
        assert!(matches!(reply, Reply::Error(Error::NoSpace(_))));
    }
    assert!(rig.get("a").is_some());
    assert!(matches!(rig.call(txn(vec![delete("k0")])), Reply::Txn { .. }));
    let revision = rig.store.status().revision;
    assert!(matches!(rig.call(Request::Compact { revision }), Reply::Done { .. }));
    assert!(rig.replies[&watch].len() > refused, "watchers saw all of it");
    rig.disk.set_full(false);
    // The first refused write after there is space again starts the try that succeeds.
    rig.call(txn(vec![put("b", "1")]));
    assert!(matches!(rig.call(txn(vec![put("b", "1")])), Reply::Txn { .. }));
    assert!(!rig.full);
    let disk = rig.close();
    disk.process_restart();
    assert!(Rig::open(&disk, at_ms(1)).unwrap().0.get("b").is_some());
}

#[test]
fn a_watch_that_is_not_read_ends_when_history_goes() {
    let mut rig = Rig::new(1);
    rig.put("a", "1");
    let watch = rig.ask(watch_from(2));
    // Takes the events and does not say that they were sent.
    while rig.store.poll_output().is_some() {}
    for n in 0..5 {
        rig.put("a", &n.to_string());
    }
    let revision = rig.store.status().revision;
    rig.call(Request::Compact { revision });
    rig.store.watch_sent(watch, rig.now);
    rig.settle();
    let want = Reply::Error(Error::Compacted { compact_revision: revision });
    assert_eq!(rig.reply(watch), Some(want.clone()));
    let late = rig.ask(watch_from(revision));
    rig.settle();
    assert_eq!(rig.reply(late), Some(want));
}

#[test]
fn idle_watchers_are_told_how_far_the_store_is() {
    let mut rig = Rig::new(1);
    let watch = rig.ask(Request::Watch {
        key: b"other".to_vec(),
        range_end: Vec::new(),
        from_revision: 0,
        prev_kv: false,
    });
    rig.put("a", "1");
    rig.reply(watch);
    assert_eq!(rig.reply(watch), None);
    let at = rig.store.poll_timeout().unwrap();
    rig.now.mono = at;
    rig.store.handle_timeout(rig.now);
    rig.settle();
    assert_eq!(rig.reply(watch), Some(Reply::WatchProgress { revision: 2 }));
    assert_eq!(rig.store.poll_timeout(), None, "nothing ticks when nothing happens");
}

#[test]
fn history_is_bounded_by_size_and_age() {
    let small = Config { history_bytes: 10_000, ..config() };
    let disk = SimDisk::new(512, 1);
    let mut rig = Rig::open_with(&disk, small, at_ms(0)).unwrap().0;
    for n in 0..400 {
        rig.put("a", &n.to_string());
    }
    let status = rig.store.status();
    assert!(status.compact_revision > 200 && status.compact_revision < status.revision - 50);
    let mut rig = Rig::new(2);
    rig.put("a", "1");
    rig.now = at_ms(120_000);
    rig.put("a", "2");
    rig.now = at_ms(23 * 3_600_000);
    rig.put("a", "3");
    assert_eq!(rig.store.status().compact_revision, 1);
    rig.now = at_ms(25 * 3_600_000);
    rig.put("a", "4");
    assert_eq!(rig.store.status().compact_revision, 3);
}

#[test]
fn limits_are_named() {
    let mut rig = Rig::open_with(&SimDisk::new(512, 1), Config::default(), at_ms(0)).unwrap().0;
    let long = "k".repeat(limits::KEY_BYTES_MAX + 1);
    let large = "v".repeat(limits::VALUE_BYTES_MAX + 1);
    let ops = (0..=limits::TXN_OPS_MAX).map(|n| put(&n.to_string(), "")).collect();
    let many = (0..3).map(|n| put(&n.to_string(), &large[1..])).collect();
    for request in [txn(vec![put(&long, "")]), txn(vec![put("a", &large)]), txn(ops), txn(many)] {
        assert!(matches!(rig.call(request), Reply::Error(Error::TooLarge(_))));
    }
    for request in [txn(vec![put("", "")]), txn(vec![put("a", ""), put("a", "")])] {
        assert!(matches!(rig.call(request), Reply::Error(Error::Invalid(_))));
    }
    assert!(matches!(rig.call(txn(vec![put("a", &large[1..])])), Reply::Txn { .. }));
}

/// A thousand segments' worth of writes over a few live keys, restarted now and then: the log stays short,
/// and what was put once at the start is there at the end.
#[test]
fn the_log_does_not_grow_without_bound() {
    let disk = SimDisk::new(512, 1);
    let mut rig = Rig::open(&disk, at_ms(0)).unwrap().0;
    rig.call(Request::LeaseGrant { id: 5, ttl_ms: 1_000_000 });
    rig.call(txn(vec![Op::Put { key: "leased".into(), value: body("l"), lease: 5 }]));
    rig.put("old", "from the first segment");
    rig.call(volatile(vec![put("hb", "0")]));
    rig.put("gone", "to be deleted");
    let mut most = 0;
    for n in 0..3000u64 {
        rig.put("busy", &format!("{n} {}", "x".repeat(300)));
        if n % 10 == 0 {
            rig.call(volatile(vec![put("hb", &n.to_string())]));
        }
        if n == 100 {
            rig.call(txn(vec![delete("gone")]));
        }
        if n % 20 == 0 {
            let revision = rig.store.status().revision;
            rig.call(Request::Compact { revision });
            most = most.max(rig.store.status().disk_bytes);
        }
        if n % 500 == 499 {
            if n % 1000 == 999 {
                rig.close();
            }
            disk.process_restart();
            rig = Rig::open(&disk, at_ms(n)).unwrap().0;
        }
    }
    assert!(most < 12 * 8192, "{most}");
    assert!(
        !pintle_base::disk::Disk::list(&disk).unwrap().contains(&"000000000001.wal".to_owned())
    );
    assert_eq!(rig.get("old").as_deref(), Some("from the first segment"));
    assert_eq!(rig.get("gone"), None);
    assert!(rig.get("hb").is_some());
    assert_eq!(
        rig.call(Request::LeaseRevoke { id: 5 }),
        Reply::Done { revision: rig.store.status().revision }
    );
    assert_eq!(rig.get("leased"), None);
    let kv = rig.all(0).into_iter().find(|kv| kv.key == b"old").unwrap();
    assert_eq!((kv.version, kv.create_revision, kv.mod_revision), (1, 3, 3));
}

/// A loop that asks for the next deadline must not spin while the last writes are synced.
#[test]
fn a_closing_store_has_no_deadline() {
    let mut rig = Rig::new(1);
    rig.call(Request::LeaseGrant { id: 1, ttl_ms: 5 });
    assert!(rig.store.poll_timeout().is_some());
    rig.store.close(at_ms(10));
    assert_eq!(rig.store.poll_timeout(), None);
}
