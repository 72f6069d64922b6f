//! Making, starting, ending and removing containers.

use super::{ask, ask_living, layout};
use crate::container::{self, Facts, HostDevice};
use crate::plan::{Linux, Step, TreeOptions, Walk};
use crate::program::{Process, Program};
use crate::proto::{NewContainer, Reply, Request, Stdio};
use crate::sandbox::{
    ContainerConfig, ContainerState, Error, Mount, Namespace, Resources, Result, Runtime,
    SandboxConfig, Stats,
};
use crate::state::{self, ContainerRecord, Layout, SandboxRecord};
use crate::{caps, cgroup, devices, image, limits, seccomp};
use crate::{sys, users};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

fn records(layout: &Layout, sandbox: &str) -> Result<(SandboxConfig, SandboxRecord)> {
    let missing = || Error::NotFound(format!("no sandbox {sandbox}"));
    Ok((
        state::read_json(&layout.config())?.ok_or_else(missing)?,
        state::read_json(&layout.record())?.ok_or_else(missing)?,
    ))
}

/// The cgroup of a container.
fn group(record: &SandboxRecord, container: &str) -> PathBuf {
    record.cgroup.join(container)
}

/// What a creation is about, found before anything is made.
struct Making<'a> {
    runtime: &'a Runtime,
    config: &'a ContainerConfig,
    layout: Layout,
    sandbox: SandboxConfig,
    image: image::Prepared,
    filters: Vec<Vec<u64>>,
    dir: PathBuf,
    group: PathBuf,
}

/// See [`Runtime::create_container`].
pub fn create(
    runtime: &Runtime,
    sandbox: &str,
    config: &ContainerConfig,
) -> Result<ContainerState> {
    state::check_id("container", &config.id)?;
    if config.mounts.len() > limits::MOUNTS_MAX {
        return Err(Error::Invalid(format!(
            "container {}: {} mounts, the limit is {}",
            config.id,
            config.mounts.len(),
            limits::MOUNTS_MAX
        )));
    }
    let layout = layout(runtime, sandbox)?;
    let (sandbox_config, record) = records(&layout, sandbox)?;
    if let Some(there) = already(runtime, &layout, sandbox, config)? {
        return Ok(there);
    }
    let filters = if config.privileged {
        Vec::new()
    } else {
        let caps = caps::of(false, &config.cap_add, &config.cap_drop)?;
        seccomp::compile(&config.seccomp, caps)?
    };
    let making = Making {
        runtime,
        config,
        sandbox: sandbox_config,
        image: image::prepare(&runtime.config.images, &config.image)?,
        filters,
        dir: layout.container(&config.id),
        group: group(&record, &config.id),
        layout,
    };
    match making.walk() {
        Ok(Reply::Container(state)) => Ok(state),
        Ok(_) => Err(Error::Invalid("the shim's answer is not a container".into())),
        Err(Error::NotFound(why)) if why.starts_with("no shim listens") => {
            Err(Error::NotFound(format!("sandbox {sandbox} is dead: its shim is gone")))
        }
        Err(e) => Err(e),
    }
}

