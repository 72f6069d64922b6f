//! EndpointSlices: which pods stand behind a Service, and whether they are ready.
//!
//! One group of slices for each set of resolved ports (a named target port may differ from pod to pod), at most
//! 100 endpoints each. Names follow from the service's uid, the ports and an index, so that a second look makes
//! nothing twice. Source: the EndpointSlice documentation and KEP-752.

use crate::Kind;
use crate::manager::{Change, Controller};
use crate::plan::{Action, Plan, Selector, key_of};
use crate::replicaset::{ready_since, terminal};
use crate::view::View;
use pintle_base::Now;
use pintle_client::Key;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const ENDPOINTS_MAX: usize = 100;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// The controller.
pub struct EndpointSlices;

impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn wake(&self, change: &Change<'_>, view: View<'_>, keys: &mut BTreeSet<Key>) {
        match change.kind {
            Kind::Service => {
                keys.insert(change.key.to_owned());
            }
            Kind::EndpointSlice => {
                for slice in [change.old, change.new].into_iter().flatten().filter(|s| ours(s)) {
                    let meta = &slice["metadata"];
                    if let (Some(ns), Some(name)) =
                        (meta["namespace"].as_str(), meta["labels"][SERVICE_NAME].as_str())
                    {
                        keys.insert(format!("{ns}/{name}"));
                    }
                }
            }
            Kind::Pod => {
                let (old, new) = (change.old.map(relevant), change.new.map(relevant));
                if old == new {
                    return;
                }
                let Some(ns) = change.object().and_then(|p| p["metadata"]["namespace"].as_str())
                else {
                    return;
                };
                for service in view.list_in(Kind::Service, ns) {
                    let selector = Selector::of_map(&service["spec"]["selector"]);
                    let hit = |pod: Option<&Value>| {
                        pod.is_some_and(|p| selector.matches(&p["metadata"]["labels"]))
                    };
                    if !selector.is_empty() && (hit(change.old) || hit(change.new)) {
                        keys.insert(key_of(service));
                    }
                }
            }
            _ => {}
        }
    }

    fn plan(&self, key: &str, view: View<'_>, _now: Now) -> Plan {
        let (namespace, name) = crate::plan::split(key);
        let have: Vec<&Value> = view
            .list_in(Kind::EndpointSlice, namespace)
            .filter(|s| ours(s) && s["metadata"]["labels"][SERVICE_NAME] == name)
            .collect();
        let service =
            view.get(Kind::Service, key).filter(|s| s["metadata"]["deletionTimestamp"].is_null());
        let wanted = service.map(|s| wanted(s, view)).unwrap_or_default();
        Plan { actions: difference(&have, wanted), requeue_after: None }
    }
}

fn ours(slice: &Value) -> bool {
    slice["metadata"]["labels"][MANAGED_BY] == MANAGER
}

// The parts of a pod that an endpoint shows; heartbeats of anything else do not wake us.
fn relevant(pod: &Value) -> Value {
    json!([
        pod["metadata"]["labels"],
        pod["metadata"]["deletionTimestamp"],
        pod["status"]["podIPs"],
        pod["status"]["phase"],
        pod["spec"]["nodeName"],
        ready_since(pod).is_some(),
    ])
}

fn difference(have: &[&Value], mut wanted: BTreeMap<String, Value>) -> Vec<Action> {
    let mut actions = Vec::new();
    for slice in have {
        let name = slice["metadata"]["name"].as_str().unwrap_or_default();
        match wanted.remove(name) {
            None => actions.push(Action::delete(Kind::EndpointSlice, slice)),
            Some(w) => {
                let same = slice["endpoints"].as_array().map_or(&[][..], Vec::as_slice)
                    == w["endpoints"].as_array().map_or(&[][..], Vec::as_slice)
                    && slice["ports"] == w["ports"]
                    && slice["metadata"]["labels"] == w["metadata"]["labels"];
                if !same {
                    let mut next = (*slice).clone();
                    next["endpoints"] = w["endpoints"].clone();
                    next["ports"] = w["ports"].clone();
                    next["metadata"]["labels"] = w["metadata"]["labels"].clone();
                    actions.push(Action::Update(Kind::EndpointSlice, next));
                }
            }
        }
    }
    actions.extend(wanted.into_values().map(|w| Action::Create(Kind::EndpointSlice, w)));
    actions
}

