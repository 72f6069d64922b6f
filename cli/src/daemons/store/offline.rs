//! `pintle store fsck`, `dump`, `status`.

use super::{Paths, open_disk};
use pintle_reactor::{Endpoint, blocking};
use pintle_store::{OpenError, inspect};
use pintle_wire::conn::{Hello, Limits};
use pintle_wire::msg::store::{Reply, Request};
use pintle_wire::msg::{self, Open};
use std::io::Write;
use std::time::Duration;

fn existing(paths: &Paths) -> Result<pintle_base::disk::DirDisk, String> {
    let is_segment = |e: std::io::Result<std::fs::DirEntry>| {
        e.is_ok_and(|e| e.path().extension().is_some_and(|x| x == "wal"))
    };
    if !std::fs::read_dir(&paths.log).is_ok_and(|mut d| d.any(is_segment)) {
        return Err(format!("there is no store in {}; see --data-dir", paths.log.display()));
    }
    open_disk(&paths.log)
}

/// Checks the log; with `repair`, cuts it where it is damaged.
pub fn fsck(paths: &Paths, repair: bool) -> Result<(), String> {
    let disk = existing(paths)?;
    // One cut can uncover the next.
    for _ in 0..1000 {
        match inspect::fsck(&disk) {
            Ok(c) => {
                println!(
                    "whole: {} segments, {} records, {} keys, {} leases, revision {}, compacted to {}, {}",
                    c.segments,
                    c.records,
                    c.keys,
                    c.leases,
                    c.revision,
                    c.compact_revision,
                    if c.clean { "closed in order" } else { "not closed in order" }
                );
                for (name, from, to) in c.torn {
                    println!("torn tail: {name} bytes {from}..{to}; the next start cuts it");
                }
                return Ok(());
            }
            Err(OpenError::Damaged { segment, offset, why }) if repair => {
                println!("damaged: {segment} at offset {offset}: {why}");
                let lines = inspect::repair(&disk, &segment, offset).map_err(|e| e.to_string())?;
                if lines.is_empty() {
                    return Err("nothing could be repaired; restore a backup".to_owned());
                }
                lines.iter().for_each(|l| println!("{l}"));
            }
            Err(e) => return Err(e.to_string()),
        }
    }
    Err("still damaged after 1000 cuts; restore a backup".to_owned())
}

/// Prints the log.
pub fn dump(paths: &Paths, values: bool) -> Result<(), String> {
    let disk = existing(paths)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut broken = false;
    let result = inspect::dump(&disk, values, &mut |line| {
        // A reader that has seen enough closes the pipe.
        broken = broken || writeln!(out, "{line}").is_err();
    });
    broken = broken || out.flush().is_err();
    if broken { Ok(()) } else { result.map_err(|e| e.to_string()) }
}

/// Asks a running store for its figures.
pub fn status(paths: &Paths, format: &str) -> Result<(), String> {
    let hello = Hello { daemon: "cli".into(), ..Hello::default() };
    let endpoint = Endpoint::Unix(paths.socket.clone());
    let hint = "is the store running?";
    let mut client =
        blocking::Client::connect(endpoint, hello, Limits::default(), Duration::from_secs(5))
            .map_err(|e| format!("{e}; {hint}"))?;
    let bytes = client
        .call(&msg::encode(&Open::Store(Request::Status)))
        .map_err(|e| format!("{e}; {hint}"))?;
    let s = match msg::decode(&bytes) {
        Ok(Reply::Status(s)) => s,
        Ok(other) => return Err(format!("the store answered {other:?}")),
        Err(e) => return Err(format!("the store's answer makes no sense: {e}")),
    };
    let fields = [
        ("revision", s.revision),
        ("durable_revision", s.durable_revision),
        ("compact_revision", s.compact_revision),
        ("keys", s.keys),
        ("disk_bytes", s.disk_bytes),
        ("memory_bytes", s.memory_bytes),
    ];
    if format == "json" {
        let object: serde_json::Map<_, _> =
            fields.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
        println!("{}", serde_json::Value::Object(object));
    } else {
        fields.iter().for_each(|(k, v)| println!("{k:<18}{v}"));
    }
    Ok(())
}
