//! Client ID Metadata Documents (draft-ietf-oauth-client-id-metadata-document): the client's id is where its metadata is, and
//! the server keeps nothing that could be orphaned.

use serde_json::{Value, json};

use super::house::{House, RESOURCE, claims, error, service_with};
use super::log_in::{authorization_url, native, scope, tokens_of_ana, with_ana};
use crate::support::browser::Browser;
use crate::support::documents::Documents;
use crate::support::token::Key;

const PATH: &str = "/clients/tool.json";

fn document(documents: &Documents) -> Value {
    let mut document = native();
    document["client_id"] = documents.url(PATH).into();
    document["client_uri"] = documents.url("/").into();
    document
}

/// What an administrator of Keycloak does: a client policy says for which ids, and by which rules.
pub(crate) fn switch_on(house: &House, resources: &[&str]) {
    let trusted = json!(["localhost", "127.0.0.1"]);
    let profiles = json!({"profiles": [{"name": "documents", "executors": [{"executor": "client-id-metadata-document",
        "configuration": {"cimd-allow-http-scheme": false, "cimd-allow-permitted-domains": trusted,
            "cimd-restrict-same-domain": false, "cimd-resource-indicator-allow-list": resources}}]}]});
    house.realm().admin("PUT", "/client-policies/profiles", &profiles);
    let policies = json!({"policies": [{"name": "documents", "enabled": true, "profiles": ["documents"],
        "conditions": [{"condition": "client-id-uri", "configuration": {"client-id-uri-scheme": ["https"],
            "client-id-uri-allow-permitted-domains": trusted}}]}]});
    house.realm().admin("PUT", "/client-policies/policies", &policies);
}

#[test]
fn a_person_logs_in_for_a_client_that_nobody_registered() {
    let provider = House::provider(&json!({"cimd": true, "fetchFromLoopback": true}));
    for house in [provider, House::keycloak()].map(with_ana) {
        if house.is_keycloak() {
            switch_on(&house, &[RESOURCE]);
        }
        assert_eq!(house.metadata()["client_id_metadata_document_supported"], true);
        let documents = Documents::start();
        documents.put(PATH, &document(&documents));
        let client = documents.url(PATH);
        let tokens = tokens_of_ana(&house, &client, scope(&house));
        let token = claims(tokens["access_token"].as_str().unwrap());
        assert_eq!((&token["iss"], &token["aud"]), (&house.issuer().into(), &RESOURCE.into()), "{token}");
        let presenter = if house.is_keycloak() { &token["azp"] } else { &token["client_id"] };
        assert_eq!(presenter, &client);
        assert!(documents.asked(PATH) >= 1);
        // Keycloak keeps what it fetched as a client like others; npm oidc-provider keeps nothing.
        let kept: &[String] = if house.is_keycloak() { &[client] } else { &[] };
        assert_eq!(house.clients(), kept);
    }
}

#[test]
fn a_document_for_another_id_is_refused() {
    let provider = House::provider(&json!({"cimd": true, "fetchFromLoopback": true}));
    for house in [provider, House::keycloak()].map(with_ana) {
        if house.is_keycloak() {
            switch_on(&house, &[RESOURCE]);
        }
        let documents = Documents::start();
        let mut wrong = document(&documents);
        wrong["client_id"] = documents.url("/clients/other.json").into();
        documents.put(PATH, &wrong);
        let url = authorization_url(&house, &documents.url(PATH), scope(&house));
        let page = Browser::of("ana", "ana's password").authorize(&url, "http://127.0.0.1:7777/").unwrap_err();
        assert_eq!(page.status, 400);
        assert!(documents.asked(PATH) >= 1);
    }
}

/// Whoever only asks for tokens is nobody to Keycloak before a person was sent to log in for them.
#[test]
fn keycloak_makes_a_client_of_a_document_when_a_person_comes_and_not_before() {
    let provider = House::provider(&json!({"cimd": true, "fetchFromLoopback": true}));
    for house in [provider, House::keycloak()].map(with_ana) {
        if house.is_keycloak() {
            switch_on(&house, &[RESOURCE]);
        }
        let (documents, key) = (Documents::start(), Key::es256("key-1"));
        let mut service = service_with(&key);
        service["client_id"] = documents.url(PATH).into();
        documents.put(PATH, &service);
        let client = documents.url(PATH);
        let assertion = house.assertion(&key, &client);
        let answer = house.token(&[
            ("grant_type", "client_credentials"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", &assertion),
        ]);
        if house.is_keycloak() {
            assert_eq!((error(&answer).1.as_str(), documents.asked(PATH)), ("invalid_client", 0));
            assert_eq!(house.clients(), Vec::<String>::new());
        } else {
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
}

/// Its fetcher refuses special-use addresses (RFC 6890); the option is for tests, which have no others.
#[test]
fn npm_oidc_provider_fetches_nothing_from_loopback_unless_told() {
    let house = House::provider(&json!({"cimd": true}));
    let documents = Documents::start();
    documents.put(PATH, &document(&documents));
    let url = authorization_url(&house, &documents.url(PATH), scope(&house));
    let page = Browser::of("ana", "ana's password").authorize(&url, "http://127.0.0.1:7777/").unwrap_err();
    assert_eq!((page.status, documents.asked(PATH)), (400, 0));
}

#[test]
fn where_documents_are_off_the_metadata_says_so() {
    let house = House::provider(&json!({}));
    assert_eq!(house.metadata().get("client_id_metadata_document_supported"), None);
}
