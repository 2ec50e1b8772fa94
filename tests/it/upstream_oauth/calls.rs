//! One token of the gateway's own for all callers.

use std::collections::BTreeSet;

use serde_json::json;

use super::house::{By, Place, call, wait_open};
use crate::support::canary;
use crate::support::wait::until;

#[test]
fn a_governed_call_carries_a_token_of_the_upstreams_issuer_and_not_the_callers() {
    for by in [By::Secret, By::Key] {
        for place in [Place::npm(by, &json!({})), Place::keycloak(by)] {
            let gateway = place.gateway(&json!({}));
            let (ana, bob) = (gateway.token("ana", "notes"), gateway.token("bob", "notes"));
            wait_open(&gateway, &ana);
            let before = place.asked();
            for _ in 0..5 {
                assert_eq!(call(&gateway, "notes", &ana, "echo").status, 200);
                assert_eq!(call(&gateway, "notes", &bob, "echo").status, 200);
            }
            assert_eq!(place.asked(), before, "nothing is asked while there is a token");
            let calls = place.upstream.calls();
            let good: Vec<_> = calls.iter().filter(|call| call.status == 200).collect();
            assert!(good.len() >= 10);
            for call in good {
                assert_eq!(call.claims["iss"], place.house.issuer());
                let presenter = if place.house.is_keycloak() { &call.claims["azp"] } else { &call.claims["client_id"] };
                assert_eq!(presenter, &place.client.id);
                assert!(call.token != ana && call.token != bob);
            }
            let metrics = gateway.metrics();
            let mut secrets: BTreeSet<&str> = calls.iter().map(|call| call.token.as_str()).collect();
            secrets.remove("");
            secrets.extend(place.client.secrets());
            let secrets: Vec<&str> = secrets.into_iter().collect();
            canary::assert_none(&secrets, &[("the log", gateway.log().as_bytes()), ("metrics", metrics.as_bytes())]);
            canary::assert_none_below(&secrets, &gateway.journal(), &|_| false);
            assert!(metrics.contains("upstream_token_requests_total{outcome=\"granted\"}"), "{metrics}");
        }
    }
}

#[test]
fn scopes_that_the_upstream_asks_for_are_asked_of_the_issuer_once_and_then_shown() {
    let place = Place::npm(By::Secret, &json!({}));
    place.upstream.rules().scopes.insert("create_item".into(), "write".into());
    place.upstream.rules().scopes.insert("delete_item".into(), "root".into());
    let gateway = place.gateway(&json!({"scopes": ["read"]}));
    let ana = gateway.token("ana", "notes");
    wait_open(&gateway, &ana);
    let before = place.asked();
    assert_eq!(call(&gateway, "notes", &ana, "create_item").status, 200);
    assert_eq!(place.asked(), before + 1);
    let calls = place.upstream.calls();
    let made: Vec<_> = calls.iter().filter(|call| call.tool == "create_item").map(|call| call.status).collect();
    assert_eq!(made, [403, 200], "it ran once");
    assert_eq!(calls.last().unwrap().claims["scope"], "read write");
    assert_eq!(call(&gateway, "notes", &ana, "create_item").status, 200);
    assert_eq!(place.asked(), before + 1, "the token with both is kept");

    // A scope that the issuer does not give: it is asked once, the call is refused, and the record says why.
    for _ in 0..3 {
        let refused = call(&gateway, "notes", &ana, "delete_item");
        assert_eq!(refused.status, 502);
        assert!(refused.text().contains("UpstreamScopesLacking"), "{}", refused.text());
        assert!(refused.header("www-authenticate").is_none());
    }
    assert!(place.asked() <= before + 2, "{}", place.asked());
    until("the log to name the scope and the remedy", || {
        let log = gateway.log();
        (log.contains("root") && log.contains("oauth.scopes")).then_some(())
    });
    until("the report to name them", || {
        let report = gateway.readyz().1.to_string();
        (report.contains("UpstreamScopesLacking") && report.contains("oauth.scopes: root")).then_some(())
    });
    assert_eq!(call(&gateway, "notes", &ana, "echo").status, 200, "everything else goes on");
}

#[test]
fn a_token_that_the_upstream_does_not_take_any_more_is_replaced_once() {
    let place = Place::npm(By::Key, &json!({}));
    let gateway = place.gateway(&json!({}));
    let ana = gateway.token("ana", "notes");
    wait_open(&gateway, &ana);
    let token = place.upstream.calls().last().unwrap().token.clone();
    place.upstream.rules().rejected.insert(token.clone());
    let before = place.asked();
    assert_eq!(call(&gateway, "notes", &ana, "echo").status, 200);
    assert_eq!(place.asked(), before + 1);
    assert_ne!(place.upstream.calls().last().unwrap().token, token);

    place.upstream.rules().rejects_all = true;
    for _ in 0..5 {
        let refused = call(&gateway, "notes", &ana, "echo");
        assert_eq!(refused.status, 502);
        assert!(refused.text().contains("UpstreamCredentialsRefused"), "{}", refused.text());
    }
    assert!(place.asked() <= before + 2, "it is not asked again and again");
}
