//! What a Service means, said slowly and without rules, and the comparison with what the rules do.
//!
//! Random clusters are built from a seed; a failure prints the seed.

use crate::assembly::Assembly;
use crate::build::{Config, ServiceRules, service_rules};
use crate::model::{Cidr, Endpoint, Node, Protocol, Service, ServicePort, Slice, Slices};
use crate::ruleset::{RuleSet, difference};
use crate::trace::{End, Machine, Outcome, Packet, trace};
use pintle_base::Prng;
use std::collections::BTreeMap;
use std::net::IpAddr;

struct Cluster {
    config: Config,
    node: Node,
    machine: Machine,
    services: Vec<Service>,
    slices: BTreeMap<String, Slices>,
    /// Distance between the services' addresses, odd: close together or all over the range.
    stride: u16,
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::from([a, b, c, d])
}

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

impl Cluster {
    fn random(p: &mut Prng, stride: u16) -> Cluster {
        let config = Config {
            cluster_cidrs: vec![Cidr::new(v4(10, 244, 0, 0), 16)],
            local_vips: vec![v4(10, 96, 0, 10)],
            masquerade_cidrs: Vec::new(),
        };
        let node = Node {
            name: NODES[0].into(),
            zone: "a".into(),
            pod_cidrs: vec![Cidr::new(v4(10, 244, 0, 0), 24)],
            internal_ips: vec![v4(192, 168, 1, 1)],
        };
        let machine = Machine {
            addresses: vec![v4(192, 168, 1, 1), v4(10, 244, 0, 1), v4(10, 96, 0, 10)],
            ..Machine::default()
        };
        let mut cluster = Cluster {
            config,
            node,
            machine,
            services: Vec::new(),
            slices: BTreeMap::new(),
            stride,
        };
        // Few services, or so many that KUBE-SERVICES becomes a tree of one or two levels.
        let count = *[3, 8, 100, 400].get(p.below(4) as usize).expect("in range");
        for n in 0..count {
            cluster.add(p, n as u16);
        }
        cluster
    }

