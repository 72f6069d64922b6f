//! Packet rules as data, and their text for iptables-restore.
//!
//! A rule set holds whole chains that are ours alone. The rules in built-in chains that lead to ours are
//! [`Hook`]s. Nothing here decides what the rules are (that is [`crate::build`]).

use crate::model::{Cidr, Protocol};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

/// An iptables table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Who a packet is for and from.
    Nat,
    /// Whether it may pass.
    Filter,
}

impl Table {
    /// As iptables has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Table::Nat => "nat",
            Table::Filter => "filter",
        }
    }
}

/// Name of a chain, at most 28 bytes.
pub type Name = Arc<str>;

/// A condition on a packet; all of a rule's must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Transport.
    Protocol(Protocol),
    /// Source address in a network (`true`: not in it).
    Source(Cidr, bool),
    /// Destination address in a network (`true`: not in it).
    Destination(Cidr, bool),
    /// Destination port. Follows a `Protocol` in the same rule.
    Port(u16),
    /// Destination port between two, both included. Follows a `Protocol` in the same rule.
    Ports(u16, u16),
    /// It did not come in by this interface.
    NotFrom(&'static str),
    /// The source is an address of this machine.
    SourceLocal,
    /// The destination is an address of this machine.
    DestinationLocal,
    /// These bits of the mark are all set (`true`: are not all set).
    Mark(u32, bool),
    /// Holds for one packet in so many, by chance.
    OneIn(u32),
    /// The source was noted under this name within the last so many seconds.
    Recent(Name, u32),
    /// Connection tracking says one of these (`NEW`, `RELATED,ESTABLISHED`, `INVALID`; `true`: none of these).
    State(&'static str, bool),
}

/// What a rule does with a packet that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Go on in this chain and come back at its end.
    Jump(Name),
    /// Back to where this chain was jumped to from.
    Return,
    /// Let it pass.
    Accept,
    /// Drop it silently.
    Drop,
    /// Say that the port is closed.
    Reject,
    /// New destination; ends the table's walk.
    Dnat(IpAddr, u16),
    /// The machine's own address as source; ends the table's walk.
    Masquerade,
    /// Set these bits of the mark and go on.
    SetMark(u32),
    /// Clear these bits of the mark and go on.
    ClearMark(u32),
    /// Note the source under this name and go on.
    Note(Name),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Conditions.
    pub matches: Vec<Match>,
    /// Consequence.
    pub target: Target,
    /// For whoever reads `iptables -L`; `None` = none.
    pub comment: Option<Arc<str>>,
}

impl Rule {
    /// A rule without comment.
    pub fn new(matches: Vec<Match>, target: Target) -> Rule {
        Rule { matches, target, comment: None }
    }

    /// The same rule with a comment.
    pub fn comment(mut self, comment: &Arc<str>) -> Rule {
        self.comment = Some(Arc::clone(comment));
        self
    }

    /// Writes the rule's specification (without `-A CHAIN`) as iptables-restore reads it.
    pub fn write(&self, out: &mut String) {
        if let Some(comment) = &self.comment {
            // Kubernetes names have neither quotes nor backslashes; what else comes is not let through.
            let clean = comment.replace(['"', '\\', '\n'], "");
            let _ = write!(out, " -m comment --comment \"{clean:.255}\"");
        }
        for m in &self.matches {
            write_match(m, out);
        }
        write_target(&self.target, out);
    }
}

fn write_match(m: &Match, out: &mut String) {
    let not = |on: bool| if on { " !" } else { "" };
    // Writing to a String cannot fail.
    let _ = match m {
        Match::Protocol(p) => write!(out, " -p {0} -m {0}", p.as_str()),
        Match::Source(c, n) => write!(out, "{} -s {c}", not(*n)),
        Match::Destination(c, n) => write!(out, "{} -d {c}", not(*n)),
        Match::Port(p) => write!(out, " --dport {p}"),
        Match::Ports(a, b) => write!(out, " --dport {a}:{b}"),
        Match::NotFrom(link) => write!(out, " ! -i {link}"),
        Match::SourceLocal => write!(out, " -m addrtype --src-type LOCAL"),
        Match::DestinationLocal => write!(out, " -m addrtype --dst-type LOCAL"),
        Match::Mark(m, n) => write!(out, " -m mark{} --mark {m:#x}/{m:#x}", not(*n)),
        Match::OneIn(n) => {
            write!(out, " -m statistic --mode random --probability {:.10}", 1.0 / f64::from(*n))
        }
        Match::Recent(name, s) => {
            write!(out, " -m recent --name {name} --rcheck --seconds {s} --reap")
        }
        Match::State(states, n) => {
            write!(out, " -m conntrack{} --ctstate {states}", not(*n))
        }
    };
}

