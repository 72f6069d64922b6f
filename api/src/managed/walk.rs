//! Walking typed values: what changed between two, which fields one sets, merging, taking fields out.
//!
//! The rules are those of structured-merge-diff: structs and maps are granular unless the schema says atomic,
//! lists are atomic unless the schema says set or map. What has no schema is granular in its maps and atomic in
//! its lists.

use super::set::Set;
use crate::schema::{self, Def, Field, ListKind, Shape, Type};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// How a value is owned.
#[derive(Clone, Copy)]
pub enum Ty {
    /// As a whole.
    Leaf,
    /// As a whole, of a simple type.
    Scalar(Shape),
    /// By declared fields.
    Struct(Def),
    /// By keys, all of one type.
    Map(Type),
    /// By item values.
    SetList,
    /// By items that the field's keys tell apart.
    MapList(Type, Field),
    /// No schema, at the root: metadata is known, the rest is not.
    Root,
    /// No schema.
    Any,
}

impl Ty {
    /// Of the objects of a kind; what the table doesn't have has no schema.
    pub fn of_kind(gvk: &crate::Gvk<'_>) -> Ty {
        schema::find(gvk).map_or(Ty::Root, Ty::Struct)
    }

    fn of_field(f: Field) -> Ty {
        match f.shape() {
            Shape::Def(d) if f.is_atomic_map() || (d.is_atomic() && !f.is_granular_map()) => {
                Ty::Leaf
            }
            Shape::Def(d) => Ty::Struct(d),
            Shape::Map(_) if f.is_atomic_map() => Ty::Leaf,
            Shape::Map(t) => Ty::Map(t),
            Shape::List(t) => match f.list_kind() {
                ListKind::Set => Ty::SetList,
                ListKind::Map => Ty::MapList(t, f),
                ListKind::Unsaid | ListKind::Atomic => Ty::Leaf,
            },
            simple => Ty::Scalar(simple),
        }
    }

    fn of_type(t: Type) -> Ty {
        match t.shape() {
            Shape::Def(d) if !d.is_atomic() => Ty::Struct(d),
            Shape::Map(t) => Ty::Map(t),
            Shape::Def(_) | Shape::List(_) => Ty::Leaf,
            simple => Ty::Scalar(simple),
        }
    }

    /// What a value of another type is told; `None` when it fits.
    fn misfit(self, v: &Value) -> Option<String> {
        let Ty::Scalar(shape) = self else { return None };
        let expected = match shape {
            Shape::Str if !v.is_string() => "string",
            Shape::Bool if !v.is_boolean() => "boolean",
            Shape::Int32 | Shape::Int64 | Shape::Double if !v.is_number() => {
                "numeric (int or float)"
            }
            _ => return None,
        };
        (!v.is_null())
            .then(|| format!("expected {expected}, got &value.valueUnstructured{{Value:{v}}}"))
    }

    /// Type of what lies under a key, and whether the key is a declared field.
    fn child(self, key: &str) -> (Ty, bool) {
        match self {
            Ty::Struct(d) => d.field(key).map_or((Ty::Leaf, false), |f| (Ty::of_field(f), true)),
            Ty::Map(t) => (Ty::of_type(t), false),
            Ty::Root if key == "metadata" => {
                let meta = schema::named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
                (meta.map_or(Ty::Any, Ty::Struct), true)
            }
            Ty::Root | Ty::Any => (Ty::Any, false),
            Ty::Leaf | Ty::Scalar(_) | Ty::SetList | Ty::MapList(..) => (Ty::Leaf, false),
        }
    }

    fn item(self) -> Ty {
        match self {
            Ty::MapList(t, _) => Ty::of_type(t),
            _ => Ty::Leaf,
        }
    }

    fn is_map(self) -> bool {
        matches!(self, Ty::Struct(_) | Ty::Map(_) | Ty::Root | Ty::Any)
    }

    fn is_list(self) -> bool {
        matches!(self, Ty::SetList | Ty::MapList(..))
    }

    /// Path element of a list's item; `None` when it is not of the list's form.
    fn element(self, item: &Value) -> Option<String> {
        match self {
            Ty::SetList if !item.is_object() && !item.is_array() => Some(format!("v:{item}")),
            Ty::MapList(_, f) => {
                let map = item.as_object()?;
                let mut keys = BTreeMap::new();
                for key in f.list_keys() {
                    match map.get(key) {
                        Some(v) if !v.is_null() => {
                            keys.insert(key, v.clone());
                        }
                        // The only key with a default.
                        _ if key == "protocol" => {
                            keys.insert(key, Value::from("TCP"));
                        }
                        _ => {}
                    }
                }
                let keys: Map<String, Value> =
                    keys.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
                Some(format!("k:{}", Value::Object(keys)))
            }
            _ => None,
        }
    }

