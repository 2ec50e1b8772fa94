//! The attack matrix against the pipeline, and the pipeline's positive cases.

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::anchor::Anchor;
use super::super::cache::{TokenDigest, VerifiedCache};
use super::super::principal::{Actor, Groups, Kind};
use super::*;
use crate::generated::ObjectId;
use crate::generated::authority::{Authority, KeySet, KeySource, Revocation, TokenRules, TypRule};

#[path = "../../../tests/it/support/attack_tokens.rs"]
mod attack_tokens;
mod service_accounts;

use self::attack_tokens::{ALGORITHMS, Forge, MAX_LIFETIME, SKEW, ec_jwk, with};

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://as.example/realms/corp";
const RESOURCE: &str = "https://gw.example/team-a/github";

static SERVER: LazyLock<ObjectId> = LazyLock::new(|| ObjectId {
    uid: "uid-github".into(),
    namespace: "team-a".into(),
    name: "github".into(),
    generation: 1,
});

static FORGE: LazyLock<Forge> = LazyLock::new(|| Forge::new(ISSUER, RESOURCE, "https://canary.invalid", NOW));

fn authority(typ: TypRule) -> Authority {
    Authority {
        id: ObjectId { uid: "uid-corp".into(), namespace: String::new(), name: "corp".into(), generation: 1 },
        issuer: ISSUER.into(),
        rules: TokenRules {
            typ,
            algorithms: ALGORITHMS.map(str::to_owned).into(),
            skew_seconds: SKEW as u32,
            max_lifetime_seconds: Some(MAX_LIFETIME as u32),
            subject_claim: "sub".into(),
            tenant_claim: None,
            client_claims: vec!["client_id".into(), "azp".into()],
            groups_claim: Some("groups".into()),
            allowed_audiences: vec!["api://extra".into()],
        },
        keys: KeySource::Discovery { ca_pem: None },
        key_set: Some(KeySet { jwks: FORGE.jwks(), valid_until: NOW + 86_400 }),
        revoked: Vec::new(),
        clients: None,
    }
}

fn anchors(authority: &Authority) -> Vec<Arc<Anchor>> {
    vec![Arc::new(Anchor::compile(authority).unwrap())]
}

fn strict() -> Vec<Arc<Anchor>> {
    anchors(&authority(TypRule::AccessTokenJwt))
}

/// Both phases; the reason if one of them refuses.
fn authenticate(token: &str, anchors: &[Arc<Anchor>], now: i64) -> Result<Verified, &'static str> {
    let verified = verify(token, anchors, now).map_err(|error| error.reason())?;
    let server = Use { anchors, id: &SERVER, resource: RESOURCE, audiences: &[] };
    admit(&verified, &server, now).map_err(|error| error.reason())?;
    Ok(verified)
}

fn claims_token(edits: &[(&str, Value)]) -> String {
    let claims = edits.iter().fold(FORGE.claims(), |claims, (name, value)| with(&claims, name, value.clone()));
    FORGE.token(&FORGE.header(), &claims)
}

#[test]
fn a_genuine_token_is_a_principal() {
    let anchors = strict();
    let verified = authenticate(&FORGE.genuine(), &anchors, NOW).unwrap();
    let principal = verified.principal();
    assert_eq!((&*principal.authority, &*principal.issuer, &*principal.subject), ("corp", ISSUER, "8f1c"));
    assert_eq!((principal.kind, principal.client.as_deref(), &principal.actor), (Kind::User, Some("ide"), &None));
    assert_eq!(principal.groups, Groups::Known(["engineers".into(), "sre".into()].into()));
    assert_eq!(verified.scopes().iter().collect::<Vec<_>>(), ["mcp:admin", "mcp:use"]);
    assert_eq!((verified.token_id(), verified.issued(), verified.expires()), (Some("id-1"), Some(NOW - 10), NOW + 300));
}

#[test]
fn every_allowed_algorithm_verifies() {
    for (algorithm, kid) in [("ES256", "ec-1"), ("RS256", "rsa-1"), ("PS256", "rsa-1"), ("EdDSA", "ed-1")] {
        let header = json!({"typ": "application/AT+jwt", "alg": algorithm, "kid": kid});
        assert!(authenticate(&FORGE.token(&header, &FORGE.claims()), &strict(), NOW).is_ok(), "{algorithm}");
    }
    let without_kid = json!({"typ": "at+jwt", "alg": "EdDSA"});
    assert!(authenticate(&FORGE.token(&without_kid, &FORGE.claims()), &strict(), NOW).is_ok());
}

