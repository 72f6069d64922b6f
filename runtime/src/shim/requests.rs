//! What callers ask, carried out.

use super::container::{Attacher, Container, Exec};
use super::log::{Lines, LogFile, Stream};
use super::{Of, Shim, Source};
use crate::program::{Program, phase};
use crate::proto::{NewContainer, Reply, Request, Stdio};
use crate::sandbox::{ContainerState, ContainerStatus, Error, Result, ShimEvent};
use crate::sys::{self, child::Prepared, process::Spawned};
use crate::{cgroup, state};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// An answer with its descriptors; `None` = it comes later.
type Answer = Result<Option<(Reply, Vec<OwnedFd>)>>;

fn done() -> Answer {
    Ok(Some((Reply::Done, Vec::new())))
}

fn io(what: &str) -> impl Fn(Errno) -> Error + '_ {
    move |e| Error::Io(format!("{what}: {e}"), e.into())
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(io("make a pipe"))
}

fn unblock(fd: &OwnedFd) -> Result<()> {
    rustix::io::ioctl_fionbio(fd, true).map_err(io("make a descriptor non-blocking"))
}

/// The shim's and the child's ends of the streams.
struct Ends {
    child: [RawFd; 3],
    /// Held until the child has them.
    _theirs: Vec<OwnedFd>,
    stdin: Option<OwnedFd>,
    outputs: Vec<(Stream, OwnedFd)>,
    terminal: Option<OwnedFd>,
}

impl Shim {
    pub(super) fn request(&mut self, token: u64, request: Request, fds: Vec<OwnedFd>) -> Answer {
        match request {
            Request::State => {
                let pid = std::process::id();
                Ok(Some((Reply::State { pid, containers: self.states() }, Vec::new())))
            }
            Request::Create(new) => self.create(token, *new, fds),
            Request::Start(id) => self.start(token, &id),
            Request::Kill { id, signal, all } => self.kill(&id, signal, all),
            Request::Remove { id, force } => self.remove(token, &id, force),
            Request::Exec { id, program, stdio, timeout_ms } => {
                self.exec(token, &id, program, &stdio, timeout_ms, fds)
            }
            Request::Attach { id, stdin } => self.attach(&id, stdin),
            Request::Resize { id, exec, width, height } => self.resize(&id, exec, width, height),
            Request::Subscribe => self.subscribe(token),
            Request::Dial(port) => {
                let socket = dial(port)?;
                Ok(Some((Reply::Done, vec![socket])))
            }
            Request::Stop => {
                self.stopping = true;
                for c in self.containers.values().filter(|c| c.alive()) {
                    cgroup::kill(&c.cgroup)?;
                }
                done()
            }
        }
    }

    fn container(&mut self, id: &str) -> Result<&mut Container> {
        self.containers.get_mut(id).ok_or_else(|| Error::NotFound(format!("no container {id}")))
    }

    fn running(&mut self, id: &str) -> Result<&mut Container> {
        let c = self.container(id)?;
        match c.state.status {
            ContainerStatus::Running => Ok(c),
            ContainerStatus::Created => {
                Err(Error::Invalid(format!("container {id} is not started")))
            }
            ContainerStatus::Exited { code, .. } => {
                Err(Error::Invalid(format!("container {id} has ended with code {code}")))
            }
        }
    }

