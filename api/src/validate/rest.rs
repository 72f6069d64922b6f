//! RBAC, leases, disruption budgets, autoscalers, classes of priority and runtime, signing requests.

use super::kit::{
    Errors, int, list, map, non_negative, one_of, or_null, required, s, selector, set, texts,
};
use super::{container, scheduling, text};
use crate::intorstring::IntOrString;
use crate::path::Path;
use crate::status::FieldError;
use serde_json::Value;

const RBAC: &str = "rbac.authorization.k8s.io";

/// Role and ClusterRole.
pub(super) fn role(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let all = root.field("rules");
    let namespaced = s(o, "kind") == "Role";
    for (i, r) in list(o, "rules").iter().enumerate() {
        rule(r, namespaced, &all.index(i), e);
    }
    let Some(a) = set(o, "aggregationRule") else { return };
    let p = root.field("aggregationRule");
    let all = p.field("clusterRoleSelectors");
    let selectors = list(a, "clusterRoleSelectors");
    if selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        e.push(FieldError::required(all, detail));
    }
    for (i, x) in selectors.iter().enumerate() {
        let p = all.index(i);
        let before = e.len();
        selector(e, &p, x);
        if e.len() > before {
            e.push(FieldError::invalid_shown(p, "null", "invalid label selector."));
        }
    }
}

fn rule(r: &Value, namespaced: bool, p: &Path<'_>, e: &mut Errors) {
    if list(r, "verbs").is_empty() {
        e.push(FieldError::required(p.field("verbs"), "verbs must contain at least one value"));
    }
    let urls = !list(r, "nonResourceURLs").is_empty();
    if urls {
        let shown = or_null(r, "nonResourceURLs");
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            e.push(FieldError::invalid(p.field("nonResourceURLs"), shown, detail));
        }
        let regular =
            ["apiGroups", "resources", "resourceNames"].iter().any(|k| !list(r, k).is_empty());
        if regular {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            e.push(FieldError::invalid(p.field("nonResourceURLs"), shown, detail));
        }
        return;
    }
    if list(r, "apiGroups").is_empty() {
        let detail = "resource rules must supply at least one api group";
        e.push(FieldError::required(p.field("apiGroups"), detail));
    }
    if list(r, "resources").is_empty() {
        let detail = "resource rules must supply at least one resource";
        e.push(FieldError::required(p.field("resources"), detail));
    }
}

/// RoleBinding and ClusterRoleBinding.
pub(super) fn binding(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let namespaced = s(o, "kind") == "RoleBinding";
    let (r, p) = (or_null(o, "roleRef"), root.field("roleRef"));
    one_of(e, &p, r, "apiGroup", &[RBAC]);
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    one_of(e, &p, r, "kind", kinds);
    if required(e, &p, r, "name") {
        texts(e, &p.field("name"), s(r, "name"), text::path_segment(s(r, "name")));
    }
    let all = root.field("subjects");
    for (i, x) in list(o, "subjects").iter().enumerate() {
        let p = all.index(i);
        let named = required(e, &p, x, "name");
        match s(x, "kind") {
            "ServiceAccount" => {
                if named {
                    texts(e, &p.field("name"), s(x, "name"), text::dns1123_subdomain(s(x, "name")));
                }
                if !s(x, "apiGroup").is_empty() {
                    one_of(e, &p, x, "apiGroup", &[""]);
                }
                if !namespaced {
                    required(e, &p, x, "namespace");
                }
            }
            "User" | "Group" => one_of(e, &p, x, "apiGroup", &[RBAC]),
            other => {
                let good = ["ServiceAccount", "User", "Group"];
                e.push(FieldError::not_supported(p.field("kind"), other, &good));
            }
        }
    }
}

pub(super) fn update_binding(new: &Value, old: &Value, e: &mut Errors) {
    let (n, o) = (or_null(new, "roleRef"), or_null(old, "roleRef"));
    if n != o {
        let shown = format!(
            "{{\"APIGroup\":{},\"Kind\":{},\"Name\":{}}}",
            or_null(n, "apiGroup"),
            or_null(n, "kind"),
            or_null(n, "name")
        );
        e.push(FieldError::invalid_shown("roleRef", &shown, "cannot change roleRef"));
    }
}

pub(super) fn lease(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    if let Some(n) = int(v, "leaseDurationSeconds")
        && n <= 0
    {
        let detail = "must be greater than 0";
        e.push(FieldError::invalid(p.field("leaseDurationSeconds"), &n.into(), detail));
    }
    non_negative(e, &p, v, &["leaseTransitions"]);
}

pub(super) fn budget(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    if set(v, "minAvailable").is_some() && set(v, "maxUnavailable").is_some() {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        e.push(FieldError::invalid(p, v, detail));
    }
    for key in ["minAvailable", "maxUnavailable"] {
        let Some(x) = set(v, key) else { continue };
        let at = p.field(key);
        match IntOrString::of(x) {
            Some(IntOrString::Int(n)) if n < 0 => {
                e.push(FieldError::invalid(at, x, "must be greater than or equal to 0"));
            }
            Some(IntOrString::Str(t)) => {
                texts(e, &at, t, text::percent(t));
                if IntOrString::Str(t).percent().is_some_and(|n| n > 100) {
                    e.push(FieldError::invalid(at, x, "must not be greater than 100%"));
                }
            }
            _ => {}
        }
    }
    if let Some(x) = set(v, "selector") {
        selector(e, &p.field("selector"), x);
    }
    super::kit::one_of_if_set(
        e,
        &p,
        v,
        "unhealthyPodEvictionPolicy",
        &["AlwaysAllow", "IfHealthyBudget"],
    );
}

