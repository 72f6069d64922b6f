//! Persistent volumes, claims, classes.

use super::kit::{
    Errors, equal, list, map, one_of, optional_text, or_null, quantity, required, s, selector, set,
    texts,
};
use super::{scheduling, text, volumes};
use crate::path::Path;
use crate::status::FieldError;
use serde_json::Value;

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const SOURCES: [&str; 23] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
    "image",
];

fn access_modes(v: &Value, detail: &str, p: &Path<'_>, e: &mut Errors) {
    let at = p.field("accessModes");
    let modes = list(v, "accessModes");
    if modes.is_empty() {
        e.push(FieldError::required(at, detail));
    }
    let (mut alone, mut other) = (false, false);
    for m in modes.iter().filter_map(Value::as_str) {
        if MODES.contains(&m) {
            alone |= m == "ReadWriteOncePod";
            other |= m != "ReadWriteOncePod";
        } else {
            e.push(FieldError::not_supported(at, m, &MODES));
        }
    }
    if alone && other {
        let detail = "may not use ReadWriteOncePod with other access modes";
        e.push(FieldError::forbidden(at, detail));
    }
}

fn volume_mode(v: &Value, p: &Path<'_>, e: &mut Errors) {
    if set(v, "volumeMode").is_some() {
        one_of(e, p, v, "volumeMode", &["Block", "Filesystem"]);
    }
}

pub(super) fn volume(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    access_modes(v, "", &p, e);
    capacity(v, &p, e);
    match s(v, "persistentVolumeReclaimPolicy") {
        "" => {}
        _ => {
            let good = ["Delete", "Recycle", "Retain"];
            one_of(e, &p, v, "persistentVolumeReclaimPolicy", &good);
        }
    }
    if let Some(r) = set(v, "nodeAffinity") {
        let at = p.field("nodeAffinity");
        match set(r, "required") {
            Some(n) => scheduling::node_selector(n, &at.field("required"), e),
            None => e.push(FieldError::required(
                at.field("required"),
                "must specify required node constraints",
            )),
        }
    }
    source(v, &p, e);
    let recycled = s(v, "persistentVolumeReclaimPolicy") == "Recycle";
    if recycled && set(v, "hostPath").is_some_and(|h| s(h, "path").trim_end_matches('/').is_empty())
    {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        e.push(FieldError::forbidden(p.field("persistentVolumeReclaimPolicy"), detail));
    }
    optional_text(e, &p, v, "storageClassName", text::dns1123_subdomain);
    volume_mode(v, &p, e);
}

fn capacity(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let at = p.field("capacity");
    let given = map(v, "capacity");
    let count = given.map_or(0, |m| m.len());
    if count == 0 {
        e.push(FieldError::required(at, ""));
    }
    if given.is_none_or(|m| !m.contains_key("storage") || m.len() > 1) {
        let shown = if count == 0 { "null".to_owned() } else { or_null(v, "capacity").to_string() };
        let mut f = FieldError::not_supported(at, "", &["storage"]);
        f.body = f.body.replacen("\"\"", &shown, 1);
        e.push(f);
    }
    for (k, x) in given.into_iter().flatten() {
        let text = x.as_str().unwrap_or("");
        let Some(q) = crate::quantity::Quantity::parse(text) else { continue };
        if q.sign() < 0 {
            let detail = "must be a valid resource quantity";
            e.push(FieldError::invalid_shown(at.key(k), &q.value().to_string(), detail));
        }
        if k == "storage" && q.sign() <= 0 {
            e.push(FieldError::invalid_str(at.key(k), text, "must be greater than zero"));
        }
    }
}

fn source(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let mut found = 0;
    for key in SOURCES {
        let Some(x) = set(v, key) else { continue };
        found += 1;
        let at = p.field(key);
        if found > 1 {
            e.push(FieldError::forbidden(at, "may not specify more than 1 volume type"));
            continue;
        }
        match key {
            "csi" => {
                required(e, &at, x, "driver");
                required(e, &at, x, "volumeHandle");
            }
            "local" => {
                required(e, &at, x, "path");
                if set(v, "nodeAffinity").is_none() {
                    let detail = "Local volume requires node affinity";
                    e.push(FieldError::required(p.field("nodeAffinity"), detail));
                }
            }
            other => volumes::one(other, x, &at, e),
        }
    }
    if found == 0 {
        e.push(FieldError::required(p, "must specify a volume type"));
    }
}

pub(super) fn update_volume(new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let (n, o) = (or_null(new, "spec"), or_null(old, "spec"));
    if SOURCES.iter().any(|k| !equal(or_null(n, k), or_null(o, k))) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        e.push(FieldError::forbidden(p.field("persistentvolumesource"), detail));
    }
    // Kubernetes leaves the spec out of this path.
    super::kit::immutable(e, &root, n, o, "volumeMode");
}

