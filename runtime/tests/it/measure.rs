//! Figures: medians of what a caller waits for, and the memory of a shim. Beside crun where it is installed.

use crate::host::{Events, Host};
use pintle_runtime::sandbox::*;

fn micros(f: impl FnOnce()) -> f64 {
    let start = now();
    f();
    (now() - start) as f64 / 1000.0
}

fn now() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

fn print(what: &str, mut v: Vec<f64>) {
    v.sort_by(f64::total_cmp);
    let at = |q: usize| v[(v.len() - 1) * q / 100] / 1000.0;
    println!("{what}: p50 {:.2} ms, p99 {:.2} ms ({} times)", at(50), at(99), v.len());
}

fn pss(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps");
    let wanted = ["Rss:", "Pss:", "Pss_Anon:", "Pss_File:", "Private_Dirty:"];
    text.lines()
        .filter(|l| wanted.iter().any(|w| l.starts_with(w)))
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", ")
}

pub fn run() {
    let host = Host::new();
    let rt = &host.runtime;
    let (mut make, mut unmake) = (Vec::new(), Vec::new());
    for i in 0..50 {
        let config = host.sandbox(&format!("m{i}"));
        make.push(micros(|| drop(rt.create_sandbox(&config).expect("create"))));
        unmake.push(micros(|| rt.remove_sandbox(&config.id).expect("remove")));
    }
    print("create_sandbox", make);
    print("remove_sandbox", unmake);
    let shim = rt.create_sandbox(&host.sandbox("a")).expect("create").shim_pid;
    println!("shim, no container: {}", pss(shim));
    let mut events = Events::new(rt, "a");
    let (mut create, mut start, mut end, mut remove, mut all) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for i in 0..200 {
        let c = host.container(&format!("c{i}"), &["true"]);
        let parts = [
            micros(|| drop(rt.create_container("a", &c).expect("create"))),
            micros(|| drop(rt.start_container("a", &c.id).expect("start"))),
            micros(|| assert_eq!(events.exit_of(&c.id), 0)),
            micros(|| rt.remove_container("a", &c.id, false).expect("remove")),
        ];
        for (v, p) in [&mut create, &mut start, &mut end, &mut remove].into_iter().zip(parts) {
            v.push(p);
        }
        all.push(parts.iter().sum());
    }
    print("create_container", create);
    print("start_container", start);
    print("exit told after start", end);
    print("remove_container", remove);
    print("create+start+exit+remove of true", all);
    rt.create_container("a", &host.container("up", &["sleep", "1000"])).expect("create");
    rt.start_container("a", "up").expect("start");
    let mut exec = Vec::new();
    for _ in 0..100 {
        let config = ExecConfig {
            container: "up".into(),
            command: vec!["true".into()],
            tty: false,
            stdin: false,
            stdout: true,
            stderr: true,
            timeout_ms: 0,
        };
        exec.push(micros(|| {
            let s = rt.exec("a", &config).expect("exec");
            assert_eq!(events.exec_exit(s.exec), 0);
        }));
    }
    print("exec of true, to its exit", exec);
    println!("shim, after 200 containers and 100 execs, one runs: {}", pss(shim));
    let more: Vec<_> = (0..8)
        .map(|i| rt.create_sandbox(&host.sandbox(&format!("p{i}"))).expect("create").shim_pid)
        .collect();
    println!("one of 9 shims: {}", pss(more[0]));
}
