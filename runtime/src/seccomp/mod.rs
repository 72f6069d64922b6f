//! System call filters: profiles in, BPF out (by seccompiler).
//!
//! One filter of seccompiler has one action for what matches and one for the rest. A profile with more actions becomes several
//! filters; the kernel runs all and takes the strictest answer. A filter applies to the native architecture; processes that
//! use another one (32-bit programs) are killed.

mod default;
mod numbers;

use crate::caps;
use crate::sandbox::{Error, Result, Seccomp};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Rules by system call; an empty list of conditions matches always.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

const EPERM: SeccompAction = SeccompAction::Errno(libc::EPERM as u32);

/// Filters for a container with these capabilities, packed as `sys::filter` wants them. None for `Unconfined`.
pub fn compile(wanted: &Seccomp, caps: u64) -> Result<Vec<Vec<u64>>> {
    match wanted {
        Seccomp::Unconfined => Ok(Vec::new()),
        Seccomp::RuntimeDefault => runtime_default(caps),
        Seccomp::Localhost(path) => {
            let text = std::fs::read(path)
                .map_err(|e| crate::state::io("read seccomp profile", path, e))?;
            let profile: Profile = serde_json::from_slice(&text)
                .map_err(|e| Error::Invalid(format!("seccomp profile {}: {e}", path.display())))?;
            from_profile(&profile)
                .map_err(|e| Error::Invalid(format!("seccomp profile {}: {e}", path.display())))
        }
    }
}

