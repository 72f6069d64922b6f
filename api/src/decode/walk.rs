//! One pass over a document with the table in hand: types are checked, unknown fields pruned, values made
//! canonical. It is driven by serde, so that bytes and values take the same way.

use super::{scalar, zero};
use crate::limits;
use crate::schema::{Def, Field, Omit, Shape, Type};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::collections::HashSet;
use std::fmt::{self, Write as _};

/// What the pass collects.
#[derive(Default)]
pub(super) struct Context {
    /// Unknown and duplicate fields.
    pub strict: Vec<String>,
    /// The first type error; Go goes on after it and reports only this.
    pub error: Option<String>,
    steps: Vec<Step>,
    /// Inside a value whose Go type decodes itself: strictness does not reach there.
    lax: u32,
}

enum Step {
    Field(&'static str),
    Index(usize),
    Key(String),
}

impl Context {
    fn strict(&mut self, what: &str, key: &str) {
        if self.lax > 0 || self.strict.len() >= limits::STRICT_ERRORS_MAX {
            return;
        }
        let mut path = String::new();
        for s in &self.steps {
            let dot = if path.is_empty() { "" } else { "." };
            // Writing to a String cannot fail.
            let _ = match s {
                Step::Field(f) => write!(path, "{dot}{f}"),
                Step::Key(k) => write!(path, "{dot}{k}"),
                Step::Index(i) => write!(path, "[{i}]"),
            };
        }
        let dot = if path.is_empty() { "" } else { "." };
        let text = format!("{what} field \"{path}{dot}{key}\"");
        if !self.strict.contains(&text) {
            self.strict.push(text);
        }
    }

    fn error(&mut self, text: String) {
        self.error.get_or_insert(text);
    }
}

/// Where a value stands, for what Go calls it.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// The whole document.
    Root(Def),
    /// In a field of a struct, that many lists or maps deep.
    In(Def, Field, u8),
}

impl Place {
    fn deeper(self) -> Place {
        match self {
            Place::In(d, f, n) => Place::In(d, f, n.saturating_add(1)),
            root => root,
        }
    }

    fn go_type(self) -> String {
        match self {
            Place::Root(d) => {
                let package = d.name().rsplit('.').nth(1).unwrap_or("");
                format!("{package}.{}", d.short_name())
            }
            Place::In(_, field, depth) => {
                let whole = field.go_type();
                let mut t = whole.as_str();
                for _ in 0..depth {
                    t = match t.strip_prefix("[]") {
                        Some(inner) => inner,
                        None => match (t.strip_prefix("map["), t.split_once(']')) {
                            (Some(_), Some((_, inner))) => inner,
                            // A named list or map: only the table knows what is in it.
                            _ => return element_type(field.ty(), depth).go_type(),
                        },
                    };
                }
                t.to_owned()
            }
        }
    }
}

fn element_type(ty: Type, depth: u8) -> Type {
    (0..depth).fold(ty, |t, _| match t.shape() {
        Shape::List(inner) | Shape::Map(inner) => inner,
        _ => t,
    })
}

/// A value of a known shape.
pub(super) struct Node<'c> {
    pub context: &'c mut Context,
    pub shape: Shape,
    pub place: Place,
}

