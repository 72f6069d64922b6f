//! What the proxy reads of Services, EndpointSlices and Nodes: small views, made once a change.
//!
//! Objects come from the API server and were validated there; what does not parse here (an address that is
//! none, a port of 0) is passed over, never guessed.

use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A network: address (host bits zero) and prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// First address.
    pub address: IpAddr,
    /// Bits that all its addresses share.
    pub prefix: u8,
}

impl Cidr {
    /// The network of this size around an address.
    pub fn new(address: IpAddr, prefix: u8) -> Cidr {
        let prefix = prefix.min(bits(address));
        Cidr { address: mask(address, prefix), prefix }
    }

    /// Only this address.
    pub fn host(address: IpAddr) -> Cidr {
        Cidr { address, prefix: bits(address) }
    }

    /// Reads `10.244.0.0/16`.
    pub fn parse(text: &str) -> Option<Cidr> {
        let (address, prefix) = text.trim().split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        (prefix <= bits(address)).then(|| Cidr::new(address, prefix))
    }

    /// The address is one of the network's.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && mask(address, self.prefix) == self.address
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Bits of an address of this family.
pub(crate) fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let m = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((a.to_bits() & m).into())
        }
        IpAddr::V6(a) => {
            let m = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((a.to_bits() & m).into())
        }
    }
}

/// A transport that services have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// The default.
    Tcp,
    /// Its conntrack entries are deleted when an endpoint goes.
    Udp,
    /// Likewise.
    Sctp,
}

