//! `pintle apiserver`: the shell around `pintle-apiserver`. One reactor thread owns the core.
//!
//! It listens for HTTPS (and, by ALPN `pintle-wire` or on the port next to it, for nodes), and on a unix socket for
//! the daemons of this machine; it keeps one connection to the store. It moves bytes and decides nothing.

use clap::{Arg, ArgAction, ArgMatches, Command};
use pintle_apiserver::authn::cert::Authority;
use pintle_apiserver::authn::{Authenticator, token};
use pintle_apiserver::front::{Config, ConnId, Front, Peer, ToStore};
use pintle_apiserver::server::{self, Server, StoreTag};
use pintle_base::{Clock, Now, log};
use pintle_reactor::limits::OUTPUT_HIGH_BYTES;
use pintle_reactor::{Endpoint, Event, Listen, Loop, RealClock, Signal, Token, notify};
use pintle_wire::conn::{self, Hello, Limits, SendError, StreamId};
use pintle_wire::msg::{self, Open, store};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a node offers in TLS to speak the wire protocol on the HTTPS port.
pub const WIRE_ALPN: &[u8] = b"pintle-wire";

/// Runs the daemon until it is told to end; gives the exit code.
pub fn run(args: &[String]) -> i32 {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(e) => {
            // Help goes to standard output, an error to standard error; neither can fail usefully.
            let _ = e.print();
            return e.exit_code();
        }
    };
    match start(&matches).and_then(|mut shell| shell.serve()) {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("pintle apiserver: {why}");
            1
        }
    }
}

fn command() -> Command {
    let path = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("PATH").help(help)
    };
    let value =
        |name: &'static str, of: &'static str, default: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name(of).default_value(default).help(help)
        };
    Command::new("pintle apiserver")
        .no_binary_name(true)
        .about("Serves the Kubernetes API over HTTPS, and the wire protocol to Pintle's daemons")
        .arg(value("data-dir", "PATH", "/var/lib/pintle", "Where the defaults of the paths below lie"))
        .arg(path("store-socket", "Unix socket of the store [default: DATA_DIR/run/store.sock]"))
        .arg(path("socket", "Unix socket for local daemons [default: DATA_DIR/run/apiserver.sock]"))
        .arg(value("bind", "ADDRESS", "0.0.0.0", "Address to listen on").value_parser(clap::value_parser!(IpAddr)))
        .arg(
            value("port", "PORT", "6443", "HTTPS port; 0 = any free one")
                .value_parser(clap::value_parser!(u16)),
        )
        .arg(
            Arg::new("wire-port")
                .long("wire-port")
                .value_name("PORT")
                .help("Port for nodes that do not speak ALPN [default: the HTTPS port + 1]")
                .value_parser(clap::value_parser!(u16)),
        )
        .arg(path("tls-cert", "Server certificate, PEM [default: DATA_DIR/pki/apiserver.crt]"))
        .arg(path("tls-key", "Its key, PEM [default: DATA_DIR/pki/apiserver.key]"))
        .arg(path("client-ca", "Authority of client certificates, PEM [default: DATA_DIR/pki/ca.crt]"))
        .arg(path("sa-key", "Key of service-account tokens, PEM [default: DATA_DIR/pki/sa.key]"))
        .arg(value("service-cidr", "CIDR", "10.96.0.0/16", "Range of cluster IPs"))
        .arg(value("node-port-range", "LOW-HIGH", "30000-32767", "Range of node ports"))
        .arg(
            Arg::new("advertise-address")
                .long("advertise-address")
                .value_name("ADDRESS")
                .help("Address under which nodes and pods reach this server [default: the bind address, else 127.0.0.1]")
                .value_parser(clap::value_parser!(IpAddr)),
        )
        .arg(
            Arg::new("verbose")
                .long("verbose")
                .short('v')
                .action(ArgAction::SetTrue)
                .help("Log every request"),
        )
}

