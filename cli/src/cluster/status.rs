//! `pintle status`: what runs, since when, with what memory.

use super::layout::Layout;
use super::process;
use serde_json::{Value, json};
use std::fs;

/// One line a daemon, or JSON `{"daemons": [{"name", "node", "pid", "uptime_s", "pss_bytes"}]}`.
pub fn run(layout: &Layout, as_json: bool) -> Result<(), String> {
    let path = layout.run().join("state.json");
    let state: Value = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| format!("{} is damaged: {e}", path.display()))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!(
                "no cluster runs in {}; start one with pintle up",
                layout.root().display()
            ));
        }
        Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
    };
    let rows: Vec<Row> = state["daemons"].as_array().into_iter().flatten().map(Row::of).collect();
    if as_json {
        let daemons: Vec<Value> = rows
            .iter()
            .map(|r| {
                json!({
                    "name": r.name, "node": r.node, "pid": r.pid, "uptime_s": r.uptime_s, "pss_bytes": r.pss_bytes,
                    "ready": r.ready, "restarts": r.restarts,
                })
            })
            .collect();
        println!("{}", json!({ "daemons": daemons }));
        return Ok(());
    }
    println!(
        "{:<24} {:<16} {:>8} {:>10} {:>9} {:>8}  STATE",
        "DAEMON", "NODE", "PID", "UP", "PSS", "RESTARTS"
    );
    for r in &rows {
        println!(
            "{:<24} {:<16} {:>8} {:>10} {:>6.1} MB {:>8}  {}",
            r.name,
            if r.node.is_empty() { "-" } else { &r.node },
            r.pid,
            duration(r.uptime_s),
            r.pss_bytes as f64 / 1e6,
            r.restarts,
            if r.pid == 0 {
                "down"
            } else if r.ready {
                "ready"
            } else {
                "starting"
            }
        );
    }
    let total: u64 = rows.iter().map(|r| r.pss_bytes).sum();
    println!("In all {:.1} MB; data in {}.", total as f64 / 1e6, layout.root().display());
    Ok(())
}

struct Row {
    name: String,
    node: String,
    pid: u32,
    uptime_s: f64,
    pss_bytes: u64,
    ready: bool,
    restarts: u64,
}

impl Row {
    fn of(v: &Value) -> Row {
        let pid = v["pid"].as_u64().and_then(|p| u32::try_from(p).ok()).unwrap_or(0);
        // Between two writes of the state file a daemon may have died.
        let uptime = if pid == 0 { None } else { process::uptime_s(pid) };
        Row {
            name: v["name"].as_str().unwrap_or_default().to_owned(),
            node: v["node"].as_str().unwrap_or_default().to_owned(),
            pid: if uptime.is_some() { pid } else { 0 },
            uptime_s: uptime.unwrap_or(0.0),
            pss_bytes: if uptime.is_some() { process::pss_bytes(pid) } else { 0 },
            ready: v["ready"] == true,
            restarts: v["restarts"].as_u64().unwrap_or(0),
        }
    }
}

fn duration(s: f64) -> String {
    let s = s as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86_400, s / 3600 % 24),
    }
}
