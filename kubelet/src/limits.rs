//! Bounds of the kubelet, with their units and reasons.

use std::time::Duration;

/// Pods on a node (`status.capacity.pods`); Kubernetes' default.
pub const PODS_MAX: usize = 110;

/// First pause between restarts of a container that keeps ending (CrashLoopBackOff).
pub const CRASH_BACKOFF_FIRST: Duration = Duration::from_secs(10);
/// Longest such pause.
pub const CRASH_BACKOFF_MAX: Duration = Duration::from_secs(300);
/// A container that ended this long after its last back-off began starts over at the first pause.
pub const CRASH_BACKOFF_RESET: Duration = Duration::from_secs(600);

/// First pause after something that the pod needs was missing or failed (image, volume, sandbox).
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest such pause for volumes and sandboxes.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// First pause after an image was not there.
pub const IMAGE_BACKOFF_FIRST: Duration = Duration::from_secs(10);
/// Longest pause between looks for an image.
pub const IMAGE_BACKOFF_MAX: Duration = Duration::from_secs(300);

/// Seconds that a container gets between SIGTERM and SIGKILL at least.
pub const GRACE_SECONDS_MIN: i64 = 2;
/// Grace when the pod says nothing (the API server's default).
pub const GRACE_SECONDS_DEFAULT: i64 = 30;

/// Pause between renewals of the node's lease.
pub const LEASE_RENEW: Duration = Duration::from_secs(10);
/// `spec.leaseDurationSeconds`.
pub const LEASE_DURATION_SECONDS: i64 = 40;
/// Pause between node status reports when nothing changes.
pub const NODE_STATUS_PERIOD: Duration = Duration::from_secs(300);
/// Age at which the use of a configMap or secret by a running pod leads to another look at it.
pub const REFERENCE_TTL: Duration = Duration::from_secs(60);

/// Bytes of a termination message that are reported.
pub const TERMINATION_MESSAGE_BYTES_MAX: usize = 4096;
/// Lines of the log that stand in for a missing termination message.
pub const TERMINATION_LOG_LINES_MAX: u64 = 80;
/// Bytes of them.
pub const TERMINATION_LOG_BYTES_MAX: usize = 2048;

/// Bytes of a probe's or hook's output that are kept for its message.
pub const PROBE_OUTPUT_BYTES_MAX: usize = 10 << 10;

/// A container log rotates at this size.
pub const LOG_BYTES_MAX: u64 = 10 << 20;
/// Files kept of a container log, the current one included.
pub const LOG_FILES_MAX: u32 = 5;

/// Ended runs that are kept of each container (for `logs --previous` and `lastState`).
pub const ENDED_RUNS_KEPT: usize = 1;

/// Images listed in the node's status.
pub const NODE_IMAGES_MAX: usize = 50;

/// Events remembered, so that the same one again raises its count.
pub const EVENTS_REMEMBERED_MAX: usize = 512;

/// Processes of one pod when nothing else is said: none.
pub const PIDS_MAX: Option<u64> = None;

/// Tokens of service accounts are renewed when this part of their life (in percent) is over.
pub const TOKEN_RENEW_PERCENT: u64 = 80;
/// Life of a projected token when the pod says nothing.
pub const TOKEN_SECONDS_DEFAULT: i64 = 3600;
