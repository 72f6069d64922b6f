//! What must hold before `up` makes anything. Each failure is one line: what is wrong and what to do.

use super::layout::Layout;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

/// Free space that a cluster needs to begin with.
const DISK_BYTES_MIN: u64 = 200 << 20;

/// Checks everything; the first failure wins.
pub fn check(layout: &Layout, api_port: u16) -> Result<(), String> {
    root()?;
    kernel()?;
    programs()?;
    disk(layout)?;
    port(api_port)
}

/// Only root may do any of this.
pub fn root() -> Result<(), String> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err("this needs root: namespaces, mounts and packet rules are made here; run it with sudo"
        .into())
}

fn kernel() -> Result<(), String> {
    cgroup2_mount()?;
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|l| l.ends_with("\toverlay"))
        && !Path::new("/sys/module/overlay").exists()
    {
        // The module loads itself at the first mount where it is a module; say so only where it cannot.
        let release =
            nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned());
        let modules = format!("/lib/modules/{}/kernel/fs/overlayfs", release.unwrap_or_default());
        if !Path::new(&modules).exists() {
            return Err("this kernel has no overlayfs; boot one with CONFIG_OVERLAY_FS".into());
        }
    }
    for (file, what) in [
        ("/proc/self/ns/net", "network namespaces (CONFIG_NET_NS)"),
        ("/proc/self/ns/pid", "pid namespaces (CONFIG_PID_NS)"),
        ("/proc/self/ns/cgroup", "cgroup namespaces (CONFIG_CGROUPS)"),
        ("/proc/sys/kernel/seccomp/actions_avail", "seccomp filters (CONFIG_SECCOMP_FILTER)"),
    ] {
        if !Path::new(file).exists() {
            return Err(format!("this kernel lacks {what}; boot one that has it"));
        }
    }
    Ok(())
}

/// Where the cgroup v2 hierarchy is mounted.
pub fn cgroup2_mount() -> Result<PathBuf, String> {
    let info = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| format!("cannot read /proc/self/mountinfo: {e}"))?;
    info.lines()
        .find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4).map(PathBuf::from))?
        })
        .ok_or_else(|| {
            "no cgroup v2 hierarchy is mounted; mount one (mount -t cgroup2 none /sys/fs/cgroup) or boot with \
             systemd.unified_cgroup_hierarchy=1"
                .into()
        })
}

fn programs() -> Result<(), String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/sbin", "/sbin"]);
    let found = dirs.clone().any(|d| Path::new(d).join("iptables-restore").exists());
    if found {
        return Ok(());
    }
    Err("iptables-restore is missing; install Debian's package iptables".into())
}

fn disk(layout: &Layout) -> Result<(), String> {
    let root = layout.root();
    fs::create_dir_all(root)
        .map_err(|e| format!("cannot make the data directory {}: {e}", root.display()))?;
    let stat = nix::sys::statvfs::statvfs(root)
        .map_err(|e| format!("cannot ask for the free space of {}: {e}", root.display()))?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    if free < DISK_BYTES_MIN {
        return Err(format!(
            "only {} MiB are free at {}, {} MiB are needed; make room or choose another --data-dir",
            free >> 20,
            root.display(),
            DISK_BYTES_MIN >> 20
        ));
    }
    Ok(())
}

fn port(port: u16) -> Result<(), String> {
    match TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => Err(format!(
            "port {port} is in use by another program; end it (ss -tlnp shows which) or choose another --api-port"
        )),
        Err(e) => Err(format!("cannot listen on port {port}: {e}")),
    }
}
