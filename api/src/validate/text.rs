//! Rules for names, labels and other texts, with apimachinery's messages (`util/validation`).
//!
//! Each function returns the findings; none means the text is good.

const QUALIFIED_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE_FMT: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_1123_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_1123_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035_FMT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";

/// The newer rules (label keys and values) count bytes, the older ones say characters.
fn max_bytes(n: usize) -> String {
    format!("must be no more than {n} bytes")
}

/// `must be no more than N characters`.
pub fn max_len(n: usize) -> String {
    format!("must be no more than {n} characters")
}

/// `text (e.g. 'a',  or 'b', regex used for validation is 'r')`.
fn regex_error(text: &str, regex: &str, examples: &[&str]) -> String {
    let mut out = format!("{text} (");
    if examples.is_empty() {
        out.push_str(&format!("regex used for validation is '{regex}')"));
        return out;
    }
    for (i, e) in examples.iter().enumerate() {
        if i > 0 {
            out.push_str(" or ");
        }
        out.push_str(&format!("'{e}', "));
    }
    format!("{text} (e.g. {}regex used for validation is '{regex}')", &out[text.len() + 2..])
}

fn edges_and_middle(s: &str, edge: impl Fn(u8) -> bool, middle: impl Fn(u8) -> bool) -> bool {
    let b = s.as_bytes();
    match (b.first(), b.last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && b.iter().all(|c| middle(*c)),
        _ => false,
    }
}

fn lower_alnum(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_name_part(s: &str) -> bool {
    edges_and_middle(
        s,
        |c| c.is_ascii_alphanumeric(),
        |c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'),
    )
}

fn is_label_text(s: &str) -> bool {
    edges_and_middle(s, lower_alnum, |c| lower_alnum(c) || c == b'-')
}

fn is_subdomain_text(s: &str) -> bool {
    s.split('.').all(is_label_text)
}

/// A label key or annotation key: an optional prefix and a name.
pub fn qualified_name(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    let parts: Vec<&str> = s.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                out.extend(
                    dns1123_subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")),
                );
            }
            *name
        }
        _ => {
            let text = "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and \
                        must start and end with an alphanumeric character";
            out.push(
                regex_error(text, QUALIFIED_FMT, &["MyName", "my.name", "123-abc"])
                    + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
            );
            return out;
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        out.push(format!("name part {}", max_bytes(63)));
    }
    if !is_name_part(name) {
        let text = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                    with an alphanumeric character";
        let e = regex_error(text, QUALIFIED_FMT, &["MyName", "my.name", "123-abc"]);
        out.push(format!("name part {e}"));
    }
    out
}

/// A label value.
pub fn label_value(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > 63 {
        out.push(max_bytes(63));
    }
    if !s.is_empty() && !is_name_part(s) {
        let text = "a valid label must be an empty string or consist of alphanumeric characters, '-', \
                    '_' or '.', and must start and end with an alphanumeric character";
        out.push(regex_error(text, LABEL_VALUE_FMT, &["MyValue", "my_value", "12345"]));
    }
    out
}

/// RFC 1123 label: names of namespaces, containers.
pub fn dns1123_label(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > 63 {
        out.push(max_len(63));
    }
    if !is_label_text(s) {
        if is_subdomain_text(s) {
            out.push("must not contain dots".to_owned());
        } else {
            let text = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters \
                        or '-', and must start and end with an alphanumeric character";
            out.push(regex_error(text, LABEL_1123_FMT, &["my-name", "123-abc"]));
        }
    }
    out
}

/// RFC 1123 subdomain: names of most objects.
pub fn dns1123_subdomain(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > 253 {
        out.push(max_len(253));
    }
    if !is_subdomain_text(s) {
        let text = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
                    '-' or '.', and must start and end with an alphanumeric character";
        out.push(regex_error(text, SUBDOMAIN_1123_FMT, &["example.com"]));
    }
    out
}

/// RFC 1035 label.
pub fn dns1035_label(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > 63 {
        out.push(max_len(63));
    }
    if !(is_label_text(s) && s.as_bytes()[0].is_ascii_lowercase()) {
        let text = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
                    with an alphabetic character, and end with an alphanumeric character";
        out.push(regex_error(text, LABEL_1035_FMT, &["my-name", "abc-123"]));
    }
    out
}

