//! Signals: a descriptor for SIGCHLD in the shim, and the reset to defaults before exec.
#![allow(unsafe_code)]

use rustix::io::Errno;
use std::os::fd::{FromRawFd, OwnedFd};

/// Blocks SIGCHLD for the process and gives a non-blocking signalfd that becomes readable when a child ends.
pub fn child_fd() -> Result<OwnedFd, Errno> {
    // SAFETY: sigset_t is plain data; sigemptyset initialises it.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid sigset_t for both calls.
    unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
    }
    // SAFETY: reads `set`; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    // SAFETY: -1 asks for a new descriptor; `set` is valid.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    if fd < 0 {
        // SAFETY: errno is a thread-local integer of libc.
        return Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }));
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

const IGNORED: [i32; 5] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE, libc::SIGQUIT];

/// Ignores the signals that a stopped service manager or a gone reader would send; the shim ends only when told by its
/// socket, or by SIGKILL.
pub fn ignore_requests_to_end() {
    for s in IGNORED {
        // SAFETY: SIG_IGN installs no handler code.
        unsafe { libc::signal(s, libc::SIG_IGN) };
    }
}

/// All signals to their default action and none blocked, whatever the caller was given. Allocates nothing.
pub fn reset_all() {
    for s in (1..65).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s)) {
        // SAFETY: SIG_DFL installs no handler code; libc refuses the numbers that it keeps for itself.
        unsafe { libc::signal(s, libc::SIG_DFL) };
    }
    reset();
}

/// As [`reset_all`] for a child of the shim, in which only [`ignore_requests_to_end`] has changed anything (an exec resets
/// handlers by itself).
pub fn reset() {
    for s in IGNORED {
        // SAFETY: SIG_DFL installs no handler code.
        unsafe { libc::signal(s, libc::SIG_DFL) };
    }
    // SAFETY: sigset_t is plain data; all zeroes is the empty set.
    let set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: reads `set`; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}
