//! Nodes: their pod ranges, whether they are alive, and what becomes of the pods of lost ones.
//!
//! A node is alive while its lease changes. When it has not for 40 s (by our clock, from when we saw it change),
//! its conditions become Unknown, it is tainted, its pods stop being ready, and pods that do not tolerate the taint
//! for longer are deleted. Source: the node documentation, KEP-589 (leases), KEP-166 (taint-based eviction).

use crate::Kind;
use crate::manager::{Change, Controller};
use crate::plan::{Action, Plan, key_of};
use crate::replicaset::terminal;
use crate::view::View;
use pintle_base::{Now, Wall};
use pintle_client::Key;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long a lease may go without a change.
const GRACE: Duration = Duration::from_secs(40);
const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Watches leases and conditions.
pub struct Lifecycle;

impl Controller for Lifecycle {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn wake(&self, change: &Change<'_>, _view: View<'_>, keys: &mut BTreeSet<Key>) {
        let (namespace, name) = crate::plan::split(change.key);
        match change.kind {
            Kind::Node => {
                keys.insert(change.key.to_owned());
            }
            // A renewal only moves the deadline; the timer that is set finds the new one.
            Kind::Lease if namespace == LEASES && change.old.is_none() != change.new.is_none() => {
                keys.insert(name.to_owned());
            }
            Kind::Pod => {
                let node = |p: Option<&Value>| {
                    p.and_then(|p| p["spec"]["nodeName"].as_str().map(str::to_owned))
                };
                if node(change.old) != node(change.new) {
                    keys.extend(node(change.new));
                }
            }
            _ => {}
        }
    }

    fn plan(&self, key: &str, view: View<'_>, now: Now) -> Plan {
        let mut plan = Plan::default();
        let Some(node) = view.get(Kind::Node, key) else { return plan };
        let lease = format!("{LEASES}/{key}");
        let silent = view.lease_seen(&lease).map(|seen| now.mono - seen);
        let lost = silent.is_some_and(|s| s >= GRACE);
        let ready =
            conditions(node).find(|c| c["type"] == "Ready").and_then(|c| c["status"].as_str());
        let taint = match ready {
            Some("True") if !lost => None,
            Some("False") if !lost => Some(NOT_READY),
            Some("True" | "False" | "Unknown") => Some(UNREACHABLE),
            // No kubelet has spoken for it yet.
            Some(_) | None => Some(NOT_READY),
        };
        // The taints are guarded by the node's revision, so they come before its status.
        keep_taints(node, taint, now.wall, &mut plan);
        if lost && conditions(node).any(|c| c["type"] == "Ready" && c["status"] != "Unknown") {
            plan.actions.push(unknown(node, now.wall));
            plan.actions.push(Action::Event {
                about: Box::new(node.clone()),
                warning: false,
                reason: "NodeNotReady",
                message: format!("Node {key} status is now: NodeNotReady"),
            });
        }
        let evict_in =
            if taint.is_some() { disturb_pods(node, view, now, &mut plan) } else { None };
        let check_in = silent.filter(|_| !lost).map(|s| GRACE - s);
        plan.requeue_after = [check_in, evict_in].into_iter().flatten().min();
        plan
    }
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}

fn unknown(node: &Value, now: Wall) -> Action {
    let list: Vec<Value> = conditions(node)
        .map(|c| {
            let mut c = c.clone();
            if c["status"] != "Unknown" {
                c["status"] = json!("Unknown");
                c["reason"] = json!("NodeStatusUnknown");
                c["message"] = json!("Kubelet stopped posting node status.");
                c["lastTransitionTime"] = json!(now.rfc3339());
            }
            c
        })
        .collect();
    Action::status(Kind::Node, &key_of(node), json!({ "conditions": list }))
}

