//! `pintle dns` with real sockets in a network namespace of the test: forwarding by UDP and TCP to a resolver that the
//! test plays, a resolv.conf that changes, an upstream that is not there. Needs root.

use pintle_dns::limits::TCP_BYTES_MAX;
use pintle_dns::message::{Builder, Data, Name, Query, Rcode, Section};
use pintle_runtime::net;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

const LIMIT: Option<Duration> = Some(Duration::from_secs(10));

struct Home {
    dir: PathBuf,
    child: Option<Child>,
}

impl Home {
    fn new() -> Home {
        let dir = std::env::temp_dir().join(format!("pt-dns-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("folder");
        net::create_netns(&dir.join("netns")).expect("a network namespace (root?)");
        Home { dir, child: None }
    }

    fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        net::in_netns(&self.dir.join("netns"), f).expect("enter the namespace")
    }

    fn resolv_conf(&self, server: &str) {
        let new = self.dir.join("new");
        std::fs::write(&new, format!("nameserver {server}\n")).expect("write");
        std::fs::rename(&new, self.dir.join("resolv.conf")).expect("rename");
    }

    #[expect(clippy::disallowed_methods, reason = "the test starts the daemon that it asks")]
    fn start(&mut self) -> BufReader<ChildStderr> {
        let mut child = self.run(|| {
            Command::new(env!("CARGO_BIN_EXE_pintle"))
                .args(["dns", "--node", "n", "--bind", "10.96.0.10,127.0.0.1", "--server"])
                .arg(format!("unix:{}", self.dir.join("nobody.sock").display()))
                .arg("--resolv-conf")
                .arg(self.dir.join("resolv.conf"))
                .stderr(Stdio::piped())
                .spawn()
                .expect("start")
        });
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        self.child = Some(child);
        log
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = net::remove_netns(&self.dir.join("netns"));
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Reads the daemon's log up to a message.
fn until(log: &mut impl BufRead, message: &str) {
    let mut line = String::new();
    while !line.contains(message) {
        line.clear();
        assert_ne!(
            log.read_line(&mut line).expect("log"),
            0,
            "the daemon ended before {message:?}"
        );
    }
}

fn question(name: &str) -> Vec<u8> {
    let mut q = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    q.extend_from_slice(Name::parse(name).expect("name").wire());
    q.extend_from_slice(&[0, 1, 0, 1]);
    q
}

fn answer(question: &[u8], address: IpAddr) -> Vec<u8> {
    let query = Query::parse(question).expect("a sound question");
    let mut out = Vec::new();
    let mut builder = Builder::new(&mut out, &query, TCP_BYTES_MAX);
    builder.add(Section::Answer, None, 60, Data::Address(address));
    builder.finish(Rcode::NoError, false);
    out
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = (message.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(message);
    out
}

fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).expect("length");
    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut message).expect("message");
    message
}

/// (code, last address) of an answer to our question.
fn read(answer: &[u8]) -> (u8, [u8; 4]) {
    assert_eq!(answer[..2], [0x12, 0x34]);
    let tail = answer.last_chunk::<4>().expect("an answer");
    (answer[3] & 0xf, *tail)
}

#[test]
fn other_names_are_forwarded_over_real_sockets() {
    let mut home = Home::new();
    home.resolv_conf("127.0.0.2");
    let (udp, tcp) =
        home.run(|| (UdpSocket::bind("127.0.0.2:53"), TcpListener::bind("127.0.0.2:53")));
    let (udp, tcp) = (udp.expect("udp"), tcp.expect("tcp"));
    udp.set_read_timeout(LIMIT).expect("timeout");
    let mut log = home.start();
    until(&mut log, "listening");
    let client = home.run(|| UdpSocket::bind("127.0.0.1:0")).expect("client");
    client.set_read_timeout(LIMIT).expect("timeout");
    client.connect("127.0.0.1:53").expect("connect");
    let mut buffer = [0; 2048];

    // Nothing is known of the cluster yet; other names work.
    client.send(&question("web.default.svc.cluster.local")).expect("send");
    let n = client.recv(&mut buffer).expect("answer");
    assert_eq!(read(&buffer[..n]).0, 2, "SERVFAIL");
    client.send(&question("a.example")).expect("send");
    let (n, from) = udp.recv_from(&mut buffer).expect("it is asked");
    assert_ne!(buffer[..2], [0x12, 0x34], "an id of its own");
    udp.send_to(&answer(&buffer[..n], [203, 0, 113, 1].into()), from).expect("send");
    let n = client.recv(&mut buffer).expect("answer");
    assert_eq!(read(&buffer[..n]), (0, [203, 0, 113, 1]));

    // By TCP, two questions at once, answered in the other order.
    let mut stream = home.run(|| TcpStream::connect("127.0.0.1:53")).expect("connect");
    stream.set_read_timeout(LIMIT).expect("timeout");
    let both = [framed(&question("b.example")), framed(&question("c.example"))].concat();
    stream.write_all(&both).expect("write");
    let mut upstream = Vec::new();
    for _ in 0..2 {
        let (mut s, _) = tcp.accept().expect("it is asked by TCP");
        s.set_read_timeout(LIMIT).expect("timeout");
        let q = read_framed(&mut s);
        upstream.push((s, q));
    }
    for (i, (mut s, q)) in upstream.into_iter().enumerate().rev() {
        s.write_all(&framed(&answer(&q, [203, 0, 113, 10 + i as u8].into()))).expect("write");
        let (code, address) = read(&read_framed(&mut stream));
        assert_eq!((code, address), (0, [203, 0, 113, 10 + i as u8]));
    }

    // Another resolver, which is not there: the kernel says so, nobody waits.
    home.resolv_conf("127.0.0.3");
    until(&mut log, "read again");
    client.send(&question("d.example")).expect("send");
    let n = client.recv(&mut buffer).expect("answer");
    assert_eq!(read(&buffer[..n]).0, 2, "SERVFAIL");
    // And one that is.
    let other = home.run(|| UdpSocket::bind("127.0.0.3:53")).expect("udp");
    client.send(&question("e.example")).expect("send");
    let (n, from) = other.recv_from(&mut buffer).expect("it is asked");
    other.send_to(&answer(&buffer[..n], [203, 0, 113, 3].into()), from).expect("send");
    let n = client.recv(&mut buffer).expect("answer");
    assert_eq!(read(&buffer[..n]), (0, [203, 0, 113, 3]));
}
