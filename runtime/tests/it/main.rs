//! Ring 4: real sandboxes and containers on this kernel, as root. Each test asserts that it leaves no mount, cgroup,
//! process or file behind.
//!
//! There is no libtest harness, because this binary is also the shim of its own tests (`it shim ROOT ID`). It takes the
//! arguments that `cargo test` and `cargo nextest` pass: filters, `--list`, `--exact`; `it measure` prints figures.

mod containers;
mod host;
mod measure;
mod recovery;
mod security;
mod streams;

type Test = (&'static str, fn());

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "shim") {
        std::process::exit(pintle_runtime::sandbox::shim_main(&args[1..]));
    }
    if args.first().is_some_and(|a| a == "measure") {
        host::require();
        return measure::run();
    }
    if let [verb, dir] = args.as_slice()
        && verb == "doomed"
    {
        return recovery::doomed(dir);
    }
    let flag = |f: &str| args.iter().any(|a| a == f);
    let filters: Vec<&String> =
        args.iter().filter(|a| !a.starts_with('-') && *a != "terse").collect();
    let wanted = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|f| if flag("--exact") { name == *f } else { name.contains(*f) })
    };
    let tests: Vec<Test> =
        [containers::TESTS, streams::TESTS, recovery::TESTS, security::TESTS].concat();
    let tests: Vec<Test> = tests.into_iter().filter(|(name, _)| wanted(name)).collect();
    if flag("--list") {
        // None is ever ignored: what cannot run fails and says why.
        if !flag("--ignored") {
            tests.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    host::require();
    // Others mount things on this machine at the same time: what these tests leave is looked for among their own.
    pintle_runtime::sys::raw::unshare(libc::CLONE_NEWNS).expect("a mount namespace");
    use rustix::mount::{MountPropagationFlags as P, mount_change};
    mount_change("/", P::DOWNSTREAM | P::REC).expect("make mounts private");
    let mut failed = Vec::new();
    for (name, test) in &tests {
        println!("test {name} ...");
        match std::panic::catch_unwind(test) {
            Ok(()) => println!("test {name} ... ok"),
            Err(_) => {
                println!("test {name} ... FAILED");
                failed.push(*name);
            }
        }
    }
    println!("{} passed; {} failed: {failed:?}", tests.len() - failed.len(), failed.len());
    std::process::exit(i32::from(!failed.is_empty()));
}
