//! Sandboxes (a set of namespaces and a cgroup with one shim) and the containers in them.
//!
//! All state is on disk under [`Runtime::root`], so that a caller that was killed finds everything again.
//! Calls block for milliseconds at most, except where said; all are safe to repeat after a crash.
//! This file is the contract; the work is in `ops/` (caller's side) and `shim/`.

use crate::{cgroup, ops, proto, trash};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Where the runtime keeps its things and what it may use.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// State of sandboxes and containers (`/var/lib/pintle/nodes/NAME/runtime`).
    pub root: PathBuf,
    /// Image store (`/var/lib/pintle/images`), may be shared by several runtimes.
    pub images: PathBuf,
    /// The binary that is the shim, called as `BINARY shim ...`; normally /proc/self/exe.
    pub shim_binary: PathBuf,
    /// cgroup v2 directory under which sandboxes get their groups, relative to the v2 mount.
    pub cgroup_parent: String,
}

/// What one namespace of a sandbox is to be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Namespace {
    /// A new one, pinned by file.
    New,
    /// The caller's.
    Host,
}

/// A sandbox to make.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct SandboxConfig {
    /// Unique; letters, digits, `-`, `_`, `.`; at most 64 characters.
    pub id: String,
    /// Host name inside (new uts namespace) .
    pub hostname: String,
    /// Network namespace. `New` comes with loopback up and nothing else; join it by [`SandboxState::netns`].
    pub net: Namespace,
    /// IPC namespace, shared by all containers.
    pub ipc: Namespace,
    /// `Host`: containers see the host's processes. `New` with `share_pid`: one for all; else one each.
    pub pid: Namespace,
    /// One pid namespace for the whole sandbox.
    pub share_pid: bool,
    /// cgroup of the sandbox below `cgroup_parent`, e.g. `burstable/pod<uid>`.
    pub cgroup: String,
    /// Limits of the sandbox as a whole.
    pub resources: Resources,
    /// `net.ipv4.*`, `kernel.shm*`, ... set inside.
    pub sysctls: BTreeMap<String, String>,
    /// Kept and given back, not interpreted.
    pub labels: BTreeMap<String, String>,
}

/// cgroup v2 limits; `None` = not set.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    /// `cpu.weight`, 1..=10000.
    pub cpu_weight: Option<u64>,
    /// `cpu.max` quota in microseconds per `cpu_period_us`.
    pub cpu_quota_us: Option<u64>,
    /// Period of `cpu.max`; 100000 if not given.
    pub cpu_period_us: Option<u64>,
    /// `memory.max` in bytes.
    pub memory_max: Option<u64>,
    /// `memory.min` in bytes.
    pub memory_min: Option<u64>,
    /// `memory.swap.max` in bytes.
    pub swap_max: Option<u64>,
    /// `pids.max`.
    pub pids_max: Option<u64>,
    /// `memory.oom.group`.
    pub oom_group: Option<bool>,
    /// `oom_score_adj` of the processes.
    pub oom_score_adj: Option<i32>,
}

/// One bind or tmpfs mount of a container.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// Path on the host; empty for tmpfs.
    pub source: PathBuf,
    /// Absolute path in the container; resolved inside its root, whatever links it contains.
    pub destination: PathBuf,
    /// Read-only (recursively).
    pub read_only: bool,
    /// A tmpfs of this many bytes in place of a bind (0 = half the memory).
    pub tmpfs_bytes: Option<u64>,
    /// `rprivate` (default), `rslave`, `rshared`.
    pub propagation: Option<String>,
}

/// Seccomp of a container.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Seccomp {
    /// The runtime's default filter.
    RuntimeDefault,
    /// None at all.
    Unconfined,
    /// A profile file in the OCI JSON form.
    Localhost(PathBuf),
}

