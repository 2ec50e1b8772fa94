//! How clients are registered with one kind of server: a file each, behind one trait.
//!
//! Invariant: an adapter makes requests and reads answers, and decides nothing; what may follow on what is decided in
//! [`super::next`], for all of them.

mod keycloak;
pub mod resource;
mod standard;

pub use keycloak::Keycloak;
pub use standard::Standard;
pub(super) use standard::told;

use serde_json::{Map, Value};

use super::call::{Answer, Call, Heard, Place, Purpose};
use super::claim::Claim;
use super::desired::{Method, Profile};
use super::ledger::{Handle, Registration};
use super::wanted::{Marks, Wanted};
use crate::oauth::client_registration::ClientMetadata;

/// One kind of server.
pub trait Adapter: Sync {
    /// Whether a registration can be sent again without making a second client, since its id is known before.
    fn is_repeatable(&self) -> bool;

    /// Registers a client. `None`: the server offers no place for that.
    fn create(&self, wanted: &Wanted, place: &Place) -> Option<Call>;

    /// Looks for the client of our id, where one is known before.
    fn find(&self, marks: &Marks, place: &Place) -> Option<Call>;

    /// Looks at a client that is to be taken over. `None`: the server offers no place for that.
    fn adopt(&self, claim: &Claim, place: &Place) -> Option<Call>;

    /// Reads a client.
    fn read(&self, registration: &Registration, place: &Place) -> Option<Call>;

    /// Whether an update keeps something of what is there, so that this must be known.
    fn reads_before_updating(&self) -> bool;

    /// Brings a client to what is wanted. `found`: what is to be kept of what was read.
    fn update(
        &self,
        registration: &Registration,
        wanted: &Wanted,
        found: Option<&Map<String, Value>>,
        place: &Place,
    ) -> Option<Call>;

    /// Gives a client another secret. `None`: there is no request for that.
    fn renew(&self, registration: &Registration, place: &Place) -> Option<Call>;

    /// Deletes a client.
    fn delete(&self, registration: &Registration, place: &Place) -> Option<Call>;

    /// What an answer to one of these means. `wanted` is missing when the owner is gone.
    fn hear(&self, purpose: Purpose, answer: &Answer, marks: &Marks, wanted: Option<&Wanted>) -> Heard;
}

/// By which requests a client of `profile` is registered with `method`.
pub fn of(profile: Profile, method: Method) -> &'static dyn Adapter {
    match (profile, method) {
        (Profile::Keycloak, Method::Admin) => &Keycloak,
        _ => &Standard,
    }
}

/// Whether a server makes a client of the document that says this, wherever it is named. Keycloak does so where a person is
/// sent to log in, and knows nobody by a document who only asks for tokens.
pub fn takes_document(profile: Profile, metadata: &ClientMetadata) -> bool {
    match profile {
        Profile::Generic => true,
        Profile::Keycloak => metadata.grant_types.iter().any(|grant| grant == "authorization_code"),
    }
}

/// By which requests a client is managed.
pub fn managing(handle: &Handle, profile: Profile) -> &'static dyn Adapter {
    match (handle, profile) {
        (Handle::Admin { .. }, Profile::Keycloak) => &Keycloak,
        _ => &Standard,
    }
}
