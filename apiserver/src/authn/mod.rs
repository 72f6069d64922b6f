//! Who asks: client certificates, service-account tokens, impersonation, anonymous.
//!
//! Called by `front/` for each request, before the core sees it. Nothing here reads a clock or a file.

pub mod token;
