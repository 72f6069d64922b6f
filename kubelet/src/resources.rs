//! Requests and limits: QoS class, cgroup values, OOM scores, and the totals of pods.

use crate::spec::{Container, Pod, ResourceList, Role};
use pintle_runtime::sandbox::Resources;
use serde_json::Value;

/// QoS class of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has cpu and memory limits equal to its requests.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl Qos {
    /// As in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

const NANO: i128 = 1_000_000_000;

/// A quantity in thousand-millionths; `None` when it is none.
pub fn quantity_nano(q: &Value) -> Option<i128> {
    match q {
        Value::Number(n) => match n.as_i64() {
            Some(n) => Some(i128::from(n) * NANO),
            None => n.as_f64().map(|f| (f * 1e9) as i128),
        },
        Value::String(s) => parse_quantity(s),
        _ => None,
    }
}

fn parse_quantity(s: &str) -> Option<i128> {
    let end = s.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c))).unwrap_or(s.len());
    let (number, suffix) = s.split_at(end);
    let scale: i128 = match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => NANO,
        "k" => NANO * 1_000,
        "M" => NANO * 1_000_000,
        "G" => NANO * 1_000_000_000,
        "T" => NANO * 1_000_000_000_000,
        "P" => NANO * 1_000_000_000_000_000,
        "Ki" => NANO << 10,
        "Mi" => NANO << 20,
        "Gi" => NANO << 30,
        "Ti" => NANO << 40,
        "Pi" => NANO << 50,
        _ => {
            let exponent: u32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            NANO.checked_mul(10i128.checked_pow(exponent)?)?
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let value: i128 = digits.parse().ok()?;
    let divisor = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let product = value.checked_mul(scale)?;
    // Rounded up, as Kubernetes does.
    Some(product.div_euclid(divisor) + i128::from(product.rem_euclid(divisor) != 0))
}

/// Whole units (bytes), rounded up.
pub fn units(list: &ResourceList, name: &str) -> Option<u64> {
    let nano = quantity_nano(list.get(name)?)?;
    u64::try_from((nano + NANO - 1) / NANO).ok()
}

/// Thousandths (milli-CPU), rounded up.
pub fn milli(list: &ResourceList, name: &str) -> Option<u64> {
    let nano = quantity_nano(list.get(name)?)?;
    u64::try_from((nano + 999_999) / 1_000_000).ok()
}

/// A request, or the limit that stands for it.
fn requested<T>(
    c: &Container,
    read: impl Fn(&ResourceList, &str) -> Option<T>,
    name: &str,
) -> Option<T> {
    read(&c.resources.requests, name).or_else(|| read(&c.resources.limits, name))
}

