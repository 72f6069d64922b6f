//! The real kernel.

use super::{Kernel, Step, TreeOptions};
use crate::proto::{self, Reply, Request};
use crate::sandbox::{Error, Result};
use crate::sys::{self, raw};
use crate::{cgroup, limits, shim, state};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// See the module.
#[derive(Debug)]
pub struct Linux {
    /// The cgroup hierarchy.
    pub tree: cgroup::Tree,
}

fn io(what: String) -> impl FnOnce(Errno) -> Error {
    move |e| Error::Io(format!("{what}: {e}"), e.into())
}

fn c_string(s: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(s).map_err(|_| Error::Invalid("a path or argument has a NUL in it".into()))
}

/// Connects to a shim. `NotFound` when nobody listens: it is dead.
pub fn connect(socket: &Path) -> Result<OwnedFd> {
    let dead = |e: Errno| match e {
        Errno::CONNREFUSED | Errno::NOENT => {
            Error::NotFound(format!("no shim listens on {}", socket.display()))
        }
        e => Error::Io(format!("connect to the shim at {}: {e}", socket.display()), e.into()),
    };
    let (address, _dir) = match shim::socket_address(socket) {
        Ok(a) => a,
        Err(Error::Io(_, e)) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(dead(Errno::NOENT));
        }
        Err(e) => return Err(e),
    };
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(io("make a socket".into()))?;
    let timeout = Some(std::time::Duration::from_millis(limits::ANSWER_TIMEOUT_MS));
    for direction in [rustix::net::sockopt::Timeout::Recv, rustix::net::sockopt::Timeout::Send] {
        rustix::net::sockopt::set_socket_timeout(&fd, direction, timeout)
            .map_err(io("set a timeout".into()))?;
    }
    rustix::net::connect(&fd, &address).map_err(dead)?;
    Ok(fd)
}

/// One request, one reply with its descriptors.
pub fn call(
    socket: &Path,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Result<(Reply, Vec<OwnedFd>)> {
    let fd = connect(socket)?;
    let frame = proto::encode(request, fds.len())?;
    proto::send(fd.as_fd(), &frame, fds).map_err(io("send to the shim".into()))?;
    let (reply, fds) = proto::receive(fd.as_fd())?;
    Ok((reply.into_result()?, fds))
}

fn filesystem(
    kind: &str,
    options: &[(&str, &str)],
    attrs: u64,
) -> std::result::Result<OwnedFd, Errno> {
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), "source", kind)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(fs.as_fd(), *key)?;
        } else {
            rustix::mount::fsconfig_set_string(fs.as_fd(), *key, *value)?;
        }
    }
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let attrs = MountAttrFlags::from_bits_retain(attrs as u32);
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs)
}

impl Kernel for Linux {
    type Fd = OwnedFd;

    fn make_dir(&mut self, path: &Path) -> Result<()> {
        std::fs::create_dir(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::Exists(format!("{} exists already", path.display()))
            }
            _ => state::io("make", path, e),
        })
    }

    fn remove_dir(&mut self, path: &Path) -> Result<()> {
        state::remove_tree(path)
    }

    fn write_file(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        // In a folder made just now: nobody reads it yet, and one who finds half of it after a crash takes it for nothing.
        std::fs::write(path, bytes).map_err(|e| state::io("write", path, e))
    }

    fn make_cgroup(&mut self, path: &Path) -> Result<()> {
        self.tree.make(path)
    }

    fn remove_cgroup(&mut self, path: &Path) -> Result<()> {
        cgroup::destroy(path)
    }

    fn set_limits(&mut self, path: &Path, files: &[(&'static str, String)]) -> Result<()> {
        cgroup::set(path, files)
    }

    fn restrict_devices(&mut self, path: &Path, program: &[u64]) -> Result<()> {
        let group = cgroup::open(path)?;
        let program = raw::bpf_load(crate::devices::BPF_PROG_TYPE, program)
            .map_err(io("load the device program (bpf)".into()))?;
        raw::bpf_attach_cgroup(group.as_fd(), program.as_fd(), crate::devices::BPF_ATTACH_TYPE)
            .map_err(io(format!("attach the device program to {}", path.display())))
    }

    fn mount_shm(&mut self, path: &Path, bytes: u64) -> Result<()> {
        std::fs::create_dir_all(path).map_err(|e| state::io("make", path, e))?;
        let size = bytes.to_string();
        let attrs = raw::ATTR_NOSUID | raw::ATTR_NODEV | raw::ATTR_NOEXEC;
        let fs = filesystem("tmpfs", &[("size", &size), ("mode", "1777")], attrs)
            .map_err(io("make /dev/shm".into()))?;
        rustix::mount::move_mount(
            fs.as_fd(),
            c"",
            rustix::fs::CWD,
            path,
            rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(io(format!("mount {}", path.display())))
    }

    fn unmount(&mut self, path: &Path) -> Result<()> {
        // Pinned once; a crash between two tries may have pinned it twice.
        for _ in 0..8 {
            match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) => {}
                Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
                Err(e) => return Err(io(format!("unmount {}", path.display()))(e)),
            }
        }
        Ok(())
    }

    fn overlay(&mut self, lower: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd> {
        overlay(lower, upper, work).map_err(io(format!(
            "mount the overlay of {} layers with upper {}",
            lower.len(),
            upper.display()
        )))
    }

    fn open_tree(&mut self, path: &Path, options: &TreeOptions) -> Result<OwnedFd> {
        let tree = rustix::mount::open_tree(
            rustix::fs::CWD,
            path,
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE,
        )
        .map_err(io(format!("open the mount source {}", path.display())))?;
        let attr = raw::MountAttr {
            set: if options.read_only { raw::ATTR_RDONLY } else { 0 },
            clear: 0,
            propagation: options.propagation,
        };
        raw::mount_setattr(tree.as_fd(), true, attr)
            .map_err(io(format!("set attributes of the mount of {}", path.display())))?;
        Ok(tree)
    }

    fn terminal(&mut self) -> Result<[OwnedFd; 3]> {
        let make = || -> std::result::Result<[OwnedFd; 3], Errno> {
            let tree = devpts()?;
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let master = rustix::fs::openat(tree.as_fd(), "ptmx", flags, Mode::empty())?;
            rustix::pty::unlockpt(&master)?;
            let flags = rustix::pty::OpenptFlags::RDWR
                | rustix::pty::OpenptFlags::NOCTTY
                | rustix::pty::OpenptFlags::CLOEXEC;
            let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
            rustix::io::ioctl_fionbio(&master, true)?;
            Ok([tree, master, slave])
        };
        make().map_err(io("make a terminal".into()))
    }

    fn launch_shim(&mut self, step: &Step) -> Result<()> {
        let Step::LaunchShim { binary, args, cgroup, log, .. } = step else { return Ok(()) };
        launch(binary, args, cgroup, log)
    }

    fn ask(&mut self, socket: &Path, request: &Request, fds: &[OwnedFd]) -> Result<Reply> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        call(socket, request, &fds).map(|(reply, _)| reply)
    }

    fn close(&mut self, fds: Vec<OwnedFd>) {
        drop(fds);
    }
}

