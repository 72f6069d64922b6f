//! The shim: one small process a sandbox. It is in the sandbox's net, ipc and uts namespaces, the subreaper of all its
//! containers, owns their streams, logs and exit codes, and outlives whoever asked for it.
//!
//! One thread, one epoll loop; nothing polls. Called as `pintle shim ROOT SANDBOX` with descriptor 3 as the pipe on which
//! it says `ok`, or what went wrong.

mod container;
mod log;
mod requests;
mod setup;

use crate::proto::Reply;
use crate::sandbox::{ContainerState, Error, Result, ShimEvent};
use crate::{cgroup, limits, proto, sys};
use container::{Container, Exec};
use rustix::event::epoll;
use rustix::io::Errno;
pub use setup::{refuse_sysctl, socket_address};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// What a descriptor of the loop is.
enum Source {
    /// The control socket.
    Listener,
    /// SIGCHLD.
    Children,
    /// A caller.
    Connection(Connection),
    /// What a container's (or exec's) process says on its way to exec.
    Report { of: Of, pipe: OwnedFd },
    /// Standard output or error of a container.
    Output { container: String, stream: log::Stream, pipe: OwnedFd },
}

/// Whose report it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Of {
    Container(String),
    Exec(u64),
}

struct Connection {
    socket: OwnedFd,
    input: Vec<u8>,
    fds: Vec<OwnedFd>,
    output: Vec<u8>,
    subscribed: bool,
}

/// Everything that the shim holds.
struct Shim {
    epoll: OwnedFd,
    listener: OwnedFd,
    children: OwnedFd,
    own_pidns: OwnedFd,
    /// The first process of a shared pid namespace.
    init: Option<sys::process::Spawned>,
    sources: BTreeMap<u64, Source>,
    next_token: u64,
    containers: BTreeMap<String, Container>,
    execs: BTreeMap<u64, Exec>,
    next_exec: u64,
    scratch: Vec<u8>,
    stopping: bool,
}

/// The shim's main function, called by the binary as `pintle shim ...`.
pub fn main(args: &[String]) -> i32 {
    let [root, sandbox] = args else {
        eprintln!("usage: pintle shim ROOT SANDBOX (called by the runtime)");
        return 2;
    };
    match setup::start(Path::new(root), sandbox) {
        Ok(mut shim) => match shim.run() {
            Ok(()) => 0,
            Err(e) => {
                eprintln!("shim {sandbox}: {e}");
                1
            }
        },
        Err(_) => 1,
    }
}

