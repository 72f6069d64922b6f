//! The shim's control socket: a stream of frames, each way. One request, one reply, a connection each; after `Subscribe`
//! the shim sends an event a frame until the end.
//!
//! | bytes | what |
//! |---|---|
//! | 4, little-endian | length of the payload, at most [`limits::MESSAGE_BYTES_MAX`] |
//! | 4, little-endian | how many descriptors came with this frame (SCM_RIGHTS on its first byte) |
//! | length | JSON of a [`Request`], [`Reply`] or `ShimEvent` |

use crate::limits;
use crate::program::Program;
use crate::sandbox::{ContainerState, Error, Result};
use crate::sys::pass;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Where a process's streams come from; numbers are positions among the descriptors of the message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Stdio {
    /// The shim makes pipes for standard output and error and logs what comes; standard input as `stdin` says.
    Logged {
        /// A pipe that attachers write to; else /dev/null.
        stdin: bool,
    },
    /// A terminal; the shim logs what comes out.
    Terminal {
        /// Master side.
        master: usize,
        /// Slave side.
        slave: usize,
    },
    /// The caller's own (exec): `None` is /dev/null.
    Given {
        /// 0, 1, 2.
        fds: [Option<usize>; 3],
        /// Master side when they are a terminal, for its size.
        master: Option<usize>,
    },
}

/// What the shim must know of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewContainer {
    /// Id.
    pub id: String,
    /// For its state.
    pub image_id: String,
    /// For its state.
    pub labels: BTreeMap<String, String>,
    /// For its state.
    pub created_ns: i64,
    /// Its folder on disk.
    pub dir: PathBuf,
    /// Its cgroup's folder.
    pub cgroup: PathBuf,
    /// Its streams.
    pub stdio: Stdio,
    /// Close standard input when the first attacher has left.
    pub stdin_once: bool,
    /// CRI log.
    pub log_path: PathBuf,
    /// Size at which it is rotated; 0 = never.
    pub log_bytes_max: u64,
    /// Files kept.
    pub log_files_max: u32,
    /// The way to its program.
    pub program: Program,
}

/// What a caller asks of a shim.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// All containers.
    State,
    /// Make one; answered when it waits before exec.
    Create(Box<NewContainer>),
    /// Let it go; answered when exec worked or failed.
    Start(String),
    /// A signal.
    Kill {
        /// Container.
        id: String,
        /// Signal.
        signal: i32,
        /// To all processes of its cgroup.
        all: bool,
    },
    /// Forget it; with `force` kill it first. Answered when it is dead.
    Remove {
        /// Container.
        id: String,
        /// Kill.
        force: bool,
    },
    /// Run a command in it; answered when exec worked or failed.
    Exec {
        /// Container.
        id: String,
        /// The way; joins by descriptor 0, which the shim adds in front.
        program: Box<Program>,
        /// Streams, by position after the added one.
        stdio: Stdio,
        /// Kill it after this long; 0 = never.
        timeout_ms: u64,
    },
    /// Join its streams.
    Attach {
        /// Container.
        id: String,
        /// Also standard input.
        stdin: bool,
    },
    /// Terminal size.
    Resize {
        /// Container.
        id: String,
        /// 0 = the container's own terminal.
        exec: u64,
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Events from now on, those of ended containers at once.
    Subscribe,
    /// Connect to a port on loopback.
    Dial(u16),
    /// End, with all containers.
    Stop,
}

/// What the shim answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// To `State`.
    State {
        /// The shim.
        pid: u32,
        /// All containers.
        containers: Vec<ContainerState>,
    },
    /// The container after the change.
    Container(ContainerState),
    /// Number of the exec; descriptors of an attach: which of the three came, in order.
    Streams {
        /// Number.
        exec: u64,
        /// Which came.
        came: [bool; 3],
    },
    /// It is not there.
    NotFound(String),
    /// It makes no sense now.
    Invalid(String),
    /// It exists.
    Exists(String),
    /// The kernel said no.
    Failed(String, i32),
}

