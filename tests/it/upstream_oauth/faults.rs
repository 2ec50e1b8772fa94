//! What keeps tokens from being had, and what is done meanwhile.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use portcullis::audit::query::{Filter, query};
use serde_json::{Value, json};

use super::house::{By, Place, call, refusal, wait_open};
use crate::authorization_servers::house::House;
use crate::support::fault::{Answer, Fault, Hop, Matching};
use crate::support::wait::until;

#[test]
fn an_upstream_that_turns_to_another_issuer_is_closed_and_nothing_is_sent_there() {
    let place = Place::npm(By::Secret, &json!({}));
    let gateway = place.gateway(&json!({}));
    let ana = gateway.token("ana", "notes");
    wait_open(&gateway, &ana);

    let other = Hop::start();
    place.upstream.rules().named = vec![other.url()];
    until("the server to be closed", || (call(&gateway, "notes", &ana, "echo").status == 503).then_some(()));
    let (calls, asked) = (place.upstream.calls().len(), place.asked());
    until("the report to say so", || gateway.readyz().1.to_string().contains("IssuerChanged").then_some(()));
    until("the log to name both issuers", || {
        let log = gateway.log();
        (log.contains("IssuerChanged") && log.contains(&other.url()) && log.contains(&place.house.issuer()))
            .then_some(())
    });
    assert_eq!(call(&gateway, "notes", &ana, "echo").status, 503);
    assert_eq!((place.upstream.calls().len(), place.asked()), (calls, asked), "no call, and no token");
    assert!(other.seen().is_empty(), "{:?}", other.seen());

    // Both at once is none.
    place.upstream.rules().named = vec![other.url(), place.house.issuer()];
    wait_open(&gateway, &ana);
    assert!(other.seen().is_empty(), "{:?}", other.seen());
}

#[test]
fn an_upstream_that_falls_silent_goes_on_and_one_that_never_spoke_does_not_begin() {
    let place = Place::npm(By::Secret, &json!({}));
    let mut gateway = place.gateway(&json!({}));
    let ana = gateway.token("ana", "notes");
    wait_open(&gateway, &ana);
    place.upstream.rules().is_silent = true;
    until("it to be told", || gateway.log().contains("UpstreamTrustUnconfirmed").then_some(()));
    assert_eq!(call(&gateway, "notes", &ana, "echo").status, 200);
    // What it said is known to the next run as well.
    gateway.restart();
    wait_open(&gateway, &ana);

    let place = Place::npm(By::Secret, &json!({}));
    place.upstream.rules().is_silent = true;
    let gateway = place.gateway(&json!({}));
    let ana = gateway.token("ana", "notes");
    until("it to be asked", || gateway.log().contains("does not say whom it trusts").then_some(()));
    assert_eq!(call(&gateway, "notes", &ana, "echo").status, 503);
    assert_eq!((place.asked(), place.upstream.calls().len()), (0, 0));
    place.upstream.rules().is_silent = false;
    wait_open(&gateway, &ana);
}

