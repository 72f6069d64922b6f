//! Routes: what rtnetlink's `RTM_*ROUTE` says and takes.
//!
//! Routes that this crate sets carry their own protocol number ([`PROTOCOL`]); only such routes are replaced
//! or removed, never those of the machine's administrator. Reference: rtnetlink(7).

use super::link::{as_address, family, octets};
use super::netlink::{Answer, Message, NLM_F_CREATE, NLM_F_REPLACE, Socket, as_u32, is_absent};
use std::io;
use std::net::IpAddr;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
/// `struct rtmsg`.
const ROUTE_HEADER: usize = 12;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const SCOPE_LINK: u8 = 253;

/// `rtm_protocol` of our routes; 76 is assigned to nobody in rt_protos.
pub(crate) const PROTOCOL: u8 = 76;

/// A unicast route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: (IpAddr, u8),
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) link: u32,
    pub(crate) source: Option<IpAddr>,
    pub(crate) priority: u32,
    pub(crate) protocol: u8,
}

fn header(destination: (IpAddr, u8), protocol: u8, scope: u8) -> [u8; ROUTE_HEADER] {
    let mut h = [0; ROUTE_HEADER];
    h[0] = family(destination.0);
    h[1] = destination.1;
    h[4] = RT_TABLE_MAIN;
    h[5] = protocol;
    h[6] = scope;
    h[7] = RTN_UNICAST;
    h
}

/// A route through a gateway; `link` 0 = the kernel finds it.
pub(crate) fn via_message(destination: (IpAddr, u8), gateway: IpAddr, link: u32) -> Message {
    let h = header(destination, PROTOCOL, 0);
    let mut m = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &h);
    if destination.1 > 0 {
        m.attr(RTA_DST, &octets(destination.0));
    }
    m.attr(RTA_GATEWAY, &octets(gateway));
    if link != 0 {
        m.u32(RTA_OIF, link);
    }
    m
}

/// A destination that is on the link itself.
pub(crate) fn on_link_message(destination: (IpAddr, u8), link: u32) -> Message {
    let h = header(destination, PROTOCOL, SCOPE_LINK);
    let mut m = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &h);
    m.attr(RTA_DST, &octets(destination.0)).u32(RTA_OIF, link);
    m
}

/// Removes our route to a destination; none there is no error.
pub(crate) fn delete(socket: &mut Socket, destination: (IpAddr, u8)) -> io::Result<()> {
    // Scope "nowhere" matches any scope.
    let mut m = Message::new(RTM_DELROUTE, 0, &header(destination, PROTOCOL, 255));
    if destination.1 > 0 {
        m.attr(RTA_DST, &octets(destination.0));
    }
    match socket.change(&m) {
        Err(e) if !is_absent(&e) => Err(e),
        _ => Ok(()),
    }
}

fn parse(answer: &Answer) -> Option<Route> {
    let h = answer.header(ROUTE_HEADER)?;
    let (fam, prefix, protocol, kind) = (h[0], h[1], h[5], h[7]);
    if kind != RTN_UNICAST {
        return None;
    }
    let any = match fam {
        2 => IpAddr::from([0u8; 4]),
        10 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let attributes = answer.attributes(ROUTE_HEADER);
    let table = attributes.find(RTA_TABLE).and_then(as_u32).unwrap_or(u32::from(h[4]));
    if table != u32::from(RT_TABLE_MAIN) {
        return None;
    }
    Some(Route {
        destination: (attributes.find(RTA_DST).and_then(as_address).unwrap_or(any), prefix),
        gateway: attributes.find(RTA_GATEWAY).and_then(as_address),
        link: attributes.find(RTA_OIF).and_then(as_u32).unwrap_or(0),
        source: attributes.find(RTA_PREFSRC).and_then(as_address),
        priority: attributes.find(RTA_PRIORITY).and_then(as_u32).unwrap_or(0),
        protocol,
    })
}

/// All unicast routes of the main table, both families.
pub(crate) fn all(socket: &mut Socket) -> io::Result<Vec<Route>> {
    let m = Message::new(RTM_GETROUTE, 0, &[0; ROUTE_HEADER]);
    Ok(socket.dump(&m)?.iter().filter_map(parse).collect())
}

/// The route that a packet to `address` would take.
pub(crate) fn lookup(socket: &mut Socket, address: IpAddr) -> io::Result<Option<Route>> {
    let mut h = [0; ROUTE_HEADER];
    h[0] = family(address);
    h[1] = if address.is_ipv4() { 32 } else { 128 };
    let mut m = Message::new(RTM_GETROUTE, 0, &h);
    m.attr(RTA_DST, &octets(address));
    match socket.get(&m) {
        Ok(answer) => Ok(answer.as_ref().and_then(parse)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}
