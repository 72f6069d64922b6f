//! Status errors with the message shapes of kube-apiserver, which kubectl prints and people search for.

use serde_json::{Value, json};
use std::fmt;

mod cause;

pub use cause::{FieldError, FieldErrorKind, quote};

/// A failed request: becomes the body of the answer by [`Status::to_value`].
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// HTTP code, 404.
    pub code: u16,
    /// Machine-readable reason, `NotFound`; empty for Kubernetes' bare errors (code 500).
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// `details`, when there are any.
    pub details: Option<Box<Details>>,
}

/// `details` of a Status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its plural resource (or its kind, for Invalid).
    pub kind: String,
    /// Its uid.
    pub uid: String,
    /// Findings.
    pub causes: Vec<Cause>,
    /// Seconds after which the client may try again; 0 = not said.
    pub retry_after_s: u32,
}

/// One finding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldManagerConflict`, ...
    pub reason: String,
    /// For people.
    pub message: String,
    /// Path of the field.
    pub field: String,
}

/// `deployments.apps`, `pods`: how messages name a resource.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl Status {
    /// A status without details.
    pub fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
        Status { code, reason, message: message.into(), details: None }
    }

    fn about(
        code: u16,
        reason: &'static str,
        message: String,
        group: &str,
        kind: &str,
        name: &str,
    ) -> Status {
        let details = Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            ..Details::default()
        };
        Status { code, reason, message, details: Some(Box::new(details)) }
    }

    /// 404 `pods "x" not found`.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Status {
        let message = format!("{} \"{name}\" not found", qualified(group, resource));
        Status::about(404, "NotFound", message, group, resource, name)
    }

    /// 404 for a path that nothing serves.
    pub fn no_such_path() -> Status {
        let mut s =
            Status::plain(404, "NotFound", "the server could not find the requested resource");
        s.details = Some(Box::default());
        s
    }

    /// 409 `pods "x" already exists`.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Status {
        let message = format!("{} \"{name}\" already exists", qualified(group, resource));
        Status::about(409, "AlreadyExists", message, group, resource, name)
    }

    /// 409 `Operation cannot be fulfilled on pods "x": why`.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Status {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            qualified(group, resource)
        );
        Status::about(409, "Conflict", message, group, resource, name)
    }

    /// [`Status::conflict`] for a stale resourceVersion.
    pub fn modified(group: &str, resource: &str, name: &str) -> Status {
        let why = "the object has been modified; please apply your changes to the latest version \
                   and try again";
        Status::conflict(group, resource, name, why)
    }

    /// 403 `pods "x" is forbidden: why` (without the name when there is none).
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Status {
        let what = qualified(group, resource);
        let message = match (what.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{what} is forbidden: {why}"),
            (false, false) => format!("{what} \"{name}\" is forbidden: {why}"),
        };
        Status::about(403, "Forbidden", message, group, resource, name)
    }

    /// 422 `Pod "x" is invalid: spec.containers: Required value` with a cause for each finding.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Status {
        cause::invalid(group, kind, name, errors)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::plain(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Status {
        Status::plain(401, "Unauthorized", "Unauthorized")
    }

    /// 405 for a verb that the resource does not have.
    pub fn method_not_allowed() -> Status {
        let message = "the server does not allow this method on the requested resource";
        let mut s = Status::plain(405, "MethodNotAllowed", message);
        s.details = Some(Box::default());
        s
    }

    /// 410 with reason `Expired`: a continue token or resource version that history no longer holds.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::plain(410, "Expired", message)
    }

    /// 410 `too old resource version: 5 (90)`.
    pub fn too_old(asked: u64, oldest: u64) -> Status {
        Status::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// 413 for a body over the limit.
    pub fn too_large(message: impl Into<String>) -> Status {
        Status::plain(413, "RequestEntityTooLarge", message)
    }

    /// 415 with the list of what is understood.
    pub fn unsupported_media_type(accepted: &[&str]) -> Status {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Status::plain(415, "UnsupportedMediaType", message)
    }

    /// 406 with the list of what can be sent.
    pub fn not_acceptable(available: &[&str]) -> Status {
        let message =
            format!("only the following media types are accepted: {}", available.join(", "));
        Status::plain(406, "NotAcceptable", message)
    }

    /// 429, with seconds to wait.
    pub fn too_many_requests(message: impl Into<String>, retry_after_s: u32) -> Status {
        let mut s = Status::plain(429, "TooManyRequests", message);
        s.details = Some(Box::new(Details { retry_after_s, ..Details::default() }));
        s
    }

    /// 500 `Internal error occurred: what`.
    pub fn internal(what: &str) -> Status {
        let message = format!("Internal error occurred: {what}");
        let mut s = Status::plain(500, "InternalError", message);
        s.details = Some(Box::new(Details {
            causes: vec![Cause { message: what.to_owned(), ..Cause::default() }],
            ..Details::default()
        }));
        s
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::plain(503, "ServiceUnavailable", message)
    }

    /// 504.
    pub fn timeout(message: impl Into<String>) -> Status {
        Status::plain(504, "Timeout", message)
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut v = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            v["reason"] = Value::from(self.reason);
        }
        if let Some(d) = &self.details {
            v["details"] = d.to_value();
        }
        v
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut m = serde_json::Map::new();
        for (k, v) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !v.is_empty() {
                m.insert(k.to_owned(), Value::from(v.as_str()));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(Cause::to_value).collect();
            m.insert("causes".to_owned(), Value::Array(causes));
        }
        if self.retry_after_s > 0 {
            m.insert("retryAfterSeconds".to_owned(), Value::from(self.retry_after_s));
        }
        Value::Object(m)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut m = serde_json::Map::new();
        for (k, v) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)]
        {
            if !v.is_empty() {
                m.insert(k.to_owned(), Value::from(v.as_str()));
            }
        }
        Value::Object(m)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}
