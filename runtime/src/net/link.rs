//! Links and addresses: what rtnetlink's `RTM_*LINK` and `RTM_*ADDR` say and take.
//!
//! Called by [`super`] only. All functions work in the network namespace of the socket that they are given.

use super::netlink::{
    Answer, Attributes, Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Socket, as_text, as_u32,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;

const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
const AF_BRIDGE: u8 = 7;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const RT_SCOPE_UNIVERSE: u8 = 0;

/// A link as the kernel shows it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) mtu: u32,
    /// Index of the bridge that it is a port of, 0 = none.
    pub(crate) master: u32,
    /// `bridge`, `veth`, ...; empty for hardware.
    pub(crate) kind: String,
}

/// An address as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) link: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    /// Reachable from anywhere (not link-local, not loopback).
    pub(crate) global: bool,
}

/// The end of a veth pair that goes elsewhere.
pub(crate) struct Peer<'a> {
    pub(crate) name: &'a str,
    pub(crate) netns: &'a std::fs::File,
    pub(crate) mac: [u8; 6],
}

/// The bytes of an address, four or sixteen.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// The address in an attribute.
pub(crate) fn as_address(data: &[u8]) -> Option<IpAddr> {
    if let Ok(b) = <[u8; 4]>::try_from(data) {
        return Some(IpAddr::V4(Ipv4Addr::from(b)));
    }
    <[u8; 16]>::try_from(data).ok().map(|b| IpAddr::V6(Ipv6Addr::from(b)))
}

/// `AF_INET` or `AF_INET6`.
pub(crate) fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// A MAC that follows from an address, as 0a:58 and its last four bytes: locally administered, unicast, and
/// the same again after a restart, so that no neighbour's ARP cache goes stale.
pub(crate) fn mac_of(address: IpAddr) -> [u8; 6] {
    let bytes = octets(address);
    let mut mac = [0x0a, 0x58, 0, 0, 0, 0];
    mac[2..].copy_from_slice(&bytes[bytes.len() - 4..]);
    mac
}

fn link_header(family: u8, index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut h = [0; LINK_HEADER];
    h[0] = family;
    h[4..8].copy_from_slice(&index.to_ne_bytes());
    h[8..12].copy_from_slice(&flags.to_ne_bytes());
    h[12..16].copy_from_slice(&change.to_ne_bytes());
    h
}

fn parse_link(answer: &Answer) -> Option<Link> {
    let header = answer.header(LINK_HEADER)?;
    let index = as_u32(&header[4..8])?;
    let up = as_u32(&header[8..12])? & IFF_UP != 0;
    let mut link = Link { index, name: String::new(), up, mtu: 0, master: 0, kind: String::new() };
    for (kind, data) in answer.attributes(LINK_HEADER) {
        match kind {
            IFLA_IFNAME => link.name = as_text(data),
            IFLA_MTU => link.mtu = as_u32(data)?,
            IFLA_MASTER => link.master = as_u32(data)?,
            IFLA_LINKINFO => {
                link.kind =
                    Attributes::inside(data).find(IFLA_INFO_KIND).map(as_text).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

/// The link of this name, if there is one.
pub(crate) fn by_name(socket: &mut Socket, name: &str) -> io::Result<Option<Link>> {
    let mut m = Message::new(RTM_GETLINK, 0, &link_header(0, 0, 0, 0));
    m.text(IFLA_IFNAME, name);
    Ok(socket.get(&m)?.as_ref().and_then(parse_link))
}

/// All links.
pub(crate) fn all(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let m = Message::new(RTM_GETLINK, 0, &link_header(0, 0, 0, 0));
    Ok(socket.dump(&m)?.iter().filter_map(parse_link).collect())
}

/// Makes a bridge. Its MAC is fixed: by default it would change with its ports, and pods would lose their gateway.
pub(crate) fn add_bridge(
    socket: &mut Socket,
    name: &str,
    mtu: u32,
    mac: [u8; 6],
) -> io::Result<()> {
    let mut m =
        Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link_header(0, 0, IFF_UP, IFF_UP));
    m.text(IFLA_IFNAME, name).u32(IFLA_MTU, mtu).attr(IFLA_ADDRESS, &mac);
    m.nest(IFLA_LINKINFO).text(IFLA_INFO_KIND, "bridge");
    // Snooping would wake the machine for queries that nobody needs here.
    m.nest(IFLA_INFO_DATA).u8(IFLA_BR_MCAST_SNOOPING, 0).end().end();
    socket.change(&m)
}

/// Makes a veth pair: this end is here and down, the other is in the peer's namespace.
pub(crate) fn add_veth(
    socket: &mut Socket,
    name: &str,
    mtu: u32,
    peer: &Peer<'_>,
) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let netns = u32::try_from(peer.netns.as_raw_fd()).map_err(io::Error::other)?;
    let mut m = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link_header(0, 0, 0, 0));
    m.text(IFLA_IFNAME, name).u32(IFLA_MTU, mtu);
    m.nest(IFLA_LINKINFO).text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA).nest(VETH_INFO_PEER);
    m.raw(&link_header(0, 0, 0, 0)).text(IFLA_IFNAME, peer.name).u32(IFLA_MTU, mtu);
    m.attr(IFLA_ADDRESS, &peer.mac).u32(IFLA_NET_NS_FD, netns).end().end().end();
    socket.change(&m)
}

