//! Strategic merge patch, as apimachinery's `strategicpatch` applies it (merging, not diffing).
//!
//! Merge keys and strategies come from the schema table. Fields that the table does not know merge as maps
//! and replace as lists.

use super::show::go_value;
use crate::Status;
use crate::schema::{Field, Shape};
use serde_json::{Map, Value};

type Object = Map<String, Value>;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// An error that Kubernetes gives without a reason.
fn bare(message: String) -> Status {
    Status::plain(500, "", message)
}

fn no_merge_key(item: &Value, key: &str) -> Status {
    bare(format!("map: {} does not contain declared merge key: {key}", go_value(item)))
}

fn field_of(shape: Shape, name: &str) -> Option<Field> {
    match shape {
        Shape::Def(d) => d.field(name),
        _ => None,
    }
}

/// Shape of what `name` holds within `shape`.
fn shape_of(shape: Shape, name: &str) -> Shape {
    match shape {
        Shape::Def(d) => d.field(name).map_or(Shape::Any, Field::shape),
        Shape::Map(t) => t.shape(),
        _ => Shape::Any,
    }
}

fn element_shape(shape: Shape) -> Shape {
    match shape {
        Shape::List(t) => t.shape(),
        _ => Shape::Any,
    }
}

/// `patch` onto `original`.
pub(super) fn merge_map(
    mut original: Object,
    mut patch: Object,
    shape: Shape,
) -> Result<Object, Status> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => {
                let directive = go_value(directive);
                let shown = go_value(&Value::Object(patch));
                Err(bare(format!("unknown patch type: {directive} in map: {shown}")))
            }
        };
    }
    retain_keys(&mut original, &mut patch)?;
    ordered_lists(&mut original, &mut patch, shape)?;
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix(DELETE_PREFIX) {
            if let (Some(Value::Array(items)), Value::Array(gone)) =
                (original.get_mut(name), &value)
            {
                items.retain(|i| !gone.contains(i));
            }
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(o)), Value::Object(p)) => {
                let replace = field_of(shape, &key).is_some_and(Field::patch_replace);
                let inner = shape_of(shape, &key);
                Value::Object(if replace { p } else { merge_map(o, p, inner)? })
            }
            (Some(Value::Array(o)), Value::Array(p)) => merge_list(o, p, shape, &key)?,
            (_, v) => without_directives(v),
        };
        original.insert(key, merged);
    }
    Ok(original)
}