#[test]
fn attack_matrix_is_refused_each_for_its_reason() {
    let anchors = strict();
    let attacks = FORGE.attacks();
    assert!(attacks.len() > 200, "{}", attacks.len());
    let wrong: Vec<String> = attacks
        .iter()
        .filter_map(|attack| match authenticate(&attack.token, &anchors, NOW) {
            Err(reason) if reason == attack.reason => None,
            other => Some(format!("{}: expected {}, got {:?}", attack.name, attack.reason, other.err())),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn attack_errors_show_nothing_of_the_token() {
    let anchors = strict();
    for attack in FORGE.attacks() {
        let Err(error) = verify(&attack.token, &anchors, NOW) else { continue };
        let shown = format!("{error} {error:?}");
        for segment in attack.token.split('.').filter(|segment| segment.len() > 8) {
            assert!(!shown.contains(segment), "{}", attack.name);
        }
        for told in ["8f1c", "evil", "canary", "/dev/null"] {
            assert!(!shown.contains(told), "{}: {shown}", attack.name);
        }
    }
}

#[test]
fn attack_key_swapped_under_the_same_kid() {
    let mut authority = authority(TypRule::AccessTokenJwt);
    let jwks = json!({"keys": [ec_jwk("ec-1", &FORGE.stranger)]}).to_string();
    authority.key_set = Some(KeySet { jwks, valid_until: NOW + 1 });
    assert_eq!(authenticate(&FORGE.genuine(), &anchors(&authority), NOW).unwrap_err(), "SignatureInvalid");
    let by_new_key = FORGE.by_stranger(&FORGE.header(), &FORGE.claims());
    assert!(authenticate(&by_new_key, &anchors(&authority), NOW).is_ok());
}

#[test]
fn attack_issuer_a_token_signed_by_issuer_b_with_the_same_kid() {
    let ours = authority(TypRule::AccessTokenJwt);
    let mut theirs = ours.clone();
    theirs.id.name = "partner".into();
    theirs.id.uid = "uid-partner".into();
    theirs.issuer = "https://partner.example".into();
    theirs.key_set = Some(KeySet {
        jwks: json!({"keys": [ec_jwk("ec-1", &FORGE.stranger)]}).to_string(),
        valid_until: NOW + 86_400,
    });
    let both = vec![Arc::new(Anchor::compile(&theirs).unwrap()), Arc::new(Anchor::compile(&ours).unwrap())];
    assert_eq!(&*authenticate(&FORGE.genuine(), &both, NOW).unwrap().principal().authority, "corp");
    let forged = FORGE.by_stranger(&FORGE.header(), &FORGE.claims());
    assert_eq!(authenticate(&forged, &both, NOW).unwrap_err(), "SignatureInvalid");
    let crossed = claims_token(&[("iss", json!("https://partner.example"))]);
    assert_eq!(authenticate(&crossed, &both, NOW).unwrap_err(), "SignatureInvalid");
}

#[test]
fn attack_two_authorities_of_one_issuer_are_not_chosen_between() {
    let one = authority(TypRule::AccessTokenJwt);
    let mut other = one.clone();
    other.id.name = "corp-2".into();
    let both = vec![Arc::new(Anchor::compile(&one).unwrap()), Arc::new(Anchor::compile(&other).unwrap())];
    assert_eq!(authenticate(&FORGE.genuine(), &both, NOW).unwrap_err(), "IssuerAmbiguous");
    assert_eq!(authenticate(&FORGE.genuine(), &[], NOW).unwrap_err(), "IssuerNotTrusted");
}

#[test]
fn attack_segments_are_counted_before_anything_is_decoded() {
    for text in ["", "a", "a.b", "a.b.c.d", "a.b.c.d.e", "....", &"a.".repeat(3000)] {
        assert_eq!(verify(text, &strict(), NOW).unwrap_err(), TokenError::Segments, "{text}");
    }
}

#[test]
fn attack_what_is_out_of_time_is_not_even_verified() {
    let strict = strict();
    let verified = |name: &str, value: i64| verify(&claims_token(&[(name, json!(value))]), &strict, NOW).err();
    assert_eq!(verified("exp", NOW - SKEW), Some(TokenError::Expired), "it would only fill the cache");
    assert_eq!(verified("nbf", NOW + SKEW + 1), Some(TokenError::NotYetValid));
}

#[test]
fn attack_skew_edges_are_exact() {
    let anchors = strict();
    let at = |name: &str, value: i64| authenticate(&claims_token(&[(name, json!(value))]), &anchors, NOW).err();
    assert_eq!(at("exp", NOW - SKEW + 1), None);
    assert_eq!(at("exp", NOW - SKEW), Some("TokenExpired"));
    assert_eq!(at("nbf", NOW + SKEW), None);
    assert_eq!(at("nbf", NOW + SKEW + 1), Some("TokenNotYetValid"));
    assert_eq!(at("iat", NOW + SKEW), None);
    assert_eq!(at("iat", NOW + SKEW + 1), Some("TokenIssuedInFuture"));
    assert_eq!(at("exp", NOW - 10 + MAX_LIFETIME), None);
    assert_eq!(at("exp", NOW - 10 + MAX_LIFETIME + 1), Some("TokenLifetimeTooLong"));
}

#[test]
fn attack_unknown_keys_are_worth_a_refresh_and_missing_ones_are_unavailable() {
    let bogus = FORGE.token(&with(&FORGE.header(), "kid", json!("bogus")), &FORGE.claims());
    let error = verify(&bogus, &strict(), NOW).unwrap_err();
    assert_eq!(error.refreshable(), Some(Missing::Key { authority: "corp", kid: "bogus" }));
    let mut authority = authority(TypRule::AccessTokenJwt);
    let valid_until = authority.key_set.as_ref().unwrap().valid_until;
    assert!(verify(&FORGE.genuine(), &anchors(&authority), NOW).is_ok());
    let lasting = claims_token(&[("exp", json!(valid_until + 60)), ("iat", json!(valid_until - 60))]);
    assert!(verify(&lasting, &anchors(&authority), valid_until).is_ok());
    assert_eq!(authenticate(&lasting, &anchors(&authority), valid_until + 1).unwrap_err(), "KeysUnavailable");
    authority.key_set = None;
    let error = verify(&FORGE.genuine(), &anchors(&authority), NOW).unwrap_err();
    assert_eq!(error.reason(), "KeysUnavailable");
    assert_eq!(error.refreshable(), Some(Missing::AllKeys { authority: "corp" }));
}

#[test]
fn attack_other_kinds_of_tokens_are_refused_where_access_tokens_are_not_marked() {
    let compatible = anchors(&authority(TypRule::Compatible));
    assert!(authenticate(&FORGE.unmarked(&[]), &compatible, NOW).is_ok());
    assert!(authenticate(&FORGE.unmarked(&[("typ", json!("Bearer"))]), &compatible, NOW).is_ok());
    for attack in FORGE.other_kinds() {
        assert_eq!(authenticate(&attack.token, &compatible, NOW).unwrap_err(), attack.reason, "{}", attack.name);
    }
    assert!(authenticate(&FORGE.unmarked(&[("aud", json!(["ide", RESOURCE]))]), &compatible, NOW).is_ok());
}

#[test]
fn attack_a_client_never_passes_for_a_person() {
    let strict = strict();
    let kind = |edits: &[(&str, Value)]| authenticate(&claims_token(edits), &strict, NOW).map(|v| v.principal().kind);
    assert_eq!(kind(&[]), Ok(Kind::User));
    assert_eq!(kind(&[("auth_time", json!(NOW))]), Ok(Kind::User));
    assert_eq!(kind(&[("sub", json!("ide"))]), Ok(Kind::Client));
    assert_eq!(kind(&[("client_id", json!("8f1c"))]), Ok(Kind::Client), "an id chosen to equal a subject");
    assert_eq!(kind(&[("idtyp", json!("app"))]), Ok(Kind::Client));
    assert_eq!(kind(&[("gty", json!("client-credentials"))]), Ok(Kind::Client));
    for mark in ["auth_time", "amr", "acr", "sid", "email", "given_name", "family_name", "phone_number"] {
        assert_eq!(kind(&[("sub", json!("ide")), (mark, json!("x"))]), Err("SubjectAmbiguous"), "{mark}");
    }
    assert_eq!(kind(&[("idtyp", json!("user")), ("gty", json!("client-credentials"))]), Err("SubjectAmbiguous"));
    let mut by_oid = authority(TypRule::AccessTokenJwt);
    by_oid.rules.subject_claim = "oid".into();
    let token = claims_token(&[("oid", json!("o1")), ("sub", json!("ide"))]);
    let verified = authenticate(&token, &anchors(&by_oid), NOW).unwrap();
    assert_eq!(verified.principal().kind, Kind::Client, "`sub` speaks whichever claim names the subject");
    let looks = kind(&[("sub", json!("system:serviceaccount:ci:bot"))]);
    assert_eq!(looks, Ok(Kind::User), "a subject's looks say nothing");
}

#[test]
fn groups_are_known_whole_or_not_at_all() {
    let strict = strict();
    let groups = |edits: &[(&str, Value)]| {
        authenticate(&claims_token(edits), &strict, NOW).map(|verified| verified.principal().groups.clone()).unwrap()
    };
    let known = |names: &[&str]| Groups::Known(names.iter().map(|name| Box::from(*name)).collect());
    assert_eq!(groups(&[("groups", json!(["b", "a", "b"]))]), known(&["a", "b"]));
    assert_eq!(groups(&[("groups", json!([]))]), known(&[]));
    for value in [Value::Null, json!("a"), json!({"a": 1}), json!(["a", 1]), json!(["a", ""]), json!(["a", "b\nc"])] {
        assert_eq!(groups(&[("groups", value.clone())]), Groups::Unknown, "{value}");
    }
    assert_eq!(groups(&[("groups", json!(vec!["a"; 513]))]), Groups::Unknown);
    assert_eq!(groups(&[("_claim_names", json!({"groups": "src1"}))]), Groups::Unknown);
    assert_eq!(groups(&[("_claim_names", json!("groups"))]), Groups::Unknown);
    assert_eq!(groups(&[("_claim_names", json!({"address": "src1"}))]), known(&["engineers", "sre"]));
    assert_eq!(groups(&[("hasgroups", json!(true))]), Groups::Unknown);
    let mut none = authority(TypRule::AccessTokenJwt);
    none.rules.groups_claim = None;
    let verified = authenticate(&FORGE.genuine(), &anchors(&none), NOW).unwrap();
    assert_eq!(verified.principal().groups, known(&[]), "an authority without groups gives none");
}

#[test]
fn only_the_current_actor_counts() {
    let anchors = strict();
    let actor =
        |act: Value| authenticate(&claims_token(&[("act", act)]), &anchors, NOW).map(|v| v.principal().actor.clone());
    let current = Actor { subject: "agent-x".into(), issuer: None };
    assert_eq!(actor(json!({"sub": "agent-x"})), Ok(Some(current.clone())));
    assert_eq!(actor(json!({"sub": "agent-x", "act": {"sub": "agent-y", "iss": "i"}})), Ok(Some(current)));
    let elsewhere = Actor { subject: "agent-x".into(), issuer: Some("https://other".into()) };
    assert_eq!(actor(json!({"sub": "agent-x", "iss": "https://other"})), Ok(Some(elsewhere)));
    let ten = (1..10).fold(json!({"sub": "a"}), |inner, _| json!({"sub": "a", "act": inner}));
    assert!(actor(ten.clone()).is_ok());
    assert_eq!(actor(json!({"sub": "a", "act": ten})), Err("ActorMalformed"));
    assert!(authenticate(&claims_token(&[("act", json!({"sub": "x", "act": null}))]), &anchors, NOW).is_err());
}

#[test]
fn scopes_come_from_the_first_present_claim() {
    let scopes = |token: String, typ: TypRule| {
        let verified = authenticate(&token, &anchors(&authority(typ)), NOW).unwrap();
        verified.scopes().iter().collect::<Vec<_>>().join(" ")
    };
    let strict = |edits: &[(&str, Value)]| scopes(claims_token(edits), TypRule::AccessTokenJwt);
    assert_eq!(strict(&[("scope", json!("b  a b"))]), "a b");
    assert_eq!(strict(&[("scp", json!(["x"]))]), "mcp:admin mcp:use", "`scope` comes first");
    assert_eq!(strict(&[("scope", Value::Null), ("scp", json!(["x", "y"]))]), "x y");
    let roles = [("scope", Value::Null), ("roles", json!(["r"]))];
    assert_eq!(strict(&roles), "", "roles are no scopes where tokens are marked");
    assert_eq!(scopes(FORGE.unmarked(&roles), TypRule::Compatible), "r");
}

#[test]
fn audiences_match_exactly_and_extra_ones_need_both_sides() {
    let strict = strict();
    let extra = ["api://extra".to_owned(), "api://undeclared".to_owned()];
    let admits = |audience: Value, audiences: &[String]| {
        let verified = verify(&claims_token(&[("aud", audience)]), &strict, NOW).unwrap();
        admit(&verified, &Use { anchors: &strict, id: &SERVER, resource: RESOURCE, audiences }, NOW).is_ok()
    };
    assert!(admits(json!(["first", "second", RESOURCE]), &[]), "ours may come last");
    assert!(admits(json!("api://extra"), &extra));
    assert!(!admits(json!("api://extra"), &[]), "the server does not accept it");
    assert!(!admits(json!("api://undeclared"), &extra), "the authority does not allow it");
}

#[test]
fn revocation_is_seen_on_every_call() {
    let plain = strict();
    let verified = verify(&FORGE.genuine(), &plain, NOW).unwrap();
    let without_iat = {
        let mut authority = authority(TypRule::Compatible);
        authority.rules.max_lifetime_seconds = None;
        (authority, FORGE.unmarked(&[("iat", Value::Null)]))
    };
    let subject = |subject: &str, issued_before| Revocation::Subject { subject: subject.into(), issued_before };
    for (revoked, refused) in [
        (vec![Revocation::Token { jti: "id-1".into() }], true),
        (vec![Revocation::Token { jti: "id-2".into() }], false),
        (vec![subject("8f1c", NOW - 9)], true),
        (vec![subject("8f1c", NOW - 10)], false),
        (vec![subject("8f1c", NOW - 9), subject("8f1c", NOW - 99)], true),
        (vec![subject("8f1d", NOW)], false),
    ] {
        let mut authority = authority(TypRule::AccessTokenJwt);
        authority.revoked = revoked.clone();
        let anchors = anchors(&authority);
        let admitted =
            admit(&verified, &Use { anchors: &anchors, id: &SERVER, resource: RESOURCE, audiences: &[] }, NOW);
        assert_eq!(admitted.err(), refused.then_some(TokenError::Revoked), "{revoked:?}");
    }
    let (mut authority, token) = without_iat;
    authority.revoked = vec![subject("8f1c", 1)];
    assert_eq!(
        authenticate(&token, &anchors(&authority), NOW).unwrap_err(),
        "TokenRevoked",
        "no iat is before any time"
    );
}

#[test]
fn a_cache_hit_is_still_checked_and_dies_with_keys_and_configuration() {
    let cache = VerifiedCache::new(16);
    let token = FORGE.genuine();
    let digest = TokenDigest::of(&token);
    let anchors_now = strict();
    assert!(cache.get(&digest, &anchors_now).is_none());
    cache.insert(digest, Arc::new(verify(&token, &anchors_now, NOW).unwrap()));
    let hit = cache.get(&digest, &anchors_now).unwrap();
    let server = |anchors| Use { anchors, id: &SERVER, resource: RESOURCE, audiences: &[] };
    assert!(admit(&hit, &server(&anchors_now), NOW).is_ok());
    assert_eq!(admit(&hit, &server(&anchors_now), NOW + 330).unwrap_err(), TokenError::Expired);
    assert_eq!(admit(&hit, &server(&anchors_now), NOW + 86_401).unwrap_err().reason(), "KeysUnavailable");
    let elsewhere = Use { anchors: &anchors_now, id: &SERVER, resource: "https://gw.example/team-b/x", audiences: &[] };
    assert_eq!(admit(&hit, &elsewhere, NOW).unwrap_err(), TokenError::Audience);
    assert_eq!(admit(&hit, &server(&[]), NOW).unwrap_err(), TokenError::UntrustedAuthority);

    let changed = |change: &dyn Fn(&mut Authority)| {
        let mut authority = authority(TypRule::AccessTokenJwt);
        change(&mut authority);
        cache.get(&digest, &anchors(&authority)).is_some()
    };
    assert!(changed(&|_| {}), "prepared again from the same content");
    assert!(
        changed(&|a| a.revoked = vec![Revocation::Token { jti: "x".into() }]),
        "revocations are no reason to verify anew"
    );
    assert!(!changed(&|a| a.rules.algorithms = vec!["EdDSA".into()]));
    assert!(!changed(&|a| a.rules.groups_claim = None));
    assert!(!changed(&|a| a.id.uid = "another".into()));
    assert!(!changed(&|a| a.issuer = "https://other".into()));
    assert!(!changed(&|a| a.key_set.as_mut().unwrap().jwks = json!({"keys": []}).to_string()));
    assert!(!changed(&|a| a.key_set = None));
}

#[test]
fn tenants_and_other_subject_claims_are_read_where_configured() {
    let mut authority = authority(TypRule::AccessTokenJwt);
    authority.rules.tenant_claim = Some("tid".into());
    authority.rules.subject_claim = "oid".into();
    let anchors = anchors(&authority);
    let token = claims_token(&[("tid", json!("t1")), ("oid", json!("o1"))]);
    let verified = authenticate(&token, &anchors, NOW).unwrap();
    assert_eq!((verified.principal().tenant.as_deref(), &*verified.principal().subject), (Some("t1"), "o1"));
    for missing in ["tid", "oid"] {
        let token = claims_token(&[("tid", json!("t1")), ("oid", json!("o1")), (missing, Value::Null)]);
        assert_eq!(authenticate(&token, &anchors, NOW).unwrap_err(), "ClaimMissing", "{missing}");
    }
}

proptest! {
    #[test]
    fn attack_no_changed_byte_ever_verifies(at in any::<prop::sample::Index>(), byte in 0..=127_u8) {
        let genuine = FORGE.genuine();
        let mut bytes = genuine.clone().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        prop_assert!(verify(&String::from_utf8(bytes).unwrap(), &strict(), NOW).is_err());
    }

    #[test]
    fn attack_arbitrary_text_never_verifies_nor_panics(
        text in prop_oneof![".{0,200}", "[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,90}"],
    ) {
        prop_assert!(verify(&text, &strict(), NOW).is_err());
    }

    #[test]
    fn attack_whatever_a_claim_says_an_identity_is_whole(
        name in prop::sample::select(vec![
            "iss", "sub", "aud", "client_id", "azp", "jti", "iat", "exp", "nbf", "scope", "scp", "groups", "act", "cnf",
            "typ", "idtyp", "gty", "_claim_names",
        ]),
        value in prop_oneof![
            Just(json!(null)), any::<bool>().prop_map(Value::from), any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from), "\\PC{0,6}|[\\x00-\\x20]{0,3}".prop_map(Value::from),
            prop::collection::vec("[a-c\\x00]{0,2}", 0..4).prop_map(Value::from),
            "[a-c]{0,2}".prop_map(|text| json!({"sub": text, "act": {"sub": text}})),
        ],
    ) {
        let mut claims = FORGE.claims();
        claims[name] = value;
        if let Ok(verified) = authenticate(&FORGE.token(&FORGE.header(), &claims), &strict(), NOW) {
            let principal = verified.principal();
            let actor = principal.actor.as_ref().map_or("none", |actor| &*actor.subject);
            for text in [&*principal.subject, principal.client.as_deref().unwrap(), verified.token_id().unwrap(), actor] {
                prop_assert!(!text.is_empty() && !text.contains(char::is_control));
            }
            prop_assert_eq!(&*principal.issuer, ISSUER);
            prop_assert!(verified.expires() > NOW - SKEW && verified.issued().unwrap() <= NOW + SKEW);
            prop_assert!(claims.get("cnf").is_none());
        }
    }

    #[test]
    fn principals_that_differ_have_different_bindings(
        first in prop::array::uniform5("[ab]{0,2}"),
        second in prop::array::uniform5("[ab]{0,2}"),
    ) {
        let principal = |parts: &[String; 5]| Principal {
            authority: parts[0].as_str().into(),
            issuer: parts[1].as_str().into(),
            tenant: None,
            subject: parts[2].as_str().into(),
            kind: Kind::User,
            client: Some(parts[3].as_str().into()),
            groups: Groups::Unknown,
            actor: Some(Actor { subject: parts[4].as_str().into(), issuer: None }),
        };
        prop_assert_eq!(first == second, principal(&first).binding() == principal(&second).binding());
    }
}
