//! Ground that every crate stands on: time, randomness, disk, bounded queues, structured log.
//!
//! Admission rule: what lives here could live in the standard library, knows no domain, and is used by
//! three crates or more. Nothing here waits, reads a clock by itself or knows that Kubernetes exists.

pub mod disk;
pub mod log;
pub mod outbuf;
pub mod prng;
pub mod slab;
pub mod time;

pub use outbuf::Outbuf;
pub use prng::Prng;
pub use time::{Clock, Now, Time, Wall};
