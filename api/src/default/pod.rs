//! Pods and pod templates.

use super::{Object, each, in_map, is_true, put, put_empty, put_nonzero, storage, text};
use crate::quantity::Quantity;
use serde_json::Value;

/// A Pod: its spec, and what is defaulted in pods but not in templates.
pub(super) fn pod(o: &mut Object) {
    in_map(o, "status", addresses);
    in_map(o, "spec", |spec| {
        for key in ["containers", "initContainers"] {
            each(spec, key, |c| in_map(c, "resources", requests_from_limits));
        }
        put(spec, "enableServiceLinks", true);
        if is_true(spec, "hostNetwork") {
            for key in ["containers", "initContainers"] {
                each(spec, key, |c| {
                    each(c, "ports", |p| {
                        let port = p.get("containerPort").and_then(Value::as_i64).unwrap_or(0);
                        put_nonzero(p, "hostPort", port);
                    });
                });
            }
        }
        pod_resources(spec);
        pod_spec(spec);
    });
}

/// The first of `podIPs` and `podIP` are the same; the single field says which.
fn addresses(status: &mut Object) {
    let first = status.get("podIPs").and_then(|l| l.get(0)?.get("ip")).cloned();
    let single = text(status, "podIP").to_owned();
    if single.is_empty() {
        if let Some(first) = first {
            status.insert("podIP".to_owned(), first);
        }
    } else if first.as_ref().and_then(Value::as_str) != Some(&single) {
        status.insert("podIPs".to_owned(), serde_json::json!([{"ip": single}]));
    }
}

/// `template` of an object (a PodTemplate or a workload's spec).
pub(super) fn template_of(o: &mut Object) {
    in_map(o, "template", |t| in_map(t, "spec", pod_spec));
}

/// A limit without a request is the request too.
fn requests_from_limits(resources: &mut Object) {
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    put_empty(resources, "requests");
    in_map(resources, "requests", |requests| {
        for (k, v) in limits {
            requests.entry(k).or_insert(v);
        }
    });
}

/// Requests of the whole pod follow its containers or its limits.
fn pod_resources(spec: &mut Object) {
    let Some(Value::Object(resources)) = spec.get("resources") else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let mut requests =
        resources.get("requests").and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, limit) in limits {
        if requests.contains_key(&name) {
            continue;
        }
        let sum = container_requests(spec, &name);
        requests.insert(name, sum.map_or(limit, |q| Value::from(q.canonical())));
    }
    in_map(spec, "resources", |r| {
        r.insert("requests".to_owned(), Value::Object(requests));
    });
}

/// Sum of the containers' requests when any of them has one.
fn container_requests(spec: &Object, resource: &str) -> Option<Quantity> {
    let containers = spec.get("containers").and_then(Value::as_array)?;
    containers
        .iter()
        .filter_map(|c| crate::object::at(c, &["resources", "requests", resource]))
        .filter_map(|v| Quantity::parse(v.as_str()?))
        .reduce(|a, b| a.add(&b))
}

/// A pod's spec, in pods and in templates.
pub fn pod_spec(spec: &mut Object) {
    // The deprecated name is written beside the other one.
    for (from, to) in
        [("serviceAccountName", "serviceAccount"), ("serviceAccount", "serviceAccountName")]
    {
        if let Some(name) = spec.get(from).filter(|n| *n != "").cloned() {
            spec.insert(to.to_owned(), name);
        }
    }
    put(spec, "dnsPolicy", "ClusterFirst");
    put(spec, "restartPolicy", "Always");
    put_empty(spec, "securityContext");
    put(spec, "terminationGracePeriodSeconds", 30);
    put(spec, "schedulerName", "default-scheduler");
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, key, container);
    }
    each(spec, "volumes", volume);
    super::rest::resource_list(spec, "overhead");
}

/// `Always` for the tag `latest` (said or not), else `IfNotPresent`.
pub fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    // A colon before the last slash belongs to a registry's port.
    let last = name.rsplit('/').next().unwrap_or("");
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
        None if digest || image.is_empty() => "IfNotPresent",
        None => "Always",
    }
}

fn container(c: &mut Object) {
    let policy = pull_policy(text(c, "image"));
    put(c, "imagePullPolicy", policy);
    put(c, "terminationMessagePath", "/dev/termination-log");
    put(c, "terminationMessagePolicy", "File");
    each(c, "ports", |p| put(p, "protocol", "TCP"));
    each(c, "env", |e| {
        in_map(e, "valueFrom", |v| {
            in_map(v, "fieldRef", |f| put(f, "apiVersion", "v1"));
            in_map(v, "fileKeyRef", |f| put(f, "optional", false));
        });
    });
    in_map(c, "resources", |r| {
        super::rest::resource_list(r, "limits");
        super::rest::resource_list(r, "requests");
    });
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        in_map(c, key, probe);
    }
    in_map(c, "lifecycle", |l| {
        for key in ["postStart", "preStop"] {
            in_map(l, key, |h| in_map(h, "httpGet", http_get));
        }
    });
}

fn probe(p: &mut Object) {
    put_nonzero(p, "timeoutSeconds", 1);
    put_nonzero(p, "periodSeconds", 10);
    put_nonzero(p, "successThreshold", 1);
    put_nonzero(p, "failureThreshold", 3);
    in_map(p, "httpGet", http_get);
    in_map(p, "grpc", |g| {
        if g.get("service").is_none_or(Value::is_null) {
            g.insert("service".to_owned(), "".into());
        }
    });
}

fn http_get(h: &mut Object) {
    put(h, "path", "/");
    put(h, "scheme", "HTTP");
}

fn volume(v: &mut Object) {
    if !v.iter().any(|(k, x)| k != "name" && !x.is_null()) {
        put_empty(v, "emptyDir");
    }
    for key in ["secret", "configMap", "downwardAPI", "projected"] {
        in_map(v, key, |s| put(s, "defaultMode", 0o644));
    }
    let field_refs = |s: &mut Object| {
        each(s, "items", |i| in_map(i, "fieldRef", |f| put(f, "apiVersion", "v1")));
    };
    in_map(v, "downwardAPI", field_refs);
    in_map(v, "projected", |p| {
        each(p, "sources", |s| {
            in_map(s, "downwardAPI", field_refs);
            in_map(s, "serviceAccountToken", |t| put(t, "expirationSeconds", 3600));
        });
    });
    in_map(v, "image", |i| {
        let policy = pull_policy(text(i, "reference"));
        put(i, "pullPolicy", policy);
    });
    in_map(v, "ephemeral", |e| {
        in_map(e, "volumeClaimTemplate", |t| in_map(t, "spec", storage::claim_spec));
    });
    storage::source(v);
}
