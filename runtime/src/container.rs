//! From a container's configuration to its way: pure. What is found on the host (image, users, kinds of mount sources)
//! comes in; steps for the new process come out.

use crate::caps;
use crate::image::ImageConfig;
use crate::program::{Process, Program, Step, Z};
use crate::sandbox::{ContainerConfig, Error, Mount, Namespace, Result, SandboxConfig};
use crate::sys::raw;
use crate::users::Identity;
use std::path::Path;

/// Where programs are looked for without a PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Open files: soft as programs that close all of them can bear, hard as databases want it (and the caller has).
const NOFILE: (u64, u64) = (65_536, 1_048_576);

/// Hidden from containers: what tells about or changes the host (the list of Docker and containerd).
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Readable only.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A device node of the host, for privileged containers.
#[derive(Clone, Debug)]
pub struct HostDevice {
    /// Absolute path below /dev.
    pub path: String,
    /// Type and permissions.
    pub mode: u32,
    /// Number.
    pub rdev: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What was found out before planning.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Sandbox.
    pub sandbox: &'a SandboxConfig,
    /// Image.
    pub image: &'a ImageConfig,
    /// User.
    pub identity: &'a Identity,
    /// Compiled filters.
    pub seccomp: Vec<Vec<u64>>,
    /// Of each bind mount in order: whether its source is a folder. `None` for tmpfs.
    pub source_is_dir: &'a [Option<bool>],
    /// Empty host folder to attach the root at.
    pub root_at: &'a Path,
    /// Nodes of the host, for privileged containers.
    pub devices: &'a [HostDevice],
    /// Hard limit of open files of the caller: what can be given.
    pub open_files_max: u64,
    /// Capabilities that the caller has.
    pub caps_available: u64,
    /// Slot of the root tree.
    pub root: usize,
    /// Slot of the devpts tree when the container has a terminal.
    pub devpts: Option<usize>,
    /// Slot of the sandbox's /dev/shm; `None` = the host's ipc and so the host's /dev/shm is not shared.
    pub shm: Option<usize>,
    /// Slot of the first bind mount; the others follow.
    pub first_mount: usize,
}

fn z(s: impl Into<String>) -> Result<Z> {
    let s = s.into();
    Z::new(s.clone()).ok_or_else(|| Error::Invalid(format!("{s:?} has a NUL byte in it")))
}

// Of constants, which have no NUL.
fn k(s: &str) -> Z {
    Z::new(s).unwrap_or_default()
}

/// An absolute path without `.`, `..` and doubled slashes. Links are resolved later, inside the root.
fn clean(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .ok_or_else(|| Error::Invalid(format!("path {} is not UTF-8", path.display())))?;
    if !text.starts_with('/') || text.len() >= 4096 {
        return Err(Error::Invalid(format!(
            "path {text:?} must be absolute, and below 4096 bytes"
        )));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            p => parts.push(p),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

fn dirs(path: &str, mode: u32) -> Result<Step> {
    let ends = path.match_indices('/').map(|(i, _)| i).skip(1).chain([path.len()]);
    let prefixes = ends.filter(|i| *i > 1).map(|i| z(&path[..i])).collect::<Result<Vec<_>>>()?;
    Ok(Step::Dirs { prefixes, mode })
}

fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(pair) => pair,
        None => ("/", path),
    }
}

fn mount(fs: &str, options: &[(&str, &str)], attrs: u64, at: &str) -> Step {
    Step::Mount {
        fs: k(fs),
        options: options.iter().map(|(a, b)| (k(a), k(b))).collect(),
        attrs: attrs as u32,
        at: k(at),
    }
}

/// The whole way.
pub fn program(config: &ContainerConfig, facts: &Facts<'_>) -> Result<Program> {
    let mut steps = Vec::with_capacity(64);
    if let Some(adj) = config.resources.oom_score_adj {
        steps.push(Step::WriteHost { path: k("/proc/self/oom_score_adj"), data: adj.to_string() });
    }
    steps.push(Step::Detach);
    let at = facts
        .root_at
        .to_str()
        .ok_or_else(|| Error::Invalid("the runtime's folder is not UTF-8".into()))?;
    steps.push(Step::Root { tree: facts.root, at: z(at)? });
    kernel_filesystems(config, facts, &mut steps)?;
    devices(config, facts, &mut steps)?;
    volumes(config, facts, &mut steps)?;
    if !config.privileged && !config.unmasked_proc {
        steps.extend(MASKED.iter().map(|p| Step::Mask { at: k(p) }));
        steps.extend(READ_ONLY.iter().map(|p| Step::ReadOnly { at: k(p) }));
    }
    let wanted = [config.working_dir.as_str(), facts.image.working_dir.as_str(), "/"];
    let cwd = wanted.into_iter().find(|d| !d.is_empty()).unwrap_or("/");
    let cwd = clean(Path::new(cwd))?;
    steps.push(dirs(&cwd, 0o755)?);
    if config.read_only_root {
        steps.push(Step::ReadOnlyRoot);
    }
    steps.push(Step::Pivot);
    let mut new_namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
    if facts.sandbox.pid == Namespace::New {
        new_namespaces |= libc::CLONE_NEWPID;
    }
    let process = process(config, facts, &cwd)?;
    Ok(Program { new_namespaces, steps, process })
}

