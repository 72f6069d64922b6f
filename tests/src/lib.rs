//! What the end-to-end tests stand on: a laboratory (a network namespace and a folder) with a real cluster in it.
//!
//! Everything runs inside a network namespace that the laboratory makes, so the machine's own network is never
//! touched. When a laboratory ends, also by a panic, the cluster is taken down, and what it left behind (process,
//! mount, cgroup, namespace) is a failure of the test.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A network namespace, a data directory, and the cluster in them.
pub struct Lab {
    /// Name of the network namespace.
    pub netns: String,
    /// The cluster's data directory.
    pub dir: PathBuf,
    checked: bool,
}

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// Exit code; -1 when a signal killed it.
    pub code: i32,
}

impl From<Output> for Said {
    fn from(o: Output) -> Said {
        Said {
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
            code: o.status.code().unwrap_or(-1),
        }
    }
}

impl Said {
    /// Standard output of a program that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code, 0,
            "exit code {}\nstdout: {}\nstderr: {}",
            self.code, self.out, self.err
        );
        self.out
    }

    /// Standard error of a program that must have failed, with one clear line and no panic.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_ne!(
            self.code, 0,
            "it should have failed\nstdout: {}\nstderr: {}",
            self.out, self.err
        );
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self.err
    }
}

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
        .to_path_buf()
}

/// The binary under test: `PINTLE_BIN`, as `tests/run.sh` sets it, else the one built for development.
pub fn pintle_bin() -> PathBuf {
    let path = std::env::var_os("PINTLE_BIN")
        .map_or_else(|| root().join("target/debug/pintle"), PathBuf::from);
    assert!(path.exists(), "{} is missing: run the tests by `make test`", path.display());
    path
}

/// kubectl: `KUBECTL`, else the one in PATH.
pub fn kubectl_bin() -> String {
    std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into())
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// A new one; the cluster is not up yet.
    pub fn new(what: &str) -> Lab {
        assert!(nix::unistd::geteuid().is_root(), "end-to-end tests need root");
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("pt-{what}-{}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(&id);
        fs::create_dir_all(&dir).expect("data directory");
        let lab = Lab { netns: id.clone(), dir, checked: false };
        run(Command::new("ip").args(["netns", "add", &id])).ok();
        lab.sh("ip link set lo up").ok();
        lab
    }

    /// A laboratory with a running cluster: `pintle up ARGS`.
    pub fn up(what: &str, args: &[&str]) -> Lab {
        let lab = Lab::new(what);
        lab.pintle_up(args).ok();
        lab
    }

    /// `pintle up` in this laboratory.
    pub fn pintle_up(&self, args: &[&str]) -> Said {
        let mut all = vec!["up"];
        all.extend(args);
        self.pintle(&all)
    }

    /// A command inside the network namespace (not started yet).
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        // Not `ip netns exec`: that one mounts a new /sys, without the cgroups.
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.netns)).arg("--").arg(program);
        c.env("KUBECONFIG", self.dir.join("admin.kubeconfig")).env("HOME", &self.dir);
        c.stdin(Stdio::null());
        c
    }

    /// `pintle VERB --data-dir D ARGS`.
    pub fn pintle(&self, args: &[&str]) -> Said {
        let (verb, rest) = args.split_first().expect("a verb");
        // `image` has its verbs below it.
        let (more, rest) = if *verb == "image" { rest.split_at(1) } else { rest.split_at(0) };
        run(self
            .command(pintle_bin())
            .arg(verb)
            .args(more)
            .arg("--data-dir")
            .arg(&self.dir)
            .args(rest))
    }

    /// `kubectl ARGS` as the administrator.
    pub fn kubectl(&self, args: &[&str]) -> Said {
        run(self.command(kubectl_bin()).args(args))
    }

    /// `kubectl ARGS` with words split at spaces, for short ones.
    pub fn k(&self, line: &str) -> Said {
        self.kubectl(&line.split(' ').collect::<Vec<_>>())
    }

    /// An object as JSON.
    pub fn get(&self, line: &str) -> Value {
        let text = self.k(&format!("get {line} -o json")).ok();
        serde_json::from_str(&text).expect("JSON")
    }

    /// `kubectl apply` of a manifest given as text.
    pub fn apply(&self, manifest: &str) -> Said {
        let path = self.dir.join(format!("apply-{}.yaml", COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, manifest).expect("manifest");
        self.kubectl(&["apply", "-f", path.to_str().expect("path")])
    }

    /// A shell command inside the network namespace.
    pub fn sh(&self, line: &str) -> Said {
        run(self.command("sh").args(["-c", line]))
    }

    /// Imports the test image `busybox:1`.
    pub fn import_busybox(&self) {
        let rootfs = busybox();
        self.pintle(&["image", "import", rootfs.to_str().expect("path"), "--name", "busybox:1"])
            .ok();
    }

    /// Imports the demo's image `web:1`.
    pub fn import_web(&self) {
        let rootfs = root().join("target/images/web");
        run(Command::new(root().join("examples/web-image.sh")).arg(&rootfs)).ok();
        self.pintle(&["image", "import", rootfs.to_str().expect("path"), "--name", "web:1"]).ok();
    }

    /// The daemons as `pintle status -o json` shows them.
    pub fn daemons(&self) -> Vec<Value> {
        let v: Value =
            serde_json::from_str(&self.pintle(&["status", "-o", "json"]).ok()).expect("JSON");
        v["daemons"].as_array().cloned().expect("daemons")
    }

    /// The process of a daemon.
    pub fn pid(&self, name: &str) -> i32 {
        let all = self.daemons();
        let found =
            all.iter().find(|d| d["name"] == name).unwrap_or_else(|| panic!("no daemon {name}"));
        i32::try_from(found["pid"].as_i64().expect("pid")).expect("pid")
    }

    /// Takes the cluster down and checks that nothing of it is left.
    pub fn down(&mut self) {
        self.pintle(&["down"]).ok();
        let left = self.leftovers();
        assert!(left.is_empty(), "left behind after down:\n{}", left.join("\n"));
        self.checked = true;
    }

    /// Processes, mounts, cgroups, links and rules of this cluster that still exist.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mark = format!("PINTLE_DATA_DIR={}", self.dir.display());
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environ.split(|b| *b == 0).any(|v| v == mark.as_bytes()) {
                let cmd = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                left.push(format!(
                    "process {}: {}",
                    entry.path().display(),
                    String::from_utf8_lossy(&cmd)
                ));
            }
        }
        let dir = self.dir.display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        left.extend(mounts.lines().filter(|l| l.contains(&dir)).map(|l| format!("mount {l}")));
        if let Some(v2) =
            mounts.lines().find(|l| l.contains(" - cgroup2 ")).and_then(|l| l.split(' ').nth(4))
        {
            let own = Path::new(v2).join(cgroup_root(&dir));
            if own.exists() {
                left.push(format!("cgroup {}", own.display()));
            }
        }
        let links = self.sh("ip -o link show").out;
        left.extend(links.lines().filter(|l| !l.contains(" lo:")).map(|l| format!("link {l}")));
        let rules = self.sh("iptables-save 2>/dev/null; iptables-legacy-save 2>/dev/null; ip6tables-save 2>/dev/null").out;
        left.extend(
            rules
                .lines()
                .filter(|l| l.starts_with("-A") || l.contains("KUBE") || l.contains("PINTLE"))
                .map(|l| format!("rule {l}")),
        );
        left
    }
}

