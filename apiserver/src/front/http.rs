//! The server side of one HTTP/1.1 connection (RFC 9112), without sockets and clocks.
//!
//! Bytes go in by [`Conn::handle_input`]; whole requests come out of [`Conn::poll_request`], the next one only
//! after the answer to the last has ended, so that pipelined requests are answered in order. Answers go in by
//! `respond`, `begin` / `chunk` / `end` or `upgrade`; their bytes come out of `output`. A request that breaks
//! the protocol is answered here and ends the connection. No input makes this panic, and none costs more memory
//! than `limits` says.

use super::limits::*;
use super::out::OutBuf;
use pintle_base::Time;
use pintle_wire::msg::Body;

/// One whole request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, as sent.
    pub method: String,
    /// Request target before the question mark, as sent.
    pub path: String,
    /// After the question mark, as sent.
    pub query: String,
    /// Header lines; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The body was larger than [`BODY_BYTES_MAX`] and was dropped.
    pub too_large: bool,
}

impl Request {
    /// The first value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// All values of a header; `name` in lower case.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Whether a comma-separated header contains `token`, whatever its case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).any(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case(token)))
    }
}

/// Status code and header lines of an answer, without those that this module writes itself (length,
/// transfer coding, connection).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub code: u16,
    /// Header lines.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// With a content type (empty = none).
    pub fn new(code: u16, content_type: &str) -> Head {
        let mut head = Head { code, headers: Vec::new() };
        if !content_type.is_empty() {
            head.push("Content-Type", content_type);
        }
        head
    }

    /// Adds a line; line breaks in the value become spaces.
    pub fn push(&mut self, name: &str, value: &str) {
        let clean = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.headers.push((name.into(), clean));
    }

    /// The same with one more line.
    pub fn with(mut self, name: &str, value: &str) -> Head {
        self.push(name, value);
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunk(Chunk),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size,
    Data(usize),
    /// The line break behind a chunk's data.
    DataEnd,
    Trailer,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Bytes of a request head are awaited; `scanned` of them hold no end of head.
    Head { scanned: usize },
    /// The body of `request` is being read; `dropped` bytes of a too large one were thrown away.
    Body { framing: Framing, dropped: usize },
    /// `request` is whole and waits for `poll_request`.
    Whole,
    /// The request was handed out; its answer has not ended.
    Answering,
    /// An answer in chunks is under way.
    Streaming,
    /// 101 was sent: bytes are no longer HTTP.
    Raw,
    /// Nothing is read any more; the connection ends when the output is written.
    Ending,
}

/// One connection.
pub struct Conn {
    state: State,
    input: Vec<u8>,
    request: Request,
    out: OutBuf,
    /// The connection may carry another request after this one.
    keep_alive: bool,
    /// The client speaks HTTP/1.1 (chunks are understood).
    http11: bool,
    head_only: bool,
    /// When the client has taken too long, by state.
    deadline: Option<Time>,
    stall: Option<Time>,
}

impl Conn {
    /// A connection on which nothing has arrived.
    pub fn new(now: Time) -> Conn {
        Conn {
            state: State::Head { scanned: 0 },
            input: Vec::new(),
            request: Request::default(),
            out: OutBuf::default(),
            keep_alive: true,
            http11: true,
            head_only: false,
            deadline: Some(now + HEAD_TIME),
            stall: None,
        }
    }

    /// Takes bytes from the client, all of them.
    pub fn handle_input(&mut self, bytes: &[u8], now: Time) {
        if self.state == State::Ending {
            return;
        }
        if matches!(self.state, State::Head { .. }) && self.input.is_empty() && !bytes.is_empty() {
            self.deadline = Some(now + HEAD_TIME);
        }
        self.input.extend_from_slice(bytes);
        self.advance(now);
    }

    /// The next whole request; none while one is being answered.
    pub fn poll_request(&mut self) -> Option<Request> {
        if self.state != State::Whole {
            return None;
        }
        self.state = State::Answering;
        self.deadline = None;
        Some(std::mem::take(&mut self.request))
    }

