//! PodSecurity: the levels `baseline` and `restricted` that a namespace's labels enforce or warn about.
//!
//! Checks are pure functions of a pod's metadata and spec. Those of `baseline` come first in a message, then
//! those of `restricted`, each by name; three of `restricted` replace their weaker sisters.
//!
//! References: "Pod Security Standards"; k8s.io/pod-security-admission/policy.

use std::collections::BTreeSet;

use pintle_api::object;
use pintle_api::status::{FieldError, Status, quote};
use serde_json::Value;

use crate::registry::Endpoint;
use crate::server::Server;
use crate::status::{Failure, Result};

const PREFIX: &str = "pod-security.kubernetes.io/";

/// How strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(s: &str) -> Option<Level> {
        match s {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// What a check has against a pod.
struct Finding {
    reason: &'static str,
    detail: String,
}

fn level(namespace: &Value, mode: &str) -> (Level, String) {
    let label = |key: String| object::str_at(namespace, &["metadata", "labels", &key]).to_owned();
    let level = Level::parse(&label(format!("{PREFIX}{mode}"))).unwrap_or(Level::Privileged);
    let version = match label(format!("{PREFIX}{mode}-version")) {
        v if v.is_empty() => "latest".to_owned(),
        v => v,
    };
    (level, version)
}

impl Server {
    /// Refuses a pod that its namespace forbids, warns about what it warns about.
    pub(super) fn pod_security(
        &self,
        e: &Endpoint,
        v: &Value,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let Some(spec) = pod_spec_of(e, v) else { return Ok(()) };
        let Some(ns) = self.lookup("", "namespaces", "", object::namespace(v)) else {
            return Ok(());
        };
        if ns.labels.as_ref().is_none_or(|l| !l.keys().any(|k| k.starts_with(PREFIX))) {
            return Ok(());
        }
        let ns = ns.parse();
        let (enforce, enforce_version) = level(&ns, "enforce");
        if e.kind == "Pod" {
            let found = findings(spec, enforce);
            if !found.is_empty() {
                let name = enforce.name();
                let why =
                    format!("violates PodSecurity \"{name}:{enforce_version}\": {}", text(&found));
                return Err(Status::forbidden("", "pods", object::name(v), &why));
            }
        }
        // Templates are only warned about: by the enforced level too, which their pods would meet.
        let (warn, version) = level(&ns, "warn");
        let wanted = if e.kind == "Pod" || warn > Level::Privileged {
            vec![(warn, version)]
        } else {
            vec![(enforce, enforce_version)]
        };
        for (level, version) in wanted {
            let found = findings(spec, level);
            if !found.is_empty() {
                let name = level.name();
                warnings.push(format!(
                    "would violate PodSecurity \"{name}:{version}\": {}",
                    text(&found)
                ));
            }
        }
        Ok(())
    }

    /// Checks the labels of a namespace, and warns about its pods when a stricter level is enforced.
    pub(super) fn pod_security_labels(
        &self,
        new: &Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let errors = label_errors(new);
        if !errors.is_empty() && old.is_none_or(|o| label_errors(o).len() != errors.len()) {
            return Err(Failure::invalid("", "Namespace", object::name(new), &errors));
        }
        let (Some(old), Some(id)) = (old, self.registry.resource_of("", "pods")) else {
            return Ok(());
        };
        let (is, version) = level(new, "enforce");
        if is <= level(old, "enforce").0 {
            return Ok(());
        }
        let name = object::name(new);
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for pod in self.cache.table(id).iter(name) {
            let found = findings(&pod.parse()["spec"], is);
            if found.is_empty() {
                continue;
            }
            let reasons: Vec<&str> = found.iter().map(|f| f.reason).collect();
            let reasons = reasons.join(", ");
            match groups.iter_mut().find(|(r, _)| *r == reasons) {
                Some((_, pods)) => pods.push(pod.name().to_owned()),
                None => groups.push((reasons, vec![pod.name().to_owned()])),
            }
        }
        if groups.is_empty() {
            return Ok(());
        }
        warnings.push(format!(
            "existing pods in namespace {} violate the new PodSecurity enforce level \"{}:{version}\"",
            quote(name),
            is.name()
        ));
        for (reasons, pods) in groups {
            warnings.push(match pods.len() {
                1 => format!("{}: {reasons}", pods[0]),
                2 => format!("{} (and 1 other pod): {reasons}", pods[0]),
                n => format!("{} (and {} other pods): {reasons}", pods[0], n - 1),
            });
        }
        Ok(())
    }
}

fn label_errors(ns: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for mode in ["enforce", "audit", "warn"] {
        let key = format!("{PREFIX}{mode}");
        let at = |key: &str| format!("metadata.labels[{key}]");
        let value = object::at(ns, &["metadata", "labels", &key]).and_then(Value::as_str);
        if let Some(v) = value.filter(|v| Level::parse(v).is_none()) {
            let text = "must be one of privileged, baseline, restricted";
            errors.push(FieldError::invalid_str(at(&key), v, text));
        }
        let key = format!("{key}-version");
        let value = object::at(ns, &["metadata", "labels", &key]).and_then(Value::as_str);
        let ok = |v: &str| {
            v == "latest"
                || v.strip_prefix("v1.")
                    .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        };
        if let Some(v) = value.filter(|v| !ok(v)) {
            let text = "must be \"latest\" or \"v1.x\"";
            errors.push(FieldError::invalid_str(at(&key), v, text));
        }
    }
    errors
}

/// The pod spec in an object that holds one.
fn pod_spec_of<'a>(e: &Endpoint, v: &'a Value) -> Option<&'a Value> {
    match (e.group.as_str(), e.kind.as_str()) {
        ("", "Pod") => v.get("spec"),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch", "Job") => object::at(v, &["spec", "template", "spec"]),
        ("", "PodTemplate") => object::at(v, &["template", "spec"]),
        ("batch", "CronJob") => object::at(v, &["spec", "jobTemplate", "spec", "template", "spec"]),
        _ => None,
    }
}

