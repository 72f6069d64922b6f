//! Syntax errors of JSON in the words of Go's decoder.

use serde_json::Error;
use serde_json::error::Category;

/// What Go says about this text that serde_json refused with `e`.
pub(super) fn go_text(text: &str, e: &Error) -> String {
    if e.classify() == Category::Eof {
        return "unexpected end of JSON input".to_owned();
    }
    let said = e.to_string();
    let where_ = if said.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else if said.starts_with("expected `,` or `]`") {
        "after array element"
    } else if said.starts_with("key must be a string") || said.starts_with("trailing comma") {
        "looking for beginning of object key string"
    } else if said.starts_with("expected `:`") {
        "after object key"
    } else if said.starts_with("trailing characters") {
        "after top-level value"
    } else if said.starts_with("expected value") {
        "looking for beginning of value"
    } else if said.starts_with("control character") {
        "in string literal"
    } else if said.starts_with("invalid escape") {
        "in string escape code"
    } else if said.starts_with("invalid number") {
        "in numeric literal"
    } else if said.starts_with("expected ident") {
        "in literal"
    } else if said.starts_with("recursion limit exceeded") {
        return "exceeded max depth".to_owned();
    } else {
        return said;
    };
    let line = text.split('\n').nth(e.line().saturating_sub(1)).unwrap_or("");
    let c = line.as_bytes().get(e.column().saturating_sub(1)).copied().unwrap_or(b'\n');
    let shown = match c {
        b'\'' => "'\\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\n' => "'\\n'".to_owned(),
        c if c.is_ascii_graphic() || c == b' ' => format!("'{}'", char::from(c)),
        c => format!("'\\x{c:02x}'"),
    };
    format!("invalid character {shown} {where_}")
}
