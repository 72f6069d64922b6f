//! `gen-schema`: api/facts/schema.txt to api/src/schema/table.rs.
//!
//! The table is flat arrays of numbers and one text, without pointers, so that it lies in read-only pages
//! that all daemons share and costs nothing at start. api/src/schema/mod.rs reads it and documents the rows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Writes the table, or with `check` fails when the one in the tree differs.
pub fn generate(root: &Path, check: bool) -> Result<(), String> {
    let source = root.join("api/facts/schema.txt");
    let target = root.join("api/src/schema/table.rs");
    let text = std::fs::read_to_string(&source).map_err(|e| format!("read {source:?}: {e}"))?;
    let table = build(&text)?;
    if check {
        let there =
            std::fs::read_to_string(&target).map_err(|e| format!("read {target:?}: {e}"))?;
        if there != table {
            return Err("api/src/schema/table.rs is stale: run cargo xtask gen-schema".to_owned());
        }
        return Ok(());
    }
    std::fs::write(&target, table).map_err(|e| format!("write {target:?}: {e}"))
}

struct Def<'a> {
    name: &'a str,
    attrs: Vec<&'a str>,
    gvks: Vec<&'a str>,
    embeds: Vec<(&'a str, u16)>,
    fields: Vec<(&'a str, &'a str, Vec<&'a str>)>,
}

fn parse(text: &str) -> Result<Vec<Def<'_>>, String> {
    let mut defs: Vec<Def> = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let at = || format!("schema.txt:{}", n + 1);
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let mut words = line.split_whitespace();
        let first = words.next().ok_or_else(at)?;
        if !line.starts_with(' ') {
            let name = words.next().ok_or_else(at)?;
            let attrs = words.collect();
            defs.push(Def { name, attrs, gvks: vec![], embeds: vec![], fields: vec![] });
            continue;
        }
        let def = defs.last_mut().ok_or_else(at)?;
        let second = words.next().ok_or_else(at)?;
        let rest: Vec<&str> = words.collect();
        match first {
            "gvk" => def.gvks.push(second),
            "embed" => {
                let number = rest.first().and_then(|w| w.strip_prefix("pb=")).ok_or_else(at)?;
                def.embeds.push((second, number.parse().map_err(|_| at())?));
            }
            _ => def.fields.push((first, second, rest)),
        }
    }
    defs.sort_by_key(|d| d.name);
    Ok(defs)
}

/// Interned strings, string lists, types and facts, each by its number.
struct Tables<'a> {
    strings: BTreeMap<&'a str, u16>,
    string_order: Vec<&'a str>,
    list_index: BTreeMap<Vec<u16>, u16>,
    lists: Vec<u16>,
    types: Vec<[u16; 2]>,
    facts: Vec<[u16; 5]>,
    def_index: BTreeMap<&'a str, u16>,
}

impl<'a> Tables<'a> {
    fn string(&mut self, s: &'a str) -> u16 {
        if let Some(i) = self.strings.get(s) {
            return *i;
        }
        let i = self.string_order.len() as u16;
        self.string_order.push(s);
        self.strings.insert(s, i);
        i
    }

    fn list(&mut self, items: impl Iterator<Item = &'a str>) -> u16 {
        let ids: Vec<u16> = items.map(|s| self.string(s)).collect();
        if let Some(i) = self.list_index.get(&ids) {
            return *i;
        }
        let i = self.lists.len() as u16;
        self.lists.push(ids.len() as u16);
        self.lists.extend(&ids);
        self.list_index.insert(ids, i);
        i
    }

    fn type_row(&mut self, row: [u16; 2]) -> u16 {
        let at = self.types.iter().position(|r| *r == row).unwrap_or_else(|| {
            self.types.push(row);
            self.types.len() - 1
        });
        at as u16
    }

    fn parse_type(&mut self, t: &'a str) -> Result<u16, String> {
        const SCALARS: [&str; 18] = [
            "any:JSON",
            "string",
            "bool",
            "int32",
            "int64",
            "double",
            "bytes",
            "quantity",
            "time",
            "microtime",
            "intOrString",
            "raw",
            "fieldsV1",
            "duration",
            "object",
            "any:JSONSchemaPropsOrArray",
            "any:JSONSchemaPropsOrBool",
            "any:JSONSchemaPropsOrStringArray",
        ];
        if let Some(k) = SCALARS.iter().position(|s| *s == t) {
            return Ok(self.type_row([k as u16, 0]));
        }
        let row = if let Some(inner) = t.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            [21, self.parse_type(inner)?]
        } else if let Some(inner) = t.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            [22, self.parse_type(inner)?]
        } else {
            [20, *self.def_index.get(t).ok_or_else(|| format!("unknown type {t}"))?]
        };
        Ok(self.type_row(row))
    }

    /// Facts beside the type: flags, keys, merge key, enum, go name; and the protobuf number.
    fn parse_facts(&mut self, words: &[&'a str]) -> Result<(u16, u16), String> {
        let (mut row, mut number) = ([0u16; 5], 0u16);
        for w in words {
            let (key, value) = w.split_once('=').unwrap_or((w, ""));
            match (key, value) {
                ("pb", n) => number = n.parse().map_err(|_| format!("bad number {n}"))?,
                ("req", _) => row[0] |= 1,
                ("ptr", _) => row[0] |= 1 << 1,
                ("always", _) => row[0] |= 2 << 1,
                ("zero", _) => row[0] |= 3 << 1,
                ("ptrnull", _) => row[0] |= 4 << 1,
                ("list", "atomic") => row[0] |= 1 << 4,
                ("list", "set") => row[0] |= 2 << 4,
                ("list", "map") => row[0] |= 3 << 4,
                ("patch", p) => {
                    for s in p.split(',') {
                        row[0] |= match s {
                            "merge" => 1 << 6,
                            "retainKeys" => 1 << 7,
                            "replace" => 1 << 8,
                            _ => return Err(format!("unknown patch strategy {s}")),
                        };
                    }
                }
                ("map", "atomic") => row[0] |= 1 << 9,
                ("map", "granular") => row[0] |= 1 << 10,
                ("keys", k) => row[1] = self.list(k.split(',')),
                ("mergeKey", k) => row[2] = self.string(k),
                ("enum", e) => row[3] = self.list(e.split(',')),
                ("go", g) => row[4] = self.string(g),
                _ => return Err(format!("unknown fact {w}")),
            }
        }
        let at = self.facts.iter().position(|r| *r == row).unwrap_or_else(|| {
            self.facts.push(row);
            self.facts.len() - 1
        });
        Ok((at as u16, number))
    }
}

