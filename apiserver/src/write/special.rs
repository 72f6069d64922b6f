//! Subresources with a meaning of their own: scale, binding, eviction, token, finalize, approval, ...

use pintle_api::{Gvk, decode, default, managed, object};
use pintle_base::Wall;
use pintle_wire::msg::api;
use serde_json::{Value, json};

use super::{Done, Effect, Plan, Planned, json_reply, meta, patch, strictness};
use crate::alloc::Reserved;
use crate::authn::token;
use crate::registry::Endpoint;
use crate::server::{Server, Work};
use crate::status::{Failure, Result};

/// Shortest life that a token may be asked for, and the default, in seconds.
const TOKEN_LIFE_MIN_S: i64 = 600;
const TOKEN_LIFE_S: i64 = 3600;
/// Longest, as kube-apiserver's: 2^32 seconds.
const TOKEN_LIFE_MAX_S: i64 = 1 << 32;

const REQUEST: Gvk<'static> = Gvk::new("authentication.k8s.io", "v1", "TokenRequest");

impl Server {
    pub(crate) fn plan_special(&mut self, work: &Work) -> Result<Planned> {
        let r = work.request.clone();
        match (r.resource.as_str(), r.subresource.as_str(), r.verb) {
            (_, "scale", _) => self.plan_scale(work),
            ("pods", "binding", api::Verb::Create) => {
                let body = self.special_body(work)?;
                let name = r.name.clone();
                self.plan_binding(work, &name, &body)
            }
            ("pods", "eviction", api::Verb::Create) => self.plan_eviction(work),
            ("serviceaccounts", "token", api::Verb::Create) => self.plan_token(work),
            ("namespaces", "finalize", api::Verb::Update) => self.plan_finalize(work),
            ("pods", "ephemeralcontainers" | "resize", api::Verb::Get)
            | ("certificatesigningrequests", "approval", api::Verb::Get) => {
                let mut read = work.clone();
                let mut plain = (*r).clone();
                plain.subresource.clear();
                read.request = std::sync::Arc::new(plain);
                Ok(Planned::Answer(self.read(&read)?))
            }
            ("pods", "ephemeralcontainers" | "resize", _)
            | ("certificatesigningrequests", "approval", _) => match r.verb {
                api::Verb::Update => self.plan_update(work),
                api::Verb::Patch => self.plan_patch(work),
                _ => Err(Failure::method_not_allowed()),
            },
            _ => Err(Failure::method_not_allowed()),
        }
    }

    /// The body of a subresource whose kind is not the object's.
    pub(super) fn special_body(&self, work: &Work) -> Result<Value> {
        let e = self.registry.endpoint(work.endpoint);
        let Some(sub) = e.subresource(&work.request.subresource) else {
            return Err(Failure::no_such_path());
        };
        let gvk = Gvk::new(&sub.group, &sub.version, &sub.kind);
        if work.request.body.is_empty() {
            return Ok(json!({"apiVersion": gvk.api_version(), "kind": sub.kind, "metadata": {}}));
        }
        let decoded = decode::json(&work.request.body, &gvk)?;
        strictness(&work.request.options, &gvk, decoded.strict)?;
        Ok(decoded.object)
    }

    pub(super) fn existing(
        &self,
        work: &Work,
        name: &str,
    ) -> Result<(std::sync::Arc<crate::cache::Object>, Value)> {
        let e = self.registry.endpoint(work.endpoint);
        let key = e.key(&work.request.namespace, name);
        let o = self
            .cache
            .table(e.resource)
            .get(&key)
            .ok_or_else(|| Failure::not_found(&e.group, &e.plural, name))?;
        Ok((o.clone(), o.parse()))
    }

