//! Kubernetes kinds: schema table, quantities, selectors, patches, validation, defaulting, encodings. Pure.
//!
//! Objects are `serde_json::Value` everywhere. The life of a written object: [`decode`] (strict, typed by
//! [`schema`]), [`default`](mod@default), [`validate`], then storage; a patch goes through [`patch`] or
//! [`managed`] first and the same way after. Answers go out as they are or as a [`table`]. Nothing here
//! knows how objects travel or are stored, reads a clock, or panics on input.

pub mod decode;
pub mod default;
pub mod duration;
pub mod gvk;
pub mod intorstring;
pub mod limits;
pub mod managed;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod path;
pub mod protobuf;
pub mod quantity;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod validate;

pub use gvk::Gvk;
pub use path::Path;
pub use status::Status;
