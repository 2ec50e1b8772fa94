//! OAuth documents as plain data: protected-resource metadata (RFC 9728) and authorization-server metadata (RFC 8414).
//!
//! Invariant: a document that this module hands out names exactly the resource or issuer that it was asked for, by code
//! point, and was decoded without duplicate members. Nothing is fetched here.

pub mod json;
