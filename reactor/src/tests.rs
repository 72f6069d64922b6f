//! The loop against the real kernel: two ends in one loop, or a thread at the other end.

use crate::tls::{self, ClientCert};
use crate::*;
use pintle_wire::conn::{self, Hello, Limits};
use rustls::pki_types::ServerName;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("pt-reactor-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temporary folder");
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn hello(daemon: &str) -> Hello {
    Hello { daemon: daemon.into(), ..Hello::default() }
}

/// Turns until `check` gives a value; fails after 20 s.
fn until<T, R>(l: &mut Loop<T>, mut check: impl FnMut(&mut Loop<T>, Event<T>) -> Option<R>) -> R {
    let deadline = l.now().mono + Duration::from_secs(20);
    loop {
        l.poll(Some(deadline)).expect("poll");
        while let Some(event) = l.next() {
            // (One may be left from a poll whose events nobody took.)
            let late = matches!(event, Event::Timer) && l.now().mono >= deadline;
            assert!(!late, "nothing within 20 s");
            if let Some(result) = check(l, event) {
                return result;
            }
        }
    }
}

/// CA, server and client certificates, as PEM.
struct Pki {
    ca: String,
    server: (String, String),
    client: (String, String),
}

fn pki() -> Pki {
    let ca_key = rcgen::KeyPair::generate().expect("key");
    let mut ca = rcgen::CertificateParams::new(vec![]).expect("params");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).expect("sign");
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let leaf = |name: &str| {
        let key = rcgen::KeyPair::generate().expect("key");
        let mut p = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).expect("params");
        p.distinguished_name.push(rcgen::DnType::CommonName, name);
        let cert = p.signed_by(&key, &issuer).expect("sign");
        (cert.pem(), key.serialize_pem())
    };
    Pki { ca: ca_cert.pem(), server: leaf("server"), client: leaf("system:node:n1") }
}

impl Pki {
    fn server(&self, cert: ClientCert, alpn: &[&str]) -> Arc<rustls::ServerConfig> {
        let (c, k) = (self.server.0.as_bytes(), self.server.1.as_bytes());
        tls::server_config(c, k, self.ca.as_bytes(), cert, alpn).expect("server config")
    }

    fn client(&self, with_cert: bool) -> Arc<rustls::ClientConfig> {
        let own = with_cert.then_some((self.client.0.as_bytes(), self.client.1.as_bytes()));
        tls::client_config(self.ca.as_bytes(), own).expect("client config")
    }
}

fn any_port() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().expect("address")
}

fn tls_endpoint(addr: std::net::SocketAddr, config: Arc<rustls::ClientConfig>) -> Endpoint {
    let name = ServerName::try_from("127.0.0.1").expect("name");
    Endpoint::Tls { addr, name, config }
}

/// One request and its reply, of `size` bytes, between two ends in one loop.
fn exchange(l: &mut Loop<()>, client: Token, size: usize) -> (Peer, Peer) {
    let (mut server_saw, mut client_saw) = (None, None);
    let body: Arc<[u8]> = vec![7; size].into();
    let got = until(l, |l, event| {
        match event {
            Event::WireUp(t, peer, h) if t == client => {
                assert_eq!(h.daemon, "server");
                client_saw = Some(peer);
                l.wire(t).expect("up").request(b"give").expect("open");
            }
            Event::WireUp(_, peer, h) => {
                assert_eq!(h.daemon, "client");
                server_saw = Some(peer);
            }
            Event::Wire(t, conn::Event::Opened(s, m)) => {
                assert_eq!(m, b"give");
                let conn = l.wire(t).expect("up");
                conn.send_shared(s, b"head", &body).expect("send");
                conn.finish(s);
            }
            Event::Wire(t, conn::Event::Message(s, m)) => {
                l.wire(t).expect("up").consumed(s, m.len());
                return Some(m);
            }
            Event::WireDown(_, why) => panic!("down: {why}"),
            _ => {}
        }
        None
    });
    assert!(got.len() == size + 4 && got.starts_with(b"head") && got[4..].iter().all(|b| *b == 7));
    (server_saw.expect("accepted"), client_saw.expect("connected"))
}

