//! Patch: make the new object from the cached one, then go the way of an update.

use pintle_api::status::FieldError;
use pintle_api::{decode, managed, object, patch};
use pintle_wire::msg::api::PatchType;
use serde_json::Value;

use super::{Planned, meta, strictness};
use crate::limits;
use crate::server::{Server, Work};
use crate::status::{Failure, Result};

impl Server {
    pub(crate) fn plan_patch(&mut self, work: &Work) -> Result<Planned> {
        let r = work.request.clone();
        let endpoint = self.registry.endpoint(work.endpoint).clone();
        if r.body.len() > limits::BODY_BYTES_MAX {
            let text = format!("Request entity too large: limit is {}", limits::BODY_BYTES_MAX);
            return Err(Failure::too_large(text));
        }
        let current = self.current_of(work);
        if r.patch_type == Some(PatchType::Apply) {
            return self.plan_apply(work, current);
        }
        let Some(current) = current else {
            return Err(Failure::not_found(&endpoint.group, &endpoint.plural, &r.name));
        };
        let changed = apply_patch(
            &r,
            &current,
            &endpoint.gvk(),
            self.registry.resource(endpoint.resource).custom,
        )?;
        let gvk = endpoint.gvk();
        let shown = changed.to_string();
        let decoded = decode::value(changed.clone(), &gvk).map_err(|failure| {
            let strategic = r.patch_type == Some(PatchType::Strategic);
            let why = patch::why_undecodable(&changed, &gvk, strategic, &failure);
            refused_patch(&r, &shown, &why)
        })?;
        let warnings = if r.options.field_validation.as_deref() == Some("Strict")
            && !decoded.strict.is_empty()
        {
            return Err(strict_patch(&r, &shown, &decoded.strict));
        } else {
            strictness(&r.options, &gvk, decoded.strict)?
        };
        let mut object = decoded.object;
        meta::check_name(&endpoint, &mut object, &r.namespace, &r.name)?;
        self.plan_change(work, object, warnings, true)
    }

