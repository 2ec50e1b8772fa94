//! An issuer's public keys, prepared so that verifying a signature parses nothing.
//!
//! Invariant: every key in a [`KeySetParsed`] is public, meant for signatures, of an allowed asymmetric algorithm and of
//! sound size; a (key id, algorithm) names at most one key. Key types that are not understood are skipped, as RFC 7517
//! section 5 asks; a document with private or shared-secret members is refused whole.

use std::collections::BTreeSet;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::oauth::json::{self, JsonError};
use crate::oauth::jwk::has_secrets;

/// The longest accepted JWKS document, in bytes.
pub const MAX_JWKS_BYTES: usize = 512 * 1024;
/// The most keys that a JWKS document may list.
pub const MAX_KEYS: usize = 100;
/// Accepted RSA modulus sizes, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A signature algorithm that an authority may allow. There is no symmetric one, and no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA P-256 with SHA-256.
    Es256,
    /// ECDSA P-384 with SHA-384.
    Es384,
    /// ECDSA P-521 with SHA-512.
    Es512,
    /// Ed25519 under its older name (RFC 8037).
    EdDsa,
    /// Ed25519 under its own name (RFC 9864).
    Ed25519,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
}

impl Algorithm {
    /// The names of all algorithms that may be allowed.
    pub const NAMES: [&'static str; 11] =
        ["ES256", "ES384", "ES512", "EdDSA", "Ed25519", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

    const ALL: [Algorithm; 11] = [
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::Es512,
        Algorithm::EdDsa,
        Algorithm::Ed25519,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
    ];

    /// The algorithm of this exact JOSE name.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The JOSE name.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::Es512 => "ES512",
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Ed25519 => "Ed25519",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
        }
    }
}

/// Why a JWKS document is not acceptable. Carries no key material.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Longer than [`MAX_JWKS_BYTES`].
    #[error("the key set is longer than {MAX_JWKS_BYTES} bytes")]
    TooLarge,
    /// Not strict JSON.
    #[error("the key set is unreadable: {0}")]
    Json(#[from] JsonError),
    /// No `keys` array of objects.
    #[error("the key set has no `keys` array of objects")]
    Shape,
    /// More than [`MAX_KEYS`] keys.
    #[error("the key set lists more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// A private or symmetric key is published: whoever fetched the document can sign.
    #[error("key {index} (counted from 0) of the key set has secret members: replace it at the issuer")]
    SecretMembers {
        /// Position in `keys`.
        index: usize,
    },
    /// Two usable keys under one id and algorithm: which one counts would depend on the reader.
    #[error("key {index} (counted from 0) of the key set repeats an earlier key id")]
    DuplicateKey {
        /// Position in `keys`.
        index: usize,
    },
}

impl KeySetError {
    /// A stable word for conditions, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            KeySetError::TooLarge => "KeySetTooLarge",
            KeySetError::Json(error) => error.reason(),
            KeySetError::Shape => "KeySetMalformed",
            KeySetError::TooManyKeys => "KeySetTooManyKeys",
            KeySetError::SecretMembers { .. } => "KeySetHasSecrets",
            KeySetError::DuplicateKey { .. } => "KeySetDuplicateKey",
        }
    }
}

/// The keys of one JWKS document that fit an authority's algorithms.
#[derive(Debug)]
pub struct KeySetParsed {
    keys: Vec<PreparedKey>,
}

/// One key, ready to verify with one algorithm.
#[derive(Debug)]
pub(super) struct PreparedKey {
    id: Option<Box<str>>,
    algorithm: Algorithm,
    key: ParsedPublicKey,
}

/// Why no key was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// No key of that id; the issuer may have published it since.
    Unknown,
    /// The key of that id is for other algorithms.
    Unfit,
    /// The token names no key and several would do.
    Ambiguous,
}

/// The ids of all keys of a JWKS document, of whatever use, if [`KeySetParsed::parse`] would accept it for any algorithms.
pub fn key_ids(jwks: &str) -> Result<BTreeSet<String>, KeySetError> {
    let listed = listed(jwks)?;
    KeySetParsed::of(&listed, &Algorithm::ALL)?;
    Ok(listed.iter().filter_map(|jwk| jwk.get("kid")?.as_str()).map(str::to_owned).collect())
}

