//! `pintle dns`: the shell around `pintle-dns`: sockets for clients (UDP and TCP) and for upstreams.
//!
//! It binds before the bridge has the address (IP_FREEBIND), so that it does not matter which of kubelet and DNS
//! comes first. Each question to an upstream has a socket of its own: a random source port each time.

use super::shell::{self, Hooks};
use super::upstream::{self, Upstream, text};
use clap::{Arg, ArgMatches};
use pintle_base::{Now, Time, log};
use pintle_client::Client;
use pintle_dns::forward::{Output, Try};
use pintle_dns::{Dns, Step};
use pintle_reactor::{Endpoint, Event, Interest, Listen, Loop, Token};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Questions taken from one socket in one turn, so that upstreams and the API server get their turn too.
const UDP_BUDGET: usize = 64;
/// Clients by TCP at once; the one that was silent longest makes room.
const TCP_CLIENTS_MAX: usize = 256;
/// A client by TCP that says nothing for so long is let go.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Connections that wait to be accepted.
const TCP_BACKLOG: i32 = 256;

/// Who asked.
#[derive(Clone, Copy, Debug)]
enum Asker {
    /// On this of our UDP sockets, from there.
    Udp(Token, SocketAddr),
    /// On this connection.
    Tcp(Token),
}

type Core = Dns<Asker>;

fn command() -> clap::Command {
    upstream::command("dns", "Answers names of the cluster on this node, forwards others")
        .arg(
            Arg::new("bind")
                .long("bind")
                .value_delimiter(',')
                .default_value("10.96.0.10")
                .help("Addresses on which it answers"),
        )
        .arg(Arg::new("port").long("port").default_value("53").help("Port, UDP and TCP"))
        .arg(
            Arg::new("cluster-domain")
                .long("cluster-domain")
                .default_value("cluster.local")
                .help("Domain of the cluster"),
        )
        .arg(
            Arg::new("resolv-conf")
                .long("resolv-conf")
                .default_value("/etc/resolv.conf")
                .help("File that names the upstream resolvers; read again when it changes"),
        )
}

/// Runs the daemon until it is told to end; gives the exit code.
pub fn run(args: &[String]) -> i32 {
    let flags = match upstream::parse(command(), args) {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    match serve(&flags) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("pintle dns: {e}");
            1
        }
    }
}

fn serve(flags: &ArgMatches) -> Result<(), String> {
    let upstream = Upstream::of(flags)?;
    let port: u16 =
        text(flags, "port").parse().map_err(|e| format!("--port {}: {e}", text(flags, "port")))?;
    let mut bind = Vec::new();
    for address in flags.get_many::<String>("bind").into_iter().flatten() {
        let address: IpAddr = address.parse().map_err(|e| format!("--bind {address}: {e}"))?;
        bind.push(SocketAddr::new(address, port));
    }
    let own = bind.first().ok_or("--bind is missing: give an address")?.ip();
    let mut seed = [0; 8];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| format!("cannot get random bytes: {e}"))?;
    let resolv_conf = PathBuf::from(text(flags, "resolv-conf"));
    let servers = upstreams(&resolv_conf, &bind);
    let domain = text(flags, "cluster-domain");
    let core = Core::new(domain, own, servers, u64::from_ne_bytes(seed))
        .ok_or_else(|| format!("--cluster-domain {domain} is not a domain name"))?;
    let mut l: Loop<()> = Loop::new().map_err(|e| format!("cannot make the event loop: {e}"))?;
    let mut sockets = Sockets { bind, resolv_conf, ..Sockets::default() };
    sockets.open(&mut l)?;
    let on: Vec<String> = sockets.bind.iter().map(ToString::to_string).collect();
    log::info("listening", &[("on", &on.join(","))]);
    shell::run_with(&mut l, core, &upstream, "dns", &mut sockets)
}

/// The resolvers that a resolv.conf names, without ourselves.
fn upstreams(path: &Path, own: &[SocketAddr]) -> Vec<SocketAddr> {
    let conf = std::fs::read_to_string(path).unwrap_or_else(|e| {
        log::warn("cannot read the upstream resolvers", &[("path", &path.display()), ("err", &e)]);
        String::new()
    });
    let servers = parse_resolv_conf(&conf, own);
    if servers.is_empty() {
        let path = path.display();
        log::warn("no upstream resolver: only names of the cluster are known", &[("path", &path)]);
    }
    servers
}

fn parse_resolv_conf(conf: &str, own: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in conf.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(address) = words.next().and_then(|a| a.parse::<IpAddr>().ok()) else { continue };
        let server = SocketAddr::new(address, 53);
        // Asking ourselves would never end.
        if !own.iter().any(|o| o.ip() == address) && !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers
}

/// Socket of a question under way.
enum Trying {
    Udp(UdpSocket),
    Tcp,
}

