//! Errors and the one place where they become a Kubernetes Status.
//!
//! Every refusal inside the core is a [`Failure`]: HTTP code, reason, message and details, exactly as the
//! Status that the client reads. Called by all modules of the core and by the fronts.
//!
//! References: API conventions, "Response Status Kind"; apimachinery/pkg/api/errors.

use serde_json::{Map, Value, json};
use std::fmt;

/// One entry of `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldManagerConflict`, ...
    pub reason: String,
    /// Text.
    pub message: String,
    /// Path of the field, empty when there is none.
    pub field: String,
}

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status code.
    pub code: u16,
    /// Status reason; empty = unknown.
    pub reason: &'static str,
    /// For humans.
    pub message: String,
    /// `details`, `None` when the Status has none.
    pub details: Option<Box<Details>>,
    /// Texts of warning headers that go with it.
    pub warnings: Vec<String>,
}

/// `details` of a Status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// API group.
    pub group: String,
    /// Resource (or kind, where Kubernetes says the kind).
    pub kind: String,
    /// Uid of the object.
    pub uid: String,
    /// Causes.
    pub causes: Vec<Cause>,
    /// Seconds to wait before a retry; 0 = not said.
    pub retry_after_s: u32,
}

impl Details {
    fn to_json(&self) -> Value {
        let mut m = Map::new();
        for (key, value) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !value.is_empty() {
                m.insert(key.into(), json!(value));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|c| {
                let mut m = Map::new();
                for (key, value) in
                    [("reason", &c.reason), ("message", &c.message), ("field", &c.field)]
                {
                    if !value.is_empty() {
                        m.insert(key.into(), json!(value));
                    }
                }
                Value::Object(m)
            });
            m.insert("causes".into(), causes.collect());
        }
        if self.retry_after_s > 0 {
            m.insert("retryAfterSeconds".into(), json!(self.retry_after_s));
        }
        Value::Object(m)
    }
}

/// A group and a resource (or kind), as error messages name them.
#[derive(Clone, Copy, Debug)]
pub struct GroupName<'a> {
    /// API group, empty for core.
    pub group: &'a str,
    /// Plural resource or kind.
    pub name: &'a str,
}

impl fmt::Display for GroupName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

impl Failure {
    /// Any failure without details.
    pub fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Failure {
        Failure { code, reason, message: message.into(), details: None, warnings: Vec::new() }
    }

    fn of(
        code: u16,
        reason: &'static str,
        message: String,
        what: GroupName<'_>,
        name: &str,
    ) -> Failure {
        let details = Details {
            name: name.into(),
            group: what.group.into(),
            kind: what.name.into(),
            ..Details::default()
        };
        Failure { code, reason, message, details: Some(Box::new(details)), warnings: Vec::new() }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Failure {
        Failure::plain(400, "BadRequest", message)
    }

    /// 404 for an object.
    pub fn not_found(what: GroupName<'_>, name: &str) -> Failure {
        Failure::of(404, "NotFound", format!("{what} \"{name}\" not found"), what, name)
    }

    /// 404 for a path that leads nowhere.
    pub fn no_such_path() -> Failure {
        let mut f =
            Failure::plain(404, "NotFound", "the server could not find the requested resource");
        f.details = Some(Box::default());
        f
    }

    /// 409 because the name is taken.
    pub fn already_exists(what: GroupName<'_>, name: &str) -> Failure {
        Failure::of(409, "AlreadyExists", format!("{what} \"{name}\" already exists"), what, name)
    }

    /// 409 because of what the object is now.
    pub fn conflict(what: GroupName<'_>, name: &str, why: &str) -> Failure {
        let message = format!("Operation cannot be fulfilled on {what} \"{name}\": {why}");
        Failure::of(409, "Conflict", message, what, name)
    }

    /// 409 because of a stale resourceVersion.
    pub fn stale(what: GroupName<'_>, name: &str) -> Failure {
        Failure::conflict(
            what,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 403.
    pub fn forbidden(what: GroupName<'_>, name: &str, why: &str) -> Failure {
        let message = if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} \"{name}\" is forbidden: {why}")
        };
        Failure::of(403, "Forbidden", message, what, name)
    }

