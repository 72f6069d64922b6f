//! Every bound of the client in one place.

use std::time::Duration;

/// Objects a page of a list.
pub const LIST_PAGE_OBJECTS: u32 = 500;

/// Requests under way at once; more wait in the queue.
pub const IN_FLIGHT_MAX: usize = 128;

/// Requests that may wait; more are answered `Disconnected` at once, so that a daemon that plans faster than the
/// API server works can't eat the memory.
pub const QUEUE_MAX: usize = 16_384;

/// A request that has no answer after this is given up.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// First pause before a failed list or watch is tried again; doubled each time, with jitter.
pub const REFLECT_RETRY_MIN: Duration = Duration::from_millis(20);

/// Longest such pause.
pub const REFLECT_RETRY_MAX: Duration = Duration::from_secs(5);

/// Default first pause of a work queue's key (as in client-go, but not as short as 5 ms).
pub const QUEUE_RETRY_MIN: Duration = Duration::from_millis(10);

/// Default longest pause of a work queue's key.
pub const QUEUE_RETRY_MAX: Duration = Duration::from_secs(60);

/// Different events that a recorder remembers to count repetitions of.
pub const EVENTS_REMEMBERED_MAX: usize = 4096;

/// An event object is not counted up any longer when its last occurrence is this old (the API server forgets
/// events after an hour).
pub const EVENT_REPEAT_WITHIN: Duration = Duration::from_secs(600);

/// Events that one object may cause at once; then one every `EVENT_REFILL` (client-go's spam filter).
pub const EVENT_BURST: u32 = 25;

/// See `EVENT_BURST`.
pub const EVENT_REFILL: Duration = Duration::from_secs(300);

/// A leader that has not renewed for this long has lost the lease.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);

/// A leader renews this often. (Kubernetes: every 2 s; an idle cluster should be silent.)
pub const LEASE_RENEW: Duration = Duration::from_secs(5);

/// A leader that could not renew for this long stops to lead, before others may begin.
pub const LEASE_RENEW_DEADLINE: Duration = Duration::from_secs(10);
