//! Rows of core/v1, and of events in both views.

use super::{Cells, age, labels, pod, storage, three};
use crate::object::{self, list_at, str_at};
use serde_json::Value;

pub(super) fn cells(kind: &str, c: &Cells<'_>) -> Option<Vec<Value>> {
    Some(match kind {
        "Pod" => pod::cells(c),
        "Service" => service(c),
        "Node" => node(c),
        "Namespace" => vec![c.name(), c.str(&["status", "phase"]), c.age()],
        "ConfigMap" => {
            vec![c.name(), (c.len(&["data"]) + c.len(&["binaryData"])).into(), c.age()]
        }
        "Secret" => vec![c.name(), c.str(&["type"]), c.len(&["data"]).into(), c.age()],
        "ServiceAccount" => vec![c.name(), c.age()],
        "Event" => event(c),
        "Endpoints" => vec![c.name(), endpoints(c), c.age()],
        "PersistentVolume" => storage::volume(c),
        "PersistentVolumeClaim" => storage::claim(c),
        "ReplicationController" => {
            let [names, images] = c.containers(&["spec", "template", "spec", "containers"]);
            vec![
                c.name(),
                c.int(&["spec", "replicas"]),
                c.int(&["status", "replicas"]),
                c.int(&["status", "readyReplicas"]),
                c.age(),
                names,
                images,
                labels(object::map_at(c.o, &["spec", "selector"])),
            ]
        }
        "ResourceQuota" => quota(c),
        "PodTemplate" => {
            let [names, images] = c.containers(&["template", "spec", "containers"]);
            let of_pod = labels(object::map_at(c.o, &["template", "metadata", "labels"]));
            vec![c.name(), names, images, of_pod]
        }
        "ComponentStatus" => {
            let healthy =
                c.list(&["conditions"]).iter().find(|x| str_at(x, &["type"]) == "Healthy");
            let of = |k: &str| healthy.map_or("", |h| str_at(h, &[k]));
            let status = if of("status") == "True" { "Healthy" } else { "Unhealthy" };
            vec![c.name(), status.into(), of("message").into(), of("error").into()]
        }
        _ => return None,
    })
}

