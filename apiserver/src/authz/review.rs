//! The review resources: may somebody do this, what may I do, who am I. Nothing is stored.
//!
//! References: pkg/registry/{authorization,authentication}.

use std::collections::BTreeMap;

use pintle_api::object;
use serde_json::{Value, json};

use super::MASTERS;
use super::rbac::{GROUP, Rule, missing};
use crate::authn::token;
use crate::registry::Endpoint;
use crate::server::{Attributes, Identity, Server, Work};
use crate::status::{Failure, Result};
use crate::write::{Planned, json_reply};

impl Server {
    /// Answers a create of a resource that only exists as an answer.
    pub(crate) fn plan_review(
        &mut self,
        work: &Work,
        e: &Endpoint,
        mut body: Value,
    ) -> Result<Planned> {
        let namespace = work.request.namespace.clone();
        if e.kind == "Binding" {
            let name = object::name(&body).to_owned();
            return self.plan_binding(work, &name, &body);
        }
        match e.kind.as_str() {
            "SelfSubjectAccessReview" => {
                let who = (*work.who).clone();
                self.review_access(e, &who, &mut body)?;
            }
            "SubjectAccessReview" | "LocalSubjectAccessReview" => {
                if e.kind == "LocalSubjectAccessReview" {
                    let asked = object::str_at(&body, &["spec", "resourceAttributes", "namespace"]);
                    if asked != namespace {
                        return Err(Failure::bad_request(format!(
                            "spec.resourceAttributes.namespace must match namespace: {namespace}"
                        )));
                    }
                }
                let who = identity_in(&body["spec"]);
                if who.user.is_empty() && who.groups.is_empty() {
                    let f = pintle_api::status::FieldError::invalid_str(
                        "spec.user",
                        "",
                        "at least one of user or group must be specified",
                    );
                    return Err(Failure::invalid(&e.group, &e.kind, "", &[f]));
                }
                self.review_access(e, &who, &mut body)?;
            }
            "SelfSubjectRulesReview" => self.review_rules(work, &mut body)?,
            "SelfSubjectReview" => {
                object::set(&mut body, &["metadata", "creationTimestamp"], self.now.wall.rfc3339());
                object::set(&mut body, &["status", "userInfo"], user_info(&work.who));
            }
            "TokenReview" => self.review_token(&mut body),
            _ => return Err(Failure::method_not_allowed()),
        }
        Ok(Planned::Answer(json_reply(201, &body)))
    }

    fn review_access(&self, e: &Endpoint, who: &Identity, body: &mut Value) -> Result<()> {
        let spec = body["spec"].clone();
        let (r, p) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        if r.is_object() == p.is_object() {
            let text =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            let f = pintle_api::status::FieldError::invalid("spec", &spec, text);
            return Err(Failure::invalid(&e.group, &e.kind, "", &[f]));
        }
        let s = |v: &Value, k: &str| object::str_at(v, &[k]).to_owned();
        let (verb, group, version) = (s(r, "verb"), s(r, "group"), s(r, "version"));
        let (resource, sub) = (s(r, "resource"), s(r, "subresource"));
        let (namespace, name) = (s(r, "namespace"), s(r, "name"));
        let (path, path_verb) = (s(p, "path"), s(p, "verb"));
        let a = if r.is_object() {
            Attributes {
                verb: &verb,
                group: &group,
                version: &version,
                resource: &resource,
                subresource: &sub,
                namespace: &namespace,
                name: &name,
                path: "",
            }
        } else {
            Attributes { verb: &path_verb, path: &path, ..Attributes::default() }
        };
        let status = match self.decide(who, &a) {
            Ok(reason) if reason.is_empty() => json!({"allowed": true}),
            Ok(reason) => json!({"allowed": true, "reason": reason}),
            Err(reason) if reason.is_empty() => json!({"allowed": false}),
            Err(reason) => json!({"allowed": false, "reason": reason}),
        };
        object::set(body, &["status"], status);
        Ok(())
    }

