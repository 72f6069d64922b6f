//! From services, endpoint slices and the node to a rule set: the proxy's one decision, a pure function.
//!
//! The chains and their names are kube-proxy's, so that what operators know of `iptables -L` stays true:
//! KUBE-SERVICES leads by destination to KUBE-SVC-* (all endpoints), KUBE-SVL-* (this node's) or KUBE-EXT-* (traffic
//! from outside), those by chance to KUBE-SEP-* (one endpoint, DNAT). Differences: PINTLE-EGRESS masquerades what pods
//! send out of the pod network; with many addresses KUBE-SERVICES is a tree (see [`crate::assembly`]).
//!
//! Reference: kubernetes/kubernetes pkg/proxy/iptables/proxier.go and pkg/proxy/topology.go.

use crate::limits::CHAIN_NAME_BYTES_MAX;
use crate::model::{Cidr, Endpoint, Node, Protocol, Service, ServicePort, Slices};
use crate::ruleset::{Hook, Match, Name, Rule, Table, Target};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Mark of packets that are to be masqueraded on their way out.
pub const MASQUERADE_MARK: u32 = 0x4000;

/// What is the same for all services.
#[derive(Clone, Debug)]
pub struct Config {
    /// Networks of pods, one a family.
    pub cluster_cidrs: Vec<Cidr>,
    /// Service addresses that a daemon on this node answers itself (the cluster DNS): no rules for them.
    pub local_vips: Vec<IpAddr>,
    /// More networks behind this node whose traffic to the outside is masqueraded (further nodes on the same
    /// machine).
    pub masquerade_cidrs: Vec<Cidr>,
}

/// One way by which packets reach a service: in which table, who matches, where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) table: Table,
    /// Chain at whose place the entry stands.
    pub(crate) root: &'static str,
    pub(crate) at: At,
    pub(crate) rule: Rule,
}

/// Where a packet goes to, as far as entries are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    Address(IpAddr),
    NodePort(Protocol, u16),
}

/// The rules of one service, before they are put together. Kept by the proxy for services that did not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRules {
    pub(crate) chains: Vec<(Table, Name, Arc<Vec<Rule>>)>,
    pub(crate) entries: Vec<Entry>,
    /// UDP destinations and the endpoints that may answer for them (see [`Flows`]).
    pub flows: Vec<Flows>,
}

/// What connection tracking may keep for a UDP or SCTP destination: entries that were answered by none of these
/// endpoints are stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flows {
    /// Transport.
    pub protocol: Protocol,
    /// Destination that clients see; `None` = any address of the node (a node port).
    pub address: Option<IpAddr>,
    /// Port that clients see.
    pub port: u16,
    /// Where they may have been sent.
    pub endpoints: BTreeSet<(IpAddr, u16)>,
}

/// The endpoints of one service port, by use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// For traffic that may go anywhere.
    pub cluster: Vec<(IpAddr, u16)>,
    /// For traffic that stays on the node.
    pub local: Vec<(IpAddr, u16)>,
    /// There are endpoints somewhere, if not for every use.
    pub any: bool,
}

/// Picks the endpoints of a service port: the ready ones, narrowed by topology hints; where none is ready, those
/// that terminate but still serve.
pub fn choose(port: &ServicePort, slices: &Slices, node: &Node, v4: bool) -> Chosen {
    let mut all: BTreeMap<(IpAddr, u16), &Endpoint> = BTreeMap::new();
    for slice in slices.values() {
        let number = slice.ports.iter().find(|p| p.0 == port.name && p.1 == port.protocol);
        let Some((_, _, number)) = number else { continue };
        for e in slice.endpoints.iter().filter(|e| e.address.is_ipv4() == v4) {
            let known = all.entry((e.address, *number)).or_insert(e);
            // An endpoint that two slices name while it moves between them counts as ready if one says so.
            if e.ready && !known.ready {
                *known = e;
            }
        }
    }
    let pick = |usable: &dyn Fn(&Endpoint) -> bool| -> Vec<(IpAddr, u16)> {
        all.iter().filter(|(_, e)| usable(e)).map(|(at, _)| *at).collect()
    };
    let draining = |e: &Endpoint| e.serving && e.terminating;
    let here = |e: &Endpoint| !node.name.is_empty() && *e.node == *node.name;
    let hinted = hints(all.values().copied().filter(|e| e.ready), node);
    let mut cluster = pick(&|e| e.ready && hinted.allows(e, node));
    if cluster.is_empty() {
        cluster = pick(&draining);
    }
    let mut local = pick(&|e| e.ready && here(e));
    if local.is_empty() {
        local = pick(&|e| draining(e) && here(e));
    }
    Chosen { any: !cluster.is_empty() || !local.is_empty(), cluster, local }
}

