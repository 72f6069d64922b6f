//! A disk in memory that keeps no promise that was not made.
//!
//! Between two syncs of a file every sector that was written may come back after a power cut as any of the
//! images that it had since the last sync: that loses, tears and reorders writes. Directory changes since the
//! last `sync_dir` survive as a prefix of random length. A call can be made to fail, and the power can be cut
//! at a call; afterwards every call fails until [`SimDisk::power_cycle`].

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, File};
use crate::prng::Prng;

/// What goes wrong at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device reports an error. Of a write some sectors may have changed; a sync leaves its dirty
    /// sectors clean in memory and old on the device, as Linux does.
    Eio,
    /// No space is left. Of a write some sectors may have changed.
    Enospc,
    /// The power goes: of a write some sectors may have reached the device; no later call works.
    PowerCut,
}

/// The disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    sector: usize,
    prng: Prng,
    calls: u64,
    faults: BTreeMap<u64, Fault>,
    /// Every call that allocates fails while set.
    full: bool,
    dead: bool,
    /// Power cycles so far; handles of an older one are stale.
    epoch: u64,
    next_inode: u64,
    inodes: BTreeMap<u64, Inode>,
    /// The directory as the running system sees it.
    names: BTreeMap<String, u64>,
    /// The directory on the device.
    names_synced: BTreeMap<String, u64>,
    /// Directory changes since the last `sync_dir`, in order.
    dir_ops: Vec<DirOp>,
}

#[derive(Clone)]
enum DirOp {
    Link(String, u64),
    Unlink(String),
    Rename(String, String),
}

#[derive(Default)]
struct Inode {
    /// What a read sees.
    bytes: Vec<u8>,
    /// Length on the device.
    len_synced: usize,
    /// Sector number -> its images since the last sync, oldest (that on the device) first. The newest, which
    /// a read sees, is not among them.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Sector number -> its image on the device, after a failed sync: reads see newer bytes, a later sync
    /// does not write them, only a new write of the sector makes it dirty again.
    stale: BTreeMap<usize, Vec<u8>>,
}

