//! Network namespaces: running something inside one, making and removing named ones.
//!
//! A thread that has entered another namespace is never given back to a pool: [`enter`] spawns one for the call
//! and it ends with it. References: setns(2), network_namespaces(7).

use super::netlink::{Family, Socket};
use super::{link, wrong};
use crate::sandbox::{Error, Result};
use nix::sched::CloneFlags;
use std::fs::File;
use std::path::Path;

/// Runs `f` inside the namespace, on a thread of its own.
pub(super) fn enter<T: Send>(netns: &File, f: impl FnOnce() -> T + Send) -> Result<T> {
    let run = || -> nix::Result<T> {
        nix::sched::setns(netns, CloneFlags::CLONE_NEWNET)?;
        Ok(f())
    };
    on_own_thread(run)?.map_err(|e| Error::Io("cannot enter network namespace".into(), e.into()))
}

/// Opens a namespace file.
pub(super) fn open(netns: &Path) -> Result<File> {
    File::open(netns).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::NotFound(format!("no network namespace at {}", netns.display()))
        }
        _ => Error::Io(format!("cannot open network namespace {}", netns.display()), e),
    })
}

/// Makes a namespace pinned at `path` with its loopback up. One that is there already is kept.
pub(super) fn create(path: &Path) -> Result<()> {
    if is_namespace(path) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|e| Error::Io(format!("cannot make folder {}", folder.display()), e))?;
    }
    File::create(path).map_err(|e| Error::Io(format!("cannot make file {}", path.display()), e))?;
    let pin = || -> Result<()> {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::Io("cannot make a network namespace".into(), e.into()))?;
        rustix::mount::mount_bind("/proc/thread-self/ns/net", path).map_err(|e| {
            Error::Io(format!("cannot pin a network namespace at {}", path.display()), e.into())
        })?;
        let mut socket = Socket::open(Family::Route).map_err(wrong("open a netlink socket"))?;
        let lo = link::by_name(&mut socket, "lo").map_err(wrong("find link lo"))?;
        let lo = lo.ok_or_else(|| Error::NotFound("no loopback in a new namespace".into()))?;
        socket.change(&link::up_message(lo.index)).map_err(wrong("bring lo up"))
    };
    let made = on_own_thread(pin).and_then(|r| r);
    if made.is_err() {
        // The first error is what matters; what was half made goes.
        let _ = remove(path);
    }
    made
}

/// Unpins a namespace and removes its file. Nothing there is no error. Links inside go with the namespace, once
/// its last process has ended.
pub(super) fn remove(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(Error::Io(format!("cannot unmount {}", path.display()), e.into())),
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io(format!("cannot remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// A namespace is pinned at `path` (and not just a file left behind by a reboot).
fn is_namespace(path: &Path) -> bool {
    /// `NSFS_MAGIC` of linux/magic.h.
    const NSFS: u64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type as u64 == NSFS)
}

fn on_own_thread<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .stack_size(256 << 10)
            .spawn_scoped(scope, f)
            .map_err(wrong("start a thread for a network namespace"))?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
