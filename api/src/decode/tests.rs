use super::*;
use pintle_base::Prng;
use serde_json::json;

const CONFIG_MAP: Gvk<'static> = Gvk::new("", "v1", "ConfigMap");
const POD: Gvk<'static> = Gvk::new("", "v1", "Pod");

fn message(body: &str, gvk: &Gvk<'_>) -> String {
    json(body.as_bytes(), gvk).unwrap_err().message
}

#[test]
fn duplicates_and_unknown_fields_in_the_order_of_the_document() {
    let body = r#"{"metadata":{"name":"a","name":"b","bogus":1},"data":{"k":"v","k":"w"},"data":{"z":"1"},"x":{"y":[]}}"#;
    let d = json(body.as_bytes(), &CONFIG_MAP).unwrap();
    assert_eq!(
        d.strict,
        [
            "duplicate field \"metadata.name\"",
            "unknown field \"metadata.bogus\"",
            "duplicate field \"data.k\"",
            "duplicate field \"data\"",
            "unknown field \"x\""
        ]
    );
    assert_eq!(
        d.object,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"k": "w", "z": "1"}})
    );
    assert_eq!(
        strict_error(&CONFIG_MAP, &d.strict[..1]).message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \"metadata.name\""
    );
}

#[test]
fn unknown_fields_in_lists_have_an_index() {
    let body = r#"{"spec":{"containers":[{"name":"a"},{"nome":"b"}]}}"#;
    let d = json(body.as_bytes(), &POD).unwrap();
    assert_eq!(d.strict, ["unknown field \"spec.containers[1].nome\""]);
}

#[test]
fn type_errors_in_gos_words() {
    let pod = "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal ";
    for (body, text) in [
        (
            r#"{"spec":{"serviceAccountName":true}}"#,
            "bool into Go struct field PodSpec.spec.serviceAccountName of type string",
        ),
        (
            r#"{"spec":{"containers":"x"}}"#,
            "string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"containers":["x"]}}"#,
            "string into Go struct field PodSpec.spec.containers of type v1.Container",
        ),
        (
            r#"{"spec":{"containers":[{"name":5}]}}"#,
            "number into Go struct field Container.spec.containers.name of type string",
        ),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"priority":1.5}}"#,
            "number 1.5 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"spec":{"restartPolicy":{}}}"#,
            "object into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
        ),
    ] {
        assert_eq!(message(body, &POD), format!("{pod}{text}"));
    }
    assert!(message(r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"lots"}}}]}}"#, &POD)
        .ends_with("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"));
    let lease = Gvk::new("coordination.k8s.io", "v1", "Lease");
    assert_eq!(
        message(r#"{"spec":{"leaseDurationSeconds":"5"}}"#, &lease),
        "Lease in version \"v1\" cannot be handled as a Lease: json: cannot unmarshal string into Go struct field LeaseSpec.spec.leaseDurationSeconds of type int32"
    );
}

#[test]
fn canonical_objects() {
    let body = json!({
        "metadata": {"name": "p", "creationTimestamp": null, "labels": {}},
        "spec": {
            "hostNetwork": false, "nodeName": "", "priority": 0,
            "containers": [{"name": "c", "stdin": false, "ports": [], "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}}}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
        "status": null,
    });
    let d = json(body.to_string().as_bytes(), &POD).unwrap();
    assert_eq!(
        d.object,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {
                "priority": 0,
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
            "status": {},
        })
    );
    let role = Gvk::new("rbac.authorization.k8s.io", "v1", "ClusterRole");
    assert_eq!(json(b"{}", &role).unwrap().object["rules"], Value::Null);
    assert!(json(b"{}", &role).unwrap().object.get("rules").is_some());
}

#[test]
fn other_kinds_and_no_json() {
    assert!(
        message(r#"{"apiVersion":"v2"}"#, &POD)
            .starts_with("the API version in the data (v2) does not match")
    );
    assert!(
        message(r#"{"kind":"Service"}"#, &POD)
            .starts_with("Service in version \"v1\" cannot be handled as a Pod")
    );
    assert_eq!(
        message("x", &POD),
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character 'x' looking for beginning of value (78)"
    );
    assert!(message("", &POD).ends_with("unexpected end of JSON input (<empty>)"));
    assert!(message("[]", &POD).contains("cannot unmarshal array"));
    assert!(message(r#"{"a":1"#, &POD).ends_with(r#"unexpected end of JSON input ({"a":1)"#));
    let deep = "[".repeat(100_000);
    let revision = Gvk::new("apps", "v1", "ControllerRevision");
    assert!(message(&format!(r#"{{"data":{deep}"#), &revision).contains("exceeded max depth"));
}

#[test]
fn values_and_bytes_go_the_same_way() {
    let v = json!({"data": {"a": "b"}, "bogus": 1, "metadata": {"name": "x"}});
    let a = json(v.to_string().as_bytes(), &CONFIG_MAP).unwrap();
    let b = value(v, &CONFIG_MAP).unwrap();
    assert_eq!((a.object, a.strict), (b.object, b.strict));
}

#[test]
fn decoding_twice_changes_nothing_and_noise_does_no_harm() {
    let mut p = Prng::new(11);
    let kinds: Vec<Gvk<'_>> = schema::kinds().map(|(g, _)| g).collect();
    for _ in 0..3000 {
        let gvk = kinds[p.below(kinds.len() as u64) as usize];
        let noise = noise(&mut p, schema::find(&gvk), 0);
        let Ok(first) = value(noise, &gvk) else { continue };
        let again = value(first.object.clone(), &gvk).unwrap();
        assert_eq!(again.object, first.object);
        assert!(again.strict.is_empty(), "{:?}", again.strict);
    }
}

/// A random document that often fits the definition.
pub(crate) fn noise(p: &mut Prng, def: Option<schema::Def>, depth: u32) -> Value {
    let Some(def) = def.filter(|_| depth < 8) else { return json!(null) };
    let mut map = serde_json::Map::new();
    for f in def.fields().filter(|f| !matches!(f.name(), "kind" | "apiVersion")) {
        if p.chance(1, 2) {
            let v = if p.chance(1, 40) {
                json!([1, {"x": "y"}])
            } else {
                noise_of(p, f.shape(), depth + 1)
            };
            map.insert(f.name().to_owned(), v);
        }
    }
    Value::Object(map)
}

fn noise_of(p: &mut Prng, shape: schema::Shape, depth: u32) -> Value {
    use schema::Shape;
    match shape {
        Shape::Str | Shape::Any => json!(["", "a", "b c"][p.below(3) as usize]),
        Shape::Bool | Shape::SchemaOrBool => json!(p.chance(1, 2)),
        Shape::Int32 | Shape::Int64 | Shape::IntOrString => json!(p.below(3)),
        Shape::Double => json!(0.5),
        Shape::Bytes => json!("YQ=="),
        Shape::Quantity => json!(["1", "0.1", "1024Mi"][p.below(3) as usize]),
        Shape::Time | Shape::MicroTime => json!("2020-01-01T00:00:00.5+02:00"),
        Shape::Duration => json!("90s"),
        Shape::Def(d) => noise(p, Some(d), depth),
        Shape::List(t) => (0..p.below(3)).map(|_| noise_of(p, t.shape(), depth)).collect(),
        Shape::Map(t) => Value::Object(
            (0..p.below(3)).map(|i| (format!("k{i}"), noise_of(p, t.shape(), depth))).collect(),
        ),
        Shape::Raw | Shape::FieldsV1 | Shape::Object => json!({"kind": "X", "n": null}),
        Shape::SchemaOrArray | Shape::SchemaOrStrings => json!([]),
    }
}
