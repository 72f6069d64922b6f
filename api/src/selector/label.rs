//! Label selectors, with the grammar and the complaints of apimachinery's `labels.Parse`.

use crate::status::{FieldError, Status};
use crate::validate::text;
use serde_json::{Map, Value};
use std::fmt;

/// A compiled label selector: all requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what; sorted and unique.
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `k=v`, `k in (v)`.
    In,
    /// `k!=v`, `k notin (v)`: also true when the label is absent.
    NotIn,
    /// `k`.
    Exists,
    /// `!k`.
    DoesNotExist,
    /// `k>1`.
    GreaterThan,
    /// `k<1`.
    LessThan,
}

impl Requirement {
    fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        let value = labels.and_then(|l| l.get(&self.key)).and_then(Value::as_str);
        let among = |v: &str| self.values.iter().any(|w| w == v);
        let number = |s: &str| s.parse::<i64>().ok();
        let limit = || self.values.first().and_then(|v| number(v));
        match self.operator {
            Operator::In => value.is_some_and(among),
            Operator::NotIn => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => {
                value.and_then(number).zip(limit()).is_some_and(|(v, l)| v > l)
            }
            Operator::LessThan => value.and_then(number).zip(limit()).is_some_and(|(v, l)| v < l),
        }
    }
}

impl Labels {
    /// Selects everything.
    pub const fn everything() -> Labels {
        Labels { requirements: Vec::new(), nothing: false }
    }

    /// Selects nothing.
    pub const fn nothing() -> Labels {
        Labels { requirements: Vec::new(), nothing: true }
    }

    /// From the text of a `labelSelector` query (`a=b,c!=d,e in (f,g),!h`); empty text selects everything.
    pub fn parse(s: &str) -> Result<Labels, Status> {
        parse(s).map_err(Status::bad_request)
    }

    /// From a LabelSelector object; absent (null) selects nothing, empty everything.
    pub fn of(selector: &Value) -> Result<Labels, Status> {
        let Some(map) = selector.as_object() else { return Ok(Labels::nothing()) };
        let mut requirements = Vec::new();
        for (k, v) in map.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let values = vec![v.as_str().unwrap_or("").to_owned()];
            requirements.push(Requirement { key: k.clone(), operator: Operator::In, values });
        }
        for e in map.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let operator = match e["operator"].as_str().unwrap_or("") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    let what = format!("\"{other}\" is not a valid label selector operator");
                    return Err(Status::bad_request(what));
                }
            };
            let key = e["key"].as_str().unwrap_or("").to_owned();
            let mut values: Vec<String> = e["values"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect();
            values.sort();
            values.dedup();
            requirements.push(Requirement { key, operator, values });
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Labels { requirements, nothing: false })
    }

    /// From a plain map (`spec.selector` of a Service or ReplicationController): all must be equal.
    pub fn of_map(map: &Map<String, Value>) -> Labels {
        let requirement = |(k, v): (&String, &Value)| Requirement {
            key: k.clone(),
            operator: Operator::In,
            values: vec![v.as_str().unwrap_or("").to_owned()],
        };
        Labels { requirements: map.iter().map(requirement).collect(), nothing: false }
    }

    /// Whether `labels` are selected.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// True when it selects everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// What must hold.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.join(",");
        match (self.operator, self.values.len()) {
            (Operator::In, 1) => write!(f, "{}={values}", self.key),
            (Operator::In, _) => write!(f, "{} in ({values})", self.key),
            (Operator::NotIn, 1) => write!(f, "{}!={values}", self.key),
            (Operator::NotIn, _) => write!(f, "{} notin ({values})", self.key),
            (Operator::Exists, _) => f.write_str(&self.key),
            (Operator::DoesNotExist, _) => write!(f, "!{}", self.key),
            (Operator::GreaterThan, _) => write!(f, "{}>{values}", self.key),
            (Operator::LessThan, _) => write!(f, "{}<{values}", self.key),
        }
    }
}

/// The text that parses to the same selector; empty for everything.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{r}")?;
        }
        Ok(())
    }
}

