//! Which node, and why not the others: filters from cheap to dear, then a score. Pure.
//!
//! The texts are those of kube-scheduler's plugins, so that people and tools find what they know.

use crate::node::{Node, Nodes};
use crate::pod::{Effect, Pod};
use std::collections::BTreeMap;

/// Outcome for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Bind it to this node.
    Node(String),
    /// No node fits; the text is for the event and the condition.
    Nowhere(String),
}

/// Decides for one pod over all nodes.
pub fn decide(pod: &Pod, nodes: &Nodes) -> Decision {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let (mut total, mut feasible) = (0usize, Vec::new());
    for node in nodes.known() {
        total += 1;
        let why_not = refusals(pod, node);
        if why_not.is_empty() {
            feasible.push(node);
        }
        for reason in why_not {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    match best(pod, &feasible) {
        Some(node) => Decision::Node(node.name.clone()),
        None if total == 0 => Decision::Nowhere("no nodes available to schedule pods".into()),
        None => {
            let mut parts: Vec<String> = reasons.iter().map(|(r, n)| format!("{n} {r}")).collect();
            parts.sort();
            Decision::Nowhere(format!("0/{total} nodes are available: {}.", parts.join(", ")))
        }
    }
}

/// Why this pod may not run on this node; empty = it may. Stops at the first plugin that says no.
pub fn refusals(pod: &Pod, node: &Node) -> Vec<String> {
    let unschedulable_taint = crate::pod::Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        value: String::new(),
        effect: Effect::NoSchedule,
    };
    if node.unschedulable && !pod.tolerates(&unschedulable_taint) {
        return vec!["node(s) were unschedulable".into()];
    }
    if let Some(taint) =
        node.taints.iter().find(|t| t.effect != Effect::PreferNoSchedule && !pod.tolerates(t))
    {
        return vec![format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value)];
    }
    if !selector_fits(pod, node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".into()];
    }
    if pod.host_ports.iter().any(|want| node.host_ports.iter().any(|(_, used)| want.collides(used)))
    {
        return vec!["node(s) didn't have free ports for the requested pod ports".into()];
    }
    missing_resources(pod, node)
}

fn selector_fits(pod: &Pod, node: &Node) -> bool {
    let label = |key: &str| node.label(key).map(str::to_owned);
    pod.node_selector.iter().all(|(k, v)| node.label(k) == Some(v))
        && pod
            .required_terms
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|t| t.matches(&node.name, &label)))
}

fn missing_resources(pod: &Pod, node: &Node) -> Vec<String> {
    let mut missing = Vec::new();
    if node.pods + 1 > node.pods_max {
        missing.push("Too many pods".to_owned());
    }
    let (want, used, have) = (&pod.requests, &node.requested, &node.allocatable);
    let mut check = |name: &str, want: i64, used: i64, have: i64| {
        if want > 0 && want > have.saturating_sub(used) {
            missing.push(format!("Insufficient {name}"));
        }
    };
    check("cpu", want.cpu_milli, used.cpu_milli, have.cpu_milli);
    check("memory", want.memory_bytes, used.memory_bytes, have.memory_bytes);
    check("ephemeral-storage", want.ephemeral_bytes, used.ephemeral_bytes, have.ephemeral_bytes);
    for (name, amount) in &want.other {
        check(name, *amount, used.get_other(name), have.get_other(name));
    }
    missing
}

// Highest score wins; of equals the one with fewest pods, then the first by name, so that a decision can be repeated.
fn best<'a>(pod: &Pod, feasible: &[&'a Node]) -> Option<&'a Node> {
    let spread_max = feasible.iter().map(|n| of_owner(pod, n)).max().unwrap_or(0);
    let taints = |n: &Node| {
        n.taints
            .iter()
            .filter(|t| t.effect == Effect::PreferNoSchedule && !pod.tolerates(t))
            .count() as i64
    };
    let taints_max = feasible.iter().map(|n| taints(n)).max().unwrap_or(0);
    let preference_max = feasible.iter().map(|n| preference(pod, n)).max().unwrap_or(0);
    let share = |part: i64, whole: i64| if whole > 0 { part * 100 / whole } else { 0 };
    let score = |n: &Node| {
        // Upstream's default weights: taints 3, node affinity 2, spreading 2, fit 1, balance 1.
        3 * (100 - share(taints(n), taints_max))
            + 2 * share(preference(pod, n), preference_max)
            + 2 * (100 - share(of_owner(pod, n), spread_max))
            + least_allocated(pod, n)
            + balanced(pod, n)
    };
    feasible.iter().copied().max_by(|a, b| {
        score(a).cmp(&score(b)).then(b.pods.cmp(&a.pods)).then_with(|| b.name.cmp(&a.name))
    })
}

fn of_owner(pod: &Pod, node: &Node) -> i64 {
    node.owners.get(&pod.owner).copied().unwrap_or(0)
}

fn preference(pod: &Pod, node: &Node) -> i64 {
    let label = |key: &str| node.label(key).map(str::to_owned);
    pod.preferred_terms.iter().filter(|(_, t)| t.matches(&node.name, &label)).map(|(w, _)| w).sum()
}

