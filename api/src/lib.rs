//! Kubernetes kinds: schema table, quantities, selectors, patches, validation, defaulting, encodings. Pure.
