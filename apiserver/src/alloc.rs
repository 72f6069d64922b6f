//! Cluster IPs and node ports: which are taken, from the services in the watch cache and the writes under way.
//!
//! This server is the only one that writes services, so what it holds in memory is the truth; it is rebuilt
//! from the cache after a load. A write reserves before its transaction and gives back when that fails.
//!
//! References: pkg/registry/core/service/{ip,port}allocator.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use pintle_api::object;
use pintle_base::Prng;
use serde_json::Value;

/// What a write has taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reserved {
    pub ips: Vec<Ipv4Addr>,
    pub ports: Vec<(String, u16)>,
}

/// Why a wanted address or port cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Somebody has it.
    Taken,
    /// It lies outside the range.
    OutOfRange,
    /// It is no address of this family.
    Malformed,
    /// Nothing is free.
    Full,
}

/// All addresses and ports in use.
#[derive(Debug)]
pub(crate) struct Alloc {
    base: u32,
    bits: u32,
    ports: (u16, u16),
    /// By owner `namespace/name`, what each stored service has.
    owners: HashMap<String, Reserved>,
    taken_ips: HashMap<Ipv4Addr, u32>,
    taken_ports: HashMap<(String, u16), u32>,
}

/// Address and prefix length of an IPv4 range in CIDR notation.
fn parse_cidr(cidr: &str) -> Option<(Ipv4Addr, u32)> {
    let (address, bits) = cidr.split_once('/')?;
    let bits: u32 = bits.parse().ok().filter(|b| *b <= 32)?;
    Some((address.parse().ok()?, bits))
}

impl Alloc {
    /// Nothing is taken yet. A range that cannot be parsed is taken as Kubernetes' default.
    pub(crate) fn new(cidr: &str, ports: (u16, u16)) -> Alloc {
        let (address, bits) = parse_cidr(cidr).unwrap_or((Ipv4Addr::new(10, 96, 0, 0), 16));
        let mask = if bits == 0 { 0 } else { u32::MAX << (32 - bits) };
        Alloc {
            base: u32::from(address) & mask,
            bits,
            ports,
            owners: HashMap::new(),
            taken_ips: HashMap::new(),
            taken_ports: HashMap::new(),
        }
    }

    fn size(&self) -> u64 {
        1 << (32 - self.bits)
    }

    /// The first address of the range: the `kubernetes` service's.
    pub(crate) fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// Takes a wanted address.
    pub(crate) fn take_ip(&mut self, text: &str, r: &mut Reserved) -> Result<Ipv4Addr, Refusal> {
        let ip: Ipv4Addr = match text.parse() {
            Ok(IpAddr::V4(ip)) => ip,
            Ok(IpAddr::V6(_)) => return Err(Refusal::OutOfRange),
            Err(_) => return Err(Refusal::Malformed),
        };
        let offset = u64::from(u32::from(ip).wrapping_sub(self.base));
        if offset == 0 || offset >= self.size() - 1 {
            return Err(Refusal::OutOfRange);
        }
        if self.taken_ips.contains_key(&ip) {
            return Err(Refusal::Taken);
        }
        self.taken_ips.insert(ip, 1);
        r.ips.push(ip);
        Ok(ip)
    }

    /// Takes a free address, from the upper part of the range first: the lower is for addresses that people
    /// choose (KEP-3070).
    pub(crate) fn any_ip(
        &mut self,
        prng: &mut Prng,
        r: &mut Reserved,
    ) -> Result<Ipv4Addr, Refusal> {
        let size = self.size();
        let reserved = (size / 16).clamp(16, 256).min(size);
        for (from, to) in [(reserved, size - 1), (1, reserved.min(size - 1))] {
            let span = to.saturating_sub(from);
            let start = prng.below(span);
            for i in 0..span {
                let offset = from + (start + i) % span;
                let ip = Ipv4Addr::from(self.base + offset as u32);
                if let Entry::Vacant(free) = self.taken_ips.entry(ip) {
                    free.insert(1);
                    r.ips.push(ip);
                    return Ok(ip);
                }
            }
        }
        Err(Refusal::Full)
    }

    /// Takes a wanted node port.
    pub(crate) fn take_port(
        &mut self,
        protocol: &str,
        port: u16,
        r: &mut Reserved,
    ) -> Result<(), Refusal> {
        if port < self.ports.0 || port > self.ports.1 {
            return Err(Refusal::OutOfRange);
        }
        let key = (protocol.to_owned(), port);
        if self.taken_ports.contains_key(&key) {
            return Err(Refusal::Taken);
        }
        self.taken_ports.insert(key.clone(), 1);
        r.ports.push(key);
        Ok(())
    }

    /// Takes a free node port.
    pub(crate) fn any_port(
        &mut self,
        protocol: &str,
        prng: &mut Prng,
        r: &mut Reserved,
    ) -> Result<u16, Refusal> {
        let span = u64::from(self.ports.1 - self.ports.0) + 1;
        let start = prng.below(span);
        for i in 0..span {
            let port = self.ports.0 + ((start + i) % span) as u16;
            let key = (protocol.to_owned(), port);
            if !self.taken_ports.contains_key(&key) {
                self.taken_ports.insert(key.clone(), 1);
                r.ports.push(key);
                return Ok(port);
            }
        }
        Err(Refusal::Full)
    }