// Use after placement in thousandths of what the node has. A pod that asks for nothing counts a little, as upstream.
fn use_permille(pod: &Pod, node: &Node) -> (i64, i64) {
    let part = |used: i64, want: i64, have: i64| {
        if have <= 0 {
            return 1000;
        }
        let sum = i128::from(used) + i128::from(want);
        i64::try_from(sum * 1000 / i128::from(have)).unwrap_or(1000).clamp(0, 1000)
    };
    let (cpu, memory) = (pod.requests.cpu_milli.max(100), pod.requests.memory_bytes.max(200 << 20));
    (
        part(node.requested.cpu_milli, cpu, node.allocatable.cpu_milli),
        part(node.requested.memory_bytes, memory, node.allocatable.memory_bytes),
    )
}

fn least_allocated(pod: &Pod, node: &Node) -> i64 {
    let (cpu, memory) = use_permille(pod, node);
    (2000 - cpu - memory) / 20
}

fn balanced(pod: &Pod, node: &Node) -> i64 {
    let (cpu, memory) = use_permille(pod, node);
    (1000 - (cpu - memory).abs()) / 10
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, cpu: &str, extra: Value) -> Value {
        let mut n = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "disk": "ssd"}},
            "spec": {},
            "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}},
        });
        if let (Some(spec), Some(more)) = (n["spec"].as_object_mut(), extra.as_object()) {
            spec.extend(more.clone());
        }
        n
    }

    fn pod(spec: Value) -> Pod {
        Pod::read(
            &json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"}, "spec": spec}),
        )
    }

    fn cluster(nodes: &[Value]) -> Nodes {
        let mut all = Nodes::default();
        for n in nodes {
            all.set(n);
        }
        all
    }

    fn check(nodes: &Nodes, spec: Value, want: Decision) {
        assert_eq!(decide(&pod(spec.clone()), nodes), want, "{spec}");
    }

    #[test]
    fn says_why_not_node_by_node() {
        let nodes = cluster(&[
            node("a", "1", json!({"unschedulable": true})),
            node(
                "b",
                "1",
                json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}),
            ),
            node("c", "100m", json!({})),
        ]);
        let cpu = |c: &str| json!({"containers": [{"resources": {"requests": {"cpu": c}}}]});
        check(
            &nodes,
            cpu("500m"),
            Decision::Nowhere(
                "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {gpu: yes}, \
                 1 node(s) were unschedulable."
                    .into(),
            ),
        );
        check(&nodes, cpu("50m"), Decision::Node("c".into()));
        let mut tolerant = cpu("500m");
        tolerant["tolerations"] = json!([{"key": "gpu", "operator": "Exists"}]);
        check(&nodes, tolerant, Decision::Node("b".into()));
        let mut wrong = cpu("50m");
        wrong["nodeSelector"] = json!({"disk": "hdd"});
        wrong["tolerations"] = json!([{"operator": "Exists"}]);
        check(
            &nodes,
            wrong,
            Decision::Nowhere(
                "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."
                    .into(),
            ),
        );
    }

    #[test]
    fn affinity_ports_and_no_nodes() {
        let nodes = cluster(&[node("a", "1", json!({})), node("b", "1", json!({}))]);
        let affinity = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}});
        check(&nodes, affinity, Decision::Node("b".into()));
        let port = json!({"containers": [{"ports": [{"containerPort": 80, "hostPort": 80}]}]});
        let mut taken = cluster(&[node("a", "1", json!({}))]);
        taken.add_pod(&pod(port.clone()), "a");
        check(
            &taken,
            port,
            Decision::Nowhere(
                "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.".into(),
            ),
        );
        check(
            &Nodes::default(),
            json!({}),
            Decision::Nowhere("no nodes available to schedule pods".into()),
        );
    }

    #[test]
    fn pods_of_one_owner_spread() {
        let mut nodes = cluster(&[
            node("a", "8", json!({})),
            node("b", "8", json!({})),
            node("c", "8", json!({})),
        ]);
        let mut p = pod(json!({"containers": [{"resources": {"requests": {"cpu": "10m"}}}]}));
        p.owner = "rs".into();
        let mut counts = BTreeMap::new();
        for i in 0..9 {
            p.name = format!("p{i}");
            let Decision::Node(n) = decide(&p, &nodes) else { panic!("must fit") };
            nodes.add_pod(&p, &n);
            *counts.entry(n).or_insert(0) += 1;
        }
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [3, 3, 3]);
    }

    #[test]
    fn adding_and_removing_a_pod_leaves_no_trace() {
        let mut nodes = cluster(&[node("a", "1", json!({}))]);
        let p = pod(
            json!({"containers": [{"ports": [{"hostPort": 1}], "resources": {"requests": {"cpu": "1"}}}]}),
        );
        nodes.add_pod(&p, "a");
        nodes.remove_pod(&p, "a");
        let a = nodes.known().next().expect("node");
        assert_eq!(
            (a.pods, a.requested.cpu_milli, a.host_ports.len(), a.owners.len()),
            (0, 0, 0, 0)
        );
    }
}
