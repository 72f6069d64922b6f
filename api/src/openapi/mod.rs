//! OpenAPI v3 documents, a group version each, generated from the table.
//!
//! Good for what clients look up: that PATCH of a kind takes `fieldValidation` (kubectl then leaves
//! validation to the server), the schemas that `kubectl explain` walks, list and patch facts. Descriptions
//! are not in the table.

use crate::resources;
use crate::schema::Def;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

mod paths;
mod schemas;

/// The document of one group version; null when the table serves nothing in it.
pub fn document(group: &str, version: &str) -> Value {
    let served: Vec<_> =
        resources::all().filter(|r| r.group == group && r.version == version).collect();
    if served.is_empty() {
        return Value::Null;
    }
    let (mut all_paths, mut roots) = (Map::new(), BTreeSet::new());
    for r in served {
        paths::of(r, &mut all_paths, &mut roots);
    }
    let mut all_schemas = Map::new();
    let mut open: Vec<Def> = roots.into_iter().collect();
    while let Some(def) = open.pop() {
        if !all_schemas.contains_key(def.name()) {
            all_schemas.insert(def.name().to_owned(), schemas::of(def, &mut open));
        }
    }
    schemas::add_simple(&mut all_schemas);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.2"},
        "paths": all_paths,
        "components": {"schemas": all_schemas},
    })
}

/// A reference to a definition.
fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gvk;

    #[test]
    fn kubectl_finds_what_it_looks_for() {
        let d = document("apps", "v1");
        let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
        let patch = &d["paths"][path]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "version": "v1", "kind": "Deployment"})
        );
        let parameters = patch["parameters"].as_array().unwrap();
        assert!(parameters.iter().any(|p| p["name"] == "fieldValidation" && p["in"] == "query"));
        let s = &d["components"]["schemas"];
        assert_eq!(
            s["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"][0]["kind"],
            "Deployment"
        );
        let containers = &s["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert!(d["paths"][format!("{path}/scale")]["put"].is_object());
    }

    /// Every reference leads somewhere, in every document.
    #[test]
    fn references_are_whole() {
        for (group, version) in resources::group_versions() {
            let d = document(group, version);
            let text = d.to_string();
            for piece in text.split("#/components/schemas/").skip(1) {
                let name = piece.split('"').next().unwrap();
                assert!(d["components"]["schemas"][name].is_object(), "{group}/{version} {name}");
            }
            for r in resources::all().filter(|r| r.group == group && r.version == version) {
                let def = crate::schema::find(&Gvk::new(group, version, r.kind)).unwrap();
                assert!(d["components"]["schemas"][def.name()].is_object());
            }
        }
        assert_eq!(document("nope", "v1"), Value::Null);
    }
}
