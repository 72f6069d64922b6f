//! Rows of storage.k8s.io, persistent volumes and claims.

use super::Cells;
use crate::object::{self, bool_at, str_at};
use serde_json::Value;

pub(super) fn cells(kind: &str, c: &Cells<'_>) -> Option<Vec<Value>> {
    let spec_bool = |k: &str| Value::from(bool_at(c.o, &["spec", k]));
    Some(match kind {
        "StorageClass" => {
            let default = ["", "beta."].iter().any(|v| {
                let key = format!("storageclass.{v}kubernetes.io/is-default-class");
                object::annotation(c.o, &key) == Some("true")
            });
            let name = object::name(c.o);
            let name = if default { format!("{name} (default)") } else { name.to_owned() };
            vec![
                name.into(),
                c.str(&["provisioner"]),
                c.str(&["reclaimPolicy"]),
                c.str(&["volumeBindingMode"]),
                bool_at(c.o, &["allowVolumeExpansion"]).into(),
                c.age(),
            ]
        }
        "VolumeAttachment" => vec![
            c.name(),
            c.str(&["spec", "attacher"]),
            c.str(&["spec", "source", "persistentVolumeName"]),
            c.str(&["spec", "nodeName"]),
            bool_at(c.o, &["status", "attached"]).into(),
            c.age(),
        ],
        "VolumeAttributesClass" => {
            let class = "storageclass.kubernetes.io/is-default-class";
            let default = object::annotation(c.o, class) == Some("true");
            let name = object::name(c.o);
            let name = if default { format!("{name} (default)") } else { name.to_owned() };
            vec![name.into(), c.str(&["driverName"]), c.age()]
        }
        "CSINode" => vec![c.name(), c.len(&["spec", "drivers"]).into(), c.age()],
        "CSIDriver" => {
            let join = |steps: &[&str], of: &dyn Fn(&Value) -> String| {
                let all: Vec<String> = c.list(steps).iter().map(of).collect();
                if all.is_empty() { "<unset>".to_owned() } else { all.join(",") }
            };
            let tokens = join(&["spec", "tokenRequests"], &|t| str_at(t, &["audience"]).to_owned());
            let modes =
                join(&["spec", "volumeLifecycleModes"], &|m| m.as_str().unwrap_or("").to_owned());
            vec![
                c.name(),
                spec_bool("attachRequired"),
                spec_bool("podInfoOnMount"),
                spec_bool("storageCapacity"),
                tokens.into(),
                spec_bool("requiresRepublish"),
                modes.into(),
                c.age(),
            ]
        }
        "CSIStorageCapacity" => {
            vec![c.name(), c.str(&["storageClassName"]), c.str(&["capacity"])]
        }
        _ => return None,
    })
}

/// `RWO,ROX`.
fn access_modes(list: &[Value]) -> Value {
    const MODES: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |m: &str| list.iter().any(|v| v.as_str() == Some(m));
    let short: Vec<&str> = MODES.iter().filter(|(m, _)| has(m)).map(|(_, s)| *s).collect();
    short.join(",").into()
}

fn class(c: &Cells<'_>) -> Value {
    let beta = object::annotation(c.o, "volume.beta.kubernetes.io/storage-class");
    beta.unwrap_or_else(|| c.text(&["spec", "storageClassName"])).into()
}

fn phase(c: &Cells<'_>) -> Value {
    if object::is_deleting(c.o) { "Terminating".into() } else { c.str(&["status", "phase"]) }
}

pub(super) fn volume(c: &Cells<'_>) -> Vec<Value> {
    let claim = match c.text(&["spec", "claimRef", "name"]) {
        "" => String::new(),
        name => format!("{}/{name}", c.text(&["spec", "claimRef", "namespace"])),
    };
    vec![
        c.name(),
        c.or(&["spec", "capacity", "storage"], "0"),
        access_modes(c.list(&["spec", "accessModes"])),
        c.str(&["spec", "persistentVolumeReclaimPolicy"]),
        phase(c),
        claim.into(),
        class(c),
        c.or(&["spec", "volumeAttributesClassName"], "<unset>"),
        c.str(&["status", "reason"]),
        c.age(),
        c.or(&["spec", "volumeMode"], "<unset>"),
    ]
}

pub(super) fn claim(c: &Cells<'_>) -> Vec<Value> {
    let bound = !c.text(&["spec", "volumeName"]).is_empty();
    let (capacity, modes) = if bound {
        let capacity = c.or(&["status", "capacity", "storage"], "0");
        (capacity, access_modes(c.list(&["status", "accessModes"])))
    } else {
        ("".into(), "".into())
    };
    vec![
        c.name(),
        phase(c),
        c.str(&["spec", "volumeName"]),
        capacity,
        modes,
        class(c),
        c.or(&["spec", "volumeAttributesClassName"], "<unset>"),
        c.age(),
        c.or(&["spec", "volumeMode"], "<unset>"),
    ]
}
