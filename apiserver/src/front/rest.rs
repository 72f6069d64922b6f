//! From an HTTP request to a request for the core: path, verb, options, body.
//!
//! References: apiserver/pkg/endpoints/request (RequestInfo), apimachinery/pkg/runtime (query conversion),
//! and the recorded answers of the real server for what is wrong with a request.

use super::http;
use super::uri::{self, Query};
use crate::error::{Cause, Failure, GroupName, Result};
use pintle_wire::msg::Body;
use pintle_wire::msg::api::{Options, PatchType, Request, Verb};
use serde_json::Value;

/// A path below `/api/VERSION` or `/apis/GROUP/VERSION` that names a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// API group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Namespace, empty for cluster scope or all namespaces.
    pub namespace: String,
    /// Plural resource.
    pub resource: String,
    /// Object name, empty for collections.
    pub name: String,
    /// Subresource, empty = none.
    pub subresource: String,
    /// What follows the subresource (`proxy`), without the leading slash.
    pub tail: String,
    /// The old `/watch/` prefix stood before it.
    pub watch: bool,
}

impl Target {
    /// From a decoded path. `None` when it is about no resource (`/api/v1`, `/healthz`).
    pub fn parse(path: &str) -> Option<Target> {
        let mut parts = path.trim_matches('/').split('/');
        let mut target = Target::default();
        match parts.next()? {
            "api" => {}
            "apis" => target.group = parts.next()?.into(),
            _ => return None,
        }
        target.version = parts.next()?.into();
        let mut rest: Vec<&str> = parts.collect();
        if rest.first() == Some(&"watch") && rest.len() > 1 {
            target.watch = true;
            rest.remove(0);
        }
        if rest.first() == Some(&"namespaces") && rest.len() > 2 && !namespace_subresource(&rest) {
            target.namespace = rest[1].into();
            rest.drain(..2);
        }
        let mut rest = rest.into_iter();
        target.resource = rest.next()?.into();
        target.name = rest.next().unwrap_or_default().into();
        target.subresource = rest.next().unwrap_or_default().into();
        target.tail = rest.collect::<Vec<_>>().join("/");
        Some(target)
    }

    /// The verb of a method on this target; `None` = the method makes no sense here (405).
    pub fn verb(&self, method: &str, query: &Query) -> Option<Verb> {
        let collection = self.name.is_empty();
        Some(match method {
            "GET" if self.watch || (collection && query.flag("watch")) => Verb::Watch,
            "GET" if collection => Verb::List,
            "GET" => Verb::Get,
            "POST" if collection || !self.subresource.is_empty() => Verb::Create,
            "PUT" if !collection => Verb::Update,
            "PATCH" if !collection => Verb::Patch,
            "DELETE" if collection => Verb::DeleteCollection,
            "DELETE" => Verb::Delete,
            _ => return None,
        })
    }

    /// The verb that authorization is asked about when `verb` gives none.
    pub fn verb_for_authorization(&self, method: &str, query: &Query) -> &'static str {
        match self.verb(method, query) {
            Some(verb) => verb.as_str(),
            None => match method {
                "POST" => "create",
                "PUT" => "update",
                "PATCH" => "patch",
                "HEAD" => "get",
                _ => "",
            },
        }
    }
}

// `namespaces/x/status` and `namespaces/x/finalize` are about the namespace itself.
fn namespace_subresource(rest: &[&str]) -> bool {
    rest.len() == 3 && matches!(rest[2], "status" | "finalize")
}

/// Refuses names that would be other paths (`..`), as the real server does.
///
/// # Errors
/// 400 that names the parameter.
pub fn check_name(name: &str) -> Result<()> {
    let why = match name {
        "." => "may not be '.'".to_string(),
        ".." => "may not be '..'".to_string(),
        _ => match name.chars().find(|c| matches!(c, '/' | '%')) {
            Some(c) => format!("may not contain '{c}'"),
            None => return Ok(()),
        },
    };
    Err(Failure::bad_request(format!("Name parameter invalid: {name:?}: {why}")))
}

