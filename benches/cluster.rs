//! The figures of a whole cluster, measured from outside on the release binary: start, pods, memory, idle CPU.
//!
//! `make bench` runs it; it writes the cluster's part of benches/RESULTS.md and its chart. Times are taken on the
//! machine's wall clock: a pod's process is "running" when it has made a file in a hostPath folder (its mtime).

use pintle_tests::{Lab, eventually, pintle_bin, root, run};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

const PODS: usize = 100;
const IDLE: Duration = Duration::from_secs(30);

struct Figure {
    what: &'static str,
    value: f64,
    unit: &'static str,
    aim: &'static str,
}

fn main() {
    // `cargo bench` passes `--bench`; `cargo test` must not run this for minutes.
    if !std::env::args().any(|a| a == "--bench") {
        println!("cluster: run by make bench");
        return;
    }
    let mut figures = Vec::new();
    let mut lab = Lab::new("bench");
    start(&mut lab, &mut figures);
    lab.import_busybox();
    idle(
        &lab,
        "idle, no pods",
        "idle CPU of the whole control plane and node, no pods",
        &mut figures,
    );
    memory(&lab, &mut figures);
    latency(&lab, &mut figures);
    hundred(&lab, &mut figures);
    lab.down();
    report(&figures);
}

fn start(lab: &mut Lab, figures: &mut Vec<Figure>) {
    let mut fresh = Vec::new();
    let mut again = Vec::new();
    for i in 0..5 {
        let began = Instant::now();
        lab.pintle_up(&[]).ok();
        let took = began.elapsed().as_secs_f64();
        if i == 0 {
            fresh.push(took)
        } else {
            again.push(took)
        }
        if i < 4 {
            lab.pintle(&["down"]).ok();
        }
    }
    figures.push(Figure {
        what: "`pintle up` to Ready, first time (keys made)",
        value: median(&mut fresh),
        unit: "s",
        aim: "< 1",
    });
    figures.push(Figure {
        what: "`pintle up` to Ready, same data again (median of 4)",
        value: median(&mut again),
        unit: "s",
        aim: "< 1",
    });
}

fn daemons(lab: &Lab) -> Vec<(String, u32, f64)> {
    lab.daemons()
        .iter()
        .map(|d| {
            let pid = u32::try_from(d["pid"].as_u64().unwrap_or(0)).unwrap_or(0);
            (
                d["name"].as_str().unwrap_or_default().to_owned(),
                pid,
                d["pss_bytes"].as_f64().unwrap_or(0.0),
            )
        })
        .collect()
}

fn memory(lab: &Lab, figures: &mut Vec<Figure>) {
    let all = daemons(lab);
    let sum: f64 = all.iter().map(|(_, _, pss)| pss).sum();
    for (name, pid, pss) in &all {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let rss =
            status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("").trim().to_owned();
        println!("{name}: PSS {:.1} MB, RSS {rss}", pss / 1e6);
        let what: &'static str = Box::leak(format!("PSS of {name}, no pods").into_boxed_str());
        figures.push(Figure { what, value: pss / 1e6, unit: "MB", aim: "" });
    }
    figures.push(Figure {
        what: "PSS of everything but the pods, no pods",
        value: sum / 1e6,
        unit: "MB",
        aim: "< 60",
    });
}

fn cpu_s(pids: &[u32]) -> f64 {
    let ticks = |pid: &u32| -> f64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(')').map_or("", |(_, r)| r);
        let field = |n: usize| {
            rest.split_whitespace().nth(n).and_then(|s| s.parse::<f64>().ok()).unwrap_or(0.0)
        };
        field(11) + field(12)
    };
    pids.iter().map(ticks).sum::<f64>() / 100.0
}

fn idle(lab: &Lab, short: &str, what: &'static str, figures: &mut Vec<Figure>) {
    let pids: Vec<u32> = daemons(lab).iter().map(|(_, pid, _)| *pid).collect();
    std::thread::sleep(Duration::from_secs(3));
    let before = cpu_s(&pids);
    std::thread::sleep(IDLE);
    let share = (cpu_s(&pids) - before) / IDLE.as_secs_f64() * 100.0;
    println!("{short}: {share:.2} % of a core");
    figures.push(Figure { what, value: share, unit: "% of a core", aim: "< 0.5" });
}

