//! Write-ahead log, multi-version index, watch, leases. Bytes in, revisions out.
//!
//! [`Store`] is the core: it takes requests, ends of disk work and time, and gives replies and disk work. It
//! parses no value and waits for nothing but the reading of values from its log. `pintle store` is its shell.
//! The life of a write: `txn` plans it, `index` takes it at a new head revision, `log` puts its record into
//! the open batch, a [`Job`] brings the batch to the disk, and `core` then makes the revision visible,
//! answers, and lets `watch` deliver it. `scan` and `recover` read it back. docs/wal.md has the bytes.

mod clean;
mod core;
mod error;
mod index;
pub mod inspect;
mod job;
mod lease;
pub mod limits;
mod log;
mod read;
mod record;
mod recover;
mod scan;
mod txn;
mod values;
mod watch;

pub use core::{Config, Output, Store, Tag};
pub use error::OpenError;
pub use job::{Done, Job};
pub use recover::Recovery;

#[cfg(test)]
mod tests;
