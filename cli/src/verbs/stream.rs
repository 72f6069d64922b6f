//! `pintle logs` and `pintle exec`: a stream through the API server to the pod's node, over the wire protocol.

use super::{layout, namespace};
use clap::ArgMatches;
use pintle_base::{Clock, Wall};
use pintle_reactor::{Endpoint, Event, Loop, RealClock, Signal, Token};
use pintle_wire::conn::{self, Hello, Limits, SendError, StreamId};
use pintle_wire::msg::node::{Frame, Io, LogOptions, Request, Target};
use pintle_wire::msg::{self, Open};
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Bytes of standard input that are read at once; the next are read when these have been sent.
const CHUNK_BYTES: usize = 32 << 10;
/// How long the API server may take to answer the connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// `pintle logs POD`.
pub fn logs(m: &ArgMatches) -> Result<i32, String> {
    let number = |name: &str| m.get_one::<u64>(name).copied();
    let since = number("since").map(|s| {
        let now: Wall = RealClock.now().wall;
        now.0.saturating_sub(i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1_000_000_000))
    });
    let options = LogOptions {
        follow: m.get_flag("follow"),
        previous: m.get_flag("previous"),
        timestamps: m.get_flag("timestamps"),
        tail_lines: number("tail"),
        since_unix_ns: since,
        limit_bytes: None,
    };
    Session::open(m, Request::Logs { target: target(m), options }, Io::default())?.run()
}

/// `pintle exec POD -- COMMAND`.
pub fn exec(m: &ArgMatches) -> Result<i32, String> {
    let command: Vec<String> =
        m.get_many::<String>("command").into_iter().flatten().cloned().collect();
    let tty = m.get_flag("tty");
    let io = Io { stdin: m.get_flag("stdin"), stdout: true, stderr: !tty, tty };
    if tty && !std::io::stdin().is_terminal() {
        return Err("--tty needs a terminal on standard input; leave it out for pipes".into());
    }
    Session::open(m, Request::Exec { target: target(m), command, io }, io)?.run()
}

fn target(m: &ArgMatches) -> Target {
    let pod = m.get_one::<String>("pod").map_or("", String::as_str);
    Target {
        namespace: namespace(m),
        pod: pod.strip_prefix("pod/").unwrap_or(pod).to_owned(),
        uid: String::new(),
        container: m.get_one::<String>("container").cloned().unwrap_or_default(),
    }
}

/// One stream and the user's terminal.
struct Session {
    l: Loop<Vec<u8>>,
    api: Token,
    stream: StreamId,
    io: Io,
    /// Lets the reader of standard input go on.
    more_input: Option<Sender<()>>,
    /// Messages without credit.
    waiting: Vec<Vec<u8>>,
    // Last, so that the terminal is itself again whatever happens.
    _raw: Option<RawTerminal>,
}

impl Session {
    fn open(m: &ArgMatches, request: Request, io: Io) -> Result<Session, String> {
        let socket = layout(m).socket("apiserver");
        if !socket.exists() {
            return Err(format!(
                "no cluster runs here (there is no {}); start one with pintle up",
                socket.display()
            ));
        }
        let mut l: Loop<Vec<u8>> =
            Loop::new().map_err(|e| format!("cannot make an event loop: {e}"))?;
        if io.tty {
            l.signals(&[Signal::SIGWINCH]).map_err(|e| format!("cannot take over signals: {e}"))?;
        }
        let hello = Hello {
            daemon: "cli".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Hello::default()
        };
        let api = l.wire_connect(Endpoint::Unix(socket), hello, Limits::default());
        let stream = connect(&mut l, api, &msg::encode(&Open::Node(request)))?;
        let more_input = if io.stdin { Some(read_input(&l)) } else { None };
        let raw = if io.tty { RawTerminal::enter() } else { None };
        let mut session =
            Session { l, api, stream, io, more_input, waiting: Vec::new(), _raw: raw };
        if io.tty {
            session.send_size();
        }
        session.allow_input();
        Ok(session)
    }

    fn run(mut self) -> Result<i32, String> {
        loop {
            self.l.poll(None).map_err(|e| format!("waiting for events failed: {e}"))?;
            while let Some(event) = self.l.next() {
                match event {
                    Event::Wire(_, conn::Event::Message(s, bytes)) if s == self.stream => {
                        if let Some(code) = self.frame(&bytes)? {
                            return Ok(code);
                        }
                    }
                    Event::Wire(_, conn::Event::Finished(s)) if s == self.stream => return Ok(0),
                    Event::Wire(_, conn::Event::Reset(s, code)) if s == self.stream => {
                        return Err(format!("the API server cut the stream: {code:?}"));
                    }
                    Event::Wire(_, conn::Event::Writable(_)) => self.flush(),
                    Event::WireDown(_, why) => {
                        return Err(format!("the connection was lost: {why}"));
                    }
                    Event::Signal(_) => self.send_size(),
                    Event::Posted(bytes) if bytes.is_empty() => {
                        self.send(&Frame::CloseChannel { channel: 0 });
                        self.more_input = None;
                    }
                    Event::Posted(bytes) => self.send(&Frame::Data { channel: 0, bytes }),
                    _ => {}
                }
            }
        }
    }

