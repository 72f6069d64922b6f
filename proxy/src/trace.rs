//! Walks a rule set as the kernel walks it: where does the first packet of a connection end.
//!
//! Chances are followed, not drawn: the answer is every possible end with its probability. The walk is that of
//! netfilter: nat PREROUTING or OUTPUT, then filter INPUT, FORWARD or OUTPUT, then nat POSTROUTING. Rules of others
//! in the built-in chains are not known here.

use crate::model::Protocol;
use crate::ruleset::{Match, Name, Rule, RuleSet, Table, Target};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Jumps within jumps; our chains need five.
const DEPTH_MAX: u32 = 16;

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sends it.
    pub source: IpAddr,
    /// Whom it is addressed to.
    pub destination: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// A process on the node sends it (and not a pod or another machine).
    pub from_node: bool,
}

/// Where a packet ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It leaves for (or is received at) this address and port.
    At(IpAddr, u16),
    /// The sender is told that the port is closed.
    Rejected,
    /// Nobody is told.
    Dropped,
}

/// One possible end.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Where.
    pub end: End,
    /// It arrives with the node's address as its source.
    pub masqueraded: bool,
    /// How probable, 0 to 1.
    pub chance: f64,
}

/// The machine around the rules.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Clients noted for session affinity: list and address.
    pub noted: BTreeSet<(Name, IpAddr)>,
}

#[derive(Clone, Debug)]
struct State {
    destination: IpAddr,
    port: u16,
    mark: u32,
    dnat: bool,
    masqueraded: bool,
    chance: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The chain ended or returned.
    Through,
    /// The table has decided to let it pass.
    Pass,
    Reject,
    Drop,
}

struct Walk<'a> {
    set: &'a RuleSet,
    machine: &'a Machine,
    packet: &'a Packet,
}

/// Every possible end of the packet; the chances add up to 1.
pub fn trace(set: &RuleSet, machine: &Machine, packet: &Packet) -> Vec<Outcome> {
    let walk = Walk { set, machine, packet };
    let start = State {
        destination: packet.destination,
        port: packet.port,
        mark: 0,
        dnat: false,
        masqueraded: false,
        chance: 1.0,
    };
    let mut out: Vec<Outcome> = Vec::new();
    let first = if packet.from_node { "OUTPUT" } else { "PREROUTING" };
    for (state, _) in walk.built_in(Table::Nat, first, start) {
        let received = machine.addresses.contains(&state.destination);
        let filters: &[&str] = match (packet.from_node, received) {
            (true, false) => &["OUTPUT"],
            (true, true) => &["OUTPUT", "INPUT"],
            (false, true) => &["INPUT"],
            (false, false) => &["FORWARD"],
        };
        let mut passed = vec![state];
        for chain in filters {
            let before = std::mem::take(&mut passed);
            for (state, verdict) in
                before.into_iter().flat_map(|s| walk.built_in(Table::Filter, chain, s))
            {
                match verdict {
                    Verdict::Through | Verdict::Pass => passed.push(state),
                    Verdict::Reject => add(&mut out, End::Rejected, false, state.chance),
                    Verdict::Drop => add(&mut out, End::Dropped, false, state.chance),
                }
            }
        }
        for state in passed {
            let ends = if received && !packet.from_node {
                vec![(state, Verdict::Through)]
            } else {
                walk.built_in(Table::Nat, "POSTROUTING", state)
            };
            for (s, _) in ends {
                add(&mut out, End::At(s.destination, s.port), s.masqueraded, s.chance);
            }
        }
    }
    out.sort_by_key(|o| (o.end, o.masqueraded));
    out
}

fn add(out: &mut Vec<Outcome>, end: End, masqueraded: bool, chance: f64) {
    match out.iter_mut().find(|o| o.end == end && o.masqueraded == masqueraded) {
        Some(o) => o.chance += chance,
        None => out.push(Outcome { end, masqueraded, chance }),
    }
}