fn condition(
    index: u8,
    len: SeccompCmpArgLen,
    op: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition> {
    SeccompCondition::new(index, len, op, value)
        .map_err(|e| Error::Invalid(format!("seccomp condition on argument {index}: {e}")))
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule> {
    SeccompRule::new(conditions).map_err(|e| Error::Invalid(format!("seccomp rule: {e}")))
}

fn filter(rules: Rules, rest: SeccompAction, matched: SeccompAction) -> Result<Vec<u64>> {
    let bad = |e: &dyn std::fmt::Display| Error::Invalid(format!("seccomp filter: {e}"));
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|e| Error::Unsupported(format!("seccomp: {e}")))?;
    let filter = SeccompFilter::new(rules, rest, matched, arch).map_err(|e| bad(&e))?;
    let program = BpfProgram::try_from(filter).map_err(|e| bad(&e))?;
    Ok(program
        .iter()
        .map(|i| {
            u64::from(i.code) << 48 | u64::from(i.jt) << 40 | u64::from(i.jf) << 32 | u64::from(i.k)
        })
        .collect())
}

// A system call without conditions is allowed whatever other rules say of it.
fn always(rules: &mut Rules, names: &[&str]) {
    for n in names.iter().filter_map(|n| numbers::number(n)) {
        rules.insert(n, Vec::new());
    }
}

fn runtime_default(caps: u64) -> Result<Vec<Vec<u64>>> {
    use SeccompCmpArgLen::{Dword, Qword};
    let mut rules = Rules::new();
    for group in default::ALLOWED {
        always(&mut rules, group);
    }
    let mut when = |name: &str, alternatives: Vec<SeccompCondition>| -> Result<()> {
        if let Some(n) = numbers::number(name) {
            let list = alternatives.into_iter().map(|c| rule(vec![c])).collect::<Result<_>>()?;
            rules.insert(n, list);
        }
        Ok(())
    };
    let personalities = default::PERSONALITIES
        .iter()
        .map(|p| condition(0, Qword, SeccompCmpOp::Eq, *p))
        .collect::<Result<_>>()?;
    when("personality", personalities)?;
    let no_namespace = SeccompCmpOp::MaskedEq(default::CLONE_NAMESPACES);
    when("clone", vec![condition(0, Qword, no_namespace, 0)?])?;
    when("socket", vec![condition(0, Dword, SeccompCmpOp::Ne, default::VSOCK)?])?;
    // clone3 hides its flags in memory, where a filter cannot look: programs fall back to clone on ENOSYS.
    always(&mut rules, &["clone3"]);
    for (capability, names) in default::BY_CAPABILITY {
        if caps::bit(capability).is_some_and(|bit| caps & bit != 0) {
            always(&mut rules, names);
        }
    }
    let mut out = vec![filter(rules, EPERM, SeccompAction::Allow)?];
    if caps::bit("SYS_ADMIN").is_some_and(|bit| caps & bit == 0) {
        let mut clone3 = Rules::new();
        always(&mut clone3, &["clone3"]);
        let nosys = SeccompAction::Errno(libc::ENOSYS as u32);
        out.push(filter(clone3, SeccompAction::Allow, nosys)?);
    }
    Ok(out)
}

/// `linux.seccomp` of the OCI runtime spec.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    listener_path: String,
    #[serde(default)]
    syscalls: Vec<Syscalls>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscalls {
    #[serde(default)]
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Arg>>,
    // Docker's own form of a profile, which is a template: what it would mean depends on the container.
    #[serde(default)]
    includes: serde_json::Value,
    #[serde(default)]
    excludes: serde_json::Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arg {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

fn action(name: &str, errno: Option<u32>) -> Result<SeccompAction> {
    let errno = errno.unwrap_or(libc::EPERM as u32);
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(errno),
        "SCMP_ACT_TRACE" => SeccompAction::Trace(errno),
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        other => {
            return Err(Error::Invalid(format!("action {other:?} is not known or not supported")));
        }
    })
}

fn conditions(args: &[Arg]) -> Result<Vec<SeccompRule>> {
    let one = |a: &Arg| {
        let (op, value) = match a.op.as_str() {
            "SCMP_CMP_NE" => (SeccompCmpOp::Ne, a.value),
            "SCMP_CMP_LT" => (SeccompCmpOp::Lt, a.value),
            "SCMP_CMP_LE" => (SeccompCmpOp::Le, a.value),
            "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, a.value),
            "SCMP_CMP_GE" => (SeccompCmpOp::Ge, a.value),
            "SCMP_CMP_GT" => (SeccompCmpOp::Gt, a.value),
            "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(a.value), a.value_two),
            other => return Err(Error::Invalid(format!("operator {other:?} is not known"))),
        };
        condition(a.index, SeccompCmpArgLen::Qword, op, value)
    };
    let twice = args.iter().enumerate().any(|(i, a)| args[..i].iter().any(|b| b.index == a.index));
    if twice {
        // As runc reads it: several conditions on one argument are alternatives.
        return args.iter().map(|a| rule(vec![one(a)?])).collect();
    }
    Ok(vec![rule(args.iter().map(one).collect::<Result<_>>()?)?])
}

fn from_profile(p: &Profile) -> Result<Vec<Vec<u64>>> {
    let rest = action(&p.default_action, p.default_errno_ret)?;
    if !p.listener_path.is_empty() {
        return Err(Error::Invalid("listenerPath (user notification) is not supported".into()));
    }
    // Everything that some rule names, for the default; and each other action with its own.
    let mut named = Rules::new();
    let mut by_action: Vec<(SeccompAction, Rules)> = Vec::new();
    for s in &p.syscalls {
        let empty = |v: &serde_json::Value| match v {
            serde_json::Value::Null => true,
            serde_json::Value::Object(o) => o.is_empty(),
            _ => false,
        };
        if !empty(&s.includes) || !empty(&s.excludes) {
            return Err(Error::Invalid(
                "includes and excludes are Docker's templates, not OCI: write the list out".into(),
            ));
        }
        let what = action(&s.action, s.errno_ret)?;
        if what == rest {
            continue;
        }
        let args = s.args.as_deref().unwrap_or_default();
        for n in s.names.iter().filter_map(|n| numbers::number(n)) {
            add(&mut named, n, args)?;
            let at = by_action.iter().position(|(a, _)| *a == what).unwrap_or_else(|| {
                by_action.push((what.clone(), Rules::new()));
                by_action.len() - 1
            });
            add(&mut by_action[at].1, n, args)?;
        }
    }
    let mut out = Vec::new();
    if rest != SeccompAction::Allow {
        out.push(filter(named, rest, SeccompAction::Allow)?);
    }
    for (what, rules) in by_action {
        if what != SeccompAction::Allow {
            out.push(filter(rules, SeccompAction::Allow, what)?);
        }
    }
    Ok(out)
}

// A rule without conditions swallows those with.
fn add(rules: &mut Rules, number: i64, args: &[Arg]) -> Result<()> {
    match rules.get_mut(&number) {
        Some(there) if there.is_empty() => {}
        _ if args.is_empty() => {
            rules.insert(number, Vec::new());
        }
        Some(there) => there.extend(conditions(args)?),
        None => {
            rules.insert(number, conditions(args)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
