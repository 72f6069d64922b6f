//! Get, list and watch, from the watch cache.
//!
//! A read with no resourceVersion waits until the cache has every write that this server acknowledged; it is
//! the store's only writer, so the read is linearizable. `0` takes what is there; a number waits for it. A page
//! of a list carries the revision and the last key in its continue token; the next page is cut from the state
//! at that revision, rebuilt from the ring of changes.
//!
//! References: API concepts, "Resource versions", "Retrieving large results sets in chunks".

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pintle_api::selector::{Fields, Labels};
use pintle_api::status::FieldError;
use pintle_wire::msg::api;
use serde_json::{Value, json};

use crate::cache::Object;
use crate::convert;
use crate::registry::{Endpoint, Resource};
use crate::server::{Answer, Origin, Output, Server, Work};
use crate::status::{Failure, Result};
use crate::watch::{Selection, Start, Wish};

/// Where a list goes on.
struct Continue {
    revision: u64,
    after: String,
}

const EXPIRED_CONTINUE: &str = "The provided continue parameter is too old to display a consistent list \
result. You can start a new list without the continue parameter, or use the continue token in this response \
to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list \
- objects that were created, modified, or deleted between the time the first chunk was returned and now may \
show up in the list.";

impl Server {
    /// The revision that the cache must have reached before this can be carried out.
    pub(crate) fn wanted_revision(&self, work: &Work) -> Result<u64> {
        let r = &*work.request;
        let reads = matches!(r.verb, api::Verb::Get | api::Verb::List | api::Verb::Watch);
        if !reads {
            return Ok(self.known_revision);
        }
        let o = &r.options;
        if o.continue_token.as_deref().is_some_and(|t| !t.is_empty()) {
            return Ok(0);
        }
        match o.resource_version.as_deref().unwrap_or("") {
            "" => Ok(self.known_revision),
            text => parse_revision(text),
        }
    }

    /// Answers a get or list.
    pub(crate) fn read(&mut self, work: &Work) -> Answer {
        let r = &*work.request;
        let endpoint = self.registry.endpoint(work.endpoint);
        let resource = self.registry.resource(endpoint.resource);
        if r.verb == api::Verb::Get {
            let key = endpoint.key(&r.namespace, &r.name);
            let Some(object) = self.cache.table(resource.id).get(&key) else {
                let plural = match endpoint.plural.as_str() {
                    "componentstatuses" => "componentstatus",
                    other => other,
                };
                let f = Failure::not_found(&endpoint.group, plural, &r.name);
                return Ok(crate::status::reply(&f, deprecations(endpoint)));
            };
            let body = convert::body(object, resource, endpoint);
            return Ok(api::Reply::Object { code: 200, warnings: deprecations(endpoint), body });
        }
        self.list(r, endpoint, resource)
    }

    fn list(&self, r: &api::Request, endpoint: &Endpoint, resource: &Resource) -> Answer {
        let o = &r.options;
        check_list_options(o, false)?;
        let selection = select(r, endpoint)?;
        let cont = match o.continue_token.as_deref() {
            None | Some("") => None,
            Some(token) => Some(parse_continue(token, o)?),
        };
        let table = self.cache.table(resource.id);
        let now = self.cache.revision();
        let exact = o.resource_version_match.as_deref() == Some("Exact");
        let (revision, after) = match &cont {
            Some(c) => (if c.revision == 0 { now } else { c.revision }, c.after.as_str()),
            None if exact => (parse_revision(o.resource_version.as_deref().unwrap_or(""))?, ""),
            None => (now, ""),
        };
        let objects: Vec<Arc<Object>> = if revision >= now {
            table.iter_after(&r.namespace, after).cloned().collect()
        } else {
            match table.snapshot(&r.namespace, after, revision) {
                Some(objects) => objects,
                None if cont.is_some() => return Ok(expired_continue(after)),
                None => return Err(Failure::too_old(revision, table.window_start())),
            }
        };
        // As Kubernetes: what may come from any cache comes whole.
        let limit = if o.resource_version.as_deref() == Some("0") { 0 } else { o.limit as usize };
        Ok(page(&objects, limit, revision, &selection, resource, endpoint))
    }

