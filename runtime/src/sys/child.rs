//! Between clone and exec: walks a [`Program`] in the new process. Nothing here allocates, locks or unwinds; errors go
//! through a pipe as (phase or step, errno).
#![allow(unsafe_code)]

use super::filter::Filter;
use super::process::{Pointers, exec};
use super::raw::{self, MountAttr};
use super::{signal, tty};
use crate::program::{Process, Program, Step, Z, phase};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

const REPORT: RawFd = 3;
const GO: RawFd = 4;

/// A program with all that its walk needs, made before the clone.
pub struct Prepared<'a> {
    program: &'a Program,
    fds: &'a [OwnedFd],
    stdio: [RawFd; 3],
    report_number: std::cell::Cell<RawFd>,
    go: Option<BorrowedFd<'a>>,
    argv: Pointers<'a>,
    env: Pointers<'a>,
    filters: Vec<Filter>,
}

impl<'a> Prepared<'a> {
    /// `stdio` are descriptor numbers above 2, or -1 for /dev/null; the child reports on `report`, waits for a byte on `go`
    /// (goes at once without). `None` when a filter is too long.
    pub fn new(
        program: &'a Program,
        fds: &'a [OwnedFd],
        stdio: [RawFd; 3],
        report: BorrowedFd<'a>,
        go: Option<BorrowedFd<'a>>,
    ) -> Option<Prepared<'a>> {
        let p = &program.process;
        Some(Prepared {
            program,
            fds,
            stdio,
            report_number: std::cell::Cell::new(report.as_raw_fd()),
            go,
            argv: Pointers::new(p.argv.iter().map(Z::c)),
            env: Pointers::new(p.env.iter().map(Z::c)),
            filters: p.seccomp.iter().map(|f| Filter::unpack(f)).collect::<Option<_>>()?,
        })
    }

    fn tell(&self, at: u32, e: i32) {
        let mut message = [0u8; 8];
        message[..4].copy_from_slice(&at.to_le_bytes());
        message[4..].copy_from_slice(&e.to_le_bytes());
        // SAFETY: REPORT is the report pipe once `close_others` has run; before, the number given is.
        let fd = unsafe { BorrowedFd::borrow_raw(self.report_number.get()) };
        let _ = rustix::io::write(fd, &message);
    }

    /// The whole way to exec. Returns the exit code of a child that did not get there.
    pub fn run(&self) -> i32 {
        match self.walk() {
            Ok(never) => match never {},
            Err((_, e)) if e.raw_os_error() == 0 => 0,
            Err((at, e)) => {
                self.tell(at, e.raw_os_error());
                127
            }
        }
    }

    fn walk(&self) -> Result<std::convert::Infallible, (u32, Errno)> {
        let at = |phase: u32| move |e: Errno| (phase, e);
        let mut root: Option<BorrowedFd<'_>> = None;
        rustix::process::umask(Mode::empty());
        for (i, step) in (0u32..).zip(&self.program.steps) {
            self.step(step, &mut root).map_err(at(i))?;
        }
        let p = &self.program.process;
        self.streams(p).map_err(at(phase::STDIO))?;
        for (resource, soft, hard) in &p.rlimits {
            raw::set_rlimit(*resource, *soft, *hard).map_err(at(phase::LIMITS))?;
        }
        rustix::process::umask(Mode::from_raw_mode(p.umask));
        if !p.no_new_privs {
            // Needs CAP_SYS_ADMIN, which goes away with the identity. The filter then also applies to that.
            self.filter().map_err(at(phase::SECCOMP))?;
        }
        identity(p).map_err(at(phase::IDENTITY))?;
        let go = self.close_others().map_err(at(phase::STDIO))?;
        // Only now: a link in the image could lead the way through a descriptor of ours to the host (CVE-2024-21626).
        rustix::process::chdir(p.cwd.c()).map_err(at(phase::CWD))?;
        if let Some(go) = go {
            self.tell(phase::READY, 0);
            let mut byte = [0u8; 1];
            match rustix::io::retry_on_intr(|| rustix::io::read(go, &mut byte)) {
                Ok(1) => {}
                // The shim is gone or gave up: nobody wants this process any more.
                _ => raw::exit_now(137),
            }
        }
        signal::reset();
        if p.no_new_privs {
            rustix::thread::set_no_new_privs(true).map_err(at(phase::SECCOMP))?;
            self.filter().map_err(at(phase::SECCOMP))?;
        }
        Err((phase::EXEC, self.exec(p)))
    }

    // Moves the two pipes to 3 and 4 and closes all else: descriptors of the shim must neither reach the program nor be
    // held open by a process that waits for its start.
    fn close_others(&self) -> Result<Option<BorrowedFd<'static>>, Errno> {
        let report = raw::duplicate_above(self.report_number.get(), 5)?;
        let go = self.go.map(|g| raw::duplicate_above(g.as_raw_fd(), 5)).transpose()?;
        raw::dup_cloexec_onto(report, REPORT)?;
        self.report_number.set(REPORT);
        if let Some(go) = go {
            raw::dup_cloexec_onto(go, GO)?;
        }
        raw::close_from(if go.is_some() { 5 } else { 4 })?;
        // SAFETY: GO was made above and stays open until the exec closes it.
        Ok(go.map(|_| unsafe { BorrowedFd::borrow_raw(GO) }))
    }

    fn filter(&self) -> Result<(), Errno> {
        self.filters.iter().try_for_each(Filter::install)
    }

    // As execvp: the first file that can be executed; "not there" yields to "not allowed".
    fn exec(&self, p: &Process) -> Errno {
        let mut worst = Errno::NOENT;
        for file in &p.files {
            match exec(file.c(), &self.argv, &self.env) {
                Errno::NOENT | Errno::NOTDIR => {}
                Errno::ACCESS => worst = Errno::ACCESS,
                e => return e,
            }
        }
        worst
    }

    fn streams(&self, p: &Process) -> Result<(), Errno> {
        let null;
        if self.stdio.contains(&-1) {
            null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
            for (to, from) in (0..).zip(self.stdio) {
                if from == -1 {
                    raw::dup_onto(null.as_raw_fd(), to)?;
                }
            }
        }
        for (to, from) in (0..).zip(self.stdio) {
            if from != -1 {
                raw::dup_onto(from, to)?;
                // So that the user may reopen /dev/stdout. Not everything has an owner to change.
                let _ = raw::fchown(to, p.uid, p.gid);
            }
        }
        rustix::process::setsid()?;
        if p.tty {
            tty::set_controlling(0)?;
        }
        Ok(())
    }

    fn step<'s>(&'s self, step: &Step, root: &mut Option<BorrowedFd<'s>>) -> Result<(), Errno> {
        let fd = |i: usize| self.fds.get(i).map(AsFd::as_fd).ok_or(Errno::BADF);
        // Before there is a root of its own, paths are below the process's root.
        let below = root.unwrap_or(rustix::fs::CWD);
        match step {
            Step::Join { fd: i, kinds } => raw::setns(fd(*i)?, *kinds),
            Step::Detach => rustix::mount::mount_change(
                c"/",
                MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
            ),
            Step::WriteHost { path, data } => {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::open(path.c(), flags, Mode::empty())?;
                rustix::io::write(file, data.as_bytes()).map(drop)
            }
            Step::Root { tree, at } => {
                let tree = fd(*tree)?;
                attach_to(tree, rustix::fs::CWD, at.c(), MoveMountFlags::empty())?;
                *root = Some(tree);
                Ok(())
            }
            Step::Dirs { prefixes, mode } => {
                prefixes.iter().try_for_each(|p| make_dir(below, p.c(), *mode))
            }
            Step::File { parent, name } => make_file(below, parent.c(), name.c()),
            Step::Mount { fs, options, attrs, at } => {
                let tree = new_filesystem(fs.c(), options, *attrs)?;
                attach(tree.as_fd(), below, at.c())
            }
            Step::Tree { tree, at } => attach(fd(*tree)?, below, at.c()),
            Step::Node { parent, name, mode, rdev, uid, gid } => {
                let dir = open_in(below, parent.c(), OFlags::DIRECTORY)?;
                raw::mknod(dir.as_fd(), name.c(), *mode, *rdev)?;
                if (*uid, *gid) != (0, 0) {
                    rustix::fs::chownat(
                        dir.as_fd(),
                        name.c(),
                        Some(rustix::fs::Uid::from_raw(*uid)),
                        Some(rustix::fs::Gid::from_raw(*gid)),
                        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
                    )?;
                }
                Ok(())
            }
            Step::Link { target, parent, name } => {
                let dir = open_in(below, parent.c(), OFlags::DIRECTORY)?;
                rustix::fs::symlinkat(target.c(), dir.as_fd(), name.c())
            }
            Step::Bind { from, at } => {
                let source = open_in(below, from.c(), OFlags::empty())?;
                let tree = clone_tree(source.as_fd())?;
                attach(tree.as_fd(), below, at.c())
            }
            Step::Mask { at } => mask(below, at.c()),
            Step::ReadOnly { at } => read_only(below, at.c()),
            Step::ReadOnlyRoot => raw::mount_setattr(
                root.ok_or(Errno::BADF)?,
                false,
                MountAttr { set: raw::ATTR_RDONLY, ..MountAttr::default() },
            ),
            Step::Pivot => {
                pivot(root.ok_or(Errno::BADF)?)?;
                *root = None;
                Ok(())
            }
            Step::ChDir { path } => rustix::process::chdir(path.c()),
        }
    }
}

