//! SPDY/3.1 frames, without sockets: what kubectl's port-forward speaks, and exec of old clients.
//!
//! Bytes go in by `push`, frames come out of `next_frame`; the writers append to a buffer. Flow control of
//! SPDY is left out: the clients' library (spdystream) has none, the connection below it does.
//!
//! Layout, all numbers big-endian: a control frame is `0x8003`, type u16, flags u8, length u24, payload; a data
//! frame is stream id u31, flags u8, length u24, payload. Header blocks are one zlib stream a direction, with
//! a dictionary, flushed after each block: count u32, then for each name and value a u32 length and the bytes.
//!
//! Reference: draft-mbelshe-httpbis-spdy-00, SPDY Protocol - Draft 3.1.

use crate::front::limits::{SPDY_FRAME_BYTES_MAX, SPDY_HEADER_BYTES_MAX};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// Number of a stream; odd ones were opened by the client.
pub type StreamId = u32;

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A new stream with its headers.
    SynStream {
        /// The stream.
        id: StreamId,
        /// The client sends nothing on it.
        fin: bool,
        /// Names are in lower case.
        headers: Vec<(String, String)>,
    },
    /// Bytes of a stream.
    Data {
        /// The stream.
        id: StreamId,
        /// The last ones.
        fin: bool,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The stream is cut.
    Reset {
        /// The stream.
        id: StreamId,
        /// Why (1 protocol error, 5 cancel, ...).
        status: u32,
    },
    /// To be answered by the same.
    Ping(u32),
    /// The client opens no more streams.
    GoAway,
}

/// What is wrong with the client's bytes; the connection is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FLAG_FIN: u8 = 1;

/// Both directions of one connection.
pub struct Codec {
    input: Vec<u8>,
    at: usize,
    inflate: Decompress,
    deflate: Compress,
    /// The dictionary was given to `deflate`.
    primed: bool,
}

impl Default for Codec {
    fn default() -> Codec {
        Codec {
            input: Vec::new(),
            at: 0,
            inflate: Decompress::new(true),
            deflate: Compress::new(Compression::fast(), true),
            primed: false,
        }
    }
}

impl Codec {
    /// Takes bytes; `next_frame` gives what they hold.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.input.drain(..self.at);
            self.at = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The next whole frame that means something here.
    ///
    /// # Errors
    /// The bytes are no SPDY/3.1 or exceed a limit.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Broken> {
        loop {
            let bytes = &self.input[self.at..];
            let Some(head) = bytes.get(..8) else { return Ok(None) };
            let len = u24(&head[5..8]);
            if len > SPDY_FRAME_BYTES_MAX {
                return Err(Broken("frame too large"));
            }
            let Some(payload) = bytes.get(8..8 + len) else { return Ok(None) };
            let (word, flags) = (u32_at(head, 0), head[4]);
            self.at += 8 + len;
            if word & 0x8000_0000 == 0 {
                let fin = flags & FLAG_FIN != 0;
                return Ok(Some(Frame::Data { id: word, fin, bytes: payload.to_vec() }));
            }
            if word >> 16 != 0x8003 {
                return Err(Broken("version is not 3"));
            }
            let payload = payload.to_vec();
            if let Some(frame) = self.control(word as u16, flags, &payload)? {
                return Ok(Some(frame));
            }
        }
    }

    fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Option<Frame>, Broken> {
        let need = |n: usize| match payload.len() >= n {
            true => Ok(()),
            false => Err(Broken("control frame too short")),
        };
        Ok(match kind {
            SYN_STREAM => {
                need(10)?;
                let headers = self.headers(&payload[10..])?;
                let id = u32_at(payload, 0) & 0x7fff_ffff;
                Some(Frame::SynStream { id, fin: flags & FLAG_FIN != 0, headers })
            }
            // What they say is of no use here, but they belong to the compressed stream.
            SYN_REPLY | HEADERS => {
                need(4)?;
                self.headers(&payload[4..])?;
                None
            }
            RST_STREAM => {
                need(8)?;
                let id = u32_at(payload, 0) & 0x7fff_ffff;
                Some(Frame::Reset { id, status: u32_at(payload, 4) })
            }
            PING => {
                need(4)?;
                Some(Frame::Ping(u32_at(payload, 0)))
            }
            GOAWAY => Some(Frame::GoAway),
            // SETTINGS, WINDOW_UPDATE, and what a later draft may add.
            _ => None,
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, Broken> {
        let plain = self.inflate_block(block)?;
        let mut rest = plain.as_slice();
        let count = take_u32(&mut rest)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = take_text(&mut rest)?;
            let value = take_text(&mut rest)?;
            headers.push((name.to_ascii_lowercase(), value));
        }
        Ok(headers)
    }

    fn inflate_block(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Broken> {
        const BAD: Broken = Broken("header block cannot be inflated");
        let mut plain = Vec::with_capacity(1024);
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= SPDY_HEADER_BYTES_MAX {
                    return Err(Broken("headers too large"));
                }
                plain.reserve(plain.len());
            }
            let (before_in, before_out) = (self.inflate.total_in(), plain.len());
            let result = self.inflate.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let used = (self.inflate.total_in() - before_in) as usize;
            block = block.get(used..).ok_or(BAD)?;
            match result {
                Err(e) if e.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&dictionary()).map_err(|_| BAD)?;
                }
                Err(_) => return Err(BAD),
                Ok(_) if block.is_empty() && plain.len() < plain.capacity() => return Ok(plain),
                // Nothing moves though there is input and room: it is no zlib stream.
                Ok(_)
                    if used == 0 && plain.len() == before_out && plain.len() < plain.capacity() =>
                {
                    return Err(BAD);
                }
                Ok(_) => {}
            }
        }
    }

    fn deflate_block(&mut self, plain: &[u8]) -> Vec<u8> {
        if !self.primed {
            self.primed = true;
            // Fails only when it is not the first call.
            let _ = self.deflate.set_dictionary(&dictionary());
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let mut rest = plain;
        loop {
            let before = self.deflate.total_in();
            let result = self.deflate.compress_vec(rest, &mut out, FlushCompress::Sync);
            rest = &rest[(self.deflate.total_in() - before) as usize..];
            if result.is_err() || (rest.is_empty() && out.len() < out.capacity()) {
                return out;
            }
            out.reserve(256);
        }
    }

    /// Appends a SYN_REPLY without headers: the stream is accepted.
    pub fn reply(&mut self, id: StreamId, out: &mut Vec<u8>) {
        let block = self.deflate_block(&0u32.to_be_bytes());
        control(SYN_REPLY, 0, &[&id.to_be_bytes(), &block], out);
    }
}

