//! `pintle up`: checks, makes what is missing, starts the supervisor, waits until the cluster works.

use super::layout::Layout;
use super::settings::{NODES_MAX, Settings};
use super::{down, node, pki, preflight, process, specs, supervisor};
use crate::api::Api;
use pintle_base::{Clock, Now, Wall};
use pintle_reactor::{RealClock, Signal};
use pintle_wire::msg::api::{Request, Verb};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a cluster may take to become ready before `up` gives up.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Data directory.
    pub layout: Layout,
    /// HTTPS port; `None` = as before, else 6443.
    pub api_port: Option<u16>,
    /// Number of nodes; `None` = as before, else 1.
    pub nodes: Option<usize>,
    /// Stay, and end the cluster on SIGINT or SIGTERM.
    pub foreground: bool,
    /// Only these daemons; empty = all.
    pub components: specs::Components,
}

/// Runs `up`; messages go to standard error, the summary to standard output.
pub fn run(options: &Options) -> Result<(), String> {
    let layout = &options.layout;
    preflight::root()?;
    let began = RealClock.now();
    let settings = decide_settings(options)?;
    if let Some(pid) = down::supervisor_pid(layout) {
        println!("The cluster in {} runs already (supervisor {pid}).", layout.root().display());
        return Ok(());
    }
    preflight::check(layout, settings.api_port)?;
    // What a crash left would be in the way.
    down::clean(layout, &settings, &mut |_| {})?;
    let made = start(options, &settings, began);
    if let Err(why) = made {
        // Nothing half made stays.
        down::stop(layout);
        if let Err(e) = down::clean(layout, &settings, &mut |_| {}) {
            eprintln!("pintle up: cleaning up after the failure below failed too: {e}");
        }
        return Err(why);
    }
    let total = RealClock.now().mono - began.mono;
    println!("The cluster is ready after {:.2} s.", total.as_secs_f64());
    println!("  export KUBECONFIG={}", layout.admin_kubeconfig().display());
    if options.foreground { stay(layout, &settings) } else { Ok(()) }
}

fn decide_settings(options: &Options) -> Result<Settings, String> {
    let kept = Settings::load(&options.layout)?;
    if options.nodes.is_some_and(|n| n == 0 || n > NODES_MAX) {
        return Err(format!("--nodes takes a number from 1 to {NODES_MAX}"));
    }
    let host =
        nix::unistd::gethostname().map_err(|e| format!("cannot ask for the host's name: {e}"))?;
    let nodes = options.nodes.or(kept.as_ref().map(|k| k.nodes.len())).unwrap_or(1);
    let port = options.api_port.or(kept.as_ref().map(|k| k.api_port)).unwrap_or(6443);
    let fresh = Settings::new(&host.to_string_lossy(), nodes, port);
    Ok(match kept {
        // The machine may have been renamed since: its nodes keep the names that the cluster knows.
        Some(k) if k.nodes.len() == nodes => Settings { api_port: port, ..k },
        Some(k) => {
            let base = k.nodes.first().cloned().unwrap_or_default();
            Settings { api_port: port, nodes: super::settings::node_names(&base, nodes), ..k }
        }
        None => fresh,
    })
}

fn start(options: &Options, settings: &Settings, began: Now) -> Result<(), String> {
    let layout = &options.layout;
    let step = |what: &str| {
        let took = RealClock.now().mono - began.mono;
        eprintln!("[{:7.3} s] {what}", took.as_secs_f64());
    };
    make_folders(layout, settings)?;
    settings.save(layout)?;
    let with_nodes =
        options.components.is_empty() || options.components.iter().any(|c| c == "kubelet");
    if with_nodes && settings.nodes.len() == 1 && node::needs_underlay()? {
        node::make_underlay()?;
    }
    for i in 0..settings.nodes.len() {
        if with_nodes {
            node::make(layout, settings, i)?;
        }
    }
    make_certificates(layout, settings, began.wall)?;
    step("certificates, namespaces");
    supervise(options, &step)?;
    if with_nodes {
        let deadline = began.mono + READY_WITHIN;
        wait_for_nodes(layout, settings, deadline)?;
        step(&format!("{} node(s) Ready", settings.nodes.len()));
        if options.components.is_empty() || options.components.iter().any(|c| c == "dns") {
            ask_dns(settings)?;
            step("cluster DNS answers");
        }
    }
    Ok(())
}

fn make_folders(layout: &Layout, settings: &Settings) -> Result<(), String> {
    for dir in [layout.run(), layout.store(), layout.images(), layout.root().join("log")] {
        fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    }
    for n in &settings.nodes {
        let dir = layout.node(n);
        fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    }
    Ok(())
}

fn make_certificates(layout: &Layout, settings: &Settings, now: Wall) -> Result<(), String> {
    let addresses: Vec<IpAddr> =
        (0..settings.nodes.len()).map(|i| node::address(settings, i)).collect::<Result<_, _>>()?;
    let mut ips = addresses;
    ips.extend(settings.first_service_address());
    let names =
        pki::ServerNames { dns: settings.nodes.first().cloned().into_iter().collect(), ips };
    pki::ensure(layout, &names, &settings.nodes, now)?;
    pki::write_kubeconfig(layout, &format!("https://127.0.0.1:{}", settings.api_port))
}