    /// Whether more bytes should be read from the client now.
    pub fn wants_input(&self) -> bool {
        match self.state {
            State::Head { .. } | State::Body { .. } => true,
            State::Whole | State::Answering | State::Streaming => {
                self.input.len() < PIPELINE_BYTES_MAX
            }
            State::Raw => self.input.len() < RAW_BYTES_MAX,
            State::Ending => false,
        }
    }

    /// A request waits for its answer or has not got all of it.
    pub fn is_answering(&self) -> bool {
        matches!(self.state, State::Answering | State::Streaming)
    }

    /// The socket can be closed.
    pub fn is_done(&self) -> bool {
        self.state == State::Ending && self.out.is_empty()
    }

    /// No request will be taken any more once the current one is answered.
    pub fn drain(&mut self) {
        self.keep_alive = false;
        if matches!(self.state, State::Head { .. }) && self.input.is_empty() {
            self.state = State::Ending;
        }
    }

    /// Answers with a whole body.
    pub fn respond(&mut self, head: &Head, body: &Body, now: Time) {
        self.write_head(head, Some(body.len()));
        if !self.head_only && !bodyless(head.code) {
            self.out.push_shared(body);
        }
        self.finish(now);
    }

    /// Begins an answer of unknown length.
    pub fn begin(&mut self, head: &Head, now: Time) {
        if !self.http11 {
            self.keep_alive = false;
        }
        self.write_head(head, None);
        self.state = State::Streaming;
        self.touch_output(now);
    }

    /// A piece of an answer that was begun, made of `head`, `body` and `tail`.
    pub fn chunk(&mut self, head: &[u8], body: &Body, tail: &[u8], now: Time) {
        let len = head.len() + body.len() + tail.len();
        if len == 0 || self.head_only || self.state != State::Streaming {
            return;
        }
        if self.http11 {
            self.out.push(format!("{len:x}\r\n").as_bytes());
        }
        self.out.push(head);
        self.out.push_shared(body);
        self.out.push(tail);
        if self.http11 {
            self.out.push(b"\r\n");
        }
        self.touch_output(now);
    }

    /// Ends an answer that was begun.
    pub fn end(&mut self, now: Time) {
        if self.state != State::Streaming {
            return;
        }
        if self.http11 && !self.head_only {
            self.out.push(b"0\r\n\r\n");
        }
        self.finish(now);
    }

    /// Cuts the connection in the middle of an answer: the client must see that it is not whole.
    pub fn abort(&mut self) {
        self.keep_alive = false;
        self.state = State::Ending;
        self.input = Vec::new();
    }

    /// Answers 101; from now on `take_raw` and `write_raw` carry the bytes.
    pub fn upgrade(&mut self, headers: &[(&str, &str)], now: Time) {
        self.out.push(b"HTTP/1.1 101 Switching Protocols\r\n");
        for (name, value) in headers {
            self.out.push(format!("{name}: {value}\r\n").as_bytes());
        }
        self.out.push(b"\r\n");
        self.state = State::Raw;
        self.deadline = None;
        self.touch_output(now);
    }

    /// The connection was upgraded and has not ended.
    pub fn is_raw(&self) -> bool {
        self.state == State::Raw
    }

    /// Takes what has arrived on an upgraded connection.
    pub fn take_raw(&mut self) -> Vec<u8> {
        if self.state == State::Raw { std::mem::take(&mut self.input) } else { Vec::new() }
    }

    /// Sends bytes on an upgraded connection.
    pub fn write_raw(&mut self, bytes: &[u8], now: Time) {
        if self.state == State::Raw {
            self.out.push(bytes);
            self.touch_output(now);
        }
    }

    /// Ends an upgraded connection once its output is written.
    pub fn end_raw(&mut self) {
        if self.state == State::Raw {
            self.state = State::Ending;
            self.input = Vec::new();
        }
    }

    /// Bytes for the client (contiguous; call again after `written`).
    pub fn output(&self) -> &[u8] {
        self.out.front()
    }

