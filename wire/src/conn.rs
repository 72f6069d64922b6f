//! The state machine of one connection. See PROTOCOL.md for the bytes.
//!
//! Both sides may open streams. A stream carries whole messages (payloads up to [`Limits::message_bytes_max`],
//! cut into frames by this module), in order, in both directions, each direction with its own credit.
//!
//! This file has the types, the handshake and time; `recv` has what the peer's frames do, `send` what the
//! application's calls do. State is checked by `check_invariants` after every verb in tests.

use crate::frame::{HEADER_BYTES, Header, Kind, MAGIC};
use crate::limits::{
    CONTROL_BYTES_MAX, DEAD_AFTER, HANDSHAKE_TIMEOUT, HELLO_BYTES_MAX, PING_AFTER, VERSION_MAX,
    VERSION_MIN, WINDOW_BYTES_MIN,
};
use crate::stream::{Blocked, Stream};
use pintle_base::{Outbuf, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// Bytes that may wait in `poll_output` before `send` refuses. As many again may wait for credit.
    pub output_bytes_max: usize,
    /// Bytes of the peer's messages, unfinished or not yet `consumed`, over all streams; the stream that goes
    /// over it is reset.
    pub input_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes_max: 16 << 20,
            streams_max: 4096,
            window_bytes: 1 << 20,
            output_bytes_max: 32 << 20,
            input_bytes_max: 64 << 20,
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

impl ResetCode {
    /// From the number in a reset frame; one that this version does not know counts as `Internal`.
    pub fn from_u32(code: u32) -> ResetCode {
        match code {
            1 => ResetCode::Cancel,
            2 => ResetCode::Unsupported,
            3 => ResetCode::Limit,
            5 => ResetCode::Forbidden,
            6 => ResetCode::Deadline,
            _ => ResetCode::Internal,
        }
    }
}

/// What happened on the connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The handshake is done; requests may be opened.
    Connected(Hello),
    /// The peer opened a stream with this first message (an encoded `msg::Open`).
    Opened(StreamId, Vec<u8>),
    /// A whole message arrived. Call `consumed` when it has been dealt with. (Not for the first message, that
    /// of `Opened`: it costs no credit.)
    Message(StreamId, Vec<u8>),
    /// The peer sends no more on this stream.
    Finished(StreamId),
    /// The peer cut the stream; nothing more comes and nothing more can be sent.
    Reset(StreamId, ResetCode),
    /// A stream on which `send` was refused takes messages again. Stream 0: `open` was refused and is worth
    /// trying again.
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
    /// Larger than the message limit of either side, or empty.
    TooLarge,
}

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Connector,
    Acceptor,
}

impl Side {
    /// Low bit of the numbers of the streams that this side opens.
    pub(crate) fn parity(self) -> u32 {
        match self {
            Side::Connector => 1,
            Side::Acceptor => 0,
        }
    }
}

/// What the peer's hello allows us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerLimits {
    pub(crate) window_bytes: u32,
    pub(crate) message_bytes_max: u32,
    pub(crate) streams_max: u32,
}

/// A frame that is arriving.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) header: [u8; HEADER_BYTES],
    pub(crate) header_len: usize,
    /// The checked header and how many bytes of the payload are still to come.
    pub(crate) frame: Option<(Header, usize)>,
    /// The stream of the data frame under way takes it; else its bytes are dropped.
    pub(crate) wanted: bool,
    /// Payload of a frame that is not data; never more than `HELLO_BYTES_MAX`.
    pub(crate) control: Vec<u8>,
}

/// One connection, sans-IO.
pub struct Conn {
    pub(crate) side: Side,
    pub(crate) limits: Limits,
    hello: Hello,
    /// Set by the peer's hello.
    pub(crate) peer: Option<PeerLimits>,
    version: u16,
    dead: Option<Error>,
    pub(crate) reader: Reader,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    /// Number of our next stream; 0 when they are used up.
    pub(crate) next_id: StreamId,
    /// Highest number that the peer has opened.
    pub(crate) peer_highest: StreamId,
    pub(crate) ours_open: usize,
    pub(crate) theirs_open: usize,
    pub(crate) events: VecDeque<Event>,
    pub(crate) out: Outbuf,
    /// Streams with a pending message and credit, in turn.
    pub(crate) round: VecDeque<StreamId>,
    /// Streams whose `send` was refused because the output was full.
    pub(crate) blocked_output: BTreeSet<StreamId>,
    /// `open` was refused for a reason that passes.
    pub(crate) open_blocked: bool,
    /// Streams with an arriving message larger than the window; only the first gets credit beyond it.
    pub(crate) lane: VecDeque<StreamId>,
    /// Bytes that streams hold of what was received.
    pub(crate) input_bytes: usize,
    /// Those of them that the application holds.
    pub(crate) unconsumed_bytes: usize,
    /// Bytes of messages that were taken by `send` and not yet cut into frames.
    pub(crate) pending_bytes: usize,
    pub(crate) going_away: bool,
    pub(crate) peer_going_away: bool,
    last_heard: Time,
    last_ping: Time,
}