/// `pintle init`: folders, certificates, keys and kubeconfig of a cluster whose daemons an init system runs.
pub fn init(options: &Options) -> Result<(), String> {
    preflight::root()?;
    let settings = decide_settings(options)?;
    make_folders(&options.layout, &settings)?;
    settings.save(&options.layout)?;
    make_certificates(&options.layout, &settings, RealClock.now().wall)?;
    println!("export KUBECONFIG={}", options.layout.admin_kubeconfig().display());
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the supervisor is a process of its own")]
fn supervise(options: &Options, step: &dyn Fn(&str)) -> Result<(), String> {
    let exe =
        std::env::current_exe().map_err(|e| format!("cannot find this program's file: {e}"))?;
    let log_path = options.layout.log("supervisor");
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(|e| format!("cannot open {}: {e}", log_path.display()))?;
    let mut child = Command::new(exe)
        .args([supervisor::COMMAND, "--data-dir"])
        .arg(options.layout.root())
        .args(["--components", &options.components.join(",")])
        .env(process::MARK, options.layout.root())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(|e| format!("cannot start the supervisor: {e}"))?;
    let out = child.stdout.take().ok_or("the supervisor has no output")?;
    for line in BufReader::new(out).lines() {
        let line = line.map_err(|e| format!("cannot read from the supervisor: {e}"))?;
        match line.split_once(' ') {
            _ if line == "all-ready" => return Ok(()),
            Some(("ready", unit)) => step(&format!("{unit} ready")),
            Some(("failed", rest)) => {
                let (unit, why) = rest.split_once(' ').unwrap_or((rest, ""));
                return Err(format!(
                    "{unit} did not start: {why} (its log: {})",
                    options.layout.log(unit).display()
                ));
            }
            _ => {}
        }
    }
    let words = fs::read_to_string(&log_path).unwrap_or_default();
    let last = words.lines().last().unwrap_or("it said nothing").to_owned();
    Err(format!("the supervisor ended: {last} (its log: {})", log_path.display()))
}

fn wait_for_nodes(
    layout: &Layout,
    settings: &Settings,
    deadline: pintle_base::Time,
) -> Result<(), String> {
    let mut api = Api::connect(layout).map_err(|e| e.to_string())?;
    let mut missing: Vec<String> = settings.nodes.clone();
    let list = Request::new(Verb::List, "", "v1", "nodes");
    let waited = api.wait_for(list, deadline, "the nodes to be Ready", &mut |nodes| {
        let ready = |name: &String| {
            nodes.get(&format!("/{name}")).is_some_and(|n| {
                let conditions = n["status"]["conditions"].as_array();
                conditions
                    .into_iter()
                    .flatten()
                    .any(|c| c["type"] == "Ready" && c["status"] == "True")
            })
        };
        missing = settings.nodes.iter().filter(|n| !ready(n)).cloned().collect();
        missing.is_empty()
    });
    waited.map_err(|e| {
        let logs: Vec<String> = missing
            .iter()
            .map(|n| {
                let unit = if Some(n) == settings.nodes.first() {
                    "kubelet".to_owned()
                } else {
                    format!("kubelet-{n}")
                };
                layout.log(&unit).display().to_string()
            })
            .collect();
        format!("{e}; not Ready: {}; see {}", missing.join(", "), logs.join(", "))
    })
}

// One question to the cluster DNS from the host's network, with the timeout of a resolver.
fn ask_dns(settings: &Settings) -> Result<(), String> {
    let name = format!("kubernetes.default.svc.{}", settings.cluster_domain);
    let mut query = vec![0x70, 0x69, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap_or(63));
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let ask = || -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect((settings.cluster_dns, 53))?;
        socket.send(&query)?;
        let mut answer = vec![0; 512];
        let n = socket.recv(&mut answer)?;
        answer.truncate(n);
        Ok(answer)
    };
    let answer = ask()
        .map_err(|e| format!("the cluster DNS at {} does not answer: {e}", settings.cluster_dns))?;
    // Same id, a response without an error code, at least one answer.
    let good = answer.get(..2) == query.get(..2)
        && answer.get(3).is_some_and(|b| b & 0x0f == 0)
        && answer.get(7).is_some_and(|n| *n > 0);
    if good {
        Ok(())
    } else {
        Err(format!("the cluster DNS at {} does not know {name}", settings.cluster_dns))
    }
}

fn stay(layout: &Layout, settings: &Settings) -> Result<(), String> {
    let mut events: pintle_reactor::Loop<()> =
        pintle_reactor::Loop::new().map_err(|e| format!("cannot make an event loop: {e}"))?;
    events
        .signals(&[Signal::SIGTERM, Signal::SIGINT])
        .map_err(|e| format!("cannot take over signals: {e}"))?;
    let pid = down::supervisor_pid(layout).ok_or("the supervisor is gone")?;
    events.watch_child(pid).map_err(|e| format!("cannot watch the supervisor: {e}"))?;
    'waiting: loop {
        events.poll(None).map_err(|e| format!("waiting for events failed: {e}"))?;
        while let Some(event) = events.next() {
            match event {
                pintle_reactor::Event::Signal(_) => break 'waiting,
                pintle_reactor::Event::Child(..) => {
                    return Err("the supervisor ended; see pintle status".into());
                }
                _ => {}
            }
        }
    }
    down::stop(layout);
    down::clean(layout, settings, &mut |_| {})
}
