//! Values with an own text form: times, quantities, base64, durations; each to its canonical text.

use crate::quantity::Quantity;
use crate::{duration, schema::Shape};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pintle_base::Wall;
use serde_json::Value;

const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
const RFC3339_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Text for one of these shapes in its canonical form, or Kubernetes' (Go's) complaint.
pub(super) fn from_text(shape: Shape, s: &str) -> Result<Value, String> {
    match shape {
        Shape::Quantity => {
            Quantity::try_parse(s.trim()).map(|q| q.canonical().into()).map_err(|e| e.to_string())
        }
        Shape::Time => time(s, RFC3339).map(|t| t.rfc3339().into()),
        Shape::MicroTime => time(s, RFC3339_MICRO).map(|t| t.rfc3339_micro().into()),
        Shape::Duration => match duration::parse(s) {
            Some(ns) => Ok(duration::format(ns).into()),
            None => Err(format!("time: invalid duration {}", crate::status::quote(s))),
        },
        Shape::Bytes => base64(s).map(Value::from),
        _ => Ok(Value::from(s)),
    }
}

/// Go's decoder skips line ends in base64 and refuses everything else that is foreign.
fn base64(s: &str) -> Result<String, String> {
    let clean: String;
    let text = if s.contains(['\r', '\n']) {
        clean = s.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        clean.as_str()
    } else {
        s
    };
    match STANDARD.decode(text) {
        Ok(bytes) if text.len() == s.len() && !bytes.is_empty() => Ok(s.to_owned()),
        Ok(bytes) => Ok(STANDARD.encode(bytes)),
        Err(e) => {
            let at = match e {
                base64::DecodeError::InvalidByte(i, _)
                | base64::DecodeError::InvalidLastSymbol(i, _) => i,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                    text.len() / 4 * 4
                }
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}

fn time(s: &str, layout: &str) -> Result<Wall, String> {
    if let Some(t) = Wall::parse_rfc3339(s) {
        return Ok(t);
    }
    let quoted = crate::status::quote(s);
    let (rest, element) = first_mismatch(s);
    if element.is_empty() {
        return Err(format!("parsing time {quoted}: day out of range"));
    }
    let rest = crate::status::quote(rest);
    Err(format!("parsing time {quoted} as \"{layout}\": cannot parse {rest} as \"{element}\""))
}

/// Where RFC 3339 first does not match: what is left of the text, and the layout's element.
fn first_mismatch(s: &str) -> (&str, &'static str) {
    const ELEMENTS: [(&str, usize); 11] = [
        ("2006", 4),
        ("-", 0),
        ("01", 2),
        ("-", 0),
        ("02", 2),
        ("T", 0),
        ("15", 2),
        (":", 0),
        ("04", 2),
        (":", 0),
        ("05", 2),
    ];
    let mut rest = s;
    for (element, digits) in ELEMENTS {
        let matched = if digits > 0 {
            (rest.len() >= digits && rest.as_bytes()[..digits].iter().all(u8::is_ascii_digit))
                .then_some(digits)
        } else {
            rest.starts_with(element).then_some(element.len())
        };
        match matched {
            Some(n) => rest = &rest[n..],
            None => return (rest, element),
        }
    }
    let fraction =
        rest.strip_prefix('.').map_or(rest, |f| f.trim_start_matches(|c: char| c.is_ascii_digit()));
    if fraction == "Z" { (fraction, "") } else { (fraction, "Z07:00") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_texts() {
        let e = |shape, s| from_text(shape, s).unwrap_err();
        assert_eq!(
            e(Shape::Time, "notatime"),
            "parsing time \"notatime\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"notatime\" as \"2006\""
        );
        assert!(e(Shape::Time, "2020-01-01").ends_with("cannot parse \"\" as \"T\""));
        assert!(e(Shape::MicroTime, "2020-01-01T00:00:00").contains(".000000Z07:00"));
        assert_eq!(e(Shape::Bytes, "!!"), "illegal base64 data at input byte 0");
        assert_eq!(from_text(Shape::Bytes, "YQ==\n"), Ok("YQ==".into()));
        assert_eq!(from_text(Shape::Duration, "90s"), Ok("1m30s".into()));
        assert_eq!(
            from_text(Shape::Time, "2020-01-01T01:00:00+01:00"),
            Ok("2020-01-01T00:00:00Z".into())
        );
    }
}