impl Node<'_> {
    /// Notes that Go could not put a `what` here; the value reads as absent.
    fn mismatch(&mut self, what: &str) -> Value {
        let text = match self.shape {
            Shape::Time | Shape::MicroTime | Shape::Duration => {
                format!("json: cannot unmarshal {what} into Go value of type string")
            }
            Shape::IntOrString => {
                format!("json: cannot unmarshal {what} into Go value of type int32")
            }
            Shape::Quantity => crate::quantity::Error::Format.to_string(),
            _ => self.struct_mismatch(what),
        };
        self.context.error(text);
        Value::Null
    }

    fn struct_mismatch(&self, what: &str) -> String {
        let ty = self.place.go_type();
        match self.place {
            Place::Root(_) => format!("json: cannot unmarshal {what} into Go value of type {ty}"),
            Place::In(owner, _, _) => {
                let fields: Vec<&str> = self
                    .context
                    .steps
                    .iter()
                    .filter_map(|s| if let Step::Field(f) = s { Some(*f) } else { None })
                    .collect();
                let owner = owner.short_name();
                let fields = fields.join(".");
                format!(
                    "json: cannot unmarshal {what} into Go struct field {owner}.{fields} of type {ty}"
                )
            }
        }
    }

    fn number(&mut self, n: Number) -> Value {
        let fits = match self.shape {
            Shape::Int32 | Shape::IntOrString => {
                n.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
            }
            Shape::Int64 => n.as_i64().is_some(),
            Shape::Double | Shape::Any | Shape::Raw | Shape::Object | Shape::FieldsV1 => true,
            Shape::Quantity => {
                let text = n.to_string();
                return match scalar::from_text(Shape::Quantity, &text) {
                    Ok(v) => v,
                    Err(e) => {
                        self.context.error(e);
                        Value::Null
                    }
                };
            }
            _ => return self.mismatch("number"),
        };
        if fits {
            return Value::Number(n);
        }
        self.mismatch(&format!("number {n}"))
    }

    fn text(&mut self, s: &str) -> Value {
        match self.shape {
            Shape::Str | Shape::Any | Shape::Raw | Shape::Object | Shape::FieldsV1 => {
                Value::from(s)
            }
            Shape::IntOrString => Value::from(s),
            Shape::Quantity | Shape::Time | Shape::MicroTime | Shape::Duration | Shape::Bytes => {
                match scalar::from_text(self.shape, s) {
                    Ok(v) => v,
                    Err(e) => {
                        self.context.error(e);
                        Value::Null
                    }
                }
            }
            _ => self.mismatch("string"),
        }
    }

    fn list<'de, A: SeqAccess<'de>>(&mut self, mut seq: A) -> Result<Value, A::Error> {
        let element = match self.shape {
            Shape::List(t) => t.shape(),
            Shape::Any | Shape::Raw | Shape::Object | Shape::FieldsV1 => Shape::Any,
            Shape::SchemaOrArray => crd_schema(),
            Shape::SchemaOrStrings => Shape::Str,
            _ => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(self.mismatch("array"));
            }
        };
        let lax = u32::from(self.shape == Shape::SchemaOrArray);
        let place = self.place.deeper();
        let mut items = Vec::new();
        self.context.lax += lax;
        loop {
            self.context.steps.push(Step::Index(items.len()));
            let seed = Node { context: &mut *self.context, shape: element, place };
            let item = seq.next_element_seed(seed)?;
            self.context.steps.pop();
            let Some(item) = item else { break };
            items.push(set_or_zero(element, item));
        }
        self.context.lax -= lax;
        Ok(Value::Array(items))
    }

    fn map<'de, A: MapAccess<'de>>(&mut self, mut map: A) -> Result<Value, A::Error> {
        match self.shape {
            Shape::Def(d) => self.object(d, map),
            Shape::Map(t) => self.entries(t.shape(), true, map),
            Shape::Any | Shape::Raw | Shape::Object | Shape::FieldsV1 => {
                self.entries(Shape::Any, false, map)
            }
            Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings => {
                let Shape::Def(d) = crd_schema() else {
                    return self.entries(Shape::Any, false, map);
                };
                self.context.lax += 1;
                let value = self.object(d, map);
                self.context.lax -= 1;
                value
            }
            _ => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(self.mismatch("object"))
            }
        }
    }

    /// A map from strings. Inside untyped values (`typed` is false) nothing is checked.
    fn entries<'de, A: MapAccess<'de>>(
        &mut self,
        element: Shape,
        typed: bool,
        mut map: A,
    ) -> Result<Value, A::Error> {
        let place = self.place.deeper();
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if typed && out.contains_key(&key) {
                self.context.strict("duplicate", &key);
            }
            self.context.steps.push(Step::Key(key));
            let seed = Node { context: &mut *self.context, shape: element, place };
            let value = map.next_value_seed(seed)?;
            if let Some(Step::Key(key)) = self.context.steps.pop() {
                out.insert(key, set_or_zero(element, value));
            }
        }
        Ok(Value::Object(out))
    }

    fn object<'de, A: MapAccess<'de>>(&mut self, def: Def, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        let mut seen: HashSet<&'static str> = HashSet::new();
        while let Some(key) = map.next_key_seed(KeySeed(def))? {
            let field = match key {
                Key::Known(field) => field,
                Key::Unknown(name) => {
                    self.context.strict("unknown", &name);
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let name = field.name();
            let again = !seen.insert(name);
            if again {
                self.context.strict("duplicate", name);
            }
            self.context.steps.push(Step::Field(name));
            let place = Place::In(def, field, 0);
            let seed = Node { context: &mut *self.context, shape: field.shape(), place };
            let mut value = map.next_value_seed(seed)?;
            self.context.steps.pop();
            if again && let Some(before) = out.remove(name) {
                value = decoded_onto(before, value);
            }
            if field.omit() == Omit::Never && zero::is_lost_in_storage(def, &value) {
                continue; // filled below
            }
            if !zero::is_omitted(field, &value) {
                out.insert(name.to_owned(), value);
            }
        }
        zero::fill(def, &mut out);
        Ok(Value::Object(out))
    }
}

/// Go decodes a key's second value onto the first: maps and structs merge, the rest is replaced.
fn decoded_onto(before: Value, value: Value) -> Value {
    match (before, value) {
        (Value::Object(mut before), Value::Object(now)) => {
            before.extend(now);
            Value::Object(before)
        }
        (before, Value::Null) => before,
        (_, now) => now,
    }
}

/// An element that is null (or was refused) is its zero value in Go's lists and maps.
fn set_or_zero(element: Shape, value: Value) -> Value {
    if !value.is_null() {
        return value;
    }
    match element {
        Shape::Str | Shape::Bytes => Value::from(""),
        Shape::Bool => Value::from(false),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => Value::from(0),
        Shape::Quantity => Value::from("0"),
        Shape::Def(def) => {
            let mut map = Map::new();
            zero::fill(def, &mut map);
            Value::Object(map)
        }
        _ => Value::Null,
    }
}

fn crd_schema() -> Shape {
    const NAME: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    crate::schema::named(NAME).map_or(Shape::Any, Shape::Def)
}

enum Key {
    Known(Field),
    Unknown(String),
}

/// Reads a key and looks it up without allocating.
struct KeySeed(Def);

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Key, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E: Error>(self, s: &str) -> Result<Key, E> {
        Ok(self.0.field(s).map_or_else(|| Key::Unknown(s.to_owned()), Key::Known))
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(mut self, b: bool) -> Result<Value, E> {
        Ok(match self.shape {
            Shape::Bool
            | Shape::SchemaOrBool
            | Shape::Any
            | Shape::Raw
            | Shape::Object
            | Shape::FieldsV1 => Value::Bool(b),
            _ => self.mismatch("bool"),
        })
    }

    fn visit_i64<E: Error>(mut self, n: i64) -> Result<Value, E> {
        Ok(self.number(n.into()))
    }

    fn visit_u64<E: Error>(mut self, n: u64) -> Result<Value, E> {
        Ok(self.number(n.into()))
    }

    fn visit_f64<E: Error>(mut self, n: f64) -> Result<Value, E> {
        Ok(Number::from_f64(n).map_or(Value::Null, |n| self.number(n)))
    }

    fn visit_str<E: Error>(mut self, s: &str) -> Result<Value, E> {
        Ok(self.text(s))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, seq: A) -> Result<Value, A::Error> {
        self.list(seq)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<Value, A::Error> {
        self.map(map)
    }
}
