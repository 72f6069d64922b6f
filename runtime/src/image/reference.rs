//! References: `web:1` means `docker.io/library/web:1`.

use crate::sandbox::{Error, Result};

/// The full form of a name: registry, path, and tag (`latest` if none) or digest.
pub fn normalise(reference: &str) -> Result<String> {
    let bad = |why: &str| Err(Error::Invalid(format!("image reference {reference:?}: {why}")));
    if reference.len() > 512 {
        return bad("it is longer than 512 characters");
    }
    let (rest, digest) = match reference.split_once('@') {
        Some((r, d)) => (r, Some(d)),
        None => (reference, None),
    };
    if let Some(d) = digest
        && !is_digest(d)
    {
        return bad("after @ there must be sha256: and 64 hexadecimal digits");
    }
    let slash = rest.rfind('/').map_or(0, |i| i + 1);
    let (path, tag) = match rest[slash..].split_once(':') {
        Some((_, tag)) => (&rest[..rest.len() - tag.len() - 1], Some(tag)),
        None => (rest, None),
    };
    if let Some(t) = tag {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let ok = t.len() <= 128
            && t.bytes().next().is_some_and(word)
            && t.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if !ok {
            return bad("the tag must be letters, digits, '_', '.', '-'");
        }
    }
    let (registry, name) = match path.split_once('/') {
        Some((first, rest))
            if first.contains('.') || first.contains(':') || first == "localhost" =>
        {
            (first, rest.to_owned())
        }
        Some(_) => ("docker.io", path.to_owned()),
        None => ("docker.io", format!("library/{path}")),
    };
    let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
    let part = |p: &str| {
        !p.is_empty()
            && p.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
            && p.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
    };
    let host = registry.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && registry.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:".contains(&b));
    if !host || !name.split('/').all(part) {
        return bad(
            "a name is lower-case letters, digits, '.', '_', '-', in parts between slashes",
        );
    }
    Ok(match (tag, digest) {
        (_, Some(d)) => format!("{registry}/{name}@{d}"),
        (Some(t), None) => format!("{registry}/{name}:{t}"),
        (None, None) => format!("{registry}/{name}:latest"),
    })
}

/// `sha256:` and 64 lower-case hexadecimal digits.
pub fn is_digest(s: &str) -> bool {
    s.strip_prefix("sha256:").is_some_and(|h| h.len() == 64 && is_hex(h))
}

/// Lower-case hexadecimal digits only.
pub fn is_hex(s: &str) -> bool {
    s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let d = format!("sha256:{}", "a".repeat(64));
        for (from, to) in [
            ("web", "docker.io/library/web:latest"),
            ("web:1", "docker.io/library/web:1"),
            ("me/web:1", "docker.io/me/web:1"),
            ("localhost/web", "localhost/web:latest"),
            ("localhost:5000/a/b:2", "localhost:5000/a/b:2"),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
            ("index.docker.io/library/web", "docker.io/library/web:latest"),
            (&format!("web:1@{d}"), &format!("docker.io/library/web@{d}")),
        ] {
            assert_eq!(normalise(from).expect(from), to);
        }
        for bad in ["", "Web", "a//b", "a:", "a:b c", "a@sha256:12", "../x", "a/.b", ":1"] {
            assert!(normalise(bad).is_err(), "{bad}");
        }
    }
}
