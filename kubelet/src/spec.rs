//! Typed views of what the kubelet reads of a Pod (core/v1). Only fields that are read; never written back.
//!
//! Field names and meanings are those of the Kubernetes API; see there. Absent is empty, `None` or false.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

macro_rules! view {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident : $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($(#[$fmeta])* #[doc = concat!("`", stringify!($field), "` of the API.")] pub $field: $ty,)*
        }
    };
}

/// A resource list: name to quantity (text or number).
pub type ResourceList = BTreeMap<String, Value>;

view!(
    /// A pod.
    Pod { metadata: Meta, spec: PodSpec, status: Value }
);
view!(
    /// ObjectMeta.
    Meta {
        name: String,
        namespace: String,
        uid: String,
        generation: i64,
        creation_timestamp: Option<String>,
        deletion_timestamp: Option<String>,
        deletion_grace_period_seconds: Option<i64>,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        owner_references: Vec<Value>,
    }
);
view!(
    /// PodSpec.
    PodSpec {
        volumes: Vec<Volume>,
        init_containers: Vec<Container>,
        containers: Vec<Container>,
        ephemeral_containers: Vec<Container>,
        restart_policy: String,
        termination_grace_period_seconds: Option<i64>,
        active_deadline_seconds: Option<i64>,
        dns_policy: String,
        dns_config: Option<DnsConfig>,
        service_account_name: String,
        node_name: String,
        host_network: bool,
        #[serde(rename = "hostPID")]
        host_pid: bool,
        #[serde(rename = "hostIPC")]
        host_ipc: bool,
        share_process_namespace: bool,
        security_context: PodSecurityContext,
        hostname: String,
        subdomain: String,
        #[serde(rename = "setHostnameAsFQDN")]
        set_hostname_as_fqdn: bool,
        host_aliases: Vec<HostAlias>,
        enable_service_links: Option<bool>,
        readiness_gates: Vec<ReadinessGate>,
        priority: Option<i64>,
        overhead: ResourceList,
        resources: Resources,
    }
);
view!(
    /// PodReadinessGate.
    ReadinessGate { condition_type: String }
);
view!(
    /// HostAlias.
    HostAlias { ip: String, hostnames: Vec<String> }
);
view!(
    /// PodDNSConfig.
    DnsConfig { nameservers: Vec<String>, searches: Vec<String>, options: Vec<DnsOption> }
);
view!(
    /// PodDNSConfigOption.
    DnsOption { name: String, value: Option<String> }
);
view!(
    /// Container, also of init and ephemeral kind.
    Container {
        name: String,
        image: String,
        command: Vec<String>,
        args: Vec<String>,
        working_dir: String,
        ports: Vec<ContainerPort>,
        env_from: Vec<EnvFrom>,
        env: Vec<EnvVar>,
        resources: Resources,
        restart_policy: Option<String>,
        restart_policy_rules: Vec<RestartRule>,
        volume_mounts: Vec<VolumeMount>,
        liveness_probe: Option<Probe>,
        readiness_probe: Option<Probe>,
        startup_probe: Option<Probe>,
        lifecycle: Lifecycle,
        termination_message_path: String,
        termination_message_policy: String,
        image_pull_policy: String,
        security_context: SecurityContext,
        stdin: bool,
        stdin_once: bool,
        tty: bool,
        target_container_name: String,
    }
);
view!(
    /// ContainerRestartRule.
    RestartRule { action: String, exit_codes: Option<RestartRuleCodes> }
);
view!(
    /// ContainerRestartRuleOnExitCodes.
    RestartRuleCodes { operator: String, values: Vec<i32> }
);
view!(
    /// ContainerPort.
    ContainerPort { name: String, container_port: u16, host_port: u16, protocol: String }
);
view!(
    /// ResourceRequirements.
    Resources { requests: ResourceList, limits: ResourceList }
);
view!(
    /// VolumeMount.
    VolumeMount {
        name: String,
        mount_path: String,
        read_only: bool,
        sub_path: String,
        sub_path_expr: String,
        mount_propagation: Option<String>,
    }
);
view!(
    /// EnvFromSource.
    EnvFrom {
        prefix: String,
        config_map_ref: Option<EnvFromRef>,
        secret_ref: Option<EnvFromRef>,
    }
);
view!(
    /// ConfigMapEnvSource and SecretEnvSource.
    EnvFromRef { name: String, optional: bool }
);
view!(
    /// EnvVar.
    EnvVar { name: String, value: Option<String>, value_from: Option<EnvVarSource> }
);
view!(
    /// EnvVarSource.
    EnvVarSource {
        field_ref: Option<FieldRef>,
        resource_field_ref: Option<ResourceFieldRef>,
        config_map_key_ref: Option<KeyRef>,
        secret_key_ref: Option<KeyRef>,
        file_key_ref: Option<Value>,
    }
);
view!(
    /// ObjectFieldSelector.
    FieldRef { api_version: String, field_path: String }
);
view!(
    /// ResourceFieldSelector.
    ResourceFieldRef { container_name: String, resource: String, divisor: Option<Value> }
);
view!(
    /// ConfigMapKeySelector and SecretKeySelector.
    KeyRef { name: String, key: String, optional: bool }
);
view!(
    /// Lifecycle.
    Lifecycle { post_start: Option<Handler>, pre_stop: Option<Handler>, stop_signal: Option<String> }
);
view!(
    /// LifecycleHandler.
    Handler {
        exec: Option<ExecAction>,
        http_get: Option<HttpGet>,
        tcp_socket: Option<TcpSocket>,
        sleep: Option<SleepAction>,
    }
);
view!(
    /// SleepAction.
    SleepAction { seconds: i64 }
);
view!(
    /// ExecAction.
    ExecAction { command: Vec<String> }
);
view!(
    /// HTTPGetAction.
    HttpGet {
        path: String,
        port: Value,
        host: String,
        scheme: String,
        http_headers: Vec<HttpHeader>,
    }
);
view!(
    /// HTTPHeader.
    HttpHeader { name: String, value: String }
);
view!(
    /// TCPSocketAction.
    TcpSocket { port: Value, host: String }
);
view!(
    /// GRPCAction.
    Grpc { port: u16, service: String }
);
view!(
    /// Probe.
    Probe {
        exec: Option<ExecAction>,
        http_get: Option<HttpGet>,
        tcp_socket: Option<TcpSocket>,
        grpc: Option<Grpc>,
        initial_delay_seconds: i64,
        timeout_seconds: i64,
        period_seconds: i64,
        success_threshold: i64,
        failure_threshold: i64,
        termination_grace_period_seconds: Option<i64>,
    }
);
view!(
    /// PodSecurityContext.
    PodSecurityContext {
        run_as_user: Option<u32>,
        run_as_group: Option<u32>,
        run_as_non_root: Option<bool>,
        supplemental_groups: Vec<u32>,
        fs_group: Option<u32>,
        fs_group_change_policy: Option<String>,
        sysctls: Vec<Sysctl>,
        seccomp_profile: Option<SeccompProfile>,
    }
);
view!(
    /// Sysctl.
    Sysctl { name: String, value: String }
);
view!(
    /// SecurityContext.
    SecurityContext {
        run_as_user: Option<u32>,
        run_as_group: Option<u32>,
        run_as_non_root: Option<bool>,
        privileged: bool,
        read_only_root_filesystem: bool,
        allow_privilege_escalation: Option<bool>,
        capabilities: Capabilities,
        seccomp_profile: Option<SeccompProfile>,
        proc_mount: String,
    }
);
view!(
    /// Capabilities.
    Capabilities { add: Vec<String>, drop: Vec<String> }
);
view!(
    /// SeccompProfile.
    SeccompProfile {
        #[serde(rename = "type")]
        kind: String,
        localhost_profile: String,
    }
);
view!(
    /// Volume.
    Volume {
        name: String,
        empty_dir: Option<EmptyDir>,
        host_path: Option<HostPath>,
        config_map: Option<ConfigMapVolume>,
        secret: Option<SecretVolume>,
        #[serde(rename = "downwardAPI")]
        downward_api: Option<DownwardVolume>,
        projected: Option<ProjectedVolume>,
        persistent_volume_claim: Option<ClaimVolume>,
    }
);
view!(
    /// EmptyDirVolumeSource.
    EmptyDir { medium: String, size_limit: Option<Value> }
);
view!(
    /// HostPathVolumeSource.
    HostPath {
        path: String,
        #[serde(rename = "type")]
        kind: String,
    }
);
view!(
    /// KeyToPath.
    KeyToPath { key: String, path: String, mode: Option<u32> }
);
view!(
    /// ConfigMapVolumeSource and ConfigMapProjection.
    ConfigMapVolume { name: String, items: Vec<KeyToPath>, default_mode: Option<u32>, optional: bool }
);
view!(
    /// SecretVolumeSource.
    SecretVolume {
        secret_name: String,
        items: Vec<KeyToPath>,
        default_mode: Option<u32>,
        optional: bool,
    }
);
view!(
    /// SecretProjection.
    SecretProjection { name: String, items: Vec<KeyToPath>, optional: bool }
);
view!(
    /// DownwardAPIVolumeSource and its projection.
    DownwardVolume { items: Vec<DownwardItem>, default_mode: Option<u32> }
);
view!(
    /// DownwardAPIVolumeFile.
    DownwardItem {
        path: String,
        field_ref: Option<FieldRef>,
        resource_field_ref: Option<ResourceFieldRef>,
        mode: Option<u32>,
    }
);
view!(
    /// ProjectedVolumeSource.
    ProjectedVolume { sources: Vec<Projection>, default_mode: Option<u32> }
);
view!(
    /// VolumeProjection.
    Projection {
        secret: Option<SecretProjection>,
        config_map: Option<ConfigMapVolume>,
        #[serde(rename = "downwardAPI")]
        downward_api: Option<DownwardVolume>,
        service_account_token: Option<TokenProjection>,
    }
);
view!(
    /// ServiceAccountTokenProjection.
    TokenProjection { audience: String, expiration_seconds: Option<i64>, path: String }
);
view!(
    /// PersistentVolumeClaimVolumeSource.
    ClaimVolume { claim_name: String, read_only: bool }
);

