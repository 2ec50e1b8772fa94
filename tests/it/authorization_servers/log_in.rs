//! A person logs in for a client that registered: code, PKCE, a token for the resource, and refreshing it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::house::{House, RESOURCE, claims, error};
use crate::support::browser::Browser;

pub(crate) const VERIFIER: &str = "a-verifier-of-at-least-forty-three-characters-0123456789";
const REDIRECT: &str = "http://127.0.0.1:7777/callback";

/// A tool on a person's machine (RFC 8252).
pub(crate) fn native() -> Value {
    json!({"client_name": "A person's tool", "application_type": "native", "redirect_uris": [REDIRECT],
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
        "token_endpoint_auth_method": "none"})
}

/// Where a client sends its person, and what comes back.
pub(super) fn authorization_url(house: &House, client: &str, scope: &str) -> String {
    authorization_url_to(house, client, scope, REDIRECT)
}

/// The same, of one whose person comes back to another place.
pub(crate) fn authorization_url_to(house: &House, client: &str, scope: &str, redirect: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, VERIFIER.as_bytes());
    let challenge = URL_SAFE_NO_PAD.encode(digest.as_ref());
    let parameters = [
        ("response_type", "code"),
        ("client_id", client),
        ("redirect_uri", redirect),
        ("scope", scope),
        ("state", "the-state"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
        ("resource", RESOURCE),
    ];
    url::Url::parse_with_params(&house.endpoint("authorization_endpoint"), parameters).unwrap().into()
}

/// Logs in as `ana` and trades the code.
pub(crate) fn tokens_of_ana(house: &House, client: &str, scope: &str) -> Value {
    let url = authorization_url(house, client, scope);
    let back = Browser::of("ana", "ana's password").authorize(&url, REDIRECT).unwrap_or_else(|page| panic!("{page:?}"));
    assert_eq!(back["state"], "the-state");
    // RFC 9207 section 2.
    assert_eq!(back["iss"], house.issuer());
    let answer = house.token(&[
        ("grant_type", "authorization_code"),
        ("code", &back["code"]),
        ("redirect_uri", REDIRECT),
        ("client_id", client),
        ("code_verifier", VERIFIER),
        ("resource", RESOURCE),
    ]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Adds `ana` and the resource where they must be made.
pub(crate) fn with_ana(house: House) -> House {
    if house.is_keycloak() {
        house.realm().resource(RESOURCE);
        house.realm().user("ana", "ana's password", &["engineers"]);
    }
    house
}

/// A scope that the server gives out.
pub(crate) fn scope(house: &House) -> &'static str {
    if house.is_keycloak() { "openid" } else { "openid mcp:use" }
}

#[test]
fn a_person_gets_a_token_for_the_resource_and_refreshes_it() {
    for house in House::both().map(with_ana) {
        let metadata = house.metadata();
        assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
        assert!(metadata["code_challenge_methods_supported"].as_array().unwrap().contains(&"S256".into()));
        let client = house.register(&native());
        assert_eq!(client.secret, None);
        let tokens = tokens_of_ana(&house, &client.id, scope(&house));
        let token = claims(tokens["access_token"].as_str().unwrap());
        assert_eq!((&token["iss"], &token["aud"]), (&house.issuer().into(), &RESOURCE.into()), "{token}");
        assert_eq!(token["groups"], json!(["engineers"]));

        let refresh = |token: &str| {
            let form = [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", &client.id)];
            house.token(&form)
        };
        let first = tokens["refresh_token"].as_str().unwrap();
        let second = refresh(first);
        assert_eq!(second.status, 200, "{}", second.text());
        let second = second.json();
        assert_eq!(claims(second["access_token"].as_str().unwrap())["aud"], RESOURCE);
        assert_ne!(second["refresh_token"], first);
        // npm oidc-provider revokes all of it when a refresh token comes again; Keycloak's default lets it.
        let again = refresh(first);
        if house.is_keycloak() {
            assert_eq!(again.status, 200);
        } else {
            assert_eq!(error(&again), (400, "invalid_grant".to_owned()));
            assert_eq!(error(&refresh(second["refresh_token"].as_str().unwrap())).1, "invalid_grant");
        }
    }
}

#[test]
fn a_wrong_redirect_uri_is_shown_to_the_person_and_nobody_is_sent_there() {
    for house in House::both().map(with_ana) {
        let client = house.register(&native());
        let url = authorization_url(&house, &client.id, scope(&house)).replace("7777%2Fcallback", "7777%2Fother");
        let page = Browser::of("ana", "ana's password").authorize(&url, "http://127.0.0.1:7777/").unwrap_err();
        assert_eq!(page.status, 400);
    }
}

/// RFC 8252 section 7.3: a tool listens on whatever port is free. Keycloak lets the port change if none was registered.
#[test]
fn the_port_of_a_loopback_redirect_uri_may_change() {
    for house in House::both().map(with_ana) {
        for (registered, changes) in [(REDIRECT, !house.is_keycloak()), ("http://127.0.0.1/callback", true)] {
            let mut metadata = native();
            metadata["redirect_uris"] = json!([registered]);
            let client = house.register(&metadata);
            let url = authorization_url(&house, &client.id, scope(&house)).replace("%3A7777%2F", "%3A7778%2F");
            let back = Browser::of("ana", "ana's password").authorize(&url, "http://127.0.0.1:7778/callback");
            assert_eq!(back.is_ok(), changes, "{registered}: {back:?}");
        }
    }
}
