//! The bytes of the log: segment headers, records, operations. docs/wal.md is the specification; this module
//! and that page change together.
//!
//! Encoding goes straight into the batch that will be written. Decoding takes bytes from a disk that may
//! have rotted: every length is checked, nothing panics, nothing is allocated beyond the input's own size.

use std::fmt;

/// First bytes of a segment.
pub const MAGIC: [u8; 8] = *b"PINTLWAL";
/// Version of the layout that this module reads and writes.
pub const FORMAT: u32 = 1;
/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = 40;
/// Records begin at multiples of this.
pub const ALIGN: usize = 8;

/// Record type: a list of operations at one revision.
const KIND_OPERATIONS: u8 = 1;
/// Record flag: the last record of its batch.
const FLAG_LAST: u8 = 1;
/// Operation flag of a put: later volatile writes of the key may not be in the log.
const OP_VOLATILE: u8 = 1;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Its number; they count up by one from 1.
    pub number: u64,
    /// Identity of the store that it belongs to.
    pub store_id: u64,
    /// The store's revision before its first record.
    pub revision: u64,
    /// Number of the first batch in it.
    pub batch: u64,
    /// Checksum of the last record of the segment before, 0 in the first.
    pub prev_crc: u32,
}

impl SegmentHeader {
    /// Its bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut b = [0; SEGMENT_HEADER_BYTES];
        b[0..8].copy_from_slice(&MAGIC);
        b[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        b[12..16].copy_from_slice(&(SEGMENT_HEADER_BYTES as u32).to_le_bytes());
        b[16..24].copy_from_slice(&self.number.to_le_bytes());
        b[24..32].copy_from_slice(&self.store_id.to_le_bytes());
        b[32..40].copy_from_slice(&self.revision.to_le_bytes());
        b[40..48].copy_from_slice(&self.batch.to_le_bytes());
        b[48..52].copy_from_slice(&self.prev_crc.to_le_bytes());
        let crc = crc32c::crc32c(&b[0..60]);
        b[60..64].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`Bad`] when the bytes are no header of this format.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, Bad> {
        let b = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(Bad("segment shorter than its header"))?;
        if b[0..8] != MAGIC {
            return Err(Bad("segment header has no magic"));
        }
        if u32_at(b, 60) != crc32c::crc32c(&b[0..60]) {
            return Err(Bad("segment header checksum does not match"));
        }
        if u32_at(b, 8) != FORMAT || u32_at(b, 12) as usize != SEGMENT_HEADER_BYTES {
            return Err(Bad("segment has an unknown format version"));
        }
        Ok(SegmentHeader {
            number: u64_at(b, 16),
            store_id: u64_at(b, 24),
            revision: u64_at(b, 32),
            batch: u64_at(b, 40),
            prev_crc: u32_at(b, 48),
        })
    }
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bad(pub &'static str);

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Bad {}

/// A record's header, its checksum verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Its checksum; the next record repeats it.
    pub crc: u32,
    /// Checksum of the record before.
    pub prev_crc: u32,
    /// Bytes of the operations after the header, without padding.
    pub payload_bytes: usize,
    /// The last of its batch.
    pub last: bool,
    /// Batch that it was written with; they count up by one.
    pub batch: u64,
    /// Revision of its puts and deletes, or the store's revision when it has none.
    pub revision: u64,
    /// Wall time when it was made, nanoseconds since 1970.
    pub wall_ns: i64,
}

impl RecordHeader {
    /// Bytes from this record's start to the next one's.
    pub fn stride(&self) -> usize {
        (RECORD_HEADER_BYTES + self.payload_bytes).next_multiple_of(ALIGN)
    }

