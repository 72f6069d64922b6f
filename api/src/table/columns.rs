//! Column definitions, from `api/facts/columns.txt`.

use crate::Gvk;
use serde_json::{Value, json};

const FACTS: &str = include_str!("../../facts/columns.txt");

/// `columnDefinitions` of a kind. Kinds without columns of their own have Name and Created At.
pub fn columns(gvk: &Gvk<'_>) -> Value {
    let own_group = if gvk.group == "events.k8s.io" { "" } else { gvk.group };
    let own = section(own_group, gvk.kind);
    let lines = if own.is_empty() { section("", "") } else { own };
    Value::Array(lines.into_iter().filter_map(column).collect())
}

fn section(group: &str, kind: &str) -> Vec<&'static str> {
    let dash = |s: &str| if s.is_empty() { "-".to_owned() } else { s.to_owned() };
    let head = format!("kind {} {}", dash(group), dash(kind));
    let mut lines = FACTS.lines().skip_while(|l| *l != head);
    lines.next();
    lines.take_while(|l| l.starts_with(' ')).collect()
}

/// ` NAME | TYPE | FORMAT | PRIORITY | DESCRIPTION`.
fn column(line: &str) -> Option<Value> {
    let mut parts = line.trim_start().splitn(5, " | ");
    let (name, kind, format) = (parts.next()?, parts.next()?, parts.next()?);
    let (priority, description) = (parts.next()?, parts.next()?);
    let description = match description.strip_prefix('=') {
        Some(key) => {
            let head = format!("text {key} ");
            FACTS.lines().find_map(|l| l.strip_prefix(&head))?
        }
        None => description,
    };
    Some(json!({
        "name": name,
        "type": kind,
        "format": if format == "-" { "" } else { format },
        "description": description.replace("\\n", "\n").replace("\\\\", "\\"),
        "priority": priority.parse::<i32>().ok()?,
    }))
}
