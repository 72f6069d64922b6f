//! One stream: what was received of the current message, who may still send how much, what waits for credit.

use crate::msg::Body;

/// A message of which a part still waits for credit or for its turn.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) head: Vec<u8>,
    pub(crate) body: Body,
    /// Bytes of head and body that have been cut into frames.
    pub(crate) pos: usize,
}

impl Pending {
    pub(crate) fn left(&self) -> usize {
        self.head.len() + self.body.len() - self.pos
    }
}

/// Why `send` was refused last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    No,
    /// Credit, or a message before this one that has not gone out.
    Stream,
    /// The connection's output.
    Output,
}

/// State of one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    // Receiving.
    /// The message under way.
    pub(crate) partial: Vec<u8>,
    /// Bytes that the peer may still send.
    pub(crate) recv_window: u32,
    /// Bytes handed out as messages and not yet `consumed`.
    pub(crate) unconsumed: usize,
    /// The first message (the one that opened the stream) is under way; it is not charged.
    pub(crate) opening: bool,
    /// Waits for, or has, its turn to receive a message larger than the window.
    pub(crate) in_lane: bool,
    /// The peer sends no more.
    pub(crate) remote_done: bool,
    // Sending.
    /// Bytes that we may still send.
    pub(crate) credit: u32,
    pub(crate) pending: Option<Pending>,
    /// In the connection's round of streams with something to cut.
    pub(crate) in_round: bool,
    pub(crate) blocked: Blocked,
    /// `finish` was called.
    pub(crate) fin: bool,
    /// The peer was told.
    pub(crate) fin_sent: bool,
}

impl Stream {
    pub(crate) fn new(recv_window: u32, credit: u32, opening: bool) -> Stream {
        Stream {
            partial: Vec::new(),
            recv_window,
            unconsumed: 0,
            opening,
            in_lane: false,
            remote_done: false,
            credit,
            pending: None,
            in_round: false,
            blocked: Blocked::No,
            fin: false,
            fin_sent: false,
        }
    }

    /// Bytes that this stream holds in memory.
    pub(crate) fn held(&self) -> usize {
        self.partial.len() + self.unconsumed
    }

    /// Credit to give now, 0 when it is not worth a frame yet. `alone`: it is this stream's turn to receive a
    /// message larger than the window.
    pub(crate) fn grant(&self, window: u32, alone: bool) -> u32 {
        if self.remote_done {
            return 0;
        }
        let held = if alone { 0 } else { u32::try_from(self.held()).unwrap_or(u32::MAX) };
        let grant = window.saturating_sub(self.recv_window.saturating_add(held));
        if grant >= window / 2 || self.recv_window == 0 { grant } else { 0 }
    }

    /// The peer can't go on with its message though the application has dealt with all before it.
    pub(crate) fn starved(&self) -> bool {
        !self.remote_done
            && self.recv_window == 0
            && self.unconsumed == 0
            && !self.partial.is_empty()
    }
}
