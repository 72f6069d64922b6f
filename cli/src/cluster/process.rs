//! Processes of a cluster, found by what they were started with: also after a crash that left no records.

use super::layout::Layout;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Environment variable that every process of a cluster carries (shims inherit it; containers do not).
pub const MARK: &str = "PINTLE_DATA_DIR";

/// The processes of this cluster, but not the calling one.
pub fn all(layout: &Layout) -> Vec<u32> {
    let mark = format!("{MARK}={}", layout.root().display());
    let me = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != me)
        .filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|b| *b == 0).any(|v| v == mark.as_bytes())
        })
        .collect()
}

/// Sends a signal; a process that is gone is no error.
pub fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // ESRCH: it ended meanwhile. EPERM cannot be: we are root.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

/// Waits until a process has ended (not only children), at most so long; true when it has.
pub fn wait(pid: u32, at_most: Duration) -> bool {
    let Some(fd) = open(pid) else { return true };
    let millis = u16::try_from(at_most.as_millis()).unwrap_or(u16::MAX);
    let mut fds = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLIN)];
    matches!(nix::poll::poll(&mut fds, millis), Ok(n) if n > 0)
}

fn open(pid: u32) -> Option<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

/// Proportional share of memory (PSS) in bytes; 0 when the process is gone.
pub fn pss_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|l| l.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Seconds since a process was started.
pub fn uptime_s(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may contain anything; fields are counted from behind it.
    let start: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let uptime: f64 =
        fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()?? as f64;
    Some(uptime - start / ticks)
}
