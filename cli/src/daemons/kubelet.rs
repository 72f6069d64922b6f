//! `pintle kubelet`: the shell around `pintle-kubelet`.

/// Runs the daemon until it is told to end; gives the exit code.
pub fn run(_args: &[String]) -> i32 {
    eprintln!("pintle kubelet: not built yet");
    1
}
