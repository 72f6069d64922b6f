//! A runtime in a folder of its own, an image of busybox, and the proof that nothing is left.

use pintle_runtime::image;
use pintle_runtime::sandbox::*;
use rustix::event::{PollFd, PollFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Stops with a hint when the machine cannot run these tests.
pub fn require() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("these tests make namespaces and mounts: run them as root");
        std::process::exit(1);
    }
    if !Path::new("/bin/busybox").exists() {
        eprintln!("/bin/busybox is missing: run `make deps` (Debian package busybox-static)");
        std::process::exit(1);
    }
}

/// One test's world.
pub struct Host {
    pub dir: PathBuf,
    pub runtime: Runtime,
    mounts: BTreeSet<String>,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

fn mounts() -> BTreeSet<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let points = text.lines().map(|l| l.split(' ').nth(4).expect("mount point").to_owned());
    // The host's come and go here as well.
    points.filter(|p| p.contains("pt-rt-")).collect()
}

impl Host {
    pub fn new() -> Host {
        let n = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("pt-rt-{}-{n}", std::process::id());
        // Not under /tmp when that is an overlay or tmpfs: overlay's upper needs a filesystem that can hold one.
        let dir = Path::new("/var/tmp").join(&name);
        std::fs::create_dir_all(&dir).expect("make the test's folder");
        let rootfs = dir.join("rootfs");
        for d in ["bin", "etc", "tmp", "root"] {
            std::fs::create_dir_all(rootfs.join(d)).expect("make rootfs");
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("copy busybox");
        for applet in [
            "sh", "true", "false", "echo", "cat", "sleep", "ls", "id", "mount", "tty", "stty",
            "ps", "nc", "touch", "dd", "mknod", "stat", "hostname", "env", "unshare", "head",
            "test", "kill", "wc", "grep", "pwd", "mkdir", "ln", "seq",
        ] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).expect("link");
        }
        std::fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n",
        )
        .expect("passwd");
        std::fs::write(rootfs.join("etc/group"), "root:x:0:\nweb:x:34:\nlogs:x:50:web\n")
            .expect("group");
        let images = dir.join("images");
        image::import(&images, &rootfs, Some("box:1"), &mut |_| {}).expect("import");
        Host::again(dir)
    }

    /// Over a folder that [`Host::new`] has made.
    pub fn again(dir: PathBuf) -> Host {
        let before = mounts();
        let name = dir.file_name().expect("a name").to_str().expect("utf-8").to_owned();
        let runtime = Runtime::open(RuntimeConfig {
            root: dir.join("runtime"),
            images: dir.join("images"),
            shim_binary: std::env::current_exe().expect("own path"),
            cgroup_parent: name,
        })
        .expect("open the runtime");
        Host { dir, runtime, mounts: before }
    }

    pub fn sandbox(&self, id: &str) -> SandboxConfig {
        SandboxConfig {
            id: id.into(),
            hostname: "box".into(),
            net: Namespace::New,
            ipc: Namespace::New,
            pid: Namespace::New,
            share_pid: false,
            cgroup: format!("burstable/pod{id}"),
            resources: Resources::default(),
            sysctls: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    pub fn container(&self, id: &str, command: &[&str]) -> ContainerConfig {
        ContainerConfig {
            id: id.into(),
            image: "box:1".into(),
            command: command.iter().map(|s| (*s).to_owned()).collect(),
            args: Vec::new(),
            env: Vec::new(),
            working_dir: String::new(),
            user: User::default(),
            mounts: Vec::new(),
            resources: Resources::default(),
            privileged: false,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            allow_privilege_escalation: false,
            read_only_root: false,
            seccomp: Seccomp::RuntimeDefault,
            unmasked_proc: false,
            stdin: false,
            stdin_once: false,
            tty: false,
            log_path: self.dir.join("logs").join(format!("{id}.log")),
            log_bytes_max: 0,
            log_files_max: 5,
            termination_message_path: String::new(),
            labels: BTreeMap::new(),
        }
    }

    pub fn cgroup(&self) -> PathBuf {
        let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let line = text.lines().find(|l| l.contains(" - cgroup2 ")).expect("cgroup2 is mounted");
        Path::new(line.split(' ').nth(4).expect("mount point"))
            .join(&self.runtime.config.cgroup_parent)
    }

    /// Runs a shell script to its end: (exit code, log without stamps).
    pub fn sh(&self, sandbox: &str, script: &str) -> (i32, String) {
        let n = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.run(sandbox, &self.container(&format!("c{n}"), &["sh", "-c", script]))
    }

    /// Runs a container to its end and removes it.
    pub fn run(&self, sandbox: &str, config: &ContainerConfig) -> (i32, String) {
        let mut events = Events::new(&self.runtime, sandbox);
        self.runtime.create_container(sandbox, config).expect("create");
        self.runtime.start_container(sandbox, &config.id).expect("start");
        let code = events.exit_of(&config.id);
        self.runtime.remove_container(sandbox, &config.id, false).expect("remove");
        (code, self.log(config))
    }

    /// The log's lines without time and stream; partial lines joined.
    pub fn log(&self, config: &ContainerConfig) -> String {
        let text = std::fs::read_to_string(&config.log_path).expect("log");
        text.lines()
            .map(|l| {
                let mut parts = l.splitn(4, ' ').skip(2);
                let full = parts.next() == Some("F");
                format!("{}{}", parts.next().unwrap_or(""), if full { "\n" } else { "" })
            })
            .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let ids: Vec<String> = std::fs::read_dir(&self.runtime.config.root)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|n| !n.starts_with('.'))
            .collect();
        let removed: Vec<_> = ids.iter().map(|id| self.runtime.remove_sandbox(id)).collect();
        let group = self.cgroup();
        let left: Vec<_> = std::fs::read_dir(&group)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.path().is_dir())
            .map(|e| e.path())
            .collect();
        let _ = std::fs::remove_dir(&group);
        let new: Vec<_> = mounts().difference(&self.mounts).cloned().collect();
        let _ = std::fs::remove_dir_all(&self.dir);
        if std::thread::panicking() {
            return;
        }
        for r in removed {
            r.expect("remove the sandbox");
        }
        assert_eq!(left, Vec::<PathBuf>::new(), "cgroups are left");
        assert_eq!(new, Vec::<String>::new(), "mounts are left");
        assert!(!self.dir.exists(), "files are left");
    }
}

