//! `pintle controllers`: the shell around `pintle-controllers`.

/// Runs the daemon until it is told to end; gives the exit code.
pub fn run(_args: &[String]) -> i32 {
    eprintln!("pintle controllers: not built yet");
    1
}
