//! Quantities (`100m`, `1.5Gi`): exact decimal numbers with a format that survives.

use std::cmp::Ordering;

/// A parsed quantity.
#[derive(Clone, Debug)]
pub struct Quantity {
    /// Value in units of 10^-9 (Kubernetes' finest).
    nanos: i128,
}

impl Quantity {
    /// Parses; `None` when it is no quantity.
    pub fn parse(s: &str) -> Option<Quantity> {
        let _ = s;
        None
    }

    /// The canonical text, as the API server stores it: `0.1` becomes `100m`.
    pub fn canonical(&self) -> String {
        String::new()
    }

    /// Value in thousandths, rounded up: CPU in millicores.
    pub fn milli(&self) -> i64 {
        0
    }

    /// Whole value, rounded up: bytes.
    pub fn value(&self) -> i64 {
        0
    }

    /// Compares the numbers.
    pub fn compare(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }

    /// The sum, saturating.
    pub fn add(&self, other: &Quantity) -> Quantity {
        let _ = other;
        self.clone()
    }
}
