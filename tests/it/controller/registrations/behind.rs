//! What happens at the server behind our back, and servers that do not want to.

use serde_json::json;

use super::place::{Place, READER, Way};
use crate::controller::{condition, message, object, wait_condition};
use crate::support::fault::{Answer, Fault, Matching};
use crate::support::keycloak::MANAGER;
use crate::support::kube::SYSTEM;
use crate::support::wait::until;

#[test]
fn a_refusal_names_the_reason_and_nothing_is_tried_on_and_on() {
    let place = Place::new(Way::ProviderDcr);
    let refusal = r#"{"error":"invalid_client_metadata","error_description":"no such client here"}"#;
    let matching = Matching::every("POST", &place.registrations());
    place.house.hop.fault(matching, Fault::Instead(Answer::json(400, refusal)));
    let _controller = place.controller();
    place.apply(&json!({}));
    let said = place.wait_registered("False", "RegistrationRefused");
    assert!(said.contains("invalid_client_metadata") && said.contains("no such client here"), "{said}");
    assert_eq!(place.asked("POST"), 1);
    place.house.hop.heal();
    // A change is tried at once.
    place.apply(&json!({"clientName": "Other"}));
    place.wait_ready();
    place.assert_one("after a refusal");
}

#[test]
fn an_initial_access_token_that_is_used_up_is_asked_for_by_name() {
    for way in [Way::ProviderDcr, Way::KeycloakDcr] {
        let place = Place::new(way);
        let token = match way {
            Way::KeycloakDcr => place.house.realm().initial_access_token(1),
            _ => place.house.initial_access_token(),
        };
        place.secret("initial-access", &[("token", &token)]);
        let _controller = place.controller();
        place.cluster.apply(&place.client("first", &json!({})));
        let first = ("McpClient", Some("team"), "first");
        wait_condition(&place.cluster, first, ("Ready", "True", "Ready"));
        let left = place.ours();
        if way == Way::ProviderDcr {
            place.house.of_npm().kill_initial_access_tokens();
        }
        place.apply(&json!({}));
        let said = place.wait_registered("False", "RegistrationDenied");
        let remedy = format!("put a new one under the key token of Secret {SYSTEM}/initial-access");
        assert!(said.contains(&remedy) && !said.contains(&token), "{way:?}: {said}");
        assert_eq!((place.ours(), place.asked("POST")), (left.clone(), 2), "{way:?}: it was not tried on and on");
        assert_eq!(condition(&object(&place.cluster, first.0, first.1, first.2).unwrap(), "Ready").unwrap().0, "True");
        assert!(place.condition("Orphaned").is_none(), "{way:?}: nothing was made");

        place.give_initial_access_token();
        place.cluster.wait_remembered("v1", "Secret", Some(SYSTEM), "initial-access");
        place.apply(&json!({"clientName": "Other"}));
        place.wait_ready();
        place.assert_one_beside(&left, "with a new initial access token");
    }
}

#[test]
fn what_the_administrator_has_to_lend_is_asked_for_by_name_and_found_once_it_is_there() {
    for (way, secret, keys) in [
        (Way::ProviderDcr, "initial-access", "token"),
        (Way::KeycloakAdmin, "keycloak-admin", "client_id and client_secret"),
    ] {
        let place = Place::new(way);
        place.cluster.delete("v1", "Secret", Some(SYSTEM), secret);
        let _controller = place.controller();
        place.apply(&json!({}));
        let said = place.wait_registered("False", "RegistrationDenied");
        assert!(said.contains(&format!("there is no Secret {SYSTEM}/{secret}: make it, with {keys}")), "{said}");
        assert!(place.ours().is_empty());
        match way {
            Way::ProviderDcr => place.give_initial_access_token(),
            _ => place.secret(secret, &[("client_id", MANAGER.0), ("client_secret", MANAGER.1)]),
        }
        // Nobody touches the McpClient.
        place.wait_ready();
        place.assert_one("once the Secret is there");
    }
}

#[test]
fn an_issuer_that_changes_is_not_followed_before_the_author_agrees() {
    let place = Place::new(Way::ProviderDcr);
    let other = Place::new(Way::ProviderDcr);
    let _controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    let before = place.works();
    place.secret("initial-access", &[("token", &other.house.initial_access_token())]);
    place.cluster.apply(&place.anchor(&other.house.issuer()));
    let said = place.wait_registered("False", "IssuerChanged");
    assert!(said.contains(&other.house.issuer()), "{said}");
    let changed = wait_condition(&place.cluster, READER, ("IssuerChanged", "True", "IssuerChanged"));
    let told = message(&changed, "IssuerChanged");
    let remedy = format!("annotate the McpClient with portcullis.dev/issuer={}", other.house.issuer());
    assert!(told.contains(&place.house.issuer()) && told.contains(&remedy), "{told}");
    assert_eq!(other.house.hop.count("POST", ""), 0, "nothing is sent there");
    assert_eq!(place.token_with(&before).status, 200, "what was registered goes on");
    let agreed = format!("portcullis.dev/issuer={}", other.house.issuer());
    place.cluster.kubectl(&["annotate", "-n", "team", "mcpclient/reports", &agreed]);
    place.wait_ready();
    until("it to be registered there", || (other.ours().len() == 1).then_some(()));
    until("no other issuer to be told", || place.condition("IssuerChanged").is_none().then_some(()));
}

#[test]
fn a_client_is_not_gone_because_the_administrative_api_is_closed() {
    let place = Place::new(Way::KeycloakAdmin);
    let controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    let id = place.assert_one("made");
    place.house.hop.fault(Matching::every("", &place.registrations()), Fault::Instead(Answer::status(404)));
    drop(place.cluster.try_kubectl(&["delete", "-n", "team", "mcpclient/reports", "--wait=false"], None));
    // Nobody waits for longer than its author says, and what is left to do is kept.
    place.wait_gone();
    assert_eq!((place.ours(), place.ledgers().len()), (vec![id], 1));
    drop(controller);
    place.house.hop.heal();
    place.cluster.delete("coordination.k8s.io/v1", "Lease", Some(SYSTEM), "portcullis-leader");
    let _controller = place.controller();
    until("what was left to be done", || (place.ours().is_empty() && place.ledgers().is_empty()).then_some(()));
}

#[test]
fn a_client_for_persons_asks_them_and_stays_off_if_an_administrator_switches_it_off() {
    let place = Place::new(Way::KeycloakAdmin);
    let _controller = place.controller();
    let wanted = |name: &str| {
        json!({"clientName": name, "applicationType": "Web", "redirectUris": ["https://app.example/callback"],
            "grantTypes": ["authorization_code"]})
    };
    place.apply(&wanted("App"));
    place.wait_ready();
    let found = || place.house.realm().clients()[0].clone();
    let client = found();
    assert_eq!((&client["consentRequired"], &client["enabled"]), (&json!(true), &json!(true)));
    // Keycloak has it as it was asked for: there is nothing to change, and one change of its author's is one.
    assert_eq!(place.asked("PUT"), 0);
    let path = format!("/clients/{}", client["id"].as_str().unwrap());
    place.house.realm().admin("PUT", &path, &json!({"enabled": false}));
    place.apply(&wanted("Other"));
    let said = place.wait_registered("False", "ClientDisabled");
    assert!(said.contains("switched"), "{said}");
    let client = found();
    assert_eq!((&client["enabled"], &client["name"]), (&json!(false), &json!("Other")));
    assert_eq!(place.asked("PUT"), 1);
}
