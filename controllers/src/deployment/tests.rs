//! Rollouts as tables, over the in-memory API.

use super::Deployments;
use crate::Kind;
use crate::plan::key_of;
use crate::replicaset::ReplicaSets;
use crate::testing::Cluster;
use serde_json::{Value, json};

const D: &str = "ns/web";

fn deployment(replicas: i64, strategy: Value) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "ns"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
            "revisionHistoryLimit": 2,
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i:1"}]},
            },
        },
    })
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
    })
}

fn image(c: &mut Cluster, image: &str) {
    let containers = json!([{"name": "c", "image": image}]);
    c.patch(
        Kind::Deployment,
        D,
        &json!({"spec": {"template": {"spec": {"containers": containers}}}}),
    );
}

fn alive(c: &Cluster) -> i64 {
    c.list(Kind::Pod).iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null()).count() as i64
}

fn ready(c: &Cluster) -> i64 {
    let good = |p: &&&Value| {
        p["metadata"]["deletionTimestamp"].is_null() && crate::replicaset::ready_since(p).is_some()
    };
    c.list(Kind::Pod).iter().filter(good).count() as i64
}

// One round of everybody. True = somebody did something.
fn round(c: &mut Cluster) -> bool {
    let mut any = !c.round(&Deployments, D).is_empty();
    let sets: Vec<String> = c.list(Kind::ReplicaSet).into_iter().map(key_of).collect();
    for key in sets {
        any |= !c.round(&ReplicaSets, &key).is_empty();
    }
    any
}

fn settle(c: &mut Cluster, check: impl Fn(&Cluster)) {
    for _ in 0..200 {
        let mut any = round(c);
        check(c);
        let waiting = |p: &&Value| {
            p["status"]["phase"].is_null() || !p["metadata"]["deletionTimestamp"].is_null()
        };
        // One pod at a time, so that every step in between is seen.
        let next = c
            .list(Kind::Pod)
            .into_iter()
            .find(waiting)
            .map(|p| (key_of(p), p["metadata"]["deletionTimestamp"].is_null()));
        match next {
            Some((key, true)) => c.ready(&key, true),
            Some((key, false)) => c.remove(Kind::Pod, &key),
            None => {}
        }
        any |= !c.list(Kind::Pod).iter().all(|p| p["status"]["phase"] == "Running");
        if !any {
            return;
        }
        c.pass(1);
    }
    panic!("the rollout does not end: {}", c.get(Kind::Deployment, D));
}

fn sizes(c: &Cluster) -> Vec<(String, i64)> {
    let mut all: Vec<(String, i64)> = c
        .list(Kind::ReplicaSet)
        .iter()
        .map(|rs| {
            let image = &rs["spec"]["template"]["spec"]["containers"][0]["image"];
            let size = rs["spec"]["replicas"].as_i64().unwrap_or(-1);
            (image.as_str().unwrap_or_default().to_owned(), size)
        })
        .collect();
    all.sort();
    all
}

fn of(list: &[(&str, i64)]) -> Vec<(String, i64)> {
    list.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect()
}

#[test]
fn rolling_updates_stay_within_their_bounds() {
    // replicas, maxSurge, maxUnavailable, most pods, fewest ready
    let table = [
        (4, json!(1), json!(0), 5, 4),
        (4, json!(0), json!(1), 4, 3),
        (4, json!("25%"), json!("25%"), 5, 3),
        (10, json!("25%"), json!("25%"), 13, 8),
        (3, json!("100%"), json!(0), 6, 3),
        (3, json!(0), json!("100%"), 3, 0),
        // Both zero cannot be: one may be missing.
        (3, json!(0), json!(0), 3, 2),
        (1, json!(1), json!(1), 2, 0),
    ];
    for (replicas, surge, unavailable, most, fewest) in table {
        let mut c = Cluster::new();
        c.put(Kind::Deployment, deployment(replicas, rolling(surge.clone(), unavailable.clone())));
        settle(&mut c, |c| assert!(alive(c) <= replicas));
        assert_eq!(sizes(&c), of(&[("i:1", replicas)]));
        image(&mut c, "i:2");
        settle(&mut c, |c| {
            assert!(alive(c) <= most, "{} pods with {surge}/{unavailable}", alive(c));
            assert!(ready(c) >= fewest, "{} ready with {surge}/{unavailable}", ready(c));
        });
        assert_eq!(sizes(&c), of(&[("i:1", 0), ("i:2", replicas)]));
        let status = &c.get(Kind::Deployment, D)["status"];
        for field in ["replicas", "updatedReplicas", "availableReplicas", "readyReplicas"] {
            assert_eq!(status[field], replicas, "{field}");
        }
    }
}

