//! The cluster's names: services, endpoints of headless services, namespaces; and what a question finds among them.
//!
//! The index is kept in step with the caches, object by object; a question is one or two look-ups by a piece of its
//! own wire form. Nothing here knows of upstreams, sockets or time.
//!
//! Reference: the Kubernetes DNS specification 1.1.0 (kubernetes/dns docs/specification.md).

use crate::limits::CLUSTER_TTL_S;
use crate::message::{Builder, Data, Name, Section, kind, labels};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// A port as SRV records tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    /// Lower case; empty for an unnamed one.
    name: String,
    /// `tcp`, `udp`, `sctp`.
    protocol: &'static str,
    port: u16,
}

/// An endpoint of a headless service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Host {
    address: IpAddr,
    /// Its host name, or its address with dashes.
    label: String,
}

/// A service as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// With addresses of its own.
    Addresses(Vec<IpAddr>),
    Headless,
    /// An alias.
    External(Name),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    kind: Kind,
    ports: Vec<Port>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slice {
    /// Name of its service (wire form of `name.namespace`, without the final zero).
    owner: Key,
    ports: Vec<Port>,
    hosts: Vec<Host>,
}

/// Wire form of two or more labels without the final zero.
type Key = Vec<u8>;

/// What is answered for one service name.
#[derive(Clone, Debug)]
struct Entry {
    /// `name.namespace.svc.DOMAIN.`
    name: Name,
    kind: Kind,
    ports: Vec<Port>,
    /// Headless: all endpoints, with the ports of their slices.
    hosts: Vec<(Host, Vec<Port>)>,
}

/// The cluster's names.
#[derive(Debug)]
pub struct Zone {
    domain: Name,
    /// `svc.DOMAIN.`, `pod.DOMAIN.`, ...
    svc: Name,
    server: Name,
    mailbox: Name,
    /// Our own address, for the zone's name server record.
    own: IpAddr,
    entries: HashMap<Key, Entry>,
    services: BTreeMap<String, (Key, Service)>,
    slices: BTreeMap<String, Slice>,
    /// Slices of a service.
    slices_of: HashMap<Key, BTreeSet<String>>,
    namespaces: BTreeSet<Vec<u8>>,
    reverse: HashMap<IpAddr, BTreeSet<Name>>,
    /// Grows with every change.
    serial: u32,
}

/// What a question found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Records were written, or the name exists without such records.
    Exists,
    /// There is no such name.
    NoSuchName,
    /// The name is an alias of one outside of the cluster: to be looked up there. The CNAME records that lead to it
    /// are owner and target.
    Outside(Vec<(Name, Name)>),
    /// Not a name of ours.
    Elsewhere,
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn ports_of(value: &Value, pointer: &str) -> Vec<Port> {
    let port = |p: &Value| {
        let protocol = match text(p, "/protocol") {
            "" | "TCP" => "tcp",
            "UDP" => "udp",
            "SCTP" => "sctp",
            _ => return None,
        };
        let number = p.get("port").and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok())?;
        Some(Port { name: text(p, "/name").to_ascii_lowercase(), protocol, port: number })
    };
    items(value, pointer).filter_map(port).collect()
}

/// Wire form of labels without the final zero; `None` when one cannot be a label.
fn key(parts: &[&str]) -> Option<Key> {
    let mut out = Vec::new();
    for part in parts {
        if part.is_empty() || part.len() > crate::limits::LABEL_BYTES_MAX {
            return None;
        }
        out.push(part.len() as u8);
        out.extend(part.bytes().map(|b| b.to_ascii_lowercase()));
    }
    Some(out)
}

