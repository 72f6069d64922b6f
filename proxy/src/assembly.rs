//! Puts the rules of all services and those of the node together, and keeps account of which chains a change touched.
//!
//! A change costs what it touches: the service's own chains, and of the chains that lead to it the one group of
//! addresses (or ports) in which it lies. Up to [`FLAT_ENTRIES_MAX`] addresses KUBE-SERVICES lists them one by one;
//! above, it is a tree of one or two levels by prefix, and so are the other chains that lead to services.
//!
//! Invariant (a test): after any sequence of changes the set is the same as one built from nothing.

use crate::build::{
    At, Config, EXTERNAL, FIREWALL, NODE_PORTS, SERVICES, ServiceRules, chain_name, hooks,
    node_chains,
};
use crate::limits::FLAT_ENTRIES_MAX;
use crate::model::{Cidr, Node, Protocol, bits};
use crate::ruleset::{Match, Name, Rule, RuleSet, Table, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A chain by table and name.
pub type Key = (Table, Name);

/// Bits of an address (or port) that are free within a leaf and within a group of leaves.
const LEAF_BITS: u8 = 8;
const BRANCH_BITS: u8 = 12;

/// The rule set of one address family, grown change by change.
#[derive(Debug)]
pub struct Assembly {
    set: RuleSet,
    touched: BTreeSet<Key>,
    services: BTreeMap<String, ServiceRules>,
    roots: Vec<Dispatch>,
}

/// One chain that leads to services by where a packet goes to.
#[derive(Debug)]
struct Dispatch {
    table: Table,
    root: &'static str,
    /// Beginnings of the names of its groups' chains, by address and by port; unique within the table.
    prefixes: [&'static str; 2],
    /// Rules by destination and service.
    entries: BTreeMap<At, BTreeMap<String, Vec<Rule>>>,
    count: usize,
    /// Groups whose entries changed.
    dirty: BTreeSet<Group>,
    leaves: BTreeMap<Group, Name>,
    branches: BTreeMap<Group, Name>,
    built: bool,
}

/// Destinations that share a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Net(Cidr),
    Ports(Protocol, u16, u16),
}

impl Group {
    fn of(at: At, free_bits: u8) -> Group {
        match at {
            At::Address(a) => Group::Net(Cidr::new(a, bits(a) - free_bits)),
            At::NodePort(protocol, port) => {
                let low = port >> free_bits << free_bits;
                Group::Ports(protocol, low, low | ((1 << free_bits) - 1))
            }
        }
    }

    /// Its first destination.
    fn first(self) -> At {
        match self {
            Group::Net(c) => At::Address(c.address),
            Group::Ports(protocol, low, _) => At::NodePort(protocol, low),
        }
    }

    fn name(self, prefixes: [&str; 2]) -> Name {
        let [by_address, by_port] = prefixes;
        match self {
            Group::Net(Cidr { address: IpAddr::V4(a), prefix }) => {
                format!("{by_address}{:08X}-{prefix}", a.to_bits()).into()
            }
            Group::Net(c) => chain_name(by_address, &[&c.to_string()]),
            Group::Ports(p, low, high) => format!("{by_port}{}-{low}-{high}", p.as_str()).into(),
        }
    }

    fn jump(self, name: &Name) -> Rule {
        let matches = match self {
            Group::Net(c) => vec![Match::Destination(c, false)],
            Group::Ports(p, low, high) => vec![Match::Protocol(p), Match::Ports(low, high)],
        };
        Rule::new(matches, Target::Jump(Arc::clone(name)))
    }
}

impl Assembly {
    /// The rules of a node without services.
    pub fn new(config: &Config, node: &Node, v4: bool) -> Assembly {
        let root = |table, root, prefixes| Dispatch {
            table,
            root,
            prefixes,
            entries: BTreeMap::new(),
            count: 0,
            dirty: BTreeSet::new(),
            leaves: BTreeMap::new(),
            branches: BTreeMap::new(),
            built: false,
        };
        let mut assembly = Assembly {
            set: RuleSet { chains: BTreeMap::new(), hooks: hooks() },
            touched: BTreeSet::new(),
            services: BTreeMap::new(),
            roots: vec![
                root(Table::Nat, SERVICES, ["KUBE-IPS-", "KUBE-SP-"]),
                root(Table::Nat, NODE_PORTS, ["KUBE-NIPS-", "KUBE-NP-"]),
                root(Table::Filter, SERVICES, ["KUBE-IPS-", "KUBE-SP-"]),
                root(Table::Filter, EXTERNAL, ["KUBE-XIPS-", "KUBE-XNP-"]),
                root(Table::Filter, FIREWALL, ["KUBE-FIPS-", "KUBE-FNP-"]),
            ],
        };
        assembly.set_node(config, node, v4);
        assembly.settle();
        assembly
    }

    /// The node's own rules again, after the node changed.
    pub fn set_node(&mut self, config: &Config, node: &Node, v4: bool) {
        for (table, name, rules) in node_chains(config, node, v4) {
            put(&mut self.set, &mut self.touched, table, name, Arc::new(rules));
        }
    }

    /// The rules of a service.
    pub fn service(&self, key: &str) -> Option<&ServiceRules> {
        self.services.get(key)
    }

    /// All services' rules, in key order.
    pub fn services(&self) -> impl Iterator<Item = &ServiceRules> {
        self.services.values()
    }

    /// Other rules for a service, or none.
    pub fn set_service(&mut self, key: &str, new: Option<ServiceRules>) {
        if let Some(old) = self.services.remove(key) {
            for (table, name, _) in &old.chains {
                let stays = |c: &(Table, Name, _)| c.0 == *table && c.1 == *name;
                if !new.as_ref().is_some_and(|n| n.chains.iter().any(stays)) {
                    self.remove(*table, name);
                }
            }
            for entry in &old.entries {
                self.root(entry.table, entry.root).remove(entry.at, key);
            }
        }
        let Some(new) = new else { return };
        for (table, name, rules) in &new.chains {
            put(&mut self.set, &mut self.touched, *table, Arc::clone(name), Arc::clone(rules));
        }
        for entry in &new.entries {
            self.root(entry.table, entry.root).add(entry.at, key, entry.rule.clone());
        }
        self.services.insert(key.to_owned(), new);
    }

    fn root(&mut self, table: Table, root: &'static str) -> &mut Dispatch {
        let at = self.roots.iter().position(|d| d.table == table && d.root == root);
        &mut self.roots[at.expect("every root of an entry is in the list")]
    }

    fn remove(&mut self, table: Table, name: &Name) {
        let key = (table, Arc::clone(name));
        if self.set.chains.remove(&key).is_some() {
            self.touched.insert(key);
        }
    }

    /// Brings the chains that lead to services up to date. Call before [`Assembly::rules`].
    pub fn settle(&mut self) {
        for root in &mut self.roots {
            root.settle(&mut self.set, &mut self.touched);
        }
    }

    /// The whole set.
    pub fn rules(&self) -> &RuleSet {
        &self.set
    }

    /// Chains that were added, changed or removed since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.touched)
    }
}

