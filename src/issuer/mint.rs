//! Tokens of the local authority (RFC 9068).
//!
//! Invariant: every token is an `at+jwt` with all claims that RFC 9068 section 2.2 requires, lives for a bounded time,
//! is on record before anyone sees it, and fits the size that the gateway accepts.

use super::signer::Signer;
use super::store::{IssuerError, LocalAuthority, TokenRecord};
use crate::sensitive::Sensitive;

/// How long a token lives unless asked otherwise: a working day.
pub const DEFAULT_LIFETIME_SECONDS: u32 = 8 * 3600;
/// The longest that a token may live.
pub const MAX_LIFETIME_SECONDS: u32 = 90 * 24 * 3600;
pub(super) const KEEP_EXPIRED_SECONDS: i64 = 30 * 24 * 3600;
pub(super) const MAX_RECORDS: usize = 10_000;
/// Below the 8 KiB that the gateway accepts as a header value, with room for the scheme.
const MAX_TOKEN_BYTES: usize = 8000;
const MAX_NAME: usize = 256;

/// A token that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// For whom it speaks.
    pub subject: String,
    /// Where it is accepted: resource URIs, at least one.
    pub audiences: Vec<String>,
    /// The client that it is given to; never the same as the subject, which would make it speak for a client.
    pub client_id: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// At most [`MAX_LIFETIME_SECONDS`].
    pub lifetime_seconds: u32,
    /// A person's note, kept on record only.
    pub label: Option<String>,
}

/// A token just issued: the only time that it is to be had.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token.
    pub token: Sensitive,
    /// What is kept about it.
    pub record: TokenRecord,
}

impl LocalAuthority {
    /// Issues a token at `now` (Unix seconds) and keeps a record of it.
    ///
    /// # Errors
    /// If the request is not acceptable or the record cannot be written; then there is no token.
    pub fn issue(&self, request: &TokenRequest, now: i64) -> Result<Issued, IssuerError> {
        let issued = self.signer.mint(request, now)?;
        self.record(&issued.record, now)?;
        Ok(issued)
    }
}

impl Signer {
    /// Makes a token at `now` (Unix seconds). Whoever asks keeps the record, before the token leaves the house.
    ///
    /// # Errors
    /// If the request is not acceptable.
    pub fn mint(&self, request: &TokenRequest, now: i64) -> Result<Issued, IssuerError> {
        check(request)?;
        let record = TokenRecord {
            jti: uuid::Uuid::now_v7().to_string(),
            subject: request.subject.clone(),
            audiences: request.audiences.clone(),
            client_id: request.client_id.clone(),
            groups: request.groups.clone(),
            scopes: request.scopes.clone(),
            issued_at: now,
            expires_at: now.saturating_add(i64::from(request.lifetime_seconds)),
            label: request.label.clone(),
        };
        let token = self.sign(&record)?;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(IssuerError::Request {
                field: "the token",
                why: "would be larger than 8000 bytes, more than a request may carry: ask for fewer groups or audiences",
            });
        }
        Ok(Issued { token: Sensitive::new(token), record })
    }
}

fn check(request: &TokenRequest) -> Result<(), IssuerError> {
    let refuse = |field, why| Err(IssuerError::Request { field, why });
    if !is_name(&request.subject) {
        return refuse("the subject", "must have 1 to 256 characters and no control characters");
    }
    if !is_name(&request.client_id) {
        return refuse("the client id", "must have 1 to 256 characters and no control characters");
    }
    if request.client_id == request.subject {
        return refuse("the client id", "must differ from the subject: the token would speak for a client");
    }
    if request.audiences.is_empty() || request.audiences.iter().any(|a| !is_audience(a)) {
        return refuse("the audience", "must be at least one URI of visible characters");
    }
    if request.groups.iter().any(|group| !is_name(group)) {
        return refuse("a group", "must have 1 to 256 characters and no control characters");
    }
    if request.scopes.iter().any(|scope| !is_scope(scope)) {
        return refuse("a scope", "must be a scope token (RFC 6749 section 3.3)");
    }
    if !(1..=MAX_LIFETIME_SECONDS).contains(&request.lifetime_seconds) {
        return refuse("the lifetime", "must be between one second and 90 days");
    }
    if request.label.as_ref().is_some_and(|label| !is_name(label)) {
        return refuse("the label", "must have 1 to 256 characters and no control characters");
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control)
}

