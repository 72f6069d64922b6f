//! Messages of the schema table to JSON.

use super::wire::{Reader, Value as Wire};
use crate::schema::{Def, Field, Shape};
use crate::{duration, limits};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pintle_base::Wall;
use serde_json::{Map, Value};

type Object = Map<String, Value>;
type Done<T> = Result<T, String>;

/// The message of `def` as a JSON object.
pub(super) fn decode(bytes: &[u8], def: Def) -> Done<Object> {
    let mut out = Object::new();
    fields(bytes, def, &mut out, 0)?;
    Ok(out)
}

fn fields(bytes: &[u8], def: Def, out: &mut Object, depth: usize) -> Done<()> {
    if depth > limits::DEPTH_MAX {
        return Err("message is nested too deeply".to_owned());
    }
    let cut = || format!("message {} is cut off or no protobuf", def.short_name());
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.field().ok_or_else(cut)? {
        if let Some((inner, _)) = def.embeds().find(|(_, n)| u32::from(*n) == number) {
            let Wire::Bytes(b) = value else { return Err(cut()) };
            fields(b, inner, out, depth + 1)?;
            continue;
        }
        let field = def.fields().find(|f| u32::from(f.number()) == number);
        let Some(field) = field else { continue };
        read(field, value, out, depth)
            .map_err(|e| format!("{}.{}: {e}", def.short_name(), field.name()))?;
    }
    Ok(())
}

fn read(field: Field, value: Wire<'_>, out: &mut Object, depth: usize) -> Done<()> {
    match field.shape() {
        Shape::List(t) => {
            let slot = out.entry(field.name()).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = slot else { return Err("not a list".to_owned()) };
            let packs = matches!(t.shape(), Shape::Bool | Shape::Int32 | Shape::Int64);
            if let (true, Wire::Bytes(b)) = (packs, value) {
                let mut packed = Reader::new(b);
                while !packed.is_empty() {
                    let n = packed.varint().ok_or("packed list is cut off")?;
                    items.push(one(t.shape(), Wire::Varint(n), depth)?);
                }
            } else {
                items.push(one(t.shape(), value, depth)?);
            }
        }
        Shape::Map(t) => {
            let Wire::Bytes(entry) = value else { return Err("not a map".to_owned()) };
            let (mut key, mut item) = (String::new(), Value::Null);
            let mut reader = Reader::new(entry);
            while let Some((number, value)) = reader.field().ok_or("map entry is cut off")? {
                match number {
                    1 => key = text(value)?,
                    2 => item = one(t.shape(), value, depth)?,
                    _ => {}
                }
            }
            if item.is_null() {
                item = one(t.shape(), Wire::Bytes(b""), depth).unwrap_or(Value::Null);
            }
            let slot = out.entry(field.name()).or_insert_with(|| Value::Object(Object::new()));
            if let Value::Object(map) = slot {
                map.insert(key, item);
            }
        }
        shape => {
            out.insert(field.name().to_owned(), one(shape, value, depth)?);
        }
    }
    Ok(())
}

fn text(value: Wire<'_>) -> Done<String> {
    match value {
        Wire::Bytes(b) => Ok(String::from_utf8_lossy(b).into_owned()),
        _ => Err("not a text".to_owned()),
    }
}

fn bytes(value: Wire<'_>) -> Done<&[u8]> {
    match value {
        Wire::Bytes(b) => Ok(b),
        _ => Err("not a message".to_owned()),
    }
}

fn number(value: Wire<'_>) -> Done<i64> {
    match value {
        Wire::Varint(n) => Ok(n as i64),
        _ => Err("not a number".to_owned()),
    }
}

/// The fields of a small message by number, of those that are wanted.
fn parts<const N: usize>(message: &[u8]) -> Done<[Option<Wire<'_>>; N]> {
    let mut out = [None; N];
    let mut reader = Reader::new(message);
    while let Some((number, value)) = reader.field().ok_or("message is cut off")? {
        if let Some(slot) = out.get_mut(number as usize - 1) {
            *slot = Some(value);
        }
    }
    Ok(out)
}

