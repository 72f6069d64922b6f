//! `pintle down`: ends everything and leaves nothing behind. Works after a crash too, and twice in a row.
//!
//! Order: the supervisor (which ends its daemons), whatever process of the cluster is still there, the sandboxes
//! of each node, packet rules and links, the pins of namespaces, cgroups, the run folder. Data stays, unless the
//! user says otherwise.

use super::layout::Layout;
use super::settings::Settings;
use super::{node, preflight, process, supervisor};
use nix::mount::{MntFlags, umount2};
use pintle_reactor::Signal;
use pintle_runtime::net;
use pintle_runtime::sandbox::{Runtime, RuntimeConfig};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long daemons and killed processes get to end.
const END_WITHIN: Duration = Duration::from_secs(10);
/// Word by which the binary is called to clean a node up from inside its namespaces.
pub const CLEAN_NODE: &str = "clean-node";

/// Runs `down`. With `purge` the data directory goes too.
pub fn run(layout: &Layout, purge: bool) -> Result<(), String> {
    preflight::root()?;
    let settings = Settings::load(layout)?;
    let Some(settings) = settings else {
        if process::all(layout).is_empty() {
            println!("There is no cluster in {}.", layout.root().display());
            return Ok(());
        }
        return Err(format!(
            "{} is gone but processes of its cluster run: {:?}; end them by hand",
            layout.cluster_file().display(),
            process::all(layout)
        ));
    };
    stop(layout);
    clean(layout, &settings, &mut |step| eprintln!("{step}"))?;
    if purge {
        fs::remove_dir_all(layout.root())
            .map_err(|e| format!("cannot remove {}: {e}", layout.root().display()))?;
        println!("The cluster and its data are gone.");
    } else {
        println!("The cluster is down; its data stays in {}.", layout.root().display());
    }
    Ok(())
}

/// The running supervisor of this data directory.
pub fn supervisor_pid(layout: &Layout) -> Option<u32> {
    let pid: u32 =
        fs::read_to_string(layout.run().join("supervisor.pid")).ok()?.trim().parse().ok()?;
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let is_ours = cmdline.split(|b| *b == 0).any(|a| a == supervisor::COMMAND.as_bytes());
    (is_ours && process::all(layout).contains(&pid)).then_some(pid)
}

/// Ends the supervisor, its daemons and every other process of the cluster.
pub fn stop(layout: &Layout) {
    if let Some(pid) = supervisor_pid(layout) {
        process::signal(pid, Signal::SIGTERM);
        if !process::wait(pid, END_WITHIN) {
            process::signal(pid, Signal::SIGKILL);
            process::wait(pid, END_WITHIN);
        }
    }
}

/// Removes everything that the cluster made on this machine besides its data. Nothing there is no error.
pub fn clean(
    layout: &Layout,
    settings: &Settings,
    progress: &mut dyn FnMut(&str),
) -> Result<(), String> {
    kill_daemons(layout);
    for (i, name) in settings.nodes.iter().enumerate() {
        if layout.node(name).exists() {
            progress(&format!("removing the pods of node {name}"));
            clean_in_namespaces(layout, name)?;
        }
        kill_cgroup(&format!("{}/{name}", layout.cgroup_root()))?;
        node::remove(layout, settings, i)?;
    }
    kill_all(layout)?;
    progress("removing links, mounts and cgroups");
    node::remove_shared(layout)?;
    kill_cgroup(&layout.cgroup_root())?;
    unmount_below(layout.root())?;
    match fs::remove_dir_all(layout.run()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(format!("cannot remove {}: {e}", layout.run().display())),
    }
}

// Daemons first: a kubelet that lives would bring back what is removed. Shims are left to `Runtime::remove_sandbox`.
fn kill_daemons(layout: &Layout) {
    let is_shim = |pid: &u32| {
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        cmdline.split(|b| *b == 0).take(2).any(|a| a == b"shim" || a.ends_with(b"pintle-shim"))
    };
    let daemons: Vec<u32> = process::all(layout).into_iter().filter(|p| !is_shim(p)).collect();
    daemons.iter().for_each(|p| process::signal(*p, Signal::SIGKILL));
    daemons.iter().for_each(|p| {
        process::wait(*p, END_WITHIN);
    });
}

