//! Telling the supervisor (systemd or `pintle up`) how we do: sd_notify(3) without libsystemd.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says `READY=1`: state is loaded and sockets listen. Nothing happens without `NOTIFY_SOCKET`.
pub fn ready() {
    send("READY=1");
}

/// Says `STATUS=...`, shown by `systemctl status`.
pub fn status(text: &str) {
    send(&format!("STATUS={text}"));
}

/// Says `STOPPING=1`.
pub fn stopping() {
    send("STOPPING=1");
}

fn send(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send_to(&socket, state) {
        let fields: [(&str, &dyn std::fmt::Display); 2] =
            [("socket", &socket.to_string_lossy()), ("error", &error)];
        pintle_base::log::warn("cannot notify the supervisor", &fields);
    }
}

/// Sends one datagram; `@name` is the abstract namespace.
fn send_to(socket: &OsStr, state: &str) -> io::Result<()> {
    let name = socket.as_bytes();
    let sender = UnixDatagram::unbound()?;
    if let Some(name) = name.strip_prefix(b"@") {
        let address = SocketAddr::from_abstract_name(name)?;
        sender.send_to_addr(state.as_bytes(), &address)?;
    } else {
        let path = crate::addr::UnixPath::new(std::path::Path::new(socket))?;
        sender.send_to(state.as_bytes(), path.as_path())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_socket_hear_it() {
        let dir = std::env::temp_dir().join(format!("pt-notify-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temporary folder");
        let path = dir.join("n");
        let listener = UnixDatagram::bind(&path).expect("bind");
        send_to(path.as_os_str(), "READY=1").expect("send");
        let mut buffer = [0; 64];
        assert_eq!(listener.recv(&mut buffer).expect("datagram"), 7);
        assert_eq!(&buffer[..7], b"READY=1");
        let name = format!("pt-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("name");
        let listener = UnixDatagram::bind_addr(&address).expect("bind");
        send_to(OsStr::new(&format!("@{name}")), "STOPPING=1").expect("send");
        assert_eq!(listener.recv(&mut buffer).expect("datagram"), 10);
        std::fs::remove_dir_all(&dir).expect("clean up");
    }
}
