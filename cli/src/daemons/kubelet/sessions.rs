//! Streams that the API server opens to this node: exec, attach, logs, port-forward, get.
//!
//! A session holds back what the peer has no credit for and reads no more until it has; the peer gets credit
//! for what has been written. A session ends with its stream, or with the connection.

use super::Post;
use super::logs::{Chunk, LogReader};
use super::pool::Pool;
use super::targets::{begin_attach, begin_exec, begin_forward, failed, find};
use pintle_kubelet::core::Kubelet;
use pintle_reactor::{Event, Interest, Loop, Token, WriteError};
use pintle_runtime::sandbox::{ContainerState, ContainerStatus, Streams};
use pintle_wire::conn::{self, ResetCode, SendError, StreamId};
use pintle_wire::msg::node::{Frame, LogOptions, Request, Target};
use pintle_wire::msg::{self, Open};
use rustix::fs::inotify;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

/// Bytes of one data frame.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks of one session in one turn, so that others get theirs.
const BUDGET: usize = 32;
/// Exit code of what was killed: 128 + SIGKILL.
const KILLED: i32 = 137;

struct Output {
    channel: u8,
    file: File,
    // None while the peer takes no more.
    token: Option<Token>,
}

struct Input {
    file: Option<File>,
    token: Option<Token>,
    // Bytes to write, how many are written, and what the message was worth in credit.
    queue: VecDeque<(Vec<u8>, usize, usize)>,
    closing: bool,
}

pub struct Process {
    sandbox: String,
    run: String,
    exec: u64,
    input: Input,
    outputs: Vec<Output>,
    code: Option<i32>,
}

pub struct Log {
    reader: LogReader,
    run: String,
    watch: Option<(Token, OwnedFd)>,
}

pub struct Forward {
    token: Token,
    queue: VecDeque<(Vec<u8>, usize)>,
    ended: bool,
}

pub enum Kind {
    /// The runtime was asked; messages wait.
    Begins {
        sandbox: String,
        run: String,
        early: Vec<(Frame, usize)>,
    },
    Process(Box<Process>),
    Log(Box<Log>),
    Forward(Forward),
    /// Only what is pending is to be sent.
    Over,
}

struct Session {
    stream: StreamId,
    kind: Kind,
    pending: VecDeque<Vec<u8>>,
}

/// All that are open.
#[derive(Default)]
pub struct Sessions {
    next: u64,
    open: BTreeMap<u64, Session>,
    streams: BTreeMap<StreamId, u64>,
    tokens: BTreeMap<Token, u64>,
    execs: BTreeMap<(String, u64), u64>,
}

/// Makes reads and writes of a descriptor return instead of wait.
pub fn set_nonblocking(fd: &impl AsFd) {
    // A descriptor that cannot be asked is left as it came.
    if let Ok(flags) = rustix::fs::fcntl_getfl(fd) {
        let _ = rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK);
    }
}

impl Sessions {
    /// An event on a stream that the API server opened.
    pub fn wire(
        &mut self,
        l: &mut Loop<Post>,
        api: Token,
        event: conn::Event,
        kubelet: &Kubelet,
        pool: &Pool,
    ) {
        match event {
            conn::Event::Opened(stream, bytes) => {
                if let Some(conn) = l.wire(api) {
                    conn.consumed(stream, bytes.len());
                }
                match msg::decode::<Open>(&bytes) {
                    Ok(Open::Node(request)) => self.opened(l, api, stream, request, kubelet, pool),
                    Ok(_) | Err(_) => {
                        if let Some(conn) = l.wire(api) {
                            conn.reset(stream, ResetCode::Unsupported);
                        }
                    }
                }
            }
            conn::Event::Message(stream, bytes) => {
                let Some(id) = self.streams.get(&stream).copied() else { return };
                match msg::decode::<Frame>(&bytes) {
                    Ok(frame) => self.frame(l, api, id, frame, bytes.len(), pool),
                    Err(_) => self.cut(l, api, id, ResetCode::Internal),
                }
            }
            conn::Event::Finished(stream) => {
                let Some(id) = self.streams.get(&stream).copied() else { return };
                self.frame(l, api, id, Frame::CloseChannel { channel: 0 }, 0, pool);
            }
            conn::Event::Reset(stream, _) => {
                if let Some(id) = self.streams.get(&stream).copied() {
                    self.drop_session(l, id);
                }
            }
            conn::Event::Writable(stream) => {
                if let Some(id) = self.streams.get(&stream).copied() {
                    self.pump(l, api, id);
                }
            }
            conn::Event::Connected(_) | conn::Event::GoAway => {}
        }
    }

