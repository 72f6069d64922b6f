//! Which node a pod runs on, and why not on the others. Pure.
