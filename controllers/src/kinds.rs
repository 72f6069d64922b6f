//! The resources that controllers watch or write, by one closed enum: its order is that of `watches()`.

use pintle_client::WatchSpec;

macro_rules! kinds {
    ($($variant:ident, $group:literal, $version:literal, $resource:literal, $kind:literal;)*) => {
        /// A resource that controllers know.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "the names are those of Kubernetes")]
        pub enum Kind { $($variant),* }

        impl Kind {
            /// All of them, in the order of `watches()`.
            pub const ALL: &[Kind] = &[$(Kind::$variant),*];

            /// Group, version, plural, kind.
            pub fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
                match self { $(Kind::$variant => ($group, $version, $resource, $kind)),* }
            }
        }
    };
}

kinds! {
    Pod, "", "v1", "pods", "Pod";
    Node, "", "v1", "nodes", "Node";
    Namespace, "", "v1", "namespaces", "Namespace";
    Service, "", "v1", "services", "Service";
    ServiceAccount, "", "v1", "serviceaccounts", "ServiceAccount";
    Secret, "", "v1", "secrets", "Secret";
    ConfigMap, "", "v1", "configmaps", "ConfigMap";
    Endpoints, "", "v1", "endpoints", "Endpoints";
    ReplicationController, "", "v1", "replicationcontrollers", "ReplicationController";
    PersistentVolume, "", "v1", "persistentvolumes", "PersistentVolume";
    PersistentVolumeClaim, "", "v1", "persistentvolumeclaims", "PersistentVolumeClaim";
    PodTemplate, "", "v1", "podtemplates", "PodTemplate";
    LimitRange, "", "v1", "limitranges", "LimitRange";
    ResourceQuota, "", "v1", "resourcequotas", "ResourceQuota";
    Deployment, "apps", "v1", "deployments", "Deployment";
    ReplicaSet, "apps", "v1", "replicasets", "ReplicaSet";
    StatefulSet, "apps", "v1", "statefulsets", "StatefulSet";
    DaemonSet, "apps", "v1", "daemonsets", "DaemonSet";
    ControllerRevision, "apps", "v1", "controllerrevisions", "ControllerRevision";
    Job, "batch", "v1", "jobs", "Job";
    CronJob, "batch", "v1", "cronjobs", "CronJob";
    EndpointSlice, "discovery.k8s.io", "v1", "endpointslices", "EndpointSlice";
    Lease, "coordination.k8s.io", "v1", "leases", "Lease";
    PodDisruptionBudget, "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget";
    Role, "rbac.authorization.k8s.io", "v1", "roles", "Role";
    RoleBinding, "rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding";
    ClusterRole, "rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole";
    ClusterRoleBinding, "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding";
    Ingress, "networking.k8s.io", "v1", "ingresses", "Ingress";
    NetworkPolicy, "networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy";
    StorageClass, "storage.k8s.io", "v1", "storageclasses", "StorageClass";
}

impl Kind {
    /// The kind with these owner-reference names, any version of the group.
    pub fn of_reference(api_version: &str, kind: &str) -> Option<Kind> {
        let group = api_version.split_once('/').map_or("", |(g, _)| g);
        Kind::ALL.iter().copied().find(|k| {
            let (g, _, _, name) = k.names();
            g == group && name == kind
        })
    }

    /// `apps/v1`, `v1`.
    pub fn api_version(self) -> String {
        let (group, version, _, _) = self.names();
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    }

    /// Objects of this kind lie in namespaces.
    pub fn namespaced(self) -> bool {
        !matches!(
            self,
            Kind::Node
                | Kind::Namespace
                | Kind::PersistentVolume
                | Kind::ClusterRole
                | Kind::ClusterRoleBinding
                | Kind::StorageClass
        )
    }

    /// Index into `watches()`.
    pub fn spec(self) -> usize {
        self as usize
    }

    /// The kind with this index into `watches()`.
    pub fn of_spec(spec: usize) -> Option<Kind> {
        Kind::ALL.get(spec).copied()
    }

    /// What the client shall keep a copy of.
    pub fn watch(self) -> WatchSpec {
        let (group, version, resource, _) = self.names();
        WatchSpec {
            group,
            version,
            resource,
            namespace: String::new(),
            label_selector: String::new(),
            field_selector: String::new(),
        }
    }
}
