//! The answer of a server that registered, read or changed a client (RFC 7591 section 3.2.1, RFC 7592 section 3).

use serde_json::{Map, Value};
use url::Url;

use crate::oauth::document::{Document, Malformed};
use crate::oauth::identifier::{Identifier, IdentifierError};
use crate::oauth::json::JsonError;
use crate::oauth::jwk;
use crate::sensitive::Sensitive;

/// The longest accepted answer, in bytes.
const MAX_BYTES: usize = 64 * 1024;
const MAX_CLIENT_ID: usize = 2048;
const MAX_SECRET: usize = 4096;
const MIN_RECOGNIZED: usize = 8;
/// It is sent in a header, of which servers take 8 KiB.
const MAX_TOKEN: usize = 8000;

/// The metadata of a client that anyone may see (RFC 7591 section 2, OpenID Connect Dynamic Client Registration 1.0
/// section 2). A list of what is public, and not of what is secret: nobody knows what a server adds. A software statement
/// is not among them, since whoever has it can present it.
const PUBLIC: &[&str] = &[
    "application_type",
    "client_name",
    "client_uri",
    "contacts",
    "grant_types",
    "jwks",
    "jwks_uri",
    "logo_uri",
    "policy_uri",
    "redirect_uris",
    "response_types",
    "scope",
    "software_id",
    "software_version",
    "token_endpoint_auth_method",
    "tos_uri",
];

/// Why an answer is no registration. Carries none of its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// Longer than 64 KiB.
    #[error("the registration's answer is longer than {MAX_BYTES} bytes")]
    TooLarge,
    /// Not strict JSON.
    #[error("the registration's answer is unreadable: {0}")]
    Json(#[from] JsonError),
    /// A required member is missing.
    #[error("the registration's answer has no `{0}`")]
    Missing(&'static str),
    /// A member has the wrong type, is too long, or has characters that it cannot have.
    #[error("the registration's answer has a malformed `{0}`")]
    Malformed(&'static str),
    /// The URL to manage it at is not acceptable.
    #[error("the registration's `registration_client_uri` is unacceptable: {0}")]
    ManagementUrl(IdentifierError),
    /// The URL to manage it at is somebody else's: the token must not go there.
    #[error("the registration's `registration_client_uri` is not at the origin of its issuer, {origin}")]
    Elsewhere {
        /// Scheme and authority of the issuer.
        origin: String,
    },
}

impl From<Malformed> for RegistrationError {
    fn from(Malformed(member): Malformed) -> Self {
        RegistrationError::Malformed(member)
    }
}

impl RegistrationError {
    /// A stable word for conditions and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            RegistrationError::TooLarge => "RegistrationTooLarge",
            RegistrationError::Json(error) => error.reason(),
            RegistrationError::Missing(_) => "RegistrationIncomplete",
            RegistrationError::Malformed(_) => "RegistrationMalformed",
            RegistrationError::ManagementUrl(error) => error.reason(),
            RegistrationError::Elsewhere { .. } => "RegistrationElsewhere",
        }
    }
}

/// Where and with what a registration is managed (RFC 7592 section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Management {
    /// The client configuration endpoint.
    pub uri: String,
    /// The registration access token.
    pub token: Sensitive,
}

/// A client as its server says that it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its id.
    pub client_id: String,
    /// Its secret, if it has one.
    pub client_secret: Option<Sensitive>,
    /// When the secret expires (Unix seconds); `None` if never.
    pub secret_expires_at: Option<i64>,
    /// When the id was issued (Unix seconds).
    pub issued_at: Option<i64>,
    /// How to manage it. Servers give a new token when they please: the one given last is the one that counts.
    pub management: Option<Management>,
    /// Its public metadata.
    pub metadata: Map<String, Value>,
}

