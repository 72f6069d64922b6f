//! Tables and properties of the controllers, over the in-memory API of `testing`.

mod jobs;
mod others;
mod replicas;
