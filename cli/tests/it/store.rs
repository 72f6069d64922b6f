//! `pintle store` under `kill -9` in a loop, with clients that write, compare and watch all the time.
//!
//! Checked after every restart: what was acknowledged is there; a counter that clients raise by compare-and-swap
//! has exactly the acknowledged increments and at most those under way besides; revisions never go back; and
//! watchers that resume where they were get every change once, in order.

use pintle_base::Prng;
use pintle_reactor::{Endpoint, blocking::Client};
use pintle_wire::conn::{Hello, Limits};
use pintle_wire::msg::store::{Compare, Durability, Op, RangeRequest, Reply, Request};
use pintle_wire::msg::{self, Open};
use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const WRITERS: usize = 4;

struct Home {
    dir: PathBuf,
    notify: UnixDatagram,
}

impl Home {
    fn new(name: &str) -> Home {
        let dir = std::env::temp_dir().join(format!("pt-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("folder");
        let notify = UnixDatagram::bind(dir.join("notify")).expect("socket");
        notify.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        Home { dir, notify }
    }

    #[expect(clippy::disallowed_methods, reason = "the test starts the daemon that it kills")]
    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_pintle"));
        c.arg("store").arg("--data-dir").arg(&self.dir).args(args);
        c.env("NOTIFY_SOCKET", self.dir.join("notify"));
        c
    }

    /// Starts the store and waits until it is ready.
    #[expect(clippy::zombie_processes, reason = "the caller kills it and waits for it")]
    fn start(&self) -> Child {
        let child = self.command(&[]).stderr(Stdio::null()).spawn().expect("start the store");
        let mut buffer = [0; 64];
        loop {
            let n = self.notify.recv(&mut buffer).expect("the store is never ready");
            if &buffer[..n] == b"READY=1" {
                return child;
            }
        }
    }

    fn client(&self) -> Option<Client> {
        connect(&self.dir)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn connect(dir: &Path) -> Option<Client> {
    let endpoint = Endpoint::Unix(dir.join("run/store.sock"));
    let hello = Hello { daemon: "cli".into(), ..Hello::default() };
    Client::connect(endpoint, hello, Limits::default(), Duration::from_secs(5)).ok()
}

fn call(client: &mut Client, request: Request) -> Option<Reply> {
    let bytes = client.call(&msg::encode(&Open::Store(request))).ok()?;
    Some(msg::decode(&bytes).expect("a reply that makes sense"))
}

fn put(key: &str, value: u64) -> Op {
    Op::Put { key: key.into(), value: value.to_string().into_bytes().into(), lease: 0 }
}

fn txn(compare: Vec<Compare>, then: Vec<Op>) -> Request {
    Request::Txn { compare, then, otherwise: Vec::new(), durability: Durability::Durable }
}

fn range(key: &[u8], range_end: &[u8]) -> Request {
    Request::Range(RangeRequest {
        key: key.to_vec(),
        range_end: range_end.to_vec(),
        ..RangeRequest::default()
    })
}

/// Value and mod revision of a key, and the store's revision.
fn get(client: &mut Client, key: &str) -> Option<(u64, u64, u64)> {
    match call(client, range(key.as_bytes(), b""))? {
        Reply::Range(revision, r) => Some(match r.kvs.first() {
            None => (0, 0, revision),
            Some(kv) => (number(&kv.value), kv.mod_revision, revision),
        }),
        other => panic!("{other:?}"),
    }
}

fn number(value: &[u8]) -> u64 {
    String::from_utf8_lossy(value).parse().expect("a number")
}

/// What a writer knows for certain when the store is killed under it.
#[derive(Clone, Copy, Default)]
struct Writer {
    acknowledged: u64,
    tried: u64,
    increments: u64,
    /// Increments whose answer never came.
    open: u64,
    revision: u64,
}

/// Writes until the connection breaks.
fn write(dir: &Path, n: usize, mut w: Writer) -> Writer {
    let Some(mut client) = connect(dir) else { return w };
    let key = format!("writer/{n}");
    loop {
        w.tried += 1;
        match call(&mut client, txn(Vec::new(), vec![put(&key, w.tried)])) {
            Some(Reply::Txn { succeeded: true, revision, .. }) => {
                assert!(revision > w.revision, "revision {revision} after {}", w.revision);
                (w.acknowledged, w.revision) = (w.tried, revision);
            }
            None => return w,
            other => panic!("{other:?}"),
        }
        let Some((count, mod_revision, revision)) = get(&mut client, "counter") else { return w };
        assert!(revision >= w.revision, "a read went back from {} to {revision}", w.revision);
        w.revision = revision;
        let compare = vec![Compare::ModRevision(b"counter".to_vec(), mod_revision)];
        w.open += 1;
        match call(&mut client, txn(compare, vec![put("counter", count + 1)])) {
            Some(Reply::Txn { succeeded, revision, .. }) => {
                w.open -= 1;
                w.increments += u64::from(succeeded);
                w.revision = w.revision.max(revision);
            }
            None => return w,
            other => panic!("{other:?}"),
        }
    }
}

/// What a watcher has put together from events.
#[derive(Default)]
struct Watcher {
    seen: BTreeMap<Vec<u8>, (u64, u64)>,
    reached: u64,
    counter_steps: u64,
}

impl Watcher {
    /// Watches from where it was until the connection breaks, or until `until` is reached.
    fn watch(&mut self, dir: &Path, until: Option<u64>) {
        let Some(mut client) = connect(dir) else { return };
        let from_revision = self.reached + 1;
        let request = Request::Watch {
            key: vec![0],
            range_end: vec![0],
            from_revision: from_revision.max(2),
            prev_kv: false,
        };
        let Ok(stream) = client.open(&msg::encode(&Open::Store(request)), true) else { return };
        while until.is_none_or(|until| self.reached < until) {
            let Ok(Some(bytes)) = client.next(stream, None) else { return };
            match msg::decode(&bytes).expect("a reply that makes sense") {
                Reply::WatchCreated { .. } => {}
                Reply::WatchProgress { revision } => self.reached = self.reached.max(revision),
                Reply::WatchEvents { events, revision } => {
                    for e in &events {
                        let value = number(&e.kv.value);
                        assert!(e.kv.mod_revision > self.reached, "an event came twice");
                        let before = self.seen.insert(e.kv.key.clone(), (value, e.kv.mod_revision));
                        let (old, at) = before.unwrap_or((0, 0));
                        assert!(e.kv.mod_revision > at, "events out of order");
                        assert_eq!(e.kv.version, value, "every put raises the value by one");
                        assert_eq!(value, old + 1, "an event of {:?} is missing", e.kv.key);
                        self.counter_steps += u64::from(e.kv.key == b"counter");
                    }
                    self.reached = revision;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let home = Home::new("kill");
    let mut prng = Prng::new(42);
    let mut writers = [Writer::default(); WRITERS];
    let mut watcher = Watcher::default();
    let (_hold, nothing) = mpsc::channel::<()>();
    for round in 0..25 {
        let mut child = home.start();
        check(&home, &mut writers, round);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (writers.iter().enumerate())
                .map(|(n, w)| {
                    scope.spawn({
                        let w = *w;
                        let home = &home;
                        move || write(&home.dir, n, w)
                    })
                })
                .collect();
            let watching = scope.spawn(|| watcher.watch(&home.dir, None));
            let _ = nothing.recv_timeout(Duration::from_millis(20 + prng.below(120)));
            child.kill().expect("kill -9");
            child.wait().expect("wait");
            for (w, thread) in writers.iter_mut().zip(threads) {
                *w = thread.join().expect("a writer");
            }
            watching.join().expect("the watcher");
        });
    }
    let mut child = home.start();
    let total = check(&home, &mut writers, 25);
    let mut client = home.client().expect("connect");
    let revision = get(&mut client, "counter").expect("counter").2;
    watcher.watch(&home.dir, Some(revision));
    assert_eq!(watcher.counter_steps, total, "the watcher saw every increment once");
    match call(&mut client, range(&[0], &[0])) {
        Some(Reply::Range(_, r)) => {
            let now: BTreeMap<_, _> = r
                .kvs
                .iter()
                .map(|kv| (kv.key.clone(), (number(&kv.value), kv.mod_revision)))
                .collect();
            assert_eq!(now, watcher.seen);
        }
        other => panic!("{other:?}"),
    }
    assert!(total > 100, "only {total} increments: nothing was tested");
    child.kill().expect("kill -9");
    child.wait().expect("wait");
    let fsck = home.command(&["fsck"]).output().expect("fsck");
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stderr));
}

/// After a restart: the certain is there, and the uncertain is taken as it was decided. Answers the counter.
fn check(home: &Home, writers: &mut [Writer], round: u32) -> u64 {
    let mut client = home.client().expect("connect");
    for (n, w) in writers.iter_mut().enumerate() {
        let (value, _, revision) = get(&mut client, &format!("writer/{n}")).expect("get");
        assert!(
            w.acknowledged <= value && value <= w.tried,
            "round {round}: writer {n} was told of {}, tried {}, found {value}",
            w.acknowledged,
            w.tried
        );
        assert!(revision >= w.revision, "round {round}: the revision went back");
        (w.acknowledged, w.tried) = (value, value);
    }
    let (count, _, _) = get(&mut client, "counter").expect("get");
    let certain: u64 = writers.iter().map(|w| w.increments).sum();
    let open: u64 = writers.iter().map(|w| w.open).sum();
    assert!(
        certain <= count && count <= certain + open,
        "round {round}: {certain} increments were acknowledged, {open} are open, found {count}"
    );
    // Those that turned out to have happened are certain from now on.
    writers[0].increments += count - certain;
    writers.iter_mut().for_each(|w| w.open = 0);
    count
}

#[test]
fn a_second_store_on_the_same_folder_is_refused_with_one_clear_line() {
    let home = Home::new("second");
    let mut child = home.start();
    let out = home.command(&["--socket", "/nowhere/x"]).output().expect("start");
    assert!(!out.status.success());
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(err.contains("in use by another store") && err.lines().count() == 1, "{err}");
    let status = home.command(&["status", "-o", "json"]).output().expect("status");
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    let json: serde_json::Value = serde_json::from_str(&text).expect("json");
    assert_eq!(json["revision"], 1);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .expect("SIGTERM");
    assert!(child.wait().expect("wait").success());
    let out = home.command(&["fsck"]).output().expect("fsck");
    assert!(String::from_utf8_lossy(&out.stdout).contains("closed in order"));
}
