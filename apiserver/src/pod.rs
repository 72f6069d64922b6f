//! What the server computes about pods.

use pintle_api::object;
use serde_json::Value;

/// QoS class from requests and limits of all containers: Guaranteed when each has cpu and memory limits that
/// its requests equal, BestEffort when none has any of either, else Burstable.
pub(crate) fn qos_class(pod: &Value) -> &'static str {
    let lists = ["containers", "initContainers"];
    let mut any = false;
    let mut guaranteed = true;
    for c in lists.iter().flat_map(|l| object::list_at(pod, &["spec", l])) {
        for name in ["cpu", "memory"] {
            let text = |kind: &str| match object::at(c, &["resources", kind, name]) {
                Some(Value::String(s)) if !is_zero(s) => Some(s.clone()),
                Some(Value::Number(n)) if n.as_f64() != Some(0.0) => Some(n.to_string()),
                _ => None,
            };
            let (request, limit) = (text("requests"), text("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn is_zero(quantity: &str) -> bool {
    quantity
        .bytes()
        .take_while(|b| b.is_ascii_digit() || *b == b'.')
        .all(|b| b == b'0' || b == b'.')
}
