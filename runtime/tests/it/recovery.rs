//! Callers and shims that die.

use crate::Test;
use crate::host::{Events, Host};
use pintle_runtime::image;
use pintle_runtime::sandbox::*;

pub const TESTS: &[Test] = &[
    ("a_dead_shim_is_noticed", a_dead_shim_is_noticed),
    ("a_new_caller_finds_everything", a_new_caller_finds_everything),
    ("half_made_things_are_cleared", half_made_things_are_cleared),
    ("a_caller_may_be_killed_at_any_point", a_caller_may_be_killed_at_any_point),
    ("callers_at_the_same_time", callers_at_the_same_time),
    ("hostile_bytes_on_the_control_socket", hostile_bytes_on_the_control_socket),
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

/// The process that is killed: goes through the life of a sandbox, with a byte on standard output before each call.
pub fn doomed(dir: &str) {
    use std::io::Write as _;
    let host = Host::again(dir.into());
    let rt = &host.runtime;
    let mark = || {
        let mut out = std::io::stdout();
        out.write_all(b".").and_then(|()| out.flush()).expect("mark");
    };
    for round in 0..100 {
        let c = host.container(&format!("c{round}"), &["sleep", "1000"]);
        mark();
        rt.create_sandbox(&host.sandbox("a")).expect("create");
        mark();
        rt.create_container("a", &c).expect("create");
        mark();
        rt.start_container("a", &c.id).expect("start");
        mark();
        rt.remove_container("a", &c.id, true).expect("remove");
        if round % 2 == 1 {
            mark();
            rt.remove_sandbox("a").expect("remove");
        }
    }
}

fn a_caller_may_be_killed_at_any_point() {
    use std::io::Read as _;
    let host = Host::new();
    for try_number in 0..40u32 {
        #[expect(
            clippy::disallowed_methods,
            reason = "a caller of its own is what is to be killed"
        )]
        let mut child = std::process::Command::new(std::env::current_exe().expect("own path"))
            .arg("doomed")
            .arg(&host.dir)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("spawn");
        let mut marks = vec![0u8; try_number as usize % 7 + 1];
        child.stdout.as_mut().expect("pipe").read_exact(&mut marks).expect("marks");
        // From just after the call's beginning to about its end.
        let pause = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(try_number) * 13 % 40 * 250_000,
        };
        rustix::event::poll(&mut [], Some(&pause)).expect("wait");
        child.kill().expect("kill");
        child.wait().expect("reap");
        // Whoever comes next can list, go on with the same, and remove.
        host.runtime.sandboxes().expect("list");
        host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
        let (code, _) = host.run("a", &host.container(&format!("after{try_number}"), &["true"]));
        assert_eq!(code, 0, "try {try_number}");
        if try_number % 3 == 0 {
            host.runtime.remove_sandbox("a").expect("remove");
        }
    }
}

fn callers_at_the_same_time() {
    let host = Host::new();
    std::thread::scope(|s| {
        for i in 0..8 {
            let host = &host;
            s.spawn(move || {
                let id = format!("s{}", i / 2);
                // Two of each: they are given the same one.
                host.runtime.create_sandbox(&host.sandbox(&id)).expect("create");
                for n in 0..5 {
                    let c = host.container(&format!("c{i}-{n}"), &["true"]);
                    let (code, _) = host.run(&id, &c);
                    assert_eq!(code, 0);
                }
            });
        }
    });
    assert_eq!(host.runtime.sandboxes().expect("list").len(), 4);
}

fn hostile_bytes_on_the_control_socket() {
    use std::io::Write as _;
    let host = Host::new();
    let shim = host.runtime.create_sandbox(&host.sandbox("a")).expect("create").shim_pid;
    let mut random = pintle_base::Prng::new(7);
    for i in 0..300usize {
        let mut socket =
            std::os::unix::net::UnixStream::connect(host.dir.join("runtime/a/shim.sock"))
                .expect("connect");
        let mut bytes: Vec<u8> = match i % 3 {
            0 => vec![0xff; 8],
            1 => [5u32.to_le_bytes(), (i as u32).to_le_bytes()].concat(),
            _ => {
                let text = br#"{"Kill":{"id":"c","signal":99999,"all":true}}"#;
                [&(text.len() as u32).to_le_bytes()[..], &[0; 4], text].concat()
            }
        };
        for _ in 0..random.below(64) {
            bytes.push(random.next_u64() as u8);
        }
        // The shim may hang up in the middle.
        let _ = socket.write_all(&bytes);
    }
    let (code, _) = host.sh("a", "true");
    assert_eq!(code, 0);
    assert_eq!(host.runtime.sandbox("a").expect("sandbox").shim_pid, shim);
}
