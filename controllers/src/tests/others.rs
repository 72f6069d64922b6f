//! Endpoints, garbage, namespaces, nodes.

use crate::Kind;
use crate::endpointslice::EndpointSlices;
use crate::garbage::Garbage;
use crate::namespace::{Furnishings, Namespaces};
use crate::node::{Lifecycle, Ranges};
use crate::testing::Cluster;
use serde_json::{Value, json};

const S: &str = "ns/s";

fn service(c: &mut Cluster, extra: &Value) {
    let mut spec =
        json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]});
    crate::testing::merge(&mut spec, extra);
    c.put(Kind::Service, json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": spec}));
}

fn pod(c: &mut Cluster, name: &str, port: u16, ready: bool) -> String {
    let key = c.put(
        Kind::Pod,
        json!({
            "metadata": {"name": name, "namespace": "ns", "labels": {"app": "web"}},
            "spec": {"containers": [{"ports": [{"name": "http", "containerPort": port}]}]},
        }),
    );
    c.ready(&key, ready);
    key
}

fn endpoints(c: &Cluster) -> Vec<(i64, bool, bool, bool)> {
    let mut all = Vec::new();
    for slice in c.list(Kind::EndpointSlice) {
        for e in slice["endpoints"].as_array().into_iter().flatten() {
            let is = |f: &str| e["conditions"][f] == true;
            let port = slice["ports"][0]["port"].as_i64().unwrap_or(0);
            all.push((port, is("ready"), is("serving"), is("terminating")));
        }
    }
    all.sort_unstable();
    all
}

#[test]
fn endpoints_say_port_readiness_and_end() {
    let mut c = Cluster::new();
    service(&mut c, &json!({}));
    c.settle(&EndpointSlices, S);
    assert_eq!(c.list(Kind::EndpointSlice).len(), 1, "an empty slice says that nobody is there");
    let a = pod(&mut c, "a", 8080, true);
    let b = pod(&mut c, "b", 9090, true);
    pod(&mut c, "c", 8080, false);
    c.settle(&EndpointSlices, S);
    let up = |port| (port, true, true, false);
    assert_eq!(endpoints(&c), [(8080, false, false, false), up(8080), up(9090)]);
    assert_eq!(c.list(Kind::EndpointSlice).len(), 2, "one slice for each set of ports");
    c.delete(Kind::Pod, &a, "", "Background", false);
    c.end(&b, "Failed");
    c.settle(&EndpointSlices, S);
    assert_eq!(endpoints(&c), [(8080, false, false, false), (8080, false, true, true)]);
    c.patch(Kind::Service, S, &json!({"spec": {"publishNotReadyAddresses": true}}));
    c.settle(&EndpointSlices, S);
    assert!(endpoints(&c).iter().all(|e| e.1));
    c.remove(Kind::Service, S);
    c.settle(&EndpointSlices, S);
    assert!(c.list(Kind::EndpointSlice).is_empty());
}

fn owned(c: &mut Cluster, kind: Kind, name: &str, owners: &[(&str, &str)]) -> String {
    let references: Vec<Value> = owners
        .iter()
        .map(|(owner, uid)| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid, "blockOwnerDeletion": true})
        })
        .collect();
    c.put(
        kind,
        json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("u-{name}"), "ownerReferences": references}}),
    )
}

// Until nobody has anything to do for any object.
fn collect(c: &mut Cluster) {
    for _ in 0..20 {
        let keys: Vec<String> = [Kind::ConfigMap, Kind::Secret]
            .into_iter()
            .flat_map(|k| c.list(k).into_iter().map(move |o| (k, crate::plan::key_of(o))))
            .map(|(k, key)| format!("{}|{key}", k.spec()))
            .collect();
        let mut any = false;
        for key in keys {
            any |= !c.round(&Garbage, &key).is_empty();
        }
        if !any {
            return;
        }
    }
    panic!("collects for ever");
}

#[test]
fn garbage_goes_with_its_last_owner() {
    let mut c = Cluster::new();
    owned(&mut c, Kind::ConfigMap, "a", &[]);
    owned(&mut c, Kind::ConfigMap, "b", &[]);
    owned(&mut c, Kind::Secret, "both", &[("a", "u-a"), ("b", "u-b")]);
    owned(&mut c, Kind::Secret, "namesake", &[("a", "u-older")]);
    owned(&mut c, Kind::Secret, "free", &[]);
    collect(&mut c);
    let left = |c: &Cluster| c.list(Kind::Secret).len();
    assert_eq!(left(&c), 2, "the owner with this uid never was: its namesake does not count");
    c.remove(Kind::ConfigMap, "ns/a");
    collect(&mut c);
    let owners = &c.get(Kind::Secret, "ns/both")["metadata"]["ownerReferences"];
    assert_eq!(owners.as_array().map(Vec::len), Some(1));
    c.remove(Kind::ConfigMap, "ns/b");
    collect(&mut c);
    assert_eq!(left(&c), 1);
    assert!(!c.get(Kind::Secret, "ns/free").is_null());
}

