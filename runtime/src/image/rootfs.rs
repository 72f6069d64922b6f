//! A folder as an image of one layer.

use super::Image;
use super::store::{ConfigFile, RootFs, Store, hex};
use super::unpack::{Meta, Unpacker};
use crate::sandbox::{Error, Result};
use crate::state;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Copies the folder; its digest is that of a canonical listing with all contents.
pub fn import(
    store: &Store,
    source: &Path,
    name: &str,
    progress: &mut dyn FnMut(&str),
) -> Result<Image> {
    progress(&format!("copying {}", source.display()));
    let folder = store.new_layer()?;
    let mut copy = Copy {
        source,
        unpacker: Unpacker::new(&folder.join("fs"))?,
        hash: Sha256::new(),
        links: BTreeMap::new(),
    };
    copy.walk(Path::new(""))?;
    let Copy { unpacker, hash, .. } = copy;
    let bytes = unpacker.finish()?;
    let diff_id = format!("sha256:{}", hex(&hash.finalize()));
    store.keep_layer(&folder, &diff_id, bytes)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = ConfigFile {
        architecture: architecture.into(),
        os: "linux".into(),
        rootfs: RootFs { kind: "layers".into(), diff_ids: vec![diff_id] },
        ..ConfigFile::default()
    };
    let config = serde_json::to_vec(&config)
        .map_err(|e| Error::Invalid(format!("encode the image's config: {e}")))?;
    let image = store.keep_image(&config, &[name.to_owned()])?;
    progress(&format!("{bytes} bytes as {name}"));
    Ok(image)
}

struct Copy<'a> {
    source: &'a Path,
    unpacker: Unpacker,
    hash: Sha256,
    /// (device, inode) of files with several names -> first path.
    links: BTreeMap<(u64, u64), String>,
}

impl Copy<'_> {
    fn walk(&mut self, relative: &Path) -> Result<()> {
        let dir = self.source.join(relative);
        let io = |e| state::io("read", &dir, e);
        let meta = std::fs::symlink_metadata(&dir).map_err(io)?;
        let text = utf8(relative)?;
        self.note(text, &meta, "");
        self.unpacker.folder(text, &attributes(&dir, &meta)?)?;
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(io)? {
            names.push(entry.map_err(io)?.file_name());
        }
        names.sort();
        for name in names {
            self.entry(&relative.join(name))?;
        }
        Ok(())
    }

    fn note(&mut self, path: &str, m: &std::fs::Metadata, more: &str) {
        let line = format!(
            "{path:?} {:o} {} {} {} {} {more:?}\n",
            m.mode(),
            m.uid(),
            m.gid(),
            if m.is_file() { m.size() } else { 0 },
            m.rdev()
        );
        self.hash.update(line.as_bytes());
    }

    fn entry(&mut self, relative: &Path) -> Result<()> {
        let path = self.source.join(relative);
        let io = |e| state::io("read", &path, e);
        let m = std::fs::symlink_metadata(&path).map_err(io)?;
        let kind = m.file_type();
        let text = utf8(relative)?;
        if kind.is_dir() {
            return self.walk(relative);
        }
        if m.nlink() > 1 && !kind.is_symlink() {
            let key = (m.dev(), m.ino());
            if let Some(first) = self.links.get(&key).cloned() {
                self.note(text, &m, &first);
                return self.unpacker.hard_link(text, &first);
            }
            self.links.insert(key, text.to_owned());
        }
        let meta = attributes(&path, &m)?;
        if kind.is_symlink() {
            let target = std::fs::read_link(&path).map_err(io)?;
            let target = utf8(&target)?;
            self.note(text, &m, target);
            self.unpacker.symlink(text, &meta, target)
        } else if kind.is_file() {
            self.note(text, &m, "");
            let mut file =
                Hashing { file: std::fs::File::open(&path).map_err(io)?, hash: &mut self.hash };
            self.unpacker.file(text, &meta, m.size(), &mut file)
        } else if kind.is_fifo() {
            self.note(text, &m, "");
            self.unpacker.node(text, &meta, 0)
        } else {
            // A socket means nothing without the process that listens on it, and a container's devices are its own.
            Ok(())
        }
    }
}

struct Hashing<'a> {
    file: std::fs::File,
    hash: &'a mut Sha256,
}

impl std::io::Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

fn utf8(p: &Path) -> Result<&str> {
    p.to_str().ok_or_else(|| Error::Invalid(format!("{}: the name is not UTF-8", p.display())))
}

fn attributes(path: &PathBuf, m: &std::fs::Metadata) -> Result<Meta> {
    Ok(Meta {
        mode: m.mode(),
        uid: m.uid(),
        gid: m.gid(),
        mtime_s: m.mtime(),
        xattrs: xattrs(path),
    })
}

// What cannot be read (a filesystem without attributes) is not there.
fn xattrs(path: &PathBuf) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0u8; 16 << 10];
    let Ok(n) = rustix::fs::llistxattr(path, &mut names[..]) else { return Vec::new() };
    names[..n]
        .split(|b| *b == 0)
        .filter(|k| !k.is_empty())
        .filter_map(|k| {
            let key = std::str::from_utf8(k).ok()?;
            let mut value = vec![0u8; 64 << 10];
            let n = rustix::fs::lgetxattr(path, key, &mut value[..]).ok()?;
            value.truncate(n);
            Some((key.to_owned(), value))
        })
        .collect()
}
