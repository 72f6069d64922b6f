//! Sources of events that are not connections: descriptors, signals, children, other threads.

use crate::looper::{Entry, Event, Loop, Token, WAKER};
use mio::unix::SourceFd;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Which readiness of a descriptor matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something to read, or the other end hung up.
    Read,
    /// Room to write.
    Write,
    /// Either.
    Both,
}

impl Interest {
    pub(crate) fn to_mio(self) -> mio::Interest {
        match self {
            Interest::Read => mio::Interest::READABLE,
            Interest::Write => mio::Interest::WRITABLE,
            Interest::Both => mio::Interest::READABLE | mio::Interest::WRITABLE,
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It was not our child (or somebody else has reaped it): only that it is gone is known.
    Unknown,
}

pub(crate) struct FdEntry {
    pub(crate) fd: RawFd,
    pub(crate) interest: Interest,
    /// An event was given out: the next poll arms it again, so that what is left undone shows up.
    pub(crate) fired: bool,
}

pub(crate) struct ChildEntry {
    pub(crate) pidfd: OwnedFd,
    pub(crate) pid: u32,
}

/// Posts values into a loop from any thread.
#[derive(Debug)]
pub struct Poster<T> {
    pub(crate) sender: Sender<T>,
    pub(crate) waker: Arc<mio::Waker>,
}

impl<T> Clone for Poster<T> {
    fn clone(&self) -> Poster<T> {
        Poster { sender: self.sender.clone(), waker: self.waker.clone() }
    }
}

impl<T> Poster<T> {
    /// Makes `value` an `Event::Posted` of the loop. False when the loop is gone.
    pub fn post(&self, value: T) -> bool {
        self.sender.send(value).is_ok() && self.waker.wake().is_ok()
    }
}

impl<T> Loop<T> {
    /// For worker threads.
    pub fn poster(&self) -> Poster<T> {
        Poster { sender: self.sender.clone(), waker: self.waker.clone() }
    }

    /// Watches any descriptor, level-triggered: `Event::Fd` comes once a turn as long as it is ready. The caller
    /// keeps it open until `close(token)`.
    pub fn watch_fd(&mut self, fd: &impl AsFd, interest: Interest) -> io::Result<Token> {
        let fd = fd.as_fd().as_raw_fd();
        let key = self.entries.insert(Entry::Fd(FdEntry { fd, interest, fired: false }));
        let registered = self.poll.registry().register(
            &mut SourceFd(&fd),
            mio::Token(key.to_u64() as usize),
            interest.to_mio(),
        );
        if let Err(error) = registered {
            self.entries.remove(key);
            return Err(error);
        }
        Ok(Token(key))
    }

    /// Changes what matters about a watched descriptor.
    pub fn set_interest(&mut self, token: Token, interest: Interest) -> io::Result<()> {
        let Some(Entry::Fd(entry)) = self.entries.get_mut(token.0) else { return Ok(()) };
        entry.interest = interest;
        let id = mio::Token(token.0.to_u64() as usize);
        self.poll.registry().reregister(&mut SourceFd(&entry.fd), id, interest.to_mio())
    }

    /// Watches a process; `Event::Child` comes once, when it has ended, and a child is reaped then. (Do not
    /// also wait for it by other means.)
    pub fn watch_child(&mut self, pid: u32) -> io::Result<Token> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
        let fd = pidfd.as_raw_fd();
        let key = self.entries.insert(Entry::Child(ChildEntry { pidfd, pid }));
        let id = mio::Token(key.to_u64() as usize);
        let readable = mio::Interest::READABLE;
        if let Err(error) = self.poll.registry().register(&mut SourceFd(&fd), id, readable) {
            self.entries.remove(key);
            return Err(error);
        }
        Ok(Token(key))
    }

    /// From now on these signals come as `Event::Signal` and do nothing else. Call before threads are started.
    pub fn signals(&mut self, signals: &[Signal]) -> io::Result<Token> {
        let mut mask = SigSet::empty();
        for signal in signals {
            mask.add(*signal);
        }
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let fd = signals.as_raw_fd();
        let key = self.entries.insert(Entry::Signals(signals));
        let id = mio::Token(key.to_u64() as usize);
        let readable = mio::Interest::READABLE;
        if let Err(error) = self.poll.registry().register(&mut SourceFd(&fd), id, readable) {
            self.entries.remove(key);
            return Err(error);
        }
        Ok(Token(key))
    }

    /// What threads have posted.
    pub(crate) fn take_posted(&mut self) {
        while let Ok(value) = self.posted.try_recv() {
            self.events.push_back(Event::Posted(value));
        }
    }

    /// Descriptors that gave an event are armed again.
    pub(crate) fn rearm(&mut self) {
        for key in std::mem::take(&mut self.fired) {
            if let Some(Entry::Fd(entry)) = self.entries.get_mut(key) {
                entry.fired = false;
                let id = mio::Token(key.to_u64() as usize);
                let interest = entry.interest.to_mio();
                let armed = self.poll.registry().reregister(&mut SourceFd(&entry.fd), id, interest);
                if let Err(error) = armed {
                    pintle_base::log::warn("a watched descriptor was closed", &[("error", &error)]);
                }
            }
        }
    }

    pub(crate) fn handle_signals(&mut self, token: Token) {
        let Some(Entry::Signals(signals)) = self.entries.get(token.0) else { return };
        while let Ok(Some(info)) = signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if let Ok(signal) = Signal::try_from(number) {
                self.events.push_back(Event::Signal(signal));
            }
        }
    }

    pub(crate) fn handle_child(&mut self, token: Token) {
        let Some(Entry::Child(child)) = self.entries.get(token.0) else { return };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let exit = match waitid(WaitId::PidFd(child.pidfd.as_fd()), options) {
            Ok(None) => return,
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            },
            Err(_) => Exit::Unknown,
        };
        let pid = child.pid;
        self.remove_entry(token.0);
        self.events.push_back(Event::Child(token, pid, exit));
    }
}

/// The waker's token; no slab key ever has this value.
pub(crate) fn is_waker(token: mio::Token) -> bool {
    token == WAKER
}
