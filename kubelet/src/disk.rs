//! Makes the folders, files and mounts of pods, and takes them away again. Blocking; called by workers.
//!
//! What a container can write to is never followed by path: sub-paths are opened beneath their volume and
//! pinned by a bind mount. Nothing is removed from a folder that still has a mount in it.

use crate::volume::{Content, File, Layout, MountPlan, VolumeSpec};
use pintle_runtime::sandbox::Mount;
use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::{fs, io};

fn wrong(what: &str, path: &Path) -> impl FnOnce(io::Error) -> String {
    let text = format!("cannot {what} {}", path.display());
    move |e| format!("{text}: {e}")
}

/// Makes the node's folders, with a tmpfs for what must not touch the disk.
pub fn prepare(layout: &Layout) -> Result<(), String> {
    for folder in [&layout.pods, &layout.secrets, &layout.seccomp] {
        fs::create_dir_all(folder).map_err(wrong("make folder", folder))?;
    }
    let mode = fs::Permissions::from_mode(0o700);
    if !is_mount(&layout.secrets) {
        mount_tmpfs(&layout.secrets, "mode=0700")?;
    }
    fs::set_permissions(&layout.secrets, mode).map_err(wrong("protect", &layout.secrets))
}

fn is_mount(path: &Path) -> bool {
    let above = path.parent().and_then(|p| fs::metadata(p).ok());
    match (fs::symlink_metadata(path), above) {
        (Ok(own), Some(above)) => own.dev() != above.dev(),
        _ => false,
    }
}

fn mount_tmpfs(path: &Path, options: &str) -> Result<(), String> {
    let data = CString::new(options).map_err(|e| e.to_string())?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("pintle", path, "tmpfs", flags, data.as_c_str())
        .map_err(|e| wrong("mount a tmpfs on", path)(e.into()))
}

/// Makes volumes and pod files as they should be; repeating it changes nothing.
pub fn make_volumes(volumes: &[VolumeSpec], files: &[(PathBuf, String)]) -> Result<(), String> {
    for (path, content) in files {
        write_in_place(path, content)?;
    }
    for v in volumes {
        make_volume(v)
            .map_err(|why| format!("MountVolume.SetUp failed for volume {:?} : {why}", v.name))?;
    }
    Ok(())
}

/// Keeps the file's identity: it is bind-mounted into containers.
fn write_in_place(path: &Path, content: &str) -> Result<(), String> {
    if fs::read(path).is_ok_and(|old| old == content.as_bytes()) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(wrong("make folder", folder))?;
    }
    fs::write(path, content).map_err(wrong("write", path))
}

fn make_volume(v: &VolumeSpec) -> Result<(), String> {
    match &v.content {
        Content::EmptyDir => {
            if !v.path.is_dir() {
                fs::create_dir_all(&v.path).map_err(wrong("make folder", &v.path))?;
                own_folder(&v.path, 0o777, v.fs_group)?;
            }
            Ok(())
        }
        Content::Memory(bytes) => {
            fs::create_dir_all(&v.path).map_err(wrong("make folder", &v.path))?;
            if !is_mount(&v.path) {
                let size = bytes.map(|b| format!(",size={b}")).unwrap_or_default();
                mount_tmpfs(&v.path, &format!("mode=0777{size}"))?;
                own_folder(&v.path, 0o777, v.fs_group)?;
            }
            Ok(())
        }
        Content::HostPath(kind) => check_host_path(&v.path, kind),
        Content::Files(files) => write_atomically(&v.path, files, v.fs_group),
    }
}

