//! What the scheduler must know of the nodes: one flat array, updated by differences.

use crate::pod::{Effect, HostPort, Pod, Taint};
use crate::resources::Resources;
use serde_json::Value;
use std::collections::HashMap;

/// One node with the sum of what is on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name; empty = the slot is free.
    pub name: String,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// `status.allocatable.pods`.
    pub pods_max: i64,
    /// What pods on it asked for.
    pub requested: Resources,
    /// Pods on it.
    pub pods: i64,
    /// Host ports in use, by pod key.
    pub host_ports: Vec<(String, HostPort)>,
    /// Pods on it by controlling owner.
    pub owners: HashMap<String, i64>,
    /// Names of images that it has.
    pub images: Vec<String>,
    /// The Node object has been seen (pods may be known before).
    pub known: bool,
}

impl Node {
    /// Value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// All nodes by index; indices are stable while a node exists.
#[derive(Debug, Default)]
pub struct Nodes {
    nodes: Vec<Node>,
    index: HashMap<String, usize>,
}

impl Nodes {
    /// Takes over a Node object; true when something changed that matters to a decision.
    pub fn set(&mut self, object: &Value) -> bool {
        let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
        let name = meta["name"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            return false;
        }
        let i = self.slot(&name);
        let before = self.nodes[i].clone();
        let n = &mut self.nodes[i];
        n.known = true;
        n.unschedulable = spec["unschedulable"] == true;
        n.taints = list(&spec["taints"])
            .filter_map(|t| {
                Some(Taint {
                    key: t["key"].as_str()?.to_owned(),
                    value: t["value"].as_str().unwrap_or_default().to_owned(),
                    effect: Effect::parse(t["effect"].as_str()?)?,
                })
            })
            .collect();
        n.labels = meta["labels"].as_object().map_or_else(Vec::new, |m| {
            m.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect()
        });
        n.allocatable = Resources::of_list(&status["allocatable"]);
        n.pods_max = match &status["allocatable"]["pods"] {
            Value::String(s) => s.parse().unwrap_or(0),
            other => other.as_i64().unwrap_or(0),
        };
        n.images = list(&status["images"])
            .flat_map(|i| list(&i["names"]))
            .filter_map(|s| s.as_str().map(str::to_owned))
            .collect();
        *n != before
    }

    /// The Node object is gone. Its slot stays while pods are on it.
    pub fn remove(&mut self, name: &str) {
        if let Some(&i) = self.index.get(name) {
            let n = &mut self.nodes[i];
            n.known = false;
            if n.pods == 0 {
                self.free(i);
            }
        }
    }

    /// A pod sits on its node (or is assumed to soon).
    pub fn add_pod(&mut self, pod: &Pod, node: &str) {
        let i = self.slot(node);
        let n = &mut self.nodes[i];
        n.requested.add(&pod.requests);
        n.pods += 1;
        let key = pod.key();
        n.host_ports.extend(pod.host_ports.iter().map(|p| (key.clone(), p.clone())));
        if !pod.owner.is_empty() {
            *n.owners.entry(pod.owner.clone()).or_default() += 1;
        }
    }

    /// It does no longer.
    pub fn remove_pod(&mut self, pod: &Pod, node: &str) {
        let Some(&i) = self.index.get(node) else { return };
        let n = &mut self.nodes[i];
        n.requested.subtract(&pod.requests);
        n.pods -= 1;
        let key = pod.key();
        n.host_ports.retain(|(k, _)| *k != key);
        if let Some(count) = n.owners.get_mut(&pod.owner) {
            *count -= 1;
            if *count <= 0 {
                n.owners.remove(&pod.owner);
            }
        }
        if n.pods == 0 && !n.known {
            self.free(i);
        }
    }

    /// Nodes that exist.
    pub fn known(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| n.known)
    }

    fn slot(&mut self, name: &str) -> usize {
        if let Some(&i) = self.index.get(name) {
            return i;
        }
        let i = match self.nodes.iter().position(|n| n.name.is_empty()) {
            Some(free) => free,
            None => {
                self.nodes.push(Node::default());
                self.nodes.len() - 1
            }
        };
        self.nodes[i] = Node { name: name.to_owned(), ..Node::default() };
        self.index.insert(name.to_owned(), i);
        i
    }

    fn free(&mut self, i: usize) {
        self.index.remove(&self.nodes[i].name);
        self.nodes[i] = Node::default();
    }
}

fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}