    /// Starts a watch, or answers why not.
    pub(crate) fn start_watch(&mut self, work: &Work) {
        let Origin::Client(id) = work.origin else { return };
        let (wish, start) = match self.prepare_watch(work) {
            Ok(ready) => ready,
            Err(f) if f.reason == "Expired" => {
                // As Kubernetes: the watch begins well and its first event is the error.
                let body = f.to_value().to_string().into_bytes().into();
                let kind = api::EventType::Error;
                self.out
                    .push_back(Output::Reply(id, api::Reply::Event { kind, revision: 0, body }));
                self.out.push_back(Output::End(id));
                return;
            }
            Err(f) => return self.answer(work.origin, Err(f)),
        };
        let resource = self.registry.endpoint(work.endpoint).resource;
        let revision = self.cache.revision();
        self.hub.add(id, resource, wish, start, revision, self.now.mono);
    }

    fn prepare_watch(&self, work: &Work) -> Result<(Wish, Start)> {
        let r = &*work.request;
        let o = &r.options;
        check_list_options(o, true)?;
        let endpoint = self.registry.endpoint(work.endpoint);
        let mut selection = select(r, endpoint)?;
        if !r.name.is_empty() {
            // A watch of one object, as the old /watch/ paths ask for it.
            let text = format!("metadata.name={}", r.name);
            selection.fields = Fields::parse(&text, &[])?;
        }
        let table = self.cache.table(endpoint.resource);
        let version = match o.resource_version.as_deref().unwrap_or("") {
            "" => None,
            text => Some(parse_revision(text)?),
        };
        let initial = match o.send_initial_events {
            Some(wanted) => wanted,
            None => version.is_none_or(|v| v == 0),
        };
        let start = match version {
            _ if initial => {
                let objects = table.iter(&r.namespace).cloned().collect();
                Start::Objects(objects, table.next_seq())
            }
            None | Some(0) => Start::Changes(table.next_seq()),
            Some(v) => match table.seq_after(v) {
                Some(seq) => Start::Changes(seq),
                None => return Err(Failure::too_old(v, table.window_start())),
            },
        };
        let wish = Wish {
            endpoint: endpoint.id,
            selection,
            bookmarks: o.bookmarks,
            mark_initial_end: o.bookmarks && o.send_initial_events == Some(true),
            deadline: o
                .timeout_s
                .filter(|s| *s > 0)
                .map(|s| self.now.mono + Duration::from_secs(u64::from(s))),
        };
        Ok((wish, start))
    }

    /// One object of the cache.
    pub(crate) fn lookup(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Option<&Arc<Object>> {
        let id = self.registry.resource_of(group, plural)?;
        let table = self.cache.table(id);
        if self.registry.resource(id).namespaced {
            table.get(&format!("{namespace}/{name}"))
        } else {
            table.get(name)
        }
    }
}

/// The selectors of a list, watch or deletecollection.
pub(crate) fn select(r: &api::Request, endpoint: &Endpoint) -> Result<Selection> {
    let o = &r.options;
    let supported: Vec<&str> = endpoint.fields.iter().map(String::as_str).collect();
    Ok(Selection {
        namespace: r.namespace.clone(),
        labels: Labels::parse(o.label_selector.as_deref().unwrap_or(""))?,
        fields: Fields::parse(o.field_selector.as_deref().unwrap_or(""), &supported)?,
    })
}

fn page(
    objects: &[Arc<Object>],
    limit: usize,
    revision: u64,
    selection: &Selection,
    resource: &Resource,
    endpoint: &Endpoint,
) -> api::Reply {
    let mut items = Vec::new();
    let mut last = None;
    let mut taken = 0;
    let mut more = false;
    let mut at = 0;
    for (i, o) in objects.iter().enumerate() {
        if !selection.matches(resource, o) {
            continue;
        }
        if limit > 0 && taken == limit {
            more = true;
            break;
        }
        if taken > 0 {
            items.push(b',');
        }
        convert::push_item(&mut items, o, resource, endpoint);
        taken += 1;
        last = Some(&o.key);
        at = i + 1;
    }
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let (true, Some(key)) = (more, last) {
        metadata["continue"] = Value::from(continue_token(revision, key));
        if selection.is_everything() {
            metadata["remainingItemCount"] = Value::from(objects.len() - at);
        }
    }
    let mut body = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
        Value::from(endpoint.list_kind.as_str()),
        Value::from(endpoint.api_version())
    )
    .into_bytes();
    body.append(&mut items);
    body.extend_from_slice(b"]}");
    api::Reply::Object { code: 200, warnings: deprecations(endpoint), body: body.into() }
}

/// Warnings that come with every answer about a deprecated resource.
pub(crate) fn deprecations(e: &Endpoint) -> Vec<String> {
    match (e.group.as_str(), e.plural.as_str()) {
        ("", "endpoints") => vec![
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into(),
        ],
        ("", "componentstatuses") => vec!["v1 ComponentStatus is deprecated in v1.19+".into()],
        _ => Vec::new(),
    }
}