fn control(kind: u16, flags: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    out.extend_from_slice(&[0x80, 0x03]);
    out.extend_from_slice(&kind.to_be_bytes());
    out.push(flags);
    out.extend_from_slice(&(len as u32).to_be_bytes()[1..]);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends bytes of a stream.
pub fn data(id: StreamId, bytes: &[u8], fin: bool, out: &mut Vec<u8>) {
    // Frames of a size that every client takes.
    const PIECE: usize = 64 << 10;
    let mut rest = bytes;
    loop {
        let (piece, tail) = rest.split_at(rest.len().min(PIECE));
        let last = tail.is_empty();
        out.extend_from_slice(&(id & 0x7fff_ffff).to_be_bytes());
        out.push(if fin && last { FLAG_FIN } else { 0 });
        out.extend_from_slice(&(piece.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(piece);
        if last {
            return;
        }
        rest = tail;
    }
}

/// Appends the cut of a stream.
pub fn reset(id: StreamId, status: u32, out: &mut Vec<u8>) {
    control(RST_STREAM, 0, &[&id.to_be_bytes(), &status.to_be_bytes()], out);
}

/// Appends the answer to a ping.
pub fn ping(id: u32, out: &mut Vec<u8>) {
    control(PING, 0, &[&id.to_be_bytes()], out);
}

/// Appends the announcement that no stream after `last` was taken.
pub fn go_away(last: StreamId, out: &mut Vec<u8>) {
    control(GOAWAY, 0, &[&last.to_be_bytes(), &0u32.to_be_bytes()], out);
}

fn u24(b: &[u8]) -> usize {
    usize::from(b[0]) << 16 | usize::from(b[1]) << 8 | usize::from(b[2])
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

const SHORT: Broken = Broken("header block too short");

fn take_u32(rest: &mut &[u8]) -> Result<u32, Broken> {
    let (head, tail) = rest.split_at_checked(4).ok_or(SHORT)?;
    *rest = tail;
    Ok(u32_at(head, 0))
}

fn take_text(rest: &mut &[u8]) -> Result<String, Broken> {
    let len = take_u32(rest)? as usize;
    let (head, tail) = rest.split_at_checked(len).ok_or(SHORT)?;
    *rest = tail;
    Ok(String::from_utf8_lossy(head).into_owned())
}

/// Words of the preset dictionary (2.6.10.1 of the draft), each behind its length as u32.
const WORDS: [&str; 56] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
];

const MORE_WORDS: [&str; 9] = [
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// What follows the words, bare.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.iter().chain(&MORE_WORDS) {
        out.extend_from_slice(&(word.len() as u32).to_be_bytes());
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(TAIL.as_bytes());
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pintle_base::Prng;

    /// The client's side, for tests: opens streams.
    #[derive(Default)]
    pub(crate) struct Client {
        codec: Codec,
    }

    impl Client {
        pub(crate) fn syn_stream(&mut self, id: StreamId, headers: &[(&str, &str)]) -> Vec<u8> {
            let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
            for (k, v) in headers {
                for text in [k, v] {
                    plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
                    plain.extend_from_slice(text.as_bytes());
                }
            }
            let block = self.codec.deflate_block(&plain);
            let mut out = Vec::new();
            control(SYN_STREAM, 0, &[&id.to_be_bytes(), &[0; 6], &block], &mut out);
            out
        }
    }

    fn read(bytes: &[u8], step: usize) -> (Vec<Frame>, Option<Broken>) {
        let mut codec = Codec::default();
        let mut frames = Vec::new();
        for piece in bytes.chunks(step) {
            codec.push(piece);
            loop {
                match codec.next_frame() {
                    Ok(Some(f)) => frames.push(f),
                    Ok(None) => break,
                    Err(e) => return (frames, Some(e)),
                }
            }
        }
        (frames, None)
    }

    #[test]
    fn the_dictionary_is_that_of_the_draft() {
        let d = dictionary();
        assert_eq!(d.len(), 1423);
        // Adler-32, as zlib names a dictionary.
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &d {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn streams_and_data_arrive_however_they_are_cut() {
        let mut client = Client::default();
        let mut bytes =
            client.syn_stream(1, &[("streamType", "error"), ("port", "80"), ("requestID", "0")]);
        bytes.extend(
            client.syn_stream(3, &[("streamType", "data"), ("port", "80"), ("requestID", "0")]),
        );
        assert_eq!(bytes[20..24], [0xe3, 0xc6, 0xa7, 0xc2], "names the dictionary");
        data(3, b"GET / HTTP/1.0\r\n\r\n", true, &mut bytes);
        ping(7, &mut bytes);
        reset(3, 5, &mut bytes);
        go_away(0, &mut bytes);
        let whole = read(&bytes, bytes.len());
        assert_eq!(whole.1, None);
        assert_eq!(
            whole.0[1],
            Frame::SynStream {
                id: 3,
                fin: false,
                headers: vec![
                    ("streamtype".into(), "data".into()),
                    ("port".into(), "80".into()),
                    ("requestid".into(), "0".into())
                ]
            }
        );
        assert_eq!(
            whole.0[2],
            Frame::Data { id: 3, fin: true, bytes: b"GET / HTTP/1.0\r\n\r\n".to_vec() }
        );
        assert_eq!(
            whole.0[3..],
            [Frame::Ping(7), Frame::Reset { id: 3, status: 5 }, Frame::GoAway]
        );
        for step in 1..30 {
            assert_eq!(read(&bytes, step), whole, "in pieces of {step}");
        }
    }

    #[test]
    fn replies_can_be_read_by_the_other_side() {
        let mut server = Codec::default();
        let mut client = Codec::default();
        for id in [1u32, 3, 5] {
            let mut out = Vec::new();
            server.reply(id, &mut out);
            assert_eq!(u32_at(&out, 8), id);
            assert_eq!(client.headers(&out[12..]), Ok(vec![]));
        }
    }

    #[test]
    fn limits_and_nonsense() {
        let mut large = vec![0, 0, 0, 1, 0];
        large.extend_from_slice(&(SPDY_FRAME_BYTES_MAX as u32 + 1).to_be_bytes()[1..]);
        assert_eq!(read(&large, 100).1, Some(Broken("frame too large")));
        assert_eq!(read(&[0x80, 2, 0, 1, 0, 0, 0, 0], 8).1, Some(Broken("version is not 3")));
        // A block that inflates to more than the limit.
        let mut client = Client::default();
        let bytes = client.syn_stream(1, &[("a", &"x".repeat(SPDY_HEADER_BYTES_MAX * 2))]);
        assert_eq!(read(&bytes, bytes.len()).1, Some(Broken("headers too large")));
        for seed in 0..2_000u64 {
            let mut prng = Prng::new(seed);
            let mut bytes = Client::default().syn_stream(1, &[("streamtype", "data")]);
            data(1, b"hello", false, &mut bytes);
            for _ in 0..1 + prng.below(5) {
                let at = prng.below(bytes.len() as u64) as usize;
                bytes[at] = prng.next_u64() as u8;
            }
            read(&bytes, 1 + prng.below(30) as usize);
        }
    }
}