    fn create(&mut self, token: u64, mut new: NewContainer, fds: Vec<OwnedFd>) -> Answer {
        if self.containers.contains_key(&new.id) {
            return Err(Error::Exists(format!("container {} exists", new.id)));
        }
        let log = LogFile::open(&new.log_path, new.log_bytes_max, new.log_files_max)
            .map_err(|e| state::io("open log", &new.log_path, e))?;
        let cgroup_fd = cgroup::open(&new.cgroup)?;
        let ends = container_ends(&new.stdio, &fds)?;
        let (report, report_child) = pipe()?;
        let (go_child, go) = pipe()?;
        unblock(&report)?;
        let program = Box::new(std::mem::replace(&mut new.program, empty_program()));
        let child =
            Prepared::new(&program, &fds, ends.child, report_child.as_fd(), Some(go_child.as_fd()))
                .ok_or_else(|| Error::Invalid("the seccomp filter is too long".into()))?;
        let shared = self.init.as_ref().map(|i| i.pidfd.try_clone()).transpose();
        let shared = shared.map_err(|e| Error::Io(format!("copy a pidfd: {e}"), e))?;
        let spawned =
            self.clone_child(shared.as_ref(), &cgroup_fd, program.new_namespaces, &child)?;
        drop(child);
        for (stream, pipe) in ends.outputs {
            unblock(&pipe)?;
            let source = Source::Output { container: new.id.clone(), stream, pipe };
            self.add(source, EventFlags::IN)?;
        }
        let of = Of::Container(new.id.clone());
        self.add(Source::Report { of, pipe: report }, EventFlags::IN)?;
        let state = ContainerState {
            id: new.id.clone(),
            pid: spawned.pid,
            status: ContainerStatus::Created,
            created_ns: new.created_ns,
            started_ns: 0,
            finished_ns: 0,
            image_id: new.image_id,
            labels: new.labels,
        };
        let container = Container {
            state,
            dir: new.dir,
            cgroup: new.cgroup,
            cgroup_fd,
            spawned,
            go: Some(go),
            waiting: Some(token),
            removers: Vec::new(),
            start_failed: false,
            failed: None,
            stdin: ends.stdin,
            terminal: ends.terminal,
            stdin_once: new.stdin_once,
            attachers: Vec::new(),
            log,
            lines: [Lines::default(), Lines::default()],
            program: Some(program),
        };
        self.containers.insert(new.id, container);
        Ok(None)
    }

    // Born in the pid namespace of `pidns` (a pidfd) when given; the shim itself stays where it is.
    fn clone_child(
        &mut self,
        pidns: Option<&OwnedFd>,
        cgroup: &OwnedFd,
        mut kinds: i32,
        child: &Prepared<'_>,
    ) -> Result<Spawned> {
        if let Some(pidns) = pidns {
            kinds &= !libc::CLONE_NEWPID;
            sys::raw::setns(pidns.as_fd(), libc::CLONE_NEWPID)
                .map_err(io("enter the pid namespace"))?;
        }
        let made =
            sys::process::clone_into(Some(cgroup.as_fd()), kinds, libc::SIGCHLD, &|| child.run());
        if pidns.is_some() {
            sys::raw::setns(self.own_pidns.as_fd(), libc::CLONE_NEWPID)
                .map_err(io("leave the pid namespace"))?;
        }
        made.map_err(io("make the process (clone3)"))
    }

    fn start(&mut self, token: u64, id: &str) -> Answer {
        let c = self.container(id)?;
        match (&c.state.status, c.go.take()) {
            (ContainerStatus::Created, Some(go)) => {
                c.waiting = Some(token);
                rustix::io::write(&go, b"g").map_err(io("start the process"))?;
                Ok(None)
            }
            (ContainerStatus::Created, None) => {
                Err(Error::Invalid(format!("container {id} is being started")))
            }
            // Asked again after a crash of the caller.
            (ContainerStatus::Running, _) => {
                Ok(Some((Reply::Container(c.state.clone()), Vec::new())))
            }
            (ContainerStatus::Exited { .. }, _) => {
                Err(Error::Invalid(format!("container {id} has ended already")))
            }
        }
    }

    /// A child said something on its way.
    pub(super) fn reported(&mut self, of: &Of, at: u32, errno: i32) {
        match of {
            Of::Container(id) => {
                let Some(c) = self.containers.get_mut(id) else { return };
                let reply = match (at, &c.go) {
                    (phase::READY, _) => Reply::Container(c.state.clone()),
                    (_, Some(_)) => {
                        c.failed = Some(c.failure(at, errno));
                        return;
                    }
                    (_, None) => {
                        c.start_failed = true;
                        c.failure(at, errno)
                    }
                };
                if let Some(token) = c.waiting.take() {
                    self.reply(token, &reply, &[]);
                }
            }
            Of::Exec(number) => {
                let Some(e) = self.execs.get_mut(number) else { return };
                let Some(token) = e.waiting.take() else { return };
                let reply = e.failure(at, errno);
                self.reply(token, &reply, &[]);
            }
        }
    }

