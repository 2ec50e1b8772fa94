//! A signing key of the gateway's own, and the tokens that it signs.
//!
//! Invariant: the key leaves this type never, and what it signs is what the published key verifies. Wherever the key is
//! kept, in a folder or in a Secret, tokens are made here alone.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::store::{IssuerError, TokenRecord};

/// Signs tokens of one issuer.
pub struct Signer {
    issuer: String,
    key: EcdsaKeyPair,
    public: PublicKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Signer {
    /// A new key (ECDSA with P-256), as PKCS#8.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn generate() -> Result<Vec<u8>, IssuerError> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| IssuerError::Crypto)?;
        Ok(key.to_pkcs8v1().map_err(|_| IssuerError::Crypto)?.as_ref().to_vec())
    }

    /// Signs with a key that [`Signer::generate`] made. `issuer` becomes the `iss` of the tokens.
    ///
    /// # Errors
    /// If it is no such key.
    pub fn new(pkcs8: &[u8], issuer: impl Into<String>) -> Result<Self, IssuerError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(|_| IssuerError::Crypto)?;
        let public = PublicKey::of(&key)?;
        Ok(Self { issuer: issuer.into(), key, public })
    }

    /// The `iss` of the tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The public key as a JSON Web Key Set (RFC 7517 section 5).
    pub fn jwks(&self) -> &str {
        &self.public.jwks
    }

    pub(super) fn sign(&self, record: &TokenRecord) -> Result<String, IssuerError> {
        let header = Header { typ: "at+jwt", alg: "ES256", kid: &self.public.kid };
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
        let mut token = encode(&header)?;
        token.push('.');
        token.push_str(&encode(&claims)?);
        let signature = self.key.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| IssuerError::Crypto)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

/// The public half of the signing key.
#[derive(Debug)]
struct PublicKey {
    kid: String,
    jwks: String,
}

impl PublicKey {
    fn of(key: &EcdsaKeyPair) -> Result<Self, IssuerError> {
        // An uncompressed point (SEC 1 section 2.3.3): 4, then x and y of 32 bytes each.
        let point = key.public_key().as_ref();
        let (Some(4), Some(x), Some(y), 65) = (point.first(), point.get(1..33), point.get(33..65), point.len()) else {
            return Err(IssuerError::Crypto);
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // RFC 7638 section 3: required members in this order, no spaces.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()));
        let jwks = format!(
            r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}","kid":"{kid}","use":"sig","alg":"ES256"}}]}}"#
        );
        Ok(Self { kid, jwks })
    }
}

#[derive(Serialize)]
struct Header<'a> {
    typ: &'static str,
    alg: &'static str,
    kid: &'a str,
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

fn encode(part: &impl Serialize) -> Result<String, IssuerError> {
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(part).map_err(|_| IssuerError::Crypto)?))
}