/// Sets a chain, and notes it when it is another one than before.
fn put(
    set: &mut RuleSet,
    touched: &mut BTreeSet<Key>,
    table: Table,
    name: Name,
    rules: Arc<Vec<Rule>>,
) {
    let key = (table, name);
    if set.chains.get(&key).is_some_and(|old| *old == rules) {
        return;
    }
    set.chains.insert(key.clone(), rules);
    touched.insert(key);
}

impl Dispatch {
    fn add(&mut self, at: At, service: &str, rule: Rule) {
        let rules = self.entries.entry(at).or_default().entry(service.to_owned()).or_default();
        rules.push(rule);
        self.count += 1;
        self.dirty.insert(Group::of(at, LEAF_BITS));
    }

    fn remove(&mut self, at: At, service: &str) {
        let Some(here) = self.entries.get_mut(&at) else { return };
        let Some(rules) = here.remove(service) else { return };
        self.count -= rules.len();
        if here.is_empty() {
            self.entries.remove(&at);
        }
        self.dirty.insert(Group::of(at, LEAF_BITS));
    }

    fn settle(&mut self, set: &mut RuleSet, touched: &mut BTreeSet<Key>) {
        if self.built && self.dirty.is_empty() {
            return;
        }
        self.built = true;
        let mut dirty = std::mem::take(&mut self.dirty);
        let flat = self.count <= FLAT_ENTRIES_MAX;
        if !flat && self.leaves.is_empty() {
            // It was flat: every group is new.
            dirty = self.entries.keys().map(|at| Group::of(*at, LEAF_BITS)).collect();
        }
        if flat {
            self.drop_groups(set, touched);
        } else {
            for group in dirty {
                self.settle_leaf(group, set, touched);
            }
            self.settle_branches(set, touched);
        }
        let mut rules: Vec<Rule> = if flat {
            self.entries.values().flat_map(|e| e.values().flatten().cloned()).collect()
        } else if self.branches.is_empty() {
            self.leaves.iter().map(|(group, name)| group.jump(name)).collect()
        } else {
            self.branches.iter().map(|(group, name)| group.jump(name)).collect()
        };
        if (self.table, self.root) == (Table::Nat, SERVICES) {
            let last = Target::Jump(NODE_PORTS.into());
            rules.push(Rule::new(vec![Match::DestinationLocal], last));
        }
        put(set, touched, self.table, self.root.into(), Arc::new(rules));
    }

