//! `pintle proxy`: the shell around `pintle-proxy`.
//!
//! One loop feeds the core; one worker thread does what waits for child processes and the kernel (reading and
//! applying packet rules, routes, connection tracking) and posts the answer back. Nothing is taken away at the
//! end: rules outlive the proxy, `--cleanup` removes them.

use super::shell::{self, Hooks};
use super::upstream::{self, Upstream};
use clap::{Arg, ArgAction, ArgMatches};
use pintle_base::Now;
use pintle_client::Client;
use pintle_proxy::build::Config;
use pintle_proxy::model::Cidr;
use pintle_proxy::worker::{self, Done, Worker};
use pintle_proxy::{Proxy, Work};
use pintle_reactor::{Event, Loop};
use std::net::IpAddr;
use std::sync::mpsc;

fn command() -> clap::Command {
    let list = |name: &'static str, default: &'static str, help: &'static str| {
        let arg = Arg::new(name).long(name).value_delimiter(',').help(help);
        if default.is_empty() { arg } else { arg.default_value(default) }
    };
    upstream::command("proxy", "Keeps the packet rules of services and the routes to other nodes")
        .arg(list("cluster-cidr", "10.244.0.0/16", "Networks of all pods, one a family"))
        .arg(list("cluster-dns", "10.96.0.10", "Service addresses that this node answers itself"))
        .arg(list("masquerade", "", "More networks that this node masquerades to the outside"))
        .arg(
            Arg::new("cleanup")
                .long("cleanup")
                .action(ArgAction::SetTrue)
                .help("Remove all rules and routes of a proxy, then end"),
        )
}

/// Runs the daemon until it is told to end; gives the exit code.
pub fn run(args: &[String]) -> i32 {
    let flags = match upstream::parse(command(), args) {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    let result = if flags.get_flag("cleanup") { worker::cleanup() } else { serve(&flags) };
    match result {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("pintle proxy: {e}");
            1
        }
    }
}

fn values<T>(
    flags: &ArgMatches,
    name: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, String> {
    let given = flags.get_many::<String>(name).into_iter().flatten();
    let parsed = given
        .filter(|s| !s.is_empty())
        .map(|s| parse(s).ok_or_else(|| format!("--{name} {s} is not an address or network")));
    parsed.collect()
}

fn serve(flags: &ArgMatches) -> Result<(), String> {
    let upstream = Upstream::of(flags)?;
    if upstream.node.is_empty() {
        return Err("--node is missing: give the name of this node".into());
    }
    let config = Config {
        cluster_cidrs: values(flags, "cluster-cidr", Cidr::parse)?,
        local_vips: values(flags, "cluster-dns", |s| s.parse::<IpAddr>().ok())?,
        masquerade_cidrs: values(flags, "masquerade", Cidr::parse)?,
    };
    let mut l: Loop<Done> = Loop::new().map_err(|e| format!("cannot make the event loop: {e}"))?;
    let (work, jobs) = mpsc::channel();
    let poster = l.poster();
    std::thread::Builder::new()
        .name("rules".into())
        .spawn(move || {
            let mut worker = Worker::default();
            for job in jobs {
                if !poster.post(worker.run(job)) {
                    return;
                }
            }
        })
        .map_err(|e| format!("cannot start a thread: {e}"))?;
    let core = Proxy::new(&upstream.node, config);
    shell::run_with(&mut l, core, &upstream, "proxy", &mut Rules { work })
}

/// Joins the core with the worker thread.
struct Rules {
    work: mpsc::Sender<Work>,
}

impl Hooks<Proxy, Done> for Rules {
    fn event(
        &mut self,
        _: &mut Loop<Done>,
        client: &mut Client<Proxy>,
        event: Event<Done>,
        now: Now,
    ) {
        match event {
            Event::Posted(Done::Looked(seen)) => client.daemon.looked(seen, now),
            Event::Posted(Done::Applied(result)) => client.daemon.applied(result, now),
            _ => {}
        }
    }

    fn turned(
        &mut self,
        _: &mut Loop<Done>,
        client: &mut Client<Proxy>,
        now: Now,
    ) -> Result<(), String> {
        match client.daemon.poll_apply(now) {
            Some(job) => self.work.send(job).map_err(|_| "the worker thread is gone".into()),
            None => Ok(()),
        }
    }

    fn ready(&self, client: &Client<Proxy>) -> bool {
        client.daemon.applied_count() > 0
    }
}
