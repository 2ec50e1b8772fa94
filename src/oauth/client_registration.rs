//! Client registration: requests and answers of RFC 7591 and RFC 7592.
//!
//! Invariant: a request says only what was set, and a full replacement says all of it; an answer is a [`Registered`] only
//! if it is one unambiguous document with usable credentials, whose management endpoint is the issuer's own. What it
//! tells of the client without [`Sensitive`] around it holds neither secret nor token.

mod drift;
mod registered;

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use drift::Difference;
pub use registered::{Management, Registered, RegistrationError, parse_registered, registered_id};

use super::refusal::{self, Refusal, RefusalKind};
use crate::sensitive::Sensitive;

/// Whether a client runs on its user's machine (OpenID Connect Dynamic Client Registration 1.0 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplicationType {
    /// On the user's machine: loopback or private-use redirect URIs.
    Native,
    /// On a server.
    Web,
}

impl ApplicationType {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ApplicationType::Native => "native",
            ApplicationType::Web => "web",
        }
    }
}

/// How a client authenticates at the token endpoint (RFC 7591 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// With a signed assertion (OpenID Connect Core 1.0 section 9); the server never has the key.
    PrivateKeyJwt,
    /// With a secret in the `Authorization` header.
    ClientSecretBasic,
    /// With a secret in the body.
    ClientSecretPost,
    /// Not at all: a public client.
    None,
}

impl AuthMethod {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthMethod::PrivateKeyJwt => "private_key_jwt",
            AuthMethod::ClientSecretBasic => "client_secret_basic",
            AuthMethod::ClientSecretPost => "client_secret_post",
            AuthMethod::None => "none",
        }
    }

    /// Whether client and server share a secret.
    pub fn shares_secret(self) -> bool {
        matches!(self, AuthMethod::ClientSecretBasic | AuthMethod::ClientSecretPost)
    }
}

/// The word names no method that this build uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of private_key_jwt, client_secret_basic, client_secret_post, none")]
pub struct AuthMethodError;

impl FromStr for AuthMethod {
    type Err = AuthMethodError;

    fn from_str(text: &str) -> Result<Self, AuthMethodError> {
        let all =
            [AuthMethod::PrivateKeyJwt, AuthMethod::ClientSecretBasic, AuthMethod::ClientSecretPost, AuthMethod::None];
        all.into_iter().find(|method| method.as_str() == text).ok_or(AuthMethodError)
    }
}

/// The public keys of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// It has none.
    None,
    /// A JSON Web Key Set, which the server keeps.
    Inline(Value),
    /// Where the server fetches them: they can change without a word to it.
    At(String),
}

/// What a client is to be registered as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientMetadata {
    /// Its name for people.
    pub client_name: String,
    /// Where it runs.
    pub application_type: ApplicationType,
    /// Where codes are sent, exactly.
    pub redirect_uris: Vec<String>,
    /// The grants that it uses.
    pub grant_types: Vec<String>,
    /// The answers that it asks for at the authorization endpoint; none if it never goes there.
    pub response_types: Vec<String>,
    /// How it authenticates.
    pub auth_method: AuthMethod,
    /// The scopes that it may ask for; empty leaves them to the server.
    pub scopes: Vec<String>,
    /// Its keys.
    pub keys: Keys,
    /// Names the software across its registrations.
    pub software_id: String,
    /// Which version of it.
    pub software_version: String,
    /// A signed statement about it (RFC 7591 section 2.3).
    pub software_statement: Option<String>,
}

impl ClientMetadata {
    /// The body of a registration (RFC 7591 section 3.1). The lists that have a default are always said, so that nobody's
    /// default counts; `resource` is no member of it, and servers refuse it.
    pub fn create_body(&self) -> Value {
        Value::Object(self.members())
    }

    /// The body of an update (RFC 7592 section 2.2): all that is to stay, since what is not said is deleted. It names the
    /// client, and none of the members that only a server sets. It is sensitive as a whole, for the secret in it.
    pub fn update_body(&self, client_id: &str, client_secret: Option<&Sensitive>) -> Sensitive {
        let mut members = self.members();
        members.insert("client_id".to_owned(), Value::from(client_id));
        if let Some(secret) = client_secret {
            members.insert("client_secret".to_owned(), Value::from(secret.expose()));
        }
        Sensitive::new(Value::Object(members).to_string())
    }

    pub(super) fn members(&self) -> Map<String, Value> {
        let mut members = Map::new();
        let mut say = |name: &str, value: Value| members.insert(name.to_owned(), value);
        say("client_name", json!(self.client_name));
        say("application_type", json!(self.application_type.as_str()));
        say("grant_types", json!(self.grant_types));
        say("response_types", json!(self.response_types));
        say("token_endpoint_auth_method", json!(self.auth_method.as_str()));
        if !self.redirect_uris.is_empty() {
            say("redirect_uris", json!(self.redirect_uris));
        }
        if !self.scopes.is_empty() {
            say("scope", json!(self.scopes.join(" ")));
        }
        match &self.keys {
            Keys::None => None,
            Keys::Inline(jwks) => say("jwks", jwks.clone()),
            Keys::At(url) => say("jwks_uri", json!(url)),
        };
        for (name, text) in [("software_id", &self.software_id), ("software_version", &self.software_version)] {
            if !text.is_empty() {
                say(name, json!(text));
            }
        }
        if let Some(statement) = &self.software_statement {
            say("software_statement", json!(statement));
        }
        members
    }
}

/// RFC 7591 section 3.2.2, and RFC 6750 section 3.1 for initial and registration access tokens.
const REFUSALS: &[(&str, RefusalKind)] = &[
    ("invalid_redirect_uri", RefusalKind::Terminal),
    ("invalid_client_metadata", RefusalKind::Terminal),
    ("invalid_software_statement", RefusalKind::Terminal),
    ("unapproved_software_statement", RefusalKind::Terminal),
    ("invalid_request", RefusalKind::Terminal),
    ("invalid_token", RefusalKind::Credential),
    ("insufficient_scope", RefusalKind::Credential),
];

/// Reads the answer to a registration, or to a request about one, that did not succeed. `sent` are the secrets that the
/// request carried: none of them is repeated.
pub fn refusal(status: u16, body: &[u8], sent: &[&Sensitive]) -> Refusal {
    refusal::read(status, body, REFUSALS, sent)
}

#[cfg(test)]
mod tests;
