//! The objects that a daemon keeps a copy of.

use crate::{Key, Object};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// The objects of all watched resources, by spec index.
#[derive(Debug, Default)]
pub struct Caches {
    specs: Vec<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    objects: BTreeMap<Key, Object>,
    listed: bool,
}

impl Caches {
    /// Empty caches of so many resources: a client makes its own; this is for tests and simulations of cores.
    pub fn new(specs: usize) -> Caches {
        Caches { specs: (0..specs).map(|_| Cache::default()).collect() }
    }

    /// One object.
    pub fn get(&self, spec: usize, key: &str) -> Option<&Object> {
        self.specs.get(spec)?.objects.get(key)
    }

    /// All objects of a resource, in key order.
    pub fn list(&self, spec: usize) -> impl Iterator<Item = (&Key, &Object)> {
        self.specs.get(spec).into_iter().flat_map(|c| c.objects.iter())
    }

    /// All objects of a resource in one namespace, in key order.
    pub fn list_namespace(
        &self,
        spec: usize,
        namespace: &str,
    ) -> impl Iterator<Item = (&Key, &Object)> {
        // '/' is followed by '0': all keys "namespace/..." lie between.
        let from = Bound::Included(format!("{namespace}/"));
        let to = Bound::Excluded(format!("{namespace}0"));
        self.specs
            .get(spec)
            .into_iter()
            .flat_map(move |c| c.objects.range((from.clone(), to.clone())))
    }

    /// How many objects of a resource there are.
    pub fn len(&self, spec: usize) -> usize {
        self.specs.get(spec).map_or(0, |c| c.objects.len())
    }

    /// There are none of this resource.
    pub fn is_empty(&self, spec: usize) -> bool {
        self.len(spec) == 0
    }

    /// Every resource has been listed at least once.
    pub fn synced(&self) -> bool {
        self.specs.iter().all(|c| c.listed)
    }

    /// This resource has been listed at least once.
    pub fn spec_synced(&self, spec: usize) -> bool {
        self.specs.get(spec).is_some_and(|c| c.listed)
    }

    /// Marks a resource as listed.
    pub fn set_listed(&mut self, spec: usize) {
        if let Some(c) = self.specs.get_mut(spec) {
            c.listed = true;
        }
    }

    /// Puts an object under its own key; gives the key and what was there before. For the reflectors, and for
    /// tests of cores.
    pub fn put(&mut self, spec: usize, value: Value) -> (Key, Option<Object>) {
        let key = key_of(&value);
        let revision = revision_of(&value);
        let old = self.insert(spec, key.clone(), Object { value: Arc::new(value), revision });
        (key, old)
    }

    /// Takes an object out.
    pub fn remove(&mut self, spec: usize, key: &str) -> Option<Object> {
        self.specs.get_mut(spec)?.objects.remove(key)
    }

    pub(crate) fn insert(&mut self, spec: usize, key: Key, object: Object) -> Option<Object> {
        self.specs.get_mut(spec)?.objects.insert(key, object)
    }

    /// Keys that are here and not in `listed`.
    pub(crate) fn missing(&self, spec: usize, listed: &BTreeMap<Key, Object>) -> Vec<Key> {
        self.list(spec).map(|(k, _)| k).filter(|k| !listed.contains_key(*k)).cloned().collect()
    }
}

/// `namespace/name`, or `name`, from an object's metadata.
pub fn key_of(object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    match text("namespace") {
        "" => text("name").into(),
        namespace => format!("{namespace}/{}", text("name")),
    }
}

/// `metadata.resourceVersion` as a number; 0 when there is none.
pub(crate) fn revision_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|s| s.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn namespaces_are_ranges() {
        let mut c = Caches::new(1);
        for (ns, name) in [("a", "x"), ("a", "y"), ("a-b", "z"), ("ab", "w"), ("", "node")] {
            c.put(0, json!({"metadata": {"namespace": ns, "name": name, "resourceVersion": "7"}}));
        }
        let keys: Vec<_> = c.list_namespace(0, "a").map(|(k, _)| k.as_str()).collect();
        assert_eq!(keys, ["a/x", "a/y"]);
        assert_eq!((c.len(0), c.get(0, "node").map(|o| o.revision)), (5, Some(7)));
        assert_eq!(c.list(1).count(), 0);
    }
}
