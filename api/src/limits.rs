//! Limits of this crate: what input may cost.

/// Nesting of JSON values, selectors and protobuf messages. Deeper bodies are refused; Kubernetes' deepest
/// built-in kind (a CRD's schema) stays far below.
pub const DEPTH_MAX: usize = 128;

/// Body of one object. Kubernetes' own limit is 3 MiB for a request.
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Strict decoding errors that are reported; Kubernetes stops at the same number.
pub const STRICT_ERRORS_MAX: usize = 100;

/// Operations in one JSON patch, as in Kubernetes.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// Causes in one Invalid status: more findings are counted and not listed.
pub const CAUSES_MAX: usize = 1_000;
