//! The writing side of the log: batches, segments, and who waits for what. No I/O: a sealed batch leaves as
//! a [`CommitJob`], its end comes back by [`Log::committed`].
//!
//! One batch is with the disk at a time; meanwhile new records gather in the open batch. That is all there is
//! to group commit: a single writer's batch leaves at once, and under load a batch holds whatever came while
//! the one before was being synced. A batch lies in one segment, and is written only after the one before is
//! on disk: recovery tells a torn tail from damage by that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use pintle_base::disk::File;

use crate::index::Place;
use crate::record::{self, LogOp, RecordWriter, SEGMENT_HEADER_BYTES, SegmentHeader};

/// A segment that exists on disk.
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn File>,
    pub(crate) size_bytes: u64,
    /// The store's revision when its last record was made, once the next one was begun.
    pub(crate) last_revision: u64,
}

/// Where the next record goes and what it is chained to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    /// 0 = the segment's header is still to be written.
    pub(crate) offset: u64,
    pub(crate) prev_crc: u32,
    /// Number of the next batch.
    pub(crate) batch: u64,
}

/// A batch under construction.
struct Batch {
    /// Position before it, to go back to when the disk was full.
    before: Position,
    bytes: Vec<u8>,
    /// Where its newest record begins, which is sealed when the next one or the end comes.
    newest: usize,
    /// Checksum of the record before the newest.
    chain: u32,
    /// First revision that it makes, 0 = none.
    first_revision: u64,
}

/// Bytes on their way to the disk.
pub(crate) struct CommitJob {
    pub(crate) number: u64,
    pub(crate) file: Arc<dyn File>,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) segment: u64,
}

/// Whether a record can be written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Yes.
    Yes,
    /// When the next segment is there.
    Wait,
    /// Not before somebody makes space.
    NoSpace,
}

/// How the next segment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Idle,
    Preparing,
    NoSpace,
}

pub(crate) struct Log {
    pub(crate) store_id: u64,
    pub(crate) segments: BTreeMap<u64, Segment>,
    segment_bytes: u64,
    /// End of everything that was given to a batch.
    end: Position,
    open: Option<Batch>,
    sealed: VecDeque<Batch>,
    in_flight: Option<Batch>,
    next: Next,
    /// The last try to make a segment found no space.
    full: bool,
}

impl Log {
    pub(crate) fn new(
        store_id: u64,
        segments: BTreeMap<u64, Segment>,
        segment_bytes: u64,
        end: Position,
    ) -> Log {
        Log {
            store_id,
            segments,
            segment_bytes,
            end,
            open: None,
            sealed: VecDeque::new(),
            in_flight: None,
            next: Next::Idle,
            full: false,
        }
    }

    /// The current segment has `bytes` left, or the next one is there. Records that only `frees` memory or
    /// space may use the last part of a segment that has no successor.
    pub(crate) fn room(&self, bytes: usize, frees: bool) -> Room {
        let has_next = self.segments.contains_key(&(self.end.segment + 1));
        let left = self.left();
        let spare = if self.full && !has_next && !frees { self.segment_bytes / 16 } else { 0 };
        if bytes as u64 + spare <= left || has_next {
            Room::Yes
        } else if self.next == Next::NoSpace {
            Room::NoSpace
        } else {
            Room::Wait
        }
    }

    fn left(&self) -> u64 {
        let size = self.segments.get(&self.end.segment).map_or(0, |s| s.size_bytes);
        size.saturating_sub(self.end.offset.max(SEGMENT_HEADER_BYTES as u64))
    }

    /// Bytes that a record of these operations takes.
    pub(crate) fn record_bytes(ops_bytes: usize) -> usize {
        (record::RECORD_HEADER_BYTES + ops_bytes).next_multiple_of(record::ALIGN)
    }

