//! Making, finding and removing sandboxes.

use super::{ask, layout, lock, try_lock};
use crate::plan::{Linux, Step, Walk};
use crate::proto::{Reply, Request};
use crate::sandbox::{
    ContainerState, ContainerStatus, Error, Namespace, Result, Runtime, SandboxConfig, SandboxState,
};
use crate::state::{self, Layout, SandboxRecord};
use crate::{cgroup, image, shim, sys};
use std::path::{Path, PathBuf};

/// Bytes of a sandbox's /dev/shm, as in other runtimes.
const SHM_BYTES: u64 = 64 << 20;

/// The leaf in which the shim lives: its name is no container's.
const SHIM_LEAF: &str = "@shim";

/// See [`Runtime::open`].
pub fn open(runtime: &Runtime) -> Result<()> {
    let locks = runtime.config.root.join(".locks");
    std::fs::create_dir_all(&locks).map_err(|e| state::io("make", &locks, e))?;
    runtime.trash.open()?;
    clear_half_made(runtime)?;
    image::register_runtime(&runtime.config.images, &runtime.config.root)
}

// What a caller that died has left half-made or half-removed: nobody would ask for it any more.
fn clear_half_made(runtime: &Runtime) -> Result<()> {
    for id in ids(&runtime.config.root)? {
        let layout = layout(runtime, &id)?;
        if layout.record().exists() {
            continue;
        }
        // Somebody who holds the lock is at it just now.
        let Some(_lock) = try_lock(runtime, &id)? else { continue };
        if !layout.record().exists() {
            destroy(runtime, &layout)?;
        }
    }
    Ok(())
}

fn check(config: &SandboxConfig) -> Result<()> {
    state::check_id("sandbox", &config.id)?;
    if config.hostname.len() > 64 || config.hostname.contains('\0') {
        return Err(Error::Invalid(format!(
            "sandbox {}: host name {:?} is over 64 bytes",
            config.id, config.hostname
        )));
    }
    if config.cgroup.trim_matches('/').is_empty() {
        return Err(Error::Invalid(format!("sandbox {}: it needs a cgroup", config.id)));
    }
    match config.sysctls.keys().find_map(|name| shim::refuse_sysctl(name, config)) {
        Some(why) => Err(Error::Invalid(why)),
        None => Ok(()),
    }
}

/// Steps to a sandbox with a living shim. Pure.
pub fn plan(
    config: &SandboxConfig,
    runtime: &Runtime,
    layout: &Layout,
    group: &Path,
) -> Result<Vec<Step>> {
    let encode = |e: serde_json::Error| Error::Invalid(format!("encode the sandbox: {e}"));
    let mut pins = Vec::new();
    for kind in ["uts", "net", "ipc", "pid"] {
        pins.push(layout.namespace(kind));
    }
    let leaf = group.join(SHIM_LEAF);
    let mut steps = vec![
        Step::MakeDir(layout.dir.clone()),
        Step::WriteFile(layout.config(), serde_json::to_vec(config).map_err(encode)?),
        Step::MakeDir(layout.containers()),
        Step::MakeDir(layout.rootfs()),
        Step::MakeCgroup(group.to_owned()),
        Step::SetLimits(group.to_owned(), runtime.tree.limits(&config.resources)),
        Step::MakeCgroup(leaf.clone()),
    ];
    if config.ipc == Namespace::New {
        steps.push(Step::MountShm(layout.shm(), SHM_BYTES));
    }
    let root = runtime
        .config
        .root
        .to_str()
        .ok_or_else(|| Error::Invalid("the runtime's folder is not UTF-8".into()))?;
    steps.push(Step::LaunchShim {
        binary: runtime.config.shim_binary.clone(),
        args: vec!["shim".into(), root.into(), config.id.clone()],
        cgroup: leaf,
        log: layout.shim_log(),
        pins,
    });
    Ok(steps)
}

/// See [`Runtime::create_sandbox`].
pub fn create(runtime: &Runtime, config: &SandboxConfig) -> Result<SandboxState> {
    check(config)?;
    let layout = layout(runtime, &config.id)?;
    let _lock = lock(runtime, &config.id)?;
    if let Some(there) = state::read_json::<SandboxConfig>(&layout.config())? {
        let complete = layout.record().exists();
        let same = serde_json::to_value(&there).ok() == serde_json::to_value(config).ok();
        match (complete, same) {
            (true, true) => return get(runtime, &config.id),
            (true, false) => {
                return Err(Error::Exists(format!(
                    "sandbox {} exists with another configuration",
                    config.id
                )));
            }
            // Left half-made by a caller that died.
            (false, _) => destroy(runtime, &layout)?,
        }
    } else if layout.dir.exists() {
        destroy(runtime, &layout)?;
    }
    let group = group(runtime, config)?;
    let mut kernel = Linux { tree: runtime.tree.clone() };
    let mut walk = Walk::new(&mut kernel);
    walk.take(plan(config, runtime, &layout, &group)?)?;
    let r = ask(&layout, &Request::State);
    let (reply, _) = walk.check(r)?;
    let pid = if let Reply::State { pid, .. } = reply { pid } else { 0 };
    let record = SandboxRecord { cgroup: group, shim_pid: pid, created_ns: sys::wall_ns() };
    let r = state::write_json(&layout.record(), &record);
    walk.check(r)?;
    walk.finish();
    Ok(found(config, &record, &layout, pid, Vec::new()))
}