    fn review_rules(&self, work: &Work, body: &mut Value) -> Result<()> {
        let namespace = object::str_at(body, &["spec", "namespace"]).to_owned();
        if namespace.is_empty() {
            return Err(Failure::bad_request("no namespace on request"));
        }
        let (rules, errors) = self.rbac.rules(&work.who, &namespace);
        let mut resources = Vec::new();
        let mut paths = Vec::new();
        let mut add = |r: &Rule| {
            if !r.resources.is_empty() {
                let mut one =
                    json!({"verbs": r.verbs, "apiGroups": r.groups, "resources": r.resources});
                if !r.names.is_empty() {
                    one["resourceNames"] = json!(r.names);
                }
                resources.push(one);
            }
            if !r.paths.is_empty() {
                paths.push(json!({"verbs": r.verbs, "nonResourceURLs": r.paths}));
            }
        };
        for r in rules.iter().flat_map(|r| r.iter()) {
            add(r);
        }
        let mut status = json!({
            "resourceRules": resources, "nonResourceRules": paths, "incomplete": false,
        });
        if super::node::node_of(&work.who).is_some() {
            status["incomplete"] = true.into();
            status["evaluationError"] =
                "node authorizer does not support user rule resolution".into();
        } else if !errors.is_empty() {
            status["evaluationError"] = errors.join(", ").into();
        }
        object::set(body, &["status"], status);
        object::set(body, &["spec"], json!({}));
        Ok(())
    }

    fn review_token(&self, body: &mut Value) {
        let text = object::str_at(body, &["spec", "token"]).to_owned();
        let wanted: Vec<String> = object::list_at(body, &["spec", "audiences"])
            .iter()
            .filter_map(Value::as_str)
            .map(String::from)
            .collect();
        let claims = self.keys.as_ref().and_then(|k| k.verify(&text, self.now.wall).ok());
        let claims = claims.filter(|c| self.token_is_alive(c));
        let audiences: Vec<String> = match &claims {
            Some(c) if wanted.is_empty() => {
                c.audiences.iter().filter(|a| *a == token::ISSUER).cloned().collect()
            }
            Some(c) => c.audiences.iter().filter(|a| wanted.contains(a)).cloned().collect(),
            None => Vec::new(),
        };
        let status = match claims {
            Some(c) if !audiences.is_empty() => {
                let mut groups = c.groups();
                groups.push("system:authenticated".into());
                let who = Identity {
                    user: c.user(),
                    uid: c.service_account.uid.clone(),
                    groups,
                    extra: c.extra(),
                };
                json!({"authenticated": true, "user": user_info(&who), "audiences": audiences})
            }
            _ => {
                json!({"user": {}, "error": "[invalid bearer token, service account token has been invalidated]"})
            }
        };
        object::set(body, &["status"], status);
    }

    /// The service account, and what the token is bound to, still exist.
    pub(crate) fn token_is_alive(&self, c: &token::Claims) -> bool {
        let same = |plural: &str, namespace: &str, r: &token::Reference| {
            self.lookup("", plural, namespace, &r.name)
                .is_some_and(|o| r.uid.is_empty() || object::uid(&o.parse()) == r.uid)
        };
        same("serviceaccounts", &c.namespace, &c.service_account)
            && c.pod.as_ref().is_none_or(|r| same("pods", &c.namespace, r))
            && c.secret.as_ref().is_none_or(|r| same("secrets", &c.namespace, r))
    }

