//! A node's own namespaces on this machine: a mount namespace each, and for all but the first a network namespace.
//!
//! They are pinned by file under `run/ns`, so that a restarted kubelet finds the mounts of its predecessor, and so
//! that removing the pins (with all processes dead) makes the kernel take everything in them along.

use super::layout::Layout;
use super::settings::{Settings, UNDERLAY, UNDERLAY_BRIDGE};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use pintle_runtime::net;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Word by which the binary is called to hold a new mount namespace open until it is pinned.
pub const HOLD: &str = "hold-mount-namespace";

/// Makes what a node needs and is not there yet. `index` 0 is the machine itself: its network is the host's.
pub fn make(layout: &Layout, settings: &Settings, index: usize) -> Result<(), String> {
    let Some(name) = settings.nodes.get(index) else { return Ok(()) };
    make_pin_folder(layout)?;
    let mnt = layout.node_namespace(name, "mnt");
    if !is_pinned(&mnt) {
        pin_mount_namespace(&mnt)?;
    }
    if index > 0 {
        net::node_link(&link(layout, settings, index)).map_err(|e| chain(&e))?;
    }
    Ok(())
}

/// Removes the pins and links of a node. Its processes must be dead.
pub fn remove(layout: &Layout, settings: &Settings, index: usize) -> Result<(), String> {
    let Some(name) = settings.nodes.get(index) else { return Ok(()) };
    if index > 0 {
        net::remove_node_link(&link(layout, settings, index)).map_err(|e| chain(&e))?;
    }
    unpin(&layout.node_namespace(name, "mnt"))
}

/// Makes the underlay on the host alone: the address of the first node when the machine has none of its own.
pub fn make_underlay() -> Result<(), String> {
    net::ensure_bridge(&bridge()).map_err(|e| chain(&e))
}

/// Removes the underlay bridge and the folder of the pins.
pub fn remove_shared(layout: &Layout) -> Result<(), String> {
    net::remove_link(UNDERLAY_BRIDGE).map_err(|e| chain(&e))?;
    let dir = layout.run().join("ns");
    if dir.exists() {
        match umount2(&dir, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(e) => return Err(format!("cannot unmount {}: {e}", dir.display())),
        }
    }
    Ok(())
}

/// Enters a node's namespaces, for good. The process must have one thread.
pub fn enter(layout: &Layout, node: &str) -> Result<(), String> {
    // Opened before: after the mount namespace the files would be looked up in the new one.
    let open = |kind: &str| {
        let path = layout.node_namespace(node, kind);
        if is_pinned(&path) {
            File::open(&path).map(Some).map_err(|e| format!("cannot open {}: {e}", path.display()))
        } else {
            Ok(None)
        }
    };
    let (net, mnt) = (open("net")?, open("mnt")?);
    for (file, flag, kind) in
        [(net, CloneFlags::CLONE_NEWNET, "network"), (mnt, CloneFlags::CLONE_NEWNS, "mount")]
    {
        if let Some(file) = file {
            setns(&file, flag)
                .map_err(|e| format!("cannot enter the {kind} namespace of node {node}: {e}"))?;
        }
    }
    Ok(())
}

/// A file on which something is mounted: a pin and not what a crash left of one.
pub fn is_pinned(path: &Path) -> bool {
    let Ok(info) = fs::read_to_string("/proc/self/mountinfo") else { return false };
    let Ok(path) = path.canonicalize() else { return false };
    let path = path.display().to_string();
    info.lines().any(|l| l.split(' ').nth(4) == Some(path.as_str()))
}

/// The child's side of `pin_mount_namespace`: makes the namespace, says so, and stays until standard input ends.
pub fn hold_main() -> i32 {
    let made = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
        // The host's new mounts are seen here; ours are not seen there.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
    });
    if let Err(e) = made {
        eprintln!("{e}");
        return 1;
    }
    let mut byte = [0];
    let told = std::io::stdout().write_all(b"x").and_then(|()| std::io::stdout().flush());
    let _ = told.and_then(|()| std::io::stdin().read(&mut byte));
    0
}

fn link(layout: &Layout, settings: &Settings, index: usize) -> net::NodeLink {
    let name = settings.nodes.get(index).map_or("", String::as_str);
    net::NodeLink {
        netns: layout.node_namespace(name, "net"),
        bridge: bridge(),
        host_name: format!("ptnode{}", index + 1),
        inner_name: "eth0".into(),
        address: (Settings::underlay_address(index), UNDERLAY.1),
    }
}

fn bridge() -> net::Bridge {
    net::Bridge {
        name: UNDERLAY_BRIDGE.into(),
        addresses: vec![(Settings::underlay_address(0), UNDERLAY.1)],
        mtu: 1500,
    }
}

/// The machine has no address of its own that pods could reach it by.
pub fn needs_underlay() -> Result<bool, String> {
    Ok(net::primary_address().map_err(|e| chain(&e))?.is_none())
}

/// Address by which other nodes reach a node.
pub fn address(settings: &Settings, index: usize) -> Result<IpAddr, String> {
    if settings.nodes.len() > 1 || index > 0 {
        return Ok(Settings::underlay_address(index));
    }
    let own = net::primary_address().map_err(|e| chain(&e))?;
    Ok(own.unwrap_or_else(|| Settings::underlay_address(0)))
}

// The pins lie on a private mount of their own: the kernel refuses to pin a mount namespace where the pin would
// propagate into it.
fn make_pin_folder(layout: &Layout) -> Result<(), String> {
    let dir = layout.run().join("ns");
    fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    if is_pinned(&dir) {
        return Ok(());
    }
    let none = None::<&str>;
    mount(Some(&dir), &dir, none, MsFlags::MS_BIND, none)
        .and_then(|()| mount(none, &dir, none, MsFlags::MS_PRIVATE, none))
        .map_err(|e| format!("cannot make {} a private mount: {e}", dir.display()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a new mount namespace needs a process of one thread to be made in"
)]
fn pin_mount_namespace(path: &Path) -> Result<(), String> {
    let wrong = |e: &dyn std::fmt::Display| {
        format!("cannot make the mount namespace {}: {e}", path.display())
    };
    File::create(path).map_err(|e| wrong(&e))?;
    let mut child = Command::new("/proc/self/exe")
        .arg(HOLD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| wrong(&e))?;
    let mut byte = [0];
    let told = child.stdout.as_mut().map(|out| out.read(&mut byte));
    let result = match told {
        Some(Ok(1)) => {
            let source = format!("/proc/{}/ns/mnt", child.id());
            mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(|e| wrong(&e))
        }
        _ => Err(wrong(&"the helper process failed (its message is above)")),
    };
    drop(child.stdin.take());
    child.wait().map_err(|e| wrong(&e))?;
    result
}

fn unpin(path: &Path) -> Result<(), String> {
    while is_pinned(path) {
        umount2(path, MntFlags::MNT_DETACH)
            .map_err(|e| format!("cannot unpin {}: {e}", path.display()))?;
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(format!("cannot remove {}: {e}", path.display())),
    }
}

/// An error with all its causes in one line.
pub fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