fn keep_taints(node: &Value, wanted: Option<&str>, now: Wall, plan: &mut Plan) {
    let have: Vec<&Value> = node["spec"]["taints"].as_array().into_iter().flatten().collect();
    let ours = |t: &Value| {
        t["key"] == NOT_READY
            || t["key"] == UNREACHABLE
            || t["key"] == "node.kubernetes.io/unschedulable"
    };
    let mut next: Vec<Value> = have.iter().filter(|t| !ours(t)).map(|t| (*t).clone()).collect();
    let mut keep = |key: &str, effect: &str, timed: bool| {
        let old = have.iter().find(|t| t["key"] == key && t["effect"] == effect);
        next.push(match old {
            Some(t) => (*t).clone(),
            None if timed => json!({"key": key, "effect": effect, "timeAdded": now.rfc3339()}),
            None => json!({"key": key, "effect": effect}),
        });
    };
    if node["spec"]["unschedulable"] == true {
        keep("node.kubernetes.io/unschedulable", "NoSchedule", true);
    }
    if let Some(key) = wanted {
        keep(key, "NoSchedule", false);
        keep(key, "NoExecute", true);
    }
    let same = next.len() == have.len() && next.iter().all(|t| have.contains(&t));
    if !same {
        plan.actions.push(Action::Patch {
            kind: Kind::Node,
            key: key_of(node),
            subresource: "",
            patch: json!({
                "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
                "spec": {"taints": if next.is_empty() { Value::Null } else { json!(next) }},
            }),
        });
    }
}

// Pods of a node that is not well: no longer ready if it is lost, deleted when they do not bear its taints any more.
// Gives the time until the next one's patience ends.
fn disturb_pods(node: &Value, view: View<'_>, now: Now, plan: &mut Plan) -> Option<Duration> {
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    let lost = conditions(node).any(|c| c["type"] == "Ready" && c["status"] == "Unknown");
    let mut next: Option<Duration> = None;
    for pod in view.list(Kind::Pod).filter(|p| p["spec"]["nodeName"] == name && !terminal(p)) {
        if lost && conditions(pod).any(|c| c["type"] == "Ready" && c["status"] == "True") {
            plan.actions.push(not_ready(pod, now.wall));
        }
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        for taint in node["spec"]["taints"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|t| t["effect"] == "NoExecute")
        {
            let added =
                taint["timeAdded"].as_str().and_then(Wall::parse_rfc3339).unwrap_or(now.wall);
            match patience(pod, taint) {
                Patience::Endless => {}
                Patience::For(d) if now.wall - added < d => {
                    let left = d - (now.wall - added);
                    next = Some(next.map_or(left, |n| n.min(left)));
                }
                Patience::For(_) => {
                    plan.actions.push(Action::Event {
                        about: Box::new(pod.clone()),
                        warning: false,
                        reason: "TaintManagerEviction",
                        message: format!("Marking for deletion Pod {}", key_of(pod)),
                    });
                    plan.actions.push(Action::delete(Kind::Pod, pod));
                    break;
                }
            }
        }
    }
    next
}

fn not_ready(pod: &Value, now: Wall) -> Action {
    let list: Vec<Value> = conditions(pod)
        .map(|c| {
            let mut c = c.clone();
            if c["type"] == "Ready" {
                c["status"] = json!("False");
                c["reason"] = json!("NodeNotReady");
                c["message"] = json!("Node is not ready");
                c["lastTransitionTime"] = json!(now.rfc3339());
            }
            c
        })
        .collect();
    Action::status(Kind::Pod, &key_of(pod), json!({ "conditions": list }))
}

enum Patience {
    Endless,
    For(Duration),
}

fn patience(pod: &Value, taint: &Value) -> Patience {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut best = Some(Duration::ZERO);
    for t in pod["spec"]["tolerations"].as_array().into_iter().flatten() {
        let exists = t["operator"] == "Exists";
        let key_fits =
            text(&t["key"]) == text(&taint["key"]) || text(&t["key"]).is_empty() && exists;
        let value_fits = exists || text(&t["value"]) == text(&taint["value"]);
        let effect_fits = text(&t["effect"]).is_empty() || t["effect"] == taint["effect"];
        if key_fits && value_fits && effect_fits {
            best = match t["tolerationSeconds"].as_i64() {
                None => return Patience::Endless,
                Some(s) => best.max(Some(Duration::from_secs(u64::try_from(s).unwrap_or(0)))),
            };
        }
    }
    Patience::For(best.unwrap_or_default())
}

