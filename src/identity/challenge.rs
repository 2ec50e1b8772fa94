//! What a refused caller is told: the `WWW-Authenticate` header (RFC 6750 section 3, RFC 9728 section 5.1).
//!
//! Invariant: a challenge names the server's own metadata, never says which check failed, and carries an `error` only
//! if credentials were presented. `insufficient_scope` always lists all scopes of the operation, and
//! makes nobody give up another of the server's scopes.

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

    /// A valid token that more consent would mend: 403 `insufficient_scope` with all scopes to ask for.
    /// Only for tools that the caller may see; a policy denial is not one.
    pub fn insufficient_scope(&self, lacking: &InsufficientScope) -> Refusal {
        let error = Some(("insufficient_scope", "The operation needs more scopes"));
        let scopes = lacking.ask_for.iter().map(String::as_str);
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

#[cfg(test)]
mod tests {
    use super::super::token::TokenError;
    use super::*;
    use crate::generated::server::Scopes;

    const METADATA: &str = "https://gw.example/.well-known/oauth-protected-resource/team-a/github";

    fn challenges(baseline: &[&str]) -> Challenges {
        let baseline = baseline.iter().map(|scope| (*scope).to_owned()).collect();
        let scopes = ScopeTable::compile(&Scopes { baseline, tools: Vec::new() }).unwrap();
        Challenges::new(METADATA, &scopes).unwrap()
    }

    fn text(refusal: &Refusal) -> (u16, &str) {
        (refusal.status.as_u16(), refusal.challenge.to_str().unwrap())
    }

    #[test]
    fn without_credentials_there_is_no_error_code() {
        let expected = format!(r#"Bearer scope="mcp:use mcp:read", resource_metadata="{METADATA}""#);
        assert_eq!(text(&challenges(&["mcp:use", "mcp:read"]).missing()), (401, expected.as_str()));
        let expected = format!(r#"Bearer resource_metadata="{METADATA}""#);
        assert_eq!(text(&challenges(&[]).bearer(BearerError::Missing)), (401, expected.as_str()));
    }

    #[test]
    fn every_invalid_token_gets_the_same_answer() {
        let challenges = challenges(&["mcp:use"]);
        let expected = challenges.invalid_token();
        let (status, header) = text(&expected);
        assert_eq!(status, 401);
        assert!(header.starts_with(r#"Bearer error="invalid_token", error_description=""#), "{header}");
        assert!(header.contains(METADATA) && header.contains(r#"scope="mcp:use""#));
        for error in [TokenError::Expired, TokenError::Audience, TokenError::Revoked, TokenError::UntrustedIssuer] {
            assert_eq!(error.refusal(&challenges), Some(expected.clone()));
        }
        assert_eq!(challenges.bearer(BearerError::Malformed), expected);
        assert_eq!(challenges.bearer(BearerError::TooLarge), expected);
        assert_eq!(
            TokenError::Unavailable { authority: "corp".into() }.refusal(&challenges),
            None,
            "503, nobody's fault"
        );
    }

    #[test]
    fn two_tokens_are_an_invalid_request() {
        for error in [BearerError::Ambiguous, BearerError::InQuery] {
            let refusal = challenges(&[]).bearer(error);
            let (status, header) = text(&refusal);
            assert_eq!(status, 400);
            assert!(header.contains(r#"error="invalid_request""#), "{header}");
        }
    }

    #[test]
    fn insufficient_scope_names_all_scopes_and_the_metadata() {
        let lacking = InsufficientScope { ask_for: vec!["mcp:use".into(), "mcp:admin".into()] };
        let refusal = challenges(&["mcp:use"]).insufficient_scope(&lacking);
        let (status, header) = text(&refusal);
        assert_eq!(status, 403);
        assert!(header.starts_with(r#"Bearer error="insufficient_scope""#), "{header}");
        assert!(header.contains(r#"scope="mcp:use mcp:admin""#) && header.contains(METADATA), "{header}");
    }

    #[test]
    fn quotes_are_escaped_and_other_characters_refused() {
        let scopes = ScopeTable::compile(&Scopes::default()).unwrap();
        let quoted = Challenges::new("https://gw/\"a\\b", &scopes).unwrap();
        assert_eq!(text(&quoted.missing()).1, r#"Bearer resource_metadata="https://gw/\"a\\b""#);
        for url in ["", "https://gw/a b", "https://gw/\r\nSet-Cookie: x", "https://gw/\u{e4}"] {
            assert_eq!(Challenges::new(url, &scopes).unwrap_err().url, url);
        }
    }
}