#[test]
fn wire_over_unix_knows_its_peer_and_bears_long_paths() {
    let dir = Dir::new("unix");
    let mut long = dir.0.clone();
    while long.as_os_str().len() < 200 {
        long.push("a-folder-with-a-rather-long-name");
    }
    std::fs::create_dir_all(&long).expect("folders");
    for path in [dir.0.join("s.sock"), long.join("s.sock")] {
        let mut l = Loop::<()>::new().expect("loop");
        let at = Listen::Unix(path.clone(), 0o600);
        l.wire_listen(&at, hello("server"), Limits::default()).expect("listen");
        let client =
            l.wire_connect(Endpoint::Unix(path.clone()), hello("client"), Limits::default());
        let (server_saw, _) = exchange(&mut l, client, 5_000_000);
        let cred = server_saw.cred.expect("peer credentials");
        assert_eq!(cred.pid as u32, std::process::id());
        // Somebody listens: no second one. A dead one's socket: replaced.
        let taken = Loop::<()>::new().expect("loop").listen(&at).expect_err("in use");
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
        drop(l);
        assert!(path.exists());
        Loop::<()>::new().expect("loop").listen(&at).expect("stale socket is replaced");
    }
}

#[test]
fn wire_over_tls_shows_both_certificates_and_refuses_none() {
    let pki = pki();
    let mut l = Loop::<()>::new().expect("loop");
    // One port for HTTPS and for us.
    let alpn = ["http/1.1", "pintle-wire"];
    let at = Listen::Tls(any_port(), pki.server(ClientCert::Required, &alpn));
    let listener = l.wire_listen(&at, hello("server"), Limits::default()).expect("listen");
    let addr = l.local_addr(listener).expect("address");
    let good = tls_endpoint(addr, pki.client(true));
    let client = l.wire_connect(good, hello("client"), Limits::default());
    let (server_saw, client_saw) = exchange(&mut l, client, 3_000_000);
    assert_eq!((server_saw.certificates.len(), client_saw.certificates.len()), (1, 1));
    assert!(server_saw.cred.is_none() && server_saw.addr.is_some());
    assert_eq!(server_saw.alpn.as_deref(), Some(tls::WIRE_ALPN));
    let bare = l.wire_connect(tls_endpoint(addr, pki.client(false)), hello("x"), Limits::default());
    let why = until(&mut l, |_, e| match e {
        Event::WireDown(t, why) if t == bare => Some(why),
        Event::WireUp(t, ..) => panic!("{t:?} is up without a certificate"),
        _ => None,
    });
    assert!(why.contains("ertificate"), "{why}");
}

#[test]
fn a_lost_wire_connection_comes_back() {
    let dir = Dir::new("again");
    let at = Listen::Unix(dir.0.join("s"), 0o600);
    let mut l = Loop::<()>::new().expect("loop");
    let client =
        l.wire_connect(Endpoint::Unix(dir.0.join("s")), hello("client"), Limits::default());
    let why = until(&mut l, |_, e| match e {
        Event::WireDown(t, why) if t == client => Some(why),
        _ => None,
    });
    assert!(why.contains("unix:"), "{why}");
    for _ in 0..3 {
        let listener = l.wire_listen(&at, hello("server"), Limits::default()).expect("listen");
        let mut server = None;
        let mut up = false;
        until(&mut l, |_, e| {
            match e {
                Event::WireUp(t, ..) if t == client => up = true,
                Event::WireUp(t, ..) => server = Some(t),
                _ => {}
            }
            (up && server.is_some()).then_some(())
        });
        l.close(server.expect("accepted"));
        l.close(listener);
        until(&mut l, |l, e| match e {
            Event::WireDown(t, _) if t == client => {
                assert!(l.wire(t).is_none());
                Some(())
            }
            _ => None,
        });
    }
}