fn pod(name: &str, out: &Path) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers:\n  - name: c\n    image: busybox:1\n    imagePullPolicy: Never\n    \
         command: [sh, -c, 'touch /out/{name}; exec sleep 10000']\n    \
         volumeMounts: [{{name: out, mountPath: /out}}]\n  volumes:\n  - name: out\n    hostPath: {{path: {}}}\n",
        out.display()
    )
}

fn latency(lab: &Lab, figures: &mut Vec<Figure>) {
    let out = lab.dir.join("out");
    fs::create_dir_all(&out).expect("folder");
    for (tool, p50, p99) in [
        (
            "pintle",
            "`pintle apply` of a pod to its process running, p50",
            "`pintle apply` of a pod to its process running, p99",
        ),
        (
            "kubectl",
            "`kubectl apply` of a pod to its process running, p50",
            "`kubectl apply` of a pod to its process running, p99",
        ),
    ] {
        let mut times = Vec::new();
        for i in 0..PODS {
            let name = format!("{tool}-{i}");
            let manifest = lab.dir.join("pod.yaml");
            fs::write(&manifest, pod(&name, &out)).expect("manifest");
            let path = manifest.to_str().expect("path");
            let began = SystemTime::now();
            if tool == "pintle" {
                lab.pintle(&["apply", "-f", path]).ok();
            } else {
                lab.kubectl(&["apply", "-f", path]).ok();
            }
            let made = eventually("the process to run", Duration::from_secs(20), || {
                fs::metadata(out.join(&name)).ok()
            });
            let at = made.modified().expect("mtime");
            times.push(at.duration_since(began).unwrap_or_default().as_secs_f64() * 1e3);
            lab.pintle(&["delete", "pod", &name, "--now"]).ok();
        }
        figures.push(Figure {
            what: p50,
            value: percentile(&mut times, 50),
            unit: "ms",
            aim: if tool == "pintle" { "< 30" } else { "" },
        });
        figures.push(Figure { what: p99, value: percentile(&mut times, 99), unit: "ms", aim: "" });
    }
    let mut alone: Vec<f64> = (0..30)
        .map(|_| {
            let began = Instant::now();
            lab.k("get --raw /version").ok();
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    figures.push(Figure {
        what: "`kubectl get --raw /version`, p50 (what kubectl takes for one request)",
        value: median(&mut alone),
        unit: "ms",
        aim: "",
    });
    lab.k("wait --for=delete pod --all --timeout=60s").out.clear();
}

fn hundred(lab: &Lab, figures: &mut Vec<Figure>) {
    // The command ends at once when it is asked to, so that the time until all are gone is ours and not its grace.
    lab.apply(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: many}\nspec:\n  replicas: 0\n  \
         selector: {matchLabels: {app: many}}\n  template:\n    metadata: {labels: {app: many}}\n    spec:\n      \
         terminationGracePeriodSeconds: 10\n      containers:\n      - name: c\n        image: busybox:1\n        \
         imagePullPolicy: Never\n        command: [sh, -c, 'trap \"exit 0\" TERM; sleep 100000 & wait']\n",
    )
    .ok();
    let began = Instant::now();
    lab.k("scale deployment/many --replicas=100").ok();
    lab.k("wait deployment/many --for=jsonpath={.status.readyReplicas}=100 --timeout=120s").ok();
    figures.push(Figure {
        what: "100 pods on one node Ready",
        value: began.elapsed().as_secs_f64(),
        unit: "s",
        aim: "< 3",
    });

    let shims: Vec<u32> = shims(lab);
    assert_eq!(shims.len(), PODS, "a shim a pod");
    let pss: f64 = shims.iter().map(|p| pss_bytes(*p)).sum();
    figures.push(Figure {
        what: "PSS of the shim, a pod",
        value: pss / PODS as f64 / 1e6,
        unit: "MB",
        aim: "< 1",
    });
    let sum: f64 = daemons(lab).iter().map(|(_, _, pss)| pss).sum();
    figures.push(Figure {
        what: "PSS of everything but the pods, 100 pods",
        value: sum / 1e6,
        unit: "MB",
        aim: "< 60",
    });
    idle(lab, "idle, 100 pods", "idle CPU of the whole control plane and node, 100 pods", figures);

    let began = Instant::now();
    lab.k("scale deployment/many --replicas=0").ok();
    // Not `kubectl wait`: it asks for one pod after the other and throttles itself to five requests a second.
    eventually("all pods to be gone", Duration::from_secs(60), || {
        let names = lab.pintle(&["get", "pods", "-o", "name"]).ok();
        (names.is_empty() && self::shims(lab).is_empty()).then_some(())
    });
    figures.push(Figure {
        what: "100 pods gone, objects and processes",
        value: began.elapsed().as_secs_f64(),
        unit: "s",
        aim: "",
    });
}

fn shims(lab: &Lab) -> Vec<u32> {
    let mark = format!("PINTLE_DATA_DIR={}", lab.dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let cmd = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        let is_shim =
            cmd.split(|b| *b == 0).take(2).any(|a| a == b"shim" || a.ends_with(b"pintle-shim"));
        if is_shim && environ.split(|b| *b == 0).any(|v| v == mark.as_bytes()) {
            found.extend(entry.file_name().to_string_lossy().parse::<u32>());
        }
    }
    found
}

fn pss_bytes(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kib = text.lines().find_map(|l| {
        l.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()
    });
    kib.unwrap_or(0.0) * 1024.0
}

fn median(v: &mut [f64]) -> f64 {
    percentile(v, 50)
}

fn percentile(v: &mut [f64], p: usize) -> f64 {
    v.sort_by(f64::total_cmp);
    let at = (v.len() * p).div_ceil(100).saturating_sub(1);
    v.get(at).copied().unwrap_or(0.0)
}

fn report(figures: &[Figure]) {
    let machine = run(Command::new("sh").args(["-c", "echo \"$(nproc) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)), $(free -g | awk '/Mem:/{print $2}') GiB, Linux $(uname -r)\""])).out;
    let version = run(Command::new(pintle_bin()).arg("--version")).out;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "<!-- cluster -->\n## A whole cluster\n\nMachine: {}. Binary: {}, `{}`.\n",
        machine.trim(),
        version.trim(),
        pintle_bin().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    );
    let _ = writeln!(text, "| what | measured | aim |\n|---|---|---|");
    for f in figures {
        let _ = writeln!(text, "| {} | {} {} | {} |", f.what, short(f.value), f.unit, f.aim);
    }
    let _ = writeln!(text, "\n![pods, milliseconds and seconds](cluster.svg)\n<!-- /cluster -->");
    let path = root().join("benches/RESULTS.md");
    let old = fs::read_to_string(&path).unwrap_or_else(|_| "# Results\n\nWritten by `make bench`. These machines are noisy: read medians and ratios.\n\n".into());
    let new = match (old.find("<!-- cluster -->"), old.find("<!-- /cluster -->")) {
        (Some(a), Some(b)) => format!(
            "{}{}{}",
            &old[..a],
            text,
            old[b + "<!-- /cluster -->".len()..].trim_start_matches('\n')
        ),
        _ => format!("{old}{text}"),
    };
    fs::write(&path, new).expect("RESULTS.md");
    fs::write(root().join("benches/cluster.svg"), chart(figures)).expect("chart");
    println!("{text}");
    let json: Vec<Value> = figures
        .iter()
        .map(|f| serde_json::json!({"what": f.what, "value": f.value, "unit": f.unit}))
        .collect();
    println!("{}", Value::Array(json));
}