    /// The items of a list with their elements; later ones win over earlier ones with the same element.
    fn items(self, v: Option<&Value>) -> Vec<(String, &Value)> {
        let mut out: Vec<(String, &Value)> = Vec::new();
        for item in v.and_then(Value::as_array).into_iter().flatten() {
            let Some(e) = self.element(item) else { continue };
            match out.iter_mut().find(|(have, _)| *have == e) {
                Some(slot) => slot.1 = item,
                None => out.push((e, item)),
            }
        }
        out
    }
}

/// What became of a value.
#[derive(Debug, Default)]
pub struct Diff {
    /// New paths.
    pub added: Set,
    /// Paths with another value.
    pub modified: Set,
    /// Paths that are gone.
    pub removed: Set,
}

fn hollow(v: Option<&Value>) -> bool {
    match v {
        None | Some(Value::Null) => true,
        Some(Value::Object(m)) => m.is_empty(),
        Some(Value::Array(l)) => l.is_empty(),
        Some(_) => false,
    }
}

fn fits(v: Option<&Value>, ty: Ty) -> bool {
    match v {
        None | Some(Value::Null) => true,
        Some(v) => (ty.is_map() && v.is_object()) || (ty.is_list() && v.is_array()),
    }
}

/// Compares two roots.
pub fn compare(old: &Value, new: &Value, ty: Ty) -> Diff {
    let mut diff = Diff::default();
    inside(Some(old), Some(new), ty, &mut diff);
    diff
}

fn inside(old: Option<&Value>, new: Option<&Value>, ty: Ty, out: &mut Diff) {
    if ty.is_map() {
        let empty = Map::new();
        let a = old.and_then(Value::as_object).unwrap_or(&empty);
        let b = new.and_then(Value::as_object).unwrap_or(&empty);
        for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
            step(a.get(key), b.get(key), ty.child(key).0, &format!("f:{key}"), out);
        }
        return;
    }
    let (a, b) = (ty.items(old), ty.items(new));
    let find = |l: &[(String, &Value)], e: &str| l.iter().position(|(have, _)| have == e);
    for (e, item) in &a {
        let other = find(&b, e).map(|i| b[i].1);
        step(Some(item), other, ty.item(), e, out);
    }
    for (e, item) in &b {
        if find(&a, e).is_none() {
            step(None, Some(item), ty.item(), e, out);
        }
    }
}

fn step(old: Option<&Value>, new: Option<&Value>, ty: Ty, element: &str, out: &mut Diff) {
    let set = |s: &mut Set| {
        s.members.insert(element.to_owned());
    };
    let leaf = !(ty.is_map() || ty.is_list())
        || !fits(old, ty)
        || !fits(new, ty)
        || (hollow(old) && hollow(new));
    match (old, new) {
        (None, None) => return,
        (None, Some(_)) => set(&mut out.added),
        (Some(_), None) => set(&mut out.removed),
        (Some(a), Some(b)) if leaf && a != b => set(&mut out.modified),
        (Some(_), Some(_)) => {}
    }
    if !leaf {
        let mut child = Diff::default();
        inside(old, new, ty, &mut child);
        out.added.attach(element, child.added);
        out.modified.attach(element, child.modified);
        out.removed.attach(element, child.removed);
    }
}

/// The fields that a value sets; the error names a field that the schema doesn't have, or a doubled item.
pub fn field_set(v: &Value, ty: Ty) -> Result<Set, String> {
    let mut out = Set::default();
    let mut errors = Vec::new();
    fields(v, ty, "", &mut out, &mut errors);
    if errors.is_empty() { Ok(out) } else { Err(errors.join("\n")) }
}

