//! LimitRanger: default requests and limits of containers, and the bounds that a namespace sets.
//!
//! References: plugin/pkg/admission/limitranger.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use pintle_api::object;
use pintle_api::quantity::Quantity;
use pintle_api::status::Status;
use serde_json::{Map, Value};

use crate::server::Server;
use crate::status::Result;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

impl Server {
    fn limit_ranges(&self, namespace: &str) -> Vec<Value> {
        let Some(id) = self.registry.resource_of("", "limitranges") else { return Vec::new() };
        self.cache.table(id).iter(namespace).map(|o| o.parse()).collect()
    }

    /// Gives containers the defaults of the namespace's limit ranges.
    pub(super) fn limit_defaults(&self, pod: &mut Value) {
        let namespace = object::namespace(pod).to_owned();
        let mut notes = Vec::new();
        for range in self.limit_ranges(&namespace) {
            let limits = object::list_at(&range, &["spec", "limits"]);
            let containers = limits.iter().filter(|l| l["type"] == "Container");
            for (defaults, requests) in
                containers.map(|l| (l["default"].clone(), l["defaultRequest"].clone()))
            {
                for (list, word) in
                    [("containers", "container"), ("initContainers", "init container")]
                {
                    let path = format!("/spec/{list}");
                    let all = pod.pointer_mut(&path).and_then(Value::as_array_mut);
                    for c in all.into_iter().flatten() {
                        let name = object::str_at(c, &["name"]).to_owned();
                        for (kind, given) in [("requests", &requests), ("limits", &defaults)] {
                            let set = fill(c, kind, given.as_object());
                            if !set.is_empty() {
                                let what = kind.trim_end_matches('s');
                                notes.push(format!("{} {what} for {word} {name}", set.join(", ")));
                            }
                        }
                    }
                }
            }
        }
        if !notes.is_empty() {
            let text = format!("LimitRanger plugin set: {}", notes.join("; "));
            object::set(pod, &["metadata", "annotations", ANNOTATION], text);
        }
    }

    /// 403 when the object breaks a bound.
    pub(super) fn check_limits(&self, plural: &str, v: &Value) -> Result<()> {
        let mut errors = Vec::new();
        for range in self.limit_ranges(object::namespace(v)) {
            for l in object::list_at(&range, &["spec", "limits"]) {
                match (object::str_at(l, &["type"]), plural) {
                    ("Container", "pods") => {
                        for list in ["containers", "initContainers"] {
                            for c in object::list_at(v, &["spec", list]) {
                                let amounts = |k| amounts(object::map_at(c, &["resources", k]));
                                check(
                                    l,
                                    "Container",
                                    &amounts("requests"),
                                    &amounts("limits"),
                                    &mut errors,
                                );
                            }
                        }
                    }
                    ("Pod", "pods") => {
                        let sum = |k| pod_sum(v, k);
                        check(l, "Pod", &sum("requests"), &sum("limits"), &mut errors);
                    }
                    ("PersistentVolumeClaim", "persistentvolumeclaims") => {
                        let requests =
                            amounts(object::map_at(v, &["spec", "resources", "requests"]));
                        check_claim(l, &requests, &mut errors);
                    }
                    _ => {}
                }
            }
        }
        let why = match errors.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        Err(Status::forbidden("", plural, object::name(v), &why))
    }
}

/// Sets what is missing and gives the names of what was set.
fn fill(container: &mut Value, kind: &str, given: Option<&Map<String, Value>>) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in given.into_iter().flatten() {
        if object::at(container, &["resources", kind, name]).is_none() {
            object::set(container, &["resources", kind, name], amount.clone());
            set.push(name.clone());
        }
    }
    set
}

fn amounts(map: Option<&Map<String, Value>>) -> Amounts {
    map.into_iter()
        .flatten()
        .filter_map(|(k, v)| {
            let text = v.as_str().map_or_else(|| v.to_string(), String::from);
            Some((k.clone(), Quantity::parse(&text)?))
        })
        .collect()
}

