//! Whether the tokens of a client are for the servers that it is for, as real servers make them.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::place::{Place, READER, Way};
use crate::authorization_servers::house::claims;
use crate::controller::{Controller, VERSION, message, server, wait_condition};
use crate::support::fault::{Answer, Fault, Matching};
use crate::support::runtime;
use crate::support::wait::until;

/// What clients of `notes` ask for.
pub(super) const NOTES: &str = "https://mcp.example.com/team/notes";

/// A server of the team's, and what its tokens are to have.
pub(super) fn serve(place: &Place, name: &str, authorization: &Value) {
    let mut authorization = authorization.clone();
    authorization["servers"] = json!(["corp"]);
    place.cluster.apply(&server("team", name, &json!({ "authorization": authorization })));
    // Another watch tells of it than of clients.
    let name = ("McpServer", Some("team"), name);
    wait_condition(&place.cluster, name, ("Accepted", "True", "Accepted"));
}

pub(super) fn controller(place: &Place) -> Controller {
    Controller::start_with(&place.cluster, &["--no-inventory"])
}

/// Waits until the client says this of its tokens, and returns the message.
pub(super) fn told(place: &Place, status: &str, reason: &str) -> String {
    let client = wait_condition(&place.cluster, READER, ("AudienceVerified", status, reason));
    message(&client, "AudienceVerified")
}

/// How many tokens the controller has asked for as a client.
pub(super) fn asked(controller: &Controller) -> f64 {
    let count = |result| format!("portcullis_registration_requests_total{{purpose=\"probe\",result=\"{result}\"}}");
    controller.metric(&count("answered")) + controller.metric(&count("failed"))
}

/// Has it looked at once more, after which what was to be asked is asked.
pub(super) fn look_again(place: &Place, controller: &Controller, word: &str) {
    let looks = controller.looks("registration");
    place.nudge(word);
    until("it to be looked at", || (controller.looks("registration") > looks).then_some(()));
}

/// What was learned was learned long ago. No controller runs: a look that is under way would say it anew.
fn age(place: &Place) {
    let api = place.cluster.api(VERSION, READER.0, READER.1);
    let mut registration = place.now().unwrap()["status"]["registration"].clone();
    for one in registration["audiences"].as_array_mut().unwrap() {
        one["checkedAt"] = json!("2020-01-01T00:00:00Z");
    }
    let patch = Patch::Merge(json!({"status": {"registration": registration}}));
    runtime().block_on(api.patch_status(READER.2, &PatchParams::default(), &patch)).unwrap();
}

#[test]
fn a_client_by_the_administrative_api_gets_tokens_for_its_servers() {
    let place = Place::new(Way::KeycloakAdmin);
    let controller = controller(&place);
    serve(&place, "notes", &json!({}));
    serve(&place, "files", &json!({}));
    place.apply(&json!({"servers": ["notes", "files"]}));
    let said = told(&place, "True", "AudienceVerified");
    assert!(said.contains("files, notes") || said.contains("notes, files"), "{said}");
    let ready = place.wait_ready();
    let audiences = ready["status"]["registration"]["audiences"].as_array().unwrap();
    assert!(audiences.iter().all(|one| one["result"] == "AudienceVerified"), "{audiences:?}");
    let token = place.token_with(&place.credentials()).json()["access_token"].as_str().unwrap().to_owned();
    assert!(claims(&token)["aud"].as_array().unwrap().contains(&json!(NOTES)), "what was told is so");

    // One token for each server, and none again: neither here nor by whoever leads next.
    assert_eq!(asked(&controller), 2.0);
    for word in ["one", "two", "three"] {
        look_again(&place, &controller, word);
    }
    assert_eq!(asked(&controller), 2.0);
    controller.stop();
    let controller = self::controller(&place);
    controller.wait_leading();
    look_again(&place, &controller, "by another");
    assert_eq!(asked(&controller), 0.0);
    told(&place, "True", "AudienceVerified");

    // With other scopes it is another registration, whose tokens may be for something else.
    serve(&place, "notes", &json!({"scopes": {"baseline": ["profile"]}}));
    until("a token for each", || (asked(&controller) == 2.0).then_some(()));
    told(&place, "True", "AudienceVerified");
    look_again(&place, &controller, "and no more");
    assert_eq!(asked(&controller), 2.0);
    assert!(!place.now().unwrap()["status"].to_string().contains("eyJ"), "no token is in a status");
    assert!(!controller.process.stderr().contains("eyJ"), "nor in a log");
}

