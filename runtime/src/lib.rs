//! A container runtime: namespaces, cgroup v2, mounts, seccomp, capabilities, images, a shim a sandbox, and
//! the network primitives that go with them. Usable alone; it has never heard of a Pod.
//!
//! [`sandbox`] is what the kubelet calls in process. `unsafe` lives in `sys/` alone.

pub mod image;
pub mod net;
pub mod sandbox;
