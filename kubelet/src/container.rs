//! From a container of a pod to what the runtime is asked for: names, labels, user, capabilities, mounts.

use crate::env::{self, Facts};
use crate::limits;
use crate::podfiles;
use crate::refs::Refs;
use crate::resources;
use crate::spec::{Container, Pod, Role, SeccompProfile};
use crate::state::{PodState, Sandbox, label};
use crate::volume::{self, Layout, MountPlan, VolumeSpec};
use pintle_runtime::sandbox as rt;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What a worker needs to make and start one run.
#[derive(Clone, Debug)]
pub struct StartSpec {
    /// For the runtime, without the volume mounts.
    pub config: rt::ContainerConfig,
    /// Mounts of volumes and pod files; become `config.mounts` once sub-paths are looked up.
    pub mounts: Vec<MountPlan>,
    /// File that must be there (empty) for the termination message.
    pub termination_file: PathBuf,
    /// `Never`, `IfNotPresent`, `Always`.
    pub pull_policy: String,
    /// Container name.
    pub name: String,
    /// Number of the run.
    pub attempt: u32,
    /// Sandbox to run in.
    pub sandbox: String,
}

/// Everything outside the pod that a container's configuration depends on.
pub struct Context<'a> {
    /// Where things are.
    pub layout: &'a Layout,
    /// Addresses and sizes.
    pub facts: &'a Facts,
    /// Service variables of the pod's namespace.
    pub services: &'a BTreeMap<String, String>,
    /// ConfigMaps, secrets, tokens.
    pub refs: &'a Refs,
    /// The pod's volumes.
    pub volumes: &'a [VolumeSpec],
}

