use super::*;
use crate::{decode, default, schema};
use pintle_base::Prng;
use serde_json::json;

fn findings(gvk: &Gvk<'_>, body: Value) -> Vec<String> {
    let mut o = decode::value(body, gvk).unwrap().object;
    default::object(gvk, &mut o);
    create(gvk, &o).iter().map(ToString::to_string).collect()
}

const POD: Gvk<'static> = Gvk::new("", "v1", "Pod");

fn pod(spec: Value) -> Vec<String> {
    findings(&POD, json!({"metadata": {"name": "p", "namespace": "default"}, "spec": spec}))
}

#[test]
fn a_good_pod_has_no_findings() {
    let good = json!({
        "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "name": "http"}],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "readinessProbe": {"httpGet": {"port": "http"}},
            "resources": {"limits": {"cpu": "1", "example.org/gpu": "1"}}}],
        "initContainers": [{"name": "i", "image": "i"}],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "tolerations": [{"operator": "Exists"}],
    });
    assert_eq!(pod(good), Vec::<String>::new());
}

#[test]
fn findings_of_pods() {
    assert_eq!(pod(json!({})), ["spec.containers: Required value"]);
    let c = |extra: Value| {
        let mut c = json!({"name": "c", "image": "i"});
        c.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        pod(json!({"containers": [c]}))
    };
    assert_eq!(
        c(json!({"imagePullPolicy": "Sometimes"})),
        [
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\""
        ]
    );
    assert_eq!(
        c(json!({"volumeMounts": [{"name": "no", "mountPath": "/x"}]})),
        ["spec.containers[0].volumeMounts[0].name: Not found: \"no\""]
    );
    assert_eq!(
        c(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})),
        [
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"
        ]
    );
    assert_eq!(
        c(json!({"env": [{"name": "a=b"}]}))[0],
        "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='"
    );
    let twice =
        pod(json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}));
    assert_eq!(twice, ["spec.containers[1].name: Duplicate value: \"c\""]);
}

#[test]
fn names_and_labels() {
    let gvk = Gvk::new("", "v1", "ConfigMap");
    let meta = |m: Value| findings(&gvk, json!({"metadata": m}));
    assert_eq!(
        meta(json!({"namespace": "n"})),
        ["metadata.name: Required value: name or generateName is required"]
    );
    assert!(
        meta(json!({"name": "A_b", "namespace": "n"}))[0]
            .starts_with("metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain")
    );
    assert_eq!(meta(json!({"name": "a", "namespace": "n", "labels": {"a": "b c"}})).len(), 1);
    assert_eq!(meta(json!({"name": "a"})), ["metadata.namespace: Required value"]);
    assert_eq!(meta(json!({"name": "a", "namespace": "n", "finalizers": ["bare"]})).len(), 1);
}

#[test]
fn workloads_need_their_selector() {
    let gvk = Gvk::new("apps", "v1", "Deployment");
    let meta = json!({"name": "d", "namespace": "n"});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = |selector: Value| {
        findings(
            &gvk,
            json!({"metadata": meta, "spec": {"selector": selector, "template": template}}),
        )
    };
    assert_eq!(spec(json!({"matchLabels": {"a": "b"}})), Vec::<String>::new());
    assert_eq!(
        spec(json!({"matchLabels": {"a": "c"}})),
        [
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
        ]
    );
    assert_eq!(
        spec(json!({})),
        ["spec.selector: Invalid value: {}: empty selector is invalid for deployment"]
    );
}

#[test]
fn changes_that_are_refused() {
    let old = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}});
    let mut new = old.clone();
    assert_eq!(update(&POD, "", &new, &old), []);
    new["spec"]["containers"][0]["image"] = json!("j");
    assert_eq!(update(&POD, "", &new, &old), []);
    new["spec"]["nodeName"] = json!("n");
    assert!(
        update(&POD, "", &new, &old)[0]
            .body
            .starts_with("Forbidden: pod updates may not change fields")
    );
    let gvk = Gvk::new("", "v1", "ConfigMap");
    let old =
        json!({"metadata": {"name": "c", "namespace": "n"}, "immutable": true, "data": {"a": "b"}});
    let new =
        json!({"metadata": {"name": "c", "namespace": "n"}, "immutable": true, "data": {"a": "c"}});
    assert_eq!(
        update(&gvk, "", &new, &old)[0].to_string(),
        "data: Forbidden: field is immutable when `immutable` is set"
    );
}

/// Whatever decodes is validated without a panic, and a validated object changed to itself is no worse.
#[test]
fn noise_panics_nowhere() {
    let mut p = Prng::new(17);
    let kinds: Vec<Gvk<'_>> = schema::kinds().map(|(g, _)| g).collect();
    for _ in 0..4000 {
        let gvk = kinds[p.below(kinds.len() as u64) as usize];
        let body = decode::tests::noise(&mut p, schema::find(&gvk), 0);
        let Ok(d) = decode::value(body, &gvk) else { continue };
        let mut o = d.object;
        default::object(&gvk, &mut o);
        let _ = create(&gvk, &o);
        for sub in ["", "status", "scale"] {
            let _ = update(&gvk, sub, &o, &o);
        }
        let _ = crate::table::cells(&gvk, &o, pintle_base::Wall(0));
    }
}