impl Service {
    fn parse(value: &Value) -> Option<Service> {
        let ports = ports_of(value, "/spec/ports");
        if text(value, "/spec/type") == "ExternalName" {
            let name = Name::parse(text(value, "/spec/externalName"))?;
            return Some(Service { kind: Kind::External(name), ports });
        }
        let mut all: Vec<&str> =
            items(value, "/spec/clusterIPs").filter_map(Value::as_str).collect();
        if all.is_empty() {
            all.push(text(value, "/spec/clusterIP"));
        }
        if all.contains(&"None") {
            return Some(Service { kind: Kind::Headless, ports });
        }
        let addresses: Vec<IpAddr> = all.iter().filter_map(|a| a.parse().ok()).collect();
        (!addresses.is_empty()).then_some(Service { kind: Kind::Addresses(addresses), ports })
    }
}

impl Slice {
    fn parse(value: &Value) -> Option<Slice> {
        let service =
            value.pointer("/metadata/labels")?.get("kubernetes.io/service-name")?.as_str()?;
        if text(value, "/addressType") == "FQDN" {
            return None;
        }
        let mut hosts = Vec::new();
        for e in items(value, "/endpoints") {
            // Unknown counts as ready.
            if e.pointer("/conditions/ready").and_then(Value::as_bool) == Some(false) {
                continue;
            }
            let name = text(e, "/hostname").to_ascii_lowercase();
            for address in items(e, "/addresses").filter_map(Value::as_str) {
                let Ok(address) = address.parse::<IpAddr>() else { continue };
                let label = if name.is_empty() { dashed(address) } else { name.clone() };
                hosts.push(Host { address, label });
            }
        }
        Some(Slice {
            owner: key(&[service, text(value, "/metadata/namespace")])?,
            ports: ports_of(value, "/ports"),
            hosts,
        })
    }
}

fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The address that a pod's label `10-244-0-5` (or `fd00--5`) means.
fn undashed(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    let v4 = text.replace('-', ".").parse().ok().map(IpAddr::V4);
    v4.or_else(|| text.replace('-', ":").parse().ok().map(IpAddr::V6))
}

/// The address that a name under in-addr.arpa or ip6.arpa means.
fn reversed(name: &[u8]) -> Option<IpAddr> {
    let all: Vec<&[u8]> = labels(name).collect();
    match all.as_slice() {
        [host @ .., b"in-addr", b"arpa"] if host.len() == 4 => {
            let mut octets = [0u8; 4];
            for (octet, label) in octets.iter_mut().rev().zip(host) {
                *octet = std::str::from_utf8(label).ok()?.parse().ok()?;
            }
            Some(IpAddr::from(octets))
        }
        [host @ .., b"ip6", b"arpa"] if host.len() == 32 => {
            let mut bits = 0u128;
            for label in host.iter().rev() {
                let digit = std::str::from_utf8(label).ok().filter(|t| t.len() == 1)?;
                bits = bits << 4 | u128::from_str_radix(digit, 16).ok()?;
            }
            Some(IpAddr::from(bits.to_be_bytes()))
        }
        _ => None,
    }
}

impl Zone {
    /// An empty zone; `domain` without a final dot (`cluster.local`). `None` when that is no name.
    pub fn new(domain: &str, own: IpAddr) -> Option<Zone> {
        Some(Zone {
            domain: Name::parse(domain)?,
            svc: Name::parse(&format!("svc.{domain}"))?,
            server: Name::parse(&format!("ns.dns.{domain}"))?,
            mailbox: Name::parse(&format!("hostmaster.{domain}"))?,
            own,
            entries: HashMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_of: HashMap::new(),
            namespaces: BTreeSet::new(),
            reverse: HashMap::new(),
            serial: 1,
        })
    }

    /// How many services have names.
    pub fn services_count(&self) -> usize {
        self.entries.len()
    }

    /// A Namespace came or went.
    pub fn namespace(&mut self, name: &str, exists: bool) {
        self.serial = self.serial.wrapping_add(1);
        let name = name.as_bytes().to_ascii_lowercase();
        if exists {
            self.namespaces.insert(name);
        } else {
            self.namespaces.remove(&name);
        }
    }

