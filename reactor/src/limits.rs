//! Every bound of the loop in one place.

use std::time::Duration;

/// Bytes read from one connection in one turn, so that a busy one does not starve the others.
pub const READ_BUDGET_BYTES: usize = 256 << 10;

/// Input that a byte connection holds before it stops reading (until `consume`).
pub const INPUT_BYTES_MAX: usize = 256 << 10;

/// Output that a byte connection holds before `write` refuses.
pub const OUTPUT_BYTES_MAX: usize = 8 << 20;

/// Having had more than this to write, a byte connection says `Drained` when it is nearly done.
pub const OUTPUT_HIGH_BYTES: usize = 256 << 10;

/// "Nearly done".
pub const OUTPUT_LOW_BYTES: usize = 64 << 10;

/// Connections that a listener accepts in one turn.
pub const ACCEPT_BUDGET: usize = 64;

/// Accepted connections, of all listeners together; more wait in the kernel's backlog.
pub const ACCEPTED_MAX: usize = 16_384;

/// After accept failed (no descriptors left), it is tried again after this.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// A connection must have been made and its TLS handshake be done by then.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// After `finish`, the peer has so long to take the rest and close.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(30);

/// First pause before a lost wire connection is made again; doubled each time, with jitter.
pub const RECONNECT_MIN: Duration = Duration::from_millis(10);

/// Longest pause.
pub const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// A turn that took longer is worth a line in the log.
pub const SLOW_TURN: Duration = Duration::from_millis(500);

/// A TCP connection that was silent for this long is probed by the kernel.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Pause between two probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Probes without an answer after which the peer is gone. Data without an acknowledgement ends a connection after
/// as long as idle time and probes together.
pub const KEEPALIVE_PROBES: u32 = 4;
