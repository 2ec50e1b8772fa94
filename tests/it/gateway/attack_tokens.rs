//! The matrix of forged tokens, over the wire.

use serde_json::json;

use crate::support::attack_tokens::{ALGORITHMS, Forge, MAX_LIFETIME};
use crate::support::gateway::{Gateway, policy};
use crate::support::http;
use crate::support::issuer::{Document, Fault, Issuer};
use crate::support::now;
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::until;

const RULES: &str = "  - {name: a, effect: Allow, principals: [{any: true}], tools: [{patterns: [\"*\"]}]}\n";

fn trust(issuer: &Issuer) -> String {
    format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpAuthorizationServer\nmetadata: {{name: local}}\nspec:\n  issuer: {}\n  \
         validation: {{algorithms: [{}], maxLifetime: {MAX_LIFETIME}s, groups: {{claim: groups}}}}\n",
        issuer.url(),
        ALGORITHMS.join(", "),
    )
}

fn start(issuer: &Issuer, upstream: &Upstream) -> Gateway {
    Gateway::start(&[
        ("trust.yaml", &trust(issuer)),
        ("server.yaml", &crate::support::gateway::server("s", upstream.url())),
        ("policy.yaml", &policy("p", "s", RULES)),
    ])
}

fn forge(issuer: &Issuer, gateway: &Gateway, canary: &str) -> Forge {
    let forge = Forge::new(issuer.url(), &gateway.url("s"), canary, i64::try_from(now()).unwrap());
    issuer.publish(serde_json::from_str(&forge.jwks()).unwrap());
    forge
}

fn list(gateway: &Gateway, token: &str) -> http::Response {
    http::post_2026(&gateway.url("s"), Some(token), "tools/list", &json!({}))
}

#[test]
fn attack_no_forged_token_gets_through_the_gate() {
    let (issuer, canary) = (Issuer::start(), Issuer::start());
    // Before the gateway starts, so that its first fetch brings the keys that sign.
    let upstream = Upstream::start(Sdk::Rmcp);
    issuer.fail(Document::Jwks, Fault::Status(500));
    let gateway = start(&issuer, &upstream);
    let mut forge = forge(&issuer, &gateway, canary.url());
    let unavailable = list(&gateway, &forge.genuine());
    assert_eq!(unavailable.status, 503, "no keys, no verdict: {unavailable:?}");
    issuer.heal(Document::Jwks);
    until("the genuine token to pass", || (list(&gateway, &forge.genuine()).status == 200).then_some(()));
    upstream.seen().clear();
    let mut sent = 0;
    let attacks = forge.attacks();
    // What lies just ahead of the accepted clock skew would lie within it by the time that it is sent.
    forge.now += 600;
    for (attack, ahead) in attacks.into_iter().zip(forge.attacks()) {
        let early = ["Future", "Yet", "Lifetime"].iter().any(|word| attack.reason.contains(word));
        let attack = if early { ahead } else { attack };
        // A header cannot hold them, so they cannot be sent.
        if attack.token.bytes().any(|byte| byte < 0x20 || byte == 0x7f) || attack.token.len() > 60_000 {
            continue;
        }
        let refused = list(&gateway, &attack.token);
        assert!([400, 401, 431].contains(&refused.status), "{}: {refused:?}", attack.name);
        sent += 1;
    }
    assert!(sent > 150, "{sent}");
    assert!(upstream.seen().requests().is_empty());
    assert_eq!(
        canary.hits(Document::Jwks) + canary.hits(Document::Metadata),
        0,
        "what a token points to is never fetched"
    );
    forge.now = i64::try_from(now()).unwrap();
    assert_eq!(list(&gateway, &forge.genuine()).status, 200);
    let hits = issuer.hits(Document::Jwks);
    // The first (failed) one, its retry, and at most one for all unknown keys in the window.
    assert!(hits <= 4, "{hits} fetches of the key set");
}

#[test]
fn duty_18_99_keys_that_cannot_be_had_are_no_reason_to_believe() {
    let (upstream, elsewhere) = (Upstream::start(Sdk::Rmcp), Issuer::start());
    for (what, fault) in [
        ("broken", Fault::Status(500)),
        ("moved", Fault::Redirect(format!("{}/jwks", elsewhere.url()))),
        ("huge", Fault::Huge(4 << 20)),
        ("no document", Fault::Body("{".to_owned())),
    ] {
        let issuer = Issuer::start();
        issuer.fail(Document::Jwks, fault);
        let gateway = start(&issuer, &upstream);
        let forge = forge(&issuer, &gateway, "http://127.0.0.1:1");
        elsewhere.publish(serde_json::from_str(&forge.jwks()).unwrap());
        until("the fetch of the keys", || (issuer.hits(Document::Jwks) > 0).then_some(()));
        let refused = list(&gateway, &forge.genuine());
        assert_eq!(refused.status, 503, "{what}: {refused:?}");
        assert!(refused.header("retry-after").is_some() && refused.header("www-authenticate").is_none(), "{what}");
    }
    assert_eq!(elsewhere.hits(Document::Jwks), 0, "a redirect was followed");
    assert!(upstream.seen().calls().is_empty());
}
