//! Definitions of the table as OpenAPI schemas.

use super::reference;
use crate::schema::{Def, Field, ListKind, Shape, Type};
use serde_json::{Map, Value, json};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

/// The schema of a definition; definitions that it refers to are added to `open`.
pub(super) fn of(def: Def, open: &mut Vec<Def>) -> Value {
    let mut out = Map::new();
    out.insert("type".to_owned(), "object".into());
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for f in def.fields() {
        properties.insert(f.name().to_owned(), property(f, open));
        if f.required() {
            required.push(f.name());
        }
    }
    if !properties.is_empty() {
        out.insert("properties".to_owned(), Value::Object(properties));
    }
    if !required.is_empty() {
        out.insert("required".to_owned(), required.into());
    }
    let kinds: Vec<Value> = def
        .gvks()
        .map(|g| json!({"group": g.group, "version": g.version, "kind": g.kind}))
        .collect();
    if !kinds.is_empty() {
        out.insert("x-kubernetes-group-version-kind".to_owned(), kinds.into());
    }
    if def.is_atomic() {
        out.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    Value::Object(out)
}

fn property(f: Field, open: &mut Vec<Def>) -> Value {
    let mut v = ty(f.ty(), open);
    let Some(out) = v.as_object_mut() else { return v };
    let kind = match f.list_kind() {
        ListKind::Atomic => "atomic",
        ListKind::Set => "set",
        ListKind::Map => "map",
        ListKind::Unsaid => "",
    };
    if !kind.is_empty() {
        out.insert("x-kubernetes-list-type".to_owned(), kind.into());
    }
    let keys: Vec<&str> = f.list_keys().collect();
    if !keys.is_empty() {
        out.insert("x-kubernetes-list-map-keys".to_owned(), keys.into());
    }
    let strategy = [
        (f.patch_merge(), "merge"),
        (f.patch_retain_keys(), "retainKeys"),
        (f.patch_replace(), "replace"),
    ];
    let strategy: Vec<&str> = strategy.iter().filter(|(on, _)| *on).map(|(_, s)| *s).collect();
    if !strategy.is_empty() {
        out.insert("x-kubernetes-patch-strategy".to_owned(), strategy.join(",").into());
    }
    if !f.merge_key().is_empty() {
        out.insert("x-kubernetes-patch-merge-key".to_owned(), f.merge_key().into());
    }
    if f.is_atomic_map() {
        out.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    let values: Vec<&str> = f.enumeration().collect();
    if !values.is_empty() {
        out.insert("enum".to_owned(), values.into());
    }
    v
}

fn ty(t: Type, open: &mut Vec<Def>) -> Value {
    match t.shape() {
        Shape::Str => json!({"type": "string"}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Int32 => json!({"type": "integer", "format": "int32"}),
        Shape::Int64 => json!({"type": "integer", "format": "int64"}),
        Shape::Double => json!({"type": "number", "format": "double"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Duration => json!({"type": "string"}),
        Shape::Object => json!({"type": "object"}),
        Shape::Quantity => reference(QUANTITY),
        Shape::Time => reference(&format!("{META}.Time")),
        Shape::MicroTime => reference(&format!("{META}.MicroTime")),
        Shape::FieldsV1 => reference(&format!("{META}.FieldsV1")),
        Shape::IntOrString => reference(INT_OR_STRING),
        Shape::Raw => reference(RAW),
        Shape::Any | Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings => {
            json!({})
        }
        Shape::Def(d) => {
            open.push(d);
            reference(d.name())
        }
        Shape::List(t) => json!({"type": "array", "items": ty(t, open)}),
        Shape::Map(t) => json!({"type": "object", "additionalProperties": ty(t, open)}),
    }
}

/// The types with a text form of their own, which have no fields.
pub(super) fn add_simple(all: &mut Map<String, Value>) {
    let date = json!({"type": "string", "format": "date-time"});
    let either = json!({"oneOf": [{"type": "string"}, {"type": "number"}]});
    let int_or_string =
        json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]});
    for (name, schema) in [
        (QUANTITY.to_owned(), either),
        (INT_OR_STRING.to_owned(), int_or_string),
        (RAW.to_owned(), json!({"type": "object"})),
        (format!("{META}.Time"), date.clone()),
        (format!("{META}.MicroTime"), date),
        (format!("{META}.FieldsV1"), json!({"type": "object"})),
        (format!("{META}.Patch"), json!({"type": "object"})),
    ] {
        all.insert(name, schema);
    }
}