fn text(found: &[Finding]) -> String {
    let parts: Vec<String> = found
        .iter()
        .map(|f| {
            if f.detail.is_empty() {
                f.reason.to_owned()
            } else {
                format!("{} ({})", f.reason, f.detail)
            }
        })
        .collect();
    parts.join(", ")
}

type Check = fn(&Value) -> Option<Finding>;

fn findings(spec: &Value, level: Level) -> Vec<Finding> {
    const BASELINE: &[(Check, bool)] = &[
        // The flag: `restricted` has a stricter one in its place.
        (capabilities_baseline, true),
        (host_namespaces, false),
        (host_path_volumes, true),
        (host_ports, false),
        (privileged, false),
        (proc_mount, false),
        (se_linux, false),
        (seccomp_baseline, true),
        (sysctls, false),
    ];
    const RESTRICTED: &[Check] = &[
        allow_privilege_escalation,
        capabilities_restricted,
        restricted_volumes,
        run_as_non_root,
        run_as_user,
        seccomp_restricted,
    ];
    let mut out = Vec::new();
    if level >= Level::Baseline {
        let skip = level == Level::Restricted;
        let checks = BASELINE.iter().filter(|(_, replaced)| !(skip && *replaced));
        out.extend(checks.filter_map(|(check, _)| check(spec)));
    }
    if level == Level::Restricted {
        out.extend(RESTRICTED.iter().filter_map(|check| check(spec)));
    }
    out
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|l| object::list_at(spec, &[l]))
}

fn bad_names(spec: &Value, bad: impl Fn(&Value) -> bool) -> Vec<&str> {
    containers(spec).filter(|c| bad(c)).map(|c| object::str_at(c, &["name"])).collect()
}

