//! Deleting what a container wrote can take seconds, and its caller is a loop that must not wait: folders are renamed into
//! `.trash` (at once, atomically) and deleted by a thread that sleeps when there is nothing to do.
//!
//! A caller that dies leaves them there; the next one goes on.

use crate::sandbox::Result;
use crate::state;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// The folder and its thread.
#[derive(Debug)]
pub struct Trash {
    dir: PathBuf,
    next: AtomicU64,
    worker: Mutex<Option<(Sender<PathBuf>, JoinHandle<()>)>>,
}

impl Trash {
    /// Of a runtime; touches nothing yet.
    pub fn new(root: &Path) -> Trash {
        Trash { dir: root.join(".trash"), next: AtomicU64::new(0), worker: Mutex::new(None) }
    }

    /// Makes the folder, and deletes what an earlier caller left in it.
    pub fn open(&self) -> Result<()> {
        let io = |e| state::io("open", &self.dir, e);
        std::fs::create_dir_all(&self.dir).map_err(io)?;
        for entry in std::fs::read_dir(&self.dir).map_err(io)?.flatten() {
            self.delete(entry.path());
        }
        Ok(())
    }

    /// Takes a folder away. None is no error.
    pub fn put(&self, path: &Path) -> Result<()> {
        // Unique among callers by the process and the time of its start of counting.
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}-{n}", std::process::id(), crate::sys::mono_ns());
        let to = self.dir.join(name);
        match std::fs::rename(path, &to) {
            Ok(()) => {
                self.delete(to);
                Ok(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(state::io("put away", path, e)),
        }
    }

    fn delete(&self, path: PathBuf) {
        let Ok(mut worker) = self.worker.lock() else { return };
        let (sender, _) = worker.get_or_insert_with(|| {
            let (sender, receiver) = channel::<PathBuf>();
            let thread = std::thread::spawn(move || {
                for path in receiver {
                    // What cannot be deleted now is tried again when the next caller opens the runtime.
                    let _ = state::remove_tree(&path);
                }
            });
            (sender, thread)
        });
        let _ = sender.send(path);
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        if let Ok(mut worker) = self.worker.lock()
            && let Some((sender, thread)) = worker.take()
        {
            drop(sender);
            let _ = thread.join();
        }
    }
}