fn own_folder(path: &Path, mode: u32, group: Option<u32>) -> Result<(), String> {
    let mode = match group {
        Some(gid) => {
            std::os::unix::fs::chown(path, None, Some(gid)).map_err(wrong("give away", path))?;
            mode | 0o2000
        }
        None => mode,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(wrong("protect", path))
}

fn check_host_path(path: &Path, kind: &str) -> Result<(), String> {
    let found = fs::metadata(path).ok();
    match (kind, &found) {
        ("" | "DirectoryOrCreate", None) => {
            return fs::create_dir_all(path).map_err(wrong("make folder", path));
        }
        ("FileOrCreate", None) => {
            return fs::File::create_new(path).map(drop).map_err(wrong("make file", path));
        }
        _ => {}
    }
    let ok = found.is_some_and(|m| match kind {
        "" => true,
        "Directory" | "DirectoryOrCreate" => m.is_dir(),
        "File" | "FileOrCreate" => m.is_file(),
        "Socket" => m.file_type().is_socket(),
        "CharDevice" => m.file_type().is_char_device(),
        "BlockDevice" => m.file_type().is_block_device(),
        _ => false,
    });
    let want = match kind {
        "Directory" | "DirectoryOrCreate" => "a directory",
        "File" | "FileOrCreate" => "a file",
        "Socket" => "a socket",
        "CharDevice" => "a character device",
        "BlockDevice" => "a block device",
        other => other,
    };
    if ok {
        Ok(())
    } else {
        Err(format!("hostPath type check failed: {} is not {want}", path.display()))
    }
}

fn content_name(files: &[File], group: Option<u32>) -> String {
    let mut parts = vec![format!("{group:?}")];
    for f in files {
        let bytes = String::from_utf8_lossy(&f.bytes);
        parts.push(format!(
            "{}\0{:o}\0{:?}\0{}\0{bytes}",
            f.path.display(),
            f.mode,
            f.uid,
            f.bytes.len()
        ));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (a, b) = (crate::container::fnv(&parts, 4), crate::container::fnv(&parts, 5));
    format!("..{a:016x}{b:016x}")
}

/// Replaces all files of a volume at once: they lie in a folder named by their content, `..data` points to
/// it and changes by one rename, and what the container sees are links through `..data`.
fn write_atomically(volume: &Path, files: &[File], group: Option<u32>) -> Result<(), String> {
    fs::create_dir_all(volume).map_err(wrong("make folder", volume))?;
    let name = content_name(files, group);
    let data = volume.join("..data");
    let old = fs::read_link(&data).ok();
    if old.as_deref() == Some(Path::new(&name)) {
        return Ok(());
    }
    let fresh = volume.join(&name);
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(wrong("remove", &fresh))?;
    }
    fs::create_dir(&fresh).map_err(wrong("make folder", &fresh))?;
    own_folder(&fresh, 0o755, group)?;
    for f in files {
        write_file(&fresh, f, group)?;
    }
    let next = volume.join("..data_tmp");
    let _ = fs::remove_file(&next);
    symlink(&name, &next).map_err(wrong("link", &next))?;
    fs::rename(&next, &data).map_err(wrong("put in place", &data))?;
    own_folder(volume, 0o755, group)?;
    visible_links(volume, files)?;
    if let Some(old) = old {
        let old = volume.join(old);
        fs::remove_dir_all(&old).map_err(wrong("remove", &old))?;
    }
    Ok(())
}

fn write_file(folder: &Path, f: &File, group: Option<u32>) -> Result<(), String> {
    let path = folder.join(&f.path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(wrong("make folder", parent))?;
    }
    fs::write(&path, &f.bytes).map_err(wrong("write", &path))?;
    if f.uid.is_some() || group.is_some() {
        std::os::unix::fs::chown(&path, f.uid, group).map_err(wrong("give away", &path))?;
    }
    let mode = if group.is_some() { f.mode | 0o440 } else { f.mode };
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(wrong("protect", &path))
}

fn visible_links(volume: &Path, files: &[File]) -> Result<(), String> {
    let wanted: std::collections::BTreeSet<OsString> = files
        .iter()
        .filter_map(|f| f.path.components().next())
        .map(|c| c.as_os_str().to_os_string())
        .collect();
    for entry in fs::read_dir(volume).map_err(wrong("read", volume))?.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with("..") && !wanted.contains(&name) {
            fs::remove_file(entry.path()).map_err(wrong("remove", &entry.path()))?;
        }
    }
    for name in wanted {
        let link = volume.join(&name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(&name), &link).map_err(wrong("link", &link))?;
        }
    }
    Ok(())
}

/// Makes the empty file that a container writes its termination message to.
pub fn touch_termination(path: &Path) -> Result<(), String> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(wrong("make folder", folder))?;
    }
    fs::write(path, "").map_err(wrong("make", path))?;
    // Whoever the container runs as may write it.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(wrong("protect", path))
}

