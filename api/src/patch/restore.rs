//! Why a strategically patched object does not fit its kind, in the words of apimachinery's converter.

use crate::schema::Shape;
use serde_json::Value;

/// What Go calls the kind of a value out of JSON.
fn go_kind(v: &Value) -> &'static str {
    match v {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

/// The first value of `v` that is of another type than `shape` says. Depth is bounded by the parser that
/// made `v`.
pub(super) fn complaint(v: &Value, shape: Shape) -> Option<String> {
    if v.is_null() {
        return None;
    }
    let scalar = |name: &str, good: bool| (!good).then(|| format!("unrecognized type: {name}"));
    match (shape, v) {
        (Shape::Def(d), Value::Object(m)) => {
            m.iter().find_map(|(k, x)| complaint(x, d.field(k)?.shape()))
        }
        (Shape::Def(_), other) => Some(format!("cannot restore struct from: {}", go_kind(other))),
        (Shape::List(t), Value::Array(a)) => a.iter().find_map(|x| complaint(x, t.shape())),
        (Shape::List(_), other) => Some(format!("cannot restore slice from {}", go_kind(other))),
        (Shape::Map(t), Value::Object(m)) => m.values().find_map(|x| complaint(x, t.shape())),
        (Shape::Map(_), other) => Some(format!("cannot restore map from {}", go_kind(other))),
        (Shape::Str, v) => scalar("string", v.is_string()),
        (Shape::Bool, v) => scalar("bool", v.is_boolean()),
        (Shape::Int32, v) => scalar("int32", v.is_number()),
        (Shape::Int64, v) => scalar("int64", v.is_number()),
        _ => None,
    }
}
