//! Jobs: every end of a pod counts exactly once.

use crate::Kind;
use crate::job::{Jobs, LostPods};
use crate::plan::key_of;
use crate::testing::Cluster;
use pintle_base::Prng;
use serde_json::{Value, json};

const J: &str = "ns/j";

fn job(c: &mut Cluster, spec: &Value) {
    let mut all = json!({
        "selector": {"matchLabels": {"job": "j"}},
        "template": {
            "metadata": {"labels": {"job": "j"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]},
        },
    });
    crate::testing::merge(&mut all, spec);
    c.put(Kind::Job, json!({"metadata": {"name": "j", "namespace": "ns"}, "spec": all}));
}

fn condition(c: &Cluster) -> Option<(String, String)> {
    let list = c.get(Kind::Job, J)["status"]["conditions"].as_array()?;
    let last = list.iter().find(|x| x["type"] == "Complete" || x["type"] == "Failed")?;
    let text = |f: &str| last[f].as_str().unwrap_or_default().to_owned();
    Some((text("type"), text("reason")))
}

fn running(c: &Cluster) -> Vec<String> {
    c.list(Kind::Pod)
        .into_iter()
        .filter(|p| !crate::replicaset::terminal(p) && p["metadata"]["deletionTimestamp"].is_null())
        .map(key_of)
        .collect()
}

// Runs a job to its end; each pod ends as `ok` says. Gives how many ended well and badly.
fn play(c: &mut Cluster, mut ok: impl FnMut(&Value) -> bool) -> (i64, i64) {
    let (mut good, mut bad) = (0, 0);
    for _ in 0..200 {
        c.settle(&Jobs, J);
        c.kubelet();
        c.settle(&Jobs, J);
        if condition(c).is_some() {
            return (good, bad);
        }
        if let Some(key) = running(c).first() {
            let well = ok(c.get(Kind::Pod, key));
            *(if well { &mut good } else { &mut bad }) += 1;
            c.end(key, if well { "Succeeded" } else { "Failed" });
        } else {
            c.pass(700);
        }
    }
    panic!("the job does not end: {}", c.get(Kind::Job, J));
}

#[test]
fn every_end_counts_once() {
    for seed in 0..60 {
        let mut p = Prng::new(seed);
        let mut c = Cluster::new();
        let completions = 1 + p.below(8) as i64;
        let mut spec = json!({
            "completions": completions, "parallelism": 1 + p.below(4), "backoffLimit": p.below(4),
        });
        if p.chance(1, 2) {
            spec["completionMode"] = json!("Indexed");
        }
        job(&mut c, &spec);
        let (good, bad) = play(&mut c, |_| p.chance(4, 5));
        let status = &c.get(Kind::Job, J)["status"];
        let failed = status["failed"].as_i64().unwrap_or(0);
        assert_eq!(status["succeeded"].as_i64().unwrap_or(0), good, "seed {seed}: {status}");
        let (end, reason) = condition(&c).expect("an end");
        if end == "Complete" {
            assert_eq!((good, failed), (completions, bad), "seed {seed}");
        } else {
            assert_eq!(reason, "BackoffLimitExceeded");
            // Those that ran when the limit was reached were stopped and count as failed too.
            assert!(bad > spec["backoffLimit"].as_i64().unwrap_or(0) && failed >= bad);
        }
        let held = c.list(Kind::Pod).iter().any(|p| {
            !p["metadata"]["finalizers"].is_null() && p["metadata"]["finalizers"] != json!([])
        });
        assert!(!held, "seed {seed}: a pod keeps its finalizer");
    }
}

#[test]
fn indexes_are_each_done_once() {
    let mut c = Cluster::new();
    job(
        &mut c,
        &json!({"completions": 5, "parallelism": 3, "completionMode": "Indexed", "backoffLimit": 9}),
    );
    let mut seen = Vec::new();
    let index = |p: &Value| {
        let a = &p["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"];
        a.as_str().unwrap_or_default().to_owned()
    };
    play(&mut c, |p| {
        let i = index(p);
        let again = seen.contains(&i);
        seen.push(i.clone());
        // Index 2 fails the first time.
        i != "2" || again
    });
    assert_eq!(c.get(Kind::Job, J)["status"]["completedIndexes"], "0-4");
    assert_eq!(seen.len(), 6);
}

#[test]
fn a_suspended_job_runs_nothing_and_goes_on_later() {
    let mut c = Cluster::new();
    job(&mut c, &json!({"completions": 2, "parallelism": 2, "suspend": true}));
    c.settle(&Jobs, J);
    assert!(c.list(Kind::Pod).is_empty());
    c.patch(Kind::Job, J, &json!({"spec": {"suspend": false}}));
    c.settle(&Jobs, J);
    assert_eq!(running(&c).len(), 2);
    c.patch(Kind::Job, J, &json!({"spec": {"suspend": true}}));
    c.settle(&Jobs, J);
    assert_eq!((running(&c).len(), condition(&c)), (0, None));
    c.patch(Kind::Job, J, &json!({"spec": {"suspend": false}}));
    play(&mut c, |_| true);
    assert_eq!(condition(&c).map(|c| c.0).as_deref(), Some("Complete"));
}

#[test]
fn a_deadline_ends_it_and_its_time_to_live_removes_it() {
    let mut c = Cluster::new();
    job(
        &mut c,
        &json!({"completions": 1, "activeDeadlineSeconds": 30, "ttlSecondsAfterFinished": 100}),
    );
    c.settle(&Jobs, J);
    c.kubelet();
    let wait = c.plan(&Jobs, J).requeue_after.expect("looks again at the deadline");
    c.pass(wait.as_secs() + 1);
    for _ in 0..3 {
        c.settle(&Jobs, J);
        c.kubelet();
    }
    let end = ("Failed".to_owned(), "DeadlineExceeded".to_owned());
    assert_eq!(condition(&c), Some(end));
    let wait = c.plan(&Jobs, J).requeue_after.expect("looks again at the end of its time");
    c.pass(wait.as_secs() + 1);
    c.round(&Jobs, J);
    assert!(c.get(Kind::Job, J).is_null());
}

#[test]
fn pods_of_a_job_that_is_gone_are_let_go() {
    for policy in ["Background", "Orphan"] {
        let mut c = Cluster::new();
        job(&mut c, &json!({"completions": 1}));
        c.settle(&Jobs, J);
        c.kubelet();
        let pod = running(&c).remove(0);
        assert!(c.plan(&LostPods, &pod).actions.is_empty(), "its job counts it");
        c.remove(Kind::Job, J);
        if policy == "Orphan" {
            c.patch(Kind::Pod, &pod, &json!({"metadata": {"ownerReferences": null}}));
        }
        c.settle(&LostPods, &pod);
        let left = c.get(Kind::Pod, &pod)["metadata"]["finalizers"].as_array().map(Vec::len);
        assert_eq!(left.unwrap_or(0), 0, "{policy}");
    }
}
