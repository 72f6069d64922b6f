//! Work for the disk, as data: the core makes it, the shell runs it where it may block, the core gets its end.

use std::fmt;
use std::io;
use std::sync::Arc;

use pintle_base::disk::{self, Disk, File};

use crate::index::Place;
use crate::log::CommitJob;
use crate::record::{self, LogOp, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES};

/// One piece of work. Run commits on one thread, in the order they come; the others on another one.
pub struct Job(pub(crate) Work);

pub(crate) enum Work {
    /// Write a batch and make it durable.
    Commit(CommitJob),
    /// Make a segment of zeros.
    Prepare { number: u64, size_bytes: u64 },
    /// List what may still be needed of a segment.
    Examine { number: u64, file: Arc<dyn File>, store_id: u64 },
    /// Remove the oldest segment.
    Remove { number: u64 },
}

/// How a piece of work ended; give it to `Store::handle_done`.
pub struct Done(pub(crate) Ended);

pub(crate) enum Ended {
    Commit(Result<(), Failure>),
    Prepare { number: u64, size_bytes: u64, result: Result<Arc<dyn File>, Failure> },
    Examine { number: u64, result: Result<Vec<Leftover>, Failure> },
    Remove { number: u64, result: Result<(), Failure> },
}

/// Something in an old segment that may still be needed.
pub(crate) enum Leftover {
    /// A value.
    Value { key: Vec<u8>, mod_revision: u64, place: Place },
    /// A lease was made.
    Lease(u64),
}

/// What went wrong.
pub(crate) enum Failure {
    /// The disk is full and nothing was made durable.
    NoSpace,
    /// Anything else: the process must end.
    Fatal(String),
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Work::Commit(c) => {
                write!(f, "Commit {{ batch: {}, bytes: {} }}", c.number, c.bytes.len())
            }
            Work::Prepare { number, size_bytes } => {
                write!(f, "Prepare {{ segment: {number}, bytes: {size_bytes} }}")
            }
            Work::Examine { number, .. } => write!(f, "Examine {{ segment: {number} }}"),
            Work::Remove { number } => write!(f, "Remove {{ segment: {number} }}"),
        }
    }
}

impl Job {
    /// It is a write that clients wait for; it must not queue behind housekeeping.
    pub fn is_commit(&self) -> bool {
        matches!(self.0, Work::Commit(_))
    }

    /// Does it. Blocks on the disk.
    pub fn run(self, disk: &dyn Disk) -> Done {
        Done(match self.0 {
            Work::Commit(c) => Ended::Commit(commit(&c)),
            Work::Prepare { number, size_bytes } => {
                let result = prepare(disk, number, size_bytes);
                Ended::Prepare { number, size_bytes, result }
            }
            Work::Examine { number, file, store_id } => {
                Ended::Examine { number, result: examine(&*file, number, store_id) }
            }
            Work::Remove { number } => Ended::Remove { number, result: remove(disk, number) },
        })
    }
}

fn no_space(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn commit(c: &CommitJob) -> Result<(), Failure> {
    let place = |what: &str, e: io::Error| {
        Failure::Fatal(format!(
            "{what} {} bytes at offset {} of {}: {e}",
            c.bytes.len(),
            c.offset,
            segment_name(c.segment)
        ))
    };
    if let Err(e) = c.file.write_at(&c.bytes, c.offset) {
        if !no_space(&e) {
            return Err(place("cannot write", e));
        }
        // All of it may be there in spite of the error. Those who wait are told that it is not, so its first
        // record goes before they are.
        let zeros = vec![0; c.bytes.len().min(SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES)];
        return match c.file.write_at(&zeros, c.offset).and_then(|()| c.file.sync_data()) {
            Ok(()) => Err(Failure::NoSpace),
            Err(_) => Err(place("cannot write", e)),
        };
    }
    // A failed sync may have dropped the pages: nothing can be said of these bytes any more.
    c.file.sync_data().map_err(|e| place("cannot sync", e))
}

/// The file gets its name only when all of it is on disk, so that a segment is never half as long.
fn prepare(disk: &dyn Disk, number: u64, size_bytes: u64) -> Result<Arc<dyn File>, Failure> {
    let name = segment_name(number);
    let temporary = format!("{name}{TEMPORARY}");
    let fail = |e: io::Error| {
        if no_space(&e) {
            Failure::NoSpace
        } else {
            Failure::Fatal(format!("cannot prepare {name} of {size_bytes} bytes: {e}"))
        }
    };
    let file = disk.create(&temporary, size_bytes).map_err(|e| {
        // Half a file would keep the space that others wait for.
        let _ = disk.remove(&temporary);
        fail(e)
    })?;
    disk.rename(&temporary, &name).map_err(fail)?;
    disk.sync_dir().map_err(fail)?;
    Ok(file)
}

fn examine(file: &dyn File, number: u64, store_id: u64) -> Result<Vec<Leftover>, Failure> {
    let fail = |e: &dyn fmt::Display| {
        Failure::Fatal(format!("cannot read {} to clean it: {e}", segment_name(number)))
    };
    let size = file.size_bytes().map_err(|e| fail(&e))?;
    let bytes = disk::read_exact_at(file, 0, size as usize).map_err(|e| fail(&e))?;
    let mut left = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES;
    while let Ok(header) = RecordHeader::decode(bytes.get(at..).unwrap_or_default(), store_id) {
        for op in record::operations(&bytes[at..], &header) {
            let (put, mod_revision) = match op.map_err(|e| fail(&e))? {
                LogOp::Put(put) => (put, header.revision),
                LogOp::Relocate { put, mod_revision } => (put, mod_revision),
                LogOp::LeaseGrant { id, .. } => {
                    left.push(Leftover::Lease(id));
                    continue;
                }
                _ => continue,
            };
            let offset = (at + put.value_offset) as u32;
            let place = Place { segment: number as u32, offset };
            left.push(Leftover::Value { key: put.key.to_vec(), mod_revision, place });
        }
        at += header.stride();
    }
    Ok(left)
}

fn remove(disk: &dyn Disk, number: u64) -> Result<(), Failure> {
    let name = segment_name(number);
    let fail = |e| Failure::Fatal(format!("cannot remove {name}: {e}"));
    disk.remove(&name).map_err(fail)?;
    // One at a time, oldest first: a hole between segments would be damage.
    disk.sync_dir().map_err(fail)
}

/// Ending of files that are not finished; they are removed when the store is opened.
pub(crate) const TEMPORARY: &str = ".tmp";

/// File name of a segment.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:012}.wal")
}

/// The number in a segment's file name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    (digits.len() == 12).then(|| digits.parse().ok()).flatten()
}