    /// Bytes for the client that wait in all.
    pub fn output_len(&self) -> usize {
        self.out.len()
    }

    /// The first `n` bytes of `output` were written.
    pub fn written(&mut self, n: usize, now: Time) {
        self.out.consume(n);
        if n > 0 {
            self.stall = (!self.out.is_empty()).then(|| now + STALL_TIME);
        }
    }

    /// Time passed: a client that is too slow is told so and cut off.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.stall.is_some_and(|t| t <= now) {
            self.abort();
            self.out = OutBuf::default();
            self.stall = None;
        }
        if self.deadline.is_none_or(|t| t > now) {
            return;
        }
        self.deadline = None;
        match self.state {
            State::Head { .. } if self.input.is_empty() => self.state = State::Ending,
            State::Head { .. } | State::Body { .. } => self.refuse(408, "408 Request Timeout", now),
            _ => {}
        }
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        match (self.deadline, self.stall) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn touch_output(&mut self, now: Time) {
        if self.stall.is_none() && !self.out.is_empty() {
            self.stall = Some(now + STALL_TIME);
        }
    }

    fn advance(&mut self, now: Time) {
        loop {
            let again = match self.state {
                State::Head { scanned } => self.advance_head(scanned, now),
                State::Body { framing, dropped } => self.advance_body(framing, dropped, now),
                _ => false,
            };
            if !again {
                return;
            }
        }
    }

    fn advance_head(&mut self, scanned: usize, now: Time) -> bool {
        let Some(end) = end_of_head(&self.input, scanned) else {
            if self.input.len() > HEAD_BYTES_MAX {
                self.refuse(431, "431 Request Header Fields Too Large", now);
            } else {
                self.state = State::Head { scanned: self.input.len() };
            }
            return false;
        };
        if end > HEAD_BYTES_MAX {
            self.refuse(431, "431 Request Header Fields Too Large", now);
            return false;
        }
        match parse_head(&self.input[..end]) {
            Ok(parsed) => {
                self.input.drain(..end);
                self.start_body(parsed, now)
            }
            Err((code, text)) => {
                self.refuse(code, text, now);
                false
            }
        }
    }

    fn start_body(&mut self, parsed: Parsed, now: Time) -> bool {
        self.keep_alive = parsed.keep_alive && self.keep_alive;
        self.http11 = parsed.http11;
        self.head_only = parsed.request.method == "HEAD";
        self.request = parsed.request;
        self.deadline = Some(now + BODY_TIME);
        let expects = self.request.has_token("expect", "100-continue");
        match parsed.framing {
            Framing::Length(n) if n > BODY_BYTES_MAX && (expects || n > DISCARD_BYTES_MAX) => {
                // Its sender waits for a word before it sends (or sends without end): none of it is read.
                self.request.too_large = true;
                self.keep_alive = false;
                self.state = State::Whole;
                self.input = Vec::new();
                false
            }
            Framing::Length(0) => {
                self.state = State::Whole;
                false
            }
            framing => {
                if expects && self.http11 && self.input.is_empty() {
                    self.out.push(b"HTTP/1.1 100 Continue\r\n\r\n");
                    self.touch_output(now);
                }
                self.request.too_large =
                    matches!(framing, Framing::Length(n) if n > BODY_BYTES_MAX);
                self.state = State::Body { framing, dropped: 0 };
                true
            }
        }
    }

    fn advance_body(&mut self, framing: Framing, dropped: usize, now: Time) -> bool {
        match framing {
            Framing::Length(left) | Framing::Chunk(Chunk::Data(left)) => {
                let n = left.min(self.input.len());
                let dropped = dropped + self.take_body(n);
                if dropped > DISCARD_BYTES_MAX {
                    self.refuse(413, "413 Request Entity Too Large", now);
                    return false;
                }
                let left = left - n;
                match framing {
                    Framing::Length(_) if left == 0 => {
                        self.state = State::Whole;
                        false
                    }
                    Framing::Length(_) => {
                        self.state = State::Body { framing: Framing::Length(left), dropped };
                        false
                    }
                    Framing::Chunk(_) if left == 0 => self.next_chunk(Chunk::DataEnd, dropped),
                    Framing::Chunk(_) => {
                        self.next_chunk(Chunk::Data(left), dropped);
                        false
                    }
                }
            }
            Framing::Chunk(part) => self.advance_chunk_line(part, dropped, now),
        }
    }

    fn next_chunk(&mut self, chunk: Chunk, dropped: usize) -> bool {
        self.state = State::Body { framing: Framing::Chunk(chunk), dropped };
        true
    }

    fn advance_chunk_line(&mut self, part: Chunk, dropped: usize, now: Time) -> bool {
        let Some(end) = self.input.iter().take(CHUNK_LINE_BYTES_MAX).position(|b| *b == b'\n')
        else {
            if self.input.len() >= CHUNK_LINE_BYTES_MAX {
                self.refuse(400, "400 Bad Request: chunk line too long", now);
            }
            return false;
        };
        let mut line: Vec<u8> = self.input.drain(..=end).collect();
        while matches!(line.last(), Some(b'\n' | b'\r')) {
            line.pop();
        }
        match part {
            Chunk::DataEnd if line.is_empty() => self.next_chunk(Chunk::Size, dropped),
            Chunk::DataEnd => {
                self.refuse(400, "400 Bad Request: malformed chunked encoding", now);
                false
            }
            Chunk::Trailer if line.is_empty() => {
                self.state = State::Whole;
                false
            }
            // Trailers count against the limit of dropped bytes, so that they end.
            Chunk::Trailer => self.next_chunk(Chunk::Trailer, dropped + 1024 + line.len()),
            Chunk::Size | Chunk::Data(_) => match chunk_size(&line) {
                Some(0) => self.next_chunk(Chunk::Trailer, dropped),
                Some(n) if n <= DISCARD_BYTES_MAX => self.next_chunk(Chunk::Data(n), dropped),
                Some(_) => {
                    self.refuse(413, "413 Request Entity Too Large", now);
                    false
                }
                None => {
                    self.refuse(400, "400 Bad Request: malformed chunked encoding", now);
                    false
                }
            },
        }
    }

    // Moves `n` bytes of input into the body; gives how many of them were dropped instead.
    fn take_body(&mut self, n: usize) -> usize {
        if !self.request.too_large && self.request.body.len() + n > BODY_BYTES_MAX {
            self.request.too_large = true;
        }
        if self.request.too_large {
            self.request.body = Vec::new();
            self.input.drain(..n);
            return n;
        }
        if n == self.input.len() && self.request.body.is_empty() {
            self.request.body = std::mem::take(&mut self.input);
        } else {
            self.request.body.extend(self.input.drain(..n));
        }
        0
    }

    // Answers a request that is not understood, in the words of Go's server, and ends the connection.
    fn refuse(&mut self, code: u16, text: &str, now: Time) {
        self.keep_alive = false;
        self.head_only = false;
        self.http11 = true;
        self.respond(
            &Head::new(code, "text/plain; charset=utf-8"),
            &Body::from(text.as_bytes()),
            now,
        );
    }

    fn write_head(&mut self, head: &Head, length: Option<usize>) {
        let mut text = format!("HTTP/1.1 {} {}\r\n", head.code, reason(head.code));
        for (name, value) in &head.headers {
            text.push_str(name);
            text.push_str(": ");
            text.push_str(value);
            text.push_str("\r\n");
        }
        match length {
            Some(_) if bodyless(head.code) => {}
            Some(n) => text.push_str(&format!("Content-Length: {n}\r\n")),
            None if self.http11 => text.push_str("Transfer-Encoding: chunked\r\n"),
            None => {}
        }
        if !self.keep_alive {
            text.push_str("Connection: close\r\n");
        }
        text.push_str("\r\n");
        self.out.push(text.as_bytes());
    }

    fn finish(&mut self, now: Time) {
        self.touch_output(now);
        if self.keep_alive {
            self.state = State::Head { scanned: 0 };
            self.deadline = Some(now + if self.input.is_empty() { IDLE_TIME } else { HEAD_TIME });
            self.advance(now);
        } else {
            self.state = State::Ending;
            self.input = Vec::new();
            self.deadline = None;
        }
    }
}

