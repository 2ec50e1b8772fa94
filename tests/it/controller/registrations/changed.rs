//! What is otherwise at the server than it was asked for: a secret comes to its end, somebody changes a client, a server has its own
//! mind. It is brought back, or it is said.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::place::{Last, Place, READER, Way};
use super::repair::{clients, listed};
use crate::controller::{message, wait_condition};
use crate::support::fault::{Answer, Fault, Matching};
use crate::support::now;
use crate::support::wait::until;

/// How long the server's secrets last (seconds).
const LIFETIME: i64 = 3600;

/// A client with a secret that comes to its end, and a change of it which the server does not take now.
fn with_secret_that_ends() -> Place {
    let options = json!({"keep": ["software_id", "software_version"], "secretLifetime": LIFETIME});
    let place = Place::with(Way::ProviderDcr, &options);
    place.apply(&json!({"tokenEndpointAuthMethod": "client_secret_basic"}));
    place
}

fn does_not_take_updates(place: &Place) {
    let busy = Fault::Instead(Answer::status(503));
    place.house.hop.fault(Matching::every("PUT", &place.registrations()), busy);
}

#[test]
fn a_secret_that_comes_to_its_end_is_replaced_before_and_that_is_said_if_it_does_not_work() {
    let place = with_secret_that_ends();
    let _last = Last(&place);
    let _controller = place.controller();
    let ready = place.wait_ready();
    let before = place.works();
    let id = before["client_id"].clone();
    let at_server = place.house.of_npm().clients()[0]["client_secret_expires_at"].as_i64().unwrap();
    let expires = Timestamp::from_second(at_server).unwrap().to_string();
    assert_eq!(ready["status"]["registration"]["secretExpiresAt"], json!(expires));
    assert!(place.condition("CredentialExpiring").is_none());
    let (all, code) = listed(&place);
    assert_eq!((&all[0]["secretExpiresAt"], &all[0]["expiring"], code), (&json!(expires), &json!(false), Some(0)));

    does_not_take_updates(&place);
    // Most of its time is over.
    place.age(6 * LIFETIME);
    place.nudge("aged");
    let client = wait_condition(&place.cluster, READER, ("CredentialExpiring", "True", "CredentialExpiring"));
    let said = message(&client, "CredentialExpiring");
    assert!(said.contains(&format!("expires at {expires}")) && said.contains("could not be replaced"), "{said}");
    assert_eq!(place.condition("Ready").unwrap().0, "True", "it works for as long as it does");
    assert_eq!(place.works(), before);
    let (all, code) = listed(&place);
    assert_eq!((&all[0]["secretExpiresAt"], &all[0]["expiring"], code), (&json!(expires), &json!(true), Some(1)));
    let table = clients(&place, &["list"], "").text;
    let head = table.lines().next().unwrap().to_lowercase();
    assert!(head.contains("expires") && table.contains("secret not replaced"), "{table}");

    place.house.hop.heal();
    until("another secret", || (place.credentials()["client_secret"] != before["client_secret"]).then_some(()));
    until("no end to be told", || place.condition("CredentialExpiring").is_none().then_some(()));
    place.wait_ready();
    // The server gives a client no other secret, so it is another client.
    let now = place.works();
    assert_ne!(now["client_id"], id);
    assert_eq!(place.token_with(&before).status, 200, "whoever has not read the Secret since goes on");
    place.end_overlap();
    place.nudge("over");
    until("the one before to go", || (place.ours() == [now["client_id"].clone()]).then_some(()));
    assert!(place.condition("Orphaned").is_none());
    assert_eq!(place.works(), now);
    assert_eq!(listed(&place).1, Some(0));
}

#[test]
fn a_secret_that_has_expired_is_replaced_and_its_client_goes() {
    let place = with_secret_that_ends();
    let _last = Last(&place);
    let controller = place.controller();
    place.wait_ready();
    let before = place.works();
    // Nobody was there while it did.
    controller.stop();
    place.house.of_npm().expire_secret(&before["client_id"]);
    place.edit_ledger(|ledger| {
        let expired = i64::try_from(now()).unwrap() - 60;
        ledger["current"]["secret_since"] = json!(expired - LIFETIME);
        ledger["current"]["secret_expires_at"] = json!(expired);
    });
    assert_ne!(place.token_with(&before).status, 200);
    let _controller = place.controller();
    until("another secret", || (place.credentials()["client_secret"] != before["client_secret"]).then_some(()));
    let now = place.works();
    until("the one before to go", || (place.ours() == [now["client_id"].clone()]).then_some(()));
    let ready = place.wait_ready();
    until("the status to name it", || (place.now()?["status"]["clientId"] == json!(now["client_id"])).then_some(()));
    assert!(place.condition("Orphaned").is_none() && place.condition("CredentialExpiring").is_none(), "{ready}");
}