    /// Appends a record; `room` said yes. Answers the places of the values, one an operation. `makes` says
    /// that puts or deletes in it make `revision`.
    pub(crate) fn append(
        &mut self,
        ops: &[LogOp<'_>],
        revision: u64,
        makes: bool,
        wall_ns: i64,
    ) -> Vec<Place> {
        let need = Self::record_bytes(ops.iter().map(LogOp::encoded_bytes).sum());
        if need as u64 > self.left() {
            self.seal_open();
            if let Some(s) = self.segments.get_mut(&self.end.segment) {
                s.last_revision = if makes { revision - 1 } else { revision };
            }
            self.end.segment += 1;
            self.end.offset = 0;
        }
        if self.open.is_none() {
            self.begin(if makes { revision - 1 } else { revision });
        }
        let Some(batch) = self.open.as_mut() else { return Vec::new() };
        if batch.newest != usize::MAX {
            batch.chain =
                record::seal(&mut batch.bytes[batch.newest..], self.store_id, batch.chain, false);
        }
        let base = batch.before.offset;
        let mut writer = RecordWriter::begin(&mut batch.bytes);
        let places = ops
            .iter()
            .map(|op| Place {
                segment: self.end.segment as u32,
                offset: (base + writer.push(op) as u64) as u32,
            })
            .collect();
        batch.newest = writer.end(batch.before.batch, revision, wall_ns);
        if makes && batch.first_revision == 0 {
            batch.first_revision = revision;
        }
        self.end.offset = base + batch.bytes.len() as u64;
        places
    }

    fn begin(&mut self, revision: u64) {
        let mut bytes = Vec::new();
        if self.end.offset == 0 {
            let header = SegmentHeader {
                number: self.end.segment,
                store_id: self.store_id,
                revision,
                batch: self.end.batch,
                prev_crc: self.end.prev_crc,
            };
            bytes.extend_from_slice(&header.encode());
        }
        self.open = Some(Batch {
            before: self.end,
            bytes,
            newest: usize::MAX,
            chain: self.end.prev_crc,
            first_revision: 0,
        });
    }

    fn seal_open(&mut self) {
        if let Some(mut batch) = self.open.take() {
            batch.chain =
                record::seal(&mut batch.bytes[batch.newest..], self.store_id, batch.chain, true);
            self.end.prev_crc = batch.chain;
            self.end.batch = batch.before.batch + 1;
            self.sealed.push_back(batch);
        }
    }

    /// The next batch for the disk, when it has none. Call it when all requests that are there were handled.
    pub(crate) fn take_commit(&mut self) -> Option<CommitJob> {
        if self.in_flight.is_some() {
            return None;
        }
        if self.sealed.is_empty() {
            self.seal_open();
        }
        let mut batch = self.sealed.pop_front()?;
        let file = Arc::clone(&self.segments.get(&batch.before.segment)?.file);
        let job = CommitJob {
            number: batch.before.batch,
            file,
            offset: batch.before.offset,
            bytes: std::mem::take(&mut batch.bytes),
            segment: batch.before.segment,
        };
        self.in_flight = Some(batch);
        Some(job)
    }

    /// The batch with the disk is durable. Answers its number.
    pub(crate) fn committed(&mut self) -> Option<u64> {
        self.in_flight.take().map(|b| b.before.batch)
    }

    /// The batch with the disk was not written for want of space: it and all after it are forgotten.
    pub(crate) fn roll_back(&mut self) {
        if let Some(batch) = self.in_flight.take() {
            self.end = batch.before;
            self.open = None;
            self.sealed.clear();
        }
    }

    /// Number of the batch that the newest record is in, when that is not yet durable.
    pub(crate) fn pending_batch(&self) -> Option<u64> {
        (self.open.as_ref())
            .or(self.sealed.back())
            .or(self.in_flight.as_ref())
            .map(|b| b.before.batch)
    }

    /// The lowest revision that waits for the disk.
    pub(crate) fn first_pending_revision(&self) -> Option<u64> {
        (self.in_flight.iter().chain(&self.sealed).chain(&self.open))
            .map(|b| b.first_revision)
            .find(|r| *r != 0)
    }

    /// First byte that is not yet durable.
    pub(crate) fn durable_end(&self) -> Place {
        let at = (self.in_flight.as_ref())
            .or(self.sealed.front())
            .or(self.open.as_ref())
            .map_or(self.end, |b| b.before);
        Place { segment: at.segment as u32, offset: at.offset as u32 }
    }

    /// Number and size of the segment to prepare now, if one is missing.
    pub(crate) fn take_prepare(&mut self) -> Option<(u64, u64)> {
        let number = self.end.segment + 1;
        if self.next != Next::Idle || self.segments.contains_key(&number) {
            return None;
        }
        self.next = Next::Preparing;
        Some((number, self.segment_bytes))
    }

    /// A segment was prepared, or there was no space for it.
    pub(crate) fn prepared(&mut self, number: u64, size_bytes: u64, file: Option<Arc<dyn File>>) {
        self.full = file.is_none();
        self.next = match file {
            Some(file) => {
                self.segments.insert(number, Segment { file, size_bytes, last_revision: 0 });
                Next::Idle
            }
            None => Next::NoSpace,
        };
    }

    /// Somebody asks for space again: one more try.
    pub(crate) fn retry_prepare(&mut self) {
        if self.next == Next::NoSpace {
            self.next = Next::Idle;
        }
    }

    /// The oldest segment, when everything after it does not begin in the one that is written now: its number
    /// and the revision after its last record.
    pub(crate) fn oldest(&self) -> Option<(u64, u64)> {
        let (number, segment) = self.segments.first_key_value()?;
        (*number < u64::from(self.durable_end().segment))
            .then_some((*number, segment.last_revision))
    }

    /// Bytes of the largest record that fits a new segment.
    pub(crate) fn largest_record(&self) -> usize {
        self.segment_bytes as usize - SEGMENT_HEADER_BYTES
    }

    /// There was no space for the next segment at the last try.
    pub(crate) fn no_space(&self) -> bool {
        self.full
    }

    /// Bytes of the segments before the one that is written now.
    pub(crate) fn closed_bytes(&self) -> u64 {
        self.segments.range(..self.end.segment).map(|(_, s)| s.size_bytes).sum()
    }

    /// Bytes of all segments.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.segments.values().map(|s| s.size_bytes).sum()
    }
}
