//! Network primitives by netlink, without child processes: bridge, veth, addresses, routes, namespaces.
//!
//! All calls work in the calling thread's network namespace (a node's daemons run in the node's), block for
//! milliseconds at most, and are safe to repeat: what is there already is brought to what was asked.
//!
//! Pods of one bridge are not neighbours on the link: a pod knows its gateway alone, and every packet of it
//! passes through the node's IP layer. Services and policies between two pods of a node then hold whether or
//! not the kernel hands bridged frames to netfilter.
//!
//! Packet rules are the one thing here for which a child process runs (`iptables-restore`, the design's default
//! backend); it is not used by anything in this file.

pub mod conntrack;
pub mod iptables;
mod link;
mod netlink;
mod netns;
mod node;
mod route;
pub mod sysctl;
#[cfg(test)]
mod tests;

pub use node::{NodeLink, node_link, remove_node_link};

use crate::sandbox::{Error, Result};
use netlink::{Family, Message, Socket};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A bridge with its addresses.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Interface name.
    pub name: String,
    /// Addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// MTU in bytes.
    pub mtu: u32,
}

/// One sandbox's place on the bridge.
#[derive(Clone, Debug)]
pub struct Port {
    /// Bridge to join.
    pub bridge: String,
    /// Host end, unique, at most 15 characters.
    pub host_name: String,
    /// Name inside, `eth0`.
    pub inner_name: String,
    /// Namespace file of the sandbox.
    pub netns: PathBuf,
    /// Address inside with prefix length.
    pub address: (IpAddr, u8),
    /// Default route.
    pub gateway: IpAddr,
    /// MTU in bytes.
    pub mtu: u32,
    /// Packets may go back out of the port that they came in by.
    pub hairpin: bool,
}

/// How the inside of a veth pair reaches its neighbours on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Neighbours {
    /// Through the gateway, like everything else.
    Routed,
    /// Directly.
    OnLink,
}

/// An `io::Error` with what was tried.
fn wrong(what: &str) -> impl FnOnce(std::io::Error) -> Error {
    let text = format!("cannot {what}");
    move |e| Error::Io(text, e)
}

fn open() -> Result<Socket> {
    Socket::open(Family::Route).map_err(wrong("open a netlink socket"))
}

fn check_name(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.len() > 15
        || name == "."
        || name == ".."
        || name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if bad {
        return Err(Error::Invalid(format!(
            "interface name {name:?} must have 1 to 15 characters without '/', ':' and spaces"
        )));
    }
    Ok(())
}

fn find(socket: &mut Socket, name: &str) -> Result<Option<link::Link>> {
    link::by_name(socket, name).map_err(wrong(&format!("look up link {name}")))
}

fn find_or_fail(socket: &mut Socket, name: &str) -> Result<link::Link> {
    find(socket, name)?.ok_or_else(|| Error::NotFound(format!("no link {name}")))
}

fn apply(socket: &mut Socket, what: &str, messages: &[Message]) -> Result<()> {
    socket.changes(messages).map_err(|(step, e)| {
        Error::Io(format!("cannot {what} (step {} of {})", step + 1, messages.len()), e)
    })
}

/// Makes the bridge or brings it to this configuration (other global addresses are taken off); turns
/// forwarding on. Safe to repeat.
pub fn ensure_bridge(bridge: &Bridge) -> Result<()> {
    check_name(&bridge.name)?;
    let mut socket = open()?;
    let found = match find(&mut socket, &bridge.name)? {
        Some(found) if found.kind == "bridge" => found,
        Some(found) => {
            return Err(Error::Exists(format!(
                "link {} is there already and is a {:?}, not a bridge: remove or rename it",
                bridge.name, found.kind
            )));
        }
        None => {
            let first = bridge.addresses.first().map_or(IpAddr::from([0, 0, 0, 1]), |a| a.0);
            link::add_bridge(&mut socket, &bridge.name, bridge.mtu, link::mac_of(first))
                .map_err(wrong(&format!("make bridge {}", bridge.name)))?;
            find_or_fail(&mut socket, &bridge.name)?
        }
    };
    let mut changes = Vec::new();
    if found.mtu != bridge.mtu {
        changes.push(link::mtu_message(found.index, bridge.mtu));
    }
    if !found.up {
        changes.push(link::up_message(found.index));
    }
    let present = link::addresses(&mut socket)
        .map_err(wrong(&format!("list addresses of {}", bridge.name)))?;
    let present: Vec<_> = present.iter().filter(|a| a.link == found.index && a.global).collect();
    for a in &present {
        if !bridge.addresses.contains(&(a.address, a.prefix)) {
            changes.push(link::delete_address_message(a));
        }
    }
    for (address, prefix) in &bridge.addresses {
        if !present.iter().any(|a| (a.address, a.prefix) == (*address, *prefix)) {
            changes.push(link::address_message(found.index, *address, *prefix, true));
        }
    }
    apply(&mut socket, &format!("configure bridge {}", bridge.name), &changes)?;
    sysctl::set(&format!("net/ipv4/conf/{}/send_redirects", bridge.name), "0")?;
    sysctl::forwarding(bridge.addresses.iter().any(|(a, _)| a.is_ipv6()))
}

