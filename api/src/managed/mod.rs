//! managedFields: who owns which field; server-side apply.
//!
//! Every write gives its manager the fields that it added or changed and takes them from the others; an apply
//! owns exactly what its configuration sets, and takes out what it set before and nobody else owns.
//!
//! References: KEP-555; sigs.k8s.io/structured-merge-diff/merge/update.go; apimachinery/pkg/util/managedfields.

mod set;
#[cfg(test)]
mod tests;
mod walk;

use crate::status::{Cause, Details};
use crate::{Gvk, Status, decode, object, resources, schema};
use serde_json::{Map, Value, json};
use set::Set;
use walk::Ty;

/// Who writes, when, through what.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The field manager (query `fieldManager`, else the part of the user agent before `/`).
    pub manager: &'a str,
    /// Group, version and kind that the request was made in.
    pub gvk: Gvk<'a>,
    /// `status`, `scale`, or empty.
    pub subresource: &'a str,
    /// RFC 3339 time of the write, whole seconds.
    pub time: &'a str,
}

const BEFORE_FIRST_APPLY: &str = "before-first-apply";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One entry of managedFields.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    apply: bool,
    api_version: String,
    subresource: String,
    time: Option<String>,
    set: Set,
}

impl Entry {
    fn parse(v: &Value) -> Option<Entry> {
        let text = |k: &str| object::str_at(v, &[k]).to_owned();
        let apply = match text("operation").as_str() {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        if text("fieldsType") != "FieldsV1" {
            return None;
        }
        Some(Entry {
            manager: text("manager"),
            apply,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: v.get("time").and_then(Value::as_str).map(str::to_owned),
            set: v.get("fieldsV1").map_or(Some(Set::default()), Set::from_json)?,
        })
    }

    fn to_json(&self) -> Value {
        let mut m = Map::new();
        let mut put = |k: &str, v: &str| {
            if !v.is_empty() {
                m.insert(k.to_owned(), v.into());
            }
        };
        put("manager", &self.manager);
        put("operation", if self.apply { "Apply" } else { "Update" });
        put("apiVersion", &self.api_version);
        put("time", self.time.as_deref().unwrap_or(""));
        put("fieldsType", "FieldsV1");
        put("subresource", &self.subresource);
        m.insert("fieldsV1".to_owned(), self.set.to_json());
        Value::Object(m)
    }

    /// Whether it is the entry that such a write goes to. Appliers have one, whatever the version.
    fn belongs(&self, manager: &str, apply: bool, write: &Write<'_>) -> bool {
        self.manager == manager
            && self.apply == apply
            && self.subresource == write.subresource
            && (apply || self.api_version == write.gvk.api_version())
    }

    /// How a conflict names it.
    fn words(&self) -> String {
        let mut out = crate::status::quote(&self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {}", crate::status::quote(&self.subresource)));
        }
        if !self.apply {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }
}

/// `None` when one of the entries is none.
fn parse_all(v: &Value) -> Option<Vec<Entry>> {
    object::list_at(v, &["metadata", "managedFields"]).iter().map(Entry::parse).collect()
}

fn put_all(v: &mut Value, mut entries: Vec<Entry>) {
    if entries.is_empty() {
        object::remove(v, &["metadata", "managedFields"]);
        return;
    }
    let key = |e: &Entry| {
        let time = e.time.clone().unwrap_or_default();
        (!e.apply, time, e.manager.clone(), e.api_version.clone(), e.subresource.clone())
    };
    entries.sort_by_key(key);
    let list: Vec<Value> = entries.iter().map(Entry::to_json).collect();
    object::set(v, &["metadata", "managedFields"], list);
}

/// The fields that nobody owns: the server sets them.
fn without_server_fields(mut set: Set) -> Set {
    for e in ["f:apiVersion", "f:kind", "f:metadata"] {
        set.members.remove(e);
    }
    for e in ["f:apiVersion", "f:kind"] {
        set.children.remove(e);
    }
    if let Some(mut meta) = set.children.remove("f:metadata") {
        for e in [
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        ] {
            let e = format!("f:{e}");
            meta.members.remove(&e);
            meta.children.remove(&e);
        }
        set.attach("f:metadata", meta);
    }
    set
}

/// The object that a create starts from: what Go's zero value of the kind looks like.
fn zero(gvk: &Gvk<'_>) -> Value {
    let bare = json!({"apiVersion": gvk.api_version(), "kind": gvk.kind});
    match schema::find(gvk) {
        Some(def) => decode::canonical(bare.clone(), def).unwrap_or(bare),
        None => bare,
    }
}

fn stripped(v: &Value) -> Value {
    let mut v = v.clone();
    object::remove(&mut v, &["metadata", "managedFields"]);
    v
}

/// Takes from all entries what a change touched; what is left of nothing goes.
fn yield_fields(entries: &mut Vec<Entry>, diff: &walk::Diff) {
    for e in entries.iter_mut() {
        e.set = e.set.difference(&diff.added).difference(&diff.modified).difference(&diff.removed);
    }
    entries.retain(|e| !e.set.is_empty());
}

/// On create, update or patch, before admission: sets `new.metadata.managedFields` from what `old` (null for a
/// create) and the change say. `new` must already have what its subresource may not change from `old`.
pub fn track(old: &Value, new: &mut Value, write: &Write<'_>) {
    let create = old.is_null();
    let sent = object::list_at(new, &["metadata", "managedFields"]);
    let reset = matches!(sent, [one] if one.as_object().is_some_and(Map::is_empty));
    let of_live = || if create { Vec::new() } else { parse_all(old).unwrap_or_default() };
    let mut entries = match parse_all(new) {
        _ if reset => Vec::new(),
        // A subresource cannot set them; who does not send them does not delete them.
        Some(sent) if !sent.is_empty() && write.subresource.is_empty() => sent,
        _ => of_live(),
    };
    object::remove(new, &["metadata", "managedFields"]);
    if entries.is_empty() && !create {
        return;
    }
    let before = if create { zero(&write.gvk) } else { stripped(old) };
    let diff = walk::compare(&before, new, Ty::of_kind(&write.gvk));
    yield_fields(&mut entries, &diff);
    let mut gained = without_server_fields(diff.added.union(&diff.modified));
    if write.gvk.kind == "CertificateSigningRequest" && write.subresource.is_empty() {
        // What was asked for cannot be changed, so nobody owns it.
        for e in ["f:spec", "f:status"] {
            gained.members.remove(e);
            gained.children.remove(e);
        }
    }
    if !gained.is_empty() {
        let time = (write.subresource != "scale").then(|| write.time.to_owned());
        match entries.iter_mut().find(|e| e.belongs(write.manager, false, write)) {
            Some(e) => {
                e.set = e.set.union(&gained);
                e.time = time;
            }
            None => entries.push(Entry {
                manager: write.manager.to_owned(),
                apply: false,
                api_version: write.gvk.api_version(),
                subresource: write.subresource.to_owned(),
                time,
                set: gained,
            }),
        }
    }
    // The yielding may have emptied what the gain brought back in part; keep entries in one place.
    put_all(new, entries);
}

/// Server-side apply of `config` (as sent: not defaulted, not pruned) onto `live` (null when there is no object
/// yet): the merged object with managedFields set, or the 409 with a cause `FieldManagerConflict` for each
/// conflict unless `force`.
pub fn apply(
    live: &Value,
    config: &Value,
    force: bool,
    write: &Write<'_>,
) -> Result<Value, Status> {
    let ty = Ty::of_kind(&write.gvk);
    if object::at(config, &["metadata", "managedFields"]).is_some_and(|m| !m.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let config = only_own_part(config, write);
    let whole = walk::field_set(&config, ty).map_err(|why| typed_error(&config, write, &why))?;
    let set = without_server_fields(whole.clone());
    let create = live.is_null();
    let base = if create { zero(&write.gvk) } else { stripped(live) };
    let mut entries = if create { Vec::new() } else { parse_all(live).unwrap_or_default() };
    if entries.is_empty() && !create {
        // Whatever is there was set by somebody who left no trace.
        let all = walk::compare(&zero(&write.gvk), &base, ty).added;
        let all = walk::compare(&zero(&write.gvk), &base, ty).modified.union(&all);
        entries.push(Entry {
            manager: BEFORE_FIRST_APPLY.to_owned(),
            apply: false,
            api_version: write.gvk.api_version(),
            subresource: String::new(),
            time: Some(write.time.to_owned()),
            set: without_server_fields(all),
        });
    }
    let old_entries = entries.clone();
    let last = entries.iter().position(|e| e.belongs(write.manager, true, write));
    let last = last.map(|i| entries.remove(i));
    let mut merged = walk::merge(Some(&base), &config, ty);
    if let Some(last) = &last {
        let owned = entries.iter().fold(whole, |all, e| all.union(&e.set));
        walk::prune(&mut merged, ty, &last.set, &owned);
    }
    let diff = walk::compare(&base, &merged, ty);
    if !force {
        check_conflicts(live, &entries, &diff, ty, write)?;
    }
    yield_fields(&mut entries, &diff);
    if !set.is_empty() {
        let unchanged = last.as_ref().is_some_and(|l| l.set == set);
        let same = unchanged && merged == base && entries_match(&old_entries, &entries, &last);
        let time = match &last {
            Some(l) if same => l.time.clone(),
            _ => Some(write.time.to_owned()),
        };
        entries.push(Entry {
            manager: write.manager.to_owned(),
            apply: true,
            api_version: write.gvk.api_version(),
            subresource: write.subresource.to_owned(),
            time,
            set,
        });
    }
    put_all(&mut merged, entries);
    Ok(merged)
}

/// Nothing but the applier's own entry differs.
fn entries_match(before: &[Entry], others: &[Entry], last: &Option<Entry>) -> bool {
    before.iter().filter(|e| Some(*e) != last.as_ref()).eq(others.iter())
}

/// The part of a configuration that the subresource may set.
fn only_own_part(config: &Value, write: &Write<'_>) -> Value {
    let mut config = config.clone();
    let Some(map) = config.as_object_mut() else { return config };
    let has_status =
        resources::find_kind(&write.gvk).is_some_and(|r| r.subresource("status").is_some());
    match write.subresource {
        "" if has_status => {
            map.remove("status");
        }
        "status" => {
            map.retain(|k, _| matches!(k.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
        }
        _ => {}
    }
    config
}

fn typed_error(config: &Value, write: &Write<'_>, why: &str) -> Status {
    let (namespace, name) = (object::namespace(config), object::name(config));
    let gvk = &write.gvk;
    let message = format!(
        "failed to create typed patch object ({namespace}/{name}; {}/{}, Kind={}): {why}",
        gvk.group, gvk.version, gvk.kind
    );
    Status::plain(500, "", message)
}

fn check_conflicts(
    live: &Value,
    entries: &[Entry],
    diff: &walk::Diff,
    ty: Ty,
    write: &Write<'_>,
) -> Result<(), Status> {
    let changed = diff.added.union(&diff.modified);
    // kubectl may take over what its own client-side apply set.
    let allowed = if write.manager == "kubectl" { last_applied(live, ty) } else { Set::default() };
    let mut conflicts: Vec<(String, String)> = Vec::new();
    for e in entries {
        let set = e.set.intersection(&changed).difference(&allowed);
        conflicts.extend(set.paths().into_iter().map(|p| (e.words(), p)));
    }
    if conflicts.is_empty() {
        return Ok(());
    }
    conflicts.sort();
    let message = match conflicts.as_slice() {
        [(who, path)] => format!("Apply failed with 1 conflict: conflict with {who}: {path}"),
        many => {
            let mut lines = Vec::new();
            let mut before = "";
            for (who, path) in many {
                if who != before {
                    lines.push(format!("conflicts with {who}:"));
                    before = who;
                }
                lines.push(format!("- {path}"));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let causes = conflicts
        .into_iter()
        .map(|(who, field)| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {who}"),
            field,
        })
        .collect();
    let mut status = Status::plain(409, "Conflict", message);
    status.details = Some(Box::new(Details { causes, ..Details::default() }));
    Err(status)
}

/// What the annotation of client-side apply says it set.
fn last_applied(live: &Value, ty: Ty) -> Set {
    object::annotation(live, LAST_APPLIED)
        .and_then(|text| serde_json::from_str(text).ok())
        .and_then(|v: Value| walk::field_set(&v, ty).ok())
        .unwrap_or_default()
}
