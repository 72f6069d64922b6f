//! The hands of the proxy: reads and changes packet rules, routes and connection tracking of the calling thread's
//! network namespace.
//!
//! The only module of this crate that does anything. It waits for child processes and the kernel, up to seconds
//! with many rules: the shell runs it on a thread of its own.

use crate::build::Flows;
use crate::model::{Cidr, Protocol};
use crate::ruleset::{Found, PREFIXES};
use crate::{Applied, Apply, Seen, Work};
use pintle_base::log;
use pintle_runtime::net::iptables::{Iptables, Variant};
use pintle_runtime::net::{self, conntrack, sysctl};
use std::collections::BTreeMap;

/// The answer to a piece of [`Work`].
#[derive(Debug)]
pub enum Done {
    /// For [`crate::Proxy::looked`].
    Looked(Result<Seen, String>),
    /// For [`crate::Proxy::applied`].
    Applied(Applied),
}

/// Does the work; knows which variant of iptables is in use.
#[derive(Debug, Default)]
pub struct Worker {
    iptables: BTreeMap<bool, Iptables>,
}

impl Worker {
    /// Does one piece of work.
    pub fn run(&mut self, work: Work) -> Done {
        match work {
            Work::Look(families) => Done::Looked(self.look(&families)),
            Work::Apply(apply) => Done::Applied(self.apply(&apply)),
        }
    }

    fn look(&mut self, families: &[bool]) -> Result<Seen, String> {
        let mut seen = Seen::default();
        for v4 in families {
            prepare_kernel(*v4)?;
            let iptables = Iptables::detect(*v4, &PREFIXES).map_err(text_of)?;
            let found = Found::parse(&iptables.save().map_err(text_of)?);
            seen.tables.push((*v4, found));
            self.iptables.insert(*v4, iptables);
        }
        let routes = net::routes().map_err(text_of)?;
        seen.routes =
            routes.into_iter().map(|((a, p), gateway)| (Cidr::new(a, p), gateway)).collect();
        Ok(seen)
    }

    fn apply(&mut self, apply: &Apply) -> Applied {
        let mut result = Applied::default();
        for (v4, text) in &apply.rules {
            let done = match self.iptables.get(v4) {
                Some(iptables) => iptables.restore(text).map_err(text_of),
                None => Err("the tables were never read".into()),
            };
            if let Err(e) = done {
                result.rules = Some(e);
                return result;
            }
        }
        if !apply.flows.is_empty()
            && let Err(e) = delete_stale(&apply.flows)
        {
            // The rules are right; flows that stay run into their timeout.
            log::warn("cannot delete stale connection tracking entries", &[("err", &e)]);
        }
        for (cidr, gateway) in &apply.routes {
            if let Err(e) = net::set_route((cidr.address, cidr.prefix), *gateway) {
                result.routes.push((*cidr, text_of(e)));
            }
        }
        result
    }
}

/// An error with its cause, in one line.
fn text_of(e: pintle_runtime::sandbox::Error) -> String {
    match std::error::Error::source(&e) {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    }
}

/// Forwarding, and node ports on 127.0.0.1 (KUBE-FIREWALL keeps neighbours from using that way in).
fn prepare_kernel(v4: bool) -> Result<(), String> {
    let settings: &[(&str, &str)] = if v4 {
        &[("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/all/route_localnet", "1")]
    } else {
        &[("net/ipv6/conf/all/forwarding", "1")]
    };
    for (key, value) in settings {
        sysctl::set(key, value).map_err(text_of)?;
    }
    Ok(())
}

/// Deletes tracked flows to service destinations that were answered by an endpoint which is none any more.
fn delete_stale(flows: &[Flows]) -> Result<(), String> {
    let own = net::addresses().map_err(text_of)?;
    for v4 in [true, false] {
        let is_stale = |e: &conntrack::Entry| {
            let (address, port) = e.original.destination;
            let about = flows.iter().filter(|f| {
                number(f.protocol) == e.protocol
                    && f.port == port
                    && f.address.map_or_else(|| own.contains(&address), |a| a == address)
            });
            let mut about = about.peekable();
            about.peek().is_some() && about.all(|f| !f.endpoints.contains(&e.reply.source))
        };
        conntrack::delete(v4, is_stale).map_err(text_of)?;
    }
    Ok(())
}

/// IP protocol number.
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// Removes what proxies made, in both variants and families; a second time there is nothing to do.
pub fn cleanup() -> Result<(), String> {
    let mut worst = Ok(());
    for v4 in [true, false] {
        for variant in [Variant::Nft, Variant::Legacy] {
            let Ok(iptables) = Iptables::of(variant, v4) else { continue };
            let removed = iptables
                .save()
                .and_then(|text| iptables.restore(&Found::parse(&text).removal()))
                .map_err(text_of);
            worst = worst.and(removed);
        }
    }
    for (destination, _) in net::routes().map_err(text_of)? {
        // Default routes and routes of pods' own namespaces are none of these.
        worst = worst.and(net::set_route(destination, None).map_err(text_of));
    }
    worst
}