fn quoted<S: AsRef<str>>(names: &[S]) -> String {
    let all: Vec<String> = names.iter().map(|n| quote(n.as_ref())).collect();
    all.join(", ")
}

fn these(noun: &str, names: &[&str]) -> String {
    let s = if names.len() == 1 { "" } else { "s" };
    format!("{noun}{s} {}", quoted(names))
}

/// A finding about containers, when there are any.
fn about(names: &[&str], reason: &'static str, what: &str) -> Option<Finding> {
    (!names.is_empty())
        .then(|| Finding { reason, detail: format!("{} {what}", these("container", names)) })
}

fn host_namespaces(spec: &Value) -> Option<Finding> {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|k| object::bool_at(spec, &[k]))
        .map(|k| format!("{k}=true"))
        .collect();
    (!set.is_empty()).then(|| Finding { reason: "host namespaces", detail: set.join(", ") })
}

fn privileged(spec: &Value) -> Option<Finding> {
    let bad = bad_names(spec, |c| object::bool_at(c, &["securityContext", "privileged"]));
    about(&bad, "privileged", "must not set securityContext.privileged=true")
}

fn proc_mount(spec: &Value) -> Option<Finding> {
    let kind = |c: &Value| object::str_at(c, &["securityContext", "procMount"]).to_owned();
    let bad = bad_names(spec, |c| !matches!(kind(c).as_str(), "" | "Default"));
    let kinds: BTreeSet<String> =
        containers(spec).map(kind).filter(|k| !matches!(k.as_str(), "" | "Default")).collect();
    let kinds: Vec<String> = kinds.into_iter().collect();
    let what = format!("must not set securityContext.procMount to {}", quoted(&kinds));
    about(&bad, "procMount", &what)
}

fn added(c: &Value) -> impl Iterator<Item = &str> {
    object::list_at(c, &["securityContext", "capabilities", "add"]).iter().filter_map(Value::as_str)
}

const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn capabilities_baseline(spec: &Value) -> Option<Finding> {
    let wrong = |c: &str| !DEFAULT_CAPABILITIES.contains(&c);
    let bad = bad_names(spec, |c| added(c).any(wrong));
    let caps: BTreeSet<&str> = containers(spec).flat_map(added).filter(|c| wrong(c)).collect();
    let caps: Vec<&str> = caps.into_iter().collect();
    let what = format!("must not include {} in securityContext.capabilities.add", quoted(&caps));
    about(&bad, "non-default capabilities", &what)
}

