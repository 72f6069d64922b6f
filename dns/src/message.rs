//! DNS messages: reading questions and walking records of untrusted bytes, writing answers.
//!
//! A small codec of our own: of hickory-proto only a tenth would be used, and it brings Unicode tables, futures and
//! URL parsing into the one binary (see ARCHITECTURE.md). The tests read every answer of ours with hickory-proto.
//!
//! Names are kept in wire form (length bytes and labels, no pointers), in lower case where they are compared.
//! Reference: RFC 1035, RFC 6891 (EDNS).

use crate::limits::{
    LABEL_BYTES_MAX, NAME_BYTES_MAX, POINTERS_MAX, UDP_BYTES_MAX, UDP_BYTES_PLAIN,
};
use std::net::IpAddr;

/// Bytes of a message header.
pub const HEADER_BYTES: usize = 12;

/// Record types that are told apart.
pub mod kind {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Name server.
    pub const NS: u16 = 2;
    /// Alias.
    pub const CNAME: u16 = 5;
    /// Start of a zone of authority.
    pub const SOA: u16 = 6;
    /// Name of an address.
    pub const PTR: u16 = 12;
    /// Text.
    pub const TXT: u16 = 16;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Service: host and port.
    pub const SRV: u16 = 33;
    /// EDNS pseudo record.
    pub const OPT: u16 = 41;
    /// Any of them.
    pub const ANY: u16 = 255;
}

/// Answer codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcode {
    /// The answer stands, maybe empty.
    NoError = 0,
    /// The question cannot be read.
    FormErr = 1,
    /// Could not find out.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// This kind of question is not answered.
    NotImp = 4,
    /// Not for you.
    Refused = 5,
}

/// A name in wire form, without pointers, ended by a zero byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// From dotted text; `None` when a label or the whole is too long or empty. No escapes.
    pub fn parse(text: &str) -> Option<Name> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut wire = Vec::with_capacity(text.len() + 2);
        for label in text.split('.').filter(|_| !text.is_empty()) {
            if label.is_empty() || label.len() > LABEL_BYTES_MAX {
                return None;
            }
            wire.push(label.len() as u8);
            wire.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
        }
        wire.push(0);
        (wire.len() <= NAME_BYTES_MAX).then_some(Name(wire))
    }

    /// This label in front of this name.
    pub fn under(label: &str, parent: &Name) -> Option<Name> {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            return None;
        }
        let mut wire = vec![label.len() as u8];
        wire.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
        wire.extend_from_slice(&parent.0);
        (wire.len() <= NAME_BYTES_MAX).then_some(Name(wire))
    }

    /// The wire form.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// From wire form, as [`read_name`] gives it.
    pub fn from_wire(wire: &[u8]) -> Name {
        Name(wire.to_ascii_lowercase())
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for label in labels(&self.0) {
            write!(f, "{}.", label.escape_ascii())?;
        }
        if self.0.len() <= 1 { f.write_str(".") } else { Ok(()) }
    }
}

/// The labels of a wire-form name.
pub fn labels(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let (len, tail) = rest.split_first()?;
        let label = tail.get(..usize::from(*len)).filter(|l| !l.is_empty())?;
        rest = &tail[label.len()..];
        Some(label)
    })
}

/// Reads a maybe compressed name at `at` into `out` (wire form, case kept); gives the position behind it.
pub fn read_name(message: &[u8], at: usize, out: &mut Vec<u8>) -> Option<usize> {
    let (mut at, mut end, mut pointers) = (at, None, 0);
    let start = out.len();
    loop {
        let len = *message.get(at)?;
        match len {
            0 => {
                out.push(0);
                if out.len() - start > NAME_BYTES_MAX {
                    return None;
                }
                return Some(end.unwrap_or(at + 1));
            }
            1..=63 => {
                out.extend_from_slice(message.get(at..at + 1 + usize::from(len))?);
                if out.len() - start > NAME_BYTES_MAX {
                    return None;
                }
                at += 1 + usize::from(len);
            }
            0xc0..=0xff => {
                let low = *message.get(at + 1)?;
                end = end.or(Some(at + 2));
                let to = usize::from(len & 0x3f) << 8 | usize::from(low);
                pointers += 1;
                // Only backwards: no circles.
                if to >= at || pointers > POINTERS_MAX {
                    return None;
                }
                at = to;
            }
            _ => return None,
        }
    }
}

/// Steps over a name without reading it.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            len @ 1..=63 => at += 1 + usize::from(len),
            0xc0..=0xff => return message.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
    }
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// A resource record in a message.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Where its owner name starts.
    pub owner: usize,
    /// Type.
    pub kind: u16,
    /// Class (for OPT: the sender's UDP limit).
    pub class: u16,
    /// Where its TTL stands.
    pub ttl_at: usize,
    /// TTL in seconds (for OPT: flags).
    pub ttl: u32,
    /// Where its data starts.
    pub data: usize,
    /// Bytes of its data.
    pub len: usize,
    /// 0 answer, 1 authority, 2 additional.
    pub section: u8,
}

