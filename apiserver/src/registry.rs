//! What is served: endpoints (a resource in one group version) and the resources behind them (one key space,
//! one table of the watch cache, one stored version each).
//!
//! Built from `pintle_api::resources` at the start; a CRD adds to it at run time. Ids are indexes and are never
//! reused. The fronts read it for discovery and for the kind of a Table.

use std::collections::HashMap;
use std::sync::Arc;

use pintle_api::{Gvk, resources};

/// Index of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId(pub usize);

/// Index of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub usize);

/// One key space and how its objects are stored.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its id.
    pub id: ResourceId,
    /// API group of the key space, empty for core.
    pub group: String,
    /// Version that is stored.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Plural name.
    pub plural: String,
    /// Lives in namespaces.
    pub namespaced: bool,
    /// Field selectors beyond metadata.name and metadata.namespace, in the stored version.
    pub fields: Vec<String>,
    /// Defined by a CRD.
    pub custom: bool,
    prefix: String,
    key_prefix: String,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Group, version and kind of what is stored.
    pub fn gvk(&self) -> Gvk<'_> {
        Gvk::new(&self.group, &self.version, &self.kind)
    }

    /// How the bytes of every stored object begin.
    pub fn stored_prefix(&self) -> &str {
        &self.prefix
    }

    /// Key in the store of the object `namespace/name` or `name`.
    pub fn store_key(&self, key: &str) -> Vec<u8> {
        [self.key_prefix.as_bytes(), key.as_bytes()].concat()
    }
}

/// One resource in one group version, as discovery shows it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// What lies behind it.
    pub resource: ResourceId,
    /// Group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural name.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Kind.
    pub kind: String,
    /// Kind of lists; empty when it cannot be listed.
    pub list_kind: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories, `all`.
    pub categories: Vec<String>,
    /// Lives in namespaces.
    pub namespaced: bool,
    /// Verbs, sorted.
    pub verbs: Vec<String>,
    /// Subresources.
    pub subresources: Vec<Subresource>,
    /// Field selectors, in this version's names.
    pub fields: Vec<String>,
}

/// A subresource of an endpoint.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// `status`.
    pub name: String,
    /// Kind of its body.
    pub kind: String,
    /// Group of that kind.
    pub group: String,
    /// Version of that kind.
    pub version: String,
    /// Verbs, sorted.
    pub verbs: Vec<String>,
}

impl Endpoint {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Group, version and kind of its objects.
    pub fn gvk(&self) -> Gvk<'_> {
        Gvk::new(&self.group, &self.version, &self.kind)
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Key within the resource of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
    }
}

/// `v1` or `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// First part of every key in the store.
pub const KEY_ROOT: &str = "/registry/";

fn group_segment(group: &str) -> &str {
    if group.is_empty() { "core" } else { group }
}

/// Everything that is served.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    resources: Vec<Arc<Resource>>,
    endpoints: Vec<Arc<Endpoint>>,
    by_path: HashMap<(String, String, String), EndpointId>,
    by_key: HashMap<(String, String), ResourceId>,
}

impl Registry {
    /// The built-in kinds.
    pub fn builtin() -> Registry {
        let mut r = Registry::default();
        let all: Vec<_> = resources::all().collect();
        for e in &all {
            // The stored version is that of the first entry which owns its key space.
            let (group, plural) = e.storage;
            let owner = all.iter().find(|o| (o.group, o.plural) == e.storage).unwrap_or(e);
            let id = r.resource_of(group, plural).unwrap_or_else(|| {
                r.add_resource(Resource {
                    id: ResourceId(0),
                    group: group.into(),
                    version: owner.version.into(),
                    kind: owner.kind.into(),
                    plural: plural.into(),
                    namespaced: owner.namespaced,
                    fields: owner.selectable.iter().map(|s| (*s).into()).collect(),
                    custom: false,
                    prefix: String::new(),
                    key_prefix: String::new(),
                })
            });
            r.add_endpoint(Registry::endpoint_of(e, id));
        }
        r
    }