    fn opened(
        &mut self,
        l: &mut Loop<Post>,
        api: Token,
        stream: StreamId,
        request: Request,
        kubelet: &Kubelet,
        pool: &Pool,
    ) {
        self.next += 1;
        let id = self.next;
        self.streams.insert(stream, id);
        let session = Session { stream, kind: Kind::Over, pending: VecDeque::new() };
        self.open.insert(id, session);
        let kind = match request {
            Request::Exec { target, command, io } => {
                begin_exec(kubelet, pool, id, &target, command, io)
            }
            Request::Attach { target, io } => begin_attach(kubelet, pool, id, &target, io),
            Request::PortForward { target, port } => {
                begin_forward(kubelet, pool, id, &target, port)
            }
            Request::Logs { target, options } => self.begin_logs(l, id, kubelet, &target, options),
            Request::Get { path } => self.get(l, api, id, kubelet, &path),
        };
        match kind {
            Ok(kind) => {
                if let Some(s) = self.open.get_mut(&id) {
                    s.kind = kind;
                }
            }
            Err(frame) => self.send(l, api, id, &frame),
        }
        self.pump(l, api, id);
    }

    fn begin_logs(
        &mut self,
        l: &mut Loop<Post>,
        id: u64,
        kubelet: &Kubelet,
        target: &Target,
        options: LogOptions,
    ) -> Result<Kind, Frame> {
        let place = find(kubelet, target)?;
        let (pod, name) = (place.pod, &place.name);
        let run = if options.previous {
            pod.previous_run(name).ok_or_else(|| {
                let what = format!(
                    "previous terminated container \"{name}\" in pod \"{}\" not found",
                    target.pod
                );
                failed(400, "BadRequest", what)
            })?
        } else {
            pod.last_run(name).ok_or_else(|| {
                let why = match pod.waiting.get(name) {
                    Some(w) => w.reason.as_str(),
                    None if pod.pod.spec.init_containers.is_empty() => "ContainerCreating",
                    None => "PodInitializing",
                };
                let what = format!(
                    "container \"{name}\" in pod \"{}\" is waiting to start: {why}",
                    target.pod
                );
                failed(400, "BadRequest", what)
            })?
        };
        let path = kubelet.layout().log(&pod.pod.metadata.uid, name, run.attempt);
        let watch = if options.follow && !run.exited() { watch(l, &path) } else { None };
        self.tokens.extend(watch.iter().map(|(t, _)| (*t, id)));
        // Watched first, then read: nothing falls between.
        let mut reader = LogReader::open(&path, options);
        reader.finished = run.exited();
        if let Some(s) = self.open.get_mut(&id) {
            s.pending.push_back(msg::encode(&Frame::Accepted));
        }
        Ok(Kind::Log(Box::new(Log { reader, run: run.id.clone(), watch })))
    }

    fn get(
        &mut self,
        l: &mut Loop<Post>,
        api: Token,
        id: u64,
        kubelet: &Kubelet,
        path: &str,
    ) -> Result<Kind, Frame> {
        let text = match path.split('?').next().unwrap_or_default() {
            "/healthz" => "ok".to_string(),
            "/pods" => {
                let items: Vec<_> = kubelet
                    .all_pods()
                    .map(|s| {
                        let m = &s.pod.metadata;
                        serde_json::json!({
                            "metadata": {"name": m.name, "namespace": m.namespace, "uid": m.uid},
                            "status": s.pod.status})
                    })
                    .collect();
                serde_json::json!({"kind": "PodList", "apiVersion": "v1", "items": items})
                    .to_string()
            }
            other => {
                return Err(failed(404, "NotFound", format!("the kubelet has no path {other}")));
            }
        };
        self.send(l, api, id, &Frame::Accepted);
        for part in text.as_bytes().chunks(CHUNK_BYTES) {
            self.send(l, api, id, &Frame::Data { channel: 1, bytes: part.to_vec() });
        }
        self.send(l, api, id, &Frame::End);
        Ok(Kind::Over)
    }

