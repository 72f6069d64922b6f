//! cgroup v2: where it is mounted, groups, limits, kill, use. Knows no container.
//!
//! On a pure v2 host controllers are enabled down the tree to the parent of each group (the parent that the caller gives must
//! be delegated to it and hold no processes of its own). On a hybrid host groups are made, killed and counted all the same;
//! limits whose controller lives on a v1 hierarchy cannot be set and are named by [`Tree::conditions`].

use crate::limits;
use crate::sandbox::{Error, Resources, Result, Stats};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Controllers that limits need, in the order in which conditions name them.
const WANTED: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];

/// The v2 hierarchy of this host.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Controllers at its root.
    pub controllers: Vec<String>,
}

/// Finds the first cgroup2 mount point in the text of /proc/self/mountinfo.
fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (right.split(' ').next()? == "cgroup2").then_some(())?;
        Some(PathBuf::from(unescape(left.split(' ').nth(4)?)))
    })
}

// mountinfo writes space, tab, newline and backslash as \ooo.
fn unescape(s: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(s.len()), s);
    while let Some(i) = rest.find('\\') {
        out.push_str(&rest[..i]);
        let code = rest.get(i + 1..i + 4).and_then(|o| u8::from_str_radix(o, 8).ok());
        match code {
            Some(c) => {
                out.push(char::from(c));
                rest = &rest[i + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[i + 1..];
            }
        }
    }
    out + rest
}

impl Tree {
    /// Reads this process's mount table.
    pub fn find() -> Result<Tree> {
        let text = std::fs::read_to_string("/proc/self/mountinfo")
            .map_err(|e| Error::Io(format!("read /proc/self/mountinfo: {e}"), e))?;
        let mount = find_mount(&text).ok_or_else(|| {
            Error::Unsupported(
                "no cgroup2 filesystem is mounted: mount one at /sys/fs/cgroup and start again"
                    .into(),
            )
        })?;
        let controllers = std::fs::read_to_string(mount.join("cgroup.controllers"))
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        Ok(Tree { mount, controllers })
    }

    /// What cannot be enforced, a line each.
    pub fn conditions(&self) -> Vec<String> {
        WANTED
            .iter()
            .filter(|c| !self.controllers.iter().any(|have| have == *c))
            .map(|c| {
                format!(
                    "{c} limits are not enforced: controller {c} is not on the cgroup v2 hierarchy at {} \
                     (boot with systemd.unified_cgroup_hierarchy=1)",
                    self.mount.display()
                )
            })
            .collect()
    }

    /// Absolute folder of a group given relative to the mount. Refuses `..`.
    pub fn path(&self, relative: &str) -> Result<PathBuf> {
        if relative.split('/').any(|part| part == ".." || part == ".") {
            return Err(Error::Invalid(format!("cgroup {relative:?} has a . or .. in it")));
        }
        Ok(self.mount.join(relative.trim_start_matches('/')))
    }

    /// Makes a group with all that is missing above it, and enables what controllers there are for it.
    pub fn make(&self, group: &Path) -> Result<()> {
        let below = group.strip_prefix(&self.mount).map_err(|_| {
            Error::Invalid(format!(
                "cgroup {} is not below {}",
                group.display(),
                self.mount.display()
            ))
        })?;
        let mut at = self.mount.clone();
        for part in below.components() {
            self.enable(&at)?;
            at.push(part);
            match std::fs::create_dir(&at) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::Io(format!("make cgroup {}: {e}", at.display()), e)),
            }
        }
        Ok(())
    }

    // Each controller by itself: one that cannot be enabled must not keep the others away.
    fn enable(&self, group: &Path) -> Result<()> {
        let wanted: Vec<_> =
            WANTED.iter().filter(|c| self.controllers.iter().any(|have| have == *c)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let file = group.join("cgroup.subtree_control");
        let on = std::fs::read_to_string(&file).unwrap_or_default();
        for c in wanted {
            if on.split_whitespace().any(|have| have == *c) {
                continue;
            }
            match std::fs::write(&file, format!("+{c}")) {
                Ok(()) => {}
                // Not delegated here: setting a limit will say so, and only if one is asked for.
                Err(e) if e.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
                Err(e) if e.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                    return Err(Error::Io(
                        format!(
                            "enable controller {c} in cgroup {}: it holds processes of its own; \
                             give a parent cgroup without any",
                            group.display()
                        ),
                        e,
                    ));
                }
                Err(e) => {
                    return Err(Error::Io(
                        format!("enable controller {c} in cgroup {}: {e}", group.display()),
                        e,
                    ));
                }
            }
        }
        Ok(())
    }

    /// Files to write for these limits, leaving out those whose controller is not on this hierarchy.
    pub fn limits(&self, r: &Resources) -> Vec<(&'static str, String)> {
        limit_files(r)
            .into_iter()
            .filter(|(file, _)| {
                let controller = file.split('.').next().unwrap_or_default();
                self.controllers.iter().any(|c| c == controller)
            })
            .collect()
    }
}

