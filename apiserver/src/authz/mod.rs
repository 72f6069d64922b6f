//! Authorization: who may do what. Attributes in, yes or the Forbidden that Kubernetes would say out.

pub mod node;
pub mod rbac;
mod review;

use pintle_api::Status;
use pintle_wire::msg::api;

pub use crate::server::Attributes;
use crate::server::{Identity, Server};
use crate::status::Failure;

/// Whoever is in this group may do everything.
pub const MASTERS: &str = "system:masters";

impl Server {
    /// Whether `who` may do this; the error is the 403.
    pub(crate) fn permit(&self, who: &Identity, a: &Attributes<'_>) -> Result<(), Failure> {
        self.decide(who, a).map(|_| ()).map_err(|reason| a.forbidden(&who.user, &reason))
    }

    /// Whether `who` may do this, and the authorizer's reason either way, maybe empty.
    pub(crate) fn decide(&self, who: &Identity, a: &Attributes<'_>) -> Result<String, String> {
        if who.groups.iter().any(|g| g == MASTERS) {
            return Ok(String::new());
        }
        let node_says = match self.node_allows(who, a) {
            Ok(true) => return Ok(String::new()),
            Ok(false) => String::new(),
            Err(reason) => reason,
        };
        self.rbac.allows(who, a).map_err(|reason| {
            let reasons: Vec<String> =
                [node_says, reason].into_iter().filter(|r| !r.is_empty()).collect();
            reasons.join(", ")
        })
    }
}

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
            let why = format!("User \"{user}\" cannot {} path \"{}\"{tail}", self.verb, self.path);
            return Status::forbidden("", "", "", &why);
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
        Status::forbidden(self.group, self.resource, self.name, &why)
    }
}
