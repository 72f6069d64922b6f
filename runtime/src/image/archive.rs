//! OCI layouts and docker-save archives: from their manifests to layers and a config in the store.

use super::source::Source;
use super::store::{ConfigFile, Store, digest};
use super::{Image, layer, normalise};
use crate::limits;
use crate::sandbox::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Deserialize)]
struct Descriptor {
    #[serde(default, rename = "mediaType")]
    media_type: String,
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// One image of docker-save's manifest.json.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// An image as found: its config, where its layers are (with the digest promised for each), and its own names.
struct Found {
    config: Vec<u8>,
    layers: Vec<(String, Option<String>)>,
    names: Vec<String>,
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::Invalid(format!("{what}: {e}")))
}

/// Imports all images of the source; gives the first. `name` replaces the names of a single image.
pub fn import(
    store: &Store,
    source: &Source,
    name: Option<&str>,
    progress: &mut dyn FnMut(&str),
) -> Result<Image> {
    let found = if let Some(bytes) = source.small("manifest.json")? {
        saved(source, &parse::<Vec<Saved>>("manifest.json", &bytes)?)?
    } else if let Some(bytes) = source.small("index.json")? {
        layout(source, &parse::<Index>("index.json", &bytes)?)?
    } else {
        return Err(Error::Invalid(
            "neither manifest.json (docker save) nor index.json (OCI layout) is in it".into(),
        ));
    };
    if found.len() > 1 && name.is_some() {
        return Err(Error::Invalid(format!(
            "the archive holds {} images: one name does not fit all",
            found.len()
        )));
    }
    let mut first = None;
    for f in &found {
        let names = match name {
            Some(n) => vec![n.to_owned()],
            None => f.names.iter().map(|n| normalise(n)).collect::<Result<Vec<_>>>()?,
        };
        if names.is_empty() {
            return Err(Error::Invalid(
                "the image has no name of its own: give one (--name web:1)".into(),
            ));
        }
        let image = keep(store, source, f, &names, progress)?;
        first.get_or_insert(image);
    }
    first.ok_or_else(|| Error::Invalid("there is no image for this machine in it".into()))
}

fn keep(
    store: &Store,
    source: &Source,
    found: &Found,
    names: &[String],
    progress: &mut dyn FnMut(&str),
) -> Result<Image> {
    let config: ConfigFile = parse("the image's config", &found.config)?;
    let ids = &config.rootfs.diff_ids;
    if ids.len() != found.layers.len() || ids.is_empty() || ids.len() > limits::LAYERS_MAX {
        return Err(Error::Invalid(format!(
            "image {}: its config names {} layers, its manifest {} (1 to {} are possible)",
            names.join(", "),
            ids.len(),
            found.layers.len(),
            limits::LAYERS_MAX
        )));
    }
    for (i, (id, (path, blob))) in ids.iter().zip(&found.layers).enumerate() {
        if store.has_layer(id)? {
            progress(&format!("layer {} of {} is here already", i + 1, ids.len()));
            continue;
        }
        progress(&format!("layer {} of {}", i + 1, ids.len()));
        let content = source
            .file(path)?
            .ok_or_else(|| Error::Invalid(format!("layer file {path} is not in the archive")))?;
        layer::import(store, content, id, blob.as_deref())?;
    }
    store.keep_image(&found.config, names)
}

fn saved(source: &Source, list: &[Saved]) -> Result<Vec<Found>> {
    list.iter()
        .map(|s| {
            let config = source.small(&s.config)?.ok_or_else(|| {
                Error::Invalid(format!("config {} is not in the archive", s.config))
            })?;
            let layers = s.layers.iter().map(|l| (l.clone(), None)).collect();
            let names = s.repo_tags.clone().unwrap_or_default();
            Ok(Found { config, layers, names })
        })
        .collect()
}

/// A blob of an OCI layout that is small, verified.
fn blob(source: &Source, wanted: &str) -> Result<Vec<u8>> {
    let bytes = source
        .small(&blob_path(wanted)?)?
        .ok_or_else(|| Error::Invalid(format!("blob {wanted} is not in the layout")))?;
    let got = digest(&bytes);
    if got != wanted {
        return Err(Error::Invalid(format!("blob {wanted} is damaged: its digest is {got}")));
    }
    Ok(bytes)
}

fn blob_path(digest: &str) -> Result<String> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if super::reference::is_digest(digest) => Ok(format!("blobs/sha256/{hex}")),
        _ => Err(Error::Invalid(format!("digest {digest:?} is not sha256: and 64 hex digits"))),
    }
}

fn fits(d: &Descriptor) -> bool {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    d.platform.as_ref().is_none_or(|p| {
        (p.os.is_empty() || p.os == "linux")
            && (p.architecture.is_empty() || p.architecture == architecture)
    })
}

fn own_name(d: &Descriptor) -> Option<String> {
    let full = d.annotations.get("io.containerd.image.name");
    // This one may be a bare tag, which names nothing.
    let short = d
        .annotations
        .get("org.opencontainers.image.ref.name")
        .filter(|n| n.contains(':') || n.contains('/'));
    full.or(short).cloned()
}

fn layout(source: &Source, index: &Index) -> Result<Vec<Found>> {
    let mut out = Vec::new();
    for d in index.manifests.iter().filter(|d| fits(d)) {
        let mut manifest = d.clone();
        // An index of the image's platforms; more than one level is nobody's.
        if is_index(d) {
            let inner: Index = parse("an image index", &blob(source, &d.digest)?)?;
            match inner.manifests.into_iter().find(|m| fits(m) && !is_index(m)) {
                Some(m) => manifest = m,
                None => continue,
            }
        }
        let m: Manifest = parse("an image manifest", &blob(source, &manifest.digest)?)?;
        let layers = m
            .layers
            .iter()
            .map(|l| Ok((blob_path(&l.digest)?, Some(l.digest.clone()))))
            .collect::<Result<_>>()?;
        let config = blob(source, &m.config.digest)?;
        out.push(Found { config, layers, names: own_name(d).into_iter().collect() });
    }
    Ok(out)
}

fn is_index(d: &Descriptor) -> bool {
    d.media_type.ends_with("image.index.v1+json") || d.media_type.ends_with("manifest.list.v2+json")
}
