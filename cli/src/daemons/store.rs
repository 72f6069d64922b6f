//! `pintle store`: the shell around `pintle-store`. One reactor thread owns the core; a second thread writes
//! and syncs batches, a third makes and removes segments, so that requests are taken while the disk works.
//!
//! It decides two things: who may connect (the superuser and the user that it runs as), and where messages
//! wait when a client does not read (here, at most one a watch).

mod offline;

use clap::{Arg, ArgMatches, Command};
use pintle_base::disk::DirDisk;
use pintle_base::{Clock, Now, log};
use pintle_reactor::{Event, Listen, Loop, Peer, Poster, RealClock, Signal, Token, notify};
use pintle_store::{Config, Done, Job, Output, Recovery, Store, Tag};
use pintle_wire::conn::{self, Hello, Limits, ResetCode, SendError, StreamId};
use pintle_wire::msg::store::Reply;
use pintle_wire::msg::{self, Info, Open};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

/// Runs the daemon until it is told to end, or one of its tools; gives the exit code.
pub fn run(args: &[String]) -> i32 {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(e) => {
            // Help goes to standard output, an error to standard error; neither can fail usefully.
            let _ = e.print();
            return e.exit_code();
        }
    };
    let paths = Paths::new(&matches);
    let result = match matches.subcommand() {
        None => start(&paths).and_then(Shell::serve),
        Some(("fsck", m)) => offline::fsck(&paths, m.get_flag("repair")),
        Some(("dump", m)) => offline::dump(&paths, m.get_flag("values")),
        Some((_, m)) => offline::status(&paths, m.get_one("output").map_or("text", String::as_str)),
    };
    match result {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("pintle store: {why}");
            1
        }
    }
}

fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(clap::ArgAction::SetTrue).help(help)
    };
    Command::new("pintle store")
        .no_binary_name(true)
        .about("Keeps the cluster's state: ordered keys, one revision, watches, on a write-ahead log")
        .arg(
            Arg::new("data-dir")
                .long("data-dir")
                .value_name("PATH")
                .default_value("/var/lib/pintle")
                .global(true)
                .help("The cluster's folder, or the folder named store in it, where the log lies"),
        )
        .arg(
            Arg::new("socket")
                .long("socket")
                .value_name("PATH")
                .global(true)
                .help("Unix socket to serve on [default: run/store.sock in the cluster's folder]"),
        )
        .subcommand(
            Command::new("fsck")
                .about("Reads the whole log of a store that is not running and says whether it is whole")
                .arg(flag(
                    "repair",
                    "Cut the log where it is damaged; what lay behind is kept aside in files named .damaged",
                )),
        )
        .subcommand(
            Command::new("dump")
                .about("Prints every record of the log of a store that is not running")
                .arg(flag("values", "Print the values too")),
        )
        .subcommand(
            Command::new("status").about("Prints the figures of a running store").arg(
                Arg::new("output")
                    .long("output")
                    .short('o')
                    .value_parser(["text", "json"])
                    .default_value("text")
                    .help("Format"),
            ),
        )
}

struct Paths {
    log: PathBuf,
    socket: PathBuf,
}

impl Paths {
    fn new(matches: &ArgMatches) -> Paths {
        let sub = matches.subcommand().map_or(matches, |(_, m)| m);
        let of = |name: &str| sub.get_one::<String>(name).map(PathBuf::from);
        let given = of("data-dir").unwrap_or_default();
        // The supervisor names the log's own folder, a person at the prompt the cluster's.
        let log = if given.file_name().is_some_and(|n| n == "store") {
            given
        } else {
            given.join("store")
        };
        let socket = of("socket").unwrap_or_else(|| log.with_file_name("run").join("store.sock"));
        Paths { log, socket }
    }
}

/// A request that is not answered yet, or a watch.
struct Asker {
    conn: Token,
    stream: StreamId,
    /// Encoded replies that the stream did not take yet; true = tell the core when it did.
    queue: VecDeque<(Vec<u8>, bool)>,
    watch: bool,
}

struct Shell {
    l: Loop<Done>,
    store: Store,
    listener: Token,
    commits: Sender<Job>,
    chores: Sender<Job>,
    askers: BTreeMap<Tag, Asker>,
    streams: BTreeMap<(Token, StreamId), Tag>,
    next_tag: Tag,
    uid: u32,
}

fn open_disk(path: &Path) -> Result<DirDisk, String> {
    DirDisk::open(path).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => {
            format!("{} is in use by another store; stop it first", path.display())
        }
        io::ErrorKind::PermissionDenied => {
            format!("cannot open {}: {e}; run as root or choose another --data-dir", path.display())
        }
        _ => format!("cannot open {}: {e}", path.display()),
    })
}