    fn add(&mut self, p: &mut Prng, n: u16) {
        let key = format!("ns/s{n}");
        let [hi, lo] = n.wrapping_mul(self.stride).to_be_bytes();
        let mut ports = Vec::new();
        for i in 0..1 + p.below(3) as u16 {
            let protocol = match p.below(5) {
                0 => Protocol::Udp,
                1 => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            ports.push(ServicePort {
                name: if i == 0 { String::new() } else { format!("p{i}") },
                protocol,
                port: 80 + i,
                node_port: if p.chance(1, 3) { 30_000 + n * 3 + i } else { 0 },
            });
        }
        let outside = |p: &mut Prng, net: u8| {
            if p.chance(1, 5) { vec![v4(203, net, hi, lo)] } else { Vec::new() }
        };
        let ranges = p.chance(1, 3);
        let service = Service {
            key: key.clone(),
            cluster_ips: vec![v4(10, 96, hi, lo)],
            external_ips: outside(p, 1),
            load_balancer_ips: outside(p, 2),
            load_balancer_sources: if ranges {
                vec![Cidr::new(v4(198, 51, 0, 0), 16)]
            } else {
                Vec::new()
            },
            ports,
            affinity_s: p.chance(1, 6).then_some(100),
            external_local: p.chance(1, 3),
            internal_local: p.chance(1, 4),
        };
        let mut slices = Slices::new();
        for s in 0..p.below(3) {
            slices.insert(format!("{key}-{s}"), random_slice(p, &service));
        }
        self.services.push(service);
        self.slices.insert(key, slices);
    }

    fn rules_of(&self, s: &Service) -> ServiceRules {
        service_rules(&self.config, &self.node, s, &self.slices[&s.key], true)
    }

    fn assembly(&self) -> Assembly {
        let mut all = Assembly::new(&self.config, &self.node, true);
        for s in &self.services {
            all.set_service(&s.key, Some(self.rules_of(s)));
        }
        all.settle();
        all
    }

    fn rules(&self) -> RuleSet {
        self.assembly().rules().clone()
    }

    fn random_packet(&self, p: &mut Prng) -> Packet {
        let s = &self.services[p.below(self.services.len() as u64) as usize];
        let port = &s.ports[p.below(s.ports.len() as u64) as usize];
        let mut number = port.port;
        let endpoints: Vec<IpAddr> =
            self.slices[&s.key].values().flat_map(|s| &s.endpoints).map(|e| e.address).collect();
        let destination = match p.below(8) {
            0 | 1 => s.cluster_ips[0],
            2 => s.external_ips.first().copied().unwrap_or(s.cluster_ips[0]),
            3 => s.load_balancer_ips.first().copied().unwrap_or(s.cluster_ips[0]),
            4 | 5 => {
                if port.node_port != 0 {
                    number = port.node_port;
                }
                if p.chance(1, 4) { v4(127, 0, 0, 1) } else { v4(192, 168, 1, 1) }
            }
            6 => v4(192, 168, 1, 2),
            _ => endpoints.first().copied().unwrap_or(v4(8, 8, 8, 8)),
        };
        if p.chance(1, 20) {
            number = 9;
        }
        let hairpin = endpoints.iter().find(|a| self.node.pod_cidrs[0].contains(**a));
        let (source, from_node) = match p.below(6) {
            0 => (hairpin.copied().unwrap_or(v4(10, 244, 0, 77)), false),
            1 => (v4(10, 244, 0, 77), false),
            2 => (v4(198, 51, 100, 7), false),
            3 => (v4(192, 168, 1, 3), false),
            4 => (v4(10, 244, 0, 1), true),
            _ => (v4(192, 168, 1, 1), true),
        };
        Packet { source, destination, port: number, protocol: port.protocol, from_node }
    }
}

fn random_slice(p: &mut Prng, service: &Service) -> Slice {
    let endpoints = (0..p.below(5)).map(|_| {
        let n = p.below(3) as usize;
        let address = match p.below(6) {
            // On the host's network.
            0 => v4(192, 168, 1, 1 + n as u8),
            _ => v4(10, 244, n as u8, 2 + p.below(6) as u8),
        };
        let ready = p.chance(2, 3);
        Endpoint {
            address,
            node: NODES[n].into(),
            ready,
            serving: ready || p.chance(1, 2),
            terminating: !ready && p.chance(1, 2),
            zones: if p.chance(5, 6) {
                vec![["a", "b"][p.below(2) as usize].into()]
            } else {
                Vec::new()
            },
            nodes: if p.chance(1, 8) { vec![NODES[p.below(2) as usize].into()] } else { vec![] },
        }
    });
    let endpoints = endpoints.collect();
    let ports = service.ports.iter().filter(|_| p.chance(7, 8));
    let ports = ports.map(|port| (port.name.clone(), port.protocol, 8000 + port.port)).collect();
    Slice { service: service.key.clone(), ports, endpoints }
}

/// How a packet comes to a service.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Cluster,
    External,
    Balancer,
    NodePort,
}

fn find<'a>(c: &'a Cluster, packet: &Packet) -> Option<(&'a Service, &'a ServicePort, Way)> {
    let local =
        packet.destination.is_loopback() || c.machine.addresses.contains(&packet.destination);
    for s in &c.services {
        if s.cluster_ips.iter().any(|a| c.config.local_vips.contains(a)) {
            continue;
        }
        for port in s.ports.iter().filter(|p| p.protocol == packet.protocol) {
            let way = if packet.port == port.port && s.cluster_ips.contains(&packet.destination) {
                Way::Cluster
            } else if packet.port == port.port && s.external_ips.contains(&packet.destination) {
                Way::External
            } else if packet.port == port.port && s.load_balancer_ips.contains(&packet.destination)
            {
                Way::Balancer
            } else if local && port.node_port != 0 && port.node_port == packet.port {
                Way::NodePort
            } else {
                continue;
            };
            return Some((s, port, way));
        }
    }
    None
}