#[test]
fn a_client_that_registered_itself_at_keycloak_is_told_which_mapper_it_lacks() {
    let place = Place::new(Way::KeycloakDcr);
    let controller = controller(&place);
    serve(&place, "notes", &json!({}));
    place.apply(&json!({"servers": ["notes"]}));
    let said = told(&place, "False", "AudienceMissing");
    for part in ["notes:", NOTES, "Included Custom Audience", "the method Admin"] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    // The registration is as it is wanted.
    place.wait_ready();

    // As the message says.
    let realm = place.house.realm();
    let id = realm.clients().pop().unwrap()["id"].as_str().unwrap().to_owned();
    let mapper = json!({"name": "notes", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
        "config": {"included.custom.audience": NOTES, "access.token.claim": "true"}});
    realm.admin("POST", &format!("/clients/{id}/protocol-mappers/models"), &mapper);
    controller.stop();
    age(&place);
    let controller = self::controller(&place);
    told(&place, "True", "AudienceVerified");
    assert_eq!(asked(&controller), 1.0);
}

#[test]
fn each_server_that_a_client_gets_no_token_for_is_named_with_the_remedy() {
    let place = Place::with(Way::ProviderDcr, &json!({"resources": [NOTES]}));
    let _controller = controller(&place);
    let baseline = json!({"scopes": {"baseline": ["mcp:use"]}});
    for name in ["notes", "files"] {
        serve(&place, name, &baseline);
    }
    place.apply(&json!({"servers": ["notes", "files"]}));
    let said = told(&place, "False", "TokenRefused");
    for part in ["files:", "invalid_target", "https://mcp.example.com/team/files", "mcp:use"] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    assert!(!said.contains("notes"), "{said}");
    place.wait_ready();
    place.apply(&json!({"servers": ["notes"]}));
    told(&place, "True", "AudienceVerified");
}

#[test]
fn a_token_that_nobody_can_read_and_one_that_nobody_gave_are_told_apart() {
    let place = Place::with(Way::ProviderDcr, &json!({"resources": [NOTES], "accessTokenFormat": "opaque"}));
    let controller = controller(&place);
    let tokens = place.house.endpoint("token_endpoint").strip_prefix(&place.house.hop.url()).unwrap().to_owned();
    place.house.hop.fault(Matching::every("POST", &tokens), Fault::Instead(Answer::status(503)));
    serve(&place, "notes", &json!({}));
    place.apply(&json!({"servers": ["notes"]}));
    let said = told(&place, "Unknown", "TokenUnanswered");
    assert!(said.contains("503"), "{said}");
    // It is not asked over and over again.
    look_again(&place, &controller, "once");
    look_again(&place, &controller, "twice");
    assert_eq!(asked(&controller), 1.0);
    place.wait_ready();

    place.house.hop.heal();
    controller.stop();
    age(&place);
    let _controller = self::controller(&place);
    let said = told(&place, "Unknown", "TokenOpaque");
    assert!(said.contains("RFC 9068"), "{said}");
}

#[test]
fn of_a_client_that_a_person_logs_in_for_nothing_is_claimed() {
    let place = Place::with(Way::ProviderDcr, &json!({"resources": [NOTES]}));
    let controller = controller(&place);
    serve(&place, "notes", &json!({}));
    place.apply(&json!({"servers": ["notes"], "grantTypes": ["authorization_code", "refresh_token"],
        "redirectUris": ["https://app.example/cb"]}));
    let said = told(&place, "Unknown", "NoProbe");
    assert!(said.contains(NOTES) && said.contains("AudienceMismatch"), "{said}");
    place.wait_ready();
    assert_eq!(asked(&controller), 0.0);
    // And of one that is for no server, nothing at all.
    place.apply(&json!({}));
    until("it to say no more", || place.condition("AudienceVerified").is_none().then_some(()));
}
