//! `pintle store`: the shell around `pintle-store`.

/// Runs the daemon until it is told to end; gives the exit code.
pub fn run(_args: &[String]) -> i32 {
    eprintln!("pintle store: not built yet");
    1
}
