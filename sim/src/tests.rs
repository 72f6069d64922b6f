//! Many seeds, one seed again, and the simulation's own promises.

use crate::run;
use std::sync::atomic::{AtomicU64, Ordering};

/// Histories that every run of the tests goes through; `SEEDS=from-to` chooses others.
const SEEDS: std::ops::Range<u64> = 0..100;

fn range() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SEEDS") else { return SEEDS };
    let (from, to) = text.split_once('-').expect("SEEDS=from-to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn every_seed_settles() {
    pintle_base::log::set_level(pintle_base::log::Level::Error);
    let range = range();
    let next = AtomicU64::new(range.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let worker = || {
            let mut failures = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= range.end || failures.len() >= 3 {
                    return failures;
                }
                let result = std::panic::catch_unwind(|| run(seed));
                match result {
                    Ok(Ok(_)) => {}
                    Ok(Err(why)) => failures.push(why),
                    Err(_) => failures.push(format!(
                        "seed {seed} panicked\nreplay: SEED={seed} cargo test -p pintle-sim replay -- --nocapture\n"
                    )),
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().expect("a worker")).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n==========\n"));
}

#[test]
fn replay() {
    let seed = std::env::var("SEED").ok().map_or(1, |s| s.parse().expect("SEED is a number"));
    match run(seed) {
        Ok(summary) => println!("seed {seed}: {summary:?}"),
        Err(why) => panic!("{why}"),
    }
}

#[test]
fn a_seed_gives_the_same_history_twice() {
    for seed in [3, 4, 5] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