/// Which topology hints hold for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hints {
    None,
    Zone,
    Node,
}

impl Hints {
    fn allows(self, e: &Endpoint, node: &Node) -> bool {
        match self {
            Hints::None => true,
            Hints::Zone => e.zones.contains(&node.zone),
            Hints::Node => e.nodes.contains(&node.name),
        }
    }
}

/// Hints hold only when every ready endpoint has them and at least one is for us; the nearer kind first.
fn hints<'a>(ready: impl Iterator<Item = &'a Endpoint> + Clone, node: &Node) -> Hints {
    let usable = |hint: Hints, has: fn(&Endpoint) -> bool| {
        ready.clone().all(has) && ready.clone().any(|e| hint.allows(e, node))
    };
    if !node.name.is_empty() && usable(Hints::Node, |e| !e.nodes.is_empty()) {
        Hints::Node
    } else if !node.zone.is_empty() && usable(Hints::Zone, |e| !e.zones.is_empty()) {
        Hints::Zone
    } else {
        Hints::None
    }
}

/// `KUBE-SVC-` and the like with 16 characters of base32(sha256(parts)), as kube-proxy names its chains.
pub(crate) fn chain_name(prefix: &str, parts: &[&str]) -> Name {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut name = String::with_capacity(CHAIN_NAME_BYTES_MAX);
    name.push_str(prefix);
    let (mut bits, mut have) = (0u32, 0);
    let mut bytes = digest.iter();
    for _ in 0..16 {
        if have < 5 {
            bits = (bits << 8) | u32::from(*bytes.next().unwrap_or(&0));
            have += 8;
        }
        have -= 5;
        name.push(char::from(ALPHABET[(bits >> have & 31) as usize]));
    }
    name.into()
}

/// The rules of one service port, being made.
struct PortBuilder<'a> {
    config: &'a Config,
    service: &'a Service,
    port: &'a ServicePort,
    v4: bool,
    /// `namespace/name:port`, or without the colon for an unnamed port.
    name: Arc<str>,
    chosen: Chosen,
    out: &'a mut ServiceRules,
}