/// At Keycloak, whose administrators change what they like.
#[test]
fn what_somebody_changes_at_the_server_is_said_until_it_is_reverted_and_once_in_an_event() {
    let fields = "client_name, redirect_uris";
    for way in [Way::KeycloakAdmin, Way::KeycloakDcr] {
        let place = Place::new(way);
        let _last = Last(&place);
        let (uri, evil) = ("https://app.example/cb", "https://evil.example/cb");
        place.apply_read_soon(&json!({"redirectUris": [uri], "grantTypes": ["authorization_code"]}));
        let controller = place.controller();
        place.wait_ready();
        let id = place.credentials()["client_id"].clone();
        controller.stop();
        place.house.realm().change_client(&id, &json!({"name": "Evil", "redirectUris": [evil]}));
        does_not_take_updates(&place);
        let controller = place.controller();
        let client = wait_condition(&place.cluster, READER, ("Drifted", "True", "Drifted"));
        let said = message(&client, "Drifted");
        assert!(said.ends_with(&format!("not reverted yet: {fields}")), "{way:?}: {said}");
        let tries = place.asked("PUT");
        until("it to be tried again", || (place.asked("PUT") > tries).then_some(()));
        assert_eq!(place.condition("Drifted").unwrap().0, "True", "{way:?}");
        assert_eq!(place.house.realm().client(&id)["redirectUris"], json!([evil]), "{way:?}");
        let (all, code) = listed(&place);
        assert_eq!((&all[0]["drifted"], code), (&json!(true), Some(1)), "{way:?}: {all:?}");

        place.house.hop.heal();
        until("it to be reverted", || {
            let client = place.house.realm().client(&id);
            (client["redirectUris"] == json!([uri]) && client["name"] == "Reports").then_some(())
        });
        until("nothing to be said", || place.condition("Drifted").is_none().then_some(()));
        place.wait_ready();
        let told = place.events("RegistrationDrifted");
        assert!(told.len() == 1 && told[0].contains(fields), "{way:?}: {told:?}");
        let counted = controller.metric("portcullis_registration_events_total{event=\"drifted\"}");
        assert_eq!((counted, place.ours(), place.asked("POST")), (1.0, vec![id], 1), "{way:?}");
        assert_eq!(listed(&place).1, Some(0), "{way:?}");
    }
}

#[test]
fn what_a_server_has_made_otherwise_than_it_was_asked_is_in_the_status_and_is_no_drift() {
    let place = Place::new(Way::KeycloakDcr);
    let _last = Last(&place);
    place.apply_read_soon(&json!({"applicationType": "Native", "redirectUris": ["http://127.0.0.1/callback"],
        "grantTypes": ["authorization_code"], "tokenEndpointAuthMethod": "none"}));
    let controller = place.controller();
    let ready = place.wait_ready();
    // Keycloak knows no types of applications, and what is not said is `web`.
    let made = json!([{"field": "application_type", "wanted": "native", "got": "web"}]);
    assert_eq!(ready["status"]["registration"]["substituted"], made);
    controller.stop();
    let (reads, checked) = (place.asked("GET"), ready["status"]["registration"]["checkedAt"].clone());
    let _controller = place.controller();
    until("it to be read back", || (place.asked("GET") > reads).then_some(()));
    until("that to be said", || (place.now()?["status"]["registration"]["checkedAt"] != checked).then_some(()));
    assert_eq!(place.wait_ready()["status"]["registration"]["substituted"], made);
    assert_eq!((place.condition("Drifted"), place.asked("PUT")), (None, 0));
}

#[test]
fn what_a_server_has_made_otherwise_is_said_no_longer_once_it_is_as_it_was_asked_for() {
    let options = json!({"keep": ["software_id", "software_version"], "rotate": false});
    let place = Place::with(Way::ProviderDcr, &options);
    let _last = Last(&place);
    let _controller = place.controller();
    place.apply(&json!({}));
    let ready = place.wait_ready();
    assert!(ready["status"]["registration"].get("substituted").is_none(), "{ready}");
    let mut described: Value = place.house.of_npm().clients()[0].clone();
    described["client_name"] = json!("As the server likes it");
    let answer = Fault::Replaced(Answer::json(200, &described.to_string()));
    place.house.hop.fault(Matching::nth("PUT", &place.registrations(), 1), answer);
    place.apply(&json!({"clientName": "Other"}));
    let substituted = || place.now().unwrap()["status"]["registration"]["substituted"].clone();
    let made = json!([{"field": "client_name", "wanted": "Other", "got": "As the server likes it"}]);
    until("that to be said", || (substituted() == made).then_some(()));
    place.wait_ready();
    place.read_back();
    until("nothing to be said", || substituted().is_null().then_some(()));
    assert_eq!((place.asked("PUT"), place.condition("Drifted")), (1, None));
    place.assert_one("as it was asked for");
}
