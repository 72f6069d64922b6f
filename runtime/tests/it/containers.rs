//! Containers from birth to removal: process, log, files, users, limits.

use crate::Test;
use crate::host::{Events, Host};
use pintle_runtime::sandbox::*;
use std::path::{Path, PathBuf};

pub const TESTS: &[Test] = &[
    ("runs_and_logs", runs_and_logs),
    ("exec_failure_is_told_at_start", exec_failure_is_told_at_start),
    ("kill_and_remove", kill_and_remove),
    ("many_in_one_sandbox_and_in_many", many_in_one_sandbox_and_in_many),
    ("environment_and_user", environment_and_user),
    ("mounts", mounts),
    ("a_mount_cannot_lead_out_of_the_root", a_mount_cannot_lead_out_of_the_root),
    ("a_failed_creation_leaves_nothing", a_failed_creation_leaves_nothing),
    ("log_rotates_and_takes_everything", log_rotates_and_takes_everything),
    ("stats_and_update", stats_and_update),
    ("limits_are_enforced_or_told", limits_are_enforced_or_told),
    ("sysctls", sysctls),
    ("shared_pid_namespace", shared_pid_namespace),
    ("host_namespaces", host_namespaces),
    ("privileged", privileged),
];

fn runs_and_logs() {
    let host = Host::new();
    let made = host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    assert!(made.shim_pid > 0);
    assert!(made.netns.exists());
    let again = host.runtime.create_sandbox(&host.sandbox("a")).expect("again");
    assert_eq!(again.shim_pid, made.shim_pid);
    let other = SandboxConfig { hostname: "other".into(), ..host.sandbox("a") };
    assert!(matches!(host.runtime.create_sandbox(&other), Err(Error::Exists(_))));
    let (code, log) = host.sh("a", "echo out; hostname; id -u; echo $$; exit 7");
    assert_eq!(code, 7);
    assert_eq!(log, "out\nbox\n0\n1\n");
    let (_, log) = host.sh("a", "echo err >&2; printf unfinished; ls /proc/self/fd");
    assert_eq!(log, "err\nunfinished0\n1\n2\n3\n");
}

fn exec_failure_is_told_at_start() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let mut events = Events::new(&host.runtime, "a");
    host.runtime.create_container("a", &host.container("c", &["/bin/foo"])).expect("create");
    let e = host.runtime.start_container("a", "c").expect_err("there is no /bin/foo");
    assert!(e.to_string().contains("exec \"/bin/foo\": no such file"), "{e}");
    assert_eq!(events.exit_of("c"), 128);
    host.runtime.create_container("a", &host.container("e", &["/etc/passwd"])).expect("create");
    let e = host.runtime.start_container("a", "e").expect_err("it cannot be executed");
    assert!(e.to_string().contains("permission denied"), "{e}");
    let d = ContainerConfig { image: "nope".into(), ..host.container("d", &["x"]) };
    let e = host.runtime.create_container("a", &d).expect_err("no image");
    assert!(matches!(e, Error::NotFound(_)), "{e:?}");
    assert!(e.to_string().contains("pintle image import"), "{e}");
}

fn kill_and_remove() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let mut events = Events::new(&host.runtime, "a");
    let c = host.container("c", &["sleep", "1000"]);
    host.runtime.create_container("a", &c).expect("create");
    let s = host.runtime.start_container("a", "c").expect("start");
    assert_eq!(s.status, ContainerStatus::Running);
    host.runtime.remove_container("a", "c", false).expect_err("it runs");
    assert_eq!(host.runtime.create_container("a", &c).expect("the same").pid, s.pid);
    // The first process of a pid namespace hears only signals that it handles; SIGKILL is another matter.
    host.runtime.kill_container("a", "c", 9, false).expect("kill");
    let s = events.exited("c");
    assert_eq!(s.status, ContainerStatus::Exited { code: 137, signal: 9, oom_killed: false });
    let trap = host.container(
        "t",
        &["sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 1000 & wait $!; done"],
    );
    host.runtime.create_container("a", &trap).expect("create");
    let streams = host.runtime.attach("a", "t", false).expect("attach before start");
    host.runtime.start_container("a", "t").expect("start");
    crate::host::wait_readable(&streams.stdout.expect("stdout"));
    host.runtime.kill_container("a", "t", 15, true).expect("kill all");
    assert_eq!(events.exit_of("t"), 3);
    host.runtime.create_container("a", &host.container("d", &["sleep", "1000"])).expect("create");
    host.runtime.start_container("a", "d").expect("start");
    host.runtime.remove_container("a", "d", true).expect("remove by force");
    host.runtime.remove_container("a", "d", true).expect("remove again");
    // Never started.
    host.runtime.create_container("a", &host.container("e", &["true"])).expect("create");
    host.runtime.remove_container("a", "e", true).expect("remove by force");
    let ids: Vec<String> =
        host.runtime.sandbox("a").expect("sandbox").containers.into_iter().map(|c| c.id).collect();
    assert_eq!(ids, ["c", "t"]);
    host.runtime.remove_sandbox("a").expect("remove");
    host.runtime.remove_sandbox("a").expect("remove again");
    assert!(matches!(host.runtime.sandbox("a"), Err(Error::NotFound(_))));
}

