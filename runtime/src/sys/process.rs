//! Making processes: clone3 into a cgroup with a pidfd, and a program detached from its caller.
#![allow(unsafe_code)]

use super::raw;
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

// libc's constant of this name does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A process that was just made.
#[derive(Debug)]
pub struct Spawned {
    /// Its number in the caller's pid namespace.
    pub pid: u32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

/// clone3(2) as a fork: `child` runs in a copy of this process and must end it.
///
/// `flags` are `CLONE_NEW*`. With `exit_signal` 0 a `wait` for any child does not find it. `cgroup` is a v2 directory in which the child is born. `child` may neither allocate nor take a
/// lock: another thread of the caller may have held one at the moment of the copy.
pub fn clone_into(
    cgroup: Option<BorrowedFd<'_>>,
    flags: i32,
    exit_signal: i32,
    child: &dyn Fn() -> i32,
) -> Result<Spawned, Errno> {
    let mut pidfd: RawFd = -1;
    let mut args = libc::clone_args {
        flags: flags as u32 as u64 | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: exit_signal as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and with a null stack this is a fork: the child continues here on a copy of this stack.
    // `args` and `pidfd` live across the call. The child runs only `child` (no allocation, no locks) and `_exit`.
    let r = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match r {
        0 => raw::exit_now(child()),
        pid if pid > 0 => Ok(Spawned {
            pid: pid as u32,
            // SAFETY: the kernel stored a new descriptor in `pidfd` because of CLONE_PIDFD.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
        // SAFETY: errno is a thread-local integer of libc.
        _ => Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() })),
    }
}

/// Pointers to strings, ended by null, as execve wants them. Borrows the strings.
pub struct Pointers<'a> {
    list: Vec<*const libc::c_char>,
    _strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> Pointers<'a> {
    /// Of these strings.
    pub fn new(strings: impl Iterator<Item = &'a CStr>) -> Pointers<'a> {
        let mut list: Vec<_> = strings.map(CStr::as_ptr).collect();
        list.push(std::ptr::null());
        Pointers { list, _strings: std::marker::PhantomData }
    }
}

/// execve(2): returns only when it failed.
pub fn exec(path: &CStr, argv: &Pointers<'_>, env: &Pointers<'_>) -> Errno {
    // SAFETY: `path` is NUL-terminated; both lists end with null and borrow strings that are alive.
    unsafe { libc::execve(path.as_ptr(), argv.list.as_ptr(), env.list.as_ptr()) };
    // SAFETY: errno is a thread-local integer of libc.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// execveat(2) of an open file: returns only when it failed.
fn exec_fd(fd: BorrowedFd<'_>, argv: &Pointers<'_>, env: &Pointers<'_>) -> Errno {
    // SAFETY: AT_EMPTY_PATH with an empty path executes `fd`; both lists end with null and borrow living strings.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv.list.as_ptr(),
            env.list.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    // SAFETY: errno is a thread-local integer of libc.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// Starts the program at `binary` in `cgroup`, in a session of its own, as nobody's child (it is reparented to the nearest
/// reaper): the caller has nothing to reap. Its descriptors: 0 = /dev/null, 1 and 2 = `log`, 3 = `ready`.
/// Errors of the exec arrive on `ready` as end of file without a word.
pub fn spawn_detached(
    binary: BorrowedFd<'_>,
    argv: &Pointers<'_>,
    env: &Pointers<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    null: BorrowedFd<'_>,
    log: BorrowedFd<'_>,
    ready: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let fds = [null.as_raw_fd(), log.as_raw_fd(), log.as_raw_fd(), ready.as_raw_fd()];
    // Numbers below 4 as sources would be overwritten by the copies made before them.
    let program = || {
        let high = fds.map(|fd| {
            // SAFETY: F_DUPFD_CLOEXEC takes an integer; makes a new descriptor at 10 or above.
            unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10) }
        });
        // SAFETY: as above; the binary's descriptor is moved out of the way of 0..=3 too.
        let file = unsafe { libc::fcntl(binary.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10) };
        for (to, from) in (0..).zip(high) {
            if raw::dup_onto(from, to).is_err() {
                return 127;
            }
        }
        let _ = rustix::process::setsid();
        let _ = raw::cloexec_from(4);
        super::signal::reset_all();
        if file < 0 {
            return 127;
        }
        // SAFETY: `file` was checked above and stays open until the exec.
        exec_fd(unsafe { BorrowedFd::borrow_raw(file) }, argv, env);
        127
    };
    let parent = || match clone_into(cgroup, 0, libc::SIGCHLD, &program) {
        Ok(s) => {
            std::mem::forget(s);
            0
        }
        Err(e) => e.raw_os_error().clamp(1, 255),
    };
    let middle = clone_into(None, 0, 0, &parent)?;
    let status = rustix::io::retry_on_intr(|| {
        rustix::process::waitid(
            rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&middle.pidfd)),
            rustix::process::WaitIdOptions::EXITED
                | rustix::process::WaitIdOptions::from_bits_retain(libc::__WALL as u32),
        )
    })?;
    match status.and_then(|s| s.exit_status()) {
        Some(0) => Ok(()),
        Some(e) => Err(Errno::from_raw_os_error(e)),
        None => Err(Errno::CHILD),
    }
}

