//! Answers as bytes: objects, tables, metadata only; JSON or YAML.

use super::http::Head;
use super::negotiate::{Accepted, Form, Format};
use crate::error::Failure;
use pintle_api::Gvk;
use pintle_api::table::{self, Include};
use pintle_base::Wall;
use pintle_wire::msg::Body;
use serde_json::{Value, json};

/// A whole answer.
pub struct Rendered {
    /// Code and headers.
    pub head: Head,
    /// The bytes.
    pub body: Body,
}

/// What an object is: needed for the columns of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// API group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind of one object.
    pub kind: String,
}

impl Kind {
    /// As the real server names its internal type: `*core.ConfigMap`.
    fn go_type(&self) -> String {
        let package = match self.group.split('.').next() {
            Some("") | None => "core",
            Some(first) => first,
        };
        format!("*{package}.{}", self.kind)
    }

    fn gvk(&self) -> Gvk<'_> {
        Gvk::new(&self.group, &self.version, &self.kind)
    }
}

/// A Status of failure.
pub fn failure(f: &Failure) -> Rendered {
    let mut head = Head::new(f.code, "application/json");
    for text in &f.warnings {
        head.push("Warning", &warning(text));
    }
    if let Some(s) = f.details.as_ref().map(|d| d.retry_after_s).filter(|s| *s > 0) {
        head.push("Retry-After", &s.to_string());
    }
    Rendered { head, body: Body::from(f.body()) }
}

/// A warning header's value: code 299, no agent, the text quoted.
pub fn warning(text: &str) -> String {
    let mut out = String::from("299 - \"");
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// The core's answer in the form that the client asked for.
pub fn reply(
    code: u16,
    warnings: &[String],
    body: &Body,
    accepted: &Accepted,
    kind: &Kind,
    now: Wall,
) -> Rendered {
    let plain =
        accepted.form == Form::Object && accepted.format == Format::Json && !accepted.pretty;
    let (code, format, body) = if plain || code >= 400 {
        (code, Format::Json, body.clone())
    } else {
        match transform(body, accepted, kind, now) {
            Ok(value) => (code, accepted.format, encode(&value, accepted)),
            Err(f) => (f.code, Format::Json, Body::from(f.body())),
        }
    };
    let mut head = Head::new(code, format.content_type());
    for text in warnings {
        head.push("Warning", &warning(text));
    }
    if code >= 400
        && let Some(s) = retry_after(&body)
    {
        head.push("Retry-After", &s.to_string());
    }
    Rendered { head, body }
}

/// What a Status says of when to try again.
fn retry_after(status: &Body) -> Option<u64> {
    let value: Value = serde_json::from_slice(status).ok()?;
    value["details"]["retryAfterSeconds"].as_u64()
}

fn encode(value: &Value, accepted: &Accepted) -> Body {
    let text = match (accepted.format, accepted.pretty) {
        // Only values whose maps have keys that are no strings fail; JSON has none.
        (Format::Yaml, _) => serde_yaml_ng::to_string(value).unwrap_or_default(),
        (Format::Json, true) => serde_json::to_string_pretty(value).unwrap_or_default() + "\n",
        (Format::Json, false) => value.to_string(),
    };
    Body::from(text.into_bytes())
}

fn transform(body: &Body, accepted: &Accepted, kind: &Kind, now: Wall) -> Result<Value, Failure> {
    let value: Value = serde_json::from_slice(body).map_err(Failure::internal)?;
    let is_status = value["kind"] == "Status";
    match accepted.form {
        Form::Object => Ok(value),
        _ if is_status => Ok(value),
        Form::Table(version) => Ok(table(&value, version, accepted.include, kind, now)),
        Form::Partial(version) if value.get("items").is_none() => Ok(partial(&value, version)),
        Form::PartialList(version) if value.get("items").is_some() => {
            Ok(partial_list(&value, version))
        }
        Form::Partial(_) => {
            let why = format!("is a list ({}List)", kind.go_type());
            Err(not_this("PartialObjectMetadata", &why))
        }
        Form::PartialList(_) => {
            let why = format!("is not a list ({})", kind.go_type());
            Err(not_this("PartialObjectMetadataList", &why))
        }
    }
}

fn not_this(wanted: &str, why: &str) -> Failure {
    Failure::plain(
        406,
        "NotAcceptable",
        format!("you requested {wanted}, but the requested object {why}"),
    )
}

fn partial(object: &Value, version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": object["metadata"]})
}

fn partial_list(list: &Value, version: &str) -> Value {
    let items = list["items"].as_array().into_iter().flatten();
    let items: Vec<Value> = items.map(|o| partial(o, version)).collect();
    json!({
        "kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": list["metadata"], "items": items,
    })
}

fn table(value: &Value, version: &str, include: Include, kind: &Kind, now: Wall) -> Value {
    let gvk = kind.gvk();
    let row = |object: &Value| {
        let mut row = table::row(&gvk, object, now, include);
        // List items say no kind, whole objects do.
        if include == Include::Object && row["object"]["metadata"].is_object() {
            row["object"]["apiVersion"] = gvk.api_version().into();
            row["object"]["kind"] = gvk.kind.into();
        }
        // A row's metadata has the version that was asked for.
        if include == Include::Metadata && !row["object"].is_null() {
            row["object"]["apiVersion"] = version.into();
        }
        row
    };
    let (metadata, rows) = match value["items"].as_array() {
        Some(items) => (value["metadata"].clone(), items.iter().map(row).collect::<Vec<_>>()),
        None => {
            let rv = value["metadata"]["resourceVersion"].clone();
            let metadata = if rv.is_null() { json!({}) } else { json!({"resourceVersion": rv}) };
            (metadata, vec![row(value)])
        }
    };
    json!({
        "kind": "Table", "apiVersion": version, "metadata": metadata,
        "columnDefinitions": table::columns(&gvk), "rows": rows,
    })
}

/// One event of a watch in the form that the client asked for: what stands before and after the object's bytes.
pub struct EventBytes {
    /// `{"type":"ADDED","object":`.
    pub head: Vec<u8>,
    /// The object.
    pub body: Body,
    /// `}` and a line break.
    pub tail: &'static [u8],
}

/// Renders one event. `first` says whether a table's columns were not sent yet.
pub fn event(
    event_type: &str,
    body: &Body,
    accepted: &Accepted,
    kind: &Kind,
    first: bool,
    now: Wall,
) -> EventBytes {
    let head = format!("{{\"type\":\"{event_type}\",\"object\":").into_bytes();
    let tail: &'static [u8] = b"}\n";
    if accepted.form == Form::Object || event_type == "ERROR" {
        return EventBytes { head, body: body.clone(), tail };
    }
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return EventBytes { head, body: body.clone(), tail };
    };
    let object = match accepted.form {
        Form::Table(version) if event_type == "BOOKMARK" => {
            bookmark_table(&value, version, kind, first)
        }
        Form::Table(version) => {
            let mut t = table(&value, version, accepted.include, kind, now);
            if !first {
                t["columnDefinitions"] = Value::Null;
            }
            t
        }
        Form::Partial(version) | Form::PartialList(version) => partial(&value, version),
        Form::Object => value,
    };
    EventBytes { head, body: Body::from(object.to_string().into_bytes()), tail }
}

