//! What form an answer takes: the Accept header, `pretty` and `includeObject`.
//!
//! Two steps as in the real server: first the plain media types (go-restful's 406), then the parameters
//! `as`, `g` and `v` of the first clause that can be served.

use super::uri::Query;
use crate::error::{Failure, Result};
use pintle_api::table::Include;

/// What objects are turned into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    #[default]
    Object,
    /// `meta.k8s.io` Table of this version.
    Table(&'static str),
    /// PartialObjectMetadata of this version.
    Partial(&'static str),
    /// PartialObjectMetadataList of this version.
    PartialList(&'static str),
}

/// How bytes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
}

impl Format {
    /// The content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
        }
    }
}

/// What the client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// JSON or YAML.
    pub format: Format,
    /// Object, table or metadata only.
    pub form: Form,
    /// For tables: what a row carries.
    pub include: Include,
    /// Indented JSON.
    pub pretty: bool,
}

impl Default for Accepted {
    fn default() -> Accepted {
        Accepted {
            format: Format::Json,
            form: Form::Object,
            include: Include::Metadata,
            pretty: false,
        }
    }
}

/// One clause of an Accept header.
#[derive(Clone, Debug, PartialEq)]
pub struct Clause<'a> {
    /// `application/json`, `*/*`.
    pub media: &'a str,
    /// The parameters, names in their own case.
    pub params: Vec<(&'a str, &'a str)>,
    q: f32,
}

impl Clause<'_> {
    /// A parameter.
    pub fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(k, _)| *k == name).map_or("", |(_, v)| v)
    }
}

/// The clauses of an Accept header, the best first.
pub fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut all: Vec<Clause<'_>> = accept
        .split(',')
        .map(str::trim)
        .filter(|c| !c.is_empty())
        .map(|text| {
            let mut parts = text.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let params: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
            let q = params.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok());
            Clause { media, params, q: q.unwrap_or(1.0) }
        })
        .collect();
    all.sort_by(|a, b| b.q.total_cmp(&a.q));
    all
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MEDIA: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// The 406 of the router: no clause names a media type that exists here.
pub fn not_acceptable() -> Failure {
    let mut f = Failure::plain(
        406,
        "NotAcceptable",
        format!(
            "406: Not Acceptable\n\nAvailable representations: {MEDIA}, application/json;stream=watch, \
             {PROTOBUF};stream=watch"
        ),
    );
    f.details = Some(Box::default());
    f
}

/// What to answer a request with.
///
/// # Errors
/// 406 in the words of the real server, 400 for a bad `includeObject`.
pub fn negotiate(accept: Option<&str>, query: &Query) -> Result<Accepted> {
    let accept = accept.unwrap_or_default();
    let clauses = clauses(accept);
    let known = |c: &Clause<'_>| {
        matches!(c.media, "application/json" | "application/yaml" | PROTOBUF | "*/*")
    };
    if !clauses.is_empty() && !clauses.iter().any(known) {
        return Err(not_acceptable());
    }
    let mut accepted = match clauses.is_empty() {
        true => Accepted::default(),
        false => clauses.iter().find_map(serve).ok_or_else(|| {
            Failure::plain(
                406,
                "NotAcceptable",
                format!("only the following media types are accepted: {MEDIA}"),
            )
        })?,
    };
    accepted.pretty = query.get("pretty").is_some_and(|v| v != "0" && v != "false");
    if matches!(accepted.form, Form::Table(_)) {
        accepted.include = include(query)?;
    }
    Ok(accepted)
}

fn include(query: &Query) -> Result<Include> {
    match query.get("includeObject").unwrap_or_default() {
        "" | "Metadata" => Ok(Include::Metadata),
        "Object" => Ok(Include::Object),
        "None" => Ok(Include::None),
        other => Err(Failure::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', \
             'Object', 'None', or empty"
        ))),
    }
}

// Protobuf answers are not made: every client that accepts them accepts JSON as well.
fn serve(clause: &Clause<'_>) -> Option<Accepted> {
    let format = match clause.media {
        "application/json" | "*/*" | "application/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        _ => return None,
    };
    let version = || match (clause.param("g"), clause.param("v")) {
        ("meta.k8s.io", "v1") => Some("meta.k8s.io/v1"),
        ("meta.k8s.io", "v1beta1") => Some("meta.k8s.io/v1beta1"),
        _ => None,
    };
    let form = match clause.param("as") {
        "" => Form::Object,
        "Table" => Form::Table(version()?),
        "PartialObjectMetadata" => Form::Partial(version()?),
        "PartialObjectMetadataList" => Form::PartialList(version()?),
        _ => return None,
    };
    Some(Accepted { format, form, ..Accepted::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str) -> std::result::Result<(Format, Form), u16> {
        let accept = (!accept.is_empty()).then_some(accept);
        negotiate(accept, &Query::default()).map(|a| (a.format, a.form)).map_err(|f| f.code)
    }

    #[test]
    fn clauses_are_tried_in_order_of_preference() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(check(kubectl), Ok((Format::Json, Form::Table("meta.k8s.io/v1"))));
        assert_eq!(check(""), Ok((Format::Json, Form::Object)));
        assert_eq!(check("*/*"), Ok((Format::Json, Form::Object)));
        assert_eq!(check("application/yaml"), Ok((Format::Yaml, Form::Object)));
        let typed = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(check(typed), Ok((Format::Json, Form::Object)));
        assert_eq!(check("text/html, application/json;q=0.5"), Ok((Format::Json, Form::Object)));
        assert_eq!(
            check("application/json;q=0.2,application/yaml;q=0.9"),
            Ok((Format::Yaml, Form::Object))
        );
        assert_eq!(
            check("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
            Ok((Format::Json, Form::PartialList("meta.k8s.io/v1")))
        );
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        for accept in [
            "text/html",
            "application/xml",
            "application/*",
            "application/cbor",
            "application/json;as=Table;v=v7;g=meta.k8s.io",
        ] {
            assert_eq!(check(accept), Err(406), "{accept}");
        }
        let q = Query::parse("includeObject=Odd");
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(negotiate(Some(table), &q).map_err(|f| f.code), Err(400));
    }
}
