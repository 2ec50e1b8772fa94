//! A client's own keys.
//!
//! Invariant: they are public, asymmetric, and can be told apart; and no message shows any of them, for somebody may have
//! written a private one.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Finding, Findings, Reason};
use crate::api::{
    FieldPath,
    v1alpha1::{JwkSpec, JwksSpec},
};

/// Members of private and shared keys (RFC 7518 sections 6.2.2, 6.3.2 and 6.4, RFC 8037 section 2).
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "k"];
/// Algorithms of signatures that such keys make (RFC 7518 section 3.1, RFC 8037 section 3.1).
const ALGORITHMS: [&str; 10] =
    ["ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];
/// Bytes of an RSA modulus: 2048 to 8192 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// The JSON Web Key Set that these are.
pub(super) fn public(jwks: &JwksSpec, field: &FieldPath, errors: &mut Findings) -> Value {
    let field = field.field("keys");
    let mut ids = std::collections::BTreeSet::new();
    for (i, key) in jwks.keys.iter().enumerate() {
        let at = field.index(i);
        if let Some(member) = PRIVATE.iter().find(|member| key.0.contains_key(**member)) {
            let message = "a member of a private or shared key";
            let finding = Finding::new(Reason::KeysInvalid, at.field(member), message);
            errors.push(finding.remedy("register public keys only, and replace this one: it has been shown"));
            continue;
        }
        if let Some((member, message)) = fault(key) {
            errors.push(Finding::new(Reason::KeysInvalid, at.field(member), message));
        }
        let id = key.0.get("kid");
        if jwks.keys.len() > 1 && id.is_none_or(|id| id.is_empty() || !ids.insert(id)) {
            let message = "missing, or that of another key: nobody could tell which one signed";
            errors.push(Finding::new(Reason::KeysInvalid, at.field("kid"), message).remedy("give each key a kid"));
        }
    }
    let keys: Vec<Value> = jwks.keys.iter().map(|key| json!(key.0)).collect();
    json!({"keys": keys})
}

/// Which member keeps a key from being one that a signature can be verified with.
fn fault(key: &JwkSpec) -> Option<(&'static str, &'static str)> {
    let text = |name: &str| key.0.get(name).map(String::as_str);
    let bytes = |name: &str| text(name).and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok()).map(|all| all.len());
    if text("use").is_some_and(|for_| for_ != "sig") {
        return Some(("use", "not sig: the client signs with it"));
    }
    if text("alg").is_some_and(|algorithm| !ALGORITHMS.contains(&algorithm)) {
        return Some(("alg", "not an asymmetric signature algorithm"));
    }
    let point: &[(&'static str, usize)] = match (text("kty"), text("crv")) {
        (Some("RSA"), _) if !bytes("n").is_some_and(|length| MODULUS.contains(&length)) => {
            return Some(("n", "not a modulus of 2048 to 8192 bits, in base64url"));
        }
        (Some("RSA"), _) => return bytes("e").is_none().then_some(("e", "not an exponent, in base64url")),
        (Some("OKP"), Some("Ed25519")) => &[("x", 32)],
        (Some("EC"), Some("P-256")) => &[("x", 32), ("y", 32)],
        (Some("EC"), Some("P-384")) => &[("x", 48), ("y", 48)],
        (Some("EC"), Some("P-521")) => &[("x", 66), ("y", 66)],
        (Some("EC" | "OKP"), _) => return Some(("crv", "not P-256, P-384, P-521 or Ed25519")),
        _ => return Some(("kty", "not EC, OKP or RSA")),
    };
    let wrong = point.iter().find(|(name, length)| bytes(name) != Some(*length));
    wrong.map(|(name, _)| (*name, "not a coordinate of the curve, in base64url"))
}
