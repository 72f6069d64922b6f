//! Every bound of the protocol in one place: the unit is in the name, the reason in the comment.

use std::time::Duration;

/// Largest payload of one frame. Small enough that frames of many streams interleave, large enough that the
/// 12-byte header costs nothing.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// Largest hello or welcome: an identity, not a place to put data.
pub const HELLO_BYTES_MAX: usize = 4 << 10;

/// Smallest window that a peer may offer: below this every message would crawl.
pub const WINDOW_BYTES_MIN: u32 = 4 << 10;

/// Most credit that may stand on one stream; a peer that grants more is broken.
pub const CREDIT_BYTES_MAX: u64 = u32::MAX as u64;

/// Frames of queued messages are put in the output only while it holds less than this, so that streams take
/// turns and a reset takes effect soon.
pub const PUMP_BYTES: usize = 256 << 10;

/// Answers (pongs, credit, resets) that may wait beyond the output limit; a peer that makes us say more
/// without reading it is cut off.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;

/// The peer's hello must be there by then.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// After so much silence a ping is sent.
pub const PING_AFTER: Duration = Duration::from_secs(15);

/// After so much silence the peer counts as dead: two pings went unanswered.
pub const DEAD_AFTER: Duration = Duration::from_secs(45);

/// Oldest protocol version that this side speaks.
pub const VERSION_MIN: u16 = 1;

/// Newest protocol version that this side speaks.
pub const VERSION_MAX: u16 = 1;
