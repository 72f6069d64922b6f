//! One container (and one exec) as the shim holds it: process, streams, log, attachers, state on disk.

use super::log::{Lines, LogFile, Stream};
use crate::cgroup;
use crate::program::Program;
use crate::proto::Reply;
use crate::sandbox::{ContainerState, ContainerStatus};
use crate::sys::{self, process::Spawned};
use pintle_base::Wall;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Somebody who reads along.
pub struct Attacher {
    /// Which attacher; ends with its token.
    pub stdout: OwnedFd,
    /// Not for a terminal.
    pub stderr: Option<OwnedFd>,
}

/// A container from its birth to its removal.
pub struct Container {
    /// As told to callers and written to disk.
    pub state: ContainerState,
    /// Its folder.
    pub dir: PathBuf,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// The same as a descriptor, for execs.
    pub cgroup_fd: OwnedFd,
    /// First process.
    pub spawned: Spawned,
    /// Lets the process go; gone after that.
    pub go: Option<OwnedFd>,
    /// Who waits for creation or start to be answered.
    pub waiting: Option<u64>,
    /// Who waits for its end.
    pub removers: Vec<u64>,
    /// Its exec failed.
    pub start_failed: bool,
    /// Its set-up failed: the answer, given when the process is reaped.
    pub failed: Option<Reply>,
    /// Write end of standard input, or the terminal's master.
    pub stdin: Option<OwnedFd>,
    /// Terminal's master.
    pub terminal: Option<OwnedFd>,
    /// Drop our standard input when it was handed out once.
    pub stdin_once: bool,
    /// Readers along.
    pub attachers: Vec<Attacher>,
    /// The file.
    pub log: LogFile,
    /// Open lines of 1 and 2.
    pub lines: [Lines; 2],
    /// For messages about its set-up; dropped when it runs.
    pub program: Option<Box<Program>>,
}

impl Container {
    /// Its process has not been reaped.
    pub fn alive(&self) -> bool {
        !matches!(self.state.status, ContainerStatus::Exited { .. })
    }

    /// Writes its end to disk, for when the shim is not there to ask. A half-written one is taken for a kill.
    pub fn save_exit(&self) {
        let path = self.dir.join("exited.json");
        let written = serde_json::to_vec(&self.state)
            .map_err(std::io::Error::other)
            .and_then(|bytes| std::fs::write(&path, bytes));
        if let Err(e) = written {
            eprintln!("container {}: write {}: {e}", self.state.id, path.display());
        }
    }

    /// Bytes from it: to the log, to attachers. One who does not read loses the connection, not the container its speed.
    pub fn take_output(&mut self, stream: Stream, now: Wall, bytes: &[u8]) {
        let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 8 + 64);
        self.lines[stream as usize].push(stream, now, bytes, &mut out);
        self.log.write(&out);
        self.attachers.retain(|a| {
            let to = match (stream, &a.stderr) {
                (Stream::Stderr, Some(e)) => e,
                _ => &a.stdout,
            };
            rustix::io::write(to, bytes).is_ok_and(|n| n == bytes.len())
        });
    }

    /// A stream is at its end.
    pub fn end_output(&mut self, stream: Stream, now: Wall) {
        let mut out = Vec::new();
        self.lines[stream as usize].finish(stream, now, &mut out);
        self.log.write(&out);
    }

    /// Its process was reaped.
    pub fn ended(&mut self, code: i32, signal: i32) {
        let now = sys::wall_ns();
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.end_output(stream, Wall(now));
        }
        self.state.pid = 0;
        self.state.finished_ns = now;
        self.state.status = ContainerStatus::Exited {
            // As other runtimes say for a program that could not be started.
            code: if self.start_failed { 128 } else { code },
            signal,
            oom_killed: cgroup::oom_kills(&self.cgroup) > 0,
        };
        self.go = None;
        self.stdin = None;
        self.attachers = Vec::new();
        self.program = None;
    }

    /// The answer for a set-up or exec that failed.
    pub fn failure(&self, at: u32, errno: i32) -> Reply {
        let what = self.program.as_ref().map_or_else(String::new, |p| p.describe(at));
        failed(&format!("container {}: {what}", self.state.id), errno)
    }
}

/// A command in a container.
pub struct Exec {
    /// Container.
    pub container: String,
    /// Process.
    pub spawned: Spawned,
    /// Who waits for its exec.
    pub waiting: Option<u64>,
    /// Monotonic time at which it is killed.
    pub deadline_ns: Option<u64>,
    /// Terminal's master, for its size.
    pub terminal: Option<OwnedFd>,
    /// For messages; dropped when it runs.
    pub program: Option<Box<Program>>,
}

impl Exec {
    /// The answer for a set-up or exec that failed.
    pub fn failure(&self, at: u32, errno: i32) -> Reply {
        let what = self.program.as_ref().map_or_else(String::new, |p| p.describe(at));
        failed(&format!("exec in container {}: {what}", self.container), errno)
    }
}

fn failed(what: &str, errno: i32) -> Reply {
    let why = rustix::io::Errno::from_raw_os_error(errno);
    // The words that people know from a shell, and kubectl's users look for.
    let why = match why {
        rustix::io::Errno::NOENT => "no such file or directory".to_owned(),
        rustix::io::Errno::ACCESS => "permission denied".to_owned(),
        e => e.to_string(),
    };
    Reply::Failed(format!("{what}: {why}"), errno)
}
