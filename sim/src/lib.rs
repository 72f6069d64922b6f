//! The whole control plane in one thread under a seeded simulation: store, API server, controllers, scheduler and
//! hollow kubelets, as the same cores that run for real, over simulated disk, network and clocks.
//!
//! [`world`] keeps time and faults; `store`, `apiserver` and `daemon` are the shells of the cores; `hollow` and
//! `user` are the machines and the people; [`oracle`] watches every published change for what must never happen,
//! and `settled` says what must be true when the faults are over. [`run`] is one history from one seed.

mod apiserver;
mod daemon;
mod hollow;
pub mod oracle;
mod process;
mod settled;
mod store;
mod user;
pub mod world;

#[cfg(test)]
mod tests;

pub use world::{Summary, Weather};

/// One history. The error has everything that is needed to understand it, and how to see it again.
pub fn run(seed: u64) -> Result<Summary, String> {
    let mut world = world::World::new(seed);
    let lines = std::env::var("LOG_LINES").ok().and_then(|s| s.parse().ok());
    world.oracle.borrow_mut().log_lines_max = lines;
    world.run().map_err(|why| {
        let log = world.oracle.borrow().log();
        format!(
            "{log}\nseed {seed}: {why}\n{}\nreplay: SEED={seed} cargo test -p pintle-sim replay -- --nocapture\n",
            world.position()
        )
    })
}