fn capabilities_restricted(spec: &Value) -> Option<Finding> {
    let drops_all = |c: &Value| {
        object::list_at(c, &["securityContext", "capabilities", "drop"]).iter().any(|d| d == "ALL")
    };
    let keep = bad_names(spec, |c| !drops_all(c));
    let wrong = |c: &str| c != "NET_BIND_SERVICE";
    let adding = bad_names(spec, |c| added(c).any(wrong));
    let mut parts = Vec::new();
    if !keep.is_empty() {
        let who = these("container", &keep);
        parts.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if !adding.is_empty() {
        let caps: BTreeSet<&str> = containers(spec).flat_map(added).filter(|c| wrong(c)).collect();
        let caps: Vec<&str> = caps.into_iter().collect();
        let who = these("container", &adding);
        let caps = quoted(&caps);
        parts.push(format!("{who} must not include {caps} in securityContext.capabilities.add"));
    }
    (!parts.is_empty())
        .then(|| Finding { reason: "unrestricted capabilities", detail: parts.join("; ") })
}

fn host_path_volumes(spec: &Value) -> Option<Finding> {
    let bad: Vec<&str> = object::list_at(spec, &["volumes"])
        .iter()
        .filter(|v| v.get("hostPath").is_some())
        .map(|v| object::str_at(v, &["name"]))
        .collect();
    (!bad.is_empty()).then(|| Finding { reason: "hostPath volumes", detail: these("volume", &bad) })
}

fn restricted_volumes(spec: &Value) -> Option<Finding> {
    const ALLOWED: &[&str] = &[
        "name",
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let kind = |v: &Value| {
        let keys = v.as_object().into_iter().flat_map(|m| m.keys());
        keys.map(String::as_str).find(|k| !ALLOWED.contains(k)).map(str::to_owned)
    };
    let volumes = object::list_at(spec, &["volumes"]);
    let bad: Vec<&str> = volumes
        .iter()
        .filter(|v| kind(v).is_some())
        .map(|v| object::str_at(v, &["name"]))
        .collect();
    let kinds: BTreeSet<String> = volumes.iter().filter_map(kind).collect();
    let kinds: Vec<String> = kinds.into_iter().collect();
    let (use_, s) = if bad.len() == 1 { ("uses", "") } else { ("use", "s") };
    let types = if kinds.len() == 1 { "" } else { s };
    (!bad.is_empty()).then(|| Finding {
        reason: "restricted volume types",
        detail: format!(
            "{} {use_} restricted volume type{types} {}",
            these("volume", &bad),
            quoted(&kinds)
        ),
    })
}

fn host_ports(spec: &Value) -> Option<Finding> {
    let ports = |c: &Value| -> Vec<i64> {
        let list = object::list_at(c, &["ports"]);
        list.iter().filter_map(|p| object::int_at(p, &["hostPort"])).filter(|p| *p != 0).collect()
    };
    let bad = bad_names(spec, |c| !ports(c).is_empty());
    let all: BTreeSet<i64> = containers(spec).flat_map(ports).collect();
    let texts: Vec<String> = all.iter().map(i64::to_string).collect();
    let use_ = if bad.len() == 1 { "uses" } else { "use" };
    let s = if all.len() == 1 { "" } else { "s" };
    about(&bad, "hostPort", &format!("{use_} hostPort{s} {}", texts.join(", ")))
}

fn sysctls(spec: &Value) -> Option<Finding> {
    const SAFE: &[&str] = &[
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    ];
    let bad: Vec<&str> = object::list_at(spec, &["securityContext", "sysctls"])
        .iter()
        .map(|s| object::str_at(s, &["name"]))
        .filter(|n| !SAFE.contains(n))
        .collect();
    (!bad.is_empty()).then(|| Finding { reason: "forbidden sysctls", detail: bad.join(", ") })
}

/// `pod`, `container "a"` or both: where a setting was found.
fn setters(pod: bool, names: &[&str]) -> String {
    match (pod, names) {
        (true, []) => "pod".into(),
        (true, names) => format!("pod and {}", these("container", names)),
        (false, names) => these("container", names),
    }
}

fn se_linux(spec: &Value) -> Option<Finding> {
    const TYPES: &[&str] =
        &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let options = |v: &Value| v["securityContext"]["seLinuxOptions"].clone();
    let wrong = |o: &Value| {
        !TYPES.contains(&object::str_at(o, &["type"]))
            || !object::str_at(o, &["user"]).is_empty()
            || !object::str_at(o, &["role"]).is_empty()
    };
    let names = bad_names(spec, |c| wrong(&options(c)));
    let pod = wrong(&options(spec));
    if !pod && names.is_empty() {
        return None;
    }
    let all: Vec<Value> =
        std::iter::once(spec).chain(containers(spec)).map(options).filter(wrong).collect();
    let types: BTreeSet<String> = all
        .iter()
        .map(|o| object::str_at(o, &["type"]).to_owned())
        .filter(|t| !TYPES.contains(&t.as_str()))
        .collect();
    let types: Vec<String> = types.into_iter().collect();
    let mut parts = Vec::new();
    if !types.is_empty() {
        let s = if types.len() == 1 { "" } else { "s" };
        parts.push(format!("type{s} {}", quoted(&types)));
    }
    for key in ["user", "role"] {
        if all.iter().any(|o| !object::str_at(o, &[key]).is_empty()) {
            parts.push(format!("{key} may not be set"));
        }
    }
    let who = setters(pod, &names);
    let detail =
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", parts.join("; "));
    Some(Finding { reason: "seLinuxOptions", detail })
}

fn seccomp(v: &Value) -> &str {
    object::str_at(v, &["securityContext", "seccompProfile", "type"])
}

fn seccomp_ok(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

fn seccomp_baseline(spec: &Value) -> Option<Finding> {
    let wrong = |v: &Value| !seccomp(v).is_empty() && !seccomp_ok(seccomp(v));
    let names = bad_names(spec, wrong);
    let pod = wrong(spec);
    if !pod && names.is_empty() {
        return None;
    }
    let kinds: BTreeSet<&str> =
        std::iter::once(spec).chain(containers(spec)).filter(|v| wrong(v)).map(seccomp).collect();
    let kinds: Vec<&str> = kinds.into_iter().collect();
    let detail = format!(
        "{} must not set securityContext.seccompProfile.type to {}",
        setters(pod, &names),
        quoted(&kinds)
    );
    Some(Finding { reason: "seccompProfile", detail })
}

fn seccomp_restricted(spec: &Value) -> Option<Finding> {
    if let Some(found) = seccomp_baseline(spec) {
        return Some(found);
    }
    if seccomp_ok(seccomp(spec)) {
        return None;
    }
    let bad = bad_names(spec, |c| !seccomp_ok(seccomp(c)));
    (!bad.is_empty()).then(|| Finding {
        reason: "seccompProfile",
        detail: format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            these("container", &bad)
        ),
    })
}

fn allow_privilege_escalation(spec: &Value) -> Option<Finding> {
    let bad = bad_names(spec, |c| {
        object::at(c, &["securityContext", "allowPrivilegeEscalation"]) != Some(&Value::Bool(false))
    });
    let what = "must set securityContext.allowPrivilegeEscalation=false";
    about(&bad, "allowPrivilegeEscalation != false", what)
}

fn run_as_non_root(spec: &Value) -> Option<Finding> {
    let set =
        |v: &Value| object::at(v, &["securityContext", "runAsNonRoot"]).and_then(Value::as_bool);
    let explicit = bad_names(spec, |c| set(c) == Some(false));
    let reason = "runAsNonRoot != true";
    if set(spec) == Some(false) || !explicit.is_empty() {
        let who = setters(set(spec) == Some(false), &explicit);
        let detail = format!("{who} must not set securityContext.runAsNonRoot=false");
        return Some(Finding { reason, detail });
    }
    if set(spec) == Some(true) {
        return None;
    }
    let bad = bad_names(spec, |c| set(c).is_none());
    (!bad.is_empty()).then(|| Finding {
        reason,
        detail: format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            these("container", &bad)
        ),
    })
}

fn run_as_user(spec: &Value) -> Option<Finding> {
    let root = |v: &Value| object::int_at(v, &["securityContext", "runAsUser"]) == Some(0);
    let names = bad_names(spec, root);
    (root(spec) || !names.is_empty()).then(|| Finding {
        reason: "runAsUser=0",
        detail: format!("{} must not set runAsUser=0", setters(root(spec), &names)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: Value, level: Level, expected: &str) {
        assert_eq!(text(&findings(&spec, level)), expected);
    }

    #[test]
    fn findings_read_as_kubernetes_writes_them() {
        let c = json!({"name": "c"});
        check(json!({"containers": [c]}), Level::Baseline, "");
        check(
            json!({"containers": [c], "hostNetwork": true, "volumes": [{"name": "v", "hostPath": {}}]}),
            Level::Baseline,
            "host namespaces (hostNetwork=true), hostPath volumes (volume \"v\")",
        );
        check(
            json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}]}, {"name": "b", "ports": [{"hostPort": 81}]}]}),
            Level::Baseline,
            "hostPort (containers \"a\", \"b\" use hostPorts 80, 81)",
        );
        let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}}}]});
        check(good, Level::Restricted, "");
    }
}