impl Reply {
    /// An answer that is an error as that error.
    pub fn into_result(self) -> Result<Reply> {
        match self {
            Reply::NotFound(s) => Err(Error::NotFound(s)),
            Reply::Invalid(s) => Err(Error::Invalid(s)),
            Reply::Exists(s) => Err(Error::Exists(s)),
            Reply::Failed(s, e) => Err(Error::Io(s, std::io::Error::from_raw_os_error(e))),
            r => Ok(r),
        }
    }
}

impl From<Error> for Reply {
    fn from(e: Error) -> Reply {
        match e {
            Error::NotFound(s) => Reply::NotFound(s),
            Error::Exists(s) => Reply::Exists(s),
            Error::Invalid(s) | Error::Unsupported(s) => Reply::Invalid(s),
            Error::Io(s, e) => Reply::Failed(s, e.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
}

/// A message as a frame.
pub fn encode<T: Serialize>(message: &T, fds: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; 8];
    serde_json::to_writer(&mut out, message)
        .map_err(|e| Error::Invalid(format!("encode a message for the shim: {e}")))?;
    let len = out.len() - 8;
    if len > limits::MESSAGE_BYTES_MAX {
        return Err(Error::Invalid(format!(
            "a message for the shim has {len} bytes, the limit is {}",
            limits::MESSAGE_BYTES_MAX
        )));
    }
    out[..4].copy_from_slice(&(len as u32).to_le_bytes());
    out[4..8].copy_from_slice(&(fds as u32).to_le_bytes());
    Ok(out)
}

/// The first frame in `buffer`: (bytes it takes, payload, descriptors). `None` = not all here yet.
pub fn first_frame(buffer: &[u8]) -> Result<Option<(usize, &[u8], usize)>> {
    let Some((head, rest)) = buffer.split_at_checked(8) else { return Ok(None) };
    let word =
        |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]) as usize;
    let (len, fds) = (word(0), word(4));
    if len > limits::MESSAGE_BYTES_MAX || fds > pass::FDS_MAX {
        return Err(Error::Invalid(format!(
            "a frame of {len} bytes with {fds} descriptors is over the limits of {} and {}",
            limits::MESSAGE_BYTES_MAX,
            pass::FDS_MAX
        )));
    }
    Ok(rest.get(..len).map(|payload| (8 + len, payload, fds)))
}

/// Sends a frame whole on a blocking socket.
pub fn send(
    socket: BorrowedFd<'_>,
    frame: &[u8],
    fds: &[BorrowedFd<'_>],
) -> std::result::Result<(), Errno> {
    let mut sent = pass::send(socket, frame, fds)?;
    while sent < frame.len() {
        sent += pass::send(socket, &frame[sent..], &[])?;
    }
    Ok(())
}

/// Receives a reply on a blocking socket.
pub fn receive(socket: BorrowedFd<'_>) -> Result<(Reply, Vec<OwnedFd>)> {
    let io = |e: Errno| match e {
        Errno::AGAIN => Error::Io(
            format!("the shim did not answer within {} ms", limits::ANSWER_TIMEOUT_MS),
            Errno::TIMEDOUT.into(),
        ),
        e => Error::Io(format!("read the shim's answer: {e}"), e.into()),
    };
    let (mut buffer, mut fds) = (Vec::new(), Vec::new());
    let mut part = [0u8; 4096];
    loop {
        if let Some((_, payload, _)) = first_frame(&buffer)? {
            let reply = serde_json::from_slice(payload)
                .map_err(|e| Error::Invalid(format!("the shim's answer is damaged: {e}")))?;
            return Ok((reply, fds));
        }
        match pass::receive(socket, &mut part, &mut fds).map_err(io)? {
            0 => {
                return Err(Error::Io(
                    "the shim died before it answered".into(),
                    Errno::PIPE.into(),
                ));
            }
            n => buffer.extend_from_slice(&part[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_and_bounded() {
        let frame = encode(&Request::Dial(80), 3).expect("encode");
        for i in 0..frame.len() {
            assert!(first_frame(&frame[..i]).expect("short").is_none());
        }
        let (used, payload, fds) = first_frame(&frame).expect("whole").expect("there");
        assert_eq!((used, fds), (frame.len(), 3));
        assert_eq!(payload, br#"{"Dial":80}"#);
        assert!(first_frame(&[0xff; 8]).is_err());
        assert!(first_frame(&[0, 0, 0, 0, 0xff, 0, 0, 0]).is_err());
    }
}
