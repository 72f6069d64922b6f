//! Probes and hooks under way: sockets, commands and pauses, all in the loop.

use super::Post;
use pintle_base::{Now, Time};
use pintle_kubelet::limits::PROBE_OUTPUT_BYTES_MAX;
use pintle_kubelet::work::{Check, Done, Outcome, Ticket};
use pintle_reactor::{Endpoint, Event, Interest, Loop, Token};
use pintle_runtime::sandbox::Streams;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

enum Kind {
    Exec { key: (String, u64), outputs: Vec<(Token, File)>, text: Vec<u8> },
    Http { token: Token, url: String },
    Tcp { token: Token, address: SocketAddr },
    Sleep,
}

struct Active {
    ticket: Ticket,
    kind: Kind,
    deadline: Option<Time>,
}

/// All that are under way.
#[derive(Default)]
pub struct Checks {
    next: u64,
    active: BTreeMap<u64, Active>,
    tokens: BTreeMap<Token, u64>,
    execs: BTreeMap<(String, u64), u64>,
    deadlines: BTreeSet<(Time, u64)>,
    done: Vec<Done>,
}

impl Checks {
    /// Begins a check that is no exec.
    pub fn begin(
        &mut self,
        l: &mut Loop<Post>,
        ticket: Ticket,
        check: Check,
        timeout_ms: u64,
        now: Now,
    ) {
        let mut limit = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
        let kind = match check {
            Check::Exec { .. } => return,
            Check::Sleep(seconds) => {
                let pause = Duration::from_secs(seconds);
                limit = Some(limit.map_or(pause, |l| l.min(pause)));
                Ok(Kind::Sleep)
            }
            Check::Tcp { address, port } => {
                let address = SocketAddr::new(address, port);
                let connected = l.connect(&Endpoint::Tcp(address));
                connected.map(|token| Kind::Tcp { token, address }).map_err(|e| e.to_string())
            }
            Check::Http { address, port, tls, path, headers } => {
                http(l, SocketAddr::new(address, port), tls, &path, &headers)
            }
        };
        match kind {
            Ok(kind) => self.add(ticket, kind, limit.map(|d| now.mono + d)),
            Err(message) => self.finish(ticket, false, message),
        }
    }

    /// An exec check runs.
    pub fn exec_begun(
        &mut self,
        l: &mut Loop<Post>,
        ticket: Ticket,
        key: (String, u64),
        streams: Streams,
    ) {
        let mut outputs = Vec::new();
        for fd in [streams.stdout, streams.stderr].into_iter().flatten() {
            super::sessions::set_nonblocking(&fd);
            match l.watch_fd(&fd, Interest::Read) {
                Ok(token) => outputs.push((token, File::from(fd))),
                Err(e) => pintle_base::log::warn("probe output", &[("error", &e)]),
            }
        }
        self.add(ticket, Kind::Exec { key, outputs, text: Vec::new() }, None);
    }

    fn add(&mut self, ticket: Ticket, kind: Kind, deadline: Option<Time>) {
        self.next += 1;
        let id = self.next;
        match &kind {
            Kind::Exec { key, outputs, .. } => {
                self.execs.insert(key.clone(), id);
                self.tokens.extend(outputs.iter().map(|(t, _)| (*t, id)));
            }
            Kind::Http { token, .. } | Kind::Tcp { token, .. } => {
                self.tokens.insert(*token, id);
            }
            Kind::Sleep => {}
        }
        self.deadlines.extend(deadline.map(|at| (at, id)));
        self.active.insert(id, Active { ticket, kind, deadline });
    }

    fn finish(&mut self, ticket: Ticket, success: bool, message: String) {
        self.done.push(Done::Check { ticket, outcome: Outcome { success, message } });
    }

    fn end(&mut self, l: &mut Loop<Post>, id: u64, success: bool, message: String) {
        let Some(active) = self.active.remove(&id) else { return };
        if let Some(at) = active.deadline {
            self.deadlines.remove(&(at, id));
        }
        let tokens: Vec<Token> = match active.kind {
            Kind::Exec { key, outputs, .. } => {
                self.execs.remove(&key);
                outputs.into_iter().map(|(t, _)| t).collect()
            }
            Kind::Http { token, .. } | Kind::Tcp { token, .. } => vec![token],
            Kind::Sleep => Vec::new(),
        };
        for token in tokens {
            self.tokens.remove(&token);
            l.close(token);
        }
        self.finish(active.ticket, success, message);
    }

