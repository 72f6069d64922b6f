use super::*;
use pintle_base::Prng;
use serde_json::json;

const POD: Gvk<'static> = Gvk::new("", "v1", "Pod");

fn check(doc: Value, patch: Value, result: Value) {
    assert_eq!(strategic(&doc, &patch, &POD).unwrap(), result, "{patch}");
}

fn containers(c: Value) -> Value {
    json!({"spec": {"containers": c}})
}

#[test]
fn merges_lists_by_key() {
    let live = containers(json!([{"name": "c", "image": "i"}, {"name": "d", "args": ["x"]}]));
    check(
        live.clone(),
        containers(json!([{"name": "c", "image": "new"}])),
        containers(json!([{"name": "c", "image": "new"}, {"name": "d", "args": ["x"]}])),
    );
    check(
        live.clone(),
        containers(json!([{"name": "e"}])),
        containers(
            json!([{"name": "e"}, {"name": "c", "image": "i"}, {"name": "d", "args": ["x"]}]),
        ),
    );
    check(
        live.clone(),
        containers(json!([{"$patch": "replace"}, {"name": "z"}])),
        containers(json!([{"name": "z"}])),
    );
    check(
        live.clone(),
        containers(json!([{"name": "d", "$patch": "delete"}])),
        containers(json!([{"name": "c", "image": "i"}])),
    );
    check(
        live,
        json!({"spec": {"$setElementOrder/containers": [{"name": "d"}, {"name": "c"}]}}),
        containers(json!([{"name": "d", "args": ["x"]}, {"name": "c", "image": "i"}])),
    );
}

#[test]
fn directives() {
    check(
        json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["x", "y"]}}),
        json!({"metadata": {"labels": {"$patch": "replace", "q": "r"}, "$deleteFromPrimitiveList/finalizers": ["x"]}}),
        json!({"metadata": {"labels": {"q": "r"}, "finalizers": ["y"]}}),
    );
    check(
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}),
        json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
    );
    check(
        json!({"metadata": {"finalizers": ["a", "b"]}}),
        json!({"metadata": {"finalizers": ["c"], "$setElementOrder/finalizers": ["c", "a", "b"]}}),
        json!({"metadata": {"finalizers": ["c", "a", "b"]}}),
    );
    check(json!({"spec": {"a": 1}}), json!({"spec": {"a": null}}), json!({"spec": {}}));
}

#[test]
fn errors() {
    let live = containers(json!([{"name": "c"}]));
    let e = |patch: Value| strategic(&live, &patch, &POD).unwrap_err();
    let s = e(containers(json!([{"image": "noname"}])));
    assert_eq!(
        (s.code, s.message.as_str()),
        (500, "map: map[image:noname] does not contain declared merge key: name")
    );
    assert_eq!(
        e(containers(json!(["x"]))).message,
        "list element types are not identical: [[map[name:c]] [x]]"
    );
    assert_eq!(
        e(json!({"spec": {"$patch": "odd", "a": 1}})).message,
        "unknown patch type: odd in map: map[$patch:odd a:1]"
    );
    assert_eq!(
        e(json!([])).message,
        "json: cannot unmarshal array into Go value of type map[string]interface {}"
    );
    assert!(e(json!({"spec": {"$setElementOrder/containers": [{"name": "c"}], "containers": [{"name": "x"}]}}))
        .message
        .starts_with("The order in patch list:\n[map[name:x]]\n doesn't match"));
    assert_eq!(
        e(json!({"spec": {"$retainKeys": ["a"], "b": 1}})).message,
        "invalid patch format of retainKeys"
    );
}

#[test]
fn what_does_not_decode() {
    let why = |patched: Value, is_strategic| {
        let failure = crate::decode::value(patched.clone(), &POD).unwrap_err();
        why_undecodable(&patched, &POD, is_strategic, &failure)
    };
    let odd = containers(json!({"name": "x"}));
    assert_eq!(why(odd.clone(), true), "cannot restore slice from map");
    assert!(why(odd, false).starts_with("json: cannot unmarshal object into Go struct field"));
    assert_eq!(why(json!({"spec": {"priority": "x"}}), true), "unrecognized type: int32");
}

