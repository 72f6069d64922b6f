//! Every limit of the HTTP, WebSocket and SPDY fronts, with its reason.

use std::time::Duration;

/// Request line and headers together. Room for an exec whose command is a long script (128 KiB an argument is
/// Linux's own limit), far from what would hurt with thousands of slow clients.
pub const HEAD_BYTES_MAX: usize = 256 << 10;

/// The request target alone.
pub const URL_BYTES_MAX: usize = 192 << 10;

/// Header lines of a request.
pub const HEADERS_MAX: usize = 128;

/// Request body, as in Kubernetes (`Request entity too large: limit is 3145728`).
pub const BODY_BYTES_MAX: usize = 3 << 20;

/// So much of a body that is too large is read and dropped so that its sender gets to read the 413; what goes
/// on beyond this is cut off.
pub const DISCARD_BYTES_MAX: usize = 64 << 20;

/// A chunk's size line with its extensions, and each trailer line.
pub const CHUNK_LINE_BYTES_MAX: usize = 4 << 10;

/// Bytes of further requests that may wait while one is answered.
pub const PIPELINE_BYTES_MAX: usize = 64 << 10;

/// Bytes of an upgraded connection that may wait for their reader.
pub const RAW_BYTES_MAX: usize = 256 << 10;

/// Time from the first byte of a request to the end of its headers.
pub const HEAD_TIME: Duration = Duration::from_secs(30);

/// Time from the end of the headers to the end of the body: 3 MiB in two minutes is 26 KiB/s.
pub const BODY_TIME: Duration = Duration::from_secs(120);

/// A request that is no watch and no stream is answered after so long at the latest, as in Kubernetes.
pub const REQUEST_TIME: Duration = Duration::from_secs(60);

/// A client certificate is verified again after so long on the same connection (it may have expired).
pub const CERTIFICATE_TIME: Duration = Duration::from_secs(60);

/// An idle connection is closed after this; Go's clients keep theirs for 90 s.
pub const IDLE_TIME: Duration = Duration::from_secs(180);

/// A client that takes no byte for so long while some wait for it is gone.
pub const STALL_TIME: Duration = Duration::from_secs(300);

/// Above so many unsent bytes a connection's watch or stream is paused ...
pub const OUTPUT_HIGH_BYTES: usize = 256 << 10;

/// ... and below so many it goes on.
pub const OUTPUT_LOW_BYTES: usize = 64 << 10;

/// Bodies from this size on are shared with the watch cache and not copied into the output buffer.
pub const SHARE_BYTES_MIN: usize = 16 << 10;

/// Payload of one WebSocket frame and of one reassembled message from a client. kubectl sends 32 KiB pieces.
pub const WS_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Bytes that may wait for the credit of one node stream before nothing more is read from its client.
pub const NODE_QUEUE_BYTES_MAX: usize = 256 << 10;

/// One SPDY frame from a client.
pub const SPDY_FRAME_BYTES_MAX: usize = 1 << 20;

/// Inflated header block of a SPDY frame.
pub const SPDY_HEADER_BYTES_MAX: usize = 64 << 10;

/// Streams that a client may have open at once on a SPDY connection (two per forwarded connection).
pub const SPDY_STREAMS_MAX: usize = 1024;

/// Data that a client may send on one SPDY stream before it is consumed (the protocol's initial window).
pub const SPDY_WINDOW_BYTES: u32 = 64 << 10;
