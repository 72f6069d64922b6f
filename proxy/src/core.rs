//! The proxy's state machine: what it has seen, what is installed, what to do next.
//!
//! It asks its shell for one piece of [`Work`] at a time. First [`Work::Look`]: what do the kernel's tables hold of
//! ours. Then, once the caches are in sync, [`Work::Apply`] whenever something differs; changes that arrive
//! meanwhile go together into the next one. After a failure it looks again, so that whatever somebody else did to
//! the tables is healed by the next apply. Rules outlive the proxy: nothing is removed at its end or start.

use crate::assembly::Assembly;
use crate::build::{Config, Flows, ServiceRules, service_rules};
use crate::limits::{RETRY_MS_MAX, RETRY_MS_MIN};
use crate::model::{Cidr, Node, Service, Slice, Slices};
use crate::ruleset::{Found, RuleSet, difference, reconcile};
use pintle_base::{Now, Time, log};
use pintle_client::{Caches, Daemon, Event, Outbox, WatchSpec};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

const SERVICES: usize = 0;
const SLICES: usize = 1;
const NODES: usize = 2;

/// What the shell is to do; it answers with [`Proxy::looked`] or [`Proxy::applied`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Read the tables of these families (`true` = IPv4) and our routes.
    Look(Vec<bool>),
    /// Change them.
    Apply(Apply),
}

/// A change of the node's tables, in this order: rules, stale flows, routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Apply {
    /// Per family (`true` = IPv4) the text for `iptables-restore --noflush` (or `ip6tables-restore`).
    pub rules: Vec<(bool, String)>,
    /// Destinations whose connection tracking entries to other endpoints are to be deleted.
    pub flows: Vec<Flows>,
    /// Routes to set, or to remove where there is no gateway.
    pub routes: Vec<(Cidr, Option<IpAddr>)>,
}

/// What a look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Per family.
    pub tables: Vec<(bool, Found)>,
    /// Routes that a proxy set.
    pub routes: Vec<(Cidr, IpAddr)>,
}

/// How an apply went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Why the rules were refused.
    pub rules: Option<String>,
    /// Routes that could not be set, and why.
    pub routes: Vec<(Cidr, String)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// The tables have not been looked at.
    Unknown,
    /// The shell is looking.
    Looking,
    /// The tables hold what was applied last, or what the look found.
    Ready,
    /// The shell is applying.
    Applying,
}

/// One address family's rules.
struct Family {
    v4: bool,
    rules: Assembly,
    /// Set by a look, until the next apply: the kernel's tables are not known rule by rule.
    found: Option<Found>,
}

/// The proxy of one node.
pub struct Proxy {
    config: Config,
    node: Node,
    services: BTreeMap<String, Service>,
    slices: BTreeMap<String, Slices>,
    slice_owner: BTreeMap<String, String>,
    nodes: BTreeMap<String, Node>,
    families: Vec<Family>,
    routes: BTreeMap<Cidr, IpAddr>,
    pending_routes: BTreeMap<Cidr, IpAddr>,
    /// Services whose rules are to be made again.
    dirty: BTreeSet<String>,
    /// Something differs from what is installed.
    changed: bool,
    /// Flows to look at in the next apply.
    flows: Vec<Flows>,
    synced: bool,
    phase: Phase,
    retry_at: Option<Time>,
    retry_ms: u64,
    applied: u64,
}

impl Proxy {
    /// A proxy that has seen nothing. Families follow from `config.cluster_cidrs`.
    pub fn new(node: &str, config: Config) -> Proxy {
        let mut v4: Vec<bool> = config.cluster_cidrs.iter().map(|c| c.address.is_ipv4()).collect();
        v4.sort_unstable();
        v4.dedup();
        let node = Node { name: node.to_owned(), ..Node::default() };
        let family = |v4| Family { v4, rules: Assembly::new(&config, &node, v4), found: None };
        let families = v4.into_iter().rev().map(family).collect();
        Proxy {
            config,
            node,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slice_owner: BTreeMap::new(),
            nodes: BTreeMap::new(),
            families,
            routes: BTreeMap::new(),
            pending_routes: BTreeMap::new(),
            dirty: BTreeSet::new(),
            changed: true,
            flows: Vec::new(),
            synced: false,
            phase: Phase::Unknown,
            retry_at: None,
            retry_ms: RETRY_MS_MIN,
            applied: 0,
        }
    }

