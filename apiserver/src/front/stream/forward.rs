//! Port-forward over SPDY: for each connection a pair of streams, `error` and `data`, with the headers `port` and
//! `requestid`; each pair is one node stream. The SPDY bytes come bare or inside binary WebSocket messages.

use super::spdy::{self, Codec, StreamId};
use super::ws::{self, Message};
use super::{Act, Io, NodeEvent, Slot};
use crate::front::limits::SPDY_STREAMS_MAX;
use pintle_wire::msg::node::{Frame, Request, Target};
use std::collections::BTreeMap;

/// One client's forwarded ports.
pub struct Forward {
    target: Target,
    /// The messages that carry the SPDY bytes; none = they come bare.
    tunnel: Option<ws::Reader>,
    codec: Codec,
    pairs: BTreeMap<Slot, Pair>,
    next_slot: Slot,
    last_stream: StreamId,
    over: bool,
}

#[derive(Default)]
struct Pair {
    request: String,
    port: u16,
    error: Option<StreamId>,
    data: Option<StreamId>,
    /// The node stream is open.
    open: bool,
    /// We sent the last bytes on the data stream.
    data_ended: bool,
}

impl Forward {
    /// To a pod; `tunnel` = inside WebSocket.
    pub fn new(target: Target, tunnel: bool) -> Forward {
        Forward {
            target,
            tunnel: tunnel.then(ws::Reader::default),
            codec: Codec::default(),
            pairs: BTreeMap::new(),
            next_slot: 0,
            last_stream: 0,
            over: false,
        }
    }

    /// The client sent bytes.
    pub fn client(&mut self, bytes: &[u8], io: &mut Io) {
        if self.over {
            return;
        }
        match &mut self.tunnel {
            Some(reader) => {
                reader.push(bytes);
                self.read_messages(io);
            }
            None => {
                self.codec.push(bytes);
                let mut out = Vec::new();
                self.read_frames(&mut out, io);
                self.emit(&out, io);
            }
        }
    }

    fn read_messages(&mut self, io: &mut Io) {
        while !self.over {
            let Some(reader) = &mut self.tunnel else { return };
            match reader.next_message() {
                Ok(Some(Message::Data(bytes))) => {
                    self.codec.push(&bytes);
                    let mut out = Vec::new();
                    self.read_frames(&mut out, io);
                    self.emit(&out, io);
                }
                Ok(Some(Message::Ping(bytes))) => ws::pong(&bytes, &mut io.out),
                Ok(Some(Message::Close(_))) => self.leave(1000, io),
                Ok(None) => return,
                Err(v) => self.leave(v.code, io),
            }
        }
    }

    // SPDY bytes on their way to the client.
    fn emit(&self, bytes: &[u8], io: &mut Io) {
        if bytes.is_empty() {
            return;
        }
        match self.tunnel {
            Some(_) => ws::binary(&[bytes], &mut io.out),
            None => io.out.extend_from_slice(bytes),
        }
    }

    fn leave(&mut self, code: u16, io: &mut Io) {
        if self.over {
            return;
        }
        self.over = true;
        if self.tunnel.is_some() {
            ws::close(code, &mut io.out);
        }
        for (slot, pair) in std::mem::take(&mut self.pairs) {
            if pair.open {
                io.acts.push_back(Act::Cut(slot));
            }
        }
        io.acts.push_back(Act::End);
    }

    fn read_frames(&mut self, out: &mut Vec<u8>, io: &mut Io) {
        loop {
            match self.codec.next_frame() {
                Ok(Some(frame)) => self.frame(frame, out, io),
                Ok(None) => return,
                Err(_) => {
                    spdy::go_away(self.last_stream, out);
                    return self.leave(1002, io);
                }
            }
        }
    }