    fn plan_scale(&mut self, work: &Work) -> Result<Planned> {
        let r = work.request.clone();
        let (current, old) = self.existing(work, &r.name)?;
        let e = self.registry.endpoint(work.endpoint).clone();
        let scale = scale_of(&old);
        let wanted = match r.verb {
            api::Verb::Get => return Ok(Planned::Answer(json_reply(200, &scale))),
            api::Verb::Update => self.special_body(work)?,
            api::Verb::Patch => {
                let gvk = Gvk::new("autoscaling", "v1", "Scale");
                let changed = patch::apply_patch(&r, &scale, &gvk, false)?;
                decode::value(changed, &gvk)?.object
            }
            _ => return Err(Failure::method_not_allowed()),
        };
        let own = object::name(&wanted);
        if own != r.name {
            return Err(Failure::bad_request(format!(
                "the name of the object ({own}) does not match the name on the URL ({})",
                r.name
            )));
        }
        if let Some(v) = meta::revision_in("Scale", "autoscaling", &wanted)?
            && v != current.revision
        {
            return Err(Failure::modified(&e.group, &e.plural, &r.name));
        }
        let replicas = object::int_at(&wanted, &["spec", "replicas"]).unwrap_or(0);
        if replicas < 0 {
            let f = pintle_api::status::FieldError::invalid(
                "spec.replicas",
                &json!(replicas),
                "must be greater than or equal to 0",
            );
            return Err(Failure::invalid("autoscaling", "Scale", &r.name, &[f]));
        }
        let mut new = old.clone();
        object::set(&mut new, &["spec", "replicas"], replicas);
        super::strategy::bump_generation(&e, &mut new, &old);
        self.track(work, &e, &old, &mut new, "scale");
        let body = scale_of(&new);
        if new == old || r.options.dry_run {
            return Ok(Planned::Answer(json_reply(200, &body)));
        }
        Ok(commit(&e, &current, new, Done::Revised(200, body)))
    }

