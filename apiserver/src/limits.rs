//! Every bound of the API server's core, with its reason.

use std::time::Duration;

/// Changes of a resource are kept at least so long, as etcd's compaction interval: paging and resuming
/// clients have that much time.
pub const WINDOW_AGE_MIN: Duration = Duration::from_secs(300);

/// So many changes of a resource are kept even when they are older.
pub const WINDOW_CHANGES_MIN: usize = 128;

/// Bytes of changes that one resource may keep, whatever their age.
pub const WINDOW_BYTES_MAX: usize = 8 << 20;

/// Largest request body, as kube-apiserver's.
pub const BODY_BYTES_MAX: usize = 3 << 20;

/// Requests that may wait for the cache or the store at once; more are refused with 429.
pub const WAITING_MAX: usize = 20_000;

/// A read that waits for a revision of the future gives up after this, as kube-apiserver.
pub const FUTURE_READ_WAIT: Duration = Duration::from_secs(3);

/// A write waits so long for a store that is away.
pub const STORE_AWAY_WAIT: Duration = Duration::from_secs(10);

/// A write that lost so many races is given up with a conflict.
pub const WRITE_TRIES_MAX: u32 = 100;

/// Names tried for a generateName before 409.
pub const GENERATE_NAME_TRIES_MAX: u32 = 8;

/// A bookmark is sent to a watcher that asked for them after so long without an event.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// The last bookmark comes so long before the end of a watch.
pub const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

/// Keys asked of the store at once while loading.
pub const LOAD_PAGE_KEYS: u32 = 5_000;

/// Events are deleted so long after their last write.
pub const EVENT_TTL: Duration = Duration::from_secs(3600);

/// Characters that generateName appends.
pub const GENERATED_SUFFIX_CHARS: usize = 5;

/// Longest base of a generated name, so that the whole is a valid name.
pub const GENERATED_BASE_CHARS_MAX: usize = 63 - GENERATED_SUFFIX_CHARS;