impl PortBuilder<'_> {
    fn to_port(&self, at: Option<IpAddr>, port: u16) -> Vec<Match> {
        let mut matches = Vec::with_capacity(3);
        matches.extend(at.map(|a| Match::Destination(Cidr::host(a), false)));
        matches.push(Match::Protocol(self.port.protocol));
        matches.push(Match::Port(port));
        matches
    }

    fn rule(&self, matches: Vec<Match>, target: Target) -> Rule {
        Rule::new(matches, target).comment(&self.name)
    }

    fn entry(&mut self, table: Table, root: &'static str, at: At, rule: Rule) {
        self.out.entries.push(Entry { table, root, at, rule });
    }

    fn push_chain(&mut self, table: Table, name: &Name, rules: Vec<Rule>) {
        self.out.chains.push((table, Arc::clone(name), Arc::new(rules)));
    }

    fn name_of(&self, prefix: &str) -> Name {
        chain_name(prefix, &[&self.name, self.port.protocol.as_str()])
    }

    fn endpoint_chain_name(&self, (address, port): (IpAddr, u16)) -> Name {
        let at = match address {
            IpAddr::V4(a) => format!("{a}:{port}"),
            IpAddr::V6(a) => format!("[{a}]:{port}"),
        };
        chain_name("KUBE-SEP-", &[&self.name, self.port.protocol.as_str(), &at])
    }

    /// KUBE-SEP-*: to one endpoint; masqueraded when it is the client itself.
    fn endpoint_chains(&mut self, used: &BTreeSet<(IpAddr, u16)>) {
        for endpoint in used {
            let name = self.endpoint_chain_name(*endpoint);
            let own = vec![Match::Source(Cidr::host(endpoint.0), false)];
            let mut rules = vec![self.rule(own, Target::Jump(mark_masquerade()))];
            if self.service.affinity_s.is_some() {
                rules.push(self.rule(Vec::new(), Target::Note(Arc::clone(&name))));
            }
            rules.push(self.rule(
                vec![Match::Protocol(self.port.protocol)],
                Target::Dnat(endpoint.0, endpoint.1),
            ));
            self.push_chain(Table::Nat, &name, rules);
        }
    }

    /// The choice among endpoints: where the client was before, else each with the same chance.
    fn choice(&self, endpoints: &[(IpAddr, u16)]) -> Vec<Rule> {
        let names: Vec<_> = endpoints.iter().map(|e| self.endpoint_chain_name(*e)).collect();
        let mut rules = Vec::with_capacity(2 * names.len());
        if let Some(seconds) = self.service.affinity_s {
            for name in &names {
                let before = vec![Match::Recent(Arc::clone(name), seconds)];
                rules.push(self.rule(before, Target::Jump(Arc::clone(name))));
            }
        }
        for (i, name) in names.iter().enumerate() {
            let left = (names.len() - i) as u32;
            let chance = if left > 1 { vec![Match::OneIn(left)] } else { Vec::new() };
            rules.push(self.rule(chance, Target::Jump(Arc::clone(name))));
        }
        rules
    }

    fn build(mut self) {
        let service = self.service;
        let family = |a: &&IpAddr| a.is_ipv4() == self.v4;
        let cluster_ips: Vec<_> = service.cluster_ips.iter().filter(family).copied().collect();
        let external_ips: Vec<_> = service.external_ips.iter().filter(family).copied().collect();
        let balancers: Vec<_> = service.load_balancer_ips.iter().filter(family).copied().collect();
        if cluster_ips.iter().any(|a| self.config.local_vips.contains(a)) {
            return;
        }
        let open_outside =
            self.port.node_port != 0 || !external_ips.is_empty() || !balancers.is_empty();
        let svc = self.name_of("KUBE-SVC-");
        let svl = self.name_of("KUBE-SVL-");
        let ext = self.name_of("KUBE-EXT-");
        // Pods and the node itself go to any endpoint even where traffic from outside stays on the node.
        let use_cluster = !service.internal_local || open_outside;
        let use_local = service.internal_local || (open_outside && service.external_local);
        let mut used = BTreeSet::new();
        if use_cluster && !self.chosen.cluster.is_empty() {
            self.choice_chain(&svc, &cluster_ips, self.chosen.cluster.clone(), &mut used);
        }
        if use_local && !self.chosen.local.is_empty() {
            self.choice_chain(&svl, &cluster_ips, self.chosen.local.clone(), &mut used);
        }
        self.internal(&cluster_ips, &svc, &svl);
        if open_outside {
            self.external(&external_ips, &balancers, &svc, &svl, &ext);
        }
        self.endpoint_chains(&used);
        self.note_flows(cluster_ips.iter().chain(&external_ips).chain(&balancers), used);
    }

    /// KUBE-SVC-* or KUBE-SVL-*. Whoever is no pod and asks the service's own address gets his answers through
    /// this node.
    fn choice_chain(
        &mut self,
        name: &Name,
        cluster_ips: &[IpAddr],
        endpoints: Vec<(IpAddr, u16)>,
        used: &mut BTreeSet<(IpAddr, u16)>,
    ) {
        let mut rules = Vec::new();
        if let Some(pods) = self.pod_network() {
            for ip in cluster_ips {
                let mut from_outside = vec![Match::Source(pods, true)];
                from_outside.extend(self.to_port(Some(*ip), self.port.port));
                rules.push(self.rule(from_outside, Target::Jump(mark_masquerade())));
            }
        }
        rules.extend(self.choice(&endpoints));
        self.push_chain(Table::Nat, name, rules);
        used.extend(endpoints);
    }

    fn pod_network(&self) -> Option<Cidr> {
        self.config.cluster_cidrs.iter().find(|c| c.address.is_ipv4() == self.v4).copied()
    }

    /// The service's own addresses.
    fn internal(&mut self, cluster_ips: &[IpAddr], svc: &Name, svl: &Name) {
        let (chain, endpoints) = if self.service.internal_local {
            (svl, &self.chosen.local)
        } else {
            (svc, &self.chosen.cluster)
        };
        let usable = !endpoints.is_empty();
        let refusal = if self.chosen.any { Target::Drop } else { Target::Reject };
        for ip in cluster_ips {
            let to = self.to_port(Some(*ip), self.port.port);
            if usable {
                let rule = self.rule(to, Target::Jump(Arc::clone(chain)));
                self.entry(Table::Nat, SERVICES, At::Address(*ip), rule);
            } else {
                let rule = self.rule(to, refusal.clone());
                self.entry(Table::Filter, SERVICES, At::Address(*ip), rule);
            }
        }
    }

    /// External addresses, load balancer addresses and the node port.
    fn external(
        &mut self,
        external_ips: &[IpAddr],
        balancers: &[IpAddr],
        svc: &Name,
        svl: &Name,
        ext: &Name,
    ) {
        let local_only = self.service.external_local;
        let outside = if local_only { &self.chosen.local } else { &self.chosen.cluster };
        let usable = !outside.is_empty();
        // With policy Local, pods and the node itself may go to other nodes' endpoints.
        if usable || (local_only && !self.chosen.cluster.is_empty()) {
            let rules = self.external_rules(svc, svl);
            self.push_chain(Table::Nat, ext, rules);
            self.external_entries(external_ips, balancers, ext);
        }
        if usable {
            return;
        }
        let refusal = if self.chosen.any { Target::Drop } else { Target::Reject };
        for ip in external_ips.iter().chain(balancers) {
            let to = self.to_port(Some(*ip), self.port.port);
            let rule = self.rule(to, refusal.clone());
            self.entry(Table::Filter, EXTERNAL, At::Address(*ip), rule);
        }
        if self.port.node_port != 0 {
            let mut to = vec![Match::DestinationLocal];
            to.extend(self.to_port(None, self.port.node_port));
            let rule = self.rule(to, refusal);
            let at = At::NodePort(self.port.protocol, self.port.node_port);
            self.entry(Table::Filter, EXTERNAL, at, rule);
        }
    }

    fn external_rules(&self, svc: &Name, svl: &Name) -> Vec<Rule> {
        let jump = |to: &Name| Target::Jump(Arc::clone(to));
        if !self.service.external_local {
            return vec![
                self.rule(Vec::new(), Target::Jump(mark_masquerade())),
                self.rule(Vec::new(), jump(svc)),
            ];
        }
        let mut rules = Vec::new();
        if !self.chosen.cluster.is_empty() {
            if let Some(pods) = self.pod_network() {
                rules.push(self.rule(vec![Match::Source(pods, false)], jump(svc)));
            }
            let own = || vec![Match::SourceLocal];
            rules.push(self.rule(own(), Target::Jump(mark_masquerade())));
            rules.push(self.rule(own(), jump(svc)));
        }
        if !self.chosen.local.is_empty() {
            rules.push(self.rule(Vec::new(), jump(svl)));
        }
        rules
    }

    fn external_entries(&mut self, external_ips: &[IpAddr], balancers: &[IpAddr], ext: &Name) {
        for ip in external_ips {
            let to = self.to_port(Some(*ip), self.port.port);
            let rule = self.rule(to, Target::Jump(Arc::clone(ext)));
            self.entry(Table::Nat, SERVICES, At::Address(*ip), rule);
        }
        let v4 = self.v4;
        let sources = &self.service.load_balancer_sources;
        let sources: Vec<_> =
            sources.iter().filter(|c| c.address.is_ipv4() == v4).copied().collect();
        let limited = !self.service.load_balancer_sources.is_empty();
        let gate = self.name_of("KUBE-FW-");
        if limited && !balancers.is_empty() {
            let rules = sources
                .iter()
                .map(|c| self.rule(vec![Match::Source(*c, false)], Target::Jump(Arc::clone(ext))));
            let rules = rules.collect();
            self.push_chain(Table::Nat, &gate, rules);
        }
        for ip in balancers {
            let to = self.to_port(Some(*ip), self.port.port);
            let chain = if limited { &gate } else { ext };
            let rule = self.rule(to.clone(), Target::Jump(Arc::clone(chain)));
            self.entry(Table::Nat, SERVICES, At::Address(*ip), rule);
            if limited {
                // Still addressed to the balancer after the nat table: nobody let it in.
                let rule = self.rule(to, Target::Drop);
                self.entry(Table::Filter, FIREWALL, At::Address(*ip), rule);
            }
        }
        if self.port.node_port != 0 {
            let to = self.to_port(None, self.port.node_port);
            let rule = self.rule(to, Target::Jump(Arc::clone(ext)));
            let at = At::NodePort(self.port.protocol, self.port.node_port);
            self.entry(Table::Nat, NODE_PORTS, at, rule);
        }
    }

    /// For transports without a handshake that would find out, what connection tracking may keep.
    fn note_flows<'a>(
        &mut self,
        addresses: impl Iterator<Item = &'a IpAddr>,
        endpoints: BTreeSet<(IpAddr, u16)>,
    ) {
        if self.port.protocol != Protocol::Udp {
            return;
        }
        let protocol = self.port.protocol;
        let node_port = (self.port.node_port != 0).then_some((None, self.port.node_port));
        let port = self.port.port;
        for (address, port) in addresses.map(|a| (Some(*a), port)).chain(node_port) {
            self.out.flows.push(Flows { protocol, address, port, endpoints: endpoints.clone() });
        }
    }
}