fn write_target(target: &Target, out: &mut String) {
    let _ = match target {
        Target::Jump(chain) => write!(out, " -j {chain}"),
        Target::Return => write!(out, " -j RETURN"),
        Target::Accept => write!(out, " -j ACCEPT"),
        Target::Drop => write!(out, " -j DROP"),
        Target::Reject => write!(out, " -j REJECT"),
        Target::Dnat(IpAddr::V4(a), p) => write!(out, " -j DNAT --to-destination {a}:{p}"),
        Target::Dnat(IpAddr::V6(a), p) => write!(out, " -j DNAT --to-destination [{a}]:{p}"),
        Target::Masquerade => write!(out, " -j MASQUERADE --random-fully"),
        Target::SetMark(m) => write!(out, " -j MARK --or-mark {m:#x}"),
        Target::ClearMark(m) => write!(out, " -j MARK --and-mark {:#x}", !*m),
        Target::Note(name) => write!(out, " -m recent --name {name} --set"),
    };
}

/// A rule of a built-in chain that leads to one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Where.
    pub table: Table,
    /// Built-in chain.
    pub chain: &'static str,
    /// The rule; its target is a jump.
    pub rule: Rule,
}

/// The chains of one address family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Chains that are ours, whole.
    pub chains: BTreeMap<(Table, Name), Arc<Vec<Rule>>>,
    /// How packets get to them.
    pub hooks: Vec<Hook>,
}

impl RuleSet {
    /// Adds a chain (or replaces it).
    pub fn chain(&mut self, table: Table, name: Name, rules: Vec<Rule>) {
        debug_assert!(name.len() <= 28);
        self.chains.insert((table, name), Arc::new(rules));
    }
}

/// What of ours is installed already, as a look at the kernel's tables found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Chains with one of our names.
    pub chains: Vec<(Table, String)>,
    /// Rules in chains that are not ours but jump to ours: table, chain, target, and the whole specification as
    /// `iptables-save` prints it after `-A `.
    pub hooks: Vec<(Table, String, String, String)>,
}

/// The beginnings of our chains' names.
pub const PREFIXES: [&str; 2] = ["KUBE-", "PINTLE-"];

fn is_ours(chain: &str) -> bool {
    PREFIXES.iter().any(|p| chain.starts_with(p))
}

impl Found {
    /// Reads what `iptables-save` printed.
    pub fn parse(text: &str) -> Found {
        let mut found = Found::default();
        let mut table = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = match name {
                    "nat" => Some(Table::Nat),
                    "filter" => Some(Table::Filter),
                    _ => None,
                };
                continue;
            }
            let Some(table) = table else { continue };
            if let Some(rest) = line.strip_prefix(':') {
                let chain = rest.split(' ').next().unwrap_or("");
                if is_ours(chain) {
                    found.chains.push((table, chain.to_owned()));
                }
            } else if let Some(rest) = line.strip_prefix("-A ") {
                let chain = rest.split(' ').next().unwrap_or("");
                let target = rest.rsplit_once(" -j ").map_or("", |(_, t)| t.trim());
                if !is_ours(chain) && is_ours(target) {
                    let hook = (table, chain.to_owned(), target.to_owned(), rest.to_owned());
                    found.hooks.push(hook);
                }
            }
        }
        found
    }

    /// Text for `iptables-restore --noflush` that removes all of it; empty when there is nothing.
    pub fn removal(&self) -> String {
        let mut out = String::new();
        for table in [Table::Nat, Table::Filter] {
            let chains: Vec<_> = self.chains.iter().filter(|c| c.0 == table).collect();
            let hooks: Vec<_> = self.hooks.iter().filter(|h| h.0 == table).collect();
            if chains.is_empty() && hooks.is_empty() {
                continue;
            }
            let _ = writeln!(out, "*{}", table.as_str());
            for (_, chain) in &chains {
                let _ = writeln!(out, ":{chain} - [0:0]");
            }
            for (_, _, _, spec) in hooks {
                let _ = writeln!(out, "-D {spec}");
            }
            for (_, chain) in chains {
                let _ = writeln!(out, "-X {chain}");
            }
            out.push_str("COMMIT\n");
        }
        out
    }
}

/// Text for `iptables-restore --noflush` that brings these chains of the set into the kernel: each table in one
/// transaction, chains that are no longer in the set are removed. Empty when there are none. The hooks are there
/// already.
pub fn difference<'a>(
    set: &RuleSet,
    touched: impl Iterator<Item = &'a (Table, Name)> + Clone,
) -> String {
    let mut out = String::new();
    for table in [Table::Nat, Table::Filter] {
        let mut text = Text::default();
        for key in touched.clone().filter(|key| key.0 == table) {
            match set.chains.get(key) {
                Some(rules) => text.put(&key.1, rules),
                None => text.remove(&key.1),
            }
        }
        text.write(table, &mut out);
    }
    out
}

