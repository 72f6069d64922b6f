//! Field selectors: `metadata.name=x,status.phase!=Failed`.

use crate::Status;
use crate::object;
use serde_json::Value;
use std::fmt;

/// A compiled field selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// All must hold.
    pub terms: Vec<FieldTerm>,
}

/// `path=value` or `path!=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// `metadata.name`, `spec.nodeName`.
    pub path: String,
    /// The value asked for.
    pub value: String,
    /// `!=`.
    pub negated: bool,
}

impl Fields {
    /// From the text of a `fieldSelector` query; `supported` beyond metadata.name and metadata.namespace.
    pub fn parse(s: &str, supported: &[&str]) -> Result<Fields, Status> {
        let mut terms = Vec::new();
        for term in split_terms(s) {
            if term.is_empty() {
                continue;
            }
            let Some((path, negated, value)) = split_term(term) else {
                let message = format!("invalid selector: '{s}'; can't understand '{term}'");
                return Err(Status::bad_request(message));
            };
            let value = unescape(value).map_err(Status::bad_request)?;
            if !matches!(path, "metadata.name" | "metadata.namespace") && !supported.contains(&path)
            {
                return Err(Status::bad_request(if supported.is_empty() {
                    format!(
                        "\"{path}\" is not a known field selector: only \"metadata.name\", \
                         \"metadata.namespace\""
                    )
                } else {
                    format!("field label not supported: {path}")
                }));
            }
            terms.push(FieldTerm { path: path.to_owned(), value, negated });
        }
        Ok(Fields { terms })
    }

    /// Whether the object is selected. Absent fields read as empty (booleans as `false`).
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|t| (read(object, &t.path) == t.value) != t.negated)
    }

    /// The name that the selector pins (`metadata.name=x`), if it does.
    pub fn exact_name(&self) -> Option<&str> {
        self.exact("metadata.name")
    }

    /// The value that the selector pins for a path, if it does.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.path == path && !t.negated).map(|t| t.value.as_str())
    }

    /// True when it selects everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if t.negated { "!=" } else { "=" };
            let value = t.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", t.path)?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash protects.
fn split_terms(s: &str) -> Vec<&str> {
    let (mut out, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in s.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                out.push(&s[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&s[start..]);
    out
}

/// The first operator splits: `!=`, `==`, `=`.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (path, rest) = term.split_at(at);
    if let Some(v) = rest.strip_prefix("!=") {
        return Some((path, true, v));
    }
    if let Some(v) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
        return Some((path, false, v));
    }
    None
}

fn unescape(s: &str) -> Result<String, String> {
    let (mut out, mut chars) = (String::with_capacity(s.len()), s.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => {
                    return Err(format!("invalid field selector: invalid escape sequence: \\{c}"));
                }
                None => {
                    return Err("invalid field selector: invalid escape sequence: \\".to_owned());
                }
            },
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {c}"));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

/// The text of a selectable field, with the names that kinds give to other fields.
fn read(object: &Value, path: &str) -> String {
    let event = |a: &[&str], b: &[&str]| {
        let first = object::str_at(object, a);
        if first.is_empty() { object::str_at(object, b).to_owned() } else { first.to_owned() }
    };
    match path {
        "status.successful" => {
            return object::int_at(object, &["status", "succeeded"]).unwrap_or(0).to_string();
        }
        "status.replicas" => {
            return object::int_at(object, &["status", "replicas"]).unwrap_or(0).to_string();
        }
        "spec.unschedulable" | "spec.hostNetwork" => {
            let steps: Vec<&str> = path.split('.').collect();
            return object::bool_at(object, &steps).to_string();
        }
        "source" => return event(&["source", "component"], &["reportingComponent"]),
        "reportingComponent" | "reportingController" => {
            return event(&["reportingComponent"], &["reportingController"]);
        }
        _ => {}
    }
    let mut steps: Vec<&str> = path.split('.').collect();
    if let Some(first) = steps.first_mut()
        && object.get(*first).is_none()
    {
        // The two views of an event name its object differently.
        match *first {
            "regarding" => *first = "involvedObject",
            "involvedObject" => *first = "regarding",
            _ => {}
        }
    }
    match object::at(object, &steps) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Bool(b)) => b.to_string(),
        Some(Value::Number(n)) => n.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn matches() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
        let ok = ["spec.nodeName", "status.phase"];
        for (s, selected) in [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==b", false),
            ("spec.nodeName=n,status.phase!=Failed", true),
            ("status.phase!=Running", false),
        ] {
            assert_eq!(Fields::parse(s, &ok).unwrap().matches(&pod), selected, "{s}");
        }
        let f = Fields::parse("metadata.name=a\\,b", &ok).unwrap();
        assert_eq!((f.exact_name(), f.to_string().as_str()), (Some("a,b"), "metadata.name=a\\,b"));
        let node = json!({"metadata": {"name": "n"}});
        assert!(
            Fields::parse("spec.unschedulable=false", &["spec.unschedulable"])
                .unwrap()
                .matches(&node)
        );
    }

    #[test]
    fn refusals() {
        let e = |s: &str, ok: &[&str]| Fields::parse(s, ok).unwrap_err().message;
        assert_eq!(
            e("metadata.name", &[]),
            "invalid selector: 'metadata.name'; can't understand 'metadata.name'"
        );
        assert_eq!(e("spec.x=1", &["spec.y"]), "field label not supported: spec.x");
        assert!(e("spec.x=1", &[]).contains("is not a known field selector"));
        assert!(e("metadata.name=a=b", &[]).contains("unescaped"));
    }
}
