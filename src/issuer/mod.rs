//! Keys and tokens: the local authority, and the key sets of others.
//!
//! Invariant: a key set is used only if it came from the document that names exactly the configured issuer, and never
//! after its time; the local authority hands out no token that it has not recorded, and its key leaves it never.

mod jwks;
pub mod metadata;
mod mint;
mod revoke;
mod schedule;
mod signer;
mod store;

pub use jwks::{Clock, JwksError, JwksSource, KeyState, SystemClock};
pub use mint::{DEFAULT_LIFETIME_SECONDS, Issued, MAX_LIFETIME_SECONDS, TokenRequest};
pub use revoke::RevocationWatch;
pub use schedule::Timing;
pub use signer::Signer;
pub use store::{IssuerError, LocalAuthority, TokenRecord};