/// The class of a pod.
pub fn qos(pod: &Pod) -> Qos {
    let mut any = false;
    let mut guaranteed = true;
    for (_, c) in pod.all_containers().filter(|(role, _)| *role != Role::Ephemeral) {
        for name in ["cpu", "memory"] {
            let limit = milli(&c.resources.limits, name).filter(|v| *v > 0);
            let request = requested(c, milli, name).filter(|v| *v > 0);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// cgroup of a pod's sandbox below the node's root.
pub fn cgroup(pod: &Pod) -> String {
    let uid = &pod.metadata.uid;
    match qos(pod) {
        Qos::Guaranteed => format!("guaranteed/pod{uid}"),
        Qos::Burstable => format!("burstable/pod{uid}"),
        Qos::BestEffort => format!("besteffort/pod{uid}"),
    }
}

/// `cpu.weight` of a request in milli-CPU: cpu.shares of 2..262144 mapped to 1..10000 (KEP-2254).
pub fn cpu_weight(milli: u64) -> u64 {
    let shares = (milli * 1024 / 1000).clamp(2, 262_144);
    1 + (shares - 2) * 9_999 / 262_142
}

const CPU_PERIOD_US: u64 = 100_000;

fn cpu_quota_us(milli: u64) -> u64 {
    // The kernel refuses less than a millisecond.
    (milli * CPU_PERIOD_US / 1000).max(1_000)
}

/// What a container's cgroup gets.
pub fn of_container(pod: &Pod, c: &Container, node_memory_bytes: u64) -> Resources {
    let cpu_limit = milli(&c.resources.limits, "cpu").filter(|v| *v > 0);
    let memory = units(&c.resources.limits, "memory").filter(|v| *v > 0);
    Resources {
        cpu_weight: Some(cpu_weight(requested(c, milli, "cpu").unwrap_or(0))),
        cpu_quota_us: cpu_limit.map(cpu_quota_us),
        cpu_period_us: cpu_limit.map(|_| CPU_PERIOD_US),
        memory_max: memory,
        memory_min: None,
        swap_max: memory.map(|_| 0),
        pids_max: None,
        oom_group: memory.map(|_| true),
        oom_score_adj: Some(oom_score_adj(pod, c, node_memory_bytes)),
    }
}

/// What the pod's cgroup gets: the sums; limits only when every container has one.
pub fn of_pod(pod: &Pod) -> Resources {
    let containers = || {
        pod.all_containers()
            .filter(|(r, _)| matches!(r, Role::Main | Role::Sidecar))
            .map(|(_, c)| c)
    };
    let init = || pod.all_containers().filter(|(r, _)| *r == Role::Init).map(|(_, c)| c);
    let total = |read: &dyn Fn(&Container) -> Option<u64>| -> Option<u64> {
        let sum = containers().map(read).try_fold(0u64, |sum, v| Some(sum.saturating_add(v?)))?;
        init().map(read).try_fold(sum, |most, v| Some(most.max(v?)))
    };
    let weight: u64 = containers().map(|c| requested(c, milli, "cpu").unwrap_or(0)).sum();
    let cpu = total(&|c| milli(&c.resources.limits, "cpu").filter(|v| *v > 0));
    Resources {
        cpu_weight: Some(cpu_weight(weight)),
        cpu_quota_us: cpu.map(cpu_quota_us),
        cpu_period_us: cpu.map(|_| CPU_PERIOD_US),
        memory_max: total(&|c| units(&c.resources.limits, "memory").filter(|v| *v > 0)),
        pids_max: crate::limits::PIDS_MAX,
        ..Resources::default()
    }
}

/// `oom_score_adj` as Kubernetes computes it from the class and the share of the node's memory requested.
pub fn oom_score_adj(pod: &Pod, c: &Container, node_memory_bytes: u64) -> i32 {
    // system-node-critical and system-cluster-critical.
    if pod.spec.priority.is_some_and(|p| p >= 2_000_000_000) {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = requested(c, units, "memory").unwrap_or(0);
            let share = u128::from(request) * 1000 / u128::from(node_memory_bytes.max(1));
            let adj = 1000 - i32::try_from(share).unwrap_or(1000);
            adj.clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities() {
        for (q, nano) in [
            (json!("100m"), 100_000_000),
            (json!("1"), NANO),
            (json!(2), 2 * NANO),
            (json!("1.5"), 1_500_000_000),
            (json!("64Mi"), (64 << 20) * NANO),
            (json!("1e3"), 1000 * NANO),
            (json!("0.1Ki"), 102_400_000_000),
        ] {
            assert_eq!(quantity_nano(&q), Some(nano), "{q}");
        }
        for bad in ["", "x", "1.2.3", "1Zi", "--1"] {
            assert_eq!(quantity_nano(&json!(bad)), None, "{bad}");
        }
    }

    fn pod(resources: Value) -> Pod {
        let text = json!({"metadata": {"uid": "u"}, "spec": {"containers": [
            {"name": "a", "resources": resources}]}});
        serde_json::from_value(text).expect("a pod")
    }

    #[test]
    fn classes_and_scores() {
        let guaranteed = pod(json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
        let burstable = pod(json!({"requests": {"memory": "1Gi"}}));
        let best = pod(json!({}));
        let score = |p: &Pod| oom_score_adj(p, &p.spec.containers[0], 10 << 30);
        assert_eq!((qos(&guaranteed), score(&guaranteed)), (Qos::Guaranteed, -997));
        assert_eq!((qos(&burstable), score(&burstable)), (Qos::Burstable, 900));
        assert_eq!((qos(&best), score(&best)), (Qos::BestEffort, 1000));
        assert_eq!(cgroup(&burstable), "burstable/podu");
        let r = of_container(&guaranteed, &guaranteed.spec.containers[0], 1);
        assert_eq!((r.cpu_quota_us, r.memory_max), (Some(100_000), Some(1 << 30)));
        assert_eq!(of_pod(&burstable).memory_max, None);
        assert_eq!((cpu_weight(0), cpu_weight(1000), cpu_weight(256_000)), (1, 39, 10_000));
    }
}