    /// Reads the record that begins at the start of `bytes` and checks it.
    ///
    /// # Errors
    /// [`Bad`] when there is no whole valid record of the store `store_id` there.
    pub fn decode(bytes: &[u8], store_id: u64) -> Result<RecordHeader, Bad> {
        let h = bytes.get(..RECORD_HEADER_BYTES).ok_or(Bad("no room for a record header"))?;
        let payload_bytes = u32_at(h, 4) as usize;
        if payload_bytes == 0 {
            return Err(Bad("record of length zero"));
        }
        let end = RECORD_HEADER_BYTES
            .checked_add(payload_bytes)
            .filter(|end| *end <= bytes.len())
            .ok_or(Bad("record longer than the rest of its segment"))?;
        let crc = u32_at(h, 0);
        if crc != checksum(store_id, &bytes[4..end]) {
            return Err(Bad("record checksum does not match"));
        }
        let padded = end.next_multiple_of(ALIGN).min(bytes.len());
        if bytes[end..padded].iter().any(|b| *b != 0) {
            return Err(Bad("record padding is not zero"));
        }
        if h[12] != KIND_OPERATIONS || h[13] & !FLAG_LAST != 0 {
            return Err(Bad("record of an unknown type; was it written by a newer version?"));
        }
        Ok(RecordHeader {
            crc,
            prev_crc: u32_at(h, 8),
            payload_bytes,
            last: h[13] & FLAG_LAST != 0,
            batch: u64_at(h, 16),
            revision: u64_at(h, 24),
            wall_ns: u64_at(h, 32) as i64,
        })
    }

    /// The batch number in what may be a record's header, unchecked: a cheap first look when searching.
    pub fn peek_batch(bytes: &[u8]) -> Option<u64> {
        let h = bytes.get(..RECORD_HEADER_BYTES)?;
        (h[12] == KIND_OPERATIONS && u32_at(h, 4) != 0).then(|| u64_at(h, 16))
    }
}

/// The checksum covers everything after itself and is seeded by the store's identity, so that bytes of a
/// foreign log inside a value are never taken for a record.
fn checksum(store_id: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&store_id.to_le_bytes()), bytes)
}

/// Checksum of a value, kept beside its place so that a read needs nothing but the value's bytes.
pub fn value_crc(value: &[u8]) -> u32 {
    crc32c::crc32c(value)
}

/// A key-value as the log holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutOp<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Revision in which the key came to be.
    pub create_revision: u64,
    /// Puts since then.
    pub version: u64,
    /// Lease or 0.
    pub lease: u64,
    /// Later volatile writes of this key may not be in the log.
    pub volatile: bool,
    /// [`value_crc`] of the value.
    pub value_crc: u32,
    /// The value.
    pub value: &'a [u8],
    /// Where the value begins, counted from the first byte of the record's header. Ignored by encoding.
    pub value_offset: usize,
}

/// One operation of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOp<'a> {
    /// A key was written at the record's revision.
    Put(PutOp<'a>),
    /// A key was deleted at the record's revision.
    Delete(&'a [u8]),
    /// A lease was made.
    LeaseGrant {
        /// Its id.
        id: u64,
        /// Its time to live.
        ttl_ms: u64,
    },
    /// A lease ended (its keys are deleted by deletes in the same record).
    LeaseRevoke(u64),
    /// History before this revision is forgotten.
    Compact(u64),
    /// Revisions up to this one may have been given to volatile writes that are in no log.
    Reserve(u64),
    /// An older put is repeated so that its segment can go; the record's revision says nothing of it.
    Relocate {
        /// The put.
        put: PutOp<'a>,
        /// The revision that it was made at.
        mod_revision: u64,
    },
    /// The store was closed in order: no revision above the record's was ever given out.
    Clean,
}

const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;
const OP_LEASE_GRANT: u8 = 3;
const OP_LEASE_REVOKE: u8 = 4;
const OP_COMPACT: u8 = 5;
const OP_RESERVE: u8 = 6;
const OP_RELOCATE: u8 = 7;
const OP_CLEAN: u8 = 8;

/// Bytes of an operation's header: tag, flags, two zero bytes, length of its body.
const OP_HEADER_BYTES: usize = 8;
/// Bytes of a put's body before its key.
const PUT_FIXED_BYTES: usize = 36;

impl LogOp<'_> {
    /// Bytes that it takes in a record.
    pub fn encoded_bytes(&self) -> usize {
        OP_HEADER_BYTES
            + match self {
                LogOp::Put(p) => PUT_FIXED_BYTES + p.key.len() + p.value.len(),
                LogOp::Delete(key) => key.len(),
                LogOp::LeaseGrant { .. } => 16,
                LogOp::LeaseRevoke(_) | LogOp::Compact(_) | LogOp::Reserve(_) => 8,
                LogOp::Relocate { put, .. } => {
                    8 + PUT_FIXED_BYTES + put.key.len() + put.value.len()
                }
                LogOp::Clean => 0,
            }
    }
}

