//! The API server. [`server::Server`] is the pure core: requests and store events in, replies and store
//! requests out. `front/` turns HTTP and WebSocket bytes into the same requests, also without sockets; `authn/`
//! says who asks.

mod admission;
mod alloc;
pub mod authn;
pub mod authz;
mod bootstrap;
pub mod cache;
pub mod convert;
pub mod error;
pub mod front;
mod index;
pub mod limits;
mod pod;
pub mod read;
pub mod registry;
pub mod server;
pub mod status;
mod sync;
mod watch;
mod write;