/// Builds the request for the core.
///
/// # Errors
/// 400, 413, 415 or 422 in the words of the real server.
pub fn request(
    target: &Target,
    verb: Verb,
    http: &mut http::Request,
    query: &Query,
) -> Result<Request> {
    check_name(&target.name)?;
    let mut out = Request::new(verb, &target.group, &target.version, &target.resource);
    out.namespace = target.namespace.clone();
    out.name = target.name.clone();
    out.subresource = target.subresource.clone();
    out.options = options(verb, query)?;
    if verb == Verb::Watch && !target.name.is_empty() {
        out.options.field_selector = Some(format!("metadata.name={}", target.name));
        out.name = String::new();
    }
    let writes = !matches!(verb, Verb::Get | Verb::List | Verb::Watch);
    if writes && http.too_large {
        return Err(Failure::plain(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {}", super::limits::BODY_BYTES_MAX),
        ));
    }
    match verb {
        Verb::Get | Verb::List | Verb::Watch => {}
        Verb::Create | Verb::Update => out.body = object_body(http)?,
        Verb::Patch => {
            out.patch_type = Some(patch_type(http)?);
            out.body = Body::from(std::mem::take(&mut http.body));
        }
        Verb::Delete | Verb::DeleteCollection => delete_options(&mut out.options, http, query)?,
    }
    if matches!(verb, Verb::Create | Verb::Update | Verb::Patch) {
        check_write_options(&out, query)?;
    }
    if writes && out.options.field_manager.is_none() && out.patch_type != Some(PatchType::Apply) {
        out.options.field_manager = manager_of(http.header("user-agent").unwrap_or_default());
    }
    Ok(out)
}

// The manager of a client that names none is the first part of its user agent.
fn manager_of(user_agent: &str) -> Option<String> {
    let name: String = user_agent
        .split('/')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(128)
        .collect();
    (!name.is_empty()).then_some(name)
}

fn options(verb: Verb, query: &Query) -> Result<Options> {
    let text = |key: &str| query.get(key).filter(|v| !v.is_empty()).map(String::from);
    let number = |key: &str| query.number(key).map_err(Failure::bad_request);
    let mut o = Options::default();
    match verb {
        Verb::Get => o.resource_version = text("resourceVersion"),
        Verb::List | Verb::Watch | Verb::DeleteCollection => {
            o.resource_version = text("resourceVersion");
            o.resource_version_match = text("resourceVersionMatch");
            o.label_selector = text("labelSelector");
            o.field_selector = text("fieldSelector");
            o.limit = clamp(number("limit")?.unwrap_or(0));
            o.continue_token = text("continue");
            o.bookmarks = query.flag("allowWatchBookmarks");
            o.send_initial_events = query.optional_flag("sendInitialEvents");
            o.timeout_s = number("timeoutSeconds")?.map(clamp);
        }
        Verb::Create | Verb::Update | Verb::Patch => {
            o.field_manager = text("fieldManager");
            o.field_validation = text("fieldValidation");
            if verb == Verb::Patch {
                o.force = query.optional_flag("force");
            }
            o.dry_run = query.get("dryRun").is_some();
        }
        Verb::Delete => {}
    }
    Ok(o)
}

fn clamp(n: i64) -> u32 {
    u32::try_from(n.max(0)).unwrap_or(u32::MAX)
}

fn invalid_options(kind: &str, causes: Vec<Cause>) -> Failure {
    Failure::invalid(GroupName { group: "meta.k8s.io", name: kind }, "", causes)
}

fn cause(reason: &str, field: &str, message: String) -> Cause {
    Cause { reason: reason.into(), message, field: field.into() }
}

/// Longest name of a field manager.
const MANAGER_BYTES_MAX: usize = 128;

