//! The thin shells around the daemons' pure cores: one module a daemon. A shell parses flags, owns sockets,
//! files and the reactor's loop, feeds its core and carries out what the core wants.

mod apiserver;
mod controllers;
mod dns;
mod kubelet;
mod proxy;
mod scheduler;
mod shell;
mod store;
mod upstream;

/// A daemon's main function: arguments without the command name; gives the exit code.
pub type Run = fn(&[String]) -> i32;

/// Every daemon by the name it is called with.
const DAEMONS: &[(&str, Run)] = &[
    ("apiserver", apiserver::run),
    ("controllers", controllers::run),
    ("dns", dns::run),
    ("kubelet", kubelet::run),
    ("proxy", proxy::run),
    ("scheduler", scheduler::run),
    ("store", store::run),
];

/// The daemon of this name.
pub fn find(name: &str) -> Option<Run> {
    DAEMONS.iter().find(|(n, _)| *n == name).map(|(_, run)| *run)
}
