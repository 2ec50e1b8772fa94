//! RFC 7591: what makes a client, and what is refused.

use serde_json::json;

use super::house::{House, error, service};

#[test]
fn a_registration_makes_a_client_with_what_manages_it_at_the_issuers_origin() {
    for house in House::both() {
        let metadata = house.metadata();
        assert_eq!(metadata["issuer"], house.issuer());
        let client = house.register(&service());
        assert_eq!(house.clients(), [client.id.as_str()]);
        assert!(client.uri.starts_with(&format!("{}/", house.hop.url())), "{}", client.uri);
        assert!(client.secret.is_some_and(|secret| secret.len() >= 32));
        // 0: never (RFC 7591 section 3.2.1).
        assert_eq!(client.metadata["client_secret_expires_at"], 0);
        assert!(client.metadata["client_id_issued_at"].as_i64().is_some_and(|at| at > 0));
    }
}

/// There is no key by which a server could know that it was asked before: who loses the answer has an orphan.
#[test]
fn a_registration_that_is_sent_twice_makes_two_clients() {
    for house in House::both() {
        let (one, two) = (house.register(&service()), house.register(&service()));
        assert_ne!(one.id, two.id);
        assert_eq!(house.clients().len(), 2);
    }
}

#[test]
fn without_an_initial_access_token_nobody_registers() {
    for house in House::both() {
        let refused = error(&house.register_with(None, &service()));
        // Keycloak's policy for anonymous registrations asks where they come from.
        let expected = if house.is_keycloak() { (403, "insufficient_scope") } else { (401, "invalid_token") };
        assert_eq!((refused.0, refused.1.as_str()), expected);
        let forged = error(&house.register_with(Some("forged"), &service()));
        assert_eq!((forged.0, forged.1.as_str()), (401, "invalid_token"));
        assert!(house.clients().is_empty());
    }
}

#[test]
fn an_initial_access_token_that_is_used_up_is_an_invalid_token() {
    for house in House::both() {
        let token = if house.is_keycloak() {
            let token = house.realm().initial_access_token(1);
            assert_eq!(house.register_with(Some(&token), &service()).status, 201);
            token
        } else {
            let token = house.of_npm().initial_access_token();
            house.of_npm().kill_initial_access_tokens();
            token
        };
        let before = house.clients();
        let (status, error) = error(&house.register_with(Some(&token), &service()));
        assert_eq!((status, error.as_str()), (401, "invalid_token"));
        assert_eq!(house.clients(), before);
    }
}

/// RFC 7591 section 2: unknown members are to be ignored. `resource` (RFC 8707) is none of its.
#[test]
fn a_member_that_is_not_known_is_ignored_or_refused() {
    for house in House::both() {
        let mut metadata = service();
        metadata["resource"] = super::house::RESOURCE.into();
        let answer = house.register_with(Some(&house.initial_access_token()), &metadata);
        let expected = if house.is_keycloak() { 400 } else { 201 };
        assert_eq!(answer.status, expected, "{}", answer.text());
    }
}

/// So a server's own list tells by no marker of ours whose a client is, unless it keeps one.
#[test]
fn software_id_is_forgotten() {
    for house in House::both() {
        let mut metadata = service();
        metadata["software_id"] = "5f0c7b1e-1d6a-4f0e-9a57-0a8b3a4f3f10".into();
        metadata["software_version"] = "1".into();
        let client = house.register(&metadata);
        assert_eq!(client.metadata.get("software_id"), None, "{}", client.metadata);
        assert_eq!(client.read().json().get("software_version"), None);
    }
    let house = House::provider(&json!({"keep": ["software_id", "software_version"]}));
    let mut metadata = service();
    metadata["software_id"] = "5f0c7b1e".into();
    assert_eq!(house.register(&metadata).metadata["software_id"], "5f0c7b1e");
    assert_eq!(house.of_npm().clients()[0]["software_id"], "5f0c7b1e");
}

#[test]
fn metadata_that_makes_no_sense_is_invalid_for_good() {
    for house in House::both() {
        let mut metadata = service();
        metadata["token_endpoint_auth_method"] = "private_key_jwt".into();
        let (status, code) = error(&house.register_with(Some(&house.initial_access_token()), &metadata));
        assert_eq!((status, code.as_str()), (400, "invalid_client_metadata"));
        let mut metadata = service();
        metadata["grant_types"] = json!(["authorization_code"]);
        metadata["response_types"] = json!(["code"]);
        metadata["redirect_uris"] = json!(["javascript:alert(1)"]);
        let (status, code) = error(&house.register_with(Some(&house.initial_access_token()), &metadata));
        assert_eq!((status, code.starts_with("invalid_")), (400, true), "{code}");
        assert!(house.clients().is_empty());
    }
}
