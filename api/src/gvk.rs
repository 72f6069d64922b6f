//! Group, version and kind of an object.

use serde_json::Value;
use std::fmt;

/// Group (empty for core), version, kind; borrowed from the object or from the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk<'a> {
    /// API group, empty for core.
    pub group: &'a str,
    /// Version, `v1`.
    pub version: &'a str,
    /// Kind, `Deployment`.
    pub kind: &'a str,
}

impl<'a> Gvk<'a> {
    /// From its three parts.
    pub const fn new(group: &'a str, version: &'a str, kind: &'a str) -> Gvk<'a> {
        Gvk { group, version, kind }
    }

    /// From `apiVersion` (`v1`, `apps/v1`) and `kind`.
    pub fn from_api_version(api_version: &'a str, kind: &'a str) -> Gvk<'a> {
        let (group, version) = split_api_version(api_version);
        Gvk { group, version, kind }
    }

    /// Of an object; absent parts are empty.
    pub fn of(object: &'a Value) -> Gvk<'a> {
        let text = |k: &str| object.get(k).and_then(Value::as_str).unwrap_or("");
        Gvk::from_api_version(text("apiVersion"), text("kind"))
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        join_api_version(self.group, self.version)
    }
}

impl fmt::Display for Gvk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

/// `apps/v1` to (`apps`, `v1`); `v1` to (``, `v1`).
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// (`apps`, `v1`) to `apps/v1`; (``, `v1`) to `v1`.
pub fn join_api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}
