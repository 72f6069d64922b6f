//! Chores of the repository: tidy checks, code generation from API facts.
fn main() {}
