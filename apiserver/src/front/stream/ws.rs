//! WebSocket, the server's side (RFC 6455), without sockets: the handshake's answer, frames in, frames out.
//!
//! No extensions are offered. A client's frames must be masked; fragments are put together up to a limit; what
//! breaks the protocol gives the close code to send.

use crate::front::http;
use crate::front::limits::WS_MESSAGE_BYTES_MAX;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A whole text or binary message.
    Data(Vec<u8>),
    /// To be answered by [`pong`] with the same bytes.
    Ping(Vec<u8>),
    /// The client closes (code, or 1005 when it gave none); to be answered by [`close`].
    Close(u16),
}

/// The client broke the protocol: send this close code and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// RFC 6455 7.4.1.
    pub code: u16,
    /// What it did.
    pub why: &'static str,
}

const fn violation(why: &'static str) -> Violation {
    Violation { code: 1002, why }
}

const OP_CONTINUE: u8 = 0;
const OP_TEXT: u8 = 1;
const OP_BINARY: u8 = 2;
const OP_CLOSE: u8 = 8;
const OP_PING: u8 = 9;
const OP_PONG: u8 = 10;

/// The bytes of one client, on their way to messages.
#[derive(Debug, Default)]
pub struct Reader {
    input: Vec<u8>,
    /// Bytes of `input` that were read.
    at: usize,
    /// Fragments of a message that has not ended.
    message: Option<Vec<u8>>,
}

impl Reader {
    /// Takes bytes; `next` gives what they hold.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.input.drain(..self.at);
            self.at = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The next message that is whole.
    ///
    /// # Errors
    /// The client broke the protocol; nothing more can be read.
    pub fn next_message(&mut self) -> Result<Option<Message>, Violation> {
        loop {
            let Some((fin, op, payload)) = self.next_frame()? else { return Ok(None) };
            match op {
                OP_PING => return Ok(Some(Message::Ping(payload))),
                OP_PONG => {}
                OP_CLOSE => {
                    let code = match payload.as_slice() {
                        [] => 1005,
                        [high, low, ..] => u16::from_be_bytes([*high, *low]),
                        [_] => return Err(violation("close frame of one byte")),
                    };
                    return Ok(Some(Message::Close(code)));
                }
                OP_TEXT | OP_BINARY if self.message.is_none() => {
                    if fin {
                        return Ok(Some(Message::Data(payload)));
                    }
                    self.message = Some(payload);
                }
                OP_CONTINUE => {
                    let Some(mut message) = self.message.take() else {
                        return Err(violation("continuation of nothing"));
                    };
                    if message.len() + payload.len() > WS_MESSAGE_BYTES_MAX {
                        return Err(Violation { code: 1009, why: "message too large" });
                    }
                    message.extend_from_slice(&payload);
                    if fin {
                        return Ok(Some(Message::Data(message)));
                    }
                    self.message = Some(message);
                }
                OP_TEXT | OP_BINARY => return Err(violation("message within a message")),
                _ => return Err(violation("unknown opcode")),
            }
        }
    }

    // One frame: final, opcode, unmasked payload.
    fn next_frame(&mut self) -> Result<Option<(bool, u8, Vec<u8>)>, Violation> {
        let bytes = &self.input[self.at..];
        let (Some(first), Some(second)) = (bytes.first(), bytes.get(1)) else { return Ok(None) };
        let (fin, op) = (first & 0x80 != 0, first & 0x0f);
        if first & 0x70 != 0 {
            return Err(violation("reserved bits set"));
        }
        if second & 0x80 == 0 {
            return Err(violation("frame of a client not masked"));
        }
        let (len, header) = match second & 0x7f {
            126 => match bytes.get(2..4) {
                Some(b) => (u64::from(u16::from_be_bytes([b[0], b[1]])), 4),
                None => return Ok(None),
            },
            127 => match bytes.get(2..10).and_then(|b| <[u8; 8]>::try_from(b).ok()) {
                Some(b) => (u64::from_be_bytes(b), 10),
                None => return Ok(None),
            },
            n => (u64::from(n), 2),
        };
        if op >= 8 && (len > 125 || !fin) {
            return Err(violation("control frame too long or in pieces"));
        }
        // Before anything of this length is kept.
        if len > WS_MESSAGE_BYTES_MAX as u64 {
            return Err(Violation { code: 1009, why: "message too large" });
        }
        let end = header + 4 + len as usize;
        let Some(frame) = bytes.get(..end) else { return Ok(None) };
        let mask = [frame[header], frame[header + 1], frame[header + 2], frame[header + 3]];
        let payload: Vec<u8> =
            frame[header + 4..].iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect();
        self.at += end;
        Ok(Some((fin, op, payload)))
    }
}

