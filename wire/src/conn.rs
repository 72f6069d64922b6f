//! The state machine of one connection. See PROTOCOL.md for the bytes.
//!
//! Both sides may open streams. A stream carries whole messages (payloads up to [`Limits::message_bytes_max`],
//! cut into frames by this module), in order, in both directions, each direction with its own credit.

use pintle_base::Time;
use std::fmt;

/// Number of a stream; odd ones were opened by the side that connected, even ones by the side that accepted.
pub type StreamId = u32;

/// Bounds, checked before anything is allocated.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest message (sum of its frames).
    pub message_bytes_max: usize,
    /// Streams that the peer may have open at once.
    pub streams_max: usize,
    /// Bytes that the peer may send on one stream before we have consumed any.
    pub window_bytes: u32,
    /// Bytes that may wait in `poll_output` before `send` refuses.
    pub output_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes_max: 16 << 20,
            streams_max: 4096,
            window_bytes: 1 << 20,
            output_bytes_max: 32 << 20,
        }
    }
}

/// Who the peer says it is in its hello. What it may do follows from the socket's credentials or the TLS
/// certificate, never from this.
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Hello {
    /// `kubelet`, `scheduler`, `cli`, ...
    pub daemon: String,
    /// Node that it runs on, empty when none.
    pub node: String,
    /// Version of its binary.
    pub version: String,
    /// What it can do beyond the base protocol.
    pub features: Vec<String>,
}

/// Why a stream was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ResetCode {
    /// The opener lost interest.
    Cancel = 1,
    /// The other side does not know this request.
    Unsupported = 2,
    /// A limit was exceeded.
    Limit = 3,
    /// Something broke inside.
    Internal = 4,
    /// The peer's credentials do not allow this.
    Forbidden = 5,
    /// The deadline passed.
    Deadline = 6,
}

/// What happened on the connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The handshake is done; requests may be opened.
    Connected(Hello),
    /// The peer opened a stream with this first message (an encoded `msg::Open`).
    Opened(StreamId, Vec<u8>),
    /// A whole message arrived. Call `consumed` when it has been dealt with.
    Message(StreamId, Vec<u8>),
    /// The peer sends no more on this stream.
    Finished(StreamId),
    /// The peer cut the stream; nothing more comes and nothing more can be sent.
    Reset(StreamId, ResetCode),
    /// A stream on which `send` was refused takes messages again.
    Writable(StreamId),
    /// The peer will go away: open no more streams.
    GoAway,
}

/// What is wrong with the peer's bytes; the connection is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The text names frame, field, value and limit.
    Protocol(String),
    /// No common protocol version.
    Version {
        /// Range of the peer.
        peer: (u16, u16),
        /// Our range.
        ours: (u16, u16),
    },
    /// The peer was silent for too long.
    Timeout,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Protocol(what) => write!(f, "wire protocol violated: {what}"),
            Error::Version { peer, ours } => write!(
                f,
                "no common wire version: peer speaks {}..={}, this binary {}..={}; upgrade the older of the two",
                peer.0, peer.1, ours.0, ours.1
            ),
            Error::Timeout => f.write_str("peer was silent for longer than the keep-alive limit"),
        }
    }
}

impl std::error::Error for Error {}

/// Why a message was not taken for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// No credit or the output is full: wait for `Event::Writable`.
    Blocked,
    /// The stream is finished, reset or unknown.
    Closed,
    /// Larger than the message limit.
    TooLarge,
}

/// One connection, sans-IO.
pub struct Conn {
    _private: (),
}

impl Conn {
    /// The side that connects.
    pub fn connect(hello: Hello, limits: Limits, now: Time) -> Conn {
        let _ = (hello, limits, now);
        Conn { _private: () }
    }

    /// The side that accepts.
    pub fn accept(hello: Hello, limits: Limits, now: Time) -> Conn {
        let _ = (hello, limits, now);
        Conn { _private: () }
    }

    /// Takes bytes from the peer, all of them.
    pub fn handle_input(&mut self, bytes: &[u8], now: Time) -> Result<(), Error> {
        let _ = (bytes, now);
        Ok(())
    }

    /// Time passed: keep-alive pings are queued, a silent peer is an error.
    pub fn handle_timeout(&mut self, now: Time) -> Result<(), Error> {
        let _ = now;
        Ok(())
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Bytes for the peer that have not been written yet (contiguous; call again after `written`).
    pub fn poll_output(&mut self) -> &[u8] {
        &[]
    }

    /// The first `n` bytes of `poll_output` were written.
    pub fn written(&mut self, n: usize) {
        let _ = n;
    }

    /// Opens a stream with its first message.
    pub fn open(&mut self, first: &[u8]) -> Result<StreamId, SendError> {
        let _ = first;
        Err(SendError::Closed)
    }

    /// Sends one message made of `head` followed by `body` (an envelope and a shared object body).
    pub fn send(&mut self, stream: StreamId, head: &[u8], body: &[u8]) -> Result<(), SendError> {
        let _ = (stream, head, body);
        Err(SendError::Closed)
    }

    /// Says that no more will be sent on the stream.
    pub fn finish(&mut self, stream: StreamId) {
        let _ = stream;
    }

    /// Cuts the stream in both directions.
    pub fn reset(&mut self, stream: StreamId, code: ResetCode) {
        let _ = (stream, code);
    }

    /// A message of `bytes` bytes was dealt with: gives the peer credit for as many.
    pub fn consumed(&mut self, stream: StreamId, bytes: usize) {
        let _ = (stream, bytes);
    }

    /// Announces that this side goes away.
    pub fn go_away(&mut self) {}
}