fn continue_token(revision: u64, key: &str) -> String {
    let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": format!("{key}\0")});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn parse_continue(token: &str, o: &api::Options) -> Result<Continue> {
    if o.resource_version.as_deref().is_some_and(|v| !v.is_empty() && v != "0") {
        let text = "specifying resource version is not allowed when using continue";
        return Err(Failure::bad_request(text));
    }
    let bad = |why: String| {
        Failure::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
    };
    // The last character may carry bits that mean nothing: Go's decoder forgives them.
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::URL_SAFE,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone),
    );
    let bytes = engine.decode(token).map_err(|e| {
        let at = match e {
            base64::DecodeError::InvalidByte(i, _) => i,
            base64::DecodeError::InvalidLastSymbol(i, _) => i,
            _ => token.len(),
        };
        bad(format!("illegal base64 data at input byte {at}"))
    })?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| match bytes.first() {
        Some(c) if !matches!(c, b'{' | b'[' | b'"') => {
            let c = if c.is_ascii_graphic() {
                char::from(*c).to_string()
            } else {
                format!("\\x{c:02x}")
            };
            bad(format!("invalid character '{c}' looking for beginning of value"))
        }
        _ => bad(e.to_string()),
    })?;
    if value["v"] != "meta.k8s.io/v1" {
        let v = value["v"].as_str().unwrap_or("");
        let why = format!(
            "server does not recognize this encoded version {}",
            pintle_api::status::quote(v)
        );
        return Err(Failure::bad_request(format!(
            "invalid continue token: continue key is not valid: {why}"
        )));
    }
    let start = value["start"].as_str().unwrap_or("");
    if start.is_empty() {
        return Err(bad("encoded start key empty".into()));
    }
    Ok(Continue {
        revision: value["rv"].as_u64().unwrap_or(0),
        after: start.trim_end_matches('\0').into(),
    })
}

/// 410 with a token that goes on without consistency.
fn expired_continue(after: &str) -> api::Reply {
    let f = Failure::expired(EXPIRED_CONTINUE);
    let token = json!({"v": "meta.k8s.io/v1", "rv": 0, "start": format!("{after}\0")});
    let mut status = f.to_value();
    status["metadata"] = json!({"continue": URL_SAFE_NO_PAD.encode(token.to_string())});
    let body = status.to_string().into_bytes().into();
    api::Reply::Object { code: f.code, warnings: Vec::new(), body }
}

/// A resourceVersion parameter as a number.
pub(crate) fn parse_revision(text: &str) -> Result<u64> {
    text.parse().map_err(|_| {
        let q = pintle_api::status::quote(text);
        let why = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            "value out of range"
        } else {
            "invalid syntax"
        };
        Failure::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: {q}: strconv.ParseUint: parsing {q}: {why}"
        ))
    })
}

/// What Kubernetes' ValidateListOptions says.
fn check_list_options(o: &api::Options, watch: bool) -> Result<()> {
    let m = o.resource_version_match.as_deref().unwrap_or("");
    let version = o.resource_version.as_deref().unwrap_or("");
    let continues = o.continue_token.as_deref().is_some_and(|t| !t.is_empty());
    let mut errors = Vec::new();
    let at = "resourceVersionMatch";
    if watch {
        match o.send_initial_events {
            None if !m.is_empty() => errors.push(FieldError::forbidden(
                at,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )),
            None => {}
            Some(_) => {
                if m != "NotOlderThan" {
                    errors.push(FieldError::forbidden(
                        at,
                        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                    ));
                    if !m.is_empty() {
                        errors.push(FieldError::not_supported(at, m, &["NotOlderThan"]));
                    }
                }
                if continues {
                    errors.push(FieldError::forbidden(
                        "continue",
                        "continue is forbidden for watch with sendInitialEvents",
                    ));
                }
            }
        }
    } else {
        if o.send_initial_events.is_some() {
            errors.push(FieldError::forbidden(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for list",
            ));
        }
        if !m.is_empty() {
            if version.is_empty() {
                errors.push(FieldError::forbidden(
                    at,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if continues {
                errors.push(FieldError::forbidden(
                    at,
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            if m != "Exact" && m != "NotOlderThan" {
                errors.push(FieldError::not_supported(at, m, &["Exact", "NotOlderThan", ""]));
            }
            if m == "Exact" && version == "0" {
                errors.push(FieldError::forbidden(
                    at,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Failure::invalid("meta.k8s.io", "ListOptions", "", &errors))
    }
}