    /// A Service changed; its key is `namespace/name`.
    pub fn service(&mut self, object_key: &str, new: Option<&Value>) {
        let parsed = new.and_then(Service::parse);
        let parsed = parsed.and_then(|service| {
            let (namespace, name) = object_key.split_once('/')?;
            Some((key(&[name, namespace])?, service))
        });
        let old = match parsed {
            Some((key, service)) => {
                let known = self.services.get(object_key);
                if known.is_some_and(|(_, old)| *old == service) {
                    return;
                }
                self.services.insert(object_key.to_owned(), (key.clone(), service));
                Some(key)
            }
            None => self.services.remove(object_key).map(|(key, _)| key),
        };
        if let Some(key) = old {
            self.rebuild(object_key, &key);
        }
    }

    /// An EndpointSlice changed; its key is `namespace/name`.
    pub fn slice(&mut self, object_key: &str, new: Option<&Value>) {
        let new = new.and_then(Slice::parse);
        if self.slices.get(object_key) == new.as_ref() {
            return;
        }
        let mut touched = BTreeSet::new();
        if let Some(old) = self.slices.remove(object_key) {
            if let Some(set) = self.slices_of.get_mut(&old.owner) {
                set.remove(object_key);
            }
            touched.insert(old.owner);
        }
        if let Some(slice) = new {
            let set = self.slices_of.entry(slice.owner.clone()).or_default();
            set.insert(object_key.to_owned());
            touched.insert(slice.owner.clone());
            self.slices.insert(object_key.to_owned(), slice);
        }
        for owner in touched {
            if self.slices_of.get(&owner).is_some_and(BTreeSet::is_empty) {
                self.slices_of.remove(&owner);
            }
            let names: Vec<_> = labels(&owner).map(String::from_utf8_lossy).collect();
            if let [name, namespace] = names.as_slice() {
                let service_key = format!("{namespace}/{name}");
                self.rebuild(&service_key, &owner);
            }
        }
    }

    /// Makes a service's entry again.
    fn rebuild(&mut self, object_key: &str, key: &Key) {
        self.serial = self.serial.wrapping_add(1);
        if let Some(old) = self.entries.remove(key) {
            for (address, name) in old.reverse_names() {
                if let Some(names) = self.reverse.get_mut(&address) {
                    names.remove(&name);
                    if names.is_empty() {
                        self.reverse.remove(&address);
                    }
                }
            }
        }
        let Some((_, service)) = self.services.get(object_key) else { return };
        let mut wire = key.clone();
        wire.extend_from_slice(self.svc.wire());
        let mut hosts = Vec::new();
        if service.kind == Kind::Headless {
            for slice in self.slices_of.get(key).into_iter().flatten() {
                let Some(slice) = self.slices.get(slice) else { continue };
                hosts.extend(slice.hosts.iter().map(|h| (h.clone(), slice.ports.clone())));
            }
            hosts.sort_by(|a, b| a.0.cmp(&b.0));
            hosts.dedup_by(|a, b| a.0 == b.0 && a.1 == b.1);
        }
        let entry = Entry {
            name: Name::from_wire(&wire),
            kind: service.kind.clone(),
            ports: service.ports.clone(),
            hosts,
        };
        for (address, name) in entry.reverse_names() {
            self.reverse.entry(address).or_default().insert(name);
        }
        self.entries.insert(key.clone(), entry);
    }

