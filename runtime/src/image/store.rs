//! Blobs, layers and names on disk.

use super::{Image, reference};
use crate::sandbox::{Error, Result};
use crate::state::ContainerRecord;
use crate::{limits, state};
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The part of an image's config that running it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// Program.
    pub entrypoint: Vec<String>,
    /// Its arguments.
    pub cmd: Vec<String>,
    /// Working directory, may be empty.
    pub working_dir: String,
    /// User, may be empty.
    pub user: String,
}

/// An image ready to run.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Digest of its config.
    pub id: String,
    /// What to run.
    pub config: ImageConfig,
    /// Layer folders, the topmost first.
    pub layers: Vec<PathBuf>,
}

/// An image's config file as the OCI image spec has it; what is not read is not kept here (the blob keeps it).
#[derive(Default, Deserialize, Serialize)]
pub struct ConfigFile {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub config: RunConfig,
    #[serde(default)]
    pub rootfs: RootFs,
}

#[derive(Default, Deserialize, Serialize)]
pub struct RunConfig {
    #[serde(default, rename = "User", skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, rename = "Env", skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    #[serde(default, rename = "Entrypoint", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(default, rename = "Cmd", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(default, rename = "WorkingDir", skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
}

#[derive(Default, Deserialize, Serialize)]
pub struct RootFs {
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

#[derive(Default, Deserialize, Serialize)]
struct Index {
    /// Full name -> image id.
    names: BTreeMap<String, String>,
    /// Images without a name too.
    images: BTreeSet<String>,
}

/// The store at one folder.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

/// Digest of bytes, `sha256:...`.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

fn digits(digest: &str) -> Result<&str> {
    match digest.strip_prefix("sha256:") {
        Some(h) if reference::is_digest(digest) => Ok(h),
        _ => Err(Error::Invalid(format!("digest {digest:?} is not sha256: and 64 hex digits"))),
    }
}

impl Store {
    /// Makes the folders when missing.
    pub fn open(root: &Path) -> Result<Store> {
        for dir in ["blobs/sha256", "layers", "runtimes", "tmp"] {
            let path = root.join(dir);
            std::fs::create_dir_all(&path).map_err(|e| state::io("make", &path, e))?;
        }
        // Images hold set-uid programs of all times: not for the host's users to run.
        let layers = root.join("layers");
        std::fs::set_permissions(&layers, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(|e| state::io("protect", &layers, e))?;
        Ok(Store { root: root.into() })
    }

    /// Until dropped, no other process changes the store.
    pub fn lock(&self) -> Result<OwnedFd> {
        let path = self.root.join("lock");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
            .and_then(|fd| rustix::fs::flock(&fd, FlockOperation::LockExclusive).map(|()| fd))
            .map_err(|e| state::io("lock", &path, e.into()))
    }

    fn index(&self) -> Result<Index> {
        Ok(state::read_json(&self.root.join("index.json"))?.unwrap_or_default())
    }

    fn blob(&self, digest: &str) -> Result<PathBuf> {
        Ok(self.root.join("blobs/sha256").join(digits(digest)?))
    }

    /// Folder of a layer: `fs` and `size` are in it.
    pub fn layer(&self, diff_id: &str) -> Result<PathBuf> {
        Ok(self.root.join("layers").join(digits(diff_id)?))
    }

    /// A fresh folder for a layer that is being written; complete it with [`Store::keep_layer`].
    pub fn new_layer(&self) -> Result<PathBuf> {
        let path = self.root.join("tmp").join(format!("layer-{}", std::process::id()));
        // The lock is held: what is there was left by a process that died.
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(|e| state::io("remove", &path, e))?;
        }
        let fs = path.join("fs");
        std::fs::create_dir_all(&fs).map_err(|e| state::io("make", &fs, e))?;
        Ok(path)
    }

    /// A name for a file that is being made.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("tmp").join(format!("file-{}", std::process::id()))
    }

    /// Puts a written layer into its place.
    pub fn keep_layer(&self, folder: &Path, diff_id: &str, bytes: u64) -> Result<()> {
        state::write_whole(&folder.join("size"), bytes.to_string().as_bytes())?;
        let to = self.layer(diff_id)?;
        if to.exists() {
            return std::fs::remove_dir_all(folder).map_err(|e| state::io("remove", folder, e));
        }
        std::fs::rename(folder, &to).map_err(|e| state::io("rename to", &to, e))
    }

    /// Whether a layer is there.
    pub fn has_layer(&self, diff_id: &str) -> Result<bool> {
        Ok(self.layer(diff_id)?.join("size").exists())
    }

    /// Stores a config and gives it names.
    pub fn keep_image(&self, config: &[u8], names: &[String]) -> Result<Image> {
        let id = digest(config);
        state::write_whole(&self.blob(&id)?, config)?;
        let mut index = self.index()?;
        index.images.insert(id.clone());
        for name in names {
            index.names.insert(name.clone(), id.clone());
        }
        self.write_index(&index)?;
        self.image(&index, &id)
    }

    fn write_index(&self, index: &Index) -> Result<()> {
        state::write_json(&self.root.join("index.json"), index)
    }

    fn config(&self, id: &str) -> Result<ConfigFile> {
        let path = self.blob(id)?;
        let size = std::fs::metadata(&path).map_err(|e| state::io("read", &path, e))?.len();
        if size > limits::IMAGE_JSON_BYTES_MAX {
            return Err(Error::Invalid(format!("config of image {id} has {size} bytes")));
        }
        state::read_json(&path)?.ok_or_else(|| Error::NotFound(format!("image {id} has no config")))
    }

