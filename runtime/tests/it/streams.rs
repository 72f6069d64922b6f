//! Exec, attach, terminals, stdin, dial, events.

use crate::Test;
use crate::host::{Events, Host, read_all, wait_readable};
use pintle_runtime::sandbox::*;
use std::io::Write as _;
use std::os::fd::OwnedFd;

pub const TESTS: &[Test] = &[
    ("exec", exec),
    ("exec_with_a_terminal", exec_with_a_terminal),
    ("exec_is_killed_in_time", exec_is_killed_in_time),
    ("a_container_with_a_terminal", a_container_with_a_terminal),
    ("attach", attach),
    ("dial", dial),
    ("ended_containers_are_told_on_subscription", ended_containers_are_told_on_subscription),
];

fn command(container: &str, command: &[&str]) -> ExecConfig {
    ExecConfig {
        container: container.into(),
        command: command.iter().map(|s| (*s).to_owned()).collect(),
        tty: false,
        stdin: false,
        stdout: true,
        stderr: true,
        timeout_ms: 0,
    }
}

fn running(host: &Host, id: &str) {
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    host.runtime.create_container("a", &host.container(id, &["sleep", "1000"])).expect("create");
    host.runtime.start_container("a", id).expect("start");
}

fn write(fd: OwnedFd, text: &str) {
    let mut file = std::fs::File::from(fd);
    file.write_all(text.as_bytes()).expect("write");
}

fn exec() {
    let host = Host::new();
    running(&host, "c");
    let mut events = Events::new(&host.runtime, "a");
    let s = host.runtime.exec("a", &command("c", &["sh", "-c", "echo out; echo err >&2; hostname; ps | grep -c '[s]leep'; ls /proc/self/fd; exit 5"])).expect("exec");
    assert_eq!(read_all(&s.stdout.expect("stdout")), "out\nbox\n1\n0\n1\n2\n3\n");
    assert_eq!(read_all(&s.stderr.expect("stderr")), "err\n");
    assert_eq!(events.exec_exit(s.exec), 5);
    let s = host
        .runtime
        .exec("a", &ExecConfig { stdin: true, ..command("c", &["cat"]) })
        .expect("exec");
    write(s.stdin.expect("stdin"), "through\n");
    assert_eq!(read_all(&s.stdout.expect("stdout")), "through\n");
    assert_eq!(events.exec_exit(s.exec), 0);
    let e = host.runtime.exec("a", &command("c", &["/no/such"])).expect_err("no file");
    assert!(e.to_string().contains("/no/such") && e.to_string().contains("no such file"), "{e}");
    assert!(host.runtime.exec("a", &command("x", &["true"])).is_err());
    for _ in 0..20 {
        let s = host.runtime.exec("a", &command("c", &["true"])).expect("exec");
        assert_eq!(events.exec_exit(s.exec), 0);
    }
}

fn exec_with_a_terminal() {
    let host = Host::new();
    running(&host, "c");
    let mut events = Events::new(&host.runtime, "a");
    let config = ExecConfig {
        tty: true,
        stdin: true,
        ..command("c", &["sh", "-c", "tty; read line; stty size; echo got $line"])
    };
    let s = host.runtime.exec("a", &config).expect("exec");
    host.runtime.resize("a", "c", s.exec, 132, 43).expect("resize");
    let out = s.stdout.expect("terminal");
    wait_readable(&out);
    write(s.stdin.expect("stdin"), "hello\n");
    let text = read_all(&out);
    assert!(text.starts_with("/dev/pts/0\r\n"), "{text}");
    assert!(text.contains("43 132\r\ngot hello\r\n"), "{text}");
    assert_eq!(events.exec_exit(s.exec), 0);
}

fn exec_is_killed_in_time() {
    let host = Host::new();
    running(&host, "c");
    let mut events = Events::new(&host.runtime, "a");
    let s = host
        .runtime
        .exec(
            "a",
            &ExecConfig { timeout_ms: 50, ..command("c", &["sh", "-c", "sleep 1000; true"]) },
        )
        .expect("exec");
    assert_eq!(read_all(&s.stdout.expect("stdout")), "");
    assert_eq!(events.exec_exit(s.exec), 137);
}

fn a_container_with_a_terminal() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let mut events = Events::new(&host.runtime, "a");
    let c = ContainerConfig {
        tty: true,
        stdin: true,
        ..host.container(
            "c",
            &[
                "sh",
                "-c",
                "tty; read line; stty size; echo got $line; test -c /dev/console && echo console",
            ],
        )
    };
    host.runtime.create_container("a", &c).expect("create");
    host.runtime.start_container("a", "c").expect("start");
    host.runtime.resize("a", "c", 0, 99, 33).expect("resize");
    let s = host.runtime.attach("a", "c", true).expect("attach");
    write(s.stdin.expect("stdin"), "hello\n");
    let text = read_all(&s.stdout.expect("stdout"));
    assert!(text.contains("33 99\r\ngot hello\r\nconsole\r\n"), "{text}");
    assert_eq!(events.exit_of("c"), 0);
    let log = host.log(&c);
    assert!(log.contains("/dev/pts/0") && log.contains("got hello"), "{log}");
}

fn attach() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let mut events = Events::new(&host.runtime, "a");
    let c = ContainerConfig {
        stdin: true,
        stdin_once: true,
        ..host.container("c", &["sh", "-c", "cat; echo done >&2"])
    };
    host.runtime.create_container("a", &c).expect("create");
    host.runtime.start_container("a", "c").expect("start");
    let watcher = host.runtime.attach("a", "c", false).expect("attach");
    let s = host.runtime.attach("a", "c", true).expect("attach");
    write(s.stdin.expect("stdin"), "one\ntwo\n");
    assert_eq!(read_all(&s.stdout.expect("stdout")), "one\ntwo\n");
    assert_eq!(read_all(&s.stderr.expect("stderr")), "done\n");
    assert_eq!(read_all(&watcher.stdout.expect("stdout")), "one\ntwo\n");
    assert_eq!(events.exit_of("c"), 0);
    assert_eq!(host.log(&c), "one\ntwo\ndone\n");
}

fn dial() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let c = host.container("c", &["sh", "-c", "echo ready; echo served | nc -l -p 8080"]);
    host.runtime.create_container("a", &c).expect("create");
    host.runtime.start_container("a", "c").expect("start");
    let e = host.runtime.dial("a", 81).expect_err("nobody listens");
    assert!(e.to_string().contains("81"), "{e}");
    // The listener is up a moment after the start: its line in /proc/net/tcp says when. Bounded, and each try is an exec.
    let listening = (0..200).any(|_| {
        let s = host
            .runtime
            .exec(
                "a",
                &command("c", &["sh", "-c", "cat /proc/net/tcp /proc/net/tcp6 | grep -c :1F90"]),
            )
            .expect("exec");
        read_all(&s.stdout.expect("stdout")).starts_with('1')
    });
    assert!(listening);
    let socket: OwnedFd = host.runtime.dial("a", 8080).expect("dial").into();
    wait_readable(&socket);
    assert_eq!(read_all(&socket), "served\n");
}

fn ended_containers_are_told_on_subscription() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let mut early = Events::new(&host.runtime, "a");
    host.runtime.create_container("a", &host.container("c", &["false"])).expect("create");
    host.runtime.start_container("a", "c").expect("start");
    assert_eq!(early.exit_of("c"), 1);
    let mut late = Events::new(&host.runtime, "a");
    assert_eq!(late.exit_of("c"), 1);
}
