//! Streams to and from a node's containers: exec, attach, port-forward and logs, in every form in which clients
//! ask for them. Without sockets: client bytes and node frames go in, client bytes and node frames come out.
//!
//! `exec` serves exec and attach over WebSocket channels and over SPDY, `forward` port-forward over SPDY (bare
//! or inside WebSocket), `ports` port-forward over WebSocket channels, `log` a log.

pub mod exec;
pub mod forward;
pub mod log;
pub mod ports;
pub mod spdy;
pub mod ws;

use pintle_wire::msg::node::{Frame, Request};
use serde_json::{Value, json};
use std::collections::VecDeque;

/// Number of a node stream within a session.
pub type Slot = u32;

/// What a session wants done on the node's side, or with the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Open a stream to the node.
    Open(Slot, Request),
    /// Send a frame on it.
    Send(Slot, Frame),
    /// Cut it: nobody is interested any more.
    Cut(Slot),
    /// The session is over: close the client's connection when all is written.
    End,
}

/// What happened on the node's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// A frame came.
    Frame(Frame),
    /// The stream (or the node's connection) is gone without a last frame; the text says why.
    Gone(String),
}

/// Where a session puts what it wants.
#[derive(Debug, Default)]
pub struct Io {
    /// In this order.
    pub acts: VecDeque<Act>,
    /// Bytes for the client.
    pub out: Vec<u8>,
}

/// One client's streams.
pub enum Session {
    /// Exec or attach.
    Exec(Box<exec::Exec>),
    /// Port-forward over SPDY.
    Forward(Box<forward::Forward>),
    /// Port-forward over WebSocket channels.
    Ports(ports::Ports),
    /// A log.
    Log(log::Log),
}

impl Session {
    /// The client's connection was upgraded (or its answer begun).
    pub fn begun(&mut self, io: &mut Io) {
        match self {
            Session::Exec(s) => s.begun(io),
            Session::Ports(s) => s.begun(io),
            Session::Forward(_) | Session::Log(_) => {}
        }
    }

    /// The client sent bytes.
    pub fn client(&mut self, bytes: &[u8], io: &mut Io) {
        match self {
            Session::Exec(s) => s.client(bytes, io),
            Session::Forward(s) => s.client(bytes, io),
            Session::Ports(s) => s.client(bytes, io),
            Session::Log(s) => s.client(bytes, io),
        }
    }

    /// Something happened on the node's side.
    pub fn node(&mut self, slot: Slot, event: NodeEvent, io: &mut Io) {
        match self {
            Session::Exec(s) => s.node(event, io),
            Session::Forward(s) => s.node(slot, event, io),
            Session::Ports(s) => s.node(slot, event, io),
            Session::Log(s) => s.node(event, io),
        }
    }
}

/// The Status that ends exec and attach in the newer protocols.
pub fn status_of(end: &NodeEvent, command: &[String]) -> Option<Value> {
    match end {
        NodeEvent::Frame(Frame::Exit { code: 0 } | Frame::End) => {
            Some(json!({"metadata": {}, "status": "Success"}))
        }
        NodeEvent::Frame(Frame::Exit { code }) => Some(json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!(
                "command terminated with non-zero exit code: error executing command {command:?}, exit code {code}"
            ),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        })),
        NodeEvent::Frame(Frame::Failed { code, reason, message }) => Some(json!({
            "metadata": {}, "status": "Failure", "reason": reason, "message": message, "code": code,
        })),
        NodeEvent::Gone(why) => Some(json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: error executing command in container: {why}"),
        })),
        NodeEvent::Frame(
            Frame::Accepted
            | Frame::Data { .. }
            | Frame::CloseChannel { .. }
            | Frame::Resize { .. },
        ) => None,
    }
}
