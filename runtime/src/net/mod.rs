//! Network primitives by netlink, without child processes: bridge, veth, addresses, routes, namespaces.

use crate::sandbox::Result;
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

fn missing<T>() -> Result<T> {
    Err(crate::sandbox::Error::Unsupported("not built yet".into()))
}

/// Makes the bridge or brings it to this configuration; turns forwarding on. Safe to repeat.
pub fn ensure_bridge(bridge: &Bridge) -> Result<()> {
    let _ = bridge;
    missing()
}

/// Makes the veth pair, moves one end into the namespace, sets address and route. Safe to repeat.
pub fn attach(port: &Port) -> Result<()> {
    let _ = port;
    missing()
}

/// Removes the host end if it is there. Slow (15 to 30 ms): prefer to let the namespace take it along.
pub fn detach(host_name: &str) -> Result<()> {
    let _ = host_name;
    missing()
}

/// Removes an interface of ours (bridge, vxlan) if it is there.
pub fn remove_link(name: &str) -> Result<()> {
    let _ = name;
    missing()
}

/// Sets a route `destination via gateway` (replacing an older one of ours), or removes it with no gateway.
pub fn set_route(destination: (IpAddr, u8), gateway: Option<IpAddr>) -> Result<()> {
    let _ = (destination, gateway);
    missing()
}

/// Runs `f` in the namespace (on a thread of its own).
pub fn in_netns<T: Send>(netns: &Path, f: impl FnOnce() -> T + Send) -> Result<T> {
    let _ = (netns, f);
    missing()
}

/// This machine's first global address: that of the interface with the default route, else the first one found.
pub fn primary_address() -> Result<Option<IpAddr>> {
    missing()
}
