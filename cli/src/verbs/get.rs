//! `pintle get` and `pintle describe`.

use super::resource::{request, targets};
use super::{connect, namespace, output};
use crate::api::Api;
use clap::ArgMatches;
use pintle_api::resources::{self, Resource};
use pintle_api::table::{self, Include};
use pintle_base::{Clock, Wall};
use pintle_reactor::RealClock;
use pintle_wire::msg::api::{EventType, Verb};
use serde_json::{Value, json};

/// `pintle get`.
pub fn get(m: &ArgMatches) -> Result<(), String> {
    let words: Vec<String> = m.get_many::<String>("what").into_iter().flatten().cloned().collect();
    let ns = if m.get_flag("all-namespaces") { String::new() } else { namespace(m) };
    let selector = m.get_one::<String>("selector").cloned();
    let mut api = connect(m)?;
    let wide = output(m) == Some("wide");
    let all = targets(&words)?;
    let one = matches!(all.as_slice(), [(_, Some(_))]);
    let several =
        all.iter().map(|(r, _)| r.plural).collect::<std::collections::BTreeSet<_>>().len() > 1;
    if m.get_flag("watch") {
        let [(resource, name)] = all.as_slice() else {
            return Err("--watch takes one resource".into());
        };
        return watch(&mut api, resource, &ns, name.as_deref(), selector, output(m));
    }
    let mut shown: Vec<Value> = Vec::new();
    let mut tables: Vec<(&Resource, Vec<Value>)> = Vec::new();
    for (resource, name) in all {
        let items = match name {
            Some(n) => {
                vec![api.call(request(Verb::Get, resource, &ns, &n)).map_err(|e| e.to_string())?]
            }
            None => {
                let mut q = request(Verb::List, resource, &ns, "");
                q.options.label_selector.clone_from(&selector);
                let mut list = api.call(q).map_err(|e| e.to_string())?;
                complete(&mut list, resource)
            }
        };
        if matches!(output(m), Some("json" | "yaml" | "name")) {
            shown.extend(items);
        } else {
            match tables.last_mut().filter(|(r, _)| r.plural == resource.plural) {
                Some((_, rows)) => rows.extend(items),
                None => tables.push((resource, items)),
            }
        }
    }
    match output(m) {
        Some(format @ ("json" | "yaml")) => print_objects(format, shown, one),
        Some("name") => {
            for o in &shown {
                println!("{}/{}", kind_of(o), o["metadata"]["name"].as_str().unwrap_or_default());
            }
            Ok(())
        }
        _ => {
            let nothing = tables.iter().all(|(_, rows)| rows.is_empty());
            if nothing {
                let place =
                    if ns.is_empty() { String::new() } else { format!(" in namespace {ns}") };
                eprintln!("No resources found{place}.");
            }
            for (resource, rows) in tables.iter().filter(|(_, rows)| !rows.is_empty()) {
                print_table(resource, rows, wide, ns.is_empty() && resource.namespaced, several);
            }
            Ok(())
        }
    }
}

fn kind_of(o: &Value) -> String {
    let found =
        resources::all().find(|r| r.kind == o["kind"] && r.api_version() == o["apiVersion"]);
    found.map_or_else(String::new, |r| {
        if r.group.is_empty() { r.singular.into() } else { format!("{}.{}", r.singular, r.group) }
    })
}

// Items of a list lack kind and version.
fn complete(list: &mut Value, resource: &Resource) -> Vec<Value> {
    let mut items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    for o in &mut items {
        o["kind"] = json!(resource.kind);
        o["apiVersion"] = json!(resource.api_version());
    }
    items
}

fn print_objects(format: &str, mut objects: Vec<Value>, one: bool) -> Result<(), String> {
    let value = if one && objects.len() == 1 {
        objects.remove(0)
    } else {
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects})
    };
    let text = if format == "json" {
        serde_json::to_string_pretty(&value).map_err(|e| e.to_string())? + "\n"
    } else {
        serde_yaml_ng::to_string(&value).map_err(|e| e.to_string())?
    };
    print!("{text}");
    Ok(())
}

fn cells(resource: &Resource, object: &Value, now: Wall) -> Vec<String> {
    let row = table::row(&resource.gvk(), object, now, Include::None);
    let text = |v: &Value| match v {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    row["cells"].as_array().into_iter().flatten().map(text).collect()
}

fn print_table(
    resource: &Resource,
    objects: &[Value],
    wide: bool,
    with_namespace: bool,
    with_kind: bool,
) {
    let now = RealClock.now().wall;
    let columns = table::columns(&resource.gvk());
    let shown: Vec<usize> = columns
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, c)| wide || c["priority"].as_i64().unwrap_or(0) == 0)
        .map(|(i, _)| i)
        .collect();
    let header = |i: &usize| columns[*i]["name"].as_str().unwrap_or_default().to_uppercase();
    let mut rows: Vec<Vec<String>> = vec![shown.iter().map(header).collect()];
    for o in objects {
        let all = cells(resource, o, now);
        let mut row: Vec<String> =
            shown.iter().map(|i| all.get(*i).cloned().unwrap_or_default()).collect();
        if with_kind && let Some(first) = row.first_mut() {
            *first = format!("{}/{first}", kind_of(o));
        }
        rows.push(row);
    }
    if with_namespace {
        for (i, row) in rows.iter_mut().enumerate() {
            let cell = match i.checked_sub(1).and_then(|i| objects.get(i)) {
                None => "NAMESPACE".to_owned(),
                Some(o) => o["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
            };
            row.insert(0, cell);
        }
    }
    print_aligned(&rows);
}