#[test]
fn json_patches() {
    let doc = json!({"a": [1, 2], "b": {"c/d": 1}});
    for (ops, result) in [
        (
            json!([{"op": "add", "path": "/a/-", "value": 3}]),
            Some(json!({"a": [1, 2, 3], "b": {"c/d": 1}})),
        ),
        (
            json!([{"op": "add", "path": "/a/0", "value": 0}]),
            Some(json!({"a": [0, 1, 2], "b": {"c/d": 1}})),
        ),
        (
            json!([{"op": "replace", "path": "/a/-1", "value": 9}]),
            Some(json!({"a": [1, 9], "b": {"c/d": 1}})),
        ),
        (json!([{"op": "remove", "path": "/b/c~1d"}]), Some(json!({"a": [1, 2], "b": {}}))),
        (
            json!([{"op": "test", "path": "/a/0", "value": 1.0}, {"op": "remove", "path": "/b"}]),
            Some(json!({"a": [1, 2]})),
        ),
        (
            json!([{"op": "move", "from": "/a/0", "path": "/x"}]),
            Some(json!({"a": [2], "b": {"c/d": 1}, "x": 1})),
        ),
        (
            json!([{"op": "copy", "from": "/a", "path": "/b/e"}]),
            Some(json!({"a": [1, 2], "b": {"c/d": 1, "e": [1, 2]}})),
        ),
        (json!([{"op": "remove", "path": "/a/7"}]), None),
        (json!([{"op": "test", "path": "/a/0", "value": 2}]), None),
        (json!([{"op": "add", "path": "a", "value": 2}]), None),
        (json!([{"op": "move", "from": "/b", "path": "/b/c"}]), None),
        (json!([{"op": "replace", "path": "/nope", "value": 2}]), None),
    ] {
        assert_eq!(json(&doc, &ops).ok(), result, "{ops}");
    }
    let many = Value::Array(vec![Value::Null; 10_001]);
    assert_eq!(json(&doc, &many).unwrap_err().code, 413);
}

#[test]
fn merge_patches() {
    let mut doc = json!({"a": {"b": 1, "c": 2}, "l": [1]});
    merge(&mut doc, &json!({"a": {"b": null, "d": {"e": null, "f": 1}}, "l": [2, 3]}));
    assert_eq!(doc, json!({"a": {"c": 2, "d": {"f": 1}}, "l": [2, 3]}));
}

fn noise(p: &mut Prng, depth: u32) -> Value {
    const KEYS: [&str; 12] = [
        "spec",
        "containers",
        "name",
        "$patch",
        "env",
        "metadata",
        "finalizers",
        "$setElementOrder/containers",
        "$retainKeys",
        "$deleteFromPrimitiveList/finalizers",
        "volumes",
        "labels",
    ];
    match p.below(if depth > 5 { 3 } else { 7 }) {
        0 => Value::Null,
        1 => json!(["a", "b", "delete", "replace"][p.below(4) as usize]),
        2 => json!(p.below(3)),
        3 => (0..p.below(3)).map(|_| noise(p, depth + 1)).collect(),
        _ => Value::Object(
            (0..p.below(4))
                .map(|_| (KEYS[p.below(12) as usize].to_owned(), noise(p, depth + 1)))
                .collect(),
        ),
    }
}

#[test]
fn noise_panics_nowhere_and_an_empty_patch_changes_nothing() {
    let mut p = Prng::new(21);
    for _ in 0..20_000 {
        let (doc, patch) = (noise(&mut p, 0), noise(&mut p, 0));
        let _ = strategic(&doc, &patch, &POD);
        let _ = json(&doc, &patch);
        let mut merged = doc.clone();
        merge(&mut merged, &patch);
        let mut again = merged.clone();
        merge(&mut again, &patch);
        assert_eq!(again, merged);
        if doc.is_object() {
            assert_eq!(strategic(&doc, &json!({}), &POD), Ok(doc));
        }
    }
}