/// The answer to this code never has a body.
fn bodyless(code: u16) -> bool {
    code < 200 || code == 204 || code == 304
}

struct Parsed {
    request: Request,
    framing: Framing,
    keep_alive: bool,
    http11: bool,
}

// Where the first empty line ends. Looks only at what `scanned` has not covered.
fn end_of_head(input: &[u8], scanned: usize) -> Option<usize> {
    // Line breaks before a request line are skipped (RFC 9112 2.2) and do not end the head.
    let start = input.iter().position(|b| !matches!(b, b'\r' | b'\n'))?;
    let from = scanned.saturating_sub(3).max(start);
    (from..input.len()).find_map(|i| match input[i] {
        b'\n' if input.get(i + 1) == Some(&b'\n') => Some(i + 2),
        b'\n' if input[i + 1..].starts_with(b"\r\n") => Some(i + 3),
        _ => None,
    })
}

type Refusal = (u16, &'static str);

fn parse_head(bytes: &[u8]) -> Result<Parsed, Refusal> {
    const BAD: Refusal = (400, "400 Bad Request");
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut lines);
    match head.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err((431, "431 Request Header Fields Too Large"));
        }
        Err(httparse::Error::Version) => return Err((505, "505 HTTP Version Not Supported")),
        _ => return Err(BAD),
    }
    let (Some(method), Some(target), Some(version)) = (head.method, head.path, head.version) else {
        return Err(BAD);
    };
    if target.len() > URL_BYTES_MAX {
        return Err((414, "414 URI Too Long"));
    }
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|h| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).trim().to_string()))
        .collect();
    let (path, query) = split_target(target).ok_or(BAD)?;
    let request = Request { method: method.into(), path, query, headers, ..Request::default() };
    let http11 = version == 1;
    if http11 && request.all("host").count() != 1 {
        return Err((400, "400 Bad Request: missing required Host header"));
    }
    let keep_alive = if http11 {
        !request.has_token("connection", "close")
    } else {
        request.has_token("connection", "keep-alive")
    };
    let framing = framing(&request, http11)?;
    Ok(Parsed { request, framing, keep_alive, http11 })
}

