//! Reads the log from its first segment to its end, without changing anything, and judges the end: whole,
//! torn by a crash, or damaged.
//!
//! The judgement rests on how the log is written: batch n+1 is given to the disk only after batch n is on it.
//! So when batch n is the last whole one, records of batch n+1 behind it may be the rest of a torn write, but
//! a valid record of batch n+2 proves that something durable is gone. A batch that is not whole counts as
//! nothing, though some of its records may be: nobody was told of any of them.

use pintle_base::disk::{self, Disk};

use crate::error::OpenError;
use crate::job::{segment_name, segment_number};
use crate::log::Position;
use crate::record::{ALIGN, Bad, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader};

/// A record in its segment, as the visitor gets it.
pub(crate) struct Record<'a> {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) header: RecordHeader,
    /// From the record's first byte to the end of its segment.
    pub(crate) bytes: &'a [u8],
}

/// What the scan found.
pub(crate) struct Scan {
    /// From the first segment's header; `None` when there is no segment that was ever written to.
    pub(crate) first: Option<SegmentHeader>,
    /// Where the log ends.
    pub(crate) end: Position,
    /// Where the last batch begins, in `end.segment`.
    pub(crate) last_batch: u64,
    /// Bytes behind the end that are not zero: the torn tail, as (segment, first, last + 1).
    pub(crate) torn: Vec<(u64, u64, u64)>,
    /// Every segment with its size and the revision after its last record, in order.
    pub(crate) segments: Vec<(u64, u64, u64)>,
    /// Records read.
    pub(crate) records: u64,
}

/// State of the walk, after a whole batch.
struct Walk {
    chain: u32,
    batch: u64,
    revision: u64,
    last_batch: u64,
    records: u64,
}

fn damaged(segment: u64, offset: u64, why: impl Into<String>) -> OpenError {
    OpenError::Damaged { segment: segment_name(segment), offset, why: why.into() }
}

/// Numbers of the segments on disk, in order and without a hole.
fn segment_numbers(disk: &dyn Disk) -> Result<Vec<u64>, OpenError> {
    let names = disk.list().map_err(|e| OpenError::io("list the data directory", e))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| segment_number(n)).collect();
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if pair[1] != pair[0] + 1 {
            return Err(damaged(pair[0] + 1, 0, "the segment is missing"));
        }
    }
    Ok(numbers)
}

/// Reads a segment, at most `bytes_max` bytes of it, into `buffer`.
fn load(
    disk: &dyn Disk,
    number: u64,
    bytes_max: usize,
    buffer: &mut Vec<u8>,
) -> Result<(), OpenError> {
    let name = segment_name(number);
    let mut read = || {
        let file = disk.open(&name)?;
        let size = usize::try_from(file.size_bytes()?).unwrap_or(usize::MAX);
        buffer.resize(size.min(bytes_max), 0);
        disk::read_into(&*file, 0, buffer)
    };
    read().map_err(|e| OpenError::io(format!("read {name}"), e))
}

