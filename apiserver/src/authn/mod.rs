//! Who asks: client certificates, service-account tokens, impersonation, anonymous.
//!
//! Called by `front/` for each request, before the core sees it. Nothing here reads a clock or a file.

pub mod cert;
pub mod impersonate;
pub mod token;

use crate::server::{Identity, Server};
use pintle_base::Wall;
use serde_json::Value;
use std::sync::Arc;

/// Group of everybody who is known.
pub const AUTHENTICATED: &str = "system:authenticated";

/// Group of everybody who is not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Somebody who shows no credentials.
pub fn anonymous() -> Identity {
    Identity {
        user: "system:anonymous".into(),
        groups: vec![UNAUTHENTICATED.into()],
        ..Identity::default()
    }
}

/// A peer on a unix socket whose uid is 0: the daemon that it names in its wire hello says who it is.
pub fn local_daemon(daemon: &str, node: &str) -> Option<Identity> {
    let (user, groups): (String, &[&str]) = match daemon {
        "scheduler" => ("system:kube-scheduler".into(), &[]),
        "controllers" => ("system:kube-controller-manager".into(), &[]),
        "cli" => ("kubernetes-admin".into(), &["system:masters"]),
        "kubelet" if !node.is_empty() => (format!("system:node:{node}"), &["system:nodes"]),
        "proxy" => ("system:kube-proxy".into(), &[]),
        "dns" => ("system:coredns".into(), &[]),
        _ => return None,
    };
    let groups = groups.iter().map(|g| (*g).to_owned()).chain([AUTHENTICATED.to_owned()]);
    Some(Identity { user, groups: groups.collect(), ..Identity::default() })
}

/// What authentication needs to know.
pub struct Authenticator {
    /// Verifies client certificates; none = they are not accepted.
    pub authority: Option<cert::Authority>,
    /// Verifies service-account tokens; none = they are not accepted.
    pub keys: Option<Arc<token::Keys>>,
    /// Audiences of this API server.
    pub audiences: Vec<String>,
}

/// The credentials do not prove anything: 401.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl Authenticator {
    /// Accepts the given credentials of this cluster.
    pub fn new(
        authority: Option<cert::Authority>,
        keys: Option<Arc<token::Keys>>,
    ) -> Authenticator {
        Authenticator { authority, keys, audiences: vec![token::ISSUER.into()] }
    }

    /// A client certificate counts first, then a bearer token; neither = anonymous.
    ///
    /// # Errors
    /// [`Refused`] when credentials are shown and none is good.
    pub fn identify(
        &self,
        chain: &[Vec<u8>],
        bearer: Option<&str>,
        core: &Server,
        now: Wall,
    ) -> Result<Identity, Refused> {
        let mut refused = None;
        if !chain.is_empty() {
            match &self.authority {
                Some(authority) => match authority.identify(chain, now) {
                    Ok(who) => return Ok(who),
                    Err(why) => refused = Some(Refused(why)),
                },
                None => refused = Some(Refused("client certificates are not accepted".into())),
            }
        }
        if let Some(token) = bearer {
            return self.bearer(token, core, now);
        }
        refused.map_or_else(|| Ok(anonymous()), Err)
    }

    fn bearer(&self, token: &str, core: &Server, now: Wall) -> Result<Identity, Refused> {
        let keys = self.keys.as_ref().ok_or_else(|| Refused("tokens are not accepted".into()))?;
        let claims = keys.verify(token, now).map_err(|e| Refused(e.to_string()))?;
        if !claims.audiences.iter().any(|a| self.audiences.contains(a)) {
            return Err(Refused(format!(
                "token is for {:?}, not for this server",
                claims.audiences
            )));
        }
        still_valid(&claims, core, now)?;
        let mut groups = claims.groups();
        groups.push(AUTHENTICATED.into());
        Ok(Identity {
            user: claims.user(),
            uid: claims.service_account.uid.clone(),
            groups,
            extra: claims.extra(),
        })
    }
}

/// A deleted object's tokens go on for this long after its deletion was asked for, so that a pod that ends can
/// still say goodbye.
const DELETION_LEEWAY_S: i64 = 60;

/// Whether the objects that a token is bound to are still there, with the same uids.
///
/// # Errors
/// [`Refused`] names the object that is gone.
pub fn still_valid(claims: &token::Claims, core: &Server, now: Wall) -> Result<(), Refused> {
    let check = |resource: &str, namespace: &str, r: &token::Reference| {
        let gone = |why: &str| Err(Refused(format!("{resource} {namespace}/{} {why}", r.name)));
        let Some(body) = core.peek("", resource, namespace, &r.name) else {
            return gone("does not exist");
        };
        let Ok(object) = serde_json::from_slice::<Value>(&body) else {
            return gone("cannot be read");
        };
        let meta = &object["metadata"];
        if meta["uid"].as_str().unwrap_or_default() != r.uid {
            return gone("is another one by now");
        }
        let deleted = meta["deletionTimestamp"].as_str().and_then(Wall::parse_rfc3339);
        match deleted {
            Some(at) if at.unix_s() + DELETION_LEEWAY_S < now.unix_s() => gone("was deleted"),
            _ => Ok(()),
        }
    };
    check("serviceaccounts", &claims.namespace, &claims.service_account)?;
    if let Some(pod) = &claims.pod {
        check("pods", &claims.namespace, pod)?;
    }
    if let Some(secret) = &claims.secret {
        check("secrets", &claims.namespace, secret)?;
    }
    Ok(())
}

/// The token of an Authorization header; `None` = it carries none.
pub fn bearer_token(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_headers() {
        assert_eq!(bearer_token("Bearer abc"), Some("abc"));
        assert_eq!(bearer_token("bearer  abc "), Some("abc"));
        assert_eq!(bearer_token("Bearer "), None);
        assert_eq!(bearer_token("Basic YTpi"), None);
    }

    #[test]
    fn local_daemons_are_known_by_name() {
        let who = local_daemon("kubelet", "n1").expect("known");
        assert_eq!((who.user.as_str(), who.groups[0].as_str()), ("system:node:n1", "system:nodes"));
        assert_eq!(local_daemon("cli", "").expect("known").groups[0], "system:masters");
        assert_eq!(local_daemon("kubelet", ""), None);
        assert_eq!(local_daemon("stranger", ""), None);
    }
}
