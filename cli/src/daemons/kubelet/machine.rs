//! What this machine is: read once at the start.

use pintle_kubelet::node::Machine;
use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

/// The host's name in lower case.
pub fn hostname() -> String {
    read("/proc/sys/kernel/hostname").to_lowercase()
}

/// The facts that the Node object shows. `pods`: a folder on the disk that pods are on.
pub fn facts(pods: &Path, runtime_gaps: Vec<String>) -> Machine {
    let disk = rustix::fs::statvfs(pods);
    Machine {
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        memory_bytes: memory_bytes(),
        disk_bytes: disk.map_or(0, |d| d.f_frsize * d.f_blocks),
        machine_id: read("/etc/machine-id"),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel: read("/proc/sys/kernel/osrelease"),
        os_image: os_image(),
        arch: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_string(),
        version: "v1.36.2+pintle".to_string(),
        runtime_gaps,
    }
}

fn memory_bytes() -> u64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn os_image() -> String {
    let text = read("/etc/os-release");
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux", |n| n.trim_matches('"')).to_string()
}
