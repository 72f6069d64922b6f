//! Discovery documents: which groups, versions and resources there are, legacy and aggregated.
//!
//! References: KEP-3352 (aggregated discovery); the recorded documents of the real server.

use crate::registry::Endpoint;
use crate::server::Server;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// All resources that are served, by group version in discovery's order.
fn served(core: &Server) -> impl Iterator<Item = &Endpoint> {
    core.registry().served()
}

/// The (group, version) pairs that are served, core first, preferred version first within a group.
pub fn group_versions(core: &Server) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for r in served(core) {
        if !all.iter().any(|(g, v)| *g == r.group && *v == r.version) {
            all.push((r.group.clone(), r.version.clone()));
        }
    }
    all
}

// Groups in order, each with its versions in order of preference.
fn groups(core: &Server) -> Vec<(String, Vec<String>)> {
    let mut out: Vec<(String, Vec<String>)> = Vec::new();
    for (group, version) in group_versions(core) {
        match out.iter_mut().find(|(g, _)| *g == group) {
            Some((_, versions)) => versions.push(version),
            None => out.push((group, vec![version])),
        }
    }
    for (_, versions) in &mut out {
        versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
    }
    out
}

// v2 before v1, v1 before v1beta1 before v1alpha1.
fn version_rank(version: &str) -> (u8, u32, u32) {
    let digits = |s: &str| s.chars().take_while(char::is_ascii_digit).collect::<String>();
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let major = digits(rest);
    let tail = &rest[major.len()..];
    let number = |s: &str| s.parse().unwrap_or(0);
    if tail.is_empty() {
        (3, number(&major), 0)
    } else if let Some(beta) = tail.strip_prefix("beta") {
        (2, number(&major), number(beta))
    } else if let Some(alpha) = tail.strip_prefix("alpha") {
        (1, number(&major), number(alpha))
    } else {
        (0, 0, 0)
    }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.into() } else { format!("{group}/{version}") }
}

/// `/api`.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

fn group_value(group: &str, versions: &[String]) -> Value {
    let list: Vec<Value> = versions
        .iter()
        .map(|v| json!({"groupVersion": group_version(group, v), "version": v}))
        .collect();
    let preferred = list.first().cloned().unwrap_or(Value::Null);
    json!({"name": group, "versions": list, "preferredVersion": preferred})
}

/// `/apis`.
pub fn api_group_list(core: &Server) -> Value {
    let groups: Vec<Value> = groups(core)
        .iter()
        .filter(|(g, _)| !g.is_empty())
        .map(|(g, v)| group_value(g, v))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub fn api_group(core: &Server, group: &str) -> Option<Value> {
    let all = groups(core);
    let (_, versions) = all.iter().find(|(g, _)| g == group && !g.is_empty())?;
    let mut v = group_value(group, versions);
    v["kind"] = "APIGroup".into();
    v["apiVersion"] = "v1".into();
    Some(v)
}

/// `/api/v1`, `/apis/GROUP/VERSION`.
pub fn api_resource_list(core: &Server, group: &str, version: &str) -> Option<Value> {
    let mut list: Vec<(String, Value)> = Vec::new();
    for r in served(core).filter(|r| r.group == group && r.version == version) {
        list.push((r.plural.clone(), resource_value(core, r)));
        for s in &r.subresources {
            let name = format!("{}/{}", r.plural, s.name);
            let mut v = json!({
                "name": name, "singularName": "", "namespaced": r.namespaced, "kind": s.kind, "verbs": s.verbs,
            });
            if (&s.group, &s.version) != (&r.group, &r.version) {
                v["group"] = s.group.as_str().into();
                v["version"] = s.version.as_str().into();
            }
            list.push((name, v));
        }
    }
    if list.is_empty() {
        return None;
    }
    list.sort_by(|a, b| a.0.cmp(&b.0));
    let resources: Vec<Value> = list.into_iter().map(|(_, v)| v).collect();
    let mut v = json!({
        "kind": "APIResourceList", "groupVersion": group_version(group, version), "resources": resources,
    });
    if !group.is_empty() {
        v["apiVersion"] = "v1".into();
    }
    Some(v)
}

fn resource_value(core: &Server, r: &Endpoint) -> Value {
    let mut v = json!({
        "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind, "verbs": r.verbs,
    });
    if !r.short_names.is_empty() {
        v["shortNames"] = json!(r.short_names);
    }
    if !r.categories.is_empty() {
        v["categories"] = json!(r.categories);
    }
    if r.verbs.iter().any(|v| v == "watch") {
        let stored = core.registry().resource(r.resource);
        let (group, plural) = (&stored.group, &stored.plural);
        let digest = ring::digest::digest(
            &ring::digest::SHA256,
            format!("{group}/{plural}/{}", r.kind).as_bytes(),
        );
        v["storageVersionHash"] = STANDARD.encode(&digest.as_ref()[..8]).into();
    }
    v
}

/// The aggregated form of `/api` (core) or `/apis` (all other groups); `version` is that of
/// `apidiscovery.k8s.io`.
pub fn aggregated(core: &Server, core_group: bool, version: &str) -> Value {
    let items: Vec<Value> = groups(core)
        .iter()
        .filter(|(g, _)| g.is_empty() == core_group)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|v| {
                    json!({
                        "version": v, "resources": aggregated_resources(core, group, v), "freshness": "Current",
                    })
                })
                .collect();
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items,
    })
}

fn aggregated_resources(core: &Server, group: &str, version: &str) -> Vec<Value> {
    let mut list: Vec<&Endpoint> =
        served(core).filter(|r| r.group == group && r.version == version).collect();
    list.sort_by(|a, b| a.plural.cmp(&b.plural));
    list.into_iter()
        .map(|r| {
            let mut v = Map::new();
            v.insert("resource".into(), r.plural.as_str().into());
            v.insert("responseKind".into(), json!({"group": "", "version": "", "kind": r.kind}));
            let scope = if r.namespaced { "Namespaced" } else { "Cluster" };
            v.insert("scope".into(), scope.into());
            v.insert("singularResource".into(), r.singular.as_str().into());
            v.insert("verbs".into(), json!(r.verbs));
            if !r.short_names.is_empty() {
                v.insert("shortNames".into(), json!(r.short_names));
            }
            if !r.categories.is_empty() {
                v.insert("categories".into(), json!(r.categories));
            }
            let mut subs: Vec<_> = r.subresources.iter().collect();
            subs.sort_by(|a, b| a.name.cmp(&b.name));
            let subs: Vec<Value> = subs
                .into_iter()
                .map(|s| {
                    let own = (&s.group, &s.version) != (&r.group, &r.version);
                    let (g, ver) =
                        if own { (s.group.as_str(), s.version.as_str()) } else { ("", "") };
                    json!({
                        "subresource": s.name,
                        "responseKind": {"group": g, "version": ver, "kind": s.kind},
                        "verbs": s.verbs,
                    })
                })
                .collect();
            if !subs.is_empty() {
                v.insert("subresources".into(), Value::Array(subs));
            }
            Value::Object(v)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ranked_as_kubernetes_ranks_them() {
        let mut v = ["v1beta1", "v1", "v2alpha1", "v10", "v2", "foo", "v1beta2"];
        v.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
        assert_eq!(v, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v2alpha1", "foo"]);
    }
}
