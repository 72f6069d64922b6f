//! What the shells that talk to the API server have in common: flags, the connection, feeding a client core.
//!
//! `--server unix:PATH` for daemons beside the API server, `--server HOST:PORT` with `--ca`, `--cert` and `--key`
//! (PEM files) from other network namespaces and machines.

use clap::{Arg, ArgMatches, Command};
use pintle_base::{Now, log};
use pintle_client::{Client, Daemon};
use pintle_reactor::{Endpoint, Event, Loop, Token, tls};
use pintle_wire::conn::{self, Hello, Limits, ResetCode};
use std::net::ToSocketAddrs;
use std::sync::Arc;

/// Where the API server is and who we are.
pub struct Upstream {
    /// Where.
    pub endpoint: Endpoint,
    /// `--node`, empty when not given.
    pub node: String,
}

/// A daemon's command with the common flags.
pub fn command(name: &'static str, about: &'static str) -> Command {
    let flag = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new(name)
        .no_binary_name(true)
        .about(about)
        .arg(flag("server", "ADDRESS", "unix:PATH or HOST:PORT of the API server"))
        .arg(flag("node", "NAME", "Node on which this daemon runs"))
        .arg(flag("ca", "FILE", "CA of the API server's certificate (with HOST:PORT)"))
        .arg(flag("cert", "FILE", "Own certificate (with HOST:PORT)"))
        .arg(flag("key", "FILE", "Key of the own certificate (with HOST:PORT)"))
}

/// Parses arguments; the error is what to print, with the exit code.
pub fn parse(command: Command, args: &[String]) -> Result<ArgMatches, i32> {
    command.try_get_matches_from(args).map_err(|e| {
        // Help goes to standard output and is no failure.
        let _ = e.print();
        e.exit_code()
    })
}

/// A flag's value, or nothing.
pub fn text<'a>(flags: &'a ArgMatches, name: &str) -> &'a str {
    flags.get_one::<String>(name).map_or("", String::as_str)
}

impl Upstream {
    /// Reads the common flags.
    pub fn of(flags: &ArgMatches) -> Result<Upstream, String> {
        let node = text(flags, "node").to_owned();
        let server = text(flags, "server");
        if let Some(path) = server.strip_prefix("unix:") {
            return Ok(Upstream { endpoint: Endpoint::Unix(path.into()), node });
        }
        if server.is_empty() {
            return Err("--server is missing: give unix:PATH or HOST:PORT".into());
        }
        let addr = server
            .to_socket_addrs()
            .map_err(|e| format!("--server {server} is no HOST:PORT: {e}"))?
            .next()
            .ok_or_else(|| format!("--server {server} has no address"))?;
        let read = |flag: &str| {
            let path = text(flags, flag);
            if path.is_empty() {
                return Err(format!("--{flag} is missing: --server HOST:PORT needs it"));
            }
            std::fs::read(path).map_err(|e| format!("cannot read --{flag} {path}: {e}"))
        };
        let (ca, cert, key) = (read("ca")?, read("cert")?, read("key")?);
        let config = tls::client_config(&ca, Some((&cert, &key))).map_err(|e| e.to_string())?;
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = rustls::pki_types::ServerName::try_from(host)
            .map_err(|e| format!("--server {server}: {e}"))?;
        Ok(Upstream { endpoint: Endpoint::Tls { addr, name, config: Arc::clone(&config) }, node })
    }

    /// Starts to connect; the loop goes on until it is closed.
    pub fn connect<T>(&self, l: &mut Loop<T>, daemon: &str) -> Token {
        let hello = Hello {
            daemon: daemon.to_owned(),
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: Vec::new(),
        };
        l.wire_connect(self.endpoint.clone(), hello, Limits::default())
    }
}

/// Gives an event of the API connection to the client; gives back any other event.
pub fn feed<D: Daemon, T>(
    l: &mut Loop<T>,
    api: Token,
    client: &mut Client<D>,
    event: Event<T>,
    now: Now,
) -> Option<Event<T>> {
    match event {
        Event::WireUp(t, _, hello) if t == api => {
            log::info("connected to the API server", &[("version", &hello.version)]);
            if let Some(conn) = l.wire(api) {
                client.connected(conn, now);
            }
            None
        }
        Event::Wire(t, event) if t == api => {
            let conn = l.wire(api)?;
            let left = client.handle_wire(conn, event, now);
            if let Some(conn::Event::Opened(stream, _)) = left {
                conn.reset(stream, ResetCode::Unsupported);
            }
            None
        }
        Event::WireDown(t, reason) if t == api => {
            log::warn("API server is out of reach", &[("err", &reason)]);
            client.disconnected(now);
            None
        }
        other => Some(other),
    }
}