/// Columns padded to their widest cell, three spaces apart.
pub fn print_aligned(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0))
        .collect();
    for row in rows {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        println!("{}", line.join("   ").trim_end());
    }
}

fn watch(
    api: &mut Api,
    resource: &'static Resource,
    ns: &str,
    name: Option<&str>,
    selector: Option<String>,
    format: Option<&str>,
) -> Result<(), String> {
    let mut q = request(Verb::Watch, resource, ns, "");
    q.options.label_selector = selector;
    q.options.field_selector = name.map(|n| format!("metadata.name={n}"));
    let stream = api.watch(q).map_err(|e| e.to_string())?;
    let columns = table::columns(&resource.gvk());
    let names: Vec<String> = columns
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| c["name"].as_str().unwrap_or_default().to_uppercase())
        .collect();
    let primary: Vec<usize> = columns
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, c)| c["priority"].as_i64().unwrap_or(0) == 0)
        .map(|(i, _)| i)
        .collect();
    let pick = |cells: &[String]| -> Vec<String> {
        primary
            .iter()
            .map(|i| format!("{:<20}", cells.get(*i).cloned().unwrap_or_default()))
            .collect()
    };
    if format.is_none() {
        println!("{}", pick(&names).join(" ").trim_end());
    }
    while let Some(event) = api.next_event(stream, None).map_err(|e| e.to_string())? {
        match (event.kind, format) {
            (EventType::Bookmark, _) => {}
            (_, Some("json")) => println!("{}", event.object),
            (_, Some("yaml")) => print!(
                "---\n{}",
                serde_yaml_ng::to_string(&event.object).map_err(|e| e.to_string())?
            ),
            _ => println!(
                "{}",
                pick(&cells(resource, &event.object, RealClock.now().wall)).join(" ").trim_end()
            ),
        }
    }
    Ok(())
}

/// `pintle describe`: the object as YAML without what only machines read, and its events.
pub fn describe(m: &ArgMatches) -> Result<(), String> {
    let words: Vec<String> = m.get_many::<String>("what").into_iter().flatten().cloned().collect();
    let ns = namespace(m);
    let mut api = connect(m)?;
    for (resource, name) in targets(&words)? {
        let names = match name {
            Some(n) => vec![n],
            None => {
                let mut list =
                    api.call(request(Verb::List, resource, &ns, "")).map_err(|e| e.to_string())?;
                let items = complete(&mut list, resource);
                items
                    .iter()
                    .map(|o| o["metadata"]["name"].as_str().unwrap_or_default().to_owned())
                    .collect()
            }
        };
        for n in names {
            let object =
                api.call(request(Verb::Get, resource, &ns, &n)).map_err(|e| e.to_string())?;
            describe_one(&mut api, resource, object)?;
        }
    }
    Ok(())
}

fn describe_one(api: &mut Api, resource: &Resource, mut object: Value) -> Result<(), String> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let ns = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    if let Some(meta) = object["metadata"].as_object_mut() {
        meta.remove("managedFields");
        if let Some(a) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            a.remove(super::apply::LAST_APPLIED);
        }
    }
    if resource.kind == "Secret" {
        for (_, v) in object["data"].as_object_mut().into_iter().flatten() {
            *v = json!(format!("{} characters of base64", v.as_str().map_or(0, str::len)));
        }
    }
    print!("{}", serde_yaml_ng::to_string(&object).map_err(|e| e.to_string())?);
    let mut q = pintle_wire::msg::api::Request::new(Verb::List, "", "v1", "events");
    q.namespace = ns;
    q.options.field_selector = Some(format!("involvedObject.uid={uid}"));
    let events = api.call(q).map_err(|e| e.to_string())?;
    let mut rows =
        vec![["TYPE", "REASON", "LAST SEEN", "FROM", "MESSAGE"].map(str::to_owned).to_vec()];
    for e in events["items"].as_array().into_iter().flatten() {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let last = [&e["lastTimestamp"], &e["eventTime"], &e["firstTimestamp"]];
        let last = last.iter().find_map(|t| t.as_str()).unwrap_or_default().to_owned();
        rows.push(vec![
            text(&e["type"]),
            text(&e["reason"]),
            last,
            text(&e["source"]["component"]),
            text(&e["message"]),
        ]);
    }
    if rows.len() == 1 {
        println!("events: none");
    } else {
        println!("events:");
        print_aligned(&rows);
    }
    println!();
    Ok(())
}
