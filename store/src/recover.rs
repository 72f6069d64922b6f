//! Opens a data directory: reads the log into an index, cuts a torn tail, makes sure that all of what was
//! read is on disk before anybody is told of it.

use std::collections::{BTreeMap, VecDeque};

use pintle_base::Now;
use pintle_base::disk::{self, Disk};

use crate::error::OpenError;
use crate::index::{Index, Place, Version};
use crate::job::{TEMPORARY, segment_name};
use crate::lease::Leases;
use crate::limits;
use crate::log::{Log, Position, Segment};
use crate::record::{self, Bad, LogOp, PutOp, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::scan::{self, Record, Scan};

/// Revision of a store that nothing was ever written to. Not 0, which means "now" in requests.
const FIRST_REVISION: u64 = 1;

/// What opening found, for the log line and for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records read.
    pub records: u64,
    /// The store's revision.
    pub revision: u64,
    /// Live keys.
    pub keys: u64,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    /// File name and offset where they were.
    pub torn_at: Option<(String, u64)>,
    /// The store had been closed in order.
    pub clean: bool,
    /// The directory was empty.
    pub new: bool,
}

/// Everything that the log says.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) leases: Leases,
    pub(crate) head: u64,
    pub(crate) compact: u64,
    pub(crate) ceiling: u64,
    pub(crate) clean: bool,
    /// Wall time and revision, about a minute apart: for history by age.
    pub(crate) marks: VecDeque<(i64, u64)>,
}

pub(crate) struct Opened {
    pub(crate) state: State,
    pub(crate) log: Log,
    pub(crate) recovery: Recovery,
}

/// Opens or makes the store in `disk`.
pub(crate) fn open(
    disk: &dyn Disk,
    segment_bytes: u64,
    store_id: u64,
    now: Now,
) -> Result<Opened, OpenError> {
    remove_unfinished(disk)?;
    let mut state = State::default();
    let scan = scan::scan(disk, &mut |record| state.apply(record, now))?;
    state.attach_leases();
    let new = scan.segments.is_empty();
    let mut end = scan.end;
    let mut segments = BTreeMap::new();
    if new {
        end.segment = 1;
        end.offset = SEGMENT_HEADER_BYTES as u64;
        let size = limits::FIRST_SEGMENT_BYTES.min(segment_bytes);
        segments.insert(1, first_segment(disk, size, store_id)?);
    }
    for (number, size_bytes, last_revision) in &scan.segments {
        let name = segment_name(*number);
        let file = disk.open(&name).map_err(|e| OpenError::io(format!("open {name}"), e))?;
        let segment = Segment { file, size_bytes: *size_bytes, last_revision: *last_revision };
        segments.insert(*number, segment);
    }
    let first_revision = scan.first.map_or(FIRST_REVISION, |first| first.revision);
    state.compact = state.compact.max(first_revision);
    state.head = state.head.max(first_revision);
    settle_end(&scan, end, &segments)?;
    state.head = state.head.max(state.ceiling);
    let recovery = Recovery {
        records: scan.records,
        revision: state.head,
        keys: state.index.live(),
        torn_bytes: scan.torn.iter().map(|(_, from, to)| to - from).sum(),
        torn_at: scan.torn.first().map(|(n, from, _)| (segment_name(*n), *from)),
        clean: state.clean,
        new,
    };
    let store_id = scan.first.map_or(store_id, |f| f.store_id);
    Ok(Opened { state, log: Log::new(store_id, segments, segment_bytes, end), recovery })
}

fn remove_unfinished(disk: &dyn Disk) -> Result<(), OpenError> {
    let names = disk.list().map_err(|e| OpenError::io("list the data directory", e))?;
    for name in names.iter().filter(|n| n.ends_with(TEMPORARY)) {
        disk.remove(name).map_err(|e| OpenError::io(format!("remove {name}"), e))?;
    }
    Ok(())
}

/// The first segment has its header from the start, so that a store is never without its identity.
fn first_segment(disk: &dyn Disk, size_bytes: u64, store_id: u64) -> Result<Segment, OpenError> {
    let header =
        SegmentHeader { number: 1, store_id, revision: FIRST_REVISION, batch: 1, prev_crc: 0 };
    let name = segment_name(1);
    let temporary = format!("{name}{TEMPORARY}");
    let make = || {
        let file = disk.create(&temporary, size_bytes)?;
        file.write_at(&header.encode(), 0)?;
        file.sync_data()?;
        disk.rename(&temporary, &name)?;
        disk.sync_dir()?;
        Ok(file)
    };
    let file = make().map_err(|e| {
        // Nothing half made stays behind; what cannot be removed now is removed at the next start.
        let _ = disk.remove(&temporary);
        OpenError::io(format!("make {name} of {size_bytes} bytes"), e)
    })?;
    Ok(Segment { file, size_bytes, last_revision: 0 })
}

