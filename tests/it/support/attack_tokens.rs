//! Tokens, genuine and forged: the attack matrix, made once and sent to the pipeline and over the wire.
//!
//! Stands alone (no path of the crate), so that unit tests and the integration binary share it.
#![allow(dead_code, unreachable_pub, missing_docs)] // each of the two includes uses its own part
#![allow(clippy::string_slice)] // every sliced text is ASCII made here

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use aws_lc_rs::{encoding, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

/// The clock skew that the attacks assume, in seconds.
pub const SKEW: i64 = 30;
/// The longest lifetime that the attacks assume, in seconds.
pub const MAX_LIFETIME: i64 = 3600;
/// The algorithms that the attacks assume to be allowed.
pub const ALGORITHMS: [&str; 4] = ["ES256", "RS256", "PS256", "EdDSA"];

/// An issuer with one key of each kind (and a second P-256 one), and a stranger's key.
pub struct Forge {
    pub issuer: String,
    pub resource: String,
    /// Where forged headers point to; nothing may ever be fetched from there.
    pub canary: String,
    pub now: i64,
    pub ec: EcdsaKeyPair,
    pub ec_second: EcdsaKeyPair,
    pub rsa: RsaKeyPair,
    pub ed: Ed25519KeyPair,
    pub stranger: EcdsaKeyPair,
}

/// A token that must be refused, and the stable reason for it.
pub struct Attack {
    pub name: String,
    pub token: String,
    pub reason: &'static str,
}

fn ec_key() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
}

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn ec_jwk(kid: &str, key: &EcdsaKeyPair) -> Value {
    let point = key.public_key().as_ref();
    json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": kid, "x": b64(&point[1..33]), "y": b64(&point[33..])})
}

/// `object` with `member` set, or removed if the value is `Value::Null`.
pub fn with(object: &Value, member: &str, value: Value) -> Value {
    let mut object = object.clone();
    let members: &mut Map<String, Value> = object.as_object_mut().unwrap();
    if value.is_null() {
        members.remove(member)
    } else {
        members.insert(member.into(), value)
    };
    object
}

impl Forge {
    pub fn new(issuer: &str, resource: &str, canary: &str, now: i64) -> Forge {
        Forge {
            issuer: issuer.into(),
            resource: resource.into(),
            canary: canary.into(),
            now,
            ec: ec_key(),
            ec_second: ec_key(),
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
            stranger: ec_key(),
        }
    }

    /// The issuer's public keys: `ec-1`, `ec-2`, `rsa-1`, `ed-1`.
    pub fn jwks(&self) -> String {
        let rsa = PublicKeyComponents::<Vec<u8>>::from(self.rsa.public_key());
        let keys = json!([
            ec_jwk("ec-1", &self.ec),
            ec_jwk("ec-2", &self.ec_second),
            {"kty": "RSA", "use": "sig", "kid": "rsa-1", "n": b64(rsa.n), "e": b64(rsa.e)},
            {"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": "ed-1", "x": b64(self.ed.public_key())},
        ]);
        json!({ "keys": keys }).to_string()
    }

    /// The header of a genuine token.
    pub fn header(&self) -> Value {
        json!({"typ": "at+jwt", "alg": "ES256", "kid": "ec-1"})
    }

    /// The claims of a genuine RFC 9068 access token of a person.
    pub fn claims(&self) -> Value {
        json!({
            "iss": self.issuer, "sub": "8f1c", "aud": self.resource, "client_id": "ide", "jti": "id-1",
            "iat": self.now - 10, "exp": self.now + 300, "scope": "mcp:use mcp:admin", "groups": ["engineers", "sre"],
        })
    }

    pub fn genuine(&self) -> String {
        self.token(&self.header(), &self.claims())
    }

