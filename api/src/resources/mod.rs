//! The table of served resources: names, verbs, subresources, categories.

use crate::Gvk;

/// One resource of one group version, as discovery shows it.
#[derive(Debug)]
pub struct Resource {
    /// Group, empty for core.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Plural name, `deployments`.
    pub plural: &'static str,
    /// Singular name, `deployment`.
    pub singular: &'static str,
    /// Kind, `Deployment`.
    pub kind: &'static str,
    /// Kind of lists, `DeploymentList`; empty for resources that cannot be listed.
    pub list_kind: &'static str,
    /// `deploy`.
    pub short_names: &'static [&'static str],
    /// `all`.
    pub categories: &'static [&'static str],
    /// Lives in a namespace.
    pub namespaced: bool,
    /// Sorted: `create`, `delete`, `deletecollection`, `get`, `list`, `patch`, `update`, `watch`.
    pub verbs: &'static [&'static str],
    /// `status`, `scale`, ...
    pub subresources: &'static [Subresource],
    /// Field selectors beyond metadata.name and metadata.namespace.
    pub selectable: &'static [&'static str],
    /// Group and plural whose storage (key space) this resource shares: (`""`, `events`) for events.k8s.io,
    /// its own otherwise.
    pub storage: (&'static str, &'static str),
}

/// A subresource.
#[derive(Debug)]
pub struct Subresource {
    /// `status`.
    pub name: &'static str,
    /// Kind of its body, `Scale`.
    pub kind: &'static str,
    /// Group of that kind (its own, not the parent's).
    pub group: &'static str,
    /// Version of that kind.
    pub version: &'static str,
    /// Sorted verbs.
    pub verbs: &'static [&'static str],
}

impl Resource {
    /// Group, version and kind of its objects.
    pub fn gvk(&self) -> Gvk<'static> {
        Gvk::new(self.group, self.version, self.kind)
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

/// All resources, by group version in discovery's order.
pub fn all() -> &'static [Resource] {
    &[]
}

/// By group, version and plural name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    all().iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// By group, version and kind.
pub fn find_kind(gvk: &Gvk<'_>) -> Option<&'static Resource> {
    all().iter().find(|r| r.gvk() == *gvk)
}
