//! Effects as data: what the caller's side of a creation does, as ordered steps each with its undo, walked over a [`Kernel`].
//!
//! The walk stops at the first failure, undoes what was done in reverse (going on when an undo fails), and gives back the
//! first error. Steps that make descriptors put them into numbered slots; the last step hands them to the shim.

mod linux;
#[cfg(test)]
mod tests;

pub use linux::{Linux, call as linux_call, connect};

use crate::proto::{Reply, Request};
use crate::sandbox::{Error, Result};
use std::path::{Path, PathBuf};

/// How a source is opened for a bind mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeOptions {
    /// Recursively read-only.
    pub read_only: bool,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`.
    pub propagation: u64,
}

/// One effect.
#[derive(Clone, Debug)]
pub enum Step {
    /// Makes a folder that must not exist; undone by removing it with all that is in it.
    MakeDir(PathBuf),
    /// Writes a file into a folder made before (which takes it along when undone).
    WriteFile(PathBuf, Vec<u8>),
    /// Makes a cgroup; undone by killing what is in it and removing it.
    MakeCgroup(PathBuf),
    /// Sets limits of a cgroup made before.
    SetLimits(PathBuf, Vec<(&'static str, String)>),
    /// Restricts devices of a cgroup made before, by a program.
    RestrictDevices(PathBuf, Vec<u64>),
    /// Makes a shared /dev/shm of this many bytes; undone by unmounting it.
    MountShm(PathBuf, u64),
    /// Mounts an overlay without attaching it anywhere.
    Overlay {
        /// Lower folders, the topmost first.
        lower: Vec<PathBuf>,
        /// Upper folder.
        upper: PathBuf,
        /// Work folder.
        work: PathBuf,
    },
    /// Opens a copy of a mount tree.
    OpenTree(PathBuf, TreeOptions),
    /// A devpts of its own, with a terminal in it when asked: slots tree, master, slave.
    Terminal,
    /// Starts the shim and waits until it is ready; undone by its cgroup.
    LaunchShim {
        /// Its binary.
        binary: PathBuf,
        /// Its arguments.
        args: Vec<String>,
        /// The leaf it is born in.
        cgroup: PathBuf,
        /// What it says on standard error.
        log: PathBuf,
        /// Namespace files that it pins: unmounted when undone.
        pins: Vec<PathBuf>,
    },
    /// Asks the shim; the slots go along in order. Undone by `undo`.
    Ask {
        /// Its socket.
        socket: PathBuf,
        /// What.
        request: Box<Request>,
        /// What takes it back.
        undo: Option<Request>,
    },
}

/// What can be done. One method an effect, one its undo.
pub trait Kernel {
    /// A descriptor.
    type Fd;
    /// See [`Step`].
    fn make_dir(&mut self, path: &Path) -> Result<()>;
    /// Undo.
    fn remove_dir(&mut self, path: &Path) -> Result<()>;
    /// See [`Step`].
    fn write_file(&mut self, path: &Path, bytes: &[u8]) -> Result<()>;
    /// See [`Step`].
    fn make_cgroup(&mut self, path: &Path) -> Result<()>;
    /// Undo.
    fn remove_cgroup(&mut self, path: &Path) -> Result<()>;
    /// See [`Step`].
    fn set_limits(&mut self, path: &Path, files: &[(&'static str, String)]) -> Result<()>;
    /// See [`Step`].
    fn restrict_devices(&mut self, path: &Path, program: &[u64]) -> Result<()>;
    /// See [`Step`].
    fn mount_shm(&mut self, path: &Path, bytes: u64) -> Result<()>;
    /// Undo of this and of pins.
    fn unmount(&mut self, path: &Path) -> Result<()>;
    /// See [`Step`].
    fn overlay(&mut self, lower: &[PathBuf], upper: &Path, work: &Path) -> Result<Self::Fd>;
    /// See [`Step`].
    fn open_tree(&mut self, path: &Path, options: &TreeOptions) -> Result<Self::Fd>;
    /// See [`Step`]: tree, master, slave.
    fn terminal(&mut self) -> Result<[Self::Fd; 3]>;
    /// See [`Step`].
    fn launch_shim(&mut self, step: &Step) -> Result<()>;
    /// See [`Step`].
    fn ask(&mut self, socket: &Path, request: &Request, fds: &[Self::Fd]) -> Result<Reply>;
    /// Closes slots.
    fn close(&mut self, fds: Vec<Self::Fd>);
}

/// A walk that can be continued: steps may depend on what earlier ones found.
pub struct Walk<'k, K: Kernel> {
    kernel: &'k mut K,
    done: Vec<Step>,
    /// Descriptors made so far, in order.
    pub slots: Vec<K::Fd>,
}

impl<'k, K: Kernel> Walk<'k, K> {
    /// At the beginning.
    pub fn new(kernel: &'k mut K) -> Walk<'k, K> {
        Walk { kernel, done: Vec::new(), slots: Vec::new() }
    }

    /// Takes these steps. On failure everything is undone and the walk is over.
    pub fn take(&mut self, steps: Vec<Step>) -> Result<Reply> {
        let mut last = Reply::Done;
        for step in steps {
            match self.one(&step) {
                Ok(reply) => last = reply,
                Err(e) => {
                    // A shim that failed half-way may have pinned namespaces already; one that did not answer in time may
                    // have done what it was asked.
                    let half = matches!(
                        (&step, &e),
                        (Step::LaunchShim { .. }, _) | (Step::Ask { .. }, Error::Io(..))
                    );
                    if half {
                        self.done.push(step);
                    }
                    self.undo();
                    return Err(e);
                }
            }
            self.done.push(step);
        }
        Ok(last)
    }

    /// For a decision between steps that went wrong: undoes everything and gives the error.
    pub fn check<T>(&mut self, r: Result<T>) -> Result<T> {
        if r.is_err() {
            self.undo();
        }
        r
    }

    /// It stays. Descriptors are closed.
    pub fn finish(self) {
        self.kernel.close(self.slots);
    }

    fn one(&mut self, step: &Step) -> Result<Reply> {
        let k = &mut *self.kernel;
        match step {
            Step::MakeDir(p) => k.make_dir(p)?,
            Step::WriteFile(p, bytes) => k.write_file(p, bytes)?,
            Step::MakeCgroup(p) => k.make_cgroup(p)?,
            Step::SetLimits(p, files) => k.set_limits(p, files)?,
            Step::RestrictDevices(p, program) => k.restrict_devices(p, program)?,
            Step::MountShm(p, bytes) => k.mount_shm(p, *bytes)?,
            Step::Overlay { lower, upper, work } => self.slots.push(k.overlay(lower, upper, work)?),
            Step::OpenTree(p, options) => self.slots.push(k.open_tree(p, options)?),
            Step::Terminal => self.slots.extend(k.terminal()?),
            Step::LaunchShim { .. } => k.launch_shim(step)?,
            Step::Ask { socket, request, .. } => return k.ask(socket, request, &self.slots),
        }
        Ok(Reply::Done)
    }

    fn undo(&mut self) {
        let k = &mut *self.kernel;
        k.close(std::mem::take(&mut self.slots));
        for step in std::mem::take(&mut self.done).into_iter().rev() {
            // The first error is what the caller hears; an undo that fails must not keep the next from running.
            let _ = match step {
                Step::MakeDir(p) => k.remove_dir(&p),
                Step::MakeCgroup(p) => k.remove_cgroup(&p),
                Step::MountShm(p, _) => k.unmount(&p),
                Step::LaunchShim { cgroup, pins, .. } => {
                    let _ = k.remove_cgroup(&cgroup);
                    for pin in pins {
                        let _ = k.unmount(&pin);
                    }
                    Ok(())
                }
                Step::Ask { socket, undo: Some(request), .. } => {
                    k.ask(&socket, &request, &[]).map(drop)
                }
                Step::WriteFile(..)
                | Step::SetLimits(..)
                | Step::RestrictDevices(..)
                | Step::Overlay { .. }
                | Step::OpenTree(..)
                | Step::Terminal
                | Step::Ask { undo: None, .. } => Ok(()),
            };
        }
    }
}