    /// 405 for a verb that the resource does not have.
    pub fn method_not_allowed(what: GroupName<'_>, verb: &str) -> Failure {
        let message = "the server does not allow this method on the requested resource".to_string();
        let _ = verb;
        let mut f = Failure::of(405, "MethodNotAllowed", message, what, "");
        f.details = Some(Box::default());
        f
    }

    /// 422 with the findings of validation; `what.name` is the kind.
    pub fn invalid(what: GroupName<'_>, name: &str, causes: Vec<Cause>) -> Failure {
        let mut seen = Vec::new();
        for c in &causes {
            let text = if c.field.is_empty() {
                c.message.clone()
            } else {
                format!("{}: {}", c.field, c.message)
            };
            if !seen.contains(&text) {
                seen.push(text);
            }
        }
        let list = match seen.len() {
            1 => seen[0].clone(),
            _ => format!("[{}]", seen.join(", ")),
        };
        let message = format!("{what} \"{name}\" is invalid: {list}");
        let mut f = Failure::of(422, "Invalid", message, what, name);
        if let Some(d) = &mut f.details {
            d.causes = causes;
        }
        f
    }

    /// 422 with one finding.
    pub fn invalid_field(
        what: GroupName<'_>,
        name: &str,
        reason: &str,
        field: &str,
        message: &str,
    ) -> Failure {
        let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
        Failure::invalid(what, name, vec![cause])
    }

    /// 410: the revision asked for is no longer kept.
    pub fn expired(message: impl Into<String>) -> Failure {
        Failure::plain(410, "Expired", message)
    }

    /// 504: the revision asked for lies in the future.
    pub fn future_revision(wanted: u64, current: u64) -> Failure {
        let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
        let mut f = Failure::plain(504, "Timeout", message);
        f.details = Some(Box::new(Details {
            causes: vec![Cause {
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".into(),
                field: String::new(),
            }],
            retry_after_s: 1,
            ..Details::default()
        }));
        f
    }

    /// 500.
    pub fn internal(message: impl fmt::Display) -> Failure {
        let text = message.to_string();
        let mut f =
            Failure::plain(500, "InternalError", format!("Internal error occurred: {text}"));
        f.details = Some(Box::new(Details {
            causes: vec![Cause { reason: String::new(), message: text, field: String::new() }],
            ..Details::default()
        }));
        f
    }

    /// 503: the store is not there; the write may or may not have happened.
    pub fn unavailable(message: impl Into<String>) -> Failure {
        let mut f = Failure::plain(503, "ServiceUnavailable", message);
        f.details = Some(Box::new(Details { retry_after_s: 1, ..Details::default() }));
        f
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after_s: u32) -> Failure {
        let mut f = Failure::plain(429, "TooManyRequests", message);
        f.details = Some(Box::new(Details { retry_after_s, ..Details::default() }));
        f
    }

    /// The Status object.
    pub fn status(&self) -> Value {
        let mut m = Map::new();
        m.insert("kind".into(), json!("Status"));
        m.insert("apiVersion".into(), json!("v1"));
        m.insert("metadata".into(), json!({}));
        m.insert("status".into(), json!("Failure"));
        m.insert("message".into(), json!(self.message));
        if !self.reason.is_empty() {
            m.insert("reason".into(), json!(self.reason));
        }
        if let Some(d) = &self.details {
            m.insert("details".into(), d.to_json());
        }
        m.insert("code".into(), json!(self.code));
        Value::Object(m)
    }

    /// Its bytes.
    pub fn body(&self) -> Vec<u8> {
        self.status().to_string().into_bytes()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// What the modules of the core return.
pub type Result<T> = std::result::Result<T, Failure>;
