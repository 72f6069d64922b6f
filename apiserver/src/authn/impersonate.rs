//! Impersonation headers: acting as somebody else, when the authorizer lets one.
//!
//! References: "User impersonation" of the Kubernetes documentation; KEP-5284 (constrained impersonation) for
//! the verbs `impersonate:user-info` and `impersonate-on:user-info:VERB` that are tried beside `impersonate`.

use super::{AUTHENTICATED, UNAUTHENTICATED};
use crate::error::Failure;
use crate::front::http;
use crate::server::{Attributes, Identity, Server};
use pintle_wire::msg::api;

/// What the headers ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: Vec<(String, Vec<String>)>,
}

/// Reads the headers; `None` when there are none.
///
/// # Errors
/// 400 when something is asked for without a user.
pub fn wanted(request: &http::Request) -> Result<Option<Wanted>, Failure> {
    let first = |name: &str| request.header(name).unwrap_or_default().to_string();
    let mut w = Wanted {
        user: first("impersonate-user"),
        uid: first("impersonate-uid"),
        groups: request.all("impersonate-group").map(String::from).collect(),
        extra: Vec::new(),
    };
    for (name, value) in &request.headers {
        let Some(key) = name.strip_prefix("impersonate-extra-") else { continue };
        let key = crate::front::uri::decode(key, false).unwrap_or_else(|| key.into());
        match w.extra.iter_mut().find(|(k, _)| *k == key) {
            Some((_, values)) => values.push(value.clone()),
            None => w.extra.push((key, vec![value.clone()])),
        }
    }
    if w == Wanted::default() {
        return Ok(None);
    }
    if w.user.is_empty() {
        return Err(Failure::bad_request(format!(
            "requested &user.DefaultInfo{{Name:\"\", UID:{:?}, Groups:{}, Extra:{}}} without impersonating a user name",
            w.uid,
            go_strings(&w.groups),
            go_extra(&w.extra),
        )));
    }
    Ok(Some(w))
}

// As Go prints a []string with %#v.
fn go_strings(list: &[String]) -> String {
    if list.is_empty() {
        return "[]string(nil)".into();
    }
    let quoted: Vec<String> = list.iter().map(|s| format!("{s:?}")).collect();
    format!("[]string{{{}}}", quoted.join(", "))
}

fn go_extra(extra: &[(String, Vec<String>)]) -> String {
    if extra.is_empty() {
        return "map[string][]string(nil)".into();
    }
    let pairs: Vec<String> =
        extra.iter().map(|(k, v)| format!("{k:?}:{}", go_strings(v))).collect();
    format!("map[string][]string{{{}}}", pairs.join(", "))
}

impl Wanted {
    /// Who the request is carried out as, when `who` may.
    ///
    /// # Errors
    /// The 403 reply, about what the request wanted to do.
    pub fn apply(
        self,
        who: &Identity,
        target: &Attributes<'_>,
        core: &Server,
    ) -> Result<Identity, api::Reply> {
        if self.each_allowed("impersonate", who, core).is_err() {
            // The constrained kind: allowed to be this user, and to do this very thing as one.
            let mode = self.mode();
            let verb = format!("impersonate-on:{mode}:{}", target.verb);
            core.authorize(who, &Attributes { verb: &verb, ..*target })?;
            self.each_allowed(&format!("impersonate:{mode}"), who, core)?;
        }
        Ok(self.identity())
    }

    fn mode(&self) -> &'static str {
        if self.user.starts_with("system:serviceaccount:") {
            "serviceaccount"
        } else if self.user.starts_with("system:node:") {
            "arbitrary-node"
        } else {
            "user-info"
        }
    }

    fn each_allowed(&self, verb: &str, who: &Identity, core: &Server) -> Result<(), api::Reply> {
        let group = if verb == "impersonate" { "" } else { "authentication.k8s.io" };
        let ask = |resource: &str, subresource: &str, namespace: &str, name: &str, group: &str| {
            core.authorize(
                who,
                &Attributes {
                    verb,
                    group,
                    version: "v1",
                    resource,
                    subresource,
                    namespace,
                    name,
                    path: "",
                },
            )
        };
        match service_account(&self.user) {
            Some((namespace, name)) => ask("serviceaccounts", "", namespace, name, group)?,
            None => ask("users", "", "", &self.user, group)?,
        }
        for name in &self.groups {
            ask("groups", "", "", name, group)?;
        }
        if !self.uid.is_empty() {
            ask("uids", "", "", &self.uid, "authentication.k8s.io")?;
        }
        for (key, values) in &self.extra {
            for value in values {
                ask("userextras", key, "", value, "authentication.k8s.io")?;
            }
        }
        Ok(())
    }

    fn identity(self) -> Identity {
        let mut groups = self.groups;
        if groups.is_empty()
            && let Some((namespace, _)) = service_account(&self.user)
        {
            groups = vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
            ];
        }
        let everybody =
            if self.user == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
        if !groups.iter().any(|g| g == AUTHENTICATED || g == UNAUTHENTICATED) {
            groups.push(everybody.into());
        }
        Identity { user: self.user, uid: self.uid, groups, extra: self.extra }
    }
}

fn service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> http::Request {
        let headers = list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        http::Request { headers, ..http::Request::default() }
    }

    #[test]
    fn headers_become_an_identity() {
        assert_eq!(wanted(&headers(&[("accept", "x")])), Ok(None));
        let who = wanted(&headers(&[
            ("impersonate-user", "bob"),
            ("impersonate-group", "devs"),
            ("impersonate-extra-scopes", "view"),
            ("impersonate-extra-scopes", "edit"),
        ]))
        .expect("good")
        .expect("some")
        .identity();
        assert_eq!(who.groups, ["devs", AUTHENTICATED]);
        assert_eq!(who.extra, [("scopes".to_string(), vec!["view".to_string(), "edit".into()])]);
        let account = wanted(&headers(&[("impersonate-user", "system:serviceaccount:ns:sa")]))
            .expect("good")
            .expect("some")
            .identity();
        assert_eq!(
            account.groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED]
        );
        let nobody = wanted(&headers(&[("impersonate-user", "system:anonymous")]))
            .expect("good")
            .expect("some")
            .identity();
        assert_eq!(nobody.groups, [UNAUTHENTICATED]);
    }

    #[test]
    fn a_group_without_a_user_is_refused() {
        let f = wanted(&headers(&[("impersonate-group", "devs")])).expect_err("refused");
        assert_eq!(
            f.message,
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"devs\"}, \
             Extra:map[string][]string(nil)} without impersonating a user name"
        );
    }
}