/// Who the process runs as. Names are looked up in the container's own /etc/passwd and /etc/group.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct User {
    /// uid; `None` = the image's user, else 0.
    pub uid: Option<u32>,
    /// gid; `None` = the user's primary group.
    pub gid: Option<u32>,
    /// More groups.
    pub supplemental: Vec<u32>,
    /// Refuse to run as uid 0.
    pub must_not_be_root: bool,
}

/// A container to make.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ContainerConfig {
    /// Unique within the sandbox; same alphabet as the sandbox's.
    pub id: String,
    /// Reference or digest in the image store.
    pub image: String,
    /// Replaces the image's entrypoint when not empty (and then the image's cmd is dropped too).
    pub command: Vec<String>,
    /// Replaces the image's cmd when not empty.
    pub args: Vec<String>,
    /// `KEY=VALUE`, after the image's.
    pub env: Vec<String>,
    /// Empty = the image's, else `/`.
    pub working_dir: String,
    /// Who.
    pub user: User,
    /// In order.
    pub mounts: Vec<Mount>,
    /// Limits of this container.
    pub resources: Resources,
    /// All capabilities, all devices, no masks, no seccomp.
    pub privileged: bool,
    /// Added to the default set (`NET_ADMIN`; `ALL`).
    pub cap_add: Vec<String>,
    /// Dropped from it.
    pub cap_drop: Vec<String>,
    /// `false` = no_new_privs.
    pub allow_privilege_escalation: bool,
    /// Root filesystem read-only.
    pub read_only_root: bool,
    /// System call filter.
    pub seccomp: Seccomp,
    /// /proc not masked.
    pub unmasked_proc: bool,
    /// Keep a stdin open for attach.
    pub stdin: bool,
    /// Close it after the first attach ended.
    pub stdin_once: bool,
    /// A terminal.
    pub tty: bool,
    /// CRI log file; its folder is made.
    pub log_path: PathBuf,
    /// Rotate at this size, keep this many.
    pub log_bytes_max: u64,
    /// Files kept, the current one included.
    pub log_files_max: u32,
    /// Bind-mounted file whose end is the termination message; empty = none.
    pub termination_message_path: String,
    /// Kept and given back, not interpreted.
    pub labels: BTreeMap<String, String>,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ContainerStatus {
    /// Made, its process waits before exec.
    Created,
    /// Its process runs.
    Running,
    /// It ended.
    Exited {
        /// Exit code, 128 + signal when killed.
        code: i32,
        /// Signal that killed it, 0 = none.
        signal: i32,
        /// The kernel killed a process of its cgroup for memory.
        oom_killed: bool,
    },
}

/// A container as found.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ContainerState {
    /// Id as configured.
    pub id: String,
    /// First process on the host, 0 when there is none.
    pub pid: u32,
    /// Where it is in its life.
    pub status: ContainerStatus,
    /// Nanoseconds since 1970; 0 = not yet.
    pub created_ns: i64,
    /// Nanoseconds since 1970; 0 = not yet.
    pub started_ns: i64,
    /// Nanoseconds since 1970; 0 = not yet.
    pub finished_ns: i64,
    /// Digest of the image (`sha256:...`).
    pub image_id: String,
    /// As configured.
    pub labels: BTreeMap<String, String>,
}

/// A sandbox as found.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct SandboxState {
    /// Id as configured.
    pub id: String,
    /// Its shim, 0 when it is dead (containers are then dead too and show as exited with 137).
    pub shim_pid: u32,
    /// Pinned network namespace; empty for host network.
    pub netns: PathBuf,
    /// As configured.
    pub labels: BTreeMap<String, String>,
    /// Its containers.
    pub containers: Vec<ContainerState>,
    /// Nanoseconds since 1970.
    pub created_ns: i64,
}

/// What the shim reports without being asked.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub enum ShimEvent {
    /// A container ended.
    Exited(ContainerState),
    /// An exec ended.
    ExecExited {
        /// Number given by `exec`.
        exec: u64,
        /// Exit code, 128 + signal when killed.
        code: i32,
    },
}

