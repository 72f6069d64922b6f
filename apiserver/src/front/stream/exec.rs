//! Exec and attach: one node stream, and on the client's side WebSocket channels or SPDY streams.
//!
//! WebSocket: the first byte of each message is the channel (0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize; in v5
//! 255 = the channel in the next byte is closed); in the base64 variants it is the digit, and the rest is
//! base64 in a text message. SPDY: one stream each, named by its header `streamtype`. KUBECTL.md, section 3.

use super::spdy::{self, Codec, StreamId};
use super::ws::{self, Message};
use super::{Act, Io, NodeEvent, status_of};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pintle_wire::msg::node::{self, Frame};
use serde_json::Value;
use std::collections::VecDeque;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// A channel protocol over WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// As in `Sec-WebSocket-Protocol`; empty = the client named none.
    pub name: &'static str,
    /// Payloads are base64 in text messages.
    pub base64: bool,
    /// The end is told by a Status in JSON (else: a text on failure, nothing on success).
    pub status: bool,
    /// Channel 255 closes a channel.
    pub close: bool,
}

const fn protocol(name: &'static str, base64: bool, status: bool, close: bool) -> Protocol {
    Protocol { name, base64, status, close }
}

/// What is spoken over WebSocket.
pub const PROTOCOLS: [Protocol; 6] = [
    protocol("v5.channel.k8s.io", false, true, true),
    protocol("v4.channel.k8s.io", false, true, false),
    protocol("v4.base64.channel.k8s.io", true, true, false),
    protocol("channel.k8s.io", false, false, false),
    protocol("base64.channel.k8s.io", true, false, false),
    protocol("", false, false, false),
];

/// What is spoken over SPDY, the best first.
pub const SPDY_PROTOCOLS: [&str; 4] =
    ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// Exec or attach of one client.
pub struct Exec {
    mux: Mux,
    io: node::Io,
    /// For the message of a failure.
    command: Vec<String>,
    /// Node frames that wait for the client's SPDY streams.
    held: VecDeque<NodeEvent>,
    held_bytes: usize,
    over: bool,
}

enum Mux {
    Ws { reader: ws::Reader, protocol: Protocol },
    Spdy(Box<Spdy>),
}

struct Spdy {
    codec: Codec,
    /// By channel number.
    streams: [Option<StreamId>; 5],
    status: bool,
    expected: usize,
    /// JSON of the resize stream that has not ended.
    resize: Vec<u8>,
}

impl Exec {
    /// Over WebSocket.
    pub fn websocket(protocol: Protocol, io: node::Io, command: Vec<String>) -> Exec {
        let mux = Mux::Ws { reader: ws::Reader::default(), protocol };
        Exec { mux, io, command, held: VecDeque::new(), held_bytes: 0, over: false }
    }

    /// Over SPDY.
    pub fn spdy(protocol: &str, io: node::Io, command: Vec<String>) -> Exec {
        let resizes = io.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
        let expected = 1 + [io.stdin, io.stdout, io.stderr && !io.tty, resizes]
            .iter()
            .filter(|wanted| **wanted)
            .count();
        let mux = Mux::Spdy(Box::new(Spdy {
            codec: Codec::default(),
            streams: [None; 5],
            status: protocol == "v4.channel.k8s.io",
            expected,
            resize: Vec::new(),
        }));
        Exec { mux, io, command, held: VecDeque::new(), held_bytes: 0, over: false }
    }

    /// The connection was upgraded.
    pub fn begun(&mut self, io: &mut Io) {
        if let Mux::Ws { protocol, .. } = &self.mux {
            // As the real server: an empty message on the first channel that it writes to.
            let first = match (self.io.stdout, self.io.stderr) {
                (true, _) => STDOUT,
                (false, true) => STDERR,
                (false, false) => ERROR,
            };
            message(*protocol, first, &[], &mut io.out);
        }
    }

    /// The client sent bytes.
    pub fn client(&mut self, bytes: &[u8], io: &mut Io) {
        if self.over {
            return;
        }
        match &mut self.mux {
            Mux::Ws { reader, .. } => {
                reader.push(bytes);
                self.read_messages(io);
            }
            Mux::Spdy(s) => {
                s.codec.push(bytes);
                self.read_frames(io);
            }
        }
    }