impl SimDisk {
    /// An empty disk with sectors of `sector` bytes (512 or 4096), whose accidents follow from `seed`.
    pub fn new(sector: usize, seed: u64) -> SimDisk {
        SimDisk {
            state: Arc::new(Mutex::new(State {
                sector,
                prng: Prng::new(seed),
                calls: 0,
                faults: BTreeMap::new(),
                full: false,
                dead: false,
                epoch: 0,
                next_inode: 1,
                inodes: BTreeMap::new(),
                names: BTreeMap::new(),
                names_synced: BTreeMap::new(),
                dir_ops: Vec::new(),
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls that changed something or synced, since the disk was made.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Lets the call with this number (see [`SimDisk::calls`]) go wrong.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        self.lock().faults.insert(call, fault);
    }

    /// Forgets the faults that have not struck yet.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// While `full`, creations fail with ENOSPC (space inside existing files stays writable).
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// True after a [`Fault::PowerCut`].
    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Cuts the power and turns it on again: what was not synced is lost, kept or torn by the seed.
    pub fn power_cycle(&self) {
        let mut guard = self.lock();
        let s = &mut *guard;
        let keep = s.prng.below(s.dir_ops.len() as u64 + 1) as usize;
        for op in s.dir_ops.drain(..).take(keep) {
            apply(&mut s.names_synced, op);
        }
        s.names = s.names_synced.clone();
        let (sector, prng) = (s.sector, &mut s.prng);
        for inode in s.inodes.values_mut() {
            inode.settle(sector, prng);
        }
        let live: Vec<u64> = s.names.values().copied().collect();
        s.inodes.retain(|n, _| live.contains(n));
        s.dead = false;
        s.epoch += 1;
    }

    /// The process died, the system did not: nothing is lost. Old handles stop working.
    pub fn process_restart(&self) {
        let mut s = self.lock();
        s.epoch += 1;
        s.dead = false;
    }

    /// Changes bytes of a file behind everybody's back, as a failing device does.
    ///
    /// # Panics
    /// When there is no such file or it is shorter.
    pub fn corrupt(&self, name: &str, offset: usize, change: impl FnOnce(&mut [u8])) {
        let mut s = self.lock();
        let n = s.names[name];
        let inode = s.inodes.get_mut(&n).unwrap_or_else(|| panic!("inode of {name}"));
        change(&mut inode.bytes[offset..]);
        inode.dirty.clear();
        inode.stale.clear();
    }

    /// A copy of a file's bytes as the running system sees them.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let s = self.lock();
        s.inodes.get(s.names.get(name)?).map(|i| i.bytes.clone())
    }
}

impl Inode {
    fn write(&mut self, sector: usize, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        let mut at = offset;
        while at < end {
            let number = at / sector;
            let (from, to) = (number * sector, ((number + 1) * sector).min(self.bytes.len()));
            let n = to.min(end) - at;
            let images = self.dirty.entry(number).or_default();
            images.extend(self.stale.remove(&number));
            images.push(self.bytes[from..to].to_vec());
            self.bytes[at..at + n].copy_from_slice(&bytes[at - offset..at - offset + n]);
            at += n;
        }
    }

    fn revert(&mut self, sector: usize, number: usize, image: &[u8]) {
        let from = number * sector;
        let to = (from + sector).min(self.bytes.len());
        self.bytes[from..to].fill(0);
        self.bytes[from..from + image.len()].copy_from_slice(image);
    }

    /// Power cut: each dirty sector becomes one of its images.
    fn settle(&mut self, sector: usize, prng: &mut Prng) {
        for (number, images) in std::mem::take(&mut self.dirty) {
            let pick = prng.below(images.len() as u64 + 1) as usize;
            if let Some(image) = images.get(pick) {
                self.revert(sector, number, image);
            }
        }
        for (number, image) in std::mem::take(&mut self.stale) {
            self.revert(sector, number, &image);
        }
        if self.bytes.len() > self.len_synced && prng.chance(1, 2) {
            self.bytes.truncate(self.len_synced);
        }
        self.len_synced = self.bytes.len();
    }
}

fn apply(names: &mut BTreeMap<String, u64>, op: DirOp) {
    match op {
        DirOp::Link(name, inode) => {
            names.insert(name, inode);
        }
        DirOp::Unlink(name) => {
            names.remove(&name);
        }
        DirOp::Rename(from, to) => {
            if let Some(inode) = names.remove(&from) {
                names.insert(to, inode);
            }
        }
    }
}

impl State {
    /// Counts a call; says what goes wrong at it.
    fn enter(&mut self) -> io::Result<Option<Fault>> {
        if self.dead {
            return Err(io::Error::other("the simulated disk has no power"));
        }
        let number = self.calls;
        self.calls += 1;
        let fault = self.faults.remove(&number);
        if fault == Some(Fault::PowerCut) {
            self.dead = true;
        }
        Ok(fault)
    }

    /// For calls that either happen wholly or not at all.
    fn enter_whole(&mut self) -> io::Result<()> {
        match self.enter()? {
            None => Ok(()),
            Some(fault) => Err(fault.error()),
        }
    }

    fn dir_op(&mut self, op: DirOp) {
        apply(&mut self.names, op.clone());
        self.dir_ops.push(op);
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Fault::Eio => io::Error::from_raw_os_error(5),
            Fault::Enospc => io::Error::from_raw_os_error(28),
            Fault::PowerCut => io::Error::other("the simulated power was cut"),
        }
    }
}

impl SimDisk {
    fn handle(&self, inode: u64, epoch: u64) -> Arc<dyn File> {
        Arc::new(SimFile { state: Arc::clone(&self.state), inode, epoch })
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let s = self.lock();
        if s.dead {
            return Err(io::Error::other("the simulated disk has no power"));
        }
        Ok(s.names.keys().cloned().collect())
    }

    fn create(&self, name: &str, size_bytes: u64) -> io::Result<Arc<dyn File>> {
        let mut s = self.lock();
        s.enter_whole()?;
        if s.full {
            return Err(Fault::Enospc.error());
        }
        let number = s.next_inode;
        s.next_inode += 1;
        let size = size_bytes as usize;
        let inode = Inode { bytes: vec![0; size], len_synced: size, ..Inode::default() };
        s.inodes.insert(number, inode);
        s.dir_op(DirOp::Link(name.to_owned(), number));
        Ok(self.handle(number, s.epoch))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let s = self.lock();
        match s.names.get(name) {
            Some(inode) if !s.dead => Ok(self.handle(*inode, s.epoch)),
            Some(_) => Err(io::Error::other("the simulated disk has no power")),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut s = self.lock();
        s.enter_whole()?;
        if !s.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        s.dir_op(DirOp::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut s = self.lock();
        s.enter_whole()?;
        if !s.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        s.dir_op(DirOp::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut s = self.lock();
        s.enter_whole()?;
        s.dir_ops.clear();
        s.names_synced = s.names.clone();
        Ok(())
    }
}

struct SimFile {
    state: Arc<Mutex<State>>,
    inode: u64,
    epoch: u64,
}

impl SimFile {
    fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        let s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if s.dead || s.epoch != self.epoch {
            return Err(io::Error::other("the handle is older than the last power cycle"));
        }
        Ok(s)
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let s = self.lock()?;
        let Some(inode) = s.inodes.get(&self.inode) else { return Ok(0) };
        let from = (offset as usize).min(inode.bytes.len());
        let n = buf.len().min(inode.bytes.len() - from);
        buf[..n].copy_from_slice(&inode.bytes[from..from + n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut guard = self.lock()?;
        let s = &mut *guard;
        let fault = s.enter()?;
        let part = match fault {
            None => bytes.len(),
            Some(_) => s.prng.below(bytes.len() as u64 + 1) as usize,
        };
        let sector = s.sector;
        if let Some(inode) = s.inodes.get_mut(&self.inode) {
            inode.write(sector, &bytes[..part], offset as usize);
        }
        fault.map_or(Ok(()), |f| Err(f.error()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.lock()?;
        let s = &mut *guard;
        let fault = s.enter()?;
        let Some(inode) = s.inodes.get_mut(&self.inode) else { return Ok(()) };
        match fault {
            None => {
                inode.dirty.clear();
                inode.len_synced = inode.bytes.len();
                Ok(())
            }
            Some(Fault::PowerCut) => Err(Fault::PowerCut.error()),
            Some(f) => {
                for (number, mut images) in std::mem::take(&mut inode.dirty) {
                    inode.stale.insert(number, images.swap_remove(0));
                }
                Err(f.error())
            }
        }
    }

    fn size_bytes(&self) -> io::Result<u64> {
        let s = self.lock()?;
        Ok(s.inodes.get(&self.inode).map_or(0, |i| i.bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(disk: &SimDisk) -> Arc<dyn File> {
        let f = disk.create("a", 4096).unwrap();
        disk.sync_dir().unwrap();
        f
    }

    #[test]
    fn synced_bytes_survive_and_unsynced_ones_are_sometimes_lost() {
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..64 {
            let disk = SimDisk::new(512, seed);
            let f = file(&disk);
            f.write_at(&[1; 600], 0).unwrap();
            f.sync_data().unwrap();
            f.write_at(&[2; 600], 600).unwrap();
            disk.power_cycle();
            let bytes = disk.contents("a").unwrap();
            assert_eq!(&bytes[..600], &[1; 600][..], "seed {seed}");
            if bytes[600] == 2 { kept += 1 } else { lost += 1 }
        }
        assert!(lost > 0 && kept > 0);
    }

    #[test]
    fn a_write_can_tear_between_sectors() {
        let torn = (0..64).any(|seed| {
            let disk = SimDisk::new(512, seed);
            file(&disk).write_at(&[7; 1024], 0).unwrap();
            disk.power_cycle();
            let b = disk.contents("a").unwrap();
            b[0] != b[512]
        });
        assert!(torn);
    }

    #[test]
    fn a_name_is_lost_without_sync_dir() {
        let lost = (0..64).any(|seed| {
            let disk = SimDisk::new(512, seed);
            disk.create("a", 512).unwrap();
            disk.power_cycle();
            disk.list().unwrap().is_empty()
        });
        assert!(lost);
    }

    #[test]
    fn a_failed_sync_is_not_cured_by_a_second_one() {
        let disk = SimDisk::new(512, 3);
        let f = file(&disk);
        disk.fail_at(disk.calls() + 1, Fault::Eio);
        f.write_at(&[9; 512], 0).unwrap();
        assert!(f.sync_data().is_err());
        f.sync_data().unwrap();
        assert_eq!(disk.contents("a").unwrap()[0], 9, "reads see what was written");
        disk.power_cycle();
        assert_eq!(disk.contents("a").unwrap()[0], 0, "the device never got it");
    }

    #[test]
    fn faults_strike_at_their_call_and_the_dead_stay_dead() {
        let disk = SimDisk::new(512, 1);
        let f = file(&disk);
        disk.fail_at(disk.calls(), Fault::PowerCut);
        assert!(f.write_at(&[1; 10], 0).is_err());
        assert!(disk.is_dead() && disk.list().is_err() && f.sync_data().is_err());
        disk.power_cycle();
        assert!(f.write_at(&[1; 10], 0).is_err(), "old handles stay dead");
        assert_eq!(disk.list().unwrap(), ["a"]);
    }
}