    /// What has been finished since the last call.
    pub fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        if !self.done.is_empty() {
            return Some(Time(0));
        }
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, l: &mut Loop<Post>, now: Now) {
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now.mono
        {
            self.deadlines.remove(&(at, id));
            let Some(active) = self.active.get(&id) else { continue };
            let (success, message) = match &active.kind {
                Kind::Sleep => (true, String::new()),
                Kind::Http { url, .. } => (
                    false,
                    format!(
                        "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
                    ),
                ),
                Kind::Tcp { address, .. } => (false, format!("dial tcp {address}: i/o timeout")),
                Kind::Exec { .. } => (false, "command timed out".into()),
            };
            self.end(l, id, success, message);
        }
    }

    /// Something on a socket; false when it is none of ours.
    pub fn socket(&mut self, l: &mut Loop<Post>, token: Token, event: &Event<Post>) -> bool {
        let Some(id) = self.tokens.get(&token).copied() else { return false };
        let Some(active) = self.active.get(&id) else { return true };
        match (&active.kind, event) {
            (Kind::Tcp { .. }, Event::Connected(_)) => self.end(l, id, true, String::new()),
            (Kind::Tcp { address, .. }, Event::Closed(_, why)) => {
                let message = format!("dial tcp {address}: connect: {}", reason(why));
                self.end(l, id, false, message);
            }
            (Kind::Http { .. }, Event::Bytes(_)) => {
                if let Some(code) = status_code(l.input(token)) {
                    let success = (200..400).contains(&code);
                    self.end(l, id, success, format!("HTTP probe failed with statuscode: {code}"));
                }
            }
            (Kind::Http { url, .. }, Event::End(_)) => {
                let message = format!("Get \"{url}\": EOF");
                self.end(l, id, false, message);
            }
            (Kind::Http { url, .. }, Event::Closed(_, why)) => {
                let message = format!("Get \"{url}\": {}", reason(why));
                self.end(l, id, false, message);
            }
            _ => {}
        }
        true
    }

    /// A descriptor is readable; false when it is none of ours.
    pub fn readable(&mut self, l: &mut Loop<Post>, token: Token) -> bool {
        let Some(id) = self.tokens.get(&token).copied() else { return false };
        let Some(Active { kind: Kind::Exec { outputs, text, .. }, .. }) = self.active.get_mut(&id)
        else {
            return true;
        };
        if let Some((_, file)) = outputs.iter_mut().find(|(t, _)| *t == token)
            && drain(file, text)
        {
            outputs.retain(|(t, _)| *t != token);
            self.tokens.remove(&token);
            l.close(token);
        }
        true
    }

    /// An exec ended; false when it is none of ours.
    pub fn exec_exited(&mut self, l: &mut Loop<Post>, key: &(String, u64), code: i32) -> bool {
        let Some(id) = self.execs.get(key).copied() else { return false };
        let Some(Active { kind: Kind::Exec { outputs, text, .. }, .. }) = self.active.get_mut(&id)
        else {
            return true;
        };
        for (_, file) in outputs.iter_mut() {
            drain(file, text);
        }
        let said = String::from_utf8_lossy(text).trim_end().to_string();
        let message = if said.is_empty() { format!("command exited with {code}") } else { said };
        self.end(l, id, code == 0, message);
        true
    }

    /// A shim is gone: no end of its execs will be reported.
    pub fn sandbox_gone(&mut self, l: &mut Loop<Post>, sandbox: &str) {
        let of = |(key, id): (&(String, u64), &u64)| (key.0 == sandbox).then_some(*id);
        let lost: Vec<u64> = self.execs.iter().filter_map(of).collect();
        for id in lost {
            self.end(l, id, false, "the container ended".into());
        }
    }
}

/// Reads what is there; true at the end of it. What is beyond the limit is dropped.
fn drain(file: &mut File, text: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return true,
            Ok(n) => {
                let room = PROBE_OUTPUT_BYTES_MAX.saturating_sub(text.len());
                text.extend_from_slice(&buffer[..n.min(room)]);
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return false,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
}

fn reason(why: &str) -> String {
    // "Connection refused (os error 111)" as Go says it.
    why.split(" (os error").next().unwrap_or(why).to_lowercase()
}

fn status_code(input: &[u8]) -> Option<u16> {
    let line = input.split(|b| *b == b'\n').next().filter(|l| l.len() < input.len())?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_whitespace();
    words.next().filter(|w| w.starts_with("HTTP/"))?;
    words.next()?.parse().ok()
}

fn http(
    l: &mut Loop<Post>,
    address: SocketAddr,
    tls: bool,
    path: &str,
    headers: &[(String, String)],
) -> Result<Kind, String> {
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{address}{path}");
    let endpoint = if tls { insecure(address)? } else { Endpoint::Tcp(address) };
    let bad = |t: &str| t.chars().any(|c| c.is_control());
    if bad(path) || headers.iter().any(|(k, v)| bad(k) || bad(v)) {
        return Err(format!("Get \"{url}\": invalid header or path"));
    }
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    let given = |name: &str| headers.iter().any(|(k, _)| k.eq_ignore_ascii_case(name));
    let host = address.to_string();
    for (name, value) in
        [("Host", host.as_str()), ("User-Agent", "kube-probe/1.36"), ("Accept", "*/*")]
    {
        if !given(name) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("Connection: close\r\n\r\n");
    let token = l.connect(&endpoint).map_err(|e| format!("Get \"{url}\": {e}"))?;
    l.write(token, request.as_bytes()).map_err(|_| format!("Get \"{url}\": cannot write"))?;
    Ok(Kind::Http { token, url })
}

/// TLS whose certificate nobody looks at, as Kubernetes' probes do.
fn insecure(addr: SocketAddr) -> Result<Endpoint, String> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let verifier = std::sync::Arc::new(AnyCertificate(std::sync::Arc::clone(&provider)));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::from(addr.ip());
    Ok(Endpoint::Tls { addr, name, config: std::sync::Arc::new(config) })
}

#[derive(Debug)]
struct AnyCertificate(std::sync::Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        for (input, code) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.0 503\r\nx", Some(503)),
            ("HTTP/1.1 20", None),
            ("SSH-2.0\r\n", None),
            ("", None),
        ] {
            assert_eq!(status_code(input.as_bytes()), code, "{input:?}");
        }
        assert_eq!(reason("Connection refused (os error 111)"), "connection refused");
    }
}