fn many_in_one_sandbox_and_in_many() {
    let host = Host::new();
    for i in 0..4 {
        let sandbox = format!("s{i}");
        host.runtime.create_sandbox(&host.sandbox(&sandbox)).expect("create");
        for c in 0..4 {
            let c = format!("c{c}");
            host.runtime
                .create_container(&sandbox, &host.container(&c, &["sleep", "100"]))
                .expect("create");
            host.runtime.start_container(&sandbox, &c).expect("start");
        }
    }
    let all = host.runtime.sandboxes().expect("list");
    assert_eq!(all.iter().map(|s| s.containers.len()).collect::<Vec<_>>(), [4; 4]);
    assert!(all.iter().flat_map(|s| &s.containers).all(|c| c.status == ContainerStatus::Running));
}

fn environment_and_user() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let script = "id -u; id -g; id -G; echo $A $HOME; pwd; touch /tmp/x 2>/dev/null || echo refused; echo ok > /dev/stdout; grep -c CapEff:.0000000000000000 /proc/self/status";
    let c = ContainerConfig {
        env: vec!["A=b".into()],
        working_dir: "/made/here".into(),
        user: User { uid: Some(33), supplemental: vec![77], ..User::default() },
        ..host.container("c", &["sh", "-c", script])
    };
    let (code, log) = host.run("a", &c);
    assert_eq!(log, "33\n34\n34 50 77\nb /var/www\n/made/here\nrefused\nok\n1\n");
    assert_eq!(code, 0);
    let strict = User { must_not_be_root: true, ..User::default() };
    let c = ContainerConfig { user: strict, ..host.container("d", &["true"]) };
    let e = host.runtime.create_container("a", &c).expect_err("root");
    assert!(e.to_string().contains("root"), "{e}");
}

fn volume(source: &Path, destination: &str, read_only: bool) -> Mount {
    Mount {
        source: source.to_owned(),
        destination: destination.into(),
        read_only,
        tmpfs_bytes: None,
        propagation: None,
    }
}

fn mounts() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let data = host.dir.join("data");
    std::fs::create_dir(&data).expect("mkdir");
    std::fs::write(data.join("f"), "from the host\n").expect("write");
    let script = "cat /vol/f /etc/one; echo x > /ro/f || echo read-only; echo y > /vol/new; echo z > /t/a && stat -f -c %T /t; test -d /etc/hosts.d && echo dir";
    let tmpfs = Mount { tmpfs_bytes: Some(1 << 20), ..volume(Path::new(""), "/t", false) };
    let c = ContainerConfig {
        mounts: vec![
            volume(&data, "/vol", false),
            volume(&data, "/ro", true),
            volume(&data.join("f"), "/etc/one", true),
            volume(&data, "/etc/hosts.d", true),
            tmpfs,
        ],
        ..host.container("c", &["sh", "-c", script])
    };
    let (_, log) = host.run("a", &c);
    assert!(log.starts_with("from the host\nfrom the host\n"), "{log}");
    assert!(log.contains("read-only") && log.contains("tmpfs") && log.contains("dir"), "{log}");
    assert_eq!(std::fs::read_to_string(data.join("new")).expect("written"), "y\n");
    let c = ContainerConfig {
        read_only_root: true,
        mounts: vec![volume(&data, "/vol", false)],
        ..host.container(
            "d",
            &[
                "sh",
                "-c",
                "touch /x || echo ro; touch /vol/y && echo rw; touch /dev/shm/z && echo shm",
            ],
        )
    };
    let (_, log) = host.run("a", &c);
    assert!(log.contains("ro\n") && log.contains("rw\n") && log.contains("shm\n"), "{log}");
    let c = ContainerConfig {
        mounts: vec![volume(&host.dir.join("nothing"), "/vol", false)],
        ..host.container("e", &["true"])
    };
    let e = host.runtime.create_container("a", &c).expect_err("no source");
    assert!(e.to_string().contains("nothing"), "{e}");
}

