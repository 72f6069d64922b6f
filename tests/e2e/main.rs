//! Ring 4: real pods, real netfilter, the real kubectl, on this machine as root.
//!
//! Run by `make test` (or `cargo test -p pintle-tests --test e2e -- --test-threads=1`).

mod badday;
mod demo;
mod hostile;
mod network;
mod nodes;
mod pods;
mod streams;
mod verbs;
