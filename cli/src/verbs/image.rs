//! `pintle image import|ls|rm`: the machine's image store, without any daemon.

use super::layout;
use clap::{Arg, ArgMatches, Command, value_parser};
use pintle_runtime::image;
use std::path::PathBuf;

/// The verb's command line.
pub fn command(data_dir: impl Fn() -> Arg) -> Command {
    Command::new("image")
        .about("The machine's images")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("import")
                .about("Take in a rootfs folder, an OCI layout, an OCI archive or a docker-save archive")
                .arg(Arg::new("path").required(true).value_name("PATH").value_parser(value_parser!(PathBuf)))
                .arg(Arg::new("name").long("name").value_name("NAME:TAG").help("Name of the image; needed for a rootfs folder"))
                .arg(data_dir()),
        )
        .subcommand(Command::new("ls").about("List images").arg(data_dir()))
        .subcommand(
            Command::new("rm")
                .about("Remove a name, and the image with its last one")
                .arg(Arg::new("image").required(true).value_name("NAME"))
                .arg(data_dir()),
        )
}

/// Runs it; gives the exit code.
pub fn run(m: &ArgMatches) -> i32 {
    let result = match m.subcommand() {
        Some(("import", m)) => import(m),
        Some(("ls", m)) => list(m),
        Some(("rm", m)) => remove(m),
        _ => Ok(()),
    };
    match result {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("pintle image: {why}");
            1
        }
    }
}

fn import(m: &ArgMatches) -> Result<(), String> {
    crate::cluster::preflight::root()?;
    let images = layout(m).images();
    let path = m.get_one::<PathBuf>("path").cloned().unwrap_or_default();
    std::fs::create_dir_all(&images)
        .map_err(|e| format!("cannot make {}: {e}", images.display()))?;
    let name = m.get_one::<String>("name").map(String::as_str);
    let image = image::import(&images, &path, name, &mut |line| eprintln!("{line}"))
        .map_err(|e| crate::cluster::node::chain(&e))?;
    println!("{}  {}", image.names.first().map_or("<none>", String::as_str), image.id);
    Ok(())
}

fn list(m: &ArgMatches) -> Result<(), String> {
    let images = image::list(&layout(m).images()).map_err(|e| crate::cluster::node::chain(&e))?;
    println!("{:<48} {:<14} {:>10}", "NAME", "ID", "SIZE");
    for i in images {
        let id = i.id.strip_prefix("sha256:").unwrap_or(&i.id);
        let id = id.get(..12).unwrap_or(id);
        for name in if i.names.is_empty() { vec!["<none>".to_owned()] } else { i.names } {
            println!("{name:<48} {id:<14} {:>7.1} MB", i.size_bytes as f64 / 1e6);
        }
    }
    Ok(())
}

fn remove(m: &ArgMatches) -> Result<(), String> {
    crate::cluster::preflight::root()?;
    let name = m.get_one::<String>("image").cloned().unwrap_or_default();
    image::remove(&layout(m).images(), &name).map_err(|e| crate::cluster::node::chain(&e))
}
