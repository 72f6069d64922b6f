//! Create, read, update, patch, delete, list and watch of plain objects.

use std::time::Duration;

use pintle_wire::msg::api::{EventType, Verb};
use serde_json::json;

use crate::rig::{Rig, user};

fn cm(name: &str, value: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"v":"{value}"}}}},"data":{{"k":"{value}"}}}}"#
    )
}

#[test]
fn the_bootstrap_makes_a_cluster_and_does_it_once() {
    let mut rig = Rig::new();
    for ns in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let (code, v) = rig.get("namespaces", "", ns);
        assert_eq!((code, &v["status"]["phase"]), (200, &json!("Active")), "{v}");
    }
    let (code, v) = rig.get("services", "default", "kubernetes");
    assert_eq!((code, &v["spec"]["clusterIP"]), (200, &json!("10.96.0.1")), "{v}");
    let (code, _) = rig.get("discovery.k8s.io/v1/endpointslices", "default", "kubernetes");
    assert_eq!(code, 200);
    let revision = rig.store.revision;
    let again = Rig::over(std::mem::take(&mut rig.store));
    assert_eq!(again.store.revision, revision, "a second start wrote something");
}

#[test]
fn an_object_lives() {
    let mut rig = Rig::new();
    let (code, made) = rig.create("configmaps", "default", &cm("a", "1"));
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["namespace"], "default");
    assert!(made["metadata"]["uid"].as_str().is_some_and(|u| u.len() == 36));
    let (code, v) = rig.get("configmaps", "default", "a");
    assert_eq!((code, &v), (200, &made));
    let (code, v) = rig.create("configmaps", "default", &cm("a", "1"));
    assert_eq!((code, &v["reason"]), (409, &json!("AlreadyExists")));
    let mut changed = made.clone();
    changed["data"]["k"] = "2".into();
    let (code, v) = rig.update("configmaps", "default", "a", &changed);
    assert_eq!((code, &v["data"]["k"]), (200, &json!("2")), "{v}");
    assert_ne!(v["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let (code, v) = rig.update("configmaps", "default", "a", &changed);
    assert_eq!((code, &v["reason"]), (409, &json!("Conflict")), "{v}");
    let (code, v) = rig.delete("configmaps", "default", "a");
    assert_eq!((code, &v["status"]), (200, &json!("Success")));
    let (code, v) = rig.get("configmaps", "default", "a");
    assert_eq!((code, &v["message"]), (404, &json!("configmaps \"a\" not found")));
}

#[test]
fn an_update_that_changes_nothing_writes_nothing() {
    let mut rig = Rig::new();
    let (_, made) = rig.create("configmaps", "default", &cm("a", "1"));
    let revision = rig.store.revision;
    let (code, v) = rig.update("configmaps", "default", "a", &made);
    assert_eq!((code, &v), (200, &made));
    assert_eq!(rig.store.revision, revision);
}

#[test]
fn lists_page_from_one_snapshot() {
    let mut rig = Rig::new();
    for i in 0..5 {
        rig.create("configmaps", "default", &cm(&format!("a{i}"), "1"));
    }
    let mut r = rig.request(Verb::List, "configmaps", "default", "", "");
    r.options.limit = 2;
    let (_, page) = rig.send(r.clone());
    assert_eq!(page["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(page["metadata"]["remainingItemCount"], 3);
    assert!(page["items"][0].get("kind").is_none(), "items say no kind");
    rig.delete("configmaps", "default", "a2");
    rig.create("configmaps", "default", &cm("a9", "1"));
    let mut names = Vec::new();
    let mut token = page["metadata"]["continue"].as_str().map(String::from);
    while let Some(t) = token {
        r.options.continue_token = Some(t);
        let (code, next) = rig.send(r.clone());
        assert_eq!(code, 200, "{next}");
        assert_eq!(next["metadata"]["resourceVersion"], page["metadata"]["resourceVersion"]);
        names.extend(
            next["items"]
                .as_array()
                .expect("items")
                .iter()
                .map(|o| o["metadata"]["name"].as_str().expect("a name").to_owned()),
        );
        token = next["metadata"]["continue"].as_str().map(String::from);
    }
    assert_eq!(names, ["a2", "a3", "a4"]);
}

#[test]
fn a_watch_shows_what_enters_and_leaves_its_selection() {
    let mut rig = Rig::new();
    rig.create("configmaps", "default", &cm("a", "1"));
    let mut r = rig.request(Verb::Watch, "configmaps", "default", "", "");
    r.options.label_selector = Some("v=1".into());
    let id = rig.submit(&crate::rig::admin(), r);
    assert_eq!(rig.events(id).len(), 1);
    rig.create("configmaps", "default", &cm("b", "2"));
    assert!(rig.events(id).is_empty());
    rig.merge("configmaps", "default", "b", r#"{"metadata":{"labels":{"v":"1"}}}"#);
    rig.merge("configmaps", "default", "b", r#"{"data":{"x":"y"}}"#);
    rig.merge("configmaps", "default", "b", r#"{"metadata":{"labels":{"v":"3"}}}"#);
    rig.delete("configmaps", "default", "a");
    let kinds: Vec<_> = rig.events(id).into_iter().map(|(k, n, _)| (k, n)).collect();
    let is = |k: EventType, n: &str| (k, n.to_owned());
    assert_eq!(
        kinds,
        [
            is(EventType::Added, "b"),
            is(EventType::Modified, "b"),
            is(EventType::Deleted, "b"),
            is(EventType::Deleted, "a")
        ]
    );
}

#[test]
fn a_paused_watch_catches_up() {
    let mut rig = Rig::new();
    let r = rig.request(Verb::Watch, "configmaps", "default", "", "");
    let id = rig.submit(&crate::rig::admin(), r);
    rig.events(id);
    rig.server.pause(id);
    for i in 0..10 {
        rig.create("configmaps", "default", &cm(&format!("a{i}"), "1"));
    }
    assert!(rig.events(id).is_empty());
    rig.server.resume(id);
    assert_eq!(rig.events(id).len(), 10);
}

#[test]
fn who_may_not_is_told_so() {
    let mut rig = Rig::new();
    let r = rig.request(Verb::List, "configmaps", "default", "", "");
    let (code, v) = rig.send_as(&user("alice"), r);
    assert_eq!(code, 403);
    assert_eq!(
        v["message"],
        "configmaps is forbidden: User \"alice\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
}

#[test]
fn a_pod_gets_what_admission_gives_and_ends_gracefully() {
    let mut rig = Rig::new();
    let body = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
    let (code, v) = rig.create("pods", "default", body);
    assert_eq!(code, 201, "{v}");
    assert_eq!(v["spec"]["serviceAccountName"], "default");
    assert_eq!(v["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
    assert_eq!(v["spec"]["priority"], 0);
    assert_eq!(v["status"]["qosClass"], "BestEffort");
    let binding = r#"{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}"#;
    let (code, v) = rig.send(rig.request(Verb::Create, "pods:binding", "default", "p", binding));
    assert_eq!(code, 201, "{v}");
    let (_, v) = rig.get("pods", "default", "p");
    assert_eq!(v["spec"]["nodeName"], "n");
    let (code, v) = rig.merge(
        "pods:status",
        "default",
        "p",
        r#"{"status":{"phase":"Running"},"spec":{"nodeName":"x"}}"#,
    );
    assert_eq!(
        (code, &v["status"]["phase"], &v["spec"]["nodeName"]),
        (200, &json!("Running"), &json!("n")),
        "{v}"
    );
    let (_, v) = rig.delete("pods", "default", "p");
    assert_eq!(v["metadata"]["deletionGracePeriodSeconds"], 30, "{v}");
    let mut r = rig.request(Verb::Delete, "pods", "default", "p", "");
    r.options.grace_period_s = Some(0);
    assert_eq!(rig.send(r).0, 200);
    assert_eq!(rig.get("pods", "default", "p").0, 404);
}

#[test]
fn a_namespace_ends_when_its_finalizers_are_gone() {
    let mut rig = Rig::new();
    rig.create(
        "namespaces",
        "",
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}"#,
    );
    let (_, v) = rig.delete("namespaces", "", "n");
    assert_eq!(v["status"]["phase"], "Terminating", "{v}");
    let (code, v) = rig.create("configmaps", "n", &cm("a", "1"));
    assert_eq!((code, &v["reason"]), (403, &json!("Forbidden")), "{v}");
    let (_, mut ns) = rig.get("namespaces", "", "n");
    ns["spec"]["finalizers"] = json!([]);
    let r = rig.request(Verb::Update, "namespaces:finalize", "", "n", &ns.to_string());
    let (code, v) = rig.send(r);
    assert_eq!(code, 200, "{v}");
    assert_eq!(rig.get("namespaces", "", "n").0, 404);
    let (code, _) = rig.delete("namespaces", "", "kube-system");
    assert_eq!(code, 403);
}

#[test]
fn services_get_addresses_and_ports_and_give_them_back() {
    let mut rig = Rig::new();
    let body = |ip: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s"}},"spec":{{"type":"NodePort","clusterIP":"{ip}","selector":{{"a":"b"}},"ports":[{{"port":80,"protocol":"TCP","nodePort":30080}}]}}}}"#
        )
    };
    let (code, v) = rig.create("services", "default", &body("10.96.0.77"));
    assert_eq!(code, 201, "{v}");
    assert_eq!(v["spec"]["clusterIPs"], json!(["10.96.0.77"]));
    let (code, v) = rig.create("services", "kube-system", &body("10.96.0.77"));
    assert_eq!(code, 422, "{v}");
    let (code, v) = rig.create("services", "kube-system", &body("10.96.0.78"));
    assert_eq!(code, 422, "{v}");
    rig.delete("services", "default", "s");
    let (code, v) = rig.create("services", "kube-system", &body("10.96.0.77"));
    assert_eq!(code, 201, "{v}");
}

#[test]
fn a_lost_race_is_a_conflict_for_a_version_and_a_retry_for_a_patch() {
    let mut rig = Rig::new();
    let (_, made) = rig.create("configmaps", "default", &cm("a", "1"));
    rig.hold = true;
    let first = rig.request(Verb::Update, "configmaps", "default", "a", &{
        let mut v = made.clone();
        v["data"]["k"] = "first".into();
        v.to_string()
    });
    let second = rig.request(Verb::Update, "configmaps", "default", "a", &{
        let mut v = made.clone();
        v["data"]["k"] = "second".into();
        v.to_string()
    });
    let mut third = rig.request(Verb::Patch, "configmaps", "default", "a", r#"{"data":{"p":"q"}}"#);
    third.patch_type = Some(pintle_wire::msg::api::PatchType::Merge);
    let who = crate::rig::admin();
    let ids: Vec<_> = [first, second, third].into_iter().map(|r| rig.submit(&who, r)).collect();
    rig.hold = false;
    rig.settle();
    assert_eq!(rig.answer(ids[0]).0, 200);
    assert_eq!(rig.answer(ids[1]).0, 409);
    let (code, v) = rig.answer(ids[2]);
    assert_eq!((code, &v["data"]), (200, &json!({"k": "first", "p": "q"})));
}

#[test]
fn time_ends_watches_and_events() {
    let mut rig = Rig::new();
    let mut r = rig.request(Verb::Watch, "configmaps", "default", "", "");
    r.options.timeout_s = Some(5);
    r.options.bookmarks = true;
    let id = rig.submit(&crate::rig::admin(), r);
    let event = r#"{"apiVersion":"v1","kind":"Event","metadata":{"name":"e"},"involvedObject":{"kind":"Pod","namespace":"default","name":"p"},"reason":"x","type":"Normal"}"#;
    let (code, v) = rig.create("events", "default", event);
    assert_eq!(code, 201, "{v}");
    rig.pass(Duration::from_secs(6));
    assert!(rig.ended.contains(&id));
    assert_eq!(rig.get("events", "default", "e").0, 200);
    rig.pass(Duration::from_secs(3600));
    assert_eq!(rig.get("events", "default", "e").0, 404);
}
