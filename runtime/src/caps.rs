//! Capability names and the default set (that of containerd and Docker).

use crate::sandbox::{Error, Result};

// By number, from linux/capability.h.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// All of them.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// The bit of a name, with or without `CAP_`, in any case.
pub fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|n| *n == short).map(|i| 1 << i)
}

fn bits(names: &[String]) -> Result<u64> {
    names.iter().try_fold(0, |all, name| {
        if name.eq_ignore_ascii_case("ALL") {
            return Ok(ALL);
        }
        let bit = bit(name).ok_or_else(|| {
            Error::Invalid(format!("capability {name:?} does not exist (example: NET_ADMIN)"))
        })?;
        Ok(all | bit)
    })
}

/// What the caller has, and so what it can give.
pub fn available() -> u64 {
    rustix::thread::capabilities(None).map_or(ALL, |sets| sets.permitted.bits())
}

/// The set of a container: the default with additions, without drops; `ALL` is taken first in both.
pub fn of(privileged: bool, add: &[String], drop: &[String]) -> Result<u64> {
    let (added, dropped) = (bits(add)?, bits(drop)?);
    if privileged {
        return Ok(ALL);
    }
    let default = DEFAULT.iter().filter_map(|n| bit(n)).sum::<u64>();
    let all = |names: &[String]| names.iter().any(|n| n.eq_ignore_ascii_case("ALL"));
    Ok(match (all(add), all(drop)) {
        // Dropping all and adding some is the usual way to say "only these".
        (false, true) => added,
        (true, false) => ALL & !dropped,
        (true, true) => ALL,
        (false, false) => (default | added) & !dropped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expected: &[&str]) {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let got = of(false, &own(add), &own(drop)).expect("valid");
        assert_eq!(got, expected.iter().filter_map(|n| bit(n)).sum::<u64>(), "+{add:?} -{drop:?}");
    }

    #[test]
    fn sets() {
        check(&[], &[], &DEFAULT);
        check(&[], &["ALL"], &[]);
        check(&["NET_BIND_SERVICE"], &["ALL"], &["NET_BIND_SERVICE"]);
        check(&["CAP_NET_ADMIN"], &["ALL"], &["NET_ADMIN"]);
        check(&["ALL"], &["ALL"], &NAMES);
        assert_eq!(of(true, &[], &["ALL".into()]).expect("valid"), ALL);
        assert!(of(false, &["FLY".into()], &[]).is_err());
        assert_eq!(bit("cap_checkpoint_restore"), Some(1 << 40));
    }
}
