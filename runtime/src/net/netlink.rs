//! Netlink by hand: messages with nested attributes, a socket that sends a batch and reads its answers.
//!
//! What it is not: a model of links and routes (those are in [`super::link`] and [`super::route`]). Every call
//! blocks only for the kernel's own work: rtnetlink and ctnetlink answer within the system call. Received bytes
//! come from the kernel and are still cut with length checks, never indexed blindly.
//!
//! Reference: netlink(7), rtnetlink(7).

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use std::io;
use std::os::fd::OwnedFd;

/// Bytes that one receive may take; the kernel's dumps use at most 32 KiB a datagram.
const RECEIVE_BYTES: usize = 64 << 10;
/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Attribute type bits that are not the type: nested, network byte order.
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLA_F_NESTED: u16 = 0x8000;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

/// One request being written.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    open: Vec<usize>,
}

impl Message {
    /// A message of `kind` whose family header (`ifinfomsg`, `rtmsg`, ...) is `family_header`.
    pub(crate) fn new(kind: u16, flags: u16, family_header: &[u8]) -> Message {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        let mut message = Message { bytes, open: Vec::new() };
        message.raw(family_header);
        message
    }

    /// Bytes as they are, padded to four (a header in the middle, as in `VETH_INFO_PEER`).
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Message {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// One attribute.
    pub(crate) fn attr(&mut self, kind: u16, data: &[u8]) -> &mut Message {
        let len = u16::try_from(4 + data.len()).unwrap_or(u16::MAX);
        debug_assert_eq!(usize::from(len), 4 + data.len());
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(data);
        self.pad();
        self
    }

    /// A text attribute, ended by a zero byte.
    pub(crate) fn text(&mut self, kind: u16, text: &str) -> &mut Message {
        let mut data = Vec::with_capacity(text.len() + 1);
        data.extend_from_slice(text.as_bytes());
        data.push(0);
        self.attr(kind, &data)
    }

    /// A number attribute in host byte order.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Message {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// One byte.
    pub(crate) fn u8(&mut self, kind: u16, value: u8) -> &mut Message {
        self.attr(kind, &[value])
    }

    /// Attributes from here to the matching [`Message::end`] are inside this one.
    pub(crate) fn nest(&mut self, kind: u16) -> &mut Message {
        self.open.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        self
    }

    /// Ends the innermost nested attribute.
    pub(crate) fn end(&mut self) -> &mut Message {
        if let Some(start) = self.open.pop() {
            let len = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
            self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        }
        self
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn finish(&self, sequence: u32, more_flags: u16, out: &mut Vec<u8>) {
        debug_assert!(self.open.is_empty());
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&len.to_ne_bytes());
        let flags = u16::from_ne_bytes([out[start + 6], out[start + 7]]) | more_flags;
        out[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        out[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// One answer: the message after its header.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    payload: Vec<u8>,
}

impl Answer {
    /// The first `n` bytes (the family header), if there are as many.
    pub(crate) fn header(&self, n: usize) -> Option<&[u8]> {
        self.payload.get(..n)
    }

    /// The attributes behind a family header of `n` bytes.
    pub(crate) fn attributes(&self, n: usize) -> Attributes<'_> {
        Attributes { rest: self.payload.get(n.next_multiple_of(4)..).unwrap_or(&[]) }
    }
}

/// Walks attributes: (type without flag bits, data).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes inside a nested one.
    pub(crate) fn inside(data: &'a [u8]) -> Attributes<'a> {
        Attributes { rest: data }
    }

    /// The first attribute of this type.
    pub(crate) fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(k, data)| (k == kind).then_some(data))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let len = usize::from(u16::from_ne_bytes(*self.rest.first_chunk()?));
        let kind = u16::from_ne_bytes(self.rest.get(2..4)?.try_into().ok()?);
        let data = self.rest.get(4..len)?;
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind & NLA_TYPE_MASK, data))
    }
}

/// A host-order number of an attribute.
pub(crate) fn as_u32(data: &[u8]) -> Option<u32> {
    data.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

/// A text of an attribute, without its zero byte.
pub(crate) fn as_text(data: &[u8]) -> String {
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    String::from_utf8_lossy(&data[..end]).into_owned()
}

/// Which part of the kernel a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Links, addresses, routes.
    Route,
    /// Connection tracking.
    Netfilter,
}

