//! Where things lie on disk, and how records are written: whole or not at all.
//!
//! ```text
//! ROOT/<sandbox>/config.json  sandbox as asked for      ns/{net,ipc,uts,pid}  pinned namespaces
//!                sandbox.json as made                   shm/                  the shared /dev/shm
//!                shim.sock, shim.log                    c/<container>/        container.json, exited.json
//!                rootfs/ (empty; each container's root                       upper/ work/
//!                 is mounted there in its own namespace)
//! ROOT/.locks/<number>                                  one caller changes a sandbox at a time
//! ROOT/.trash/                                          folders of removed containers until they are deleted
//! ```

use crate::limits;
use crate::program::Process;
use crate::sandbox::{ContainerConfig, Error, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};

/// What was made for a sandbox, besides what was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Absolute cgroup folder.
    pub cgroup: PathBuf,
    /// The shim's pid; believed only when the shim answers.
    pub shim_pid: u32,
    /// Nanoseconds since 1970.
    pub created_ns: i64,
}

/// A container as asked for, and what came of it: written once, before the shim makes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// As asked for.
    pub config: ContainerConfig,
    /// Its process, of which execs are variants.
    pub process: Process,
    /// Digest of its image.
    pub image_id: String,
    /// Nanoseconds since 1970.
    pub created_ns: i64,
}

/// Paths of one sandbox.
#[derive(Clone, Debug)]
pub struct Layout {
    /// `ROOT/<sandbox>`.
    pub dir: PathBuf,
}

impl Layout {
    /// For an id that [`check_id`] has passed.
    pub fn new(root: &Path, sandbox: &str) -> Layout {
        Layout { dir: root.join(sandbox) }
    }
    /// Sandbox as asked for.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.json")
    }
    /// Sandbox as made; its presence says that it is complete.
    pub fn record(&self) -> PathBuf {
        self.dir.join("sandbox.json")
    }
    /// The shim's control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("shim.sock")
    }
    /// What the shim says on standard error.
    pub fn shim_log(&self) -> PathBuf {
        self.dir.join("shim.log")
    }
    /// A pinned namespace.
    pub fn namespace(&self, kind: &str) -> PathBuf {
        self.dir.join("ns").join(kind)
    }
    /// The /dev/shm of the sandbox.
    pub fn shm(&self) -> PathBuf {
        self.dir.join("shm")
    }
    /// Folder of all containers.
    pub fn containers(&self) -> PathBuf {
        self.dir.join("c")
    }
    /// Where roots are mounted.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }
    /// A container's record; damaged (its writer died) is as good as none.
    pub fn container_record(&self, id: &str) -> Option<ContainerRecord> {
        read_json(&self.container(id).join("container.json")).ok().flatten()
    }
    /// Folder of one container.
    pub fn container(&self, id: &str) -> PathBuf {
        self.dir.join("c").join(id)
    }
}

/// Refuses ids that are not 1 to 64 letters, digits, `-`, `_`, `.`, or that start with a dot.
pub fn check_id(what: &str, id: &str) -> Result<()> {
    let ok = !id.is_empty()
        && id.len() <= limits::ID_CHARS_MAX
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if ok {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{what} id {id:?}: it must be 1 to {} letters, digits, '-', '_' or '.', and not start with '.'",
        limits::ID_CHARS_MAX
    )))
}

/// Error for a failed file operation.
pub fn io(operation: &str, path: &Path, e: std::io::Error) -> Error {
    Error::Io(format!("{operation} {}: {e}", path.display()), e)
}

/// Removes a folder with all that is in it; none is no error.
pub fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Writes a file so that a reader sees the old or the new one, never a part.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    std::fs::write(&new, bytes).map_err(|e| io("write", &new, e))?;
    std::fs::rename(&new, path).map_err(|e| io("rename to", path, e))
}

/// As JSON, whole.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value)
        .map_err(|e| Error::Invalid(format!("encode {}: {e}", path.display())))?;
    write_whole(path, &bytes)
}

/// Reads JSON; `None` when there is no such file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(b) => b,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io("read", path, e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::Invalid(format!("{} is damaged: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in ["a", "web-1_2.x", &"x".repeat(64)] {
            assert!(check_id("sandbox", good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".a", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(check_id("sandbox", bad).is_err(), "{bad}");
        }
    }
}
