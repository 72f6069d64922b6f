//! Reconcilers: one module a controller, each a pure function from what is observed to a list of actions.
//!
//! [`Manager`] is the [`pintle_client::Daemon`] around them: it keeps the view up to date, knows which keys each
//! change touches, asks a controller for a plan, sends the plan's actions, and does not ask again for the same
//! key until the view contains what those actions did. No controller sees which event woke it, none sleeps,
//! none reads a clock, none knows of another.

mod kinds;
mod manager;
mod plan;
mod view;

pub mod deployment;
pub mod endpointslice;
pub mod garbage;
pub mod hash;
pub mod job;
pub mod namespace;
pub mod node;
pub mod replicaset;

pub use kinds::Kind;
pub use manager::{Config, Manager};
pub use plan::{Action, Plan, Selector};
pub use view::View;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
