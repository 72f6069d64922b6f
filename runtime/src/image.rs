//! The image store: content-addressed blobs, unpacked layers, names.
//!
//! ```text
//! IMAGES/blobs/sha256/<hex>      configs and manifests as they came, verified
//!        layers/<diff id hex>/fs  unpacked layers, with overlay whiteouts; /size their bytes
//!        index.json              name -> image id (the digest of its config)
//!        runtimes/               a link to each runtime's state folder: who may be using images
//! ```
//! A layer or blob appears by rename when it is complete. One writer at a time (lock file); readers need no lock.

mod archive;
mod layer;
mod reference;
mod rootfs;
mod source;
mod store;
mod unpack;

#[cfg(test)]
mod tests;

pub use reference::normalise;
pub use store::{ImageConfig, Prepared};

use crate::sandbox::{Error, Result};
use std::path::Path;
use store::Store;

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Image {
    /// `sha256:...` of its config.
    pub id: String,
    /// Normalised names, `docker.io/library/web:1`.
    pub names: Vec<String>,
    /// Bytes of its unpacked layers.
    pub size_bytes: u64,
}

/// Imports a rootfs folder, an OCI layout (folder), an OCI archive or a docker-save archive (tar, also gzip or zstd).
/// `name` overrides the name in the archive and is required for a rootfs folder.
pub fn import(
    images: &Path,
    source: &Path,
    name: Option<&str>,
    progress: &mut dyn FnMut(&str),
) -> Result<Image> {
    let store = Store::open(images)?;
    let _lock = store.lock()?;
    let name = name.map(normalise).transpose()?;
    let meta =
        std::fs::metadata(source).map_err(|e| crate::state::io("read the image at", source, e))?;
    let layout = |file: &str| source.join(file).exists();
    if meta.is_dir() && !layout("oci-layout") && !(layout("index.json") && layout("blobs")) {
        let name = name.ok_or_else(|| {
            Error::Invalid(format!(
                "{} is a rootfs folder, which has no name of its own: give one (--name web:1)",
                source.display()
            ))
        })?;
        return rootfs::import(&store, source, &name, progress);
    }
    let archive = source::Source::open(source, &store.scratch())?;
    archive::import(&store, &archive, name.as_deref(), progress)
}

/// All images, by first name.
pub fn list(images: &Path) -> Result<Vec<Image>> {
    Store::open(images)?.list()
}

/// The image that a reference (name, name:tag, name@digest, id, id prefix) means.
pub fn resolve(images: &Path, reference: &str) -> Result<Image> {
    Store::open(images)?.resolve(reference)
}

/// Removes a name, and the image when it was the last one; refuses while a container uses it.
pub fn remove(images: &Path, reference: &str) -> Result<()> {
    let store = Store::open(images)?;
    let _lock = store.lock()?;
    store.remove(reference)
}

/// What a container needs of an image: its config and the folders of its layers, the topmost first.
pub fn prepare(images: &Path, reference: &str) -> Result<Prepared> {
    Store::open(images)?.prepare(reference)
}

/// Tells the store of a runtime that may use its images, so that [`remove`] asks there.
pub fn register_runtime(images: &Path, root: &Path) -> Result<()> {
    Store::open(images)?.register_runtime(root)
}
