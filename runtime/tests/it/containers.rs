//! Containers from birth to removal.

use crate::Test;
use crate::host::{Events, Host};
use pintle_runtime::sandbox::*;

pub const TESTS: &[Test] = &[
    ("runs_and_logs", runs_and_logs),
    ("exec_failure_is_told_at_start", exec_failure_is_told_at_start),
    ("kill_and_remove", kill_and_remove),
];

fn runs_and_logs() {
    let host = Host::new();
    let made = host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    assert!(made.shim_pid > 0);
    assert!(made.netns.exists());
    let again = host.runtime.create_sandbox(&host.sandbox("a")).expect("again");
    assert_eq!(again.shim_pid, made.shim_pid);
    let (code, log) = host.sh("a", "echo out; hostname; id -u; exit 7");
    assert_eq!(code, 7);
    assert_eq!(log, "out\nbox\n0\n");
}

fn exec_failure_is_told_at_start() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let mut events = Events::new(&host.runtime, "a");
    host.runtime.create_container("a", &host.container("c", &["/bin/foo"])).expect("create");
    let e = host.runtime.start_container("a", "c").expect_err("there is no /bin/foo");
    assert!(e.to_string().contains("exec \"/bin/foo\": no such file"), "{e}");
    assert_eq!(events.exit_of("c"), 128);
    let e = host.runtime.create_container(
        "a",
        &ContainerConfig { image: "nope".into(), ..host.container("d", &["x"]) },
    );
    assert!(matches!(e, Err(Error::NotFound(_))), "{e:?}");
}

fn kill_and_remove() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let mut events = Events::new(&host.runtime, "a");
    host.runtime.create_container("a", &host.container("c", &["sleep", "1000"])).expect("create");
    let s = host.runtime.start_container("a", "c").expect("start");
    assert_eq!(s.status, ContainerStatus::Running);
    host.runtime.remove_container("a", "c", false).expect_err("it runs");
    // The first process of a pid namespace hears only signals that it handles: SIGKILL is another matter.
    host.runtime.kill_container("a", "c", 9, false).expect("kill");
    let s = events.exited("c");
    assert_eq!(s.status, ContainerStatus::Exited { code: 137, signal: 9, oom_killed: false });
    host.runtime.create_container("a", &host.container("d", &["sleep", "1000"])).expect("create");
    host.runtime.start_container("a", "d").expect("start");
    host.runtime.remove_container("a", "d", true).expect("remove by force");
    assert_eq!(host.runtime.sandbox("a").expect("sandbox").containers.len(), 1);
}
