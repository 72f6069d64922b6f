//! The supervisor process: the shell around `units`. It starts daemons, hears that they are ready, starts again
//! what dies, and ends everything on SIGTERM. What it knows is in `run/state.json`, written at each change.
//!
//! Progress goes to standard output, a line each, for `up`: `ready UNIT`, `all-ready`, `failed UNIT REASON`.

use super::layout::Layout;
use super::process;
use super::settings::Settings;
use super::specs;
use super::units::{Action, Signal as Stop, Spec, Units};
use pintle_base::{Now, log};
use pintle_reactor::{Event, Exit, Interest, Loop, Signal, Token};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Word by which the binary is called to be the supervisor.
pub const COMMAND: &str = "supervise";
/// Word by which the binary is called to run a daemon inside a node's namespaces.
pub const ENTER: &str = "enter-node";

struct Supervisor {
    layout: Layout,
    units: Units,
    events: Loop<()>,
    /// Sockets on which units say that they are ready.
    notify: BTreeMap<Token, (usize, UnixDatagram)>,
    exe: std::path::PathBuf,
    started_wall: String,
    last_words: BTreeMap<usize, u64>,
}

/// Runs until it is told to end and everything has ended. `only` limits the components.
pub fn run(layout: Layout, only: &specs::Components) -> Result<(), String> {
    let settings = Settings::load(&layout)?.ok_or_else(|| {
        format!("{} does not exist; run pintle up", layout.cluster_file().display())
    })?;
    let addresses: Result<Vec<IpAddr>, String> =
        (0..settings.nodes.len()).map(|i| super::node::address(&settings, i)).collect();
    let specs = specs::all(&layout, &settings, &addresses?, only);
    let mut events: Loop<()> =
        Loop::new().map_err(|e| format!("cannot make an event loop: {e}"))?;
    events
        .signals(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
        .map_err(|e| format!("cannot take over signals: {e}"))?;
    let exe =
        std::env::current_exe().map_err(|e| format!("cannot find this program's file: {e}"))?;
    let started_wall = events.now().wall.rfc3339();
    let mut s = Supervisor {
        layout,
        units: Units::new(specs),
        events,
        notify: BTreeMap::new(),
        exe,
        started_wall,
        last_words: BTreeMap::new(),
    };
    s.open_notify_sockets()?;
    super::pki::write(
        &s.layout.run().join("supervisor.pid"),
        &format!("{}\n", std::process::id()),
        0o644,
    )?;
    s.serve()
}

impl Supervisor {
    fn open_notify_sockets(&mut self) -> Result<(), String> {
        let names: Vec<String> = self.units.views().map(|v| v.spec.name.clone()).collect();
        for (i, name) in names.iter().enumerate() {
            let path = self.notify_path(name);
            let _ = fs::remove_file(&path);
            let wrong = |e: std::io::Error| format!("cannot listen on {}: {e}", path.display());
            let socket = UnixDatagram::bind(&path).map_err(wrong)?;
            socket.set_nonblocking(true).map_err(wrong)?;
            let token = self.events.watch_fd(&socket, Interest::Read).map_err(wrong)?;
            self.notify.insert(token, (i, socket));
        }
        Ok(())
    }

    fn notify_path(&self, unit: &str) -> std::path::PathBuf {
        self.layout.run().join(format!("notify-{unit}"))
    }

    fn serve(&mut self) -> Result<(), String> {
        let now = self.events.now();
        self.units.turn(now.mono);
        loop {
            if self.act()? {
                return Ok(());
            }
            let deadline = self.units.poll_timeout();
            let now = self
                .events
                .poll(deadline)
                .map_err(|e| format!("waiting for events failed: {e}"))?;
            while let Some(event) = self.events.next() {
                self.handle(event, now);
            }
            self.units.turn(now.mono);
        }
    }

    fn handle(&mut self, event: Event<()>, now: Now) {
        match event {
            Event::Signal(signal) => {
                log::info("supervisor ends everything", &[("signal", &signal)]);
                self.units.stop(now.mono);
            }
            Event::Child(_, pid, exit) => {
                let how = match exit {
                    Exit::Code(code) => format!("exit code {code}"),
                    Exit::Signal(signal) => format!("killed by signal {signal}"),
                    Exit::Unknown => "unknown".to_owned(),
                };
                log::info("daemon ended", &[("pid", &pid), ("how", &how)]);
                self.units.exited(pid, &how, now.mono);
                self.write_state();
            }
            Event::Fd { token, .. } => {
                let mut said_ready = None;
                if let Some((unit, socket)) = self.notify.get(&token) {
                    let mut buffer = [0; 4096];
                    while let Ok(n) = socket.recv(&mut buffer) {
                        if buffer
                            .get(..n)
                            .is_some_and(|b| b.split(|c| *c == b'\n').any(|l| l == b"READY=1"))
                        {
                            said_ready = Some(*unit);
                        }
                    }
                }
                if let Some(unit) = said_ready {
                    self.units.ready(unit, now.mono);
                    let name = self.units.spec(unit).map(|s| s.name.clone()).unwrap_or_default();
                    self.tell(&format!("ready {name}"));
                    self.write_state();
                }
            }
            _ => {}
        }
    }

    // Carries out what was decided; true when everything has ended.
    fn act(&mut self) -> Result<bool, String> {
        while let Some(action) = self.units.poll_action() {
            let now = self.events.now().mono;
            match action {
                Action::Spawn(unit) => match self.spawn(unit) {
                    Ok(pid) => {
                        self.units.spawned(unit, pid, now);
                        self.write_state();
                    }
                    Err(why) => {
                        log::error("cannot start a daemon", &[("unit", &unit), ("error", &why)]);
                        self.units.spawn_failed(unit, &why, now);
                    }
                },
                Action::Signal(pid, Stop::Term) => process::signal(pid, Signal::SIGTERM),
                Action::Signal(pid, Stop::Kill) => process::signal(pid, Signal::SIGKILL),
                Action::AllReady => {
                    self.write_state();
                    self.tell("all-ready");
                }
                Action::StartFailed(unit, how) => {
                    let spec = self.units.spec(unit).cloned();
                    let name = spec.map(|s| s.name).unwrap_or_default();
                    let words = self.said(unit, &name);
                    self.tell(&format!(
                        "failed {name} {}",
                        if words.is_empty() { how } else { words }
                    ));
                    self.units.stop(now);
                }
                Action::Done => {
                    let _ = fs::remove_file(self.layout.run().join("state.json"));
                    let _ = fs::remove_file(self.layout.run().join("supervisor.pid"));
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    #[expect(clippy::disallowed_methods, reason = "starting daemons is what a supervisor is for")]
    fn spawn(&mut self, unit: usize) -> Result<u32, String> {
        let spec: Spec = self.units.spec(unit).cloned().ok_or("no such unit")?;
        let path = self.layout.log(&spec.name);
        let wrong = |e: std::io::Error| format!("cannot open {}: {e}", path.display());
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(wrong)?;
        }
        let log = OpenOptions::new().create(true).append(true).open(&path).map_err(wrong)?;
        self.last_words.insert(unit, log.metadata().map(|m| m.len()).unwrap_or(0));
        let mut command = Command::new(&self.exe);
        if !spec.node.is_empty() {
            command
                .args([ENTER, "--data-dir"])
                .arg(self.layout.root())
                .args(["--node", &spec.node]);
        }
        command
            .arg(spec.daemon)
            .args(&spec.args)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env(process::MARK, self.layout.root())
            .env("NOTIFY_SOCKET", self.notify_path(&spec.name))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(wrong)?)
            .stderr(log)
            .process_group(0);
        if let Ok(level) = std::env::var("PINTLE_LOG") {
            command.env("PINTLE_LOG", level);
        }
        let child =
            command.spawn().map_err(|e| format!("cannot start {}: {e}", self.exe.display()))?;
        let pid = child.id();
        self.events.watch_child(pid).map_err(|e| format!("cannot watch process {pid}: {e}"))?;
        Ok(pid)
    }

    // The last line that a unit wrote in this life.
    fn said(&self, unit: usize, name: &str) -> String {
        let from = self.last_words.get(&unit).copied().unwrap_or(0);
        let bytes = fs::read(self.layout.log(name)).unwrap_or_default();
        let tail = bytes.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default();
        let text = String::from_utf8_lossy(tail);
        text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().to_owned()
    }

    fn tell(&self, line: &str) {
        // `up` may have gone away long ago.
        let mut out = std::io::stdout();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    fn write_state(&self) {
        let daemons: Vec<_> = self
            .units
            .views()
            .map(|v| {
                json!({
                    "name": v.spec.name, "daemon": v.spec.daemon, "node": v.spec.node, "pid": v.pid,
                    "ready": v.ready, "restarts": v.restarts,
                })
            })
            .collect();
        let state =
            json!({"pid": std::process::id(), "since": self.started_wall, "daemons": daemons});
        if let Err(e) =
            super::pki::write(&self.layout.run().join("state.json"), &format!("{state}\n"), 0o644)
        {
            log::warn("cannot write the state file", &[("error", &e)]);
        }
    }
}
