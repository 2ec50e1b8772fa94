//! The key of a client that authenticates with `private_key_jwt` (RFC 7523 section 2.2), and its assertions.
//!
//! Invariant: an assertion is for one authorization server, lives for five minutes at most and has an id of its own. Its
//! audience is the issuer, not an endpoint: one server cannot use it at another that shares the endpoint's name
//! (draft-ietf-oauth-rfc7523bis section 4).

use serde::Serialize;
use serde_json::Value;

use super::signing_key::{KeyError, SigningKey};
use crate::sensitive::Sensitive;

/// The longest that an assertion may live, in seconds.
pub const MAX_LIFETIME_SECONDS: u32 = 300;
/// Explicit typing keeps an assertion from passing for another kind of token (RFC 8725 section 3.11); this type is the
/// one of draft-ietf-oauth-rfc7523bis section 4.
const TYP: &str = "client-authentication+jwt";

/// A client's key pair (ECDSA with P-256).
#[derive(Debug)]
pub struct ClientKey(SigningKey);

/// RFC 7523 section 3.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    jti: &'a str,
}

impl ClientKey {
    /// A new key, as PKCS#8.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn generate() -> Result<Vec<u8>, KeyError> {
        SigningKey::generate()
    }

    /// A key that [`ClientKey::generate`] made.
    ///
    /// # Errors
    /// If it is no such key.
    pub fn new(pkcs8: &[u8]) -> Result<Self, KeyError> {
        Ok(Self(SigningKey::new(pkcs8)?))
    }

    /// The key's id: its RFC 7638 thumbprint.
    pub fn kid(&self) -> &str {
        self.0.kid()
    }

    /// The public key as a JSON Web Key, to be registered.
    pub fn public_jwk(&self) -> Value {
        self.0.public_jwk()
    }

    /// What proves at `now` (Unix seconds) that whoever sends it is the client `client_id`. `issuer` is the authorization
    /// server that it is for; `lifetime_seconds` is cut to [`MAX_LIFETIME_SECONDS`]; `jti` must never be used again.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn assertion(
        &self,
        client_id: &str,
        issuer: &str,
        now: i64,
        lifetime_seconds: u32,
        jti: &str,
    ) -> Result<Sensitive, KeyError> {
        let exp = now.saturating_add(i64::from(lifetime_seconds.min(MAX_LIFETIME_SECONDS)));
        let claims = Claims { iss: client_id, sub: client_id, aud: issuer, iat: now, exp, jti };
        Ok(Sensitive::new(self.0.sign(TYP, &claims)?))
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://as.example/realms/a";
    const NOW: i64 = 4_000_000_000;

    #[test]
    fn an_assertion_verifies_with_the_registered_key_and_names_client_and_issuer() {
        let key = ClientKey::new(&ClientKey::generate().unwrap()).unwrap();
        let assertion = key.assertion("client-1", ISSUER, NOW, 60, "id-1").unwrap();
        let jwk: Jwk = serde_json::from_value(key.public_jwk()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[ISSUER]);
        let read = decode::<Value>(assertion.expose(), &DecodingKey::from_jwk(&jwk).unwrap(), &validation).unwrap();
        assert_eq!(
            read.claims,
            json!({"iss": "client-1", "sub": "client-1", "aud": ISSUER, "iat": NOW, "exp": NOW + 60, "jti": "id-1"})
        );
        let header = decode_header(assertion.expose()).unwrap();
        assert_eq!(header.typ.as_deref(), Some("client-authentication+jwt"));
        assert_eq!(header.kid.as_deref(), Some(key.kid()));
        let stranger = ClientKey::new(&ClientKey::generate().unwrap()).unwrap();
        let jwk: Jwk = serde_json::from_value(stranger.public_jwk()).unwrap();
        assert!(decode::<Value>(assertion.expose(), &DecodingKey::from_jwk(&jwk).unwrap(), &validation).is_err());
    }

    #[test]
    fn no_assertion_lives_longer_than_five_minutes() {
        let key = ClientKey::new(&ClientKey::generate().unwrap()).unwrap();
        for (asked, granted) in [(1, 1), (299, 299), (300, 300), (301, 300), (u32::MAX, 300)] {
            let assertion = key.assertion("c", ISSUER, NOW, asked, "id").unwrap();
            let claims: Value = serde_json::from_slice(&key.0.claims(TYP, assertion.expose()).unwrap()).unwrap();
            assert_eq!(claims["exp"], NOW + granted);
        }
    }

    #[test]
    fn neither_key_nor_assertion_is_shown() {
        let pkcs8 = ClientKey::generate().unwrap();
        let key = ClientKey::new(&pkcs8).unwrap();
        let assertion = key.assertion("c", ISSUER, NOW, 60, "id").unwrap();
        let shown = format!("{key:?} {assertion:?}");
        assert!(!shown.contains("eyJ") && !shown.contains(assertion.expose()), "{shown}");
        assert_eq!(key.public_jwk().get("d"), None);
    }
}
