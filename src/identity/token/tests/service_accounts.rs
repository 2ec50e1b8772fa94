//! Tokens of ServiceAccounts, and the list of clients of an authority.

use super::super::review::{Answer, ReviewError, judge};
use super::*;

const API: &str = "https://kubernetes.default.svc";
const SUBJECT: &str = "system:serviceaccount:ci:bot";

fn cluster() -> Vec<Arc<Anchor>> {
    cluster_with(false)
}

fn cluster_with(token_review: bool) -> Vec<Arc<Anchor>> {
    let typ = TypRule::ServiceAccount {
        api_audiences: vec![API.into(), "k3s".into()],
        refused: vec!["system:serviceaccount:gateway:portcullis-upstream".into()],
        token_review,
    };
    let mut authority = authority(typ);
    authority.keys = KeySource::Kubernetes;
    authority.rules.client_claims.clear();
    anchors(&authority)
}

/// As TokenRequest makes it.
fn bound(edits: &[(&str, Value)]) -> String {
    let claims = json!({
        "iss": ISSUER, "sub": SUBJECT, "aud": [RESOURCE], "iat": NOW, "nbf": NOW, "exp": NOW + 600, "jti": "id",
        "kubernetes.io": {
            "namespace": "ci", "serviceaccount": {"name": "bot", "uid": "u"}, "pod": {"name": "bot-1", "uid": "p"}
        },
    });
    let claims = edits.iter().fold(claims, |claims, (name, value)| with(&claims, name, value.clone()));
    FORGE.token(&with(&FORGE.header(), "typ", Value::Null), &claims)
}

#[test]
fn a_bound_token_is_a_service_account() {
    let verified = authenticate(&bound(&[]), &cluster(), NOW).unwrap();
    let principal = verified.principal();
    assert_eq!((principal.kind, &*principal.subject), (Kind::ServiceAccount, SUBJECT));
    assert_eq!((principal.client.as_deref(), &principal.tenant, &principal.actor), (None, &None, &None));
    let groups = ["system:serviceaccounts".into(), "system:serviceaccounts:ci".into()];
    assert_eq!(principal.groups, Groups::Known(Box::new(groups)));
    assert_eq!(verified.token_id(), Some("id"));
    assert!(!verified.scopes().contains("mcp:use"));
}

#[test]
fn a_claim_of_scopes_or_clients_adds_nothing() {
    let edits = [("scope", json!("mcp:use")), ("client_id", json!("ide")), ("groups", json!(["sre"]))];
    let verified = authenticate(&bound(&edits), &cluster(), NOW).unwrap();
    assert!(verified.principal().client.is_none() && !verified.scopes().contains("mcp:use"));
    let Groups::Known(groups) = &verified.principal().groups else { panic!() };
    assert!(groups.iter().all(|group| group.starts_with("system:serviceaccounts")));
}

#[test]
fn credentials_for_the_cluster_are_refused_whatever_else_they_are_for() {
    for audiences in [json!([RESOURCE, API]), json!([API, RESOURCE]), json!(API), json!([RESOURCE, "k3s"])] {
        let refused = authenticate(&bound(&[("aud", audiences.clone())]), &cluster(), NOW).unwrap_err();
        assert_eq!(refused, "ApiServerAudience", "{audiences}");
    }
}

#[test]
fn a_servers_short_name_is_an_audience_of_that_server_and_of_service_accounts() {
    let admitted = |audience: &str| authenticate(&bound(&[("aud", json!([audience]))]), &cluster(), NOW).err();
    assert_eq!(admitted("portcullis:team-a/github"), None);
    for other in [
        "portcullis:team-a/github2",
        "portcullis:team-a/githu",
        "portcullis:team-a/github/",
        "portcullis:team/a/github",
        "portcullis:team-a",
        "portcullis:",
        "Portcullis:team-a/github",
        "portcullis-upstream:team-a/github",
        "team-a/github",
    ] {
        assert_eq!(admitted(other), Some("AudienceMismatch"), "{other}");
    }
    let person = claims_token(&[("aud", json!(["portcullis:team-a/github"]))]);
    assert_eq!(authenticate(&person, &strict(), NOW).unwrap_err(), "AudienceMismatch");
}

