//! The table of served resources: names, verbs, subresources, categories.

use crate::Gvk;

mod core;
mod groups;

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Namespaced,
    Cluster,
}

const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// One resource of one group version, as discovery shows it.
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Copy, Debug)]
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
    const fn new(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        singular: &'static str,
        kind: &'static str,
        scope: Scope,
    ) -> Resource {
        Resource {
            group,
            version,
            plural,
            singular,
            kind,
            short_names: &[],
            categories: &[],
            namespaced: matches!(scope, Scope::Namespaced),
            verbs: ALL_VERBS,
            subresources: &[],
            selectable: &[],
            storage: (group, plural),
        }
    }

    const fn verbs(mut self, verbs: &'static [&'static str]) -> Resource {
        self.verbs = verbs;
        self
    }

    const fn short(mut self, names: &'static [&'static str]) -> Resource {
        self.short_names = names;
        self
    }

    const fn categories(mut self, names: &'static [&'static str]) -> Resource {
        self.categories = names;
        self
    }

    const fn selectable(mut self, paths: &'static [&'static str]) -> Resource {
        self.selectable = paths;
        self
    }

    const fn stored_as(mut self, group: &'static str, plural: &'static str) -> Resource {
        self.storage = (group, plural);
        self
    }

    const fn subresources(mut self, subresources: &'static [Subresource]) -> Resource {
        self.subresources = subresources;
        self
    }

    /// Group, version and kind of its objects.
    pub const fn gvk(&self) -> Gvk<'static> {
        Gvk::new(self.group, self.version, self.kind)
    }

    /// Kind of lists, `DeploymentList`.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// `apps/v1`, `v1`.
    pub fn api_version(&self) -> String {
        self.gvk().api_version()
    }

    /// The verb is served on the resource itself.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// It can be listed.
    pub fn is_listable(&self) -> bool {
        self.has_verb("list")
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

impl Subresource {
    const SCALE: Subresource =
        Subresource::new("scale", "autoscaling", "v1", "Scale", &["get", "patch", "update"]);

    const fn new(
        name: &'static str,
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        verbs: &'static [&'static str],
    ) -> Subresource {
        Subresource { name, kind, group, version, verbs }
    }

    /// A part of the parent that is read and written in the parent's kind: `status`.
    const fn part(
        name: &'static str,
        group: &'static str,
        version: &'static str,
        kind: &'static str,
    ) -> Subresource {
        Subresource::new(name, group, version, kind, &["get", "patch", "update"])
    }
}

/// All resources, core first, then by group version in discovery's order.
pub fn all() -> impl Iterator<Item = &'static Resource> + Clone {
    core::ALL.iter().chain(groups::ALL)
}

/// By group, version and plural name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    all().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// By group, version and kind.
pub fn find_kind(gvk: &Gvk<'_>) -> Option<&'static Resource> {
    all().find(|r| r.gvk() == *gvk)
}

/// The (group, version) pairs served, core first, preferred versions first.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut out: Vec<(&str, &str)> = Vec::new();
    for r in all() {
        if !out.contains(&(r.group, r.version)) {
            out.push((r.group, r.version));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn every_kind_has_a_schema() {
        for r in all() {
            assert!(schema::find(&r.gvk()).is_some(), "{}", r.gvk());
            assert!(find(r.group, r.version, r.plural).is_some());
            if r.is_listable() {
                let list_kind = r.list_kind();
                let list = Gvk::new(r.group, r.version, &list_kind);
                assert!(schema::find(&list).is_some(), "{list}");
            }
            assert!(r.verbs.is_sorted());
            for s in r.subresources {
                assert!(s.verbs.is_sorted(), "{}/{}", r.plural, s.name);
            }
        }
    }

    #[test]
    fn names_are_unique_within_a_group_version() {
        for r in all() {
            let same =
                |o: &&Resource| (o.group, o.version, o.plural) == (r.group, r.version, r.plural);
            assert_eq!(all().filter(same).count(), 1, "{}", r.plural);
        }
        assert_eq!(find("apps", "v1", "deployments").unwrap().short_names, ["deploy"]);
        assert_eq!(find("events.k8s.io", "v1", "events").unwrap().storage, ("", "events"));
        assert!(find("", "v1", "pods").unwrap().subresource("exec").is_some());
        assert_eq!(group_versions()[0], ("", "v1"));
    }
}
