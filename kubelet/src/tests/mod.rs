//! The core against a fake runtime and a fake API server: whole lives of pods with a virtual clock.

mod life;
mod storm;
mod world;