fn a_mount_cannot_lead_out_of_the_root() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let data = host.dir.join("data");
    std::fs::create_dir(&data).expect("mkdir");
    // A volume that an earlier container has prepared: a link that leads to the host's root.
    let evil = host.dir.join("evil");
    std::fs::create_dir(&evil).expect("mkdir");
    std::os::unix::fs::symlink("/", evil.join("up")).expect("link");
    std::os::unix::fs::symlink("../../../../../..", evil.join("dots")).expect("link");
    let c = ContainerConfig {
        mounts: vec![
            volume(&evil, "/evil", false),
            volume(&data, "/evil/up/landed", false),
            volume(&data, "/evil/dots/landed2", false),
            volume(&data, "/../../landed3", false),
        ],
        ..host.container("c", &["ls", "-d", "/landed", "/landed2", "/landed3"])
    };
    let (code, log) = host.run("a", &c);
    assert_eq!((code, log.as_str()), (0, "/landed\n/landed2\n/landed3\n"));
    assert!(!PathBuf::from("/landed").exists() && !PathBuf::from("/landed2").exists());
}

fn a_failed_creation_leaves_nothing() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    // Fails in the new process: a folder is to be mounted on a file.
    let c = ContainerConfig {
        mounts: vec![volume(&host.dir, "/etc/passwd/x", false)],
        ..host.container("c", &["true"])
    };
    let e = host.runtime.create_container("a", &c).expect_err("not a folder");
    assert!(e.to_string().contains("/etc/passwd/x"), "{e}");
    assert!(host.runtime.sandbox("a").expect("sandbox").containers.is_empty());
    assert!(!host.dir.join("runtime/a/c/c").exists());
    assert!(!host.cgroup().join("burstable/poda/c").exists());
    // And a sandbox whose shim fails.
    let mut bad = host.sandbox("b");
    bad.sysctls.insert("net.ipv4.no_such_thing".into(), "1".into());
    let e = host.runtime.create_sandbox(&bad).expect_err("no such sysctl");
    assert!(e.to_string().contains("no_such_thing"), "{e}");
    assert!(!host.dir.join("runtime/b").exists());
    assert!(!host.dir.join("runtime/a/c/c").exists());
    bad.sysctls = [("kernel.core_pattern".to_owned(), "|/x".to_owned())].into();
    assert!(matches!(host.runtime.create_sandbox(&bad), Err(Error::Invalid(_))));
}

fn log_rotates_and_takes_everything() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let c = ContainerConfig {
        log_bytes_max: 64 << 10,
        log_files_max: 3,
        ..host.container("c", &["sh", "-c", "seq 1 20000"])
    };
    let (_, log) = host.run("a", &c);
    assert!(log.ends_with("\n20000\n"), "{}", &log[log.len() - 100..]);
    let dir = host.dir.join("logs");
    let mut files: Vec<_> =
        std::fs::read_dir(&dir).expect("logs").flatten().map(|e| e.file_name()).collect();
    files.sort();
    assert_eq!(files, ["c.log", "c.log.1", "c.log.2"]);
    assert!(std::fs::metadata(dir.join("c.log.1")).expect("size").len() <= 64 << 10);
    // Without a limit nothing is lost.
    let c = host.container("d", &["sh", "-c", "seq 1 50000"]);
    let (_, log) = host.run("a", &c);
    assert_eq!(log.lines().count(), 50_000);
}

fn stats_and_update() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    host.runtime.create_container("a", &host.container("c", &["sleep", "100"])).expect("create");
    host.runtime.start_container("a", "c").expect("start");
    let one = host.runtime.stats("a", Some("c")).expect("stats");
    assert_eq!(one.pids, 1);
    assert!(one.memory_bytes > 0);
    let all = host.runtime.stats("a", None).expect("stats");
    assert!(all.pids >= 2, "{all:?}");
    assert!(host.runtime.stats("a", Some("x")).is_err());
    let r = Resources { memory_max: Some(64 << 20), cpu_weight: Some(10), ..Resources::default() };
    host.runtime.update_container("a", "c", &r).expect("update");
    let limit = host.cgroup().join("burstable/poda/c/memory.max");
    let enforced = host.runtime.conditions().iter().all(|c| !c.starts_with("memory"));
    assert_eq!(std::fs::read_to_string(limit).is_ok_and(|v| v.trim() == "67108864"), enforced);
}

