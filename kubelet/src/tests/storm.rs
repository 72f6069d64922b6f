//! Seeded storms: anything happens to several pods in any order; afterwards everything comes to rest where it
//! was asked to be. The fake holds the invariants (no address twice, no run twice, nothing in a dead sandbox).

use super::world::World;
use pintle_base::Prng;
use serde_json::{Value, json};
use std::time::Duration;

fn storm(seed: u64) {
    let mut prng = Prng::new(seed);
    let mut w = World::new();
    let mut names: Vec<String> = Vec::new();
    for step in 0..60 {
        match prng.below(9) {
            0 | 1 => {
                let name = format!("p{step}");
                let policy = ["Always", "OnFailure", "Never"][prng.below(3) as usize];
                let init = if prng.chance(1, 3) {
                    vec![json!({"name": format!("i{step}"), "image": "img"})]
                } else {
                    vec![]
                };
                w.apply(&name, json!({"restartPolicy": policy, "initContainers": init, "containers": [
                    {"name": format!("c{step}"), "image": "img"}, {"name": format!("d{step}"), "image": "img"}]}));
                names.push(name);
            }
            2 => {
                if let Some(name) = pick(&mut prng, &names)
                    && !w.pod(&name).is_null()
                {
                    w.delete(&name, prng.below(20) as i64);
                }
            }
            3 => {
                if let Some(name) = pick(&mut prng, &names)
                    && !w.pod(&name).is_null()
                {
                    w.vanish(&name);
                }
            }
            4 | 5 => {
                let running = w.running();
                if let Some(c) = pick(&mut prng, &running) {
                    w.exit(&c, prng.below(2) as i32);
                }
            }
            6 => {
                let alive = w.sandboxes.values().filter(|s| s.shim_pid != 0);
                let pods: Vec<String> =
                    alive.map(|s| s.labels[crate::state::label::POD_NAME].clone()).collect();
                if let Some(pod) = pick(&mut prng, &pods) {
                    w.lose_sandbox(&pod);
                }
            }
            7 => w.restart_kubelet(),
            _ => w.pass(Duration::from_secs(prng.below(60))),
        }
        if prng.chance(1, 10) {
            let c = w.running();
            w.stubborn.extend(pick(&mut prng, &c));
        }
    }
    w.pass(Duration::from_secs(1000));
    for name in &names {
        let pod = w.pod(name);
        if pod.is_null() {
            let left =
                w.sandboxes.values().any(|s| s.labels[crate::state::label::POD_NAME] == **name);
            assert!(!left, "seed {seed}: {name} is gone and its sandbox is not");
            continue;
        }
        assert!(pod["metadata"]["deletionTimestamp"].is_null(), "seed {seed}: {name} never goes");
        let always = pod["spec"]["restartPolicy"] == "Always";
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        let init = !pod["spec"]["initContainers"][0].is_null();
        let good = phase == "Running"
            || (init && phase == "Pending")
            || (!always && matches!(phase, "Succeeded" | "Failed"));
        assert!(good, "seed {seed}: {name} is {phase}");
    }
    let before: Vec<_> = names.iter().map(|n| w.pod(n)).collect();
    w.restart_kubelet();
    w.pass(Duration::from_secs(600));
    let after: Vec<_> = names.iter().map(|n| w.pod(n)).collect();
    for (before, after) in before.iter().zip(&after) {
        let differ = differences(before, after);
        assert!(differ.is_empty(), "seed {seed}: rest is rest, also for a new kubelet: {differ:?}");
    }
}

/// Paths at which two objects differ.
fn differences(a: &Value, b: &Value) -> Vec<String> {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: std::collections::BTreeSet<_> = x.keys().chain(y.keys()).collect();
            let below = keys.into_iter().flat_map(|k| {
                differences(&a[k], &b[k]).into_iter().map(move |d| format!("{k}.{d}"))
            });
            below.collect()
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).flat_map(|(a, b)| differences(a, b)).collect()
        }
        (a, b) if a == b => Vec::new(),
        (a, b) => vec![format!("{a} became {b}")],
    }
}

fn pick(prng: &mut Prng, of: &[String]) -> Option<String> {
    of.get(prng.below(of.len() as u64) as usize).cloned()
}

#[test]
fn after_any_storm_everything_comes_to_rest() {
    let seeds: u64 = std::env::var("SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    for seed in 0..seeds {
        storm(seed);
    }
}
