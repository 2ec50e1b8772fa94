//! A signing key of the gateway's own, and the tokens that it signs.
//!
//! Invariant: the key leaves this type never, and what it signs is what the published key verifies. Wherever the key is
//! kept, in a folder or in a Secret, tokens are made here alone.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

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

    /// What a token says that this key has signed; `None` of any other text.
    pub fn read(&self, token: &str) -> Option<TokenRecord> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let expected = Header { typ: "at+jwt", alg: "ES256", kid: &self.public.kid };
        let signature =
            URL_SAFE_NO_PAD.decode(signature).ok().filter(|_| encode(&expected).is_ok_and(|h| h == header))?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref());
        key.verify(signed.as_bytes(), &signature).ok()?;
        let claims: Read = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
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

fn encode(part: &impl Serialize) -> Result<String, IssuerError> {
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(part).map_err(|_| IssuerError::Crypto)?))
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