fn one(shape: Shape, value: Wire<'_>, depth: usize) -> Done<Value> {
    Ok(match shape {
        Shape::Str => text(value)?.into(),
        Shape::Bool => (number(value)? != 0).into(),
        Shape::Int32 => i64::from(number(value)? as i32).into(),
        Shape::Int64 => number(value)?.into(),
        Shape::Double => match value {
            Wire::Fixed64(bits) => f64::from_bits(bits).into(),
            _ => return Err("not a double".to_owned()),
        },
        Shape::Bytes => STANDARD.encode(bytes(value)?).into(),
        Shape::Quantity => {
            let [t] = parts(bytes(value)?)?;
            t.map_or_else(|| Ok("0".to_owned()), text)?.into()
        }
        Shape::Time | Shape::MicroTime => time(bytes(value)?, shape == Shape::MicroTime)?,
        Shape::IntOrString => {
            let [kind, int, string] = parts(bytes(value)?)?;
            match kind.map_or(Ok(0), number)? {
                0 => i64::from(int.map_or(Ok(0), number)? as i32).into(),
                _ => string.map_or_else(|| Ok(String::new()), text)?.into(),
            }
        }
        Shape::Duration => {
            let [ns] = parts(bytes(value)?)?;
            duration::format(ns.map_or(Ok(0), number)?).into()
        }
        Shape::Raw | Shape::FieldsV1 | Shape::Any | Shape::Object => {
            let [raw] = parts(bytes(value)?)?;
            json(raw.map_or(Ok(&[][..]), bytes)?)?
        }
        Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings => {
            schema_or(shape, bytes(value)?, depth)?
        }
        Shape::Def(def) => {
            let mut out = Object::new();
            fields(bytes(value)?, def, &mut out, depth + 1)?;
            Value::Object(out)
        }
        // A list within a map or list is a message with the items in field 1.
        Shape::List(t) => {
            let mut items = Vec::new();
            let mut reader = Reader::new(bytes(value)?);
            while let Some((n, value)) = reader.field().ok_or("message is cut off")? {
                if n == 1 {
                    items.push(one(t.shape(), value, depth)?);
                }
            }
            Value::Array(items)
        }
        Shape::Map(_) => return Err("a map of maps is not known".to_owned()),
    })
}

fn json(raw: &[u8]) -> Done<Value> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(raw).map_err(|e| e.to_string())
}

fn time(message: &[u8], micro: bool) -> Done<Value> {
    let [seconds, nanos] = parts(message)?;
    let Some(seconds) = seconds else { return Ok(Value::Null) };
    let (seconds, nanos) = (number(seconds)?, nanos.map_or(Ok(0), number)?);
    // Years 1 to 9999, as in JSON.
    if !(-62_135_596_800..253_402_300_800).contains(&seconds) {
        return Err("time is out of range".to_owned());
    }
    let wall = Wall(Wall::from_unix_s(seconds).0.saturating_add(nanos.clamp(0, 999_999_999)));
    Ok(if micro { wall.rfc3339_micro() } else { wall.rfc3339() }.into())
}

/// The three unions of CRD schemas.
fn schema_or(shape: Shape, message: &[u8], depth: usize) -> Done<Value> {
    const PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let def = crate::schema::named(PROPS).ok_or("the table has no JSONSchemaProps")?;
    let (mut schema, mut allows, mut list) = (None, true, Vec::new());
    let mut reader = Reader::new(message);
    while let Some((n, value)) = reader.field().ok_or("message is cut off")? {
        match (shape, n) {
            (Shape::SchemaOrBool, 1) => allows = number(value)? != 0,
            (Shape::SchemaOrBool, 2) | (_, 1) => schema = Some(one(Shape::Def(def), value, depth)?),
            (Shape::SchemaOrArray, 2) => list.push(one(Shape::Def(def), value, depth)?),
            (_, 2) => list.push(text(value)?.into()),
            _ => {}
        }
    }
    Ok(match (schema, shape) {
        (Some(s), _) => s,
        (None, Shape::SchemaOrBool) => allows.into(),
        (None, _) => Value::Array(list),
    })
}
