//! Entries of the kernel's connection tracking: list them, delete those that are stale.
//!
//! Needed for UDP: a client that goes on sending keeps its entry alive, and with it the endpoint that is gone.
//! Works in the calling thread's network namespace. Reference: linux/netfilter/nfnetlink_conntrack.h.

use super::link::as_address;
use super::netlink::{Answer, Attributes, Family, Message, Socket, is_absent};
use super::wrong;
use crate::sandbox::Result;
use std::net::IpAddr;

const CTNETLINK: u16 = 1 << 8;
const GET: u16 = CTNETLINK | 1;
const DELETE: u16 = CTNETLINK | 2;
/// `struct nfgenmsg`.
const HEADER: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;

/// One direction of a tracked flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Who sends.
    pub source: (IpAddr, u16),
    /// Who is meant.
    pub destination: (IpAddr, u16),
}

/// A tracked flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// IP protocol number: 6 TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// As the client sent it.
    pub original: Tuple,
    /// As the answer comes: its source is the endpoint.
    pub reply: Tuple,
}

fn header(v4: bool) -> [u8; HEADER] {
    [if v4 { 2 } else { 10 }, 0, 0, 0]
}

fn parse_tuple(data: &[u8]) -> Option<(u8, Tuple)> {
    let all = Attributes::inside(data);
    let ip = Attributes::inside(all.find(CTA_TUPLE_IP)?);
    let proto = Attributes::inside(all.find(CTA_TUPLE_PROTO)?);
    let address = |v4, v6| ip.find(v4).or_else(|| ip.find(v6)).and_then(as_address);
    let port = |kind| {
        // Flows without ports (ICMP) have none here.
        let bytes = proto.find(kind).and_then(|d| d.first_chunk().copied());
        bytes.map_or(0, u16::from_be_bytes)
    };
    let tuple = Tuple {
        source: (address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?, port(CTA_PROTO_SRC_PORT)),
        destination: (address(CTA_IP_V4_DST, CTA_IP_V6_DST)?, port(CTA_PROTO_DST_PORT)),
    };
    Some((*proto.find(CTA_PROTO_NUM)?.first()?, tuple))
}

fn parse(answer: &Answer) -> Option<Entry> {
    let all = answer.attributes(HEADER);
    let (protocol, original) = parse_tuple(all.find(CTA_TUPLE_ORIG)?)?;
    let (_, reply) = parse_tuple(all.find(CTA_TUPLE_REPLY)?)?;
    Some(Entry { protocol, original, reply })
}

fn dump(socket: &mut Socket, v4: bool) -> Result<Vec<Answer>> {
    socket.dump(&Message::new(GET, 0, &header(v4))).map_err(wrong("list tracked connections"))
}

/// All tracked flows of one address family.
pub fn list(v4: bool) -> Result<Vec<Entry>> {
    let mut socket = open()?;
    Ok(dump(&mut socket, v4)?.iter().filter_map(parse).collect())
}

fn open() -> Result<Socket> {
    Socket::open(Family::Netfilter).map_err(wrong("open a netfilter netlink socket"))
}

/// Deletes the flows that `stale` says; gives how many went. One that ended meanwhile is no error.
pub fn delete(v4: bool, mut stale: impl FnMut(&Entry) -> bool) -> Result<usize> {
    let mut socket = open()?;
    let mut deleted = 0;
    for answer in dump(&mut socket, v4)? {
        if !parse(&answer).is_some_and(|e| stale(&e)) {
            continue;
        }
        let mut m = Message::new(DELETE, 0, &header(v4));
        for (kind, data) in answer.attributes(HEADER) {
            match kind {
                CTA_TUPLE_ORIG => m.attr(CTA_TUPLE_ORIG | NLA_F_NESTED, data),
                // The id makes sure that it is this entry and not its successor.
                CTA_ID | CTA_ZONE => m.attr(kind, data),
                _ => &mut m,
            };
        }
        match socket.change(&m) {
            Ok(()) => deleted += 1,
            Err(e) if is_absent(&e) => {}
            Err(e) => return Err(wrong("delete a tracked connection")(e)),
        }
    }
    Ok(deleted)
}
