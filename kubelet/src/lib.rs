//! The node agent: pods into containers.
