//! Sets of field paths, as trees, and their form in `fieldsV1`.
//!
//! A path element is kept as its text there: `f:name` (a field), `k:{"name":"c"}` (an item of a list by its keys),
//! `v:"x"` (an item by its value). A path is in the set when its last element is a member of its parent's node.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Elements whose own path is in the set.
    pub members: BTreeSet<String>,
    /// What is below an element. Never holds an empty set.
    pub children: BTreeMap<String, Set>,
}

impl Set {
    /// No path at all.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// Puts a child node in, unless it is empty.
    pub fn attach(&mut self, element: &str, child: Set) {
        if child.is_empty() {
            return;
        }
        match self.children.get_mut(element) {
            Some(have) => *have = have.union(&child),
            None => {
                self.children.insert(element.to_owned(), child);
            }
        }
    }

    /// The element or something below it is in the set.
    pub fn touches(&self, element: &str) -> bool {
        self.members.contains(element) || self.children.contains_key(element)
    }

    /// Paths in either.
    pub fn union(&self, other: &Set) -> Set {
        let mut out = self.clone();
        out.members.extend(other.members.iter().cloned());
        for (e, child) in &other.children {
            out.attach(e, child.clone());
        }
        out
    }

    /// Paths in both.
    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Set {
            members: self.members.intersection(&other.members).cloned().collect(),
            children: BTreeMap::new(),
        };
        for (e, child) in &self.children {
            if let Some(theirs) = other.children.get(e) {
                out.attach(e, child.intersection(theirs));
            }
        }
        out
    }

    /// Paths in this one only.
    pub fn difference(&self, other: &Set) -> Set {
        let mut out = Set {
            members: self.members.difference(&other.members).cloned().collect(),
            children: BTreeMap::new(),
        };
        for (e, child) in &self.children {
            match other.children.get(e) {
                Some(theirs) => out.attach(e, child.difference(theirs)),
                None => out.attach(e, child.clone()),
            }
        }
        out
    }

    /// As `fieldsV1` has it.
    pub fn to_json(&self) -> Value {
        let mut m = Map::new();
        for e in &self.members {
            m.insert(e.clone(), Value::Object(Map::new()));
        }
        for (e, child) in &self.children {
            let mut v = child.to_json();
            if self.members.contains(e)
                && let Some(inner) = v.as_object_mut()
            {
                inner.insert(".".to_owned(), Value::Object(Map::new()));
            }
            m.insert(e.clone(), v);
        }
        Value::Object(m)
    }

    /// From `fieldsV1`; `None` when it is none.
    pub fn from_json(v: &Value) -> Option<Set> {
        let mut out = Set::default();
        for (e, child) in v.as_object()? {
            if e == "." {
                continue;
            }
            if !matches!(e.get(..2), Some("f:" | "k:" | "v:" | "i:")) {
                return None;
            }
            let map = child.as_object()?;
            if map.is_empty() || map.contains_key(".") {
                out.members.insert(e.clone());
            }
            out.attach(e, Set::from_json(child)?);
        }
        Some(out)
    }

    /// All paths in words: `.spec.ports[port=80,protocol="TCP"].name`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect("", &mut out);
        out
    }

    fn collect(&self, prefix: &str, out: &mut Vec<String>) {
        let both: BTreeSet<&String> = self.members.iter().chain(self.children.keys()).collect();
        for e in both {
            let path = format!("{prefix}{}", words(e));
            if self.members.contains(e) {
                out.push(path.clone());
            }
            if let Some(child) = self.children.get(e) {
                child.collect(&path, out);
            }
        }
    }
}

/// A path element in words.
pub fn words(element: &str) -> String {
    let (kind, rest) = element.split_at(element.len().min(2));
    match kind {
        "f:" => format!(".{rest}"),
        "v:" => format!("[={rest}]"),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let all: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", all.join(","))
        }
        _ => format!("[{rest}]"),
    }
}
