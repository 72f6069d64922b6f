//! The README's demo: a web workload that kubectl can see, reach, scale and update.

use pintle_tests::{Lab, root};
use std::collections::BTreeSet;

#[test]
fn the_demo_runs_scales_and_updates() {
    let mut lab = Lab::up("demo", &[]);
    lab.import_web();
    let manifest = root().join("examples/web.yaml");
    lab.kubectl(&["apply", "-f", manifest.to_str().expect("path")]).ok();
    lab.k("rollout status deployment/web --timeout=60s").ok();

    let pods = lab.k("get pods -l app=web -o jsonpath={.items[*].metadata.name}").ok();
    let names: BTreeSet<&str> = pods.split_whitespace().collect();
    assert_eq!(names.len(), 3, "{pods}");

    // Every pod answers through the service, by its address and by the node port.
    let ip = lab.get("service web")["spec"]["clusterIP"].as_str().expect("clusterIP").to_owned();
    for url in [format!("http://{ip}/"), "http://127.0.0.1:30080/".to_owned()] {
        let answers =
            lab.sh(&format!("for i in $(seq 60); do curl -sSf --max-time 5 {url}; done")).ok();
        let seen: BTreeSet<&str> =
            answers.lines().filter_map(|l| l.strip_prefix("hello from ")).collect();
        assert_eq!(seen, names, "{url} must reach all pods");
    }

    // By name, from inside a pod.
    let first = names.first().expect("a pod");
    let out = lab
        .kubectl(&["exec", first, "--", "wget", "-qO-", "http://web.default.svc.cluster.local/"])
        .ok();
    assert!(out.starts_with("hello from web-"), "{out}");

    lab.k("scale deployment/web --replicas=5").ok();
    lab.k("rollout status deployment/web --timeout=60s").ok();
    assert_eq!(lab.get("deployment web")["status"]["readyReplicas"], 5);

    lab.k("set env deployment/web COLOUR=green").ok();
    lab.k("rollout status deployment/web --timeout=120s").ok();
    let env = lab.kubectl(&["exec", "deploy/web", "--", "env"]).ok();
    assert!(env.contains("COLOUR=green") && env.contains("GREETING=hello"), "{env}");

    lab.k("rollout undo deployment/web").ok();
    lab.k("rollout status deployment/web --timeout=120s").ok();
    assert!(!lab.kubectl(&["exec", "deploy/web", "--", "env"]).ok().contains("COLOUR"));

    lab.k("delete deployment,service web --timeout=60s").ok();
    lab.k("wait --for=delete pod -l app=web --timeout=60s").ok();
    lab.down();
}
