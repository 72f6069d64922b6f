//! What `up` was told, kept in the data directory so that a second `up` brings the same cluster back.

use super::layout::Layout;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// Settings of a cluster on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// HTTPS port of the API server.
    pub api_port: u16,
    /// Names of the nodes; the first one is the machine itself.
    pub nodes: Vec<String>,
    /// ClusterIP range.
    pub service_cidr: String,
    /// Range of pods' addresses.
    pub pod_cidr: String,
    /// Address of the cluster DNS, in the service range.
    pub cluster_dns: Ipv4Addr,
    /// Domain of the cluster.
    pub cluster_domain: String,
}

/// The range of node addresses on the bridge between nodes of one machine; node N has `.N`.
pub const UNDERLAY: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 245, 0, 0), 24);
/// The bridge between nodes of one machine.
pub const UNDERLAY_BRIDGE: &str = "pintle-nodes";
/// Most nodes on one machine: the underlay's range.
pub const NODES_MAX: usize = 250;

impl Settings {
    /// Defaults for so many nodes on a machine of this name.
    pub fn new(host: &str, nodes: usize, api_port: u16) -> Settings {
        Settings {
            api_port,
            nodes: node_names(host, nodes),
            service_cidr: "10.96.0.0/16".into(),
            pod_cidr: "10.244.0.0/16".into(),
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
            cluster_domain: "cluster.local".into(),
        }
    }

    /// What an earlier `up` kept; `None` when there was none.
    pub fn load(layout: &Layout) -> Result<Option<Settings>, String> {
        let path = layout.cluster_file();
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| {
                format!(
                    "{} is damaged ({e}); restore it, or remove the data directory",
                    path.display()
                )
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(format!("cannot read {}: {e}", path.display())),
        }
    }

    /// Keeps the settings.
    pub fn save(&self, layout: &Layout) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| format!("cannot encode the settings: {e}"))?;
        super::pki::write(&layout.cluster_file(), &(text + "\n"), 0o644)
    }

    /// First address of the service range: the `kubernetes` service.
    pub fn first_service_address(&self) -> Option<IpAddr> {
        let (base, _) = self.service_cidr.split_once('/')?;
        let base: Ipv4Addr = base.parse().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(u32::from(base) + 1)))
    }

    /// Address of a node (by index) on the underlay.
    pub fn underlay_address(index: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(u32::from(UNDERLAY.0) + 1 + index as u32))
    }
}

/// The host's name as a DNS label, then the same with `-2`, `-3`, ...
pub fn node_names(host: &str, nodes: usize) -> Vec<String> {
    let mut base: String = host
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(50)
        .collect();
    base = base.trim_matches('-').to_owned();
    if base.is_empty() {
        base = "node".into();
    }
    (1..=nodes).map(|n| if n == 1 { base.clone() } else { format!("{base}-{n}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_labels() {
        assert_eq!(node_names("Edge_1.example.com", 3), ["edge-1", "edge-1-2", "edge-1-3"]);
        assert_eq!(node_names("", 1), ["node"]);
    }

    #[test]
    fn addresses_follow_from_the_ranges() {
        let s = Settings::new("a", 2, 6443);
        assert_eq!(s.first_service_address(), "10.96.0.1".parse().ok());
        assert_eq!(Settings::underlay_address(1), IpAddr::V4(Ipv4Addr::new(10, 245, 0, 2)));
    }
}