/// Appends operations to a record under construction.
pub struct RecordWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> RecordWriter<'a> {
    /// Begins a record at the end of `out`; its header is zero until [`seal`].
    pub fn begin(out: &'a mut Vec<u8>) -> RecordWriter<'a> {
        let start = out.len();
        out.resize(start + RECORD_HEADER_BYTES, 0);
        RecordWriter { out, start }
    }

    /// Appends an operation. For puts and relocations the answer is where the value begins, counted from
    /// the first byte of `out`; 0 for the others.
    pub fn push(&mut self, op: &LogOp<'_>) -> usize {
        let (tag, flags) = match op {
            LogOp::Put(p) => (OP_PUT, p.volatile),
            LogOp::Delete(_) => (OP_DELETE, false),
            LogOp::LeaseGrant { .. } => (OP_LEASE_GRANT, false),
            LogOp::LeaseRevoke(_) => (OP_LEASE_REVOKE, false),
            LogOp::Compact(_) => (OP_COMPACT, false),
            LogOp::Reserve(_) => (OP_RESERVE, false),
            LogOp::Relocate { put, .. } => (OP_RELOCATE, put.volatile),
            LogOp::Clean => (OP_CLEAN, false),
        };
        self.out.extend_from_slice(&[tag, if flags { OP_VOLATILE } else { 0 }, 0, 0]);
        let body = (op.encoded_bytes() - OP_HEADER_BYTES) as u32;
        self.out.extend_from_slice(&body.to_le_bytes());
        match op {
            LogOp::Put(p) => self.put(p),
            LogOp::Delete(key) => {
                self.out.extend_from_slice(key);
                0
            }
            LogOp::LeaseGrant { id, ttl_ms } => {
                self.u64(*id);
                self.u64(*ttl_ms)
            }
            LogOp::LeaseRevoke(n) | LogOp::Compact(n) | LogOp::Reserve(n) => self.u64(*n),
            LogOp::Relocate { put, mod_revision } => {
                self.u64(*mod_revision);
                self.put(put)
            }
            LogOp::Clean => 0,
        }
    }

    fn u64(&mut self, n: u64) -> usize {
        self.out.extend_from_slice(&n.to_le_bytes());
        0
    }

    fn put(&mut self, p: &PutOp<'_>) -> usize {
        self.u64(p.create_revision);
        self.u64(p.version);
        self.u64(p.lease);
        self.out.extend_from_slice(&p.value_crc.to_le_bytes());
        self.out.extend_from_slice(&(p.key.len() as u32).to_le_bytes());
        self.out.extend_from_slice(&(p.value.len() as u32).to_le_bytes());
        self.out.extend_from_slice(p.key);
        let at = self.out.len();
        self.out.extend_from_slice(p.value);
        at
    }

    /// Ends the record: writes the header's fields but for flags and checksums, pads to [`ALIGN`]. Answers
    /// where the record begins.
    pub fn end(self, batch: u64, revision: u64, wall_ns: i64) -> usize {
        let payload = self.out.len() - self.start - RECORD_HEADER_BYTES;
        let h = &mut self.out[self.start..];
        h[4..8].copy_from_slice(&(payload as u32).to_le_bytes());
        h[12] = KIND_OPERATIONS;
        h[16..24].copy_from_slice(&batch.to_le_bytes());
        h[24..32].copy_from_slice(&revision.to_le_bytes());
        h[32..40].copy_from_slice(&wall_ns.to_le_bytes());
        let end = self.start + (RECORD_HEADER_BYTES + payload).next_multiple_of(ALIGN);
        self.out.resize(end, 0);
        self.start
    }
}

