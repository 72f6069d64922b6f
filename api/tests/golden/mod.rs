//! Plays recorded requests through the crate.

use pintle_api::{Gvk, decode, default, patch, resources, table, validate};
use pintle_base::Wall;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What came out for one area.
#[derive(Default)]
pub struct Tally {
    /// Comparisons without a difference.
    pub same: usize,
    /// One line a difference.
    pub differences: Vec<String>,
}

impl Tally {
    fn add(&mut self, what: &str, differences: Vec<String>) {
        if differences.is_empty() {
            self.same += 1;
        }
        self.differences.extend(differences.into_iter().map(|d| format!("{what}: {d}")));
    }
}

/// Runs all comparisons over the folder.
pub fn run(folder: &Path) -> BTreeMap<&'static str, Tally> {
    let mut report: BTreeMap<&'static str, Tally> = BTreeMap::new();
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if name == "index" || file.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let scenario: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let mut live: BTreeMap<String, Value> = BTreeMap::new();
        for (i, step) in scenario["steps"].as_array().unwrap().iter().enumerate() {
            let what = format!("{name}#{i}");
            creates(&mut report, &what, step);
            findings(&mut report, &what, step, &mut live);
            tables(&mut report, &what, step);
        }
    }
    report
}

/// The resource that a path names, with its subresource.
fn resource(path: &str) -> Option<(&'static resources::Resource, String)> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", v, rest @ ..] => ("", *v, rest),
        ["apis", g, v, rest @ ..] => (*g, *v, rest),
        _ => return None,
    };
    let rest = match rest {
        ["namespaces", _, plural, rest @ ..] if !matches!(*plural, "status" | "finalize") => {
            return Some((
                resources::find(group, version, plural)?,
                rest.get(1).unwrap_or(&"").to_string(),
            ));
        }
        rest => rest,
    };
    Some((resources::find(group, version, rest.first()?)?, rest.get(2).unwrap_or(&"").to_string()))
}

fn creates(report: &mut BTreeMap<&'static str, Tally>, what: &str, step: &Value) {
    let (request, response) = (&step["request"], &step["response"]);
    let Some((r, sub)) = resource(request["path"].as_str().unwrap_or("")) else { return };
    if request["method"] != "POST" || !sub.is_empty() || !request["body"].is_object() {
        return;
    }
    let gvk: Gvk<'_> = r.gvk();
    let decoded = decode::value(request["body"].clone(), &gvk);
    let code = response["status"].as_u64().unwrap_or(0);
    let answer = &response["body"];
    match decoded {
        Err(status) => {
            let d = if answer["message"] == status.message.as_str() {
                vec![]
            } else {
                vec![format!("decode said {:?}, not {}", status.message, answer["message"])]
            };
            report.entry("decode").or_default().add(what, d);
        }
        Ok(d) if code < 300 && answer["kind"] == r.kind => {
            let mut ours = d.object;
            default::object(&gvk, &mut ours);
            let mut differences = Vec::new();
            compare("", &ours, answer, &mut differences);
            report.entry("default").or_default().add(what, differences);
        }
        Ok(_) => {}
    }
}

