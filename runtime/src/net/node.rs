//! Further nodes on one machine: a named network namespace each, on an underlay bridge of the host.

use super::wrong;
use super::{Bridge, Neighbours, Port, attach_as, ensure_bridge, link, netns, open, remove_link};
use crate::sandbox::Result;
use std::net::IpAddr;
use std::path::PathBuf;

/// A node's place on the underlay.
///
/// Example: namespace /run/netns/pintle-host-2, bridge `pintle-under` with 172.31.255.1/24 on the host, this
/// node's `eth0` with 172.31.255.2/24 and its default route through 172.31.255.1.
#[derive(Clone, Debug)]
pub struct NodeLink {
    /// File at which the namespace is pinned (made when it is not there).
    pub netns: PathBuf,
    /// The underlay on the host; its first address of the node's family is the node's gateway.
    pub bridge: Bridge,
    /// Host end of the veth pair, unique, at most 15 characters.
    pub host_name: String,
    /// Name inside, `eth0`.
    pub inner_name: String,
    /// Address of the node with prefix length.
    pub address: (IpAddr, u8),
}

/// Makes the namespace, the underlay bridge and the link between them. Safe to repeat.
pub fn node_link(node: &NodeLink) -> Result<()> {
    ensure_bridge(&node.bridge)?;
    netns::create(&node.netns)?;
    let v4 = node.address.0.is_ipv4();
    let gateway = node.bridge.addresses.iter().find(|(a, _)| a.is_ipv4() == v4);
    let Some((gateway, _)) = gateway else {
        return Err(crate::sandbox::Error::Invalid(format!(
            "bridge {} has no address of the family of {}",
            node.bridge.name, node.address.0
        )));
    };
    attach_as(
        &Port {
            bridge: node.bridge.name.clone(),
            host_name: node.host_name.clone(),
            inner_name: node.inner_name.clone(),
            netns: node.netns.clone(),
            address: node.address,
            gateway: *gateway,
            mtu: node.bridge.mtu,
            hairpin: false,
        },
        Neighbours::OnLink,
    )
}

/// Removes the link and the namespace's pin, and the bridge when no port is left on it. Nothing there is no
/// error.
pub fn remove_node_link(node: &NodeLink) -> Result<()> {
    remove_link(&node.host_name)?;
    netns::remove(&node.netns)?;
    let mut socket = open()?;
    let links = link::all(&mut socket).map_err(wrong("list links"))?;
    let Some(bridge) = links.iter().find(|l| l.name == node.bridge.name) else { return Ok(()) };
    if links.iter().any(|l| l.master == bridge.index) {
        return Ok(());
    }
    remove_link(&node.bridge.name)
}