/// Chains and checksums the record at the start of `bytes` (which may go on behind it); answers its checksum.
pub fn seal(bytes: &mut [u8], store_id: u64, prev_crc: u32, last: bool) -> u32 {
    let payload = u32_at(bytes, 4) as usize;
    bytes[8..12].copy_from_slice(&prev_crc.to_le_bytes());
    bytes[13] = if last { FLAG_LAST } else { 0 };
    let crc = checksum(store_id, &bytes[4..RECORD_HEADER_BYTES + payload]);
    bytes[0..4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Walks the operations of a record.
pub struct Ops<'a> {
    rest: &'a [u8],
    /// Offset of `rest` from the record's first byte.
    at: usize,
}

/// The operations of the record at the start of `bytes`, whose header was decoded to `header`.
pub fn operations<'a>(bytes: &'a [u8], header: &RecordHeader) -> Ops<'a> {
    let end = (RECORD_HEADER_BYTES + header.payload_bytes).min(bytes.len());
    Ops { rest: bytes.get(RECORD_HEADER_BYTES..end).unwrap_or_default(), at: RECORD_HEADER_BYTES }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Result<LogOp<'a>, Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = self.decode_one();
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}

impl<'a> Ops<'a> {
    fn decode_one(&mut self) -> Result<LogOp<'a>, Bad> {
        let h = self.rest.get(..OP_HEADER_BYTES).ok_or(Bad("operation header cut short"))?;
        let (tag, flags, len) = (h[0], h[1], u32_at(h, 4) as usize);
        let body = self
            .rest
            .get(OP_HEADER_BYTES..)
            .and_then(|b| b.get(..len))
            .ok_or(Bad("operation longer than its record"))?;
        let body_at = self.at + OP_HEADER_BYTES;
        self.rest = &self.rest[OP_HEADER_BYTES + len..];
        self.at = body_at + len;
        let one = || (len == 8).then(|| u64_at(body, 0)).ok_or(Bad("operation of a wrong length"));
        if flags & !OP_VOLATILE != 0 || (flags != 0 && tag != OP_PUT && tag != OP_RELOCATE) {
            return Err(Bad("operation with unknown flags; was it written by a newer version?"));
        }
        match tag {
            OP_PUT => decode_put(body, body_at, flags).map(LogOp::Put),
            OP_DELETE => Ok(LogOp::Delete(body)),
            OP_LEASE_GRANT if len == 16 => {
                Ok(LogOp::LeaseGrant { id: u64_at(body, 0), ttl_ms: u64_at(body, 8) })
            }
            OP_LEASE_GRANT => Err(Bad("operation of a wrong length")),
            OP_LEASE_REVOKE => one().map(LogOp::LeaseRevoke),
            OP_COMPACT => one().map(LogOp::Compact),
            OP_RESERVE => one().map(LogOp::Reserve),
            OP_RELOCATE => {
                let put = body.get(8..).ok_or(Bad("operation of a wrong length"))?;
                let put = decode_put(put, body_at + 8, flags)?;
                Ok(LogOp::Relocate { put, mod_revision: u64_at(body, 0) })
            }
            OP_CLEAN => Ok(LogOp::Clean),
            _ => Err(Bad("unknown operation; was it written by a newer version?")),
        }
    }
}

fn decode_put(body: &[u8], at: usize, flags: u8) -> Result<PutOp<'_>, Bad> {
    let fixed = body.get(..PUT_FIXED_BYTES).ok_or(Bad("put cut short"))?;
    let (key_len, value_len) = (u32_at(fixed, 28) as usize, u32_at(fixed, 32) as usize);
    let data = &body[PUT_FIXED_BYTES..];
    if key_len.checked_add(value_len) != Some(data.len()) {
        return Err(Bad("put whose lengths do not add up"));
    }
    Ok(PutOp {
        key: &data[..key_len],
        create_revision: u64_at(fixed, 0),
        version: u64_at(fixed, 8),
        lease: u64_at(fixed, 16),
        volatile: flags & OP_VOLATILE != 0,
        value_crc: u32_at(fixed, 24),
        value: &data[key_len..],
        value_offset: at + PUT_FIXED_BYTES + key_len,
    })
}