fn short(v: f64) -> String {
    if v >= 100.0 {
        format!("{v:.0}")
    } else if v >= 10.0 {
        format!("{v:.1}")
    } else {
        format!("{v:.2}")
    }
}

// Bars on a logarithmic scale: the figures span milliseconds to seconds.
fn chart(figures: &[Figure]) -> String {
    let rows: Vec<(&str, f64)> = figures
        .iter()
        .filter_map(|f| match f.unit {
            "s" => Some((f.what, f.value * 1e3)),
            "ms" => Some((f.what, f.value)),
            _ => None,
        })
        .collect();
    let height = 40 + rows.len() * 26;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"900\" height=\"{height}\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" font-size=\"14\">Times, logarithmic scale</text>\n"
    );
    for (i, (what, ms)) in rows.iter().enumerate() {
        let y = 36 + i * 26;
        let width = (ms.max(1.0).log10() / 4.0 * 400.0).clamp(2.0, 400.0);
        let what = what.replace('`', "");
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{}\">{what}</text><rect x=\"420\" y=\"{y}\" width=\"{width:.0}\" height=\"18\" fill=\"#3b7dd8\"/>\
             <text x=\"{:.0}\" y=\"{}\">{} ms</text>",
            y + 13,
            426.0 + width,
            y + 13,
            short(*ms)
        );
    }
    svg.push_str("</svg>\n");
    svg
}