    fn read_messages(&mut self, io: &mut Io) {
        while !self.over {
            let Mux::Ws { reader, protocol } = &mut self.mux else { return };
            let protocol = *protocol;
            match reader.next_message() {
                Ok(Some(Message::Data(bytes))) => self.channel_message(protocol, &bytes, io),
                Ok(Some(Message::Ping(bytes))) => ws::pong(&bytes, &mut io.out),
                Ok(Some(Message::Close(_))) => self.leave(1000, io),
                Ok(None) => return,
                Err(v) => self.leave(v.code, io),
            }
        }
    }

    fn channel_message(&mut self, protocol: Protocol, bytes: &[u8], io: &mut Io) {
        let Some((channel, payload)) = bytes.split_first() else { return };
        let (channel, payload) = match protocol.base64 {
            false => (*channel, payload.to_vec()),
            true => match STANDARD.decode(payload) {
                Ok(decoded) => (channel.wrapping_sub(b'0'), decoded),
                Err(_) => return self.leave(1007, io),
            },
        };
        match channel {
            // An empty message means nothing: the channel ends by 255 only.
            STDIN if self.io.stdin && !payload.is_empty() => {
                io.acts.push_back(Act::Send(0, Frame::Data { channel: STDIN, bytes: payload }));
            }
            RESIZE => {
                let mut left = payload;
                resizes(&mut left, io);
            }
            CLOSE if protocol.close && payload.first() == Some(&STDIN) => {
                io.acts.push_back(Act::Send(0, Frame::CloseChannel { channel: STDIN }));
            }
            _ => {}
        }
    }

    // The client is going or broke the protocol.
    fn leave(&mut self, code: u16, io: &mut Io) {
        if let Mux::Ws { .. } = self.mux {
            ws::close(code, &mut io.out);
        }
        self.over = true;
        io.acts.push_back(Act::Cut(0));
        io.acts.push_back(Act::End);
    }

    fn read_frames(&mut self, io: &mut Io) {
        while !self.over {
            let Mux::Spdy(s) = &mut self.mux else { return };
            match s.codec.next_frame() {
                Ok(Some(frame)) => self.spdy_frame(frame, io),
                Ok(None) => return,
                Err(_) => self.leave(0, io),
            }
        }
    }

    fn spdy_frame(&mut self, frame: spdy::Frame, io: &mut Io) {
        let Mux::Spdy(s) = &mut self.mux else { return };
        match frame {
            spdy::Frame::SynStream { id, fin, headers } => {
                let kind = headers.iter().find(|(k, _)| k == "streamtype").map(|(_, v)| v.as_str());
                let channel = match kind {
                    Some("stdin") => STDIN,
                    Some("stdout") => STDOUT,
                    Some("stderr") => STDERR,
                    Some("error") => ERROR,
                    Some("resize") => RESIZE,
                    _ => return spdy::reset(id, 1, &mut io.out),
                };
                s.streams[usize::from(channel)] = Some(id);
                s.codec.reply(id, &mut io.out);
                if fin && channel == STDIN {
                    io.acts.push_back(Act::Send(0, Frame::CloseChannel { channel: STDIN }));
                }
                while self.is_ready()
                    && let Some(event) = self.held.pop_front()
                {
                    self.node(event, io);
                }
            }
            spdy::Frame::Data { id, fin, bytes } => {
                if s.streams[usize::from(STDIN)] == Some(id) {
                    if !bytes.is_empty() {
                        io.acts.push_back(Act::Send(0, Frame::Data { channel: STDIN, bytes }));
                    }
                    if fin {
                        io.acts.push_back(Act::Send(0, Frame::CloseChannel { channel: STDIN }));
                    }
                } else if s.streams[usize::from(RESIZE)] == Some(id) {
                    s.resize.extend_from_slice(&bytes);
                    resizes(&mut s.resize, io);
                }
            }
            spdy::Frame::Ping(id) => spdy::ping(id, &mut io.out),
            spdy::Frame::Reset { .. } | spdy::Frame::GoAway => {}
        }
    }

    fn is_ready(&self) -> bool {
        match &self.mux {
            Mux::Ws { .. } => true,
            Mux::Spdy(s) => s.streams.iter().flatten().count() >= s.expected,
        }
    }

