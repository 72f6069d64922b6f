//! The one binary. The first argument (or the name it was called by: `pintle-kubelet`) says which daemon or
//! which verb of the user's it is. Text pages are shared by all daemons and an install is one file.

mod api;
mod cluster;
mod daemons;
mod verbs;

use cluster::layout::{DATA_DIR, Layout};
use cluster::{down, node, status, supervisor, up};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

fn main() {
    let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    if std::env::var("PINTLE_LOG").is_ok_and(|l| l == "debug") {
        pintle_base::log::set_level(pintle_base::log::Level::Debug);
    }
    std::process::exit(dispatch(&args));
}

fn dispatch(args: &[String]) -> i32 {
    let called_as = args.first().and_then(|a| Path::new(a).file_name()).and_then(|n| n.to_str());
    if let Some(name) = called_as.and_then(|n| n.strip_prefix("pintle-"))
        && let Some(run) = daemons::find(name)
    {
        return run(args.get(1..).unwrap_or_default());
    }
    let rest = args.get(2..).unwrap_or_default();
    match args.get(1).map(String::as_str) {
        Some("shim") => pintle_runtime::sandbox::shim_main(rest),
        Some(node::HOLD) => node::hold_main(),
        Some(supervisor::COMMAND) => supervise(rest),
        Some(supervisor::ENTER) => enter_node(rest),
        Some(down::CLEAN_NODE) => clean_node(rest),
        Some(name) => match daemons::find(name) {
            Some(run) => run(rest),
            None => verbs::run(args),
        },
        None => verbs::run(args),
    }
}

/// `VALUE` of `--NAME VALUE` in the arguments of the internal words, which only this binary writes.
fn flag<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    let at = args.iter().position(|a| a == name)?;
    args.get(at + 1).map(String::as_str)
}

fn layout_of(args: &[String]) -> Layout {
    Layout::new(PathBuf::from(flag(args, "--data-dir").unwrap_or(DATA_DIR)))
}

fn report(result: Result<(), String>, who: &str) -> i32 {
    match result {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("pintle {who}: {why}");
            1
        }
    }
}

fn supervise(args: &[String]) -> i32 {
    let only = flag(args, "--components").unwrap_or_default();
    let only = only.split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect();
    report(supervisor::run(layout_of(args), &only), supervisor::COMMAND)
}

/// `enter-node --data-dir D --node N WORD ARGS...`: a daemon (or the cleaner) inside a node's namespaces.
fn enter_node(args: &[String]) -> i32 {
    let (Some(node), Some(word)) = (flag(args, "--node"), args.get(4)) else {
        eprintln!("pintle {}: --data-dir, --node and a command are needed", supervisor::ENTER);
        return 2;
    };
    if let Err(why) = node::enter(&layout_of(args), node) {
        eprintln!("pintle {word}: {why}");
        return 1;
    }
    // Started anew: the running program's file is still the old mount namespace's, and what is made from
    // /proc/self/exe (the shims) would be refused in the new one.
    let why = exec(args.get(4..).unwrap_or_default());
    eprintln!("pintle {word}: cannot start inside node {node}: {why}");
    1
}

#[expect(clippy::disallowed_methods, reason = "it replaces this process and starts no other")]
fn exec(args: &[String]) -> std::io::Error {
    match std::env::current_exe() {
        Ok(exe) => std::process::Command::new(exe).args(args).exec(),
        Err(e) => e,
    }
}

fn clean_node(args: &[String]) -> i32 {
    report(
        down::clean_node(&layout_of(args), flag(args, "--node").unwrap_or_default()),
        down::CLEAN_NODE,
    )
}

/// `pintle up`, `down`, `status`, parsed by `verbs`.
fn cluster_verb(verb: ClusterVerb) -> i32 {
    match verb {
        ClusterVerb::Up(options) => report(up::run(&options), "up"),
        ClusterVerb::Init(options) => report(up::init(&options), "init"),
        ClusterVerb::Down(layout, purge) => report(down::run(&layout, purge), "down"),
        ClusterVerb::Status(layout, json) => report(status::run(&layout, json), "status"),
    }
}

/// What the user wants of a whole cluster.
enum ClusterVerb {
    Up(up::Options),
    Init(up::Options),
    Down(Layout, bool),
    Status(Layout, bool),
}