/// A command to run in a running container.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ExecConfig {
    /// Container.
    pub container: String,
    /// argv.
    pub command: Vec<String>,
    /// A terminal.
    pub tty: bool,
    /// Wanted streams.
    pub stdin: bool,
    /// Wanted streams.
    pub stdout: bool,
    /// Wanted streams.
    pub stderr: bool,
    /// Kill it after this many milliseconds; 0 = never (probes set it).
    pub timeout_ms: u64,
}

/// Streams of an exec or attach: ends of pipes (or one terminal), to be read and written by the caller
/// without blocking.
#[derive(Debug)]
pub struct Streams {
    /// Number by which `ShimEvent::ExecExited` names it; 0 for attach.
    pub exec: u64,
    /// Write end.
    pub stdin: Option<OwnedFd>,
    /// Read end; the terminal's master for a tty.
    pub stdout: Option<OwnedFd>,
    /// Read end.
    pub stderr: Option<OwnedFd>,
}

/// Use of a cgroup now.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Stats {
    /// Microseconds of CPU since the start.
    pub cpu_usage_us: u64,
    /// `memory.current`.
    pub memory_bytes: u64,
    /// `memory.current` less inactive file pages.
    pub memory_working_set_bytes: u64,
    /// Processes.
    pub pids: u64,
}

/// Why a call failed: operation, object, value and what to do are in the text.
#[derive(Debug)]
pub enum Error {
    /// No such sandbox, container or image.
    NotFound(String),
    /// It exists already, with another configuration.
    Exists(String),
    /// The request makes no sense or is refused; nothing was done.
    Invalid(String),
    /// The host lacks something.
    Unsupported(String),
    /// The kernel or the disk said no.
    Io(String, std::io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::NotFound(s) | Error::Exists(s) | Error::Invalid(s) | Error::Unsupported(s) => {
                f.write_str(s)
            }
            Error::Io(s, _) => f.write_str(s),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(_, e) => Some(e),
            _ => None,
        }
    }
}

/// Result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// The runtime over one state folder. Dropping it waits for files that are being deleted, and touches no sandbox.
#[derive(Debug)]
pub struct Runtime {
    /// As opened.
    pub config: RuntimeConfig,
    pub(crate) tree: cgroup::Tree,
    pub(crate) trash: trash::Trash,
}

impl Runtime {
    /// Opens (and makes) the state folder; finds out what the host can do (see [`Runtime::conditions`]).
    pub fn open(config: RuntimeConfig) -> Result<Runtime> {
        let trash = trash::Trash::new(&config.root);
        let runtime = Runtime { config, tree: cgroup::Tree::find()?, trash };
        ops::sandbox::open(&runtime)?;
        Ok(runtime)
    }