fn wanted(service: &Value, view: View<'_>) -> BTreeMap<String, Value> {
    let selector = Selector::of_map(&service["spec"]["selector"]);
    if selector.is_empty() || service["spec"]["type"] == "ExternalName" {
        return BTreeMap::new();
    }
    let namespace = service["metadata"]["namespace"].as_str().unwrap_or_default();
    let mut families: Vec<&str> = service["spec"]["ipFamilies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if families.is_empty() {
        families.push("IPv4");
    }
    let mut slices = BTreeMap::new();
    for family in families {
        let mut groups: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
        for pod in view.list_in(Kind::Pod, namespace) {
            if terminal(pod) || !selector.matches(&pod["metadata"]["labels"]) {
                continue;
            }
            let Some(address) = address(pod, family) else { continue };
            let ports = ports(service, pod);
            groups
                .entry(ports.to_string())
                .or_insert_with(|| (ports, Vec::new()))
                .1
                .push(endpoint(service, pod, address));
        }
        if groups.is_empty() {
            // An empty slice says "looked, and nobody is there".
            groups.insert(String::new(), (json!([]), Vec::new()));
        }
        for (text, (ports, endpoints)) in groups {
            let chunks: Vec<&[Value]> = if endpoints.is_empty() {
                vec![&[]]
            } else {
                endpoints.chunks(ENDPOINTS_MAX).collect()
            };
            for (i, chunk) in chunks.into_iter().enumerate() {
                let id = json!([service["metadata"]["uid"], family, text, i]);
                let suffix = crate::hash::of_template(&id, 0);
                let name = format!(
                    "{}-{suffix}",
                    service["metadata"]["name"].as_str().unwrap_or_default()
                );
                slices.insert(name.clone(), slice(service, &name, family, &ports, chunk));
            }
        }
    }
    slices
}

fn slice(service: &Value, name: &str, family: &str, ports: &Value, endpoints: &[Value]) -> Value {
    let meta = &service["metadata"];
    let mut labels = meta["labels"].clone();
    labels[SERVICE_NAME] = meta["name"].clone();
    labels[MANAGED_BY] = json!(MANAGER);
    if service["spec"]["clusterIP"] == "None" {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": meta["namespace"], "labels": labels,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": meta["name"], "uid": meta["uid"],
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": family, "ports": ports, "endpoints": endpoints,
    })
}

fn address<'a>(pod: &'a Value, family: &str) -> Option<&'a str> {
    let listed =
        pod["status"]["podIPs"].as_array().into_iter().flatten().filter_map(|ip| ip["ip"].as_str());
    listed.chain(pod["status"]["podIP"].as_str()).find(|ip| ip.contains(':') == (family == "IPv6"))
}

fn ports(service: &Value, pod: &Value) -> Value {
    let mut list = Vec::new();
    for p in service["spec"]["ports"].as_array().into_iter().flatten() {
        let protocol = p["protocol"].as_str().unwrap_or("TCP");
        let number = match &p["targetPort"] {
            Value::String(name) => container_port(pod, name, protocol),
            Value::Number(n) if n.as_i64() != Some(0) => n.as_i64(),
            _ => p["port"].as_i64(),
        };
        let Some(number) = number else { continue };
        let mut port =
            json!({"name": p["name"].as_str().unwrap_or(""), "port": number, "protocol": protocol});
        if !p["appProtocol"].is_null() {
            port["appProtocol"] = p["appProtocol"].clone();
        }
        list.push(port);
    }
    Value::Array(list)
}

fn container_port(pod: &Value, name: &str, protocol: &str) -> Option<i64> {
    let of = |list: &str| pod["spec"][list].as_array().into_iter().flatten();
    of("containers")
        .chain(of("initContainers").filter(|c| c["restartPolicy"] == "Always"))
        .flat_map(|c| c["ports"].as_array().into_iter().flatten())
        .find(|p| p["name"] == name && p["protocol"].as_str().unwrap_or("TCP") == protocol)
        .and_then(|p| p["containerPort"].as_i64())
}

fn endpoint(service: &Value, pod: &Value, address: &str) -> Value {
    let terminating = !pod["metadata"]["deletionTimestamp"].is_null();
    let serving = ready_since(pod).is_some();
    let publish = service["spec"]["publishNotReadyAddresses"] == true;
    let mut e = json!({
        "addresses": [address],
        "conditions": {
            "ready": publish || serving && !terminating, "serving": publish || serving, "terminating": terminating,
        },
        "targetRef": {
            "kind": "Pod", "name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"],
            "uid": pod["metadata"]["uid"],
        },
    });
    if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        e["nodeName"] = json!(node);
    }
    let subdomain = pod["spec"]["subdomain"].as_str().unwrap_or_default();
    if let Some(hostname) = pod["spec"]["hostname"].as_str()
        && !hostname.is_empty()
        && subdomain == service["metadata"]["name"].as_str().unwrap_or_default()
    {
        e["hostname"] = json!(hostname);
    }
    e
}
