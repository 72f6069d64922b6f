//! The whole control plane in one thread under a seeded simulation.