fn group(runtime: &Runtime, config: &SandboxConfig) -> Result<PathBuf> {
    let relative = format!("{}/{}", runtime.config.cgroup_parent, config.cgroup);
    runtime.tree.path(&relative)
}

fn found(
    config: &SandboxConfig,
    record: &SandboxRecord,
    layout: &Layout,
    shim_pid: u32,
    containers: Vec<ContainerState>,
) -> SandboxState {
    let netns = match config.net {
        Namespace::New => layout.namespace("net"),
        Namespace::Host => PathBuf::new(),
    };
    SandboxState {
        id: config.id.clone(),
        shim_pid,
        netns,
        labels: config.labels.clone(),
        containers,
        created_ns: record.created_ns,
    }
}

/// See [`Runtime::sandboxes`]. Half-made ones are not sandboxes; [`Runtime::remove_sandbox`] clears them.
pub fn all(runtime: &Runtime) -> Result<Vec<SandboxState>> {
    let mut out = Vec::new();
    for id in ids(&runtime.config.root)? {
        match get(runtime, &id) {
            Ok(s) => out.push(s),
            Err(Error::NotFound(_)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}

fn ids(dir: &Path) -> Result<Vec<String>> {
    let list = match std::fs::read_dir(dir) {
        Ok(l) => l,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(state::io("list", dir, e)),
    };
    let mut out: Vec<String> = list
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|id| state::check_id("", id).is_ok())
        .collect();
    out.sort();
    Ok(out)
}

/// See [`Runtime::sandbox`].
pub fn get(runtime: &Runtime, id: &str) -> Result<SandboxState> {
    let layout = layout(runtime, id)?;
    let missing = || Error::NotFound(format!("no sandbox {id}"));
    let config: SandboxConfig = state::read_json(&layout.config())?.ok_or_else(missing)?;
    let record: SandboxRecord = state::read_json(&layout.record())?.ok_or_else(missing)?;
    match ask(&layout, &Request::State) {
        Ok((Reply::State { pid, containers }, _)) => {
            Ok(found(&config, &record, &layout, pid, containers))
        }
        Ok(_) => Err(Error::Invalid(format!("sandbox {id}: the shim's answer is not a state"))),
        Err(Error::NotFound(_)) => {
            let containers = bury(&record, &layout)?;
            Ok(found(&config, &record, &layout, 0, containers))
        }
        Err(e) => Err(e),
    }
}

// The shim is dead, and nobody owns its containers' streams and exit codes any more: they are killed (the kernel has done so
// already to their first processes) and written down as ended by SIGKILL.
fn bury(record: &SandboxRecord, layout: &Layout) -> Result<Vec<ContainerState>> {
    cgroup::kill(&record.cgroup)?;
    let mut out = Vec::new();
    for id in ids(&layout.containers())? {
        let Some(record) = layout.container_record(&id) else { continue };
        let exited = layout.container(&id).join("exited.json");
        if let Ok(Some(s)) = state::read_json::<ContainerState>(&exited) {
            out.push(s);
            continue;
        }
        let signal = libc::SIGKILL;
        let s = ContainerState {
            id: id.clone(),
            pid: 0,
            status: ContainerStatus::Exited { code: 128 + signal, signal, oom_killed: false },
            created_ns: record.created_ns,
            // Only the shim knew better.
            started_ns: record.created_ns,
            finished_ns: sys::wall_ns(),
            image_id: record.image_id,
            labels: record.config.labels,
        };
        state::write_json(&exited, &s)?;
        out.push(s);
    }
    Ok(out)
}

/// See [`Runtime::remove_sandbox`].
pub fn remove(runtime: &Runtime, id: &str) -> Result<()> {
    let layout = layout(runtime, id)?;
    let _lock = lock(runtime, id)?;
    if layout.dir.exists() { destroy(runtime, &layout) } else { Ok(()) }
}

// Takes down whatever there is of a sandbox, also of a half-made one. The order lets a crash at any point be continued by the
// next call: the folder goes last.
fn destroy(runtime: &Runtime, layout: &Layout) -> Result<()> {
    let config = state::read_json::<SandboxConfig>(&layout.config()).unwrap_or_default();
    let group = match state::read_json::<SandboxRecord>(&layout.record()).unwrap_or_default() {
        Some(record) => Some(record.cgroup),
        None => config.and_then(|c| group(runtime, &c).ok()),
    };
    // From here on it is no sandbox any more, also if this is not finished.
    match std::fs::remove_file(layout.record()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(state::io("remove", &layout.record(), e));
        }
        _ => {}
    }
    if let Some(group) = group {
        cgroup::destroy(&group)?;
        cgroup::remove_empty_parents(&group, &runtime.tree.path(&runtime.config.cgroup_parent)?);
    }
    let mut kernel = Linux { tree: runtime.tree.clone() };
    let mounts = ["net", "ipc", "uts", "pid"].map(|k| layout.namespace(k));
    for at in mounts.iter().chain([&layout.shm()]) {
        crate::plan::Kernel::unmount(&mut kernel, at)?;
    }
    runtime.trash.put(&layout.dir)
}
