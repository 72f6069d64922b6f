//! `pintle scheduler`: the shell around `pintle-scheduler`.

use super::{shell, upstream};
use pintle_scheduler::Scheduler;

/// Runs the daemon until it is told to end; gives the exit code.
pub fn run(args: &[String]) -> i32 {
    let command = upstream::command("scheduler", "Chooses a node for each pod");
    let flags = match upstream::parse(command, args) {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    let served = upstream::Upstream::of(&flags)
        .and_then(|upstream| shell::run(Scheduler::new(), &upstream, "scheduler"));
    match served {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("pintle scheduler: {why}");
            1
        }
    }
}
