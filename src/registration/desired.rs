//! What an author wants registered, resolved: no reference is left to follow but those to Secrets.

use serde::{Deserialize, Serialize};

use crate::generated::ObjectId;
use crate::oauth::client_registration::ClientMetadata;

/// How a client becomes known to an authorization server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Method {
    /// Somebody has registered it by hand.
    Preregistered,
    /// Through the vendor's administrative API, under an id that is known before.
    Admin,
    /// By a Client ID Metadata Document.
    Cimd,
    /// Dynamically (RFC 7591), and managed by RFC 7592.
    Dcr,
}

impl Method {
    /// As manifests name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Preregistered => "Preregistered",
            Method::Admin => "Admin",
            Method::Cimd => "CIMD",
            Method::Dcr => "DCR",
        }
    }
}

/// The product behind an issuer, as far as clients are registered at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// Anything that speaks the standards.
    Generic,
    /// Keycloak.
    Keycloak,
}

/// A client as its author wants it registered.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The object that wants it.
    pub owner: ObjectId,
    /// The McpAuthorizationServer at which it is registered.
    pub authority: String,
    /// Its exact issuer: what is kept of a registration belongs to this issuer, and is sent to no other.
    pub issuer: String,
    /// The product behind it.
    pub profile: Profile,
    /// The methods that are allowed, in order of preference.
    pub methods: Vec<Method>,
    /// The method that its author insists on.
    pub asked: Option<Method>,
    /// The gateway's public URL, if authorization servers take documents of it.
    pub gateway: Option<String>,
    /// The id that it has, where it was registered by hand; the URL of its own document, for CIMD.
    pub client_id: Option<String>,
    /// Where its secret is, if it was registered by hand and has one.
    pub client_secret: Option<SecretKey>,
    /// What is registered. `keys` only if the author brings them; the markers are filled in here.
    pub metadata: ClientMetadata,
    /// Resource identifiers of the servers that it is for.
    pub resources: Vec<String>,
    /// The Secret of its namespace that gets its credentials.
    pub secret_name: String,
    /// When its credentials are replaced, though nothing forces it.
    pub rotation: Option<Rotation>,
    /// What becomes of the registration when the object is deleted.
    pub deletion: Deletion,
}

/// A key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretKey {
    /// The Secret's name.
    pub name: String,
    /// The key, in `data`.
    pub key: String,
}

/// When credentials are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// So long after they were made.
    pub period_seconds: u32,
    /// So long the ones before are good besides.
    pub overlap_seconds: u32,
}

/// What becomes of a registration when its object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deletion {
    /// Whether it goes too.
    pub policy: DeletionPolicy,
    /// How long the object waits for that.
    pub timeout_seconds: u32,
    /// What happens then.
    pub on_unavailable: OnUnavailable,
}

/// Whether a registration goes with its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// It is deleted at the authorization server.
    Delete,
    /// It stays there.
    Retain,
}

/// What happens when an authorization server cannot be reached for so long that an object would have to wait on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnUnavailable {
    /// The object goes; what is left to do is kept as a tombstone, and done when the server is back.
    Orphan,
    /// The object waits.
    Block,
}