    /// Queues a frame behind what waits; `pump` sends.
    fn send(&mut self, _l: &mut Loop<Post>, _api: Token, id: u64, frame: &Frame) {
        if let Some(s) = self.open.get_mut(&id) {
            s.pending.push_back(msg::encode(frame));
        }
    }

    /// The runtime answered; gives the exec's key so that an early end of it can be replayed.
    pub fn begun(
        &mut self,
        l: &mut Loop<Post>,
        api: Token,
        id: u64,
        result: Result<Streams, String>,
    ) -> Option<(String, u64)> {
        // Streams of a session that is gone are closed by being dropped.
        let s = self.open.get_mut(&id)?;
        let Kind::Begins { sandbox, run, early } = std::mem::replace(&mut s.kind, Kind::Over)
        else {
            return None;
        };
        let streams = match result {
            Ok(streams) => streams,
            Err(why) => {
                self.send(l, api, id, &failed(500, "InternalError", why));
                self.pump(l, api, id);
                return None;
            }
        };
        let key = (sandbox.clone(), streams.exec);
        let mut outputs = Vec::new();
        for (channel, fd) in [(1, streams.stdout), (2, streams.stderr)] {
            let Some(fd) = fd else { continue };
            set_nonblocking(&fd);
            let token = l.watch_fd(&fd, Interest::Read).ok();
            self.tokens.extend(token.map(|t| (t, id)));
            outputs.push(Output { channel, file: File::from(fd), token });
        }
        let file = streams.stdin.map(|fd| {
            set_nonblocking(&fd);
            File::from(fd)
        });
        let input = Input { file, token: None, queue: VecDeque::new(), closing: false };
        let process = Process { sandbox, run, exec: streams.exec, input, outputs, code: None };
        if streams.exec != 0 {
            self.execs.insert(key.clone(), id);
        }
        s.kind = Kind::Process(Box::new(process));
        s.pending.push_back(msg::encode(&Frame::Accepted));
        for (frame, credit) in early {
            self.process_frame(l, api, id, frame, credit, None);
        }
        self.pump(l, api, id);
        (key.1 != 0).then_some(key)
    }

    /// The connection into a pod is there, or not.
    pub fn dialed(
        &mut self,
        l: &mut Loop<Post>,
        api: Token,
        id: u64,
        result: Result<std::net::TcpStream, String>,
    ) {
        let Some(s) = self.open.get_mut(&id) else { return };
        let Kind::Begins { early, .. } = std::mem::replace(&mut s.kind, Kind::Over) else { return };
        match result.and_then(|stream| l.adopt_tcp(stream).map_err(|e| e.to_string())) {
            Ok(token) => {
                self.tokens.insert(token, id);
                s.kind = Kind::Forward(Forward { token, queue: VecDeque::new(), ended: false });
                s.pending.push_back(msg::encode(&Frame::Accepted));
                for (frame, credit) in early {
                    self.forward_frame(l, api, id, frame, credit);
                }
            }
            Err(why) => self.send(l, api, id, &failed(500, "InternalError", why)),
        }
        self.pump(l, api, id);
    }

    fn frame(
        &mut self,
        l: &mut Loop<Post>,
        api: Token,
        id: u64,
        frame: Frame,
        credit: usize,
        pool: &Pool,
    ) {
        let Some(s) = self.open.get_mut(&id) else { return };
        match &mut s.kind {
            Kind::Begins { early, .. } => early.push((frame, credit)),
            Kind::Process(_) => {
                self.process_frame(l, api, id, frame, credit, Some(pool));
                self.pump(l, api, id);
            }
            Kind::Forward(_) => {
                self.forward_frame(l, api, id, frame, credit);
                self.pump(l, api, id);
            }
            Kind::Log(_) | Kind::Over => {
                let stream = s.stream;
                if let Some(conn) = l.wire(api) {
                    conn.consumed(stream, credit);
                }
            }
        }
    }

    fn process_frame(
        &mut self,
        l: &mut Loop<Post>,
        api: Token,
        id: u64,
        frame: Frame,
        credit: usize,
        pool: Option<&Pool>,
    ) {
        let Some(Session { stream, kind: Kind::Process(p), .. }) = self.open.get_mut(&id) else {
            return;
        };
        match frame {
            Frame::Data { channel: 0, bytes } if p.input.file.is_some() && !p.input.closing => {
                p.input.queue.push_back((bytes, 0, credit));
                return;
            }
            Frame::CloseChannel { channel: 0 } => p.input.closing = true,
            Frame::Resize { width, height } => {
                if let Some(pool) = pool {
                    pool.resize(p.sandbox.clone(), p.run.clone(), p.exec, (width, height));
                }
            }
            _ => {}
        }
        if let Some(conn) = l.wire(api) {
            conn.consumed(*stream, credit);
        }
    }

