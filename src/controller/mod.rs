//! The controller plane: what it gives to identities.

pub mod client;
pub mod cluster_issuer;
pub mod error;
pub mod service_account;
pub mod signing;