    /// How many changes have been applied since the start.
    pub fn applied_count(&self) -> u64 {
        self.applied
    }

    /// The rule set of a family as it was last applied, or is being applied.
    pub fn rules(&self, v4: bool) -> Option<&RuleSet> {
        self.families.iter().find(|f| f.v4 == v4).map(|f| f.rules.rules())
    }

    fn service_changed(&mut self, key: &str, new: Option<&Value>) {
        let new = new.and_then(Service::parse);
        let same = self.services.get(key) == new.as_ref();
        match new {
            Some(service) => self.services.insert(key.to_owned(), service),
            None => self.services.remove(key),
        };
        if !same {
            self.dirty.insert(key.to_owned());
        }
    }

    fn slice_changed(&mut self, key: &str, new: Option<&Value>) {
        let new = new.and_then(Slice::parse);
        if let Some(owner) = self.slice_owner.get(key).cloned() {
            let old = self.slices.get(&owner).and_then(|s| s.get(key));
            if old == new.as_ref() {
                return;
            }
            if let Some(slices) = self.slices.get_mut(&owner) {
                slices.remove(key);
                if slices.is_empty() {
                    self.slices.remove(&owner);
                }
            }
            self.slice_owner.remove(key);
            self.dirty.insert(owner);
        }
        if let Some(slice) = new {
            let owner = slice.service.clone();
            self.slices.entry(owner.clone()).or_default().insert(key.to_owned(), slice);
            self.slice_owner.insert(key.to_owned(), owner.clone());
            self.dirty.insert(owner);
        }
    }

    fn node_changed(&mut self, key: &str, new: Option<&Value>) {
        let Some(node) = new.map(Node::parse) else {
            self.changed |= self.nodes.remove(key).is_some();
            return;
        };
        if self.nodes.get(key) == Some(&node) {
            return;
        }
        if node.name == self.node.name {
            if node.zone != self.node.zone {
                // Topology hints mean something else now.
                self.dirty.extend(self.services.keys().cloned());
            }
            self.node = node.clone();
            for family in &mut self.families {
                family.rules.set_node(&self.config, &self.node, family.v4);
            }
        }
        self.nodes.insert(key.to_owned(), node);
        self.changed = true;
    }

    /// Makes the rules of changed services again and notes which flows that makes stale.
    fn refresh(&mut self) {
        let none = Slices::new();
        for key in std::mem::take(&mut self.dirty) {
            let slices = self.slices.get(&key).unwrap_or(&none);
            for family in &mut self.families {
                let service = self.services.get(&key);
                let new =
                    service.map(|s| service_rules(&self.config, &self.node, s, slices, family.v4));
                let old = family.rules.service(&key);
                if old == new.as_ref() {
                    continue;
                }
                self.changed = true;
                let flows = |r: Option<&ServiceRules>| r.map_or(&[][..], |r| &r.flows).to_vec();
                note_stale(&mut self.flows, &flows(old), &flows(new.as_ref()));
                family.rules.set_service(&key, new);
            }
        }
    }

    fn wanted_routes(&self) -> BTreeMap<Cidr, IpAddr> {
        let mut routes = BTreeMap::new();
        for node in self.nodes.values().filter(|n| n.name != self.node.name) {
            for cidr in &node.pod_cidrs {
                let v4 = cidr.address.is_ipv4();
                let own = self.node.pod_cidrs.contains(cidr);
                let gateway = node.internal_ips.iter().find(|a| a.is_ipv4() == v4);
                let shared = gateway.is_some_and(|a| self.node.internal_ips.contains(a));
                if let (Some(gateway), false, false) = (gateway, own, shared) {
                    routes.insert(*cidr, *gateway);
                }
            }
        }
        routes
    }