    /// The write failed or was not made.
    pub(crate) fn release(&mut self, r: &Reserved) {
        for ip in &r.ips {
            drop_one(&mut self.taken_ips, ip);
        }
        for port in &r.ports {
            drop_one(&mut self.taken_ports, port);
        }
    }

    /// The write stands. Its hold goes over to the stored service, which the watch brings.
    pub(crate) fn commit(&mut self, r: &Reserved, owner: &str) {
        if r.ips.is_empty() && r.ports.is_empty() {
            return;
        }
        // What is held twice for a moment (by the write and by the watch) is counted, not lost.
        let have = self.owners.entry(owner.to_owned()).or_default();
        for ip in &r.ips {
            if have.ips.contains(ip) {
                drop_one(&mut self.taken_ips, ip);
            } else {
                have.ips.push(*ip);
            }
        }
        for port in &r.ports {
            if have.ports.contains(port) {
                drop_one(&mut self.taken_ports, port);
            } else {
                have.ports.push(port.clone());
            }
        }
    }

    /// A service as the store has it now; `None` = it is gone.
    pub(crate) fn observe(&mut self, owner: &str, service: Option<&Value>) {
        let before = self.owners.remove(owner).unwrap_or_default();
        let after = service.map(uses).unwrap_or_default();
        for ip in &after.ips {
            *self.taken_ips.entry(*ip).or_insert(0) += 1;
        }
        for port in &after.ports {
            *self.taken_ports.entry(port.clone()).or_insert(0) += 1;
        }
        self.release(&before);
        if service.is_some() {
            self.owners.insert(owner.to_owned(), after);
        }
    }

    /// Forgets all: a load begins.
    pub(crate) fn clear(&mut self) {
        self.owners.clear();
        self.taken_ips.clear();
        self.taken_ports.clear();
    }
}

fn drop_one<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(n) = counts.get_mut(key) {
        *n -= 1;
        if *n == 0 {
            counts.remove(key);
        }
    }
}

/// The addresses and ports of a service.
pub(crate) fn uses(service: &Value) -> Reserved {
    let ips: HashSet<Ipv4Addr> = object::list_at(service, &["spec", "clusterIPs"])
        .iter()
        .chain(object::at(service, &["spec", "clusterIP"]))
        .filter_map(|v| v.as_str()?.parse().ok())
        .collect();
    let mut ports = Vec::new();
    for p in object::list_at(service, &["spec", "ports"]) {
        if let Some(n) = object::int_at(p, &["nodePort"]).and_then(|n| u16::try_from(n).ok())
            && n > 0
        {
            let protocol = match object::str_at(p, &["protocol"]) {
                "" => "TCP",
                other => other,
            };
            if !ports.contains(&(protocol.to_owned(), n)) {
                ports.push((protocol.to_owned(), n));
            }
        }
    }
    if let Some(n) = object::int_at(service, &["spec", "healthCheckNodePort"])
        .and_then(|n| u16::try_from(n).ok())
        && n > 0
        && !ports.contains(&("TCP".to_owned(), n))
    {
        ports.push(("TCP".to_owned(), n));
    }
    let mut ips: Vec<Ipv4Addr> = ips.into_iter().collect();
    ips.sort();
    Reserved { ips, ports }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_reserved_committed_and_observed_is_held_once() {
        let mut a = Alloc::new("10.96.0.0/24", (30000, 30001));
        let mut prng = Prng::new(1);
        let mut r = Reserved::default();
        let ip = a.any_ip(&mut prng, &mut r).expect("free");
        assert_eq!(a.any_port("TCP", &mut prng, &mut r).map(|_| ()), Ok(()));
        a.commit(&r, "ns/s");
        let service = json!({"spec": {"clusterIPs": [ip.to_string()], "ports": [{"nodePort": r.ports[0].1}]}});
        a.observe("ns/s", Some(&service));
        assert_eq!(a.take_ip(&ip.to_string(), &mut Reserved::default()), Err(Refusal::Taken));
        a.observe("ns/s", None);
        assert!(a.taken_ips.is_empty() && a.taken_ports.is_empty());
        // The watch may be faster than the answer.
        let mut r = Reserved::default();
        a.take_ip("10.96.0.9", &mut r).expect("free");
        a.observe("ns/s", Some(&json!({"spec": {"clusterIP": "10.96.0.9"}})));
        a.commit(&r, "ns/s");
        a.observe("ns/s", None);
        assert!(a.taken_ips.is_empty());
        assert_eq!(a.take_ip("10.97.0.9", &mut r), Err(Refusal::OutOfRange));
        assert_eq!(a.take_ip("x", &mut r), Err(Refusal::Malformed));
    }

    #[test]
    fn a_full_range_says_so() {
        let mut a = Alloc::new("10.96.0.0/28", (30000, 30001));
        let mut prng = Prng::new(1);
        let mut r = Reserved::default();
        for _ in 0..14 {
            a.any_ip(&mut prng, &mut r).expect("free");
        }
        assert_eq!(a.any_ip(&mut prng, &mut r), Err(Refusal::Full));
        a.any_port("TCP", &mut prng, &mut r).expect("free");
        a.any_port("TCP", &mut prng, &mut r).expect("free");
        assert_eq!(a.any_port("TCP", &mut prng, &mut r), Err(Refusal::Full));
        assert!(a.any_port("UDP", &mut prng, &mut r).is_ok());
    }
}
