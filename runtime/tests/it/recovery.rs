//! Callers and shims that die.

use crate::Test;
use crate::host::{Events, Host};
use pintle_runtime::image;
use pintle_runtime::sandbox::*;

pub const TESTS: &[Test] = &[
    ("a_dead_shim_is_noticed", a_dead_shim_is_noticed),
    ("a_new_caller_finds_everything", a_new_caller_finds_everything),
    ("half_made_things_are_cleared", half_made_things_are_cleared),
    ("an_image_in_use_stays", an_image_in_use_stays),
];

fn a_dead_shim_is_noticed() {
    let host = Host::new();
    let made = host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let mut events = Events::new(&host.runtime, "a");
    host.runtime.create_container("a", &host.container("c", &["sleep", "1000"])).expect("create");
    let c = host.runtime.start_container("a", "c").expect("start");
    host.runtime
        .create_container("a", &host.container("waits", &["sleep", "1000"]))
        .expect("create");
    let shim = rustix::process::Pid::from_raw(made.shim_pid as i32).expect("pid");
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).expect("kill the shim");
    assert!(events.next().is_none(), "hang-up");
    let now = host.runtime.sandbox("a").expect("sandbox");
    assert_eq!(now.shim_pid, 0);
    for c in &now.containers {
        assert_eq!(c.status, ContainerStatus::Exited { code: 137, signal: 9, oom_killed: false });
        assert!(c.finished_ns > 0);
    }
    assert_eq!(now.containers.len(), 2);
    let e = host.runtime.create_container("a", &host.container("d", &["true"])).expect_err("dead");
    assert!(matches!(e, Error::NotFound(_)), "{e}");
    host.runtime.remove_container("a", "c", false).expect("remove");
    assert!(!std::path::Path::new(&format!("/proc/{}/exe", c.pid)).exists());
    host.runtime.remove_sandbox("a").expect("remove");
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create again");
}

fn a_new_caller_finds_everything() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    host.runtime.create_container("a", &host.container("c", &["sleep", "1000"])).expect("create");
    let c = host.runtime.start_container("a", "c").expect("start");
    let second = Runtime::open(host.runtime.config.clone()).expect("open");
    let found = second.sandboxes().expect("list");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].containers[0].pid, c.pid);
    assert_eq!(found[0].containers[0].started_ns, c.started_ns);
    second.remove_container("a", "c", true).expect("remove");
    second.remove_sandbox("a").expect("remove");
    assert!(host.runtime.sandboxes().expect("list").is_empty());
}

fn half_made_things_are_cleared() {
    let host = Host::new();
    let dir = host.dir.join("runtime/a");
    std::fs::create_dir_all(dir.join("c")).expect("mkdir");
    std::fs::write(dir.join("config.json"), serde_json::to_vec(&host.sandbox("a")).expect("json"))
        .expect("write");
    assert!(host.runtime.sandboxes().expect("list").is_empty());
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create over it");
    std::fs::create_dir_all(dir.join("c/x/upper")).expect("mkdir");
    let (code, _) = host.run("a", &host.container("x", &["true"]));
    assert_eq!(code, 0);
}

fn an_image_in_use_stays() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    host.runtime.create_container("a", &host.container("c", &["true"])).expect("create");
    let images = &host.runtime.config.images;
    let e = image::remove(images, "box:1").expect_err("in use");
    assert!(e.to_string().contains("a/c"), "{e}");
    host.runtime.remove_container("a", "c", true).expect("remove");
    image::remove(images, "box:1").expect("remove the image");
    assert!(image::list(images).expect("list").is_empty());
    let layers = std::fs::read_dir(images.join("layers")).expect("layers").count();
    assert_eq!(layers, 0);
}
