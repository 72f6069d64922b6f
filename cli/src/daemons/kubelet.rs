//! `pintle kubelet`: the shell around `pintle-kubelet`. One reactor loop and a few worker threads.
//!
//! The loop owns the connection to the API server, the event descriptors of all shims, probes and the streams
//! of exec, attach, logs and port-forward; calls to the runtime that block for milliseconds run on workers,
//! whose results are posted back. It moves bytes and decides nothing. When it ends, pods go on.

mod checks;
mod logs;
mod machine;
mod pool;
mod sessions;
mod targets;

use super::upstream::{self, Upstream};
use checks::Checks;
use clap::{Arg, ArgMatches};
use pintle_base::{Clock, Now, log};
use pintle_client::Client;
use pintle_kubelet::core::{Config, Kubelet};
use pintle_kubelet::podfiles::DnsFacts;
use pintle_kubelet::volume::Layout;
use pintle_kubelet::work::{Check, Job};
use pintle_kubelet::{disk, worker};
use pintle_reactor::{Event, Interest, Loop, RealClock, Signal, Token, notify};
use pintle_runtime::net;
use pintle_runtime::sandbox::{EventReader, Runtime, RuntimeConfig, ShimEvent};
use pintle_wire::conn;
use pool::Pool;
use sessions::Sessions;
use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// Runs the daemon until it is told to end; gives the exit code.
pub fn run(args: &[String]) -> i32 {
    let flags = match upstream::parse(command(), args) {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    match Shell::start(&flags).and_then(Shell::serve) {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("pintle kubelet: {why}");
            1
        }
    }
}

fn command() -> clap::Command {
    let flag = |name: &'static str, of: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(of).default_value(default).help(help)
    };
    let optional = |name: &'static str, of: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(of).help(help)
    };
    upstream::command("pintle kubelet", "Runs the pods of one node")
        .arg(optional(
            "data-dir",
            "PATH",
            "This node's folder [default: /var/lib/pintle/nodes/NODE]",
        ))
        .arg(flag("images", "PATH", "/var/lib/pintle/images", "Image store of the machine"))
        .arg(flag("cgroup-root", "PATH", "pintle", "cgroup of all pods, below the v2 mount"))
        .arg(flag("cluster-dns", "ADDRESS", "10.96.0.10", "Address of the cluster's DNS"))
        .arg(flag("cluster-domain", "NAME", "cluster.local", "Domain of the cluster"))
        .arg(flag("service-cidr", "CIDR", "10.96.0.0/16", "Range of services' addresses"))
        .arg(flag("bridge", "NAME", "pintle0", "Bridge that pods are joined by"))
        .arg(flag("mtu", "BYTES", "1500", "MTU of the pod network"))
        .arg(optional(
            "pod-cidr",
            "CIDR",
            "Addresses of this node's pods [default: from the Node object]",
        ))
        .arg(
            optional("node-ip", "ADDRESS", "Address of this node [default: the primary one]")
                .value_parser(clap::value_parser!(IpAddr)),
        )
}

/// What workers post.
pub(crate) enum Post {
    /// A job is done.
    Done(worker::Output),
    /// An exec or attach was begun (or not) for a stream.
    Streams(u64, Result<pintle_runtime::sandbox::Streams, String>),
    /// A connection into a pod for a stream.
    Dialed(u64, Result<std::net::TcpStream, String>),
    /// A stream had more than one turn's worth.
    Again(u64),
}

/// A shim that reports events.
struct Shim {
    sandbox: String,
    fd: std::fs::File,
    reader: EventReader,
}

/// Ends of execs that came before the exec was known here.
const EARLY_MAX: usize = 64;

struct Shell {
    l: Loop<Post>,
    api: Token,
    client: Client<Kubelet>,
    runtime: Arc<Runtime>,
    pool: Pool,
    shims: BTreeMap<Token, Shim>,
    checks: Checks,
    sessions: Sessions,
    early: VecDeque<((String, u64), i32)>,
    images: Option<(Token, OwnedFd)>,
}