    fn drop_groups(&mut self, set: &mut RuleSet, touched: &mut BTreeSet<Key>) {
        let leaves = std::mem::take(&mut self.leaves);
        let branches = std::mem::take(&mut self.branches);
        for name in leaves.into_values().chain(branches.into_values()) {
            let key = (self.table, name);
            set.chains.remove(&key);
            touched.insert(key);
        }
    }

    /// The rules of one group of destinations.
    fn settle_leaf(&mut self, group: Group, set: &mut RuleSet, touched: &mut BTreeSet<Key>) {
        let rules: Vec<Rule> = self
            .entries
            .range(group.first()..)
            .take_while(|(at, _)| Group::of(**at, LEAF_BITS) == group)
            .flat_map(|(_, e)| e.values().flatten().cloned())
            .collect();
        let name = group.name(self.prefixes);
        if rules.is_empty() {
            self.leaves.remove(&group);
            let key = (self.table, name);
            if set.chains.remove(&key).is_some() {
                touched.insert(key);
            }
        } else {
            put(set, touched, self.table, Arc::clone(&name), Arc::new(rules));
            self.leaves.insert(group, name);
        }
    }

    /// With too many groups for one chain, groups of groups.
    fn settle_branches(&mut self, set: &mut RuleSet, touched: &mut BTreeSet<Key>) {
        let mut old = std::mem::take(&mut self.branches);
        if self.leaves.len() > FLAT_ENTRIES_MAX {
            let mut wanted: BTreeMap<Group, Vec<Rule>> = BTreeMap::new();
            for (leaf, name) in &self.leaves {
                let branch = Group::of(leaf.first(), BRANCH_BITS);
                wanted.entry(branch).or_default().push(leaf.jump(name));
            }
            for (branch, rules) in wanted {
                let name = old.remove(&branch).unwrap_or_else(|| branch.name(self.prefixes));
                put(set, touched, self.table, Arc::clone(&name), Arc::new(rules));
                self.branches.insert(branch, name);
            }
        }
        for name in old.into_values() {
            let key = (self.table, name);
            set.chains.remove(&key);
            touched.insert(key);
        }
    }
}