    fn forward_frame(
        &mut self,
        l: &mut Loop<Post>,
        api: Token,
        id: u64,
        frame: Frame,
        credit: usize,
    ) {
        let Some(Session { stream, kind: Kind::Forward(f), .. }) = self.open.get_mut(&id) else {
            return;
        };
        match frame {
            Frame::Data { channel: 0, bytes } => f.queue.push_back((bytes, credit)),
            other => {
                if let Some(conn) = l.wire(api) {
                    conn.consumed(*stream, credit);
                }
                if matches!(other, Frame::CloseChannel { channel: 0 }) {
                    f.ended = true;
                }
            }
        }
    }

    /// A descriptor of ours is ready.
    pub fn descriptor(&mut self, l: &mut Loop<Post>, api: Token, token: Token) {
        if let Some(id) = self.tokens.get(&token).copied() {
            if let Some(Session { kind: Kind::Log(log), .. }) = self.open.get_mut(&id)
                && let Some((_, fd)) = &log.watch
            {
                let mut buffer = [0; 4096];
                // Which change it was does not matter: the file is looked at.
                while rustix::io::read(fd, &mut buffer).is_ok_and(|n| n > 0) {}
            }
            self.pump(l, api, id);
        }
    }

    /// Something on a socket into a pod.
    pub fn socket(&mut self, l: &mut Loop<Post>, api: Token, token: Token, event: &Event<Post>) {
        let Some(id) = self.tokens.get(&token).copied() else { return };
        self.pump(l, api, id);
        if matches!(event, Event::End(_) | Event::Closed(..)) && self.open.contains_key(&id) {
            self.send(l, api, id, &Frame::CloseChannel { channel: 1 });
            self.send(l, api, id, &Frame::End);
            self.over(l, id);
            self.pump(l, api, id);
        }
    }

    /// An exec ended; false when it is none of ours.
    pub fn exec_exited(
        &mut self,
        l: &mut Loop<Post>,
        api: Token,
        key: &(String, u64),
        code: i32,
    ) -> bool {
        let Some(id) = self.execs.get(key).copied() else { return false };
        if let Some(Session { kind: Kind::Process(p), .. }) = self.open.get_mut(&id) {
            p.code = Some(code);
        }
        self.pump(l, api, id);
        true
    }

    /// A container ended: who is attached to it or follows its log comes to an end.
    pub fn run_exited(&mut self, l: &mut Loop<Post>, api: Token, state: &ContainerState) {
        let ContainerStatus::Exited { code, .. } = state.status else { return };
        let mut touched = Vec::new();
        for (id, s) in &mut self.open {
            match &mut s.kind {
                Kind::Process(p) if p.run == state.id => {
                    p.code.get_or_insert(code);
                    touched.push(*id);
                }
                Kind::Log(log) if log.run == state.id => {
                    log.reader.finished = true;
                    touched.push(*id);
                }
                _ => {}
            }
        }
        for id in touched {
            self.pump(l, api, id);
        }
    }

    /// A shim is gone: what ran in its sandbox was killed with it.
    pub fn sandbox_gone(&mut self, l: &mut Loop<Post>, api: Token, sandbox: &str) {
        let mut touched = Vec::new();
        for (id, s) in &mut self.open {
            if let Kind::Process(p) = &mut s.kind
                && p.sandbox == sandbox
            {
                p.code.get_or_insert(KILLED);
                touched.push(*id);
            }
        }
        for id in touched {
            self.pump(l, api, id);
        }
    }