#[test]
fn the_gateways_own_account_is_no_caller() {
    let own = [
        ("sub", json!("system:serviceaccount:gateway:portcullis-upstream")),
        ("kubernetes.io", json!({"namespace": "gateway", "serviceaccount": {"name": "portcullis-upstream"}})),
    ];
    assert_eq!(authenticate(&bound(&own), &cluster(), NOW).unwrap_err(), "GatewaysOwnToken");
}

#[test]
fn subject_and_bound_claim_say_the_same_or_the_token_is_refused() {
    let account = |namespace: Value, name: Value| json!({"namespace": namespace, "serviceaccount": {"name": name}});
    for (edit, reason) in [
        (("kubernetes.io", Value::Null), "ClaimMissing"),
        (("kubernetes.io", json!("ci/bot")), "ClaimMalformed"),
        (("kubernetes.io", json!({"namespace": "ci"})), "ClaimMalformed"),
        (("kubernetes.io", account(json!("ci"), Value::Null)), "ClaimMalformed"),
        (("kubernetes.io", account(json!("ci"), json!(""))), "ClaimMalformed"),
        (("kubernetes.io", account(json!(["ci"]), json!("bot"))), "ClaimMalformed"),
        (("kubernetes.io", account(json!("ci:bot"), json!("x"))), "ClaimMalformed"),
        (("kubernetes.io", account(json!("prod"), json!("bot"))), "ServiceAccountUnclear"),
        (("kubernetes.io", account(json!("ci"), json!("bot2"))), "ServiceAccountUnclear"),
        (("sub", json!("system:serviceaccount:ci:bot:x")), "ServiceAccountUnclear"),
        (("sub", json!("bot")), "ServiceAccountUnclear"),
        (("sub", Value::Null), "ClaimMissing"),
        (("exp", Value::Null), "ClaimMissing"),
        (("cnf", json!({"jkt": "x"})), "SenderConstraintUnsupported"),
        (("aud", Value::Null), "ClaimMissing"),
    ] {
        assert_eq!(authenticate(&bound(std::slice::from_ref(&edit)), &cluster(), NOW).unwrap_err(), reason, "{edit:?}");
    }
    let person = authenticate(&FORGE.genuine(), &cluster(), NOW).unwrap_err();
    assert_eq!(person, "NotAnAccessToken", "its header says that it is another kind of token");
    let unmarked = FORGE.unmarked(&[]);
    assert_eq!(authenticate(&unmarked, &cluster(), NOW).unwrap_err(), "ClaimMissing");
}

#[test]
fn service_accounts_are_believed_under_no_other_rule() {
    for (rule, reason) in [(TypRule::AccessTokenJwt, "NotAnAccessToken"), (TypRule::Compatible, "NotAnAccessToken")] {
        assert_eq!(authenticate(&bound(&[]), &anchors(&authority(rule)), NOW).unwrap_err(), reason);
    }
}

#[test]
fn tokens_end_with_their_client_and_with_a_later_start() {
    let reason = |clients: Option<&[(&str, i64)]>| {
        let mut authority = authority(TypRule::AccessTokenJwt);
        authority.clients = clients.map(|list| list.iter().map(|(id, time)| ((*id).to_owned(), *time)).collect());
        authenticate(&FORGE.genuine(), &anchors(&authority), NOW).err()
    };
    assert_eq!(reason(None), None);
    assert_eq!(reason(Some(&[("ide", 0)])), None);
    let issued = authenticate(&FORGE.genuine(), &strict(), NOW).unwrap().issued().unwrap();
    assert_eq!(reason(Some(&[("other", 0), ("ide", issued)])), None);
    assert_eq!(reason(Some(&[("ide", issued + 1)])), Some("TokenRevoked"));
    assert_eq!(reason(Some(&[])), Some("ClientNotListed"));
    assert_eq!(reason(Some(&[("id", 0), ("ide2", 0)])), Some("ClientNotListed"));
}