fn bookmark_table(object: &Value, version: &str, kind: &Kind, first: bool) -> Value {
    let columns = if first { table::columns(&kind.gvk()) } else { Value::Null };
    let mut metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
    if let Some(a) = object["metadata"].get("annotations") {
        metadata["annotations"] = a.clone();
    }
    json!({
        "kind": "Table", "apiVersion": version, "metadata": metadata, "columnDefinitions": columns, "rows": [],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(v: &Value) -> Body {
        Body::from(v.to_string().into_bytes())
    }

    #[test]
    fn stored_bytes_go_out_untouched() {
        let b = Body::from(&b"{ \"a\" : 1 }"[..]);
        let r = reply(
            200,
            &["careful \"x\"".into()],
            &b,
            &Accepted::default(),
            &Kind::default(),
            Wall(0),
        );
        assert!(std::sync::Arc::ptr_eq(&r.body, &b));
        assert_eq!(r.head.headers[1], ("Warning".into(), "299 - \"careful \\\"x\\\"\"".into()));
        let e = event("ADDED", &b, &Accepted::default(), &Kind::default(), true, Wall(0));
        assert_eq!(e.head, br#"{"type":"ADDED","object":"#);
        assert!(std::sync::Arc::ptr_eq(&e.body, &b));
    }

    #[test]
    fn metadata_only() {
        let list = json!({"kind": "PodList", "metadata": {"resourceVersion": "5"}, "items": [{"metadata": {"name": "a"}, "spec": {}}]});
        let mut accepted =
            Accepted { form: Form::PartialList("meta.k8s.io/v1"), ..Accepted::default() };
        let r = reply(200, &[], &body(&list), &accepted, &Kind::default(), Wall(0));
        let v: Value = serde_json::from_slice(&r.body).expect("json");
        assert_eq!(
            v["items"][0],
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a"}})
        );
        accepted.form = Form::Partial("meta.k8s.io/v1");
        assert_eq!(
            reply(200, &[], &body(&list), &accepted, &Kind::default(), Wall(0)).head.code,
            406
        );
    }

    #[test]
    fn yaml_is_for_those_who_ask() {
        let accepted = Accepted { format: Format::Yaml, ..Accepted::default() };
        let r = reply(
            200,
            &[],
            &body(&json!({"b": 1, "a": "x"})),
            &accepted,
            &Kind::default(),
            Wall(0),
        );
        assert_eq!(&*r.body, b"a: x\nb: 1\n");
    }
}