    fn frame(&mut self, frame: spdy::Frame, out: &mut Vec<u8>, io: &mut Io) {
        match frame {
            spdy::Frame::SynStream { id, headers, .. } => self.opened(id, &headers, out, io),
            spdy::Frame::Data { id, fin, bytes } => {
                let Some((slot, _)) = self.find(id, |p| p.data) else { return };
                if !bytes.is_empty() {
                    io.acts.push_back(Act::Send(slot, Frame::Data { channel: 0, bytes }));
                }
                if fin {
                    io.acts.push_back(Act::Send(slot, Frame::CloseChannel { channel: 0 }));
                }
            }
            spdy::Frame::Reset { id, .. } => {
                let found = self.find(id, |p| p.data).or_else(|| self.find(id, |p| p.error));
                if let Some((slot, _)) = found
                    && let Some(pair) = self.pairs.remove(&slot)
                    && pair.open
                {
                    io.acts.push_back(Act::Cut(slot));
                }
            }
            spdy::Frame::Ping(id) => spdy::ping(id, out),
            spdy::Frame::GoAway => {}
        }
    }

    fn find(
        &self,
        id: StreamId,
        which: impl Fn(&Pair) -> Option<StreamId>,
    ) -> Option<(Slot, &Pair)> {
        self.pairs.iter().find(|(_, p)| which(p) == Some(id)).map(|(slot, p)| (*slot, p))
    }