/// Requests or limits of a whole pod: the sum of its containers, or the largest of its init containers.
pub(super) fn pod_sum(pod: &Value, kind: &str) -> Amounts {
    let mut sum = Amounts::new();
    for c in object::list_at(pod, &["spec", "containers"]) {
        for (k, q) in amounts(object::map_at(c, &["resources", kind])) {
            let total = sum.get(&k).map_or_else(|| q, |s| s.add(&q));
            sum.insert(k, total);
        }
    }
    let mut sidecars = Amounts::new();
    for c in object::list_at(pod, &["spec", "initContainers"]) {
        for (k, q) in amounts(object::map_at(c, &["resources", kind])) {
            if c["restartPolicy"] == "Always" {
                for into in [&mut sum, &mut sidecars] {
                    let total = into.get(&k).map_or_else(|| q, |s| s.add(&q));
                    into.insert(k.clone(), total);
                }
                continue;
            }
            let peak = sidecars.get(&k).map_or_else(|| q, |s| s.add(&q));
            if sum.get(&k).is_none_or(|s| s.compare(&peak) == Ordering::Less) {
                sum.insert(k, peak);
            }
        }
    }
    sum
}

fn check(
    limit: &Value,
    what: &str,
    requests: &Amounts,
    limits: &Amounts,
    errors: &mut Vec<String>,
) {
    for (name, min) in amounts(object::map_at(limit, &["min"])) {
        let least = min.canonical();
        for (word, have) in [("request", requests.get(&name)), ("limit", limits.get(&name))] {
            match have {
                None if word == "request" => errors.push(format!(
                    "minimum {name} usage per {what} is {least}.  No request is specified"
                )),
                Some(q) if q.compare(&min) == Ordering::Less => errors.push(format!(
                    "minimum {name} usage per {what} is {least}, but {word} is {}",
                    q.canonical()
                )),
                _ => {}
            }
        }
    }
    for (name, max) in amounts(object::map_at(limit, &["max"])) {
        let most = max.canonical();
        match limits.get(&name) {
            None => errors
                .push(format!("maximum {name} usage per {what} is {most}.  No limit is specified")),
            Some(q) if q.compare(&max) == Ordering::Greater => errors.push(format!(
                "maximum {name} usage per {what} is {most}, but limit is {}",
                q.canonical()
            )),
            Some(_) => {
                if let Some(q) = requests.get(&name)
                    && q.compare(&max) == Ordering::Greater
                {
                    let have = q.canonical();
                    errors.push(format!(
                        "maximum {name} usage per {what} is {most}, but request is {have}"
                    ));
                }
            }
        }
    }
    for (name, ratio) in amounts(object::map_at(limit, &["maxLimitRequestRatio"])) {
        let most = ratio.canonical();
        match (requests.get(&name), limits.get(&name)) {
            (Some(r), Some(l)) if r.milli() > 0 => {
                let have = l.milli() as f64 / r.milli() as f64;
                if have > ratio.milli() as f64 / 1000.0 {
                    errors.push(format!(
                        "{name} max limit to request ratio per {what} is {most}, but provided ratio is {have:.6}"
                    ));
                }
            }
            _ => errors.push(format!(
                "{name} max limit to request ratio per {what} is {most}, but no request is specified or request is 0"
            )),
        }
    }
}

fn check_claim(limit: &Value, requests: &Amounts, errors: &mut Vec<String>) {
    let what = "PersistentVolumeClaim";
    for (word, key, bad) in
        [("minimum", "min", Ordering::Less), ("maximum", "max", Ordering::Greater)]
    {
        for (name, bound) in amounts(object::map_at(limit, &[key])) {
            if let Some(q) = requests.get(&name)
                && q.compare(&bound) == bad
            {
                errors.push(format!(
                    "{word} {name} usage per {what} is {}, but request is {}",
                    bound.canonical(),
                    q.canonical()
                ));
            }
        }
    }
}
