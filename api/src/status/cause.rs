//! Findings about fields, with the texts of `field.Error`.

use super::{Cause, Details, Status, qualified};
use crate::limits;
use serde_json::Value;

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// `Required value`.
    Required,
    /// `Invalid value: ...`.
    Invalid,
    /// `Unsupported value: ...`.
    NotSupported,
    /// `Duplicate value: ...`.
    Duplicate,
    /// `Forbidden: ...`.
    Forbidden,
    /// `Not found: ...`.
    NotFound,
    /// `Too long: ...`.
    TooLong,
    /// `Too many: ...`.
    TooMany,
    /// `Invalid value: ...` of a wrong type (`FieldValueTypeInvalid`).
    TypeInvalid,
    /// `Internal error: ...`.
    Internal,
}

/// One finding of validation.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// Where: `spec.containers[0].name`.
    pub field: String,
    /// The text after the path, whole: `Required value`, `Invalid value: "A": must be ...`.
    pub body: String,
}

/// A value as Kubernetes prints it in an error: strings quoted, lists and objects as JSON.
fn show(value: &Value) -> String {
    match value {
        Value::String(s) => quote(s),
        other => other.to_string(),
    }
}

/// Go's `%q` for the text in an error.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn with_detail(head: String, detail: &str) -> String {
    if detail.is_empty() { head } else { format!("{head}: {detail}") }
}

impl FieldError {
    fn new(kind: FieldErrorKind, field: impl ToString, body: String) -> FieldError {
        FieldError { kind, field: field.to_string(), body }
    }

    /// `field: Required value[: detail]`.
    pub fn required(field: impl ToString, detail: &str) -> FieldError {
        let body = with_detail("Required value".to_owned(), detail);
        FieldError::new(FieldErrorKind::Required, field, body)
    }

    /// `field: Invalid value: value: detail`.
    pub fn invalid(field: impl ToString, value: &Value, detail: &str) -> FieldError {
        let body = with_detail(format!("Invalid value: {}", show(value)), detail);
        FieldError::new(FieldErrorKind::Invalid, field, body)
    }

    /// [`FieldError::invalid`] for a string.
    pub fn invalid_str(field: impl ToString, value: &str, detail: &str) -> FieldError {
        let body = with_detail(format!("Invalid value: {}", quote(value)), detail);
        FieldError::new(FieldErrorKind::Invalid, field, body)
    }

    /// [`FieldError::invalid`] where the value's text is not JSON.
    pub fn invalid_shown(field: impl ToString, shown: &str, detail: &str) -> FieldError {
        let body = with_detail(format!("Invalid value: {shown}"), detail);
        FieldError::new(FieldErrorKind::Invalid, field, body)
    }

    /// `field: Unsupported value: "x": supported values: "a", "b"`.
    pub fn not_supported(field: impl ToString, value: &str, supported: &[&str]) -> FieldError {
        let mut body = format!("Unsupported value: {}", quote(value));
        if !supported.is_empty() {
            let quoted: Vec<String> = supported.iter().map(|s| quote(s)).collect();
            body.push_str(": supported values: ");
            body.push_str(&quoted.join(", "));
        }
        FieldError::new(FieldErrorKind::NotSupported, field, body)
    }

    /// `field: Duplicate value: "x"`.
    pub fn duplicate(field: impl ToString, value: &Value) -> FieldError {
        let body = format!("Duplicate value: {}", show(value));
        FieldError::new(FieldErrorKind::Duplicate, field, body)
    }

    /// `field: Forbidden: detail`.
    pub fn forbidden(field: impl ToString, detail: &str) -> FieldError {
        let body = with_detail("Forbidden".to_owned(), detail);
        FieldError::new(FieldErrorKind::Forbidden, field, body)
    }

    /// `field: Not found: "x"`.
    pub fn not_found(field: impl ToString, value: &str) -> FieldError {
        let body = format!("Not found: {}", quote(value));
        FieldError::new(FieldErrorKind::NotFound, field, body)
    }

    /// `field: Too long: may not be more than N bytes`.
    pub fn too_long(field: impl ToString, max_bytes: usize) -> FieldError {
        let unit = if max_bytes == 1 { "byte" } else { "bytes" };
        let body = format!("Too long: may not be more than {max_bytes} {unit}");
        FieldError::new(FieldErrorKind::TooLong, field, body)
    }

    /// `field: Too many: N: must have at most M items`.
    pub fn too_many(field: impl ToString, actual: usize, max: usize) -> FieldError {
        let unit = if max == 1 { "item" } else { "items" };
        let body = format!("Too many: {actual}: must have at most {max} {unit}");
        FieldError::new(FieldErrorKind::TooMany, field, body)
    }

    /// `field: Invalid value: value: detail` with reason FieldValueTypeInvalid.
    pub fn type_invalid(field: impl ToString, value: &Value, detail: &str) -> FieldError {
        let body = with_detail(format!("Invalid value: {}", show(value)), detail);
        FieldError::new(FieldErrorKind::TypeInvalid, field, body)
    }

    /// `field: Internal error: detail`.
    pub fn internal(field: impl ToString, detail: &str) -> FieldError {
        let body = with_detail("Internal error".to_owned(), detail);
        FieldError::new(FieldErrorKind::Internal, field, body)
    }

    /// The finding as a cause of a Status.
    pub fn cause(&self) -> Cause {
        let reason = match self.kind {
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::NotFound => "FieldValueNotFound",
            FieldErrorKind::TooLong => "FieldValueTooLong",
            FieldErrorKind::TooMany => "FieldValueTooMany",
            FieldErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            FieldErrorKind::Internal => "InternalError",
        };
        Cause { reason: reason.to_owned(), message: self.body.clone(), field: self.field.clone() }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.body)
    }
}

/// See [`Status::invalid`]. Equal findings are told once in the message, as Kubernetes' aggregate does.
pub(super) fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Status {
    let mut texts: Vec<String> = Vec::new();
    for e in errors.iter().take(limits::CAUSES_MAX) {
        let t = e.to_string();
        if !texts.contains(&t) {
            texts.push(t);
        }
    }
    let findings = match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let details = Details {
        name: name.to_owned(),
        group: group.to_owned(),
        kind: kind.to_owned(),
        causes: errors.iter().take(limits::CAUSES_MAX).map(FieldError::cause).collect(),
        ..Details::default()
    };
    Status {
        code: 422,
        reason: "Invalid",
        message: format!("{} \"{name}\" is invalid: {findings}", qualified(group, kind)),
        details: Some(Box::new(details)),
    }
}
