//! Keys and JWTs, well-formed or hostile: header and claims are signed as given.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

enum Pair {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

/// A signing key with its `kid`.
pub(crate) struct Key {
    kid: String,
    pair: Pair,
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Key {
    /// A new P-256 key.
    pub(crate) fn es256(kid: &str) -> Self {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
        Self { kid: kid.to_owned(), pair: Pair::Es256(pair) }
    }

    /// A new Ed25519 key.
    pub(crate) fn eddsa(kid: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { kid: kid.to_owned(), pair: Pair::EdDsa(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()) }
    }

    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    pub(crate) fn alg(&self) -> &'static str {
        match self.pair {
            Pair::Es256(_) => "ES256",
            Pair::EdDsa(_) => "EdDSA",
        }
    }

    /// The public half, for a JWKS.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = json!({"kid": self.kid, "use": "sig", "alg": self.alg()});
        let parts = match &self.pair {
            Pair::Es256(pair) => {
                let point = pair.public_key().as_ref(); // 0x04, x, y
                json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..65])})
            }
            Pair::EdDsa(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())}),
        };
        jwk.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
        jwk
    }

    /// The JOSE header that an RFC 9068 issuer writes.
    pub(crate) fn header(&self) -> Value {
        json!({"alg": self.alg(), "kid": self.kid, "typ": "at+jwt"})
    }

    /// Signs `header` and `claims` exactly as given, whatever they claim.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_bytes(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    /// Signs a token whose two parts are any bytes, for duplicate members and broken JSON.
    pub(crate) fn sign_bytes(&self, header: &[u8], claims: &[u8]) -> String {
        let input = format!("{}.{}", encode(header), encode(claims));
        let signature = match &self.pair {
            Pair::Es256(pair) => pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::EdDsa(pair) => pair.sign(input.as_bytes()).as_ref().to_vec(),
        };
        format!("{input}.{}", encode(&signature))
    }
}

/// A token that no key signed: `signature` is what stands in the third part.
pub(crate) fn unsigned(header: &Value, claims: &Value, signature: &[u8]) -> String {
    format!("{}.{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()), encode(signature))
}
