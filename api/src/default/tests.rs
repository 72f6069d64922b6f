use super::*;
use crate::{decode, schema};
use serde_json::json;

fn defaulted(group: &str, version: &str, kind: &str, body: Value) -> Value {
    let gvk = Gvk::new(group, version, kind);
    let mut o = decode::value(body, &gvk).unwrap().object;
    object(&gvk, &mut o);
    let once = o.clone();
    object(&gvk, &mut o);
    assert_eq!(o, once, "defaulting twice");
    assert_eq!(decode::value(once.clone(), &gvk).unwrap().object, once, "defaults are canonical");
    once
}

#[test]
fn a_pod() {
    let p = defaulted(
        "",
        "v1",
        "Pod",
        json!({"spec": {
            "hostNetwork": true,
            "containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "a"}, {"name": "b", "configMap": {"name": "m"}}, {"name": "h", "hostPath": {"path": "/"}}],
        }}),
    );
    assert_eq!(
        p["spec"],
        json!({
            "hostNetwork": true, "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler", "enableServiceLinks": true,
            "containers": [{"name": "c", "image": "nginx", "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
                "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}],
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "configMap": {"name": "m", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/", "type": ""}}],
        })
    );
}

#[test]
fn pull_policies() {
    for (image, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1", "IfNotPresent"),
        ("host:5000/nginx", "Always"),
        ("host:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:00", "IfNotPresent"),
        ("", "IfNotPresent"),
    ] {
        assert_eq!(pull_policy(image), policy, "{image}");
    }
}

#[test]
fn workloads_and_services() {
    let d = defaulted(
        "apps",
        "v1",
        "Deployment",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "a:1"}]}}}}),
    );
    assert_eq!(
        d["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!(d["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(d["spec"]["template"]["spec"].get("enableServiceLinks"), None);
    let j = defaulted(
        "batch",
        "v1",
        "Job",
        json!({"spec": {"parallelism": 2, "template": {"metadata": {"labels": {"a": "b"}}}}}),
    );
    assert_eq!(j["spec"].get("completions"), None);
    assert_eq!(j["metadata"]["labels"], json!({"a": "b"}));
    let s = defaulted(
        "",
        "v1",
        "Service",
        json!({"spec": {"ports": [{"port": 80}], "sessionAffinity": "ClientIP"}}),
    );
    assert_eq!(s["spec"]["ports"], json!([{"port": 80, "targetPort": 80, "protocol": "TCP"}]));
    assert_eq!(s["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
    let n = defaulted(
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        json!({"spec": {"podSelector": {}, "egress": [{}]}}),
    );
    assert_eq!(n["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
}

#[test]
fn every_kind_survives_an_empty_body() {
    for (gvk, _) in schema::kinds() {
        let o = defaulted(gvk.group, gvk.version, gvk.kind, json!({}));
        assert!(o.is_object());
        let mut odd = json!({"spec": [], "metadata": 3, "status": "x"});
        object(&gvk, &mut odd);
    }
}