    fn opened(
        &mut self,
        id: StreamId,
        headers: &[(String, String)],
        out: &mut Vec<u8>,
        io: &mut Io,
    ) {
        const PROTOCOL_ERROR: u32 = 1;
        const REFUSED: u32 = 3;
        self.last_stream = self.last_stream.max(id);
        let header =
            |name: &str| headers.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v.as_str());
        let is_data = match header("streamtype") {
            "data" => true,
            "error" => false,
            _ => return spdy::reset(id, PROTOCOL_ERROR, out),
        };
        let Some(port) = header("port").parse::<u16>().ok().filter(|p| *p > 0) else {
            return spdy::reset(id, PROTOCOL_ERROR, out);
        };
        // Clients before request ids open the error stream and then, two numbers on, the data stream.
        let request = match (header("requestid"), is_data) {
            ("", true) => id.wrapping_sub(2).to_string(),
            ("", false) => id.to_string(),
            (given, _) => given.to_string(),
        };
        let known = self.pairs.iter().find(|(_, p)| p.request == request).map(|(slot, _)| *slot);
        let slot = match known {
            Some(slot) => slot,
            None if self.pairs.len() * 2 >= SPDY_STREAMS_MAX => {
                return spdy::reset(id, REFUSED, out);
            }
            None => {
                let slot = self.next_slot;
                self.next_slot += 1;
                self.pairs.insert(slot, Pair { request, port, ..Pair::default() });
                slot
            }
        };
        let Some(pair) = self.pairs.get_mut(&slot) else { return };
        let place = if is_data { &mut pair.data } else { &mut pair.error };
        if place.replace(id).is_some() {
            return spdy::reset(id, PROTOCOL_ERROR, out);
        }
        self.codec.reply(id, out);
        if pair.data.is_some() && pair.error.is_some() && !pair.open {
            pair.open = true;
            let request = Request::PortForward { target: self.target.clone(), port: pair.port };
            io.acts.push_back(Act::Open(slot, request));
        }
    }

    /// Something happened on the node's side of one pair.
    pub fn node(&mut self, slot: Slot, event: NodeEvent, io: &mut Io) {
        let Some(pair) = self.pairs.get_mut(&slot) else { return };
        let (Some(data), Some(error)) = (pair.data, pair.error) else { return };
        let mut out = Vec::new();
        let mut failure = None;
        let mut last = true;
        match event {
            NodeEvent::Frame(Frame::Data { channel: 1, bytes }) => {
                last = false;
                spdy::data(data, &bytes, false, &mut out);
            }
            NodeEvent::Frame(Frame::CloseChannel { channel: 1 }) => {
                last = false;
                pair.data_ended = true;
                spdy::data(data, &[], true, &mut out);
            }
            NodeEvent::Frame(Frame::End | Frame::Exit { .. }) => {}
            NodeEvent::Frame(Frame::Failed { message, .. }) => failure = Some(message),
            NodeEvent::Gone(why) => failure = Some(why),
            NodeEvent::Frame(
                Frame::Accepted
                | Frame::Data { .. }
                | Frame::CloseChannel { .. }
                | Frame::Resize { .. },
            ) => last = false,
        }
        if last {
            let text = failure.map_or_else(String::new, |why| {
                let (port, t) = (pair.port, &self.target);
                format!("error forwarding port {port} to pod {}, uid {}: {why}", t.pod, t.uid)
            });
            spdy::data(error, text.as_bytes(), true, &mut out);
            if !pair.data_ended {
                spdy::data(data, &[], true, &mut out);
            }
            self.pairs.remove(&slot);
        }
        self.emit(&out, io);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ws::tests::masked;
    use super::*;

    fn target() -> Target {
        Target {
            namespace: "ns".into(),
            pod: "p".into(),
            uid: "u".into(),
            container: String::new(),
        }
    }

    fn pair(client: &mut spdy::tests::Client, first: u32, port: &str, request: &str) -> Vec<u8> {
        let mut bytes = client
            .syn_stream(first, &[("streamType", "error"), ("port", port), ("requestID", request)]);
        bytes.extend(client.syn_stream(
            first + 2,
            &[("streamType", "data"), ("port", port), ("requestID", request)],
        ));
        bytes
    }

    #[test]
    fn two_connections_over_one_tunnel() {
        let mut client = spdy::tests::Client::default();
        let mut s = Forward::new(target(), true);
        let mut io = Io::default();
        let mut bytes = pair(&mut client, 1, "8080", "0");
        bytes.extend(pair(&mut client, 5, "8081", "1"));
        spdy::data(3, b"ping", true, &mut bytes);
        // One SPDY frame may be cut over several messages.
        for piece in bytes.chunks(11) {
            s.client(&masked(0x82, piece), &mut io);
        }
        let open = |slot, port| Act::Open(slot, Request::PortForward { target: target(), port });
        assert_eq!(
            io.acts,
            [
                open(0, 8080),
                open(1, 8081),
                Act::Send(0, Frame::Data { channel: 0, bytes: b"ping".to_vec() }),
                Act::Send(0, Frame::CloseChannel { channel: 0 }),
            ]
        );
        let mut io = Io::default();
        let back = Frame::Data { channel: 1, bytes: b"pong".to_vec() };
        s.node(0, NodeEvent::Frame(back), &mut io);
        let mut want = Vec::new();
        spdy::data(3, b"pong", false, &mut want);
        assert_eq!(io.out[2..], want, "inside one binary message");
        let mut io = Io::default();
        let failed = Frame::Failed { code: 500, reason: String::new(), message: "refused".into() };
        s.node(1, NodeEvent::Frame(failed), &mut io);
        let text = String::from_utf8_lossy(&io.out).into_owned();
        assert!(text.contains("error forwarding port 8081 to pod p, uid u: refused"), "{text}");
        s.client(&masked(0x88, &[]), &mut io);
        assert_eq!(io.acts, [Act::Cut(0), Act::End]);
    }

    #[test]
    fn bare_spdy_and_what_it_refuses() {
        let mut client = spdy::tests::Client::default();
        let mut s = Forward::new(target(), false);
        let mut io = Io::default();
        s.client(&client.syn_stream(1, &[("streamtype", "data"), ("port", "0")]), &mut io);
        s.client(&client.syn_stream(3, &[("streamtype", "odd"), ("port", "1")]), &mut io);
        let mut want = Vec::new();
        spdy::reset(1, 1, &mut want);
        spdy::reset(3, 1, &mut want);
        assert_eq!(io.out, want);
        // Without request ids the numbers pair them.
        let mut io = Io::default();
        s.client(&client.syn_stream(5, &[("streamtype", "error"), ("port", "80")]), &mut io);
        s.client(&client.syn_stream(7, &[("streamtype", "data"), ("port", "80")]), &mut io);
        assert!(matches!(io.acts.pop_front(), Some(Act::Open(..))));
        let mut cut = Vec::new();
        spdy::reset(7, 5, &mut cut);
        s.client(&cut, &mut io);
        assert!(matches!(io.acts.pop_front(), Some(Act::Cut(_))));
        s.client(&[0x80, 9, 9, 9, 0, 0, 0, 0], &mut io);
        assert_eq!(io.acts, [Act::End]);
    }
}