/// Looks up sub-paths and gives the runtime's mounts. `pins`: folder for the bind mounts that hold them.
pub fn resolve_mounts(
    plans: &[MountPlan],
    pins: &Path,
    container: &str,
) -> Result<Vec<Mount>, String> {
    let mut out = Vec::with_capacity(plans.len());
    for (i, plan) in plans.iter().enumerate() {
        let source = if plan.sub_path.is_empty() {
            plan.source.clone()
        } else {
            pin_sub_path(plan, &pins.join(format!("{container}-{i}")))?
        };
        out.push(Mount {
            source,
            destination: plan.destination.clone(),
            read_only: plan.read_only,
            tmpfs_bytes: None,
            propagation: plan.propagation.clone(),
        });
    }
    Ok(out)
}

fn pin_sub_path(plan: &MountPlan, pin: &Path) -> Result<PathBuf, String> {
    let failed = |e: io::Error| {
        format!("failed to prepare subPath {:?} of {}: {e}", plan.sub_path, plan.source.display())
    };
    let found = open_beneath(&plan.source, Path::new(&plan.sub_path)).map_err(failed)?;
    if fs::symlink_metadata(pin).is_ok() {
        unmount_below(pin)?;
    }
    let is_dir = rustix::fs::fstat(&found)
        .map(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_dir())
        .map_err(|e| failed(e.into()))?;
    if let Some(folder) = pin.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    match (is_dir, fs::symlink_metadata(pin).ok().map(|m| m.is_dir())) {
        (true, None) => fs::create_dir(pin).map_err(failed)?,
        (false, None) => fs::write(pin, "").map_err(failed)?,
        (a, Some(b)) if a == b => {}
        (_, Some(true)) => {
            fs::remove_dir(pin).and_then(|()| fs::write(pin, "")).map_err(failed)?;
        }
        (_, Some(false)) => {
            fs::remove_file(pin).and_then(|()| fs::create_dir(pin)).map_err(failed)?;
        }
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(&found, "", flags).map_err(|e| failed(e.into()))?;
    rustix::mount::move_mount(&tree, "", CWD, pin, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| failed(e.into()))?;
    Ok(pin.to_path_buf())
}

/// Opens a path beneath a folder, whatever links a container may have put there; makes missing folders.
fn open_beneath(root: &Path, sub: &Path) -> io::Result<OwnedFd> {
    let path_flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, path_flags | OFlags::DIRECTORY, Mode::empty())?;
    let open = |at: &OwnedFd, name: &Path| {
        rustix::fs::openat2(
            at.as_fd(),
            name,
            path_flags,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )
    };
    match open(&root, sub) {
        Ok(found) => return Ok(found),
        Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let like = rustix::fs::fstat(&root)?;
    // Each folder is opened beneath the root by its whole path: a link swapped in cannot lead outside.
    let mut sofar = PathBuf::new();
    for part in sub.components() {
        let parent = if sofar.as_os_str().is_empty() { Path::new(".") } else { &sofar };
        let at = open(&root, parent)?;
        match rustix::fs::mkdirat(&at, part.as_os_str(), Mode::from_raw_mode(0o700)) {
            Ok(()) => dress(&open(&at, Path::new(part.as_os_str()))?, &like)?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        sofar.push(part);
    }
    Ok(open(&root, sub)?)
}

/// A folder made for a sub-path belongs to whom the volume belongs to, and lets in whom it lets in.
fn dress(made: &OwnedFd, like: &rustix::fs::Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    let flags = rustix::fs::AtFlags::EMPTY_PATH;
    rustix::fs::chownat(made, "", Some(uid), Some(gid), flags)?;
    let mode = Mode::from_raw_mode(like.st_mode & 0o7777);
    // A path descriptor cannot be changed itself; its entry in /proc leads to the same folder.
    let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(made));
    rustix::fs::chmod(own.as_str(), mode)?;
    Ok(())
}

/// Mount points at or below a path, deepest last.
fn mounts_below(path: &Path) -> Result<Vec<PathBuf>, String> {
    let file = Path::new("/proc/self/mountinfo");
    let text = fs::read(file).map_err(wrong("read", file))?;
    let mut out = Vec::new();
    for line in text.split(|b| *b == b'\n') {
        if let Some(field) = line.split(|b| *b == b' ').nth(4) {
            let point = PathBuf::from(OsString::from_vec(unescape(field)));
            if point.starts_with(path) {
                out.push(point);
            }
        }
    }
    Ok(out)
}

/// Undoes the `\040` escapes of mountinfo.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&b, after)) = rest.split_first() {
        let code = (b == b'\\')
            .then(|| after.get(..3).and_then(|d| std::str::from_utf8(d).ok()))
            .flatten()
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(code) => {
                out.push(code);
                rest = &after[3..];
            }
            None => {
                out.push(b);
                rest = after;
            }
        }
    }
    out
}