// The checks of ValidateCreateOptions, ValidateUpdateOptions and ValidatePatchOptions.
fn check_write_options(request: &Request, query: &Query) -> Result<()> {
    let o = &request.options;
    let kind = match request.verb {
        Verb::Create => "CreateOptions",
        Verb::Update => "UpdateOptions",
        _ => "PatchOptions",
    };
    let mut causes = Vec::new();
    let apply = request.patch_type == Some(PatchType::Apply);
    if o.force.is_some() && !apply {
        let text = "Forbidden: may not be specified for non-apply patch".to_string();
        causes.push(cause("FieldValueForbidden", "force", text));
    }
    if apply && o.field_manager.is_none() {
        let text = "Required value: is required for apply patch".to_string();
        causes.push(cause("FieldValueRequired", "fieldManager", text));
    }
    if let Some(manager) = &o.field_manager {
        if manager.len() > MANAGER_BYTES_MAX {
            let text = format!("Too long: may not be more than {MANAGER_BYTES_MAX} bytes");
            causes.push(cause("FieldValueTooLong", "fieldManager", text));
        }
        if manager.chars().any(char::is_control) {
            let text =
                format!("Invalid value: {manager:?}: should only contain printable characters");
            causes.push(cause("FieldValueInvalid", "fieldManager", text));
        }
    }
    causes.extend(dry_run_cause(query.all("dryRun").map(String::from).collect()));
    if let Some(odd) = &o.field_validation
        && !matches!(odd.as_str(), "Ignore" | "Strict" | "Warn")
    {
        let text = format!(
            "Unsupported value: {odd:?}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
        );
        causes.push(cause("FieldValueNotSupported", "fieldValidation", text));
    }
    if causes.is_empty() { Ok(()) } else { Err(invalid_options(kind, causes)) }
}

fn dry_run_cause(values: Vec<String>) -> Option<Cause> {
    let odd = values.iter().any(|v| v != "All");
    odd.then(|| {
        let text = format!("Unsupported value: {values:?}: supported values: \"All\"");
        cause("FieldValueNotSupported", "dryRun", text)
    })
}

fn essence(http: &http::Request) -> String {
    let header = http.header("content-type").unwrap_or_default();
    header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

// The body as JSON, whatever form it came in.
fn object_body(http: &mut http::Request) -> Result<Body> {
    let body = std::mem::take(&mut http.body);
    match essence(http).as_str() {
        "" | "application/json" => Ok(Body::from(body)),
        "application/yaml" => yaml_to_json(&body),
        PROTOBUF => protobuf_to_json(&body),
        _ => Err(Failure::plain(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json, application/yaml, {PROTOBUF}"
            ),
        )),
    }
}

fn yaml_to_json(body: &[u8]) -> Result<Body> {
    let value: Value = serde_yaml_ng::from_slice(body)
        .map_err(|e| Failure::bad_request(format!("error converting YAML to JSON: yaml: {e}")))?;
    Ok(Body::from(value.to_string().into_bytes()))
}

fn protobuf_to_json(body: &[u8]) -> Result<Body> {
    let value = pintle_api::protobuf::decode(body)
        .map_err(|s| Failure::plain(s.code, s.reason, s.message))?;
    Ok(Body::from(value.to_string().into_bytes()))
}

fn patch_type(http: &http::Request) -> Result<PatchType> {
    match essence(http).as_str() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ => {
            let mut f = Failure::plain(415, "UnsupportedMediaType", "415: Unsupported Media Type");
            f.details = Some(Box::default());
            Err(f)
        }
    }
}

// A body, when there is one, holds all the options of a delete; else they are in the query.
fn delete_options(o: &mut Options, http: &mut http::Request, query: &Query) -> Result<()> {
    let dry_runs: Vec<String>;
    if http.body.is_empty() {
        o.grace_period_s = query.number("gracePeriodSeconds").map_err(Failure::bad_request)?;
        o.propagation_policy = query.get("propagationPolicy").map(String::from);
        o.orphan_dependents = query.optional_flag("orphanDependents");
        dry_runs = query.all("dryRun").map(String::from).collect();
    } else {
        let body = object_body(http)?;
        let v: Value = serde_json::from_slice(&body).map_err(|e| {
            Failure::bad_request(format!("couldn't get version/kind; json parse error: {e}"))
        })?;
        let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).map(String::from);
        o.grace_period_s = v.get("gracePeriodSeconds").and_then(Value::as_i64);
        o.propagation_policy = text(&v, "propagationPolicy");
        o.orphan_dependents = v.get("orphanDependents").and_then(Value::as_bool);
        if let Some(p) = v.get("preconditions") {
            o.precondition_uid = text(p, "uid");
            o.precondition_resource_version = text(p, "resourceVersion");
        }
        let values = v.get("dryRun").and_then(Value::as_array);
        let values = values.into_iter().flatten().map(|v| v.as_str().unwrap_or_default().into());
        dry_runs = values.collect();
    }
    o.dry_run = !dry_runs.is_empty();
    let causes: Vec<Cause> =
        propagation_cause(o).into_iter().chain(dry_run_cause(dry_runs)).collect();
    if causes.is_empty() { Ok(()) } else { Err(invalid_options("DeleteOptions", causes)) }
}