/// What a patch leaves when there is nothing to merge it with.
fn without_directives(v: Value) -> Value {
    match v {
        Value::Object(m) => {
            if m.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
                return Value::Object(Object::new());
            }
            Value::Object(
                m.into_iter()
                    .filter(|(k, v)| !k.starts_with('$') && !v.is_null())
                    .map(|(k, v)| (k, without_directives(v)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(
            items
                .into_iter()
                .filter(|i| i.get(DIRECTIVE).is_none())
                .map(without_directives)
                .collect(),
        ),
        v => v,
    }
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), Status> {
    let Some(list) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let bad = || Status::bad_request("invalid patch format of retainKeys");
    let Value::Array(list) = list else { return Err(bad()) };
    let retained = |k: &str| list.iter().any(|v| v.as_str() == Some(k));
    let directive = |k: &str| k.starts_with(DELETE_PREFIX) || k.starts_with(ORDER_PREFIX);
    if patch.iter().any(|(k, v)| !v.is_null() && !directive(k) && !retained(k)) {
        return Err(bad());
    }
    original.retain(|k, _| retained(k));
    Ok(())
}

/// Handles each `$setElementOrder/x` with the list `x` of the patch, and takes both out of it.
fn ordered_lists(original: &mut Object, patch: &mut Object, shape: Shape) -> Result<(), Status> {
    let keys: Vec<String> = patch.keys().filter(|k| k.starts_with(ORDER_PREFIX)).cloned().collect();
    for directive in keys {
        let name = directive[ORDER_PREFIX.len()..].to_owned();
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(bare(format!("expected a []interface{{}}, but received a {directive}")));
        };
        let (merge_key, _) = strategy(shape, &name);
        let live = original.get(&name).and_then(Value::as_array).cloned();
        let patched = match patch.remove(&name) {
            Some(Value::Array(p)) => Some(p),
            Some(Value::Null) => {
                original.remove(&name);
                continue;
            }
            _ => None,
        };
        if let Some(p) = &patched {
            check_order(p, &order, merge_key)?;
        }
        let merged = match (&live, patched) {
            (None, None) => continue,
            (Some(live), None) => live.clone(),
            (None, Some(p)) => match without_directives(Value::Array(p)) {
                Value::Array(items) => items,
                _ => continue,
            },
            (Some(live), Some(p)) => match merge_list(live.clone(), p, shape, &name)? {
                Value::Array(items) => items,
                _ => continue,
            },
        };
        let live = live.unwrap_or_default();
        let sorted = arrange(merged, &order, &live, merge_key);
        original.insert(name, Value::Array(sorted));
    }
    Ok(())
}

/// Merge key of a list and whether it merges at all.
fn strategy(shape: Shape, name: &str) -> (&'static str, bool) {
    match field_of(shape, name) {
        Some(f) => (f.merge_key(), f.patch_merge()),
        None => ("", false),
    }
}

/// Items of the patch must come in the order that `order` gives.
fn check_order(patch: &[Value], order: &[Value], merge_key: &str) -> Result<(), Status> {
    let mut kept = patch.iter().filter(|i| i.get(DIRECTIVE).is_none()).peekable();
    for o in order {
        if kept.peek().is_some_and(|k| same(k, o, merge_key)) {
            kept.next();
        }
    }
    if kept.peek().is_none() || order.is_empty() {
        return Ok(());
    }
    let shown = |items: &[Value]| go_value(&Value::Array(items.to_vec()));
    let (patch, order) = (shown(patch), shown(order));
    Err(bare(format!(
        "The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n"
    )))
}

fn same(a: &Value, b: &Value, merge_key: &str) -> bool {
    if merge_key.is_empty() {
        return a == b;
    }
    matches!((a.get(merge_key), b.get(merge_key)), (Some(a), Some(b)) if a == b)
}

fn position(list: &[Value], item: &Value, merge_key: &str) -> Option<usize> {
    list.iter().position(|o| same(o, item, merge_key))
}

/// Items that `order` names in its order, the others in that of `live`, woven as Kubernetes weaves them: an
/// item of `order` goes first unless `live` had the other one before it.
fn arrange(items: Vec<Value>, order: &[Value], live: &[Value], merge_key: &str) -> Vec<Value> {
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|i| position(order, i, merge_key).is_some());
    named.sort_by_key(|i| position(order, i, merge_key));
    others.sort_by_key(|i| position(live, i, merge_key).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(o), Some(n)) => {
                let (o, n) = (position(live, o, merge_key), position(live, n, merge_key));
                matches!((o, n), (Some(o), Some(n)) if o < n)
            }
        };
        out.extend(if other_first { others.next() } else { named.next() });
    }
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    shape: Shape,
    name: &str,
) -> Result<Value, Status> {
    let (merge_key, merges) = strategy(shape, name);
    if !merges {
        return Ok(Value::Array(patch));
    }
    let both = || original.iter().chain(&patch);
    if both().any(Value::is_object) != both().all(Value::is_object) {
        let lists = Value::Array(vec![Value::Array(original.clone()), Value::Array(patch.clone())]);
        return Err(bare(format!("list element types are not identical: {}", go_value(&lists))));
    }
    if !both().any(Value::is_object) {
        let mut merged: Vec<Value> = Vec::new();
        for v in both() {
            if !merged.contains(v) {
                merged.push(v.clone());
            }
        }
        return Ok(Value::Array(arrange(merged, &patch, &original, "")));
    }
    if merge_key.is_empty() {
        return Err(bare(format!("cannot merge lists without merge key for {name}")));
    }
    let inner = element_shape(shape_of(shape, name));
    let (live, patch) = special_items(original, patch, merge_key)?;
    let mut merged = live.clone();
    for item in &patch {
        let Some(value) = item.get(merge_key) else { return Err(no_merge_key(item, merge_key)) };
        if let Some(keyless) = merged.iter().find(|m| m.get(merge_key).is_none()) {
            return Err(no_merge_key(keyless, merge_key));
        }
        match merged.iter().position(|m| m.get(merge_key) == Some(value)) {
            Some(i) => {
                let (Value::Object(o), Value::Object(p)) = (merged[i].take(), item.clone()) else {
                    continue;
                };
                merged[i] = Value::Object(merge_map(o, p, inner)?);
            }
            None => merged.push(without_directives(item.clone())),
        }
    }
    Ok(Value::Array(arrange(merged, &patch, &live, merge_key)))
}

/// Carries out `$patch: delete` and `$patch: replace` items and returns what is left to merge.
fn special_items(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Status> {
    let (mut rest, mut replace) = (Vec::new(), false);
    for item in patch {
        match item.get(DIRECTIVE) {
            None => rest.push(item),
            Some(d) if d == "delete" => match item.get(merge_key) {
                Some(value) => original.retain(|o| o.get(merge_key) != Some(value)),
                None => return Err(no_merge_key(&item, merge_key)),
            },
            Some(d) if d == "replace" => replace = true,
            Some(d) if d == "merge" => {
                return Err(bare("merging lists cannot yet be specified in the patch".to_owned()));
            }
            Some(d) => {
                let message =
                    format!("unknown patch type: {} in map: {}", go_value(d), go_value(&item));
                return Err(bare(message));
            }
        }
    }
    Ok(if replace { (rest, Vec::new()) } else { (original, rest) })
}
