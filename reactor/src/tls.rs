//! TLS 1.3 configurations from PEM, and one connection's bytes through it.

use crate::addr::{Endpoint, Peer, Sock};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, Connection, RootCertStore, ServerConfig};
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

/// Why PEM text gives no configuration.
#[derive(Debug)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

fn fail<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> TlsError {
    move |e| TlsError(format!("{what}: {e}"))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail("certificate PEM"))?;
    if all.is_empty() {
        return Err(TlsError("certificate PEM: no CERTIFICATE block in it".into()));
    }
    Ok(all)
}

fn roots(ca_pem: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(ca_pem)? {
        store.add(certificate).map_err(fail("CA certificate"))?;
    }
    Ok(Arc::new(store))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Whether a server asks for a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCert {
    /// Without one the handshake fails (wire).
    Required,
    /// A client may show none (HTTPS: bearer tokens, anonymous); a wrong one fails.
    Optional,
}

/// A server's side: its chain and key, the CA that signs clients, and the protocols it speaks (`http/1.1`).
pub fn server_config(
    cert_pem: &[u8],
    key_pem: &[u8],
    client_ca_pem: &[u8],
    client_cert: ClientCert,
    alpn: &[&str],
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(client_ca_pem)?, provider());
    let verifier = match client_cert {
        ClientCert::Required => verifier,
        ClientCert::Optional => verifier.allow_unauthenticated(),
    };
    let verifier = verifier.build().map_err(fail("client CA"))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(fail("private key PEM"))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(fail("TLS versions"))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(cert_pem)?, key)
        .map_err(fail("server certificate and key"))?;
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client's side: the CA that signs servers and, for mutual TLS, its own chain and key.
pub fn client_config(
    ca_pem: &[u8],
    own: Option<(&[u8], &[u8])>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(fail("TLS versions"))?
        .with_root_certificates(roots(ca_pem)?);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some((cert_pem, key_pem)) => {
            let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(fail("private key PEM"))?;
            builder
                .with_client_auth_cert(certificates(cert_pem)?, key)
                .map_err(fail("client certificate and key"))?
        }
    };
    Ok(Arc::new(config))
}

/// What a wire connection asks for by ALPN, so that a server can speak HTTPS on the same port.
pub const WIRE_ALPN: &[u8] = b"pintle-wire";

/// Plaintext that rustls may hold before it is encrypted and written.
const TLS_BUFFER_BYTES_MAX: usize = 128 << 10;

/// A socket with or without TLS on it; reads and writes never wait.
pub(crate) struct Transport {
    pub(crate) sock: Sock,
    tls: Option<Box<Connection>>,
    /// The peer closed its direction.
    read_closed: bool,
}

impl Transport {
    pub(crate) fn client(endpoint: &Endpoint) -> io::Result<Transport> {
        let sock = Sock::connect(endpoint)?;
        let tls = match endpoint {
            Endpoint::Tls { name, config, .. } => {
                let c = rustls::ClientConnection::new(config.clone(), name.clone())
                    .map_err(io::Error::other)?;
                Some(Box::new(Connection::Client(c)))
            }
            Endpoint::Unix(_) | Endpoint::Tcp(_) => None,
        };
        Ok(Transport::new(sock, tls))
    }

    pub(crate) fn server(sock: Sock, config: Option<Arc<ServerConfig>>) -> io::Result<Transport> {
        let tls = match config {
            Some(config) => {
                let c = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
                Some(Box::new(Connection::Server(c)))
            }
            None => None,
        };
        Ok(Transport::new(sock, tls))
    }

    pub(crate) fn new(sock: Sock, mut tls: Option<Box<Connection>>) -> Transport {
        if let Some(tls) = &mut tls {
            tls.set_buffer_limit(Some(TLS_BUFFER_BYTES_MAX));
        }
        Transport { sock, tls, read_closed: false }
    }

    /// The TLS handshake is still under way.
    pub(crate) fn handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|t| t.is_handshaking())
    }

    /// Who is there; complete once the handshake is done.
    pub(crate) fn peer(&self) -> Peer {
        let mut peer = self.sock.peer();
        if let Some(tls) = &self.tls {
            peer.certificates = tls.peer_certificates().unwrap_or_default().to_vec();
            peer.alpn = tls.alpn_protocol().map(<[u8]>::to_vec);
        }
        peer
    }

    /// Reads plaintext: `Ok(0)` = the peer sends no more, `WouldBlock` = nothing now.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return retry(|| self.sock.read(buf)) };
        loop {
            match tls.reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that vanishes without close_notify: the layer above has lengths of its own.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if self.read_closed {
                return Ok(0);
            }
            match retry(|| tls.read_tls(&mut self.sock)) {
                Ok(0) => self.read_closed = true,
                Ok(_) => {}
                Err(e) => return Err(e),
            }
            let processed = tls.process_new_packets();
            // Handshake messages and alerts; a socket that is full has its turn when it is writable.
            let flushed = write_tls(tls, &mut self.sock);
            if let Err(error) = processed {
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            flushed?;
        }
    }

    /// Writes plaintext from the pieces; gives how much was taken. `WouldBlock` when none was.
    pub(crate) fn write<'a>(
        &mut self,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            const AT_ONCE: usize = 64;
            let empty = io::IoSlice::new(&[]);
            let mut slices = [empty; AT_ONCE];
            let mut n = 0;
            for piece in pieces.take(AT_ONCE) {
                slices[n] = io::IoSlice::new(piece);
                n += 1;
            }
            return retry(|| self.sock.write_vectored(&slices[..n]));
        };
        let mut taken = 0;
        for piece in pieces {
            let n = tls.writer().write(piece)?;
            taken += n;
            if n < piece.len() {
                break;
            }
        }
        write_tls(tls, &mut self.sock)?;
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    /// Writes what TLS has encrypted. `Ok(true)` = all of it is out.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match &mut self.tls {
            Some(tls) => {
                write_tls(tls, &mut self.sock)?;
                Ok(!tls.wants_write())
            }
            None => Ok(true),
        }
    }

    /// Says that no more will be written. Call when all has been flushed.
    pub(crate) fn close_write(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // A full socket loses the notice; the shutdown below says the same.
            let _ = write_tls(tls, &mut self.sock);
        }
        self.sock.shutdown_write();
    }
}

/// Writes records until none is left or the socket is full.
fn write_tls(tls: &mut Connection, sock: &mut Sock) -> io::Result<()> {
    while tls.wants_write() {
        match retry(|| tls.write_tls(sock)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
