//! The one binary. The first argument (or the name it was called by: `pintle-kubelet`) says which daemon or
//! which verb of the user's it is. Text pages are shared by all daemons and an install is one file.

mod cluster;
mod daemons;

use std::path::Path;

fn main() {
    let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    std::process::exit(dispatch(&args));
}

fn dispatch(args: &[String]) -> i32 {
    let called_as = args.first().and_then(|a| Path::new(a).file_name()).and_then(|n| n.to_str());
    if let Some(name) = called_as.and_then(|n| n.strip_prefix("pintle-"))
        && let Some(run) = daemons::find(name)
    {
        return run(&args[1..]);
    }
    match args.get(1).map(String::as_str) {
        Some("shim") => pintle_runtime::sandbox::shim_main(&args[2..]),
        Some(name) => match daemons::find(name) {
            Some(run) => run(&args[2..]),
            None => {
                eprintln!("pintle: unknown command {name:?}; see pintle --help");
                2
            }
        },
        None => {
            eprintln!("pintle: a command is needed; see pintle --help");
            2
        }
    }
}
