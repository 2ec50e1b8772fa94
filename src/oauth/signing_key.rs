//! A key pair for ES256 (RFC 7518 section 3.4), and the JWTs that it signs.
//!
//! Invariant: the private key leaves this type never, and what it signs is what its public key verifies. Its id is its
//! RFC 7638 thumbprint: two keys never share one, and a key has the same one wherever it is published.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value};

use super::jwk;

const ALG: &str = "ES256";

/// The bytes are no such key, or the cryptographic library failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signing key could not be made or used")]
pub struct KeyError;

impl KeyError {
    /// A stable word for conditions and logs.
    pub fn reason(&self) -> &'static str {
        "SigningKeyUnusable"
    }
}

/// A key pair that signs.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    kid: String,
    public: Map<String, Value>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// In this order on the wire: a token is read back by comparing it.
#[derive(Serialize)]
struct Header<'a> {
    typ: &'a str,
    alg: &'static str,
    kid: &'a str,
}

impl SigningKey {
    /// A new key, as PKCS#8.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn generate() -> Result<Vec<u8>, KeyError> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| KeyError)?;
        Ok(key.to_pkcs8v1().map_err(|_| KeyError)?.as_ref().to_vec())
    }

    /// A key that [`SigningKey::generate`] made.
    ///
    /// # Errors
    /// If it is no such key.
    pub fn new(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(|_| KeyError)?;
        // An uncompressed point (SEC 1 section 2.3.3): 4, then x and y of 32 bytes each.
        let point = pair.public_key().as_ref();
        let (Some(4), Some(x), Some(y), 65) = (point.first(), point.get(1..33), point.get(33..65), point.len()) else {
            return Err(KeyError);
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let mut public = Map::new();
        for (name, value) in [("kty", "EC"), ("crv", "P-256"), ("x", &x), ("y", &y), ("use", "sig"), ("alg", ALG)] {
            public.insert(name.to_owned(), Value::from(value));
        }
        let kid = jwk::thumbprint(&public).ok_or(KeyError)?;
        public.insert("kid".to_owned(), Value::from(kid.as_str()));
        Ok(Self { pair, kid, public })
    }

    /// The key's id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key as a JSON Web Key.
    pub fn public_jwk(&self) -> Value {
        Value::Object(self.public.clone())
    }

    /// A JWT of this type with these claims.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn sign(&self, typ: &str, claims: &impl Serialize) -> Result<String, KeyError> {
        let mut token = self.header(typ)?;
        token.push('.');
        token.push_str(&encode(claims)?);
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| KeyError)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// The claims of a JWT of this type that this key has signed, as JSON; `None` of any other text.
    pub fn claims(&self, typ: &str, token: &str) -> Option<Vec<u8>> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let signature =
            URL_SAFE_NO_PAD.decode(signature).ok().filter(|_| self.header(typ).is_ok_and(|h| h == header))?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        key.verify(signed.as_bytes(), &signature).ok()?;
        URL_SAFE_NO_PAD.decode(claims).ok()
    }

    fn header(&self, typ: &str) -> Result<String, KeyError> {
        encode(&Header { typ, alg: ALG, kid: &self.kid })
    }
}

fn encode(part: &impl Serialize) -> Result<String, KeyError> {
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(part).map_err(|_| KeyError)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_the_same_wherever_it_is_loaded_and_shows_its_public_half_only() {
        let pkcs8 = SigningKey::generate().unwrap();
        let (one, two) = (SigningKey::new(&pkcs8).unwrap(), SigningKey::new(&pkcs8).unwrap());
        assert_eq!((one.kid(), one.public_jwk()), (two.kid(), two.public_jwk()));
        let public = one.public_jwk();
        assert_eq!(public["kid"], one.kid());
        let names: Vec<_> = public.as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["alg", "crv", "kid", "kty", "use", "x", "y"]);
        assert_eq!(format!("{one:?}"), format!("SigningKey {{ kid: {:?}, .. }}", one.kid()));
        assert_ne!(SigningKey::new(&SigningKey::generate().unwrap()).unwrap().kid(), one.kid());
    }

    #[test]
    fn a_token_is_read_back_as_what_it_is_and_nothing_else_is() {
        let key = SigningKey::new(&SigningKey::generate().unwrap()).unwrap();
        let token = key.sign("at+jwt", &json!({"sub": "a"})).unwrap();
        assert_eq!(key.claims("at+jwt", &token).unwrap(), br#"{"sub":"a"}"#);
        assert_eq!(key.claims("JWT", &token), None, "another type of token");
        let stranger = SigningKey::new(&SigningKey::generate().unwrap()).unwrap();
        assert_eq!(stranger.claims("at+jwt", &token), None);
        let parts: Vec<&str> = token.split('.').collect();
        let other = key.sign("at+jwt", &json!({"sub": "b"})).unwrap();
        let swapped = format!("{}.{}.{}", parts[0], other.split('.').nth(1).unwrap(), parts[2]);
        for text in ["", "a.b.c", &swapped, &format!("{token}."), &format!("{token}A")] {
            assert_eq!(key.claims("at+jwt", text), None, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        let pkcs8 = SigningKey::generate().unwrap();
        for bytes in [&b""[..], b"not a key", &pkcs8[..pkcs8.len() - 1]] {
            assert_eq!(SigningKey::new(bytes).unwrap_err(), KeyError);
        }
        assert_eq!(KeyError.reason(), "SigningKeyUnusable");
    }
}
