//! The one binary: every daemon and the user's verbs, dispatched on the first argument.
fn main() {}
