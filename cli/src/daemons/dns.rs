//! `pintle dns`: the shell around `pintle-dns`.

/// Runs the daemon until it is told to end; gives the exit code.
pub fn run(_args: &[String]) -> i32 {
    eprintln!("pintle dns: not built yet");
    1
}
