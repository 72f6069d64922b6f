//! End-to-end, crash and VM tests.