impl Shell {
    fn start(flags: &ArgMatches) -> Result<Shell, String> {
        let upstream = Upstream::of(flags)?;
        let node =
            if upstream.node.is_empty() { machine::hostname() } else { upstream.node.clone() };
        let upstream = Upstream { node: node.clone(), ..upstream };
        let own = match upstream::text(flags, "data-dir") {
            "" => PathBuf::from("/var/lib/pintle/nodes").join(&node),
            path => PathBuf::from(path),
        };
        let image_store = PathBuf::from(upstream::text(flags, "images"));
        let layout = Layout {
            pods: own.join("pods"),
            secrets: own.join("secrets"),
            seccomp: own.join("seccomp"),
        };
        let mut l = Loop::new().map_err(|e| format!("cannot make the event loop: {e}"))?;
        // Before any thread starts: threads inherit the mask.
        l.signals(&[Signal::SIGTERM, Signal::SIGINT])
            .map_err(|e| format!("cannot take over signals: {e}"))?;
        disk::prepare(&layout)?;
        let runtime = Runtime::open(RuntimeConfig {
            root: own.join("runtime"),
            images: image_store.clone(),
            // By its path in this mount namespace: the link of /proc leads to the one that it was started in.
            shim_binary: std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()),
            cgroup_parent: upstream::text(flags, "cgroup-root").to_string(),
        })
        .map_err(|e| e.to_string())?;
        let runtime = Arc::new(runtime);
        let now = RealClock.now();
        let config = config(flags, &node, layout.clone(), &runtime, now)?;
        let mut kubelet = Kubelet::new(config);
        let pool = Pool::start(Arc::clone(&runtime), layout.clone(), l.poster())?;
        let mut shims = BTreeMap::new();
        let found = runtime.sandboxes().map_err(|e| e.to_string())?;
        // The events come first: what ends after the look at it is reported.
        for sandbox in found.iter().filter(|s| s.shim_pid != 0) {
            match runtime.events(&sandbox.id) {
                Ok(fd) => watch_shim(&mut l, &mut shims, sandbox.id.clone(), fd)?,
                Err(e) => {
                    log::warn("shim cannot be heard", &[("sandbox", &sandbox.id), ("error", &e)])
                }
            }
        }
        let found = runtime.sandboxes().map_err(|e| e.to_string())?;
        let saved = worker::saved_pods(&layout.pods);
        kubelet.adopt(&found, &saved, &logs::termination_message, now);
        log::info("kubelet starts", &[("node", &node), ("sandboxes", &found.len())]);
        let api = upstream.connect(&mut l, "kubelet");
        let seed = now.wall.0 as u64;
        let images = watch_images(&mut l, &image_store);
        Ok(Shell {
            l,
            api,
            client: Client::new(kubelet, seed),
            runtime,
            pool,
            shims,
            checks: Checks::default(),
            sessions: Sessions::default(),
            early: VecDeque::new(),
            images,
        })
    }

    fn serve(mut self) -> Result<(), String> {
        notify::ready();
        loop {
            let deadline = [self.client.poll_timeout(), self.checks.poll_timeout()];
            let deadline = deadline.into_iter().flatten().min();
            let now = self.l.poll(deadline).map_err(|e| format!("cannot wait for events: {e}"))?;
            while let Some(event) = self.l.next() {
                if let Event::Signal(signal) = event {
                    log::info("kubelet ends, its pods go on", &[("signal", &signal)]);
                    notify::stopping();
                    return Ok(());
                }
                self.handle(event, now);
            }
            self.checks.handle_timeout(&mut self.l, now);
            self.finish_checks(now);
            self.client.turn(self.l.wire(self.api), now);
            for job in self.client.daemon.take_jobs() {
                self.begin(job, now);
            }
        }
    }

    fn begin(&mut self, job: Job, now: Now) {
        match job {
            Job::Check { ticket, check, timeout_ms } if !matches!(check, Check::Exec { .. }) => {
                self.checks.begin(&mut self.l, ticket, check, timeout_ms, now);
            }
            job => self.pool.job(job),
        }
    }

    fn handle(&mut self, event: Event<Post>, now: Now) {
        match event {
            Event::WireUp(_, _, hello) => {
                log::info("connected to the API server", &[("version", &hello.version)]);
                if let Some(conn) = self.l.wire(self.api) {
                    self.client.connected(conn, now);
                }
            }
            Event::WireDown(_, reason) => {
                log::warn("API server is out of reach", &[("err", &reason)]);
                self.client.disconnected(now);
                self.sessions.drop_all(&mut self.l);
            }
            Event::Wire(_, event) => self.wire(event, now),
            Event::Posted(post) => self.posted(post, now),
            Event::Fd { token, .. } => self.descriptor(token, now),
            Event::Connected(t) | Event::Bytes(t) | Event::End(t) | Event::Drained(t) => {
                if !self.checks.socket(&mut self.l, t, &event) {
                    self.sessions.socket(&mut self.l, self.api, t, &event);
                }
            }
            Event::Closed(t, _) => {
                if !self.checks.socket(&mut self.l, t, &event) {
                    self.sessions.socket(&mut self.l, self.api, t, &event);
                }
            }
            Event::Accepted { .. } | Event::Child(..) | Event::Signal(_) | Event::Timer => {}
        }
    }

    fn wire(&mut self, event: conn::Event, now: Now) {
        let Some(conn) = self.l.wire(self.api) else { return };
        let Some(event) = self.client.handle_wire(conn, event, now) else { return };
        let kubelet = &self.client.daemon;
        self.sessions.wire(&mut self.l, self.api, event, kubelet, &self.pool);
    }

    fn posted(&mut self, post: Post, now: Now) {
        match post {
            Post::Done(output) => {
                for (sandbox, fd) in output.events {
                    if let Err(why) = watch_shim(&mut self.l, &mut self.shims, sandbox, fd) {
                        log::error("shim cannot be heard", &[("error", &why)]);
                    }
                }
                if let Some((ticket, sandbox, streams)) = output.exec {
                    let key = (sandbox, streams.exec);
                    self.checks.exec_begun(&mut self.l, ticket, key.clone(), streams);
                    self.replay(&key);
                }
                if let Some(done) = output.done {
                    self.client.daemon.done(done, now);
                }
            }
            Post::Streams(id, result) => {
                if let Some(key) = self.sessions.begun(&mut self.l, self.api, id, result) {
                    self.replay(&key);
                }
            }
            Post::Again(id) => self.sessions.go_on(&mut self.l, self.api, id),
            Post::Dialed(id, result) => self.sessions.dialed(&mut self.l, self.api, id, result),
        }
    }

    /// An exec became known here: its end may have come before.
    fn replay(&mut self, key: &(String, u64)) {
        if let Some(i) = self.early.iter().position(|(k, _)| k == key)
            && let Some((key, code)) = self.early.remove(i)
        {
            self.exec_exited(key, code);
        }
    }

    fn exec_exited(&mut self, key: (String, u64), code: i32) {
        if self.checks.exec_exited(&mut self.l, &key, code)
            || self.sessions.exec_exited(&mut self.l, self.api, &key, code)
        {
            return;
        }
        if self.early.len() >= EARLY_MAX {
            self.early.pop_front();
        }
        self.early.push_back((key, code));
    }

    fn descriptor(&mut self, token: Token, now: Now) {
        if self.shims.contains_key(&token) {
            self.shim_readable(token, now);
        } else if self.images.as_ref().is_some_and(|(t, _)| *t == token) {
            self.images_touched();
        } else if !self.checks.readable(&mut self.l, token) {
            self.sessions.descriptor(&mut self.l, self.api, token);
        }
    }

    fn shim_readable(&mut self, token: Token, now: Now) {
        let mut buffer = [0; 16 << 10];
        loop {
            let Some(shim) = self.shims.get_mut(&token) else { return };
            match shim.fd.read(&mut buffer) {
                Ok(0) => return self.shim_gone(token, now),
                Ok(n) => match shim.reader.push(&buffer[..n]) {
                    Ok(events) => {
                        let sandbox = shim.sandbox.clone();
                        for event in events {
                            self.shim_event(&sandbox, event, now);
                        }
                    }
                    Err(e) => {
                        log::error("shim is not understood", &[("error", &e)]);
                        return self.shim_gone(token, now);
                    }
                },
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return self.shim_gone(token, now),
            }
        }
    }

    fn shim_event(&mut self, sandbox: &str, event: ShimEvent, now: Now) {
        match event {
            ShimEvent::Exited(state) => {
                let message = self
                    .client
                    .daemon
                    .termination_of(&state)
                    .map(|t| logs::termination_message(&t))
                    .unwrap_or_default();
                self.client.daemon.container_exited(sandbox, &state, message, now);
                self.sessions.run_exited(&mut self.l, self.api, &state);
            }
            ShimEvent::ExecExited { exec, code } => {
                self.exec_exited((sandbox.to_string(), exec), code);
            }
        }
    }

    /// Hang-up: the shim is dead, or its sandbox was removed.
    fn shim_gone(&mut self, token: Token, now: Now) {
        self.l.close(token);
        if let Some(shim) = self.shims.remove(&token) {
            self.checks.sandbox_gone(&mut self.l, &shim.sandbox);
            self.sessions.sandbox_gone(&mut self.l, self.api, &shim.sandbox);
            // A sandbox that is being removed reports its end by the job; only a live one can be lost.
            let alive = self.runtime.sandbox(&shim.sandbox).is_ok_and(|s| s.shim_pid != 0);
            if !alive {
                self.client.daemon.sandbox_lost(&shim.sandbox, now);
            }
        }
    }

    fn images_touched(&mut self) {
        if let Some((_, fd)) = &self.images {
            let mut buffer = [0; 4096];
            // Which file it was does not matter.
            while rustix::io::read(fd, &mut buffer).is_ok_and(|n| n > 0) {}
        }
        self.client.daemon.images_changed();
    }

    fn finish_checks(&mut self, now: Now) {
        for done in self.checks.take_done() {
            self.client.daemon.done(done, now);
        }
    }
}