fn is_audience(text: &str) -> bool {
    (1..=2048).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) && text.contains(':')
}

fn is_scope(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::store::tests::authority;
    use super::*;

    pub(in super::super) fn request(subject: &str) -> TokenRequest {
        TokenRequest {
            subject: subject.to_owned(),
            audiences: vec!["https://gw.example/team/a".to_owned()],
            client_id: "portcullis-cli".to_owned(),
            groups: vec!["engineers".to_owned()],
            scopes: vec!["mcp:use".to_owned(), "mcp:admin".to_owned()],
            lifetime_seconds: 3600,
            label: Some("laptop".to_owned()),
        }
    }

    #[test]
    fn a_token_verifies_with_the_published_key_and_says_what_was_asked() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let now = 4_000_000_000;
        let issued = authority.issue(&request("ada"), now).unwrap();
        let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_str(authority.jwks()).unwrap();
        let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
        validation.set_audience(&["https://gw.example/team/a"]);
        validation.set_issuer(&["https://gw.example/-/issuer"]);
        let key = jsonwebtoken::DecodingKey::from_jwk(&jwks.keys[0]).unwrap();
        let read = jsonwebtoken::decode::<serde_json::Value>(issued.token.expose(), &key, &validation).unwrap();
        assert_eq!(read.header.typ.as_deref(), Some("at+jwt"));
        assert_eq!(read.header.kid, jwks.keys[0].common.key_id);
        assert_eq!(
            read.claims,
            serde_json::json!({
                "iss": "https://gw.example/-/issuer", "sub": "ada", "aud": ["https://gw.example/team/a"],
                "client_id": "portcullis-cli", "iat": now, "exp": now + 3600, "jti": issued.record.jti,
                "scope": "mcp:use mcp:admin", "groups": ["engineers"],
            })
        );
        assert_eq!(authority.list().unwrap(), [issued.record]);
    }

    #[test]
    fn the_token_is_in_no_file_and_in_no_debug() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let issued = authority.issue(&request("ada"), 1_800_000_000).unwrap();
        let signature = issued.token.expose().rsplit('.').next().unwrap();
        for entry in std::fs::read_dir(dir.path().join("issuer")).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains(signature));
        }
        assert!(!format!("{issued:?}").contains(signature));
    }

    #[test]
    fn what_no_token_may_be_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let ok = request("ada");
        let bad = [
            TokenRequest { subject: String::new(), ..ok.clone() },
            TokenRequest { subject: "a\nb".to_owned(), ..ok.clone() },
            TokenRequest { client_id: "ada".to_owned(), ..ok.clone() },
            TokenRequest { audiences: vec![], ..ok.clone() },
            TokenRequest { audiences: vec!["team a".to_owned()], ..ok.clone() },
            TokenRequest { scopes: vec!["a b".to_owned()], ..ok.clone() },
            TokenRequest { scopes: vec!["a\"b".to_owned()], ..ok.clone() },
            TokenRequest { groups: vec![String::new()], ..ok.clone() },
            TokenRequest { lifetime_seconds: 0, ..ok.clone() },
            TokenRequest { lifetime_seconds: MAX_LIFETIME_SECONDS + 1, ..ok.clone() },
            TokenRequest { groups: vec!["g".repeat(200); 50], ..ok.clone() },
        ];
        for request in bad {
            let error = authority.issue(&request, 1_800_000_000).unwrap_err();
            assert_eq!(error.reason(), "TokenRequestInvalid", "{request:?}");
        }
        assert!(authority.list().unwrap().is_empty());
    }
}
