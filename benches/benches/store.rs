//! Durable puts of 1 KiB inside one process, on the real disk, beside the disk's own limit in the same run.
//!
//! `fdatasync` is what the disk does with nothing above it: 1 KiB written into a block that exists, then a sync.
//! `put/N` keeps N puts under way: as soon as one is acknowledged, the next is asked for. `get` reads keys that
//! are not in the cache from the log. Set `PINTLE_BENCH_DIR` to choose the disk; the default is the target folder.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pintle_base::disk::{DirDisk, Disk};
use pintle_base::{Now, Time, Wall};
use pintle_store::{Config, Done, Job, Output, Store};
use pintle_wire::msg::Body;
use pintle_wire::msg::store::{Durability, Op, RangeRequest, Reply, Request};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 1024;

fn folder(name: &str) -> PathBuf {
    let root = std::env::var_os("PINTLE_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let path = root.join(format!("pintle-bench-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

/// A store with its two threads, driven from here.
struct Rig {
    store: Store,
    commits: Sender<Job>,
    chores: Sender<Job>,
    done: Receiver<Done>,
    threads: Vec<JoinHandle<()>>,
    path: PathBuf,
    next: u64,
}

impl Rig {
    fn new(name: &str) -> Rig {
        let path = folder(name);
        let disk = Arc::new(DirDisk::open(&path).expect("folder"));
        let (store, _) = Store::open(&*disk, Config::default(), now(0)).expect("store");
        let (sender, done) = channel();
        let mut threads = Vec::new();
        let mut worker = |disk: Arc<DirDisk>| {
            let (jobs, todo) = channel::<Job>();
            let sender = sender.clone();
            threads.push(std::thread::spawn(move || {
                while let Ok(job) = todo.recv() {
                    if sender.send(job.run(&*disk)).is_err() {
                        return;
                    }
                }
            }));
            jobs
        };
        let (commits, chores) = (worker(Arc::clone(&disk)), worker(disk));
        Rig { store, commits, chores, done, threads, path, next: 0 }
    }

    fn ask_put(&mut self) {
        self.next += 1;
        let key = format!("/registry/core/configmaps/default/object-{:06}", self.next % 100_000);
        let op = Op::Put { key: key.into(), value: Body::from([7; VALUE_BYTES]), lease: 0 };
        let request = Request::Txn {
            compare: Vec::new(),
            then: vec![op],
            otherwise: Vec::new(),
            durability: Durability::Durable,
        };
        self.store.handle_request(self.next, request, now(self.next));
    }

    /// Puts `count` values with `writers` under way; the time that it took.
    fn puts(&mut self, writers: u64, count: u64) -> Duration {
        let start = instant();
        let mut asked = 0;
        let mut answered = 0;
        while asked < writers.min(count) {
            self.ask_put();
            asked += 1;
        }
        loop {
            let mut more = 0;
            while let Some(output) = self.store.poll_output() {
                match output {
                    Output::Reply(_, Reply::Txn { succeeded: true, .. }) => more += 1,
                    Output::Reply(_, other) => panic!("{other:?}"),
                    Output::Job(job) if job.is_commit() => self.commits.send(job).expect("thread"),
                    Output::Job(job) => self.chores.send(job).expect("thread"),
                    Output::Full(_) => panic!("the disk is full"),
                    Output::Fatal(why) => panic!("{why}"),
                }
            }
            answered += more;
            if answered == count {
                return start.elapsed();
            }
            let again = more.min(count - asked);
            for _ in 0..again {
                self.ask_put();
            }
            asked += again;
            if again == 0 {
                let done = self.done.recv().expect("a thread ended");
                self.store.handle_done(done, now(self.next));
            }
        }
    }

    fn get(&mut self, n: u64) {
        let key = format!("/registry/core/configmaps/default/object-{n:06}").into_bytes();
        let request = Request::Range(RangeRequest { key, ..RangeRequest::default() });
        self.store.handle_request(0, request, now(self.next));
        match self.store.poll_output() {
            Some(Output::Reply(_, Reply::Range(_, r))) => assert_eq!(r.count, 1),
            other => panic!("{other:?}"),
        }
    }
}

impl Rig {
    /// Ends the store as a kill does; answers the folder, which stays.
    fn end(mut self) -> PathBuf {
        let path = std::mem::take(&mut self.path);
        let threads = std::mem::take(&mut self.threads);
        // With their senders gone the threads end, and with them the lock of the folder.
        drop(self);
        threads.into_iter().for_each(|t| t.join().expect("a thread panicked"));
        path
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn now(ms: u64) -> Now {
    Now { mono: Time(ms * 1000), wall: Wall(ms as i64 * 1000) }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn instant() -> Instant {
    Instant::now()
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("store");
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    group.throughput(Throughput::Elements(1));

    let path = folder("raw");
    let disk = DirDisk::open(&path).expect("folder");
    let file = disk.create("raw", 64 << 20).expect("file");
    let mut at = 0;
    group.bench_function("fdatasync", |b| {
        b.iter(|| {
            file.write_at(&[7; VALUE_BYTES], at).expect("write");
            file.sync_data().expect("sync");
            at = (at + VALUE_BYTES as u64) % (63 << 20);
        });
    });
    drop(disk);
    let _ = std::fs::remove_dir_all(&path);

    for writers in [1, 10, 100, 1000] {
        let mut rig = Rig::new("put");
        rig.puts(writers, 2000);
        group.bench_function(BenchmarkId::new("put", writers), |b| {
            b.iter_custom(|count| rig.puts(writers, count));
        });
    }

    let mut rig = Rig::new("get");
    rig.puts(1000, 100_000);
    let before = resident_kib();
    let mut n = 0;
    group.bench_function("get", |b| {
        b.iter(|| {
            n = (n + 7919) % 90_000;
            rig.get(n + 1);
        });
    });
    let path = rig.end();
    let before_open = resident_kib();
    group.bench_function("open/100000", |b| {
        b.iter_batched(
            || DirDisk::open(&path).expect("folder"),
            |disk| {
                let (store, recovery) =
                    Store::open(&disk, Config::default(), now(1)).expect("store");
                assert_eq!(recovery.keys, 100_000);
                (store, disk)
            },
            BatchSize::PerIteration,
        );
    });
    let disk = DirDisk::open(&path).expect("folder");
    let store = Store::open(&disk, Config::default(), now(1)).expect("store").0;
    println!(
        "resident: {before} KiB with 100,000 keys after all of the above, {before_open} KiB after closing, \
         {} KiB after opening; the store's own estimate {} KiB",
        resident_kib(),
        store.status().memory_bytes >> 10
    );
    let _ = std::fs::remove_dir_all(&path);
    group.finish();
}

/// Resident memory of this process.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

criterion_group!(benches, bench);
criterion_main!(benches);
