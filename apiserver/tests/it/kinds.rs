//! What single kinds and subresources do beyond create, read, update and delete.

use pintle_wire::msg::api::{EventType, PatchType, Verb};
use serde_json::{Value, json};

use crate::rig::{Rig, admin, user};

fn pod(name: &str, label: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": label}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}})
    .to_string()
}

#[test]
fn an_eviction_takes_from_the_budget_until_it_is_empty() {
    let mut rig = Rig::new();
    let budget = r#"{"apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":"b"},
        "spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"x"}}}}"#;
    let plural = "policy/v1/poddisruptionbudgets";
    let (code, v) = rig.create(plural, "default", budget);
    assert_eq!(code, 201, "{v}");
    for name in ["p1", "p2"] {
        rig.create("pods", "default", &pod(name, "x"));
        rig.merge("pods:status", "default", name, r#"{"status":{"phase":"Running"}}"#);
    }
    let evict = |rig: &mut Rig, name: &str| {
        let body = r#"{"apiVersion":"policy/v1","kind":"Eviction","metadata":{}}"#;
        rig.send(rig.request(Verb::Create, "pods:eviction", "default", name, body))
    };
    let (code, v) = evict(&mut rig, "p1");
    assert_eq!((code, &v["details"]["retryAfterSeconds"]), (429, &json!(10)), "not observed yet");
    let status = r#"{"status":{"observedGeneration":1,"disruptionsAllowed":1,"currentHealthy":2,"desiredHealthy":1,"expectedPods":2}}"#;
    let (code, v) = rig.merge("policy/v1/poddisruptionbudgets:status", "default", "b", status);
    assert_eq!(code, 200, "{v}");
    assert_eq!(evict(&mut rig, "p1").0, 201);
    let (_, v) = rig.get(plural, "default", "b");
    assert_eq!(v["status"]["disruptionsAllowed"], 0, "{v}");
    assert!(v["status"]["disruptedPods"]["p1"].is_string());
    let (_, v) = rig.get("pods", "default", "p1");
    assert!(v["metadata"]["deletionTimestamp"].is_string(), "{v}");
    assert_eq!(evict(&mut rig, "p2").0, 429);
}

#[test]
fn scale_changes_replicas_and_nothing_else() {
    let mut rig = Rig::new();
    let d = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"replicas":2,
        "selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},
        "spec":{"containers":[{"name":"c","image":"i"}]}}}}"#;
    let (code, made) = rig.create("apps/v1/deployments", "default", d);
    assert_eq!(code, 201, "{made}");
    let (code, v) = rig.get("apps/v1/deployments:scale", "default", "d");
    assert_eq!(
        (code, &v["spec"]["replicas"], &v["status"]["selector"]),
        (200, &json!(2), &json!("a=b"))
    );
    let (code, v) =
        rig.merge("apps/v1/deployments:scale", "default", "d", r#"{"spec":{"replicas":5}}"#);
    assert_eq!((code, &v["spec"]["replicas"]), (200, &json!(5)), "{v}");
    let (_, now) = rig.get("apps/v1/deployments", "default", "d");
    assert_eq!(now["spec"]["replicas"], 5);
    assert_eq!(now["metadata"]["generation"], 2);
    assert_eq!(now["spec"]["template"], made["spec"]["template"]);
}

#[test]
fn apply_creates_conflicts_and_prunes() {
    let mut rig = Rig::new();
    let apply = |rig: &mut Rig, manager: &str, force: bool, data: Value| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
        let mut r = rig.request(Verb::Patch, "configmaps", "default", "a", &body.to_string());
        r.patch_type = Some(PatchType::Apply);
        r.options.field_manager = Some(manager.into());
        r.options.force = Some(force);
        rig.send(r)
    };
    assert_eq!(apply(&mut rig, "one", false, json!({"x": "1", "y": "1"})).0, 201);
    let (code, v) = apply(&mut rig, "two", false, json!({"x": "2"}));
    assert_eq!((code, &v["details"]["causes"][0]["reason"]), (409, &json!("FieldManagerConflict")));
    assert_eq!(apply(&mut rig, "two", true, json!({"x": "2"})).0, 200);
    let (_, v) = apply(&mut rig, "one", false, json!({}));
    assert_eq!(v["data"], json!({"x": "2"}));
    let revision = rig.store.revision;
    assert_eq!(apply(&mut rig, "two", false, json!({"x": "2"})).0, 200);
    assert_eq!(rig.store.revision, revision, "the same apply again wrote something");
}

