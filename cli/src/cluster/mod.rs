//! `pintle up`, `down` and `status`: a whole cluster on one machine as child processes of one supervisor.
//!
//! - `layout`: every path below a data directory, in one place
//! - `pki`: the CA, certificates, service-account keys and kubeconfigs
//! - `preflight`: what must hold before anything is made
//! - `settings`: what `up` was told, kept for the next time
//! - `specs`: which daemons run, with which arguments, in which order (pure)
//! - `units`: when a daemon is started, restarted, ended (pure)
//! - `supervisor`: starts them, restarts them, ends them
//! - `node`: a node's own namespaces on the same machine
//! - `process`: the cluster's processes, found also after a crash
//! - `up`, `down`, `status`: the user's verbs

pub mod down;
pub mod layout;
pub mod node;
pub mod pki;
pub mod preflight;
pub mod process;
pub mod settings;
pub mod specs;
pub mod status;
pub mod supervisor;
pub mod units;
pub mod up;