    fn plan_apply(&mut self, work: &Work, current: Option<Value>) -> Result<Planned> {
        let r = work.request.clone();
        let endpoint = self.registry.endpoint(work.endpoint).clone();
        if r.options.field_manager.as_deref().unwrap_or("").is_empty() {
            return Err(Failure::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
        let mut config = applied_config(&r.body)?;
        check_config_kind(&endpoint, &config)?;
        if object::name(&config).is_empty() {
            meta::of(&mut config).insert("name".into(), r.name.clone().into());
        }
        meta::check_name(&endpoint, &mut config.clone(), &r.namespace, &r.name)?;
        if current.is_none() && !r.subresource.is_empty() {
            return Err(Failure::not_found(&endpoint.group, &endpoint.plural, &r.name));
        }
        let manager = self.manager(work);
        let time = self.now.wall.rfc3339();
        let write = managed::Write {
            manager: &manager,
            gvk: endpoint.gvk(),
            subresource: &r.subresource,
            time: &time,
        };
        let live = current.clone().unwrap_or(Value::Null);
        let force = r.options.force.unwrap_or(false);
        let merged = managed::apply(&live, &config, force, &write)?;
        let gvk = endpoint.gvk();
        let decoded = decode::value(merged, &gvk)?;
        let warnings = strictness(&r.options, &gvk, decoded.strict)?;
        let mut merged = decoded.object;
        if current.is_none() {
            meta::of(&mut merged).remove("resourceVersion");
            meta::settle_namespace(&endpoint, &mut merged, &r.namespace)?;
            return self.plan_new(work, merged, warnings);
        }
        self.plan_change(work, merged, warnings, true)
    }
}

/// What strict field validation says about a patch: the patched document, or the patch as Go prints a map.
fn strict_patch(r: &pintle_wire::msg::api::Request, patched: &str, strict: &[String]) -> Failure {
    refused_patch(r, patched, &format!("strict decoding error: {}", strict.join(", ")))
}

/// 422 for a patch whose result is no object of the kind.
fn refused_patch(r: &pintle_wire::msg::api::Request, patched: &str, why: &str) -> Failure {
    let value = match r.patch_type {
        Some(PatchType::Strategic) => {
            serde_json::from_slice(&r.body).map(|v: Value| go_text(&v)).unwrap_or_default()
        }
        _ => patched.to_owned(),
    };
    let e = FieldError::invalid_str("patch", &value, why);
    Failure::invalid("", "", "", &[e])
}

/// A value as Go's `%v` shows it.
fn go_text(v: &Value) -> String {
    match v {
        Value::Object(m) => {
            let all: Vec<String> = m.iter().map(|(k, v)| format!("{k}:{}", go_text(v))).collect();
            format!("map[{}]", all.join(" "))
        }
        Value::Array(l) => {
            let all: Vec<String> = l.iter().map(go_text).collect();
            format!("[{}]", all.join(" "))
        }
        Value::String(s) => s.clone(),
        Value::Null => "<nil>".into(),
        other => other.to_string(),
    }
}

/// The body of an apply: JSON or YAML, as it was sent.
fn applied_config(body: &[u8]) -> Result<Value> {
    let parsed = match serde_json::from_slice(body) {
        Ok(v) => Ok(v),
        Err(_) => serde_yaml_ng::from_slice::<Value>(body).map_err(|e| e.to_string()),
    };
    match parsed {
        Ok(v) if v.is_object() => Ok(v),
        Ok(_) => Err(Failure::bad_request("error decoding YAML: not an object")),
        Err(e) => Err(Failure::bad_request(format!("error decoding YAML: {e}"))),
    }
}

fn check_config_kind(e: &crate::registry::Endpoint, config: &Value) -> Result<()> {
    let (version, kind) =
        (object::str_at(config, &["apiVersion"]), object::str_at(config, &["kind"]));
    if version != e.api_version() || kind != e.kind {
        let got = pintle_api::Gvk::from_api_version(version, kind);
        return Err(Failure::bad_request(format!(
            "invalid object type: {}/{}, Kind={}",
            got.group, got.version, got.kind
        )));
    }
    Ok(())
}

/// The object that a patch makes of `current`.
pub(crate) fn apply_patch(
    r: &pintle_wire::msg::api::Request,
    current: &Value,
    gvk: &pintle_api::Gvk<'_>,
    custom: bool,
) -> Result<Value> {
    let body: Value = serde_json::from_slice(&r.body).map_err(|e| bad_patch(&e))?;
    match r.patch_type {
        Some(PatchType::Json) => patch::json(current, &body),
        Some(PatchType::Merge) => {
            if !body.is_object() {
                return Err(Failure::bad_request("merge patch is not a JSON object"));
            }
            let mut changed = current.clone();
            patch::merge(&mut changed, &body);
            Ok(changed)
        }
        Some(PatchType::Strategic) if custom => Err(Failure::plain(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        )),
        Some(PatchType::Strategic) => patch::strategic(current, &body, gvk),
        Some(PatchType::Apply) | None => Err(Failure::bad_request("unknown type of patch")),
    }
}

fn bad_patch(e: &serde_json::Error) -> Failure {
    Failure::bad_request(format!("error decoding patch: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_wire::msg::api::{Request, Verb};
    use serde_json::json;

    #[test]
    fn a_body_that_is_no_json_is_refused() {
        let mut r = Request::new(Verb::Patch, "", "v1", "configmaps");
        r.patch_type = Some(PatchType::Merge);
        r.body = b"{"[..].into();
        let gvk = pintle_api::Gvk::new("", "v1", "ConfigMap");
        let f = apply_patch(&r, &json!({}), &gvk, false).expect_err("no JSON");
        assert_eq!(f.code, 400);
    }
}
