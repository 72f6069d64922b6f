//! Volumes of pods, and the sources that persistent volumes share.

use super::env::{self, Use};
use super::kit::{
    Errors, int, list, one_of, one_of_if_set, or_null, quantity, required, s, set, texts,
};
use super::text;
use crate::path::Path;
use crate::status::FieldError;
use serde_json::Value;
use std::collections::BTreeSet;

/// Sources in the order in which Kubernetes looks for a second one.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "configMap",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
];

/// Checks `volumes` and returns the names of those without findings.
pub(super) fn check<'a>(spec: &'a Value, p: &Path<'_>, e: &mut Errors) -> BTreeSet<&'a str> {
    let all = p.field("volumes");
    let (mut names, mut good) = (BTreeSet::new(), BTreeSet::new());
    for (i, v) in list(spec, "volumes").iter().enumerate() {
        let p = all.index(i);
        let name = s(v, "name");
        let before = e.len();
        if name.is_empty() {
            e.push(FieldError::required(p.field("name"), ""));
        } else {
            texts(e, &p.field("name"), name, text::dns1123_label(name));
        }
        if !names.insert(name) {
            e.push(FieldError::duplicate(p.field("name"), &name.into()));
        }
        source(v, &p, e);
        if e.len() == before {
            good.insert(name);
        }
    }
    good
}

fn source(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let mut found = 0;
    for key in SOURCES {
        let Some(x) = set(v, key) else { continue };
        found += 1;
        if found > 1 {
            let detail = "may not specify more than 1 volume type";
            e.push(FieldError::forbidden(p.field(key), detail));
            continue;
        }
        one(key, x, &p.field(key), e);
    }
    if found == 0 {
        e.push(FieldError::required(p, "must specify a volume type"));
    }
}

/// A source that pods (and some of them, persistent volumes) have.
pub(super) fn one(key: &str, x: &Value, p: &Path<'_>, e: &mut Errors) {
    match key {
        "emptyDir" if quantity(x, "sizeLimit").is_some_and(|q| q.sign() < 0) => {
            let detail = "SizeLimit field must be a valid resource quantity";
            e.push(FieldError::forbidden(p.field("sizeLimit"), detail));
        }
        "hostPath" => host_path(x, p, e),
        "secret" => {
            required(e, p, x, "secretName");
            mode(x, "defaultMode", p, e);
            items(x, p, e);
        }
        "configMap" => {
            required(e, p, x, "name");
            mode(x, "defaultMode", p, e);
            items(x, p, e);
        }
        "nfs" => {
            required(e, p, x, "server");
            required(e, p, x, "path");
            if !s(x, "path").starts_with('/') {
                let detail = "must be an absolute path";
                e.push(FieldError::invalid_str(p.field("path"), s(x, "path"), detail));
            }
        }
        "persistentVolumeClaim" => {
            required(e, p, x, "claimName");
        }
        "downwardAPI" => {
            mode(x, "defaultMode", p, e);
            downward(x, p, e);
        }
        "projected" => projected(x, p, e),
        "csi" => {
            required(e, p, x, "driver");
        }
        "ephemeral" if set(x, "volumeClaimTemplate").is_none() => {
            e.push(FieldError::required(p.field("volumeClaimTemplate"), ""));
        }
        "image" => {
            one_of_if_set(e, p, x, "pullPolicy", &["Always", "IfNotPresent", "Never"]);
        }
        "iscsi" => {
            required(e, p, x, "targetPortal");
            required(e, p, x, "iqn");
        }
        "gitRepo" => {
            required(e, p, x, "repository");
        }
        _ => {}
    }
}

fn host_path(x: &Value, p: &Path<'_>, e: &mut Errors) {
    const TYPES: [&str; 8] = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    if required(e, p, x, "path") {
        no_backsteps(s(x, "path"), &p.field("path"), e);
    }
    if set(x, "type").is_some() {
        one_of(e, p, x, "type", &TYPES);
    }
}

fn mode(x: &Value, key: &str, p: &Path<'_>, e: &mut Errors) {
    if let Some(n) = int(x, key)
        && !(0..=0o777).contains(&n)
    {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        e.push(FieldError::invalid(p.field(key), &n.into(), detail));
    }
}

/// Keys and paths of a config map, a secret or a part of a projection.
fn items(x: &Value, p: &Path<'_>, e: &mut Errors) {
    let all = p.field("items");
    for (i, item) in list(x, "items").iter().enumerate() {
        let p = all.index(i);
        required(e, &p, item, "key");
        if required(e, &p, item, "path") {
            descending(s(item, "path"), &p.field("path"), e);
        }
        mode(item, "mode", &p, e);
    }
}

/// Files of the downward API. Kubernetes names the volume here and not the item.
fn downward(x: &Value, p: &Path<'_>, e: &mut Errors) {
    for item in list(x, "items") {
        if required(e, p, item, "path") {
            descending(s(item, "path"), &p.field("path"), e);
        }
        match (set(item, "fieldRef"), set(item, "resourceFieldRef")) {
            (Some(f), None) => env::field_ref(f, Use::Volume, &p.field("fieldRef"), e),
            (None, Some(r)) => env::resource_ref(r, Use::Volume, &p.field("resourceFieldRef"), e),
            (Some(_), Some(_)) => {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                e.push(FieldError::invalid_str(p, "resource", detail));
            }
            (None, None) => {
                let detail = "one of fieldRef and resourceFieldRef is required";
                e.push(FieldError::required(p.field("fieldRef"), detail));
            }
        }
        mode(item, "mode", p, e);
    }
}

fn projected(x: &Value, p: &Path<'_>, e: &mut Errors) {
    mode(x, "defaultMode", p, e);
    let all = p.field("sources");
    for (i, source) in list(x, "sources").iter().enumerate() {
        let p = all.index(i);
        let mut found = 0;
        for key in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let Some(v) = set(source, key) else { continue };
            found += 1;
            let p = p.field(key);
            if found > 1 {
                e.push(FieldError::forbidden(
                    p,
                    "may not specify more than 1 volume type per source",
                ));
                continue;
            }
            match key {
                "secret" | "configMap" => {
                    required(e, &p, v, "name");
                    items(v, &p, e);
                }
                "downwardAPI" => downward(v, &p, e),
                "serviceAccountToken" => {
                    if int(v, "expirationSeconds").is_some_and(|n| n < 600) {
                        let n = or_null(v, "expirationSeconds");
                        let detail = "may not specify a duration less than 10 minutes";
                        e.push(FieldError::invalid(p.field("expirationSeconds"), n, detail));
                    }
                    if required(e, &p, v, "path") {
                        descending(s(v, "path"), &p.field("path"), e);
                    }
                }
                _ => {}
            }
        }
    }
}

/// A relative path that does not leave its folder; empty is no path.
pub(super) fn descending(path: &str, p: &Path<'_>, e: &mut Errors) {
    if path.starts_with('/') {
        e.push(FieldError::invalid_str(p, path, "must be a relative path"));
    }
    no_backsteps(path, p, e);
}

fn no_backsteps(path: &str, p: &Path<'_>, e: &mut Errors) {
    if path.split('/').any(|part| part == "..") {
        e.push(FieldError::invalid_str(p, path, "must not contain '..'"));
    }
}