    /// Signs with the issuer's key for the header's `alg`; the text is exactly what is passed.
    pub fn token(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string(), header["alg"].as_str().unwrap_or_default())
    }

    pub fn sign_text(&self, header: &str, claims: &str, algorithm: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(claims));
        let signature = self.signature(algorithm, signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }

    fn signature(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |padding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(padding, &random, message, &mut signature).unwrap();
            signature
        };
        match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "EdDSA" => self.ed.sign(message).as_ref().to_vec(),
            _ => self.ec.sign(&random, message).unwrap().as_ref().to_vec(),
        }
    }

    /// The whole matrix, for an authority with RFC 9068 rules, [`ALGORITHMS`], [`SKEW`] and [`MAX_LIFETIME`].
    pub fn attacks(&self) -> Vec<Attack> {
        let mut attacks = Vec::new();
        self.algorithm_attacks(&mut attacks);
        self.key_attacks(&mut attacks);
        self.header_attacks(&mut attacks);
        self.claim_attacks(&mut attacks);
        self.time_attacks(&mut attacks);
        self.shape_attacks(&mut attacks);
        attacks
    }

    /// A token of an issuer that does not mark its access tokens: no `typ`, and these claims changed.
    pub fn unmarked(&self, edits: &[(&str, Value)]) -> String {
        let claims = edits.iter().fold(self.claims(), |claims, (name, value)| with(&claims, name, value.clone()));
        self.token(&with(&self.header(), "typ", Value::Null), &claims)
    }

    /// Tokens of other kinds, for an authority whose access tokens are not marked.
    pub fn other_kinds(&self) -> Vec<Attack> {
        let not_access = "NotAnAccessToken";
        let mut attacks = Vec::new();
        for (name, value) in [
            ("nonce", json!("n")),
            ("at_hash", json!("h")),
            ("c_hash", json!("h")),
            ("s_hash", json!("h")),
            ("events", json!({"http://schemas.openid.net/event/backchannel-logout": {}})),
            ("typ", json!("ID")),
            ("typ", json!("Refresh")),
            ("typ", json!("Logout")),
            ("typ", json!("Offline")),
            ("typ", json!(1)),
            ("scope", Value::Null),
            ("aud", json!("ide")),
            ("aud", json!(["ide"])),
            ("aud", json!(["ide", "ide"])),
        ] {
            let token = self.unmarked(&[(name, value.clone())]);
            push(&mut attacks, &format!("unmarked, {name} {value}"), token, not_access);
        }
        for typ in ["logout+jwt", "oauth-id-jag+jwt", "dpop+jwt", "secevent+jwt", "JWE"] {
            let token = self.token(&with(&self.header(), "typ", json!(typ)), &self.claims());
            push(&mut attacks, &format!("typ {typ}"), token, not_access);
        }
        let resource = &self.resource;
        let cluster = |audiences: Value| {
            let claims = json!({
                "iss": self.issuer, "sub": "system:serviceaccount:ci:bot", "aud": audiences, "iat": self.now,
                "exp": self.now + 300, "kubernetes.io": {"namespace": "ci", "serviceaccount": {"name": "bot"}},
            });
            self.token(&with(&self.header(), "typ", Value::Null), &claims)
        };
        let both = cluster(json!([resource, "https://kubernetes.default.svc"]));
        push(&mut attacks, "Kubernetes token that is good for the API server too", both, not_access);
        let proof = json!({"jti": "p", "htm": "POST", "htu": resource, "iat": self.now});
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": ec_jwk("ec-1", &self.ec)});
        push(&mut attacks, "DPoP proof", self.token(&header, &proof), "ClaimMissing");
        push(&mut attacks, "no client", self.unmarked(&[("client_id", Value::Null)]), "ClaimMissing");
        attacks
    }

    fn algorithm_attacks(&self, attacks: &mut Vec<Attack>) {
        let not_allowed = "TokenAlgorithmNotAllowed";
        let header = self.header();
        let claims = self.claims();
        for name in
            ["none", "None", "NONE", "nOnE", "", "es256", "ES256 ", "ES256K", "ES384", "HS256", "HS512", "A128KW"]
        {
            let header = with(&header, "alg", json!(name));
            let unsigned = format!("{}.{}.", b64(header.to_string()), b64(claims.to_string()));
            push(attacks, &format!("alg {name:?} unsigned"), unsigned, not_allowed);
            push(attacks, &format!("alg {name:?} signed"), self.token(&header, &claims), not_allowed);
        }
        push(attacks, "alg missing", self.token(&with(&header, "alg", Value::Null), &claims), not_allowed);
        push(attacks, "alg number", self.token(&with(&header, "alg", json!(7)), &claims), "TokenHeaderMalformed");
        push(attacks, "alg list", self.token(&with(&header, "alg", json!(["ES256"])), &claims), "TokenHeaderMalformed");

        for (name, secret) in self.public_keys_as_secrets() {
            let header = json!({"typ": "at+jwt", "alg": "HS256", "kid": "rsa-1"});
            let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
            push(attacks, &format!("HS256 keyed with the {name}"), format!("{signed}.{}", b64(tag)), not_allowed);
        }
        for (alg, kid) in
            [("ES256", "rsa-1"), ("RS256", "ec-1"), ("PS256", "ed-1"), ("EdDSA", "ec-1"), ("ES256", "ed-1")]
        {
            let header = json!({"typ": "at+jwt", "alg": alg, "kid": kid});
            push(attacks, &format!("{alg} with key {kid}"), self.token(&header, &claims), "KeyUnfit");
        }
        for (says, signs) in [("RS256", "PS256"), ("PS256", "RS256")] {
            let header = json!({"typ": "at+jwt", "alg": says, "kid": "rsa-1"}).to_string();
            let token = self.sign_text(&header, &claims.to_string(), signs);
            push(attacks, &format!("says {says}, signed with {signs}"), token, "SignatureInvalid");
        }
    }

    fn public_keys_as_secrets(&self) -> Vec<(&'static str, Vec<u8>)> {
        let pkcs1 = self.rsa.public_key().as_ref().to_vec();
        let der: encoding::PublicKeyX509Der<'_> = self.rsa.public_key().as_der().unwrap();
        let spki = der.as_ref().to_vec();
        let pem = |label: &str, der: &[u8]| {
            let lines: Vec<String> = STANDARD
                .encode(der)
                .as_bytes()
                .chunks(64)
                .map(|line| String::from_utf8_lossy(line).into_owned())
                .collect();
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n")).into_bytes()
        };
        vec![
            ("RSA public key PEM", pem("PUBLIC KEY", &spki)),
            ("RSA public key PKCS#1 PEM", pem("RSA PUBLIC KEY", &pkcs1)),
            ("RSA public key DER", spki),
            ("RSA public key PKCS#1 DER", pkcs1),
            ("EC public key", self.ec.public_key().as_ref().to_vec()),
            ("key set", self.jwks().into_bytes()),
            ("empty string", Vec::new()),
        ]
    }

    fn key_attacks(&self, attacks: &mut Vec<Attack>) {
        let header = self.header();
        let claims = self.claims();
        let long = "k".repeat(5000);
        for kid in [
            "../../dev/null",
            "' OR 1=1 --",
            "ec-1\u{0}",
            "EC-1",
            "ec-1 ",
            "",
            "\u{ff45}c-1",
            "https://evil.example/jwks",
            &long,
        ] {
            let name: String = kid.chars().take(20).collect();
            push(
                attacks,
                &format!("kid {name:?}"),
                self.token(&with(&header, "kid", json!(kid)), &claims),
                "KeyUnknown",
            );
        }
        let huge = with(&header, "kid", json!("k".repeat(10_000)));
        push(attacks, "kid of 10 kB", self.token(&huge, &claims), "TokenTooLarge");
        push(attacks, "kid number", self.token(&with(&header, "kid", json!(1)), &claims), "TokenHeaderMalformed");
        push(attacks, "no kid, several keys", self.token(&with(&header, "kid", Value::Null), &claims), "KeyAmbiguous");

        let own_jwk = ec_jwk("ec-1", &self.stranger);
        let pointers = [
            ("jwk", own_jwk.clone()),
            ("jku", json!(format!("{}/jwks", self.canary))),
            ("x5u", json!(format!("{}/cert", self.canary))),
            ("x5c", json!([STANDARD.encode(self.stranger.public_key())])),
            ("jwks", json!({ "keys": [own_jwk] })),
        ];
        for (member, value) in pointers {
            let named = with(&header, member, value);
            push(
                attacks,
                &format!("embedded {member}, known kid"),
                self.by_stranger(&named, &claims),
                "SignatureInvalid",
            );
            let unknown = with(&named, "kid", json!("evil"));
            push(attacks, &format!("embedded {member}, own kid"), self.by_stranger(&unknown, &claims), "KeyUnknown");
        }
        push(
            attacks,
            "another issuer's key under the same kid",
            self.by_stranger(&header, &claims),
            "SignatureInvalid",
        );
        let second = self.token(&with(&header, "kid", json!("ec-2")), &claims);
        push(attacks, "the issuer's other key", second, "SignatureInvalid");
    }

    /// Signed by a key that is not the issuer's.
    pub fn by_stranger(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.stranger.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", b64(signature))
    }

    fn header_attacks(&self, attacks: &mut Vec<Attack>) {
        let header = self.header();
        let claims = self.claims();
        for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!("b64"), json!(false)] {
            let token = self.token(&with(&header, "crit", crit.clone()), &claims);
            push(attacks, &format!("crit {crit}"), token, "TokenCriticalHeader");
        }
        for typ in
            ["JWT", "jwt", "logout+jwt", "oauth-id-jag+jwt", "dpop+jwt", "secevent+jwt", "at+jwt ", "xat+jwt", ""]
        {
            let token = self.token(&with(&header, "typ", json!(typ)), &claims);
            push(attacks, &format!("typ {typ:?}"), token, "NotAnAccessToken");
        }
        push(attacks, "typ missing", self.token(&with(&header, "typ", Value::Null), &claims), "NotAnAccessToken");
        push(
            attacks,
            "typ list",
            self.token(&with(&header, "typ", json!(["at+jwt"])), &claims),
            "TokenHeaderMalformed",
        );
        let cluster = json!({
            "iss": self.issuer, "sub": "system:serviceaccount:ci:bot", "aud": ["https://kubernetes.default.svc"],
            "iat": self.now, "exp": self.now + 300, "kubernetes.io": {"namespace": "ci"},
        });
        push(
            attacks,
            "Kubernetes token for the API server",
            self.token(&with(&header, "typ", Value::Null), &cluster),
            "NotAnAccessToken",
        );
    }

    fn claim_attacks(&self, attacks: &mut Vec<Attack>) {
        let set = |name: &str, value: Value| self.token(&self.header(), &with(&self.claims(), name, value));
        let malformed = "ClaimMalformed";
        for name in ["aud", "iss", "sub", "client_id", "iat", "jti", "exp"] {
            push(attacks, &format!("{name} missing"), set(name, Value::Null), "ClaimMissing");
            push(attacks, &format!("{name} object"), set(name, json!({"a": 1})), malformed);
            push(attacks, &format!("{name} boolean"), set(name, json!(true)), malformed);
        }
        for name in ["iss", "sub", "client_id", "jti", "aud"] {
            for text in ["", "a\nb", "a\u{0}b", "a\u{85}b"] {
                push(attacks, &format!("{name} {text:?}"), set(name, json!(text)), malformed);
            }
        }
        let resource = &self.resource;
        let origin = resource.split('/').take(3).collect::<Vec<_>>().join("/");
        let others = [
            format!("{resource}/"),
            format!("{resource}/more"),
            format!("{resource}?a"),
            format!("{resource}#a"),
            format!(" {resource}"),
            format!("{resource} {resource}"),
            resource.to_uppercase(),
            resource.strip_suffix(|_: char| true).unwrap().to_owned(),
            origin,
            "*".to_owned(),
            self.issuer.clone(),
            "ide".to_owned(),
        ];
        for other in others {
            push(attacks, &format!("aud {other:?}"), set("aud", json!(other)), "AudienceMismatch");
            push(attacks, &format!("aud [{other:?}]"), set("aud", json!(["x", other])), "AudienceMismatch");
        }
        push(attacks, "aud empty list", set("aud", json!([])), malformed);
        push(attacks, "aud list with a number", set("aud", json!([resource, 1])), malformed);
        push(attacks, "aud list in a list", set("aud", json!([[resource]])), malformed);
        push(attacks, "aud of 100 entries", set("aud", json!(vec!["a"; 100])), malformed);
        push(attacks, "aud of 10000 entries", set("aud", json!(vec!["a"; 10_000])), "TokenTooLarge");

        let issuer = &self.issuer;
        for other in [
            format!("{issuer}/"),
            format!("{issuer}/other"),
            issuer.to_uppercase(),
            format!(" {issuer}"),
            format!("{issuer} "),
            "https://evil.example".to_owned(),
        ] {
            push(attacks, &format!("iss {other:?}"), set("iss", json!(other)), "IssuerNotTrusted");
        }
        push(attacks, "iss list", set("iss", json!([issuer])), malformed);
        push(attacks, "scope number", set("scope", json!(1)), malformed);
        push(attacks, "scope list with a number", set("scope", json!(["mcp:use", 1])), malformed);
        for cnf in [json!({"jkt": "x"}), json!({"x5t#S256": "x"}), json!({})] {
            push(attacks, &format!("cnf {cnf}"), set("cnf", cnf.clone()), "SenderConstraintUnsupported");
        }
        let chain =
            |levels: usize| (1..levels).fold(json!({"sub": "a0"}), |inner, _| json!({"sub": "a", "act": inner}));
        let actors = [
            json!("a"),
            json!([]),
            json!({}),
            json!({"sub": 1}),
            json!({"sub": ""}),
            json!({"sub": "a", "iss": 1}),
            json!({"sub": "a", "act": {}}),
            json!({"sub": "a", "act": "b"}),
            chain(11),
        ];
        for actor in actors {
            push(attacks, &format!("act {actor}"), set("act", actor.clone()), "ActorMalformed");
        }
        let own = with(&self.claims(), "sub", json!("ide"));
        let both = self.token(&self.header(), &with(&own, "auth_time", json!(self.now)));
        push(attacks, "client id equal to a person's subject", both, "SubjectAmbiguous");
    }

    fn time_attacks(&self, attacks: &mut Vec<Attack>) {
        let now = self.now;
        let set = |name: &str, value: Value| self.token(&self.header(), &with(&self.claims(), name, value));
        for (value, reason) in [
            (json!(now - SKEW), "TokenExpired"),
            (json!(now - 86_400), "TokenExpired"),
            (json!(0), "TokenExpired"),
            (json!(now as f64 - SKEW as f64 + 0.5), "TokenExpired"),
            (json!((now + 60).to_string()), "ClaimMalformed"),
            (json!(-1), "ClaimMalformed"),
            (json!(1e300), "ClaimMalformed"),
            (json!(u64::MAX), "ClaimMalformed"),
            (json!([now + 60]), "ClaimMalformed"),
            (json!(now + MAX_LIFETIME), "TokenLifetimeTooLong"),
        ] {
            push(attacks, &format!("exp {value}"), set("exp", value.clone()), reason);
        }
        for (name, reason) in [("nbf", "TokenNotYetValid"), ("iat", "TokenIssuedInFuture")] {
            push(attacks, &format!("{name} in the future"), set(name, json!(now + SKEW + 1)), reason);
            push(attacks, &format!("{name} string"), set(name, json!("1")), "ClaimMalformed");
            push(attacks, &format!("{name} negative"), set(name, json!(-1)), "ClaimMalformed");
        }
        let text = self.claims().to_string().replace(&(now + 300).to_string(), "1e400");
        push(attacks, "exp 1e400", self.sign_text(&self.header().to_string(), &text, "ES256"), "TokenMalformed");
    }

    fn shape_attacks(&self, attacks: &mut Vec<Attack>) {
        let malformed = "TokenMalformed";
        let (header, claims) = (self.header().to_string(), self.claims().to_string());
        let raw = |header: &str, claims: &str| self.sign_text(header, claims, "ES256");
        for member in [
            r#""aud":"https://evil.example""#,
            r#""sub":"root""#,
            r#""\u0073ub":"root""#,
            r#""x":{"a":1,"a":2}"#,
            r#""x":[{"a":1,"\u0061":2}]"#,
        ] {
            push(
                attacks,
                &format!("duplicate, last: {member}"),
                raw(&header, &format!("{},{member}}}", &claims[..claims.len() - 1])),
                malformed,
            );
            push(
                attacks,
                &format!("duplicate, first: {member}"),
                raw(&header, &format!("{{{member},{}", &claims[1..])),
                malformed,
            );
        }
        push(attacks, "duplicate alg", raw(&format!(r#"{{"alg":"none",{}"#, &header[1..]), &claims), malformed);
        push(attacks, "byte order mark", raw(&header, &format!("\u{feff}{claims}")), malformed);
        push(attacks, "trailing data", raw(&header, &format!("{claims}{claims}")), malformed);
        push(attacks, "claims are a list", raw(&header, &format!("[{claims}]")), malformed);
        push(attacks, "header is a string", raw("\"ES256\"", &claims), malformed);
        push(attacks, "empty claims", raw(&header, ""), malformed);
        let deep = format!("{}1{}", "[".repeat(2000), "]".repeat(2000));
        push(attacks, "deep nesting", raw(&header, &format!(r#"{{"x":{deep},{}"#, &claims[1..])), malformed);
        push(attacks, "deep header", raw(&format!(r#"{{"x":{deep},{}"#, &header[1..]), &claims), malformed);
        let large = format!(r#"{{"x":"{}",{}"#, "a".repeat(1 << 20), &claims[1..]);
        push(attacks, "token of 1 MB", raw(&header, &large), "TokenTooLarge");
        self.encoding_attacks(attacks);
        self.signature_attacks(attacks);
    }

    fn encoding_attacks(&self, attacks: &mut Vec<Attack>) {
        let malformed = "TokenMalformed";
        // Lengths that leave padding to add, in every segment.
        let header = format!("{} ", self.header());
        let genuine = self.genuine();
        let parts: Vec<&str> = genuine.split('.').collect();
        for (at, part) in ["header", "claims", "signature"].iter().enumerate() {
            let edit = |edit: &dyn Fn(&str) -> String| {
                let mut edited: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
                edited[at] = edit(parts[at]);
                edited.join(".")
            };
            push(attacks, &format!("{part} with ="), edit(&|text| format!("{text}=")), malformed);
            push(
                attacks,
                &format!("{part} with space"),
                edit(&|text| format!("{} {}", &text[..4], &text[4..])),
                malformed,
            );
            push(attacks, &format!("{part} with newline"), edit(&|text| format!("{text}\n")), malformed);
            push(attacks, &format!("{part} with + and /"), edit(&|text| format!("+/{}", &text[2..])), malformed);
        }
        push(attacks, "unused trailing bits", unused_bits(&genuine), malformed);
        let padded = format!("{}.{}", URL_SAFE.encode(&header), URL_SAFE.encode(format!("{}  ", self.claims())));
        let signature = self.signature("ES256", padded.as_bytes());
        push(attacks, "padded and signed so", format!("{padded}.{}", b64(signature)), malformed);
        for text in [
            "",
            ".",
            "..",
            "...",
            "a",
            "a.b",
            "a.b.c.d",
            "a.b.c.d.e",
            &parts[..2].join("."),
            &format!("{genuine}."),
            &format!("{genuine}.x"),
            &format!(".{genuine}"),
        ] {
            let name: String = text.chars().take(12).collect();
            push(attacks, &format!("segments of {name:?}... ({} bytes)", text.len()), text.to_owned(), malformed);
        }
    }

    fn signature_attacks(&self, attacks: &mut Vec<Attack>) {
        let genuine = self.genuine();
        let (signed, signature) = genuine.rsplit_once('.').unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let der =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, self.ec.to_pkcs8v1().unwrap().as_ref()).unwrap();
        let der = der.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        let (r, s) = bytes.split_at(32);
        // The order of P-256 (SEC 2 section 2.4.2): 0 by another name.
        let n = hex_bytes("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
        let forgeries: [(&str, Vec<u8>); 10] = [
            ("empty", Vec::new()),
            ("r = s = 0", vec![0; 64]),
            ("r = 0", [&[0; 32], s].concat()),
            ("s = 0", [r, &[0; 32]].concat()),
            ("r = s = n", [n.as_slice(), &n].concat()),
            ("s = n", [r, &n].concat()),
            ("r = s = 1", [vec![0; 31], vec![1], vec![0; 31], vec![1]].concat()),
            ("truncated", bytes[..63].to_vec()),
            ("lengthened", [bytes.as_slice(), &[0]].concat()),
            ("DER instead of fixed", der.as_ref().to_vec()),
        ];
        for (name, forged) in forgeries {
            push(attacks, &format!("signature {name}"), format!("{signed}.{}", b64(forged)), "SignatureInvalid");
        }
        let other = b64(with(&self.claims(), "sub", json!("root")).to_string());
        let header = b64(self.header().to_string());
        push(attacks, "claims exchanged", format!("{header}.{other}.{signature}"), "SignatureInvalid");
    }
}

fn hex_bytes(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// The same signature bytes with other unused bits in the last character.
fn unused_bits(token: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = token.as_bytes().to_vec();
    let last = text.pop().unwrap();
    let value = ALPHABET.iter().position(|one| *one == last).unwrap();
    text.push(ALPHABET[value ^ 1]);
    String::from_utf8(text).unwrap()
}

fn push(attacks: &mut Vec<Attack>, name: &str, token: String, reason: &'static str) {
    attacks.push(Attack { name: name.to_owned(), token, reason });
}