#[test]
fn a_namespace_restricts_its_pods() {
    let mut rig = Rig::new();
    let ns = r#"{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"baseline"}}}"#;
    assert_eq!(rig.merge("namespaces", "", "default", ns).0, 200);
    let mut p: Value = serde_json::from_str(&pod("p", "x")).expect("JSON");
    p["spec"]["hostNetwork"] = true.into();
    let (code, v) = rig.create("pods", "default", &p.to_string());
    assert_eq!(code, 403);
    assert_eq!(
        v["message"],
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    let limits = r#"{"apiVersion":"v1","kind":"LimitRange","metadata":{"name":"l"},"spec":{"limits":[
        {"type":"Container","default":{"cpu":"500m"},"defaultRequest":{"cpu":"100m"},"max":{"cpu":"1"}}]}}"#;
    assert_eq!(rig.create("limitranges", "default", limits).0, 201);
    let (code, v) = rig.create("pods", "default", &pod("q", "x"));
    assert_eq!(
        (code, &v["spec"]["containers"][0]["resources"]["limits"]["cpu"]),
        (201, &json!("500m"))
    );
}

#[test]
fn nobody_grants_what_he_does_not_have() {
    let mut rig = Rig::new();
    let group = "rbac.authorization.k8s.io/v1";
    let role = |name: &str, verbs: Value| {
        json!({"apiVersion": group, "kind": "Role", "metadata": {"name": name},
            "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["configmaps"]},
                {"verbs": ["create"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"]}]})
        .to_string()
    };
    rig.create(&format!("{group}/roles"), "default", &role("own", json!(["get"])));
    let binding = json!({"apiVersion": group, "kind": "RoleBinding", "metadata": {"name": "own"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "own"},
        "subjects": [{"kind": "User", "name": "alice", "apiGroup": "rbac.authorization.k8s.io"}]});
    rig.create(&format!("{group}/rolebindings"), "default", &binding.to_string());
    let alice = user("alice");
    let same = rig.request(
        Verb::Create,
        &format!("{group}/roles"),
        "default",
        "",
        &role("same", json!(["get"])),
    );
    assert_eq!(rig.send_as(&alice, same).0, 201);
    let more = rig.request(
        Verb::Create,
        &format!("{group}/roles"),
        "default",
        "",
        &role("more", json!(["get", "delete"])),
    );
    let (code, v) = rig.send_as(&alice, more);
    assert_eq!(code, 403, "{v}");
    let review = r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":"get","resource":"configmaps","namespace":"default"}}}"#;
    let r = rig.request(
        Verb::Create,
        "authorization.k8s.io/v1/selfsubjectaccessreviews",
        "",
        "",
        review,
    );
    let (code, v) = rig.send_as(&alice, r);
    assert_eq!((code, &v["status"]["allowed"]), (201, &json!(true)), "{v}");
}

#[test]
fn a_store_that_lost_its_history_cuts_watches_and_serves_again() {
    let mut rig = Rig::new();
    let r = rig.request(Verb::Watch, "configmaps", "default", "", "");
    let id = rig.submit(&admin(), r);
    rig.events(id);
    let now = rig.now;
    rig.server.store_disconnected(now);
    rig.forget_watches();
    rig.store.compacted = true;
    rig.server.store_connected(now);
    rig.settle();
    let events = rig.events(id);
    assert!(matches!(events.as_slice(), [(EventType::Error, _, _)]), "{events:?}");
    assert!(rig.ended.contains(&id));
    assert!(rig.server.ready());
    let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#;
    assert_eq!(rig.create("configmaps", "default", body).0, 201);
}