    /// What cannot be enforced on this host (a controller on a v1 hierarchy, no seccomp, ...), a line each.
    pub fn conditions(&self) -> Vec<String> {
        let mut all = self.tree.conditions();
        if !std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
            all.push("system calls are not filtered: this kernel has no seccomp filters".into());
        }
        all
    }

    /// Makes namespaces and cgroup and starts the shim. The same id and configuration again: gives it back.
    pub fn create_sandbox(&self, config: &SandboxConfig) -> Result<SandboxState> {
        ops::sandbox::create(self, config)
    }

    /// All sandboxes on disk, with what their shims say.
    pub fn sandboxes(&self) -> Result<Vec<SandboxState>> {
        ops::sandbox::all(self)
    }

    /// One sandbox.
    pub fn sandbox(&self, id: &str) -> Result<SandboxState> {
        ops::sandbox::get(self, id)
    }

    /// Kills what runs, waits for it, removes everything. No error when it is gone already.
    pub fn remove_sandbox(&self, id: &str) -> Result<()> {
        ops::sandbox::remove(self, id)
    }

    /// Prepares the root filesystem and makes the first process, which waits before exec.
    pub fn create_container(
        &self,
        sandbox: &str,
        config: &ContainerConfig,
    ) -> Result<ContainerState> {
        ops::container::create(self, sandbox, config)
    }

    /// Lets the first process go. An error of exec (no such file, ...) is returned here.
    pub fn start_container(&self, sandbox: &str, container: &str) -> Result<ContainerState> {
        ops::container::start(self, sandbox, container)
    }

    /// Sends a signal to the first process (`all`: to every process of its cgroup).
    pub fn kill_container(
        &self,
        sandbox: &str,
        container: &str,
        signal: i32,
        all: bool,
    ) -> Result<()> {
        ops::container::kill(self, sandbox, container, signal, all)
    }

    /// Removes an ended container (kills it first with `force`); its log stays. Its files are deleted in the background.
    pub fn remove_container(&self, sandbox: &str, container: &str, force: bool) -> Result<()> {
        ops::container::remove(self, sandbox, container, force)
    }

    /// New limits for a running container.
    pub fn update_container(
        &self,
        sandbox: &str,
        container: &str,
        resources: &Resources,
    ) -> Result<()> {
        ops::container::update(self, sandbox, container, resources)
    }

    /// Runs a command in a running container.
    pub fn exec(&self, sandbox: &str, config: &ExecConfig) -> Result<Streams> {
        ops::exec::exec(self, sandbox, config)
    }

    /// Joins the container's own streams, also before its start. An attacher that does not read a mebibyte is cut off.
    pub fn attach(&self, sandbox: &str, container: &str, stdin: bool) -> Result<Streams> {
        ops::exec::attach(self, sandbox, container, stdin)
    }

    /// Sets the size of a container's terminal (`exec` 0) or of an exec's.
    pub fn resize(
        &self,
        sandbox: &str,
        container: &str,
        exec: u64,
        width: u16,
        height: u16,
    ) -> Result<()> {
        ops::exec::resize(self, sandbox, container, exec, width, height)
    }

    /// A connection on which the shim reports events (non-blocking, readable when there is one; hang-up = the
    /// shim is dead). Feed what arrives to [`EventReader`]. Containers that have ended already are reported at once, so that
    /// none is missed between a look at [`Runtime::sandbox`] and this call; be ready to hear of an end twice.
    pub fn events(&self, sandbox: &str) -> Result<OwnedFd> {
        ops::exec::events(self, sandbox)
    }

    /// Use of the sandbox's (`container` none) or a container's cgroup.
    pub fn stats(&self, sandbox: &str, container: Option<&str>) -> Result<Stats> {
        ops::container::stats(self, sandbox, container)
    }

    /// Opens a TCP connection to 127.0.0.1:`port` (then [::1]) inside the sandbox's network namespace, non-blocking.
    pub fn dial(&self, sandbox: &str, port: u16) -> Result<std::net::TcpStream> {
        ops::exec::dial(self, sandbox, port)
    }
}

/// Cuts a shim's event bytes into events.
#[derive(Debug, Default)]
pub struct EventReader {
    buffer: Vec<u8>,
}

impl EventReader {
    /// Takes bytes as they arrived; gives the events that they complete. After an error the connection is of no more use.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<ShimEvent>> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut at = 0;
        while let Some((used, payload, _)) = proto::first_frame(&self.buffer[at..])? {
            // The first frame is the answer to the subscription.
            match serde_json::from_slice::<ShimEvent>(payload) {
                Ok(event) => events.push(event),
                Err(e) => match serde_json::from_slice::<proto::Reply>(payload) {
                    Ok(reply) => drop(reply.into_result()?),
                    Err(_) => {
                        return Err(Error::Invalid(format!(
                            "an event of the shim is damaged: {e}"
                        )));
                    }
                },
            }
            at += used;
        }
        self.buffer.drain(..at);
        Ok(events)
    }
}

/// The shim's main function, called by the binary as `pintle shim ...`.
pub fn shim_main(args: &[String]) -> i32 {
    crate::shim::main(args)
}
