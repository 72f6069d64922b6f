//! The daemon's behaviour through its events: what it asks of the API server, and when.

use super::*;
use pintle_client::Object;
use std::sync::Arc;

struct Rig {
    scheduler: Scheduler,
    caches: Caches,
    now: Now,
}

impl Rig {
    fn new() -> Rig {
        let mut r =
            Rig { scheduler: Scheduler::new(), caches: Caches::default(), now: Now::default() };
        r.send(Event::Synced);
        r
    }

    fn send(&mut self, event: Event) {
        self.scheduler.handle(event, &self.caches, self.now, &mut Outbox::default());
    }

    fn change(&mut self, spec: usize, key: &str, new: Option<Value>) {
        let new = new.map(|v| Object { value: Arc::new(v), revision: 1 });
        self.send(Event::Changed { spec, key: key.into(), old: None, new });
    }

    /// Requests of one turn as (token, "verb resource/subresource", body).
    fn turn(&mut self) -> Vec<(Token, String, Value)> {
        let mut out = Outbox::default();
        self.scheduler.turn(&self.caches, self.now, &mut out);
        out.requests
            .into_iter()
            .map(|(t, r)| {
                let what = format!("{} {}/{}", r.verb.as_str(), r.resource, r.subresource);
                (t, what, serde_json::from_slice(&r.body).expect("JSON"))
            })
            .collect()
    }
}

fn node(cpu: &str) -> Value {
    json!({"metadata": {"name": "n1"}, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}}})
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {
            "schedulerName": "default-scheduler",
            "containers": [{"resources": {"requests": {"cpu": cpu}}}],
        },
    })
}

#[test]
fn binds_and_tells() {
    let mut r = Rig::new();
    r.change(NODES, "n1", Some(node("1")));
    r.change(PODS, "default/a", Some(pod("a", "600m")));
    let made = r.turn();
    assert_eq!(made[0].1, "create pods/binding");
    assert_eq!(made[0].2["target"]["name"], "n1");
    assert_eq!(made[1].2["reason"], "Scheduled");
    assert!(r.turn().is_empty(), "the same view gives no second action");
}

#[test]
fn a_pod_counts_from_the_decision_on() {
    let mut r = Rig::new();
    r.change(NODES, "n1", Some(node("1")));
    r.change(PODS, "default/a", Some(pod("a", "600m")));
    r.change(PODS, "default/b", Some(pod("b", "600m")));
    let made = r.turn();
    let kinds: Vec<&str> = made.iter().map(|m| m.1.as_str()).collect();
    assert_eq!(
        kinds,
        ["create pods/binding", "create events/", "create events/", "patch pods/status"]
    );
    assert_eq!(made[2].2["message"], "0/1 nodes are available: 1 Insufficient cpu.");
    // The first one ends: the second gets its place.
    r.change(PODS, "default/a", None);
    assert_eq!(r.turn()[0].1, "create pods/binding");
}

#[test]
fn a_failed_binding_is_tried_again_later() {
    let mut r = Rig::new();
    r.change(NODES, "n1", Some(node("1")));
    r.change(PODS, "default/a", Some(pod("a", "600m")));
    let token = r.turn()[0].0;
    r.send(Event::Reply { token, result: Err(ApiError::Disconnected) });
    assert!(r.turn().is_empty());
    let due = r.scheduler.poll_timeout().expect("a pause");
    r.now.mono = due;
    assert_eq!(r.turn()[0].1, "create pods/binding");
}

#[test]
fn higher_priority_goes_first() {
    let mut r = Rig::new();
    r.change(NODES, "n1", Some(node("1")));
    r.change(PODS, "default/low", Some(pod("low", "600m")));
    let mut high = pod("high", "600m");
    high["spec"]["priority"] = json!(1000);
    r.change(PODS, "default/high", Some(high));
    assert_eq!(r.turn()[0].2["metadata"]["name"], "high");
}

#[test]
fn other_schedulers_gates_and_deleted_pods_are_left_alone() {
    let mut r = Rig::new();
    r.change(NODES, "n1", Some(node("1")));
    for (key, value) in
        [("schedulerName", json!("mine")), ("schedulingGates", json!([{"name": "x"}]))]
    {
        let mut p = pod("a", "1m");
        p["spec"][key] = value;
        r.change(PODS, "default/a", Some(p));
        assert!(r.turn().is_empty(), "{key}");
    }
    let mut p = pod("a", "1m");
    p["metadata"]["deletionTimestamp"] = json!("2026-11-23T09:00:00Z");
    r.change(PODS, "default/a", Some(p));
    assert!(r.turn().is_empty());
}
