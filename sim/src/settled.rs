//! What must be true when faults are over and nothing moves any more: everything is as desired.

use crate::oracle::{Oracle, controller, deleting, ready, terminal, uid};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is not as desired.
pub fn differences(oracle: &Oracle) -> Vec<String> {
    let mut wrong = Vec::new();
    nothing_is_half_deleted(oracle, &mut wrong);
    owners_exist(oracle, &mut wrong);
    pods(oracle, &mut wrong);
    replicasets(oracle, &mut wrong);
    deployments(oracle, &mut wrong);
    jobs(oracle, &mut wrong);
    services(oracle, &mut wrong);
    namespaces(oracle, &mut wrong);
    wrong
}

fn number(v: &Value) -> i64 {
    v.as_i64().unwrap_or(0)
}

fn nothing_is_half_deleted(oracle: &Oracle, wrong: &mut Vec<String>) {
    for (key, o) in oracle.objects.iter().filter(|(_, o)| deleting(&o.value)) {
        wrong.push(format!("{key} is still being deleted: {}", o.value["metadata"]["finalizers"]));
    }
}

fn owners_exist(oracle: &Oracle, wrong: &mut Vec<String>) {
    let uids: BTreeSet<&str> = oracle.objects.values().map(|o| uid(&o.value)).collect();
    for (key, o) in &oracle.objects {
        let owners = o.value["metadata"]["ownerReferences"].as_array();
        for owner in owners.into_iter().flatten() {
            if !uids.contains(owner["uid"].as_str().unwrap_or_default()) {
                wrong.push(format!("{key} has an owner that does not exist: {owner}"));
            }
        }
    }
}

fn pods(oracle: &Oracle, wrong: &mut Vec<String>) {
    for (key, o) in oracle.list("", "pods") {
        let pod = &o.value;
        if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
            wrong.push(format!("pod {key} has no node"));
        } else if !terminal(pod) && !ready(pod) {
            wrong.push(format!("pod {key} is not ready: {}", pod["status"]));
        }
    }
}

fn of<'a>(oracle: &'a Oracle, owner: &'a str) -> impl Iterator<Item = &'a Value> + 'a {
    oracle
        .list("", "pods")
        .map(|(_, o)| &*o.value)
        .filter(move |p| controller(p).is_some_and(|(_, u)| u == owner))
}

fn replicasets(oracle: &Oracle, wrong: &mut Vec<String>) {
    for (key, o) in oracle.list("apps", "replicasets") {
        let rs = &o.value;
        let have = of(oracle, uid(rs)).filter(|p| !terminal(p)).count() as i64;
        let want = number(&rs["spec"]["replicas"]);
        let status = &rs["status"];
        if have != want {
            wrong.push(format!("replicaset {key} has {have} pods, wants {want}"));
        }
        for field in ["replicas", "readyReplicas", "availableReplicas"] {
            if number(&status[field]) != want {
                wrong.push(format!("replicaset {key}: {field} is {}, not {want}", status[field]));
            }
        }
        if status["observedGeneration"] != rs["metadata"]["generation"] {
            wrong.push(format!("replicaset {key}: its newest spec was not observed"));
        }
    }
}

