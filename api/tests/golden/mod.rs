//! Plays recorded requests through the crate.

use pintle_api::{Gvk, decode, default, resources, table};
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
        for (i, step) in scenario["steps"].as_array().unwrap().iter().enumerate() {
            let what = format!("{name}#{i}");
            creates(&mut report, &what, step);
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
