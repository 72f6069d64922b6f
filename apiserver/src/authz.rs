//! Authorization: who may do what. Attributes in, yes or the Forbidden that Kubernetes would say out.

use pintle_wire::msg::api;

use crate::error::{Failure, GroupName};
pub use crate::server::Attributes;

impl<'a> Attributes<'a> {
    /// Of a request to the core.
    pub fn of(request: &'a api::Request) -> Attributes<'a> {
        let mut namespace = request.namespace.as_str();
        if request.resource == "namespaces" && request.group.is_empty() && namespace.is_empty() {
            // A namespace is asked about inside itself, so that a RoleBinding there can allow it.
            namespace = &request.name;
        }
        Attributes {
            verb: request.verb.as_str(),
            group: &request.group,
            version: &request.version,
            resource: &request.resource,
            subresource: &request.subresource,
            namespace,
            name: &request.name,
            path: "",
        }
    }

    /// `pods` or `pods/log`.
    pub fn resource_with_sub(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_string()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The 403 for this user; `reason` is what an authorizer said, may be empty.
    pub fn forbidden(&self, user: &str, reason: &str) -> Failure {
        let tail = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        if self.resource.is_empty() {
            let mut f = Failure::plain(
                403,
                "Forbidden",
                format!(
                    "forbidden: User \"{user}\" cannot {} path \"{}\"{tail}",
                    self.verb, self.path
                ),
            );
            f.details = Some(Box::default());
            return f;
        }
        let place = if self.namespace.is_empty() {
            "at the cluster scope".to_string()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        let why = format!(
            "User \"{user}\" cannot {} resource \"{}\" in API group \"{}\" {place}{tail}",
            self.verb,
            self.resource_with_sub(),
            self.group
        );
        Failure::forbidden(GroupName { group: self.group, name: self.resource }, self.name, &why)
    }
}
