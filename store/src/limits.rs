//! Every bound of the store, with its unit and its reason.

use std::time::Duration;

/// Longest key. Two DNS subdomains, a group and a resource name fit four times over.
pub const KEY_BYTES_MAX: usize = 4096;

/// Largest value. The API server takes bodies up to 3 MiB, as Kubernetes does.
pub const VALUE_BYTES_MAX: usize = 3 << 20;

/// Largest record of one transaction in the log. It fits the next segment whatever is in this one, and its
/// events with the values before them fit one message of 16 MiB.
pub const RECORD_BYTES_MAX: usize = 6 << 20;

/// Operations and compares of one transaction. A namespace of 2,000 objects can be applied at once.
pub const TXN_OPS_MAX: usize = 4096;

/// Bytes of keys and values in one answer; a range is cut there and says `more`. Half of the largest message.
pub const REPLY_BYTES_MAX: usize = 8 << 20;

/// Bytes of keys and values in one message of events, unless one revision alone is larger: keeps a watcher
/// that catches up from holding the loop and the memory.
pub const EVENTS_BYTES_MAX: usize = 1 << 20;

/// Watches at once. Each costs about 200 bytes and a compare a change.
pub const WATCHES_MAX: usize = 65_536;

/// Leases at once.
pub const LEASES_MAX: usize = 1 << 20;

/// Shortest and longest life of a lease.
pub const LEASE_TTL_MIN: Duration = Duration::from_millis(1);
/// See [`LEASE_TTL_MIN`].
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Size of a segment.
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// Size of the first segment of a new store: it is written before the first start is done.
pub const FIRST_SEGMENT_BYTES: u64 = 1 << 20;

/// The oldest segment is cleaned when the closed segments hold twice what is needed and this many segments
/// more: at most half of what is written is written again, and a small store stays under 100 MiB.
pub const SLACK_SEGMENTS: u64 = 3;

/// Bytes that cleaning copies with one batch, so that clients' writes do not wait long behind it.
pub const CLEAN_BYTES: usize = 256 << 10;

/// Values kept in memory, newest first in, oldest first out.
pub const CACHE_BYTES: usize = 8 << 20;

/// History is kept this long ...
pub const HISTORY_AGE: Duration = Duration::from_secs(24 * 3600);

/// ... and this large (values that were overwritten or deleted, and their keys) ...
pub const HISTORY_BYTES: u64 = 256 << 20;

/// ... and this many changes, because each of them costs about 100 bytes of memory.
pub const HISTORY_CHANGES: usize = 1 << 20;

/// Overwritten volatile values kept in memory for watchers that come back.
pub const VOLATILE_HISTORY_BYTES: usize = 1 << 20;

/// Revisions that one `reserve` record sets aside for volatile writes: after a crash the revision jumps by
/// less than this, and one node's heartbeats need a record about twice a day.
pub const RESERVE_REVISIONS: u64 = 4096;

/// A watcher that nothing matched is told how far the store is this long after it fell behind.
pub const PROGRESS_AFTER: Duration = Duration::from_secs(5);

/// Requests that may wait for the next segment. Beyond, they are refused.
pub const WAITING_MAX: usize = 16_384;