fn config(
    flags: &ArgMatches,
    node: &str,
    layout: Layout,
    runtime: &Runtime,
    now: Now,
) -> Result<Config, String> {
    let node_ip = match flags.get_one::<IpAddr>("node-ip") {
        Some(ip) => Some(*ip),
        None => net::primary_address().map_err(|e| e.to_string())?,
    };
    let mtu = upstream::text(flags, "mtu");
    let services = upstream::text(flags, "service-cidr");
    let service_prefix = services.rsplit_once('/').and_then(|(_, bits)| bits.parse().ok());
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    Ok(Config {
        service_prefix: service_prefix
            .ok_or_else(|| format!("--service-cidr {services} is no range"))?,
        node: node.to_string(),
        node_ip,
        machine: machine::facts(&layout.pods, runtime.conditions()),
        layout,
        pod_cidr: flags.get_one::<String>("pod-cidr").cloned(),
        dns: DnsFacts {
            cluster_dns: upstream::text(flags, "cluster-dns").to_string(),
            cluster_domain: upstream::text(flags, "cluster-domain").to_string(),
            host_resolv_conf: read("/etc/resolv.conf"),
            host_hosts: read("/etc/hosts"),
        },
        bridge: upstream::text(flags, "bridge").to_string(),
        mtu: mtu.parse().map_err(|_| format!("--mtu {mtu} is no number of bytes"))?,
        seed: now.wall.0 as u64,
    })
}

fn watch_shim(
    l: &mut Loop<Post>,
    shims: &mut BTreeMap<Token, Shim>,
    sandbox: String,
    fd: OwnedFd,
) -> Result<(), String> {
    let token = l
        .watch_fd(&fd, Interest::Read)
        .map_err(|e| format!("cannot watch the shim of {sandbox}: {e}"))?;
    let shim = Shim { sandbox, fd: fd.into(), reader: EventReader::default() };
    shims.insert(token, shim);
    Ok(())
}

/// Whoever imports an image writes in this folder: pods that wait for one look at once.
fn watch_images(l: &mut Loop<Post>, folder: &std::path::Path) -> Option<(Token, OwnedFd)> {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    std::fs::create_dir_all(folder).ok()?;
    let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
    add_watch(&fd, folder, flags).ok()?;
    let token = l.watch_fd(&fd, Interest::Read).ok()?;
    Some((token, fd))
}
