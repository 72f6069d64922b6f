//! A container runtime: namespaces, cgroup v2, mounts, seccomp, capabilities, images, a shim a sandbox, and
//! the network primitives that go with them. Usable alone; it has never heard of a Pod.
//!
//! [`sandbox`] is what the kubelet calls in process. `unsafe` lives in `sys/` alone.

mod caps;
mod cgroup;
mod container;
mod devices;
pub mod image;
mod limits;
pub mod net;
mod ops;
mod plan;
pub mod program;
mod proto;
pub mod sandbox;
mod seccomp;
mod shim;
mod state;
pub mod sys;
mod trash;
mod users;