struct Shell {
    l: Loop<()>,
    front: Front,
    /// HTTPS, wire over TLS, wire over the unix socket.
    listeners: [Token; 3],
    https: Token,
    conns: BTreeMap<Token, ConnId>,
    tokens: BTreeMap<ConnId, Token>,
    store: StoreLink,
    announced: bool,
}

/// The connection to the store, and which stream carries which of the core's requests.
struct StoreLink {
    token: Token,
    streams: BTreeMap<StreamId, StoreTag>,
    tags: BTreeMap<StoreTag, StreamId>,
    /// Requests that the connection did not take yet.
    backlog: VecDeque<(StoreTag, store::Request)>,
}

struct Paths {
    data_dir: PathBuf,
}

impl Paths {
    fn of(&self, matches: &ArgMatches, flag: &str, default: &str) -> PathBuf {
        matches.get_one::<String>(flag).map_or_else(|| self.data_dir.join(default), PathBuf::from)
    }
}

fn read(path: &Path, flag: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| {
        format!(
            "cannot read {} ({e}); make it with `pintle up` or name another file with --{flag}",
            path.display()
        )
    })
}

fn certificates(path: &Path, flag: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path, flag)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(format!(
            "{} holds no CERTIFICATE block; name a PEM certificate with --{flag}",
            path.display()
        )),
        Err(e) => {
            Err(format!("{} is not PEM: {e}; name a PEM certificate with --{flag}", path.display()))
        }
    }
}

fn private_key(path: &Path, flag: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path, flag)?).map_err(|e| {
        format!("{} holds no private key ({e}); name a PEM key with --{flag}", path.display())
    })
}

fn tls_config(
    matches: &ArgMatches,
    paths: &Paths,
    authority: &Authority,
) -> Result<Arc<ServerConfig>, String> {
    let cert_path = paths.of(matches, "tls-cert", "pki/apiserver.crt");
    let key_path = paths.of(matches, "tls-key", "pki/apiserver.key");
    let chain = certificates(&cert_path, "tls-cert")?;
    let key = private_key(&key_path, "tls-key")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(authority.tls_verifier())
        .with_single_cert(chain, key)
        .map_err(|e| {
            format!(
                "{} and {} are no usable certificate and key: {e}",
                cert_path.display(),
                key_path.display()
            )
        })?;
    config.alpn_protocols = vec![WIRE_ALPN.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn token_keys(matches: &ArgMatches, paths: &Paths) -> Result<token::Keys, String> {
    let path = paths.of(matches, "sa-key", "pki/sa.key");
    let key = private_key(&path, "sa-key")?;
    let PrivateKeyDer::Pkcs8(der) = key else {
        return Err(format!(
            "{} is not a PKCS#8 key (BEGIN PRIVATE KEY); convert it",
            path.display()
        ));
    };
    token::Keys::from_pkcs8(der.secret_pkcs8_der()).map_err(|e| format!("{}: {e}", path.display()))
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    text.split_once('-')
        .and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)))
        .filter(|(low, high): &(u16, u16)| low <= high && *low > 0)
        .ok_or_else(|| format!("--node-port-range {text:?} is not LOW-HIGH, as in 30000-32767"))
}

fn listen(
    l: &mut Loop<()>,
    what: &Listen,
    addr: &dyn std::fmt::Display,
    hint: &str,
) -> Result<Token, String> {
    l.listen(what).map_err(|e| format!("cannot listen on {addr}: {e}; {hint}"))
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map_or("", String::as_str)
}

/// What listens.
struct Listeners {
    tokens: [Token; 3],
    bind: IpAddr,
    port: u16,
}