    /// The next piece of work, if there is one and none is under way.
    pub fn poll_apply(&mut self, now: Now) -> Option<Work> {
        if self.retry_at.is_some_and(|at| now.mono < at) {
            return None;
        }
        self.retry_at = None;
        match self.phase {
            Phase::Looking | Phase::Applying => None,
            Phase::Unknown => {
                self.phase = Phase::Looking;
                Some(Work::Look(self.families.iter().map(|f| f.v4).collect()))
            }
            Phase::Ready => {
                if !self.synced {
                    return None;
                }
                self.refresh();
                if !self.changed {
                    return None;
                }
                self.changed = false;
                let apply = self.plan();
                if apply == Apply::default() {
                    return None;
                }
                self.phase = Phase::Applying;
                Some(Work::Apply(apply))
            }
        }
    }

    /// The difference between what is wanted and what is installed.
    fn plan(&mut self) -> Apply {
        let mut apply = Apply::default();
        for family in &mut self.families {
            family.rules.settle();
            let touched = family.rules.take_touched();
            let text = match &family.found {
                Some(found) => reconcile(family.rules.rules(), found),
                None => difference(family.rules.rules(), touched.iter()),
            };
            if !text.is_empty() {
                apply.rules.push((family.v4, text));
            }
            if family.found.is_some() {
                // What happened to flows while no proxy ran is not known: look at all.
                apply.flows.extend(family.rules.services().flat_map(|r| r.flows.iter().cloned()));
            }
        }
        apply.flows.append(&mut self.flows);
        self.pending_routes = self.wanted_routes();
        for (cidr, gateway) in &self.pending_routes {
            if self.routes.get(cidr) != Some(gateway) {
                apply.routes.push((*cidr, Some(*gateway)));
            }
        }
        for cidr in self.routes.keys().filter(|c| !self.pending_routes.contains_key(c)) {
            apply.routes.push((*cidr, None));
        }
        apply
    }

    /// The answer to [`Work::Look`].
    pub fn looked(&mut self, seen: Result<Seen, String>, now: Now) {
        match seen {
            Ok(seen) => {
                for family in &mut self.families {
                    let found = seen.tables.iter().find(|t| t.0 == family.v4);
                    family.found = Some(found.map(|t| t.1.clone()).unwrap_or_default());
                }
                self.routes = seen.routes.into_iter().collect();
                self.phase = Phase::Ready;
                self.changed = true;
            }
            Err(e) => {
                log::error("cannot read the packet rules", &[("err", &e)]);
                self.phase = Phase::Unknown;
                self.back_off(now);
            }
        }
    }

    /// The answer to [`Work::Apply`].
    pub fn applied(&mut self, result: Applied, now: Now) {
        if let Some(e) = &result.rules {
            log::error("cannot apply the packet rules", &[("err", e)]);
            self.phase = Phase::Unknown;
            self.back_off(now);
            return;
        }
        for family in &mut self.families {
            family.found = None;
        }
        self.routes = std::mem::take(&mut self.pending_routes);
        self.applied += 1;
        self.phase = Phase::Ready;
        if result.routes.is_empty() {
            self.retry_ms = RETRY_MS_MIN;
            return;
        }
        for (cidr, e) in &result.routes {
            log::error("cannot set a route to another node's pods", &[("cidr", cidr), ("err", e)]);
            self.routes.remove(cidr);
        }
        self.changed = true;
        self.back_off(now);
    }

    fn back_off(&mut self, now: Now) {
        self.retry_at = Some(now.mono + Duration::from_millis(self.retry_ms));
        self.retry_ms = (self.retry_ms * 2).min(RETRY_MS_MAX);
    }
}

/// Adds destinations whose set of endpoints lost one, or had none before (clients may then hold entries that go
/// nowhere). A destination that is gone has no endpoints left.
fn note_stale(out: &mut Vec<Flows>, old: &[Flows], new: &[Flows]) {
    let same =
        |a: &Flows, b: &Flows| (a.protocol, a.address, a.port) == (b.protocol, b.address, b.port);
    for before in old {
        match new.iter().find(|f| same(f, before)) {
            Some(after) if before.endpoints.is_empty() && !after.endpoints.is_empty() => {
                out.push(after.clone());
            }
            Some(after) if !before.endpoints.is_subset(&after.endpoints) => {
                out.push(after.clone());
            }
            Some(_) => {}
            None => out.push(Flows { endpoints: BTreeSet::new(), ..before.clone() }),
        }
    }
    for after in new {
        if !old.iter().any(|f| same(f, after)) && !after.endpoints.is_empty() {
            out.push(after.clone());
        }
    }
}