fn frame(op: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    out.push(0x80 | op);
    match len {
        0..=125 => out.push(len as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends a binary message made of the parts.
pub fn binary(parts: &[&[u8]], out: &mut Vec<u8>) {
    frame(OP_BINARY, parts, out);
}

/// Appends a text message made of the parts.
pub fn text(parts: &[&[u8]], out: &mut Vec<u8>) {
    frame(OP_TEXT, parts, out);
}

/// Appends the answer to a ping.
pub fn pong(bytes: &[u8], out: &mut Vec<u8>) {
    frame(OP_PONG, &[bytes], out);
}

/// Appends a close frame.
pub fn close(code: u16, out: &mut Vec<u8>) {
    frame(OP_CLOSE, &[&code.to_be_bytes()], out);
}

/// A client's wish to speak WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Value for `Sec-WebSocket-Accept`.
    pub accept: String,
    /// Protocols offered, the best first.
    pub protocols: Vec<String>,
}

impl Handshake {
    /// Whether the request asks for an upgrade to WebSocket at all.
    pub fn wanted(request: &http::Request) -> bool {
        request.has_token("connection", "upgrade") && request.has_token("upgrade", "websocket")
    }

    /// Reads the request.
    ///
    /// # Errors
    /// What is wrong with it, for a 400.
    pub fn read(request: &http::Request) -> Result<Handshake, &'static str> {
        if request.method != "GET" {
            return Err("websocket: the method is not GET");
        }
        if request.header("sec-websocket-version") != Some("13") {
            return Err("websocket: version 13 is needed");
        }
        let key = request.header("sec-websocket-key").unwrap_or_default();
        if !STANDARD.decode(key).is_ok_and(|k| k.len() == 16) {
            return Err("websocket: Sec-WebSocket-Key is not 16 bytes in base64");
        }
        let protocols = request
            .all("sec-websocket-protocol")
            .flat_map(|v| v.split(','))
            .map(|p| p.trim().to_string())
            .filter(|p| !p.is_empty())
            .collect();
        Ok(Handshake { accept: accept(key), protocols })
    }
}

fn accept(key: &str) -> String {
    const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest = ring::digest::digest(
        &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}{GUID}").as_bytes(),
    );
    STANDARD.encode(digest.as_ref())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pintle_base::Prng;

    /// A frame as a client sends it.
    pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            n @ 0..=125 => out.push(0x80 | n as u8),
            n @ 126..=0xffff => {
                out.push(0xfe);
                out.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                out.push(0xff);
                out.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        let mask = [1u8, 2, 3, 4];
        out.extend_from_slice(&mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        out
    }

    fn read(bytes: &[u8], step: usize) -> Vec<Result<Message, Violation>> {
        let mut reader = Reader::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(step) {
            reader.push(piece);
            loop {
                match reader.next_message() {
                    Ok(Some(m)) => out.push(Ok(m)),
                    Ok(None) => break,
                    Err(v) => {
                        out.push(Err(v));
                        return out;
                    }
                }
            }
        }
        out
    }

    #[test]
    fn the_key_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn fragments_and_pings_between_them() {
        let big = vec![7u8; 70_000];
        let bytes = [
            masked(0x02, b"ab"),
            masked(0x89, b"ping"),
            masked(0x00, b"cd"),
            masked(0x80, b"ef"),
            masked(0x82, &big),
            masked(0x81, &[b'x'; 200]),
            masked(0x88, &1000u16.to_be_bytes()),
        ]
        .concat();
        let want = vec![
            Ok(Message::Ping(b"ping".to_vec())),
            Ok(Message::Data(b"abcdef".to_vec())),
            Ok(Message::Data(big)),
            Ok(Message::Data(vec![b'x'; 200])),
            Ok(Message::Close(1000)),
        ];
        for step in [1, 2, 3, 7, 1000, bytes.len()] {
            assert!(read(&bytes, step) == want, "in pieces of {step}");
        }
    }

    #[test]
    fn violations_have_codes() {
        let unmasked = [0x82, 0x01, b'x'];
        for (bytes, code) in [
            (unmasked.to_vec(), 1002),
            (masked(0xc2, b"x"), 1002),
            (masked(0x80, b"x"), 1002),
            (masked(0x83, b"x"), 1002),
            (masked(0x09, b"x"), 1002),
            (masked(0x88, b"x"), 1002),
            (vec![0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0], 1009),
        ] {
            let got = read(&bytes, bytes.len());
            assert!(matches!(got.as_slice(), [Err(v)] if v.code == code), "{bytes:?} -> {got:?}");
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        for seed in 0..2_000u64 {
            let mut prng = Prng::new(seed);
            let mut bytes = masked(0x82, &[1; 40]).repeat(3);
            for _ in 0..prng.below(5) {
                let at = prng.below(bytes.len() as u64) as usize;
                bytes[at] = prng.next_u64() as u8;
            }
            let step = 1 + prng.below(20) as usize;
            assert_eq!(read(&bytes, step), read(&bytes, bytes.len()), "seed {seed}");
        }
    }

    #[test]
    fn servers_frames_are_not_masked() {
        let mut out = Vec::new();
        binary(&[b"\x01", b"hi"], &mut out);
        close(1000, &mut out);
        assert_eq!(out, [0x82, 3, 1, b'h', b'i', 0x88, 2, 0x03, 0xe8]);
    }
}
