//! The only crate that waits: mio loop, timers, signals, children, sockets and TLS.
