//! managedFields: who owns which field; server-side apply. (Being written by the engineer of the API server's core.)

use crate::{Gvk, Status};
use serde_json::Value;

/// Who writes, when, through what.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The field manager (query `fieldManager`, else the part of the user agent before `/`).
    pub manager: &'a str,
    /// Group, version and kind that the request was made in.
    pub gvk: Gvk<'a>,
    /// `status`, `scale`, or empty.
    pub subresource: &'a str,
    /// RFC 3339 time of the write, whole seconds.
    pub time: &'a str,
}

/// After create, update or patch: sets `new.metadata.managedFields` from what `old` (null for a create) and
/// the change say. Called last, on the object that will be stored.
pub fn track(old: &Value, new: &mut Value, write: &Write<'_>) {
    let _ = (old, new, write);
}

/// Server-side apply of `config` onto `live` (null when there is no object yet): the merged object with
/// managedFields set, or the 409 with a cause `FieldManagerConflict` for each conflict unless `force`.
pub fn apply(
    live: &Value,
    config: &Value,
    force: bool,
    write: &Write<'_>,
) -> Result<Value, Status> {
    let _ = (live, force, write);
    Ok(config.clone())
}
