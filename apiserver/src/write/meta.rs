//! metadata: what the server sets, keeps and checks on every object.

use pintle_api::object;
use pintle_api::status::FieldError;
use pintle_base::{Prng, Wall};
use serde_json::{Map, Value};

use crate::limits;
use crate::registry::Endpoint;
use crate::status::{Failure, Result};

/// The metadata map, made when it is missing.
pub(crate) fn of(v: &mut Value) -> &mut Map<String, Value> {
    object::map_mut(v, &["metadata"])
}

/// Namespace of a new object against that of the request.
pub(crate) fn settle_namespace(e: &Endpoint, v: &mut Value, namespace: &str) -> Result<()> {
    if !e.namespaced {
        of(v).remove("namespace");
        return Ok(());
    }
    let own = object::namespace(v);
    if !own.is_empty() && own != namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    of(v).insert("namespace".into(), namespace.into());
    Ok(())
}

/// Name and namespace in the body of an update against those of the request.
pub(crate) fn check_name(e: &Endpoint, v: &mut Value, namespace: &str, name: &str) -> Result<()> {
    let own = object::name(v);
    if own.is_empty() {
        return Err(Failure::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    if own != name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({name})"
        )));
    }
    if e.namespaced {
        let own = object::namespace(v);
        if !own.is_empty() && own != namespace {
            return Err(Failure::bad_request(format!(
                "the namespace of the object ({own}) does not match the namespace on the request ({namespace})"
            )));
        }
        of(v).insert("namespace".into(), namespace.into());
    } else {
        of(v).remove("namespace");
    }
    Ok(())
}

/// What the server sets on a new object.
pub(crate) fn fill_new(v: &mut Value, prng: &mut Prng, now: Wall) {
    let m = of(v);
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        m.remove(key);
    }
    m.insert("uid".into(), prng.uuid().into());
    m.insert("creationTimestamp".into(), now.rfc3339().into());
}

/// A name from generateName.
pub(crate) fn generate_name(base: &str, prng: &mut Prng) -> String {
    let cut: String = base.chars().take(limits::GENERATED_BASE_CHARS_MAX).collect();
    format!("{cut}{}", prng.name_suffix(limits::GENERATED_SUFFIX_CHARS))
}

/// What an update may not change: taken over from the object that is there.
pub(crate) fn keep_system_fields(
    e: &Endpoint,
    name: &str,
    new: &mut Value,
    old: &Value,
) -> Result<()> {
    let uid = object::uid(new).to_owned();
    let old_uid = object::uid(old);
    if !uid.is_empty() && uid != old_uid {
        return Err(Failure::conflict(
            &e.group,
            &e.plural,
            name,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}"
            ),
        ));
    }
    for key in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ] {
        let kept = object::at(old, &["metadata", key]).cloned();
        match kept {
            Some(v) => of(new).insert(key.into(), v),
            None if key == "generateName" => None,
            None => of(new).remove(key),
        };
    }
    of(new).remove("selfLink");
    Ok(())
}

/// The resourceVersion that an update carries: `None` when it carries none.
pub(crate) fn revision_in(kind: &str, group: &str, v: &Value) -> Result<Option<u64>> {
    let text = object::resource_version(v);
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    match text.parse() {
        Ok(n) => Ok(Some(n)),
        Err(_) => {
            let q = pintle_api::status::quote(text);
            let why = format!("strconv.ParseUint: parsing {q}: invalid syntax");
            let e = FieldError::invalid_str("metadata.resourceVersion", text, &why);
            Err(Failure::invalid(group, kind, object::name(v), &[e]))
        }
    }
}

/// All that a change of which counts as a new generation.
pub(crate) fn desired(v: &Value) -> Map<String, Value> {
    let mut m = v.as_object().cloned().unwrap_or_default();
    for key in ["metadata", "status", "apiVersion", "kind"] {
        m.remove(key);
    }
    m
}
