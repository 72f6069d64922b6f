//! The rules of the house that a compiler does not check: who may import whom, how large a file may be, where
//! unsafe code lives, what must not be left in the code. `make lint` runs it; a test holds it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom: ARCHITECTURE.md has the reasons. `*` = everybody.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("api", &["base"]),
    ("wire", &["base"]),
    ("reactor", &["base", "wire"]),
    ("client", &["base", "api", "wire"]),
    ("store", &["base", "wire"]),
    ("apiserver", &["base", "api", "wire"]),
    ("scheduler", &["base", "api", "client", "wire"]),
    ("controllers", &["base", "api", "client", "wire"]),
    ("runtime", &["base"]),
    ("kubelet", &["base", "api", "client", "wire", "runtime"]),
    ("proxy", &["base", "api", "client", "runtime"]),
    ("dns", &["base", "api", "client"]),
    ("cli", &["*"]),
    ("sim", &["*"]),
    ("benches", &["*"]),
    ("tests", &["*"]),
    ("xtask", &["base", "api"]),
];

/// A file with more lines is two things.
const LINES_MAX: usize = 1000;
/// Tables that a program wrote.
const GENERATED: &[&str] = &["api/src/schema/table.rs"];

/// Checks the repository; gives every finding.
pub fn check(root: &Path) -> Result<(), String> {
    let mut findings = Vec::new();
    for (name, may) in ARROWS {
        arrows(root, name, may, &mut findings);
    }
    let known: BTreeSet<&str> = ARROWS.iter().map(|(n, _)| *n).collect();
    for entry in fs::read_dir(root).map_err(|e| e.to_string())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().join("Cargo.toml").exists() && !known.contains(name.as_str()) {
            findings.push(format!("{name}/: a crate without arrows; add it to xtask/src/tidy.rs"));
        }
    }
    for (name, _) in ARROWS {
        for file in rust_files(&root.join(name)) {
            let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            source(&shown, &text, &mut findings);
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    findings.sort();
    Err(format!("{} finding(s):\n{}", findings.len(), findings.join("\n")))
}

fn arrows(root: &Path, name: &str, may: &[&str], findings: &mut Vec<String>) {
    let path = root.join(name).join("Cargo.toml");
    let Ok(text) = fs::read_to_string(&path) else {
        return findings.push(format!("{name}/Cargo.toml: cannot be read"));
    };
    let mut section = "";
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        }
        let Some(crate_name) = line.strip_prefix("pintle-") else { continue };
        let used: String = crate_name.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
        // Tests may look anywhere.
        if section == "dependencies" && !may.contains(&"*") && !may.contains(&used.as_str()) {
            findings.push(format!("{name}/Cargo.toml: {name} must not import {used}"));
        }
    }
}

fn source(shown: &str, text: &str, findings: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > LINES_MAX && !GENERATED.contains(&shown) {
        findings.push(format!("{shown}: {lines} lines, at most {LINES_MAX}; it is two things"));
    }
    // A module's own tests are explained by the module.
    let explained = shown.ends_with("/tests.rs")
        || text.starts_with("//!")
        || text.starts_with("// @generated");
    if !explained {
        findings.push(format!("{shown}: opens without a //! header"));
    }
    // Spelled apart so that this file does not find itself.
    for word in [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("FIX", "ME"),
        concat!("#[", "ignore"),
    ] {
        if text.contains(word) {
            findings.push(format!("{shown}: {word} left in the code"));
        }
    }
    let has_unsafe = text.lines().any(|l| {
        let code = l.split("//").next().unwrap_or_default();
        code.contains(concat!("unsafe", " {"))
            || code.contains(concat!("unsafe", " fn"))
            || code.contains(concat!("unsafe", " impl"))
    });
    if has_unsafe
        && !shown.starts_with("runtime/src/sys/")
        && !shown.starts_with("runtime/src/sys.rs")
    {
        findings.push(format!("{shown}: unsafe code outside runtime/src/sys/"));
    }
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return files };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if entry.file_name() != "target" && entry.file_name() != "fuzz" {
                files.extend(rust_files(&path));
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        check(&root).unwrap_or_else(|found| panic!("{found}"));
    }

    #[test]
    fn findings_are_found() {
        let mut found = Vec::new();
        source("x/src/a.rs", concat!("fn f() { todo", "!() }\nunsafe", " {}"), &mut found);
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