    /// Something happened on the node's side.
    pub fn node(&mut self, event: NodeEvent, io: &mut Io) {
        if self.over {
            return;
        }
        if !self.is_ready() {
            if let NodeEvent::Frame(Frame::Data { bytes, .. }) = &event {
                self.held_bytes += bytes.len();
            }
            self.held.push_back(event);
            if self.held_bytes > HELD_BYTES_MAX {
                self.leave(0, io);
            }
            return;
        }
        if let Some(status) = status_of(&event, &self.command) {
            self.over = true;
            self.finish(&status, io);
            return;
        }
        if let NodeEvent::Frame(Frame::Data { channel, bytes }) = event {
            self.write(channel, &bytes, io);
        }
    }

    fn write(&mut self, channel: u8, bytes: &[u8], io: &mut Io) {
        let wanted = match channel {
            STDOUT => self.io.stdout,
            STDERR => self.io.stderr,
            _ => false,
        };
        if !wanted || bytes.is_empty() {
            return;
        }
        match &self.mux {
            Mux::Ws { protocol, .. } => {
                for piece in bytes.chunks(WS_PIECE) {
                    message(*protocol, channel, piece, &mut io.out);
                }
            }
            Mux::Spdy(s) => {
                if let Some(id) = s.streams[usize::from(channel)] {
                    spdy::data(id, bytes, false, &mut io.out);
                }
            }
        }
    }

    fn finish(&mut self, status: &Value, io: &mut Io) {
        let success = status["status"] == "Success";
        let text = |in_json: bool| match (in_json, success) {
            (true, _) => status.to_string(),
            (false, true) => String::new(),
            (false, false) => status["message"].as_str().unwrap_or_default().to_string(),
        };
        match &self.mux {
            Mux::Ws { protocol, .. } => {
                let text = text(protocol.status);
                if !text.is_empty() {
                    message(*protocol, ERROR, text.as_bytes(), &mut io.out);
                }
                ws::close(1000, &mut io.out);
            }
            Mux::Spdy(s) => {
                for channel in [STDOUT, STDERR] {
                    if let Some(id) = s.streams[usize::from(channel)] {
                        spdy::data(id, &[], true, &mut io.out);
                    }
                }
                if let Some(id) = s.streams[usize::from(ERROR)] {
                    spdy::data(id, text(s.status).as_bytes(), true, &mut io.out);
                }
                let last = s.streams.iter().flatten().max().copied().unwrap_or(0);
                spdy::go_away(last, &mut io.out);
            }
        }
        io.acts.push_back(Act::End);
    }
}

/// A client has this much time, in bytes of output, to open its SPDY streams.
const HELD_BYTES_MAX: usize = 1 << 20;

/// Payload of one message: what clients read at once.
const WS_PIECE: usize = 32 << 10;

fn message(protocol: Protocol, channel: u8, payload: &[u8], out: &mut Vec<u8>) {
    if protocol.base64 {
        ws::text(&[&[b'0' + channel], STANDARD.encode(payload).as_bytes()], out);
    } else {
        ws::binary(&[&[channel], payload], out);
    }
}

/// A resize object can't be longer than this; what is, is dropped.
const RESIZE_BYTES_MAX: usize = 1024;