    fn image(&self, index: &Index, id: &str) -> Result<Image> {
        let mut size_bytes = 0;
        for layer in &self.config(id)?.rootfs.diff_ids {
            let text = std::fs::read_to_string(self.layer(layer)?.join("size")).unwrap_or_default();
            size_bytes += text.trim().parse::<u64>().unwrap_or(0);
        }
        let names =
            index.names.iter().filter(|(_, i)| *i == id).map(|(name, _)| name.clone()).collect();
        Ok(Image { id: id.to_owned(), names, size_bytes })
    }

    /// See [`super::list`].
    pub fn list(&self) -> Result<Vec<Image>> {
        let index = self.index()?;
        let mut all =
            index.images.iter().map(|id| self.image(&index, id)).collect::<Result<Vec<_>>>()?;
        all.sort_by(|a, b| a.names.cmp(&b.names).then_with(|| a.id.cmp(&b.id)));
        Ok(all)
    }

    fn find(&self, index: &Index, wanted: &str) -> Result<String> {
        let missing = || {
            Error::NotFound(format!(
                "image {wanted:?} is not here: import it with pintle image import PATH --name NAME:TAG"
            ))
        };
        let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        if let Ok(name) = reference::normalise(wanted) {
            if let Some(id) = index.names.get(&name) {
                return Ok(id.clone());
            }
            if let Some((_, digest)) = name.split_once('@')
                && index.images.contains(digest)
            {
                return Ok(digest.to_owned());
            }
        }
        if hex.len() >= 8 && reference::is_hex(hex) {
            let found: Vec<_> =
                index.images.iter().filter(|id| id["sha256:".len()..].starts_with(hex)).collect();
            return match found.as_slice() {
                [one] => Ok((*one).clone()),
                [] => Err(missing()),
                _ => Err(Error::Invalid(format!("image id {wanted:?} is the start of several"))),
            };
        }
        Err(missing())
    }

    /// See [`super::resolve`].
    pub fn resolve(&self, wanted: &str) -> Result<Image> {
        let index = self.index()?;
        let id = self.find(&index, wanted)?;
        self.image(&index, &id)
    }

    /// See [`super::prepare`].
    pub fn prepare(&self, wanted: &str) -> Result<Prepared> {
        let id = self.find(&self.index()?, wanted)?;
        let file = self.config(&id)?;
        let mut layers = Vec::with_capacity(file.rootfs.diff_ids.len());
        for layer in file.rootfs.diff_ids.iter().rev() {
            layers.push(self.layer(layer)?.join("fs"));
        }
        let c = file.config;
        let config = ImageConfig {
            env: c.env.unwrap_or_default(),
            entrypoint: c.entrypoint.unwrap_or_default(),
            cmd: c.cmd.unwrap_or_default(),
            working_dir: c.working_dir.unwrap_or_default(),
            user: c.user.unwrap_or_default(),
        };
        Ok(Prepared { id, config, layers })
    }

    /// See [`super::register_runtime`].
    pub fn register_runtime(&self, root: &Path) -> Result<()> {
        let name = digest(root.as_os_str().as_encoded_bytes());
        let link = self.root.join("runtimes").join(digits(&name)?);
        match std::os::unix::fs::symlink(root, &link) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(state::io("register the runtime at", &link, e))
            }
            _ => Ok(()),
        }
    }

    // Containers of all known runtimes that were made from this image: "sandbox/container".
    fn users(&self, id: &str) -> Vec<String> {
        let mut out = Vec::new();
        let folders = |p: &Path| -> Vec<PathBuf> {
            std::fs::read_dir(p)
                .map(|l| l.flatten().map(|e| e.path()).collect())
                .unwrap_or_default()
        };
        for runtime in folders(&self.root.join("runtimes")) {
            for sandbox in folders(&runtime) {
                for container in folders(&sandbox.join("c")) {
                    let record =
                        state::read_json::<ContainerRecord>(&container.join("container.json"));
                    if let Ok(Some(c)) = record
                        && c.image_id == id
                    {
                        let name = |p: &Path| {
                            p.file_name().unwrap_or_default().to_string_lossy().into_owned()
                        };
                        out.push(format!("{}/{}", name(&sandbox), name(&container)));
                    }
                }
            }
        }
        out
    }

    /// See [`super::remove`]. Deletes data: every case is spelled.
    pub fn remove(&self, wanted: &str) -> Result<()> {
        let mut index = self.index()?;
        let id = self.find(&index, wanted)?;
        let name = reference::normalise(wanted).ok().filter(|n| index.names.contains_key(n));
        let names = index.names.values().filter(|i| **i == id).count();
        match name {
            // One name of several: the image stays.
            Some(name) if names > 1 => {
                index.names.remove(&name);
                return self.write_index(&index);
            }
            // Its only name, or by id: the image goes.
            Some(_) | None => {}
        }
        let users = self.users(&id);
        if !users.is_empty() {
            return Err(Error::Invalid(format!(
                "image {wanted:?} is used by container {}: remove that first",
                users.join(", ")
            )));
        }
        let layers = self.config(&id).map(|c| c.rootfs.diff_ids).unwrap_or_default();
        index.names.retain(|_, i| *i != id);
        index.images.remove(&id);
        // From here on nobody finds it; a crash leaves folders that the next removal of a sharer cleans up.
        self.write_index(&index)?;
        let mut kept = BTreeSet::new();
        for other in &index.images {
            kept.extend(self.config(other)?.rootfs.diff_ids);
        }
        for layer in layers.iter().filter(|l| !kept.contains(*l)) {
            let path = self.layer(layer)?;
            match std::fs::remove_dir_all(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(state::io("remove", &path, e));
                }
                _ => {}
            }
        }
        let blob = self.blob(&id)?;
        std::fs::remove_file(&blob).map_err(|e| state::io("remove", &blob, e))
    }
}
