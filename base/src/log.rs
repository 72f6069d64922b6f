//! Structured log lines on standard error, in logfmt: a constant message and `key=value` pairs.
//!
//! `log::info("pod started", &[("pod", &name), ("took_ms", &ms)])`. The wall time is set once a turn by the
//! shell with [`set_wall`]; a line carries the time of its turn. An error is logged once, by whoever stops
//! passing it on.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use crate::time::Wall;

/// How important a line is. Lines below the process's level are not formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// For somebody who debugs Pintle itself.
    Debug = 0,
    /// What an operator may want to know afterwards.
    Info = 1,
    /// Something is off and the daemon goes on.
    Warn = 2,
    /// Something failed and was given up.
    Error = 3,
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static WALL: AtomicI64 = AtomicI64::new(0);

/// Sets the lowest level that is printed.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Tells the log what time it is; called by the shell once a turn.
pub fn set_wall(now: Wall) {
    WALL.store(now.0, Ordering::Relaxed);
}

/// The wall time of the current turn, as last told.
pub fn wall() -> Wall {
    Wall(WALL.load(Ordering::Relaxed))
}

/// Writes one line. Values with spaces, quotes or control characters are quoted and escaped.
pub fn line(level: Level, message: &str, fields: &[(&str, &dyn Display)]) {
    if (level as u8) < LEVEL.load(Ordering::Relaxed) {
        return;
    }
    let name = match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    let mut out = format!("{} {name} {message}", wall().rfc3339_micro());
    for (key, value) in fields {
        let text = value.to_string();
        if text.is_empty()
            || text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '"' || c == '=')
        {
            let _ = write!(out, " {key}={text:?}");
        } else {
            let _ = write!(out, " {key}={text}");
        }
    }
    out.push('\n');
    // A log that cannot be written has nobody to be told to.
    let _ = std::io::stderr().write_all(out.as_bytes());
}

/// Logs at [`Level::Debug`].
pub fn debug(message: &str, fields: &[(&str, &dyn Display)]) {
    line(Level::Debug, message, fields);
}

/// Logs at [`Level::Info`].
pub fn info(message: &str, fields: &[(&str, &dyn Display)]) {
    line(Level::Info, message, fields);
}

/// Logs at [`Level::Warn`].
pub fn warn(message: &str, fields: &[(&str, &dyn Display)]) {
    line(Level::Warn, message, fields);
}

/// Logs at [`Level::Error`].
pub fn error(message: &str, fields: &[(&str, &dyn Display)]) {
    line(Level::Error, message, fields);
}