#[test]
fn propagation_foreground_orphan_and_cycles() {
    let mut c = Cluster::new();
    owned(&mut c, Kind::ConfigMap, "a", &[]);
    owned(&mut c, Kind::ConfigMap, "child", &[("a", "u-a")]);
    owned(&mut c, Kind::Secret, "grandchild", &[("child", "u-child")]);
    c.delete(Kind::ConfigMap, "ns/a", "", "Foreground", false);
    collect(&mut c);
    assert!(c.list(Kind::ConfigMap).is_empty() && c.list(Kind::Secret).is_empty());

    owned(&mut c, Kind::ConfigMap, "o", &[]);
    owned(&mut c, Kind::Secret, "kept", &[("o", "u-o")]);
    c.delete(Kind::ConfigMap, "ns/o", "", "Orphan", false);
    collect(&mut c);
    assert!(c.list(Kind::ConfigMap).is_empty());
    let owners = &c.get(Kind::Secret, "ns/kept")["metadata"]["ownerReferences"];
    assert_eq!(owners.as_array().map_or(0, Vec::len), 0);

    owned(&mut c, Kind::ConfigMap, "x", &[("y", "u-y")]);
    owned(&mut c, Kind::ConfigMap, "y", &[("x", "u-x")]);
    collect(&mut c);
    assert_eq!(c.list(Kind::ConfigMap).len(), 2, "a cycle that nobody deletes stays");
    c.delete(Kind::ConfigMap, "ns/x", "", "Background", false);
    collect(&mut c);
    assert!(c.list(Kind::ConfigMap).is_empty());
}

#[test]
fn a_namespace_ends_pods_first_and_last_its_finalizer() {
    let mut c = Cluster::new();
    let ns = json!({"metadata": {"name": "ns"}, "spec": {"finalizers": ["kubernetes"]}});
    c.put(Kind::Namespace, ns);
    let furnish = Furnishings { root_ca_pem: "PEM".into() };
    c.settle(&furnish, "ns");
    assert_eq!(c.get(Kind::ConfigMap, "ns/kube-root-ca.crt")["data"]["ca.crt"], "PEM");
    assert!(!c.get(Kind::ServiceAccount, "ns/default").is_null());
    pod(&mut c, "p", 1, true);
    assert!(c.plan(&Namespaces, "ns").actions.is_empty());
    let stamp = c.now.wall.rfc3339();
    let mut object = c.get(Kind::Namespace, "ns").clone();
    object["metadata"]["deletionTimestamp"] = json!(stamp);
    c.put(Kind::Namespace, object);
    c.settle(&Namespaces, "ns");
    assert_eq!(c.list(Kind::ConfigMap).len(), 1, "its pods end first");
    c.remove(Kind::Pod, "ns/p");
    for _ in 0..4 {
        c.round(&Namespaces, "ns");
    }
    assert!(c.get(Kind::Namespace, "ns").is_null());
    assert!(c.list(Kind::ConfigMap).is_empty() && c.list(Kind::ServiceAccount).is_empty());
    assert!(c.plan(&furnish, "ns").actions.is_empty());
}

#[test]
fn node_ranges_differ_and_stay() {
    let ranges = Ranges { cluster_cidr: "10.244.0.0/22".into(), node_bits: 24 };
    let mut c = Cluster::new();
    for i in 0..3 {
        c.put(Kind::Node, json!({"metadata": {"name": format!("n{i}")}, "spec": {}}));
    }
    c.settle(&ranges, "all");
    let of = |c: &Cluster| -> Vec<String> {
        c.list(Kind::Node)
            .iter()
            .map(|n| n["spec"]["podCIDR"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(of(&c), ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]);
    c.remove(Kind::Node, "n1");
    for name in ["n8", "n9"] {
        c.put(Kind::Node, json!({"metadata": {"name": name}, "spec": {}}));
    }
    c.settle(&ranges, "all");
    assert_eq!(of(&c), ["10.244.0.0/24", "10.244.2.0/24", "10.244.1.0/24", "10.244.3.0/24"]);
    c.put(Kind::Node, json!({"metadata": {"name": "one-too-many"}, "spec": {}}));
    let plan = c.plan(&ranges, "all");
    assert_eq!(plan.actions.len(), 1, "an event says that none is left: {plan:?}");
}

#[test]
fn a_silent_node_is_tainted_and_its_pods_leave_when_their_patience_ends() {
    let mut c = Cluster::new();
    c.put(
        Kind::Node,
        json!({
            "metadata": {"name": "n1"}, "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }),
    );
    let key = pod(&mut c, "p", 1, true);
    let tolerations = json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
    ]);
    c.patch(Kind::Pod, &key, &json!({"spec": {"tolerations": tolerations}}));
    c.memory.lease_seen.insert("kube-node-lease/n1".into(), c.now.mono);
    c.settle(&Lifecycle, "n1");
    assert!(c.get(Kind::Node, "n1")["spec"]["taints"].is_null());
    let wait = c.plan(&Lifecycle, "n1").requeue_after.expect("looks again");
    c.pass(wait.as_secs() + 1);
    c.settle(&Lifecycle, "n1");
    let node = c.get(Kind::Node, "n1");
    assert_eq!(node["status"]["conditions"][0]["status"], "Unknown");
    assert_eq!(node["spec"]["taints"].as_array().map(Vec::len), Some(2));
    assert!(crate::replicaset::ready_since(c.get(Kind::Pod, &key)).is_none());
    assert!(c.get(Kind::Pod, &key)["metadata"]["deletionTimestamp"].is_null());
    let wait = c.plan(&Lifecycle, "n1").requeue_after.expect("looks again");
    c.pass(wait.as_secs() + 1);
    c.settle(&Lifecycle, "n1");
    assert!(!c.get(Kind::Pod, &key)["metadata"]["deletionTimestamp"].is_null());
    // It comes back.
    let good = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    c.patch(Kind::Node, "n1", &good);
    c.memory.lease_seen.insert("kube-node-lease/n1".into(), c.now.mono);
    c.settle(&Lifecycle, "n1");
    assert!(c.get(Kind::Node, "n1")["spec"]["taints"].is_null());
}
