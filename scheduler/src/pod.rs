//! What the scheduler must know of a pod, read once from its object.

use crate::resources::Resources;
use serde_json::Value;

/// `effect` of a taint or toleration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// New pods are kept off.
    NoSchedule,
    /// New pods go elsewhere if they can.
    PreferNoSchedule,
    /// Running pods are sent away too.
    NoExecute,
}

impl Effect {
    /// From the field's text.
    pub fn parse(s: &str) -> Option<Effect> {
        match s {
            "NoSchedule" => Some(Effect::NoSchedule),
            "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
            "NoExecute" => Some(Effect::NoExecute),
            _ => None,
        }
    }
}

/// A toleration; absent parts match everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toleration {
    key: String,
    exists: bool,
    value: String,
    effect: Option<Effect>,
}

/// A node's taint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, may be empty.
    pub value: String,
    /// What it does.
    pub effect: Effect,
}

impl Toleration {
    /// Whether this toleration lets a pod bear the taint (core/v1 Toleration.ToleratesTaint).
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|e| e == taint.effect)
            && (self.key.is_empty() && self.exists || self.key == taint.key)
            && (self.exists || self.value == taint.value)
    }
}

/// One requirement of a node selector term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = |s: Option<&str>| s.and_then(|v| v.parse::<i64>().ok());
        let bound = number(self.values.first().map(String::as_str));
        match self.operator {
            Operator::In => value.is_some_and(|v| self.values.iter().any(|x| x == v)),
            Operator::NotIn => !value.is_some_and(|v| self.values.iter().any(|x| x == v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => number(value).zip(bound).is_some_and(|(v, b)| v > b),
            Operator::Lt => number(value).zip(bound).is_some_and(|(v, b)| v < b),
        }
    }
}

/// A node selector term: all requirements on labels and on fields (`metadata.name`) must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Term {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl Term {
    /// Whether a node with this name and these labels fits. A term without requirements fits none.
    pub fn matches(&self, name: &str, labels: &dyn Fn(&str) -> Option<String>) -> bool {
        !(self.labels.is_empty() && self.fields.is_empty())
            && self.labels.iter().all(|r| r.matches(labels(&r.key).as_deref()))
            && self.fields.iter().all(|r| r.key == "metadata.name" && r.matches(Some(name)))
    }
}

/// A host port that a pod wants for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    protocol: String,
    ip: String,
    port: i64,
}

impl HostPort {
    /// Two pods with these cannot share a node (0.0.0.0 collides with every address).
    pub fn collides(&self, other: &HostPort) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// The pod as the scheduler sees it.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Node that it is bound to; empty = none yet.
    pub node: String,
    /// `spec.schedulerName`.
    pub scheduler: String,
    /// Ended (Succeeded or Failed): uses nothing.
    pub terminal: bool,
    /// Being deleted.
    pub deleting: bool,
    /// `spec.schedulingGates` is not empty.
    pub gated: bool,
    /// `spec.priority`.
    pub priority: i64,
    /// What it asks for.
    pub requests: Resources,
    /// `spec.nodeSelector`.
    pub node_selector: Vec<(String, String)>,
    /// Required node affinity; one term must match. `None` = no rule.
    pub required_terms: Option<Vec<Term>>,
    /// Preferred node affinity with weights.
    pub preferred_terms: Vec<(i64, Term)>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Host ports.
    pub host_ports: Vec<HostPort>,
    /// Uid of the controlling owner, empty = none: pods of one owner are spread.
    pub owner: String,
    /// The condition PodScheduled is False with this message already.
    pub unschedulable_message: String,
}

impl Pod {
    /// Reads a Pod object; what is missing or of a wrong type counts as not set (the API server validated it).
    pub fn read(object: &Value) -> Pod {
        let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
        let affinity = &spec["affinity"]["nodeAffinity"];
        let phase = text(&status["phase"]);
        Pod {
            namespace: text(&meta["namespace"]),
            name: text(&meta["name"]),
            uid: text(&meta["uid"]),
            node: text(&spec["nodeName"]),
            scheduler: text(&spec["schedulerName"]),
            terminal: phase == "Succeeded" || phase == "Failed",
            deleting: meta["deletionTimestamp"].is_string(),
            gated: items(&spec["schedulingGates"]).next().is_some(),
            priority: spec["priority"].as_i64().unwrap_or(0),
            requests: Resources::of_pod(spec),
            node_selector: spec["nodeSelector"]
                .as_object()
                .map_or_else(Vec::new, |m| m.iter().map(|(k, v)| (k.clone(), text(v))).collect()),
            required_terms:
                affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
                    .as_array()
                    .map(|terms| terms.iter().map(term).collect()),
            preferred_terms: items(&affinity["preferredDuringSchedulingIgnoredDuringExecution"])
                .map(|p| (p["weight"].as_i64().unwrap_or(0), term(&p["preference"])))
                .collect(),
            tolerations: items(&spec["tolerations"]).map(toleration).collect(),
            host_ports: host_ports(spec),
            owner: items(&meta["ownerReferences"])
                .find(|o| o["controller"] == true)
                .map(|o| text(&o["uid"]))
                .unwrap_or_default(),
            unschedulable_message: items(&status["conditions"])
                .find(|c| c["type"] == "PodScheduled" && c["status"] == "False")
                .map(|c| text(&c["message"]))
                .unwrap_or_default(),
        }
    }

    /// Cache key, `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Bears a taint of this kind.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|t| t.tolerates(taint))
    }
}

fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

fn items(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn term(v: &Value) -> Term {
    Term {
        labels: items(&v["matchExpressions"]).filter_map(requirement).collect(),
        fields: items(&v["matchFields"]).filter_map(requirement).collect(),
    }
}

fn requirement(v: &Value) -> Option<Requirement> {
    let operator = match v["operator"].as_str()? {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        _ => return None,
    };
    Some(Requirement {
        key: text(&v["key"]),
        operator,
        values: items(&v["values"]).map(text).collect(),
    })
}

fn toleration(v: &Value) -> Toleration {
    Toleration {
        key: text(&v["key"]),
        exists: v["operator"] == "Exists",
        value: text(&v["value"]),
        effect: v["effect"].as_str().and_then(Effect::parse),
    }
}

fn host_ports(spec: &Value) -> Vec<HostPort> {
    let host_network = spec["hostNetwork"] == true;
    items(&spec["containers"])
        .chain(items(&spec["initContainers"]).filter(|c| c["restartPolicy"] == "Always"))
        .flat_map(|c| items(&c["ports"]))
        .filter_map(|p| {
            let own = if host_network { &p["containerPort"] } else { &p["hostPort"] };
            let port = p["hostPort"]
                .as_i64()
                .filter(|n| *n > 0)
                .or_else(|| if host_network { own.as_i64() } else { None })?;
            let protocol = p["protocol"].as_str().unwrap_or("TCP").to_owned();
            Some(HostPort { protocol, ip: text(&p["hostIP"]), port })
        })
        .collect()
}
