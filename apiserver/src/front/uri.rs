//! Percent encoding and query strings, with the tolerance of Go's net/url, which clients are written against.

/// Decodes `%41` escapes. `None` when an escape is broken. Bytes that are not UTF-8 become U+FFFD.
pub fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|b| *b == b'%' || (plus_is_space && *b == b'+')) {
        return Some(text.into());
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'%' => {
                let high = (*bytes.get(i + 1)? as char).to_digit(16)?;
                let low = (*bytes.get(i + 2)? as char).to_digit(16)?;
                out.push((high * 16 + low) as u8);
                i += 3;
            }
            b'+' if plus_is_space => {
                out.push(b' ');
                i += 1;
            }
            b => {
                out.push(b);
                i += 1;
            }
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

/// The parameters of a query string in their order. Pairs that cannot be decoded are left out, as Go does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// From the raw text after the question mark.
    pub fn parse(raw: &str) -> Query {
        let pairs = raw.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        Query(
            pairs
                .filter_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((decode(key, true)?, decode(value, true)?))
                })
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A flag as Kubernetes reads it: absent, `0` and `false` are false, everything else (also nothing) is true.
    pub fn flag(&self, key: &str) -> bool {
        self.optional_flag(key).unwrap_or(false)
    }

    /// Like `flag`, absent = `None`.
    pub fn optional_flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(|v| !(v == "0" || v.eq_ignore_ascii_case("false")))
    }

    /// A decimal number.
    ///
    /// # Errors
    /// The text of Go's strconv, which Kubernetes passes on.
    pub fn number(&self, key: &str) -> Result<Option<i64>, String> {
        let Some(text) = self.get(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|e: std::num::ParseIntError| {
            use std::num::IntErrorKind::{NegOverflow, PosOverflow};
            let why = match e.kind() {
                PosOverflow | NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            format!("strconv.ParseInt: parsing {text:?}: {why}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_is_that_of_go() {
        assert_eq!(decode("a%2Fb+c", false).as_deref(), Some("a/b+c"));
        assert_eq!(decode("a%2fb+c", true).as_deref(), Some("a/b c"));
        assert_eq!(decode("%zz", false), None);
        assert_eq!(decode("%4", false), None);
        assert_eq!(decode("%ff", false).as_deref(), Some("\u{fffd}"));
    }

    #[test]
    fn queries_keep_order_and_drop_what_is_broken() {
        let q = Query::parse("command=sh&command=-c&labelSelector=%zz&watch=maybe&x&limit=1&n=abc");
        assert_eq!(q.all("command").collect::<Vec<_>>(), ["sh", "-c"]);
        assert_eq!(q.get("labelSelector"), None);
        assert!(q.flag("watch") && q.flag("x") && !q.flag("absent"));
        assert_eq!(q.number("limit"), Ok(Some(1)));
        assert_eq!(q.number("n"), Err("strconv.ParseInt: parsing \"abc\": invalid syntax".into()));
    }
}
