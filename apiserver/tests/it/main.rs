//! The API server driven from outside: the core by requests, the fronts by bytes, over a store in memory.

mod basics;
mod front;
mod kinds;
mod props;
mod rig;
mod streams;
mod web;
