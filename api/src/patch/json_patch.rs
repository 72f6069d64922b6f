//! RFC 6902, with the index -1 for the last item that Kubernetes' library allows.

use crate::{Status, limits};
use serde_json::Value;

/// Kubernetes hides the reason behind this text.
fn rejected() -> Status {
    let message = "the server rejected our request due to an error in our request";
    let mut s = Status::plain(422, "Invalid", message);
    s.details = Some(Box::default());
    s
}

pub(super) fn apply(doc: &Value, operations: &Value) -> Result<Value, Status> {
    let Value::Array(operations) = operations else {
        let what = super::show::json_kind(operations);
        return Err(Status::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {what} into Go value of type jsonpatch.Patch"
        )));
    };
    let (count, max) = (operations.len(), limits::JSON_PATCH_OPERATIONS_MAX);
    if count > max {
        return Err(Status::too_large(format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {max}, got {count}"
        )));
    }
    let mut out = doc.clone();
    for operation in operations {
        step(&mut out, operation).ok_or_else(rejected)?;
    }
    Ok(out)
}

/// One operation; `None` when it cannot be done.
fn step(doc: &mut Value, operation: &Value) -> Option<()> {
    let text = |k: &str| operation.get(k).and_then(Value::as_str);
    let path = pointer(text("path")?)?;
    let value = || operation.get("value").cloned();
    match text("op")? {
        "add" => add(doc, &path, value()?),
        "remove" => remove(doc, &path).map(drop),
        "replace" => {
            if path.is_empty() {
                *doc = value()?;
                return Some(());
            }
            *find_mut(doc, &path)? = value()?;
            Some(())
        }
        "move" => {
            let from = pointer(text("from")?)?;
            // A value cannot move into itself.
            if path.len() > from.len() && path.starts_with(&from) {
                return None;
            }
            let moved = remove(doc, &from)?;
            add(doc, &path, moved)
        }
        "copy" => {
            let from = pointer(text("from")?)?;
            let copied = find_mut(doc, &from)?.clone();
            add(doc, &path, copied)
        }
        "test" => {
            let wanted = operation.get("value").cloned().unwrap_or(Value::Null);
            match find_mut(doc, &path) {
                Some(v) => equal(v, &wanted).then_some(()),
                None => wanted.is_null().then_some(()),
            }
        }
        _ => None,
    }
}

/// Numbers are equal by value.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| equal(v, w)))
        }
        _ => a == b,
    }
}

fn pointer(s: &str) -> Option<Vec<String>> {
    if s.is_empty() {
        return Some(Vec::new());
    }
    let rest = s.strip_prefix('/')?;
    Some(rest.split('/').map(|t| t.replace("~1", "/").replace("~0", "~")).collect())
}

/// The index of an existing item; negative ones count from the end.
fn index(token: &str, len: usize) -> Option<usize> {
    let i: i64 = token.parse().ok()?;
    let len = i64::try_from(len).ok()?;
    let i = if i < 0 { i + len } else { i };
    (0..len).contains(&i).then_some(i as usize)
}

fn find_mut<'a>(doc: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(doc, |v, token| match v {
        Value::Object(m) => m.get_mut(token),
        Value::Array(a) => {
            let i = index(token, a.len())?;
            a.get_mut(i)
        }
        _ => None,
    })
}

fn add(doc: &mut Value, path: &[String], value: Value) -> Option<()> {
    let Some((last, front)) = path.split_last() else {
        *doc = value;
        return Some(());
    };
    match find_mut(doc, front)? {
        Value::Object(m) => {
            m.insert(last.clone(), value);
        }
        Value::Array(a) => {
            let at = if last == "-" { a.len() } else { index(last, a.len() + 1)? };
            a.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(doc: &mut Value, path: &[String]) -> Option<Value> {
    let (last, front) = path.split_last()?;
    match find_mut(doc, front)? {
        Value::Object(m) => m.remove(last),
        Value::Array(a) => {
            let i = index(last, a.len())?;
            Some(a.remove(i))
        }
        _ => None,
    }
}