#[test]
fn recreate_ends_the_old_before_it_starts_the_new() {
    let mut c = Cluster::new();
    c.put(Kind::Deployment, deployment(3, json!({"type": "Recreate"})));
    settle(&mut c, |_| {});
    image(&mut c, "i:2");
    settle(&mut c, |c| {
        let images: std::collections::BTreeSet<String> = c
            .list(Kind::Pod)
            .iter()
            .map(|p| p["spec"]["containers"][0]["image"].to_string())
            .collect();
        assert!(images.len() <= 1, "{images:?} at once");
    });
    assert_eq!(sizes(&c), of(&[("i:1", 0), ("i:2", 3)]));
}

#[test]
fn a_paused_deployment_scales_and_does_not_roll() {
    let mut c = Cluster::new();
    c.put(Kind::Deployment, deployment(2, rolling(json!(1), json!(0))));
    settle(&mut c, |_| {});
    c.patch(Kind::Deployment, D, &json!({"spec": {"paused": true}}));
    image(&mut c, "i:2");
    settle(&mut c, |_| {});
    assert_eq!(sizes(&c), of(&[("i:1", 2)]));
    c.patch(Kind::Deployment, D, &json!({"spec": {"replicas": 4}}));
    settle(&mut c, |_| {});
    assert_eq!(sizes(&c), of(&[("i:1", 4)]));
    c.patch(Kind::Deployment, D, &json!({"spec": {"paused": false}}));
    settle(&mut c, |_| {});
    assert_eq!(sizes(&c), of(&[("i:1", 0), ("i:2", 4)]));
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let mut c = Cluster::new();
    c.put(Kind::Deployment, deployment(10, rolling(json!(3), json!(2))));
    settle(&mut c, |_| {});
    image(&mut c, "i:2");
    // No pod of the new template becomes ready: 8 old ones stay, 5 new ones come.
    for _ in 0..8 {
        round(&mut c);
        let gone: Vec<String> = c
            .list(Kind::Pod)
            .into_iter()
            .filter(|p| !p["metadata"]["deletionTimestamp"].is_null())
            .map(key_of)
            .collect();
        for key in gone {
            c.remove(Kind::Pod, &key);
        }
    }
    assert_eq!(sizes(&c), of(&[("i:1", 8), ("i:2", 5)]));
    c.patch(Kind::Deployment, D, &json!({"spec": {"replicas": 15}}));
    c.round(&Deployments, D);
    // 18 are allowed now; the 5 more are shared out 3 to 2 (the example of the Deployment documentation).
    assert_eq!(sizes(&c), of(&[("i:1", 11), ("i:2", 7)]));
}

#[test]
fn a_rollback_is_the_newest_revision_of_an_old_replicaset() {
    let mut c = Cluster::new();
    c.put(Kind::Deployment, deployment(2, rolling(json!(1), json!(0))));
    settle(&mut c, |_| {});
    for text in ["i:2", "i:3", "i:1"] {
        image(&mut c, text);
        settle(&mut c, |_| {});
    }
    assert_eq!(sizes(&c), of(&[("i:1", 2), ("i:2", 0), ("i:3", 0)]));
    let revision = |o: &Value| {
        o["metadata"]["annotations"][super::REVISION].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(revision(c.get(Kind::Deployment, D)), "4");
    let newest = c.list(Kind::ReplicaSet).into_iter().find(|rs| super::size(rs) == 2);
    assert_eq!(newest.map(revision).as_deref(), Some("4"));
    // Of the empty ones only two are kept.
    for text in ["i:4", "i:5"] {
        image(&mut c, text);
        settle(&mut c, |_| {});
    }
    assert_eq!(sizes(&c), of(&[("i:1", 0), ("i:4", 0), ("i:5", 2)]));
}

#[test]
fn a_rollout_that_does_not_progress_says_so() {
    let mut c = Cluster::new();
    let mut d = deployment(1, rolling(json!(1), json!(0)));
    d["spec"]["progressDeadlineSeconds"] = json!(60);
    c.put(Kind::Deployment, d);
    for _ in 0..5 {
        round(&mut c);
    }
    let reason = |c: &Cluster| {
        let list = c.get(Kind::Deployment, D)["status"]["conditions"].as_array().cloned();
        let p = list.into_iter().flatten().find(|x| x["type"] == "Progressing");
        p.map(|p| (p["status"].clone(), p["reason"].clone()))
    };
    assert_eq!(reason(&c), Some((json!("True"), json!("ReplicaSetUpdated"))));
    let plan = c.plan(&Deployments, D);
    let wait = plan.requeue_after.expect("looks again");
    c.pass(wait.as_secs() + 1);
    round(&mut c);
    assert_eq!(reason(&c), Some((json!("False"), json!("ProgressDeadlineExceeded"))));
}
