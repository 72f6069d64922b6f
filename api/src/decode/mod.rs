//! From bytes to an object of a known kind: typed, pruned, canonical, with Kubernetes' complaints.
//!
//! "Canonical" is what kube-apiserver would write after reading the same document into its Go structs:
//! unknown fields and nulls are gone, what omitempty leaves out is left out, structs that are always written
//! are there (`resources: {}`), quantities and times have their canonical text.

use crate::{Gvk, Status, limits, schema};
use serde::de::DeserializeSeed;
use serde_json::Value;

mod scalar;
mod syntax;
mod walk;
mod zero;

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
    if body.len() > limits::BODY_BYTES_MAX {
        let message = format!("Request entity too large: limit is {}", limits::BODY_BYTES_MAX);
        return Err(Status::too_large(message));
    }
    // Go replaces invalid UTF-8, and so does this.
    let text = String::from_utf8_lossy(body);
    let mut d = serde_json::Deserializer::from_str(&text);
    let mut context = walk::Context::default();
    let parsed = match root(expected) {
        Some(node) => node(&mut context).deserialize(&mut d),
        None => serde::Deserialize::deserialize(&mut d),
    };
    match parsed.and_then(|v| d.end().map(|()| v)) {
        Ok(object) => finish(object, context, expected),
        Err(e) => Err(unrecognized(body, expected, &syntax::go_text(&text, &e))),
    }
}

/// The same for a body that is JSON already (out of YAML, protobuf, a patch).
pub fn value(object: Value, expected: &Gvk<'_>) -> Result<Decoded, Status> {
    let mut context = walk::Context::default();
    let parsed = match root(expected) {
        Some(node) => node(&mut context).deserialize(object),
        None => Ok(object),
    };
    match parsed {
        Ok(object) => finish(object, context, expected),
        Err(e) => Err(Status::bad_request(e.to_string())),
    }
}

/// The value as it is written once decoded: [`value`] without the checks of apiVersion and kind. Also for
/// parts of objects (`def` is the part's definition).
pub fn canonical(object: Value, def: schema::Def) -> Result<Value, String> {
    let mut context = walk::Context::default();
    let place = walk::Place::Root(def);
    let node = walk::Node { context: &mut context, shape: schema::Shape::Def(def), place };
    let value = node.deserialize(object).map_err(|e| e.to_string())?;
    match context.error {
        Some(e) => Err(e),
        None => Ok(value),
    }
}

type NodeOf = Box<dyn for<'c> Fn(&'c mut walk::Context) -> walk::Node<'c>>;

/// The walk's start for a kind of the table; `None` for kinds that it does not have (CRDs).
fn root(expected: &Gvk<'_>) -> Option<NodeOf> {
    let def = schema::find(expected)?;
    Some(Box::new(move |context| walk::Node {
        context,
        shape: schema::Shape::Def(def),
        place: walk::Place::Root(def),
    }))
}

fn finish(
    mut object: Value,
    context: walk::Context,
    expected: &Gvk<'_>,
) -> Result<Decoded, Status> {
    let Value::Object(map) = &mut object else {
        let why = context.error.unwrap_or_else(|| "unexpected end of JSON input".to_owned());
        let why = format!("couldn't get version/kind; json parse error: {why}");
        let message = format!(
            "the object provided is unrecognized (must be of type {}): {why}",
            expected.kind
        );
        return Err(Status::bad_request(message));
    };
    let text = |k: &str| map.get(k).and_then(Value::as_str).unwrap_or("").to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let wanted = expected.api_version();
    let kind = if kind.is_empty() { expected.kind.to_owned() } else { kind };
    let api_version = if api_version.is_empty() { wanted.clone() } else { api_version };
    if kind != expected.kind {
        let got = Gvk::from_api_version(&api_version, &kind);
        return Err(other_kind(&got, expected));
    }
    // Every group version has the common kinds too.
    if api_version != wanted && expected.kind != "DeleteOptions" {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
        )));
    }
    if let Some(why) = context.error {
        return Err(cannot_be_handled(expected, &why));
    }
    map.insert("apiVersion".to_owned(), api_version.into());
    map.insert("kind".to_owned(), kind.into());
    Ok(Decoded { object, strict: context.strict })
}

/// A body of another kind than the path serves.
fn other_kind(got: &Gvk<'_>, expected: &Gvk<'_>) -> Status {
    let why = if schema::find(got).is_some() {
        let package =
            |g: &str| if g.is_empty() { "core".to_owned() } else { g.replace(".k8s.io", "") };
        format!(
            "converting ({}.{}) to ({}.{}): unknown conversion",
            got.version,
            got.kind,
            package(expected.group),
            expected.kind
        )
    } else {
        format!(
            "no kind \"{}\" is registered for version \"{}\" in scheme \
             \"pkg/api/legacyscheme/scheme.go:30\"",
            got.kind,
            got.api_version()
        )
    };
    Status::bad_request(format!(
        "{} in version \"{}\" cannot be handled as a {}: {why}",
        got.kind, got.version, expected.kind
    ))
}

/// A body that is no JSON object.
fn unrecognized(body: &[u8], expected: &Gvk<'_>, why: &str) -> Status {
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json \
         parse error: {why} ({})",
        expected.kind,
        summary(body)
    ))
}

/// Kubernetes shows the first 30 bytes, as text only when they look like an object.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let head = &body[..body.len().min(SHOWN)];
    let mut out = match head.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(head).into_owned(),
        Some(_) => head.iter().map(|b| format!("{b:02x}")).collect(),
    };
    if body.len() > SHOWN {
        out.push_str(" ...");
    }
    out
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

/// What Go says about a text that is no JSON.
pub fn go_syntax_error(text: &str, e: &serde_json::Error) -> String {
    syntax::go_text(text, e)
}

#[cfg(test)]
pub(crate) mod tests;