fn kill_all(layout: &Layout) -> Result<(), String> {
    let left = process::all(layout);
    left.iter().for_each(|p| process::signal(*p, Signal::SIGKILL));
    let stuck: Vec<u32> = left.into_iter().filter(|p| !process::wait(*p, END_WITHIN)).collect();
    if stuck.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "processes {stuck:?} do not end though they were killed; look at them (ps -o pid,stat,wchan,cmd)"
        ))
    }
}

#[expect(clippy::disallowed_methods, reason = "entering namespaces needs a process of its own")]
fn clean_in_namespaces(layout: &Layout, node: &str) -> Result<(), String> {
    let output = Command::new("/proc/self/exe")
        .args([supervisor::ENTER, "--data-dir"])
        .arg(layout.root())
        .args(["--node", node, CLEAN_NODE, "--data-dir"])
        .arg(layout.root())
        .args(["--node", node])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot start the helper that cleans node {node} up: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "cleaning node {node} up failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

/// The helper's side: removes sandboxes, rules and links of a node from inside its namespaces.
pub fn clean_node(layout: &Layout, node: &str) -> Result<(), String> {
    let config = RuntimeConfig {
        root: layout.node_runtime(node),
        images: layout.images(),
        shim_binary: PathBuf::from("/proc/self/exe"),
        cgroup_parent: format!("{}/{node}", layout.cgroup_root()),
    };
    if config.root.exists() {
        let runtime = Runtime::open(config).map_err(|e| node::chain(&e))?;
        for sandbox in runtime.sandboxes().map_err(|e| node::chain(&e))? {
            runtime.remove_sandbox(&sandbox.id).map_err(|e| node::chain(&e))?;
        }
    }
    if crate::daemons::find("proxy").map(|run| run(&["--cleanup".to_owned()])) != Some(0) {
        return Err("removing the packet rules failed (its message is above)".into());
    }
    net::remove_link("pintle0").map_err(|e| node::chain(&e))
}

/// Kills what runs in a cgroup below the v2 mount and removes it with all below it.
fn kill_cgroup(name: &str) -> Result<(), String> {
    let dir = preflight::cgroup2_mount()?.join(name);
    if !dir.exists() {
        return Ok(());
    }
    let kill = dir.join("cgroup.kill");
    if kill.exists() {
        fs::write(&kill, "1").map_err(|e| format!("cannot write {}: {e}", kill.display()))?;
    }
    remove_tree(&dir).map_err(|e| format!("cannot remove the cgroup {}: {e}", dir.display()))
}

// cgroup folders are removed by rmdir from the leaves up; their files cannot be.
fn remove_tree(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    wait_until_empty(dir)?;
    fs::remove_dir(dir)
}

// A killed process leaves its cgroup a moment after the signal; `cgroup.events` tells (poll(2) with POLLPRI).
fn wait_until_empty(dir: &Path) -> std::io::Result<()> {
    use std::io::{Read, Seek};
    use std::os::fd::AsFd;
    let mut file = match fs::File::open(dir.join("cgroup.events")) {
        Ok(f) => f,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for _ in 0..100 {
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        if text.lines().any(|l| l == "populated 0") {
            return Ok(());
        }
        let mut fds = [nix::poll::PollFd::new(file.as_fd(), nix::poll::PollFlags::POLLPRI)];
        nix::poll::poll(&mut fds, 1000u16)?;
    }
    Ok(())
}

fn unmount_below(root: &Path) -> Result<(), String> {
    let Ok(root) = root.canonicalize() else { return Ok(()) };
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = info
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| PathBuf::from(p.replace("\\040", " ")))
        .filter(|p| p.starts_with(&root) && *p != root)
        .collect();
    // The newest first: what lies on top goes before what it covers.
    points.reverse();
    for p in points {
        match umount2(&p, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(format!("cannot unmount {}: {e}", p.display())),
        }
    }
    Ok(())
}
