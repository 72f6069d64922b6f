//! Reading and editing objects held as `serde_json::Value`. Absent parts read as empty; nothing panics.

use serde_json::{Map, Value};

/// `v.a.b.c` by `at(v, &["a","b","c"])`; `None` when a step is missing.
pub fn at<'a>(v: &'a Value, steps: &[&str]) -> Option<&'a Value> {
    steps.iter().try_fold(v, |v, k| v.get(k))
}

/// The text at `steps`, or empty.
pub fn str_at<'a>(v: &'a Value, steps: &[&str]) -> &'a str {
    at(v, steps).and_then(Value::as_str).unwrap_or("")
}

/// The number at `steps`.
pub fn int_at(v: &Value, steps: &[&str]) -> Option<i64> {
    at(v, steps).and_then(Value::as_i64)
}

/// The boolean at `steps`; absent is false.
pub fn bool_at(v: &Value, steps: &[&str]) -> bool {
    at(v, steps).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at `steps`, or empty.
pub fn list_at<'a>(v: &'a Value, steps: &[&str]) -> &'a [Value] {
    at(v, steps).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The map at `steps`.
pub fn map_at<'a>(v: &'a Value, steps: &[&str]) -> Option<&'a Map<String, Value>> {
    at(v, steps).and_then(Value::as_object)
}

/// The map at `steps`, made (and what is not a map on the way replaced) where it is missing.
pub fn map_mut<'a>(v: &'a mut Value, steps: &[&str]) -> &'a mut Map<String, Value> {
    let mut v = v;
    for k in steps {
        v = as_map(v).entry((*k).to_owned()).or_insert(Value::Null);
    }
    as_map(v)
}

/// `v` as a map; what is not one becomes an empty one.
pub fn as_map(v: &mut Value) -> &mut Map<String, Value> {
    if !v.is_object() {
        *v = Value::Object(Map::new());
    }
    match v {
        Value::Object(m) => m,
        _ => unreachable!("made an object above"),
    }
}

/// Sets `v.a.b.c`, making maps on the way.
pub fn set(v: &mut Value, steps: &[&str], value: impl Into<Value>) {
    if let Some((last, front)) = steps.split_last() {
        map_mut(v, front).insert((*last).to_owned(), value.into());
    }
}

/// Removes `v.a.b.c` and returns it.
pub fn remove(v: &mut Value, steps: &[&str]) -> Option<Value> {
    let (last, front) = steps.split_last()?;
    let parent = front.iter().try_fold(v, |v, k| v.get_mut(k))?;
    parent.as_object_mut()?.remove(*last)
}

/// `metadata.name`.
pub fn name(v: &Value) -> &str {
    str_at(v, &["metadata", "name"])
}

/// `metadata.namespace`, empty for cluster-scoped objects.
pub fn namespace(v: &Value) -> &str {
    str_at(v, &["metadata", "namespace"])
}

/// `metadata.uid`.
pub fn uid(v: &Value) -> &str {
    str_at(v, &["metadata", "uid"])
}

/// `metadata.resourceVersion` as text.
pub fn resource_version(v: &Value) -> &str {
    str_at(v, &["metadata", "resourceVersion"])
}

/// `metadata.generation`, 0 when absent.
pub fn generation(v: &Value) -> i64 {
    int_at(v, &["metadata", "generation"]).unwrap_or(0)
}

/// `metadata.labels`.
pub fn labels(v: &Value) -> Option<&Map<String, Value>> {
    map_at(v, &["metadata", "labels"])
}

/// One annotation.
pub fn annotation<'a>(v: &'a Value, key: &str) -> Option<&'a str> {
    at(v, &["metadata", "annotations"])?.get(key)?.as_str()
}

/// True once deletion has begun.
pub fn is_deleting(v: &Value) -> bool {
    at(v, &["metadata", "deletionTimestamp"]).is_some_and(|t| !t.is_null())
}

/// `metadata.finalizers`.
pub fn finalizers(v: &Value) -> impl Iterator<Item = &str> {
    list_at(v, &["metadata", "finalizers"]).iter().filter_map(Value::as_str)
}

/// `metadata.ownerReferences`.
pub fn owners(v: &Value) -> &[Value] {
    list_at(v, &["metadata", "ownerReferences"])
}

/// The owner reference with `controller: true`.
pub fn controller_of(v: &Value) -> Option<&Value> {
    owners(v).iter().find(|o| bool_at(o, &["controller"]))
}

/// The condition of this type in `status.conditions`.
pub fn condition<'a>(v: &'a Value, kind: &str) -> Option<&'a Value> {
    list_at(v, &["status", "conditions"]).iter().find(|c| str_at(c, &["type"]) == kind)
}

/// True when the condition of this type has status `True`.
pub fn condition_true(v: &Value, kind: &str) -> bool {
    condition(v, kind).is_some_and(|c| str_at(c, &["status"]) == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_and_edits() {
        let mut v = json!({"metadata": {"name": "a", "finalizers": ["f"], "ownerReferences": [{"uid": "u", "controller": true}]}});
        assert_eq!(name(&v), "a");
        assert_eq!(finalizers(&v).collect::<Vec<_>>(), ["f"]);
        assert_eq!(controller_of(&v).unwrap()["uid"], "u");
        set(&mut v, &["spec", "replicas"], 3);
        assert_eq!(int_at(&v, &["spec", "replicas"]), Some(3));
        assert_eq!(remove(&mut v, &["spec", "replicas"]), Some(json!(3)));
        assert_eq!(remove(&mut v, &["nope", "x"]), None);
        set(&mut v, &["metadata", "name", "deep"], 1);
        assert_eq!(v["metadata"]["name"], json!({"deep": 1}));
    }
}
