//! The user's verbs: what a cluster is driven with where there is no kubectl, and what kubectl cannot do.
//!
//! Objects travel over the wire protocol; tables, patches and waiting are the API server's and `api`'s work.

mod apply;
mod get;
mod image;
mod resource;
mod stream;

use crate::api::Api;
use crate::cluster::layout::{DATA_DIR, Layout};
use crate::cluster::up;
use crate::{ClusterVerb, cluster_verb};
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::path::PathBuf;

/// Parses the command line and runs the verb; gives the exit code.
pub fn run(args: &[String]) -> i32 {
    let matches = match command().try_get_matches_from(args) {
        Ok(m) => m,
        Err(e) => {
            // Help and version go to standard output with code 0, mistakes to standard error with code 2.
            let _ = e.print();
            return e.exit_code();
        }
    };
    let Some((verb, m)) = matches.subcommand() else { return 2 };
    match verb {
        "up" => cluster_verb(ClusterVerb::Up(up_options(m))),
        "init" => cluster_verb(ClusterVerb::Init(init_options(m))),
        "down" => cluster_verb(ClusterVerb::Down(layout(m), m.get_flag("purge"))),
        "status" => cluster_verb(ClusterVerb::Status(layout(m), output(m) == Some("json"))),
        "image" => image::run(m),
        "logs" => report_code(verb, stream::logs(m)),
        "exec" => report_code(verb, stream::exec(m)),
        "get" => report(verb, get::get(m)),
        "describe" => report(verb, get::describe(m)),
        "apply" => report(verb, apply::apply(m)),
        "delete" => report(verb, apply::delete(m)),
        "completion" => completion(m),
        _ => 2,
    }
}

fn report(verb: &str, result: Result<(), String>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("pintle {verb}: {why}");
            1
        }
    }
}

fn report_code(verb: &str, result: Result<i32, String>) -> i32 {
    match result {
        Ok(code) => code,
        Err(why) => report(verb, Err(why)),
    }
}

/// Connects as the verbs do: to the cluster of `--data-dir`.
pub fn connect(m: &ArgMatches) -> Result<Api, String> {
    Api::connect(&layout(m)).map_err(|e| e.to_string())
}

/// `-n`, else `default`.
pub fn namespace(m: &ArgMatches) -> String {
    m.get_one::<String>("namespace").cloned().unwrap_or_else(|| "default".into())
}

fn command() -> Command {
    let data_dir = || {
        Arg::new("data-dir")
            .long("data-dir")
            .value_name("D")
            .default_value(DATA_DIR)
            .value_parser(value_parser!(PathBuf))
            .help("The folder of the cluster")
    };
    let api_port = || {
        Arg::new("api-port")
            .long("api-port")
            .value_name("P")
            .value_parser(value_parser!(u16).range(1..65535))
            .help("HTTPS port of the API server [default: 6443]")
    };
    Command::new("pintle")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Kubernetes from the kernel up: one small binary")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help(
            "Daemons: pintle store|apiserver|scheduler|controllers|kubelet|proxy|dns --help",
        )
        .subcommand(
            Command::new("up")
                .about(
                    "Bring up a cluster on this machine, or the one that is in the data directory",
                )
                .arg(data_dir())
                .arg(api_port())
                .arg(
                    Arg::new("nodes")
                        .long("nodes")
                        .value_name("N")
                        .value_parser(value_parser!(usize))
                        .help("Number of nodes, all on this machine [default: 1]"),
                )
                .arg(
                    Arg::new("foreground")
                        .long("foreground")
                        .action(ArgAction::SetTrue)
                        .help("Stay, and end the cluster on Ctrl-C"),
                )
                .arg(
                    Arg::new("components")
                        .long("components")
                        .value_name("LIST")
                        .value_delimiter(',')
                        .value_parser(PossibleValuesParser::new([
                            "store",
                            "apiserver",
                            "scheduler",
                            "controllers",
                            "kubelet",
                            "proxy",
                            "dns",
                        ]))
                        .help("Only these daemons"),
                ),
        )
        .subcommand(
            Command::new("init")
                .about("Make certificates, keys and kubeconfig for daemons that systemd runs")
                .arg(data_dir())
                .arg(api_port()),
        )
        .subcommand(
            Command::new("down")
                .about("End the cluster and leave nothing behind but its data")
                .arg(data_dir())
                .arg(
                    Arg::new("purge")
                        .long("purge")
                        .action(ArgAction::SetTrue)
                        .help("Remove the data directory too"),
                ),
        )
        .subcommand(
            Command::new("status")
                .about("What runs, since when, with what memory")
                .arg(data_dir())
                .arg(Arg::new("output").short('o').value_parser(["json"]).help("Machine-readable")),
        )
        .subcommand(image::command(data_dir))
        .subcommands(object_verbs().map(|c| c.arg(data_dir())))
        .subcommand(Command::new("completion").about("Print a shell's completion script").arg(
            Arg::new("shell").required(true).value_parser(value_parser!(clap_complete::Shell)),
        ))
}