// Takes whole JSON objects `{"Width":80,"Height":24}` from the front of `bytes`.
fn resizes(bytes: &mut Vec<u8>, io: &mut Io) {
    let mut used = 0;
    let mut stream = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    while let Some(Ok(size)) = stream.next() {
        used = stream.byte_offset();
        let side = |key: &str| size[key].as_u64().and_then(|n| u16::try_from(n).ok());
        if let (Some(width), Some(height)) = (side("Width"), side("Height")) {
            io.acts.push_back(Act::Send(0, Frame::Resize { width, height }));
        }
    }
    bytes.drain(..used);
    if bytes.len() > RESIZE_BYTES_MAX {
        bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::ws::tests::masked;
    use super::*;

    const ALL: node::Io = node::Io { stdin: true, stdout: true, stderr: true, tty: false };

    fn named(name: &str) -> Protocol {
        *PROTOCOLS.iter().find(|p| p.name == name).expect("known")
    }

    fn data(channel: u8, bytes: &[u8]) -> Frame {
        Frame::Data { channel, bytes: bytes.to_vec() }
    }

    #[test]
    fn v5_carries_input_output_size_and_exit_code() {
        let mut s = Exec::websocket(named("v5.channel.k8s.io"), ALL, vec!["sh".into()]);
        let mut io = Io::default();
        s.begun(&mut io);
        assert_eq!(io.out, [0x82, 1, 1]);
        io.out.clear();
        let bytes = [
            masked(0x82, b"\x00hello"),
            masked(0x82, b"\x04{\"Width\":80,\"Height\":24}\n"),
            masked(0x82, b"\xff\x00"),
            masked(0x89, b"p"),
        ]
        .concat();
        s.client(&bytes, &mut io);
        assert_eq!(
            io.acts,
            [
                Act::Send(0, data(0, b"hello")),
                Act::Send(0, Frame::Resize { width: 80, height: 24 }),
                Act::Send(0, Frame::CloseChannel { channel: 0 })
            ]
        );
        assert_eq!(io.out, [0x8a, 1, b'p']);
        let mut io = Io::default();
        s.node(NodeEvent::Frame(Frame::Accepted), &mut io);
        s.node(NodeEvent::Frame(data(1, b"out")), &mut io);
        s.node(NodeEvent::Frame(data(2, b"err")), &mut io);
        assert_eq!(io.out, b"\x82\x04\x01out\x82\x04\x02err");
        io.out.clear();
        s.node(NodeEvent::Frame(Frame::Exit { code: 7 }), &mut io);
        let text = String::from_utf8_lossy(&io.out).into_owned();
        assert!(text.contains(r#""causes":[{"message":"7","reason":"ExitCode"}]"#), "{text}");
        assert!(io.out.ends_with(&[0x88, 2, 0x03, 0xe8]));
        assert_eq!(io.acts, [Act::End]);
    }

    #[test]
    fn old_protocols_say_nothing_on_success() {
        let mut s = Exec::websocket(named("channel.k8s.io"), ALL, vec![]);
        let mut io = Io::default();
        s.node(NodeEvent::Frame(Frame::Exit { code: 0 }), &mut io);
        assert_eq!(io.out, [0x88, 2, 0x03, 0xe8]);
        let mut s = Exec::websocket(named("base64.channel.k8s.io"), ALL, vec![]);
        let mut io = Io::default();
        s.client(&masked(0x81, b"0aGk="), &mut io);
        s.node(NodeEvent::Frame(data(1, b"hi")), &mut io);
        assert_eq!(io.acts, [Act::Send(0, data(0, b"hi"))]);
        assert_eq!(io.out, b"\x81\x051aGk=");
    }

    #[test]
    fn a_client_that_closes_ends_the_command() {
        let mut s = Exec::websocket(named("v4.channel.k8s.io"), ALL, vec![]);
        let mut io = Io::default();
        s.client(&masked(0x88, &1000u16.to_be_bytes()), &mut io);
        assert_eq!(io.acts, [Act::Cut(0), Act::End]);
    }

    #[test]
    fn spdy_waits_for_all_streams_and_then_gives_what_was_held() {
        let mut client = spdy::tests::Client::default();
        let mut s = Exec::spdy("v4.channel.k8s.io", ALL, vec![]);
        let mut io = Io::default();
        s.node(NodeEvent::Frame(data(1, b"early")), &mut io);
        for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
            assert!(!io.out.windows(5).any(|w| w == b"early"));
            s.client(&client.syn_stream(id, &[("streamType", kind)]), &mut io);
        }
        assert!(io.out.windows(5).any(|w| w == b"early"));
        let mut input = Vec::new();
        spdy::data(3, b"in", true, &mut input);
        s.client(&input, &mut io);
        assert_eq!(
            io.acts,
            [Act::Send(0, data(0, b"in")), Act::Send(0, Frame::CloseChannel { channel: 0 })]
        );
        io.out.clear();
        s.node(NodeEvent::Frame(Frame::Exit { code: 0 }), &mut io);
        assert!(String::from_utf8_lossy(&io.out).contains(r#""status":"Success""#));
        assert_eq!(io.acts.back(), Some(&Act::End));
    }
}
