//! A folder of the real file system.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, File};

/// Name of the file whose lock says that a process works in the folder.
const LOCK: &str = "LOCK";

/// Bytes written with one sync when a file is made.
const ZERO_BYTES: usize = 512 << 10;

/// A folder that this process alone works in, as long as the value lives.
pub struct DirDisk {
    path: PathBuf,
    dir: fs::File,
    /// Held, never read: closing it gives the lock back.
    _lock: Option<fs::File>,
}

impl DirDisk {
    /// Opens the folder, making it (mode 0700) and its parents when missing, and locks it.
    ///
    /// # Errors
    /// `WouldBlock` when another process holds the lock; otherwise what the system says.
    pub fn open(path: &Path) -> io::Result<DirDisk> {
        fs::DirBuilder::new().recursive(true).mode_0700().create(path)?;
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK))?;
        lock.try_lock().map_err(|e| match e {
            fs::TryLockError::WouldBlock => io::Error::from(io::ErrorKind::WouldBlock),
            fs::TryLockError::Error(e) => e,
        })?;
        let dir = fs::File::open(path)?;
        Ok(DirDisk { path: path.to_owned(), dir, _lock: Some(lock) })
    }

    /// Opens an existing folder without locking it, for tools that only read.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_unlocked(path: &Path) -> io::Result<DirDisk> {
        Ok(DirDisk { path: path.to_owned(), dir: fs::File::open(path)?, _lock: None })
    }
}

trait Mode0700 {
    fn mode_0700(&mut self) -> &mut Self;
}

impl Mode0700 for fs::DirBuilder {
    fn mode_0700(&mut self) -> &mut Self {
        std::os::unix::fs::DirBuilderExt::mode(self, 0o700)
    }
}

impl Disk for DirDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && name != LOCK
                && entry.file_type()?.is_file()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str, size_bytes: u64) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(self.path.join(name))?;
        // Blocks that were written once take an overwrite with no change of metadata: fdatasync is a third
        // faster than on blocks that are only reserved. A sync after every piece keeps the device's queue
        // short: whoever syncs another file meanwhile waits for one piece and not for all of them.
        let zeros = vec![0; ZERO_BYTES.min(size_bytes as usize)];
        let mut offset = 0;
        while offset < size_bytes {
            let n = (size_bytes - offset).min(zeros.len() as u64);
            file.write_all_at(&zeros[..n as usize], offset)?;
            file.sync_data()?;
            offset += n;
        }
        file.sync_all()?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.path.join(name);
        let file = if self._lock.is_some() {
            fs::OpenOptions::new().read(true).write(true).open(path)?
        } else {
            fs::File::open(path)?
        };
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }
}

struct RealFile(fs::File);

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buf, offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