/// A netlink socket of the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(family: Family) -> io::Result<Socket> {
        let protocol = match family {
            // NETLINK_ROUTE is protocol 0.
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        Ok(Socket { fd, sequence: 0, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Sends one change and waits for the kernel's verdict.
    pub(crate) fn change(&mut self, message: &Message) -> io::Result<()> {
        self.changes(std::slice::from_ref(message)).map_err(|(_, e)| e)
    }

    /// Sends several changes in one system call. All are tried; the first error is told with its index.
    pub(crate) fn changes(&mut self, messages: &[Message]) -> Result<(), (usize, io::Error)> {
        if messages.is_empty() {
            return Ok(());
        }
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.finish(self.sequence, NLM_F_ACK, &mut bytes);
        }
        self.send(&bytes).map_err(|e| (0, e))?;
        let mut verdict = Ok(());
        let mut waiting = messages.len();
        while waiting > 0 {
            let answers = self.receive().map_err(|e| (0, e))?;
            for (kind, sequence, payload) in answers {
                let index = sequence.wrapping_sub(first) as usize;
                if kind != NLMSG_ERROR || index >= messages.len() {
                    continue;
                }
                waiting -= 1;
                if let (Some(e), Ok(())) = (error_of(&payload), &verdict) {
                    verdict = Err((index, e));
                }
            }
        }
        verdict
    }

    /// Asks for one object: the answer, or `None` when the kernel says that there is none.
    pub(crate) fn get(&mut self, message: &Message) -> io::Result<Option<Answer>> {
        match self.query(message, NLM_F_ACK) {
            Ok(answers) => Ok(answers.into_iter().next()),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Asks for all objects of a kind.
    pub(crate) fn dump(&mut self, message: &Message) -> io::Result<Vec<Answer>> {
        self.query(message, NLM_F_DUMP)
    }

    fn query(&mut self, message: &Message, flags: u16) -> io::Result<Vec<Answer>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        message.finish(self.sequence, flags, &mut bytes);
        self.send(&bytes)?;
        let mut found = Vec::new();
        loop {
            for (kind, sequence, payload) in self.receive()? {
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => return error_of(&payload).map_or(Ok(found), Err),
                    _ => found.push(Answer { payload }),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = rustix::net::send(&self.fd, bytes, SendFlags::empty())?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(io::Error::other(format!("netlink took {sent} of {} bytes", bytes.len())))
        }
    }

    /// One datagram, cut into (type, sequence, payload).
    fn receive(&mut self) -> io::Result<Vec<(u16, u32, Vec<u8>)>> {
        let buffer = self.buffer.as_mut_slice();
        let (_, len) = match rustix::net::recv(&self.fd, buffer, RecvFlags::TRUNC) {
            Ok(got) => got,
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let Some(mut rest) = self.buffer.get(..len) else {
            return Err(io::Error::other(format!(
                "netlink answer of {len} bytes is over the buffer of {RECEIVE_BYTES} bytes"
            )));
        };
        let mut out = Vec::new();
        while let Some((header, _)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
            let Some(payload) = rest.get(HEADER_BYTES..len) else { break };
            out.push((kind, sequence, payload.to_vec()));
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        }
        Ok(out)
    }
}

/// The error in an `nlmsgerr` or `NLMSG_DONE` payload; none when it is a plain acknowledgement.
fn error_of(payload: &[u8]) -> Option<io::Error> {
    let code = payload.first_chunk().map(|b| i32::from_ne_bytes(*b)).unwrap_or(0);
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
}

/// The kernel says that the object is not there.
pub(crate) fn is_absent(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_pad() {
        let mut m = Message::new(16, 0, &[0; 16]);
        m.text(3, "ab").nest(18).text(1, "veth").nest(2).u8(4, 1).end().end();
        let mut bytes = Vec::new();
        m.finish(7, NLM_F_ACK, &mut bytes);
        assert_eq!(bytes.len() % 4, 0);
        let answer = Answer { payload: bytes[HEADER_BYTES..].to_vec() };
        let mut attributes = answer.attributes(16);
        assert_eq!(attributes.next().map(|(k, d)| (k, as_text(d))), Some((3, "ab".into())));
        let (kind, data) = attributes.next().expect("the nested one");
        assert_eq!(kind, 18);
        assert_eq!(Attributes::inside(data).find(1).map(as_text), Some("veth".into()));
        let inner = Attributes::inside(data).find(2).expect("inner nest");
        assert_eq!(Attributes::inside(inner).find(4), Some(&[1u8][..]));
        assert!(attributes.next().is_none());
    }

    #[test]
    fn torn_attributes_end_the_walk() {
        for len in [0u16, 3, 200] {
            let mut bytes = len.to_ne_bytes().to_vec();
            bytes.extend_from_slice(&[1, 0, 9, 9]);
            assert_eq!(Attributes::inside(&bytes).count(), 0, "length {len}");
        }
    }
}
