//! RBAC from the watch cache: roles and bindings, parsed once when they change.
//!
//! Evaluated by subject: the bindings of the user, of each group, and of the service account, cluster-wide and
//! in the namespace asked about. A cluster role with an aggregation rule has the rules of all cluster roles that
//! its selectors name, whether or not a controller has copied them.
//!
//! References: "Using RBAC Authorization"; plugin/pkg/auth/authorizer/rbac.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use pintle_api::object;
use pintle_api::selector::Labels;
use serde_json::Value;

use crate::cache::Cache;
use crate::registry::Registry;
use crate::server::{Attributes, Identity};

/// API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// A PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `*` = all.
    pub verbs: Vec<String>,
    /// Empty string = core, `*` = all.
    pub groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    pub resources: Vec<String>,
    /// Empty = any.
    pub names: Vec<String>,
    /// Paths, `*` at the end stands for anything.
    pub paths: Vec<String>,
}

impl Rule {
    /// From the `rules` of a role.
    pub fn parse_all(rules: &Value) -> Vec<Rule> {
        let texts = |v: &Value, k: &str| -> Vec<String> {
            object::list_at(v, &[k]).iter().filter_map(Value::as_str).map(String::from).collect()
        };
        rules
            .as_array()
            .into_iter()
            .flatten()
            .map(|r| Rule {
                verbs: texts(r, "verbs"),
                groups: texts(r, "apiGroups"),
                resources: texts(r, "resources"),
                names: texts(r, "resourceNames"),
                paths: texts(r, "nonResourceURLs"),
            })
            .collect()
    }