    /// The labels of a lower-case wire name in front of the domain, if it is in the domain.
    fn inside<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let rest = name.strip_suffix(self.domain.wire())?;
        // The suffix must start at a label's beginning.
        let mut at = 0;
        while at < rest.len() {
            at += 1 + usize::from(rest[at]);
        }
        (at == rest.len()).then_some(rest)
    }

    /// Writes the zone's SOA record, which an answer without records has in its authority section.
    pub fn write_authority(&self, out: &mut Builder<'_>, section: Section) {
        let data = Data::Authority {
            server: self.server.wire(),
            mailbox: self.mailbox.wire(),
            serial: self.serial,
            minimum_s: CLUSTER_TTL_S,
        };
        out.add(section, Some(self.domain.wire()), CLUSTER_TTL_S, data);
    }

    /// Looks a question up (`name` lower case, wire form) and writes its records. `rotate` turns lists of addresses,
    /// so that clients that take the first spread over all. `owner` none = the name is the question's own.
    pub fn answer(
        &self,
        name: &[u8],
        owner: Option<&[u8]>,
        qtype: u16,
        rotate: usize,
        out: &mut Builder<'_>,
    ) -> Found {
        let Some(rest) = self.inside(name) else {
            return self.answer_reverse(name, qtype, out);
        };
        let all: Vec<&[u8]> = labels(rest).collect();
        match all.as_slice() {
            [] => {
                match qtype {
                    kind::SOA => self.write_authority(out, Section::Answer),
                    kind::NS => {
                        let data = Data::Server(self.server.wire());
                        out.add(Section::Answer, owner, CLUSTER_TTL_S, data);
                        let server = Some(self.server.wire());
                        let own = Data::Address(self.own);
                        out.add(Section::Additional, server, CLUSTER_TTL_S, own);
                    }
                    _ => {}
                }
                Found::Exists
            }
            [b"dns-version"] => {
                if matches!(qtype, kind::TXT | kind::ANY) {
                    out.add(Section::Answer, owner, CLUSTER_TTL_S, Data::Text("1.1.0"));
                }
                Found::Exists
            }
            [b"svc"] | [b"pod"] | [b"dns"] => Found::Exists,
            [b"ns", b"dns"] => {
                write_addresses(out, owner, qtype, &[self.own], 0);
                Found::Exists
            }
            [namespace, b"svc" | b"pod"] => self.exists(self.namespaces.contains(*namespace)),
            [label, namespace, b"pod"] => match undashed(label) {
                Some(address) if self.namespaces.contains(*namespace) => {
                    write_addresses(out, owner, qtype, &[address], 0);
                    Found::Exists
                }
                _ => Found::NoSuchName,
            },
            [front @ .., name, namespace, b"svc"] => {
                let length = name.len() + namespace.len() + 2;
                let svc_at = rest.len() - 4;
                let Some(entry) = self.entries.get(&rest[svc_at - length..svc_at]) else {
                    return Found::NoSuchName;
                };
                self.answer_service(entry, front, owner, qtype, rotate, out)
            }
            _ => Found::NoSuchName,
        }
    }

    fn exists(&self, yes: bool) -> Found {
        if yes { Found::Exists } else { Found::NoSuchName }
    }

    fn answer_reverse(&self, name: &[u8], qtype: u16, out: &mut Builder<'_>) -> Found {
        let Some(names) = reversed(name).and_then(|a| self.reverse.get(&a)) else {
            return Found::Elsewhere;
        };
        if matches!(qtype, kind::PTR | kind::ANY) {
            for target in names {
                out.add(Section::Answer, None, CLUSTER_TTL_S, Data::Pointer(target.wire()));
            }
        }
        Found::Exists
    }

    fn answer_service(
        &self,
        entry: &Entry,
        front: &[&[u8]],
        owner: Option<&[u8]>,
        qtype: u16,
        rotate: usize,
        out: &mut Builder<'_>,
    ) -> Found {
        if let Kind::External(target) = &entry.kind {
            return match front {
                [] => Found::Outside(vec![(entry.name.clone(), target.clone())]),
                _ => Found::NoSuchName,
            };
        }
        match front {
            [] => {
                match &entry.kind {
                    Kind::Addresses(all) => write_addresses(out, owner, qtype, all, rotate),
                    _ => {
                        let all: Vec<_> = entry.hosts.iter().map(|(h, _)| h.address).collect();
                        write_addresses(out, owner, qtype, &all, rotate);
                    }
                }
                if qtype == kind::SRV {
                    entry.write_services(owner, |_| true, out);
                }
                Found::Exists
            }
            [protocol] if protocol.starts_with(b"_") => {
                let known = |p: &Port| p.protocol.as_bytes() == &protocol[1..];
                self.exists(entry.all_ports().any(known))
            }
            [label] => {
                let of: Vec<_> = entry
                    .hosts
                    .iter()
                    .filter(|(h, _)| h.label.as_bytes() == *label)
                    .map(|(h, _)| h.address)
                    .collect();
                write_addresses(out, owner, qtype, &of, 0);
                self.exists(!of.is_empty())
            }
            [port, protocol] if port.starts_with(b"_") && protocol.starts_with(b"_") => {
                let wanted = |p: &Port| {
                    p.name.as_bytes() == &port[1..] && p.protocol.as_bytes() == &protocol[1..]
                };
                if !entry.all_ports().any(wanted) {
                    return Found::NoSuchName;
                }
                if matches!(qtype, kind::SRV | kind::ANY) {
                    entry.write_services(owner, wanted, out);
                }
                Found::Exists
            }
            _ => Found::NoSuchName,
        }
    }
}

