//! System call filters.

use crate::sandbox::{Result, Seccomp};

/// Compiles.
pub fn compile(_wanted: &Seccomp) -> Result<Vec<Vec<u64>>> {
    Ok(Vec::new())
}