/// The data directory, absolute.
pub fn layout(m: &ArgMatches) -> Layout {
    let dir = m.get_one::<PathBuf>("data-dir").cloned().unwrap_or_else(|| DATA_DIR.into());
    Layout::new(std::path::absolute(&dir).unwrap_or(dir))
}

/// `-o`.
pub fn output(m: &ArgMatches) -> Option<&str> {
    m.get_one::<String>("output").map(String::as_str)
}

fn up_options(m: &ArgMatches) -> up::Options {
    up::Options {
        layout: layout(m),
        api_port: m.get_one::<u16>("api-port").copied(),
        nodes: m.get_one::<usize>("nodes").copied(),
        foreground: m.get_flag("foreground"),
        components: m.get_many::<String>("components").into_iter().flatten().cloned().collect(),
    }
}

fn init_options(m: &ArgMatches) -> up::Options {
    let components = Vec::new();
    up::Options {
        layout: layout(m),
        api_port: m.get_one::<u16>("api-port").copied(),
        nodes: None,
        foreground: false,
        components,
    }
}

fn completion(m: &ArgMatches) -> i32 {
    if let Some(shell) = m.get_one::<clap_complete::Shell>("shell").copied() {
        clap_complete::generate(shell, &mut command(), "pintle", &mut std::io::stdout());
    }
    0
}

/// The verbs on objects.
fn object_verbs() -> [Command; 6] {
    let what = |required: bool| {
        Arg::new("what")
            .value_name("RESOURCE [NAME]...")
            .num_args(1..)
            .required(required)
            .help("pods | pod NAME... | deploy/NAME ...")
    };
    let namespace = || {
        Arg::new("namespace")
            .short('n')
            .long("namespace")
            .value_name("NS")
            .help("Namespace [default: default]")
    };
    let file = |required: bool| {
        Arg::new("file")
            .short('f')
            .long("filename")
            .value_name("FILE")
            .action(ArgAction::Append)
            .required(required)
            .value_parser(value_parser!(PathBuf))
            .help("Manifest: YAML or JSON file, folder, or - for standard input")
    };
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let container = || {
        Arg::new("container")
            .short('c')
            .long("container")
            .value_name("NAME")
            .help("Container [default: the only one]")
    };
    let count = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("N").value_parser(value_parser!(u64)).help(help)
    };
    [
        Command::new("get")
            .about("Show objects")
            .arg(what(true))
            .arg(namespace())
            .arg(flag("all-namespaces", "Of all namespaces").short('A'))
            .arg(
                Arg::new("selector")
                    .short('l')
                    .long("selector")
                    .value_name("LABELS")
                    .help("Label selector"),
            )
            .arg(
                Arg::new("output")
                    .short('o')
                    .value_parser(["wide", "json", "yaml", "name"])
                    .help("Form"),
            )
            .arg(flag("watch", "Go on and show changes").short('w')),
        Command::new("describe")
            .about("Show an object and what happened to it")
            .arg(what(true))
            .arg(namespace()),
        Command::new("apply")
            .about("Make objects be as a manifest says")
            .arg(file(true))
            .arg(namespace()),
        Command::new("delete")
            .about("Delete objects")
            .arg(what(false).required_unless_present("file").conflicts_with("file"))
            .arg(file(false))
            .arg(namespace())
            .arg(flag("now", "With one second to end"))
            .arg(flag("wait", "Until they are gone")),
        Command::new("logs")
            .about("Show what a container wrote")
            .arg(Arg::new("pod").required(true).value_name("POD"))
            .arg(container())
            .arg(namespace())
            .arg(flag("follow", "Go on with new lines").short('f'))
            .arg(flag("previous", "Of the instance before").short('p'))
            .arg(flag("timestamps", "With the time of each line"))
            .arg(count("tail", "Only the last so many lines"))
            .arg(count("since", "Only lines of the last so many seconds")),
        Command::new("exec")
            .about("Run a command in a container")
            .arg(Arg::new("pod").required(true).value_name("POD"))
            .arg(container())
            .arg(namespace())
            .arg(flag("stdin", "Pass standard input").short('i'))
            .arg(flag("tty", "With a terminal").short('t'))
            .arg(Arg::new("command").required(true).num_args(1..).last(true).value_name("COMMAND")),
    ]
}