    /// Moves what can be moved, both ways, until somebody has to wait.
    fn pump(&mut self, l: &mut Loop<Post>, api: Token, id: u64) {
        self.pump_in(l, api, id);
        for _ in 0..BUDGET {
            if !self.flush(l, api, id) {
                return;
            }
            let Some(s) = self.open.get_mut(&id) else { return };
            let last = match &mut s.kind {
                Kind::Begins { .. } => return,
                Kind::Over => {
                    self.finished(l, api, id);
                    return;
                }
                Kind::Process(p) => match read_outputs(l, &mut self.tokens, p) {
                    Some(frame) => {
                        s.pending.push_back(msg::encode(&frame));
                        None
                    }
                    None => match p.code {
                        Some(code) => Some(Frame::Exit { code }),
                        None => return self.rewatch(l, id),
                    },
                },
                Kind::Log(log) => match log.reader.next() {
                    Chunk::Data(bytes) => {
                        for part in bytes.chunks(CHUNK_BYTES) {
                            let bytes = part.to_vec();
                            s.pending.push_back(msg::encode(&Frame::Data { channel: 1, bytes }));
                        }
                        None
                    }
                    Chunk::Wait => return,
                    Chunk::End => Some(Frame::End),
                },
                Kind::Forward(f) => {
                    let input = l.input(f.token);
                    if input.is_empty() {
                        return;
                    }
                    let bytes = input[..input.len().min(CHUNK_BYTES)].to_vec();
                    l.consume(f.token, bytes.len());
                    s.pending.push_back(msg::encode(&Frame::Data { channel: 1, bytes }));
                    None
                }
            };
            if let Some(frame) = last {
                self.send(l, api, id, &frame);
                self.over(l, id);
            }
        }
        // More than one turn's worth: what is left is still readable and comes back next turn.
        self.rewatch(l, id);
        self.again(l, id);
    }

    /// A log has no descriptor that stays ready: its session asks for another turn.
    fn again(&mut self, l: &mut Loop<Post>, id: u64) {
        if matches!(self.open.get(&id), Some(Session { kind: Kind::Log(_) | Kind::Forward(_), .. }))
        {
            l.poster().post(Post::Again(id));
        }
    }

    /// Another turn for a session that had more than one turn's worth.
    pub fn go_on(&mut self, l: &mut Loop<Post>, api: Token, id: u64) {
        self.pump(l, api, id);
    }

    /// Sends what waits; false when the peer takes no more.
    fn flush(&mut self, l: &mut Loop<Post>, api: Token, id: u64) -> bool {
        let Some(s) = self.open.get_mut(&id) else { return false };
        let Some(conn) = l.wire(api) else { return false };
        while let Some(bytes) = s.pending.front() {
            match conn.send(s.stream, bytes, &[]) {
                Ok(()) => {
                    s.pending.pop_front();
                }
                Err(SendError::Blocked) => {
                    self.unwatch(l, id);
                    return false;
                }
                Err(SendError::Closed | SendError::TooLarge) => {
                    self.drop_session(l, id);
                    return false;
                }
            }
        }
        true
    }

    /// The peer takes no more: what is readable must not wake us.
    fn unwatch(&mut self, l: &mut Loop<Post>, id: u64) {
        match self.open.get_mut(&id).map(|s| &mut s.kind) {
            Some(Kind::Process(p)) => {
                for token in p.outputs.iter_mut().filter_map(|o| o.token.take()) {
                    self.tokens.remove(&token);
                    l.close(token);
                }
            }
            Some(Kind::Forward(f)) => l.pause(f.token, true),
            _ => {}
        }
    }

    fn rewatch(&mut self, l: &mut Loop<Post>, id: u64) {
        match self.open.get_mut(&id).map(|s| &mut s.kind) {
            Some(Kind::Process(p)) => {
                for o in p.outputs.iter_mut().filter(|o| o.token.is_none()) {
                    o.token = l.watch_fd(&o.file, Interest::Read).ok();
                    self.tokens.extend(o.token.map(|t| (t, id)));
                }
            }
            Some(Kind::Forward(f)) => l.pause(f.token, false),
            _ => {}
        }
    }

    fn pump_in(&mut self, l: &mut Loop<Post>, api: Token, id: u64) {
        let Some(s) = self.open.get_mut(&id) else { return };
        let mut credit = 0;
        match &mut s.kind {
            Kind::Process(p) => {
                credit = write_input(&mut p.input);
                let waits = !p.input.queue.is_empty() && p.input.file.is_some();
                match (waits, p.input.token) {
                    (true, None) => {
                        if let Some(file) = &p.input.file {
                            p.input.token = l.watch_fd(file, Interest::Write).ok();
                            self.tokens.extend(p.input.token.map(|t| (t, id)));
                        }
                    }
                    (false, Some(token)) => {
                        p.input.token = None;
                        self.tokens.remove(&token);
                        l.close(token);
                    }
                    _ => {}
                }
            }
            Kind::Forward(f) => {
                while let Some((bytes, worth)) = f.queue.front() {
                    match l.write(f.token, bytes) {
                        Ok(()) | Err(WriteError::Closed) => {
                            credit += worth;
                            f.queue.pop_front();
                        }
                        Err(WriteError::Full) => break,
                    }
                }
            }
            _ => {}
        }
        let stream = s.stream;
        if credit > 0
            && let Some(conn) = l.wire(api)
        {
            conn.consumed(stream, credit);
        }
    }

