//! `pintle scheduler`: the shell around `pintle-scheduler`.

/// Runs the daemon until it is told to end; gives the exit code.
pub fn run(_args: &[String]) -> i32 {
    eprintln!("pintle scheduler: not built yet");
    1
}
