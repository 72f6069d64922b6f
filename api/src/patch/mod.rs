//! JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch by table.
//!
//! All three take the live object and give the patched one; decoding, defaulting and validation come after.

use crate::{Gvk, Status, schema};
use serde_json::Value;

mod json_patch;
mod restore;
mod show;
mod strategic;

pub use show::go_value;

/// Applies a JSON patch (a list of operations) to `doc`.
pub fn json(doc: &Value, operations: &Value) -> Result<Value, Status> {
    json_patch::apply(doc, operations)
}

/// Applies a merge patch: null removes, objects merge, the rest replaces. Depth is bounded by the parser
/// that made `patch`.
pub fn merge(doc: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *doc = patch.clone();
        return;
    };
    let map = crate::object::as_map(doc);
    for (k, v) in patch {
        if v.is_null() {
            map.remove(k);
        } else {
            merge(map.entry(k.as_str()).or_insert(Value::Null), v);
        }
    }
}

/// Applies a strategic merge patch to an object of a built-in kind.
pub fn strategic(doc: &Value, patch: &Value, gvk: &Gvk<'_>) -> Result<Value, Status> {
    let Some(def) = schema::find(gvk) else {
        return Err(Status::unsupported_media_type(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/apply-patch+yaml",
        ]));
    };
    let (Value::Object(doc), Value::Object(patch)) = (doc, patch) else {
        let what = show::json_kind(patch);
        return Err(Status::bad_request(format!(
            "json: cannot unmarshal {what} into Go value of type map[string]interface {{}}"
        )));
    };
    let shape = schema::Shape::Def(def);
    strategic::merge_map(doc.clone(), patch.clone(), shape).map(Value::Object)
}

/// Why a patched object did not decode, for [`rejected`]: `failure` is what [`crate::decode::value`] said.
/// Strategic patches are converted and not decoded, and have words of their own.
pub fn why_undecodable(
    patched: &Value,
    gvk: &Gvk<'_>,
    is_strategic: bool,
    failure: &Status,
) -> String {
    let converted = schema::find(gvk).filter(|_| is_strategic);
    let complaint = converted.and_then(|d| restore::complaint(patched, schema::Shape::Def(d)));
    complaint.unwrap_or_else(|| {
        let prefix = format!("cannot be handled as a {}: ", gvk.kind);
        let text = failure.message.as_str();
        text.split_once(&prefix).map_or(text, |(_, why)| why).to_owned()
    })
}

/// 422 for a patch whose result does not decode: `shown` is the patched object as JSON for JSON and merge
/// patches, [`go_value`] of the patch for strategic ones; `why` begins with `strict decoding error: ` where
/// only strictness is against it.
pub fn rejected(shown: &str, why: &str) -> Status {
    Status::invalid("", "", "", &[crate::status::FieldError::invalid_str("patch", shown, why)])
}

#[cfg(test)]
mod tests;