fn open_in(root: BorrowedFd<'_>, path: &CStr, more: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC | more,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

// Parent and name of a path as planned: absolute, no trailing slash. Without allocation: (length of the parent, name).
fn split(path: &CStr) -> Result<(usize, &CStr), Errno> {
    let bytes = path.to_bytes_with_nul();
    let slash = bytes.iter().rposition(|b| *b == b'/').ok_or(Errno::INVAL)?;
    let name = CStr::from_bytes_with_nul(&bytes[slash + 1..]).map_err(|_| Errno::INVAL)?;
    Ok((slash, name))
}

fn open_parent(root: BorrowedFd<'_>, path: &CStr, len: usize) -> Result<OwnedFd, Errno> {
    // Paths are limited by PATH_MAX, so that a parent fits on the stack.
    let mut buffer = [0u8; 4096];
    let parent = path.to_bytes().get(..len).ok_or(Errno::INVAL)?;
    if parent.is_empty() {
        return open_in(root, c"/", OFlags::DIRECTORY);
    }
    buffer.get_mut(..len).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(parent);
    let parent = CStr::from_bytes_until_nul(&buffer).map_err(|_| Errno::NAMETOOLONG)?;
    open_in(root, parent, OFlags::DIRECTORY)
}

fn make_dir(root: BorrowedFd<'_>, path: &CStr, mode: u32) -> Result<(), Errno> {
    match open_in(root, path, OFlags::DIRECTORY) {
        Ok(_) => Ok(()),
        Err(Errno::NOENT) => {
            let (len, name) = split(path)?;
            let parent = open_parent(root, path, len)?;
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode))
        }
        Err(e) => Err(e),
    }
}