/// The shim's events, waited for.
pub struct Events {
    fd: OwnedFd,
    reader: EventReader,
    seen: Vec<ShimEvent>,
}

impl Events {
    pub fn new(runtime: &Runtime, sandbox: &str) -> Events {
        Events {
            fd: runtime.events(sandbox).expect("events"),
            reader: EventReader::default(),
            seen: Vec::new(),
        }
    }

    /// The next event; `None` when the shim hung up. Fails after 20 s.
    pub fn next(&mut self) -> Option<ShimEvent> {
        loop {
            if !self.seen.is_empty() {
                return Some(self.seen.remove(0));
            }
            wait_readable(&self.fd);
            let mut buffer = [0u8; 4096];
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) => return None,
                Ok(n) => self.seen = self.reader.push(&buffer[..n]).expect("events"),
                Err(rustix::io::Errno::AGAIN) => {}
                Err(rustix::io::Errno::CONNRESET) => return None,
                Err(e) => panic!("events: {e}"),
            }
        }
    }

    pub fn exited(&mut self, id: &str) -> ContainerState {
        loop {
            match self.next().expect("the shim lives") {
                ShimEvent::Exited(s) if s.id == id => return s,
                _ => {}
            }
        }
    }

    pub fn exit_of(&mut self, id: &str) -> i32 {
        match self.exited(id).status {
            ContainerStatus::Exited { code, .. } => code,
            other => panic!("{other:?}"),
        }
    }

    pub fn exec_exit(&mut self, number: u64) -> i32 {
        loop {
            match self.next().expect("the shim lives") {
                ShimEvent::ExecExited { exec, code } if exec == number => return code,
                _ => {}
            }
        }
    }
}

/// Waits until something can be read, 20 s at most.
pub fn wait_readable(fd: &OwnedFd) {
    let timeout = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    let n = rustix::event::poll(&mut fds, Some(&timeout)).expect("poll");
    assert!(n > 0, "nothing happened within 20 s");
}

/// Reads to the end of a non-blocking descriptor.
pub fn read_all(fd: &OwnedFd) -> String {
    let mut out = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) | Err(rustix::io::Errno::IO) => {
                return String::from_utf8_lossy(&out).into_owned();
            }
            Ok(n) => out.extend_from_slice(&buffer[..n]),
            Err(rustix::io::Errno::AGAIN) => wait_readable(fd),
            Err(e) => panic!("read: {e}"),
        }
    }
}