/// A subdomain that may begin with `*.`.
pub fn wildcard_dns1123_subdomain(s: &str) -> Vec<String> {
    if s.strip_prefix("*.").is_some_and(is_subdomain_text) {
        return Vec::new();
    }
    let text = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, \
                which must consist of lower case alphanumeric characters, '-' or '.' and end with an \
                alphanumeric character";
    let regex = format!("\\*\\.{SUBDOMAIN_1123_FMT}");
    vec![regex_error(text, &regex, &["*.example.com"])]
}

/// A name of an environment variable under today's relaxed rule.
pub fn env_var_name(s: &str) -> Vec<String> {
    let good = !s.is_empty() && s.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=');
    if good {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than \
          '='"
    .to_owned()]
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > 253 {
        out.push(max_len(253));
    }
    let good = !s.is_empty()
        && s.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_'));
    if !good {
        let text = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        out.push(regex_error(text, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    if s == "." || s == ".." {
        out.push(format!("must not be '{s}'"));
    } else if s.starts_with("..") {
        out.push("must not start with '..'".to_owned());
    }
    out
}

/// An IANA service name: names of container and service ports.
pub fn port_name(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > 15 {
        out.push(max_len(15));
    }
    if !s.bytes().all(|c| lower_alnum(c) || c == b'-') || s.is_empty() {
        out.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !s.bytes().any(|c| c.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if s.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if s.starts_with('-') || s.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

/// A port number.
pub fn port_number(n: i64) -> Vec<String> {
    in_range(n, 1, 65535)
}

/// `must be between low and high, inclusive`.
pub fn in_range(n: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&n) {
        return Vec::new();
    }
    vec![format!("must be between {low} and {high}, inclusive")]
}

/// An IPv4 or IPv6 address in canonical Go terms (no leading zeros).
pub fn ip(s: &str) -> Vec<String> {
    if s.parse::<std::net::IpAddr>().is_ok() {
        return Vec::new();
    }
    vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
}

/// A network in CIDR form.
pub fn cidr(s: &str) -> Vec<String> {
    if parse_cidr(s).is_some() {
        return Vec::new();
    }
    vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
}

/// Address and prefix length of a CIDR.
pub fn parse_cidr(s: &str) -> Option<(std::net::IpAddr, u8)> {
    let (address, bits) = s.split_once('/')?;
    let address: std::net::IpAddr = address.parse().ok()?;
    if bits.is_empty() || bits.len() > 3 || !bits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let bits: u8 = bits.parse().ok()?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    (bits <= max).then_some((address, bits))
}

/// A path segment: what every object's name must at least be.
pub fn path_segment(s: &str) -> Vec<String> {
    if s == "." || s == ".." {
        return vec![format!("may not be '{s}'")];
    }
    let found = |c: char| s.contains(c).then(|| format!("may not contain '{c}'"));
    ['/', '%'].into_iter().filter_map(found).collect()
}

/// A search domain of resolv.conf: underscores are allowed.
pub fn dns_search(s: &str) -> Vec<String> {
    let part = |p: &str| {
        let inner = p.strip_prefix('_').unwrap_or(p);
        edges_and_middle(inner, lower_alnum, |c| lower_alnum(c) || matches!(c, b'-' | b'_'))
    };
    let mut out = Vec::new();
    if s.len() > 253 {
        out.push(max_len(253));
    }
    if !s.split('.').all(part) {
        let text = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
                    '_', '-' or '.', and must start and end with an alphanumeric character";
        let regex = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
        out.push(regex_error(text, regex, &["example.com"]));
    }
    out
}

/// `25%`.
pub fn percent(s: &str) -> Vec<String> {
    let digits = s.strip_suffix('%');
    if digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|c| c.is_ascii_digit())) {
        return Vec::new();
    }
    let text = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_error(text, "[0-9]+%", &["1%", "93%"])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(
            dns1123_label("A").join(""),
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
             must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used \
             for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert!(dns1123_label("a-b").is_empty());
        assert!(!dns1123_label("").is_empty());
        assert!(dns1035_label("1a")[0].contains("(e.g. 'my-name',  or 'abc-123', regex"));
        assert!(qualified_name("a/b/c")[0].ends_with("(e.g. 'example.com/MyName')"));
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
        assert!(qualified_name("-bad")[0].starts_with("name part must consist of"));
        assert!(qualified_name("k8s.io/a_b").is_empty());
        assert!(label_value("").is_empty() && !label_value("a b").is_empty());
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        assert!(wildcard_dns1123_subdomain("*.a.b").is_empty());
        assert_eq!(parse_cidr("10.0.0.0/33"), None);
        assert_eq!(ip("01.2.3.4").len(), 1);
    }
}
