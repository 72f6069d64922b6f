//! Streams that the API server opens to a node over the node's own connection: a node listens on nothing.

use bincode::{Decode, Encode};

/// What the API server wants of a node; one a stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Run a command in a container.
    Exec {
        /// Where.
        target: Target,
        /// argv.
        command: Vec<String>,
        /// Which streams, and whether they are a terminal.
        io: Io,
    },
    /// Join a container's own standard streams.
    Attach {
        /// Where.
        target: Target,
        /// Which streams, and whether they are a terminal.
        io: Io,
    },
    /// A container's log, as `Frame::Data` on channel 1, then `Frame::End`.
    Logs {
        /// Where.
        target: Target,
        /// Which lines.
        options: LogOptions,
    },
    /// A byte stream (channel 0 in, 1 out) to a TCP port in the pod.
    PortForward {
        /// Where; the container is empty.
        target: Target,
        /// TCP port.
        port: u16,
    },
    /// `/stats/summary`, `/metrics`, ...: JSON or text on channel 1, then `Frame::End`.
    Get {
        /// Path on the kubelet.
        path: String,
    },
}

/// A container of a pod on this node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Target {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its uid as the API server knows it.
    pub uid: String,
    /// Container name; empty = none needed.
    pub container: String,
}

/// Which streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Io {
    /// Channel 0.
    pub stdin: bool,
    /// Channel 1.
    pub stdout: bool,
    /// Channel 2.
    pub stderr: bool,
    /// One terminal instead of three pipes.
    pub tty: bool,
}

/// Which lines of a log (PodLogOptions).
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct LogOptions {
    /// Go on with new lines until the container ends.
    pub follow: bool,
    /// The previous instance's.
    pub previous: bool,
    /// Prefix each line with its RFC 3339 time.
    pub timestamps: bool,
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
    /// Only lines newer than this many nanoseconds since 1970.
    pub since_unix_ns: Option<i64>,
    /// Stop after so many bytes.
    pub limit_bytes: Option<u64>,
}

/// What both sides send on such a stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Frame {
    /// Node to server, once, first: the request was accepted (the command runs, the port is connected).
    Accepted,
    /// Bytes of a channel: 0 stdin, 1 stdout, 2 stderr.
    Data {
        /// The channel.
        channel: u8,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The sender will send no more on this channel.
    CloseChannel {
        /// The channel.
        channel: u8,
    },
    /// The user's terminal has this size.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// The command ended with this exit code (128 + signal when killed). Last frame of exec and attach.
    Exit {
        /// The exit code.
        code: i32,
    },
    /// Success; last frame of everything else.
    End,
    /// Failure, in place of `Accepted` or later; last frame.
    Failed {
        /// HTTP status code that fits.
        code: u16,
        /// Status reason, `NotFound`, `BadRequest`, `InternalError`.
        reason: String,
        /// What failed, on which object, and what to do.
        message: String,
    },
}
