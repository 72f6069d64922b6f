//! Reconcilers: one module a controller. Pure.