impl Making<'_> {
    fn walk(&self) -> Result<Reply> {
        let mut kernel = Linux { tree: self.runtime.tree.clone() };
        let mut walk = Walk::new(&mut kernel);
        walk.take(folders(self.config, self.runtime, &self.image, &self.dir, &self.group)?)?;
        let r = passwd(walk.slots.first()).and_then(|(passwd, groups)| {
            users::resolve(&self.config.user, &self.image.config.user, &passwd, &groups)
        });
        let identity = walk.check(r)?;
        let before = walk.slots.len();
        let shm = (self.sandbox.ipc == Namespace::New).then(|| self.layout.shm());
        let slots = Slots::new(before, self.config.tty, shm.is_some());
        walk.take(sources(self.config, shm))?;
        let r = self.program(&identity, &slots, &walk.slots);
        let program = walk.check(r)?;
        let r = self.last_steps(program, slots.devpts);
        let last = walk.check(r)?;
        let reply = walk.take(last)?;
        walk.finish();
        Ok(reply)
    }

    fn program(&self, identity: &users::Identity, at: &Slots, open: &[OwnedFd]) -> Result<Program> {
        let source_is_dir = source_kinds(&self.config.mounts, &open[at.first_mount..])?;
        let devices = if self.config.privileged { host_devices() } else { Vec::new() };
        let facts = Facts {
            sandbox: &self.sandbox,
            image: &self.image.config,
            identity,
            seccomp: self.filters.clone(),
            source_is_dir: &source_is_dir,
            root_at: &self.layout.rootfs(),
            caps_available: caps::available(),
            open_files_max: rustix::process::getrlimit(rustix::process::Resource::Nofile)
                .maximum
                .unwrap_or(u64::MAX),
            devices: &devices,
            root: 0,
            devpts: at.devpts,
            shm: at.shm,
            first_mount: at.first_mount,
        };
        container::program(self.config, &facts)
    }

    // The record, and the request to the shim.
    fn last_steps(&self, program: Program, devpts: Option<usize>) -> Result<Vec<Step>> {
        let config = self.config;
        let created_ns = sys::wall_ns();
        let record = serde_json::to_vec(&ContainerRecord {
            config: config.clone(),
            process: program.process.clone(),
            image_id: self.image.id.clone(),
            created_ns,
        })
        .map_err(|e| Error::Invalid(format!("encode the container: {e}")))?;
        let stdio = match devpts {
            Some(tree) => Stdio::Terminal { master: tree + 1, slave: tree + 2 },
            None => Stdio::Logged { stdin: config.stdin },
        };
        let request = Request::Create(Box::new(NewContainer {
            id: config.id.clone(),
            image_id: self.image.id.clone(),
            labels: config.labels.clone(),
            created_ns,
            dir: self.dir.clone(),
            cgroup: self.group.clone(),
            stdio,
            stdin_once: config.stdin_once,
            log_path: config.log_path.clone(),
            log_bytes_max: config.log_bytes_max,
            log_files_max: config.log_files_max,
            program,
        }));
        Ok(vec![
            Step::WriteFile(self.dir.join("container.json"), record),
            Step::Ask {
                socket: self.layout.socket(),
                request: Box::new(request),
                undo: Some(Request::Remove { id: config.id.clone(), force: true }),
            },
        ])
    }
}

/// Where the descriptors of [`sources`] come to lie, after `before` others.
struct Slots {
    devpts: Option<usize>,
    shm: Option<usize>,
    first_mount: usize,
}

impl Slots {
    fn new(before: usize, terminal: bool, shm: bool) -> Slots {
        // A terminal takes three: tree, master, slave.
        let after_terminal = before + if terminal { 3 } else { 0 };
        Slots {
            devpts: terminal.then_some(before),
            shm: shm.then_some(after_terminal),
            first_mount: after_terminal + usize::from(shm),
        }
    }
}

// A container of this id: the same again is given back, what a dead caller left half-made is cleared.
fn already(
    runtime: &Runtime,
    layout: &Layout,
    sandbox: &str,
    config: &ContainerConfig,
) -> Result<Option<ContainerState>> {
    let dir = layout.container(&config.id);
    if !dir.exists() {
        return Ok(None);
    }
    let there = layout.container_record(&config.id).map(|r| r.config);
    let known = match ask_living(layout, sandbox, &Request::State)?.0 {
        Reply::State { containers, .. } => containers.into_iter().find(|c| c.id == config.id),
        _ => None,
    };
    let same = serde_json::to_value(&there).ok() == serde_json::to_value(Some(config)).ok();
    match (known, same) {
        (Some(state), true) => Ok(Some(state)),
        (Some(_), false) => Err(Error::Exists(format!(
            "container {} exists in sandbox {sandbox} with another configuration",
            config.id
        ))),
        (None, _) => {
            clear(runtime, layout, sandbox, &config.id)?;
            Ok(None)
        }
    }
}

