//! Kernel settings under /proc/sys/net, of the calling thread's network namespace.

use super::wrong;
use crate::sandbox::Result;

/// Sets `net/...` unless it already has this value (some settings do more than they say when written).
/// A setting that this kernel does not have is passed over.
pub fn set(key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{key}");
    match std::fs::read_to_string(&path) {
        Ok(old) if old.trim() == value => return Ok(()),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(wrong(&format!("read {path}"))(e)),
    }
    std::fs::write(&path, value).map_err(wrong(&format!("write {value} to {path}")))
}

/// Turns the machine into a router for IPv4 and, where asked, IPv6.
///
/// Redirects are off: pods of one bridge reach each other through the gateway by design, and must not be told
/// that there is a shorter way. An interface that learns its IPv6 route from router advertisements goes on
/// doing so (`accept_ra` 2), which forwarding would end.
pub(super) fn forwarding(ipv6: bool) -> Result<()> {
    set("net/ipv4/conf/all/send_redirects", "0")?;
    set("net/ipv4/ip_forward", "1")?;
    if !ipv6 {
        return Ok(());
    }
    let interfaces = std::fs::read_dir("/proc/sys/net/ipv6/conf");
    for entry in interfaces.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let key = format!("net/ipv6/conf/{}/accept_ra", name.to_string_lossy());
        if std::fs::read_to_string(format!("/proc/sys/{key}")).is_ok_and(|v| v.trim() == "1") {
            set(&key, "2")?;
        }
    }
    set("net/ipv6/conf/all/forwarding", "1")
}
