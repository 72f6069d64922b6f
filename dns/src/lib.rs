//! Cluster DNS on every node, from the local cache: the core.
//!
//! [`Dns`] takes questions as bytes and gives answers as bytes: names of the cluster from its [`zone`], other names
//! from upstream resolvers by [`forward`]. It owns no socket and reads no clock; the shell is
//! `cli/src/daemons/dns.rs`. Names stay known while the API server is away.

mod core;
pub mod forward;
pub mod limits;
pub mod message;
#[cfg(test)]
mod tests;
pub mod zone;

pub use core::{Dns, Step};
