//! What the recordings of the real server show, in small.

use super::*;

const CM: Gvk<'static> = Gvk::new("", "v1", "ConfigMap");

fn write(manager: &str) -> Write<'_> {
    Write { manager, gvk: CM, subresource: "", time: "2026-11-23T09:00:00Z" }
}

fn cm(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn owners(v: &Value) -> Vec<(String, String)> {
    let list = object::list_at(v, &["metadata", "managedFields"]);
    list.iter()
        .map(|e| (e["manager"].as_str().unwrap_or("").to_owned(), e["fieldsV1"].to_string()))
        .collect()
}

fn is(who: &str, what: &str) -> (String, String) {
    (who.to_owned(), what.to_owned())
}

#[test]
fn a_create_owns_what_it_sets() {
    let mut v = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "labels": {"a": "b"}},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}]}}, "strategy": {}}, "status": {}});
    let gvk = Gvk::new("apps", "v1", "Deployment");
    track(&Value::Null, &mut v, &Write { gvk, ..write("m") });
    let expected = json!({
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {"f:selector": {}, "f:template": {"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}":
                {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}}}}}}});
    assert_eq!(v["metadata"]["managedFields"][0]["fieldsV1"], expected);
}

#[test]
fn fields_go_to_who_changes_them() {
    let mut a = cm(json!({"x": "1", "y": "1"}));
    track(&Value::Null, &mut a, &write("one"));
    let mut b = a.clone();
    b["data"]["x"] = "2".into();
    track(&a, &mut b, &write("two"));
    assert_eq!(
        owners(&b),
        [is("one", r#"{"f:data":{".":{},"f:y":{}}}"#), is("two", r#"{"f:data":{"f:x":{}}}"#)]
    );
    // The same again changes nothing, not even a time.
    let mut c = b.clone();
    track(&b, &mut c, &Write { time: "2026-11-23T10:00:00Z", ..write("three") });
    assert_eq!(b, c);
    // One empty entry forgets all.
    let mut d = b.clone();
    d["metadata"]["managedFields"] = json!([{}]);
    track(&b, &mut d, &write("one"));
    assert!(d["metadata"].get("managedFields").is_none());
}

#[test]
fn apply_merges_conflicts_forces_and_prunes() {
    let made = apply(&Value::Null, &cm(json!({"x": "1", "y": "1"})), false, &write("one")).unwrap();
    assert_eq!(owners(&made), [is("one", r#"{"f:data":{"f:x":{},"f:y":{}}}"#)]);
    let refused = apply(&made, &cm(json!({"x": "2"})), false, &write("two")).unwrap_err();
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"one\": .data.x");
    let forced = apply(&made, &cm(json!({"x": "2"})), true, &write("two")).unwrap();
    assert_eq!(forced["data"], json!({"x": "2", "y": "1"}));
    assert_eq!(
        owners(&forced),
        [is("one", r#"{"f:data":{"f:y":{}}}"#), is("two", r#"{"f:data":{"f:x":{}}}"#)]
    );
    // What one no longer applies goes, what two owns stays.
    let pruned = apply(&forced, &cm(json!({"z": "1"})), false, &write("one")).unwrap();
    assert_eq!(pruned["data"], json!({"x": "2", "z": "1"}));
    let again = apply(
        &pruned,
        &cm(json!({"z": "1"})),
        false,
        &Write { time: "2026-11-23T10:00:00Z", ..write("one") },
    )
    .unwrap();
    assert_eq!(again, pruned);
}

#[test]
fn lists_merge_by_key_in_the_order_of_the_config() {
    let ty = Ty::of_kind(&Gvk::new("", "v1", "Pod"));
    let pod = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
        json!({"spec": {"containers": list}})
    };
    let names = |v: &Value| -> Vec<String> {
        object::list_at(v, &["spec", "containers"])
            .iter()
            .map(|c| c["name"].as_str().unwrap_or("").to_owned())
            .collect()
    };
    for (live, config, merged) in [
        (&["a", "b"][..], &["b"][..], &["a", "b"][..]),
        (&["a", "b"], &["b", "a"], &["b", "a"]),
        (&["a", "x", "b"], &["b", "c"], &["a", "x", "b", "c"]),
        (&["a"], &["c", "a"], &["c", "a"]),
    ] {
        let v = walk::merge(Some(&pod(live)), &pod(config), ty);
        assert_eq!(names(&v), merged, "{live:?} and {config:?}");
    }
}

#[test]
fn unknown_and_doubled_fields_are_refused() {
    let mut v = cm(json!({}));
    v["bogus"] = 1.into();
    let e = apply(&Value::Null, &v, false, &write("m")).unwrap_err();
    assert!(e.message.ends_with(".bogus: field not declared in schema"), "{e}");
    let gvk = Gvk::new("", "v1", "Service");
    let s = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80}, {"port": 80, "name": "b"}]}});
    let e = apply(&Value::Null, &s, false, &Write { gvk, ..write("m") }).unwrap_err();
    assert!(e.message.ends_with("duplicate entries for key [port=80,protocol=\"TCP\"]"), "{e}");
}

#[test]
fn an_empty_list_is_not_the_same_as_none() {
    let mut v = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": []});
    let gvk = Gvk::new("rbac.authorization.k8s.io", "v1", "Role");
    track(&Value::Null, &mut v, &Write { gvk, ..write("m") });
    assert_eq!(owners(&v), [is("m", r#"{"f:rules":{}}"#)], "{}", zero(&gvk));
}

#[test]
fn an_apply_never_takes_the_name_away() {
    let mut config = cm(json!({"x": "1"}));
    config["metadata"]["labels"] = json!({"a": "b"});
    let mut live = apply(&Value::Null, &config, false, &write("one")).unwrap();
    live["metadata"]["uid"] = "u".into();
    let v = apply(&live, &cm(json!({})), false, &write("one")).unwrap();
    assert_eq!((object::name(&v), object::uid(&v)), ("a", "u"));
    assert!(object::labels(&v).is_none() && v.get("data").is_none_or(|d| d == &json!({})), "{v}");
}
