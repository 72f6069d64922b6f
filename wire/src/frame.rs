//! The fixed header of a frame: bytes to fields and back, with every rule that needs no state.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | payload length, little-endian |
//! | 4 | 1 | kind |
//! | 5 | 1 | flags |
//! | 6 | 2 | zero |
//! | 8 | 4 | stream id, little-endian; 0 for the connection |

use crate::conn::{Error, StreamId};
use crate::limits::{FRAME_PAYLOAD_BYTES_MAX, HELLO_BYTES_MAX};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 12;

/// The first eight bytes of the payload of a hello and a welcome.
pub const MAGIC: [u8; 8] = *b"PINTLE\r\n";

/// Flag of `Open` and `Data`: the message goes on in the stream's next `Data` frame.
pub const FLAG_MORE: u8 = 1;

/// Flag of `Open` and `Data`: this ends the sender's last message on the stream.
pub const FLAG_FIN: u8 = 2;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// First frame of the side that connected.
    Hello = 1,
    /// First frame of the side that accepted.
    Welcome = 2,
    /// Opens a stream and begins its first message.
    Open = 3,
    /// Begins or continues a message.
    Data = 4,
    /// The sender sends no more on the stream.
    Finish = 5,
    /// Cuts a stream.
    Reset = 6,
    /// Allows more bytes on a stream.
    Credit = 7,
    /// Are you there?
    Ping = 8,
    /// Yes.
    Pong = 9,
    /// Open no more streams.
    GoAway = 10,
}

impl Kind {
    fn parse(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Hello,
            2 => Kind::Welcome,
            3 => Kind::Open,
            4 => Kind::Data,
            5 => Kind::Finish,
            6 => Kind::Reset,
            7 => Kind::Credit,
            8 => Kind::Ping,
            9 => Kind::Pong,
            10 => Kind::GoAway,
            _ => return None,
        })
    }

    /// Lengths that a payload of this kind may have, and whether it belongs to a stream.
    fn rule(self) -> (std::ops::RangeInclusive<usize>, bool) {
        match self {
            Kind::Hello | Kind::Welcome => (24..=HELLO_BYTES_MAX, false),
            Kind::Open | Kind::Data => (1..=FRAME_PAYLOAD_BYTES_MAX, true),
            Kind::Finish => (0..=0, true),
            Kind::Reset | Kind::Credit => (4..=4, true),
            Kind::Ping | Kind::Pong => (8..=8, false),
            Kind::GoAway => (0..=0, false),
        }
    }
}

/// A checked header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes that follow.
    pub len: usize,
    /// What they are.
    pub kind: Kind,
    /// `FLAG_*`.
    pub flags: u8,
    /// Where they belong.
    pub stream: StreamId,
}

impl Header {
    /// Reads a header and checks all that can be checked without knowing the connection.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Header, Error> {
        let [l0, l1, l2, l3, kind, flags, z0, z1, s0, s1, s2, s3] = *bytes;
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let stream = u32::from_le_bytes([s0, s1, s2, s3]);
        let kind = Kind::parse(kind)
            .ok_or_else(|| Error::Protocol(format!("unknown frame kind {kind}")))?;
        let (lens, on_stream) = kind.rule();
        if !lens.contains(&len) {
            return Err(Error::Protocol(format!(
                "{kind:?} frame has {len} bytes, allowed are {} to {}",
                lens.start(),
                lens.end()
            )));
        }
        if on_stream != (stream != 0) {
            return Err(Error::Protocol(format!("{kind:?} frame on stream {stream}")));
        }
        let allowed =
            if matches!(kind, Kind::Open | Kind::Data) { FLAG_MORE | FLAG_FIN } else { 0 };
        if flags & !allowed != 0 || flags == FLAG_MORE | FLAG_FIN || z0 != 0 || z1 != 0 {
            return Err(Error::Protocol(format!(
                "{kind:?} frame has flags {flags:#04x} and reserved bytes {z0:#04x} {z1:#04x}"
            )));
        }
        Ok(Header { len, kind, flags, stream })
    }

    /// The bytes of this header.
    pub fn bytes(self) -> [u8; HEADER_BYTES] {
        let [l0, l1, l2, l3] = (self.len as u32).to_le_bytes();
        let [s0, s1, s2, s3] = self.stream.to_le_bytes();
        [l0, l1, l2, l3, self.kind as u8, self.flags, 0, 0, s0, s1, s2, s3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(len: u32, kind: u8, flags: u8, stream: u32) -> Result<Header, Error> {
        let mut b = [0; HEADER_BYTES];
        b[..4].copy_from_slice(&len.to_le_bytes());
        b[4] = kind;
        b[5] = flags;
        b[8..].copy_from_slice(&stream.to_le_bytes());
        Header::parse(&b)
    }

    #[test]
    fn headers_round_trip_and_rules_hold() {
        let h = Header { len: 7, kind: Kind::Data, flags: FLAG_MORE, stream: 9 };
        assert_eq!(Header::parse(&h.bytes()), Ok(h));
        for (len, kind, flags, stream) in [
            (0, 0, 0, 0),
            (0, 11, 0, 0),
            (u32::MAX, 4, 0, 1),
            (65_537, 4, 0, 1),
            (0, 4, 0, 1),
            (1, 4, 0, 0),
            (1, 4, 3, 1),
            (1, 4, 4, 1),
            (0, 5, 1, 1),
            (8, 8, 0, 1),
            (4097, 1, 0, 0),
            (5, 7, 0, 1),
        ] {
            assert!(check(len, kind, flags, stream).is_err(), "{len} {kind} {flags} {stream}");
        }
        assert!(check(65_536, 3, 2, 1).is_ok());
    }
}