pub(super) fn priority_class(o: &Value, e: &mut Errors) {
    const USER_MAX: i64 = 1_000_000_000;
    let root = Path::root();
    let name = crate::object::name(o);
    let at = root.field("metadata");
    if let Some(rest) = name.strip_prefix("system-") {
        if !matches!(rest, "cluster-critical" | "node-critical") {
            let detail =
                "priority class names with 'system-' prefix are reserved for system use only";
            e.push(FieldError::forbidden(at.field("name"), detail));
        }
    } else if int(o, "value").unwrap_or(0) > USER_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {USER_MAX}");
        e.push(FieldError::forbidden(root.field("value"), &detail));
    }
    super::kit::one_of_if_set(e, &root, o, "preemptionPolicy", &["Never", "PreemptLowerPriority"]);
}

pub(super) fn update_priority_class(new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    if int(new, "value") != int(old, "value") {
        let detail = "may not be changed in an update.";
        e.push(FieldError::forbidden(root.field("value"), detail));
    }
    super::kit::immutable(e, &root, new, old, "preemptionPolicy");
}

pub(super) fn runtime_class(o: &Value, e: &mut Errors) {
    let root = Path::root();
    super::kit::required_text(e, &root, o, "handler", text::dns1123_label);
    let at = root.field("overhead");
    for (k, x) in map(or_null(o, "overhead"), "podFixed").into_iter().flatten() {
        let at = at.field("limits");
        container::resource_value(k, x, &at.key(k), e);
    }
    let at = root.field("scheduling");
    let v = or_null(o, "scheduling");
    super::kit::labels(e, &at.field("nodeSelector"), or_null(v, "nodeSelector"));
    let at = at.field("tolerations");
    for (i, t) in list(v, "tolerations").iter().enumerate() {
        scheduling::toleration(t, &at.index(i), e);
    }
}

pub(super) fn autoscaler(o: &Value, version: &str, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    let (min, max) = (int(v, "minReplicas"), int(v, "maxReplicas").unwrap_or(0));
    if min.is_some_and(|n| n < 1) {
        let detail = "must be greater than or equal to 1";
        e.push(FieldError::invalid(p.field("minReplicas"), or_null(v, "minReplicas"), detail));
    }
    if max < 1 {
        e.push(FieldError::invalid(p.field("maxReplicas"), &max.into(), "must be greater than 0"));
    }
    if min.is_some_and(|n| max < n) {
        let detail = "must be greater than or equal to `minReplicas`";
        e.push(FieldError::invalid(p.field("maxReplicas"), &max.into(), detail));
    }
    let (target, at) = (or_null(v, "scaleTargetRef"), p.field("scaleTargetRef"));
    for key in ["kind", "name"] {
        if required(e, &at, target, key) {
            texts(e, &at.field(key), s(target, key), text::path_segment(s(target, key)));
        }
    }
    if s(target, "apiVersion").is_empty() {
        let detail = "apiVersion must specify API group";
        e.push(FieldError::invalid_str(at.field("apiVersion"), "", detail));
    }
    if version == "v1" {
        if let Some(n) = int(v, "targetCPUUtilizationPercentage")
            && n < 1
        {
            let at = "spec.metrics[0].resource.target.averageUtilization";
            e.push(FieldError::invalid(at, &n.into(), "must be greater than 0"));
        }
        return;
    }
    let all = p.field("metrics");
    for (i, m) in list(v, "metrics").iter().enumerate() {
        metric(m, &all.index(i), e);
    }
}

fn metric(m: &Value, p: &Path<'_>, e: &mut Errors) {
    const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = s(m, "type");
    if kind.is_empty() {
        e.push(FieldError::required(p.field("type"), "must specify a metric source type"));
        return;
    }
    if !TYPES.contains(&kind) {
        e.push(FieldError::not_supported(p.field("type"), kind, &TYPES));
        return;
    }
    let mut source = kind.to_owned();
    source[..1].make_ascii_lowercase();
    let Some(x) = set(m, &source) else {
        let detail = "must populate information for the given metric source";
        e.push(FieldError::required(p.field(&source), detail));
        return;
    };
    let at = p.field(&source);
    if matches!(kind, "Resource" | "ContainerResource") {
        if s(x, "name").is_empty() {
            e.push(FieldError::required(at.field("name"), "must specify a resource name"));
        }
        let (target, at) = (or_null(x, "target"), at.field("target"));
        if let Some(n) = int(target, "averageUtilization")
            && n < 1
        {
            let detail = "must be greater than 0";
            e.push(FieldError::invalid(at.field("averageUtilization"), &n.into(), detail));
        }
        let both = (set(target, "averageUtilization"), set(target, "averageValue"));
        if both == (None, None) {
            let detail = "must set either a target raw value or a target utilization";
            e.push(FieldError::required(at.field("averageUtilization"), detail));
        }
    }
}

pub(super) fn scale(o: &Value, e: &mut Errors) {
    let root = Path::root();
    non_negative(e, &root.field("spec"), or_null(o, "spec"), &["replicas"]);
}
