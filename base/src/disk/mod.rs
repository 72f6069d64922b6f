//! One flat folder of files, as a log needs it: a trait, the real folder and a simulated one.
//!
//! What it is not: a file system. There are no paths, no appends and no permissions; a name is a file name in
//! one folder. Nothing is durable before [`File::sync_data`] (contents and length) or [`Disk::sync_dir`]
//! (creation, renaming, removal) returned. The store is written against these promises alone, and
//! [`SimDisk`] breaks everything that they do not promise.

mod real;
mod sim;

pub use real::DirDisk;
pub use sim::{Fault, SimDisk};

use std::io;
use std::sync::Arc;

/// A folder. All calls may block on the device.
pub trait Disk: Send + Sync {
    /// Names of the files in it, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a new file of `size_bytes` bytes, all zero and written to the device's blocks (so that later
    /// writes inside it neither grow it nor find the disk full). An old file of this name is replaced.
    /// The contents are durable when this returns, the name only after [`Disk::sync_dir`].
    fn create(&self, name: &str, size_bytes: u64) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Renames a file over whatever has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Open handles go on working.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all creations, renamings and removals so far durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file. Positions are explicit, so that readers and one writer may share it.
pub trait File: Send + Sync {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`. After an error any part of them may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns when everything written before is on the device. After an error nothing is known of those
    /// bytes, not even when a second call succeeds: never retry, end the process.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn size_bytes(&self) -> io::Result<u64>;
}

/// Reads exactly `len` bytes at `offset`; a file that ends before is `UnexpectedEof`.
pub fn read_exact_at(file: &dyn File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; len];
    read_into(file, offset, &mut buf)?;
    Ok(buf)
}

/// Fills `buf` from `offset` on; a file that ends before is `UnexpectedEof`.
pub fn read_into(file: &dyn File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => done += n,
        }
    }
    Ok(())
}