fn unmount_below(path: &Path) -> Result<(), String> {
    for point in mounts_below(path)?.into_iter().rev() {
        rustix::mount::unmount(&point, UnmountFlags::DETACH)
            .map_err(|e| wrong("unmount", &point)(e.into()))?;
    }
    Ok(())
}

/// Removes folders of a pod. Does nothing to a folder that still has a mount in it: behind it may lie data
/// that is not the pod's.
pub fn remove_folders(folders: &[PathBuf]) -> Result<(), String> {
    for folder in folders {
        if fs::symlink_metadata(folder).is_err() {
            continue;
        }
        let real = fs::canonicalize(folder).map_err(wrong("find", folder))?;
        unmount_below(&real)?;
        if let Some(left) = mounts_below(&real)?.first() {
            return Err(format!("{} is still mounted: {} is kept", left.display(), real.display()));
        }
        fs::remove_dir_all(&real).map_err(wrong("remove", &real))?;
    }
    Ok(())
}

/// Removes a log with its rotated files (`NAME.*`), or any other file.
pub fn remove_with_rotated(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
    let name = name.to_string_lossy().into_owned();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let other = entry.file_name().to_string_lossy().into_owned();
        if other == name || other.strip_prefix(&name).is_some_and(|rest| rest.starts_with('.')) {
            // One that stays costs only its bytes; the pod's end removes the folder.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn folder(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("pt-disk-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("temporary folder");
        Folder(path)
    }

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), mode: 0o640, uid: None, bytes: text.into() }
    }

    #[test]
    fn files_change_all_at_once() {
        let root = folder("atomic");
        let v = root.0.join("v");
        let write = |files: &[File]| write_atomically(&v, files, None).expect("written");
        let read = |name: &str| fs::read_to_string(v.join(name)).ok();
        write(&[file("a", "1"), file("d/b", "2")]);
        let first = fs::read_link(v.join("..data")).expect("link");
        write(&[file("a", "1"), file("d/b", "2")]);
        assert_eq!(fs::read_link(v.join("..data")).expect("link"), first, "nothing changed");
        assert_eq!((read("a").as_deref(), read("d/b").as_deref()), (Some("1"), Some("2")));
        let mode = fs::metadata(v.join("a")).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        write(&[file("a", "3")]);
        assert_eq!((read("a").as_deref(), read("d/b")), (Some("3"), None));
        assert!(!v.join(first).exists(), "the old files are gone");
        assert!(fs::symlink_metadata(v.join("d")).is_err(), "and their link");
    }

    #[test]
    fn sub_paths_never_leave_the_volume() {
        let root = folder("beneath");
        let v = root.0.join("v");
        fs::create_dir_all(v.join("ok")).expect("folder");
        fs::create_dir_all(root.0.join("outside")).expect("folder");
        symlink("/etc", v.join("abs")).expect("link");
        symlink("../outside", v.join("up")).expect("link");
        symlink("ok", v.join("inner")).expect("link");
        for bad in ["abs", "up", "abs/x", "up/new", "../outside"] {
            assert!(open_beneath(&v, Path::new(bad)).is_err(), "{bad}");
        }
        for good in ["ok", "inner", "new/deep/er", "inner/made"] {
            open_beneath(&v, Path::new(good)).expect(good);
        }
        assert!(v.join("ok/made").is_dir() && v.join("new/deep/er").is_dir());
        let mode = |p: &Path| fs::metadata(p).expect("folder").permissions().mode();
        assert_eq!(mode(&v.join("new/deep")), mode(&v), "as open as the volume");
        assert!(!root.0.join("outside/new").exists());
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(br"/a\040b\134"), br"/a b\");
    }
}