fn limits_are_enforced_or_told() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let told = host.runtime.conditions();
    let enforced = |c: &str| !told.iter().any(|line| line.starts_with(&format!("{c} limits")));
    println!("  enforced here: memory {}, pids {}", enforced("memory"), enforced("pids"));
    let mut events = Events::new(&host.runtime, "a");
    let hog = ContainerConfig {
        resources: Resources {
            memory_max: Some(16 << 20),
            swap_max: Some(0),
            pids_max: Some(12),
            cpu_quota_us: Some(50_000),
            cpu_weight: Some(20),
            oom_score_adj: Some(500),
            ..Resources::default()
        },
        ..host.container("hog", &["sh", "-c", "cat /proc/self/oom_score_adj; (for i in $(seq 30); do sleep 1 & done; wait); sleep 1; dd if=/dev/zero of=/dev/null bs=64M count=1; echo survived"])
    };
    host.runtime.create_container("a", &hog).expect("create");
    host.runtime.start_container("a", "hog").expect("start");
    let end = events.exited("hog");
    let ContainerStatus::Exited { oom_killed, .. } = end.status else { panic!("{end:?}") };
    let log = host.log(&hog);
    assert!(log.starts_with("500\n"), "{log}");
    assert_eq!(oom_killed, enforced("memory"), "{end:?} {log}");
    assert_eq!(log.contains("can't fork"), enforced("pids"), "{log}");
    if enforced("cpu") {
        let group = host.cgroup().join("burstable/poda/hog");
        let read = |f: &str| std::fs::read_to_string(group.join(f)).expect(f);
        assert_eq!(read("cpu.max"), "50000 100000\n");
        assert_eq!(read("cpu.weight"), "20\n");
    }
}

fn sysctls() {
    let host = Host::new();
    let mut config = host.sandbox("a");
    config.sysctls = [
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "7".to_owned()),
        ("kernel.shmmni".to_owned(), "99".to_owned()),
    ]
    .into();
    host.runtime.create_sandbox(&config).expect("create");
    let (_, log) =
        host.sh("a", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni");
    assert_eq!(log, "7\n99\n");
    assert_ne!(std::fs::read_to_string("/proc/sys/kernel/shmmni").expect("read"), "99\n");
}

fn shared_pid_namespace() {
    let host = Host::new();
    let config = SandboxConfig { share_pid: true, ..host.sandbox("a") };
    host.runtime.create_sandbox(&config).expect("create");
    host.runtime.create_container("a", &host.container("c", &["sleep", "1234"])).expect("create");
    host.runtime.start_container("a", "c").expect("start");
    // Sees the neighbour, and an orphan is reaped by the namespace's first process.
    let (_, log) = host.sh(
        "a",
        "ps | grep -c [1]234; (sleep 0 &); sleep 1; ps -o stat,args | grep -c '^Z' ; [ $$ != 1 ] && echo child",
    );
    assert_eq!(log, "1\n0\nchild\n");
    host.runtime.remove_container("a", "c", true).expect("remove");
}

fn host_namespaces() {
    let host = Host::new();
    let config = SandboxConfig {
        net: Namespace::Host,
        ipc: Namespace::Host,
        pid: Namespace::Host,
        ..host.sandbox("a")
    };
    let made = host.runtime.create_sandbox(&config).expect("create");
    assert_eq!(made.netns, PathBuf::new());
    let (_, log) = host.sh("a", "stat -L -c %i /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/pid; ps | grep -c '[i]t shim'; (sleep 1000 &)");
    let ino = |kind: &str| {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(format!("/proc/self/ns/{kind}")).expect("namespace").ino()
    };
    let expected = format!("{}\n{}\n{}\n", ino("net"), ino("ipc"), ino("pid"));
    assert!(log.starts_with(&expected), "{log} {expected}");
}

fn privileged() {
    let host = Host::new();
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
    let script = "grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; mount -t tmpfs x /tmp && echo mounted; ls -d /dev/vda; echo 0 > /proc/sys/kernel/shm_rmid_forced && echo sysctl";
    let c = ContainerConfig {
        privileged: true,
        allow_privilege_escalation: true,
        ..host.container("c", &["sh", "-c", script])
    };
    let (_, log) = host.run("a", &c);
    assert!(log.contains("Seccomp:\t0\nmounted\n"), "{log}");
    assert!(log.contains("sysctl\n"), "{log}");
}
