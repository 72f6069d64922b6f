//! The RBAC defaults as a table: one line a rule, `verbs | groups | resources`, or `verbs | paths`.
//!
//! They are Kubernetes' own for users and for the parts of a cluster. The controllers run here as one identity
//! (system:kube-controller-manager), which therefore has what Kubernetes gives to all its controllers together.
//!
//! References: plugin/pkg/auth/authorizer/rbac/bootstrappolicy.

use pintle_api::object;
use serde_json::{Value, json};

/// Annotation of roles that are brought up to date at the start.
pub(super) const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

const RW: &str = "get list watch create update patch delete deletecollection";
const R: &str = "get list watch";
const W: &str = "create update patch delete deletecollection";

/// Resources that a viewer of a namespace sees: group and resources.
const VIEW: &[(&str, &str)] = &[
    (
        "",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods \
         replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status",
    ),
    (
        "",
        "bindings events limitranges namespaces/status pods/log pods/status \
         replicationcontrollers/status resourcequotas resourcequotas/status",
    ),
    ("", "namespaces"),
    ("discovery.k8s.io", "endpointslices"),
    (
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale \
         deployments/status replicasets replicasets/scale replicasets/status statefulsets \
         statefulsets/scale statefulsets/status",
    ),
    ("autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    ("batch", "cronjobs cronjobs/status jobs jobs/status"),
    ("policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    ("networking.k8s.io", "ingresses ingresses/status networkpolicies"),
];

/// Resources that an editor of a namespace changes.
const EDIT: &[(&str, &str)] = &[
    ("", "pods pods/attach pods/exec pods/portforward pods/proxy"),
    (
        "",
        "configmaps events persistentvolumeclaims replicationcontrollers \
         replicationcontrollers/scale secrets serviceaccounts services services/proxy",
    ),
    (
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets \
         replicasets/scale statefulsets statefulsets/scale",
    ),
    ("autoscaling", "horizontalpodautoscalers"),
    ("batch", "cronjobs jobs"),
    ("policy", "poddisruptionbudgets"),
    ("networking.k8s.io", "ingresses networkpolicies"),
];

fn words(s: &str) -> Vec<&str> {
    s.split_whitespace().collect()
}

fn rule(verbs: &str, groups: &[&str], resources: &str) -> Value {
    json!({"verbs": words(verbs), "apiGroups": groups, "resources": words(resources)})
}

fn paths(verbs: &str, paths: &str) -> Value {
    json!({"verbs": words(verbs), "nonResourceURLs": words(paths)})
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTO_UPDATE: "true"}})
}

fn role(name: &str, rules: Vec<Value>) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": metadata(name), "rules": rules})
}

fn aggregate(name: &str, to: &str, rules: Vec<Value>) -> Value {
    let mut r = role(name, rules);
    let label = format!("rbac.authorization.k8s.io/aggregate-to-{to}");
    r["metadata"]["labels"][label] = "true".into();
    r
}

fn aggregating(name: &str, into: Option<&str>) -> Value {
    let label = format!("rbac.authorization.k8s.io/aggregate-to-{name}");
    let mut r = role(name, Vec::new());
    r["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
    r["rules"] = Value::Null;
    if let Some(into) = into {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{into}");
        r["metadata"]["labels"][label] = "true".into();
    }
    r
}

fn bind(name: &str, to: &str, kind: &str, subject: &str) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": metadata(name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": to},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": subject}]})
}

/// All default roles and bindings.
pub(super) fn all() -> Vec<Value> {
    let mut out = user_roles();
    out.extend(component_roles());
    out.extend(bindings());
    out
}

fn table(list: &[(&str, &str)], verbs: &str) -> Vec<Value> {
    list.iter().map(|(group, resources)| rule(verbs, &[group], resources)).collect()
}