/// SIGKILL to the process group that `pid` leads.
pub fn kill_group(pid: u32) {
    // SAFETY: two integers. The group's leader is an unreaped child of the caller, so that the number is not reused.
    unsafe { libc::kill(-(pid as i32), libc::SIGKILL) };
}

/// Gives freed heap pages back to the kernel: a shim idles for weeks after a burst of work.
pub fn trim_heap() {
    // SAFETY: malloc_trim takes an integer and only releases free memory.
    unsafe { libc::malloc_trim(0) };
}

/// Keeps the heap in one arena without a margin kept on top.
pub fn small_heap() {
    // SAFETY: mallopt takes two integers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TOP_PAD, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 16 << 10);
    }
}

/// Reaps one ended child, whichever: (pid, wait status).
pub fn reap_any() -> Option<(u32, i32)> {
    let mut status = 0;
    // SAFETY: waitpid writes an integer to `status`.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid as u32, status))
}

/// (exit code, signal) of a wait status; a signal's code is 128 more.
pub fn exit_of(status: i32) -> (i32, i32) {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        (128 + signal, signal)
    } else {
        (libc::WEXITSTATUS(status), 0)
    }
}

/// What arrived on a child's report pipe.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// Not yet.
    Nothing,
    /// It is closed: the exec worked, or the child is dead.
    End,
    /// Phase or step, and errno.
    Said(u32, i32),
}

/// Reads one report; the pipe is non-blocking.
pub fn read_report(pipe: BorrowedFd<'_>) -> Report {
    let mut m = [0u8; 8];
    match rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut m)) {
        // Eight bytes are written at once and a pipe keeps such writes whole.
        Ok(8) => Report::Said(
            u32::from_le_bytes([m[0], m[1], m[2], m[3]]),
            i32::from_le_bytes([m[4], m[5], m[6], m[7]]),
        ),
        Err(Errno::AGAIN) => Report::Nothing,
        _ => Report::End,
    }
}

/// The first process of a shared pid namespace: reaps what is orphaned there, for ever. A function for [`clone_into`].
pub fn reap_for_ever() -> i32 {
    super::signal::reset();
    let _ = raw::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0, 0, 0);
    let _ = raw::close_from(0);
    // SAFETY: sigset_t is plain data; sigemptyset initialises it.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid sigset_t for all three calls; the old mask is not asked for.
    unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
    loop {
        while reap_any().is_some() {}
        // SAFETY: reads `set`; no information about the signal is asked for.
        unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) };
    }
}

/// Takes descriptor 3, the pipe that [`spawn_detached`] gave this process, out of the way of its children.
pub fn adopt_ready_pipe() -> std::fs::File {
    // SAFETY: called once, in a process started by `spawn_detached`, where 3 is that pipe and nobody else's.
    std::fs::File::from(unsafe { OwnedFd::from_raw_fd(3) })
}