impl Walk<'_> {
    /// A built-in chain, as far as it is ours: its hooks, of which the last was inserted at the top.
    fn built_in(&self, table: Table, chain: &str, state: State) -> Vec<(State, Verdict)> {
        let hooks = self.set.hooks.iter().rev();
        let rules = hooks.filter(|h| h.table == table && h.chain == chain).map(|h| &h.rule);
        self.rules(table, rules, state, 0)
    }

    fn rules<'r>(
        &self,
        table: Table,
        rules: impl Iterator<Item = &'r Rule>,
        state: State,
        depth: u32,
    ) -> Vec<(State, Verdict)> {
        assert!(depth < DEPTH_MAX, "chains jump in a circle");
        let mut ended = Vec::new();
        let mut here = vec![state];
        for rule in rules {
            for mut state in std::mem::take(&mut here) {
                let chance = self.chance_of(rule, &state);
                if chance < 1.0 {
                    let rest = state.chance * (1.0 - chance);
                    here.push(State { chance: rest, ..state.clone() });
                }
                if chance <= 0.0 {
                    continue;
                }
                state.chance *= chance;
                match self.target(table, rule, state, depth) {
                    (states, None) => {
                        for (state, verdict) in states {
                            match verdict {
                                Verdict::Through => here.push(state),
                                _ => ended.push((state, verdict)),
                            }
                        }
                    }
                    (states, Some(verdict)) => {
                        ended.extend(states.into_iter().map(|(s, _)| (s, verdict)));
                    }
                }
            }
        }
        ended.extend(here.into_iter().map(|s| (s, Verdict::Through)));
        ended
    }

    /// States after the target, each with how its walk goes on; or one verdict for this whole chain.
    fn target(
        &self,
        table: Table,
        rule: &Rule,
        mut state: State,
        depth: u32,
    ) -> (Vec<(State, Verdict)>, Option<Verdict>) {
        let verdict = match &rule.target {
            Target::Jump(chain) => {
                let rules = self.set.chains.get(&(table, chain.clone()));
                let rules = rules.unwrap_or_else(|| panic!("no chain {chain} in {table:?}"));
                return (self.rules(table, rules.iter(), state, depth + 1), None);
            }
            // Seen from the chain that jumped here, a return is the end of this one.
            Target::Return => Some(Verdict::Through),
            Target::Accept => Some(Verdict::Pass),
            Target::Drop => Some(Verdict::Drop),
            Target::Reject => Some(Verdict::Reject),
            Target::Dnat(address, port) => {
                (state.destination, state.port, state.dnat) = (*address, *port, true);
                Some(Verdict::Pass)
            }
            Target::Masquerade => {
                state.masqueraded = true;
                Some(Verdict::Pass)
            }
            Target::SetMark(bits) => {
                state.mark |= bits;
                None
            }
            Target::ClearMark(bits) => {
                state.mark &= !bits;
                None
            }
            Target::Note(_) => None,
        };
        (vec![(state, Verdict::Through)], verdict)
    }

    /// The probability with which a packet in this state matches.
    fn chance_of(&self, rule: &Rule, state: &State) -> f64 {
        let local = |a: &IpAddr| a.is_loopback() || self.machine.addresses.contains(a);
        let source = self.packet.source;
        rule.matches.iter().fold(1.0, |chance, m| {
            let holds = match m {
                Match::Protocol(p) => *p == self.packet.protocol,
                Match::Source(net, not) => net.contains(source) != *not,
                Match::Destination(net, not) => net.contains(state.destination) != *not,
                Match::Port(p) => *p == state.port,
                Match::Ports(low, high) => (*low..=*high).contains(&state.port),
                // What a process on the node sends to the node comes in by lo.
                Match::NotFrom(_) => !self.packet.from_node,
                Match::SourceLocal => local(&source),
                Match::DestinationLocal => local(&state.destination),
                Match::Mark(bits, not) => (state.mark & bits == *bits) != *not,
                Match::Recent(list, _) => self.machine.noted.contains(&(list.clone(), source)),
                Match::State(states, not) => {
                    let any = |s: &str| s == "NEW" || (s == "DNAT" && state.dnat);
                    states.split(',').any(any) != *not
                }
                Match::OneIn(n) => return chance / f64::from(*n),
            };
            if holds { chance } else { 0.0 }
        })
    }
}
