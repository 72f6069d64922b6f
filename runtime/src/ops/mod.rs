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

/// Paths of a sandbox whose id was checked.
pub fn layout(runtime: &Runtime, sandbox: &str) -> Result<Layout> {
    state::check_id("sandbox", sandbox)?;
    Ok(Layout::new(&runtime.config.root, sandbox))
}

/// Until dropped, no other caller changes the sandbox. The files stay in `.locks`: removing a lock file races with its use.
pub fn lock(runtime: &Runtime, sandbox: &str) -> Result<OwnedFd> {
    let path = runtime.config.root.join(".locks").join(sandbox);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
        .and_then(|fd| rustix::fs::flock(&fd, FlockOperation::LockExclusive).map(|()| fd))
        .map_err(|e| state::io("lock", &path, e.into()))
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
