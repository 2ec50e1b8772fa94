//! OAuth documents as plain data: metadata of protected resources (RFC 9728) and authorization servers (RFC 8414), client
//! registrations (RFC 7591, RFC 7592, Client ID Metadata Documents), and requests for tokens (RFC 6749, RFC 8693,
//! RFC 7523), what resources ask of their clients, and whom they trust.
//!
//! Invariant: a document that this module hands out names exactly the resource, issuer or client that it was asked for,
//! by code point, and was decoded without duplicate members. What is secret in one is a [`crate::sensitive::Sensitive`].
//! Nothing is fetched or sent here.

pub mod bearer_challenge;
pub mod client_key;
pub mod client_metadata_document;
pub mod client_registration;
mod document;
pub mod identifier;
pub mod json;
pub mod jwk;
pub mod protected_resource;
mod refusal;
pub mod server_metadata;
pub mod signing_key;
pub mod token_request;
pub mod upstream_trust;

pub use document::DocumentError;
pub use refusal::{Refusal, RefusalKind};
