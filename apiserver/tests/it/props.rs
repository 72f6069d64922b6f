//! Laws that hold for any course of events: a list and the watch from it always end where a new list is; reads
//! never go back; no body makes the core panic.

use std::collections::BTreeMap;

use pintle_base::Prng;
use pintle_wire::msg::api::{EventType, PatchType, Reply, Verb};
use serde_json::{Value, json};

use crate::rig::{Rig, admin};

struct Replica {
    watch: u64,
    selector: Option<&'static str>,
    objects: BTreeMap<String, Value>,
    revision: u64,
    paused: bool,
}

impl Replica {
    /// A list, then a watch from its revision.
    fn start(rig: &mut Rig, selector: Option<&'static str>) -> Replica {
        let mut r = rig.request(Verb::List, "configmaps", "default", "", "");
        r.options.label_selector = selector.map(String::from);
        let (code, list) = rig.send(r);
        assert_eq!(code, 200, "{list}");
        let objects = by_name(&list);
        let version = list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
        let mut r = rig.request(Verb::Watch, "configmaps", "default", "", "");
        r.options.label_selector = selector.map(String::from);
        r.options.resource_version = Some(version.clone());
        let watch = rig.submit(&admin(), r);
        let revision = version.parse().expect("a number");
        Replica { watch, selector, objects, revision, paused: false }
    }

    fn take(&mut self, rig: &mut Rig) {
        for reply in rig.replies.remove(&self.watch).unwrap_or_default() {
            let Reply::Event { kind, revision, body } = reply else { panic!("not an event") };
            let v: Value = serde_json::from_slice(&body).expect("JSON");
            let name = v["metadata"]["name"].as_str().expect("a name").to_owned();
            assert!(revision > self.revision, "{revision} after {}", self.revision);
            self.revision = revision;
            assert_eq!(v["metadata"]["resourceVersion"], json!(revision.to_string()));
            match kind {
                EventType::Added => assert!(self.objects.insert(name, v).is_none()),
                EventType::Modified => assert!(self.objects.insert(name, v).is_some()),
                EventType::Deleted => assert!(self.objects.remove(&name).is_some()),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn by_name(list: &Value) -> BTreeMap<String, Value> {
    let items = list["items"].as_array().expect("items");
    items
        .iter()
        .map(|o| {
            let mut o = o.clone();
            o["apiVersion"] = "v1".into();
            o["kind"] = "ConfigMap".into();
            (o["metadata"]["name"].as_str().expect("a name").to_owned(), o)
        })
        .collect()
}

fn step(rig: &mut Rig, prng: &mut Prng) {
    let name = format!("c{}", prng.below(6));
    let label = prng.below(3);
    match prng.below(4) {
        0 => {
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "labels": {"l": label.to_string()}}});
            rig.create("configmaps", "default", &body.to_string());
        }
        1 => {
            rig.delete("configmaps", "default", &name);
        }
        _ => {
            let patch = json!({"metadata": {"labels": {"l": label.to_string()}},
                "data": {"k": prng.below(3).to_string()}});
            rig.merge("configmaps", "default", &name, &patch.to_string());
        }
    }
}

#[test]
fn a_watch_from_a_list_leads_to_the_next_list() {
    for seed in 0..30 {
        let mut prng = Prng::new(seed);
        let mut rig = Rig::new();
        let mut replicas = Vec::new();
        for _ in 0..80 {
            step(&mut rig, &mut prng);
            if prng.chance(1, 8) {
                let selector = [None, Some("l=1"), Some("l!=2"), Some("l in (0,2)")];
                let selector = selector[prng.below(4) as usize];
                replicas.push(Replica::start(&mut rig, selector));
            }
            for r in &mut replicas {
                if prng.chance(1, 4) {
                    r.paused = !r.paused;
                    if r.paused {
                        rig.server.pause(r.watch);
                    } else {
                        rig.server.resume(r.watch);
                    }
                }
            }
            rig.settle();
        }
        for r in &mut replicas {
            rig.server.resume(r.watch);
            rig.settle();
            r.take(&mut rig);
            let mut list = rig.request(Verb::List, "configmaps", "default", "", "");
            list.options.label_selector = r.selector.map(String::from);
            let (_, list) = rig.send(list);
            assert_eq!(r.objects, by_name(&list), "seed {seed}, selector {:?}", r.selector);
        }
    }
}

#[test]
fn a_list_at_a_revision_shows_what_was_then() {
    let mut prng = Prng::new(3);
    let mut rig = Rig::new();
    let mut known = Vec::new();
    for _ in 0..60 {
        step(&mut rig, &mut prng);
        let r = rig.request(Verb::List, "configmaps", "default", "", "");
        let (_, list) = rig.send(r);
        known.push(list);
    }
    for list in known {
        let mut r = rig.request(Verb::List, "configmaps", "default", "", "");
        r.options.resource_version = list["metadata"]["resourceVersion"].as_str().map(String::from);
        r.options.resource_version_match = Some("Exact".into());
        let (code, again) = rig.send(r);
        assert_eq!((code, &again["items"]), (200, &list["items"]));
    }
}

#[test]
fn a_lost_connection_loses_no_event_and_no_waiting_write() {
    let mut rig = Rig::new();
    let mut replica = Replica::start(&mut rig, None);
    let now = rig.now;
    rig.server.store_disconnected(now);
    let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"late"}}"#;
    let create = rig.request(Verb::Create, "configmaps", "default", "", body);
    let id = rig.submit(&admin(), create);
    assert!(!rig.replies.contains_key(&id), "answered without a store");
    rig.forget_watches();
    rig.server.store_connected(now);
    rig.settle();
    assert_eq!(rig.answer(id).0, 201);
    replica.take(&mut rig);
    assert_eq!(replica.objects.keys().collect::<Vec<_>>(), ["late"]);
}