impl Shim {
    fn add(&mut self, source: Source, events: epoll::EventFlags) -> Result<u64> {
        let token = self.next_token;
        self.next_token += 1;
        let fd = match &source {
            Source::Listener => self.listener.as_fd(),
            Source::Children => self.children.as_fd(),
            Source::Connection(c) => c.socket.as_fd(),
            Source::Report { pipe, .. } | Source::Output { pipe, .. } => pipe.as_fd(),
        };
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), events)
            .map_err(|e| Error::Io(format!("watch a descriptor: {e}"), e.into()))?;
        self.sources.insert(token, source);
        Ok(token)
    }

    fn run(&mut self) -> Result<()> {
        self.add(Source::Listener, epoll::EventFlags::IN)?;
        self.add(Source::Children, epoll::EventFlags::IN)?;
        let mut events = Vec::with_capacity(32);
        while !(self.stopping && self.containers.values().all(|c| !c.alive())) {
            events.clear();
            let timeout = self.next_deadline().map(|at| {
                let left = at.saturating_sub(sys::mono_ns());
                rustix::event::Timespec {
                    tv_sec: (left / 1_000_000_000) as i64,
                    tv_nsec: (left % 1_000_000_000) as i64,
                }
            });
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Error::Io(format!("epoll_wait: {e}"), e.into())),
            }
            self.end_late_execs();
            for event in &events {
                self.handle(event.data.u64(), event.flags);
            }
        }
        Ok(())
    }

    fn next_deadline(&self) -> Option<u64> {
        self.execs.values().filter_map(|e| e.deadline_ns).min()
    }

    fn end_late_execs(&mut self) {
        if self.execs.is_empty() {
            return;
        }
        let now = sys::mono_ns();
        for exec in self.execs.values_mut() {
            if exec.deadline_ns.is_some_and(|at| at <= now) {
                exec.deadline_ns = None;
                // It is the leader of its own session and process group.
                sys::process::kill_group(exec.spawned.pid);
            }
        }
    }

    fn handle(&mut self, token: u64, flags: epoll::EventFlags) {
        match self.sources.get(&token) {
            None => {}
            Some(Source::Listener) => self.accept(),
            Some(Source::Children) => self.reap(),
            Some(Source::Connection(_)) => self.converse(token, flags),
            Some(Source::Report { .. }) => self.report(token),
            Some(Source::Output { .. }) => {
                self.output(token);
            }
        }
    }

    fn accept(&mut self) {
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { return };
        let open = self.sources.values().filter(|s| matches!(s, Source::Connection(_))).count();
        if open >= limits::CONNECTIONS_MAX {
            return;
        }
        let connection = Connection {
            socket,
            input: Vec::new(),
            fds: Vec::new(),
            output: Vec::new(),
            subscribed: false,
        };
        let _ = self.add(Source::Connection(connection), epoll::EventFlags::IN);
    }

    // Reads what came; a complete request is carried out; what is queued goes out.
    fn converse(&mut self, token: u64, flags: epoll::EventFlags) {
        let mut gone = flags.contains(epoll::EventFlags::ERR);
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP) {
            let Some(Source::Connection(c)) = self.sources.get_mut(&token) else { return };
            let mut part = [0u8; 4096];
            loop {
                match sys::pass::receive(c.socket.as_fd(), &mut part, &mut c.fds) {
                    Ok(0) => {
                        gone = true;
                        break;
                    }
                    Ok(n) => c.input.extend_from_slice(&part[..n]),
                    Err(Errno::AGAIN) => break,
                    Err(_) => {
                        gone = true;
                        break;
                    }
                }
                if c.input.len() > limits::MESSAGE_BYTES_MAX + 8 {
                    gone = true;
                    break;
                }
            }
            self.take_request(token, &mut gone);
        }
        if flags.contains(epoll::EventFlags::OUT) {
            self.flush(token);
        }
        if gone {
            self.drop_connection(token);
        }
    }

    fn take_request(&mut self, token: u64, gone: &mut bool) {
        let Some(Source::Connection(c)) = self.sources.get_mut(&token) else { return };
        let (request, fds) = match proto::first_frame(&c.input) {
            Ok(None) => return,
            Err(_) => {
                *gone = true;
                return;
            }
            Ok(Some((used, payload, fds))) => {
                let request = serde_json::from_slice::<proto::Request>(payload);
                if c.fds.len() < fds {
                    *gone = true;
                    return;
                }
                let rest = c.fds.split_off(fds);
                let fds = std::mem::replace(&mut c.fds, rest);
                c.input.drain(..used);
                if c.input.is_empty() {
                    // A creation's message is large and rare: its room goes back.
                    c.input = Vec::new();
                }
                (request, fds)
            }
        };
        match request {
            Ok(request) => match self.request(token, request, fds) {
                Ok(Some((reply, fds))) => self.reply(token, &reply, &fds),
                // The answer comes when the thing has happened.
                Ok(None) => {}
                Err(e) => self.reply(token, &e.into(), &[]),
            },
            Err(e) => {
                self.reply(token, &Reply::Invalid(format!("request not understood: {e}")), &[]);
            }
        }
        sys::process::trim_heap();
    }

    // Answers are small against the socket's buffer; with descriptors they must go at once.
    fn reply(&mut self, token: u64, reply: &Reply, fds: &[OwnedFd]) {
        let Ok(frame) = proto::encode(reply, fds.len()) else { return };
        let Some(Source::Connection(c)) = self.sources.get_mut(&token) else { return };
        if !c.output.is_empty() && fds.is_empty() {
            c.output.extend_from_slice(&frame);
            return;
        }
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match sys::pass::send(c.socket.as_fd(), &frame, &borrowed) {
            Ok(n) if n == frame.len() => {}
            Ok(n) => self.queue(token, &frame[n..]),
            Err(_) => self.drop_connection(token),
        }
    }

    fn queue(&mut self, token: u64, bytes: &[u8]) {
        let Some(Source::Connection(c)) = self.sources.get_mut(&token) else { return };
        c.output.extend_from_slice(bytes);
        if c.output.len() > limits::EVENTS_QUEUED_BYTES_MAX {
            self.drop_connection(token);
            return;
        }
        self.flush(token);
    }

    fn flush(&mut self, token: u64) {
        let Some(Source::Connection(c)) = self.sources.get_mut(&token) else { return };
        let mut failed = false;
        while !c.output.is_empty() {
            match sys::pass::send(c.socket.as_fd(), &c.output, &[]) {
                Ok(n) => {
                    c.output.drain(..n);
                }
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        let wanted = if c.output.is_empty() {
            epoll::EventFlags::IN
        } else {
            epoll::EventFlags::IN | epoll::EventFlags::OUT
        };
        let data = epoll::EventData::new_u64(token);
        if failed || epoll::modify(&self.epoll, &c.socket, data, wanted).is_err() {
            self.drop_connection(token);
        }
    }

    fn drop_connection(&mut self, token: u64) {
        self.sources.remove(&token);
    }

    /// Tells every subscriber.
    fn publish(&mut self, event: &ShimEvent) {
        let Ok(frame) = proto::encode(event, 0) else { return };
        let subscribers: Vec<u64> = self
            .sources
            .iter()
            .filter(|(_, s)| matches!(s, Source::Connection(c) if c.subscribed))
            .map(|(t, _)| *t)
            .collect();
        for token in subscribers {
            self.queue(token, &frame);
        }
    }

    // Children of the sandbox: containers, execs, the pid namespace's init, and orphans, which only need reaping.
    fn reap(&mut self) {
        let mut info = [0u8; 1024];
        while rustix::io::read(&self.children, &mut info).is_ok_and(|n| n > 0) {}
        while let Some((pid, status)) = sys::process::reap_any() {
            let (code, signal) = sys::process::exit_of(status);
            if let Some(id) =
                self.containers.values().find(|c| c.spawned.pid == pid).map(|c| c.state.id.clone())
            {
                self.container_ended(&id, code, signal);
            } else if let Some(exec) =
                self.execs.iter().find(|(_, e)| e.spawned.pid == pid).map(|(n, _)| *n)
            {
                self.exec_ended(exec, code);
            }
        }
    }

    fn container_ended(&mut self, id: &str, code: i32, signal: i32) {
        self.drain_outputs(id);
        self.settle(id);
        let Some(c) = self.containers.get_mut(id) else { return };
        // What the first process left behind (a shared or host pid namespace does not end with it).
        let _ = cgroup::kill(&c.cgroup);
        if let (Some(token), Some(_)) = (c.waiting, &c.go) {
            // It never got ready: there is no such container.
            let died = || Reply::Failed("the process died in its set-up".into(), libc::ECHILD);
            let reply = c.failed.take().unwrap_or_else(died);
            self.forget(id);
            self.reply(token, &reply, &[]);
            return;
        }
        c.ended(code, signal);
        let Some(c) = self.containers.get_mut(id) else { return };
        let (state, removers) = (c.state.clone(), std::mem::take(&mut c.removers));
        c.save_exit();
        self.publish(&ShimEvent::Exited(state));
        if !removers.is_empty() {
            self.forget(id);
            for token in removers {
                self.reply(token, &Reply::Done, &[]);
            }
        }
    }

    // A short program may have ended before its report was looked at: what it said comes first.
    fn settle(&mut self, id: &str) {
        let of = Of::Container(id.to_owned());
        let token = self
            .sources
            .iter()
            .find(|(_, s)| matches!(s, Source::Report { of: o, .. } if *o == of))
            .map(|(t, _)| *t);
        if let Some(token) = token {
            // At most a report and the end of file.
            self.report(token);
            self.report(token);
            self.sources.remove(&token);
        }
    }

    fn exec_ended(&mut self, number: u64, code: i32) {
        let Some(exec) = self.execs.remove(&number) else { return };
        // It may have died before its report was read: the report says why.
        let reports: Vec<u64> = self
            .sources
            .iter()
            .filter(|(_, s)| matches!(s, Source::Report { of: Of::Exec(n), .. } if *n == number))
            .map(|(t, _)| *t)
            .collect();
        if let Some(token) = exec.waiting {
            let failure = reports.iter().find_map(|t| match self.sources.get(t) {
                Some(Source::Report { pipe, .. }) => {
                    match sys::process::read_report(pipe.as_fd()) {
                        sys::process::Report::Said(at, errno) => Some((at, errno)),
                        _ => None,
                    }
                }
                _ => None,
            });
            let reply = match failure {
                Some((at, errno)) => exec.failure(at, errno),
                None => Reply::Streams { exec: number, came: [false; 3] },
            };
            self.reply(token, &reply, &[]);
        }
        for token in reports {
            self.sources.remove(&token);
        }
        self.publish(&ShimEvent::ExecExited { exec: number, code });
    }

    fn forget(&mut self, id: &str) {
        self.drain_outputs(id);
        self.containers.remove(id);
        self.sources.retain(|_, s| match s {
            Source::Output { container, .. } => container != id,
            Source::Report { of: Of::Container(c), .. } => c != id,
            _ => true,
        });
    }

    fn states(&self) -> Vec<ContainerState> {
        self.containers.values().map(|c| c.state.clone()).collect()
    }

    fn drain_outputs(&mut self, id: &str) {
        let tokens: Vec<u64> = self
            .sources
            .iter()
            .filter(|(_, s)| matches!(s, Source::Output { container, .. } if container == id))
            .map(|(t, _)| *t)
            .collect();
        for token in tokens {
            while self.output(token) {}
        }
    }

    // One read from a container's stream: to the log and to attachers. True when there may be more.
    fn output(&mut self, token: u64) -> bool {
        let Some(Source::Output { container, stream, pipe }) = self.sources.get(&token) else {
            return false;
        };
        let (id, stream) = (container.clone(), *stream);
        self.scratch.resize(limits::STREAM_READ_BYTES, 0);
        let got = rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut self.scratch));
        let now = pintle_base::Wall(sys::wall_ns());
        let Some(c) = self.containers.get_mut(&id) else { return false };
        match got {
            Ok(n) if n > 0 => {
                c.take_output(stream, now, &self.scratch[..n]);
                n == limits::STREAM_READ_BYTES
            }
            Err(Errno::AGAIN) => false,
            // End of file; a terminal says EIO.
            _ => {
                c.end_output(stream, now);
                self.sources.remove(&token);
                false
            }
        }
    }

    fn report(&mut self, token: u64) {
        let Some(Source::Report { of, pipe }) = self.sources.get(&token) else { return };
        let of = of.clone();
        let said = sys::process::read_report(pipe.as_fd());
        match said {
            sys::process::Report::Nothing => {}
            sys::process::Report::End => {
                self.sources.remove(&token);
                self.report_ended(&of);
            }
            sys::process::Report::Said(at, errno) => {
                self.reported(&of, at, errno);
            }
        }
    }
}