    // Gives the exit code when it was the last frame.
    fn frame(&mut self, bytes: &[u8]) -> Result<Option<i32>, String> {
        let frame: Frame =
            msg::decode(bytes).map_err(|e| format!("the node sent what is no frame: {e}"))?;
        let done = match frame {
            Frame::Data { channel, bytes } => {
                // A reader that went away (`| head`) ends the stream.
                let written = if channel == 2 {
                    std::io::stderr().write_all(&bytes)
                } else {
                    let mut out = std::io::stdout();
                    out.write_all(&bytes).and_then(|()| out.flush())
                };
                if written.is_err() { Some(0) } else { None }
            }
            Frame::Exit { code } => Some(code),
            Frame::End => Some(0),
            Frame::Failed { reason, message, .. } if reason.is_empty() => return Err(message),
            Frame::Failed { reason, message, .. } => return Err(format!("{message} ({reason})")),
            Frame::Accepted | Frame::CloseChannel { .. } | Frame::Resize { .. } => None,
        };
        if let Some(conn) = self.l.wire(self.api) {
            conn.consumed(self.stream, bytes.len());
        }
        Ok(done)
    }

    fn send(&mut self, frame: &Frame) {
        self.waiting.push(msg::encode(frame));
        self.flush();
    }

    fn flush(&mut self) {
        let Some(conn) = self.l.wire(self.api) else { return };
        while let Some(first) = self.waiting.first() {
            match conn.send(self.stream, first, &[]) {
                Ok(()) => drop(self.waiting.remove(0)),
                Err(SendError::Blocked) => return,
                // The command has ended; its exit code is on the way.
                Err(SendError::Closed | SendError::TooLarge) => self.waiting.clear(),
            }
        }
        self.allow_input();
    }

    fn allow_input(&self) {
        if let Some(more) = &self.more_input
            && self.waiting.is_empty()
        {
            // The reader has ended when it saw the end of input.
            let _ = more.send(());
        }
    }

    fn send_size(&mut self) {
        if self.io.tty
            && let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdout().as_fd())
        {
            self.send(&Frame::Resize { width: size.ws_col, height: size.ws_row });
        }
    }
}

fn connect(l: &mut Loop<Vec<u8>>, api: Token, first: &[u8]) -> Result<StreamId, String> {
    let deadline = l.now().mono + CONNECT_WITHIN;
    loop {
        l.poll(Some(deadline)).map_err(|e| format!("waiting for events failed: {e}"))?;
        while let Some(event) = l.next() {
            match event {
                Event::WireUp(..) => {
                    let conn = l.wire(api).ok_or("the connection was lost")?;
                    return conn
                        .open(first)
                        .map_err(|e| format!("the API server takes no stream: {e:?}"));
                }
                Event::WireDown(_, why) => {
                    return Err(format!("cannot reach the API server: {why}"));
                }
                Event::Timer => {
                    return Err("the API server does not answer; see pintle status".into());
                }
                _ => {}
            }
        }
    }
}

// Standard input may be a file, which cannot be waited for: a thread reads it, a chunk whenever it is told to.
fn read_input(l: &Loop<Vec<u8>>) -> Sender<()> {
    let poster = l.poster();
    let (more, go): (Sender<()>, Receiver<()>) = channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK_BYTES];
        while go.recv().is_ok() {
            let n = std::io::stdin().read(&mut buffer).unwrap_or(0);
            let chunk = buffer.get(..n).unwrap_or_default().to_vec();
            if !poster.post(chunk) || n == 0 {
                return;
            }
        }
    });
    more
}

/// The user's terminal without line editing and echo; itself again when dropped.
struct RawTerminal {
    before: rustix::termios::Termios,
}

impl RawTerminal {
    fn enter() -> Option<RawTerminal> {
        let stdin = std::io::stdin();
        let before = rustix::termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, &raw).ok()?;
        Some(RawTerminal { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let now = rustix::termios::OptionalActions::Now;
        // There is nothing to be done about a terminal that is gone.
        let _ = rustix::termios::tcsetattr(std::io::stdin(), now, &self.before);
    }
}
