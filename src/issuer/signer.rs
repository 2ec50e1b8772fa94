//! A signing key of the gateway's own, and the tokens that it signs.
//!
//! Invariant: the key leaves this type never, and what it signs is what the published key verifies. Wherever the key is
//! kept, in a folder or in a Secret, tokens are made here alone.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::store::{IssuerError, TokenRecord};
use crate::oauth::signing_key::{KeyError, SigningKey};

/// The type of its tokens (RFC 9068 section 2.1).
const TYP: &str = "at+jwt";

/// Signs tokens of one issuer.
#[derive(Debug)]
pub struct Signer {
    issuer: String,
    key: SigningKey,
    jwks: String,
}

impl From<KeyError> for IssuerError {
    fn from(_: KeyError) -> Self {
        IssuerError::Crypto
    }
}

impl Signer {
    /// A new key (ECDSA with P-256), as PKCS#8.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn generate() -> Result<Vec<u8>, IssuerError> {
        Ok(SigningKey::generate()?)
    }

    /// Signs with a key that [`Signer::generate`] made. `issuer` becomes the `iss` of the tokens.
    ///
    /// # Errors
    /// If it is no such key.
    pub fn new(pkcs8: &[u8], issuer: impl Into<String>) -> Result<Self, IssuerError> {
        let key = SigningKey::new(pkcs8)?;
        let jwks = json!({"keys": [key.public_jwk()]}).to_string();
        Ok(Self { issuer: issuer.into(), key, jwks })
    }

    /// The `iss` of the tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The public key as a JSON Web Key Set (RFC 7517 section 5).
    pub fn jwks(&self) -> &str {
        &self.jwks
    }

    /// What a token says that this key has signed; `None` of any other text.
    pub fn read(&self, token: &str) -> Option<TokenRecord> {
        let claims: Read = serde_json::from_slice(&self.key.claims(TYP, token)?).ok()?;
        (claims.iss == self.issuer).then(|| TokenRecord {
            jti: claims.jti,
            subject: claims.sub,
            audiences: claims.aud,
            client_id: claims.client_id,
            groups: claims.groups,
            scopes: claims.scope.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect(),
            issued_at: claims.iat,
            expires_at: claims.exp,
            label: None,
        })
    }

    pub(super) fn sign(&self, record: &TokenRecord) -> Result<String, IssuerError> {
        let claims = Claims {
            iss: &self.issuer,
            sub: &record.subject,
            aud: &record.audiences,
            client_id: &record.client_id,
            iat: record.issued_at,
            exp: record.expires_at,
            jti: &record.jti,
            scope: record.scopes.join(" "),
            groups: &record.groups,
        };
        Ok(self.key.sign(TYP, &claims)?)
    }
}

/// [`Claims`], read back.
#[derive(Deserialize)]
struct Read {
    iss: String,
    sub: String,
    aud: Vec<String>,
    client_id: String,
    iat: i64,
    exp: i64,
    jti: String,
    #[serde(default)]
    scope: String,
    groups: Vec<String>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a [String],
    client_id: &'a str,
    iat: i64,
    exp: i64,
    jti: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
    groups: &'a [String],
}

#[cfg(test)]
mod tests {
    use super::super::mint::tests::request;
    use super::*;

    #[test]
    fn a_token_is_read_back_and_nothing_else_is() {
        let key = Signer::generate().unwrap();
        let signer = Signer::new(&key, "https://gw.example/-/issuer/local").unwrap();
        let issued = signer.mint(&request("ada"), 1_800_000_000).unwrap();
        let token = issued.token.expose();
        let expected = TokenRecord { label: None, ..issued.record.clone() };
        assert_eq!(signer.read(token), Some(expected));
        let parts: Vec<&str> = token.split('.').collect();
        let other = signer.mint(&request("bob"), 1_800_000_000).unwrap();
        let others: Vec<&str> = other.token.expose().split('.').collect();
        let elsewhere = Signer::new(&key, "https://gw.example/-/issuer/other").unwrap();
        assert_eq!(elsewhere.read(token), None, "the key of one issuer does not speak for another");
        let stranger = Signer::new(&Signer::generate().unwrap(), signer.issuer()).unwrap();
        assert_eq!(stranger.read(token), None);
        for edited in [
            String::new(),
            "a.b.c".to_owned(),
            format!("{token}A"),
            format!("{token}.x"),
            format!("{}.{}.{}", parts[0], others[1], parts[2]),
            format!("{}.{}.{}", others[1], parts[1], parts[2]),
            token.trim_end_matches(|c| c != '.').to_owned(),
        ] {
            assert_eq!(signer.read(&edited), None, "{edited}");
        }
        assert!(!format!("{signer:?}").contains(parts[2]) && Signer::new(b"not a key", "i").is_err());
    }
}
