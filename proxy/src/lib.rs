//! Services and node routes into netfilter rules as data.
//!
//! What it is: the state machine [`Proxy`] (events in, [`Work`] out), around one pure function
//! ([`build::service_rules`] and [`build::assemble`]) from services, endpoint slices and the node to a
//! [`ruleset::RuleSet`]. What it is not: the one who runs `iptables-restore`, sets routes or deletes connection
//! tracking entries; that is the shell, `cli/src/daemons/proxy.rs`, by means of `pintle_runtime::net`.
//!
//! [`trace`] walks a rule set as the kernel would: the tests' oracle and the answer to "where does a packet from
//! here to that service end".

pub mod build;
mod core;
pub mod limits;
pub mod model;
#[cfg(test)]
mod reference;
pub mod ruleset;
pub mod trace;

pub use core::{Applied, Apply, Proxy, Seen, Work};