/// FNV-1a with a final mix, for names that must be short and the same each time. Not for secrets.
pub fn fnv(parts: &[&str], seed: u64) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for part in parts {
        for b in part.bytes().chain([0xff]) {
            h = (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    // So that inputs that differ in their last byte differ everywhere.
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^ (h >> 31)
}

/// Hash of what forces a restart of a running container when it changes (its name and image).
pub fn hash(c: &Container) -> String {
    format!("{:016x}", fnv(&[&c.name, &c.image], 0))
}

/// Id of a sandbox: the pod's uid and the attempt.
pub fn sandbox_id(uid: &str, attempt: u32) -> String {
    let fits = uid.len() <= 48
        && !uid.is_empty()
        && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if fits { format!("{uid}.{attempt}") } else { format!("{:016x}.{attempt}", fnv(&[uid], 0)) }
}

/// Id of a run: unique in the cluster, the same for the same run.
pub fn run_id(uid: &str, name: &str, attempt: u32) -> String {
    let attempt = attempt.to_string();
    let parts = [uid, name, attempt.as_str()];
    format!("{:016x}{:016x}", fnv(&parts, 1), fnv(&parts, 2))
}

/// Name of the host end of a sandbox's veth pair: 14 characters.
pub fn port_name(sandbox: &str) -> String {
    format!("pt{:012x}", fnv(&[sandbox], 3) & 0xffff_ffff_ffff)
}

/// What the runtime is asked for as a pod's sandbox.
pub fn sandbox_config(s: &PodState, attempt: u32, ip: Option<IpAddr>) -> rt::SandboxConfig {
    let (pod, m) = (&s.pod, &s.pod.metadata);
    let host_or_new = |host: bool| if host { rt::Namespace::Host } else { rt::Namespace::New };
    let mut labels: BTreeMap<String, String> = [
        (label::POD_NAME, m.name.clone()),
        (label::POD_NAMESPACE, m.namespace.clone()),
        (label::POD_UID, m.uid.clone()),
        (label::SANDBOX_ATTEMPT, attempt.to_string()),
    ]
    .map(|(k, v)| (k.to_string(), v))
    .into();
    if let Some(ip) = ip {
        labels.insert(label::IP.into(), ip.to_string());
    }
    let sysctls = pod.spec.security_context.sysctls.iter();
    rt::SandboxConfig {
        id: sandbox_id(&m.uid, attempt),
        hostname: pod.hostname(),
        net: host_or_new(pod.spec.host_network),
        ipc: host_or_new(pod.spec.host_ipc),
        pid: host_or_new(pod.spec.host_pid),
        share_pid: pod.spec.share_process_namespace,
        cgroup: resources::cgroup(pod),
        resources: resources::of_pod(pod),
        sysctls: sysctls.map(|s| (s.name.replace('/', "."), s.value.clone())).collect(),
        labels,
    }
}

/// What the runtime is asked for as a run of a container. The error is the message of
/// CreateContainerConfigError.
pub fn start_spec(
    s: &PodState,
    (role, c): (Role, &Container),
    attempt: u32,
    backoff: Duration,
    cx: &Context<'_>,
) -> Result<StartSpec, String> {
    let pod = &s.pod;
    let uid = &pod.metadata.uid;
    let vars = env::build(pod, c, cx.facts, cx.services, cx.refs).map_err(|e| e.0)?;
    let user = user(pod, c)?;
    let mut mounts = pod_file_mounts(pod, c, cx.layout);
    mounts.extend(volume::mounts(c, cx.volumes, &vars)?);
    let termination_file = cx.layout.termination(uid, &c.name, attempt);
    if !c.termination_message_path.is_empty() {
        mounts.push(plain_mount(termination_file.clone(), &c.termination_message_path));
    }
    let sc = &c.security_context;
    let adds_sys_admin = sc.capabilities.add.iter().any(|c| capability(c) == "SYS_ADMIN");
    let labels = labels(pod, c, attempt, backoff);
    let expand = |list: &[String]| list.iter().map(|t| env::expand(t, &vars)).collect();
    let mut env: Vec<String> = vars.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if !vars.contains_key("HOSTNAME") {
        env.push(format!("HOSTNAME={}", pod.hostname()));
    }
    let config = rt::ContainerConfig {
        id: run_id(uid, &c.name, attempt),
        image: c.image.clone(),
        command: expand(&c.command),
        args: expand(&c.args),
        env,
        working_dir: c.working_dir.clone(),
        user,
        mounts: Vec::new(),
        resources: container_resources(pod, role, c, cx.facts),
        privileged: sc.privileged,
        cap_add: sc.capabilities.add.iter().map(|c| capability(c)).collect(),
        cap_drop: sc.capabilities.drop.iter().map(|c| capability(c)).collect(),
        allow_privilege_escalation: sc.allow_privilege_escalation.unwrap_or(true)
            || sc.privileged
            || adds_sys_admin,
        read_only_root: sc.read_only_root_filesystem,
        seccomp: seccomp(pod, c, cx.layout)?,
        unmasked_proc: sc.proc_mount == "Unmasked",
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        log_path: cx.layout.log(uid, &c.name, attempt),
        log_bytes_max: limits::LOG_BYTES_MAX,
        log_files_max: limits::LOG_FILES_MAX,
        termination_message_path: String::new(),
        labels,
    };
    Ok(StartSpec {
        config,
        mounts,
        termination_file,
        pull_policy: c.image_pull_policy.clone(),
        name: c.name.clone(),
        attempt,
        sandbox: s.sandbox.as_ref().map(|b| b.id.clone()).unwrap_or_default(),
    })
}

fn labels(pod: &Pod, c: &Container, attempt: u32, backoff: Duration) -> BTreeMap<String, String> {
    let m = &pod.metadata;
    [
        (label::POD_NAME, m.name.clone()),
        (label::POD_NAMESPACE, m.namespace.clone()),
        (label::POD_UID, m.uid.clone()),
        (label::CONTAINER_NAME, c.name.clone()),
        (label::ATTEMPT, attempt.to_string()),
        (label::IMAGE, c.image.clone()),
        (label::HASH, hash(c)),
        (label::BACKOFF_MS, backoff.as_millis().to_string()),
    ]
    .map(|(k, v)| (k.to_string(), v))
    .into()
}

fn container_resources(pod: &Pod, role: Role, c: &Container, facts: &Facts) -> rt::Resources {
    let mut r = resources::of_container(pod, c, facts.node_memory_bytes);
    if role == Role::Sidecar {
        // A sidecar must not die before what it serves: it gets the lowest score of the main containers.
        let main = pod.spec.containers.iter();
        let lowest = main.map(|m| resources::oom_score_adj(pod, m, facts.node_memory_bytes)).min();
        r.oom_score_adj = r.oom_score_adj.into_iter().chain(lowest).min();
    }
    r
}

fn capability(name: &str) -> String {
    name.to_uppercase().trim_start_matches("CAP_").to_string()
}

fn user(pod: &Pod, c: &Container) -> Result<rt::User, String> {
    let (p, sc) = (&pod.spec.security_context, &c.security_context);
    let uid = sc.run_as_user.or(p.run_as_user);
    let must_not_be_root = sc.run_as_non_root.or(p.run_as_non_root).unwrap_or(false);
    if must_not_be_root && uid == Some(0) {
        return Err(format!(
            "container's runAsUser breaks non-root policy (pod: \"{}\", container: {})",
            pod.long_name(),
            c.name
        ));
    }
    let mut supplemental = p.supplemental_groups.clone();
    supplemental.extend(p.fs_group.filter(|g| !supplemental.contains(g)));
    Ok(rt::User { uid, gid: sc.run_as_group.or(p.run_as_group), supplemental, must_not_be_root })
}

fn seccomp(pod: &Pod, c: &Container, layout: &Layout) -> Result<rt::Seccomp, String> {
    if c.security_context.privileged {
        return Ok(rt::Seccomp::Unconfined);
    }
    let of_pod = pod.spec.security_context.seccomp_profile.as_ref();
    let profile: Option<&SeccompProfile> = c.security_context.seccomp_profile.as_ref().or(of_pod);
    match profile.map(|p| (p.kind.as_str(), p.localhost_profile.as_str())) {
        // Strict by default: what Kubernetes calls SeccompDefault.
        None | Some(("RuntimeDefault", _)) => Ok(rt::Seccomp::RuntimeDefault),
        Some(("Unconfined", _)) => Ok(rt::Seccomp::Unconfined),
        Some(("Localhost", file)) => {
            let path = std::path::Path::new(file);
            let plain = path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if file.is_empty() || !plain {
                return Err(format!(
                    "localhostProfile {file:?} must be a relative path without '..'"
                ));
            }
            Ok(rt::Seccomp::Localhost(layout.seccomp.join(path)))
        }
        Some((other, _)) => Err(format!("unknown seccomp profile type {other:?}")),
    }
}

fn plain_mount(source: PathBuf, destination: &str) -> MountPlan {
    MountPlan {
        source,
        sub_path: String::new(),
        destination: PathBuf::from(destination),
        read_only: false,
        propagation: None,
    }
}

/// The files of a pod that its containers see in place of the image's.
const POD_FILES: [(&str, &str); 3] =
    [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")];

fn pod_file_mounts(pod: &Pod, c: &Container, layout: &Layout) -> Vec<MountPlan> {
    let folder = layout.pod(&pod.metadata.uid).join("etc");
    POD_FILES
        .iter()
        .filter(|(_, path)| !c.volume_mounts.iter().any(|m| m.mount_path == *path))
        .map(|(name, path)| {
            let mut m = plain_mount(folder.join(name), path);
            m.read_only = c.security_context.read_only_root_filesystem;
            m
        })
        .collect()
}

/// The pod's own files: path in its folder and content.
pub fn pod_files(
    s: &PodState,
    sandbox_ip: Option<IpAddr>,
    layout: &Layout,
    dns: &podfiles::DnsFacts,
) -> Vec<(PathBuf, String)> {
    let folder = layout.pod(&s.pod.metadata.uid).join("etc");
    let (host, fqdn) = podfiles::names(&s.pod, dns);
    let own = match fqdn {
        Some(fqdn) if s.pod.spec.set_hostname_as_fqdn => fqdn,
        _ => host,
    };
    vec![
        (folder.join("hosts"), podfiles::hosts(&s.pod, sandbox_ip, dns)),
        (folder.join("hostname"), format!("{own}\n")),
        (folder.join("resolv.conf"), podfiles::resolv_conf(&s.pod, dns)),
    ]
}

/// A sandbox from what the runtime reports; `None` when it is not one of a pod.
pub fn sandbox_from(
    state: &rt::SandboxState,
    node_ip: Option<IpAddr>,
) -> Option<(String, Sandbox)> {
    let uid = state.labels.get(label::POD_UID)?.clone();
    let attempt = state.labels.get(label::SANDBOX_ATTEMPT).and_then(|a| a.parse().ok());
    let own_ip = state.labels.get(label::IP).and_then(|ip| ip.parse().ok());
    let sandbox = Sandbox {
        id: state.id.clone(),
        attempt: attempt.unwrap_or(0),
        ready: state.shim_pid != 0,
        ip: own_ip.or(node_ip),
        netns: state.netns.clone(),
        created: pintle_base::Wall(state.created_ns),
    };
    Some((uid, sandbox))
}