/// A devpts instance of its own.
fn devpts() -> std::result::Result<OwnedFd, Errno> {
    let options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    filesystem("devpts", &options, raw::ATTR_NOSUID | raw::ATTR_NOEXEC)
}

/// Folders named by /proc/self/fd: short (the kernel takes 256 bytes a value, and a page in all), without characters to
/// escape, and a container's mount table tells nothing about the host.
struct Folders {
    _open: Vec<OwnedFd>,
    names: Vec<String>,
}

fn folders<'p>(paths: impl Iterator<Item = &'p Path>) -> std::result::Result<Folders, Errno> {
    let (mut open, mut names) = (Vec::new(), Vec::new());
    for path in paths {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        names.push(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)));
        open.push(fd);
    }
    Ok(Folders { _open: open, names })
}

/// This kernel was found to know only the old way. Asking it again would leave a line in its log each time.
static OLD_OVERLAY: AtomicBool = AtomicBool::new(false);

// The upper folder ends with its container, so that nothing has to reach the disk: neither when a program calls fsync, nor
// (the whole filesystem, with everybody's data) when the overlay is unmounted. Hence `volatile`, since Linux 5.10.
fn overlay(lower: &[PathBuf], upper: &Path, work: &Path) -> std::result::Result<OwnedFd, Errno> {
    let all = [upper, work].into_iter().chain(lower.iter().map(PathBuf::as_path));
    let dirs = folders(all)?;
    let (ends, lower) = dirs.names.split_at(2);
    let make = || {
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(fs.as_fd(), "source", "overlay")?;
        for dir in lower {
            rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir+", dir.as_str())?;
        }
        rustix::mount::fsconfig_set_string(fs.as_fd(), "upperdir", ends[0].as_str())?;
        rustix::mount::fsconfig_set_string(fs.as_fd(), "workdir", ends[1].as_str())?;
        rustix::mount::fsconfig_set_flag(fs.as_fd(), "volatile")?;
        rustix::mount::fsconfig_create(fs.as_fd())?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        rustix::mount::fsmount(fs.as_fd(), flags, MountAttrFlags::empty())
    };
    if !OLD_OVERLAY.load(Ordering::Relaxed) {
        match make() {
            Err(Errno::INVAL) => {}
            r => return r,
        }
    }
    // Before Linux 6.5 there is no lowerdir+, and a lowerdir is over 256 bytes soon.
    let tree = overlay_by_mount(&dirs, upper)?;
    OLD_OVERLAY.store(true, Ordering::Relaxed);
    Ok(tree)
}