    fn verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == "*" || v == verb)
    }

    /// Whether it allows this.
    pub fn allows(&self, a: &Attributes<'_>) -> bool {
        if !self.verb(a.verb) {
            return false;
        }
        if a.resource.is_empty() {
            return self.paths.iter().any(|p| path_matches(p, a.path));
        }
        let resource = |r: &String| {
            r == "*"
                || if a.subresource.is_empty() {
                    r == a.resource
                } else {
                    match r.split_once('/') {
                        Some((parent, sub)) => {
                            sub == a.subresource && (parent == "*" || parent == a.resource)
                        }
                        None => false,
                    }
                }
        };
        self.groups.iter().any(|g| g == "*" || g == a.group)
            && self.resources.iter().any(resource)
            && (self.names.is_empty() || self.names.iter().any(|n| n == a.name))
    }

    /// Whether it allows everything that the one simple rule (one verb, group, resource, name or path) does.
    fn covers(&self, one: &Rule) -> bool {
        let all = |mine: &[String], theirs: &[String], star: bool| {
            (star && mine.iter().any(|m| m == "*")) || theirs.iter().all(|t| mine.contains(t))
        };
        if !one.paths.is_empty() {
            let path = |p: &String| self.paths.iter().any(|m| m == p || path_matches(m, p));
            return all(&self.verbs, &one.verbs, true) && one.paths.iter().all(path);
        }
        let resource = |t: &String| {
            self.resources.iter().any(|m| {
                m == "*"
                    || m == t
                    || m.strip_prefix("*/").is_some_and(|sub| {
                        t.split_once('/').is_some_and(|(_, theirs)| theirs == sub)
                    })
            })
        };
        all(&self.verbs, &one.verbs, true)
            && all(&self.groups, &one.groups, true)
            && one.resources.iter().all(resource)
            && (self.names.is_empty()
                || (!one.names.is_empty() && all(&self.names, &one.names, false)))
    }

    /// The rule as many with one verb, group, resource and name (or path) each.
    fn split(&self) -> Vec<Rule> {
        let one = |s: &String| vec![s.clone()];
        let mut out = Vec::new();
        for verb in &self.verbs {
            for path in &self.paths {
                out.push(Rule { verbs: one(verb), paths: one(path), ..Rule::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let base = Rule {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    if self.names.is_empty() {
                        out.push(base.clone());
                    }
                    for name in &self.names {
                        out.push(Rule { names: one(name), ..base.clone() });
                    }
                }
            }
        }
        out
    }
}

/// The simple rules of `wanted` that `owned` does not cover: what an escalation would gain.
pub fn missing(owned: &[Arc<[Rule]>], wanted: &[Rule]) -> Vec<Rule> {
    let covered = |one: &Rule| owned.iter().flat_map(|r| r.iter()).any(|r| r.covers(one));
    wanted.iter().flat_map(Rule::split).filter(|one| !covered(one)).collect()
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == path
        || pattern == "*"
        || pattern.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

#[derive(Clone, Debug)]
struct Binding {
    name: String,
    /// The subject of it that led here, as in a reason: `Group "x"`.
    subject: String,
    role_kind: String,
    role_name: String,
    /// Empty for a cluster role binding.
    namespace: String,
}

impl Binding {
    fn reason(&self) -> String {
        let kind = if self.namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
        let of = if self.namespace.is_empty() {
            format!("\"{}\"", self.name)
        } else {
            format!("\"{}/{}\"", self.name, self.namespace)
        };
        format!(
            "RBAC: allowed by {kind} {of} of {} \"{}\" to {}",
            self.role_kind, self.role_name, self.subject
        )
    }
}

/// Everything that RBAC needs, by subject.
#[derive(Debug, Default)]
pub struct Rbac {
    /// By namespace (empty = cluster) and name.
    roles: HashMap<(String, String), Arc<[Rule]>>,
    users: HashMap<String, Vec<Binding>>,
    groups: HashMap<String, Vec<Binding>>,
    dirty: bool,
}

impl Rbac {
    /// A role or binding changed.
    pub fn touch(&mut self) {
        self.dirty = true;
    }

    /// Takes changes over from the cache, if there are any.
    pub fn refresh(&mut self, registry: &Registry, cache: &Cache) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        *self = Rbac::default();
        self.load_roles(registry, cache);
        for plural in ["clusterrolebindings", "rolebindings"] {
            let Some(id) = registry.resource_of(GROUP, plural) else { continue };
            for o in cache.table(id).iter("") {
                self.load_binding(&o.parse());
            }
        }
    }

    fn load_roles(&mut self, registry: &Registry, cache: &Cache) {
        for plural in ["clusterroles", "roles"] {
            let Some(id) = registry.resource_of(GROUP, plural) else { continue };
            let table = cache.table(id);
            for o in table.iter("") {
                let value = o.parse();
                let mut rules = Rule::parse_all(&value["rules"]);
                let selectors =
                    object::list_at(&value, &["aggregationRule", "clusterRoleSelectors"]);
                for selector in selectors.iter().filter_map(|s| Labels::of(s).ok()) {
                    for other in table.iter("") {
                        if selector.matches(other.labels.as_ref()) && other.key != o.key {
                            self.aggregate(&mut rules, &other.parse(), table, 4);
                        }
                    }
                }
                let key = (o.namespace().to_owned(), o.name().to_owned());
                self.roles.insert(key, rules.into());
            }
        }
    }

    /// Adds the rules of an aggregated role, which may aggregate others (`depth` bounds cycles).
    fn aggregate(
        &self,
        rules: &mut Vec<Rule>,
        role: &Value,
        table: &crate::cache::Table,
        depth: u32,
    ) {
        for rule in Rule::parse_all(&role["rules"]) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        if depth == 0 {
            return;
        }
        let selectors = object::list_at(role, &["aggregationRule", "clusterRoleSelectors"]);
        for selector in selectors.iter().filter_map(|s| Labels::of(s).ok()) {
            for other in table.iter("") {
                if selector.matches(other.labels.as_ref()) && other.name() != object::name(role) {
                    self.aggregate(rules, &other.parse(), table, depth - 1);
                }
            }
        }
    }

    fn load_binding(&mut self, value: &Value) {
        let own = object::namespace(value);
        for s in object::list_at(value, &["subjects"]) {
            let name = object::str_at(s, &["name"]);
            let (user, group, subject) = match object::str_at(s, &["kind"]) {
                "User" => (name.to_owned(), false, format!("User \"{name}\"")),
                "Group" => (name.to_owned(), true, format!("Group \"{name}\"")),
                "ServiceAccount" => {
                    let namespace = match object::str_at(s, &["namespace"]) {
                        "" => own,
                        other => other,
                    };
                    let user = format!("system:serviceaccount:{namespace}:{name}");
                    (user, false, format!("ServiceAccount \"{name}/{namespace}\""))
                }
                _ => continue,
            };
            let binding = Binding {
                name: object::name(value).into(),
                subject,
                role_kind: object::str_at(value, &["roleRef", "kind"]).into(),
                role_name: object::str_at(value, &["roleRef", "name"]).into(),
                namespace: own.into(),
            };
            let table = if group { &mut self.groups } else { &mut self.users };
            table.entry(user).or_default().push(binding);
        }
    }

    /// The rules of a role or cluster role; `None` when there is no such role.
    pub fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<&Arc<[Rule]>> {
        let namespace = if kind == "Role" { namespace } else { "" };
        self.roles.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// The bindings of a user that count in a namespace (empty = cluster scope only).
    fn bindings<'a>(
        &'a self,
        who: &'a Identity,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Binding> {
        let groups = who.groups.iter().filter_map(|g| self.groups.get(g));
        let all = self.users.get(&who.user).into_iter().chain(groups).flatten();
        all.filter(move |b| b.namespace.is_empty() || b.namespace == namespace)
    }

    /// All rules that hold for a user in a namespace (empty = cluster scope only), and what is wrong with
    /// its bindings.
    pub fn rules(&self, who: &Identity, namespace: &str) -> (Vec<Arc<[Rule]>>, Vec<String>) {
        let mut out = Vec::new();
        let mut errors = BTreeSet::new();
        for b in self.bindings(who, namespace) {
            match self.role(&b.role_kind, &b.namespace, &b.role_name) {
                Some(rules) => out.push(rules.clone()),
                None => {
                    let kind = b.role_kind.to_lowercase();
                    errors.insert(format!("{kind}.{GROUP} \"{}\" not found", b.role_name));
                }
            }
        }
        (out, errors.into_iter().collect())
    }

    /// Whether RBAC allows this; with its reason either way, maybe empty.
    pub fn allows(&self, who: &Identity, a: &Attributes<'_>) -> Result<String, String> {
        for b in self.bindings(who, a.namespace) {
            let rules = self.role(&b.role_kind, &b.namespace, &b.role_name);
            if rules.is_some_and(|rules| rules.iter().any(|r| r.allows(a))) {
                return Ok(b.reason());
            }
        }
        let (_, errors) = self.rules(who, a.namespace);
        match errors.as_slice() {
            [] => Err(String::new()),
            [one] => Err(format!("RBAC: {one}")),
            many => Err(format!("RBAC: [{}]", many.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(v: Value) -> Vec<Rule> {
        Rule::parse_all(&v)
    }

    #[test]
    fn rules_match_as_documented() {
        let r = &rules(
            json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/scale", "pods/log"],
            "resourceNames": []}]),
        )[0];
        let a = Attributes { verb: "get", resource: "pods", name: "x", ..Attributes::default() };
        assert!(r.allows(&a));
        assert!(r.allows(&Attributes { subresource: "log", ..a }));
        assert!(r.allows(&Attributes { subresource: "scale", ..a }));
        assert!(!r.allows(&Attributes { subresource: "exec", ..a }));
        assert!(!r.allows(&Attributes { group: "apps", ..a }));
        let p = &rules(json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}]))[0];
        assert!(p.allows(&Attributes { verb: "get", path: "/api/v1", ..Attributes::default() }));
        assert!(!p.allows(&Attributes { verb: "get", path: "/metrics", ..Attributes::default() }));
        assert!(!p.allows(&a));
    }

    #[test]
    fn escalation_is_what_is_not_covered() {
        let owned: Vec<Arc<[Rule]>> = vec![
            rules(json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]))
                .into(),
        ];
        let same = rules(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]));
        assert!(missing(&owned, &same).is_empty());
        let more = rules(
            json!([{"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods", "secrets"]}]),
        );
        assert_eq!(missing(&owned, &more).len(), 3);
    }
}
