//! The only crate that waits: one loop a thread, a closed enum of events.
//!
//! A shell owns a [`Loop`], registers what it cares about, and turns: `poll` (waits until something happens
//! or a deadline passes, reads the clock once), then `next` until it gives `None`. The loop moves bytes; it
//! does not know what they mean. Nothing here blocks but `poll`.
//!
//! ```no_run
//! use pintle_reactor::{Endpoint, Event, Loop, Signal, notify};
//! use pintle_wire::conn::{self, Hello, Limits};
//!
//! # fn main() -> std::io::Result<()> {
//! let mut l: Loop<String> = Loop::new()?; // worker threads post Strings
//! let hello = Hello { daemon: "scheduler".into(), ..Hello::default() };
//! let api = l.wire_connect(Endpoint::Unix("/run/x/apiserver.sock".into()), hello, Limits::default());
//! l.signals(&[Signal::SIGTERM])?;
//! let poster = l.poster();
//! std::thread::spawn(move || poster.post("done".into()));
//! 'turns: loop {
//!     let now = l.poll(None)?; // or Some(time): Event::Timer comes when it has passed
//!     while let Some(event) = l.next() {
//!         match event {
//!             Event::WireUp(t, _peer, _hello) if t == api => {
//!                 notify::ready();
//!                 if let Some(conn) = l.wire(api) {
//!                     let _ = conn.request(b"...");
//!                 }
//!             }
//!             Event::Wire(t, conn::Event::Message(stream, bytes)) => {
//!                 if let Some(conn) = l.wire(t) {
//!                     conn.consumed(stream, bytes.len());
//!                 }
//!             }
//!             Event::WireDown(..) => {} // it connects again by itself
//!             Event::Signal(_) => break 'turns,
//!             _ => {}
//!         }
//!     }
//!     let _ = now.mono;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! - **Wire connections** ([`Loop::wire_connect`], [`Loop::wire_listen`]): the loop owns the
//!   [`pintle_wire::Conn`]; `wire(token)` lends it for sending, output goes out at the next `poll`. A
//!   connecting one reconnects with back-off under the same token until `close`.
//! - **Byte connections** ([`Loop::listen`], [`Loop::connect`], [`Loop::adopt`]): input is buffered (`input`,
//!   `consume`), bounded, and can be paused; output is buffered (`write`, `finish`), bounded, with
//!   [`Event::Drained`]. TLS is the loop's business.
//! - **Anything else with a descriptor** ([`Loop::watch_fd`]): level-triggered.
//! - **Children** ([`Loop::watch_child`]) by pidfd, **signals** ([`Loop::signals`]) by signalfd, **other threads**
//!   ([`Loop::poster`]).
//! - Tokens carry a generation: an event for something closed never reaches its successor.
//!
//! [`blocking::Client`] is the same loop for people who can wait: the CLI. [`tls`] makes configurations from PEM,
//! [`notify`] tells the supervisor that we are ready.

mod addr;
pub mod blocking;
mod bytes;
mod clock;
pub mod limits;
mod looper;
pub mod notify;
mod sources;
#[cfg(test)]
mod tests;
pub mod tls;
mod wires;

pub use addr::{Cred, Endpoint, Listen, Peer};
pub use bytes::WriteError;
pub use clock::RealClock;
pub use looper::{Event, Loop, Token};
pub use nix::sys::signal::Signal;
pub use sources::{Exit, Interest, Poster};
