//! Ways out of a container that are known, tried from inside.

use crate::Test;
use crate::host::Host;
use pintle_runtime::sandbox::*;
use std::path::Path;

pub const TESTS: &[Test] = &[
    ("capabilities_filter_and_no_new_privileges", capabilities_filter_and_no_new_privileges),
    ("kernel_files_are_masked_or_read_only", kernel_files_are_masked_or_read_only),
    ("devices_of_the_host_cannot_be_opened", devices_of_the_host_cannot_be_opened),
    ("the_runtimes_binary_cannot_be_written", the_runtimes_binary_cannot_be_written),
    ("a_working_directory_cannot_lead_out", a_working_directory_cannot_lead_out),
    ("system_calls_are_refused", system_calls_are_refused),
    ("localhost_profiles", localhost_profiles),
    ("the_host_is_not_seen", the_host_is_not_seen),
    ("mounts_tell_nothing_and_are_private", mounts_tell_nothing_and_are_private),
];

fn status(log: &str, key: &str) -> String {
    let line = log.lines().find(|l| l.starts_with(key)).unwrap_or_else(|| panic!("{key}: {log}"));
    line.split_whitespace().last().expect("a value").to_owned()
}

fn made(host: &Host) {
    host.runtime.create_sandbox(&host.sandbox("a")).expect("create");
}

fn capabilities_filter_and_no_new_privileges() {
    let host = Host::new();
    made(&host);
    let (_, log) = host.sh("a", "cat /proc/self/status");
    for set in ["CapBnd:", "CapPrm:", "CapEff:"] {
        assert_eq!(status(&log, set), "00000000a80425fb", "{set}");
    }
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(status(&log, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(&log, "NoNewPrivs:"), "1");
    assert_eq!(status(&log, "Seccomp:"), "2");
    let c = ContainerConfig {
        allow_privilege_escalation: true,
        cap_drop: vec!["ALL".into()],
        cap_add: vec!["NET_BIND_SERVICE".into()],
        user: User { uid: Some(33), ..User::default() },
        seccomp: Seccomp::Unconfined,
        ..host.container("c", &["cat", "/proc/self/status"])
    };
    let (_, log) = host.run("a", &c);
    assert_eq!(status(&log, "CapBnd:"), "0000000000000400");
    assert_eq!(status(&log, "CapEff:"), "0000000000000000");
    assert_eq!(status(&log, "NoNewPrivs:"), "0");
    assert_eq!(status(&log, "Seccomp:"), "0");
}

fn kernel_files_are_masked_or_read_only() {
    let host = Host::new();
    made(&host);
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do test -e $f && wc -c < $f; done; \
        ls -A /sys/firmware | wc -l; \
        for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/drop_caches /sys/kernel/mm/transparent_hugepage/enabled /sys/fs/cgroup/cgroup.procs; do \
          echo x 2>/dev/null > $f && echo written $f; done; \
        mkdir /sys/fs/cgroup/x 2>/dev/null && echo made; \
        mount -o remount,rw /proc/sys 2>/dev/null && echo remounted; \
        stat -c %t:%T /proc/interrupts";
    let (_, log) = host.sh("a", script);
    let (sizes, rest) = log.trim_end().rsplit_once('\n').expect("lines");
    assert!(sizes.lines().all(|l| l == "0"), "{log}");
    assert_eq!(rest, "1:3", "the mask is /dev/null");
}

fn devices_of_the_host_cannot_be_opened() {
    let host = Host::new();
    made(&host);
    let script = "mknod /disk b 254 0 && echo node; cat /disk 2>/dev/null | head -c 1 | wc -c; \
        mknod /mem c 1 1; head -c 1 /mem 2>/dev/null | wc -c; \
        head -c 1 /dev/zero | wc -c; echo x > /dev/null && echo null; ls /dev | wc -l";
    let (_, log) = host.sh("a", script);
    let mut lines = log.lines();
    assert_eq!(lines.by_ref().take(5).collect::<Vec<_>>(), ["node", "0", "0", "1", "null"]);
    let devices: u32 = lines.next().expect("a count").parse().expect("a number");
    assert!(devices < 20, "{devices}");
}

fn the_runtimes_binary_cannot_be_written() {
    let host = Host::new();
    let shim = host.runtime.create_sandbox(&host.sandbox("a")).expect("create").shim_pid;
    // CVE-2019-5736 writes through /proc/PID/exe. Even the host's root cannot, and not only as long as it runs.
    let exe = format!("/proc/{shim}/exe");
    std::fs::File::options().write(true).open(&exe).expect_err("it runs");
    let flags = rustix::fs::statvfs(&exe).expect("statvfs").f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY), "{flags:?}");
    let text = std::fs::read_to_string(format!("/proc/{shim}/status")).expect("status");
    assert!(text.contains("Threads:\t1\n"), "{text}");
}

