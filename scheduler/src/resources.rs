//! Amounts of what pods ask for and nodes have: CPU in thousandths, everything else in whole units.

use pintle_api::quantity::Quantity;
use serde_json::Value;

/// A vector of amounts. Extended resources (`example.com/gpu`) are few and kept in order of name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Bytes of node-local disk.
    pub ephemeral_bytes: i64,
    /// Everything else by name.
    pub other: Vec<(String, i64)>,
}

impl Resources {
    /// From a ResourceList; what is not a quantity counts as nothing.
    pub fn of_list(list: &Value) -> Resources {
        let mut r = Resources::default();
        for (name, value) in list.as_object().into_iter().flatten() {
            let milli = milli(value);
            match name.as_str() {
                "cpu" => r.cpu_milli = milli,
                "memory" => r.memory_bytes = whole(milli),
                "ephemeral-storage" => r.ephemeral_bytes = whole(milli),
                "pods" => {}
                _ => r.other.push((name.clone(), whole(milli))),
            }
        }
        r.other.sort();
        r
    }

    /// What a pod spec asks for: the sum of its containers, or the largest of its init containers, with
    /// restartable init containers counted from where they start, plus overhead (KEP-753, KEP-688).
    pub fn of_pod(spec: &Value) -> Resources {
        let requests = |c: &Value| Resources::of_list(&c["resources"]["requests"]);
        let list = |key: &str| spec[key].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut running = Resources::default();
        for c in list("containers") {
            running.add(&requests(c));
        }
        let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
        for c in list("initContainers") {
            let mut at_start = requests(c);
            if c["restartPolicy"] == "Always" {
                sidecars.add(&at_start);
                at_start = sidecars.clone();
            } else {
                at_start.add(&sidecars);
            }
            peak.raise_to(&at_start);
        }
        running.add(&sidecars);
        running.raise_to(&peak);
        let pod_level = Resources::of_list(&spec["resources"]["requests"]);
        if pod_level.cpu_milli > 0 {
            running.cpu_milli = pod_level.cpu_milli;
        }
        if pod_level.memory_bytes > 0 {
            running.memory_bytes = pod_level.memory_bytes;
        }
        running.add(&Resources::of_list(&spec["overhead"]));
        running
    }

    /// Adds, without overflow.
    pub fn add(&mut self, more: &Resources) {
        self.combine(more, i64::saturating_add);
    }

    /// Subtracts, without overflow.
    pub fn subtract(&mut self, less: &Resources) {
        self.combine(less, i64::saturating_sub);
    }

    /// The larger of both, one by one.
    pub fn raise_to(&mut self, floor: &Resources) {
        self.combine(floor, i64::max);
    }

    /// Amount of an extended resource.
    pub fn get_other(&self, name: &str) -> i64 {
        self.other.iter().find(|(n, _)| n == name).map_or(0, |(_, v)| *v)
    }

    fn combine(&mut self, with: &Resources, f: fn(i64, i64) -> i64) {
        self.cpu_milli = f(self.cpu_milli, with.cpu_milli);
        self.memory_bytes = f(self.memory_bytes, with.memory_bytes);
        self.ephemeral_bytes = f(self.ephemeral_bytes, with.ephemeral_bytes);
        for (name, amount) in &with.other {
            match self.other.binary_search_by(|(n, _)| n.cmp(name)) {
                Ok(i) => self.other[i].1 = f(self.other[i].1, *amount),
                Err(i) => self.other.insert(i, (name.clone(), f(0, *amount))),
            }
        }
    }
}

fn whole(milli: i64) -> i64 {
    milli.saturating_add(999) / 1000
}

/// Thousandths of a quantity given as text or number, rounded up; 0 when it is none.
fn milli(v: &Value) -> i64 {
    match v {
        Value::String(s) => Quantity::parse(s).map_or(0, |q| q.milli()),
        Value::Number(n) => n.as_i64().map_or(0, |n| n.saturating_mul(1000)),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn amounts_are_rounded_up() {
        for (v, want) in [
            (json!("100m"), 100),
            (json!("2"), 2000),
            (json!("0.5"), 500),
            (json!("1n"), 1),
            (json!("64Mi"), 67_108_864_000),
            (json!(3), 3000),
            (json!("nonsense"), 0),
            (json!(null), 0),
        ] {
            assert_eq!(milli(&v), want, "{v}");
        }
    }

    #[test]
    fn pod_requests_count_sidecars_and_init_peaks() {
        let spec = json!({
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"resources": {"requests": {"cpu": "700m"}}},
            ],
            "containers": [{"resources": {"requests": {"cpu": "200m", "memory": "1Gi"}}}],
            "overhead": {"cpu": "10m"},
        });
        let r = Resources::of_pod(&spec);
        assert_eq!(r.cpu_milli, 810, "init container beside the sidecar is the peak");
        assert_eq!(r.memory_bytes, 1 << 30);
    }
}