/// Findings about creates and changes, against the causes of the answer. `live` holds what the answers
/// showed so far, by path.
fn findings(
    report: &mut BTreeMap<&'static str, Tally>,
    what: &str,
    step: &Value,
    live: &mut BTreeMap<String, Value>,
) {
    let (request, response) = (&step["request"], &step["response"]);
    let (path, method) =
        (request["path"].as_str().unwrap_or(""), request["method"].as_str().unwrap_or(""));
    let Some((r, sub)) = resource(path) else { return };
    let (code, answer) = (response["status"].as_u64().unwrap_or(0), &response["body"]);
    let gvk = r.gvk();
    let key = match method {
        "POST" => format!("{path}/{}", answer["metadata"]["name"].as_str().unwrap_or("")),
        _ => path.trim_end_matches(&format!("/{sub}")).to_owned(),
    };
    let body = &request["body"];
    let ours = match method {
        "POST" if sub.is_empty() && body.is_object() => {
            let Ok(d) = decode::value(body.clone(), &gvk) else { return };
            let mut o = d.object;
            default::object(&gvk, &mut o);
            if let Some(rest) = path.split("/namespaces/").nth(1)
                && r.namespaced
            {
                let namespace = rest.split('/').next().unwrap_or("");
                pintle_api::object::set(&mut o, &["metadata", "namespace"], namespace);
            }
            if pintle_api::object::name(&o).is_empty() && o["metadata"]["generateName"].is_string()
            {
                let name = o["metadata"]["generateName"].as_str().unwrap().to_owned() + "bcdfg";
                pintle_api::object::set(&mut o, &["metadata", "name"], name);
            }
            Some(validate::create(&gvk, &o))
        }
        "PATCH" | "PUT" if matches!(sub.as_str(), "" | "status") => {
            live.get(&key).and_then(|old| {
                let content = request["headers"]["content-type"].as_str().unwrap_or("");
                let new = match content {
                    "application/merge-patch+json" => {
                        let mut new = old.clone();
                        patch::merge(&mut new, body);
                        new
                    }
                    "application/json-patch+json" => patch::json(old, body).ok()?,
                    "application/strategic-merge-patch+json" => {
                        patch::strategic(old, body, &gvk).ok()?
                    }
                    _ if method == "PUT" => body.clone(),
                    _ => return None,
                };
                let mut new = decode::value(new, &gvk).ok()?.object;
                default::object(&gvk, &mut new);
                for k in ["spec", "status"] {
                    let kept = (k == "status") != (sub == "status") && old["status"].is_object();
                    if kept && let Some(was) = old.get(k) {
                        new[k] = was.clone();
                    }
                }
                for k in ["uid", "creationTimestamp", "generation", "resourceVersion", "namespace"]
                {
                    if body["metadata"].get(k).is_none()
                        && let Some(was) = old["metadata"].get(k)
                    {
                        new["metadata"][k] = was.clone();
                    }
                }
                Some(validate::update(&gvk, &sub, &new, old))
            })
        }
        _ => None,
    };
    if code < 300 && answer["kind"] == r.kind {
        live.insert(key, answer.clone());
    }
    let Some(ours) = ours else { return };
    if code < 300 {
        let d = ours.iter().map(|f| format!("accepted, ours: {f}")).collect();
        report.entry("validate-accepted").or_default().add(what, d);
        return;
    }
    if code != 422 {
        return;
    }
    let mut theirs: Vec<String> = answer["details"]["causes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| {
            format!(
                "{}: {}",
                c["field"].as_str().unwrap_or(""),
                c["message"].as_str().unwrap_or("")
            )
        })
        .map(|t| t.split("\n@@").next().unwrap().to_owned())
        .collect();
    theirs.sort();
    let mut ours: Vec<String> = ours.iter().map(ToString::to_string).collect();
    ours.sort();
    let mut d: Vec<String> = Vec::new();
    if ours.len() != theirs.len() {
        d.push(format!("{} causes, not {}", ours.len(), theirs.len()));
    }
    d.extend(
        theirs
            .iter()
            .filter(|t| !ours.contains(t) && !t.contains('<'))
            .map(|t| format!("missing {t}")),
    );
    d.extend(ours.iter().filter(|t| !theirs.contains(t)).map(|t| format!("extra   {t}")));
    report.entry("validate-refused").or_default().add(what, d);
}

fn tables(report: &mut BTreeMap<&'static str, Tally>, what: &str, step: &Value) {
    let answer = &step["response"]["body"];
    if answer["kind"] != "Table" {
        return;
    }
    let Some((r, sub)) = resource(step["request"]["path"].as_str().unwrap_or("")) else { return };
    let gvk = if sub == "scale" { Gvk::new("autoscaling", "v1", "Scale") } else { r.gvk() };
    let mut differences = Vec::new();
    if answer["columnDefinitions"].is_array() {
        compare("columns", &table::columns(&gvk), &answer["columnDefinitions"], &mut differences);
    }
    for row in answer["rows"].as_array().into_iter().flatten() {
        // Only rows that carry the whole object can be made again.
        if row["object"]["kind"] == r.kind {
            let cells = table::cells(&gvk, &row["object"], Wall::default());
            compare("cells", &Value::Array(cells), &row["cells"], &mut differences);
        }
    }
    report.entry("table").or_default().add(what, differences);
}

/// What only the server decides.
const SERVER_SIDE: [&str; 16] = [
    ".metadata.uid",
    ".metadata.resourceVersion",
    ".metadata.generation",
    ".metadata.creationTimestamp",
    ".metadata.managedFields",
    ".metadata.namespace",
    ".metadata.name",
    ".spec.clusterIP",
    ".spec.clusterIPs",
    ".spec.ipFamilies",
    ".spec.ipFamilyPolicy",
    ".status",
    ".spec.serviceAccountName",
    ".spec.serviceAccount",
    ".spec.tolerations",
    ".spec.priority",
];

fn compare(path: &str, ours: &Value, theirs: &Value, out: &mut Vec<String>) {
    if SERVER_SIDE.contains(&path) {
        return;
    }
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for k in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let p = format!("{path}.{k}");
                match (a.get(k), b.get(k)) {
                    (Some(x), Some(y)) => compare(&p, x, y, out),
                    (Some(x), None) if !SERVER_SIDE.contains(&p.as_str()) => {
                        out.push(format!("{p}: ours {x}, theirs absent"))
                    }
                    (None, Some(y)) if !SERVER_SIDE.contains(&p.as_str()) => {
                        out.push(format!("{p}: absent, theirs {y}"))
                    }
                    _ => {}
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{i}]"), x, y, out);
            }
        }
        (_, Value::String(s)) if s.starts_with('<') => {}
        _ if ours == theirs => {}
        _ => out.push(format!("{path}: ours {ours}, theirs {theirs}")),
    }
}