fn deployments(oracle: &Oracle, wrong: &mut Vec<String>) {
    for (key, o) in oracle.list("apps", "deployments") {
        let d = &o.value;
        let want = number(&d["spec"]["replicas"]);
        let status = &d["status"];
        for field in ["replicas", "readyReplicas", "availableReplicas", "updatedReplicas"] {
            if number(&status[field]) != want {
                wrong.push(format!("deployment {key}: {field} is {}, not {want}", status[field]));
            }
        }
        if status["observedGeneration"] != d["metadata"]["generation"] {
            wrong.push(format!("deployment {key}: its newest spec was not observed"));
        }
        let image = |v: &Value| v["spec"]["template"]["spec"]["containers"][0]["image"].clone();
        let mut newest: BTreeMap<i64, bool> = BTreeMap::new();
        for (name, rs) in oracle.list("apps", "replicasets") {
            let rs = &rs.value;
            if controller(rs).is_none_or(|(_, u)| u != uid(d)) {
                continue;
            }
            let current = image(rs) == image(d);
            if !current && number(&rs["spec"]["replicas"]) != 0 {
                wrong.push(format!("deployment {key}: old replicaset {name} still has pods"));
            }
            let revision = &rs["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
            let revision = revision.as_str().and_then(|s| s.parse().ok()).unwrap_or(0);
            if newest.insert(revision, current).is_some() {
                wrong.push(format!("deployment {key}: two replicasets of revision {revision}"));
            }
        }
        if newest.last_key_value().is_none_or(|(_, current)| !current) {
            wrong.push(format!("deployment {key}: its template is not the newest revision"));
        }
    }
}

fn jobs(oracle: &Oracle, wrong: &mut Vec<String>) {
    for (key, o) in oracle.list("batch", "jobs") {
        let job = &o.value;
        let is = |kind: &str| {
            let list = job["status"]["conditions"].as_array();
            list.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
        };
        if is("Complete") == is("Failed") {
            wrong.push(format!("job {key} is neither complete nor failed: {}", job["status"]));
        }
        if is("Complete") && job["status"]["succeeded"] != job["spec"]["completions"] {
            wrong.push(format!("job {key} is complete with {}", job["status"]["succeeded"]));
        }
        let left = job["status"]["uncountedTerminatedPods"].as_object();
        if left.is_some_and(|m| !m.is_empty()) {
            wrong.push(format!("job {key} has not counted {left:?}"));
        }
        if number(&job["status"]["active"]) != 0 {
            wrong.push(format!("job {key} is over and has active pods"));
        }
    }
    for (key, o) in oracle.list("", "pods") {
        if o.value["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()) {
            wrong.push(format!("pod {key} still has {}", o.value["metadata"]["finalizers"]));
        }
    }
}

fn services(oracle: &Oracle, wrong: &mut Vec<String>) {
    for (key, o) in oracle.list("", "services") {
        let service = &o.value;
        let Some(selector) = service["spec"]["selector"].as_object() else { continue };
        let (ns, name) = key.split_once('/').unwrap_or_default();
        let want: BTreeSet<String> = oracle
            .list("", "pods")
            .filter(|(k, p)| {
                let labels = &p.value["metadata"]["labels"];
                k.split_once('/').is_some_and(|(n, _)| n == ns)
                    && !terminal(&p.value)
                    && selector.iter().all(|(l, v)| labels[l.as_str()] == *v)
            })
            .map(|(_, p)| p.value["status"]["podIP"].as_str().unwrap_or_default().to_owned())
            .collect();
        let mut have = BTreeSet::new();
        for (_, slice) in oracle.list("discovery.k8s.io", "endpointslices") {
            let meta = &slice.value["metadata"];
            if meta["namespace"] != ns || meta["labels"]["kubernetes.io/service-name"] != name {
                continue;
            }
            for e in slice.value["endpoints"].as_array().into_iter().flatten() {
                let address = e["addresses"][0].as_str().unwrap_or_default().to_owned();
                if e["conditions"]["ready"] != true {
                    wrong.push(format!("service {key}: endpoint {address} is not ready"));
                }
                if !have.insert(address.clone()) {
                    wrong.push(format!("service {key}: endpoint {address} appears twice"));
                }
            }
        }
        if want != have {
            wrong.push(format!("service {key} has endpoints {have:?}, its pods are {want:?}"));
        }
    }
    let services: BTreeSet<&str> = oracle.list("", "services").map(|(k, _)| k).collect();
    for (key, slice) in oracle.list("discovery.k8s.io", "endpointslices") {
        let meta = &slice.value["metadata"];
        let ns = meta["namespace"].as_str().unwrap_or_default();
        if let Some(name) = meta["labels"]["kubernetes.io/service-name"].as_str()
            && !services.contains(format!("{ns}/{name}").as_str())
        {
            wrong.push(format!("endpointslice {key} is of a service that does not exist"));
        }
    }
}

fn namespaces(oracle: &Oracle, wrong: &mut Vec<String>) {
    let spaces: BTreeSet<&str> = oracle.list("", "namespaces").map(|(k, _)| k).collect();
    for ns in &spaces {
        for path in [
            format!("/registry/core/serviceaccounts/{ns}/default"),
            format!("/registry/core/configmaps/{ns}/kube-root-ca.crt"),
        ] {
            if !oracle.objects.contains_key(&path) {
                wrong.push(format!("{path} is missing"));
            }
        }
    }
    for (key, o) in &oracle.objects {
        if let Some(ns) = o.value["metadata"]["namespace"].as_str()
            && !spaces.contains(ns)
            // A power cut may bring deleted events back; they end by their age.
            && (oracle.strict || !key.starts_with("/registry/core/events/"))
        {
            wrong.push(format!("{key} lies in a namespace that does not exist"));
        }
    }
}
