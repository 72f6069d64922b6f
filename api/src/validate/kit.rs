//! Small tools of the validators.

use crate::path::Path;
use crate::quantity::Quantity;
use crate::status::FieldError;
use serde_json::{Map, Value};

/// What the validators collect.
pub(super) type Errors = Vec<FieldError>;

/// Text of a field, empty when absent.
pub(super) fn s<'a>(v: &'a Value, key: &str) -> &'a str {
    v.get(key).and_then(Value::as_str).unwrap_or("")
}

/// Number in a field.
pub(super) fn int(v: &Value, key: &str) -> Option<i64> {
    v.get(key).and_then(Value::as_i64)
}

/// Boolean in a field; absent is false.
pub(super) fn flag(v: &Value, key: &str) -> bool {
    v.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// List in a field, or empty.
pub(super) fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Map in a field, or nothing.
pub(super) fn map<'a>(v: &'a Value, key: &str) -> Option<&'a Map<String, Value>> {
    v.get(key).and_then(Value::as_object)
}

/// The value of a field that is set.
pub(super) fn set<'a>(v: &'a Value, key: &str) -> Option<&'a Value> {
    v.get(key).filter(|v| !v.is_null())
}

/// A field, or null.
pub(super) fn or_null<'a>(v: &'a Value, key: &str) -> &'a Value {
    v.get(key).unwrap_or(&Value::Null)
}

/// Each complaint about a text as an Invalid.
pub(super) fn texts(e: &mut Errors, p: &Path<'_>, value: &str, complaints: Vec<String>) {
    e.extend(complaints.iter().map(|c| FieldError::invalid_str(p, value, c)));
}

/// A text that must be there.
pub(super) fn required(e: &mut Errors, p: &Path<'_>, v: &Value, key: &str) -> bool {
    if s(v, key).is_empty() {
        e.push(FieldError::required(p.field(key), ""));
        return false;
    }
    true
}

/// A text that must be there and good.
pub(super) fn required_text(
    e: &mut Errors,
    p: &Path<'_>,
    v: &Value,
    key: &str,
    rule: fn(&str) -> Vec<String>,
) {
    if required(e, p, v, key) {
        texts(e, &p.field(key), s(v, key), rule(s(v, key)));
    }
}

/// A text that must be good where it is there.
pub(super) fn optional_text(
    e: &mut Errors,
    p: &Path<'_>,
    v: &Value,
    key: &str,
    rule: fn(&str) -> Vec<String>,
) {
    if !s(v, key).is_empty() {
        texts(e, &p.field(key), s(v, key), rule(s(v, key)));
    }
}

/// A text that must be one of these (empty is not one unless it is listed).
pub(super) fn one_of(e: &mut Errors, p: &Path<'_>, v: &Value, key: &str, good: &[&str]) {
    if !good.contains(&s(v, key)) {
        e.push(FieldError::not_supported(p.field(key), s(v, key), good));
    }
}

/// [`one_of`] for fields that may be absent.
pub(super) fn one_of_if_set(e: &mut Errors, p: &Path<'_>, v: &Value, key: &str, good: &[&str]) {
    if set(v, key).is_some() {
        one_of(e, p, v, key, good);
    }
}

/// Numbers that must not be negative.
pub(super) fn non_negative(e: &mut Errors, p: &Path<'_>, v: &Value, keys: &[&str]) {
    for key in keys {
        if int(v, key).is_some_and(|n| n < 0) {
            let detail = "must be greater than or equal to 0";
            e.push(FieldError::invalid(p.field(key), or_null(v, key), detail));
        }
    }
}

/// A number that must lie in a range where it is set.
pub(super) fn in_range(e: &mut Errors, p: &Path<'_>, v: &Value, key: &str, low: i64, high: i64) {
    if let Some(n) = int(v, key) {
        for c in super::text::in_range(n, low, high) {
            e.push(FieldError::invalid(p.field(key), or_null(v, key), &c));
        }
    }
}

/// A field that may not change.
pub(super) fn immutable(e: &mut Errors, p: &Path<'_>, new: &Value, old: &Value, key: &str) {
    if !equal(or_null(new, key), or_null(old, key)) {
        e.push(FieldError::invalid(p.field(key), or_null(new, key), "field is immutable"));
    }
}

/// Semantic equality: absent, null and empty are the same.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    fn none(v: &Value) -> bool {
        match v {
            Value::Null => true,
            Value::Array(a) => a.is_empty(),
            Value::Object(m) => m.values().all(none),
            _ => false,
        }
    }
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| equal(v, y.get(k).unwrap_or(&Value::Null)))
                && y.iter().all(|(k, v)| x.contains_key(k) || none(v))
        }
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(a, b)| equal(a, b))
        }
        _ => a == b || (none(a) && none(b)),
    }
}

/// A quantity in a field.
pub(super) fn quantity(v: &Value, key: &str) -> Option<Quantity> {
    v.get(key).and_then(Value::as_str).and_then(Quantity::parse)
}

/// A port: a number in range or a name.
pub(super) fn port(e: &mut Errors, p: &Path<'_>, v: &Value) {
    match v {
        Value::String(name) => texts(e, p, name, super::text::port_name(name)),
        other => {
            let n = other.as_i64().unwrap_or(0);
            let complaints = super::text::port_number(n);
            e.extend(complaints.iter().map(|c| FieldError::invalid(p, &Value::from(n), c)));
        }
    }
}

/// Labels, or what is ruled like them (`nodeSelector`).
pub(super) fn labels(e: &mut Errors, p: &Path<'_>, v: &Value) {
    for (k, value) in v.as_object().into_iter().flatten() {
        texts(e, p, k, super::text::qualified_name(k));
        let value = value.as_str().unwrap_or("");
        texts(e, p, value, super::text::label_value(value));
    }
}

/// A LabelSelector.
pub(super) fn selector(e: &mut Errors, p: &Path<'_>, v: &Value) {
    labels(e, &p.field("matchLabels"), or_null(v, "matchLabels"));
    let p = p.field("matchExpressions");
    for (i, x) in list(v, "matchExpressions").iter().enumerate() {
        let p = p.index(i);
        let values = list(x, "values");
        match s(x, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                e.push(FieldError::required(p.field("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                e.push(FieldError::forbidden(p.field("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let detail = "not a valid selector operator";
                e.push(FieldError::invalid_str(p.field("operator"), other, detail));
            }
        }
        texts(e, &p.field("key"), s(x, "key"), super::text::qualified_name(s(x, "key")));
        let values_path = p.field("values");
        for (j, value) in values.iter().filter_map(Value::as_str).enumerate() {
            texts(e, &values_path.index(j), value, super::text::label_value(value));
        }
    }
}

/// An object as text with its keys in Go's order; keys not named come last.
pub(super) fn ordered(v: &Value, order: &[&str]) -> String {
    let Value::Object(m) = v else { return v.to_string() };
    let mut entries: Vec<(&String, &Value)> = m.iter().collect();
    entries.sort_by_key(|(k, _)| order.iter().position(|o| o == k).unwrap_or(order.len()));
    let parts: Vec<String> =
        entries.iter().map(|(k, v)| format!("{}:{v}", Value::from(k.as_str()))).collect();
    format!("{{{}}}", parts.join(","))
}

/// A LabelSelector as it is shown in messages.
pub(super) fn shown_selector(v: &Value) -> String {
    if v.is_null() { "null".to_owned() } else { ordered(v, &["matchLabels", "matchExpressions"]) }
}