/// Files and values that these limits mean.
fn limit_files(r: &Resources) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    let mut put = |file, value: Option<u64>| {
        if let Some(v) = value {
            out.push((file, v.to_string()));
        }
    };
    put("cpu.weight", r.cpu_weight.map(|w| w.clamp(1, 10_000)));
    put("memory.min", r.memory_min);
    put("memory.max", r.memory_max);
    put("memory.swap.max", r.swap_max);
    put("pids.max", r.pids_max);
    put("memory.oom.group", r.oom_group.map(u64::from));
    if let Some(quota) = r.cpu_quota_us {
        // The kernel takes nothing below 1 ms.
        let period = r.cpu_period_us.unwrap_or(100_000).clamp(1_000, 1_000_000);
        out.push(("cpu.max", format!("{} {period}", quota.max(1_000))));
    }
    out
}

/// Writes limits as [`Tree::limits`] gave them.
pub fn set(group: &Path, files: &[(&'static str, String)]) -> Result<()> {
    for (file, value) in files {
        match std::fs::write(group.join(file), value) {
            Ok(()) => {}
            // Without swap accounting the file is not there, and nothing can be swapped against the limit.
            Err(e) if *file == "memory.swap.max" && e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                return Err(Error::Io(
                    format!("set {file} of cgroup {} to {value}: {e}", group.display()),
                    e,
                ));
            }
        }
    }
    Ok(())
}

/// A group as a descriptor, for clone3 and for files relative to it.
pub fn open(group: &Path) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(group, flags, Mode::empty())
        .map_err(|e| Error::Io(format!("open cgroup {}: {e}", group.display()), e.into()))
}

/// SIGKILL to every process of the group and of those below it, at once (cgroup.kill). No error when it is gone.
pub fn kill(group: &Path) -> Result<()> {
    match std::fs::write(group.join("cgroup.kill"), "1") {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(()),
        Err(e) => Err(Error::Io(format!("kill cgroup {}: {e}", group.display()), e)),
    }
}

fn populated(events: &str) -> bool {
    events.lines().any(|l| l == "populated 1")
}

/// Waits until no process is left in the group; an event of the kernel wakes it.
pub fn wait_empty(group: &Path) -> Result<()> {
    let path = group.join("cgroup.events");
    let deadline = crate::sys::mono_ns() + limits::KILL_TIMEOUT_MS * 1_000_000;
    let io = |e: Errno| Error::Io(format!("watch {}: {e}", path.display()), e.into());
    let file = match rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(f) => f,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(io(e)),
    };
    loop {
        let mut text = [0u8; 256];
        let n = match rustix::io::pread(&file, &mut text, 0) {
            Ok(n) => n,
            Err(Errno::NODEV) => return Ok(()),
            Err(e) => return Err(io(e)),
        };
        if !populated(&String::from_utf8_lossy(&text[..n])) {
            return Ok(());
        }
        let left = deadline.saturating_sub(crate::sys::mono_ns());
        if left == 0 {
            return Err(Error::Io(
                format!(
                    "cgroup {} still holds processes {} ms after they were killed",
                    group.display(),
                    limits::KILL_TIMEOUT_MS
                ),
                Errno::TIMEDOUT.into(),
            ));
        }
        let timeout = rustix::event::Timespec {
            tv_sec: (left / 1_000_000_000) as i64,
            tv_nsec: (left % 1_000_000_000) as i64,
        };
        let mut fds = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(io(e)),
        }
    }
}

