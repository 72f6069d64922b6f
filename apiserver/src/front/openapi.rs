//! OpenAPI v3: the index, and for each group version a document.
//!
//! The schema table's documents come from `pintle_api::openapi`. What that does not know (custom resources) gets a
//! small document with what clients look for before they write: which kinds can be patched, and that the server
//! validates fields itself. KUBECTL.md, section 1, "OpenAPI".

use super::discovery;
use super::special::KUBERNETES_VERSION;
use crate::registry::Endpoint;
use crate::server::Server;
use serde_json::{Map, Value, json};

/// `api/v1` or `apis/apps/v1`.
fn key_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// A hash of what is served in a group version: it changes when the document may have.
pub fn signature(core: &Server, group: &str, version: &str) -> String {
    let mut text = format!("{KUBERNETES_VERSION} {group} {version}");
    for e in core.registry().served().filter(|e| e.group == group && e.version == version) {
        text.push_str(&format!(" {}={}{:?}", e.plural, e.kind, e.verbs));
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|b| format!("{b:02X}")).collect()
}

/// The index at `/openapi/v3`.
pub fn index(core: &Server) -> Value {
    let mut paths = Map::new();
    let mut put = |key: &str, hash: &str| {
        let url = format!("/openapi/v3/{key}?hash={hash}");
        paths.insert(key.into(), json!({"serverRelativeURL": url}));
    };
    for (group, version) in discovery::group_versions(core) {
        let hash = signature(core, &group, &version);
        put(&key_of(&group, &version), &hash);
        if !group.is_empty() {
            put(&format!("apis/{group}"), &hash);
        }
    }
    let hash = signature(core, "", "");
    for key in [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"] {
        put(key, &hash);
    }
    json!({"paths": paths})
}

/// The v2 document as JSON: that there are no definitions. Clients that still ask for v2 (kubectl before 1.27, and
/// newer ones for kinds that v3 lacks) skip their own validation of kinds that it does not define; the server
/// validates fields itself.
pub fn v2_json() -> Value {
    json!({
        "swagger": "2.0", "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
        "paths": {}, "definitions": {},
    })
}

/// The same as a protobuf message `openapi.v2.Document` (gnostic's OpenAPIv2.proto: swagger 1, info 2 with title 1
/// and version 2, paths 8, definitions 9), which is what kubectl takes.
pub fn v2_protobuf() -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        // Every length here is far below 128: one byte each.
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap_or(0)];
        out.extend_from_slice(bytes);
        out
    };
    let info = [field(1, b"Kubernetes"), field(2, KUBERNETES_VERSION.as_bytes())].concat();
    [field(1, b"2.0"), field(2, &info), field(8, &[]), field(9, &[])].concat()
}

/// What a path below `/openapi/v3/` documents.
pub fn document(core: &Server, key: &str) -> Option<Value> {
    let (group, version) = match key.split_once('/') {
        Some(("api", version)) => ("", version),
        Some(("apis", rest)) => match rest.split_once('/') {
            Some(found) => found,
            None => return plain(core, key),
        },
        _ => return plain(core, key),
    };
    let served = discovery::group_versions(core);
    if !served.iter().any(|(g, v)| g == group && v == version) {
        return None;
    }
    let known = pintle_api::openapi::document(group, version);
    if known.is_object() {
        return Some(known);
    }
    let mut paths = Map::new();
    for e in core.registry().served().filter(|e| e.group == group && e.version == version) {
        resource_paths(e, &mut paths);
    }
    Some(wrap(paths))
}

// Documents of paths that are no group version: they only say that the path can be read.
fn plain(core: &Server, key: &str) -> Option<Value> {
    let known = match key {
        ".well-known/openid-configuration" | "api" | "apis" | "openid/v1/jwks" | "version" => true,
        _ => {
            let group = key.strip_prefix("apis/")?;
            discovery::group_versions(core).iter().any(|(g, _)| g == group)
        }
    };
    let get = json!({"get": {"responses": {"200": {"description": "OK"}}}});
    known.then(|| wrap(Map::from_iter([(format!("/{key}/"), get)])))
}

fn wrap(paths: Map<String, Value>) -> Value {
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
        "paths": paths, "components": {"schemas": {}},
    })
}

fn query_parameters(names: &[&str]) -> Vec<Value> {
    let one = |name: &&str| {
        let kind = if *name == "force" { "boolean" } else { "string" };
        json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
    };
    names.iter().map(one).collect()
}

fn resource_paths(e: &Endpoint, paths: &mut Map<String, Value>) {
    let gvk = json!({"group": e.group, "version": e.version, "kind": e.kind});
    let base = format!("/{}", key_of(&e.group, &e.version));
    let scope = if e.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", e.plural);
    let mut one = Map::new();
    let mut many = Map::new();
    for verb in &e.verbs {
        let (method, at_one, parameters): (_, _, &[&str]) = match verb.as_str() {
            "get" => ("get", true, &[]),
            "list" => ("get", false, &["labelSelector", "fieldSelector", "limit", "continue"]),
            "create" => ("post", false, &["dryRun", "fieldManager", "fieldValidation"]),
            "update" => ("put", true, &["dryRun", "fieldManager", "fieldValidation"]),
            "patch" => ("patch", true, &["dryRun", "fieldManager", "fieldValidation", "force"]),
            "delete" => ("delete", true, &["dryRun", "gracePeriodSeconds", "propagationPolicy"]),
            _ => continue,
        };
        let operation = json!({
            "parameters": query_parameters(parameters), "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": verb, "x-kubernetes-group-version-kind": gvk,
        });
        let place = if at_one { &mut one } else { &mut many };
        place.insert(method.into(), operation);
    }
    if !one.is_empty() {
        paths.insert(format!("{collection}/{{name}}"), Value::Object(one));
    }
    if !many.is_empty() {
        paths.insert(collection, Value::Object(many));
    }
}