/// Tokens: the text of a symbol or an identifier; the end is empty.
struct Lexer<'a> {
    rest: &'a str,
}

const SYMBOLS: &str = "=!(),><";

impl<'a> Lexer<'a> {
    fn peek(&self) -> &'a str {
        Lexer { rest: self.rest }.next()
    }

    fn next(&mut self) -> &'a str {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let len = match self.rest.as_bytes() {
            [] => 0,
            [b'=', b'=', ..] | [b'!', b'=', ..] => 2,
            [c, ..] if SYMBOLS.as_bytes().contains(c) => 1,
            _ => self
                .rest
                .find(|c: char| SYMBOLS.contains(c) || matches!(c, ' ' | '\t' | '\r' | '\n'))
                .unwrap_or(self.rest.len()),
        };
        let (token, rest) = self.rest.split_at(len);
        self.rest = rest;
        token
    }
}

fn is_identifier(token: &str) -> bool {
    token.chars().next().is_some_and(|c| !SYMBOLS.contains(c))
}

fn parse(s: &str) -> Result<Labels, String> {
    let mut lexer = Lexer { rest: s };
    let mut requirements = Vec::new();
    loop {
        let token = lexer.peek();
        if token.is_empty() {
            break;
        }
        if !is_identifier(token) && token != "!" {
            return Err(format!("found '{token}', expected: !, identifier, or 'end of string'"));
        }
        let r = requirement(&mut lexer);
        requirements.push(r.map_err(|e| format!("unable to parse requirement: {e}"))?);
        match lexer.next() {
            "" => break,
            "," => {
                let after = lexer.peek();
                if !is_identifier(after) && after != "!" {
                    return Err(format!("found '{after}', expected: identifier after ','"));
                }
            }
            other => {
                return Err(format!("found '{other}', expected: ',' or 'end of string'"));
            }
        }
    }
    requirements.sort_by(|a: &Requirement, b| a.key.cmp(&b.key));
    Ok(Labels { requirements, nothing: false })
}

fn requirement(lexer: &mut Lexer<'_>) -> Result<Requirement, String> {
    let mut token = lexer.next();
    let absent = token == "!";
    if absent {
        token = lexer.next();
    }
    if !is_identifier(token) {
        return Err(format!("found '{token}', expected: identifier"));
    }
    let key = token.to_owned();
    let complaints = text::qualified_name(&key);
    if !complaints.is_empty() {
        return Err(FieldError::invalid_str("<nil>", &key, &complaints.join("; ")).to_string());
    }
    if absent || matches!(lexer.peek(), "" | ",") {
        let operator = if absent { Operator::DoesNotExist } else { Operator::Exists };
        return Ok(Requirement { key, operator, values: Vec::new() });
    }
    let (operator, mut values) = match lexer.next() {
        "=" | "==" => (Operator::In, vec![exact_value(lexer)?]),
        "!=" => (Operator::NotIn, vec![exact_value(lexer)?]),
        ">" => (Operator::GreaterThan, vec![exact_value(lexer)?]),
        "<" => (Operator::LessThan, vec![exact_value(lexer)?]),
        "in" => (Operator::In, values(lexer)?),
        "notin" => (Operator::NotIn, values(lexer)?),
        other => {
            return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt"));
        }
    };
    values.sort();
    values.dedup();
    check_values(&key, operator, &values)?;
    Ok(Requirement { key, operator, values })
}