fn service(c: &Cells<'_>) -> Vec<Value> {
    let kind = c.text(&["spec", "type"]);
    let ip = c.list(&["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or("<none>");
    let extra: Vec<&str> =
        c.list(&["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    let external = match kind {
        "ExternalName" => c.text(&["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            let mut all = load_balancer(c);
            all.extend(extra.iter().map(|s| (*s).to_owned()));
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ if extra.is_empty() => "<none>".to_owned(),
        _ => extra.join(","),
    };
    let ports: Vec<String> = c.list(&["spec", "ports"]).iter().map(port).collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    vec![
        c.name(),
        kind.into(),
        ip.into(),
        external.into(),
        ports.into(),
        c.age(),
        labels(object::map_at(c.o, &["spec", "selector"])),
    ]
}

/// Addresses of `status.loadBalancer`, sorted.
pub(super) fn load_balancer(c: &Cells<'_>) -> Vec<String> {
    let address = |i: &Value| match str_at(i, &["ip"]) {
        "" => str_at(i, &["hostname"]).to_owned(),
        ip => ip.to_owned(),
    };
    let list = c.list(&["status", "loadBalancer", "ingress"]);
    let mut all: Vec<String> = list.iter().map(address).filter(|a| !a.is_empty()).collect();
    all.sort();
    all.dedup();
    all
}

fn port(p: &Value) -> String {
    let number = |k: &str| object::int_at(p, &[k]).unwrap_or(0);
    match number("nodePort") {
        0 => format!("{}/{}", number("port"), str_at(p, &["protocol"])),
        node => format!("{}:{node}/{}", number("port"), str_at(p, &["protocol"])),
    }
}

/// `Ready`, `NotReady,SchedulingDisabled`, `Unknown`.
pub fn node_status(node: &Value) -> String {
    let mut out = match object::condition(node, "Ready") {
        Some(r) if str_at(r, &["status"]) == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if object::bool_at(node, &["spec", "unschedulable"]) {
        out.push_str(",SchedulingDisabled");
    }
    out
}

/// `control-plane,etcd`; `<none>` when no label says a role.
pub fn node_roles(node: &Value) -> String {
    let mut roles: Vec<&str> = object::labels(node)
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if k == "kubernetes.io/role" => v.as_str(),
            None => None,
        })
        .filter(|r| !r.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn node(c: &Cells<'_>) -> Vec<Value> {
    let address = |kind: &str| {
        let list = c.list(&["status", "addresses"]);
        let found = list.iter().find(|a| str_at(a, &["type"]) == kind);
        Value::from(found.map_or("<none>", |a| str_at(a, &["address"])))
    };
    let info = |k: &str| c.text(&["status", "nodeInfo", k]);
    let or_unknown = |s: &str| Value::from(if s.is_empty() { "<unknown>" } else { s });
    let kernel = match (info("kernelVersion"), info("architecture")) {
        ("", _) => "<unknown>".to_owned(),
        (kernel, "") => kernel.to_owned(),
        (kernel, architecture) => format!("{kernel} ({architecture})"),
    };
    vec![
        c.name(),
        node_status(c.o).into(),
        node_roles(c.o).into(),
        c.age(),
        info("kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        or_unknown(info("osImage")),
        kernel.into(),
        or_unknown(info("containerRuntimeVersion")),
    ]
}

/// An event of core/v1 or of events.k8s.io/v1, which names the same things differently.
pub(super) fn event(c: &Cells<'_>) -> Vec<Value> {
    let either = |a: &[&str], b: &[&str]| match c.text(a) {
        "" => c.text(b).to_owned(),
        s => s.to_owned(),
    };
    let about = |k: &str| either(&["involvedObject", k], &["regarding", k]);
    let ago = |t: &str| age(t, c.now);
    let first = ago(&either(&["firstTimestamp"], &["deprecatedFirstTimestamp"]))
        .or_else(|| ago(c.text(&["eventTime"])))
        .unwrap_or_else(|| "<unknown>".to_owned());
    let mut last = ago(&either(&["lastTimestamp"], &["deprecatedLastTimestamp"]))
        .unwrap_or_else(|| first.clone());
    let number = |k: &[&str]| object::int_at(c.o, k).unwrap_or(0);
    let mut count = number(&["count"]).max(number(&["deprecatedCount"])).max(1);
    if object::at(c.o, &["series"]).is_some() {
        last =
            ago(c.text(&["series", "lastObservedTime"])).unwrap_or_else(|| "<unknown>".to_owned());
        count = number(&["series", "count"]);
    }
    let kind = about("kind").to_lowercase();
    let name = about("name");
    let target = if name.is_empty() { kind } else { format!("{kind}/{name}") };
    let first_of =
        |texts: [String; 3]| texts.into_iter().find(|t| !t.is_empty()).unwrap_or_default();
    let component = first_of([
        either(&["source", "component"], &["deprecatedSource", "component"]),
        either(&["reportingComponent"], &["reportingController"]),
        String::new(),
    ]);
    let instance = first_of([
        either(&["source", "host"], &["deprecatedSource", "host"]),
        c.text(&["reportingInstance"]).to_owned(),
        String::new(),
    ]);
    let source = if instance.is_empty() { component } else { format!("{component}, {instance}") };
    vec![
        last.into(),
        c.str(&["type"]),
        c.str(&["reason"]),
        target.into(),
        about("fieldPath").into(),
        source.into(),
        either(&["message"], &["note"]).trim().into(),
        first.into(),
        count.into(),
        c.name(),
    ]
}

fn endpoints(c: &Cells<'_>) -> Value {
    let mut all = Vec::new();
    for subset in c.list(&["subsets"]) {
        let ips = || list_at(subset, &["addresses"]).iter().map(|a| str_at(a, &["ip"]));
        let ports = list_at(subset, &["ports"]);
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for p in ports {
            let port = object::int_at(p, &["port"]).unwrap_or(0);
            all.extend(ips().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{port}"),
                false => format!("{ip}:{port}"),
            }));
        }
    }
    three(&all, "<none>")
}

fn quota(c: &Cells<'_>) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (k, hard) in object::map_at(c.o, &["status", "hard"]).into_iter().flatten() {
        let used = match c.text(&["status", "used", k]) {
            "" => "0",
            used => used,
        };
        let line = format!("{k}: {used}/{}", hard.as_str().unwrap_or("0"));
        if k.starts_with("limits") { limits.push(line) } else { requests.push(line) }
    }
    vec![c.name(), requests.join(", ").into(), limits.join(", ").into(), c.age()]
}