/// All sockets of the daemon.
#[derive(Default)]
struct Sockets {
    bind: Vec<SocketAddr>,
    resolv_conf: PathBuf,
    /// Tells that the folder of resolv.conf changed.
    inotify: Option<(Token, OwnedFd)>,
    udp: BTreeMap<Token, UdpSocket>,
    /// Clients by TCP and when they last said something.
    clients: BTreeMap<Token, Time>,
    tries: BTreeMap<Try, (Token, Trying)>,
    try_of: BTreeMap<Token, Try>,
    /// Where answers are made.
    buffer: Vec<u8>,
    received: Vec<u8>,
}

/// A socket of ours that may be bound before its address is there.
fn bound(at: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, kind, flags, None)?;
    if at.is_ipv4() {
        sockopt::set_ip_freebind(&fd, true)?;
    } else {
        sockopt::set_ipv6_freebind(&fd, true)?;
    }
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&fd, true)?;
    }
    rustix::net::bind(&fd, &at)?;
    if kind == SocketType::STREAM {
        rustix::net::listen(&fd, TCP_BACKLOG)?;
    }
    Ok(fd)
}

impl Sockets {
    fn open(&mut self, l: &mut Loop<()>) -> Result<(), String> {
        self.received = vec![0; 64 << 10];
        for at in self.bind.clone() {
            let wrong = |e: io::Error| format!("cannot answer on {at}: {e}");
            let udp = UdpSocket::from(bound(at, SocketType::DGRAM).map_err(wrong)?);
            let token = l.watch_fd(&udp, Interest::Read).map_err(wrong)?;
            self.udp.insert(token, udp);
            let tcp = TcpListener::from(bound(at, SocketType::STREAM).map_err(wrong)?);
            l.listen(&Listen::Std(Arc::new(tcp), None)).map_err(wrong)?;
        }
        self.inotify = watch_folder(l, &self.resolv_conf);
        Ok(())
    }

    fn read_udp(&mut self, token: Token, core: &mut Core, now: Now) {
        let Some(socket) = self.udp.get(&token) else { return };
        for _ in 0..UDP_BUDGET {
            let (len, from) = match socket.recv_from(&mut self.received) {
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // An earlier answer of ours could not be delivered; that is told here.
                Err(_) => continue,
            };
            let message = &self.received[..len];
            let asker = Asker::Udp(token, from);
            if core.handle_query(asker, message, false, now, &mut self.buffer) == Step::Answered {
                // A client that does not take its answer asks again.
                let _ = socket.send_to(&self.buffer, from);
            }
        }
    }

    /// Whole questions that a TCP client has sent.
    fn read_tcp(&mut self, l: &mut Loop<()>, token: Token, core: &mut Core, now: Now) {
        self.clients.insert(token, now.mono);
        while let Some((message, used)) = frame(l.input(token)) {
            let step = core.handle_query(Asker::Tcp(token), message, true, now, &mut self.buffer);
            l.consume(token, used);
            if step == Step::Answered {
                write_framed(l, token, &self.buffer);
            }
        }
    }

    fn accepted(&mut self, l: &mut Loop<()>, token: Token, now: Now) {
        if self.clients.len() >= TCP_CLIENTS_MAX
            && let Some(oldest) = self.clients.iter().min_by_key(|c| *c.1).map(|c| *c.0)
        {
            self.clients.remove(&oldest);
            l.close(oldest);
        }
        self.clients.insert(token, now.mono);
    }

    fn drop_idle(&mut self, l: &mut Loop<()>, now: Now) {
        let idle = |since: &Time| now.mono.saturating_since(*since) >= TCP_IDLE;
        let gone: Vec<Token> = self.clients.iter().filter(|c| idle(c.1)).map(|c| *c.0).collect();
        for token in gone {
            self.clients.remove(&token);
            l.close(token);
        }
    }

    /// An answer may have come on the socket of a try.
    fn read_upstream(&mut self, l: &mut Loop<()>, id: Try, core: &mut Core, now: Now) {
        let Some((token, trying)) = self.tries.get(&id) else { return };
        match trying {
            Trying::Udp(socket) => match socket.recv(&mut self.received) {
                Ok(len) => core.handle_upstream(id, &self.received[..len], now),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => core.upstream_failed(id, now),
            },
            Trying::Tcp => {
                let token = *token;
                if let Some((message, used)) = frame(l.input(token)) {
                    core.handle_upstream(id, message, now);
                    l.consume(token, used);
                }
            }
        }
    }

