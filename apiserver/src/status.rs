//! Errors of the core: a Status for everything that is refused, and how one becomes a reply.
//!
//! References: API conventions, "Response Status Kind".

use pintle_api::status::{Cause, Details};
use pintle_wire::msg::api;

pub use pintle_api::Status as Failure;

/// What the modules of the core return.
pub type Result<T> = std::result::Result<T, Failure>;

/// 504: the revision asked for lies in the future.
pub fn future_revision(wanted: u64, current: u64) -> Failure {
    let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
    let mut f = Failure::timeout(message);
    f.details = Some(Box::new(Details {
        causes: vec![Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        }],
        retry_after_s: 1,
        ..Details::default()
    }));
    f
}

/// The reply that carries this Status.
pub fn reply(f: &Failure, warnings: Vec<String>) -> api::Reply {
    api::Reply::Object {
        code: f.code,
        warnings,
        body: f.to_value().to_string().into_bytes().into(),
    }
}
