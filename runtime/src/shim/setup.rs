//! From the shim's exec to its loop: namespaces, pins, sysctls, socket; then `ok` to whoever started it.

use super::Shim;
use crate::sandbox::{Error, Namespace, Result, SandboxConfig};
use crate::state::{self, Layout};
use crate::sys;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;

fn step<T>(what: &str, r: std::result::Result<T, Errno>) -> Result<T> {
    r.map_err(|e| Error::Io(format!("{what}: {e}"), e.into()))
}

/// Does all of it, and says on descriptor 3 how it went.
pub fn start(root: &Path, sandbox: &str) -> Result<Shim> {
    let result = set_up(root, sandbox);
    let said = match &result {
        Ok(_) => "ok".to_owned(),
        Err(e) => e.to_string(),
    };
    let mut ready = sys::process::adopt_ready_pipe();
    let _ = ready.write_all(said.as_bytes());
    result
}

fn set_up(root: &Path, sandbox: &str) -> Result<Shim> {
    sys::process::small_heap();
    sys::signal::ignore_requests_to_end();
    // Nobody in a container may look into a child of ours before its exec.
    step("prctl", sys::raw::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))?;
    step("prctl", sys::raw::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))?;
    let _ = rustix::thread::set_name(c"pintle-shim");
    let layout = Layout::new(root, sandbox);
    let config: SandboxConfig = state::read_json(&layout.config())?
        .ok_or_else(|| Error::NotFound(format!("sandbox {sandbox} has no config.json")))?;
    let open = |path: &str| {
        let r = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        step(&format!("open {path}"), r)
    };
    let own_pidns = open("/proc/self/ns/pid")?;
    enter_namespaces(&config, &layout)?;
    let init = shared_init(&config, &layout)?;
    set_sysctls(&config)?;
    let children = step("signalfd", sys::signal::child_fd())?;
    let listener = listen(&layout)?;
    let epoll = step(
        "epoll_create",
        rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC),
    )?;
    Ok(Shim {
        epoll,
        listener,
        children,
        own_pidns,
        init,
        sources: BTreeMap::new(),
        next_token: 1,
        containers: BTreeMap::new(),
        execs: BTreeMap::new(),
        next_exec: 1,
        scratch: Vec::new(),
        stopping: false,
    })
}

fn enter_namespaces(config: &SandboxConfig, layout: &Layout) -> Result<()> {
    let mut kinds = libc::CLONE_NEWUTS;
    let mut pins = vec!["uts"];
    if config.net == Namespace::New {
        kinds |= libc::CLONE_NEWNET;
        pins.push("net");
    }
    if config.ipc == Namespace::New {
        kinds |= libc::CLONE_NEWIPC;
        pins.push("ipc");
    }
    step("make namespaces", sys::raw::unshare(kinds))?;
    step("set the host name", sys::raw::set_hostname(config.hostname.as_bytes()))?;
    if config.net == Namespace::New {
        step("bring lo up", sys::raw::loopback_up())?;
    }
    for kind in pins {
        pin(&format!("/proc/self/ns/{kind}"), &layout.namespace(kind))?;
    }
    Ok(())
}

fn pin(namespace: &str, at: &Path) -> Result<()> {
    if let Some(dir) = at.parent() {
        std::fs::create_dir_all(dir).map_err(|e| state::io("make", dir, e))?;
    }
    std::fs::write(at, "").map_err(|e| state::io("make", at, e))?;
    step(&format!("pin {namespace}"), rustix::mount::mount_bind(namespace, at))
}

// A pid namespace for the whole sandbox ends with its first process, so that one is ours: a copy of the shim that only reaps.
fn shared_init(config: &SandboxConfig, layout: &Layout) -> Result<Option<sys::process::Spawned>> {
    if config.pid == Namespace::Host || !config.share_pid {
        return Ok(None);
    }
    let init = step(
        "make the shared pid namespace",
        sys::process::clone_into(
            None,
            libc::CLONE_NEWPID,
            libc::SIGCHLD,
            &sys::process::reap_for_ever,
        ),
    )?;
    pin(&format!("/proc/{}/ns/pid", init.pid), &layout.namespace("pid"))?;
    Ok(Some(init))
}

/// Why this sysctl may not be set for this sandbox, if so.
pub fn refuse_sysctl(name: &str, config: &SandboxConfig) -> Option<String> {
    let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."];
    let name = name.replace('/', ".");
    if name.contains("..") {
        return Some(format!("sysctl {name:?} is not a name"));
    }
    if name.starts_with("net.") {
        return (config.net == Namespace::Host)
            .then(|| format!("sysctl {name}: it would change the host's network"));
    }
    if name == "kernel.sem" || ipc.iter().any(|p| name.starts_with(p)) {
        return (config.ipc == Namespace::Host)
            .then(|| format!("sysctl {name}: it would change the host's ipc"));
    }
    Some(format!("sysctl {name}: it is not separate for each sandbox, so it would change the host"))
}

fn set_sysctls(config: &SandboxConfig) -> Result<()> {
    for (name, value) in &config.sysctls {
        if let Some(why) = refuse_sysctl(name, config) {
            return Err(Error::Invalid(why));
        }
        // A dot separates, as does a slash; net/ipv4/conf/eth0.1/... is written with slashes.
        let path = if name.contains('/') { name.clone() } else { name.replace('.', "/") };
        let path = Path::new("/proc/sys").join(path);
        std::fs::write(&path, value).map_err(|e| state::io("set sysctl", &path, e))?;
    }
    Ok(())
}

// The path may be longer than a socket address takes (108 bytes): it is reached by /proc/self/fd.
fn listen(layout: &Layout) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = step(
        "make the control socket",
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None),
    )?;
    let path = layout.socket();
    let _ = std::fs::remove_file(&path);
    let address = socket_address(&path)?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    step(&format!("bind {}", path.display()), rustix::net::bind(&socket, &address.0))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    step("listen", rustix::net::listen(&socket, 64))?;
    Ok(socket)
}

/// The address of a socket by a short name below its folder's descriptor, which must stay open until it was used.
pub fn socket_address(path: &Path) -> Result<(SocketAddrUnix, OwnedFd)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::Invalid(format!("{} is no socket path", path.display())));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match rustix::fs::open(dir, flags, Mode::empty()) {
        Ok(d) => d,
        Err(e) => return Err(Error::Io(format!("open {}: {e}", dir.display()), e.into())),
    };
    let short = Path::new("/proc/self/fd")
        .join(std::os::fd::AsRawFd::as_raw_fd(&dir).to_string())
        .join(name);
    Ok((step("socket address", SocketAddrUnix::new(&short))?, dir))
}
