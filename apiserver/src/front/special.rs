//! Paths that are about no resource: health, version, metrics, discovery, OpenAPI, the keys of tokens.

use super::Front;
use super::discovery;
use super::http::{Head, Request};
use super::negotiate::{self, Accepted};
use super::openapi;
use super::render::{self, Rendered};
use super::uri::Query;
use crate::authn::token;
use crate::error::Failure;
use crate::server::{Attributes, Identity};
use pintle_base::Wall;
use pintle_wire::msg::Body;
use serde_json::{Value, json};

/// Version that is reported; KUBECTL.md says how clients choose by it.
pub const KUBERNETES_VERSION: &str = "v1.36.2+pintle";

const TEXT: &str = "text/plain; charset=utf-8";

fn text(code: u16, body: &str) -> Rendered {
    let head = Head::new(code, TEXT).with("X-Content-Type-Options", "nosniff");
    Rendered { head, body: Body::from(body.as_bytes()) }
}

/// What Go's multiplexer says of a path that nobody registered.
pub fn page_not_found() -> Rendered {
    text(404, "404 page not found\n")
}

fn json_answer(value: &Value) -> Rendered {
    Rendered {
        head: Head::new(200, "application/json"),
        body: Body::from(value.to_string().into_bytes()),
    }
}

pub(super) fn method_not_allowed() -> Failure {
    let mut f = Failure::plain(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    );
    f.details = Some(Box::default());
    f
}

/// An answer that the client may already have: 304 when its `If-None-Match` says so.
fn with_etag(request: &Request, etag: &str, mut answer: Rendered) -> Rendered {
    answer.head.push("ETag", etag);
    let same = |v: &str| v.split(',').any(|t| t.trim().trim_start_matches("W/") == etag);
    if request.all("if-none-match").any(same) {
        answer.head.code = 304;
        answer.body = Body::from([]);
    }
    answer
}

/// SHA-512 of the bytes in hexadecimal, in quotes.
pub fn etag_of(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA512, bytes);
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02X}")).collect();
    format!("\"{hex}\"")
}

