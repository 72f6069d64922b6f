//! Kubernetes' protobuf bodies: `k8s\0`, runtime.Unknown, and the message of a built-in kind, to JSON.
//!
//! | field of runtime.Unknown | what |
//! |---|---|
//! | 1 | TypeMeta: 1 apiVersion, 2 kind |
//! | 2 | the object's message |
//! | 3 | content encoding, must be empty |
//! | 4 | content type; `application/json` means that 2 is JSON |
//!
//! Field numbers come from the schema table. Unknown fields are skipped, as protobuf wants it. The result is
//! not canonical yet (Go writes empty fields too): [`crate::decode::value`] comes after.

use crate::{Gvk, Status, limits, schema};
use serde_json::Value;

mod message;
mod wire;

/// What a body begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Decodes a body; apiVersion and kind come from the envelope.
pub fn decode(body: &[u8]) -> Result<Value, Status> {
    if body.len() > limits::BODY_BYTES_MAX {
        let message = format!("Request entity too large: limit is {}", limits::BODY_BYTES_MAX);
        return Err(Status::too_large(message));
    }
    let Some(envelope) = body.strip_prefix(MAGIC) else {
        let text = "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]";
        return Err(Status::bad_request(text));
    };
    let bad = |what: &str| Status::bad_request(format!("unable to decode protobuf body: {what}"));
    let unknown = Unknown::parse(envelope).ok_or_else(|| bad("envelope is cut off"))?;
    if !unknown.encoding.is_empty() {
        return Err(bad("content encoding is not supported"));
    }
    if unknown.content_type == "application/json" {
        return serde_json::from_slice(unknown.raw).map_err(|e| bad(&e.to_string()));
    }
    let (api_version, kind) = (unknown.api_version, unknown.kind);
    let gvk = Gvk::from_api_version(api_version, kind);
    // Every group has the common kinds (DeleteOptions) too.
    let def = schema::find(&gvk).or_else(|| schema::find(&Gvk::new("", "v1", kind)));
    let Some(def) = def else {
        return Err(Status::bad_request(format!(
            "no kind \"{kind}\" is registered for version \"{api_version}\" in scheme \
             \"pkg/api/legacyscheme/scheme.go:30\""
        )));
    };
    let mut object = message::decode(unknown.raw, def).map_err(|e| bad(&e))?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

#[derive(Default)]
struct Unknown<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
    encoding: &'a str,
    content_type: &'a str,
}

impl<'a> Unknown<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Unknown<'a>> {
        let mut out = Unknown::default();
        let mut reader = wire::Reader::new(bytes);
        while let Some((number, value)) = reader.field()? {
            let wire::Value::Bytes(b) = value else { continue };
            match number {
                1 => {
                    let mut meta = wire::Reader::new(b);
                    while let Some((number, value)) = meta.field()? {
                        match (number, value) {
                            (1, wire::Value::Bytes(b)) => {
                                out.api_version = str::from_utf8(b).ok()?
                            }
                            (2, wire::Value::Bytes(b)) => out.kind = str::from_utf8(b).ok()?,
                            _ => {}
                        }
                    }
                }
                2 => out.raw = b,
                3 => out.encoding = str::from_utf8(b).ok()?,
                4 => out.content_type = str::from_utf8(b).ok()?,
                _ => {}
            }
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests;