fn kernel_filesystems(
    config: &ContainerConfig,
    facts: &Facts<'_>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let strict = raw::ATTR_NOSUID | raw::ATTR_NODEV | raw::ATTR_NOEXEC;
    let sys = if config.privileged { strict } else { strict | raw::ATTR_RDONLY };
    for at in ["/proc", "/sys", "/dev"] {
        steps.push(dirs(at, 0o755)?);
    }
    steps.push(mount("proc", &[], strict, "/proc"));
    steps.push(mount("sysfs", &[], sys, "/sys"));
    steps.push(mount("cgroup2", &[], sys, "/sys/fs/cgroup"));
    let options = [("mode", "755"), ("size", "65536k")];
    steps.push(mount("tmpfs", &options, raw::ATTR_NOSUID | raw::ATTR_NOEXEC, "/dev"));
    for at in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        steps.push(dirs(at, 0o755)?);
    }
    match facts.devpts {
        Some(tree) => steps.push(Step::Tree { tree, at: k("/dev/pts") }),
        None => {
            let options =
                [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
            steps.push(mount("devpts", &options, raw::ATTR_NOSUID | raw::ATTR_NOEXEC, "/dev/pts"));
        }
    }
    match facts.shm {
        Some(tree) => steps.push(Step::Tree { tree, at: k("/dev/shm") }),
        None => {
            let options = [("mode", "1777"), ("size", "65536k")];
            steps.push(mount("tmpfs", &options, strict, "/dev/shm"));
        }
    }
    steps.push(mount("mqueue", &[], strict, "/dev/mqueue"));
    Ok(())
}

fn devices(config: &ContainerConfig, facts: &Facts<'_>, steps: &mut Vec<Step>) -> Result<()> {
    let standard = [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ];
    for (name, major, minor) in standard {
        steps.push(Step::Node {
            parent: k("/dev"),
            name: k(name),
            mode: libc::S_IFCHR | 0o666,
            rdev: libc::makedev(major, minor),
            uid: 0,
            gid: 0,
        });
    }
    if config.privileged {
        for d in facts.devices {
            let (parent, name) = split(&d.path);
            if parent == "/dev" && standard.iter().any(|(n, _, _)| *n == name) {
                continue;
            }
            steps.push(dirs(parent, 0o755)?);
            steps.push(Step::Node {
                parent: z(parent)?,
                name: z(name)?,
                mode: d.mode,
                rdev: d.rdev,
                uid: d.uid,
                gid: d.gid,
            });
        }
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ] {
        steps.push(Step::Link { target: k(target), parent: k("/dev"), name: k(name) });
    }
    if facts.devpts.is_some() {
        // The terminal is the first one of its own devpts.
        steps.push(Step::File { parent: k("/dev"), name: k("console") });
        steps.push(Step::Bind { from: k("/dev/pts/0"), at: k("/dev/console") });
    }
    Ok(())
}

fn volumes(config: &ContainerConfig, facts: &Facts<'_>, steps: &mut Vec<Step>) -> Result<()> {
    let mut slot = facts.first_mount;
    for (m, is_dir) in config.mounts.iter().zip(facts.source_is_dir) {
        let at = clean(&m.destination)?;
        if at == "/" {
            return Err(Error::Invalid("a mount's destination cannot be the root folder".into()));
        }
        match is_dir {
            Some(is_dir) => {
                mount_point(&at, *is_dir, steps)?;
                steps.push(Step::Tree { tree: slot, at: z(at)? });
                slot += 1;
            }
            None => {
                mount_point(&at, true, steps)?;
                steps.push(tmpfs(m, at)?);
            }
        }
    }
    Ok(())
}

fn tmpfs(m: &Mount, at: String) -> Result<Step> {
    let mut options = vec![(k("mode"), k("1777"))];
    let bytes = m.tmpfs_bytes.unwrap_or(0);
    if bytes > 0 {
        options.push((k("size"), z(bytes.to_string())?));
    }
    let mut attrs = raw::ATTR_NOSUID | raw::ATTR_NODEV;
    if m.read_only {
        attrs |= raw::ATTR_RDONLY;
    }
    Ok(Step::Mount { fs: k("tmpfs"), options, attrs: attrs as u32, at: z(at)? })
}

fn mount_point(at: &str, is_dir: bool, steps: &mut Vec<Step>) -> Result<()> {
    if is_dir {
        steps.push(dirs(at, 0o755)?);
        return Ok(());
    }
    let (parent, name) = split(at);
    if parent != "/" {
        steps.push(dirs(parent, 0o755)?);
    }
    steps.push(Step::File { parent: z(parent)?, name: z(name)? });
    Ok(())
}