fn propagation_cause(o: &Options) -> Option<Cause> {
    let policy = o.propagation_policy.as_ref()?;
    let field = "propagationPolicy";
    if o.orphan_dependents.is_some() {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        return Some(cause(
            "FieldValueInvalid",
            field,
            format!("Invalid value: {policy:?}: {why}"),
        ));
    }
    let known = matches!(policy.as_str(), "Foreground" | "Background" | "Orphan");
    (!known).then(|| {
        let supported = "\"Foreground\", \"Background\", \"Orphan\", \"nil\"";
        let text = format!("Unsupported value: {policy:?}: supported values: {supported}");
        cause("FieldValueNotSupported", field, text)
    })
}

/// The decoded path of a request.
///
/// # Errors
/// 400 when an escape is broken.
pub fn decoded_path(raw: &str) -> Result<String> {
    uri::decode(raw, false)
        .ok_or_else(|| Failure::bad_request(format!("invalid URL escape in path {raw:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Option<(String, String, String, String, String, String)> {
        let t = Target::parse(path)?;
        Some((t.group, t.version, t.namespace, t.resource, t.name, t.subresource))
    }

    fn parts(t: [&str; 6]) -> Option<(String, String, String, String, String, String)> {
        let [a, b, c, d, e, f] = t.map(String::from);
        Some((a, b, c, d, e, f))
    }

    #[test]
    fn paths_are_resources_or_not() {
        for (path, want) in [
            ("/api/v1/pods", parts(["", "v1", "", "pods", "", ""])),
            ("/api/v1/namespaces/ns/pods/p", parts(["", "v1", "ns", "pods", "p", ""])),
            ("/api/v1/namespaces/ns/pods/p/log", parts(["", "v1", "ns", "pods", "p", "log"])),
            ("/api/v1/namespaces", parts(["", "v1", "", "namespaces", "", ""])),
            ("/api/v1/namespaces/ns", parts(["", "v1", "", "namespaces", "ns", ""])),
            ("/api/v1/namespaces/ns/status", parts(["", "v1", "", "namespaces", "ns", "status"])),
            (
                "/api/v1/namespaces/ns/finalize",
                parts(["", "v1", "", "namespaces", "ns", "finalize"]),
            ),
            ("/apis/apps/v1/deployments", parts(["apps", "v1", "", "deployments", "", ""])),
            (
                "/apis/apps/v1/namespaces/n/deployments/d/scale",
                parts(["apps", "v1", "n", "deployments", "d", "scale"]),
            ),
            ("/api/v1", None),
            ("/apis/apps/v1", None),
            ("/apis", None),
            ("/healthz", None),
            ("/", None),
        ] {
            assert_eq!(target(path), want, "{path}");
        }
        let proxied =
            Target::parse("/api/v1/namespaces/n/services/s:80/proxy/a/b").expect("target");
        assert_eq!((proxied.subresource.as_str(), proxied.tail.as_str()), ("proxy", "a/b"));
        assert!(Target::parse("/api/v1/watch/namespaces/n/pods/p").is_some_and(|t| t.watch));
    }

    #[test]
    fn methods_and_shapes_give_verbs() {
        let q = Query::parse("watch=1");
        let none = Query::default();
        let all = Target::parse("/api/v1/pods").expect("target");
        let one = Target::parse("/api/v1/namespaces/n/pods/p").expect("target");
        let sub = Target::parse("/api/v1/namespaces/n/pods/p/eviction").expect("target");
        assert_eq!(all.verb("GET", &none), Some(Verb::List));
        assert_eq!(all.verb("GET", &q), Some(Verb::Watch));
        assert_eq!(one.verb("GET", &q), Some(Verb::Get));
        assert_eq!(all.verb("DELETE", &none), Some(Verb::DeleteCollection));
        assert_eq!(all.verb("PUT", &none), None);
        assert_eq!(one.verb("POST", &none), None);
        assert_eq!(sub.verb("POST", &none), Some(Verb::Create));
        assert_eq!(one.verb("OPTIONS", &none), None);
    }

    fn build(method: &str, path: &str, query: &str, ctype: &str, body: &str) -> Result<Request> {
        let target = Target::parse(path).expect("target");
        let query = Query::parse(query);
        let verb = target.verb(method, &query).expect("verb");
        let mut http = http::Request { body: body.into(), ..http::Request::default() };
        http.headers.push(("user-agent".into(), "golden/1.0".into()));
        if !ctype.is_empty() {
            http.headers.push(("content-type".into(), ctype.into()));
        }
        request(&target, verb, &mut http, &query)
    }

    #[test]
    fn options_and_bodies_are_read() {
        let path = "/api/v1/namespaces/n/pods";
        let r = build("GET", path, "labelSelector=a%3Db&limit=500&resourceVersion=0", "", "")
            .expect("good");
        assert_eq!(r.options.label_selector.as_deref(), Some("a=b"));
        assert_eq!((r.options.limit, r.options.resource_version.as_deref()), (500, Some("0")));
        let r = build("POST", path, "dryRun=All", "application/yaml; charset=x", "a: {b: 1}\n")
            .expect("good");
        assert_eq!(&*r.body, br#"{"a":{"b":1}}"#);
        assert!(r.options.dry_run);
        assert_eq!(r.options.field_manager.as_deref(), Some("golden"));
        let one = "/api/v1/namespaces/n/pods/p";
        let body = r#"{"propagationPolicy":"Background","preconditions":{"uid":"u"},"gracePeriodSeconds":0}"#;
        let r = build("DELETE", one, "", "application/json", body).expect("good");
        assert_eq!(r.options.propagation_policy.as_deref(), Some("Background"));
        assert_eq!(r.options.grace_period_s, Some(0));
        assert_eq!(r.options.precondition_uid.as_deref(), Some("u"));
        let r =
            build("PATCH", one, "force=true&fieldManager=m", "application/apply-patch+yaml", "{}")
                .expect("good");
        assert_eq!((r.patch_type, r.options.force), (Some(PatchType::Apply), Some(true)));
        assert_eq!(r.options.field_manager.as_deref(), Some("m"));
    }

    #[test]
    fn what_is_wrong_is_said_in_the_words_of_kubernetes() {
        let path = "/api/v1/namespaces/n/configmaps";
        let one = "/api/v1/namespaces/n/configmaps/a";
        for (got, code, message) in [
            (
                build("GET", path, "timeoutSeconds=abc", "", ""),
                400,
                "strconv.ParseInt: parsing \"abc\": invalid syntax",
            ),
            (
                build("POST", path, "", "text/plain", "{}"),
                415,
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json, application/yaml, application/vnd.kubernetes.protobuf",
            ),
            (build("PATCH", one, "", "application/json", "{}"), 415, "415: Unsupported Media Type"),
            (
                build("DELETE", one, "propagationPolicy=Odd", "", ""),
                422,
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Odd\": \
                 supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
            ),
            (
                build("PATCH", one, "", "application/apply-patch+yaml", "{}"),
                422,
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ),
            (
                build("POST", path, "dryRun=Odd", "", "{}"),
                422,
                "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Odd\"]: supported values: \"All\"",
            ),
            (
                build("GET", "/api/v1/namespaces/n/configmaps/..", "", "", ""),
                400,
                "Name parameter invalid: \"..\": may not be '..'",
            ),
        ] {
            let f = got.expect_err(message);
            assert_eq!((f.code, f.message.as_str()), (code, message));
        }
    }
}
