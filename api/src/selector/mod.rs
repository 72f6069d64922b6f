//! Label selectors (text and LabelSelector objects) and field selectors.

mod field;
mod label;

pub use field::{FieldTerm, Fields};
pub use label::{Labels, Operator, Requirement};
