//! Exec, attach, resize, dial, events: what hands descriptors to the caller.

use super::{ask_living, container, layout};
use crate::container::exec_program;
use crate::plan::{connect, linux_call};
use crate::proto::{self, Reply, Request, Stdio};
use crate::sandbox::{Error, ExecConfig, Result, Runtime, Streams};
use crate::state::Layout;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use std::os::fd::{AsFd, OwnedFd};

fn io(what: &str) -> impl Fn(Errno) -> Error + '_ {
    move |e| Error::Io(format!("{what}: {e}"), e.into())
}

// (the caller's end, the process's end); ours does not block.
fn pipe(process_reads: bool) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(io("make a pipe"))?;
    let (ours, theirs) = if process_reads { (write, read) } else { (read, write) };
    rustix::io::ioctl_fionbio(&ours, true).map_err(io("make a pipe non-blocking"))?;
    Ok((ours, theirs))
}

/// See [`Runtime::exec`].
pub fn exec(runtime: &Runtime, sandbox: &str, config: &ExecConfig) -> Result<Streams> {
    let layout = layout(runtime, sandbox)?;
    let own = container::own_process(&layout, &config.container)?;
    let program = Box::new(exec_program(&own, &config.command, config.tty)?);
    let mut streams = Streams { exec: 0, stdin: None, stdout: None, stderr: None };
    let mut theirs = Vec::new();
    let mut fds = [None; 3];
    let mut master = None;
    if config.tty {
        let (m, s) = terminal_of(&layout, sandbox, &config.container)?;
        let copy = |fd: &OwnedFd| {
            fd.try_clone().map_err(|e| Error::Io(format!("copy a descriptor: {e}"), e))
        };
        if config.stdin {
            streams.stdin = Some(copy(&m)?);
        }
        theirs.push(s);
        theirs.push(copy(&m)?);
        streams.stdout = Some(m);
        fds = [Some(0); 3];
        master = Some(1);
    } else {
        let wanted = [config.stdin, config.stdout, config.stderr];
        let ours = [&mut streams.stdin, &mut streams.stdout, &mut streams.stderr];
        for (i, (wanted, ours)) in wanted.into_iter().zip(ours).enumerate() {
            if wanted {
                let (our, their) = pipe(i == 0)?;
                *ours = Some(our);
                fds[i] = Some(theirs.len());
                theirs.push(their);
            }
        }
    }
    let request = Request::Exec {
        id: config.container.clone(),
        program,
        stdio: Stdio::Given { fds, master },
        timeout_ms: config.timeout_ms,
    };
    let borrowed: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
    match linux_call(&layout.socket(), &request, &borrowed)?.0 {
        Reply::Streams { exec, .. } => {
            streams.exec = exec;
            Ok(streams)
        }
        _ => Err(Error::Invalid("the shim's answer is not an exec".into())),
    }
}

// A new terminal in the container's own devpts, so that its name means the same inside.
fn terminal_of(layout: &Layout, sandbox: &str, id: &str) -> Result<(OwnedFd, OwnedFd)> {
    let pid = match ask_living(layout, sandbox, &Request::State)?.0 {
        Reply::State { containers, .. } => {
            containers.into_iter().find(|c| c.id == id).map_or(0, |c| c.pid)
        }
        _ => 0,
    };
    if pid == 0 {
        return Err(Error::Invalid(format!("container {id} is not running")));
    }
    let make = || -> std::result::Result<(OwnedFd, OwnedFd), Errno> {
        let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{pid}/root"), dir, Mode::empty())?;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let pts = rustix::fs::openat2(&root, "/dev/pts", dir, Mode::empty(), inside)?;
        // The container may have put something else there: only a devpts has terminals.
        const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
        if rustix::fs::fstatfs(&pts)?.f_type != DEVPTS_SUPER_MAGIC {
            return Err(Errno::NOTTY);
        }
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let master = rustix::fs::openat(&pts, "ptmx", flags, Mode::empty())?;
        rustix::pty::unlockpt(&master)?;
        let flags = rustix::pty::OpenptFlags::RDWR
            | rustix::pty::OpenptFlags::NOCTTY
            | rustix::pty::OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok((master, slave))
    };
    make().map_err(io(&format!("make a terminal in container {id}")))
}

/// See [`Runtime::attach`].
pub fn attach(runtime: &Runtime, sandbox: &str, id: &str, stdin: bool) -> Result<Streams> {
    let layout = layout(runtime, sandbox)?;
    let (reply, fds) = ask_living(&layout, sandbox, &Request::Attach { id: id.into(), stdin })?;
    let Reply::Streams { came, .. } = reply else {
        return Err(Error::Invalid("the shim's answer is not an attach".into()));
    };
    let mut fds = fds.into_iter();
    let mut next = |came: bool| -> Result<Option<OwnedFd>> {
        let fd = if came { fds.next() } else { None };
        if let Some(fd) = &fd {
            rustix::io::ioctl_fionbio(fd, true).map_err(io("make a pipe non-blocking"))?;
        }
        Ok(fd)
    };
    Ok(Streams { exec: 0, stdin: next(came[0])?, stdout: next(came[1])?, stderr: next(came[2])? })
}

/// See [`Runtime::resize`].
pub fn resize(
    runtime: &Runtime,
    sandbox: &str,
    id: &str,
    exec: u64,
    width: u16,
    height: u16,
) -> Result<()> {
    let layout = layout(runtime, sandbox)?;
    let request = Request::Resize { id: id.into(), exec, width, height };
    ask_living(&layout, sandbox, &request).map(drop)
}

/// See [`Runtime::events`].
pub fn events(runtime: &Runtime, sandbox: &str) -> Result<OwnedFd> {
    let layout = layout(runtime, sandbox)?;
    if !layout.record().exists() {
        return Err(Error::NotFound(format!("no sandbox {sandbox}")));
    }
    let fd = connect(&layout.socket())?;
    let frame = proto::encode(&Request::Subscribe, 0)?;
    proto::send(fd.as_fd(), &frame, &[]).map_err(io("send to the shim"))?;
    rustix::io::ioctl_fionbio(&fd, true).map_err(io("make a socket non-blocking"))?;
    Ok(fd)
}

/// See [`Runtime::dial`].
pub fn dial(runtime: &Runtime, sandbox: &str, port: u16) -> Result<std::net::TcpStream> {
    let layout = layout(runtime, sandbox)?;
    let (_, fds) = ask_living(&layout, sandbox, &Request::Dial(port))?;
    let fd = fds.into_iter().next().ok_or_else(|| {
        Error::Invalid("the shim's answer to dial has no connection in it".into())
    })?;
    Ok(std::net::TcpStream::from(fd))
}
