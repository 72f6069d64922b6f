//! `pintle up`, `down` and `status`: a whole cluster on one machine as child processes of one supervisor.
//!
//! - `layout`: every path below a data directory, in one place
//! - `pki`: the CA, certificates, service-account keys and kubeconfigs
//! - `preflight`: what must hold before anything is made
//! - `plan`: which daemons run, with which arguments, in which order (pure)
//! - `supervisor`: starts them, restarts them, ends them
//! - `node`: a node's own namespaces on the same machine
//! - `up`, `down`, `status`: the user's verbs

pub mod layout;
pub mod pki;
pub mod units;