impl Daemon for Proxy {
    fn watches(&self) -> Vec<WatchSpec> {
        let watch = |group, resource, label: &str| WatchSpec {
            group,
            version: "v1",
            resource,
            namespace: String::new(),
            label_selector: label.to_owned(),
            field_selector: String::new(),
        };
        vec![
            watch("", "services", ""),
            watch("discovery.k8s.io", "endpointslices", "!service.kubernetes.io/headless"),
            watch("", "nodes", ""),
        ]
    }

    fn handle(&mut self, event: Event, _: &Caches, _: Now, _: &mut Outbox) {
        match event {
            Event::Synced => self.synced = true,
            Event::Changed { spec, key, old: _, new } => {
                let value = new.as_ref().map(|o| &*o.value);
                match spec {
                    SERVICES => self.service_changed(&key, value),
                    SLICES => self.slice_changed(&key, value),
                    NODES => self.node_changed(&key, value),
                    _ => {}
                }
            }
            // Rules stay as they are while the API server is away.
            Event::Reply { .. } | Event::Disconnected | Event::Connected => {}
        }
    }

    fn turn(&mut self, _: &Caches, _: Now, _: &mut Outbox) {}

    fn poll_timeout(&self) -> Option<Time> {
        self.retry_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_client::Object;
    use serde_json::json;
    use std::sync::Arc;

    fn at(ms: u64) -> Now {
        Now { mono: Time(ms * 1_000_000), ..Now::default() }
    }

    fn proxy() -> Proxy {
        Proxy::new(
            "n1",
            Config {
                cluster_cidrs: vec![Cidr::parse("10.244.0.0/16").expect("network")],
                local_vips: Vec::new(),
                masquerade_cidrs: Vec::new(),
            },
        )
    }

    fn tell(p: &mut Proxy, event: Event) {
        p.handle(event, &Caches::default(), at(0), &mut Outbox::default());
    }

    fn change(p: &mut Proxy, spec: usize, key: &str, value: Value) {
        let new = Some(Object { value: Arc::new(value), revision: 1 });
        tell(p, Event::Changed { spec, key: key.into(), old: None, new });
    }

    fn service(p: &mut Proxy, n: u8) {
        let ip = format!("10.96.0.{n}");
        let ports = json!([{"port": 53, "protocol": "UDP"}]);
        let name = format!("s{n}");
        let value = json!({"metadata": {"namespace": "d", "name": name},
            "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": ports}});
        change(p, SERVICES, &format!("d/{name}"), value);
    }

    fn slice(p: &mut Proxy, n: u8, addresses: &[&str]) {
        let endpoints: Vec<_> = addresses.iter().map(|a| json!({"addresses": [a]})).collect();
        let value = json!({
            "metadata": {"namespace": "d", "labels": {"kubernetes.io/service-name": format!("s{n}")}},
            "ports": [{"port": 53, "protocol": "UDP"}], "endpoints": endpoints});
        change(p, SLICES, &format!("d/s{n}-x"), value);
    }

