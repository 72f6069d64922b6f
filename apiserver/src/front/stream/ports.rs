//! Port-forward over WebSocket channels, as the Python and JavaScript clients ask for it: `?ports=80`, and for
//! the i-th port channel 2i carries data and 2i + 1 an error text. The first message of each channel is the
//! port as two bytes, little-endian.

use super::exec::Protocol;
use super::ws::{self, Message};
use super::{Act, Io, NodeEvent, Slot};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pintle_wire::msg::node::{Frame, Request, Target};

/// One client's forwarded ports.
pub struct Ports {
    target: Target,
    protocol: Protocol,
    reader: ws::Reader,
    /// Each port, and whether its node stream is open.
    ports: Vec<(u16, bool)>,
    over: bool,
}

impl Ports {
    /// To a pod.
    pub fn new(target: Target, protocol: Protocol, ports: &[u16]) -> Ports {
        let ports = ports.iter().map(|p| (*p, true)).collect();
        Ports { target, protocol, reader: ws::Reader::default(), ports, over: false }
    }

    /// The connection was upgraded.
    pub fn begun(&mut self, io: &mut Io) {
        for (slot, (port, _)) in (0..).zip(&self.ports) {
            for channel in [slot * 2, slot * 2 + 1] {
                self.message(channel, &port.to_le_bytes(), io);
            }
            let request = Request::PortForward { target: self.target.clone(), port: *port };
            io.acts.push_back(Act::Open(slot, request));
        }
    }

    fn message(&self, channel: Slot, payload: &[u8], io: &mut Io) {
        let channel = channel as u8;
        if self.protocol.base64 {
            let digit = [b'0'.wrapping_add(channel)];
            ws::text(&[&digit, STANDARD.encode(payload).as_bytes()], &mut io.out);
        } else {
            ws::binary(&[&[channel], payload], &mut io.out);
        }
    }

    /// The client sent bytes.
    pub fn client(&mut self, bytes: &[u8], io: &mut Io) {
        self.reader.push(bytes);
        while !self.over {
            match self.reader.next_message() {
                Ok(Some(Message::Data(bytes))) => self.data(&bytes, io),
                Ok(Some(Message::Ping(bytes))) => ws::pong(&bytes, &mut io.out),
                Ok(Some(Message::Close(_))) => self.leave(1000, io),
                Ok(None) => return,
                Err(v) => self.leave(v.code, io),
            }
        }
    }

    fn data(&mut self, bytes: &[u8], io: &mut Io) {
        let Some((channel, payload)) = bytes.split_first() else { return };
        let (channel, bytes) = match self.protocol.base64 {
            false => (*channel, payload.to_vec()),
            true => match STANDARD.decode(payload) {
                Ok(decoded) => (channel.wrapping_sub(b'0'), decoded),
                Err(_) => return self.leave(1007, io),
            },
        };
        let open = self.ports.get(usize::from(channel / 2)).is_some_and(|(_, open)| *open);
        if channel % 2 == 0 && open && !bytes.is_empty() {
            let slot = Slot::from(channel / 2);
            io.acts.push_back(Act::Send(slot, Frame::Data { channel: 0, bytes }));
        }
    }

    fn leave(&mut self, code: u16, io: &mut Io) {
        self.over = true;
        ws::close(code, &mut io.out);
        for (slot, (_, open)) in (0..).zip(&self.ports) {
            if *open {
                io.acts.push_back(Act::Cut(slot));
            }
        }
        io.acts.push_back(Act::End);
    }

    /// Something happened on the node's side of one port.
    pub fn node(&mut self, slot: Slot, event: NodeEvent, io: &mut Io) {
        let Some((port, true)) = self.ports.get(slot as usize).copied() else { return };
        let why = match event {
            NodeEvent::Frame(Frame::Data { channel: 1, bytes }) => {
                for piece in bytes.chunks(32 << 10) {
                    self.message(slot * 2, piece, io);
                }
                return;
            }
            NodeEvent::Frame(Frame::End | Frame::Exit { .. }) => None,
            NodeEvent::Frame(Frame::Failed { message, .. }) => Some(message),
            NodeEvent::Gone(why) => Some(why),
            NodeEvent::Frame(
                Frame::Accepted
                | Frame::Data { .. }
                | Frame::CloseChannel { .. }
                | Frame::Resize { .. },
            ) => return,
        };
        if let Some(why) = why {
            let t = &self.target;
            let text =
                format!("error forwarding port {port} to pod {}, uid {}: {why}", t.pod, t.uid);
            self.message(slot * 2 + 1, text.as_bytes(), io);
        }
        if let Some(entry) = self.ports.get_mut(slot as usize) {
            entry.1 = false;
        }
        if self.ports.iter().all(|(_, open)| !open) {
            self.over = true;
            ws::close(1000, &mut io.out);
            io.acts.push_back(Act::End);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::exec::PROTOCOLS;
    use super::super::ws::tests::masked;
    use super::*;

    #[test]
    fn ports_are_announced_and_carried() {
        let mut s = Ports::new(
            Target {
                namespace: "ns".into(),
                pod: "p".into(),
                uid: "u".into(),
                container: String::new(),
            },
            PROTOCOLS[1],
            &[80, 443],
        );
        let mut io = Io::default();
        s.begun(&mut io);
        assert_eq!(
            io.out,
            [0x82, 3, 0, 80, 0, 0x82, 3, 1, 80, 0, 0x82, 3, 2, 187, 1, 0x82, 3, 3, 187, 1]
        );
        assert_eq!(io.acts.len(), 2);
        let mut io = Io::default();
        s.client(&masked(0x82, b"\x02hi"), &mut io);
        let frame = Frame::Data { channel: 0, bytes: b"hi".to_vec() };
        assert_eq!(io.acts, [Act::Send(1, frame)]);
        let mut io = Io::default();
        s.node(0, NodeEvent::Gone("no".into()), &mut io);
        assert!(String::from_utf8_lossy(&io.out).contains("error forwarding port 80 to pod p"));
        assert!(io.acts.is_empty());
        s.node(1, NodeEvent::Frame(Frame::End), &mut io);
        assert_eq!(io.acts, [Act::End]);
    }
}