/// One health check: its name and whether it passed.
struct Check(&'static str, bool);

impl Front {
    /// Answers a path that is about no resource.
    pub(super) fn special(
        &mut self,
        who: &Identity,
        request: &Request,
        path: &str,
        query: &Query,
        now: Wall,
    ) -> Result<Rendered, Rendered> {
        let verb = request.method.to_ascii_lowercase();
        let attributes = Attributes { verb: &verb, path, ..Attributes::default() };
        self.core().authorize(who, &attributes)?;
        let clean = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        if let Some(answer) = self.health(clean, query) {
            return Ok(answer);
        }
        if clean == "/metrics" && verb == "get" {
            let head = Head::new(200, "text/plain; version=0.0.4; charset=utf-8");
            return Ok(Rendered { head, body: Body::from(self.metrics_text().into_bytes()) });
        }
        if clean == "/openapi/v2" && verb == "get" {
            let accept = request.header("accept").unwrap_or_default();
            let (content, body) = if accept.contains("proto-openapi") {
                (
                    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
                    openapi::v2_protobuf(),
                )
            } else {
                ("application/json", openapi::v2_json().to_string().into_bytes())
            };
            return Ok(Rendered {
                head: Head::new(200, content).with("Vary", "Accept"),
                body: Body::from(body),
            });
        }
        if let Some(rest) = clean.strip_prefix("/openapi/v3") {
            return Ok(self.openapi(request, rest));
        }
        let answer = self.document(request, clean, query, now)?;
        match answer {
            Some(_) if verb != "get" => Err(method_not_allowed().into()),
            Some(answer) => Ok(answer),
            None => Err(not_found(self, clean)),
        }
    }

    fn document(
        &self,
        request: &Request,
        path: &str,
        query: &Query,
        now: Wall,
    ) -> Result<Option<Rendered>, Rendered> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let value = match parts.as_slice() {
            [""] => Some(self.root_paths()),
            ["version"] => Some(version()),
            [".well-known", "openid-configuration"] => Some(openid_configuration()),
            ["openid", "v1", "jwks"] => {
                let keys = self.token_keys().map(|k| k.jwks());
                return Ok(keys.map(|v| {
                    let mut answer = json_answer(&v);
                    answer.head = Head::new(200, "application/jwk-set+json");
                    answer
                }));
            }
            ["api"] | ["apis"] => return self.discovery_root(request, parts[0] == "api").map(Some),
            ["api", version] => discovery::api_resource_list(self.core(), "", version),
            ["apis", group] => discovery::api_group(self.core(), group),
            ["apis", group, version] => discovery::api_resource_list(self.core(), group, version),
            _ => None,
        };
        let Some(value) = value else { return Ok(None) };
        if !matches!(parts[0], "api" | "apis") {
            return Ok(Some(json_answer(&value)));
        }
        let mut accepted = negotiate::negotiate(request.header("accept"), query)?;
        accepted.form = negotiate::Form::Object;
        let body = Body::from(value.to_string().into_bytes());
        Ok(Some(render::reply(200, &[], &body, &accepted, &render::Kind::default(), now)))
    }

    fn discovery_root(&self, request: &Request, core_group: bool) -> Result<Rendered, Rendered> {
        let accept = request.header("accept").unwrap_or_default();
        let clauses = negotiate::clauses(accept);
        for clause in &clauses {
            let json = matches!(clause.media, "application/json" | "*/*" | "application/*");
            if !json {
                continue;
            }
            let version = clause.param("v");
            let aggregated = clause.param("g") == "apidiscovery.k8s.io"
                && clause.param("as") == "APIGroupDiscoveryList";
            if aggregated && matches!(version, "v2" | "v2beta1") {
                return Ok(self.aggregated(request, core_group, version));
            }
            if clause.param("as").is_empty() {
                break;
            }
        }
        if !clauses.is_empty()
            && !clauses.iter().any(|c| {
                matches!(
                    c.media,
                    "application/json"
                        | "application/yaml"
                        | "*/*"
                        | "application/vnd.kubernetes.protobuf"
                )
            })
        {
            return Err(negotiate::not_acceptable().into());
        }
        let value = if core_group {
            discovery::api_versions(&self.config().server_address)
        } else {
            discovery::api_group_list(self.core())
        };
        let mut answer = json_answer(&value);
        answer.head.push("Vary", "Accept");
        Ok(answer)
    }

    fn aggregated(&self, request: &Request, core_group: bool, version: &str) -> Rendered {
        let value = discovery::aggregated(self.core(), core_group, version);
        let body = Body::from(value.to_string().into_bytes());
        let etag = etag_of(&body);
        let content =
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        let head = Head::new(200, &content).with("Vary", "Accept").with("Cache-Control", "public");
        with_etag(request, &etag, Rendered { head, body })
    }

    // `rest` is what follows /openapi/v3: nothing, or a slash and the path of a group version.
    fn openapi(&mut self, request: &Request, rest: &str) -> Rendered {
        if request.method != "GET" {
            return method_not_allowed().into();
        }
        let key = rest.trim_matches('/').to_string();
        if let Some((etag, body)) = self.openapi_cached(&key) {
            let content = if key.is_empty() { TEXT } else { "application/json" };
            let answer = Rendered { head: Head::new(200, content).with("Vary", "Accept"), body };
            return with_etag(request, &etag, answer);
        }
        page_not_found()
    }

    fn health(&self, path: &str, query: &Query) -> Option<Rendered> {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let endpoint = parts.next()?;
        if !matches!(endpoint, "healthz" | "livez" | "readyz") {
            return None;
        }
        let ready = self.core().ready();
        let mut checks = vec![Check("ping", true), Check("log", true)];
        checks.push(Check("store", endpoint == "livez" || self.store_connected()));
        if endpoint != "livez" {
            checks.push(Check("informer-sync", ready));
        }
        if let Some(name) = parts.next() {
            return Some(match checks.iter().find(|c| c.0 == name) {
                Some(Check(_, true)) => text(200, "ok"),
                Some(Check(name, false)) => {
                    text(500, &format!("internal server error: {name} check failed\n"))
                }
                None => page_not_found(),
            });
        }
        let excluded: Vec<&str> = query.all("exclude").collect();
        let failed = checks.iter().any(|c| !c.1 && !excluded.contains(&c.0));
        if !failed && query.get("verbose").is_none() {
            return Some(text(200, "ok"));
        }
        let mut out = String::new();
        for Check(name, ok) in &checks {
            out.push_str(&match (ok, excluded.contains(name)) {
                (_, true) => format!("[+]{name} excluded: ok\n"),
                (true, _) => format!("[+]{name} ok\n"),
                (false, _) => format!("[-]{name} failed: reason withheld\n"),
            });
        }
        out.push_str(&format!("{endpoint} check {}\n", if failed { "failed" } else { "passed" }));
        Some(text(if failed { 500 } else { 200 }, &out))
    }

    fn root_paths(&self) -> Value {
        let mut paths: Vec<String> = [
            "/.well-known/openid-configuration",
            "/api",
            "/api/v1",
            "/apis",
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ]
        .iter()
        .map(|p| (*p).to_string())
        .collect();
        for (group, version) in discovery::group_versions(self.core()) {
            if !group.is_empty() {
                paths.push(format!("/apis/{group}"));
                paths.push(format!("/apis/{group}/{version}"));
            }
        }
        paths.sort();
        paths.dedup();
        json!({"paths": paths})
    }
}

// An unknown version of a known group is a Status, everything else Go's plain text.
fn not_found(front: &Front, path: &str) -> Rendered {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let known_group = match parts.as_slice() {
        ["api", _] => true,
        ["apis", group, _] => discovery::api_group(front.core(), group).is_some(),
        _ => false,
    };
    if known_group { Failure::no_such_path().into() } else { page_not_found() }
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": KUBERNETES_VERSION, "gitCommit": "0000000000000000000000000000000000000000",
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        // No Go is involved; clients only print it.
        "goVersion": "go1.24", "compiler": "rustc", "platform": "linux/amd64",
    })
}

fn openid_configuration() -> Value {
    json!({
        "issuer": token::ISSUER,
        "jwks_uri": format!("{}/openid/v1/jwks", token::ISSUER),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

impl From<Failure> for Rendered {
    fn from(f: Failure) -> Rendered {
        render::failure(&f)
    }
}

impl From<pintle_wire::msg::api::Reply> for Rendered {
    fn from(reply: pintle_wire::msg::api::Reply) -> Rendered {
        match reply {
            pintle_wire::msg::api::Reply::Object { code, warnings, body } => render::reply(
                code,
                &warnings,
                &body,
                &Accepted::default(),
                &render::Kind::default(),
                Wall(0),
            ),
            pintle_wire::msg::api::Reply::Event { .. } => {
                Failure::internal("an event came where an answer was due").into()
            }
        }
    }
}