    /// All has been said but what is pending: lets go of descriptors.
    fn over(&mut self, l: &mut Loop<Post>, id: u64) {
        let Some(s) = self.open.get_mut(&id) else { return };
        match std::mem::replace(&mut s.kind, Kind::Over) {
            Kind::Process(p) => {
                self.execs.remove(&(p.sandbox, p.exec));
                let tokens = p.outputs.iter().filter_map(|o| o.token).chain(p.input.token);
                for token in tokens {
                    self.tokens.remove(&token);
                    l.close(token);
                }
            }
            Kind::Log(log) => {
                if let Some((token, _fd)) = log.watch {
                    self.tokens.remove(&token);
                    l.close(token);
                }
            }
            Kind::Forward(f) => {
                self.tokens.remove(&f.token);
                l.close(f.token);
            }
            Kind::Begins { .. } | Kind::Over => {}
        }
    }

    fn finished(&mut self, l: &mut Loop<Post>, api: Token, id: u64) {
        if let Some(s) = self.open.remove(&id) {
            self.streams.remove(&s.stream);
            if let Some(conn) = l.wire(api) {
                conn.finish(s.stream);
            }
        }
    }

    fn cut(&mut self, l: &mut Loop<Post>, api: Token, id: u64, code: ResetCode) {
        if let Some(stream) = self.open.get(&id).map(|s| s.stream)
            && let Some(conn) = l.wire(api)
        {
            conn.reset(stream, code);
        }
        self.drop_session(l, id);
    }

    fn drop_session(&mut self, l: &mut Loop<Post>, id: u64) {
        self.over(l, id);
        if let Some(s) = self.open.remove(&id) {
            self.streams.remove(&s.stream);
        }
    }

    /// The connection is gone, and all streams with it.
    pub fn drop_all(&mut self, l: &mut Loop<Post>) {
        let ids: Vec<u64> = self.open.keys().copied().collect();
        for id in ids {
            self.drop_session(l, id);
        }
    }
}

/// The next data or end of an output; nothing when all have to wait or have ended.
fn read_outputs(
    l: &mut Loop<Post>,
    tokens: &mut BTreeMap<Token, u64>,
    p: &mut Process,
) -> Option<Frame> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut i = 0;
    while let Some(o) = p.outputs.get_mut(i) {
        match o.file.read(&mut buffer) {
            Ok(n) if n > 0 => {
                buffer.truncate(n);
                return Some(Frame::Data { channel: o.channel, bytes: buffer });
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => i += 1,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            // The end; a terminal whose other side is closed says EIO.
            Ok(_) | Err(_) => {
                let o = p.outputs.remove(i);
                if let Some(token) = o.token {
                    tokens.remove(&token);
                    l.close(token);
                }
                return Some(Frame::CloseChannel { channel: o.channel });
            }
        }
    }
    None
}

/// Writes what the process takes; gives the credit of whole messages.
fn write_input(input: &mut Input) -> usize {
    let mut credit = 0;
    while let Some((bytes, done, worth)) = input.queue.front_mut() {
        let Some(file) = &mut input.file else {
            credit += *worth;
            input.queue.pop_front();
            continue;
        };
        match file.write(&bytes[*done..]) {
            Ok(n) => *done += n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return credit,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            // Nobody reads any more: the rest is dropped.
            Err(_) => *done = bytes.len(),
        }
        if *done >= bytes.len() {
            credit += *worth;
            input.queue.pop_front();
        }
    }
    if input.closing {
        input.file = None;
    }
    credit
}

fn watch(l: &mut Loop<Post>, path: &std::path::Path) -> Option<(Token, OwnedFd)> {
    use inotify::{CreateFlags, WatchFlags};
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    inotify::add_watch(&fd, path.parent()?, flags).ok()?;
    let token = l.watch_fd(&fd, Interest::Read).ok()?;
    Some((token, fd))
}