/// Reads at a place that the caller has checked.
fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Reads at a place that the caller has checked.
fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_base::Prng;

    fn put(key: &'static [u8], value: &'static [u8]) -> PutOp<'static> {
        PutOp {
            key,
            create_revision: 3,
            version: 2,
            lease: 9,
            volatile: true,
            value_crc: value_crc(value),
            value,
            value_offset: 0,
        }
    }

    fn sample() -> Vec<LogOp<'static>> {
        vec![
            LogOp::Put(put(b"k", b"value")),
            LogOp::Delete(b"gone"),
            LogOp::LeaseGrant { id: 1, ttl_ms: 2 },
            LogOp::LeaseRevoke(3),
            LogOp::Compact(4),
            LogOp::Reserve(5),
            LogOp::Relocate { put: put(b"old", b""), mod_revision: 6 },
            LogOp::Clean,
        ]
    }

    fn encoded() -> Vec<u8> {
        let mut out = vec![0xee; 16];
        let mut w = RecordWriter::begin(&mut out);
        for op in sample() {
            w.push(&op);
        }
        assert_eq!(w.end(11, 12, -13), 16);
        seal(&mut out[16..], 77, 0xabcd, true);
        out.split_off(16)
    }

    #[test]
    fn a_record_comes_back_as_it_went_in() {
        let bytes = encoded();
        let h = RecordHeader::decode(&bytes, 77).unwrap();
        assert_eq!((h.batch, h.revision, h.wall_ns), (11, 12, -13));
        assert_eq!((h.prev_crc, h.last, h.stride()), (0xabcd, true, bytes.len()));
        let mut ops: Vec<_> = operations(&bytes, &h).map(Result::unwrap).collect();
        for op in &mut ops {
            if let LogOp::Put(p) | LogOp::Relocate { put: p, .. } = op {
                assert_eq!(&bytes[p.value_offset..p.value_offset + p.value.len()], p.value);
                p.value_offset = 0;
            }
        }
        assert_eq!(ops, sample());
        assert_eq!(RecordHeader::decode(&bytes, 78), Err(Bad("record checksum does not match")));
    }

    /// The layout of docs/wal.md, byte by byte, so that a change of it cannot go unnoticed.
    #[test]
    fn the_bytes_are_those_of_the_document() {
        let mut out = Vec::new();
        let mut w = RecordWriter::begin(&mut out);
        let put = PutOp { volatile: false, value_crc: 0x0403_0201, ..put(b"k", b"vw") };
        assert_eq!(w.push(&LogOp::Put(put)), 40 + 8 + 36 + 1);
        w.end(1, 2, 3);
        let mut want = vec![0, 0, 0, 0, 47, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        want.extend([1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        want.extend([1, 0, 0, 0, 39, 0, 0, 0]);
        want.extend([3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        want.extend([1, 2, 3, 4, 1, 0, 0, 0, 2, 0, 0, 0]);
        want.extend(*b"kvw\0");
        assert_eq!(out, want);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encoded();
        for bit in 0..bytes.len() * 8 {
            let mut b = bytes.clone();
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(RecordHeader::decode(&b, 77).is_err(), "bit {bit}");
        }
        let header = SegmentHeader { number: 1, store_id: 2, revision: 3, batch: 4, prev_crc: 5 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut b = bytes;
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&b).is_err(), "bit {bit}");
        }
    }

    /// Random bytes, and random bytes under a right checksum, never panic and never read outside.
    #[test]
    fn random_bytes_are_refused_without_panic() {
        let mut prng = Prng::new(1);
        for _ in 0..20_000 {
            let len = prng.below(200) as usize;
            let mut b: Vec<u8> = (0..len).map(|_| prng.next_u64() as u8).collect();
            let _ = SegmentHeader::decode(&b);
            let _ = RecordHeader::decode(&b, 1);
            let _ = RecordHeader::peek_batch(&b);
            if len > RECORD_HEADER_BYTES {
                b[4..8].copy_from_slice(&((len - RECORD_HEADER_BYTES) as u32).to_le_bytes());
                b[12] = KIND_OPERATIONS;
                if prng.chance(1, 2) {
                    b[RECORD_HEADER_BYTES] = prng.below(10) as u8;
                    b[RECORD_HEADER_BYTES + 1..len.min(RECORD_HEADER_BYTES + 8)].fill(0);
                    if len > RECORD_HEADER_BYTES + 4 {
                        b[RECORD_HEADER_BYTES + 4] = prng.below(80) as u8;
                    }
                }
                seal(&mut b, 1, 0, true);
                let h = RecordHeader::decode(&b, 1).unwrap();
                for op in operations(&b, &h) {
                    if let Ok(LogOp::Put(p) | LogOp::Relocate { put: p, .. }) = op {
                        assert!(p.value_offset + p.value.len() <= b.len());
                    }
                }
            }
        }
    }
}
