//! Measures and comparisons.