pub(crate) const SERVICES: &str = "KUBE-SERVICES";
pub(crate) const EXTERNAL: &str = "KUBE-EXTERNAL-SERVICES";
pub(crate) const NODE_PORTS: &str = "KUBE-NODEPORTS";
pub(crate) const FIREWALL: &str = "KUBE-PROXY-FIREWALL";

fn mark_masquerade() -> Name {
    // One string for the whole process: there is one such rule an endpoint.
    static NAME: std::sync::OnceLock<Name> = std::sync::OnceLock::new();
    Arc::clone(NAME.get_or_init(|| "KUBE-MARK-MASQ".into()))
}

/// The rules of one service in one address family.
pub fn service_rules(
    config: &Config,
    node: &Node,
    service: &Service,
    slices: &Slices,
    v4: bool,
) -> ServiceRules {
    let mut out = ServiceRules::default();
    for port in &service.ports {
        let name = if port.name.is_empty() {
            service.key.as_str().into()
        } else {
            format!("{}:{}", service.key, port.name).into()
        };
        let chosen = choose(port, slices, node, v4);
        PortBuilder { config, service, port, v4, name, chosen, out: &mut out }.build();
    }
    out
}

/// Chains that do not depend on services.
pub(crate) fn node_chains(config: &Config, node: &Node, v4: bool) -> Vec<(Table, Name, Vec<Rule>)> {
    let mut set: Vec<(Table, Name, Vec<Rule>)> = Vec::new();
    let mut chain = |table, name: Name, rules| set.push((table, name, rules));
    let family = |c: &&Cidr| c.address.is_ipv4() == v4;
    let pods = config.cluster_cidrs.iter().find(family).copied();
    let when = |m: Match, target| Rule::new(vec![m], target);
    chain(
        Table::Nat,
        mark_masquerade(),
        vec![Rule::new(Vec::new(), Target::SetMark(MASQUERADE_MARK))],
    );
    chain(
        Table::Nat,
        "KUBE-POSTROUTING".into(),
        vec![
            when(Match::Mark(MASQUERADE_MARK, true), Target::Return),
            // Cleared, so that a packet that comes through the stack again is not masqueraded again.
            Rule::new(Vec::new(), Target::ClearMark(MASQUERADE_MARK)),
            Rule::new(Vec::new(), Target::Masquerade),
        ],
    );
    let mut egress = Vec::new();
    if let Some(pods) = pods {
        egress.push(when(Match::DestinationLocal, Target::Return));
        let multicast: Cidr = if v4 {
            Cidr::new(IpAddr::from([224, 0, 0, 0]), 4)
        } else {
            Cidr::new(IpAddr::from([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8)
        };
        for inside in [pods, multicast] {
            egress.push(when(Match::Destination(inside, false), Target::Return));
        }
        for own in node.pod_cidrs.iter().filter(family) {
            egress.push(when(Match::Source(*own, false), Target::Masquerade));
        }
        for net in config.masquerade_cidrs.iter().filter(family) {
            let leaving = vec![Match::Source(*net, false), Match::Destination(*net, true)];
            egress.push(Rule::new(leaving, Target::Masquerade));
        }
    }
    chain(Table::Nat, "PINTLE-EGRESS".into(), egress);
    let mut forward = vec![
        // A packet that conntrack cannot place would leave with an address that nobody translated.
        when(Match::State("INVALID", false), Target::Drop),
        when(Match::Mark(MASQUERADE_MARK, false), Target::Accept),
        when(Match::State("RELATED,ESTABLISHED", false), Target::Accept),
    ];
    if let Some(pods) = pods {
        forward.push(when(Match::Source(pods, false), Target::Accept));
        forward.push(when(Match::Destination(pods, false), Target::Accept));
    }
    for net in config.masquerade_cidrs.iter().filter(family) {
        forward.push(when(Match::Source(*net, false), Target::Accept));
    }
    chain(Table::Filter, "KUBE-FORWARD".into(), forward);
    let mut guard = Vec::new();
    if v4 {
        // Node ports answer on 127.0.0.1, for which the kernel routes loopback addresses (route_localnet); this
        // keeps neighbours on the link from reaching what listens on loopback alone (CVE-2020-8558).
        let loopback = Cidr::new(IpAddr::from([127, 0, 0, 0]), 8);
        guard.push(Rule::new(
            vec![
                Match::NotFrom("lo"),
                Match::Source(loopback, true),
                Match::Destination(loopback, false),
                Match::State("RELATED,ESTABLISHED,DNAT", true),
            ],
            Target::Drop,
        ));
    }
    chain(Table::Filter, "KUBE-FIREWALL".into(), guard);
    set
}

/// How packets get to our chains. They are inserted at the top one after the other: the last of a built-in chain
/// stands first.
pub(crate) fn hooks() -> Vec<Hook> {
    let to = |table, chain, target: &str, new_only: bool| {
        let matches = if new_only { vec![Match::State("NEW", false)] } else { Vec::new() };
        let comment: Arc<str> = "pintle".into();
        let rule = Rule::new(matches, Target::Jump(target.into())).comment(&comment);
        Hook { table, chain, rule }
    };
    use Table::{Filter, Nat};
    vec![
        to(Nat, "PREROUTING", SERVICES, false),
        to(Nat, "OUTPUT", SERVICES, false),
        to(Nat, "POSTROUTING", "PINTLE-EGRESS", false),
        to(Nat, "POSTROUTING", "KUBE-POSTROUTING", false),
        to(Filter, "INPUT", EXTERNAL, true),
        to(Filter, "INPUT", FIREWALL, true),
        to(Filter, "INPUT", "KUBE-FIREWALL", false),
        to(Filter, "FORWARD", "KUBE-FORWARD", false),
        to(Filter, "FORWARD", EXTERNAL, true),
        to(Filter, "FORWARD", SERVICES, true),
        to(Filter, "FORWARD", FIREWALL, true),
        to(Filter, "OUTPUT", FIREWALL, true),
        to(Filter, "OUTPUT", EXTERNAL, true),
        to(Filter, "OUTPUT", SERVICES, true),
    ]
}
