//! How authorization servers behave, as far as the life of a client registration depends on it: facts about Keycloak and npm
//! oidc-provider, each pinned by a test, so that a release that behaves otherwise is noticed here first.

mod administration;
mod faults;
pub(crate) mod house;
pub(crate) mod log_in;
mod management;
pub(crate) mod metadata_documents;
mod registration;
mod tokens;
