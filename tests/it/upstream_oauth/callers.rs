//! A token for each caller, in exchange for the caller's own.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use portcullis::oauth::client_key::ClientKey;
use serde_json::{Value, json};

use super::house::{ALL, By, Manifests, Place, call, refusal, start};
use crate::authorization_servers::house::{Client, claims, service};
use crate::support::fault::Hop;
use crate::support::gateway::{TRUST, policy};
use crate::support::http::Response;
use crate::support::resource_server::ResourceServer;
use crate::support::strict::Strict;
use crate::support::wait::until;

/// A server that these authorities' tokens for `audience` are good for.
fn server(url: &str, grant: &str, trusted: &[&str], audience: &str) -> String {
    let mut server: Value = serde_json::from_str(&Place::server("notes", url, &json!({"grant": grant}), "")).unwrap();
    server["spec"]["authorization"] = json!({"servers": trusted, "audiences": [audience]});
    server.to_string()
}

/// All callers of an authority may call everything.
fn everybody(authority: &str) -> String {
    let rules = ALL.replace("any: true", &format!("any: true, authority: {authority}"));
    policy(authority, "notes", &rules)
}

/// Manifests of a gateway whose callers have tokens of the upstream's issuer, or of the gateway's own.
pub(super) fn manifests(place: &Place, grant: &str, audience: &str) -> Manifests {
    let vendor = place.trust_with(&[audience]);
    let server = server(&place.upstream.url(), grant, &["vendor", "local"], audience);
    vec![
        ("1-local.yaml", TRUST.to_owned()),
        ("2-vendor.yaml", vendor),
        ("3-server.yaml", server),
        ("4-policy.yaml", everybody("vendor")),
        ("5-policy.yaml", everybody("local")),
    ]
}

fn access_token(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

/// Keycloak's standard token exchange: switched on for the client, which must be in the audience of what it exchanges. Two
/// callers, with such a token each.
pub(super) fn exchanged(place: &Place) -> Vec<(Client, String)> {
    let realm = place.house.realm();
    let found = realm.clients().into_iter().find(|one| one["clientId"] == place.client.id.as_str()).unwrap();
    let mut changed = found.clone();
    changed["attributes"]["standard.token.exchange.enabled"] = "true".into();
    realm.admin("PUT", &format!("/clients/{}", found["id"].as_str().unwrap()), &changed);
    let audience = json!({"included.custom.audience": place.client.id, "access.token.claim": "true"});
    realm.default_scope("exchange", &[("oidc-audience-mapper", audience)]);
    let caller = || {
        let client = place.house.register(&service());
        let token = access_token(&place.house.token_with_secret(&client, &[]));
        (client, token)
    };
    vec![caller(), caller()]
}

#[test]
fn keycloak_exchanges_a_callers_token_for_one_of_the_upstream() {
    let place = Place::keycloak(By::Secret);
    let callers = exchanged(&place);
    let tokens: Vec<&str> = callers.iter().map(|(_, token)| token.as_str()).collect();
    let gateway = start(&[], &manifests(&place, "TokenExchange", &place.client.id));
    until("the server to take calls", || (call(&gateway, "notes", tokens[0], "echo").status != 503).then_some(()));
    for (client, token) in &callers {
        let answer = call(&gateway, "notes", token, "echo");
        assert_eq!(answer.status, 200, "{} {}", answer.text(), gateway.log());
        let last = place.upstream.calls().last().unwrap().clone();
        assert!(last.status == 200 && last.token != *token);
        assert_eq!(last.claims["azp"], place.client.id.as_str(), "the gateway presents it");
        assert_eq!(last.claims["sub"], claims(token)["sub"], "for the caller {}", client.id);
    }
    let before = place.upstream.calls().len();
    let asked = place.asked();
    for token in tokens.iter().cycle().take(6) {
        assert_eq!(call(&gateway, "notes", token, "echo").status, 200);
    }
    assert_eq!((place.upstream.calls().len(), place.asked()), (before + 6, asked));

    // What is exchanged and good at the gateway as well would bring the upstream in as the caller.
    for here in [gateway.url("notes"), place.client.id.clone()] {
        let mapper = place.add_audience(&here);
        let new = access_token(&place.house.token_with_secret(&callers[0].0, &[]));
        let told = refusal(&call(&gateway, "notes", &new, "echo"));
        assert!(told.contains("UpstreamTokenAudience"), "{told}");
        assert_eq!(place.upstream.calls().len(), before + 6, "it is sent nowhere");
        place.house.realm().admin("DELETE", &mapper, &Value::Null);
    }
    let asked = place.asked();

    // A caller of another issuer has nothing that could be exchanged there.
    let ana = gateway.token("ana", "notes");
    let told = refusal(&call(&gateway, "notes", &ana, "echo"));
    assert!(told.contains("CallerOfOtherIssuer"), "{told}");
    assert_eq!(place.asked(), asked, "and nobody is asked about it");
}

/// Neither server gives tokens by RFC 7523 without more: this is one of our own that is strict about it.
pub(super) struct Asserted {
    pub(super) hop: Hop,
    pub(super) strict: Strict,
    pub(super) upstream: ResourceServer,
    /// What the gateway signs with.
    pub(super) key: String,
}

impl Asserted {
    pub(super) fn start() -> Self {
        let (hop, pkcs8) = (Hop::start(), ClientKey::generate().unwrap());
        let strict = Strict::start(&hop, "gate", ClientKey::new(&pkcs8).unwrap().public_jwk());
        let upstream = ResourceServer::start(strict.issuer(), &strict.jwks_uri());
        Self { hop, strict, upstream, key: BASE64_STANDARD.encode(pkcs8) }
    }

    pub(super) fn manifests(&self) -> Manifests {
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", self.key);
        let anchor = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpAuthorizationServer",
            "metadata": {"name": "vendor"}, "spec": {"issuer": self.strict.issuer(), "allowedAudiences": ["gate"]}});
        let secret = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "gate-client", "namespace": "default"}, "stringData": {"private_key.pem": pem}});
        let client = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpClient",
            "metadata": {"name": "gate", "namespace": "default"},
            "spec": {"authorizationServer": "vendor", "method": "Preregistered",
                "registration": {"clientId": "gate", "tokenEndpointAuthMethod": "private_key_jwt"}}});
        vec![
            ("1-vendor.yaml", anchor.to_string()),
            ("2-secret.yaml", secret.to_string()),
            ("3-client.yaml", client.to_string()),
            ("4-server.yaml", server(&self.upstream.url(), "JwtBearer", &["vendor"], "gate")),
            ("5-policy.yaml", everybody("vendor")),
        ]
    }
}

#[test]
fn a_callers_token_is_an_assertion_where_the_author_wants_that() {
    let place = Asserted::start();
    let gateway = start(&[], &place.manifests());
    let tokens = ["ana", "bob"].map(|user| place.strict.token_for(user, "gate"));
    until("the server to take calls", || (call(&gateway, "notes", &tokens[0], "echo").status == 200).then_some(()));
    for (user, token) in ["ana", "bob"].into_iter().zip(&tokens) {
        for _ in 0..3 {
            let called = call(&gateway, "notes", token, "echo");
            assert_eq!(called.status, 200, "{} {:?} {}", called.text(), place.strict.answers(), gateway.log());
        }
        let last = place.upstream.calls().last().unwrap().clone();
        assert!(last.claims["sub"] == user && last.token != *token);
    }
    let answers = place.strict.answers();
    assert!(answers.len() == 2 && answers.iter().all(Result::is_ok), "{answers:?}");
}
