//! Tokens for a service: how a client shows who it is, and for whom the token is.

use serde_json::{Value, json};

use super::house::{Client, House, RESOURCE, claims, error, service, service_with, update_of};
use crate::support::http::Response;
use crate::support::token::Key;

const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

fn with_key(house: &House, client: &Client, key: &Key, more: &[(&str, &str)]) -> Response {
    let assertion = house.assertion(key, &client.id);
    let own = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", ASSERTION),
        ("client_assertion", assertion.as_str()),
    ];
    house.token(&[&own[..], more].concat())
}

fn access_token(answer: &Response) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["token_type"], "Bearer");
    claims(answer.json()["access_token"].as_str().unwrap())
}

fn audiences(token: &Value) -> Vec<Value> {
    token["aud"].as_array().cloned().unwrap_or_else(|| vec![token["aud"].clone()])
}

#[test]
fn a_key_gets_a_token_with_an_assertion_for_the_issuer() {
    for house in House::both() {
        if house.is_keycloak() {
            house.realm().resource(RESOURCE);
        }
        let resource: &[(&str, &str)] = if house.is_keycloak() { &[] } else { &[("resource", RESOURCE)] };
        let key = Key::es256("key-1");
        let client = house.register(&service_with(&key));
        assert_eq!(client.secret, None);
        let token = access_token(&with_key(&house, &client, &key, resource));
        assert_eq!(token["iss"], house.issuer());
        assert!(audiences(&token).contains(&RESOURCE.into()), "{token}");
        let other = Key::es256("key-1");
        // RFC 6749 section 5.2 allows both.
        let status = if house.is_keycloak() { 400 } else { 401 };
        assert_eq!(error(&with_key(&house, &client, &other, resource)), (status, "invalid_client".to_owned()));
    }
}

/// A new key is told by an update, which costs a registration token, or by a key set at a URL.
#[test]
fn an_update_replaces_a_key_at_once() {
    for house in House::both() {
        let (old, new) = (Key::es256("key-1"), Key::es256("key-2"));
        let client = house.register(&service_with(&old));
        access_token_or_opaque(&with_key(&house, &client, &old, &[]));
        let updated = client.update(&update_of(&client, &service_with(&new)));
        assert_eq!(updated.status, 200, "{}", updated.text());
        access_token_or_opaque(&with_key(&house, &client, &new, &[]));
        assert_eq!(error(&with_key(&house, &client, &old, &[])).1, "invalid_client");
    }
}

fn access_token_or_opaque(answer: &Response) {
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn an_assertion_is_good_once() {
    for house in House::both() {
        let key = Key::es256("key-1");
        let client = house.register(&service_with(&key));
        let assertion = house.assertion(&key, &client.id);
        let form = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", ASSERTION),
            ("client_assertion", assertion.as_str()),
        ];
        assert_eq!(house.token(&form).status, 200);
        assert_eq!(error(&house.token(&form)).1, "invalid_client");
    }
}

#[test]
fn npm_oidc_provider_makes_the_resource_the_audience() {
    let house = House::provider(&json!({"resourcePrefix": "https://mcp.example.com/team-b/"}));
    let client = house.register(&service());
    for resource in [RESOURCE, "https://mcp.example.com/team-b/any"] {
        assert_eq!(access_token(&house.token_with_secret(&client, &[("resource", resource)]))["aud"], resource);
    }
    let unknown = error(&house.token_with_secret(&client, &[("resource", "https://mcp.example.com/other")]));
    assert_eq!(unknown, (400, "invalid_target".to_owned()));
    let two = error(
        &house.token_with_secret(&client, &[("resource", RESOURCE), ("resource", "https://mcp.example.com/team-b/b")]),
    );
    assert_eq!(two, (400, "invalid_target".to_owned()));
    // Without a resource, the token is for the provider alone, and no JWT.
    let opaque = house.token_with_secret(&client, &[]).json()["access_token"].as_str().unwrap().to_owned();
    assert!(!opaque.contains('.'), "{opaque}");
}

/// RFC 8707 is an experiment in Keycloak: who asks for a resource gets a token only if its audience already has a client
/// that stands for that resource.
#[test]
fn keycloak_makes_an_audience_with_a_mapper_and_without_one_nothing() {
    let house = House::keycloak();
    let invalid_target = (400, "invalid_target".to_owned());
    let without = house.register(&service());
    let has_it =
        |client: &Client| audiences(&access_token(&house.token_with_secret(client, &[]))).contains(&RESOURCE.into());
    let asks = |client: &Client, resource: &str| house.token_with_secret(client, &[("resource", resource)]);
    assert!(!has_it(&without));
    assert_eq!(error(&asks(&without, RESOURCE)), invalid_target);

    let custom = json!({"included.custom.audience": RESOURCE, "access.token.claim": "true"});
    house.realm().default_scope("custom", &[("oidc-audience-mapper", custom)]);
    let with = house.register(&service());
    assert!(has_it(&with));
    assert_eq!(error(&asks(&with, RESOURCE)), invalid_target);
    // A scope that becomes a default later is none of a client that was there before.
    assert!(!has_it(&without));

    house.realm().resource(RESOURCE);
    let by_client = house.register(&service());
    assert!(has_it(&by_client));
    assert_eq!(error(&asks(&by_client, "https://mcp.example.com/other")), invalid_target);
    // Keycloak 26.7.2 looks for the refresh token, which a service has none of: a service must not ask.
    assert_eq!(asks(&by_client, RESOURCE).status, 500);
}

/// A secret goes the way that was registered.
#[test]
fn keycloak_takes_a_secret_by_the_registered_method_alone() {
    for house in House::both() {
        let client = house.register(&service());
        let secret = client.secret.as_deref().unwrap();
        let posted = [("grant_type", "client_credentials"), ("client_id", &client.id), ("client_secret", secret)];
        let answer = house.token(&posted);
        if house.is_keycloak() {
            assert_eq!(error(&answer), (401, "unauthorized_client".to_owned()));
        } else {
            assert_eq!(answer.status, 200);
        }
    }
}

#[test]
fn a_secret_that_has_expired_is_an_invalid_client_and_no_update_renews_it() {
    let house = House::provider(&json!({"secretLifetime": 3600}));
    let client = house.register(&service());
    let ends = client.metadata["client_secret_expires_at"].as_i64().unwrap();
    assert_eq!(ends, client.metadata["client_id_issued_at"].as_i64().unwrap() + 3600);
    assert_eq!(house.token_with_secret(&client, &[]).status, 200);
    house.of_npm().expire_secret(&client.id);
    assert_eq!(error(&house.token_with_secret(&client, &[])).1, "invalid_client");
    let updated = client.update(&update_of(&client, &service()));
    let updated = Client::parse(&updated.json());
    assert_eq!(
        (updated.secret.clone(), &updated.metadata["client_secret_expires_at"]),
        (client.secret.clone(), &json!(1))
    );
    assert_eq!(error(&house.token_with_secret(&updated, &[])).1, "invalid_client");
}

#[test]
fn a_client_that_is_gone_gets_no_token() {
    for house in House::both() {
        let client = house.register(&service());
        assert_eq!(house.token_with_secret(&client, &[]).status, 200);
        assert_eq!(client.delete().status, 204);
        assert_eq!(error(&house.token_with_secret(&client, &[])), (401, "invalid_client".to_owned()));
    }
}