fn folders(
    config: &ContainerConfig,
    runtime: &Runtime,
    prepared: &image::Prepared,
    dir: &Path,
    group: &Path,
) -> Result<Vec<Step>> {
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    let mut steps = vec![
        Step::MakeDir(dir.to_owned()),
        Step::MakeDir(upper.clone()),
        Step::MakeDir(work.clone()),
        Step::MakeCgroup(group.to_owned()),
        Step::SetLimits(group.to_owned(), runtime.tree.limits(&config.resources)),
    ];
    if !config.privileged {
        steps.push(Step::RestrictDevices(group.to_owned(), devices::default_program()));
    }
    steps.push(Step::Overlay { lower: prepared.layers.clone(), upper, work });
    Ok(steps)
}

fn sources(config: &ContainerConfig, shm: Option<PathBuf>) -> Vec<Step> {
    let private = TreeOptions { read_only: false, propagation: libc::MS_PRIVATE };
    let terminal = config.tty.then_some(Step::Terminal);
    let shm = shm.map(|path| Step::OpenTree(path, private));
    let binds = config.mounts.iter().filter(|m| m.tmpfs_bytes.is_none()).map(|m| {
        let propagation = match m.propagation.as_deref() {
            Some("rslave" | "slave") => libc::MS_SLAVE,
            Some("rshared" | "shared") => libc::MS_SHARED,
            _ => libc::MS_PRIVATE,
        };
        Step::OpenTree(m.source.clone(), TreeOptions { read_only: m.read_only, propagation })
    });
    terminal.into_iter().chain(shm).chain(binds).collect()
}

fn source_kinds(mounts: &[Mount], slots: &[OwnedFd]) -> Result<Vec<Option<bool>>> {
    let mut slots = slots.iter();
    mounts
        .iter()
        .map(|m| {
            if m.tmpfs_bytes.is_some() {
                return Ok(None);
            }
            let stat = slots
                .next()
                .ok_or(rustix::io::Errno::BADF)
                .and_then(rustix::fs::fstat)
                .map_err(|e| state::io("look at the mount source", &m.source, e.into()))?;
            Ok(Some(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir()))
        })
        .collect()
}

