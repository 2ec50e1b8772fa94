//! JSON Web Keys as documents (RFC 7517): which key one is, and whether it may be shown.
//!
//! Invariant: a key is known by its RFC 7638 thumbprint, which depends on nothing but the key itself; no key with private
//! or symmetric members passes for a public one.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

/// The most keys of one set.
const MAX_KEYS: usize = 100;
/// Members that only private or symmetric keys have (RFC 7518 sections 6.2.2, 6.3.2, 6.4.1).
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Whether it has members that nobody but its owner may see.
pub fn has_secrets(jwk: &Map<String, Value>) -> bool {
    SECRET_MEMBERS.iter().any(|member| jwk.contains_key(*member))
}

/// The key's thumbprint (RFC 7638 section 3, with SHA-256); `None` if it is no public key of a known type.
pub fn thumbprint(jwk: &Map<String, Value>) -> Option<String> {
    // RFC 7638 section 3.2; RFC 8037 section 2 for OKP. In the order of their code points, as section 3.3 wants them.
    let members: &[&str] = match jwk.get("kty")?.as_str()? {
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        "RSA" => &["e", "kty", "n"],
        _ => return None,
    };
    let member = |name: &&str| Some(format!("{}:{}", Value::from(*name), Value::from(jwk.get(*name)?.as_str()?)));
    let canonical = members.iter().map(member).collect::<Option<Vec<_>>>()?.join(",");
    Some(URL_SAFE_NO_PAD.encode(digest(&SHA256, format!("{{{canonical}}}").as_bytes())))
}

/// The keys of a set (RFC 7517 section 5); `None` if it is none, or a very large one.
pub fn keys(jwks: &Value) -> Option<Vec<&Map<String, Value>>> {
    let keys = jwks.get("keys")?.as_array().filter(|keys| keys.len() <= MAX_KEYS)?;
    keys.iter().map(Value::as_object).collect()
}

/// The set without what only the owner of a key may see.
pub fn public_part(jwks: &Value) -> Option<Value> {
    let public = |key: &Map<String, Value>| {
        let members = key.iter().filter(|(name, _)| !SECRET_MEMBERS.contains(&name.as_str()));
        Value::Object(members.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    Some(json!({"keys": keys(jwks)?.into_iter().map(public).collect::<Vec<_>>()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(jwk: Value) -> Option<String> {
        thumbprint(jwk.as_object().unwrap())
    }

    #[test]
    fn thumbprints_are_those_of_the_specifications() {
        // RFC 7638 section 3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let rsa = json!({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"});
        assert_eq!(print(rsa).as_deref(), Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"));
        // RFC 8037 appendix A.3.
        let okp = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        assert_eq!(print(okp).as_deref(), Some("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"));
    }

    #[test]
    fn only_the_key_itself_makes_its_thumbprint() {
        let key = json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
        let mut dressed = key.clone();
        dressed["kid"] = json!("one");
        dressed["use"] = json!("sig");
        assert_eq!(print(key.clone()), print(dressed));
        let mut other = key;
        other["y"] = json!("y_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
        assert_ne!(print(other.clone()), None);
        for (member, value) in [("kty", json!("oct")), ("kty", json!(1)), ("x", json!(1)), ("crv", json!(null))] {
            let mut broken = other.clone();
            broken[member] = value;
            assert_eq!(print(broken), None, "{member}");
        }
        assert_eq!(print(json!({})), None);
    }

    #[test]
    fn what_is_secret_in_a_set_is_found_and_taken_out() {
        let key = json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"});
        let set = json!({"keys": [key, key]});
        assert!(keys(&set).unwrap().into_iter().all(|key| !has_secrets(key)));
        assert_eq!(public_part(&set), Some(set));
        for member in SECRET_MEMBERS {
            let mut secret = key.clone();
            secret[member] = json!("AAAA");
            assert!(has_secrets(secret.as_object().unwrap()), "{member}");
            assert_eq!(
                public_part(&json!({"keys": [secret], member: "AAAA"})),
                Some(json!({"keys": [key]})),
                "{member}"
            );
        }
    }

    #[test]
    fn what_is_no_set_of_keys_is_none() {
        let key = json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"});
        for other in [json!([key]), json!({"keys": {}}), json!({"keys": ["x"]}), json!({}), json!(null)] {
            assert_eq!((keys(&other), public_part(&other)), (None, None), "{other}");
        }
        assert_eq!(keys(&json!({"keys": vec![key; MAX_KEYS + 1]})), None);
        assert_eq!(keys(&json!({"keys": []})), Some(Vec::new()));
    }
}
