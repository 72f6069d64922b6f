//! Resources of core/v1.

use super::{Resource, Scope, Subresource};

pub(super) const ALL: &[Resource] = &[
    Resource::new("", "v1", "bindings", "binding", "Binding", Scope::Namespaced).verbs(&["create"]),
    Resource::new(
        "",
        "v1",
        "componentstatuses",
        "componentstatus",
        "ComponentStatus",
        Scope::Cluster,
    )
    .verbs(&["get", "list"])
    .short(&["cs"]),
    Resource::new("", "v1", "configmaps", "configmap", "ConfigMap", Scope::Namespaced)
        .short(&["cm"]),
    Resource::new("", "v1", "endpoints", "endpoints", "Endpoints", Scope::Namespaced)
        .short(&["ep"]),
    Resource::new("", "v1", "events", "event", "Event", Scope::Namespaced)
        .short(&["ev"])
        .selectable(&[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]),
    Resource::new("", "v1", "limitranges", "limitrange", "LimitRange", Scope::Namespaced)
        .short(&["limits"]),
    Resource::new("", "v1", "namespaces", "namespace", "Namespace", Scope::Cluster)
        .verbs(&["create", "delete", "get", "list", "patch", "update", "watch"])
        .short(&["ns"])
        .selectable(&["status.phase"])
        .subresources(&[
            Subresource::new("finalize", "", "v1", "Namespace", &["update"]),
            Subresource::part("status", "", "v1", "Namespace"),
        ]),
    Resource::new("", "v1", "nodes", "node", "Node", Scope::Cluster)
        .short(&["no"])
        .selectable(&["spec.unschedulable"])
        .subresources(&[
            Subresource::new(
                "proxy",
                "",
                "v1",
                "NodeProxyOptions",
                &["create", "delete", "get", "patch", "update"],
            ),
            Subresource::part("status", "", "v1", "Node"),
        ]),
    Resource::new(
        "",
        "v1",
        "persistentvolumeclaims",
        "persistentvolumeclaim",
        "PersistentVolumeClaim",
        Scope::Namespaced,
    )
    .short(&["pvc"])
    .subresources(&[Subresource::part("status", "", "v1", "PersistentVolumeClaim")]),
    Resource::new(
        "",
        "v1",
        "persistentvolumes",
        "persistentvolume",
        "PersistentVolume",
        Scope::Cluster,
    )
    .short(&["pv"])
    .subresources(&[Subresource::part("status", "", "v1", "PersistentVolume")]),
    Resource::new("", "v1", "pods", "pod", "Pod", Scope::Namespaced)
        .short(&["po"])
        .categories(&["all"])
        .selectable(&[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ])
        .subresources(&[
            Subresource::new("attach", "", "v1", "PodAttachOptions", &["create", "get"]),
            Subresource::new("binding", "", "v1", "Binding", &["create"]),
            Subresource::part("ephemeralcontainers", "", "v1", "Pod"),
            Subresource::new("eviction", "policy", "v1", "Eviction", &["create"]),
            Subresource::new("exec", "", "v1", "PodExecOptions", &["create", "get"]),
            Subresource::new("log", "", "v1", "Pod", &["get"]),
            Subresource::new("portforward", "", "v1", "PodPortForwardOptions", &["create", "get"]),
            Subresource::new(
                "proxy",
                "",
                "v1",
                "PodProxyOptions",
                &["create", "delete", "get", "patch", "update"],
            ),
            Subresource::part("resize", "", "v1", "Pod"),
            Subresource::part("status", "", "v1", "Pod"),
        ]),
    Resource::new("", "v1", "podtemplates", "podtemplate", "PodTemplate", Scope::Namespaced),
    Resource::new(
        "",
        "v1",
        "replicationcontrollers",
        "replicationcontroller",
        "ReplicationController",
        Scope::Namespaced,
    )
    .short(&["rc"])
    .categories(&["all"])
    .selectable(&["status.replicas"])
    .subresources(&[
        Subresource::SCALE,
        Subresource::part("status", "", "v1", "ReplicationController"),
    ]),
    Resource::new("", "v1", "resourcequotas", "resourcequota", "ResourceQuota", Scope::Namespaced)
        .short(&["quota"])
        .subresources(&[Subresource::part("status", "", "v1", "ResourceQuota")]),
    Resource::new("", "v1", "secrets", "secret", "Secret", Scope::Namespaced).selectable(&["type"]),
    Resource::new(
        "",
        "v1",
        "serviceaccounts",
        "serviceaccount",
        "ServiceAccount",
        Scope::Namespaced,
    )
    .short(&["sa"])
    .subresources(&[Subresource::new(
        "token",
        "authentication.k8s.io",
        "v1",
        "TokenRequest",
        &["create"],
    )]),
    Resource::new("", "v1", "services", "service", "Service", Scope::Namespaced)
        .short(&["svc"])
        .categories(&["all"])
        .selectable(&["spec.clusterIP", "spec.type"])
        .subresources(&[
            Subresource::new(
                "proxy",
                "",
                "v1",
                "ServiceProxyOptions",
                &["create", "delete", "get", "patch", "update"],
            ),
            Subresource::part("status", "", "v1", "Service"),
        ]),
];
