//! Services and node routes into netfilter rules as data.
//!
//! What it is: the state machine [`Proxy`] (events in, [`Work`] out), around one pure function
//! ([`build::service_rules`], put together by [`assembly::Assembly`]) from services, endpoint slices and the node
//! to a [`ruleset::RuleSet`]. It neither waits nor acts: [`worker`] runs `iptables-restore`, sets
//! routes and deletes connection tracking entries, on a thread that the shell (`cli/src/daemons/proxy.rs`) gives it.
//!
//! [`trace`] walks a rule set as the kernel would: the tests' oracle and the answer to "where does a packet from
//! here to that service end".

pub mod assembly;
pub mod build;
mod core;
pub mod limits;
pub mod model;
#[cfg(test)]
mod reference;
pub mod ruleset;
pub mod trace;
pub mod worker;

pub use core::{Applied, Apply, Proxy, Seen, Work};
