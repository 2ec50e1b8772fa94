//! OAuth documents as plain data: protected-resource metadata (RFC 9728), authorization-server metadata (RFC 8414) and
//! client metadata (RFC 7591).
//!
//! Invariant: a document that this module hands out names exactly the resource or issuer that it was asked for, by code
//! point, and was decoded without duplicate members. Nothing is fetched here.

pub mod client_registration;
mod document;
pub mod identifier;
pub mod json;
pub mod protected_resource;
pub mod server_metadata;

pub use document::DocumentError;