/// The members of `keys`.
fn listed(jwks: &str) -> Result<Vec<Value>, KeySetError> {
    if jwks.len() > MAX_JWKS_BYTES {
        return Err(KeySetError::TooLarge);
    }
    let mut document = json::object(jwks.as_bytes())?;
    match document.remove("keys") {
        Some(Value::Array(listed)) if listed.len() <= MAX_KEYS => Ok(listed),
        Some(Value::Array(_)) => Err(KeySetError::TooManyKeys),
        _ => Err(KeySetError::Shape),
    }
}

impl KeySetParsed {
    /// Parses a JWKS document and keeps the keys that can verify one of `algorithms`.
    pub fn parse(jwks: &str, algorithms: &[Algorithm]) -> Result<KeySetParsed, KeySetError> {
        Self::of(&listed(jwks)?, algorithms)
    }

    fn of(listed: &[Value], algorithms: &[Algorithm]) -> Result<KeySetParsed, KeySetError> {
        let mut keys: Vec<PreparedKey> = Vec::new();
        for (index, listed) in listed.iter().enumerate() {
            let jwk = listed.as_object().ok_or(KeySetError::Shape)?;
            if has_secrets(jwk) {
                return Err(KeySetError::SecretMembers { index });
            }
            for key in prepare(jwk, algorithms) {
                if keys.iter().any(|known| known.id.is_some() && known.id == key.id && known.algorithm == key.algorithm)
                {
                    return Err(KeySetError::DuplicateKey { index });
                }
                keys.push(key);
            }
        }
        Ok(KeySetParsed { keys })
    }

    /// How many (key, algorithm) pairs can be used; zero refuses every token.
    pub fn usable(&self) -> usize {
        self.keys.len()
    }

    /// The one key for a token with this `kid` and `alg`.
    pub(super) fn select(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&PreparedKey, NoKey> {
        let fitting = |key: &&PreparedKey| key.algorithm == algorithm;
        let Some(kid) = kid else {
            let mut candidates = self.keys.iter().filter(fitting);
            let only = candidates.next().ok_or(NoKey::Unknown)?;
            return if candidates.next().is_none() { Ok(only) } else { Err(NoKey::Ambiguous) };
        };
        let mut named = self.keys.iter().filter(|key| key.id.as_deref() == Some(kid)).peekable();
        if named.peek().is_none() {
            return Err(NoKey::Unknown);
        }
        named.find(fitting).ok_or(NoKey::Unfit)
    }
}

impl PreparedKey {
    /// Whether `signature` is this key's over `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }
}

/// The JWK, ready for each allowed algorithm that it fits; nothing for keys of other uses, kinds or sizes.
fn prepare(jwk: &Map<String, Value>, algorithms: &[Algorithm]) -> Vec<PreparedKey> {
    let id = match jwk.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.as_str().into()),
        Some(_) => return Vec::new(),
    };
    if !is_for_signatures(jwk) {
        return Vec::new();
    }
    let declared = jwk.get("alg");
    let fits = |algorithm: &&Algorithm| declared.is_none_or(|alg| alg.as_str() == Some(algorithm.name()));
    let prepared = |algorithm: &Algorithm| {
        public_key(jwk, *algorithm).map(|key| PreparedKey { id: id.clone(), algorithm: *algorithm, key })
    };
    algorithms.iter().filter(fits).filter_map(prepared).collect()
}

fn is_for_signatures(jwk: &Map<String, Value>) -> bool {
    let use_fits = jwk.get("use").is_none_or(|usage| usage.as_str() == Some("sig"));
    let verifies = |operations: &Value| {
        operations.as_array().is_some_and(|operations| operations.iter().any(|one| one.as_str() == Some("verify")))
    };
    use_fits && jwk.get("key_ops").is_none_or(verifies)
}