/// Removes a link.
pub(crate) fn delete(socket: &mut Socket, index: u32) -> io::Result<()> {
    socket.change(&Message::new(RTM_DELLINK, 0, &link_header(0, index, 0, 0)))
}

/// A change of a link: up.
pub(crate) fn up_message(index: u32) -> Message {
    Message::new(RTM_NEWLINK, 0, &link_header(0, index, IFF_UP, IFF_UP))
}

/// A change of a link: its MTU.
pub(crate) fn mtu_message(index: u32, mtu: u32) -> Message {
    let mut m = Message::new(RTM_NEWLINK, 0, &link_header(0, index, 0, 0));
    m.u32(IFLA_MTU, mtu);
    m
}

/// A change of a link: the bridge that it is a port of.
pub(crate) fn master_message(index: u32, bridge: u32) -> Message {
    let mut m = Message::new(RTM_NEWLINK, 0, &link_header(0, index, 0, 0));
    m.u32(IFLA_MASTER, bridge);
    m
}

/// A change of a bridge port: no link-local address. A port needs none, and the kernel would send solicitations
/// on it. Refused by a kernel without IPv6, where it is not needed.
pub(crate) fn no_link_local_message(index: u32) -> Message {
    let mut m = Message::new(RTM_NEWLINK, 0, &link_header(0, index, 0, 0));
    m.nest(IFLA_AF_SPEC).nest(u16::from(AF_INET6));
    m.u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE).end().end();
    m
}

/// A change of a bridge port: whether frames may leave by the port that they came in by.
pub(crate) fn hairpin_message(index: u32, on: bool) -> Message {
    let mut m = Message::new(RTM_SETLINK, 0, &link_header(AF_BRIDGE, index, 0, 0));
    m.nest(IFLA_PROTINFO).u8(IFLA_BRPORT_MODE, u8::from(on)).end();
    m
}

fn address_header(address: IpAddr, prefix: u8, link: u32) -> [u8; ADDRESS_HEADER] {
    let mut h = [family(address), prefix, 0, RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    h[4..].copy_from_slice(&link.to_ne_bytes());
    h
}

/// Adds (or keeps) an address. `prefix_route` = the kernel also makes the route to its network.
pub(crate) fn address_message(
    link: u32,
    address: IpAddr,
    prefix: u8,
    prefix_route: bool,
) -> Message {
    let header = address_header(address, prefix, link);
    let mut m = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &header);
    let mut flags = IFA_F_NODAD;
    if !prefix_route {
        flags |= IFA_F_NOPREFIXROUTE;
    }
    let bytes = octets(address);
    m.attr(IFA_LOCAL, &bytes).attr(IFA_ADDRESS, &bytes).u32(IFA_FLAGS, flags);
    m
}

/// Removes an address.
pub(crate) fn delete_address_message(a: &Address) -> Message {
    let mut m = Message::new(RTM_DELADDR, 0, &address_header(a.address, a.prefix, a.link));
    let bytes = octets(a.address);
    m.attr(IFA_LOCAL, &bytes).attr(IFA_ADDRESS, &bytes);
    m
}

/// All addresses of the namespace.
pub(crate) fn addresses(socket: &mut Socket) -> io::Result<Vec<Address>> {
    let m = Message::new(RTM_GETADDR, 0, &[0; ADDRESS_HEADER]);
    let parse = |answer: &Answer| {
        let header = answer.header(ADDRESS_HEADER)?;
        let attributes = answer.attributes(ADDRESS_HEADER);
        let data = attributes.find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS))?;
        Some(Address {
            link: as_u32(&header[4..8])?,
            address: as_address(data)?,
            prefix: header[1],
            global: header[3] == RT_SCOPE_UNIVERSE,
        })
    };
    Ok(socket.dump(&m)?.iter().filter_map(parse).collect())
}