/// The records of a message whose question section ends at `at`; `None` when one does not parse.
pub fn records(message: &[u8], mut at: usize) -> Option<Vec<Record>> {
    let mut found = Vec::new();
    for section in 0..3u8 {
        for _ in 0..u16_at(message, 6 + 2 * usize::from(section))? {
            let owner = at;
            at = skip_name(message, at)?;
            let record = Record {
                owner,
                kind: u16_at(message, at)?,
                class: u16_at(message, at + 2)?,
                ttl_at: at + 4,
                ttl: u32_at(message, at + 4)?,
                data: at + 10,
                len: usize::from(u16_at(message, at + 8)?),
                section,
            };
            at = record.data + record.len;
            if at > message.len() {
                return None;
            }
            found.push(record);
        }
    }
    Some(found)
}

/// What a client asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Its number for the question.
    pub id: u16,
    /// Recursion desired.
    pub recursion: bool,
    /// Checking disabled.
    pub checking_disabled: bool,
    /// The name as asked, wire form.
    pub name_as_asked: Vec<u8>,
    /// The name in lower case, wire form.
    pub name: Vec<u8>,
    /// Record type.
    pub kind: u16,
    /// Largest UDP answer that it takes; `None` = it has no EDNS.
    pub edns_bytes: Option<u16>,
    /// It wants DNSSEC records.
    pub dnssec_ok: bool,
}

/// Why a message gets no proper answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Not worth an answer (too short, or an answer itself).
    Drop,
    /// This code, with the id and flags of the question.
    Code(Rcode),
    /// EDNS version that we do not know.
    BadVersion,
}

impl Query {
    /// Reads a question.
    pub fn parse(message: &[u8]) -> Result<Query, Bad> {
        let flags = match (message.len() >= HEADER_BYTES, u16_at(message, 2)) {
            (true, Some(flags)) if flags & 0x8000 == 0 => flags,
            _ => return Err(Bad::Drop),
        };
        if flags >> 11 & 0xf != 0 {
            return Err(Bad::Code(Rcode::NotImp));
        }
        let form = Bad::Code(Rcode::FormErr);
        let id = u16_at(message, 0).ok_or(form)?;
        if u16_at(message, 4) != Some(1) {
            return Err(form);
        }
        let mut name = Vec::with_capacity(64);
        // A first name has nothing before it to point to; read_name refuses pointers into the header as well,
        // because what stands there are no labels that end in time.
        if message.get(HEADER_BYTES).is_some_and(|b| *b >= 0xc0) {
            return Err(form);
        }
        let at = read_name(message, HEADER_BYTES, &mut name).ok_or(form)?;
        let kind = u16_at(message, at).ok_or(form)?;
        let class = u16_at(message, at + 2).ok_or(form)?;
        if class != 1 {
            return Err(Bad::Code(Rcode::Refused));
        }
        let mut query = Query {
            id,
            recursion: flags & 0x0100 != 0,
            checking_disabled: flags & 0x0010 != 0,
            name: name.to_ascii_lowercase(),
            name_as_asked: name,
            kind,
            edns_bytes: None,
            dnssec_ok: false,
        };
        for record in records(message, at + 4).ok_or(form)? {
            if record.kind == kind::OPT && record.section == 2 {
                if record.ttl >> 16 & 0xff != 0 {
                    return Err(Bad::BadVersion);
                }
                query.edns_bytes = Some(record.class);
                query.dnssec_ok = record.ttl & 0x8000 != 0;
            }
        }
        Ok(query)
    }

    /// Bytes that an answer by UDP may have.
    pub fn udp_bytes_max(&self) -> usize {
        let asked = self.edns_bytes.map_or(UDP_BYTES_PLAIN, usize::from);
        asked.clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX)
    }
}

/// An answer to a message that is no proper question; `None` = stay silent.
pub fn refusal(message: &[u8], bad: Bad) -> Option<Vec<u8>> {
    let id = message.get(..2)?;
    let flags = u16_at(message, 2)?;
    let mut out = id.to_vec();
    let (code, extended) = match bad {
        Bad::Drop => return None,
        Bad::Code(code) => (code as u16, false),
        // BADVERS is 16: its upper bits stand in the OPT record.
        Bad::BadVersion => (0, true),
    };
    out.extend_from_slice(&(0x8000 | flags & 0x7910 | code).to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, u8::from(extended)]);
    if extended {
        write_opt(&mut out, 1, false);
    }
    Some(out)
}

