//! `pintle apply` and `pintle delete`: manifests in, requests out.
//!
//! Apply works as kubectl's client-side apply does, with the same annotation, so that both can be used in turn:
//! what an earlier manifest had and this one lacks is removed, what others set stays.

use super::resource::{request, targets};
use super::{connect, namespace};
use clap::ArgMatches;
use pintle_api::resources::{self, Resource};
use pintle_base::Clock;
use pintle_reactor::RealClock;
use pintle_wire::msg::api::{PatchType, Verb};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Annotation that holds the manifest of the last apply.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How long `delete` waits for an object to go.
const GONE_WITHIN: Duration = Duration::from_secs(120);

/// `pintle apply -f`.
pub fn apply(m: &ArgMatches) -> Result<(), String> {
    let manifests = manifests(m)?;
    let mut api = connect(m)?;
    let mut failed = 0;
    for mut wanted in manifests {
        let resource = resource_of(&wanted)?;
        let ns = place(&mut wanted, resource, &namespace(m))?;
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let done = apply_one(&mut api, resource, &ns, &name, &wanted);
        match done {
            Ok(what) => println!("{}/{name} {what}", resource.singular),
            Err(e) => {
                failed += 1;
                eprintln!("{}/{name}: {e}", resource.singular);
            }
        }
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} object(s) could not be applied")) }
}

fn apply_one(
    api: &mut crate::api::Api,
    resource: &Resource,
    ns: &str,
    name: &str,
    wanted: &Value,
) -> Result<&'static str, String> {
    let mut marked = wanted.clone();
    marked["metadata"]["annotations"][LAST_APPLIED] = json!(format!("{wanted}\n"));
    let live = match api.call(request(Verb::Get, resource, ns, name)) {
        Ok(live) => live,
        Err(e) if e.is_not_found() => {
            let mut q = request(Verb::Create, resource, ns, "");
            q.options.field_manager = Some("pintle".into());
            q.options.field_validation = Some("Strict".into());
            q.body = marked.to_string().into_bytes().into();
            return api.call(q).map(|_| "created").map_err(|e| e.to_string());
        }
        Err(e) => return Err(e.to_string()),
    };
    let last = live["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .and_then(|s| serde_json::from_str(s).ok());
    let patch = three_way(&last.unwrap_or(Value::Null), &marked, &live);
    let Some(patch) = patch.filter(|p| !only_annotation(p)) else { return Ok("unchanged") };
    let mut q = request(Verb::Patch, resource, ns, name);
    q.patch_type = Some(PatchType::Merge);
    q.options.field_manager = Some("pintle".into());
    q.options.field_validation = Some("Strict".into());
    q.body = patch.to_string().into_bytes().into();
    let before = live["metadata"]["resourceVersion"].clone();
    let after = api.call(q).map_err(|e| e.to_string())?;
    Ok(if after["metadata"]["resourceVersion"] == before { "unchanged" } else { "configured" })
}

// The text of the annotation may differ in white space and order where nothing else does.
fn only_annotation(patch: &Value) -> bool {
    let one =
        |v: &Value, key: &str| v.as_object().is_some_and(|m| m.len() == 1 && m.contains_key(key));
    one(patch, "metadata")
        && one(&patch["metadata"], "annotations")
        && one(&patch["metadata"]["annotations"], LAST_APPLIED)
}

/// JSON merge patch that makes `live` have all of `wanted` and nothing of `last` that `wanted` lacks; `None` = nothing
/// to do. Lists count as a whole.
fn three_way(last: &Value, wanted: &Value, live: &Value) -> Option<Value> {
    let (Some(w), Some(l)) = (wanted.as_object(), live.as_object()) else {
        return (!covers(live, wanted)).then(|| wanted.clone());
    };
    let mut patch = Map::new();
    for (k, v) in w {
        let (old, now) = (last.get(k).unwrap_or(&Value::Null), l.get(k).unwrap_or(&Value::Null));
        if let Some(p) = three_way(old, v, now) {
            patch.insert(k.clone(), p);
        }
    }
    for k in last.as_object().into_iter().flat_map(Map::keys) {
        if !w.contains_key(k) && l.contains_key(k) {
            patch.insert(k.clone(), Value::Null);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

// Defaults that the API server added inside list items are no difference.
fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(l), Value::Object(w)) => w.iter().all(|(k, v)| {
            v.is_null() && !l.contains_key(k) || l.get(k).is_some_and(|x| covers(x, v))
        }),
        (Value::Array(l), Value::Array(w)) => {
            l.len() == w.len() && l.iter().zip(w).all(|(l, w)| covers(l, w))
        }
        (l, w) => l == w,
    }
}

