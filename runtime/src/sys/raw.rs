//! System calls that neither rustix nor nix wrap. Each is one call with its arguments checked by types.
#![allow(unsafe_code)]

use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What `mount_setattr` is to change.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, or 0 to leave it.
    pub propagation: u64,
}

/// `MOUNT_ATTR_RDONLY`.
pub const ATTR_RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`.
pub const ATTR_NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub const ATTR_NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub const ATTR_NOEXEC: u64 = 0x8;

fn check(r: libc::c_long) -> Result<libc::c_long, Errno> {
    if r < 0 {
        // SAFETY: errno is a thread-local integer of libc; reading it has no precondition.
        Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
    } else {
        Ok(r)
    }
}

/// mount_setattr(2) on the mount that `fd` is the root of, recursively if asked.
pub fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, a: MountAttr) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: a.set,
        attr_clr: a.clear,
        propagation: a.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant, `attr` lives across the call and its size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// close_range(2) with CLOSE_RANGE_CLOEXEC: nothing from `first` on survives an exec.
pub fn cloexec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: only sets a flag on descriptors; no memory is passed.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
    .map(drop)
}

/// dup2(2) without taking ownership of either number: used between clone and exec, where stdio is set up by number.
pub fn dup_onto(from: RawFd, to: RawFd) -> Result<(), Errno> {
    // SAFETY: dup2 takes two integers. `to` is 0, 1 or 2, which no Rust object of the child owns.
    check(libc::c_long::from(unsafe { libc::dup2(from, to) })).map(drop)
}

/// dup3(2) with close-on-exec.
pub fn dup_cloexec_onto(from: RawFd, to: RawFd) -> Result<(), Errno> {
    // SAFETY: three integers; called in a child, where no Rust object is dropped any more.
    check(libc::c_long::from(unsafe { libc::dup3(from, to, libc::O_CLOEXEC) })).map(drop)
}

/// A copy of a descriptor at `least` or above, close-on-exec, without an owner.
pub fn duplicate_above(fd: RawFd, least: RawFd) -> Result<RawFd, Errno> {
    // SAFETY: three integers.
    check(libc::c_long::from(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) }))
        .map(|n| n as RawFd)
}

/// close_range(2): closes everything from `first` on. Only in a child that drops nothing any more.
pub fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: in a child between clone and exec no destructor runs, so that no number is closed twice.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// setns(2) by any namespace descriptor or pidfd.
pub fn setns(fd: BorrowedFd<'_>, kinds: i32) -> Result<(), Errno> {
    // SAFETY: two integers; changes only the caller's namespaces.
    check(libc::c_long::from(unsafe { libc::setns(fd.as_raw_fd(), kinds) })).map(drop)
}

/// unshare(2).
pub fn unshare(kinds: i32) -> Result<(), Errno> {
    // SAFETY: an integer. CLONE_FILES, which rustix calls unsafe, is never passed (callers pass CLONE_NEW*).
    check(libc::c_long::from(unsafe { libc::unshare(kinds) })).map(drop)
}

/// sethostname(2).
pub fn set_hostname(name: &[u8]) -> Result<(), Errno> {
    // SAFETY: pointer and length describe `name`.
    check(libc::c_long::from(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }))
        .map(drop)
}

/// pivot_root(2).
pub fn pivot_root(new_root: &CStr, put_old: &CStr) -> Result<(), Errno> {
    // SAFETY: two NUL-terminated strings that live across the call.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, new_root.as_ptr(), put_old.as_ptr()) })
        .map(drop)
}

/// Sets the three capability sets of the calling thread (capset(2), version 3).
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let word = |v: u64, i: u32| (v >> (32 * i)) as u32;
    let data = [0u32, 1].map(|i| [word(effective, i), word(permitted, i), word(inheritable, i)]);
    // SAFETY: version 3 reads a header and two data elements of three words each: exactly these objects.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// prctl(2) with integer arguments.
pub fn prctl(option: i32, a: u64, b: u64, c: u64, d: u64) -> Result<i64, Errno> {
    // SAFETY: only called with options whose arguments are integers (see callers in `child` and `process`).
    check(unsafe { libc::syscall(libc::SYS_prctl, option, a, b, c, d) })
}

/// setresuid(2) of this thread alone, without glibc's signalling of other threads (there are none after a clone).
pub fn set_uid(uid: u32) -> Result<(), Errno> {
    // SAFETY: three integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// setresgid(2) of this thread alone.
pub fn set_gid(gid: u32) -> Result<(), Errno> {
    // SAFETY: three integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// setgroups(2) of this thread alone.
pub fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: length and pointer describe `groups`, whose elements are gid_t.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// prlimit64(2) on the calling process.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let new = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let none = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: `new` lives across the call; no old value is asked for.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const new, none) })
        .map(drop)
}

/// fchown(2) by number.
pub fn fchown(fd: RawFd, uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: three integers.
    check(unsafe { libc::syscall(libc::SYS_fchown, fd, uid, gid) }).map(drop)
}

/// mknodat(2).
pub fn mknod(dir: BorrowedFd<'_>, name: &CStr, mode: u32, rdev: u64) -> Result<(), Errno> {
    // SAFETY: a NUL-terminated name that lives across the call, and integers.
    check(unsafe { libc::syscall(libc::SYS_mknodat, dir.as_raw_fd(), name.as_ptr(), mode, rdev) })
        .map(drop)
}

/// Ends the process at once: no destructors, no atexit.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

/// bpf(2): loads a program of `kind` and gives its descriptor.
pub fn bpf_load(kind: u32, instructions: &[u64]) -> Result<OwnedFd, Errno> {
    // The part of `union bpf_attr` that BPF_PROG_LOAD reads; the kernel takes a shorter one than its own.
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
    }
    let attr = Load {
        prog_type: kind,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    const BPF_PROG_LOAD: i32 = 5;
    // SAFETY: `attr` and what it points to live across the call; size given.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<Load>())
    })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// bpf(2): attaches a program to a cgroup directory, so that all attached programs must agree.
pub fn bpf_attach_cgroup(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    kind: u32,
) -> Result<(), Errno> {
    #[repr(C)]
    struct Attach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
    }
    let attr = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: kind,
        attach_flags: 2, // BPF_F_ALLOW_MULTI
    };
    const BPF_PROG_ATTACH: i32 = 8;
    // SAFETY: `attr` lives across the call; size given.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attr, size_of::<Attach>())
    })
    .map(drop)
}

/// Brings `lo` up in the calling thread's network namespace.
pub fn loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives across the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    }))
    .map(drop)
}

/// Highest capability that this code knows (CAP_CHECKPOINT_RESTORE); the kernel refuses to drop ones that it lacks.
pub const CAPABILITY_LAST: u64 = 40;