fn listeners(
    l: &mut Loop<()>,
    matches: &ArgMatches,
    paths: &Paths,
    tls: Arc<ServerConfig>,
) -> Result<Listeners, String> {
    let bind = *matches.get_one::<IpAddr>("bind").unwrap_or(&IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let port = *matches.get_one::<u16>("port").unwrap_or(&6443);
    let https_addr = SocketAddr::new(bind, port);
    let in_use = "stop what uses it or choose another with --port";
    let https = listen(l, &Listen::Tls(https_addr, tls.clone()), &https_addr, in_use)?;
    let port = l.local_addr(https).map_or(port, |a| a.port());
    let wire_port = matches.get_one::<u16>("wire-port").copied().unwrap_or(port.saturating_add(1));
    let wire_addr = SocketAddr::new(bind, wire_port);
    let in_use = "stop what uses it or choose another with --wire-port";
    let wire_tls = listen(l, &Listen::Tls(wire_addr, tls), &wire_addr, in_use)?;
    let socket = paths.of(matches, "socket", "run/apiserver.sock");
    let hint = "its folder must exist and no other API server use it; see --socket";
    let wire_unix = listen(l, &Listen::Unix(socket.clone(), 0o600), &socket.display(), hint)?;
    l.signals(&[Signal::SIGTERM, Signal::SIGINT])
        .map_err(|e| format!("cannot catch signals: {e}"))?;
    log::info(
        "listening",
        &[
            ("https", &SocketAddr::new(bind, port)),
            ("wire", &wire_addr),
            ("socket", &socket.display()),
        ],
    );
    Ok(Listeners { tokens: [https, wire_tls, wire_unix], bind, port })
}

fn start(matches: &ArgMatches) -> Result<Shell, String> {
    if matches.get_flag("verbose") {
        log::set_level(log::Level::Debug);
    }
    let paths = Paths { data_dir: PathBuf::from(text(matches, "data-dir")) };
    let roots: Vec<Vec<u8>> =
        certificates(&paths.of(matches, "client-ca", "pki/ca.crt"), "client-ca")?
            .iter()
            .map(|c| c.to_vec())
            .collect();
    let authority = Authority::new(&roots).map_err(|e| format!("--client-ca: {e}"))?;
    let tls = tls_config(matches, &paths, &authority)?;
    let keys = Arc::new(token_keys(matches, &paths)?);

    let mut l = Loop::new().map_err(|e| format!("cannot make an event loop: {e}"))?;
    let open = listeners(&mut l, matches, &paths, tls)?;
    let bind = open.bind;
    let advertise = match matches.get_one::<IpAddr>("advertise-address") {
        Some(address) => *address,
        None if bind.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        None => bind,
    };
    let now = RealClock.now();
    let config = server::Config {
        service_cidr: text(matches, "service-cidr").into(),
        node_port_range: port_range(text(matches, "node-port-range"))?,
        seed: now.wall.0.cast_unsigned() ^ u64::from(std::process::id()).rotate_left(32),
        advertise: (advertise, open.port),
    };
    let mut core = Server::new(config, now);
    core.set_token_keys(keys.clone());
    let version = env!("CARGO_PKG_VERSION").to_string();
    let front = Front::new(
        core,
        Authenticator::new(Some(authority), Some(keys)),
        Config {
            server_address: SocketAddr::new(advertise, open.port).to_string(),
            version: version.clone(),
            pid: std::process::id(),
        },
    );
    let hello = Hello { daemon: "apiserver".into(), version, ..Hello::default() };
    let store = paths.of(matches, "store-socket", "run/store.sock");
    let token = l.wire_connect(Endpoint::Unix(store), hello, Limits::default());
    Ok(Shell {
        l,
        front,
        listeners: open.tokens,
        https: open.tokens[0],
        conns: BTreeMap::new(),
        tokens: BTreeMap::new(),
        store: StoreLink {
            token,
            streams: BTreeMap::new(),
            tags: BTreeMap::new(),
            backlog: VecDeque::new(),
        },
        announced: false,
    })
}

impl Shell {
    fn serve(&mut self) -> Result<(), String> {
        let mut ending = None;
        loop {
            let timeout = self.front.poll_timeout();
            let deadline = match (timeout, ending) {
                (Some(a), Some(b)) => Some(std::cmp::min(a, b)),
                (a, b) => a.or(b),
            };
            let now = self.l.poll(deadline).map_err(|e| format!("the event loop failed: {e}"))?;
            while let Some(event) = self.l.next() {
                if matches!(event, Event::Signal(_)) && ending.is_none() {
                    notify::stopping();
                    log::info("ending", &[("connections", &self.conns.len())]);
                    for listener in self.listeners {
                        self.l.close(listener);
                    }
                    self.front.drain(now);
                    ending = Some(now.mono + DRAIN_TIME);
                } else {
                    self.handle(event, now);
                }
            }
            self.pump(now);
            if ending.is_some_and(|t| t <= now.mono || self.conns.is_empty()) {
                self.l.flush();
                return Ok(());
            }
        }
    }

    fn handle(&mut self, event: Event<()>, now: Now) {
        match event {
            Event::Accepted { listener, conn, peer } => self.accepted(listener, conn, peer, now),
            Event::Bytes(token) => self.input(token, now),
            Event::Drained(token) => self.output(token, now),
            Event::End(token) => {
                self.input(token, now);
                if let Some(id) = self.conns.get(&token) {
                    self.front.input_ended(*id, now);
                }
            }
            Event::Closed(token, _) => {
                if let Some(id) = self.conns.remove(&token) {
                    self.tokens.remove(&id);
                    self.front.closed(id, now);
                }
            }
            Event::WireUp(..) => {
                self.front.set_store_connected(true, now);
                notify::status("loading state from the store");
            }
            Event::WireDown(_, why) => {
                if self.front.store_connected() {
                    log::warn("store is gone, connecting again", &[("reason", &why)]);
                } else {
                    log::debug("no connection to the store yet", &[("reason", &why)]);
                }
                self.store.streams.clear();
                self.store.tags.clear();
                self.store.backlog.clear();
                if self.front.store_connected() {
                    self.front.set_store_connected(false, now);
                }
            }
            Event::Wire(_, event) => self.store_event(event, now),
            Event::Timer => self.front.handle_timeout(now),
            Event::Connected(_)
            | Event::Fd { .. }
            | Event::Signal(_)
            | Event::Child(..)
            | Event::Posted(()) => {}
        }
    }

    fn accepted(&mut self, listener: Token, token: Token, peer: pintle_reactor::Peer, now: Now) {
        let known = Peer {
            uid: peer.cred.map(|c| c.uid),
            chain: peer.certificates.iter().map(|c| c.to_vec()).collect(),
            address: match (peer.addr, peer.cred) {
                (Some(addr), _) => addr.to_string(),
                (None, Some(cred)) => format!("pid {}", cred.pid),
                (None, None) => String::new(),
            },
        };
        let wire = listener != self.https || peer.alpn.as_deref() == Some(WIRE_ALPN);
        let id = match wire {
            true => self.front.accept_wire(known, now),
            false => self.front.accept_http(known, now),
        };
        self.conns.insert(token, id);
        self.tokens.insert(id, token);
    }

    // Feeds what has arrived as long as the front takes it.
    fn input(&mut self, token: Token, now: Now) {
        let Some(id) = self.conns.get(&token).copied() else { return };
        while self.front.wants_input(id) {
            let bytes = self.l.input(token);
            let n = bytes.len().min(INPUT_AT_ONCE);
            if n == 0 {
                return;
            }
            self.front.handle_input(id, &bytes[..n], now);
            self.l.consume(token, n);
        }
    }

    // Moves output into the loop until its buffer is high; it says when it is low again.
    fn output(&mut self, token: Token, now: Now) {
        let Some(id) = self.conns.get(&token).copied() else { return };
        while self.l.output_len(token) <= OUTPUT_HIGH_BYTES {
            let bytes = self.front.output(id);
            let n = bytes.len().min(OUTPUT_AT_ONCE);
            if n == 0 || self.l.write(token, &bytes[..n]).is_err() {
                break;
            }
            self.front.written(id, n, now);
        }
        if self.front.is_done(id) && self.front.output(id).is_empty() {
            self.l.finish(token);
            self.front.closed(id, now);
            self.conns.remove(&token);
            self.tokens.remove(&id);
        }
    }

    // Carries out everything that the front wants, until it wants nothing more.
    fn pump(&mut self, now: Now) {
        loop {
            if let Some(message) = self.front.poll_store() {
                self.forward(message, now);
            } else if let Some(id) = self.front.poll_changed() {
                if let Some(token) = self.tokens.get(&id).copied() {
                    self.input(token, now);
                    self.output(token, now);
                }
            } else {
                break;
            }
        }
        if !self.announced && self.front.core().ready() {
            self.announced = true;
            notify::ready();
            notify::status("serving");
            log::info("ready", &[]);
        }
    }

    fn forward(&mut self, message: ToStore, now: Now) {
        match message {
            ToStore::Request(tag, request) => {
                self.store.backlog.push_back((tag, request));
                self.flush_store(now);
            }
            ToStore::Cancel(tag) => {
                self.store.backlog.retain(|(t, _)| *t != tag);
                if let Some(stream) = self.store.tags.remove(&tag) {
                    self.store.streams.remove(&stream);
                    if let Some(conn) = self.l.wire(self.store.token) {
                        conn.reset(stream, conn::ResetCode::Cancel);
                    }
                }
            }
        }
    }

    fn flush_store(&mut self, now: Now) {
        while let Some((tag, request)) = self.store.backlog.pop_front() {
            let Some(conn) = self.l.wire(self.store.token) else { return };
            match conn.request(&msg::encode(&Open::Store(request.clone()))) {
                Ok(stream) => {
                    self.store.streams.insert(stream, tag);
                    self.store.tags.insert(tag, stream);
                }
                Err(SendError::Blocked) => {
                    self.store.backlog.push_front((tag, request));
                    return;
                }
                // The connection ends; the core hears so and asks again.
                Err(SendError::Closed) => return,
                Err(SendError::TooLarge) => {
                    let error = store::Error::TooLarge("request is larger than a message".into());
                    self.front.handle_store(tag, store::Reply::Error(error), now);
                }
            }
        }
    }

    fn store_event(&mut self, event: conn::Event, now: Now) {
        match event {
            conn::Event::Message(stream, bytes) => {
                if let Some(conn) = self.l.wire(self.store.token) {
                    conn.consumed(stream, bytes.len());
                }
                let Some(tag) = self.store.streams.get(&stream).copied() else { return };
                match msg::decode::<store::Reply>(&bytes) {
                    Ok(reply) => self.front.handle_store(tag, reply, now),
                    Err(e) => {
                        log::error("store sent what is no reply", &[("err", &e)]);
                        self.cut(stream, "the store sent what is no reply", now);
                    }
                }
            }
            conn::Event::Finished(stream) => {
                if let Some(tag) = self.store.streams.remove(&stream) {
                    self.store.tags.remove(&tag);
                }
            }
            conn::Event::Reset(stream, code) => {
                self.cut(stream, &format!("the store cut the request: {code:?}"), now);
            }
            conn::Event::Writable(_) => self.flush_store(now),
            conn::Event::Connected(_) | conn::Event::Opened(..) | conn::Event::GoAway => {}
        }
        self.flush_store(now);
    }

    fn cut(&mut self, stream: StreamId, why: &str, now: Now) {
        if let Some(tag) = self.store.streams.remove(&stream) {
            self.store.tags.remove(&tag);
            let reply = store::Reply::Error(store::Error::Invalid(why.into()));
            self.front.handle_store(tag, reply, now);
        }
    }
}

/// Bytes given to the front at once, so that its buffers stay near what it parses.
const INPUT_AT_ONCE: usize = 64 << 10;

/// Bytes moved to the loop at once.
const OUTPUT_AT_ONCE: usize = 64 << 10;

/// After SIGTERM, answers that are under way have so long.
const DRAIN_TIME: std::time::Duration = std::time::Duration::from_secs(2);