// Later values of a key replace earlier ones.
fn environment<'a>(lists: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for entry in lists {
        let key = entry.split('=').next().unwrap_or_default();
        let same = |e: &String| e.split('=').next() == Some(key);
        match out.iter_mut().find(|e| same(e)) {
            Some(e) => *e = entry.to_owned(),
            None => out.push(entry.to_owned()),
        }
    }
    out
}

fn value<'a>(env: &'a [String], key: &str) -> Option<&'a str> {
    env.iter().find_map(|e| e.strip_prefix(key)?.strip_prefix('='))
}

/// Files to try for a command, as a shell would: by PATH unless there is a slash in it.
pub fn candidates(command: &str, path: &str, cwd: &str) -> Vec<String> {
    if command.contains('/') {
        return vec![command.to_owned()];
    }
    path.split(':')
        .map(|dir| if dir.is_empty() { cwd } else { dir })
        .map(|dir| format!("{}/{command}", dir.trim_end_matches('/')))
        .collect()
}

fn process(config: &ContainerConfig, facts: &Facts<'_>, cwd: &str) -> Result<Process> {
    let image = facts.image;
    let argv: Vec<&String> = if config.command.is_empty() {
        let args = if config.args.is_empty() { &image.cmd } else { &config.args };
        image.entrypoint.iter().chain(args).collect()
    } else {
        config.command.iter().chain(&config.args).collect()
    };
    let Some(first) = argv.first() else {
        return Err(Error::Invalid(format!(
            "container {}: no command: neither the configuration nor image {} has one",
            config.id, config.image
        )));
    };
    let host = format!("HOSTNAME={}", facts.sandbox.hostname);
    let home = format!("HOME={}", facts.identity.home);
    let path = format!("PATH={DEFAULT_PATH}");
    let defaults = [path.as_str(), host.as_str(), home.as_str()];
    let term = config.tty.then_some("TERM=xterm");
    let env = environment(
        defaults
            .into_iter()
            .chain(term)
            .chain(image.env.iter().map(String::as_str))
            .chain(config.env.iter().map(String::as_str)),
    );
    let files = candidates(first, value(&env, "PATH").unwrap_or(DEFAULT_PATH), cwd);
    let open_files = facts.open_files_max;
    let all_z = |list: Vec<String>| list.into_iter().map(z).collect::<Result<Vec<_>>>();
    Ok(Process {
        argv: argv.into_iter().map(|a| z(a.clone())).collect::<Result<_>>()?,
        files: all_z(files)?,
        env: all_z(env)?,
        cwd: z(cwd)?,
        uid: facts.identity.uid,
        gid: facts.identity.gid,
        groups: facts.identity.groups.clone(),
        caps: caps::of(config.privileged, &config.cap_add, &config.cap_drop)?
            & facts.caps_available,
        no_new_privs: !config.allow_privilege_escalation && !config.privileged,
        seccomp: facts.seccomp.clone(),
        umask: 0o022,
        rlimits: vec![(libc::RLIMIT_NOFILE, NOFILE.0.min(open_files), NOFILE.1.min(open_files))],
        tty: config.tty,
    })
}

/// The way of an exec: into the container's namespaces, then as the container's own process with another command.
pub fn exec_program(own: &Process, command: &[String], tty: bool) -> Result<Program> {
    let Some(first) = command.first() else {
        return Err(Error::Invalid("exec: no command".into()));
    };
    let mut process = own.clone();
    let path = own.env.iter().find_map(|e| e.text().strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let files = candidates(first, path, own.cwd.text());
    process.files = files.into_iter().map(z).collect::<Result<_>>()?;
    process.argv = command.iter().map(|c| z(c.clone())).collect::<Result<_>>()?;
    process.tty = tty;
    if tty && !own.env.iter().any(|e| e.text().starts_with("TERM=")) {
        process.env.push(k("TERM=xterm"));
    }
    let kinds = libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
    Ok(Program { new_namespaces: 0, steps: vec![Step::Join { fd: 0, kinds }], process })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (from, to) in [("/", "/"), ("/a//b/", "/a/b"), ("/a/../../b/.", "/b"), ("/..", "/")] {
            assert_eq!(clean(Path::new(from)).expect("absolute"), to);
        }
        assert!(clean(Path::new("a")).is_err());
        let Step::Dirs { prefixes, .. } = dirs("/a/b/c", 0).expect("dirs") else { panic!() };
        let texts: Vec<_> = prefixes.iter().map(Z::text).collect();
        assert_eq!(texts, ["/a", "/a/b", "/a/b/c"]);
        let Step::Dirs { prefixes, .. } = dirs("/", 0).expect("dirs") else { panic!() };
        assert!(prefixes.is_empty());
    }

    #[test]
    fn environment_and_commands() {
        assert_eq!(environment(["A=1", "B=2", "A=3"].into_iter()), ["A=3", "B=2"]);
        assert_eq!(candidates("sh", "/bin::/usr/bin/", "/w"), ["/bin/sh", "/w/sh", "/usr/bin/sh"]);
        assert_eq!(candidates("./sh", "/bin", "/w"), ["./sh"]);
    }
}