fn check_values(key: &str, operator: Operator, values: &[String]) -> Result<(), String> {
    let mut errors = Vec::new();
    if matches!(operator, Operator::In | Operator::NotIn) && values.is_empty() {
        let detail = "for 'in', 'notin' operators, values set can't be empty";
        errors.push(FieldError::invalid_shown("values", "[]", detail));
    }
    for (i, v) in values.iter().enumerate() {
        let ordered = matches!(operator, Operator::GreaterThan | Operator::LessThan);
        if ordered && v.parse::<i64>().is_err() {
            let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
            errors.push(FieldError::invalid_str(format!("values[{i}]"), v, detail));
        }
        let complaints = text::label_value(v);
        if !complaints.is_empty() {
            let field = format!("values[{i}][{key}]");
            errors.push(FieldError::invalid_str(field, v, &complaints.join("; ")));
        }
    }
    let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
    match texts.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn exact_value(lexer: &mut Lexer<'_>) -> Result<String, String> {
    match lexer.peek() {
        "" | "," => Ok(String::new()),
        token if is_identifier(token) => Ok(lexer.next().to_owned()),
        token => Err(format!("found '{token}', expected: identifier")),
    }
}

/// `(a,b)`; empty items are empty values.
fn values(lexer: &mut Lexer<'_>) -> Result<Vec<String>, String> {
    let open = lexer.next();
    if open != "(" {
        return Err(format!("found '{open}' expected: '('"));
    }
    let first = lexer.peek();
    if first == ")" {
        lexer.next();
        return Ok(vec![String::new()]);
    }
    if !is_identifier(first) && first != "," {
        return Err(format!("found '{first}', expected: ',', ')' or identifier"));
    }
    let mut out = Vec::new();
    loop {
        // An item, which may be empty, and then a comma or the end.
        if is_identifier(lexer.peek()) {
            out.push(lexer.next().to_owned());
        } else {
            out.push(String::new());
        }
        match lexer.next() {
            "," => {}
            ")" => return Ok(out),
            other => return Err(format!("found '{other}', expected: ',' or ')'")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_base::Prng;
    use serde_json::json;

    fn check(selector: &str, labels: Value, selected: bool) {
        let s = Labels::parse(selector).unwrap();
        assert_eq!(s.matches(labels.as_object()), selected, "{selector} {labels}");
    }

    #[test]
    fn matches() {
        let e = json!({"e": "x", "t": "1"});
        check("", e.clone(), true);
        check("e=x", e.clone(), true);
        check("e==y", e.clone(), false);
        check("e!=x", json!({}), true);
        check("e in (x, y)", e.clone(), true);
        check("e notin (x,y)", json!({}), true);
        check("!e", e.clone(), false);
        check("e,t", e.clone(), true);
        check("t>0,t<2", e.clone(), true);
        check("t>1", e.clone(), false);
        check("e=", json!({"e": ""}), true);
        check("in in (in)", json!({"in": "in"}), true);
        check("a in (,x)", json!({"a": ""}), true);
        check("a in ()", json!({"a": ""}), true);
    }

    #[test]
    fn refusals_in_kubernetes_words() {
        for (s, message) in [
            ("e in (x", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("=x", "found '=', expected: !, identifier, or 'end of string'"),
            ("e=x=y", "found '=', expected: ',' or 'end of string'"),
            ("e=bad value", "found 'value', expected: ',' or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
        ] {
            assert_eq!(Labels::parse(s).unwrap_err().message, message, "{s}");
        }
        let e = Labels::parse("-bad=x").unwrap_err().message;
        assert!(
            e.starts_with(
                "unable to parse requirement: <nil>: Invalid value: \"-bad\": name part must"
            ),
            "{e}"
        );
    }

    #[test]
    fn objects() {
        let s = Labels::of(
            &json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}),
        );
        let s = s.unwrap();
        assert_eq!(s.to_string(), "a=b,c");
        assert!(s.matches(json!({"a": "b", "c": ""}).as_object()));
        assert!(!Labels::of(&Value::Null).unwrap().matches(None));
        assert!(Labels::of(&json!({})).unwrap().is_everything());
        assert!(Labels::of(&json!({"matchExpressions": [{"operator": "X"}]})).is_err());
    }

    #[test]
    fn printing_and_parsing_agree_and_nothing_panics() {
        let mut p = Prng::new(5);
        for _ in 0..50_000 {
            let n = p.below(14);
            let s: String =
                (0..n).map(|_| char::from(b"ab=!(),>< in1"[p.below(13) as usize])).collect();
            if let Ok(l) = Labels::parse(&s) {
                let again = Labels::parse(&l.to_string());
                assert_eq!(again.as_ref(), Ok(&l), "{s} {l}");
            }
        }
    }
}