/// Endpoints as a human would list them: usable ones, of which `local` only those here.
fn usable(c: &Cluster, s: &Service, port: &ServicePort, local: bool) -> Vec<(IpAddr, u16)> {
    let mut all: BTreeMap<(IpAddr, u16), Endpoint> = BTreeMap::new();
    for slice in c.slices[&s.key].values() {
        for (name, protocol, number) in &slice.ports {
            if *name != port.name || *protocol != port.protocol {
                continue;
            }
            for e in &slice.endpoints {
                let old = all.get(&(e.address, *number));
                if old.is_none_or(|o| !o.ready && e.ready) {
                    all.insert((e.address, *number), e.clone());
                }
            }
        }
    }
    let ready: Vec<_> = all.values().filter(|e| e.ready).cloned().collect();
    let by_node = ready.iter().all(|e| !e.nodes.is_empty())
        && ready.iter().any(|e| e.nodes.contains(&c.node.name));
    let by_zone = ready.iter().all(|e| !e.zones.is_empty())
        && ready.iter().any(|e| e.zones.contains(&c.node.zone));
    let here = |e: &Endpoint| *e.node == *c.node.name;
    let first: Vec<_> = all
        .iter()
        .filter(|(_, e)| e.ready)
        .filter(|(_, e)| {
            if local {
                here(e)
            } else if by_node {
                e.nodes.contains(&c.node.name)
            } else if by_zone {
                e.zones.contains(&c.node.zone)
            } else {
                true
            }
        })
        .map(|(at, _)| *at)
        .collect();
    if !first.is_empty() {
        return first;
    }
    all.iter()
        .filter(|(_, e)| e.serving && e.terminating && (!local || here(e)))
        .map(|(at, _)| *at)
        .collect()
}

fn expected(c: &Cluster, packet: &Packet) -> Vec<Outcome> {
    let pods = c.config.cluster_cidrs[0];
    let received = |a: IpAddr| c.machine.addresses.contains(&a);
    // Pods of this node get its address when they leave the pod network.
    let egress = |to: IpAddr| {
        c.node.pod_cidrs[0].contains(packet.source)
            && !pods.contains(to)
            && !to.is_loopback()
            && !received(to)
    };
    let masqueraded =
        |to: IpAddr, wanted: bool| (wanted || egress(to)) && (packet.from_node || !received(to));
    let one = |end: End, m: bool| vec![Outcome { end, masqueraded: m, chance: 1.0 }];
    let untouched = || {
        let to = packet.destination;
        one(End::At(to, packet.port), masqueraded(to, false))
    };
    let Some((s, port, way)) = find(c, packet) else { return untouched() };
    if way == Way::Balancer && !s.load_balancer_sources.is_empty() {
        let allowed = s.load_balancer_sources.iter().any(|n| n.contains(packet.source));
        let outside = usable(c, s, port, s.external_local);
        let reachable =
            !outside.is_empty() || (s.external_local && !usable(c, s, port, false).is_empty());
        if !allowed && reachable {
            return one(End::Dropped, false);
        }
    }
    let own = received(packet.source);
    let from_pod = pods.contains(packet.source);
    let (everywhere, here) = (usable(c, s, port, false), usable(c, s, port, true));
    let (endpoints, masquerade) = match way {
        Way::Cluster if s.internal_local => (&here, !from_pod),
        Way::Cluster => (&everywhere, !from_pod),
        _ if !s.external_local => (&everywhere, true),
        _ if from_pod && !everywhere.is_empty() => (&everywhere, false),
        _ if own && !everywhere.is_empty() => (&everywhere, true),
        _ => (&here, false),
    };
    if endpoints.is_empty() {
        let refused =
            if everywhere.is_empty() && here.is_empty() { End::Rejected } else { End::Dropped };
        return one(refused, false);
    }
    let mut out: Vec<Outcome> = endpoints
        .iter()
        .map(|(a, n)| Outcome {
            end: End::At(*a, *n),
            masqueraded: masqueraded(*a, masquerade || *a == packet.source),
            chance: 1.0 / endpoints.len() as f64,
        })
        .collect();
    out.sort_by_key(|o| (o.end, o.masqueraded));
    out
}

fn same(a: &[Outcome], b: &[Outcome]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            a.end == b.end && a.masqueraded == b.masqueraded && (a.chance - b.chance).abs() < 1e-9
        })
}

#[test]
fn rules_mean_what_services_mean() {
    let (mut delivered, mut refused, mut spread) = (0, 0, 0);
    for seed in 0..300 {
        let mut p = Prng::new(seed);
        let stride = if p.chance(1, 2) { 1 } else { 163 };
        let cluster = Cluster::random(&mut p, stride);
        let rules = cluster.rules();
        for _ in 0..60 {
            let packet = cluster.random_packet(&mut p);
            let want = expected(&cluster, &packet);
            let got = trace(&rules, &cluster.machine, &packet);
            assert!(
                same(&got, &want),
                "seed {seed}: {packet:?}\n found {:?}\n rules: {got:?}\n  want: {want:?}",
                find(&cluster, &packet).map(|(s, port, _)| (s, port)),
            );
            match want[0].end {
                End::At(..) if want.len() > 1 => spread += 1,
                End::At(..) => delivered += 1,
                _ => refused += 1,
            }
        }
    }
    // The generator must reach all of it.
    assert!(delivered > 1000 && refused > 1000 && spread > 1000, "{delivered} {refused} {spread}");
}