/// `pintle delete`.
pub fn delete(m: &ArgMatches) -> Result<(), String> {
    let words: Vec<String> = m.get_many::<String>("what").into_iter().flatten().cloned().collect();
    let mut doomed: Vec<(&Resource, String, String)> = Vec::new();
    if m.contains_id("file") {
        for mut o in manifests(m)? {
            let resource = resource_of(&o)?;
            let ns = place(&mut o, resource, &namespace(m))?;
            doomed.push((
                resource,
                ns,
                o["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            ));
        }
    } else {
        for (resource, name) in targets(&words)? {
            let name = name.ok_or("a name is needed, as in: pod web, deploy/web")?;
            doomed.push((resource, namespace(m), name));
        }
    }
    let mut api = connect(m)?;
    let mut failed = 0;
    for (resource, ns, name) in &doomed {
        let mut q = request(Verb::Delete, resource, ns, name);
        q.options.propagation_policy = Some("Background".into());
        if m.get_flag("now") {
            q.options.grace_period_s = Some(1);
        }
        match api.call(q) {
            Ok(_) => println!("{}/{name} deleted", resource.singular),
            Err(e) => {
                failed += 1;
                eprintln!("{}/{name}: {e}", resource.singular);
            }
        }
    }
    if m.get_flag("wait") {
        for (resource, ns, name) in &doomed {
            let mut q = request(Verb::List, resource, ns, "");
            q.options.field_selector = Some(format!("metadata.name={name}"));
            let deadline = RealClock.now().mono + GONE_WITHIN;
            let what = format!("{}/{name} to go", resource.singular);
            api.wait_for(q, deadline, &what, &mut |set| set.is_empty())
                .map_err(|e| e.to_string())?;
        }
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} object(s) could not be deleted")) }
}

fn resource_of(o: &Value) -> Result<&'static Resource, String> {
    let (version, kind) =
        (o["apiVersion"].as_str().unwrap_or_default(), o["kind"].as_str().unwrap_or_default());
    if version.is_empty() || kind.is_empty() {
        return Err("a manifest lacks apiVersion or kind".into());
    }
    resources::all()
        .find(|r| r.kind == kind && r.api_version() == version)
        .ok_or_else(|| format!("there is no kind {kind} in {version}"))
}

// The object's own namespace wins over the flag's.
fn place(o: &mut Value, resource: &Resource, flag: &str) -> Result<String, String> {
    if o["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return Err(format!("a {} lacks metadata.name", resource.kind));
    }
    if !resource.namespaced {
        return Ok(String::new());
    }
    let ns = o["metadata"]["namespace"].as_str().unwrap_or(flag).to_owned();
    o["metadata"]["namespace"] = json!(ns);
    Ok(ns)
}

fn manifests(m: &ArgMatches) -> Result<Vec<Value>, String> {
    let mut objects = Vec::new();
    for path in m.get_many::<PathBuf>("file").into_iter().flatten() {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|e| format!("cannot read standard input: {e}"))?;
            read_documents(&text, "standard input", &mut objects)?;
        } else if path.is_dir() {
            let wrong = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
            let mut files: Vec<PathBuf> = std::fs::read_dir(path)
                .map_err(wrong)?
                .flatten()
                .map(|e| e.path())
                .filter(|p| is_manifest(p))
                .collect();
            files.sort();
            for f in files {
                read_file(&f, &mut objects)?;
            }
        } else {
            read_file(path, &mut objects)?;
        }
    }
    if objects.is_empty() {
        Err("there is no object in what was given with -f".into())
    } else {
        Ok(objects)
    }
}

fn is_manifest(p: &Path) -> bool {
    matches!(p.extension().and_then(|e| e.to_str()), Some("yaml" | "yml" | "json"))
}

fn read_file(path: &Path, objects: &mut Vec<Value>) -> Result<(), String> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    read_documents(&text, &path.display().to_string(), objects)
}

fn read_documents(text: &str, name: &str, objects: &mut Vec<Value>) -> Result<(), String> {
    for (i, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let value =
            Value::deserialize(document).map_err(|e| format!("{name}, document {}: {e}", i + 1))?;
        match value {
            Value::Null => {}
            Value::Object(ref o) if o.get("kind").is_some_and(|k| k == "List") => {
                objects.extend(value["items"].as_array().cloned().unwrap_or_default());
            }
            Value::Object(_) => objects.push(value),
            _ => return Err(format!("{name}, document {}: not an object", i + 1)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(last: Value, wanted: Value, live: Value, patch: Option<Value>) {
        assert_eq!(three_way(&last, &wanted, &live), patch, "{last} {wanted} {live}");
    }

    #[test]
    fn three_way_patches() {
        let live = json!({"a": 1, "b": {"x": 1, "y": 2}, "other": true, "list": [{"n": 1, "defaulted": 7}]});
        check(json!({}), json!({"a": 1, "list": [{"n": 1}]}), live.clone(), None);
        check(json!({}), json!({"a": 2}), live.clone(), Some(json!({"a": 2})));
        check(
            json!({"b": {"x": 1}}),
            json!({"b": {"y": 2}}),
            live.clone(),
            Some(json!({"b": {"x": null}})),
        );
        check(json!({"other": true}), json!({}), live.clone(), Some(json!({"other": null})));
        check(json!({}), json!({"list": [{"n": 2}]}), live, Some(json!({"list": [{"n": 2}]})));
    }

    #[test]
    fn documents_of_all_forms() {
        let mut objects = Vec::new();
        let text = "kind: A\n---\n---\nkind: List\nitems:\n- kind: B\n- kind: C\n";
        read_documents(text, "test", &mut objects).expect("valid");
        assert_eq!(objects, [json!({"kind": "A"}), json!({"kind": "B"}), json!({"kind": "C"})]);
        let wrong = read_documents("a: [", "f.yaml", &mut objects).expect_err("malformed");
        assert!(wrong.starts_with("f.yaml, document 1:"), "{wrong}");
    }
}
