//! The attack matrix over HTTP: no forged token passes, none makes the gateway fetch what it names, and keys that cannot be
//! had never mean that a token is believed.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;

use crate::support::attack_tokens::{Attack, Forge, with};
use crate::support::gateway::{Gateway, policy, server};
use crate::support::http::{self, Response};
use crate::support::issuer::{Document, Fault, Issuer};
use crate::support::upstream::{Sdk, Upstream};
use crate::support::{now, wait::until};

const RULES: &str =
    "  - name: all\n    effect: Allow\n    principals: [{groups: [engineers]}]\n    tools: [{patterns: [\"*\"]}]\n";

fn trust(name: &str, issuer: &str) -> String {
    format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpAuthorizationServer\nmetadata: {{name: {name}}}\nspec:\n  \
         issuer: {issuer}\n  validation: {{maxLifetime: 1h, groups: {{claim: groups}}}}\n"
    )
}

fn forge(issuer: &Issuer, canary: &str) -> Forge {
    let forge = Forge::new(issuer.url(), "", canary, i64::try_from(now()).unwrap());
    issuer.publish(serde_json::from_str(&forge.jwks()).unwrap());
    forge
}

fn call(url: &str, token: &str) -> Response {
    http::post_2026(url, Some(token), "tools/call", &json!({"name": "echo", "arguments": {"message": "a"}}))
}

fn start(issuer: &Issuer, upstream: &Upstream) -> Gateway {
    Gateway::start(&[
        ("trust.yaml", &trust("local", issuer.url())),
        ("server.yaml", &server("echo", upstream.url())),
        ("policy.yaml", &policy("all", "echo", RULES)),
    ])
}

#[test]
fn every_attack_is_refused_and_the_genuine_token_passes() {
    let (issuer, upstream) = (Issuer::start(), Upstream::start(Sdk::Rmcp));
    let canary = TcpListener::bind("127.0.0.1:0").unwrap();
    canary.set_nonblocking(true).unwrap();
    let mut forge = forge(&issuer, &format!("http://{}", canary.local_addr().unwrap()));
    let gateway = start(&issuer, &upstream);
    let url = gateway.url("echo");
    forge.resource.clone_from(&url);
    until("the issuer's keys", || (call(&url, &forge.genuine()).status == 200).then_some(()));
    upstream.seen().clear();
    // What cannot stand in a header, or ends at the limit of a request's head before it is a token, is not sent.
    let sendable = |token: &str| token.len() < 32_000 && token.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let is_early = |attack: &Attack| attack.name.ends_with("in the future");
    let mut attacks = forge.attacks();
    attacks.retain(|attack| !is_early(attack));
    // These are one second away from being good: they get the time that the others take.
    forge.now += 3600;
    attacks.extend(forge.attacks().into_iter().filter(is_early));
    forge.now -= 3600;
    let sent = attacks.iter().filter(|attack| sendable(&attack.token));
    let mut count = 0;
    for attack in sent {
        let response = call(&url, &attack.token);
        assert!(matches!(response.status, 400 | 401), "{}: {response:?}", attack.name);
        assert!(response.header("www-authenticate").is_some(), "{}: {response:?}", attack.name);
        count += 1;
    }
    assert!(count > 230, "only {count} attacks were sent");
    assert!(upstream.seen().calls().is_empty(), "{:?}", upstream.seen().calls());
    assert!(canary.accept().is_err(), "a URL from a token's header was fetched");
    assert_eq!(call(&url, &forge.genuine()).status, 200);
    assert_eq!(upstream.seen().calls().len(), 1);
}

#[test]
fn unknown_keys_cost_one_fetch_and_bring_a_rotated_key() {
    let (issuer, upstream) = (Issuer::start(), Upstream::start(Sdk::Rmcp));
    let mut old = forge(&issuer, "http://127.0.0.1:1");
    let gateway = start(&issuer, &upstream);
    let url = gateway.url("echo");
    old.resource.clone_from(&url);
    until("the issuer's keys", || (call(&url, &old.genuine()).status == 200).then_some(()));
    let fetched = issuer.hits(Document::Jwks);
    let mut new = forge(&issuer, "http://127.0.0.1:1");
    new.resource.clone_from(&url);
    let mut keys: serde_json::Value = serde_json::from_str(&new.jwks()).unwrap();
    keys["keys"][0]["kid"] = "rotated".into();
    issuer.publish(keys);
    let rotated = new.token(&with(&new.header(), "kid", json!("rotated")), &new.claims());
    let mut floods = 0;
    until("the rotated key", || {
        floods += 1;
        let bogus = old.token(&with(&old.header(), "kid", json!(format!("bogus-{floods}"))), &old.claims());
        assert_eq!(call(&url, &bogus).status, 401);
        (call(&url, &rotated).status == 200).then_some(())
    });
    assert!(floods > 100, "the window was no window: {floods}");
    assert_eq!(issuer.hits(Document::Jwks), fetched + 1);
}

#[test]
fn keys_that_cannot_be_had_are_no_reason_to_believe() {
    let upstream = Upstream::start(Sdk::Rmcp);
    let elsewhere = Issuer::start();
    let faults = [
        ("broken", Fault::Status(500)),
        ("moved", Fault::Redirect(format!("{}/jwks", elsewhere.url()))),
        ("slow", Fault::Slow(Duration::from_secs(60))),
    ];
    let issuers: Vec<_> = faults
        .into_iter()
        .map(|(name, fault)| {
            let issuer = Issuer::start();
            let forge = forge(&issuer, "http://127.0.0.1:1");
            elsewhere.publish(serde_json::from_str(&forge.jwks()).unwrap());
            issuer.fail(Document::Jwks, fault);
            (name, issuer, forge)
        })
        .collect();
    let mut files = Vec::new();
    for (name, issuer, _) in &issuers {
        let server = server(name, upstream.url()).replace("[local]", &format!("[{name}]"));
        let policy = policy(name, name, RULES).replace("authority: local", &format!("authority: {name}"));
        files.push((format!("{name}.yaml"), format!("{}---\n{server}---\n{policy}", trust(name, issuer.url()))));
    }
    let files: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
    let gateway = Gateway::launch(&files, &[]);
    for (name, issuer, mut forge) in issuers {
        until("the fetch of the keys", || (issuer.hits(Document::Jwks) > 0).then_some(()));
        forge.resource = gateway.url(name);
        let response = call(&forge.resource, &forge.genuine());
        assert!(matches!(response.status, 401 | 503), "{name}: {response:?}");
    }
    assert_eq!(elsewhere.hits(Document::Jwks), 0, "a redirect was followed");
    assert!(upstream.seen().calls().is_empty());
}