fn framing(request: &Request, http11: bool) -> Result<Framing, Refusal> {
    let mut lengths = request.all("content-length");
    let length = match lengths.next() {
        // Two lengths, or a length and chunks, are how requests are smuggled past proxies.
        Some(_) if lengths.next().is_some() => return Err((400, "400 Bad Request: two lengths")),
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
            Some(text.parse().map_err(|_| (400, "400 Bad Request: bad Content-Length"))?)
        }
        Some(_) => return Err((400, "400 Bad Request: bad Content-Length")),
        None => None,
    };
    let mut codings = request.all("transfer-encoding");
    match (codings.next(), codings.next()) {
        (None, _) => Ok(Framing::Length(length.unwrap_or(0))),
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") && http11 => match length {
            None => Ok(Framing::Chunk(Chunk::Size)),
            Some(_) => Err((400, "400 Bad Request: Content-Length beside Transfer-Encoding")),
        },
        _ => Err((501, "501 Unsupported transfer encoding")),
    }
}

// Origin form (`/path?query`) or absolute form (`http://host/path?query`).
fn split_target(target: &str) -> Option<(String, String)> {
    let rest = if target.starts_with('/') {
        target
    } else {
        let after = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://"))?;
        &after[after.find('/')?..]
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Some((path.into(), query.into()))
}

fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let rest = &line[digits..];
    if digits == 0 || digits > 15 || !matches!(rest.first(), None | Some(b';' | b' ' | b'\t')) {
        return None;
    }
    let text = std::str::from_utf8(&line[..digits]).ok()?;
    usize::from_str_radix(text, 16).ok()
}

fn reason(code: u16) -> &'static str {
    match code {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Request Entity Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests;