impl Conn {
    /// The side that connects.
    pub fn connect(hello: Hello, limits: Limits, now: Time) -> Conn {
        let mut conn = Conn::new(Side::Connector, hello, limits, now);
        conn.say_hello(Kind::Hello);
        conn
    }

    /// The side that accepts.
    pub fn accept(hello: Hello, limits: Limits, now: Time) -> Conn {
        Conn::new(Side::Acceptor, hello, limits, now)
    }

    fn new(side: Side, hello: Hello, mut limits: Limits, now: Time) -> Conn {
        limits.window_bytes = limits.window_bytes.max(WINDOW_BYTES_MIN);
        Conn {
            side,
            limits,
            hello,
            peer: None,
            version: 0,
            dead: None,
            reader: Reader::default(),
            streams: BTreeMap::new(),
            next_id: 2 - side.parity(),
            peer_highest: 0,
            ours_open: 0,
            theirs_open: 0,
            events: VecDeque::new(),
            out: Outbuf::default(),
            round: VecDeque::new(),
            blocked_output: BTreeSet::new(),
            open_blocked: false,
            lane: VecDeque::new(),
            input_bytes: 0,
            unconsumed_bytes: 0,
            pending_bytes: 0,
            going_away: false,
            peer_going_away: false,
            last_heard: now,
            last_ping: now,
        }
    }