// /etc/passwd and /etc/group as the container will see them; an image need not have them.
fn passwd(root: Option<&OwnedFd>) -> Result<(String, String)> {
    let Some(root) = root else { return Ok(Default::default()) };
    let read = |path: &str| {
        let fd = rustix::fs::openat2(
            root.as_fd(),
            path,
            // A FIFO in its place must not block us.
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        let Ok(fd) = fd else { return String::new() };
        let stat = rustix::fs::fstat(&fd);
        if !stat.is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_file()) {
            return String::new();
        }
        let mut bytes = Vec::new();
        let file = std::io::Read::take(std::fs::File::from(fd), limits::PASSWD_BYTES_MAX);
        let _ = std::io::Read::read_to_end(&mut { file }, &mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok((read("/etc/passwd"), read("/etc/group")))
}

fn host_devices() -> Vec<HostDevice> {
    fn walk(dir: &Path, out: &mut Vec<HostDevice>) {
        let Ok(list) = std::fs::read_dir(dir) else { return };
        for entry in list.flatten() {
            let path = entry.path();
            let Ok(m) = std::fs::symlink_metadata(&path) else { continue };
            let kind = m.file_type();
            let name = entry.file_name();
            if kind.is_dir() && !["pts", "shm", "mqueue", "fd"].iter().any(|n| name == *n) {
                walk(&path, out);
            } else if (kind.is_char_device() || kind.is_block_device())
                && !["console", "ptmx"].iter().any(|n| name == *n)
                && let Some(path) = path.to_str()
            {
                out.push(HostDevice {
                    path: path.to_owned(),
                    mode: m.mode(),
                    rdev: m.rdev(),
                    uid: m.uid(),
                    gid: m.gid(),
                });
            }
        }
    }
    let mut out = Vec::new();
    walk(Path::new("/dev"), &mut out);
    out
}

/// See [`Runtime::start_container`].
pub fn start(runtime: &Runtime, sandbox: &str, id: &str) -> Result<ContainerState> {
    let layout = layout(runtime, sandbox)?;
    match ask_living(&layout, sandbox, &Request::Start(id.into()))?.0 {
        Reply::Container(state) => Ok(state),
        _ => Err(Error::Invalid("the shim's answer is not a container".into())),
    }
}

/// See [`Runtime::kill_container`].
pub fn kill(runtime: &Runtime, sandbox: &str, id: &str, signal: i32, all: bool) -> Result<()> {
    let layout = layout(runtime, sandbox)?;
    ask_living(&layout, sandbox, &Request::Kill { id: id.into(), signal, all }).map(drop)
}

/// See [`Runtime::remove_container`].
pub fn remove(runtime: &Runtime, sandbox: &str, id: &str, force: bool) -> Result<()> {
    state::check_id("container", id)?;
    let layout = layout(runtime, sandbox)?;
    match ask(&layout, &Request::Remove { id: id.into(), force }) {
        Ok(_) => {}
        // A dead shim: nothing runs.
        Err(Error::NotFound(_)) => {}
        Err(e) => return Err(e),
    }
    clear(runtime, &layout, sandbox, id)
}

fn clear(runtime: &Runtime, layout: &Layout, sandbox: &str, id: &str) -> Result<()> {
    let (_, record) = match records(layout, sandbox) {
        Ok(r) => r,
        Err(Error::NotFound(_)) => return Ok(()),
        Err(e) => return Err(e),
    };
    cgroup::destroy(&group(&record, id))?;
    runtime.trash.put(&layout.container(id))
}

/// See [`Runtime::update_container`].
pub fn update(runtime: &Runtime, sandbox: &str, id: &str, resources: &Resources) -> Result<()> {
    state::check_id("container", id)?;
    let (_, record) = records(&layout(runtime, sandbox)?, sandbox)?;
    let group = group(&record, id);
    if !group.exists() {
        return Err(Error::NotFound(format!("no container {id} in sandbox {sandbox}")));
    }
    cgroup::set(&group, &runtime.tree.limits(resources))
}

/// See [`Runtime::stats`].
pub fn stats(runtime: &Runtime, sandbox: &str, container: Option<&str>) -> Result<Stats> {
    let (_, record) = records(&layout(runtime, sandbox)?, sandbox)?;
    let group = match container {
        Some(id) => {
            state::check_id("container", id)?;
            group(&record, id)
        }
        None => record.cgroup,
    };
    if !group.exists() {
        return Err(Error::NotFound(format!(
            "no container {} in sandbox {sandbox}",
            container.unwrap_or_default()
        )));
    }
    cgroup::stats(&group)
}

/// The process of a container as it was planned, for execs.
pub fn own_process(layout: &Layout, id: &str) -> Result<Process> {
    state::check_id("container", id)?;
    layout
        .container_record(id)
        .map(|r| r.process)
        .ok_or_else(|| Error::NotFound(format!("no container {id}")))
}

/// All steps that need nothing from the host, ending with the request, for tests of the walk.
#[cfg(test)]
pub fn whole_plan(config: &ContainerConfig, runtime: &Runtime) -> Result<Vec<Step>> {
    let dir = Path::new("/r/s/c/c");
    let group = PathBuf::from("/cg/p/pod/c");
    let prepared = image::Prepared {
        id: String::new(),
        config: image::ImageConfig::default(),
        layers: vec!["/i/l".into()],
    };
    let mut steps = folders(config, runtime, &prepared, dir, &group)?;
    steps.extend(sources(config, Some("/r/s/shm".into())));
    let new = NewContainer {
        id: config.id.clone(),
        image_id: String::new(),
        labels: Default::default(),
        created_ns: 0,
        dir: dir.into(),
        cgroup: group,
        stdio: Stdio::Logged { stdin: false },
        stdin_once: false,
        log_path: PathBuf::new(),
        log_bytes_max: 0,
        log_files_max: 0,
        program: exec_program_of(config)?,
    };
    steps.push(Step::Ask {
        socket: "/r/s/shim.sock".into(),
        request: Box::new(Request::Create(Box::new(new))),
        undo: Some(Request::Remove { id: config.id.clone(), force: true }),
    });
    Ok(steps)
}

#[cfg(test)]
fn exec_program_of(config: &ContainerConfig) -> Result<crate::program::Program> {
    container::exec_program(&Process::default(), &config.command, config.tty)
}