    /// Sends and closes what the core wants, until it wants no more.
    fn carry_out(&mut self, l: &mut Loop<()>, core: &mut Core, now: Now) {
        loop {
            let outputs = core.take_outputs();
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                match output {
                    Output::Send { id, server, tcp, message } => {
                        if self.send(l, id, server, tcp, &message).is_err() {
                            core.upstream_failed(id, now);
                        }
                    }
                    Output::Close(id) => {
                        if let Some((token, _)) = self.tries.remove(&id) {
                            self.try_of.remove(&token);
                            l.close(token);
                        }
                    }
                }
            }
        }
        while let Some((asker, answer)) = core.poll_answer() {
            match asker {
                Asker::Udp(token, to) => {
                    if let Some(socket) = self.udp.get(&token) {
                        let _ = socket.send_to(&answer, to);
                    }
                }
                Asker::Tcp(token) => write_framed(l, token, &answer),
            }
        }
    }

    fn send(
        &mut self,
        l: &mut Loop<()>,
        id: Try,
        server: SocketAddr,
        tcp: bool,
        message: &[u8],
    ) -> io::Result<()> {
        let (token, trying) = if tcp {
            let token = l.connect(&Endpoint::Tcp(server))?;
            write_framed(l, token, message);
            (token, Trying::Tcp)
        } else {
            let any: IpAddr = match server {
                SocketAddr::V4(_) => [0; 4].into(),
                SocketAddr::V6(_) => [0; 16].into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_nonblocking(true)?;
            socket.connect(server)?;
            socket.send(message)?;
            (l.watch_fd(&socket, Interest::Read)?, Trying::Udp(socket))
        };
        self.try_of.insert(token, id);
        self.tries.insert(id, (token, trying));
        Ok(())
    }

    fn reload(&mut self, core: &mut Core) {
        let Some((_, inotify)) = &self.inotify else { return };
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 4096];
        let mut reader = rustix::fs::inotify::Reader::new(inotify, &mut buffer);
        let name = self.resolv_conf.file_name().unwrap_or_default().as_encoded_bytes();
        let mut ours = false;
        while let Ok(event) = reader.next() {
            ours |= event.file_name().is_some_and(|f| f.to_bytes() == name);
        }
        if ours {
            let servers = upstreams(&self.resolv_conf, &self.bind);
            log::info("upstream resolvers read again", &[("count", &servers.len())]);
            core.set_upstreams(servers);
        }
    }
}

/// Watches the folder of a file: editors and network managers replace the file itself.
fn watch_folder(l: &mut Loop<()>, file: &Path) -> Option<(Token, OwnedFd)> {
    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty())?;
    let mut watch = || -> io::Result<(Token, OwnedFd)> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, folder, WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO)?;
        Ok((l.watch_fd(&fd, Interest::Read)?, fd))
    };
    watch()
        .inspect_err(|e| {
            let folder = folder.display();
            log::warn(
                "changes of the upstream resolvers go unseen",
                &[("path", &folder), ("err", e)],
            );
        })
        .ok()
}

/// The first whole message of a TCP stream and the bytes that it takes with its length.
fn frame(input: &[u8]) -> Option<(&[u8], usize)> {
    let len = usize::from(u16::from_be_bytes(*input.first_chunk()?));
    input.get(2..2 + len).map(|message| (message, 2 + len))
}

fn write_framed(l: &mut Loop<()>, token: Token, message: &[u8]) {
    let Ok(len) = u16::try_from(message.len()) else { return };
    let mut bytes = Vec::with_capacity(message.len() + 2);
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(message);
    // A client that is gone or does not read gets no answer.
    if l.write(token, &bytes).is_err() {
        l.close(token);
    }
}

impl Hooks<Core, ()> for Sockets {
    fn event(&mut self, l: &mut Loop<()>, client: &mut Client<Core>, event: Event<()>, now: Now) {
        let core = &mut client.daemon;
        match event {
            Event::Fd { token, .. } if self.udp.contains_key(&token) => {
                self.read_udp(token, core, now);
            }
            Event::Fd { token, .. } if self.inotify.as_ref().is_some_and(|i| i.0 == token) => {
                self.reload(core);
            }
            Event::Accepted { conn, .. } => self.accepted(l, conn, now),
            Event::Fd { token, .. } | Event::Bytes(token) => match self.try_of.get(&token) {
                Some(id) => self.read_upstream(l, *id, core, now),
                None => self.read_tcp(l, token, core, now),
            },
            Event::End(token) | Event::Closed(token, _) => match self.try_of.get(&token) {
                Some(id) => core.upstream_failed(*id, now),
                None => {
                    // What is still answered later finds nobody.
                    self.clients.remove(&token);
                    l.finish(token);
                }
            },
            _ => {}
        }
        self.carry_out(l, core, now);
    }

    fn turned(
        &mut self,
        l: &mut Loop<()>,
        client: &mut Client<Core>,
        now: Now,
    ) -> Result<(), String> {
        self.drop_idle(l, now);
        self.carry_out(l, &mut client.daemon, now);
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.clients.values().min().map(|since| *since + TCP_IDLE)
    }

    fn ready(&self, client: &Client<Core>) -> bool {
        client.daemon.synced()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_without_ourselves() {
        let own = ["10.96.0.10:53".parse().expect("address")];
        let conf = "# x\nsearch a.b\nnameserver 10.96.0.10\nnameserver 192.0.2.1 \nnameserver bad\n\
                    nameserver 192.0.2.1\nnameserver fd00::1\noptions ndots:5\n";
        let servers: Vec<_> =
            parse_resolv_conf(conf, &own).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[fd00::1]:53"]);
    }

    #[test]
    fn frames_are_whole_or_not_there() {
        assert_eq!(frame(&[0]), None);
        assert_eq!(frame(&[0, 2, 7]), None);
        assert_eq!(frame(&[0, 2, 7, 8, 9]), Some((&[7u8, 8][..], 4)));
    }
}