    /// A child's report pipe is closed: by its exec, or by its death, which its wait status tells.
    pub(super) fn report_ended(&mut self, of: &Of) {
        match of {
            Of::Container(id) => {
                let Some(c) = self.containers.get_mut(id) else { return };
                // Not let go yet: it died, and is about to be reaped.
                if c.go.is_some() || c.start_failed || !c.alive() {
                    return;
                }
                c.state.status = ContainerStatus::Running;
                c.state.started_ns = sys::wall_ns();
                c.program = None;
                let (token, state) = (c.waiting.take(), c.state.clone());
                if let Some(token) = token {
                    self.reply(token, &Reply::Container(state), &[]);
                }
            }
            Of::Exec(number) => {
                let Some(e) = self.execs.get_mut(number) else { return };
                e.program = None;
                if let Some(token) = e.waiting.take() {
                    let reply = Reply::Streams { exec: *number, came: [false; 3] };
                    self.reply(token, &reply, &[]);
                }
            }
        }
        sys::process::trim_heap();
    }

    fn kill(&mut self, id: &str, signal: i32, all: bool) -> Answer {
        let c = self.container(id)?;
        if !c.alive() {
            return done();
        }
        if all && signal == libc::SIGKILL {
            cgroup::kill(&c.cgroup)?;
            return done();
        }
        let number = rustix::process::Signal::from_named_raw(signal)
            .ok_or_else(|| Error::Invalid(format!("signal {signal} does not exist")))?;
        let sent = rustix::process::pidfd_send_signal(&c.spawned.pidfd, number);
        match sent {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(e) => return Err(io(&format!("signal container {id}"))(e)),
        }
        if all {
            for pid in cgroup::pids(&c.cgroup).into_iter().filter(|p| *p != c.spawned.pid) {
                if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
                    let _ = rustix::process::kill_process(pid, number);
                }
            }
        }
        done()
    }

    fn remove(&mut self, token: u64, id: &str, force: bool) -> Answer {
        // Asked again after a crash of the caller.
        let Some(c) = self.containers.get_mut(id) else { return done() };
        if !c.alive() {
            self.forget(id);
            return done();
        }
        if !force {
            return Err(Error::Invalid(format!("container {id} is running: kill it first")));
        }
        cgroup::kill(&c.cgroup)?;
        c.removers.push(token);
        Ok(None)
    }

    fn exec(
        &mut self,
        token: u64,
        id: &str,
        program: Box<Program>,
        stdio: &Stdio,
        timeout_ms: u64,
        mut fds: Vec<OwnedFd>,
    ) -> Answer {
        let c = self.running(id)?;
        let copy = |fd: &OwnedFd| {
            fd.try_clone().map_err(|e| Error::Io(format!("copy a descriptor: {e}"), e))
        };
        let (pidfd, cgroup_fd) = (copy(&c.spawned.pidfd)?, copy(&c.cgroup_fd)?);
        let Stdio::Given { fds: given, master } = stdio else {
            return Err(Error::Invalid("an exec brings its own streams".into()));
        };
        let number =
            |at: &Option<usize>| at.and_then(|i| fds.get(i)).map_or(-1, AsRawFd::as_raw_fd);
        let ends = [number(&given[0]), number(&given[1]), number(&given[2])];
        let terminal = master.and_then(|i| fds.get(i)).map(copy).transpose()?;
        fds.insert(0, copy(&pidfd)?);
        let (report, report_child) = pipe()?;
        unblock(&report)?;
        let child = Prepared::new(&program, &fds, ends, report_child.as_fd(), None)
            .ok_or_else(|| Error::Invalid("the seccomp filter is too long".into()))?;
        let spawned = self.clone_child(Some(&pidfd), &cgroup_fd, program.new_namespaces, &child)?;
        drop(child);
        let exec = self.next_exec;
        self.next_exec += 1;
        self.add(Source::Report { of: Of::Exec(exec), pipe: report }, EventFlags::IN)?;
        let deadline_ns = (timeout_ms > 0).then(|| sys::mono_ns() + timeout_ms * 1_000_000);
        let record = Exec {
            container: id.to_owned(),
            spawned,
            waiting: Some(token),
            deadline_ns,
            terminal,
            program: Some(program),
        };
        self.execs.insert(exec, record);
        Ok(None)
    }

    fn attach(&mut self, id: &str, stdin: bool) -> Answer {
        let c = self.container(id)?;
        if let ContainerStatus::Exited { code, .. } = c.state.status {
            return Err(Error::Invalid(format!("container {id} has ended with code {code}")));
        }
        let mut fds = Vec::new();
        let mut came = [false; 3];
        if stdin && let Some(input) = &c.stdin {
            fds.push(input.try_clone().map_err(|e| Error::Io(format!("copy stdin: {e}"), e))?);
            came[0] = true;
            if c.stdin_once && c.terminal.is_none() {
                c.stdin = None;
            }
        }
        let (read, stdout) = pipe()?;
        unblock(&stdout)?;
        fds.push(read);
        came[1] = true;
        let mut stderr = None;
        if c.terminal.is_none() {
            let (read, write) = pipe()?;
            unblock(&write)?;
            fds.push(read);
            came[2] = true;
            stderr = Some(write);
        }
        for fd in fds.iter().skip(usize::from(came[0])) {
            // As much as an unprivileged pipe may have: bursts that a reader has not seen yet.
            let _ = rustix::pipe::fcntl_setpipe_size(fd, 1 << 20);
        }
        c.attachers.push(Attacher { stdout, stderr });
        Ok(Some((Reply::Streams { exec: 0, came }, fds)))
    }

    fn resize(&mut self, id: &str, exec: u64, width: u16, height: u16) -> Answer {
        let terminal = if exec == 0 {
            self.container(id)?.terminal.as_ref()
        } else {
            match self.execs.get(&exec) {
                Some(e) => e.terminal.as_ref(),
                // It has just ended.
                None => return done(),
            }
        };
        let terminal =
            terminal.ok_or_else(|| Error::Invalid(format!("container {id} has no terminal")))?;
        let size =
            rustix::termios::Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size).map_err(io("set the terminal's size"))?;
        done()
    }

    fn subscribe(&mut self, token: u64) -> Answer {
        if let Some(Source::Connection(c)) = self.sources.get_mut(&token) {
            c.subscribed = true;
        }
        self.reply(token, &Reply::Done, &[]);
        let ended: Vec<_> = self.states().into_iter().filter(|s| s.pid == 0).collect();
        for state in ended {
            if let Ok(frame) = crate::proto::encode(&ShimEvent::Exited(state), 0) {
                self.queue(token, &frame);
            }
        }
        Ok(None)
    }
}

