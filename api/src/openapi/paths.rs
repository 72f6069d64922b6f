//! Paths and operations of a resource.

use super::reference;
use crate::Gvk;
use crate::resources::Resource;
use crate::schema::{self, Def};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const WRITE: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// Adds the paths of `r` and its subresources; the definitions that they speak of go to `roots`.
pub(super) fn of(r: &Resource, out: &mut Map<String, Value>, roots: &mut BTreeSet<Def>) {
    let base = match r.group {
        "" => format!("/api/{}", r.version),
        group => format!("/apis/{group}/{}", r.version),
    };
    let scope = if r.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", r.plural);
    let list_kind = r.list_kind();
    let list = Gvk::new(r.group, r.version, &list_kind);
    let (mut many, mut one) = (path_item(r.namespaced, false), path_item(r.namespaced, true));
    for verb in r.verbs {
        let make = |body: Option<Gvk<'_>>, roots: &mut _| operation(r, "", verb, body, roots);
        match *verb {
            "list" => put(&mut many, "get", make(Some(list), roots)),
            "create" => put(&mut many, "post", make(Some(r.gvk()), roots)),
            "deletecollection" => put(&mut many, "delete", make(None, roots)),
            "get" => put(&mut one, "get", make(Some(r.gvk()), roots)),
            "update" => put(&mut one, "put", make(Some(r.gvk()), roots)),
            "patch" => put(&mut one, "patch", make(Some(r.gvk()), roots)),
            "delete" => put(&mut one, "delete", make(None, roots)),
            _ => {}
        }
    }
    if r.has_verb("list") && r.namespaced {
        let mut all = path_item(false, false);
        put(&mut all, "get", operation(r, "ForAllNamespaces", "list", Some(list), roots));
        out.insert(format!("{base}/{}", r.plural), Value::Object(all));
    }
    if r.has_verb("get") {
        out.insert(format!("{collection}/{{name}}"), Value::Object(one));
    }
    out.insert(collection.clone(), Value::Object(many));
    for s in r.subresources {
        let mut item = path_item(r.namespaced, true);
        let body = Gvk::new(s.group, s.version, s.kind);
        for verb in s.verbs {
            let method = match *verb {
                "create" => "post",
                "update" => "put",
                other => other,
            };
            let body = schema::find(&body).map(|_| body);
            let camel: String = s.name.split('-').map(capital).collect();
            put(&mut item, method, operation(r, &camel, verb, body, roots));
        }
        out.insert(format!("{collection}/{{name}}/{}", s.name), Value::Object(item));
    }
}

fn put(item: &mut Map<String, Value>, method: &str, operation: Value) {
    item.insert(method.to_owned(), operation);
}

/// A path with its parameters.
fn path_item(namespaced: bool, named: bool) -> Map<String, Value> {
    let parameter =
        |n: &str| json!({"name": n, "in": "path", "required": true, "schema": {"type": "string"}});
    let mut parameters = Vec::new();
    if named {
        parameters.push(parameter("name"));
    }
    if namespaced {
        parameters.push(parameter("namespace"));
    }
    let mut item = Map::new();
    if !parameters.is_empty() {
        item.insert("parameters".to_owned(), Value::Array(parameters));
    }
    item
}

fn capital(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// `createAppsV1NamespacedDeployment`, as the generators of client libraries expect it.
fn operation_id(r: &Resource, part: &str, verb: &str) -> String {
    let verb = match verb {
        "get" => "read",
        "update" => "replace",
        "deletecollection" => "deleteCollection",
        other => other,
    };
    let group = r.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core");
    let scope = if r.namespaced && part != "ForAllNamespaces" { "Namespaced" } else { "" };
    format!("{verb}{}{}{scope}{}{part}", capital(group), capital(r.version), r.kind)
}

fn operation(
    r: &Resource,
    part: &str,
    verb: &str,
    body: Option<Gvk<'_>>,
    roots: &mut BTreeSet<Def>,
) -> Value {
    let def = body.and_then(|g| schema::find(&g));
    roots.extend(def);
    let content = |types: &[&str], schema: &Value| {
        let of_type = |t: &&str| ((*t).to_owned(), json!({"schema": schema}));
        Value::Object(types.iter().map(of_type).collect())
    };
    let schema = def.map_or_else(|| json!({"type": "string"}), |d| reference(d.name()));
    let kind = body.filter(|_| verb != "list").unwrap_or(r.gvk());
    let mut out = json!({
        "operationId": operation_id(r, part, verb),
        "tags": [format!("{}_{}", r.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core"), r.version)],
        "x-kubernetes-action": action(verb),
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "responses": {
            "200": {"description": "OK", "content": content(&["application/json", "application/yaml"], &schema)},
            "401": {"description": "Unauthorized"},
        },
    });
    let mut parameters: Vec<(&str, &str)> = match verb {
        "create" | "update" => WRITE.to_vec(),
        "patch" => [WRITE, &[("force", "boolean")]].concat(),
        "list" => LIST.to_vec(),
        "delete" => DELETE.to_vec(),
        "deletecollection" => [DELETE, LIST].concat(),
        _ => Vec::new(),
    };
    parameters.push(("pretty", "string"));
    let parameter = |(n, t): &(&str, &str)| json!({"name": n, "in": "query", "schema": {"type": t, "uniqueItems": true}});
    out["parameters"] = parameters.iter().map(parameter).collect();
    match verb {
        "create" | "update" => {
            out["requestBody"] = json!({"required": true, "content": content(&["*/*"], &schema)});
        }
        "patch" => {
            let patch = reference("io.k8s.apimachinery.pkg.apis.meta.v1.Patch");
            out["requestBody"] =
                json!({"required": true, "content": content(&PATCH_TYPES, &patch)});
        }
        "delete" | "deletecollection" => {
            if let Some(d) = schema::find(&Gvk::new("", "v1", "DeleteOptions")) {
                roots.insert(d);
                out["requestBody"] = json!({"content": content(&["*/*"], &reference(d.name()))});
            }
        }
        _ => {}
    }
    out
}

fn action(verb: &str) -> &str {
    match verb {
        "create" => "post",
        "update" => "put",
        other => other,
    }
}