/// Walks the whole log. `visit` sees every record in order and may refuse one.
pub(crate) fn scan(
    disk: &dyn Disk,
    visit: &mut dyn FnMut(&Record<'_>) -> Result<(), Bad>,
) -> Result<Scan, OpenError> {
    let numbers = segment_numbers(disk)?;
    let Some(&first_number) = numbers.first() else {
        return Ok(Scan {
            first: None,
            end: Position { segment: 0, offset: 0, prev_crc: 0, batch: 1 },
            last_batch: 0,
            torn: Vec::new(),
            segments: Vec::new(),
            records: 0,
        });
    };
    // One buffer for all segments: memory stays at the size of one.
    let mut bytes = Vec::new();
    load(disk, first_number, usize::MAX, &mut bytes)?;
    let mut rest = numbers[1..].iter().copied();
    let first = match SegmentHeader::decode(&bytes) {
        Ok(h) if h.number == first_number => h,
        Ok(_) => return Err(damaged(first_number, 0, "the segment has another segment's number")),
        // It got its name when its header was on disk, so this is no torn write.
        Err(why) => return Err(damaged(first_number, 0, why.0)),
    };
    let mut walk = Walk {
        chain: first.prev_crc,
        batch: first.batch.wrapping_sub(1),
        revision: first.revision,
        last_batch: 0,
        records: 0,
    };
    let mut number = first_number;
    let mut segments = Vec::new();
    loop {
        let End { offset, bad, why } = walk.segment(number, &bytes, first.store_id, visit)?;
        segments.push((number, bytes.len() as u64, walk.revision));
        let next = rest.next();
        if let Some(n) = next {
            let mut head = Vec::new();
            load(disk, n, SEGMENT_HEADER_BYTES, &mut head)?;
            if let Ok(h) = SegmentHeader::decode(&head) {
                if h.number != n || h.store_id != first.store_id {
                    return Err(damaged(n, 0, "the segment belongs to another place or store"));
                }
                if h.batch != walk.batch + 1 || h.prev_crc != walk.chain {
                    let why = format!("{why}, and the next segment says that more was here");
                    return Err(damaged(number, bad, why));
                }
                number = n;
                load(disk, n, usize::MAX, &mut bytes)?;
                continue;
            }
        }
        let mut torn = Vec::new();
        walk.judge_tail((number, bad), number, offset, &bytes, first.store_id, why, &mut torn)?;
        for n in next.into_iter().chain(rest) {
            load(disk, n, usize::MAX, &mut bytes)?;
            walk.judge_tail((number, bad), n, 0, &bytes, first.store_id, why, &mut torn)?;
            segments.push((n, bytes.len() as u64, 0));
        }
        return Ok(Scan {
            first: Some(first),
            end: Position { segment: number, offset, prev_crc: walk.chain, batch: walk.batch + 1 },
            last_batch: walk.last_batch,
            torn,
            segments,
            records: walk.records,
        });
    }
}

/// Where a segment's whole batches end.
struct End {
    offset: u64,
    /// The first byte that makes no sense: there, or in the batch that begins there.
    bad: u64,
    why: Bad,
}

impl Walk {
    /// Visits the records of a segment's whole batches.
    fn segment(
        &mut self,
        number: u64,
        bytes: &[u8],
        store_id: u64,
        visit: &mut dyn FnMut(&Record<'_>) -> Result<(), Bad>,
    ) -> Result<End, OpenError> {
        let mut at = SEGMENT_HEADER_BYTES;
        let mut batch = Vec::new();
        self.last_batch = 0;
        loop {
            batch.clear();
            if let Err((bad, why)) = self.batch(bytes, at, store_id, &mut batch) {
                return Ok(End { offset: at as u64, bad: bad as u64, why });
            }
            // The first batch in a segment is written together with its header.
            self.last_batch = if at == SEGMENT_HEADER_BYTES { 0 } else { at as u64 };
            for header in &batch {
                if header.revision < self.revision {
                    return Err(damaged(number, at as u64, "the revision goes back"));
                }
                let record = Record {
                    segment: number,
                    offset: at as u64,
                    header: *header,
                    bytes: &bytes[at..],
                };
                visit(&record).map_err(|why| damaged(number, at as u64, why.0))?;
                self.chain = header.crc;
                self.batch = header.batch;
                self.revision = header.revision;
                self.records += 1;
                at += header.stride();
            }
        }
    }

    /// Reads the headers of the batch that begins at `at`; the error says where and why it is not whole.
    fn batch(
        &self,
        bytes: &[u8],
        mut at: usize,
        store_id: u64,
        batch: &mut Vec<RecordHeader>,
    ) -> Result<(), (usize, Bad)> {
        let mut chain = self.chain;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let header = RecordHeader::decode(rest, store_id).map_err(|why| (at, why))?;
            if header.prev_crc != chain || header.batch != self.batch + 1 {
                return Err((at, Bad("the record does not follow the one before it")));
            }
            batch.push(header);
            if header.last {
                return Ok(());
            }
            chain = header.crc;
            at += header.stride();
        }
    }

    /// Looks behind the end: at leftovers of a torn write, or at proof of damage at `bad` (segment, offset).
    #[expect(
        clippy::too_many_arguments,
        reason = "one place says where the log ends, another what is judged"
    )]
    fn judge_tail(
        &self,
        bad: (u64, u64),
        number: u64,
        from: u64,
        bytes: &[u8],
        store_id: u64,
        why: Bad,
        torn: &mut Vec<(u64, u64, u64)>,
    ) -> Result<(), OpenError> {
        let Some((first, last)) = nonzero(bytes, from as usize) else { return Ok(()) };
        let proof = self.batch + 2;
        let mut at = (first as usize) / ALIGN * ALIGN;
        while at < last as usize {
            let rest = &bytes[at..];
            if RecordHeader::peek_batch(rest).is_some_and(|b| b >= proof && b - proof < 1 << 40)
                && let Ok(h) = RecordHeader::decode(rest, store_id)
                && h.batch >= proof
            {
                let place = format!("{} at offset {at}", segment_name(number));
                let why = format!("{why}, and {place} holds a batch that was written after it");
                return Err(damaged(bad.0, bad.1, why));
            }
            at += ALIGN;
        }
        torn.push((number, from, last));
        Ok(())
    }
}

/// First and last + 1 of the bytes from `from` on that are not zero.
fn nonzero(bytes: &[u8], from: usize) -> Option<(u64, u64)> {
    let tail = bytes.get(from..)?;
    let first = tail.iter().position(|b| *b != 0)?;
    let last = tail.iter().rposition(|b| *b != 0)?;
    Some(((from + first) as u64, (from + last + 1) as u64))
}
