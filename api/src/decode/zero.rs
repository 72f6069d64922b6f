//! What Go writes for a field that is not set, and what its omitempty leaves out.

use crate::schema::{Def, Field, Omit, Shape};
use serde_json::{Map, Value};

/// The zero value of a field that is always written.
pub(super) fn of(field: Field) -> Value {
    match (field.omit(), field.shape()) {
        (Omit::Null, _) => Value::Null,
        (_, Shape::Str) => Value::from(""),
        (_, Shape::Bool) => Value::from(false),
        (_, Shape::Int32 | Shape::Int64 | Shape::IntOrString | Shape::Double) => Value::from(0),
        (_, Shape::Quantity) => Value::from("0"),
        (_, Shape::Duration) => Value::from("0s"),
        (_, Shape::Def(d)) => of_def(d),
        _ => Value::Null,
    }
}

fn of_def(def: Def) -> Value {
    let mut map = Map::new();
    fill(def, &mut map);
    Value::Object(map)
}

/// Adds the fields that are always written and are not there.
pub(super) fn fill(def: Def, map: &mut Map<String, Value>) {
    for f in def.fields() {
        if matches!(f.omit(), Omit::Never | Omit::Null) && !map.contains_key(f.name()) {
            map.insert(f.name().to_owned(), of(f));
        }
    }
}

/// Whether Go would leave this value of the field out.
pub(super) fn is_omitted(field: Field, value: &Value) -> bool {
    match field.omit() {
        Omit::Empty => is_empty(value),
        Omit::Absent => value.is_null(),
        Omit::Zero => value.is_null() || is_empty(value) || *value == of(field),
        Omit::Never | Omit::Null => false,
    }
}

/// Kubernetes stores protobuf, which does not tell an empty list from none; CRDs are stored as JSON.
pub(super) fn is_lost_in_storage(def: Def, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(a) => a.is_empty() && !def.name().starts_with("io.k8s.apiextensions"),
        _ => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(m) => m.is_empty(),
    }
}
