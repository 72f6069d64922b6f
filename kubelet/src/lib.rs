//! The node agent: pods into containers.
//!
//! [`core::Kubelet`] is the pure core: it hears of objects (as a [`pintle_client::Daemon`]), of what came of
//! jobs and of ended containers, and gives out requests to the API server and [`work::Job`]s. [`plan`] decides
//! what is next for one pod, [`status`] what it shows, [`probe`] when probes are due. [`worker`] and [`disk`]
//! carry jobs out (blocking, on threads of the shell); the shell in `cli/src/daemons/kubelet.rs` owns the
//! loop, sockets and streams. It knows nothing of how the API server keeps things.

pub mod container;
pub mod core;
pub mod disk;
pub mod env;
pub mod event;
pub mod ipam;
pub mod limits;
pub mod node;
mod observe;
pub mod plan;
pub mod podfiles;
mod pods;
pub mod probe;
pub mod refs;
pub mod resources;
pub mod spec;
pub mod state;
pub mod status;
#[cfg(test)]
mod tests;
pub mod volume;
pub mod work;
pub mod worker;

pub use observe::Termination;