impl Protocol {
    /// As in a Service: `TCP`, `UDP`, `SCTP`; empty = TCP.
    pub fn parse(text: &str) -> Option<Protocol> {
        match text {
            "TCP" | "" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// As iptables has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, empty for an only port.
    pub name: String,
    /// Transport.
    pub protocol: Protocol,
    /// Port on the service's addresses.
    pub port: u16,
    /// Port on every node, 0 = none.
    pub node_port: u16,
}

/// A service that has addresses (headless and ExternalName ones need no rules).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name`.
    pub key: String,
    /// `clusterIPs`, both families.
    pub cluster_ips: Vec<IpAddr>,
    /// `externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of its load balancer that this node is to answer for (`ipMode` VIP).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may come by the load balancer; empty = everybody.
    pub load_balancer_sources: Vec<Cidr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Seconds for which a client stays with its endpoint; `None` = no affinity.
    pub affinity_s: Option<u32>,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn port_number(value: &Value, pointer: &str) -> u16 {
    value.pointer(pointer).and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
}

fn flag(value: &Value, pointer: &str) -> Option<bool> {
    value.pointer(pointer).and_then(Value::as_bool)
}

fn addresses<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<IpAddr> {
    values.filter_map(Value::as_str).filter_map(|s| s.parse().ok()).collect()
}

fn key_of(value: &Value) -> String {
    format!("{}/{}", text(value, "/metadata/namespace"), text(value, "/metadata/name"))
}

impl Service {
    /// Reads a Service; `None` when it needs no rules (headless, ExternalName, somebody else's proxy).
    pub fn parse(value: &Value) -> Option<Service> {
        let kind = text(value, "/spec/type");
        let labels = value.pointer("/metadata/labels");
        let foreign = labels.and_then(|l| l.get("service.kubernetes.io/service-proxy-name"));
        if kind == "ExternalName" || foreign.is_some() {
            return None;
        }
        let mut cluster_ips = addresses(items(value, "/spec/clusterIPs"));
        if cluster_ips.is_empty() {
            cluster_ips = text(value, "/spec/clusterIP").parse().into_iter().collect();
        }
        if cluster_ips.is_empty() {
            return None;
        }
        let affinity = text(value, "/spec/sessionAffinity") == "ClientIP";
        let seconds = value
            .pointer("/spec/sessionAffinityConfig/clientIP/timeoutSeconds")
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(10_800);
        let balancers = items(value, "/status/loadBalancer/ingress")
            .filter(|i| matches!(text(i, "/ipMode"), "" | "VIP"))
            .filter_map(|i| text(i, "/ip").parse().ok());
        let ports = items(value, "/spec/ports").filter_map(|p| {
            Some(ServicePort {
                name: text(p, "/name").to_owned(),
                protocol: Protocol::parse(text(p, "/protocol"))?,
                port: Some(port_number(p, "/port")).filter(|n| *n != 0)?,
                node_port: port_number(p, "/nodePort"),
            })
        });
        Some(Service {
            key: key_of(value),
            cluster_ips,
            external_ips: addresses(items(value, "/spec/externalIPs")),
            load_balancer_ips: balancers.collect(),
            load_balancer_sources: items(value, "/spec/loadBalancerSourceRanges")
                .filter_map(Value::as_str)
                .filter_map(Cidr::parse)
                .collect(),
            ports: ports.collect(),
            affinity_s: affinity.then_some(seconds),
            external_local: text(value, "/spec/externalTrafficPolicy") == "Local",
            internal_local: text(value, "/spec/internalTrafficPolicy") == "Local",
        })
    }
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Node that it runs on, empty when it is not known.
    pub node: Arc<str>,
    /// `conditions.ready`; unknown counts as ready.
    pub ready: bool,
    /// `conditions.serving`; unknown counts as `ready`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `hints.forZones`.
    pub zones: Vec<String>,
    /// `hints.forNodes`.
    pub nodes: Vec<String>,
}

/// One EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// `namespace/name` of its service.
    pub service: String,
    /// Ports that its endpoints have: name, transport, number.
    pub ports: Vec<(String, Protocol, u16)>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

impl Slice {
    /// Reads an EndpointSlice; `None` when it belongs to no service or holds host names.
    pub fn parse(value: &Value) -> Option<Slice> {
        let name =
            value.pointer("/metadata/labels")?.get("kubernetes.io/service-name")?.as_str()?;
        if text(value, "/addressType") == "FQDN" {
            return None;
        }
        let ports = items(value, "/ports").filter_map(|p| {
            let number = Some(port_number(p, "/port")).filter(|n| *n != 0)?;
            Some((text(p, "/name").to_owned(), Protocol::parse(text(p, "/protocol"))?, number))
        });
        let endpoints = items(value, "/endpoints").filter_map(|e| {
            let ready = flag(e, "/conditions/ready").unwrap_or(true);
            // Only the first address counts, as in every other proxy.
            let address = items(e, "/addresses").next()?.as_str()?.parse().ok()?;
            let hints = |list: &str| {
                items(e, list).map(|h| text(h, "/name").to_owned()).collect::<Vec<_>>()
            };
            Some(Endpoint {
                address,
                node: text(e, "/nodeName").into(),
                ready,
                serving: flag(e, "/conditions/serving").unwrap_or(ready),
                terminating: flag(e, "/conditions/terminating").unwrap_or(false),
                zones: hints("/hints/forZones"),
                nodes: hints("/hints/forNodes"),
            })
        });
        Some(Slice {
            service: format!("{}/{name}", text(value, "/metadata/namespace")),
            ports: ports.collect(),
            endpoints: endpoints.collect(),
        })
    }
}

/// A node as others see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// `topology.kubernetes.io/zone`, empty when it has none.
    pub zone: String,
    /// `podCIDRs`.
    pub pod_cidrs: Vec<Cidr>,
    /// Addresses of type InternalIP.
    pub internal_ips: Vec<IpAddr>,
}

impl Node {
    /// Reads a Node.
    pub fn parse(value: &Value) -> Node {
        let mut pod_cidrs: Vec<Cidr> = items(value, "/spec/podCIDRs")
            .filter_map(Value::as_str)
            .filter_map(Cidr::parse)
            .collect();
        if pod_cidrs.is_empty() {
            pod_cidrs = Cidr::parse(text(value, "/spec/podCIDR")).into_iter().collect();
        }
        let labels = value.pointer("/metadata/labels");
        let zone = labels.and_then(|l| l.get("topology.kubernetes.io/zone"));
        Node {
            name: text(value, "/metadata/name").to_owned(),
            zone: zone.and_then(Value::as_str).unwrap_or("").to_owned(),
            pod_cidrs,
            internal_ips: items(value, "/status/addresses")
                .filter(|a| text(a, "/type") == "InternalIP")
                .filter_map(|a| text(a, "/address").parse().ok())
                .collect(),
        }
    }
}

/// Slices of a service by name.
pub type Slices = BTreeMap<String, Slice>;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn networks_contain_their_addresses() {
        let n = Cidr::parse("10.244.3.7/16").expect("network");
        assert_eq!(n.to_string(), "10.244.0.0/16");
        assert!(n.contains("10.244.255.1".parse().expect("address")));
        assert!(!n.contains("10.245.0.1".parse().expect("address")));
        assert!(!n.contains("::1".parse().expect("address")));
        assert!(Cidr::parse("0.0.0.0/0").expect("all").contains("1.2.3.4".parse().expect("a")));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", ""] {
            assert_eq!(Cidr::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn services_without_rules_are_passed_over() {
        for spec in [
            json!({"type": "ExternalName", "externalName": "a.b"}),
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            json!({}),
        ] {
            assert_eq!(Service::parse(&json!({"spec": spec})), None);
        }
    }

    #[test]
    fn conditions_have_their_defaults() {
        let slice = Slice::parse(&json!({
            "metadata": {"namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4",
            "ports": [{"port": 80}, {"name": "none"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["nonsense"]},
            ],
        }))
        .expect("slice");
        assert_eq!(slice.ports, [(String::new(), Protocol::Tcp, 80)]);
        let flags: Vec<_> =
            slice.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
        assert_eq!(flags, [(true, true, false), (false, false, false), (false, true, true)]);
    }
}