    /// Binds a pod to a node: what the scheduler does.
    pub(crate) fn plan_binding(
        &mut self,
        work: &Work,
        name: &str,
        binding: &Value,
    ) -> Result<Planned> {
        let pods = self.registry.find("", "v1", "pods").ok_or_else(Failure::no_such_path)?.clone();
        let namespace = work.request.namespace.clone();
        let key = pods.key(&namespace, name);
        let current = self
            .cache
            .table(pods.resource)
            .get(&key)
            .cloned()
            .ok_or_else(|| Failure::not_found("", "pods", name))?;
        let old = current.parse();
        let node = object::str_at(binding, &["target", "name"]);
        let kind = object::str_at(binding, &["target", "kind"]);
        if node.is_empty() {
            let f = pintle_api::status::FieldError::required("target.name", "");
            return Err(Failure::invalid("", "Binding", name, &[f]));
        }
        if !kind.is_empty() && kind != "Node" {
            let f = pintle_api::status::FieldError::not_supported("target.kind", kind, &["Node"]);
            return Err(Failure::invalid("", "Binding", name, &[f]));
        }
        let refused = |why: String| Err(Failure::conflict("", "pods/binding", name, &why));
        let uid = object::uid(binding);
        if !uid.is_empty() && uid != object::uid(&old) {
            return refused(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                object::uid(&old)
            ));
        }
        if object::is_deleting(&old) {
            return refused(format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        let on = object::str_at(&old, &["spec", "nodeName"]);
        if !on.is_empty() {
            return refused(format!("pod {name} is already assigned to node \"{on}\""));
        }
        if !object::list_at(&old, &["spec", "schedulingGates"]).is_empty() {
            return refused(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        let mut new = old.clone();
        object::set(&mut new, &["spec", "nodeName"], node);
        for part in ["annotations", "labels"] {
            for (k, v) in object::map_at(binding, &["metadata", part]).into_iter().flatten() {
                object::set(&mut new, &["metadata", part, k], v.clone());
            }
        }
        set_condition(
            &mut new,
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
                "lastTransitionTime": self.now.wall.rfc3339()}),
        );
        let answer = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        if work.request.options.dry_run {
            return Ok(Planned::Answer(json_reply(201, &answer)));
        }
        Ok(commit(&pods, &current, new, Done::Body(201, answer)))
    }

    fn plan_finalize(&mut self, work: &Work) -> Result<Planned> {
        let r = work.request.clone();
        let (wanted, warnings) = self.decode(work, &r.body)?;
        let (current, old) = self.existing(work, &r.name)?;
        let e = self.registry.endpoint(work.endpoint).clone();
        if let Some(v) = meta::revision_in("Namespace", "", &wanted)?
            && v != current.revision
        {
            return Err(Failure::modified("", "namespaces", &r.name));
        }
        let mut new = old.clone();
        match object::at(&wanted, &["spec", "finalizers"])
            .filter(|l| !l.as_array().is_none_or(Vec::is_empty))
        {
            Some(list) => object::set(&mut new, &["spec", "finalizers"], list.clone()),
            None => {
                object::set(&mut new, &["spec"], json!({}));
            }
        }
        self.track(work, &e, &old, &mut new, "finalize");
        self.settle_change(work, &current, new, warnings, Reserved::default())
    }

    fn plan_token(&mut self, work: &Work) -> Result<Planned> {
        let r = work.request.clone();
        let mut body = self.special_body(work)?;
        let (_, account) = self.existing(work, &r.name)?;
        let Some(keys) = self.keys.clone() else {
            return Err(Failure::internal("this API server has no key to sign tokens with"));
        };
        let asked = object::int_at(&body, &["spec", "expirationSeconds"]).unwrap_or(TOKEN_LIFE_S);
        let bad = |field: &str, text: &str| {
            let f = pintle_api::status::FieldError::invalid(field, &json!(asked), text);
            Failure::invalid("authentication.k8s.io", "TokenRequest", &r.name, &[f])
        };
        if asked < TOKEN_LIFE_MIN_S {
            return Err(bad(
                "spec.expirationSeconds",
                "may not specify a duration less than 10 minutes",
            ));
        }
        if asked > TOKEN_LIFE_MAX_S {
            return Err(bad(
                "spec.expirationSeconds",
                "may not specify a duration larger than 2^32 seconds",
            ));
        }
        let mut audiences: Vec<String> = object::list_at(&body, &["spec", "audiences"])
            .iter()
            .filter_map(Value::as_str)
            .map(String::from)
            .collect();
        if audiences.is_empty() {
            audiences.push(token::ISSUER.into());
        }
        let issued_s = self.now.wall.unix_s();
        let mut claims = token::Claims {
            namespace: r.namespace.clone(),
            service_account: token::Reference {
                name: r.name.clone(),
                uid: object::uid(&account).into(),
            },
            audiences: audiences.clone(),
            issued_s,
            expires_s: issued_s + asked,
            id: self.prng.uuid(),
            ..token::Claims::default()
        };
        self.bind_token(&r, &body, &mut claims)?;
        let Some(text) = keys.sign(&claims) else {
            return Err(Failure::internal("the system has no randomness to sign a token with"));
        };
        default::object(&REQUEST, &mut body);
        object::set(&mut body, &["spec", "expirationSeconds"], asked);
        object::remove(&mut body, &["status"]);
        let write = managed::Write {
            manager: &self.manager(work),
            gvk: REQUEST,
            subresource: "token",
            time: &self.now.wall.rfc3339(),
        };
        managed::track(&Value::Null, &mut body, &write);
        let m = meta::of(&mut body);
        m.insert("uid".into(), object::uid(&account).into());
        m.insert("name".into(), r.name.clone().into());
        m.insert("namespace".into(), r.namespace.clone().into());
        m.insert("creationTimestamp".into(), self.now.wall.rfc3339().into());
        object::set(&mut body, &["spec", "audiences"], audiences);
        if object::at(&body, &["spec", "boundObjectRef"]).is_none() {
            object::set(&mut body, &["spec", "boundObjectRef"], Value::Null);
        }
        let expires = Wall::from_unix_s(claims.expires_s).rfc3339();
        let token = if r.options.dry_run { String::new() } else { text };
        object::set(
            &mut body,
            &["status"],
            json!({"token": token, "expirationTimestamp": expires}),
        );
        Ok(Planned::Answer(json_reply(201, &body)))
    }

    /// Binds a token to the pod, secret or node that the request names.
    fn bind_token(&self, r: &api::Request, body: &Value, claims: &mut token::Claims) -> Result<()> {
        let Some(bound) = object::at(body, &["spec", "boundObjectRef"]).filter(|b| b.is_object())
        else {
            return Ok(());
        };
        let name = object::str_at(bound, &["name"]);
        let (kind, wanted) = (object::str_at(bound, &["kind"]), object::str_at(bound, &["uid"]));
        let plural = match kind {
            "Pod" => "pods",
            "Secret" => "secrets",
            "Node" => "nodes",
            other => {
                let group = object::str_at(bound, &["apiVersion"]);
                return Err(Failure::bad_request(format!(
                    "cannot bind token for serviceaccount \"{}\" to object of type {group}, Kind={other}",
                    r.name
                )));
            }
        };
        let Some(o) = self.lookup("", plural, &r.namespace, name) else {
            return Err(Failure::not_found("", plural, name));
        };
        let o = o.parse();
        let uid = object::uid(&o);
        if !wanted.is_empty() && wanted != uid {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Failure::conflict("", plural, name, &why));
        }
        let reference = token::Reference { name: name.into(), uid: uid.into() };
        match kind {
            "Pod" => {
                let account = object::str_at(&o, &["spec", "serviceAccountName"]);
                if account != r.name {
                    return Err(Failure::bad_request(format!(
                        "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                        r.name
                    )));
                }
                let node = object::str_at(&o, &["spec", "nodeName"]);
                if !node.is_empty() {
                    let uid = self.lookup("", "nodes", "", node).map(|n| n.parse());
                    let uid = uid.as_ref().map_or("", |n| object::uid(n)).to_owned();
                    claims.node = Some(token::Reference { name: node.into(), uid });
                }
                claims.pod = Some(reference);
            }
            "Secret" => claims.secret = Some(reference),
            _ => claims.node = Some(reference),
        }
        Ok(())
    }
}

