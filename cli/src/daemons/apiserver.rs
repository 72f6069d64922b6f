//! `pintle apiserver`: the shell around `pintle-apiserver`.

/// Runs the daemon until it is told to end; gives the exit code.
pub fn run(_args: &[String]) -> i32 {
    eprintln!("pintle apiserver: not built yet");
    1
}
