//! Cluster DNS from the local cache.
