//! Label selectors (text and LabelSelector objects) and field selectors.

use crate::Status;
use serde_json::{Map, Value};

/// A compiled label selector.
#[derive(Clone, Debug, Default)]
pub struct Labels {}

impl Labels {
    /// From the text of a `labelSelector` query (`a=b,c!=d,e in (f,g),!h`); empty text selects everything.
    pub fn parse(s: &str) -> Result<Labels, Status> {
        let _ = s;
        Ok(Labels {})
    }

    /// From a LabelSelector object; absent (null) selects nothing, empty everything.
    pub fn of(selector: &Value) -> Result<Labels, Status> {
        let _ = selector;
        Ok(Labels {})
    }

    /// Whether `labels` are selected.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        let _ = labels;
        true
    }

    /// True when it selects everything.
    pub fn is_everything(&self) -> bool {
        true
    }
}

/// A compiled field selector.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// All must hold.
    pub terms: Vec<FieldTerm>,
}

/// `path=value` or `path!=value`.
#[derive(Clone, Debug)]
pub struct FieldTerm {
    /// `metadata.name`, `spec.nodeName`.
    pub path: String,
    /// The value asked for.
    pub value: String,
    /// `!=`.
    pub negated: bool,
}

impl Fields {
    /// From the text of a `fieldSelector` query; `supported` beyond metadata.name and metadata.namespace.
    pub fn parse(s: &str, supported: &[&str]) -> Result<Fields, Status> {
        let _ = (s, supported);
        Ok(Fields::default())
    }

    /// Whether the object is selected. Absent fields read as empty (booleans as `false`).
    pub fn matches(&self, object: &Value) -> bool {
        let _ = object;
        true
    }

    /// The name that the selector pins (`metadata.name=x`), if it does.
    pub fn exact_name(&self) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| t.path == "metadata.name" && !t.negated)
            .map(|t| t.value.as_str())
    }
}
