//! Torn tails are cut and told of; damage in the middle is refused with its place.

use pintle_base::Prng;
use pintle_base::disk::SimDisk;

use super::{Rig, at_ms};
use crate::job::segment_name;
use crate::{OpenError, inspect};

/// A store with `n` single writes, each a batch of its own. The file is returned with the last used byte.
fn written(n: usize) -> (SimDisk, usize) {
    let mut rig = Rig::new(1);
    for i in 0..n {
        rig.put(&format!("k{i}"), "some value that takes a little room");
    }
    let disk = rig.disk;
    let bytes = disk.contents(&segment_name(1)).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
    disk.process_restart();
    (disk, end)
}

#[test]
fn a_torn_tail_is_cut_and_reported() {
    let (disk, end) = written(10);
    disk.corrupt(&segment_name(1), end - 10, |b| b[0] ^= 1);
    let (mut rig, recovery) = Rig::open(&disk, at_ms(1)).unwrap();
    let (name, at) = recovery.torn_at.unwrap();
    assert_eq!(name, segment_name(1));
    assert!(recovery.torn_bytes > 40 && (at as usize) < end);
    assert_eq!((rig.get("k8").is_some(), rig.get("k9")), (true, None));
    rig.put("k9", "again");
    disk.process_restart();
    let (mut rig, recovery) = Rig::open(&disk, at_ms(2)).unwrap();
    assert_eq!((recovery.torn_at, rig.get("k9").as_deref()), (None, Some("again")));
}

#[test]
fn damage_in_the_middle_names_its_place_and_changes_nothing() {
    for offset in [4, 30, 70, 90, 150, 300, 500, 700] {
        let (disk, end) = written(10);
        assert!(offset < end - 200);
        disk.corrupt(&segment_name(1), offset, |b| b[0] ^= 0x80);
        let before = disk.contents(&segment_name(1));
        match Rig::open(&disk, at_ms(1)) {
            Err(OpenError::Damaged { segment, offset: at, why }) => {
                assert_eq!(segment, segment_name(1));
                assert!(
                    at as usize <= offset && offset - (at as usize) < 160,
                    "{at} {offset} {why}"
                );
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("damage at {offset} was not noticed"),
        }
        assert_eq!(disk.contents(&segment_name(1)), before);
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let mut rig = Rig::new(1);
    for i in 0..200 {
        rig.put(&format!("k{i}"), "some value that takes a little room");
    }
    let disk = rig.disk;
    disk.process_restart();
    pintle_base::disk::Disk::remove(&disk, &segment_name(2)).unwrap();
    let error = Rig::open(&disk, at_ms(1)).err().unwrap().to_string();
    assert!(error.contains(&segment_name(2)) && error.contains("fsck"), "{error}");
}

/// Random damage anywhere never panics; it is refused, or it struck the tail.
#[test]
fn random_damage_never_panics() {
    let mut p = Prng::new(9);
    let (mut refused, mut opened) = (0, 0);
    for _ in 0..400 {
        let (disk, end) = written(6);
        for _ in 0..1 + p.below(3) {
            let at = p.below(end as u64) as usize;
            let byte = p.next_u64() as u8;
            disk.corrupt(&segment_name(1), at, |b| b[0] = byte);
        }
        match Rig::open(&disk, at_ms(1)) {
            Ok((mut rig, _)) => {
                rig.all(0);
                opened += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 100 && opened > 10, "{refused} {opened}");
}

/// Repair cuts at the damage, keeps what it cuts, and what lies before survives; then the store works.
#[test]
fn repair_cuts_at_the_damage_and_keeps_the_bytes_aside() {
    let mut rig = Rig::new(1);
    for i in 0..150 {
        rig.put(&format!("k{i}"), "some value that takes a little room");
    }
    let disk = rig.disk;
    disk.process_restart();
    let name = segment_name(2);
    let whole = disk.contents(&name).unwrap();
    disk.corrupt(&name, 4000, |b| b[0] ^= 1);
    let Err(OpenError::Damaged { segment, offset, .. }) = inspect::fsck(&disk) else {
        panic!("the damage was not found");
    };
    assert_eq!(segment, name);
    let lines = inspect::repair(&disk, &segment, offset).unwrap();
    assert!(lines.iter().any(|l| l.contains("copy kept as")), "{lines:?}");
    let aside = disk.contents(&format!("{name}.damaged")).unwrap();
    assert_eq!(aside.iter().zip(&whole).filter(|(a, b)| a != b).count(), 1);
    let checked = inspect::fsck(&disk).unwrap();
    assert!(checked.keys > 60 && checked.keys < 150, "{checked:?}");
    let (mut rig, recovery) = Rig::open(&disk, at_ms(1)).unwrap();
    assert_eq!(recovery.keys, checked.keys);
    assert!(rig.get("k0").is_some() && rig.get("k149").is_none());
    rig.put("k149", "again");
    let disk = rig.close();
    disk.process_restart();
    assert!(inspect::fsck(&disk).unwrap().clean);
}

#[test]
fn dump_prints_every_operation() {
    let mut rig = Rig::new(1);
    rig.put("a", "x\n");
    rig.call(super::volatile(vec![super::put("hb", "1")]));
    rig.call(super::txn(vec![super::delete("a")]));
    let disk = rig.close();
    disk.process_restart();
    let mut lines = Vec::new();
    inspect::dump(&disk, true, &mut |l| lines.push(l.to_owned())).unwrap();
    let ops: Vec<&str> = lines.iter().filter_map(|l| l.strip_prefix("  ")).collect();
    assert_eq!(
        ops,
        [
            "put a create=2 version=1 lease=0 bytes=2 value=x\\n",
            "put hb create=3 version=1 lease=0 bytes=1 volatile value=1",
            "reserve 4099",
            "delete a",
            "clean",
        ]
    );
}
