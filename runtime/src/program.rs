//! What the first process of a container (or of an exec) does between its birth and its exec, as data.
//!
//! The caller of the runtime plans it, the shim receives it with the descriptors that it names by position, and
//! [`crate::sys::child`] walks it without allocating. All strings end with NUL already.

use serde::{Deserialize, Serialize};
use std::ffi::CStr;

/// A string with its NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Z(String);

impl Z {
    /// Of a text; `None` when it contains a NUL.
    pub fn new(s: impl Into<String>) -> Option<Z> {
        let mut s = s.into();
        if s.contains('\0') {
            return None;
        }
        s.push('\0');
        Some(Z(s))
    }

    /// As the kernel wants it. Text that is not well-formed (a hostile peer) is the empty string.
    pub fn c(&self) -> &CStr {
        CStr::from_bytes_with_nul(self.0.as_bytes()).unwrap_or(c"")
    }

    /// Without the NUL.
    pub fn text(&self) -> &str {
        self.0.strip_suffix('\0').unwrap_or(&self.0)
    }
}

/// One step of the set-up. Paths are absolute and resolved below the container's root, whatever links lead out of it,
/// except where "host" is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// setns to what descriptor `fd` (a pidfd or a namespace file) names; `kinds` are `CLONE_NEW*`.
    Join {
        /// Position of the descriptor.
        fd: usize,
        /// `CLONE_NEW*`.
        kinds: i32,
    },
    /// Mounts made here are not seen by the host.
    Detach,
    /// Writes a file of the host.
    WriteHost {
        /// Host path.
        path: Z,
        /// What to write.
        data: String,
    },
    /// Attaches the root tree at an empty host directory; paths of later steps are below it.
    Root {
        /// Position of the tree's descriptor.
        tree: usize,
        /// Host path.
        at: Z,
    },
    /// Makes what is missing of a path, component by component; every prefix of the path in order.
    Dirs {
        /// `/a`, `/a/b`, ...
        prefixes: Vec<Z>,
        /// Mode of what is made.
        mode: u32,
    },
    /// Makes an empty file as a mount point unless there is something.
    File {
        /// Folder.
        parent: Z,
        /// Name in it.
        name: Z,
    },
    /// Mounts a new filesystem.
    Mount {
        /// Type.
        fs: Z,
        /// Options.
        options: Vec<(Z, Z)>,
        /// `MOUNT_ATTR_*`.
        attrs: u32,
        /// Where.
        at: Z,
    },
    /// Attaches a tree that the planner opened.
    Tree {
        /// Position of its descriptor.
        tree: usize,
        /// Where.
        at: Z,
    },
    /// Makes a device node.
    Node {
        /// Folder.
        parent: Z,
        /// Name in it.
        name: Z,
        /// Type and permission bits.
        mode: u32,
        /// Device number.
        rdev: u64,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Makes a symbolic link.
    Link {
        /// What it says.
        target: Z,
        /// Folder.
        parent: Z,
        /// Name in it.
        name: Z,
    },
    /// Binds one path of the container onto another.
    Bind {
        /// What.
        from: Z,
        /// Where.
        at: Z,
    },
    /// Hides a path if it is there: a file behind /dev/null, a folder behind an empty tmpfs.
    Mask {
        /// What.
        at: Z,
    },
    /// Makes a path read-only, recursively, if it is there.
    ReadOnly {
        /// What.
        at: Z,
    },
    /// Makes the root mount read-only (mounts below it stay as they are).
    ReadOnlyRoot,
    /// Makes the root tree the root and lets go of the host's.
    Pivot,
    /// Goes there; part of the set-up so that a missing folder is told before start.
    ChDir {
        /// Where.
        path: Z,
    },
}

/// The process that is made when the set-up is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Arguments, the first is the name.
    pub argv: Vec<Z>,
    /// `KEY=VALUE`.
    pub env: Vec<Z>,
    /// Files to try in order (argv\[0\] looked up in PATH).
    pub files: Vec<Z>,
    /// Working directory.
    pub cwd: Z,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capability bits kept in the bounding, permitted and effective sets.
    pub caps: u64,
    /// `no_new_privs`.
    pub no_new_privs: bool,
    /// Filters, packed as [`crate::sys::filter::Filter::unpack`] says, installed in order.
    pub seccomp: Vec<Vec<u64>>,
    /// File mode mask.
    pub umask: u32,
    /// Resource, soft, hard.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// Standard input is a terminal to be made the controlling one.
    pub tty: bool,
}

/// A container's or exec's way to its program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// `CLONE_NEW*` at birth.
    pub new_namespaces: i32,
    /// In order.
    pub steps: Vec<Step>,
    /// Then this.
    pub process: Process,
}

impl Step {
    /// For messages: what was being done.
    pub fn describe(&self) -> String {
        match self {
            Step::Join { .. } => "join the container's namespaces".into(),
            Step::Detach => "make mounts private".into(),
            Step::WriteHost { path, data } => format!("write {data:?} to {}", path.text()),
            Step::Root { .. } => "mount the root filesystem".into(),
            Step::Dirs { prefixes, .. } => {
                format!("make folder {} in the container", prefixes.last().map_or("", |p| p.text()))
            }
            Step::File { parent, name } => {
                format!("make file {}/{} in the container", parent.text(), name.text())
            }
            Step::Mount { fs, at, .. } => format!("mount {} at {}", fs.text(), at.text()),
            Step::Tree { at, .. } => format!("mount a volume at {}", at.text()),
            Step::Node { parent, name, .. } => {
                format!("make device {}/{}", parent.text(), name.text())
            }
            Step::Link { parent, name, .. } => {
                format!("make link {}/{}", parent.text(), name.text())
            }
            Step::Bind { from, at } => format!("bind {} to {}", from.text(), at.text()),
            Step::Mask { at } => format!("mask {}", at.text()),
            Step::ReadOnly { at } => format!("make {} read-only", at.text()),
            Step::ReadOnlyRoot => "make the root filesystem read-only".into(),
            Step::Pivot => "enter the root filesystem".into(),
            Step::ChDir { path } => format!("enter working directory {}", path.text()),
        }
    }
}

/// Phases after the steps, in the child's reports.
pub mod phase {
    /// Set-up done, waiting to be let go.
    pub const READY: u32 = 0x8000_0000;
    /// Descriptors 0 to 2 and the terminal.
    pub const STDIO: u32 = 0x8000_0001;
    /// Limits.
    pub const LIMITS: u32 = 0x8000_0002;
    /// User, groups, capabilities.
    pub const IDENTITY: u32 = 0x8000_0003;
    /// The filter.
    pub const SECCOMP: u32 = 0x8000_0004;
    /// The exec itself.
    pub const EXEC: u32 = 0x8000_0005;
    /// The working directory.
    pub const CWD: u32 = 0x8000_0006;
}

impl Program {
    /// For messages: what phase or step `at` was.
    pub fn describe(&self, at: u32) -> String {
        let program = self.process.argv.first().map_or("", |a| a.text());
        match at {
            phase::STDIO => "set up standard streams".into(),
            phase::LIMITS => "set resource limits".into(),
            phase::IDENTITY => "set user, groups and capabilities".into(),
            phase::SECCOMP => "install the seccomp filter".into(),
            phase::EXEC => format!("exec {program:?}"),
            phase::CWD => format!("enter working directory {}", self.process.cwd.text()),
            i => self.steps.get(i as usize).map_or_else(|| format!("step {i}"), Step::describe),
        }
    }
}