/// A cached token is found under the same keys, and judged by the list as it is now.
#[test]
fn the_list_of_clients_counts_for_tokens_that_were_verified_before() {
    let mut authority = authority(TypRule::AccessTokenJwt);
    let verified = authenticate(&FORGE.genuine(), &anchors(&authority), NOW).unwrap();
    authority.clients = Some([("ide".to_owned(), 0)].into());
    let use_of = |anchors: &[Arc<Anchor>]| {
        let server = Use { anchors, id: &SERVER, resource: RESOURCE, audiences: &[] };
        admit(&verified, &server, NOW).map(drop).map_err(|error| error.reason())
    };
    assert_eq!(use_of(&anchors(&authority)), Ok(()));
    authority.clients = Some([].into());
    assert_eq!(use_of(&anchors(&authority)), Err("ClientNotListed"));
}

#[test]
fn what_is_refused_of_service_accounts_is_part_of_the_stamp() {
    let verified = authenticate(&bound(&[]), &cluster(), NOW).unwrap();
    let typ = TypRule::ServiceAccount { api_audiences: vec![RESOURCE.into()], refused: vec![], token_review: false };
    for changed in [anchors(&authority(typ)), cluster_with(true)] {
        let server = Use { anchors: &changed, id: &SERVER, resource: RESOURCE, audiences: &[] };
        assert_eq!(admit(&verified, &server, NOW).unwrap_err().reason(), "AuthorityNotTrusted");
    }
}

#[test]
fn the_api_server_is_asked_about_the_audiences_that_the_server_accepts_where_that_is_wanted() {
    assert!(!authenticate(&bound(&[]), &cluster(), NOW).unwrap().needs_review());
    let anchors = cluster_with(true);
    let short = "portcullis:team-a/github";
    let token = bound(&[("aud", json!(["https://other.example", RESOURCE, short, "portcullis:team-a/other"]))]);
    let verified = verify(&token, &anchors, NOW).unwrap();
    assert!(verified.needs_review());
    let server = Use { anchors: &anchors, id: &SERVER, resource: RESOURCE, audiences: &[] };
    let asked: Vec<&str> = admit(&verified, &server, NOW).unwrap().audiences().collect();
    assert_eq!(asked, [RESOURCE, short]);
}

#[test]
fn a_review_confirms_what_was_proven_and_nothing_else() {
    let verified = authenticate(&bound(&[]), &cluster_with(true), NOW).unwrap();
    let answer = |authenticated: bool, audiences: &[&str], username: Option<&str>| Answer {
        authenticated,
        audiences: audiences.iter().map(|audience| (*audience).to_owned()).collect(),
        username: username.map(str::to_owned),
    };
    let asked = [RESOURCE.to_owned(), "portcullis:team-a/github".to_owned()];
    for (said, outcome) in [
        (answer(true, &[RESOURCE], Some(SUBJECT)), Ok(())),
        (answer(true, &["other", RESOURCE], Some(SUBJECT)), Ok(())),
        (answer(true, &["portcullis:team-a/github"], Some(SUBJECT)), Ok(())),
        (answer(false, &[RESOURCE], Some(SUBJECT)), Err("TokenReviewRefused")),
        (answer(false, &[], None), Err("TokenReviewRefused")),
        // Good for the API server alone, or of one that does not know of audiences.
        (answer(true, &[], Some(SUBJECT)), Err("TokenReviewAudience")),
        (answer(true, &[API], Some(SUBJECT)), Err("TokenReviewAudience")),
        (answer(true, &["https://mcp.example"], Some(SUBJECT)), Err("TokenReviewAudience")),
        (answer(true, &[RESOURCE], None), Err("TokenReviewAccount")),
        (answer(true, &[RESOURCE], Some("")), Err("TokenReviewAccount")),
        (answer(true, &[RESOURCE], Some("system:serviceaccount:ci:bot2")), Err("TokenReviewAccount")),
        (answer(true, &[RESOURCE], Some("System:serviceaccount:ci:bot")), Err("TokenReviewAccount")),
        (answer(true, &[RESOURCE], Some("system:admin")), Err("TokenReviewAccount")),
    ] {
        assert_eq!(judge(&verified, &asked, &said).map_err(ReviewError::reason), outcome, "{said:?}");
    }
    let said = answer(true, &[RESOURCE], Some(SUBJECT));
    assert_eq!(judge(&verified, &[], &said), Err(ReviewError::Audience), "nothing was asked");
}