    fn apply(p: &mut Proxy, now: Now) -> Apply {
        match p.poll_apply(now) {
            Some(Work::Apply(apply)) => apply,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_touched_before_the_cluster_is_known() {
        let mut p = proxy();
        service(&mut p, 1);
        assert_eq!(p.poll_apply(at(0)), Some(Work::Look(vec![true])));
        assert_eq!(p.poll_apply(at(0)), None, "one thing at a time");
        p.looked(Ok(Seen::default()), at(0));
        assert_eq!(p.poll_apply(at(0)), None, "not synced");
        tell(&mut p, Event::Synced);
        assert!(apply(&mut p, at(0)).rules[0].1.contains("d/s1"));
        // What changes meanwhile waits, together.
        service(&mut p, 2);
        service(&mut p, 3);
        assert_eq!(p.poll_apply(at(0)), None);
        p.applied(Applied::default(), at(0));
        let text = &apply(&mut p, at(0)).rules[0].1;
        assert!(text.contains("d/s2") && text.contains("d/s3") && !text.contains("-I "), "{text}");
        p.applied(Applied::default(), at(0));
        assert_eq!((p.poll_apply(at(0)), p.poll_timeout()), (None, None));
    }

    #[test]
    fn after_a_failure_it_looks_again_and_writes_all() {
        let mut p = proxy();
        tell(&mut p, Event::Synced);
        service(&mut p, 1);
        p.poll_apply(at(0));
        p.looked(Ok(Seen::default()), at(0));
        apply(&mut p, at(0));
        let failed = Applied { rules: Some("no".into()), ..Applied::default() };
        p.applied(failed, at(0));
        assert_eq!(p.poll_apply(at(RETRY_MS_MIN - 1)), None);
        assert_eq!(p.poll_timeout(), Some(at(RETRY_MS_MIN).mono));
        let now = at(RETRY_MS_MIN);
        assert!(matches!(p.poll_apply(now), Some(Work::Look(_))));
        p.looked(Err("still not".into()), now);
        let now = at(RETRY_MS_MIN + 2 * RETRY_MS_MIN);
        assert!(matches!(p.poll_apply(now), Some(Work::Look(_))), "waits twice as long");
        p.looked(Ok(Seen::default()), now);
        assert!(apply(&mut p, now).rules[0].1.contains("d/s1"));
        for _ in 0..20 {
            p.applied(Applied { rules: Some("no".into()), ..Applied::default() }, at(0));
            p.phase = Phase::Applying;
        }
        assert_eq!(p.retry_ms, RETRY_MS_MAX);
    }

    #[test]
    fn a_route_that_fails_is_tried_again_alone() {
        let mut p = proxy();
        tell(&mut p, Event::Synced);
        let node = |name: &str, n: u8| {
            json!({"metadata": {"name": name}, "spec": {"podCIDR": format!("10.244.{n}.0/24")},
                "status": {"addresses": [{"type": "InternalIP", "address": format!("10.0.0.{n}")}]}})
        };
        for (name, n) in [("n1", 1), ("n2", 2), ("n3", 3)] {
            change(&mut p, NODES, name, node(name, n));
        }
        p.poll_apply(at(0));
        let stale = (Cidr::parse("10.244.9.0/24").expect("network"), [10, 0, 0, 9].into());
        p.looked(Ok(Seen { routes: vec![stale], ..Seen::default() }), at(0));
        let routes = apply(&mut p, at(0)).routes;
        let to = |n: u8| Cidr::parse(&format!("10.244.{n}.0/24")).expect("network");
        let via = |n: u8| Some(IpAddr::from([10, 0, 0, n]));
        assert_eq!(routes, [(to(2), via(2)), (to(3), via(3)), (to(9), None)]);
        p.applied(Applied { rules: None, routes: vec![(to(3), "no".into())] }, at(0));
        assert_eq!(p.poll_apply(at(0)), None);
        let again = apply(&mut p, at(RETRY_MS_MIN));
        assert_eq!((again.routes, again.rules), (vec![(to(3), via(3))], vec![]));
    }

    #[test]
    fn flows_of_gone_endpoints_are_named() {
        let mut p = proxy();
        tell(&mut p, Event::Synced);
        service(&mut p, 1);
        slice(&mut p, 1, &["10.244.0.1", "10.244.0.2"]);
        p.poll_apply(at(0));
        p.looked(Ok(Seen::default()), at(0));
        assert_eq!(
            apply(&mut p, at(0)).flows.last().map(|f| f.endpoints.len()),
            Some(2),
            "at start"
        );
        p.applied(Applied::default(), at(0));
        slice(&mut p, 1, &["10.244.0.1", "10.244.0.2", "10.244.0.3"]);
        assert_eq!(apply(&mut p, at(0)).flows, [], "one more harms nobody");
        p.applied(Applied::default(), at(0));
        slice(&mut p, 1, &["10.244.0.3"]);
        let flows = apply(&mut p, at(0)).flows;
        assert_eq!(flows.len(), 1);
        assert_eq!(flows[0].endpoints.len(), 1);
        p.applied(Applied::default(), at(0));
        tell(&mut p, Event::Changed { spec: SERVICES, key: "d/s1".into(), old: None, new: None });
        let flows = apply(&mut p, at(0)).flows;
        assert_eq!((flows.len(), flows[0].endpoints.len()), (1, 0));
    }
}