// With mount(2), which needs a place for a moment: the container's own folder, which nobody else looks at yet.
fn overlay_by_mount(dirs: &Folders, upper: &Path) -> std::result::Result<OwnedFd, Errno> {
    let at = upper.parent().ok_or(Errno::INVAL)?;
    let (ends, lower) = dirs.names.split_at(2);
    let data =
        format!("lowerdir={},upperdir={},workdir={},volatile", lower.join(":"), ends[0], ends[1]);
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("overlay", at, "overlay", flags, data.as_c_str())?;
    let tree = rustix::mount::open_tree(
        rustix::fs::CWD,
        at,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    );
    rustix::mount::unmount(at, UnmountFlags::DETACH)?;
    let tree = tree?;
    let private = libc::MS_PRIVATE;
    raw::mount_setattr(
        tree.as_fd(),
        false,
        raw::MountAttr { propagation: private, ..raw::MountAttr::default() },
    )?;
    Ok(tree)
}

fn launch(binary: &Path, args: &[String], cgroup: &Path, log: &Path) -> Result<()> {
    let file = shim_file(binary)?;
    let argv: Vec<CString> = std::iter::once("pintle".to_owned())
        .chain(args.iter().cloned())
        .map(c_string)
        .collect::<Result<_>>()?;
    let argv = sys::process::Pointers::new(argv.iter().map(CString::as_c_str));
    // Whoever runs the runtime marks its processes so; nothing else of its environment is the shim's business.
    let env: Vec<CString> = std::env::vars()
        .filter(|(key, _)| key.starts_with("PINTLE_"))
        .map(|(key, value)| c_string(format!("{key}={value}")))
        .collect::<Result<_>>()?;
    let env = sys::process::Pointers::new(env.iter().map(CString::as_c_str));
    let group = cgroup::open(cgroup)?;
    let null = File::open("/dev/null").map_err(|e| state::io("open", Path::new("/dev/null"), e))?;
    let log_file = File::options()
        .append(true)
        .create(true)
        .open(log)
        .map_err(|e| state::io("open", log, e))?;
    let (ready, ready_shim) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(io("make a pipe".into()))?;
    sys::process::spawn_detached(
        file.as_fd(),
        &argv,
        &env,
        Some(group.as_fd()),
        null.as_fd(),
        log_file.as_fd(),
        ready_shim.as_fd(),
    )
    .map_err(io(format!("start the shim {}", binary.display())))?;
    drop(ready_shim);
    let mut said = String::new();
    std::io::Read::read_to_string(&mut File::from(ready), &mut said)
        .map_err(|e| Error::Io(format!("wait for the shim: {e}"), e))?;
    match said.as_str() {
        "ok" => Ok(()),
        "" => Err(Error::Invalid(format!(
            "the shim {} ended without a word: is it a pintle binary?",
            binary.display()
        ))),
        why => Err(Error::Invalid(format!("the shim could not set up the sandbox: {why}"))),
    }
}

use std::fs::File;

// The shim runs from a read-only copy of its binary's mount: a container that gets hold of /proc/self/exe of a process
// that has not yet executed its program cannot write to the binary (CVE-2019-5736).
fn shim_file(binary: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let read_only = raw::MountAttr { set: raw::ATTR_RDONLY, ..raw::MountAttr::default() };
    let tree = |path: &Path| rustix::mount::open_tree(rustix::fs::CWD, path, flags);
    tree(binary)
        .or_else(|e| match (e, std::fs::read_link(binary)) {
            // /proc/self/exe of a process that has changed its mount namespace: the same file by its name here.
            (Errno::INVAL, Ok(path)) => tree(&path),
            _ => Err(e),
        })
        .and_then(|tree| raw::mount_setattr(tree.as_fd(), false, read_only).map(|()| tree))
        .map_err(io(format!("open the shim binary {}", binary.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Kernels before 6.5 take this way; this one can too.
    #[test]
    fn an_overlay_by_the_old_call() {
        let dir = Path::new("/var/tmp").join(format!("pt-overlay-{}", std::process::id()));
        let (upper, work) = (dir.join("c/upper"), dir.join("c/work"));
        let mut lower = Vec::new();
        for i in 0..100 {
            let layer = dir.join(format!("{i}-{}", "long:,name".repeat(9)));
            std::fs::create_dir_all(&layer).expect("mkdir");
            std::fs::write(layer.join(format!("f{i}")), "x").expect("write");
            lower.push(layer);
        }
        for d in [&upper, &work] {
            std::fs::create_dir_all(d).expect("mkdir");
        }
        let all = [&upper, &work].into_iter().chain(&lower).map(PathBuf::as_path);
        let old = overlay_by_mount(&folders(all).expect("open"), &upper).expect("mount");
        let there = |tree: &OwnedFd, name: &str| {
            rustix::fs::accessat(
                tree,
                name,
                rustix::fs::Access::EXISTS,
                rustix::fs::AtFlags::empty(),
            )
        };
        assert_eq!(there(&old, "f0"), Ok(()));
        assert_eq!(there(&old, "f99"), Ok(()));
        drop(old);
        let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert!(!text.contains("pt-overlay"), "it is not attached");
        std::fs::remove_dir_all(dir.join("c")).expect("clean up");
        for d in [&upper, &work] {
            std::fs::create_dir_all(d).expect("mkdir");
        }
        let new = overlay(&lower, &upper, &work).expect("mount");
        assert_eq!(there(&new, "f50"), Ok(()));
        drop(new);
        std::fs::remove_dir_all(&dir).expect("clean up");
    }
}
