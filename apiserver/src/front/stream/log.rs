//! A container's log: bytes of a chunked answer, or binary WebSocket messages (`binary.k8s.io`).

use super::ws::{self, Message};
use super::{Act, Io, NodeEvent};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pintle_wire::msg::node::Frame;

/// In which form.
pub enum Form {
    /// The bytes as they are.
    Plain,
    /// Messages; base64 in text messages, or binary.
    Socket {
        /// What the client sends: pings and the close.
        reader: ws::Reader,
        /// `base64.binary.k8s.io`.
        base64: bool,
    },
}

/// One client's log.
pub struct Log {
    form: Form,
    over: bool,
}

impl Log {
    /// In this form.
    pub fn new(form: Form) -> Log {
        Log { form, over: false }
    }

    /// The client sent bytes.
    pub fn client(&mut self, bytes: &[u8], io: &mut Io) {
        let Form::Socket { reader, .. } = &mut self.form else { return };
        reader.push(bytes);
        while !self.over {
            let code = match reader.next_message() {
                Ok(Some(Message::Ping(bytes))) => {
                    ws::pong(&bytes, &mut io.out);
                    continue;
                }
                Ok(Some(Message::Data(_))) => continue,
                Ok(None) => return,
                Ok(Some(Message::Close(_))) => 1000,
                Err(v) => v.code,
            };
            self.over = true;
            ws::close(code, &mut io.out);
            io.acts.push_back(Act::Cut(0));
            io.acts.push_back(Act::End);
        }
    }

    /// Something happened on the node's side.
    pub fn node(&mut self, event: NodeEvent, io: &mut Io) {
        if self.over {
            return;
        }
        let text = match event {
            NodeEvent::Frame(Frame::Data { bytes, .. }) => return self.write(&bytes, io),
            NodeEvent::Frame(Frame::End | Frame::Exit { .. }) => String::new(),
            // The answer has begun, so that its text is all that is left to say it with.
            NodeEvent::Frame(Frame::Failed { message, .. }) | NodeEvent::Gone(message) => message,
            NodeEvent::Frame(
                Frame::Accepted | Frame::CloseChannel { .. } | Frame::Resize { .. },
            ) => return,
        };
        self.over = true;
        self.write(text.as_bytes(), io);
        if let Form::Socket { .. } = self.form {
            ws::close(1000, &mut io.out);
        }
        io.acts.push_back(Act::End);
    }

    fn write(&self, bytes: &[u8], io: &mut Io) {
        if bytes.is_empty() {
            return;
        }
        match self.form {
            Form::Plain => io.out.extend_from_slice(bytes),
            Form::Socket { base64: false, .. } => ws::binary(&[bytes], &mut io.out),
            Form::Socket { base64: true, .. } => {
                ws::text(&[STANDARD.encode(bytes).as_bytes()], &mut io.out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_plain_or_in_messages() {
        let line = NodeEvent::Frame(Frame::Data { channel: 1, bytes: b"hi\n".to_vec() });
        let mut io = Io::default();
        let mut s = Log::new(Form::Plain);
        s.node(line.clone(), &mut io);
        s.node(NodeEvent::Frame(Frame::End), &mut io);
        assert_eq!((io.out.as_slice(), io.acts), (&b"hi\n"[..], [Act::End].into()));
        let mut io = Io::default();
        let mut s = Log::new(Form::Socket { reader: ws::Reader::default(), base64: false });
        s.node(line, &mut io);
        s.node(NodeEvent::Frame(Frame::End), &mut io);
        assert_eq!(io.out, b"\x82\x03hi\n\x88\x02\x03\xe8");
    }
}