    fn endpoint_of(e: &resources::Resource, id: ResourceId) -> Endpoint {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let subresources = e.subresources.iter().map(|s| Subresource {
            name: s.name.into(),
            kind: s.kind.into(),
            group: s.group.into(),
            version: s.version.into(),
            verbs: owned(s.verbs),
        });
        Endpoint {
            id: EndpointId(0),
            resource: id,
            group: e.group.into(),
            version: e.version.into(),
            plural: e.plural.into(),
            singular: e.singular.into(),
            kind: e.kind.into(),
            list_kind: if e.is_listable() { e.list_kind() } else { String::new() },
            short_names: owned(e.short_names),
            categories: owned(e.categories),
            namespaced: e.namespaced,
            verbs: owned(e.verbs),
            subresources: subresources.collect(),
            fields: owned(e.selectable),
        }
    }

    /// Adds a key space; its id is set here.
    pub fn add_resource(&mut self, mut resource: Resource) -> ResourceId {
        let id = ResourceId(self.resources.len());
        resource.id = id;
        resource.prefix = format!(
            "{{\"apiVersion\":\"{}\",\"kind\":\"{}\",",
            resource.api_version(),
            resource.kind
        );
        resource.key_prefix =
            format!("{KEY_ROOT}{}/{}/", group_segment(&resource.group), resource.plural);
        self.by_key.insert((group_segment(&resource.group).into(), resource.plural.clone()), id);
        self.resources.push(Arc::new(resource));
        id
    }

    /// Adds (or replaces) an endpoint; its id is set here.
    pub fn add_endpoint(&mut self, mut endpoint: Endpoint) -> EndpointId {
        let path = (endpoint.group.clone(), endpoint.version.clone(), endpoint.plural.clone());
        let id = EndpointId(self.endpoints.len());
        endpoint.id = id;
        self.by_path.insert(path, id);
        self.endpoints.push(Arc::new(endpoint));
        id
    }

    /// By group, version and plural name.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Endpoint> {
        let id = self.by_path.get(&(group.into(), version.into(), plural.into()))?;
        self.endpoints.get(id.0).map(|e| &**e)
    }

    /// The endpoint of an object, by its apiVersion and kind.
    pub fn find_kind(&self, api_version_text: &str, kind: &str) -> Option<&Endpoint> {
        let (group, version) = api_version_text.rsplit_once('/').unwrap_or(("", api_version_text));
        self.served().find(|e| e.group == group && e.version == version && e.kind == kind)
    }

    /// The key space of a group and plural name.
    pub fn resource_of(&self, group: &str, plural: &str) -> Option<ResourceId> {
        self.by_key.get(&(group_segment(group).into(), plural.into())).copied()
    }

    /// A key space.
    pub fn resource(&self, id: ResourceId) -> &Arc<Resource> {
        &self.resources[id.0]
    }

    /// An endpoint.
    pub fn endpoint(&self, id: EndpointId) -> &Arc<Endpoint> {
        &self.endpoints[id.0]
    }

    /// All endpoints that are served, in discovery's order.
    pub fn served(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().map(|e| &**e).filter(|e| {
            let path = (e.group.clone(), e.version.clone(), e.plural.clone());
            self.by_path.get(&path) == Some(&e.id)
        })
    }

    /// All key spaces.
    pub fn resources(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// Resource and key within it of a key in the store.
    pub fn parse_key<'a>(&self, key: &'a [u8]) -> Option<(ResourceId, &'a str)> {
        let text = std::str::from_utf8(key).ok()?.strip_prefix(KEY_ROOT)?;
        let (group, rest) = text.split_once('/')?;
        let (plural, key) = rest.split_once('/')?;
        let id = self.by_key.get(&(group.to_owned(), plural.to_owned()))?;
        Some((*id, key))
    }
}
