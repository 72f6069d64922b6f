//! ReplicaSets: who is adopted, who is let go, who dies first.

use crate::Kind;
use crate::plan::{Action, key_of, split};
use crate::replicaset::ReplicaSets;
use crate::testing::Cluster;
use serde_json::{Value, json};

const RS: &str = "ns/web";

fn set(c: &mut Cluster, replicas: i64) {
    c.put(
        Kind::ReplicaSet,
        json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {}},
            },
        }),
    );
}

#[test]
fn makes_what_is_missing_and_nothing_twice() {
    for replicas in [0, 1, 7] {
        let mut c = Cluster::new();
        set(&mut c, replicas);
        assert!(c.settle(&ReplicaSets, RS) <= 2);
        assert_eq!(c.list(Kind::Pod).len() as i64, replicas);
        c.kubelet();
        c.settle(&ReplicaSets, RS);
        assert_eq!(c.get(Kind::ReplicaSet, RS)["status"]["replicas"], replicas);
        let one = c.list(Kind::Pod).first().map(|p| key_of(p));
        if let Some(key) = one {
            c.end(&key, "Failed");
            c.settle(&ReplicaSets, RS);
            assert_eq!(c.list(Kind::Pod).len() as i64, replicas + 1, "a failed pod is replaced");
        }
    }
}

// Each of two pods differs in one thing; the first must go.
#[test]
fn victims_are_chosen_as_upstream_does() {
    let old = "2026-11-23T08:00:00Z";
    let newer = "2026-11-23T08:59:00Z";
    let ready =
        |since: &str| json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
    let base = |since: &str| json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Running", "conditions": ready(since)}});
    let with = |mut v: Value, path: &[&str], value: Value| {
        let mut at = &mut v;
        for p in path {
            at = &mut at[*p];
        }
        *at = value;
        v
    };
    let cost = ["metadata", "annotations"];
    let costly = json!({"controller.kubernetes.io/pod-deletion-cost": "5"});
    let table: Vec<(&str, Value, Value)> = vec![
        ("not on a node", with(base(old), &["spec", "nodeName"], Value::Null), base(old)),
        ("pending", with(base(old), &["status", "phase"], json!("Pending")), base(old)),
        ("not ready", with(base(old), &["status", "conditions"], json!([])), base(old)),
        ("cheaper", base(old), with(base(newer), &cost, costly)),
        ("ready for a shorter time", base(newer), base(old)),
        (
            "more restarts",
            with(base(old), &["status", "containerStatuses"], json!([{"restartCount": 3}])),
            base(old),
        ),
        (
            "younger",
            with(base(old), &["metadata", "creationTimestamp"], json!(newer)),
            with(base(old), &["metadata", "creationTimestamp"], json!(old)),
        ),
    ];
    for (why, victim, survivor) in table {
        for swap in [false, true] {
            let mut c = Cluster::new();
            set(&mut c, 1);
            let uid = c.get(Kind::ReplicaSet, RS)["metadata"]["uid"].clone();
            let names = if swap { ["b", "a"] } else { ["a", "b"] };
            for (name, extra) in names.iter().zip([&victim, &survivor]) {
                let mut pod = extra.clone();
                pod["metadata"]["name"] = json!(name);
                pod["metadata"]["namespace"] = json!("ns");
                pod["metadata"]["labels"] = json!({"app": "web"});
                pod["metadata"]["ownerReferences"] =
                    json!([{"kind": "ReplicaSet", "name": "web", "uid": uid, "controller": true}]);
                c.put(Kind::Pod, pod);
            }
            let killed: Vec<String> = c
                .plan(&ReplicaSets, RS)
                .actions
                .into_iter()
                .filter_map(|a| match a {
                    Action::Delete { key, .. } => Some(split(&key).1.to_owned()),
                    _ => None,
                })
                .collect();
            assert_eq!(killed, [names[0]], "{why}");
        }
    }
}

#[test]
fn adopts_orphans_and_releases_strangers() {
    let mut c = Cluster::new();
    set(&mut c, 2);
    let orphan = json!({"metadata": {"name": "o", "namespace": "ns", "labels": {"app": "web"}}});
    c.put(Kind::Pod, orphan);
    let others = json!({"metadata": {
        "name": "x", "namespace": "ns", "labels": {"app": "web"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "other", "uid": "u", "controller": true}],
    }});
    c.put(Kind::Pod, others);
    c.settle(&ReplicaSets, RS);
    let owner = |c: &Cluster, pod: &str| {
        c.get(Kind::Pod, pod)["metadata"]["ownerReferences"][0]["name"].clone()
    };
    assert_eq!((owner(&c, "ns/o"), owner(&c, "ns/x")), (json!("web"), json!("other")));
    assert_eq!(c.list(Kind::Pod).len(), 3);
    c.patch(Kind::Pod, "ns/o", &json!({"metadata": {"labels": {"app": "else"}}}));
    c.settle(&ReplicaSets, RS);
    assert!(owner(&c, "ns/o").is_null());
    assert_eq!(c.list(Kind::Pod).len(), 4, "its place was taken");
}
