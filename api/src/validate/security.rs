//! Security contexts.

use super::kit::{Errors, flag, in_range, int, list, one_of, or_null, s, set};
use crate::path::Path;
use crate::status::FieldError;
use serde_json::Value;
use std::collections::BTreeSet;

const ID_MAX: i64 = i32::MAX as i64;

fn ids(v: &Value, p: &Path<'_>, e: &mut Errors) {
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        in_range(e, p, v, key, 0, ID_MAX);
    }
}

/// The pod's.
pub(super) fn pod(spec: &Value, p: &Path<'_>, e: &mut Errors) {
    let v = or_null(spec, "securityContext");
    let p = p.field("securityContext");
    ids(v, &p, e);
    let groups = p.field("supplementalGroups");
    for (i, g) in list(v, "supplementalGroups").iter().enumerate() {
        for c in super::text::in_range(g.as_i64().unwrap_or(0), 0, ID_MAX) {
            e.push(FieldError::invalid(groups.index(i), g, &c));
        }
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        e.push(FieldError::invalid(p.field("shareProcessNamespace"), &true.into(), detail));
    }
    sysctls(v, &p, e);
    super::kit::one_of_if_set(e, &p, v, "fsGroupChangePolicy", &["Always", "OnRootMismatch"]);
    super::kit::one_of_if_set(e, &p, v, "supplementalGroupsPolicy", &["Merge", "Strict"]);
    profiles(v, &p, e);
}

fn sysctls(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let all = p.field("sysctls");
    let mut seen = BTreeSet::new();
    for (i, x) in list(v, "sysctls").iter().enumerate() {
        let name = s(x, "name");
        let p = all.index(i);
        if name.is_empty() {
            e.push(FieldError::required(p.field("name"), ""));
        } else if !is_sysctl(name) {
            let detail = "must have at most 253 characters and match regex \
                          ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            e.push(FieldError::invalid_str(p.field("name"), name, detail));
        } else if !seen.insert(name) {
            e.push(FieldError::duplicate(p.field("name"), &name.into()));
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |s: &str| {
        let b = s.as_bytes();
        matches!((b.first(), b.last()), (Some(x), Some(y)) if alnum(*x) && alnum(*y))
            && b.iter().all(|c| alnum(*c) || matches!(c, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

/// seccompProfile and appArmorProfile.
fn profiles(v: &Value, p: &Path<'_>, e: &mut Errors) {
    for (key, what) in [("seccompProfile", "seccomp type"), ("appArmorProfile", "AppArmor type")] {
        let Some(x) = set(v, key) else { continue };
        let p = p.field(key);
        if s(x, "type").is_empty() {
            e.push(FieldError::required(p.field("type"), "type is required when profile is set"));
            continue;
        }
        one_of(e, &p, x, "type", &["Localhost", "RuntimeDefault", "Unconfined"]);
        let profile = s(x, "localhostProfile");
        let at = p.field("localhostProfile");
        match (s(x, "type"), profile.is_empty()) {
            ("Localhost", true) => {
                e.push(FieldError::required(at, &format!("must be set when {what} is Localhost")));
            }
            ("Localhost", false) => super::volumes::descending(profile, &at, e),
            (kind, false) => {
                let shown = format!("{{\"Type\":\"{kind}\",\"LocalhostProfile\":\"{profile}\"}}");
                let detail = format!("can only be set when {what} is Localhost");
                e.push(FieldError::invalid_shown(at, &shown, &detail));
            }
            _ => {}
        }
    }
}

/// A container's.
pub(super) fn container(c: &Value, host_users: Option<bool>, p: &Path<'_>, e: &mut Errors) {
    let Some(v) = set(c, "securityContext") else { return };
    ids(v, p, e);
    if set(v, "procMount").is_some() {
        one_of(e, p, v, "procMount", &["Default", "Unmasked"]);
        if s(v, "procMount") == "Unmasked" && host_users != Some(false) {
            let detail = "`hostUsers` must be false to use `Unmasked`";
            e.push(FieldError::invalid_str(p.field("procMount"), "Unmasked", detail));
        }
    }
    profiles(v, p, e);
    if v.get("allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false) {
        let added = list(or_null(v, "capabilities"), "add");
        let shown = internal(v);
        if flag(v, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            e.push(FieldError::invalid_shown(p, &shown, detail));
        }
        if added.iter().any(|c| c.as_str() == Some("CAP_SYS_ADMIN")) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            e.push(FieldError::invalid_shown(p, &shown, detail));
        }
    }
}

/// The context as Go prints its struct.
fn internal(v: &Value) -> String {
    let value = |k: &str| or_null(v, k).to_string();
    let number = |k: &str| int(v, k).map_or("null".to_owned(), |n| n.to_string());
    let capabilities = set(v, "capabilities").map_or("null".to_owned(), |c| {
        format!("{{\"Add\":{},\"Drop\":{}}}", or_null(c, "add"), or_null(c, "drop"))
    });
    let profile = |k: &str| {
        set(v, k).map_or("null".to_owned(), |x| {
            let local = or_null(x, "localhostProfile");
            format!("{{\"Type\":{},\"LocalhostProfile\":{local}}}", or_null(x, "type"))
        })
    };
    format!(
        "{{\"Capabilities\":{capabilities},\"Privileged\":{},\"SELinuxOptions\":null,\
         \"WindowsOptions\":null,\"RunAsUser\":{},\"RunAsGroup\":{},\"RunAsNonRoot\":{},\
         \"ReadOnlyRootFilesystem\":{},\"AllowPrivilegeEscalation\":{},\"ProcMount\":{},\
         \"SeccompProfile\":{},\"AppArmorProfile\":{}}}",
        value("privileged"),
        number("runAsUser"),
        number("runAsGroup"),
        value("runAsNonRoot"),
        value("readOnlyRootFilesystem"),
        value("allowPrivilegeEscalation"),
        value("procMount"),
        profile("seccompProfile"),
        profile("appArmorProfile"),
    )
}
