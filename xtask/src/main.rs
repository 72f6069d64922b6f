//! Chores of the repository: tidy checks, code generation from API facts.
//!
//! `cargo run -p pintle-xtask -- gen-schema [--check] | tidy`.

mod schema;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let done = match words.as_slice() {
        ["gen-schema"] => schema::generate(&root, false),
        ["gen-schema", "--check"] => schema::generate(&root, true),
        ["tidy"] => tidy::check(&root),
        _ => Err("usage: cargo xtask gen-schema [--check] | tidy".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