fn write_opt(out: &mut Vec<u8>, extended_code: u8, dnssec_ok: bool) {
    out.push(0);
    out.extend_from_slice(&kind::OPT.to_be_bytes());
    out.extend_from_slice(&(UDP_BYTES_MAX as u16).to_be_bytes());
    out.extend_from_slice(&[extended_code, 0, u8::from(dnssec_ok) << 7, 0, 0, 0]);
}

/// A question of ours to an upstream.
pub fn write_question(id: u16, name: &[u8], kind: u16, query: &Query) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + name.len() + 16);
    out.extend_from_slice(&id.to_be_bytes());
    let flags = 0x0100 | u16::from(query.checking_disabled) << 4;
    out.extend_from_slice(&flags.to_be_bytes());
    let edns = query.edns_bytes.is_some();
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
    out.extend_from_slice(name);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&1u16.to_be_bytes());
    if edns {
        write_opt(&mut out, 0, query.dnssec_ok);
    }
    out
}

/// An answer to `query` for `name` from bytes of an upstream: only what the message says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the question.
    pub id: u16,
    /// The answer was cut.
    pub truncated: bool,
    /// Answer code, without its extended bits.
    pub code: u16,
    /// Where the question section ends.
    pub records_at: usize,
}

/// Reads an answer's header and checks that it answers this question.
pub fn read_answer(message: &[u8], name: &[u8], kind: u16) -> Option<Head> {
    let flags = u16_at(message, 2)?;
    if flags & 0x8000 == 0 || u16_at(message, 4)? != 1 {
        return None;
    }
    let mut asked = Vec::with_capacity(name.len());
    let at = read_name(message, HEADER_BYTES, &mut asked)?;
    let same = asked.eq_ignore_ascii_case(name)
        && u16_at(message, at)? == kind
        && u16_at(message, at + 2)? == 1;
    same.then_some(Head {
        id: u16_at(message, 0)?,
        truncated: flags & 0x0200 != 0,
        code: flags & 0xf,
        records_at: at + 4,
    })
}

/// Data of a record to write. Names are in wire form.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// A or AAAA.
    Address(IpAddr),
    /// CNAME.
    Alias(&'a [u8]),
    /// PTR.
    Pointer(&'a [u8]),
    /// NS.
    Server(&'a [u8]),
    /// SRV with priority 0.
    Service {
        /// Share among equals.
        weight: u16,
        /// Port.
        port: u16,
        /// Host.
        target: &'a [u8],
    },
    /// TXT of one string.
    Text(&'a str),
    /// SOA of a zone: primary server, mailbox, serial.
    Authority {
        /// Primary server.
        server: &'a [u8],
        /// Mailbox of the one who is responsible.
        mailbox: &'a [u8],
        /// Version of the zone.
        serial: u32,
        /// For how long "no such name" may be kept, in seconds.
        minimum_s: u32,
    },
}

impl Data<'_> {
    fn kind(&self) -> u16 {
        match self {
            Data::Address(IpAddr::V4(_)) => kind::A,
            Data::Address(IpAddr::V6(_)) => kind::AAAA,
            Data::Alias(_) => kind::CNAME,
            Data::Pointer(_) => kind::PTR,
            Data::Server(_) => kind::NS,
            Data::Service { .. } => kind::SRV,
            Data::Text(_) => kind::TXT,
            Data::Authority { .. } => kind::SOA,
        }
    }
}

/// Sections of an answer, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// What was asked for.
    Answer = 0,
    /// Who is responsible.
    Authority = 1,
    /// What will be asked for next.
    Additional = 2,
}

/// Writes one answer into a buffer, never longer than its limit.
pub struct Builder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    limit: usize,
    counts: [u16; 3],
    edns: Option<bool>,
    truncated: bool,
}

/// Bytes of an OPT record without options.
const OPT_BYTES: usize = 11;

impl<'a> Builder<'a> {
    /// Starts an answer of at most `limit` bytes behind what `out` holds.
    pub fn new(out: &'a mut Vec<u8>, query: &Query, limit: usize) -> Builder<'a> {
        let start = out.len();
        out.extend_from_slice(&query.id.to_be_bytes());
        let flags =
            0x8000 | u16::from(query.recursion) << 8 | u16::from(query.checking_disabled) << 4;
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&query.name_as_asked);
        out.extend_from_slice(&query.kind.to_be_bytes());
        out.extend_from_slice(&1u16.to_be_bytes());
        let edns = query.edns_bytes.is_some().then_some(query.dnssec_ok);
        let limit = limit - if edns.is_some() { OPT_BYTES } else { 0 };
        Builder { out, start, limit, counts: [0; 3], edns, truncated: false }
    }