/// Gives each node a pod range of its own. One key for all, so that two nodes never get the same.
pub struct Ranges {
    /// `10.244.0.0/16`.
    pub cluster_cidr: String,
    /// 24.
    pub node_bits: u8,
}

impl Controller for Ranges {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn wake(&self, change: &Change<'_>, _view: View<'_>, keys: &mut BTreeSet<Key>) {
        if change.kind == Kind::Node {
            keys.insert("all".to_owned());
        }
    }

    fn plan(&self, _key: &str, view: View<'_>, _now: Now) -> Plan {
        let mut plan = Plan::default();
        let mut used: BTreeSet<String> = view
            .list(Kind::Node)
            .filter_map(|n| n["spec"]["podCIDR"].as_str().map(str::to_owned))
            .collect();
        let mut free = ranges(&self.cluster_cidr, self.node_bits);
        for node in view
            .list(Kind::Node)
            .filter(|n| n["spec"]["podCIDR"].as_str().is_none_or(str::is_empty))
        {
            let Some(range) = free.find(|r| !used.contains(r)) else {
                plan.actions.push(Action::Event {
                    about: Box::new(node.clone()),
                    warning: true,
                    reason: "CIDRNotAvailable",
                    message: format!("no pod range is left in {}", self.cluster_cidr),
                });
                break;
            };
            used.insert(range.clone());
            plan.actions.push(Action::Patch {
                kind: Kind::Node,
                key: key_of(node),
                subresource: "",
                patch: json!({
                    "metadata": {"uid": node["metadata"]["uid"]},
                    "spec": {"podCIDR": range, "podCIDRs": [range]},
                }),
            });
        }
        plan
    }
}

fn ranges(cluster: &str, node_bits: u8) -> impl Iterator<Item = String> {
    let parsed = cluster
        .split_once('/')
        .and_then(|(a, bits)| Some((a.parse::<Ipv4Addr>().ok()?, bits.parse::<u8>().ok()?)));
    let (base, bits) = parsed.unwrap_or((Ipv4Addr::UNSPECIFIED, 32));
    let valid = bits <= node_bits && node_bits <= 30;
    let count = if valid { 1u64 << (node_bits - bits) } else { 0 };
    let size = if valid { 1u32 << (32 - node_bits) } else { 0 };
    (0..count).map(move |i| {
        let address = u32::from(base).wrapping_add(size.wrapping_mul(i as u32));
        format!("{}/{node_bits}", Ipv4Addr::from(address))
    })
}

/// Removes pods whose node does not exist (any more), which no kubelet will ever end.
pub struct LostPods;

impl Controller for LostPods {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn wake(&self, change: &Change<'_>, view: View<'_>, keys: &mut BTreeSet<Key>) {
        match change.kind {
            Kind::Node if change.new.is_none() => keys.extend(
                view.list(Kind::Pod).filter(|p| p["spec"]["nodeName"] == change.key).map(key_of),
            ),
            Kind::Pod => {
                let node = change.new.and_then(|p| p["spec"]["nodeName"].as_str());
                if node.is_some_and(|n| view.get(Kind::Node, n).is_none()) {
                    keys.insert(change.key.to_owned());
                }
            }
            _ => {}
        }
    }

    fn plan(&self, key: &str, view: View<'_>, _now: Now) -> Plan {
        let mut plan = Plan::default();
        let Some(pod) = view.get(Kind::Pod, key) else { return plan };
        let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) else {
            return plan;
        };
        if view.get(Kind::Node, node).is_some() {
            return plan;
        }
        // The view may lack a node that was made a moment ago; the uid slot remembers the API server's word for
        // this pod and this node name.
        let asked = format!("node/{node}/{}", pod["metadata"]["uid"].as_str().unwrap_or_default());
        if !view.confirmed_gone(&asked) {
            plan.actions.push(Action::Confirm {
                kind: Kind::Node,
                key: node.to_owned(),
                uid: String::new(),
                remember: asked,
            });
            return plan;
        }
        let mut delete = Action::delete(Kind::Pod, pod);
        if let Action::Delete { grace_s, .. } = &mut delete {
            *grace_s = Some(0);
        }
        plan.actions.push(delete);
        plan
    }
}
