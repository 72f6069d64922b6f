//! Where to connect and where to listen, and how long socket paths get through.

use crate::limits::{KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES};
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where to connect.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// A unix socket; any length of path.
    Unix(PathBuf),
    /// A TCP address, in the clear (only inside one host or a pod: probes, port-forward).
    Tcp(SocketAddr),
    /// A TCP address with TLS 1.3.
    Tls {
        /// Where.
        addr: SocketAddr,
        /// Name or address that the server's certificate must carry.
        name: ServerName<'static>,
        /// Roots and our own certificate; see `tls::client_config`.
        config: Arc<ClientConfig>,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
            Endpoint::Tcp(addr) => write!(f, "tcp:{addr}"),
            Endpoint::Tls { addr, .. } => write!(f, "tls:{addr}"),
        }
    }
}

/// Where to listen.
#[derive(Clone, Debug)]
pub enum Listen {
    /// A unix socket with this file mode. A socket left behind by a dead process is replaced; one that
    /// somebody listens on is `AddrInUse`.
    Unix(PathBuf, u32),
    /// TCP in the clear.
    Tcp(SocketAddr),
    /// TCP with TLS 1.3.
    Tls(SocketAddr, Arc<ServerConfig>),
    /// A listener that was made elsewhere (in another network namespace, by socket activation), with TLS or not.
    Std(Arc<std::net::TcpListener>, Option<Arc<ServerConfig>>),
}

/// Who is at the other end, as the kernel and TLS know it.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Of a unix socket's peer at the time it connected (SO_PEERCRED).
    pub cred: Option<Cred>,
    /// Of a TCP peer.
    pub addr: Option<SocketAddr>,
    /// TLS certificate chain that was verified, leaf first; empty when it showed none.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Application protocol agreed on by ALPN.
    pub alpn: Option<Vec<u8>>,
}

/// Credentials of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cred {
    /// Process id, in our pid namespace.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// `sun_path` has 108 bytes including the closing zero.
const SUN_PATH_BYTES_MAX: usize = 107;

/// A path that fits a socket address: a long one goes through a descriptor of its folder.
pub(crate) struct UnixPath {
    short: PathBuf,
    _folder: Option<OwnedFd>,
}

impl UnixPath {
    pub(crate) fn new(path: &Path) -> io::Result<UnixPath> {
        if path.as_os_str().len() <= SUN_PATH_BYTES_MAX {
            return Ok(UnixPath { short: path.into(), _folder: None });
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("socket path {} has no folder or no name", path.display()),
            ));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        if short.as_os_str().len() > SUN_PATH_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("name of socket {} is too long, limit 80 bytes", path.display()),
            ));
        }
        Ok(UnixPath { short, _folder: Some(folder) })
    }

    pub(crate) fn as_path(&self) -> &Path {
        &self.short
    }
}

/// A connected (or connecting) socket.
#[derive(Debug)]
pub(crate) enum Sock {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Sock {
    pub(crate) fn connect(endpoint: &Endpoint) -> io::Result<Sock> {
        match endpoint {
            Endpoint::Unix(path) => {
                let path = UnixPath::new(path)?;
                Ok(Sock::Unix(UnixStream::connect(path.as_path())?))
            }
            Endpoint::Tcp(addr) | Endpoint::Tls { addr, .. } => {
                Ok(Sock::Tcp(TcpStream::connect(*addr)?))
            }
        }
    }

    /// Whether a connection that was begun is there: `Ok(false)` = not yet.
    pub(crate) fn connected(&self) -> io::Result<bool> {
        let result = match self {
            Sock::Unix(s) => s.take_error()?.map_or_else(|| s.peer_addr().map(drop), Err),
            Sock::Tcp(s) => s.take_error()?.map_or_else(|| s.peer_addr().map(drop), Err),
        };
        match result {
            Ok(()) => {
                if let Sock::Tcp(s) = self {
                    prepare_tcp(s)?;
                }
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(crate) fn peer(&self) -> Peer {
        match self {
            Sock::Unix(s) => Peer {
                cred: sockopt::socket_peercred(s).ok().map(|c| Cred {
                    pid: c.pid.as_raw_nonzero().get(),
                    uid: c.uid.as_raw(),
                    gid: c.gid.as_raw(),
                }),
                ..Peer::default()
            },
            Sock::Tcp(s) => Peer { addr: s.peer_addr().ok(), ..Peer::default() },
        }
    }

    pub(crate) fn shutdown_write(&self) {
        // The peer may be gone already; then there is nobody to tell.
        let _ = match self {
            Sock::Unix(s) => s.shutdown(std::net::Shutdown::Write),
            Sock::Tcp(s) => s.shutdown(std::net::Shutdown::Write),
        };
    }

    pub(crate) fn source(&mut self) -> &mut dyn mio::event::Source {
        match self {
            Sock::Unix(s) => s,
            Sock::Tcp(s) => s,
        }
    }
}

impl io::Read for Sock {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Sock::Unix(s) => s.read(buf),
            Sock::Tcp(s) => s.read(buf),
        }
    }
}

impl io::Write for Sock {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Sock::Unix(s) => s.write(buf),
            Sock::Tcp(s) => s.write(buf),
        }
    }

    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Sock::Unix(s) => s.write_vectored(bufs),
            Sock::Tcp(s) => s.write_vectored(bufs),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener, Option<Arc<ServerConfig>>),
}

impl Listener {
    pub(crate) fn bind(listen: &Listen) -> io::Result<Listener> {
        match listen {
            Listen::Unix(path, mode) => {
                let short = UnixPath::new(path)?;
                remove_stale(path, short.as_path())?;
                let listener = UnixListener::bind(short.as_path())?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode))?;
                Ok(Listener::Unix(listener))
            }
            Listen::Tcp(addr) => Ok(Listener::Tcp(TcpListener::bind(*addr)?, None)),
            Listen::Tls(addr, config) => {
                Ok(Listener::Tcp(TcpListener::bind(*addr)?, Some(config.clone())))
            }
            Listen::Std(listener, config) => {
                let listener = listener.try_clone()?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(TcpListener::from_std(listener), config.clone()))
            }
        }
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Listener::Unix(_) => None,
            Listener::Tcp(l, _) => l.local_addr().ok(),
        }
    }

    pub(crate) fn accept(&self) -> io::Result<(Sock, Option<Arc<ServerConfig>>)> {
        match self {
            Listener::Unix(l) => Ok((Sock::Unix(l.accept()?.0), None)),
            Listener::Tcp(l, config) => {
                let (stream, _) = l.accept()?;
                prepare_tcp(&stream)?;
                Ok((Sock::Tcp(stream), config.clone()))
            }
        }
    }

    pub(crate) fn source(&mut self) -> &mut dyn mio::event::Source {
        match self {
            Listener::Unix(l) => l,
            Listener::Tcp(l, _) => l,
        }
    }
}

/// No delay for small writes; and the kernel finds out, without waking us, when the other machine has vanished.
fn prepare_tcp(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    let gone = KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES;
    let gone_ms = u32::try_from(gone.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, gone_ms)?;
    Ok(())
}

/// Removes a socket file that nobody listens on; anything else at the path stays and `bind` will say so.
fn remove_stale(path: &Path, short: &Path) -> io::Result<()> {
    match UnixStream::connect(short) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another process listens on {}; stop it first", path.display()),
        )),
    }
}