/// Echoes 2 MB over a byte connection in the loop; the other end is `make`.
fn echo(listen: Listen, endpoint: impl Fn(std::net::SocketAddr) -> Endpoint) -> Peer {
    let mut l = Loop::<()>::new().expect("loop");
    let listener = l.listen(&listen).expect("listen");
    let client = l.connect(&endpoint(l.local_addr(listener).expect("addr"))).expect("connect");
    let data: Vec<u8> = (0..2_000_000u32).map(|i| (i / 251) as u8).collect();
    l.write(client, &data).expect("taken before it is connected");
    let (mut back, mut peer, mut drained) = (Vec::new(), None, false);
    until(&mut l, |l, e| {
        match e {
            Event::Accepted { peer: p, .. } => peer = Some(p),
            Event::Bytes(t) => {
                let bytes = l.input(t).to_vec();
                l.consume(t, bytes.len());
                if t == client {
                    back.extend_from_slice(&bytes);
                    if back.len() == data.len() {
                        l.finish(client);
                    }
                } else {
                    l.write(t, &bytes).expect("room");
                }
            }
            Event::Drained(t) => drained |= t == client,
            Event::End(t) => {
                assert_ne!(t, client);
                l.finish(t);
            }
            Event::Closed(t, why) => {
                assert_eq!(why, "finished");
                return (t == client).then_some(());
            }
            _ => {}
        }
        None
    });
    assert!(back == data && drained);
    peer.expect("accepted")
}

#[test]
fn bytes_go_round_with_and_without_tls() {
    let peer = echo(Listen::Tcp(any_port()), Endpoint::Tcp);
    assert!(peer.addr.is_some() && peer.certificates.is_empty());
    let pki = pki();
    for with_cert in [true, false] {
        let listen = Listen::Tls(any_port(), pki.server(ClientCert::Optional, &["http/1.1"]));
        let mut config = (*pki.client(with_cert)).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let peer = echo(listen, |addr| tls_endpoint(addr, config.clone()));
        assert_eq!(peer.certificates.len(), usize::from(with_cert));
        assert_eq!(peer.alpn.as_deref(), Some(&b"http/1.1"[..]));
    }
}

#[test]
fn a_peer_that_does_not_read_meets_a_bound() {
    let (ours, mut theirs) = UnixStream::pair().expect("pair");
    let mut l = Loop::<()>::new().expect("loop");
    let t = l.adopt(ours).expect("adopt");
    let piece = vec![1; 1 << 20];
    let mut taken = 0;
    while l.write(t, &piece).is_ok() {
        taken += piece.len();
        l.poll(Some(l.now().mono)).expect("poll");
        assert!(taken < 32 << 20, "no bound");
    }
    assert_eq!(l.write(t, b"x"), Err(WriteError::Full));
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).expect("read");
        all.len()
    });
    until(&mut l, |_, e| matches!(e, Event::Drained(d) if d == t).then_some(()));
    l.finish(t);
    assert_eq!(l.write(t, b"x"), Err(WriteError::Closed));
    until(&mut l, |_, e| matches!(e, Event::Closed(c, _) if c == t).then_some(()));
    assert_eq!(reader.join().expect("reader"), taken);
}

#[test]
fn input_is_bounded_and_can_be_paused() {
    let (ours, mut theirs) = UnixStream::pair().expect("pair");
    let mut l = Loop::<()>::new().expect("loop");
    let t = l.adopt(ours).expect("adopt");
    l.pause(t, true);
    theirs.set_nonblocking(true).expect("nonblocking");
    let (piece, mut sent) = (vec![3; 4096], 0);
    let mut fill = |l: &mut Loop<()>, sent: &mut usize| {
        while let Ok(n) = theirs.write(&piece) {
            *sent += n;
        }
        l.poll(Some(l.now().mono)).expect("poll");
    };
    fill(&mut l, &mut sent);
    assert_eq!(l.input(t).len(), 0);
    l.pause(t, false);
    for _ in 0..20 {
        fill(&mut l, &mut sent);
    }
    assert_eq!(l.input(t).len(), limits::INPUT_BYTES_MAX);
    let mut got = 0;
    while got < sent {
        let n = l.input(t).len();
        assert_ne!(n, 0, "{got} of {sent}");
        l.consume(t, n / 2 + 1);
        got += n / 2 + 1;
        l.poll(Some(l.now().mono)).expect("poll");
    }
    drop(theirs);
    until(&mut l, |_, e| matches!(e, Event::End(c) if c == t).then_some(()));
}

