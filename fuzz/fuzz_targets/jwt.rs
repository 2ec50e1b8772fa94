//! Arbitrary text as a token, as the claims and as the header of a token that is signed with a trusted key.
//!
//! Holds: nothing unsigned is ever believed, nothing panics, and what is believed has a whole, printable identity.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use portcullis::generated::ObjectId;
use portcullis::generated::authority::{Authority, KeySet, KeySource, TokenRules, TypRule};
use portcullis::identity::anchor::Anchor;
use portcullis::identity::keys::{Algorithm, KeySetParsed};
use portcullis::identity::token::{Use, admit, verify};

#[path = "../../tests/it/support/attack_tokens.rs"]
mod attack_tokens;

use attack_tokens::{ALGORITHMS, Forge};

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://as.example";
const RESOURCE: &str = "https://gw.example/a/b";

static FORGE: LazyLock<Forge> = LazyLock::new(|| Forge::new(ISSUER, RESOURCE, "https://canary.invalid", NOW));
static STRICT: LazyLock<[Arc<Anchor>; 1]> = LazyLock::new(|| [Arc::new(anchor(TypRule::AccessTokenJwt))]);
static COMPATIBLE: LazyLock<[Arc<Anchor>; 1]> = LazyLock::new(|| [Arc::new(anchor(TypRule::Compatible))]);

fn anchor(typ: TypRule) -> Anchor {
    let authority = Authority {
        id: ObjectId { uid: "uid".into(), namespace: String::new(), name: "corp".into(), generation: 1 },
        issuer: ISSUER.into(),
        rules: TokenRules {
            typ,
            algorithms: ALGORITHMS.map(str::to_owned).into(),
            skew_seconds: 30,
            max_lifetime_seconds: None,
            subject_claim: "sub".into(),
            tenant_claim: None,
            client_claims: vec!["client_id".into(), "azp".into()],
            groups_claim: Some("groups".into()),
            allowed_audiences: Vec::new(),
        },
        keys: KeySource::Local,
        key_set: Some(KeySet { jwks: FORGE.jwks(), valid_until: i64::MAX }),
        clients: None,
        revoked: Vec::new(),
    };
    Anchor::compile(&authority).unwrap()
}

fn believe(token: &str) -> bool {
    let mut believed = false;
    for anchors in [&*STRICT, &*COMPATIBLE] {
        let Ok(verified) = verify(token, anchors, NOW) else { continue };
        believed = true;
        let principal = verified.principal();
        for text in [Some(&principal.subject), principal.client.as_ref(), Some(&principal.issuer)] {
            assert!(text.is_some_and(|text| !text.is_empty() && !text.contains(char::is_control)));
        }
        assert_eq!(&*principal.issuer, ISSUER);
        assert!(verified.expires() > NOW - 30);
        let id = ObjectId { uid: "uid".into(), namespace: "a".into(), name: "b".into(), generation: 1 };
        let server = Use { anchors, id: &id, resource: RESOURCE, audiences: &[] };
        assert!(admit(&verified, &server, verified.expires() + 30).is_err());
    }
    believed
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert!(!believe(text), "nobody signed it");
    believe(&FORGE.sign_text(&FORGE.header().to_string(), text, "ES256"));
    believe(&FORGE.sign_text(text, &FORGE.claims().to_string(), "ES256"));
    let algorithms = Algorithm::NAMES.map(|name| Algorithm::from_name(name).unwrap());
    if let Ok(keys) = KeySetParsed::parse(text, &algorithms) {
        assert!(keys.usable() <= 600, "100 keys, six algorithms for RSA");
    }
});
