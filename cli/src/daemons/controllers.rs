//! `pintle controllers`: the shell around `pintle-controllers`.

use super::{shell, upstream};
use clap::{Arg, ArgMatches, value_parser};
use pintle_controllers::{Config, Manager};

/// Runs the daemon until it is told to end; gives the exit code.
pub fn run(args: &[String]) -> i32 {
    let command = upstream::command("controllers", "Makes what is match what was asked for")
        .arg(
            Arg::new("root-ca")
                .long("root-ca")
                .value_name("FILE")
                .help("The cluster's CA (PEM), published as ConfigMap kube-root-ca.crt"),
        )
        .arg(
            Arg::new("cluster-cidr")
                .long("cluster-cidr")
                .value_name("CIDR")
                .default_value("10.244.0.0/16")
                .help("Range that nodes' pod ranges are cut from"),
        )
        .arg(
            Arg::new("node-cidr-bits")
                .long("node-cidr-bits")
                .value_name("BITS")
                .default_value("24")
                .value_parser(value_parser!(u8).range(8..=30))
                .help("Prefix length of a node's pod range"),
        );
    let flags = match upstream::parse(command, args) {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    match serve(&flags) {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("pintle controllers: {why}");
            1
        }
    }
}

fn serve(flags: &ArgMatches) -> Result<(), String> {
    let upstream = upstream::Upstream::of(flags)?;
    let path = upstream::text(flags, "root-ca");
    let root_ca_pem = if path.is_empty() {
        String::new()
    } else {
        std::fs::read_to_string(path).map_err(|e| format!("cannot read --root-ca {path}: {e}"))?
    };
    let config = Config {
        root_ca_pem,
        cluster_cidr: upstream::text(flags, "cluster-cidr").to_owned(),
        node_cidr_bits: flags.get_one::<u8>("node-cidr-bits").copied().unwrap_or(24),
    };
    shell::run(Manager::new(&config), &upstream, "controllers")
}