#[test]
fn children_signals_threads_and_timers_are_events() {
    let mut l = Loop::<u32>::new().expect("loop");
    l.signals(&[Signal::SIGUSR2]).expect("signals");
    let mut start = |script: &str| {
        #[expect(clippy::disallowed_methods, reason = "a child to watch")]
        let child = std::process::Command::new("/bin/sh").args(["-c", script]).spawn();
        let pid = child.expect("sh").id();
        (l.watch_child(pid).expect("watch"), pid)
    };
    let (coded, _) = start("exit 7");
    let (killed, _) = start("kill -9 $$");
    let poster = l.poster();
    let posting = std::thread::spawn(move || (0..3).all(|i| poster.post(i)));
    nix::sys::signal::raise(Signal::SIGUSR2).expect("raise");
    let (mut ended, mut posted, mut signals) = (vec![], vec![], 0);
    until(&mut l, |_, e| {
        match e {
            Event::Child(t, _, exit) => ended.push((t, exit)),
            Event::Posted(i) => posted.push(i),
            Event::Signal(Signal::SIGUSR2) => signals += 1,
            e => panic!("{e:?}"),
        }
        (ended.len() == 2 && posted.len() == 3 && signals == 1).then_some(())
    });
    assert!(posting.join().expect("thread"));
    assert!(ended.contains(&(coded, Exit::Code(7))) && ended.contains(&(killed, Exit::Signal(9))));
    assert_eq!(posted, [0, 1, 2]);
    let at = l.now().mono + Duration::from_millis(30);
    let mut turns = 0;
    while l.poll(Some(at)).expect("poll").mono < at {
        turns += 1;
        assert!(l.next().is_none() && turns < 3);
    }
    assert!(matches!(l.next(), Some(Event::Timer)) && l.next().is_none());
}

#[test]
fn watched_descriptors_are_level_triggered() {
    let (mut ours, mut theirs) = UnixStream::pair().expect("pair");
    let mut l = Loop::<()>::new().expect("loop");
    let t = l.watch_fd(&ours, Interest::Read).expect("watch");
    theirs.write_all(b"abc").expect("write");
    let mut one = [0];
    for expected in b"abc" {
        until(&mut l, |_, e| {
            matches!(e, Event::Fd { token, readable: true, .. } if token == t).then_some(())
        });
        ours.read_exact(&mut one).expect("read");
        assert_eq!(one[0], *expected);
    }
    l.poll(Some(l.now().mono)).expect("poll");
    assert!(matches!(l.next(), Some(Event::Timer)), "nothing is left to read");
    l.set_interest(t, Interest::Both).expect("interest");
    until(&mut l, |_, e| matches!(e, Event::Fd { writable: true, .. }).then_some(()));
    l.close(t);
    theirs.write_all(b"d").expect("write");
    l.poll(Some(l.now().mono)).expect("poll");
    assert!(matches!(l.next(), Some(Event::Timer)));
}

#[test]
fn the_blocking_client_calls_and_follows_streams() {
    let dir = Dir::new("block");
    let path = dir.0.join("s");
    let mut l = Loop::<()>::new().expect("loop");
    l.wire_listen(&Listen::Unix(path.clone(), 0o600), hello("server"), Limits::default())
        .expect("listen");
    let server = std::thread::spawn(move || {
        until(&mut l, |l, e| {
            if let Event::Wire(t, conn::Event::Opened(s, m)) = &e
                && let Some(conn) = l.wire(*t)
            {
                for _ in 0..if m == b"watch" { 3 } else { 1 } {
                    conn.send(s.to_owned(), m, b"!").expect("send");
                }
                conn.finish(*s);
            }
            matches!(e, Event::WireDown(..)).then_some(())
        });
    });
    let wait = Duration::from_secs(20);
    let endpoint = Endpoint::Unix(path);
    let mut c = blocking::Client::connect(endpoint, hello("cli"), Limits::default(), wait)
        .expect("connect");
    assert_eq!(c.hello.daemon, "server");
    for i in 0..3u8 {
        assert_eq!(c.call(&[b'a', i]).expect("call"), [b'a', i, b'!']);
    }
    let stream = c.open(b"watch", true).expect("open");
    for _ in 0..3 {
        assert_eq!(c.next(stream, None).expect("message").as_deref(), Some(&b"watch!"[..]));
    }
    assert_eq!(c.next(stream, None).expect("end"), None);
    drop(c);
    server.join().expect("server");
    let gone = blocking::Client::connect(
        Endpoint::Unix(dir.0.join("none")),
        hello("cli"),
        Limits::default(),
        wait,
    );
    let text = gone.err().expect("nobody there").to_string();
    assert!(text.contains("none"), "{text}");
}