#[test]
fn every_chain_is_reached_and_every_jump_leads_somewhere() {
    for seed in 0..100 {
        let cluster = Cluster::random(&mut Prng::new(seed), 163);
        let rules = cluster.rules();
        let mut reached = std::collections::BTreeSet::new();
        for hook in &rules.hooks {
            if let crate::ruleset::Target::Jump(to) = &hook.rule.target {
                reached.insert((hook.table, to.clone()));
            }
        }
        for ((table, _), chain) in &rules.chains {
            for rule in chain.iter() {
                if let crate::ruleset::Target::Jump(to) = &rule.target {
                    assert!(rules.chains.contains_key(&(*table, to.clone())), "{seed}: {to}");
                    reached.insert((*table, to.clone()));
                }
            }
        }
        for key in rules.chains.keys() {
            assert!(key.1.len() <= 28, "{key:?}");
            // With no service that needs it, nothing jumps to the masquerade mark.
            let unused = &*key.1 == "KUBE-MARK-MASQ";
            assert!(unused || reached.contains(key), "seed {seed}: nothing leads to {key:?}");
        }
    }
}

#[test]
fn one_change_touches_few_chains() {
    let mut p = Prng::new(3);
    let mut cluster = Cluster::random(&mut p, 163);
    while cluster.services.len() < 400 {
        cluster.add(&mut p, cluster.services.len() as u16);
    }
    let mut all = cluster.assembly();
    all.take_touched();
    let busy = |s: &&Service| !usable(&cluster, s, &s.ports[0], false).is_empty();
    let service = cluster.services.iter().find(busy).expect("a service with endpoints").clone();
    cluster.slices.get_mut(&service.key).expect("slices").clear();
    all.set_service(&service.key, Some(cluster.rules_of(&service)));
    all.settle();
    let touched = all.take_touched();
    let text = difference(all.rules(), touched.iter());
    let heads = text.lines().filter(|l| l.starts_with(':')).count();
    assert!(!text.is_empty() && heads < 40, "{heads} chains for one service:\n{text}");
    assert!(text.lines().count() < 200, "{text}");
}

/// Chains of `after` that differ from `before`, and those that are gone.
fn changed(before: &RuleSet, after: &RuleSet) -> std::collections::BTreeSet<crate::assembly::Key> {
    let other = |a: &RuleSet, b: &RuleSet| -> Vec<_> {
        a.chains
            .iter()
            .filter(|(k, v)| b.chains.get(*k) != Some(v))
            .map(|(k, _)| k.clone())
            .collect()
    };
    other(before, after).into_iter().chain(other(after, before)).collect()
}

#[test]
fn grown_and_shrunk_sets_are_those_built_from_nothing() {
    for seed in 0..8 {
        let mut p = Prng::new(seed);
        let mut cluster = Cluster::random(&mut p, 163);
        let mut grown = cluster.assembly();
        grown.take_touched();
        for step in 0..8 {
            let before = grown.rules().clone();
            // Cross the limits between flat, one level and two levels in both directions.
            let target = p.below(420) as usize;
            while cluster.services.len() < target {
                cluster.add(&mut p, cluster.services.len() as u16);
                let s = cluster.services.last().expect("just added");
                grown.set_service(&s.key, Some(cluster.rules_of(s)));
            }
            while cluster.services.len() > target.max(1) {
                let s = cluster.services.pop().expect("more than one");
                cluster.slices.remove(&s.key);
                grown.set_service(&s.key, None);
            }
            let some = p.below(cluster.services.len() as u64) as usize;
            let slice = random_slice(&mut p, &cluster.services[some]);
            let key = cluster.services[some].key.clone();
            cluster.slices.get_mut(&key).expect("slices").insert("more".into(), slice);
            grown.set_service(&key, Some(cluster.rules_of(&cluster.services[some])));
            grown.settle();
            let fresh = cluster.rules();
            assert!(changed(grown.rules(), &fresh).is_empty(), "seed {seed} step {step}");
            // What is written to the kernel is all that changed.
            let touched = grown.take_touched();
            let missed: Vec<_> =
                changed(&before, grown.rules()).difference(&touched).cloned().collect();
            assert!(missed.is_empty(), "seed {seed} step {step}: {missed:?}");
        }
    }
}
