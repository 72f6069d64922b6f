//! The image store: content-addressed blobs, unpacked layers, names.

use crate::sandbox::Result;
use std::path::Path;

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
    let _ = (images, source, name, progress);
    Err(crate::sandbox::Error::Unsupported("not built yet".into()))
}

/// All images, by first name.
pub fn list(images: &Path) -> Result<Vec<Image>> {
    let _ = images;
    Err(crate::sandbox::Error::Unsupported("not built yet".into()))
}

/// The image that a reference (name, name:tag, name@digest, id, id prefix) means.
pub fn resolve(images: &Path, reference: &str) -> Result<Image> {
    let _ = (images, reference);
    Err(crate::sandbox::Error::Unsupported("not built yet".into()))
}

/// Removes a name, and the image when it was the last one; refuses while a container uses it.
pub fn remove(images: &Path, reference: &str) -> Result<()> {
    let _ = (images, reference);
    Err(crate::sandbox::Error::Unsupported("not built yet".into()))
}
