//! What [`crate::sandbox::Runtime`] does, by subject. The caller's side: the shim's is `crate::shim`.

pub mod container;
pub mod exec;
pub mod sandbox;

use crate::plan::linux_call;
use crate::proto::{Reply, Request};
use crate::sandbox::{Error, Result, Runtime};
use crate::state::{self, Layout};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Paths of a sandbox whose id was checked.
pub fn layout(runtime: &Runtime, sandbox: &str) -> Result<Layout> {
    state::check_id("sandbox", sandbox)?;
    Ok(Layout::new(&runtime.config.root, sandbox))
}

/// Until dropped, no other caller changes the sandbox. The files stay: removing a lock file races with its use.
pub fn lock(runtime: &Runtime, sandbox: &str) -> Result<OwnedFd> {
    let (path, fd) = lock_file(runtime, sandbox)?;
    rustix::fs::flock(&fd, FlockOperation::LockExclusive)
        .map_err(|e| state::io("lock", &path, e.into()))?;
    Ok(fd)
}

/// As [`lock`]; `None` when somebody has it.
pub fn try_lock(runtime: &Runtime, sandbox: &str) -> Result<Option<OwnedFd>> {
    let (path, fd) = lock_file(runtime, sandbox)?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(fd)),
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(e) => Err(state::io("lock", &path, e.into())),
    }
}

fn lock_file(runtime: &Runtime, sandbox: &str) -> Result<(PathBuf, OwnedFd)> {
    // A few for all ids, so that they do not pile up: two ids of one number merely wait for each other.
    let number = sandbox.bytes().fold(7u8, |n, b| n.wrapping_mul(31).wrapping_add(b)) % 64;
    let path = runtime.config.root.join(".locks").join(number.to_string());
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| state::io("open", &path, e.into()))?;
    Ok((path, fd))
}

/// One request to the sandbox's shim.
pub fn ask(layout: &Layout, request: &Request) -> Result<(Reply, Vec<OwnedFd>)> {
    linux_call(&layout.socket(), request, &[])
}

/// As [`ask`]; a dead shim (or no sandbox at all) is said in the caller's words.
pub fn ask_living(
    layout: &Layout,
    sandbox: &str,
    request: &Request,
) -> Result<(Reply, Vec<OwnedFd>)> {
    match ask(layout, request) {
        Err(Error::NotFound(why)) if why.starts_with("no shim listens") => {
            if layout.record().exists() {
                Err(Error::NotFound(format!("sandbox {sandbox} is dead: its shim is gone")))
            } else {
                Err(Error::NotFound(format!("no sandbox {sandbox}")))
            }
        }
        r => r,
    }
}