/// Reads an answer of the authorization server `issuer` to a registration, a read or an update.
///
/// # Errors
/// If it is not one unambiguous document with an id, whose credentials can be used, and only at that server.
pub fn parse_registered(body: &[u8], issuer: &str) -> Result<Registered, RegistrationError> {
    if body.len() > MAX_BYTES {
        return Err(RegistrationError::TooLarge);
    }
    let document = Document::read(body)?;
    let id = credential(&document, "client_id", MAX_CLIENT_ID)?.ok_or(RegistrationError::Missing("client_id"))?;
    let client_secret = credential(&document, "client_secret", MAX_SECRET)?.map(Sensitive::new);
    let management = management(&document, issuer)?;
    let secrets = [client_secret.as_ref(), management.as_ref().map(|management| &management.token)];
    Ok(Registered {
        client_id: id.to_owned(),
        // RFC 7591 section 3.2.1: 0 says that it never expires.
        secret_expires_at: document.seconds("client_secret_expires_at")?.filter(|at| *at != 0),
        issued_at: document.seconds("client_id_issued_at")?,
        metadata: public(&document, &secrets.into_iter().flatten().collect::<Vec<_>>()),
        client_secret,
        management,
    })
}

/// The id of the client that an answer tells of, though the rest of it may be of no use: what was made there can be named.
pub fn registered_id(body: &[u8]) -> Option<String> {
    let document = Document::read(Some(body).filter(|body| body.len() <= MAX_BYTES)?).ok()?;
    credential(&document, "client_id", MAX_CLIENT_ID).ok()?.map(str::to_owned)
}

/// Visible ASCII and spaces (RFC 6749 appendices A.1 and A.2), not empty.
fn credential<'d>(
    document: &'d Document,
    name: &'static str,
    longest: usize,
) -> Result<Option<&'d str>, RegistrationError> {
    let is_usable = |text: &str| (1..=longest).contains(&text.len()) && text.bytes().all(|b| matches!(b, b' '..=b'~'));
    match document.text(name)? {
        Some(text) if !is_usable(text) => Err(RegistrationError::Malformed(name)),
        text => Ok(text),
    }
}

/// Both or nothing: a token without a place is lost, and a place without a token is of no use.
fn management(document: &Document, issuer: &str) -> Result<Option<Management>, RegistrationError> {
    let Some(token) = credential(document, "registration_access_token", MAX_TOKEN)? else { return Ok(None) };
    if token.contains(' ') {
        return Err(RegistrationError::Malformed("registration_access_token"));
    }
    let uri = document.text("registration_client_uri")?;
    let uri = uri.ok_or(RegistrationError::Missing("registration_client_uri"))?;
    Identifier::resource(uri).map_err(RegistrationError::ManagementUrl)?;
    let is_issuers = match (Url::parse(uri), Url::parse(issuer)) {
        (Ok(uri), Ok(issuer)) => uri.origin() == issuer.origin(),
        _ => false,
    };
    if !is_issuers {
        let origin = Identifier::issuer(issuer).map(|issuer| issuer.origin().to_owned()).unwrap_or_default();
        return Err(RegistrationError::Elsewhere { origin });
    }
    Ok(Some(Management { uri: uri.to_owned(), token: Sensitive::new(token) }))
}

/// What anyone may see. A member that repeats a secret is not that, whatever its name, and neither are keys that are not in
/// a set. In its place stands what nobody can read as a value: that there was something is not hidden.
fn public(document: &Document, secrets: &[&Sensitive]) -> Map<String, Value> {
    let shown = |name: &str, value: &Value| {
        let value = if name == "jwks" { jwk::public_part(value)? } else { value.clone() };
        let is_public = !secrets.iter().any(|secret| repeats(&value, secret.expose()));
        is_public.then_some(value)
    };
    let member = |name: &&str| {
        let value = document.member(name)?;
        Some(((*name).to_owned(), shown(name, value).unwrap_or_else(|| Value::Object(Map::new()))))
    };
    PUBLIC.iter().filter_map(member).collect()
}

/// Whether `secret` is part of any text in `value`. One of a few characters is part of anything.
fn repeats(value: &Value, secret: &str) -> bool {
    match value {
        _ if secret.len() < MIN_RECOGNIZED => false,
        Value::String(text) => text.contains(secret),
        Value::Array(items) => items.iter().any(|item| repeats(item, secret)),
        Value::Object(members) => members.iter().any(|(name, item)| name.contains(secret) || repeats(item, secret)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
