//! The Table form that `kubectl get` asks for.
//!
//! Columns come from `api/facts/columns.txt`; the cells of a kind from a function here, in the same order.

use crate::{Gvk, duration, object};
use pintle_base::Wall;
use serde_json::{Map, Value, json};

mod columns;
mod core;
mod network;
mod pod;
mod rest;
mod storage;
mod workloads;

pub use columns::columns;
pub use core::{node_roles, node_status};
pub use pod::pod_status;

/// What a row carries of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// PartialObjectMetadata.
    Metadata,
    /// The whole object.
    Object,
    /// Nothing.
    None,
}

impl Include {
    /// From the query parameter `includeObject`; the error is the text of the BadRequest.
    pub fn parse(s: &str) -> Result<Include, String> {
        match s {
            "" | "Metadata" => Ok(Include::Metadata),
            "Object" => Ok(Include::Object),
            "None" => Ok(Include::None),
            other => Err(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be \
                 'Metadata', 'Object', 'None', or empty",
                crate::status::quote(other)
            )),
        }
    }
}

/// One row: `{"cells": [...], "object": ...}`.
pub fn row(gvk: &Gvk<'_>, object: &Value, now: Wall, include: Include) -> Value {
    let shown = match include {
        Include::Metadata => partial(object, "v1"),
        Include::Object => object.clone(),
        Include::None => Value::Null,
    };
    json!({"cells": cells(gvk, object, now), "object": shown})
}

/// The object as PartialObjectMetadata of meta.k8s.io in this version.
pub fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// The cells of one object, in the order of [`columns`].
pub fn cells(gvk: &Gvk<'_>, o: &Value, now: Wall) -> Vec<Value> {
    let c = Cells { o, now };
    let of_kind = match gvk.group {
        "" => core::cells(gvk.kind, &c),
        "apps" | "batch" => workloads::cells(gvk.kind, &c),
        "networking.k8s.io" | "discovery.k8s.io" => network::cells(gvk.kind, &c),
        "storage.k8s.io" => storage::cells(gvk.kind, &c),
        "events.k8s.io" => Some(core::event(&c)),
        _ => rest::cells(gvk, &c),
    };
    of_kind.unwrap_or_else(|| vec![c.name(), c.str(&["metadata", "creationTimestamp"])])
}

/// An object being printed.
struct Cells<'a> {
    o: &'a Value,
    now: Wall,
}

impl Cells<'_> {
    fn name(&self) -> Value {
        object::name(self.o).into()
    }

    fn text(&self, steps: &[&str]) -> &str {
        object::str_at(self.o, steps)
    }

    fn str(&self, steps: &[&str]) -> Value {
        self.text(steps).into()
    }

    /// The text, or `instead` when it is empty.
    fn or(&self, steps: &[&str], instead: &str) -> Value {
        match self.text(steps) {
            "" => instead.into(),
            s => s.into(),
        }
    }

    fn int(&self, steps: &[&str]) -> Value {
        object::int_at(self.o, steps).unwrap_or(0).into()
    }

    fn list(&self, steps: &[&str]) -> &[Value] {
        object::list_at(self.o, steps)
    }

    fn len(&self, steps: &[&str]) -> usize {
        match object::at(self.o, steps) {
            Some(Value::Array(a)) => a.len(),
            Some(Value::Object(m)) => m.len(),
            _ => 0,
        }
    }

    /// Time since, as `3m10s`; `<unknown>` when there is no time.
    fn since(&self, steps: &[&str]) -> String {
        age(self.text(steps), self.now).unwrap_or_else(|| "<unknown>".to_owned())
    }

    fn age(&self) -> Value {
        self.since(&["metadata", "creationTimestamp"]).into()
    }

    /// `spec.selector`-like objects; `<none>` when they select everything.
    fn selector(&self, steps: &[&str]) -> Value {
        object::at(self.o, steps).map_or_else(|| "<none>".into(), label_selector)
    }

    /// Names and images of the containers under `steps`, each as one cell.
    fn containers(&self, steps: &[&str]) -> [Value; 2] {
        let list = self.list(steps);
        ["name", "image"].map(|k| {
            let all: Vec<&str> = list.iter().map(|c| object::str_at(c, &[k])).collect();
            all.join(",").into()
        })
    }
}

fn age(time: &str, now: Wall) -> Option<String> {
    let t = Wall::parse_rfc3339(time)?;
    Some(duration::human(now.unix_s().saturating_sub(t.unix_s())))
}

/// A LabelSelector as text.
fn label_selector(v: &Value) -> Value {
    match crate::selector::Labels::of(v) {
        Ok(l) if l.is_everything() => "<none>".into(),
        Ok(l) => l.to_string().into(),
        Err(_) => "<error>".into(),
    }
}

/// A plain map as `a=b,c=d`; `<none>` when it is empty.
fn labels(map: Option<&Map<String, Value>>) -> Value {
    let all: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")))
        .collect();
    if all.is_empty() { "<none>".into() } else { all.join(",").into() }
}

/// At most three items, then `+ N more...`; `instead` when there are none.
fn three(items: &[String], instead: &str) -> Value {
    const SHOWN: usize = 3;
    if items.is_empty() {
        return instead.into();
    }
    if items.len() <= SHOWN {
        return items.join(",").into();
    }
    format!("{} + {} more...", items[..SHOWN].join(","), items.len() - SHOWN).into()
}

#[cfg(test)]
mod tests;
