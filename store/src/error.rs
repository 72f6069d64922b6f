//! Why a store cannot be opened.

use std::fmt;
use std::io;

/// Why a store cannot be opened. Requests have errors of their own: `pintle_wire::msg::store::Error`.
#[derive(Debug)]
pub enum OpenError {
    /// The disk refused something.
    Io {
        /// What was tried, and on which file.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that were once durable are not what they were.
    Damaged {
        /// File name of the segment.
        segment: String,
        /// First byte that makes no sense.
        offset: u64,
        /// What is wrong with it.
        why: String,
    },
}

impl OpenError {
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> OpenError {
        OpenError::Io { what: what.into(), source }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io { what, source } => write!(f, "cannot {what}: {source}"),
            OpenError::Damaged { segment, offset, why } => write!(
                f,
                "log damaged in the middle: {segment} at offset {offset}: {why}; nothing was changed; \
                 look with `pintle store fsck --data-dir D`, then restore a backup, or cut the log there \
                 with `pintle store fsck --repair` (it keeps the damaged files aside)"
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Io { source, .. } => Some(source),
            OpenError::Damaged { .. } => None,
        }
    }
}