pub(super) fn claim(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    access_modes(v, "at least 1 access mode is required", &p, e);
    if let Some(x) = set(v, "selector") {
        selector(e, &p.field("selector"), x);
    }
    let at = p.field("resources");
    let requests = crate::object::at(v, &["resources", "requests"]).unwrap_or(&Value::Null);
    match quantity(requests, "storage") {
        None => e.push(FieldError::required(at.key("storage"), "")),
        Some(q) => {
            if q.sign() <= 0 {
                let shown = q.canonical();
                e.push(FieldError::invalid_str(
                    at.key("storage"),
                    &shown,
                    "must be greater than zero",
                ));
            }
        }
    }
    optional_text(e, &p, v, "storageClassName", text::dns1123_subdomain);
    volume_mode(v, &p, e);
}

pub(super) fn update_claim(new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let (n, o) = (or_null(new, "spec"), or_null(old, "spec"));
    let mut masked = n.clone();
    // A claim may be bound, and then grow.
    if s(o, "volumeName").is_empty() {
        crate::object::set(&mut masked, &["volumeName"], or_null(o, "volumeName").clone());
    }
    let bound = s(or_null(old, "status"), "phase") == "Bound";
    if bound {
        let was = crate::object::at(o, &["resources", "requests"]).cloned().unwrap_or(Value::Null);
        crate::object::set(&mut masked, &["resources", "requests"], was);
        let was = or_null(o, "volumeAttributesClassName").clone();
        crate::object::set(&mut masked, &["volumeAttributesClassName"], was);
    }
    if set(o, "storageClassName").is_none() {
        crate::object::set(
            &mut masked,
            &["storageClassName"],
            or_null(o, "storageClassName").clone(),
        );
    }
    if !equal(&masked, o) {
        let detail = "spec is immutable after creation except resources.requests and \
                      volumeAttributesClassName for bound claims";
        e.push(FieldError::forbidden(p, detail));
    }
    let asked = |v: &Value| {
        quantity(
            crate::object::at(v, &["resources", "requests"]).unwrap_or(&Value::Null),
            "storage",
        )
    };
    if let (true, Some(a), Some(b)) = (bound, asked(n), asked(o))
        && a.nanos() < b.nanos()
    {
        let detail = "field can not be less than status.capacity";
        let at = p.field("resources");
        let at = at.field("requests");
        e.push(FieldError::forbidden(at.field("storage"), detail));
    }
    super::kit::immutable(e, &root, n, o, "volumeMode");
}

pub(super) fn class(o: &Value, e: &mut Errors) {
    let root = Path::root();
    if required(e, &root, o, "provisioner") {
        let provisioner = s(o, "provisioner");
        let complaints = text::qualified_name(&provisioner.to_lowercase());
        texts(e, &root.field("provisioner"), provisioner, complaints);
    }
    let parameters = map(o, "parameters");
    if parameters.is_some_and(|m| m.keys().any(String::is_empty)) {
        e.push(FieldError::invalid_str(root.field("parameters"), "", "field can not be empty."));
    }
    if set(o, "reclaimPolicy").is_some() {
        one_of(e, &root, o, "reclaimPolicy", &["Delete", "Retain"]);
    }
    match set(o, "volumeBindingMode") {
        None => e.push(FieldError::required(root.field("volumeBindingMode"), "")),
        Some(_) => one_of(e, &root, o, "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"]),
    }
    let all = root.field("allowedTopologies");
    for (i, t) in list(o, "allowedTopologies").iter().enumerate() {
        let p = all.index(i);
        let p = p.field("matchLabelExpressions");
        for (j, x) in list(t, "matchLabelExpressions").iter().enumerate() {
            let p = p.index(j);
            if list(x, "values").is_empty() {
                e.push(FieldError::required(p.field("values"), ""));
            }
            texts(e, &p.field("key"), s(x, "key"), text::qualified_name(s(x, "key")));
        }
    }
}

pub(super) fn update_class(new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    for key in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        super::kit::immutable(e, &root, new, old, key);
    }
}

pub(super) fn csi_driver(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    for key in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
        if set(v, key).is_none() {
            e.push(FieldError::required(p.field(key), ""));
        }
    }
    let at = p.field("volumeLifecycleModes");
    for m in list(v, "volumeLifecycleModes").iter().filter_map(Value::as_str) {
        if !["Ephemeral", "Persistent"].contains(&m) {
            e.push(FieldError::not_supported(at, m, &["Ephemeral", "Persistent"]));
        }
    }
}

pub(super) fn attachment(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    required(e, &p, v, "attacher");
    required(e, &p, v, "nodeName");
    let source = or_null(v, "source");
    let (inline, name) = (set(source, "inlineVolumeSpec"), set(source, "persistentVolumeName"));
    let at = p.field("source");
    match (inline, name) {
        (None, None) => {
            let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            e.push(FieldError::required(at, detail));
        }
        (Some(_), Some(_)) => {
            let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            e.push(FieldError::forbidden(at, detail));
        }
        _ => {}
    }
}