fn public_key(jwk: &Map<String, Value>, algorithm: Algorithm) -> Option<ParsedPublicKey> {
    let kty = jwk.get("kty")?.as_str()?;
    match algorithm {
        Algorithm::Es256 => ec_key(jwk, kty, ("P-256", 32), &signature::ECDSA_P256_SHA256_FIXED),
        Algorithm::Es384 => ec_key(jwk, kty, ("P-384", 48), &signature::ECDSA_P384_SHA384_FIXED),
        Algorithm::Es512 => ec_key(jwk, kty, ("P-521", 66), &signature::ECDSA_P521_SHA512_FIXED),
        Algorithm::EdDsa | Algorithm::Ed25519 => {
            let is_ed25519 = kty == "OKP" && jwk.get("crv")?.as_str()? == "Ed25519";
            let point = bytes(jwk, "x").filter(|point| is_ed25519 && point.len() == 32)?;
            ParsedPublicKey::new(&signature::ED25519, point).ok()
        }
        Algorithm::Ps256 => rsa_key(jwk, kty, &signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => rsa_key(jwk, kty, &signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => rsa_key(jwk, kty, &signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::Rs256 => rsa_key(jwk, kty, &signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => rsa_key(jwk, kty, &signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => rsa_key(jwk, kty, &signature::RSA_PKCS1_2048_8192_SHA512),
    }
}

fn ec_key(
    jwk: &Map<String, Value>,
    kty: &str,
    (curve, width): (&str, usize),
    algorithm: &'static signature::EcdsaVerificationAlgorithm,
) -> Option<ParsedPublicKey> {
    let is_curve = kty == "EC" && jwk.get("crv")?.as_str()? == curve;
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if !is_curve || x.len() != width || y.len() != width {
        return None;
    }
    // An uncompressed point, SEC 1 section 2.3.3.
    ParsedPublicKey::new(algorithm, [&[0x04], x.as_slice(), y.as_slice()].concat()).ok()
}

fn rsa_key(
    jwk: &Map<String, Value>,
    kty: &str,
    algorithm: &'static signature::RsaParameters,
) -> Option<ParsedPublicKey> {
    // Some issuers write leading zero octets, though RFC 7518 sections 6.3.1.1 and 6.3.1.2 say not to.
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    let (n, e) = (without_leading_zeros(&n), without_leading_zeros(&e));
    let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
    if kty != "RSA" || !RSA_BITS.contains(&bits) || !is_sound_exponent(e) {
        return None;
    }
    RsaPublicKeyComponents { n, e }.to_parsed_public_key(algorithm).ok()
}

/// Odd and not one: with an exponent of one, every message is its own signature.
fn is_sound_exponent(e: &[u8]) -> bool {
    e != [1] && e.last().is_some_and(|last| last % 2 == 1)
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

fn bytes(jwk: &Map<String, Value>, member: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(jwk.get(member)?.as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize, PublicKeyComponents};
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use serde_json::json;

    use super::*;

    fn ec() -> Value {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let coordinate = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "kid": "a", "x": coordinate(&point[1..33]), "y": coordinate(&point[33..])})
    }

    fn rsa(n: &[u8]) -> Value {
        json!({"kty": "RSA", "kid": "r", "n": URL_SAFE_NO_PAD.encode(n), "e": "AQAB"})
    }

    fn edit(mut key: Value, member: &str, value: Value) -> Value {
        key[member] = value;
        key
    }

    fn usable(keys: &[Value]) -> Result<usize, KeySetError> {
        KeySetParsed::parse(&json!({ "keys": keys }).to_string(), &Algorithm::ALL).map(|set| set.usable())
    }

    #[test]
    fn names_and_algorithms_go_both_ways() {
        assert_eq!(Algorithm::ALL.map(Algorithm::name), Algorithm::NAMES);
        for name in Algorithm::NAMES {
            assert_eq!(Algorithm::from_name(name).map(Algorithm::name), Some(name));
        }
        for name in ["none", "HS256", "HS384", "HS512", "rs256", "", "A256GCM"] {
            assert_eq!(Algorithm::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn keys_for_other_uses_and_unknown_kinds_are_skipped() {
        assert_eq!(usable(&[ec()]), Ok(1));
        assert_eq!(usable(&[]), Ok(0));
        for (member, value) in [
            ("use", json!("enc")),
            ("use", json!(1)),
            ("key_ops", json!(["encrypt"])),
            ("key_ops", json!("verify")),
            ("kid", json!(1)),
            ("alg", json!("RS256")),
            ("alg", json!("ES384")),
            ("kty", json!("RSA")),
            ("kty", json!("AKP")),
            ("crv", json!("secp256k1")),
            ("crv", json!("P-384")),
            ("x", json!("AAAA")),
            ("x", json!(1)),
            ("y", ec()["y"].clone()),
        ] {
            assert_eq!(usable(&[edit(ec(), member, value.clone())]), Ok(0), "{member} {value}");
        }
        let signs = [edit(edit(ec(), "use", json!("sig")), "key_ops", json!(["verify"]))];
        assert_eq!(usable(&signs), Ok(1));
    }

    #[test]
    fn published_secrets_refuse_the_whole_set() {
        for member in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            let keys = [ec(), edit(edit(ec(), "kid", json!("b")), member, json!("AAAA"))];
            assert_eq!(usable(&keys), Err(KeySetError::SecretMembers { index: 1 }), "{member}");
        }
        assert_eq!(usable(&[json!({"kty": "oct", "k": "AAAA"})]), Err(KeySetError::SecretMembers { index: 0 }));
    }

    #[test]
    fn one_id_names_one_key_of_an_algorithm() {
        assert_eq!(usable(&[ec(), ec()]), Err(KeySetError::DuplicateKey { index: 1 }));
        assert_eq!(usable(&[ec(), edit(ec(), "use", json!("enc"))]), Ok(1), "an encryption key does not count");
        assert_eq!(usable(&[ec(), edit(ec(), "kid", json!("b"))]), Ok(2));
    }

    #[test]
    fn rsa_sizes_are_bounded() {
        let genuine = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let n = PublicKeyComponents::<Vec<u8>>::from(genuine.public_key()).n;
        assert_eq!(usable(&[rsa(&n)]), Ok(6), "one for each RSA algorithm");
        assert_eq!(usable(&[edit(rsa(&n), "alg", json!("PS256"))]), Ok(1));
        assert_eq!(usable(&[rsa(&[&[0], n.as_slice()].concat())]), Ok(6), "a leading zero is no bit");
        for bytes in [0, 1, 64, 128, 255, 1025] {
            assert_eq!(usable(&[rsa(&vec![0xff; bytes])]), Ok(0), "{bytes}");
        }
        let mut short = n.clone();
        short[0] = 0x7f;
        assert_eq!(usable(&[rsa(&short)]), Ok(0), "2047 bits");
        for exponent in ["", "AA", "AQ", "AAAB", "Ag", "AQAA"] {
            assert_eq!(usable(&[edit(rsa(&n), "e", json!(exponent))]), Ok(0), "e = {exponent:?}");
        }
    }

    #[test]
    fn documents_are_bounded_and_strict() {
        let parse = |text: &str| KeySetParsed::parse(text, &Algorithm::ALL).map(|set| set.usable());
        assert_eq!(parse(&" ".repeat(MAX_JWKS_BYTES + 1)), Err(KeySetError::TooLarge));
        assert_eq!(usable(&vec![json!({}); MAX_KEYS]), Ok(0));
        assert_eq!(usable(&vec![json!({}); MAX_KEYS + 1]), Err(KeySetError::TooManyKeys));
        for text in ["{}", r#"{"keys":{}}"#, r#"{"keys":[1]}"#] {
            assert_eq!(parse(text), Err(KeySetError::Shape), "{text}");
        }
        assert_eq!(parse(r#"{"keys":[],"keys":[]}"#), Err(KeySetError::Json(JsonError::DuplicateMember)));
        assert_eq!(parse("[]"), Err(KeySetError::Json(JsonError::NotAnObject)));
    }

    #[test]
    fn only_allowed_algorithms_are_prepared() {
        let jwks = json!({"keys": [ec()]}).to_string();
        assert_eq!(KeySetParsed::parse(&jwks, &[Algorithm::Rs256]).unwrap().usable(), 0);
        assert_eq!(KeySetParsed::parse(&jwks, &[Algorithm::Es256]).unwrap().usable(), 1);
    }

    #[test]
    fn selection_is_exact() {
        let keys = [ec(), edit(ec(), "kid", json!("b"))];
        let set = KeySetParsed::parse(&json!({ "keys": keys }).to_string(), &Algorithm::ALL).unwrap();
        let select = |kid, algorithm| set.select(kid, algorithm).map(|key| key.id.clone()).map_err(Some);
        assert_eq!(select(Some("b"), Algorithm::Es256), Ok(Some("b".into())));
        assert_eq!(select(Some("c"), Algorithm::Es256), Err(Some(NoKey::Unknown)));
        assert_eq!(select(Some("b"), Algorithm::Rs256), Err(Some(NoKey::Unfit)));
        assert_eq!(select(None, Algorithm::Es256), Err(Some(NoKey::Ambiguous)));
        assert_eq!(select(None, Algorithm::Rs256), Err(Some(NoKey::Unknown)));
    }

    fn verifies(jwk: &Value, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        let set = KeySetParsed::parse(&json!({ "keys": [jwk] }).to_string(), &[algorithm]).unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        set.select(None, algorithm).unwrap().verifies(message.as_bytes(), &signature)
    }

    /// RFC 7515 appendix A.3 and RFC 8037 appendix A.4.
    #[test]
    fn published_examples_verify() {
        let ec = json!({
            "kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        });
        let message = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        assert!(verifies(&ec, Algorithm::Es256, message, signature));
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        let message = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        assert!(verifies(&ed, Algorithm::EdDsa, message, signature));
        assert!(verifies(&ed, Algorithm::Ed25519, message, signature), "the same under its newer name");
    }

    /// Signed by another library's reading of the same names.
    #[test]
    fn each_name_means_what_it_means_elsewhere() {
        use jsonwebtoken::{Algorithm as Theirs, EncodingKey, crypto};
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let components = PublicKeyComponents::<Vec<u8>>::from(rsa.public_key());
        let rsa_jwk =
            json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(components.n), "e": URL_SAFE_NO_PAD.encode(components.e)});
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = aws_lc_rs::encoding::AsDer::as_der(&rsa).unwrap();
        let base64 = base64::engine::general_purpose::STANDARD.encode(pkcs8.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n");
        let rsa_key = EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap();
        let p384 = EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let point = p384.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..49]), URL_SAFE_NO_PAD.encode(&point[49..]));
        let ec_jwk = json!({"kty": "EC", "crv": "P-384", "x": x, "y": y});
        let ec_key = EncodingKey::from_ec_der(p384.to_pkcs8v1().unwrap().as_ref());
        for (ours, theirs, jwk, key) in [
            (Algorithm::Rs256, Theirs::RS256, &rsa_jwk, &rsa_key),
            (Algorithm::Rs384, Theirs::RS384, &rsa_jwk, &rsa_key),
            (Algorithm::Rs512, Theirs::RS512, &rsa_jwk, &rsa_key),
            (Algorithm::Ps256, Theirs::PS256, &rsa_jwk, &rsa_key),
            (Algorithm::Ps384, Theirs::PS384, &rsa_jwk, &rsa_key),
            (Algorithm::Ps512, Theirs::PS512, &rsa_jwk, &rsa_key),
            (Algorithm::Es384, Theirs::ES384, &ec_jwk, &ec_key),
        ] {
            let signed = crypto::sign(b"message", key, theirs).unwrap();
            assert!(verifies(jwk, ours, "message", &signed), "{ours:?}");
            assert!(!verifies(jwk, ours, "massage", &signed), "{ours:?}");
        }
        let p521 = EcdsaKeyPair::generate(&signature::ECDSA_P521_SHA512_FIXED_SIGNING).unwrap();
        let point = p521.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..67]), URL_SAFE_NO_PAD.encode(&point[67..]));
        let signed = p521.sign(&aws_lc_rs::rand::SystemRandom::new(), b"message").unwrap();
        let jwk = json!({"kty": "EC", "crv": "P-521", "x": x, "y": y});
        assert!(verifies(&jwk, Algorithm::Es512, "message", &URL_SAFE_NO_PAD.encode(signed)));
    }
}
