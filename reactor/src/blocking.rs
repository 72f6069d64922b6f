//! For people who can wait: the CLI's way to the API server. The same loop, turned until the answer is there.

use crate::addr::{Endpoint, Peer};
use crate::looper::{Event, Loop, Token};
use pintle_base::Time;
use pintle_wire::conn::{self, Hello, Limits, ResetCode, SendError, StreamId};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Duration;

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// No connection, or it was lost; the text names the endpoint and the reason.
    Down(String),
    /// It took too long.
    Timeout(Duration),
    /// The server cut the stream.
    Reset(ResetCode),
    /// The request is larger than the server takes.
    TooLarge,
    /// The loop itself failed.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Down(why) => write!(f, "no connection to the server: {why}"),
            Error::Timeout(after) => write!(f, "no answer within {} s", after.as_secs_f64()),
            Error::Reset(code) => write!(f, "the server cut the request off: {code:?}"),
            Error::TooLarge => f.write_str("the request is larger than the server takes"),
            Error::Io(_) => f.write_str("waiting for the server failed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(e) => Some(e),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Error {
        Error::Io(e)
    }
}

/// One connection and one stream at a time.
pub struct Client {
    l: Loop<()>,
    token: Token,
    /// Who answered.
    pub peer: Peer,
    /// What it says of itself.
    pub hello: Hello,
    timeout: Duration,
    waiting: VecDeque<(StreamId, Item)>,
}

enum Item {
    Message(Vec<u8>),
    Finished,
    Reset(ResetCode),
}

impl Client {
    /// Connects; waits at most `timeout` for that, and later for each answer.
    pub fn connect(
        endpoint: Endpoint,
        hello: Hello,
        limits: Limits,
        timeout: Duration,
    ) -> Result<Client, Error> {
        let mut l = Loop::new()?;
        let deadline = l.now().mono + timeout;
        let token = l.wire_connect(endpoint, hello, limits);
        loop {
            l.poll(Some(deadline))?;
            while let Some(event) = l.next() {
                match event {
                    Event::WireUp(_, peer, hello) => {
                        let waiting = VecDeque::new();
                        return Ok(Client { l, token, peer, hello, timeout, waiting });
                    }
                    Event::WireDown(_, why) => return Err(Error::Down(why)),
                    Event::Timer => return Err(Error::Timeout(timeout)),
                    _ => {}
                }
            }
        }
    }

    /// One request (an encoded `msg::Open`), one reply.
    pub fn call(&mut self, request: &[u8]) -> Result<Vec<u8>, Error> {
        let deadline = self.deadline();
        let stream = self.open(request, true)?;
        match self.next(stream, Some(deadline))? {
            Some(reply) => {
                self.cancel(stream);
                Ok(reply)
            }
            None => Err(Error::Reset(ResetCode::Internal)),
        }
    }

    /// A deadline for one answer.
    fn deadline(&self) -> Time {
        crate::RealClock.now_mono() + self.timeout
    }

    /// Opens a stream whose messages `next` then gives; with `only`, nothing more is sent on it.
    pub fn open(&mut self, first: &[u8], only: bool) -> Result<StreamId, Error> {
        loop {
            let Some(conn) = self.l.wire(self.token) else {
                return Err(Error::Down("lost".into()));
            };
            match if only { conn.request(first) } else { conn.open(first) } {
                Ok(stream) => return Ok(stream),
                Err(SendError::Blocked) => self.turn(None)?,
                Err(SendError::TooLarge) => return Err(Error::TooLarge),
                Err(SendError::Closed) => {
                    return Err(Error::Down("the server goes away".into()));
                }
            }
        }
    }

    /// Sends a message on an open stream, waiting for room.
    pub fn send(&mut self, stream: StreamId, message: &[u8]) -> Result<(), Error> {
        loop {
            let Some(conn) = self.l.wire(self.token) else {
                return Err(Error::Down("lost".into()));
            };
            match conn.send(stream, message, &[]) {
                Ok(()) => {
                    self.l.flush();
                    return Ok(());
                }
                Err(SendError::Blocked) => self.turn(None)?,
                Err(SendError::TooLarge) => return Err(Error::TooLarge),
                Err(SendError::Closed) => return Err(Error::Reset(ResetCode::Cancel)),
            }
        }
    }

    /// The stream's next message; `None` when the server has finished it. Without a deadline it waits as long
    /// as the connection lives (a watch).
    pub fn next(
        &mut self,
        stream: StreamId,
        deadline: Option<Time>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut turned = Ok(());
        loop {
            if let Some(at) = self.waiting.iter().position(|(s, _)| *s == stream)
                && let Some((_, item)) = self.waiting.remove(at)
            {
                return match item {
                    Item::Message(bytes) => {
                        if let Some(conn) = self.l.wire(self.token) {
                            conn.consumed(stream, bytes.len());
                        }
                        Ok(Some(bytes))
                    }
                    Item::Finished => Ok(None),
                    Item::Reset(code) => Err(Error::Reset(code)),
                };
            }
            // What arrived with the bad news counts first.
            turned?;
            turned = self.turn(deadline);
        }
    }

    /// Cuts a stream; nothing more comes from it.
    pub fn cancel(&mut self, stream: StreamId) {
        if let Some(conn) = self.l.wire(self.token) {
            conn.reset(stream, ResetCode::Cancel);
        }
        self.waiting.retain(|(s, _)| *s != stream);
        self.l.flush();
    }

    fn turn(&mut self, deadline: Option<Time>) -> Result<(), Error> {
        self.l.poll(deadline)?;
        let mut result = Ok(());
        while let Some(event) = self.l.next() {
            match event {
                Event::Wire(_, conn::Event::Message(s, bytes)) => {
                    self.waiting.push_back((s, Item::Message(bytes)));
                }
                Event::Wire(_, conn::Event::Finished(s)) => {
                    self.waiting.push_back((s, Item::Finished));
                }
                Event::Wire(_, conn::Event::Reset(s, code)) => {
                    self.waiting.push_back((s, Item::Reset(code)));
                }
                Event::Wire(_, conn::Event::Opened(s, _)) => {
                    // A client serves nothing.
                    if let Some(conn) = self.l.wire(self.token) {
                        conn.reset(s, ResetCode::Unsupported);
                    }
                }
                Event::WireDown(_, why) => result = Err(Error::Down(why)),
                Event::Timer => result = Err(Error::Timeout(self.timeout)),
                _ => {}
            }
        }
        result
    }
}