/// Which list of the pod a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `initContainers` without `restartPolicy: Always`.
    Init,
    /// `initContainers` with `restartPolicy: Always`.
    Sidecar,
    /// `containers`.
    Main,
    /// `ephemeralContainers`.
    Ephemeral,
}

impl Pod {
    /// A container of any list by name.
    pub fn container(&self, name: &str) -> Option<(Role, &Container)> {
        self.all_containers().find(|(_, c)| c.name == name)
    }

    /// All containers: init and sidecars in order, main, ephemeral.
    pub fn all_containers(&self) -> impl Iterator<Item = (Role, &Container)> {
        let init = self.spec.init_containers.iter().map(|c| (init_role(c), c));
        let main = self.spec.containers.iter().map(|c| (Role::Main, c));
        init.chain(main).chain(self.spec.ephemeral_containers.iter().map(|c| (Role::Ephemeral, c)))
    }

    /// Whether uid and container names, which become names of folders, are harmless. The API server validates
    /// them; the node does not rely on it. The error names the bad one.
    pub fn check_names(&self) -> Result<(), String> {
        let plain = |name: &str| {
            !name.is_empty()
                && name.len() <= 253
                && !name.starts_with('.')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let names = self.all_containers().map(|(_, c)| c.name.as_str());
        match names.chain([self.metadata.uid.as_str()]).find(|n| !plain(n)) {
            Some(bad) => Err(format!("{bad:?} cannot be the name of a folder")),
            None => Ok(()),
        }
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }

    /// `name_namespace(uid)`, as Kubernetes' messages name a pod.
    pub fn long_name(&self) -> String {
        let m = &self.metadata;
        format!("{}_{}({})", m.name, m.namespace, m.uid)
    }

    /// Host name that the containers see: `spec.hostname` or the pod's name, at most 63 characters.
    ///
    /// A pod on the host's network has the host's name: the node's.
    pub fn hostname(&self) -> String {
        let name = match (self.spec.host_network, self.spec.hostname.as_str()) {
            (true, _) if !self.spec.node_name.is_empty() => &self.spec.node_name,
            (_, "") => &self.metadata.name,
            (_, _) => &self.spec.hostname,
        };
        let cut: String = name.chars().take(63).collect();
        cut.trim_end_matches(['-', '.']).to_string()
    }
}

fn init_role(c: &Container) -> Role {
    if c.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init }
}

/// The number of a port field: a number, or the name of one of the container's ports.
pub fn port_number(port: &Value, container: &Container) -> Option<u16> {
    match port {
        Value::Number(n) => n.as_u64().and_then(|n| u16::try_from(n).ok()),
        Value::String(s) => match s.parse() {
            Ok(n) => Some(n),
            Err(_) => container.ports.iter().find(|p| p.name == *s).map(|p| p.container_port),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_that_would_lead_elsewhere_are_refused() {
        let pod = |uid: &str, name: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"uid": uid},
                "spec": {"containers": [{"name": name}]}}))
            .expect("pod")
        };
        assert_eq!(pod("a-b", "web").check_names(), Ok(()));
        for (uid, name) in [("..", "web"), ("", "web"), ("u", "../x"), ("u", "a/b"), ("u", "")] {
            assert!(pod(uid, name).check_names().is_err(), "{uid:?} {name:?}");
        }
    }
}