/// Text for `iptables-restore --noflush` that makes the kernel's tables hold the whole set, whatever they hold of ours
/// now: all chains are written, those found beyond the set are removed, hooks are set where they are missing.
pub fn reconcile(set: &RuleSet, found: &Found) -> String {
    let mut out = String::new();
    for table in [Table::Nat, Table::Filter] {
        let mut text = Text::default();
        for (key, rules) in set.chains.iter().filter(|(key, _)| key.0 == table) {
            text.put(&key.1, rules);
        }
        for (_, name) in found.chains.iter().filter(|c| c.0 == table) {
            if !set.chains.contains_key(&(table, name.as_str().into())) {
                text.remove(name);
            }
        }
        for hook in set.hooks.iter().filter(|h| h.table == table) {
            let there = found.hooks.iter().any(|(t, chain, target, spec)| {
                *t == table
                    && chain == hook.chain
                    && hook.rule.target == Target::Jump(target.as_str().into())
                    && same_states(spec, &hook.rule)
            });
            if !there {
                text.insert(hook);
            }
        }
        text.write(table, &mut out);
    }
    out
}

/// One table's part of a transaction, in the order that iptables-restore wants.
#[derive(Default)]
struct Text {
    heads: String,
    rules: String,
    tails: String,
}

impl Text {
    fn put(&mut self, name: &str, rules: &[Rule]) {
        // Naming a chain empties it (or makes it).
        let _ = writeln!(self.heads, ":{name} - [0:0]");
        for rule in rules {
            self.rules.push_str("-A ");
            self.rules.push_str(name);
            rule.write(&mut self.rules);
            self.rules.push('\n');
        }
    }

    fn remove(&mut self, name: &str) {
        let _ = writeln!(self.heads, ":{name} - [0:0]");
        let _ = writeln!(self.tails, "-X {name}");
    }

    fn insert(&mut self, hook: &Hook) {
        let _ = write!(self.rules, "-I {} 1", hook.chain);
        hook.rule.write(&mut self.rules);
        self.rules.push('\n');
    }

    fn write(self, table: Table, out: &mut String) {
        if self.heads.is_empty() && self.rules.is_empty() {
            return;
        }
        let _ = writeln!(out, "*{}", table.as_str());
        for part in [self.heads, self.rules, self.tails] {
            out.push_str(&part);
        }
        out.push_str("COMMIT\n");
    }
}

/// A hook found in the kernel asks for connection states as ours does.
fn same_states(spec: &str, rule: &Rule) -> bool {
    let wants = rule.matches.iter().any(|m| matches!(m, Match::State(..)));
    wants == spec.contains("--ctstate")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(target: Target) -> Rule {
        Rule::new(Vec::new(), target)
    }

    fn set(chains: &[(&str, Vec<Rule>)]) -> RuleSet {
        let mut s = RuleSet::default();
        for (name, rules) in chains {
            s.chain(Table::Nat, (*name).into(), rules.clone());
        }
        s
    }

    #[test]
    fn only_the_difference_is_written() {
        let a = set(&[("KUBE-A", vec![rule(Target::Return)]), ("KUBE-B", vec![])]);
        let b =
            set(&[("KUBE-A", vec![rule(Target::Return)]), ("KUBE-C", vec![rule(Target::Accept)])]);
        let keys: Vec<_> = ["KUBE-B", "KUBE-C"].map(|c| (Table::Nat, c.into())).into();
        assert_eq!(difference(&a, [].iter()), "");
        assert_eq!(
            difference(&b, keys.iter()),
            "*nat\n:KUBE-B - [0:0]\n:KUBE-C - [0:0]\n-A KUBE-C -j ACCEPT\n-X KUBE-B\nCOMMIT\n"
        );
    }

    #[test]
    fn found_chains_and_hooks_are_reconciled() {
        let text = "# comment\n*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-OLD - [0:0]\n:KUBE-A - [0:0]\n:DOCKER - [0:0]\n\
                    -A PREROUTING -m comment --comment \"x y\" -j KUBE-A\n-A PREROUTING -j DOCKER\nCOMMIT\n";
        let found = Found::parse(text);
        assert_eq!(found.chains.len(), 2);
        assert_eq!(found.hooks.len(), 1);
        let mut new = set(&[("KUBE-A", vec![rule(Target::Return)])]);
        for chain in ["PREROUTING", "OUTPUT"] {
            let target = Target::Jump("KUBE-A".into());
            new.hooks.push(Hook { table: Table::Nat, chain, rule: rule(target) });
        }
        assert_eq!(
            reconcile(&new, &found),
            "*nat\n:KUBE-A - [0:0]\n:KUBE-OLD - [0:0]\n-A KUBE-A -j RETURN\n-I OUTPUT 1 -j KUBE-A\n-X KUBE-OLD\nCOMMIT\n"
        );
        assert_eq!(
            found.removal(),
            "*nat\n:KUBE-OLD - [0:0]\n:KUBE-A - [0:0]\n-D PREROUTING -m comment --comment \"x y\" -j KUBE-A\n\
             -X KUBE-OLD\n-X KUBE-A\nCOMMIT\n"
        );
    }

    #[test]
    fn a_comment_cannot_end_its_quotes() {
        let r = rule(Target::Accept).comment(&"a\" -j DROP \\\n".into());
        let mut out = String::new();
        r.write(&mut out);
        assert_eq!(out, " -m comment --comment \"a -j DROP \" -j ACCEPT");
    }
}
