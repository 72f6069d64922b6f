//! What controllers see: the caches and an index from owner to owned, nothing else.

use crate::Kind;
use crate::plan::key_of;
use pintle_base::Time;
use pintle_client::{Caches, Key};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Objects by the uid of each of their owners.
#[derive(Debug, Default)]
pub struct OwnerIndex {
    owned: BTreeMap<String, BTreeSet<(Kind, Key)>>,
}

impl OwnerIndex {
    /// An object changed.
    pub fn update(&mut self, kind: Kind, key: &str, old: Option<&Value>, new: Option<&Value>) {
        for uid in old.map(owner_uids).unwrap_or_default() {
            if let Some(set) = self.owned.get_mut(uid) {
                set.remove(&(kind, key.to_owned()));
                if set.is_empty() {
                    self.owned.remove(uid);
                }
            }
        }
        for uid in new.map(owner_uids).unwrap_or_default() {
            self.owned.entry(uid.to_owned()).or_default().insert((kind, key.to_owned()));
        }
    }
}

fn owner_uids(object: &Value) -> Vec<&str> {
    owners(object).filter_map(|o| o["uid"].as_str()).collect()
}

/// An object's owner references.
pub fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["ownerReferences"].as_array().into_iter().flatten()
}

/// The owner reference that controls an object.
pub fn controller_of(object: &Value) -> Option<&Value> {
    owners(object).find(|o| o["controller"] == true)
}

/// A consistent picture for one plan.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The client's caches.
    pub caches: &'a Caches,
    /// Who owns what.
    pub index: &'a OwnerIndex,
    /// What the manager remembers beside the objects.
    pub memory: &'a Memory,
}

/// What the manager remembers beside the objects: facts that only observing over time gives.
#[derive(Debug, Default)]
pub struct Memory {
    /// When each lease was last seen to change, by our own clock: other machines' clocks are not trusted.
    pub lease_seen: HashMap<Key, Time>,
    /// Uids of which the API server said that they are gone.
    pub gone: HashSet<String>,
}

impl<'a> View<'a> {
    /// One object.
    pub fn get(&self, kind: Kind, key: &str) -> Option<&'a Value> {
        self.caches.get(kind.spec(), key).map(|o| &*o.value)
    }

    /// One object of a namespace.
    pub fn get_in(&self, kind: Kind, namespace: &str, name: &str) -> Option<&'a Value> {
        self.get(kind, &format!("{namespace}/{name}"))
    }

    /// All objects of a resource.
    pub fn list(&self, kind: Kind) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.caches.list(kind.spec()).map(|(_, o)| &*o.value)
    }

    /// All objects of a resource in a namespace.
    pub fn list_in(
        &self,
        kind: Kind,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Value> + use<'a> {
        let prefix = format!("{namespace}/");
        self.caches
            .list(kind.spec())
            .filter(move |(k, _)| k.starts_with(&prefix))
            .map(|(_, o)| &*o.value)
    }

    /// Objects of a resource that name this uid as an owner.
    pub fn owned(&self, kind: Kind, uid: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let caches = self.caches;
        self.index
            .owned
            .get(uid)
            .into_iter()
            .flatten()
            .filter(move |(k, _)| *k == kind)
            .filter_map(move |(k, key)| caches.get(k.spec(), key).map(|o| &*o.value))
    }

    /// Keys of all objects that name this uid as an owner.
    pub fn owned_keys(&self, uid: &str) -> impl Iterator<Item = &'a (Kind, Key)> + use<'a> {
        self.index.owned.get(uid).into_iter().flatten()
    }

    /// When a lease was last seen to change.
    pub fn lease_seen(&self, key: &str) -> Option<Time> {
        self.memory.lease_seen.get(key).copied()
    }

    /// The API server said that nothing with this uid exists any more.
    pub fn confirmed_gone(&self, uid: &str) -> bool {
        self.memory.gone.contains(uid)
    }

    /// Pods that the object controls, plus orphans that its selector matches (to be adopted).
    pub fn claimable(&self, kind: Kind, owner: &Value, selector: &crate::Selector) -> Claim<'a> {
        let uid = owner["metadata"]["uid"].as_str().unwrap_or_default();
        let namespace = owner["metadata"]["namespace"].as_str().unwrap_or_default();
        let mut claim = Claim::default();
        for object in self.owned(kind, uid) {
            let controls = controller_of(object).is_some_and(|o| o["uid"] == uid);
            if controls && selector.matches(&object["metadata"]["labels"]) {
                claim.mine.push(object);
            } else if controls {
                claim.release.push(object);
            }
        }
        // An orphan can only be found by looking at all; they are rare, so nothing is indexed for them.
        if owner["metadata"]["deletionTimestamp"].is_null() && !selector.is_empty() {
            claim.adopt = self
                .list_in(kind, namespace)
                .filter(|o| {
                    controller_of(o).is_none() && o["metadata"]["deletionTimestamp"].is_null()
                })
                .filter(|o| selector.matches(&o["metadata"]["labels"]))
                .collect();
        }
        claim.mine.sort_by_key(|o| key_of(o));
        claim
    }
}

/// Which objects an owner has, should take and should let go.
#[derive(Debug, Default)]
pub struct Claim<'a> {
    /// Controlled and selected.
    pub mine: Vec<&'a Value>,
    /// Selected, controlled by nobody.
    pub adopt: Vec<&'a Value>,
    /// Controlled, no longer selected.
    pub release: Vec<&'a Value>,
}