    /// Nobody may write a role or binding that gives more than he has (or may `escalate`, or `bind`).
    pub(crate) fn check_escalation(
        &self,
        work: &Work,
        e: &Endpoint,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<()> {
        let who = &work.who;
        if who.groups.iter().any(|g| g == MASTERS) {
            return Ok(());
        }
        let namespace = object::namespace(new);
        let name = object::name(new);
        let binding = e.kind.ends_with("Binding");
        let same = |k: &str| old.is_some_and(|o| o[k] == new[k]);
        let (wanted, verb, a_name, a_resource) = if binding {
            if same("roleRef") && same("subjects") {
                return Ok(());
            }
            let kind = object::str_at(new, &["roleRef", "kind"]);
            let role = object::str_at(new, &["roleRef", "name"]);
            let rules = self.rbac.role(kind, namespace, role).cloned();
            let plural = if kind == "Role" { "roles" } else { "clusterroles" };
            let a = Attributes {
                verb: "bind",
                group: GROUP,
                resource: plural,
                namespace,
                name: role,
                ..Attributes::default()
            };
            if self.decide(who, &a).is_ok() {
                return Ok(());
            }
            let Some(rules) = rules else {
                return Err(Failure::not_found(GROUP, plural, role));
            };
            (rules.to_vec(), "bind", role.to_owned(), plural)
        } else {
            if same("rules") && same("aggregationRule") {
                return Ok(());
            }
            (Rule::parse_all(&new["rules"]), "escalate", name.to_owned(), e.plural.as_str())
        };
        let a = Attributes {
            verb,
            group: GROUP,
            resource: a_resource,
            namespace,
            name: &a_name,
            ..Attributes::default()
        };
        if self.decide(who, &a).is_ok() {
            return Ok(());
        }
        let (owned, errors) = self.rbac.rules(who, namespace);
        let lacking = missing(&owned, &wanted);
        if lacking.is_empty() {
            return Ok(());
        }
        let why = escalation_text(who, &lacking, &errors);
        Err(Failure::forbidden(&e.group, &e.plural, name, &why))
    }
}

fn escalation_text(who: &Identity, lacking: &[Rule], errors: &[String]) -> String {
    let groups: Vec<String> = who.groups.iter().map(|g| format!("{g:?}")).collect();
    let mut lines: Vec<String> = compact(lacking).iter().map(rule_text).collect();
    lines.sort();
    let mut why = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        who.user,
        groups.join(" "),
        lines.join("\n")
    );
    if !errors.is_empty() {
        why.push_str(&format!("; resolution errors: [{}]", errors.join(", ")));
    }
    why
}

/// Simple rules that differ in the verb only, joined.
fn compact(rules: &[Rule]) -> Vec<Rule> {
    let mut out: BTreeMap<String, Rule> = BTreeMap::new();
    for r in rules {
        let key = format!("{:?}", (&r.groups, &r.resources, &r.names, &r.paths));
        match out.get_mut(&key) {
            Some(have) => have.verbs.extend(r.verbs.iter().cloned()),
            None => {
                out.insert(key, r.clone());
            }
        }
    }
    out.into_values().collect()
}

fn rule_text(r: &Rule) -> String {
    let list = |l: &[String]| {
        let quoted: Vec<String> = l.iter().map(|s| format!("{s:?}")).collect();
        format!("[{}]", quoted.join(" "))
    };
    let mut parts = Vec::new();
    if !r.groups.is_empty() {
        parts.push(format!("APIGroups:{}", list(&r.groups)));
    }
    if !r.resources.is_empty() {
        parts.push(format!("Resources:{}", list(&r.resources)));
    }
    if !r.paths.is_empty() {
        parts.push(format!("NonResourceURLs:{}", list(&r.paths)));
    }
    if !r.names.is_empty() {
        parts.push(format!("ResourceNames:{}", list(&r.names)));
    }
    if !r.verbs.is_empty() {
        parts.push(format!("Verbs:{}", list(&r.verbs)));
    }
    format!("{{{}}}", parts.join(", "))
}

/// UserInfo of somebody.
pub(crate) fn user_info(who: &Identity) -> Value {
    let mut v = json!({"username": who.user});
    if !who.uid.is_empty() {
        v["uid"] = who.uid.clone().into();
    }
    if !who.groups.is_empty() {
        v["groups"] = json!(who.groups);
    }
    if !who.extra.is_empty() {
        let extra: BTreeMap<&str, &Vec<String>> =
            who.extra.iter().map(|(k, v)| (k.as_str(), v)).collect();
        v["extra"] = json!(extra);
    }
    v
}

fn identity_in(spec: &Value) -> Identity {
    let texts = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(Value::as_str).map(String::from).collect()
    };
    Identity {
        user: object::str_at(spec, &["user"]).into(),
        uid: object::str_at(spec, &["uid"]).into(),
        groups: texts(&spec["groups"]),
        extra: object::map_at(spec, &["extra"])
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), texts(v)))
            .collect(),
    }
}