// How `pintle up` names the cgroup of a data directory: FNV-1a of the path, folded to 32 bits.
fn cgroup_root(dir: &str) -> String {
    let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
    let hash = dir.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    format!("pintle-{:08x}", (hash ^ (hash >> 32)) as u32)
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        let down = self.pintle(&["down", "--purge"]);
        let left = self.leftovers();
        run(Command::new("ip").args(["netns", "del", &self.netns]));
        let _ = fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            assert_eq!(down.code, 0, "down failed: {}", down.err);
            assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        }
    }
}

impl Lab {
    fn show_logs(&self) {
        eprintln!("{}", self.pintle(&["status"]).out);
        for entry in fs::read_dir(self.dir.join("log")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(30)..).unwrap_or_default();
            eprintln!("--- {}\n{}", entry.path().display(), tail.join("\n"));
        }
        eprintln!("{}", self.k("get events -A").out);
        eprintln!("{}", self.k("get pods -A -o wide").out);
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Said {
    match command.output() {
        Ok(o) => o.into(),
        Err(e) => panic!("cannot run {command:?}: {e}"),
    }
}

/// The smallest root filesystem: Debian's static busybox and links to it.
pub fn busybox() -> PathBuf {
    let dir = root().join("target/images/busybox");
    if dir.join(".complete").exists() {
        return dir;
    }
    let _ = fs::remove_dir_all(&dir);
    for d in ["bin", "etc", "tmp", "proc", "sys", "dev", "var/www"] {
        fs::create_dir_all(dir.join(d)).expect("rootfs");
    }
    fs::copy("/bin/busybox", dir.join("bin/busybox"))
        .expect("Debian's package busybox-static (make test installs it)");
    let list = run(Command::new("/bin/busybox").arg("--list")).ok();
    for tool in list.lines().filter(|t| *t != "busybox") {
        let _ = std::os::unix::fs::symlink("busybox", dir.join("bin").join(tool));
    }
    fs::write(
        dir.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )
    .expect("passwd");
    fs::write(dir.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").expect("group");
    fs::write(dir.join(".complete"), "").expect("mark");
    dir
}

/// Calls `attempt` until it gives something, each time after an interval; panics with `what` when `within` has passed.
/// For conditions that no watch covers (a TCP port of the world outside, a process of the host).
pub fn eventually<T>(what: &str, within: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(began.elapsed() < within, "waited {within:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A loop of requests against an address inside a laboratory, one every `interval_ms`, until it is stopped; counts what failed.
pub struct Load {
    child: Child,
    log: PathBuf,
}

impl Load {
    /// Starts it.
    pub fn start(lab: &Lab, url: &str, interval_ms: u32) -> Load {
        let log = lab.dir.join(format!("load-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let script = format!(
            "while :; do curl -s -o /dev/null --max-time 5 -w '%{{http_code}} %{{errormsg}}\\n' {url} >>{log}; sleep {s}; done",
            log = log.display(),
            s = f64::from(interval_ms) / 1000.0
        );
        let child = lab.command("sh").args(["-c", &script]).spawn().expect("load");
        Load { child, log }
    }

    /// Goes on until so many requests have been made, also after what was to be watched is over.
    pub fn wait_for(&self, requests: usize) {
        eventually(&format!("{requests} requests"), Duration::from_secs(60), || {
            let made = fs::read_to_string(&self.log).unwrap_or_default().lines().count();
            (made >= requests).then_some(())
        });
    }

    /// Ends it; gives (all, failures with their texts).
    pub fn stop(mut self) -> (usize, Vec<String>) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let failed =
            lines.iter().filter(|l| !l.starts_with("200")).map(|l| (*l).to_owned()).collect();
        (lines.len(), failed)
    }
}
