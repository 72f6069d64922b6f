//! Writing a layer's entries below one folder, never outside it, whatever paths and links say.
//!
//! Every path is opened with RESOLVE_IN_ROOT from the layer's own descriptor, so that links lead nowhere else; names come
//! last and are used with `*at` calls that follow nothing.

use crate::limits;
use crate::sandbox::{Error, Result};
use crate::sys::raw;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Ownership, permissions and time of an entry.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// Permission bits, with set-uid and so on.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modified, seconds since 1970.
    pub mtime_s: i64,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// A layer being written.
#[derive(Debug)]
pub struct Unpacker {
    root: OwnedFd,
    bytes: u64,
    entries: u64,
    /// Folders' times and modes, set when all is inside.
    folders: Vec<(String, Meta)>,
}

fn io(what: &str, path: &str) -> impl FnOnce(Errno) -> Error {
    let text = format!("unpack {path:?}: {what}");
    move |e| Error::Io(format!("{text}: {e}"), e.into())
}

/// `a/b` of `./a//b/`, `/a/b`; `None` for the root itself. Refuses `..`.
fn clean(path: &str) -> Result<Option<String>> {
    if path.contains('\0') || path.len() > 4095 {
        return Err(Error::Invalid(format!("layer entry {path:?}: no valid path")));
    }
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.contains(&"..") {
        return Err(Error::Invalid(format!("layer entry {path:?}: it leads out of the layer")));
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

impl Unpacker {
    /// Into an existing empty folder.
    pub fn new(folder: &Path) -> Result<Unpacker> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let root = rustix::fs::open(folder, flags, Mode::empty())
            .map_err(io("open the layer's folder", &folder.display().to_string()))?;
        Ok(Unpacker { root, bytes: 0, entries: 0, folders: Vec::new() })
    }

    fn count(&mut self, path: &str, bytes: u64) -> Result<()> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.entries > limits::LAYER_ENTRIES_MAX || self.bytes > limits::LAYER_BYTES_MAX {
            return Err(Error::Invalid(format!(
                "layer entry {path:?}: the layer is over {} entries or {} bytes",
                limits::LAYER_ENTRIES_MAX,
                limits::LAYER_BYTES_MAX
            )));
        }
        Ok(())
    }

    fn open_dir(&self, path: &str) -> std::result::Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        rustix::fs::openat2(
            &self.root,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    // The folder of a cleaned path, made with all above it when missing, and the name in it.
    fn parent<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        match self.open_dir(dir) {
            Ok(fd) => return Ok((fd, name)),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(io("open its folder", path)(e)),
        }
        let ends = dir.match_indices('/').map(|(i, _)| i).chain([dir.len()]);
        for end in ends {
            let part = &dir[..end];
            if let Err(Errno::NOENT) = self.open_dir(part) {
                let (above, name) = part.rsplit_once('/').unwrap_or(("", part));
                let above = self.open_dir(above).map_err(io("open its folder", path))?;
                rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755))
                    .map_err(io("make its folder", path))?;
            }
        }
        let fd = self.open_dir(dir).map_err(io("open its folder", path))?;
        Ok((fd, name))
    }

    // A later entry of a layer replaces an earlier one.
    fn clear(dir: &OwnedFd, name: &str, path: &str) -> Result<()> {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Ok(()) => Ok(()),
                Err(e) => Err(io("replace the folder that is there", path)(e)),
            },
            Err(e) => Err(io("replace what is there", path)(e)),
        }
    }

    fn own(dir: &OwnedFd, name: &str, path: &str, meta: &Meta) -> Result<()> {
        rustix::fs::chownat(
            dir,
            name,
            Some(Uid::from_raw(meta.uid)),
            Some(Gid::from_raw(meta.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(io("set its owner", path))
    }

    fn touch(dir: &OwnedFd, name: &str, meta: &Meta) {
        let at = Timespec { tv_sec: meta.mtime_s, tv_nsec: 0 };
        let times = Timestamps { last_access: at, last_modification: at };
        // A time that the filesystem cannot hold is not worth failing for.
        let _ = rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW);
    }

    fn attributes(fd: impl AsFd, path: &str, meta: &Meta) -> Result<()> {
        for (key, value) in &meta.xattrs {
            // Overlay's own would let an image reach into the mount's workings.
            if key.starts_with("trusted.") {
                continue;
            }
            match rustix::fs::fsetxattr(
                fd.as_fd(),
                key.as_str(),
                value,
                rustix::fs::XattrFlags::empty(),
            ) {
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(e) => return Err(io(&format!("set attribute {key}"), path)(e)),
            }
        }
        Ok(())
    }

    /// A folder; one that is there keeps its contents.
    pub fn folder(&mut self, path: &str, meta: &Meta) -> Result<()> {
        let Some(path) = clean(path)? else {
            self.folders.push((String::new(), meta.clone()));
            return Ok(());
        };
        self.count(&path, 0)?;
        let (dir, name) = self.parent(&path)?;
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(io("look at it", &path))?;
                let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
                if !kind.is_dir() {
                    Self::clear(&dir, name, &path)?;
                    rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700))
                        .map_err(io("make the folder", &path))?;
                }
                // Marked deleted by this layer, and made anew: nothing below shows.
                if kind.is_char_device() && stat.st_rdev == 0 {
                    self.opaque(&path)?;
                }
            }
            Err(e) => return Err(io("make the folder", &path)(e)),
        }
        self.folders.push((path, meta.clone()));
        Ok(())
    }

    /// A regular file of `size` bytes.
    pub fn file(
        &mut self,
        path: &str,
        meta: &Meta,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<()> {
        let path = self.not_root(path)?;
        self.count(&path, size)?;
        let (dir, name) = self.parent(&path)?;
        Self::clear(&dir, name, &path)?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o600))
            .map_err(io("make the file", &path))?;
        let mut file = File::from(fd);
        copy_sparse(content, &mut file, size)
            .map_err(|e| Error::Io(format!("unpack {path:?}: write: {e}"), e))?;
        rustix::fs::fchown(&file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
            .map_err(io("set its owner", &path))?;
        // After the owner, whose change clears set-uid; before the attributes are complete nothing runs it.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(meta.mode & 0o7777))
            .map_err(io("set its mode", &path))?;
        Self::attributes(&file, &path, meta)?;
        Self::touch(&dir, name, meta);
        Ok(())
    }

    fn not_root(&self, path: &str) -> Result<String> {
        clean(path)?.ok_or_else(|| Error::Invalid(format!("layer entry {path:?}: it is the root")))
    }

    /// A symbolic link; what it says is not looked at.
    pub fn symlink(&mut self, path: &str, meta: &Meta, target: &str) -> Result<()> {
        let path = self.not_root(path)?;
        self.count(&path, 0)?;
        let (dir, name) = self.parent(&path)?;
        Self::clear(&dir, name, &path)?;
        rustix::fs::symlinkat(target, &dir, name).map_err(io("make the link", &path))?;
        Self::own(&dir, name, &path, meta)?;
        Self::touch(&dir, name, meta);
        Ok(())
    }

    /// A hard link to an earlier entry of this layer.
    pub fn hard_link(&mut self, path: &str, target: &str) -> Result<()> {
        let (path, target) = (self.not_root(path)?, self.not_root(target)?);
        self.count(&path, 0)?;
        if path == target {
            return Ok(());
        }
        let (to, to_name) = (self.parent(&target)?, &target);
        let (dir, name) = self.parent(&path)?;
        Self::clear(&dir, name, &path)?;
        rustix::fs::linkat(&to.0, to.1, &dir, name, AtFlags::empty())
            .map_err(io(&format!("link to {to_name:?}"), &path))
    }

    /// A FIFO (`mode` has the type bits).
    pub fn node(&mut self, path: &str, meta: &Meta, rdev: u64) -> Result<()> {
        let path = self.not_root(path)?;
        self.count(&path, 0)?;
        let (dir, name) = self.parent(&path)?;
        Self::clear(&dir, name, &path)?;
        let c = c_name(name)?;
        raw::mknod(dir.as_fd(), &c, meta.mode, rdev).map_err(io("make the node", &path))?;
        Self::own(&dir, name, &path, meta)?;
        rustix::fs::chmodat(&dir, name, Mode::from_raw_mode(meta.mode & 0o7777), AtFlags::empty())
            .map_err(io("set its mode", &path))?;
        Self::touch(&dir, name, meta);
        Ok(())
    }

    /// Overlay's mark for "was deleted": a char device 0:0. What this layer has put there itself stays, but hides what is
    /// below it.
    pub fn whiteout(&mut self, folder: &str, name: &str) -> Result<()> {
        if name.is_empty() || name == "." || name == ".." {
            return Err(Error::Invalid(format!("whiteout of {name:?} in {folder:?}")));
        }
        let path = self.not_root(&format!("{folder}/{name}"))?;
        self.count(&path, 0)?;
        let (dir, name) = self.parent(&path)?;
        match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                let c = c_name(name)?;
                raw::mknod(dir.as_fd(), &c, libc::S_IFCHR, 0).map_err(io("mark it deleted", &path))
            }
            Ok(s) if rustix::fs::FileType::from_raw_mode(s.st_mode).is_dir() => self.opaque(&path),
            Ok(_) => Ok(()),
            Err(e) => Err(io("look at it", &path)(e)),
        }
    }

    /// Overlay's mark for "nothing of the layers below shows in this folder".
    pub fn opaque(&mut self, folder: &str) -> Result<()> {
        let folder = clean(folder)?.unwrap_or_default();
        self.count(&folder, 0)?;
        if !folder.is_empty() && self.open_dir(&folder).is_err() {
            self.parent(&format!("{folder}/x"))?;
        }
        let fd = rustix::fs::openat2(
            &self.root,
            if folder.is_empty() { "." } else { &folder },
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(io("open the opaque folder", &folder))?;
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(fd, "trusted.overlay.opaque", b"y", flags)
            .map_err(io("mark the folder opaque", &folder))
    }

    /// Sets what folders are like, now that nothing changes in them any more. Gives the bytes of all files.
    pub fn finish(self) -> Result<u64> {
        for (path, meta) in self.folders.iter().rev() {
            let fd = rustix::fs::openat2(
                &self.root,
                if path.is_empty() { "." } else { path.as_str() },
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            );
            let fd = match fd {
                Ok(fd) => fd,
                // A later entry of the layer replaced the folder.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(e) => return Err(io("open the folder", path)(e)),
            };
            rustix::fs::fchown(&fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
                .map_err(io("set its owner", path))?;
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(meta.mode & 0o7777))
                .map_err(io("set its mode", path))?;
            Self::attributes(&fd, path, meta)?;
            let at = Timespec { tv_sec: meta.mtime_s, tv_nsec: 0 };
            let _ =
                rustix::fs::futimens(&fd, &Timestamps { last_access: at, last_modification: at });
        }
        Ok(self.bytes)
    }
}

fn c_name(name: &str) -> Result<CString> {
    CString::new(name).map_err(|_| Error::Invalid(format!("layer entry {name:?}: a NUL in it")))
}

// Blocks of zeroes become holes: a sparse file costs what it holds, not what it says.
fn copy_sparse(from: &mut dyn Read, to: &mut File, size: u64) -> std::io::Result<()> {
    use std::io::{Seek as _, SeekFrom};
    let mut buffer = vec![0u8; 64 << 10];
    let mut left = size;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        from.read_exact(&mut buffer[..want])?;
        if buffer[..want].iter().all(|b| *b == 0) {
            to.seek(SeekFrom::Current(want as i64))?;
        } else {
            to.write_all(&buffer[..want])?;
        }
        left -= want as u64;
    }
    to.set_len(size)
}
