//! Amounts of what pods ask for and nodes have: CPU in thousandths, everything else in whole units.

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
        Value::String(s) => parse_milli(s).unwrap_or(0),
        Value::Number(n) => n.as_i64().map_or(0, |n| n.saturating_mul(1000)),
        _ => 0,
    }
}

// Decimal mantissa and suffix, as the resource quantity format has it; exact in 128 bits, rounded up.
fn parse_milli(s: &str) -> Option<i64> {
    let end = s
        .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+'))
        .unwrap_or(s.len());
    let (number, suffix) = s.split_at(end);
    let (multiplier, divisor): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs())?;
            if exponent >= 0 { (power, 1) } else { (1, power) }
        }
    };
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (int, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if int.is_empty() && fraction.is_empty() || fraction.len() > 18 || int.len() > 20 {
        return None;
    }
    let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let mantissa: i128 = format!("{int}{fraction}").parse().ok()?;
    let numerator = mantissa.checked_mul(multiplier)?.checked_mul(1000)?;
    let denominator = scale.checked_mul(divisor)?;
    let value =
        i64::try_from(numerator.checked_add(denominator - 1)? / denominator).unwrap_or(i64::MAX);
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities() {
        for (s, want) in [
            ("100m", 100),
            ("2", 2000),
            ("0.5", 500),
            ("1Ki", 1_024_000),
            ("1e3", 1_000_000),
            ("1n", 1),
            ("64Mi", 67_108_864_000),
            (".5", 500),
        ] {
            assert_eq!(parse_milli(s), Some(want), "{s}");
        }
        for bad in ["", "m", "1Q", "e3", "1.2.3"] {
            assert_eq!(parse_milli(bad), None, "{bad}");
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