/// Cuts the torn tail, and writes the last batch again: if the sync before it failed, the system may show
/// bytes that the device does not have.
fn settle_end(
    scan: &Scan,
    end: Position,
    segments: &BTreeMap<u64, Segment>,
) -> Result<(), OpenError> {
    for (number, from, to) in scan.torn.iter().rev() {
        let Some(segment) = segments.get(number) else { continue };
        let zeros = vec![0; (to - from) as usize];
        (segment.file.write_at(&zeros, *from))
            .and_then(|()| if *number == end.segment { Ok(()) } else { segment.file.sync_data() })
            .map_err(|e| {
                OpenError::io(format!("cut the torn tail of {}", segment_name(*number)), e)
            })?;
    }
    let Some(segment) = segments.get(&end.segment) else { return Ok(()) };
    let settle = || {
        let len = end.offset.saturating_sub(scan.last_batch) as usize;
        let bytes = disk::read_exact_at(&*segment.file, scan.last_batch, len)?;
        segment.file.write_at(&bytes, scan.last_batch)?;
        segment.file.sync_data()
    };
    settle().map_err(|e| OpenError::io(format!("sync {}", segment_name(end.segment)), e))
}

impl State {
    /// Takes one record.
    pub(crate) fn apply(&mut self, record: &Record<'_>, now: Now) -> Result<(), Bad> {
        let revision = record.header.revision;
        self.clean = false;
        for op in record::operations(record.bytes, &record.header) {
            match op? {
                LogOp::Put(PutOp { version: 0, .. })
                | LogOp::Relocate { put: PutOp { version: 0, .. }, .. } => {
                    return Err(Bad("put of version 0"));
                }
                LogOp::Put(put) => self.put(&put, revision, record),
                LogOp::Delete(key) => {
                    if self.index.latest(key).is_some() {
                        self.index.push(key, Version::tombstone(revision));
                    }
                }
                LogOp::LeaseGrant { id, ttl_ms } => {
                    if !self.leases.contains(id) {
                        self.leases.grant(id, ttl_ms, now.mono);
                    }
                }
                LogOp::LeaseRevoke(id) => {
                    self.leases.remove(id);
                }
                LogOp::Compact(to) => {
                    if to > revision {
                        return Err(Bad("compaction above the revision"));
                    }
                    self.index.compact(to, |_| {}, |_| false);
                    self.compact = self.compact.max(to);
                }
                LogOp::Reserve(ceiling) => self.ceiling = self.ceiling.max(ceiling),
                LogOp::Relocate { put, mod_revision } => {
                    let v = version(&put, mod_revision, record);
                    self.index.relocate(put.key, v);
                }
                LogOp::Clean => {
                    self.clean = true;
                    self.ceiling = revision;
                }
            }
        }
        self.head = self.head.max(revision);
        mark(&mut self.marks, record.header.wall_ns, revision);
        Ok(())
    }

    fn put(&mut self, put: &PutOp<'_>, revision: u64, record: &Record<'_>) {
        self.index.push(put.key, version(put, revision, record));
    }

    /// Hangs the keys on their leases. Only now, because a lease that was made again by cleaning comes after
    /// its keys in the log.
    fn attach_leases(&mut self) {
        for (key, v) in self.index.heads().filter(|(_, v)| v.lease != 0) {
            self.leases.attach(key, 0, v.lease);
        }
    }
}

fn version(put: &PutOp<'_>, mod_revision: u64, record: &Record<'_>) -> Version {
    Version {
        mod_revision,
        create_revision: put.create_revision,
        lease: put.lease,
        place: Place {
            segment: record.segment as u32,
            offset: (record.offset + put.value_offset as u64) as u32,
        },
        version: u32::try_from(put.version).unwrap_or(u32::MAX),
        len: put.value.len() as u32,
        crc: put.value_crc,
        volatile: put.volatile,
    }
}

/// Notes that the store was at `revision` at this time, once a minute.
pub(crate) fn mark(marks: &mut VecDeque<(i64, u64)>, wall_ns: i64, revision: u64) {
    const MINUTE_NS: i64 = 60_000_000_000;
    if marks.back().is_none_or(|(at, _)| wall_ns - at >= MINUTE_NS) {
        marks.push_back((wall_ns, revision));
    }
}