    /// Adds a record; `owner` none = the name that was asked. What does not fit is left out, and the answer marked as
    /// cut unless it was additional.
    pub fn add(&mut self, section: Section, owner: Option<&[u8]>, ttl_s: u32, data: Data<'_>) {
        if self.truncated {
            return;
        }
        let before = self.out.len();
        match owner {
            // A pointer to the question's name.
            None => self.out.extend_from_slice(&[0xc0, HEADER_BYTES as u8]),
            Some(name) => self.out.extend_from_slice(name),
        }
        self.out.extend_from_slice(&data.kind().to_be_bytes());
        self.out.extend_from_slice(&1u16.to_be_bytes());
        self.out.extend_from_slice(&ttl_s.to_be_bytes());
        let len_at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        write_data(self.out, data);
        let len = (self.out.len() - len_at - 2) as u16;
        self.out[len_at..len_at + 2].copy_from_slice(&len.to_be_bytes());
        if self.out.len() - self.start > self.limit {
            self.out.truncate(before);
            self.truncated = section != Section::Additional;
            return;
        }
        self.counts[section as usize] += 1;
    }

    /// Records of this section so far.
    pub fn count(&self, section: Section) -> u16 {
        self.counts[section as usize]
    }

    /// Ends the answer as one that was cut: the client asks again by TCP.
    pub fn finish_truncated(mut self) {
        self.truncated = true;
        self.finish(Rcode::NoError, false);
    }

    /// Ends the answer. `authoritative` = the name is of our own zone.
    pub fn finish(self, code: Rcode, authoritative: bool) {
        let Builder { out, start, mut counts, edns, truncated, .. } = self;
        if let Some(dnssec_ok) = edns {
            write_opt(out, 0, dnssec_ok);
            counts[2] += 1;
        }
        // Recursion is available: other names are forwarded.
        out[start + 2] |= u8::from(authoritative) << 2 | u8::from(truncated) << 1;
        out[start + 3] |= 0x80 | code as u8;
        for (i, count) in counts.into_iter().enumerate() {
            out[start + 6 + 2 * i..start + 8 + 2 * i].copy_from_slice(&count.to_be_bytes());
        }
    }
}

fn write_data(out: &mut Vec<u8>, data: Data<'_>) {
    match data {
        Data::Address(IpAddr::V4(a)) => out.extend_from_slice(&a.octets()),
        Data::Address(IpAddr::V6(a)) => out.extend_from_slice(&a.octets()),
        Data::Alias(name) | Data::Pointer(name) | Data::Server(name) => out.extend_from_slice(name),
        Data::Service { weight, port, target } => {
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&weight.to_be_bytes());
            out.extend_from_slice(&port.to_be_bytes());
            out.extend_from_slice(target);
        }
        Data::Text(text) => {
            let bytes = &text.as_bytes()[..text.len().min(255)];
            out.push(bytes.len() as u8);
            out.extend_from_slice(bytes);
        }
        Data::Authority { server, mailbox, serial, minimum_s } => {
            out.extend_from_slice(server);
            out.extend_from_slice(mailbox);
            // Refresh, retry and expiry are for secondary servers, of which there are none.
            for n in [serial, 7200, 1800, 86_400, minimum_s] {
                out.extend_from_slice(&n.to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_limits() {
        assert_eq!(Name::parse("a.B.").map(|n| n.to_string()), Some("a.b.".into()));
        assert_eq!(Name::parse("").map(|n| n.to_string()), Some(".".into()));
        let label = "x".repeat(LABEL_BYTES_MAX);
        assert!(Name::parse(&label).is_some());
        assert!(Name::parse(&format!("{label}x")).is_none());
        assert!(Name::parse("a..b").is_none());
        let long = [label.as_str(); 4].join(".");
        assert!(Name::parse(&long).is_none(), "257 bytes");
        let fits = format!("{label}.{label}.{label}.{}", "x".repeat(61));
        assert_eq!(Name::parse(&fits).expect("name").wire().len(), NAME_BYTES_MAX);
    }

    #[test]
    fn pointers_lead_backwards_only() {
        let mut message = vec![0; HEADER_BYTES];
        message.extend_from_slice(b"\x01a\x00\xc0\x0c\xc0\x11\x01b\xc0\x0c");
        let mut out = Vec::new();
        assert_eq!(read_name(&message, 15, &mut out), Some(17));
        assert_eq!(out, b"\x01a\x00");
        out.clear();
        assert_eq!(read_name(&message, 17, &mut out), None, "points to itself");
        out.clear();
        assert_eq!(read_name(&message, 19, &mut out), Some(23));
        assert_eq!(out, b"\x01b\x01a\x00");
    }
}
