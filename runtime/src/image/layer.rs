//! A layer's tar stream into a folder, with its digests verified on the way.

use super::source::{Guard, decompress};
use super::store::{Store, hex};
use super::unpack::{Meta, Unpacker};
use crate::sandbox::{Error, Result};
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::io::Read;
use std::rc::Rc;

/// Counts and hashes what passes; shared, so that it can be asked after the stream went into a decoder.
struct Hashed<R> {
    inner: R,
    seen: Rc<RefCell<(Sha256, u64)>>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let mut seen = self.seen.borrow_mut();
        seen.0.update(&buffer[..n]);
        seen.1 += n as u64;
        Ok(n)
    }
}

fn hashed<R: Read>(inner: R) -> (Hashed<R>, Rc<RefCell<(Sha256, u64)>>) {
    let seen = Rc::new(RefCell::new((Sha256::new(), 0)));
    (Hashed { inner, seen: Rc::clone(&seen) }, seen)
}

fn compare(what: &str, expected: &str, seen: &Rc<RefCell<(Sha256, u64)>>) -> Result<()> {
    let got = format!("sha256:{}", hex(&seen.borrow().0.clone().finalize()));
    if got == expected {
        return Ok(());
    }
    Err(Error::Invalid(format!("{what} is damaged: its digest is {got}, and should be {expected}")))
}

/// Unpacks a blob as layer `diff_id`. `blob` is the digest of its packed form when one is promised.
pub fn import(
    store: &Store,
    content: Box<dyn Read>,
    diff_id: &str,
    blob: Option<&str>,
) -> Result<()> {
    let io = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
            Error::Invalid(format!("layer {diff_id}: {e}"))
        }
        _ => Error::Io(format!("layer {diff_id}: {e}"), e),
    };
    let folder = store.new_layer()?;
    let (content, packed) = hashed(content);
    let (plain, unpacked) = hashed(decompress(Box::new(content)).map_err(io)?);
    let mut unpacker = Unpacker::new(&folder.join("fs"))?;
    let mut archive = tar::Archive::new(Guard::new(plain));
    for entry in archive.entries().map_err(io)? {
        let mut entry = entry.map_err(io)?;
        one(&mut unpacker, &mut entry).map_err(|e| in_layer(diff_id, e))?;
    }
    // What follows the end mark is part of the digests, and may hold padding only a decoder can judge.
    let mut rest = archive.into_inner().into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(io)?;
    drop(rest);
    if let Some(blob) = blob {
        compare(&format!("layer blob {blob}"), blob, &packed)?;
    }
    compare(&format!("layer {diff_id}"), diff_id, &unpacked)?;
    let bytes = unpacker.finish()?;
    store.keep_layer(&folder, diff_id, bytes)
}

fn in_layer(diff_id: &str, e: Error) -> Error {
    match e {
        Error::Invalid(s) => Error::Invalid(format!("layer {diff_id}: {s}")),
        e => e,
    }
}

fn one<R: Read>(to: &mut Unpacker, entry: &mut tar::Entry<'_, R>) -> Result<()> {
    let bad =
        |what: &str, e: &dyn std::fmt::Display| Error::Invalid(format!("tar entry: {what}: {e}"));
    let path = String::from_utf8(entry.path_bytes().into_owned())
        .map_err(|e| bad("the name is not UTF-8", &e))?;
    let (dir, name) =
        path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path.trim_end_matches('/')));
    if name == ".wh..wh..opq" {
        return to.opaque(dir);
    }
    if name.starts_with(".wh..wh.") {
        // Left by aufs; means nothing here.
        return Ok(());
    }
    if let Some(gone) = name.strip_prefix(".wh.") {
        return to.whiteout(dir, gone);
    }
    let header = entry.header();
    let kind = header.entry_type();
    let number = |what: &str, n: std::io::Result<u64>| n.map_err(|e| bad(what, &e));
    let mut meta = Meta {
        mode: header.mode().map_err(|e| bad("mode", &e))?,
        uid: u32::try_from(number("uid", header.uid())?).map_err(|e| bad("uid", &e))?,
        gid: u32::try_from(number("gid", header.gid())?).map_err(|e| bad("gid", &e))?,
        mtime_s: i64::try_from(number("mtime", header.mtime())?).unwrap_or(0),
        xattrs: Vec::new(),
    };
    extended(entry, &mut meta)?;
    let link = entry
        .link_name_bytes()
        .map(|b| String::from_utf8(b.into_owned()))
        .transpose()
        .map_err(|e| bad("the link is not UTF-8", &e))?
        .unwrap_or_default();
    let size = entry.size();
    match kind {
        tar::EntryType::Directory => to.folder(&path, &meta),
        tar::EntryType::Regular | tar::EntryType::Continuous => to.file(&path, &meta, size, entry),
        tar::EntryType::Symlink => to.symlink(&path, &meta, &link),
        tar::EntryType::Link => to.hard_link(&path, &link),
        tar::EntryType::Fifo => {
            meta.mode = meta.mode & 0o7777 | libc::S_IFIFO;
            to.node(&path, &meta, 0)
        }
        // An image's device nodes are not made: a container's /dev is its own, and a node elsewhere is a trap.
        tar::EntryType::Char | tar::EntryType::Block => Ok(()),
        tar::EntryType::XGlobalHeader => Ok(()),
        other => Err(Error::Invalid(format!("tar entry {path:?} has unknown type {other:?}"))),
    }
}

// PAX records: numbers that do not fit the header, and attributes.
fn extended<R: Read>(entry: &mut tar::Entry<'_, R>, meta: &mut Meta) -> Result<()> {
    let records = entry
        .pax_extensions()
        .map_err(|e| Error::Invalid(format!("tar entry: extended header: {e}")))?;
    let Some(records) = records else { return Ok(()) };
    for record in records.flatten() {
        let Ok(key) = record.key() else { continue };
        let text = record.value().unwrap_or("");
        match key {
            "uid" => meta.uid = text.parse().unwrap_or(meta.uid),
            "gid" => meta.gid = text.parse().unwrap_or(meta.gid),
            "mtime" => {
                let whole = text.split('.').next().unwrap_or("");
                meta.mtime_s = whole.parse().unwrap_or(meta.mtime_s);
            }
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    meta.xattrs.push((name.to_owned(), record.value_bytes().to_vec()));
                }
            }
        }
    }
    Ok(())
}