#[test]
fn without_a_token_nothing_is_called_and_the_record_says_why() {
    for (fault, reason) in [
        (Fault::Instead(Answer::status(503)), "UpstreamTokenUnavailable"),
        (Fault::Reset, "UpstreamTokenUnavailable"),
        (Fault::Instead(Answer::json(401, r#"{"error":"invalid_client"}"#)), "UpstreamTokenRefused"),
        (Fault::Instead(Answer::redirect("http://169.254.169.254/token")), "UpstreamTokenUnavailable"),
        (Fault::Instead(Answer::json(200, r#"{"token_type":"Bearer"}"#)), "TokenAnswerIncomplete"),
        (Fault::Instead(Answer::huge(1 << 20)), "UpstreamTokenUnavailable"),
    ] {
        let place = Place::npm(By::Secret, &json!({}));
        let fired = place.at_token_endpoint(fault);
        let gateway = place.gateway(&json!({}));
        let ana = gateway.token("ana", "notes");
        until("the server to take calls", || (call(&gateway, "notes", &ana, "echo").status == 502).then_some(()));
        let told = refusal(&call(&gateway, "notes", &ana, "echo"));
        assert!(told.contains(reason), "{told}");
        assert!(place.upstream.calls().is_empty());
        let filter = Filter { target: Some("echo".to_owned()), ..Filter::default() };
        until("a record that says why", || {
            let calls = query(&gateway.journal(), &filter, 100).unwrap().calls;
            let mut ends = calls.iter().filter_map(|call| call.completion.as_ref());
            ends.any(|entry| entry.json.contains(reason)).then_some(())
        });
        // Twenty calls at once do not make twenty requests.
        let before = fired.times();
        let begun = Instant::now();
        for _ in 0..20 {
            assert_eq!(call(&gateway, "notes", &ana, "echo").status, 502);
        }
        let most = 2 + usize::try_from(begun.elapsed().as_secs()).unwrap();
        assert!(fired.times() - before <= most, "{} requests in {:?}", fired.times() - before, begun.elapsed());
        place.house.hop.heal();
        wait_open(&gateway, &ana);
    }
}

/// The gateway is a client there, and has a secret to send.
#[test]
fn a_token_endpoint_inside_is_not_asked_whatever_the_issuers_metadata_says() {
    let place = Place::npm(By::Secret, &json!({}));
    let inside = TcpListener::bind("127.0.0.2:0").unwrap();
    inside.set_nonblocking(true).unwrap();
    let mut metadata = place.house.metadata();
    metadata["token_endpoint"] = json!(format!("http://{}/token", inside.local_addr().unwrap()));
    let answer = Fault::Replaced(Answer::json(200, &metadata.to_string()));
    place.house.hop.fault(Matching::every("GET", "/.well-known/"), answer);
    let gateway = place.gateway_with(&json!({}), &["--allow-private-upstreams=127.0.0.1/32"]);
    let ana = gateway.token("ana", "notes");
    until("the server to take calls", || (call(&gateway, "notes", &ana, "echo").status == 502).then_some(()));
    let told = refusal(&call(&gateway, "notes", &ana, "echo"));
    assert!(told.contains("UpstreamTokenUnavailable"), "{told}");
    assert!(inside.accept().is_err(), "somebody inside was called");
    assert_eq!((place.asked(), place.upstream.calls().len()), (0, 0));
    // It is that place alone that was in the way.
    place.house.hop.heal();
    wait_open(&gateway, &ana);
    assert!(inside.accept().is_err(), "somebody inside was called");
}

/// Keycloak is told of no resource: its mappers say for whom a token is, and one client may have those of two upstreams.
#[test]
fn a_token_that_is_good_at_another_upstream_too_is_sent_to_neither() {
    let place = Place::keycloak(By::Secret);
    let mapper = place.add_audience("https://other.example/mcp");
    let gateway = place.gateway(&json!({}));
    let ana = gateway.token("ana", "notes");
    until("the server to take calls", || (call(&gateway, "notes", &ana, "echo").status == 502).then_some(()));
    let told = refusal(&call(&gateway, "notes", &ana, "echo"));
    assert!(told.contains("UpstreamTokenAudience"), "{told}");
    until("the log to name the other", || gateway.log().contains("https://other.example/mcp").then_some(()));
    assert!(place.asked() > 0 && place.upstream.calls().is_empty());
    place.house.realm().admin("DELETE", &mapper, &Value::Null);
    wait_open(&gateway, &ana);
}

/// Client scopes of Keycloak bring audience mappers along: whoever could choose them would choose where a token is good.
#[test]
fn scopes_that_an_upstream_asks_for_get_it_no_token_for_another_upstream() {
    let (house, other) = (House::keycloak(), "another-upstream");
    let audience = json!({"included.custom.audience": other, "access.token.claim": "true"});
    house.realm().optional_scope("theirs", &[("oidc-audience-mapper", audience)], None);
    house.realm().optional_scope("write", &[], None);
    let place = Place::new(house, By::Secret);
    place.upstream.rules().scopes.insert("create_item".into(), "write".into());
    place.upstream.rules().scopes.insert("delete_item".into(), "theirs".into());
    let gateway = place.gateway(&json!({}));
    let ana = gateway.token("ana", "notes");
    wait_open(&gateway, &ana);
    for _ in 0..3 {
        let told = refusal(&call(&gateway, "notes", &ana, "delete_item"));
        assert!(told.contains("UpstreamScopesLacking"), "{told}");
    }
    until("the log to name the other", || gateway.log().contains(other).then_some(()));
    let before = place.asked();
    assert_eq!(call(&gateway, "notes", &ana, "echo").status, 200, "what there was is kept");
    assert_eq!(place.asked(), before);
    assert_eq!(call(&gateway, "notes", &ana, "create_item").status, 200, "{}", gateway.log());
    let calls = place.upstream.calls();
    assert!(calls.iter().all(|call| !call.claims.to_string().contains(other)), "{calls:?}");
    assert!(calls.last().unwrap().claims["scope"].as_str().unwrap().contains("write"));
}

/// While the issuer is slow, or away, calls go on with the token that there is.
#[test]
fn a_token_is_renewed_before_it_ends_and_no_call_waits_for_it() {
    const SLOW: Duration = Duration::from_millis(2500);
    let place = Place::npm(By::Key, &json!({"accessTokenLifetime": 30}));
    let gateway = place.gateway(&json!({}));
    let ana = gateway.token("ana", "notes");
    wait_open(&gateway, &ana);
    let slow = place.at_token_endpoint(Fault::Slow(SLOW));
    let first = place.upstream.calls().last().unwrap().token.clone();
    let mut longest = Duration::ZERO;
    let renewed = until("the token to be renewed", || {
        let begun = Instant::now();
        assert_eq!(call(&gateway, "notes", &ana, "echo").status, 200);
        longest = longest.max(begun.elapsed());
        let last = place.upstream.calls().last().unwrap().clone();
        (last.token != first).then_some(last)
    });
    assert!(slow.times() >= 1 && renewed.status == 200);
    assert!(longest < SLOW, "a call waited for {longest:?}");
    let refused = place.upstream.calls().iter().filter(|call| call.status != 200 && !call.token.is_empty()).count();
    assert_eq!(refused, 0, "no token was sent after its end");
}

#[test]
fn manifests_that_cannot_work_say_so() {
    let place = Place::npm(By::Secret, &json!({}));
    let gateway = place.gateway(&json!({"client": "nobody"}));
    let ana = gateway.token("ana", "notes");
    until("the report", || {
        let (_, report): (bool, Value) = gateway.readyz();
        report.to_string().contains("UpstreamClientUnfit").then_some(())
    });
    assert_eq!(call(&gateway, "notes", &ana, "echo").status, 503);
    assert_eq!(place.asked(), 0);
}