fn a_working_directory_cannot_lead_out() {
    let host = Host::new();
    made(&host);
    let evil = host.dir.join("evil");
    std::fs::create_dir(&evil).expect("mkdir");
    for fd in 3..24 {
        for by in ["self", "thread-self"] {
            let _ = std::fs::remove_file(evil.join("cwd"));
            std::os::unix::fs::symlink(format!("/proc/{by}/fd/{fd}/../../../.."), evil.join("cwd"))
                .expect("link");
            for cwd in [format!("/proc/{by}/fd/{fd}"), "/evil/cwd".to_owned()] {
                let mount = Mount {
                    source: evil.clone(),
                    destination: "/evil".into(),
                    read_only: false,
                    tmpfs_bytes: None,
                    propagation: None,
                };
                let c = ContainerConfig {
                    working_dir: cwd.clone(),
                    mounts: vec![mount],
                    ..host.container("c", &["ls", "-d", "var/tmp"])
                };
                let made = host.runtime.create_container("a", &c);
                assert!(made.is_err(), "{cwd}: {made:?}");
            }
        }
    }
}

fn system_calls_are_refused() {
    let host = Host::new();
    made(&host);
    let script = "for kind in -U -m -n -i -u -p; do unshare $kind true 2>/dev/null && echo unshared $kind; done; \
        mount -t tmpfs x /tmp 2>/dev/null && echo mounted; hostname other 2>/dev/null && echo renamed; echo end";
    let (_, log) = host.sh("a", script);
    assert_eq!(log, "end\n");
    // Also with the capability, the filter's answer follows it.
    let c = ContainerConfig {
        cap_add: vec!["SYS_ADMIN".into()],
        ..host.container("c", &["sh", "-c", "mount -t tmpfs x /tmp && echo mounted"])
    };
    assert_eq!(host.run("a", &c).1, "mounted\n");
}

fn localhost_profiles() {
    let host = Host::new();
    made(&host);
    let profile = host.dir.join("profile.json");
    std::fs::write(
        &profile,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#,
    )
    .expect("write");
    let with = |path: &Path| ContainerConfig {
        seccomp: Seccomp::Localhost(path.into()),
        ..host.container("c", &["sh", "-c", "mkdir /x; echo end"])
    };
    let (_, log) = host.run("a", &with(&profile));
    assert!(log.contains("No space left") && log.ends_with("end\n"), "{log}");
    let e = host.runtime.create_container("a", &with(Path::new("/no/profile"))).expect_err("none");
    assert!(e.to_string().contains("/no/profile"), "{e}");
    std::fs::write(&profile, "{}").expect("write");
    let e = host.runtime.create_container("a", &with(&profile)).expect_err("no profile");
    assert!(matches!(e, Error::Invalid(_)), "{e}");
}

fn the_host_is_not_seen() {
    let host = Host::new();
    made(&host);
    let script = "ps -o pid,args; ls /; cat /proc/net/dev | grep -c :; cat /proc/self/cgroup";
    let (_, log) = host.sh("a", script);
    assert!(!log.contains("it shim"), "{log}");
    for host_only in ["var", "work", "boot"] {
        assert!(!log.lines().any(|l| l == host_only), "{log}");
    }
    // Loopback alone, and the group is the root of what is seen.
    assert!(log.contains("\n1\n"), "{log}");
    assert!(log.contains("0::/\n"), "{log}");
}

fn mounts_tell_nothing_and_are_private() {
    let host = Host::new();
    made(&host);
    let (_, log) = host.sh("a", "cat /proc/self/mountinfo");
    let root = log.lines().find(|l| l.split(' ').nth(4) == Some("/")).expect("a root");
    assert!(root.contains(" - overlay overlay "), "{root}");
    assert!(!log.contains("pt-rt"), "paths of the host are told: {log}");
    assert!(!log.contains("shared:"), "{log}");
    let options = |at: &str| {
        let line = log.lines().rfind(|l| l.split(' ').nth(4) == Some(at));
        line.unwrap_or_else(|| panic!("{at}: {log}")).split(' ').nth(5).expect("options").to_owned()
    };
    for (at, wanted) in [
        ("/proc", "nosuid,nodev,noexec"),
        ("/sys", "ro,nosuid,nodev,noexec"),
        ("/sys/fs/cgroup", "ro,nosuid,nodev,noexec"),
        ("/dev", "nosuid,noexec"),
        ("/dev/shm", "nosuid,nodev,noexec"),
        ("/proc/sys", "ro,nosuid,nodev,noexec"),
    ] {
        assert!(options(at).contains(wanted), "{at}: {}", options(at));
    }
}
