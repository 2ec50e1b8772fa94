//! What a client is registered with (RFC 7591).
//!
//! Invariant: a client is either public or has one way to authenticate; its keys are public ones.

use serde_json::Value;

/// Where a client runs (OpenID Connect Dynamic Client Registration, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplicationType {
    /// On a person's machine.
    Native,
    /// On a server, or in a browser.
    Web,
}

impl ApplicationType {
    /// As metadata has it.
    pub fn as_str(self) -> &'static str {
        match self {
            ApplicationType::Native => "native",
            ApplicationType::Web => "web",
        }
    }
}

/// How a client authenticates at the token endpoint (RFC 7591 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// By a signature with its own key (RFC 7523).
    PrivateKeyJwt,
    /// By a shared secret in a header.
    ClientSecretBasic,
    /// By a shared secret in the body.
    ClientSecretPost,
    /// Not at all.
    None,
}

impl AuthMethod {
    /// As metadata has it.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthMethod::PrivateKeyJwt => "private_key_jwt",
            AuthMethod::ClientSecretBasic => "client_secret_basic",
            AuthMethod::ClientSecretPost => "client_secret_post",
            AuthMethod::None => "none",
        }
    }
}

/// A client's public keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// None are named.
    None,
    /// A JSON Web Key Set (RFC 7517).
    Inline(Value),
    /// Its `jwks_uri`.
    At(String),
}

/// What a client is registered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientMetadata {
    /// What people see when they are asked for consent.
    pub client_name: String,
    /// Where it runs.
    pub application_type: ApplicationType,
    /// Where people are sent back to, exactly.
    pub redirect_uris: Vec<String>,
    /// How it comes to tokens.
    pub grant_types: Vec<String>,
    /// What the authorization endpoint answers it with.
    pub response_types: Vec<String>,
    /// How it authenticates at the token endpoint.
    pub auth_method: AuthMethod,
    /// Scopes that it may ask for.
    pub scopes: Vec<String>,
    /// Its public keys.
    pub keys: Keys,
    /// Which software it is: by this a registration is known again.
    pub software_id: String,
    /// Which version of it.
    pub software_version: String,
    /// What somebody says of it (RFC 7591 section 2.3).
    pub software_statement: Option<String>,
}