/// A thread that runs jobs and posts their ends.
fn worker(name: &str, disk: Arc<DirDisk>, poster: Poster<Done>) -> Result<Sender<Job>, String> {
    let (sender, jobs) = channel::<Job>();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            while let Ok(job) = jobs.recv() {
                if !poster.post(job.run(&*disk)) {
                    return;
                }
            }
        })
        .map_err(|e| format!("cannot start the thread {name}: {e}"))?;
    Ok(sender)
}

fn start(paths: &Paths) -> Result<Shell, String> {
    let mut l = Loop::new().map_err(|e| format!("cannot make an event loop: {e}"))?;
    l.signals(&[Signal::SIGTERM, Signal::SIGINT])
        .map_err(|e| format!("cannot catch signals: {e}"))?;
    let disk = Arc::new(open_disk(&paths.log)?);
    let before = RealClock.now();
    let id = before.wall.0.cast_unsigned() ^ u64::from(std::process::id()).rotate_left(44);
    let config = Config { store_id: id, ..Config::default() };
    let (store, recovery) = Store::open(&*disk, config, before).map_err(|e| e.to_string())?;
    report(&recovery, RealClock.now().mono.saturating_since(before.mono).as_millis());
    if let Some(folder) = paths.socket.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|e| format!("cannot make the folder {}: {e}", folder.display()))?;
    }
    let hello = Hello {
        daemon: "store".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Hello::default()
    };
    let listener = l
        .wire_listen(&Listen::Unix(paths.socket.clone(), 0o600), hello, Limits::default())
        .map_err(|e| format!("cannot listen on {}: {e}; see --socket", paths.socket.display()))?;
    let commits = worker("store-sync", Arc::clone(&disk), l.poster())?;
    let chores = worker("store-chores", disk, l.poster())?;
    Ok(Shell {
        l,
        store,
        listener,
        commits,
        chores,
        askers: BTreeMap::new(),
        streams: BTreeMap::new(),
        next_tag: 1,
        uid: nix::unistd::geteuid().as_raw(),
    })
}

fn report(recovery: &Recovery, took_ms: u128) {
    log::info(
        if recovery.new { "made a new store" } else { "opened the store" },
        &[
            ("revision", &recovery.revision),
            ("keys", &recovery.keys),
            ("records", &recovery.records),
            ("clean", &recovery.clean),
            ("took_ms", &took_ms),
        ],
    );
    if let Some((segment, offset)) = &recovery.torn_at {
        log::warn(
            "cut a write that a crash had torn; nobody was told that it was done",
            &[("segment", segment), ("offset", offset), ("bytes", &recovery.torn_bytes)],
        );
    }
}

impl Shell {
    fn serve(mut self) -> Result<(), String> {
        notify::ready();
        let mut ending = false;
        loop {
            let deadline = self.store.poll_timeout();
            let now = self.l.poll(deadline).map_err(|e| format!("the event loop failed: {e}"))?;
            while let Some(event) = self.l.next() {
                if matches!(event, Event::Signal(_)) && !ending {
                    ending = true;
                    notify::stopping();
                    self.l.close(self.listener);
                    self.store.close(now);
                } else {
                    self.handle(event, now);
                }
            }
            self.outputs(now)?;
            if ending && self.store.is_idle() {
                self.l.flush();
                log::info("closed the store", &[("revision", &self.store.status().revision)]);
                return Ok(());
            }
        }
    }

    fn handle(&mut self, event: Event<Done>, now: Now) {
        match event {
            Event::WireUp(token, peer, hello) => self.connected(token, &peer, &hello),
            Event::WireDown(token, _) => self.disconnected(token),
            Event::Wire(token, event) => self.wire(token, event, now),
            Event::Posted(done) => self.store.handle_done(done, now),
            Event::Timer => self.store.handle_timeout(now),
            Event::Accepted { .. }
            | Event::Connected(_)
            | Event::Bytes(_)
            | Event::End(_)
            | Event::Drained(_)
            | Event::Closed(..)
            | Event::Fd { .. }
            | Event::Signal(_)
            | Event::Child(..) => {}
        }
    }

    fn connected(&mut self, token: Token, peer: &Peer, hello: &Hello) {
        let uid = peer.cred.map(|c| c.uid);
        if uid != Some(0) && uid != Some(self.uid) {
            let uid = uid.map_or("unknown".to_owned(), |u| u.to_string());
            log::warn("refused a client", &[("uid", &uid), ("daemon", &hello.daemon)]);
            self.l.close(token);
        } else {
            log::debug("client connected", &[("daemon", &hello.daemon)]);
        }
    }

    fn disconnected(&mut self, token: Token) {
        let gone: Vec<((Token, StreamId), Tag)> = self
            .streams
            .range((token, 0)..=(token, StreamId::MAX))
            .map(|(k, t)| (*k, *t))
            .collect();
        for (key, tag) in gone {
            self.streams.remove(&key);
            self.askers.remove(&tag);
            self.store.cancel(tag);
        }
    }

