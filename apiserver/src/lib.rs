//! The API server. [`server::Server`] is the pure core: requests and store events in, replies and store
//! requests out. `front/` turns HTTP and WebSocket bytes into the same requests, also without sockets; `authn/`
//! says who asks.

pub mod authn;
pub mod authz;
pub mod error;
pub mod front;
pub mod server;
