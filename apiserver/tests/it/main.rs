//! The API server's core driven from outside: requests in, answers out, over a store in memory.

mod basics;
mod rig;
