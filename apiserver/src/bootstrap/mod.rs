//! What every cluster has from the start: namespaces, the RBAC defaults, priority classes, the `kubernetes`
//! service and its endpoints.
//!
//! The core creates what is missing through its own write path, as soon as it follows the store; done twice, it
//! changes nothing. It is ready when all of it is in the cache. The service's endpoints follow the address that
//! this server advertises.

mod policy;

use std::sync::Arc;

use pintle_api::object;
use pintle_wire::msg::api;
use serde_json::{Value, json};

use crate::authz::MASTERS;
use crate::registry::EndpointId;
use crate::server::{Identity, Origin, Server, Work};
use crate::sync::Link;

/// How often the bootstrap objects are tried before the server is ready without them.
const ROUNDS_MAX: u32 = 8;

/// Where the bootstrap stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Boot {
    pub done: bool,
    /// Own requests under way.
    pub under_way: usize,
    rounds: u32,
}

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

impl Server {
    /// Makes what is missing; called whenever the cache has caught up.
    pub(crate) fn boot_step(&mut self) {
        let behind = self.cache.revision() < self.known_revision;
        let running = matches!(self.link, Link::Running { .. });
        if self.boot.done || self.boot.under_way > 0 || behind || !running {
            return;
        }
        let mut wanted: Vec<(api::Verb, Value)> = Vec::new();
        for ns in NAMESPACES {
            if self.lookup("", "namespaces", "", ns).is_none() {
                wanted.push((api::Verb::Create, namespace(ns)));
            }
        }
        if wanted.is_empty() {
            wanted = self.missing_objects();
        }
        if wanted.is_empty() {
            self.boot.done = true;
            pintle_base::log::info("bootstrap objects stand", &[]);
            return;
        }
        self.boot.rounds += 1;
        if self.boot.rounds > ROUNDS_MAX {
            self.boot.done = true;
            let left = wanted.len();
            pintle_base::log::error("bootstrap objects could not be made", &[("missing", &left)]);
            return;
        }
        let work: Vec<Work> = wanted.into_iter().filter_map(|(v, o)| self.own(v, &o)).collect();
        self.boot.under_way += work.len();
        for w in work {
            self.start(w);
        }
    }

    /// A request of the core's own.
    fn own(&self, verb: api::Verb, object: &Value) -> Option<Work> {
        let kind = object::str_at(object, &["kind"]);
        let e = self.registry.find_kind(object::str_at(object, &["apiVersion"]), kind)?;
        let mut request = api::Request::new(verb, &e.group, &e.version, &e.plural);
        request.namespace = object::namespace(object).into();
        request.name = object::name(object).into();
        request.options.field_manager = Some("kube-apiserver".into());
        request.body = object.to_string().into_bytes().into();
        Some(self.own_work(e.id, request))
    }

    /// The core's own identity behind a request.
    pub(crate) fn own_work(&self, endpoint: EndpointId, request: api::Request) -> Work {
        let who = Identity {
            user: "system:apiserver".into(),
            groups: vec![MASTERS.into()],
            ..Identity::default()
        };
        Work {
            origin: Origin::Internal,
            who: Arc::new(who),
            request: Arc::new(request),
            endpoint,
            tries: 0,
        }
    }

    fn missing_objects(&self) -> Vec<(api::Verb, Value)> {
        let mut out = Vec::new();
        let all = policy::all().into_iter().chain(priority_classes()).chain(self.own_service());
        for o in all {
            let kind = object::str_at(&o, &["kind"]);
            let Some(e) = self.registry.find_kind(object::str_at(&o, &["apiVersion"]), kind) else {
                continue;
            };
            let key = e.key(object::namespace(&o), object::name(&o));
            match self.cache.table(e.resource).get(&key) {
                None => out.push((api::Verb::Create, o)),
                Some(have) => out.extend(reconcile(&o, &have.parse())),
            }
        }
        out
    }

    /// The `kubernetes` service in `default` and where it leads.
    fn own_service(&self) -> Vec<Value> {
        let (address, port) = self.config.advertise;
        let metadata = json!({"name": "kubernetes", "namespace": "default"});
        let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {
            "clusterIP": self.alloc.first().to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
            "type": "ClusterIP", "sessionAffinity": "None"}});
        service["metadata"]["labels"] = json!({"component": "apiserver", "provider": "kubernetes"});
        let mut out = vec![service];
        if address.is_loopback() || address.is_unspecified() {
            // Nothing that a pod could reach: better no endpoint than a wrong one.
            return out;
        }
        let mut endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata,
            "subsets": [{"addresses": [{"ip": address.to_string()}], "ports": ports}]});
        endpoints["metadata"]["labels"] =
            json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
        out.push(endpoints);
        let mut slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": metadata, "addressType": family, "ports": ports,
            "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}]});
        slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "kubernetes"});
        out.push(slice);
        out
    }
}

/// The update that an existing object needs, if it needs one.
fn reconcile(wanted: &Value, have: &Value) -> Option<(api::Verb, Value)> {
    let mut new = have.clone();
    match object::str_at(wanted, &["kind"]) {
        "Endpoints" if addresses(&have["subsets"]) != addresses(&wanted["subsets"]) => {
            new["subsets"] = wanted["subsets"].clone();
        }
        "EndpointSlice"
            if have["endpoints"][0]["addresses"] != wanted["endpoints"][0]["addresses"]
                || have["ports"][0]["port"] != wanted["ports"][0]["port"] =>
        {
            new["endpoints"] = wanted["endpoints"].clone();
            new["ports"] = wanted["ports"].clone();
        }
        "ClusterRole" | "Role" => {
            let auto = object::annotation(have, policy::AUTO_UPDATE) != Some("false");
            let missing = policy::missing_rules(&wanted["rules"], &have["rules"]);
            if !auto || missing.is_empty() {
                return None;
            }
            let mut rules = object::list_at(have, &["rules"]).to_vec();
            rules.extend(missing);
            object::set(&mut new, &["rules"], rules);
        }
        _ => return None,
    }
    Some((api::Verb::Update, new))
}

fn addresses(subsets: &Value) -> (Value, Value) {
    (subsets[0]["addresses"][0]["ip"].clone(), subsets[0]["ports"][0]["port"].clone())
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn priority_classes() -> Vec<Value> {
    let class = |name: &str, value: i64, text: &str| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name}, "value": value, "description": text,
            "preemptionPolicy": "PreemptLowerPriority"})
    };
    vec![
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}
