//! Looking at a log without a store: fsck, its repair, and dump.

use std::fmt::Write as _;

use pintle_base::Now;
use pintle_base::disk::Disk;

use crate::error::OpenError;
use crate::job::{segment_name, segment_number};
use crate::record::{self, Bad, LogOp, PutOp};
use crate::recover::State;
use crate::scan::{self, Record};

/// What fsck found in a log that is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Segments.
    pub segments: u64,
    /// Records.
    pub records: u64,
    /// Newest revision.
    pub revision: u64,
    /// Oldest readable revision.
    pub compact_revision: u64,
    /// Live keys.
    pub keys: u64,
    /// Leases.
    pub leases: u64,
    /// Segment, first and last + 1 byte of a torn tail, which the next start cuts.
    pub torn: Vec<(String, u64, u64)>,
    /// The store was closed in order.
    pub clean: bool,
}

/// Reads all of the log and every value in it; changes nothing.
///
/// # Errors
/// [`OpenError::Damaged`] names the first place that makes no sense.
pub fn fsck(disk: &dyn Disk) -> Result<Checked, OpenError> {
    let mut state = State::default();
    let scan = scan::scan(disk, &mut |r| {
        check_values(r)?;
        state.apply(r, Now::default())
    })?;
    Ok(Checked {
        segments: scan.segments.len() as u64,
        records: scan.records,
        revision: state.head.max(scan.first.map_or(0, |f| f.revision)),
        compact_revision: state.compact.max(scan.first.map_or(0, |f| f.revision)),
        keys: state.index.live(),
        leases: state.leases.len() as u64,
        torn: scan.torn.iter().map(|(n, a, b)| (segment_name(*n), *a, *b)).collect(),
        clean: state.clean,
    })
}

fn check_values(record: &Record<'_>) -> Result<(), Bad> {
    for op in record::operations(record.bytes, &record.header) {
        if let LogOp::Put(put) | LogOp::Relocate { put, .. } = op?
            && record::value_crc(put.value) != put.value_crc
        {
            return Err(Bad("a value's checksum does not match"));
        }
    }
    Ok(())
}

/// Cuts the log at the place that `error` names. Files that lose bytes are kept under their name with
/// `.damaged` behind it. Everything from that place on is lost to the store. Answers what it did, in lines.
///
/// # Errors
/// What the disk says. Nothing is removed before its copy is durable.
pub fn repair(disk: &dyn Disk, segment: &str, offset: u64) -> Result<Vec<String>, OpenError> {
    let Some(number) = segment_number(segment) else { return Ok(Vec::new()) };
    let mut lines = Vec::new();
    let mut names: Vec<(u64, String)> = disk
        .list()
        .map_err(|e| OpenError::io("list the data directory", e))?
        .into_iter()
        .filter_map(|n| Some((segment_number(&n)?, n)))
        .filter(|(n, _)| *n >= number)
        .collect();
    // The last first: a crash in between leaves no hole.
    names.sort_unstable_by(|a, b| b.cmp(a));
    for (n, name) in names {
        let aside = format!("{name}.damaged");
        let cut = |what: &str, e| OpenError::io(format!("{what} {name}"), e);
        if n > number {
            disk.rename(&name, &aside)
                .and_then(|()| disk.sync_dir())
                .map_err(|e| cut("set aside", e))?;
            lines.push(format!("{name}: set aside whole as {aside}"));
            continue;
        }
        let copy = || {
            let file = disk.open(&name)?;
            let size = file.size_bytes()?;
            let bytes = pintle_base::disk::read_exact_at(&*file, 0, size as usize)?;
            let whole = disk.create(&aside, size)?;
            whole.write_at(&bytes, 0)?;
            whole.sync_data()?;
            disk.sync_dir()?;
            if offset < record::SEGMENT_HEADER_BYTES as u64 {
                disk.remove(&name)?;
                return disk.sync_dir();
            }
            file.write_at(&vec![0; (size - offset) as usize], offset)?;
            file.sync_data()
        };
        copy().map_err(|e| cut("cut", e))?;
        lines.push(format!("{name}: cut at offset {offset}, copy kept as {aside}"));
    }
    Ok(lines)
}

/// Prints every record, one line an operation; changes nothing.
///
/// # Errors
/// As [`fsck`]; the lines up to the damage were printed.
pub fn dump(disk: &dyn Disk, values: bool, print: &mut dyn FnMut(&str)) -> Result<(), OpenError> {
    let scan = scan::scan(disk, &mut |r| {
        let h = &r.header;
        print(&format!(
            "{} offset={} batch={}{} revision={} wall_ns={} bytes={}",
            segment_name(r.segment),
            r.offset,
            h.batch,
            if h.last { " last" } else { "" },
            h.revision,
            h.wall_ns,
            h.stride()
        ));
        for op in record::operations(r.bytes, h) {
            print(&describe(&op?, values));
        }
        Ok(())
    })?;
    for (n, from, to) in &scan.torn {
        print(&format!("{} offset={from} torn tail of {} bytes", segment_name(*n), to - from));
    }
    Ok(())
}

fn describe(op: &LogOp<'_>, values: bool) -> String {
    let put = |what: &str, p: &PutOp<'_>| {
        let mut line = format!(
            "  {what} {} create={} version={} lease={} bytes={}{}",
            p.key.escape_ascii(),
            p.create_revision,
            p.version,
            p.lease,
            p.value.len(),
            if p.volatile { " volatile" } else { "" }
        );
        if values {
            let _ = write!(line, " value={}", p.value.escape_ascii());
        }
        line
    };
    match op {
        LogOp::Put(p) => put("put", p),
        LogOp::Relocate { put: p, mod_revision } => put(&format!("relocate mod={mod_revision}"), p),
        LogOp::Delete(key) => format!("  delete {}", key.escape_ascii()),
        LogOp::LeaseGrant { id, ttl_ms } => format!("  lease-grant {id} ttl_ms={ttl_ms}"),
        LogOp::LeaseRevoke(id) => format!("  lease-revoke {id}"),
        LogOp::Compact(r) => format!("  compact {r}"),
        LogOp::Reserve(r) => format!("  reserve {r}"),
        LogOp::Clean => "  clean".to_owned(),
    }
}
