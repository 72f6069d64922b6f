//! Compares this crate with recordings of a real kube-apiserver, where `PINTLE_GOLDEN` names their folder.
//!
//! Without the variable there is nothing to compare, and the test says so. With it, what the crate alone
//! decides (defaults, findings, patches, table cells) is compared; what the server decides (uids, addresses,
//! admission) is left out. Differences are printed; `PINTLE_GOLDEN_STRICT=1` makes them failures.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod golden;

#[test]
fn golden() {
    let Some(folder) = std::env::var_os("PINTLE_GOLDEN") else {
        eprintln!("PINTLE_GOLDEN is not set: no recordings to compare with");
        return;
    };
    let report = golden::run(std::path::Path::new(&folder));
    for (area, tally) in &report {
        println!("{area}: {} of {} the same", tally.same, tally.same + tally.differences.len());
        for d in &tally.differences {
            println!("  {d}");
        }
    }
    if std::env::var_os("PINTLE_GOLDEN_STRICT").is_some() {
        assert!(report.values().all(|t| t.differences.is_empty()));
    }
}
