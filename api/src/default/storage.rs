//! Volumes, claims, classes.

use super::{Object, in_made, in_map, put, rest};
use serde_json::{Value, json};

/// What volume sources share between pods and persistent volumes.
pub(super) fn source(v: &mut Object) {
    in_map(v, "hostPath", |h| {
        if h.get("type").is_none_or(Value::is_null) {
            h.insert("type".to_owned(), "".into());
        }
    });
    in_map(v, "iscsi", |i| put(i, "iscsiInterface", "default"));
    in_map(v, "rbd", |r| {
        put(r, "pool", "rbd");
        put(r, "user", "admin");
        put(r, "keyring", "/etc/ceph/keyring");
    });
    in_map(v, "azureDisk", |a| {
        put(a, "cachingMode", "ReadWrite");
        put(a, "kind", "Shared");
        put(a, "fsType", "ext4");
        put(a, "readOnly", false);
    });
    in_map(v, "scaleIO", |s| {
        put(s, "storageMode", "ThinProvisioned");
        put(s, "fsType", "xfs");
    });
}

pub(super) fn volume(o: &mut Object) {
    in_made(o, "status", |s| put(s, "phase", "Pending"));
    in_map(o, "spec", |s| {
        put(s, "persistentVolumeReclaimPolicy", "Retain");
        put(s, "volumeMode", "Filesystem");
        rest::resource_list(s, "capacity");
        source(s);
    });
}

pub(super) fn claim(o: &mut Object) {
    in_made(o, "status", |s| put(s, "phase", "Pending"));
    in_map(o, "spec", claim_spec);
}

pub(super) fn claim_spec(s: &mut Object) {
    data_source(s);
    put(s, "volumeMode", "Filesystem");
    in_map(s, "resources", |r| {
        rest::resource_list(r, "limits");
        rest::resource_list(r, "requests");
    });
}

/// A claim's source in its old and its new form; an old one of another kind is dropped.
fn data_source(s: &mut Object) {
    if let (Some(source), None) = (s.get("dataSource").cloned(), s.get("dataSourceRef")) {
        let part = |k: &str| source.get(k).and_then(Value::as_str).unwrap_or("");
        match (part("apiGroup"), part("kind")) {
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot") => {
                s.insert("dataSourceRef".to_owned(), source);
            }
            _ => {
                s.remove("dataSource");
            }
        }
    } else if let (None, Some(source)) = (s.get("dataSource"), s.get("dataSourceRef").cloned())
        && source.get("namespace").is_none_or(Value::is_null)
        && matches!(
            (source["apiGroup"].as_str().unwrap_or(""), source["kind"].as_str().unwrap_or("")),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    {
        s.insert("dataSource".to_owned(), source);
    }
}

pub(super) fn class(o: &mut Object) {
    put(o, "reclaimPolicy", "Delete");
    put(o, "volumeBindingMode", "Immediate");
}

pub(super) fn csi_driver(o: &mut Object) {
    in_map(o, "spec", |s| {
        put(s, "attachRequired", true);
        put(s, "podInfoOnMount", false);
        put(s, "storageCapacity", false);
        put(s, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        put(s, "requiresRepublish", false);
        put(s, "seLinuxMount", false);
        put(s, "volumeLifecycleModes", json!(["Persistent"]));
    });
}
