//! The binary as a process of its own.

mod dns;
mod store;
