//! What a refused caller is told: the `WWW-Authenticate` header (RFC 6750 section 3, RFC 9728 section 5.1).
//!
//! Invariant: a challenge names the server's own metadata, never says which check failed, and carries an `error` only
//! if credentials were presented. `insufficient_scope` always lists all scopes of the operation.

use http::{HeaderValue, StatusCode};

use super::bearer::BearerError;
use super::scope::{InsufficientScope, ScopeTable};

/// Ready-made challenges of one server.
#[derive(Clone, Debug)]
pub struct Challenges {
    metadata_url: Box<str>,
    missing: HeaderValue,
    invalid: HeaderValue,
    request: HeaderValue,
}

/// A status and, if the client can do something about it, a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400, 401 or 403.
    pub status: StatusCode,
    /// The value of `WWW-Authenticate`.
    pub challenge: HeaderValue,
}

/// A metadata URL or scope that cannot be put into a header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the metadata URL {url:?} has characters outside visible ASCII")]
pub struct ChallengeError {
    /// The offending URL.
    pub url: String,
}

impl Challenges {
    /// Prepares the challenges of the server whose protected-resource metadata lies at `metadata_url`.
    pub fn new(metadata_url: &str, scopes: &ScopeTable) -> Result<Challenges, ChallengeError> {
        let refuse = || ChallengeError { url: metadata_url.to_owned() };
        if metadata_url.is_empty() || !metadata_url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refuse());
        }
        let build = |error| header(error, metadata_url, scopes.baseline()).ok_or_else(refuse);
        Ok(Challenges {
            missing: build(None)?,
            invalid: build(Some(("invalid_token", "The access token is not valid for this resource")))?,
            request: build(Some(("invalid_request", "Send exactly one token, in the Authorization header")))?,
            metadata_url: metadata_url.into(),
        })
    }

    /// No credentials: 401 without an error code.
    pub fn missing(&self) -> Refusal {
        Refusal { status: StatusCode::UNAUTHORIZED, challenge: self.missing.clone() }
    }

    /// Credentials that are malformed, expired, revoked, or meant for someone else: 401 `invalid_token`, one wording.
    pub fn invalid_token(&self) -> Refusal {
        Refusal { status: StatusCode::UNAUTHORIZED, challenge: self.invalid.clone() }
    }

    /// No token could be taken from the request.
    pub fn bearer(&self, error: BearerError) -> Refusal {
        match error {
            BearerError::Missing => self.missing(),
            BearerError::TooLarge | BearerError::Malformed => self.invalid_token(),
            BearerError::Ambiguous | BearerError::InQuery => {
                Refusal { status: StatusCode::BAD_REQUEST, challenge: self.request.clone() }
            }
        }
    }

    /// A valid token that more consent would mend: 403 `insufficient_scope` with all scopes of the operation.
    /// Only for tools that the caller may see; a policy denial is not one.
    pub fn insufficient_scope(&self, lacking: &InsufficientScope) -> Refusal {
        let error = Some(("insufficient_scope", "The operation needs more scopes"));
        let scopes = lacking.needed.iter().map(String::as_str);
        let challenge = header(error, &self.metadata_url, scopes).unwrap_or_else(|| self.invalid.clone());
        Refusal { status: StatusCode::FORBIDDEN, challenge }
    }
}

fn header<'s>(
    error: Option<(&str, &str)>,
    metadata_url: &str,
    scopes: impl Iterator<Item = &'s str>,
) -> Option<HeaderValue> {
    let mut text = String::from("Bearer ");
    if let Some((code, description)) = error {
        parameter(&mut text, "error", code);
        parameter(&mut text, "error_description", description);
    }
    let scopes = scopes.collect::<Vec<_>>().join(" ");
    if !scopes.is_empty() {
        parameter(&mut text, "scope", &scopes);
    }
    parameter(&mut text, "resource_metadata", metadata_url);
    HeaderValue::try_from(text).ok()
}

/// Appends `name="value"` as a quoted string (RFC 9110 section 5.6.4).
fn parameter(text: &mut String, name: &str, value: &str) {
    if !text.ends_with(' ') {
        text.push_str(", ");
    }
    text.push_str(name);
    text.push_str("=\"");
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
}
