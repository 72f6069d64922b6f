//! Profiles by what they answer: a small interpreter of classic BPF runs the compiled filters.

use super::*;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

// What the kernel would answer: the strictest of all filters.
fn answer(filters: &[Vec<u64>], call: &str, args: [u64; 6]) -> u32 {
    let nr = numbers::number(call).expect("a system call") as u32;
    let mut data = vec![nr, 0xc000_003e, 0, 0];
    data.extend(args.iter().flat_map(|a| [*a as u32, (*a >> 32) as u32]));
    filters.iter().map(|f| run(f, &data)).min_by_key(|r| (r & 0xffff_0000) as i32).unwrap_or(ALLOW)
}

fn run(filter: &[u64], data: &[u32]) -> u32 {
    let (mut a, mut pc) = (0u32, 0usize);
    loop {
        let i = filter[pc];
        pc += 1;
        let (code, jt, jf, k) = (i >> 48, (i >> 40) as u8, (i >> 32) as u8, i as u32);
        let mut jump = |yes: bool| pc += usize::from(if yes { jt } else { jf });
        match code {
            0x20 => a = data[k as usize / 4],
            0x54 => a &= k,
            0x05 => pc += k as usize,
            0x15 => jump(a == k),
            0x25 => jump(a > k),
            0x35 => jump(a >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn check(filters: &[Vec<u64>], call: &str, first: u64, expected: u32) {
    let got = answer(filters, call, [first, 0, 0, 0, 0, 0]);
    assert_eq!(got, expected, "{call}({first:#x}): {got:#x}");
}

#[test]
fn the_default_profile() {
    let none = compile(&Seccomp::RuntimeDefault, 0).expect("compiles");
    let eperm = ERRNO | libc::EPERM as u32;
    for call in ["read", "write", "openat", "execve", "exit_group", "futex", "clone"] {
        check(&none, call, 0, ALLOW);
    }
    for call in [
        "mount",
        "unshare",
        "setns",
        "bpf",
        "init_module",
        "reboot",
        "keyctl",
        "add_key",
        "kexec_load",
        "open_by_handle_at",
        "io_uring_setup",
        "userfaultfd",
        "chroot",
        "swapon",
        "pivot_root",
    ] {
        check(&none, call, 0, eperm);
    }
    check(&none, "clone3", 0, ERRNO | libc::ENOSYS as u32);
    check(&none, "clone", libc::CLONE_NEWUSER as u64 | 17, eperm);
    check(&none, "clone", libc::CLONE_THREAD as u64 | libc::CLONE_VM as u64, ALLOW);
    check(&none, "socket", 2, ALLOW);
    check(&none, "socket", 40, eperm);
    check(&none, "personality", 0xffff_ffff, ALLOW);
    check(&none, "personality", 0x004_0000, eperm);
    let admin = caps::bit("SYS_ADMIN").expect("bit");
    let some = compile(&Seccomp::RuntimeDefault, admin).expect("compiles");
    check(&some, "mount", 0, ALLOW);
    check(&some, "clone3", 0, ALLOW);
    check(&some, "clone", libc::CLONE_NEWUSER as u64, ALLOW);
    check(&some, "reboot", 0, eperm);
}

#[test]
fn names_exist() {
    let listed = default::ALLOWED.iter().flat_map(|g| g.iter());
    let by_capability = default::BY_CAPABILITY.iter().flat_map(|(_, g)| g.iter());
    // The names of other architectures' calls, and what libc has no number for.
    let elsewhere = ["sync_file_range2", "waitpid", "io_pgetevents"];
    for name in listed.chain(by_capability).filter(|n| !elsewhere.contains(n)) {
        assert!(numbers::number(name).is_some(), "{name}");
    }
    for (capability, _) in default::BY_CAPABILITY {
        assert!(caps::bit(capability).is_some(), "{capability}");
    }
}

#[test]
fn oci_profiles() {
    let parse = |text: &str| from_profile(&serde_json::from_str(text).expect("json"));
    let f = parse(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
            {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
            {"names": ["kill"], "action": "SCMP_ACT_KILL_PROCESS",
             "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_GE"}]}]}"#,
    )
    .expect("compiles");
    check(&f, "mkdir", 0, ERRNO | 13);
    check(&f, "kill", 4, ALLOW);
    check(&f, "kill", 5, 0x8000_0000);
    check(&f, "read", 0, ALLOW);
    let f = parse(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["write"], "action": "SCMP_ACT_LOG"},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
              {"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
    )
    .expect("compiles");
    check(&f, "read", 0, ALLOW);
    check(&f, "write", 0, 0x7ffc_0000);
    check(&f, "close", 0, ERRNO | 38);
    check(&f, "clone", 17, ALLOW);
    check(&f, "clone", 0x1000_0000, ERRNO | 38);
    assert!(parse(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#).is_err());
    assert!(parse(r#"{"defaultAction": "X"}"#).is_err());
}