impl Entry {
    /// Addresses that are known by a name of this service.
    fn reverse_names(&self) -> Vec<(IpAddr, Name)> {
        match &self.kind {
            Kind::Addresses(all) => all.iter().map(|a| (*a, self.name.clone())).collect(),
            Kind::Headless => {
                let name = |h: &Host| Some((h.address, Name::under(&h.label, &self.name)?));
                self.hosts.iter().filter_map(|(h, _)| name(h)).collect()
            }
            Kind::External(_) => Vec::new(),
        }
    }

    fn all_ports(&self) -> impl Iterator<Item = &Port> {
        let own = if self.kind == Kind::Headless { &[] } else { self.ports.as_slice() };
        own.iter().chain(self.hosts.iter().flat_map(|(_, ports)| ports))
    }

    /// SRV records, and the addresses of their targets as additional ones.
    fn write_services(
        &self,
        owner: Option<&[u8]>,
        wanted: impl Fn(&Port) -> bool,
        out: &mut Builder<'_>,
    ) {
        let mut targets: Vec<(Name, u16, IpAddr)> = Vec::new();
        match &self.kind {
            Kind::Addresses(all) => {
                for port in self.ports.iter().filter(|p| wanted(p)) {
                    targets.extend(all.iter().map(|a| (self.name.clone(), port.port, *a)));
                }
            }
            _ => {
                for (host, ports) in &self.hosts {
                    let Some(name) = Name::under(&host.label, &self.name) else { continue };
                    for port in ports.iter().filter(|p| wanted(p)) {
                        targets.push((name.clone(), port.port, host.address));
                    }
                }
            }
        }
        let pairs: BTreeSet<(&Name, u16)> = targets.iter().map(|(n, p, _)| (n, *p)).collect();
        let weight = (100 / pairs.len().max(1)).max(1) as u16;
        for (target, port) in pairs {
            let data = Data::Service { weight, port, target: target.wire() };
            out.add(Section::Answer, owner, CLUSTER_TTL_S, data);
        }
        let addresses: BTreeSet<(&Name, IpAddr)> =
            targets.iter().map(|(n, _, a)| (n, *a)).collect();
        for (name, address) in addresses {
            let data = Data::Address(address);
            out.add(Section::Additional, Some(name.wire()), CLUSTER_TTL_S, data);
        }
    }
}

fn write_addresses(
    out: &mut Builder<'_>,
    owner: Option<&[u8]>,
    qtype: u16,
    all: &[IpAddr],
    rotate: usize,
) {
    let wanted = |a: &&IpAddr| match qtype {
        kind::A => a.is_ipv4(),
        kind::AAAA => a.is_ipv6(),
        kind::ANY => true,
        _ => false,
    };
    let start = if all.len() > 1 { rotate % all.len() } else { 0 };
    let (tail, head) = all.split_at(start);
    for address in head.iter().chain(tail).filter(wanted) {
        out.add(Section::Answer, owner, CLUSTER_TTL_S, Data::Address(*address));
    }
}