fn commit(e: &Endpoint, current: &crate::cache::Object, new: Value, done: Done) -> Planned {
    Planned::Commit(Box::new(Plan {
        resource: e.resource,
        key: current.key.to_string(),
        expect: current.revision,
        effect: Effect::Put(new),
        done,
        also: Vec::new(),
        warnings: Vec::new(),
        reserved: Reserved::default(),
    }))
}

pub(super) fn set_condition(v: &mut Value, condition: Value) {
    let mut list = object::list_at(v, &["status", "conditions"]).to_vec();
    match list.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(c) => *c = condition,
        None => list.push(condition),
    }
    object::set(v, &["status", "conditions"], list);
}

/// The Scale of a workload.
pub(crate) fn scale_of(v: &Value) -> Value {
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(x) = object::at(v, &["metadata", key]) {
            metadata[key] = x.clone();
        }
    }
    let mut spec = json!({});
    if let Some(n) = object::int_at(v, &["spec", "replicas"]).filter(|n| *n != 0) {
        spec["replicas"] = n.into();
    }
    let replicas = object::int_at(v, &["status", "replicas"]).unwrap_or(0);
    let mut status = json!({"replicas": replicas});
    let selector = selector_text(&v["spec"]["selector"]);
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// A LabelSelector (or the plain map of a ReplicationController) as text.
fn selector_text(s: &Value) -> String {
    let mut parts = Vec::new();
    let plain = s.get("matchLabels").is_none() && s.get("matchExpressions").is_none();
    let labels = if plain { s.as_object() } else { s["matchLabels"].as_object() };
    for (k, v) in labels.into_iter().flatten() {
        parts.push((k.clone(), format!("{k}={}", v.as_str().unwrap_or(""))));
    }
    for e in object::list_at(s, &["matchExpressions"]) {
        let key = object::str_at(e, &["key"]);
        let mut values: Vec<&str> =
            object::list_at(e, &["values"]).iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match object::str_at(e, &["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        parts.push((key.to_owned(), text));
    }
    // By key alone, so that what was said first stays first.
    parts.sort_by(|a: &(String, String), b| a.0.cmp(&b.0));
    let texts: Vec<String> = parts.into_iter().map(|(_, text)| text).collect();
    texts.join(",")
}