fn fields(v: &Value, ty: Ty, path: &str, out: &mut Set, errors: &mut Vec<String>) {
    if ty.is_map() {
        for (key, val) in v.as_object().into_iter().flatten() {
            let (child_ty, declared) = ty.child(key);
            let here = format!("{path}.{key}");
            if matches!(ty, Ty::Struct(_)) && !declared {
                errors.push(format!("{here}: field not declared in schema"));
                continue;
            }
            let e = format!("f:{key}");
            below(val, child_ty, &e, &here, out, errors);
            if val.is_null() || val.as_object().is_some_and(Map::is_empty) || !declared {
                out.members.insert(e);
            }
        }
        return;
    }
    let mut seen = Vec::new();
    for (i, item) in v.as_array().into_iter().flatten().enumerate() {
        let Some(e) = ty.element(item) else {
            errors.push(format!("{path}: element {i}: associative list without keys has an element that's a map type"));
            continue;
        };
        if seen.contains(&e) {
            let what = if matches!(ty, Ty::SetList) { "" } else { "key " };
            errors.push(format!("{path}: duplicate entries for {what}{}", super::set::words(&e)));
            continue;
        }
        below(item, ty.item(), &e, &format!("{path}{}", super::set::words(&e)), out, errors);
        out.members.insert(e.clone());
        seen.push(e);
    }
}

fn below(v: &Value, ty: Ty, element: &str, path: &str, out: &mut Set, errors: &mut Vec<String>) {
    if let Some(why) = ty.misfit(v) {
        errors.push(format!("{path}: {why}"));
        return;
    }
    let granular = (ty.is_map() && v.is_object()) || (ty.is_list() && v.is_array());
    if granular {
        let mut child = Set::default();
        fields(v, ty, path, &mut child, errors);
        out.attach(element, child);
    } else if !v.is_null() || !(ty.is_map() || ty.is_list()) {
        out.members.insert(element.to_owned());
    }
}

/// `config` over `live`.
pub fn merge(live: Option<&Value>, config: &Value, ty: Ty) -> Value {
    let Some(live) = live else { return config.clone() };
    match (live, config) {
        (Value::Object(a), Value::Object(b)) if ty.is_map() => {
            let mut out = a.clone();
            for (key, v) in b {
                let merged = merge(a.get(key), v, ty.child(key).0);
                out.insert(key.clone(), merged);
            }
            Value::Object(out)
        }
        (Value::Array(_), Value::Array(_)) if ty.is_list() => merge_list(live, config, ty),
        _ => config.clone(),
    }
}

/// The order of the config is kept; items of the live list alone stay where they were between common ones.
fn merge_list(live: &Value, config: &Value, ty: Ty) -> Value {
    let (a, b) = (ty.items(Some(live)), ty.items(Some(config)));
    let find = |l: &[(String, &Value)], e: &str| l.iter().position(|(have, _)| have == e);
    let shared: Vec<&String> =
        b.iter().filter(|(e, _)| find(&a, e).is_some()).map(|(e, _)| e).collect();
    let mut next_shared = 0;
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() {
            let (e, item) = &a[i];
            match find(&b, e) {
                // Only ours: it stays in front of the next common item.
                None => {
                    out.push((*item).clone());
                    i += 1;
                    continue;
                }
                // Common, but its turn is another: it comes where the config has it.
                Some(at) if at < j || shared.get(next_shared).is_some_and(|s| *s != e) => {
                    i += 1;
                    continue;
                }
                Some(_) => {}
            }
        }
        if j < b.len() {
            let (e, item) = &b[j];
            let mine = find(&a, e);
            out.push(merge(mine.map(|m| a[m].1), item, ty.item()));
            j += 1;
            if mine.is_some() {
                next_shared += 1;
            }
        }
    }
    Value::Array(out)
}

/// Takes out of `v` what is in `last` and in nothing of `owned`.
pub fn prune(v: &mut Value, ty: Ty, last: &Set, owned: &Set) {
    if ty.is_map() {
        let Some(map) = v.as_object_mut() else { return };
        map.retain(|key, val| {
            let (child_ty, declared) = ty.child(key);
            keep(val, child_ty, declared, &format!("f:{key}"), last, owned)
        });
    } else if ty.is_list()
        && let Some(list) = v.as_array_mut()
    {
        list.retain_mut(|item| match ty.element(item) {
            Some(e) => keep(item, ty.item(), false, &e, last, owned),
            None => true,
        });
    }
}

fn keep(v: &mut Value, ty: Ty, declared: bool, element: &str, last: &Set, owned: &Set) -> bool {
    if !last.touches(element) {
        return true;
    }
    if !owned.touches(element) && (declared || last.members.contains(element)) {
        return false;
    }
    let none = Set::default();
    let mine = last.children.get(element).unwrap_or(&none);
    let theirs = owned.children.get(element).unwrap_or(&none);
    prune(v, ty, mine, theirs);
    true
}