fn user_roles() -> Vec<Value> {
    let mut view = table(VIEW, R);
    view.push(rule(R, &["metrics.k8s.io"], "pods nodes"));
    let mut edit = vec![
        rule(R, &[""], "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
        rule("impersonate", &[""], "serviceaccounts"),
        rule("create", &[""], "pods/eviction serviceaccounts/token"),
        rule(RW, &["coordination.k8s.io"], "leases"),
    ];
    edit.extend(table(EDIT, W));
    let admin = vec![
        rule("create", &["authorization.k8s.io"], "localsubjectaccessreviews"),
        rule(RW, &["rbac.authorization.k8s.io"], "roles rolebindings"),
    ];
    let health = "/healthz /livez /readyz /version /version/";
    let discovery =
        "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/";
    vec![
        role("cluster-admin", vec![rule("*", &["*"], "*"), paths("*", "*")]),
        role("system:discovery", vec![paths("get", discovery)]),
        role(
            "system:basic-user",
            vec![
                rule(
                    "create",
                    &["authorization.k8s.io"],
                    "selfsubjectaccessreviews selfsubjectrulesreviews",
                ),
                rule("create", &["authentication.k8s.io"], "selfsubjectreviews"),
            ],
        ),
        role("system:public-info-viewer", vec![paths("get", health)]),
        role(
            "system:monitoring",
            vec![paths(
                "get",
                "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*",
            )],
        ),
        aggregating("admin", None),
        aggregating("edit", Some("admin")),
        aggregating("view", Some("edit")),
        aggregate("system:aggregate-to-admin", "admin", admin),
        aggregate("system:aggregate-to-edit", "edit", edit),
        aggregate("system:aggregate-to-view", "view", view),
        role(
            "system:auth-delegator",
            vec![
                rule("create", &["authentication.k8s.io"], "tokenreviews"),
                rule("create", &["authorization.k8s.io"], "subjectaccessreviews"),
            ],
        ),
        role(
            "system:service-account-issuer-discovery",
            vec![paths(
                "get",
                "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
            )],
        ),
    ]
}

const EVENTS: &str = "create patch update";

fn component_roles() -> Vec<Value> {
    let core = &[""][..];
    let events = || rule(EVENTS, &["", "events.k8s.io"], "events");
    vec![
        role(
            "system:kube-scheduler",
            vec![
                events(),
                rule("create", &["coordination.k8s.io"], "leases"),
                rule("get list watch update patch", &["coordination.k8s.io"], "leases"),
                rule(R, core, "nodes namespaces services replicationcontrollers"),
                rule("get list watch delete", core, "pods"),
                rule("create", core, "bindings pods/binding"),
                rule("patch update", core, "pods/status"),
                rule(R, &["apps"], "replicasets statefulsets"),
                rule(R, &["policy"], "poddisruptionbudgets"),
                rule(
                    "get list watch update patch",
                    core,
                    "persistentvolumeclaims persistentvolumes",
                ),
                rule(
                    R,
                    &["storage.k8s.io"],
                    "csinodes csidrivers csistoragecapacities storageclasses volumeattachments",
                ),
                rule(R, &["scheduling.k8s.io"], "priorityclasses"),
                rule("create", &["authentication.k8s.io"], "tokenreviews"),
                rule("create", &["authorization.k8s.io"], "subjectaccessreviews"),
            ],
        ),
        role("system:kube-controller-manager", controllers()),
        role(
            "system:node-proxier",
            vec![
                rule("list watch", core, "services endpoints"),
                rule("get list watch", core, "nodes pods namespaces"),
                events(),
                rule("list watch", &["discovery.k8s.io"], "endpointslices"),
                rule("list watch", &["networking.k8s.io"], "servicecidrs networkpolicies"),
            ],
        ),
        role(
            "system:coredns",
            vec![
                rule("list watch", core, "endpoints services pods namespaces"),
                rule("list watch", &["discovery.k8s.io"], "endpointslices"),
                rule("get", core, "nodes"),
            ],
        ),
        role(
            "system:node",
            vec![
                rule("create", &["authentication.k8s.io"], "tokenreviews"),
                rule(
                    "create",
                    &["authorization.k8s.io"],
                    "localsubjectaccessreviews subjectaccessreviews",
                ),
                rule(R, core, "services"),
                rule("create get list watch", core, "nodes"),
                rule("patch update", core, "nodes/status"),
                events(),
                rule(R, core, "pods"),
                rule("create delete", core, "pods"),
                rule("patch update", core, "pods/status"),
                rule("create", core, "pods/eviction"),
            ],
        ),
    ]
}

/// What Kubernetes' controllers need, all together.
fn controllers() -> Vec<Value> {
    vec![
        rule(R, &["*"], "*"),
        // Garbage collection and namespace deletion reach every resource, also those that come by CRDs.
        rule("update patch delete deletecollection", &["*"], "*"),
        rule(
            "create",
            &[""],
            "configmaps endpoints events persistentvolumeclaims persistentvolumes pods pods/eviction \
             secrets serviceaccounts serviceaccounts/token",
        ),
        rule("create", &["apps"], "controllerrevisions replicasets"),
        rule("create", &["batch"], "jobs"),
        rule("create", &["coordination.k8s.io"], "leases"),
        rule("create", &["discovery.k8s.io"], "endpointslices"),
        rule("create", &["events.k8s.io"], "events"),
        rule("create", &["storage.k8s.io"], "volumeattachments"),
        rule("create", &["networking.k8s.io"], "ipaddresses"),
        rule("create", &["resource.k8s.io"], "resourceclaims"),
        rule("create", &["authentication.k8s.io"], "tokenreviews"),
        rule("create", &["authorization.k8s.io"], "subjectaccessreviews"),
        rule("approve sign", &["certificates.k8s.io"], "signers"),
        rule("escalate bind", &["rbac.authorization.k8s.io"], "clusterroles"),
        paths("get", "*"),
    ]
}

fn bindings() -> Vec<Value> {
    vec![
        bind("cluster-admin", "cluster-admin", "Group", "system:masters"),
        bind("system:monitoring", "system:monitoring", "Group", "system:monitoring"),
        bind("system:discovery", "system:discovery", "Group", "system:authenticated"),
        bind("system:basic-user", "system:basic-user", "Group", "system:authenticated"),
        public_info(),
        bind("system:kube-scheduler", "system:kube-scheduler", "User", "system:kube-scheduler"),
        bind(
            "system:kube-controller-manager",
            "system:kube-controller-manager",
            "User",
            "system:kube-controller-manager",
        ),
        bind("system:node-proxier", "system:node-proxier", "User", "system:kube-proxy"),
        bind("system:coredns", "system:coredns", "User", "system:coredns"),
        bind(
            "system:service-account-issuer-discovery",
            "system:service-account-issuer-discovery",
            "Group",
            "system:serviceaccounts",
        ),
    ]
}

fn public_info() -> Value {
    let mut b = bind(
        "system:public-info-viewer",
        "system:public-info-viewer",
        "Group",
        "system:authenticated",
    );
    let mut other = b["subjects"][0].clone();
    other["name"] = "system:unauthenticated".into();
    if let Some(list) = b["subjects"].as_array_mut() {
        list.push(other);
    }
    b
}

/// Rules that a stored role lacks.
pub(super) fn missing_rules(wanted: &Value, have: &Value) -> Vec<Value> {
    let sorted = |r: &Value, k: &str| -> Vec<String> {
        let mut l: Vec<String> =
            object::list_at(r, &[k]).iter().filter_map(Value::as_str).map(String::from).collect();
        l.sort();
        l
    };
    let same = |a: &Value, b: &Value| {
        ["verbs", "apiGroups", "resources", "nonResourceURLs", "resourceNames"]
            .iter()
            .all(|k| sorted(a, k) == sorted(b, k))
    };
    let have = have.as_array().cloned().unwrap_or_default();
    let wanted = wanted.as_array().cloned().unwrap_or_default();
    wanted.into_iter().filter(|w| !have.iter().any(|h| same(w, h))).collect()
}