#[test]
fn a_write_whose_answer_is_lost_says_that_nobody_knows() {
    let mut rig = Rig::new();
    rig.hold = true;
    let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#;
    let create = rig.request(Verb::Create, "configmaps", "default", "", body);
    let id = rig.submit(&admin(), create);
    let now = rig.now;
    rig.server.store_disconnected(now);
    rig.drop_held();
    rig.settle();
    let (code, v) = rig.answer(id);
    assert_eq!((code, &v["reason"]), (503, &json!("ServiceUnavailable")), "{v}");
    rig.hold = false;
    rig.server.store_connected(now);
    rig.settle();
    assert_eq!(rig.get("configmaps", "default", "a").0, 200, "the store had done it");
}

#[test]
fn no_body_makes_the_core_panic() {
    let bodies = [
        "",
        "null",
        "[]",
        "{}",
        "1",
        "\"x\"",
        "{",
        "\u{0}",
        r#"{"metadata":null}"#,
        r#"{"metadata":[]}"#,
        r#"{"metadata":{"name":1}}"#,
        r#"{"metadata":{"name":"a","labels":[]}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":[]}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":{}}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[1,null]}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","annotations":"x"},"spec":null,"status":7}"#,
        r#"{"metadata":{"name":"a"},"spec":{"ports":[{"nodePort":"x"}],"clusterIP":7,"clusterIPs":"x"}}"#,
        r#"{"metadata":{"finalizers":"x","ownerReferences":{},"name":"a","namespace":[]}}"#,
        r#"[{"op":"add","path":"/metadata/labels","value":1},{"op":"remove","path":"/spec"}]"#,
        r#"{"spec":{"finalizers":"x"},"metadata":{"name":"default"}}"#,
        r#"{"spec":{"replicas":-5}}"#,
        r#"{"spec":{"replicas":"x"}}"#,
        r#"{"$patch":"delete"}"#,
        r#"{"rules":[{"verbs":"x"}],"subjects":7,"roleRef":[],"metadata":{"name":"a"}}"#,
        r#"{"spec":{"resourceAttributes":[],"nonResourceAttributes":{},"extra":7,"groups":{}}}"#,
        r#"{"target":7,"deleteOptions":[],"metadata":{"name":"a"}}"#,
    ];
    let mut rig = Rig::new();
    let endpoints: Vec<_> = rig.server.registry().served().cloned().collect();
    for e in &endpoints {
        let path = format!("{}/{}/{}", e.group, e.version, e.plural);
        let subs = std::iter::once("").chain(e.subresources.iter().map(|s| s.name.as_str()));
        let ns = if e.namespaced { "default" } else { "" };
        for sub in subs {
            let plural = if sub.is_empty() { path.clone() } else { format!("{path}:{sub}") };
            for body in bodies {
                for verb in [Verb::Create, Verb::Update, Verb::Delete, Verb::Get] {
                    rig.send(rig.request(verb, &plural, ns, "a", body));
                }
                let all =
                    [PatchType::Json, PatchType::Merge, PatchType::Strategic, PatchType::Apply];
                for patch in all {
                    let mut r = rig.request(Verb::Patch, &plural, ns, "a", body);
                    r.patch_type = Some(patch);
                    r.options.field_manager = Some("m".into());
                    rig.send(r);
                }
            }
        }
    }
}