    /// Takes bytes from the peer, all of them. After an error the connection is dead: write what
    /// `poll_output` still has if that is possible without waiting (it may tell the peer why), then close.
    pub fn handle_input(&mut self, bytes: &[u8], now: Time) -> Result<(), Error> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        if self.peer.is_some() {
            // Before that, time runs for the handshake as a whole: dripping bytes buy nothing.
            self.last_heard = now;
        }
        let result = self.receive(bytes);
        let result = result.and_then(|()| self.check_answers());
        if let Err(error) = &result {
            self.dead = Some(error.clone());
        }
        self.verify();
        result
    }

    /// A peer that makes us answer and does not read the answers is broken or hostile.
    fn check_answers(&self) -> Result<(), Error> {
        let max = self.limits.output_bytes_max.saturating_add(CONTROL_BYTES_MAX);
        let waiting = self.out.len();
        if waiting > max {
            return Err(Error::Protocol(format!(
                "{waiting} bytes wait for a peer that does not read, limit {max}"
            )));
        }
        Ok(())
    }

    /// Time passed: keep-alive pings are queued, a silent peer is an error.
    pub fn handle_timeout(&mut self, now: Time) -> Result<(), Error> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        let error = if self.next_id == 0 {
            Some(Error::Protocol("stream numbers are used up: connect again".into()))
        } else if self.peer.is_none() {
            (now >= self.last_heard + HANDSHAKE_TIMEOUT).then_some(Error::Timeout)
        } else if now >= self.last_heard + DEAD_AFTER {
            Some(Error::Timeout)
        } else {
            if now >= self.ping_at() {
                self.last_ping = now;
                self.frame(Kind::Ping, 0, &now.0.to_le_bytes());
            }
            None
        };
        self.verify();
        match error {
            Some(error) => {
                self.dead = Some(error.clone());
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.dead.is_some() {
            return None;
        }
        Some(if self.next_id == 0 {
            Time(0)
        } else if self.peer.is_none() {
            self.last_heard + HANDSHAKE_TIMEOUT
        } else {
            self.ping_at().min(self.last_heard + DEAD_AFTER)
        })
    }

    fn ping_at(&self) -> Time {
        self.last_heard.max(self.last_ping) + PING_AFTER
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The protocol version agreed on; 0 before the handshake is done.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// The handshake is done and no error has happened.
    pub fn is_open(&self) -> bool {
        self.peer.is_some() && self.dead.is_none()
    }

    /// Streams that are open now, ours and the peer's.
    pub fn streams_open(&self) -> usize {
        self.streams.len()
    }

    fn say_hello(&mut self, kind: Kind) {
        let mut payload = Vec::with_capacity(64);
        payload.extend_from_slice(&MAGIC);
        payload.extend_from_slice(&VERSION_MIN.to_le_bytes());
        payload.extend_from_slice(&VERSION_MAX.to_le_bytes());
        payload.extend_from_slice(&self.limits.window_bytes.to_le_bytes());
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        payload.extend_from_slice(&clamp(self.limits.message_bytes_max));
        payload.extend_from_slice(&clamp(self.limits.streams_max));
        let fixed = payload.len();
        payload.extend_from_slice(&crate::msg::encode(&self.hello));
        if payload.len() > HELLO_BYTES_MAX {
            // Our own identity is too long to say: the peer is better served by none than by a broken frame.
            payload.truncate(fixed);
            payload.extend_from_slice(&crate::msg::encode(&Hello::default()));
        }
        self.frame(kind, 0, &payload);
    }

    /// The peer's hello or welcome: bounds first, then who it is.
    pub(crate) fn handle_hello(&mut self, payload: &[u8]) -> Result<(), Error> {
        let (Some(magic), Some(fixed), Some(identity)) =
            (payload.get(..8), payload.get(8..24), payload.get(24..))
        else {
            return Err(Error::Protocol(format!("hello of {} bytes is too short", payload.len())));
        };
        if magic != MAGIC {
            return Err(Error::Protocol(format!("magic is {magic:02x?}, expected {MAGIC:02x?}")));
        }
        let u16_at = |i: usize| u16::from_le_bytes([fixed[i], fixed[i + 1]]);
        let u32_at =
            |i: usize| u32::from_le_bytes([fixed[i], fixed[i + 1], fixed[i + 2], fixed[i + 3]]);
        // The acceptor answers even when there is no common version, so that the connector can say why.
        if self.side == Side::Acceptor {
            self.say_hello(Kind::Welcome);
        }
        let peer = (u16_at(0), u16_at(2));
        let version = peer.1.min(VERSION_MAX);
        if version < peer.0 || version < VERSION_MIN || peer.0 > peer.1 {
            return Err(Error::Version { peer, ours: (VERSION_MIN, VERSION_MAX) });
        }
        let limits = PeerLimits {
            window_bytes: u32_at(4),
            message_bytes_max: u32_at(8),
            streams_max: u32_at(12),
        };
        if limits.window_bytes < WINDOW_BYTES_MIN {
            return Err(Error::Protocol(format!(
                "hello offers a window of {} bytes, least is {WINDOW_BYTES_MIN}",
                limits.window_bytes
            )));
        }
        let hello = crate::msg::decode::<Hello>(identity)
            .map_err(|e| Error::Protocol(format!("identity in hello: {e}")))?;
        self.version = version;
        self.peer = Some(limits);
        self.events.push_back(Event::Connected(hello));
        if self.open_blocked {
            self.open_blocked = false;
            self.events.push_back(Event::Writable(0));
        }
        Ok(())
    }

    /// Appends a control frame to the output.
    pub(crate) fn frame(&mut self, kind: Kind, stream: StreamId, payload: &[u8]) {
        let header = Header { len: payload.len(), kind, flags: 0, stream };
        self.out.push(&header.bytes());
        self.out.push(payload);
    }

    /// The stream was opened by this side.
    pub(crate) fn is_ours(&self, id: StreamId) -> bool {
        id & 1 == self.side.parity()
    }

    /// Forgets a stream and all that is accounted to it.
    pub(crate) fn remove(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.input_bytes -= stream.held();
        self.unconsumed_bytes -= stream.unconsumed;
        self.pending_bytes -= stream.pending.as_ref().map_or(0, |p| p.left());
        if self.is_ours(id) {
            self.ours_open -= 1;
            if self.open_blocked {
                self.open_blocked = false;
                self.events.push_back(Event::Writable(0));
            }
        } else {
            self.theirs_open -= 1;
        }
        if stream.in_round {
            self.round.retain(|s| *s != id);
        }
        self.blocked_output.remove(&id);
        if stream.in_lane {
            self.leave_lane(id);
        }
        if stream.unconsumed > 0 {
            self.serve_lane();
        }
    }

    /// Both sides are done with the stream: forget it.
    pub(crate) fn close_if_done(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(|s| s.fin_sent && s.remote_done) {
            self.remove(id);
        }
    }

    pub(crate) fn verify(&self) {
        if cfg!(any(test, feature = "check")) {
            self.check_invariants();
        }
    }

    fn check_invariants(&self) {
        self.out.check_invariants();
        let held: usize = self.streams.values().map(Stream::held).sum();
        assert_eq!(held, self.input_bytes);
        let unconsumed: usize = self.streams.values().map(|s| s.unconsumed).sum();
        assert_eq!(unconsumed, self.unconsumed_bytes);
        let pending: usize =
            self.streams.values().filter_map(|s| s.pending.as_ref()).map(|p| p.left()).sum();
        assert_eq!(pending, self.pending_bytes);
        let ours = self.streams.keys().filter(|id| self.is_ours(**id)).count();
        assert_eq!((ours, self.streams.len() - ours), (self.ours_open, self.theirs_open));
        assert!(self.theirs_open <= self.limits.streams_max);
        for (id, s) in &self.streams {
            assert!(!(s.fin_sent && s.remote_done), "stream {id} is done and not removed");
            assert!(!s.fin_sent || (s.fin && s.pending.is_none()));
            assert_eq!(s.in_round, self.round.contains(id));
            assert_eq!(s.in_lane, self.lane.contains(id));
            assert_eq!(s.blocked == Blocked::Output, self.blocked_output.contains(id));
            assert!(s.in_round == (s.pending.is_some() && s.credit > 0), "round of stream {id}");
            assert!(s.partial.len() <= self.limits.message_bytes_max);
            let arriving = self.reader.frame.is_some_and(|(h, _)| h.stream == *id);
            if !s.in_lane && !arriving && self.dead.is_none() {
                assert!(!s.starved(), "stream {id} waits for ever");
            }
        }
        assert!(self.round.iter().all(|id| self.streams.contains_key(id)));
        assert!(self.lane.iter().all(|id| self.streams.contains_key(id)));
        assert!(self.blocked_output.iter().all(|id| self.streams.contains_key(id)));
        assert!(self.reader.control.len() <= HELLO_BYTES_MAX);
    }
}