fn build(text: &str) -> Result<String, String> {
    let defs = parse(text)?;
    let def_index = defs.iter().enumerate().map(|(i, d)| (d.name, i as u16)).collect();
    let mut t = Tables {
        strings: BTreeMap::new(),
        string_order: Vec::new(),
        list_index: BTreeMap::new(),
        lists: Vec::new(),
        types: Vec::new(),
        facts: Vec::new(),
        def_index,
    };
    t.string("");
    t.list(std::iter::empty());
    let (mut def_rows, mut fields, mut embeds, mut gvks) = (vec![], vec![], vec![], vec![]);
    for (i, d) in defs.iter().enumerate() {
        let (first_field, first_embed) = (fields.len() / 4, embeds.len() / 2);
        let mut sorted = d.fields.clone();
        sorted.sort_by_key(|f| f.0);
        for (name, ty, words) in sorted {
            let (facts, number) =
                t.parse_facts(&words).map_err(|e| format!("{}.{name}: {e}", d.name))?;
            let ty = t.parse_type(ty).map_err(|e| format!("{}.{name}: {e}", d.name))?;
            fields.extend([t.string(name), ty, facts, number]);
        }
        for (name, number) in &d.embeds {
            let inner = t.def_index.get(name).ok_or_else(|| format!("unknown embed {name}"))?;
            embeds.extend([*inner, *number]);
        }
        for g in &d.gvks {
            let parts: Vec<&str> = g.split('/').collect();
            let (group, version, kind) = match parts.as_slice() {
                [v, k] => ("", *v, *k),
                [g, v, k] => (*g, *v, *k),
                _ => return Err(format!("bad gvk {g}")),
            };
            gvks.push((group, version, kind, i as u16));
        }
        let union = d.attrs.iter().find_map(|a| a.strip_prefix("union="));
        let (disc, members) = union.and_then(|u| u.split_once(':')).unwrap_or(("", ""));
        let members = t.list(members.split(',').filter(|m| !m.is_empty()));
        let flags = u16::from(d.attrs.contains(&"atomic"))
            | u16::from(d.attrs.contains(&"embedded")) << 1
            | u16::from(union.is_some()) << 2;
        let counts = [first_field, fields.len() / 4 - first_field, first_embed]
            .map(|n| u16::try_from(n).unwrap_or(u16::MAX));
        def_rows.extend([t.string(d.name)]);
        def_rows.extend(counts);
        def_rows.extend([(embeds.len() / 2 - first_embed) as u16, flags, t.string(disc), members]);
    }
    gvks.sort_unstable();
    let gvks: Vec<u16> =
        gvks.iter().flat_map(|(g, v, k, d)| [t.string(g), t.string(v), t.string(k), *d]).collect();
    Ok(write(&t, &[("DEFS", &def_rows), ("FIELDS", &fields), ("EMBEDS", &embeds), ("GVKS", &gvks)]))
}

fn write(t: &Tables<'_>, arrays: &[(&str, &Vec<u16>)]) -> String {
    let mut out = String::from(
        "//! Generated by `cargo xtask gen-schema` from api/facts/schema.txt; mod.rs documents the rows.\n",
    );
    let pool = t.string_order.concat();
    let mut offsets = vec![0u32];
    for s in &t.string_order {
        offsets.push(offsets.last().copied().unwrap_or(0) + s.len() as u32);
    }
    let mut numbers = |name: &str, ty: &str, values: &[u32]| {
        let _ = write!(out, "pub(super) static {name}: [{ty}; {}] = [", values.len());
        for (i, v) in values.iter().enumerate() {
            let _ = write!(out, "{}{v},", if i % 24 == 0 { "\n" } else { "" });
        }
        out.push_str("\n];\n");
    };
    let wide = |v: &[u16]| v.iter().map(|n| u32::from(*n)).collect::<Vec<u32>>();
    numbers("OFFSETS", "u32", &offsets);
    numbers("LISTS", "u16", &wide(&t.lists));
    numbers("TYPES", "u16", &wide(&t.types.concat()));
    numbers("FACTS", "u16", &wide(&t.facts.concat()));
    for (name, values) in arrays {
        numbers(name, "u16", &wide(values));
    }
    out.push_str("pub(super) const POOL: &str = \"");
    for (i, c) in pool.chars().enumerate() {
        if i % 120 == 0 {
            out.push_str("\\\n");
        }
        out.extend(c.escape_default());
    }
    out.push_str("\";\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_in_the_tree_is_fresh() {
        generate(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), true).unwrap();
    }

    #[test]
    fn bad_facts_are_named() {
        assert!(build("def A\n f B\n").unwrap_err().contains("A.f: unknown type B"));
        assert!(build("def A\n f string wat\n").unwrap_err().contains("unknown fact wat"));
    }
}