fn container_ends(stdio: &Stdio, fds: &[OwnedFd]) -> Result<Ends> {
    let copy = |i: usize| {
        let fd =
            fds.get(i).ok_or_else(|| Error::Invalid("a stream's descriptor is missing".into()))?;
        fd.try_clone().map_err(|e| Error::Io(format!("copy a descriptor: {e}"), e))
    };
    match stdio {
        Stdio::Terminal { master, slave } => {
            let slave = copy(*slave)?;
            Ok(Ends {
                child: [slave.as_raw_fd(); 3],
                _theirs: vec![slave],
                stdin: Some(copy(*master)?),
                outputs: vec![(Stream::Stdout, copy(*master)?)],
                terminal: Some(copy(*master)?),
            })
        }
        Stdio::Logged { stdin } => {
            let (out, out_child) = pipe()?;
            let (err, err_child) = pipe()?;
            let mut ends = Ends {
                child: [-1, out_child.as_raw_fd(), err_child.as_raw_fd()],
                _theirs: vec![out_child, err_child],
                stdin: None,
                outputs: vec![(Stream::Stdout, out), (Stream::Stderr, err)],
                terminal: None,
            };
            if *stdin {
                let (input_child, input) = pipe()?;
                ends.child[0] = input_child.as_raw_fd();
                ends._theirs.push(input_child);
                ends.stdin = Some(input);
            }
            Ok(ends)
        }
        Stdio::Given { .. } => {
            Err(Error::Invalid("a container's streams belong to its shim".into()))
        }
    }
}

fn empty_program() -> Program {
    Program { new_namespaces: 0, steps: Vec::new(), process: crate::program::Process::default() }
}

// In the sandbox's network namespace, where the shim lives. Loopback answers at once: yes, no, or its queue is full.
fn dial(port: u16) -> Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let connect = |address: std::net::SocketAddr| -> std::result::Result<OwnedFd, Errno> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(e) => return Err(e),
        }
        rustix::net::sockopt::socket_error(&socket)??;
        Ok(socket)
    };
    let v4 = connect((std::net::Ipv4Addr::LOCALHOST, port).into());
    match v4 {
        Ok(s) => Ok(s),
        Err(first) => connect((std::net::Ipv6Addr::LOCALHOST, port).into())
            .map_err(|_| io(&format!("connect to port {port} in the sandbox"))(first)),
    }
}