fn make_file(root: BorrowedFd<'_>, parent: &CStr, name: &CStr) -> Result<(), Errno> {
    let dir = open_in(root, parent, OFlags::DIRECTORY)?;
    match rustix::fs::openat(
        dir,
        name,
        OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o644),
    ) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e),
    }
}

fn attach_to(
    tree: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: MoveMountFlags,
) -> Result<(), Errno> {
    rustix::mount::move_mount(tree, c"", dir, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | flags)
}

fn attach(tree: BorrowedFd<'_>, root: BorrowedFd<'_>, at: &CStr) -> Result<(), Errno> {
    let target = open_in(root, at, OFlags::empty())?;
    attach_to(tree, target.as_fd(), c"", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)
}

fn new_filesystem(fs: &CStr, options: &[(Z, Z)], attrs: u32) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), c"source", fs)?;
    for (key, value) in options {
        if value.text().is_empty() {
            rustix::mount::fsconfig_set_flag(context.as_fd(), key.c())?;
        } else {
            rustix::mount::fsconfig_set_string(context.as_fd(), key.c(), value.c())?;
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(attrs),
    )
}

fn clone_tree(source: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    rustix::mount::open_tree(
        source,
        c"",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE,
    )
}

fn mask(root: BorrowedFd<'_>, at: &CStr) -> Result<(), Errno> {
    let target = match open_in(root, at, OFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(e) => return Err(e),
    };
    let stat = rustix::fs::fstat(target.as_fd())?;
    let tree = if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        new_filesystem(
            c"tmpfs",
            &[],
            (raw::ATTR_RDONLY | raw::ATTR_NOSUID | raw::ATTR_NODEV | raw::ATTR_NOEXEC) as u32,
        )?
    } else {
        // The host's /dev/null: the process still has the host's root, and nobody in a container can replace that one.
        let null = rustix::fs::open(c"/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        clone_tree(null.as_fd())?
    };
    attach_to(tree.as_fd(), target.as_fd(), c"", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)
}

fn read_only(root: BorrowedFd<'_>, at: &CStr) -> Result<(), Errno> {
    let target = match open_in(root, at, OFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(e) => return Err(e),
    };
    let tree = clone_tree(target.as_fd())?;
    let attr = MountAttr { set: raw::ATTR_RDONLY, ..MountAttr::default() };
    raw::mount_setattr(tree.as_fd(), true, attr)?;
    attach_to(tree.as_fd(), target.as_fd(), c"", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)
}

fn pivot(root: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    // The old root lands on top of the new one, and is let go from there.
    raw::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

fn identity(p: &Process) -> Result<(), Errno> {
    for bit in 0..=raw::CAPABILITY_LAST {
        if p.caps & (1 << bit) == 0 {
            match raw::prctl(libc::PR_CAPBSET_DROP, bit, 0, 0, 0) {
                // A kernel that does not know this capability cannot give it either.
                Ok(_) | Err(Errno::INVAL) => {}
                Err(e) => return Err(e),
            }
        }
    }
    raw::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0)?;
    raw::set_groups(&p.groups)?;
    raw::set_gid(p.gid)?;
    raw::set_uid(p.uid)?;
    raw::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0)?;
    raw::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0, 0, 0)?;
    raw::capset(p.caps, p.caps, 0)?;
    // Ids have changed, which cleared both: the process dies with its shim and cannot be looked into before its exec.
    raw::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0)?;
    raw::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0, 0, 0).map(drop)
}