/// Makes the veth pair, moves one end into the namespace, sets address and route. Safe to repeat.
pub fn attach(port: &Port) -> Result<()> {
    attach_as(port, Neighbours::Routed)
}

fn attach_as(port: &Port, neighbours: Neighbours) -> Result<()> {
    check_name(&port.host_name)?;
    check_name(&port.inner_name)?;
    let netns = netns::open(&port.netns)?;
    let mut socket = open()?;
    let bridge = find_or_fail(&mut socket, &port.bridge)?;
    let mut host = find(&mut socket, &port.host_name)?;
    if let Some(old) = &host {
        let inner = netns::enter(&netns, || find(&mut open()?, &port.inner_name))??;
        if inner.is_none() {
            // Left by a sandbox of the same name whose namespace has not gone away yet.
            link::delete(&mut socket, old.index)
                .map_err(wrong(&format!("remove stale link {}", port.host_name)))?;
            host = None;
        }
    }
    let fresh = host.is_none();
    let host = match host {
        Some(host) => host,
        None => {
            let peer = link::Peer {
                name: &port.inner_name,
                netns: &netns,
                mac: link::mac_of(port.address.0),
            };
            link::add_veth(&mut socket, &port.host_name, port.mtu, &peer)
                .map_err(wrong(&format!("make veth pair {}", port.host_name)))?;
            let host = find_or_fail(&mut socket, &port.host_name)?;
            let _ = socket.change(&link::no_link_local_message(host.index));
            host
        }
    };
    let mut changes = Vec::new();
    if host.master != bridge.index {
        changes.push(link::master_message(host.index, bridge.index));
    }
    if !host.up {
        changes.push(link::up_message(host.index));
    }
    changes.push(link::hairpin_message(host.index, port.hairpin));
    apply(&mut socket, &format!("join {} to bridge {}", port.host_name, port.bridge), &changes)?;
    netns::enter(&netns, || configure_inside(port, neighbours, fresh))?
}

/// The part of [`attach`] that runs inside the sandbox's namespace.
fn configure_inside(port: &Port, neighbours: Neighbours, fresh: bool) -> Result<()> {
    let mut socket = open()?;
    let inner = find_or_fail(&mut socket, &port.inner_name)?;
    let lo = find_or_fail(&mut socket, "lo")?;
    // No waiting for duplicate address detection, no routes from whoever advertises himself.
    for setting in ["accept_dad", "accept_ra"] {
        sysctl::set(&format!("net/ipv6/conf/{}/{setting}", port.inner_name), "0")?;
    }
    let mut changes = Vec::new();
    if !lo.up {
        changes.push(link::up_message(lo.index));
    }
    if !fresh {
        let present = link::addresses(&mut socket).map_err(wrong("list a sandbox's addresses"))?;
        let other = |a: &&link::Address| {
            a.link == inner.index
                && a.global
                && a.address.is_ipv4() == port.address.0.is_ipv4()
                && (a.address, a.prefix) != port.address
        };
        changes.extend(present.iter().filter(other).map(link::delete_address_message));
    }
    let (address, prefix) = port.address;
    let on_link = neighbours == Neighbours::OnLink;
    changes.push(link::address_message(inner.index, address, prefix, on_link));
    changes.push(link::up_message(inner.index));
    let (host_bits, any) = match port.gateway {
        IpAddr::V4(_) => (32, IpAddr::from([0u8; 4])),
        IpAddr::V6(_) => (128, IpAddr::from([0u8; 16])),
    };
    if !on_link {
        changes.push(route::on_link_message((port.gateway, host_bits), inner.index));
    }
    changes.push(route::via_message((any, 0), port.gateway, inner.index));
    apply(&mut socket, &format!("configure {} of {}", port.inner_name, port.host_name), &changes)
}

