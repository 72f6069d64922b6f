//! What a user calls a resource: `po`, `pods`, `pod/web`, `deployments.apps`.

use pintle_api::resources::{self, Resource};
use pintle_wire::msg::api::{Request, Verb};

/// The resource of a name: plural, singular, short name or kind, with an optional `.group`.
pub fn find(word: &str) -> Result<&'static Resource, String> {
    let lower = word.to_ascii_lowercase();
    let (name, group) = lower.split_once('.').map_or((lower.as_str(), None), |(n, g)| (n, Some(g)));
    let found = resources::all().find(|r| {
        let named = r.plural == name
            || r.singular == name
            || r.short_names.contains(&name)
            || r.kind.eq_ignore_ascii_case(name);
        named && group.is_none_or(|g| r.group == g)
    });
    found.ok_or_else(|| {
        format!(
            "there is no resource {word:?}; names are as in Kubernetes: pods, svc, deployments.apps"
        )
    })
}

/// `RESOURCE NAME...` or `RESOURCE/NAME ...` into pairs; no name = the whole collection.
pub fn targets(words: &[String]) -> Result<Vec<(&'static Resource, Option<String>)>, String> {
    let Some(first) = words.first() else {
        return Err("a resource is needed, as in: pods, deploy/web".into());
    };
    if first.contains('/') {
        return words
            .iter()
            .map(|w| match w.split_once('/') {
                Some((r, n)) if !n.is_empty() => Ok((find(r)?, Some(n.to_owned()))),
                _ => Err(format!("{w:?} is not RESOURCE/NAME")),
            })
            .collect();
    }
    let names = words.get(1..).unwrap_or_default();
    let mut all = Vec::new();
    for r in first.split(',') {
        let resource = find(r)?;
        if names.is_empty() {
            all.push((resource, None));
        }
        all.extend(names.iter().map(|n| (resource, Some(n.clone()))));
    }
    Ok(all)
}

/// A request on a resource.
pub fn request(verb: Verb, r: &Resource, namespace: &str, name: &str) -> Request {
    let mut q = Request::new(verb, r.group, r.version, r.plural);
    if r.namespaced {
        namespace.clone_into(&mut q.namespace);
    }
    name.clone_into(&mut q.name);
    q
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_users_write_them() {
        for (word, plural) in [
            ("po", "pods"),
            ("Deployment", "deployments"),
            ("deploy.apps", "deployments"),
            ("svc", "services"),
        ] {
            assert_eq!(find(word).expect(word).plural, plural);
        }
        assert!(find("gremlins").is_err());
    }

    #[test]
    fn targets_by_slash_and_by_words() {
        let words = |s: &str| s.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let names = |s: &str| {
            let t = targets(&words(s)).expect(s);
            t.into_iter()
                .map(|(r, n)| format!("{}:{}", r.plural, n.unwrap_or_default()))
                .collect::<Vec<_>>()
        };
        assert_eq!(names("po/a svc/b"), ["pods:a", "services:b"]);
        assert_eq!(names("po a b"), ["pods:a", "pods:b"]);
        assert_eq!(names("po,svc"), ["pods:", "services:"]);
        assert!(targets(&words("po/")).is_err());
    }
}
