//! Terminals: making one the controlling terminal.
#![allow(unsafe_code)]

use rustix::io::Errno;
use std::os::fd::RawFd;

/// TIOCSCTTY: makes the terminal at `fd` the controlling one of the (new) session of the caller.
pub fn set_controlling(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: TIOCSCTTY takes an integer argument.
    if unsafe { libc::ioctl(fd, libc::TIOCSCTTY, 0) } < 0 {
        // SAFETY: errno is a thread-local integer of libc.
        return Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }));
    }
    Ok(())
}