/// Removes the host end if it is there. Slow (15 to 30 ms): prefer to let the namespace take it along.
pub fn detach(host_name: &str) -> Result<()> {
    remove_link(host_name)
}

/// Removes an interface of ours (bridge, vxlan) if it is there.
pub fn remove_link(name: &str) -> Result<()> {
    check_name(name)?;
    let mut socket = open()?;
    let Some(found) = find(&mut socket, name)? else { return Ok(()) };
    match link::delete(&mut socket, found.index) {
        Err(e) if !netlink::is_absent(&e) => Err(wrong(&format!("remove link {name}"))(e)),
        _ => Ok(()),
    }
}

/// Sets a route `destination via gateway` (replacing an older one of ours), or removes it with no gateway.
///
/// A gateway that is not on a link of this machine is replaced by the next hop towards it: the node behind a
/// router then gets its packets by way of that router.
pub fn set_route(destination: (IpAddr, u8), gateway: Option<IpAddr>) -> Result<()> {
    let mut socket = open()?;
    let name = format!("{}/{}", destination.0, destination.1);
    let Some(gateway) = gateway else {
        return route::delete(&mut socket, destination)
            .map_err(wrong(&format!("remove the route to {name}")));
    };
    let text = format!("set the route to {name} via {gateway}");
    let towards =
        route::lookup(&mut socket, gateway).map_err(wrong(&format!("look up {gateway}")))?;
    let Some(towards) = towards else {
        return Err(Error::Invalid(format!("cannot {text}: nothing leads to {gateway}")));
    };
    let next_hop = towards.gateway.unwrap_or(gateway);
    socket.change(&route::via_message(destination, next_hop, towards.link)).map_err(wrong(&text))
}

/// The routes that [`set_route`] made and that are still there: (destination, prefix length) and next hop.
pub fn routes() -> Result<Vec<((IpAddr, u8), IpAddr)>> {
    let all = route::all(&mut open()?).map_err(wrong("list routes"))?;
    let ours = all.into_iter().filter(|r| r.protocol == route::PROTOCOL && r.destination.1 > 0);
    Ok(ours.filter_map(|r| Some((r.destination, r.gateway?))).collect())
}

/// Runs `f` in the namespace (on a thread of its own).
pub fn in_netns<T: Send>(netns: &Path, f: impl FnOnce() -> T + Send) -> Result<T> {
    netns::enter(&netns::open(netns)?, f)
}

/// Makes a network namespace pinned at `path` (a file is made for it) with loopback up. One that is there
/// already is kept.
pub fn create_netns(path: &Path) -> Result<()> {
    netns::create(path)
}

/// Unpins the namespace and removes its file. Nothing there is no error.
pub fn remove_netns(path: &Path) -> Result<()> {
    netns::remove(path)
}

/// All addresses of this machine (network namespace), loopback and link-local ones included.
pub fn addresses() -> Result<Vec<IpAddr>> {
    let all = link::addresses(&mut open()?).map_err(wrong("list addresses"))?;
    Ok(all.into_iter().map(|a| a.address).collect())
}

/// This machine's first global address: that of the interface with the default route, else the first one found.
/// Bridges of ours (`pintle...`) are passed over; IPv4 goes before IPv6.
pub fn primary_address() -> Result<Option<IpAddr>> {
    let mut socket = open()?;
    let links = link::all(&mut socket).map_err(wrong("list links"))?;
    let routes = route::all(&mut socket).map_err(wrong("list routes"))?;
    let addresses = link::addresses(&mut socket).map_err(wrong("list addresses"))?;
    let usable: Vec<_> = addresses
        .iter()
        .filter(|a| a.global && !a.address.is_loopback())
        .filter(|a| !links.iter().any(|l| l.index == a.link && l.name.starts_with("pintle")))
        .collect();
    for v4 in [true, false] {
        let default = routes
            .iter()
            .filter(|r| r.destination.1 == 0 && r.destination.0.is_ipv4() == v4)
            .min_by_key(|r| r.priority);
        let Some(default) = default else { continue };
        if let Some(source) = default.source {
            return Ok(Some(source));
        }
        let of_link = usable.iter().find(|a| a.link == default.link && a.address.is_ipv4() == v4);
        if let Some(a) = of_link {
            return Ok(Some(a.address));
        }
    }
    let first = |v4: bool| usable.iter().find(|a| a.address.is_ipv4() == v4).map(|a| a.address);
    Ok(first(true).or_else(|| first(false)))
}
