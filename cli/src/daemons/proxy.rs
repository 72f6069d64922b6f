//! `pintle proxy`: the shell around `pintle-proxy`.

/// Runs the daemon until it is told to end; gives the exit code.
pub fn run(_args: &[String]) -> i32 {
    eprintln!("pintle proxy: not built yet");
    1
}