    fn wire(&mut self, token: Token, event: conn::Event, now: Now) {
        match event {
            conn::Event::Opened(stream, bytes) => self.opened(token, stream, &bytes, now),
            // Requests have one message; whatever else comes is credit that the peer wastes.
            conn::Event::Message(stream, bytes) => {
                if let Some(conn) = self.l.wire(token) {
                    conn.consumed(stream, bytes.len());
                }
            }
            conn::Event::Reset(stream, _) => {
                if let Some(tag) = self.streams.remove(&(token, stream)) {
                    self.askers.remove(&tag);
                    self.store.cancel(tag);
                }
            }
            conn::Event::Writable(stream) => {
                if let Some(tag) = self.streams.get(&(token, stream)).copied() {
                    self.send_queued(tag, now);
                }
            }
            conn::Event::Connected(_) | conn::Event::Finished(_) | conn::Event::GoAway => {}
        }
    }

    fn opened(&mut self, token: Token, stream: StreamId, bytes: &[u8], now: Now) {
        let reset = |shell: &mut Shell, code| {
            if let Some(conn) = shell.l.wire(token) {
                conn.reset(stream, code);
            }
        };
        match msg::decode::<Open>(bytes) {
            Ok(Open::Store(request)) => {
                let tag = self.next_tag;
                self.next_tag += 1;
                let watch = matches!(request, msg::store::Request::Watch { .. });
                let asker = Asker { conn: token, stream, queue: VecDeque::new(), watch };
                self.askers.insert(tag, asker);
                self.streams.insert((token, stream), tag);
                self.store.handle_request(tag, request, now);
            }
            Ok(Open::Info) => {
                let info = msg::encode(&self.info());
                if let Some(conn) = self.l.wire(token) {
                    // A client that sends requests and takes no answers gets none.
                    if conn.send(stream, &info, &[]).is_ok() {
                        conn.finish(stream);
                    } else {
                        conn.reset(stream, ResetCode::Limit);
                    }
                }
            }
            Ok(Open::Api(_) | Open::Node(_)) | Err(_) => reset(self, ResetCode::Unsupported),
        }
    }

    fn info(&self) -> Info {
        let status = self.store.status();
        Info {
            daemon: "store".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            ready: true,
            detail: format!(
                "{} keys at revision {}, {} MiB on disk",
                status.keys,
                status.revision,
                status.disk_bytes >> 20
            ),
        }
    }

    fn outputs(&mut self, now: Now) -> Result<(), String> {
        while let Some(output) = self.store.poll_output() {
            match output {
                Output::Reply(tag, reply) => self.reply(tag, &reply, now),
                Output::Job(job) => {
                    let thread = if job.is_commit() { &self.commits } else { &self.chores };
                    thread
                        .send(job)
                        .map_err(|_| "a thread that writes the log is gone".to_owned())?;
                }
                Output::Full(true) => {
                    let what =
                        "the disk is full: puts are refused when the current segment is used up";
                    log::error(what, &[("todo", &"make space; service then goes on by itself")]);
                    notify::status("the disk is full");
                }
                Output::Full(false) => {
                    log::info("there is space on the disk again", &[]);
                    notify::status("");
                }
                Output::Fatal(why) => {
                    return Err(format!(
                        "the disk failed: {why}; the store ends, since nothing is known of what was \
                         being written; check the disk, then start it again"
                    ));
                }
            }
        }
        Ok(())
    }

    fn reply(&mut self, tag: Tag, reply: &Reply, now: Now) {
        let Some(asker) = self.askers.get_mut(&tag) else { return };
        let paced = matches!(reply, Reply::WatchEvents { .. });
        if matches!(reply, Reply::Error(_)) {
            // An error ends a watch.
            asker.watch = false;
        }
        asker.queue.push_back((msg::encode(reply), paced));
        self.send_queued(tag, now);
    }

    /// Sends what waits for a stream, as far as it takes it.
    fn send_queued(&mut self, tag: Tag, now: Now) {
        let Some(asker) = self.askers.get_mut(&tag) else { return };
        let Some(conn) = self.l.wire(asker.conn) else { return };
        while let Some((bytes, paced)) = asker.queue.front() {
            match conn.send(asker.stream, bytes, &[]) {
                Ok(()) => {
                    if *paced {
                        self.store.watch_sent(tag, now);
                    }
                    asker.queue.pop_front();
                }
                Err(SendError::Blocked) => return,
                Err(SendError::TooLarge) => {
                    conn.reset(asker.stream, ResetCode::Limit);
                    asker.queue.clear();
                    asker.watch = false;
                    self.store.cancel(tag);
                }
                // The peer's reset is on its way to us.
                Err(SendError::Closed) => asker.queue.clear(),
            }
        }
        if !asker.watch {
            conn.finish(asker.stream);
            self.streams.remove(&(asker.conn, asker.stream));
            self.askers.remove(&tag);
        }
    }
}