/// Removes an empty group and those below it. No error when it is gone.
pub fn remove(group: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(group) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove(&entry.path())?;
        }
    }
    for last in [false, true] {
        match std::fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(Errno::BUSY.raw_os_error()) && !last => {
                wait_empty(group)?;
            }
            Err(e) => {
                return Err(Error::Io(format!("remove cgroup {}: {e}", group.display()), e));
            }
        }
    }
    Ok(())
}

/// Removes a group's empty ancestors up to, not including, `stop`. Stops at the first that is in use.
pub fn remove_empty_parents(group: &Path, stop: &Path) {
    for parent in group.ancestors().skip(1).take_while(|p| p.starts_with(stop) && *p != stop) {
        if std::fs::remove_dir(parent).is_err() {
            return;
        }
    }
}

/// Kills, waits, removes.
pub fn destroy(group: &Path) -> Result<()> {
    kill(group)?;
    wait_empty(group)?;
    remove(group)
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Processes that the kernel killed for memory in this group, as far as it counts them.
pub fn oom_kills(group: &Path) -> u64 {
    let text = std::fs::read_to_string(group.join("memory.events")).unwrap_or_default();
    field(&text, "oom_kill").unwrap_or(0)
}

fn processes(group: &Path, out: &mut Vec<u32>) {
    let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    out.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()));
    let Ok(entries) = std::fs::read_dir(group) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            processes(&entry.path(), out);
        }
    }
}

/// Process ids in a group and in those below it.
pub fn pids(group: &Path) -> Vec<u32> {
    let mut out = Vec::new();
    processes(group, &mut out);
    out
}

/// Use of a group. Without the memory controller (hybrid host) memory is the proportional set size of its processes.
pub fn stats(group: &Path) -> Result<Stats> {
    let read = |file: &str| std::fs::read_to_string(group.join(file));
    let cpu = read("cpu.stat")
        .map_err(|e| Error::Io(format!("read cpu.stat of cgroup {}: {e}", group.display()), e))?;
    let number = |file: &str| read(file).ok().and_then(|t| t.trim().parse::<u64>().ok());
    let mut s = Stats { cpu_usage_us: field(&cpu, "usage_usec").unwrap_or(0), ..Stats::default() };
    let pids = if number("memory.current").is_none() || number("pids.current").is_none() {
        pids(group)
    } else {
        Vec::new()
    };
    s.pids = number("pids.current").unwrap_or(pids.len() as u64);
    match number("memory.current") {
        Some(now) => {
            let stat = read("memory.stat").unwrap_or_default();
            s.memory_bytes = now;
            s.memory_working_set_bytes =
                now.saturating_sub(field(&stat, "inactive_file").unwrap_or(0));
        }
        None => {
            s.memory_bytes = pids.iter().map(|p| pss_bytes(*p)).sum();
            s.memory_working_set_bytes = s.memory_bytes;
        }
    }
    Ok(s)
}

fn pss_bytes(pid: u32) -> u64 {
    let mut path = String::new();
    let _ = write!(path, "/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|l| {
            l.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        })
        .unwrap_or(0)
        * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_is_found_on_hybrid_and_pure_hosts() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(hybrid), Some("/sys/fs/cgroup/uni fied".into()));
        let pure =
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(find_mount(pure), Some("/sys/fs/cgroup".into()));
        assert_eq!(find_mount("22 27 0:21 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn limits_without_their_controller_are_left_out_and_told() {
        let r = Resources {
            cpu_quota_us: Some(50_000),
            memory_max: Some(1 << 20),
            pids_max: Some(7),
            ..Resources::default()
        };
        let tree = |c: &[&str]| Tree {
            mount: "/m".into(),
            controllers: c.iter().map(|s| (*s).to_owned()).collect(),
        };
        assert_eq!(tree(&["pids"]).limits(&r), [("pids.max", "7".to_owned())]);
        let all = tree(&["cpu", "memory", "pids", "io", "cpuset"]);
        assert_eq!(all.limits(&r).len(), 3);
        assert!(all.limits(&r).contains(&("cpu.max", "50000 100000".to_owned())));
        assert!(all.conditions().is_empty());
        assert_eq!(tree(&["hugetlb"]).conditions().len(), 5);
        assert!(tree(&[]).path("a/../b").is_err());
    }
}
