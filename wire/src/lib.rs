//! The binary protocol between daemons, without sockets: bytes in, events out.
//!
//! [`conn`] is the state machine of one connection (frames, handshake, streams, credit); [`msg`] holds the
//! messages that travel on streams. PROTOCOL.md specifies both. Nothing here reads a clock or a socket: the
//! reactor feeds bytes and time, the simulation does the same from a seed.

pub mod conn;
pub mod frame;
#[cfg(any(test, feature = "check"))]
pub mod hostile;
pub mod limits;
pub mod msg;
mod recv;
mod send;
mod stream;
#[cfg(test)]
mod tests;

pub use conn::{Conn, Error, Event, Hello, Limits, ResetCode, SendError, StreamId};
