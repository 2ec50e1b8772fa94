//! Clients that stand for servers at Keycloak: made, shared, kept and taken back.

use serde_json::{Value, json};

use super::audience::{self, NOTES, asked, look_again, serve, told};
use super::place::{Place, Way};
use crate::authorization_servers::house::{RESOURCE, claims};
use crate::authorization_servers::log_in::{VERIFIER, authorization_url_to};
use crate::controller::{VERSION, object, wait_condition};
use crate::support::browser::Browser;
use crate::support::fault::{Answer, Fault, Matching};
use crate::support::wait::{PATIENCE, until, until_within};

/// Where persons come back to.
const REDIRECT: &str = "http://127.0.0.1:7777/callback";

/// What is registered of a client that persons log in with.
fn login() -> Value {
    json!({"servers": ["notes"], "grantTypes": ["authorization_code", "refresh_token"], "applicationType": "Native",
        "tokenEndpointAuthMethod": "none", "redirectUris": [REDIRECT]})
}

/// The clients that Keycloak has under the resource as their id.
fn standing(place: &Place) -> Vec<Value> {
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("clientId", NOTES).finish();
    place.house.realm().admin("GET", &format!("/clients?{query}"), &Value::Null).json().as_array().unwrap().clone()
}

/// Ana logs in with the client, as MCP clients do it, which name the resource.
fn log_in(place: &Place) -> Value {
    log_in_as(place, &place.credentials()["client_id"])
}

fn log_in_as(place: &Place, id: &str) -> Value {
    let url = authorization_url_to(&place.house, id, "openid", REDIRECT);
    let url = url.replace(&encoded(RESOURCE), &encoded(NOTES));
    assert!(url.contains(&encoded(NOTES)), "{url}");
    let back = Browser::of("ana", "ana's password").authorize(&url, REDIRECT).unwrap_or_else(|page| panic!("{page:?}"));
    let code = back.get("code").unwrap_or_else(|| panic!("{back:?}"));
    let answer = place.house.token(&[
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", REDIRECT),
        ("client_id", id),
        ("code_verifier", VERIFIER),
        ("resource", NOTES),
    ]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    claims(answer.json()["access_token"].as_str().unwrap())["aud"].clone()
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[test]
fn a_person_who_logs_in_with_a_client_by_the_administrative_api_gets_a_token_for_the_resource() {
    let place = Place::new(Way::KeycloakAdmin);
    place.house.realm().user("ana", "ana's password", &[]);
    let controller = audience::controller(&place);
    serve(&place, "notes", &json!({}));
    for name in ["reports", "other"] {
        place.cluster.apply(&place.client(name, &login()));
    }
    told(&place, "Unknown", "NoProbe");
    wait_condition(&place.cluster, ("McpClient", Some("team"), "other"), ("AudienceVerified", "Unknown", "NoProbe"));
    place.wait_ready();
    assert_eq!(log_in(&place), json!(NOTES));

    // One stands for it, whoever needs it, and nobody gets a token as it.
    let all = standing(&place);
    let [one] = all.as_slice() else { panic!("{all:?}") };
    assert!(one["attributes"]["portcullis.owner"].as_str().unwrap().ends_with(":resource"), "{one}");
    for flow in ["standardFlowEnabled", "implicitFlowEnabled", "directAccessGrantsEnabled", "serviceAccountsEnabled"] {
        assert_ne!(one[flow], true, "{flow}");
    }
    // It stays as long as somebody needs it, and goes with the last of them.
    place.cluster.delete(VERSION, "McpClient", Some("team"), "other");
    let other = || object(&place.cluster, "McpClient", Some("team"), "other");
    until("the other to be gone", || other().is_none().then_some(()));
    assert_eq!(standing(&place).len(), 1);
    assert_eq!(log_in(&place), json!(NOTES));
    place.delete();
    place.wait_gone();
    until("nothing to stand for it", || standing(&place).is_empty().then_some(()));
    assert_eq!(place.ours(), [""; 0]);
    assert_eq!(asked(&controller), 0.0);
}

#[test]
fn a_client_that_somebody_has_made_for_a_resource_is_enough_and_left_alone() {
    let place = Place::new(Way::KeycloakAdmin);
    let realm = place.house.realm();
    realm.user("ana", "ana's password", &[]);
    // Of that id, and for nothing.
    realm.admin("POST", "/clients", &json!({"clientId": NOTES, "standardFlowEnabled": false}));
    let controller = audience::controller(&place);
    serve(&place, "notes", &json!({}));
    place.apply(&login());
    let said = told(&place, "False", "ResourceUnknown");
    assert!(said.contains(NOTES) && said.contains("resource_url"), "{said}");
    place.wait_ready();

    let theirs = standing(&place).remove(0);
    realm.admin("DELETE", &format!("/clients/{}", theirs["id"].as_str().unwrap()), &Value::Null);
    realm.stand_for(NOTES);
    let theirs = standing(&place);
    // Whoever leads next has not learned that it was of no use.
    controller.stop();
    let _controller = audience::controller(&place);
    told(&place, "Unknown", "NoProbe");
    assert_eq!(log_in(&place), json!(NOTES));
    place.delete();
    place.wait_gone();
    assert_eq!(standing(&place), theirs);
}

/// The mark of the only client that stands for the resource.
fn mark(place: &Place) -> String {
    // Nothing can be asked as a client for persons: that is said before the resource is seen to.
    let all = until("one to stand for it", || Some(standing(place)).filter(|all| !all.is_empty()));
    let [one] = all.as_slice() else { panic!("{all:?}") };
    one["attributes"]["portcullis.owner"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn what_a_controller_has_made_that_is_gone_the_next_one_takes_back() {
    let place = Place::new(Way::KeycloakAdmin);
    let controller = audience::controller(&place);
    serve(&place, "notes", &json!({}));
    place.apply(&login());
    told(&place, "Unknown", "NoProbe");
    let ours = mark(&place);
    place.delete();
    place.wait_gone();
    until("nothing to stand for it", || standing(&place).is_empty().then_some(()));
    drop(controller);

    // As one that was killed leaves it, and as another installation has it, or an administrator.
    let realm = place.house.realm();
    let stand_for = |resource: &str, owner: &str| {
        let attributes = json!({"resource_url": resource, "portcullis.owner": owner});
        let client = json!({"clientId": resource, "standardFlowEnabled": false, "attributes": attributes});
        realm.admin("POST", "/clients", &client);
    };
    let elsewhere = "portcullis:another0:resource";
    stand_for("https://mcp.example.com/team/theirs", elsewhere);
    // More than are listed at once.
    for number in 0..45 {
        stand_for(&format!("https://mcp.example.com/team/old-{number}"), &ours);
    }
    let _controller = audience::controller(&place);
    let left = || {
        let all = realm.admin("GET", "/clients?max=500", &Value::Null).json();
        let of =
            |client: &Value| client["clientId"].as_str().filter(|id| id.starts_with("https://")).map(str::to_owned);
        all.as_array().unwrap().iter().filter_map(of).collect::<Vec<_>>()
    };
    // It waits for the Lease of the one that died, and a hundred requests take their time.
    until_within(3 * PATIENCE, "what is ours to be gone", || {
        (left() == ["https://mcp.example.com/team/theirs"]).then_some(())
    });
}

#[test]
fn what_a_client_needs_that_is_to_stay_stays_whoever_leads_next() {
    for is_at_once in [false, true] {
        let place = Place::new(Way::KeycloakAdmin);
        place.house.realm().user("ana", "ana's password", &[]);
        let controller = audience::controller(&place);
        serve(&place, "notes", &json!({}));
        place.apply(&login());
        told(&place, "Unknown", "NoProbe");
        assert!(mark(&place).ends_with(":resource"), "{}", mark(&place));
        let credentials = place.credentials();
        let mut stays = login();
        stays["deletion"] = json!({"policy": "Retain"});
        place.apply(&stays);
        if !is_at_once {
            until("it to be known that it stays", || mark(&place).ends_with(":kept-resource").then_some(()));
        }
        place.delete();
        place.wait_gone();
        until("its registration to be let go of", || place.ledgers().is_empty().then_some(()));
        controller.stop();

        // The next one knows nothing of it, and has another that needs the same, and goes.
        let _controller = audience::controller(&place);
        place.collect_garbage();
        place.cluster.apply(&place.client("other", &login()));
        let other = ("McpClient", Some("team"), "other");
        wait_condition(&place.cluster, other, ("AudienceVerified", "Unknown", "NoProbe"));
        place.cluster.delete(VERSION, "McpClient", Some("team"), "other");
        until("the other to be gone", || object(&place.cluster, other.0, other.1, other.2).is_none().then_some(()));
        assert!(mark(&place).ends_with(":kept-resource"), "{}", mark(&place));
        assert_eq!(log_in_as(&place, &credentials["client_id"]), json!(NOTES));
    }
}

#[test]
fn a_server_that_does_not_answer_is_asked_for_one_resource_and_what_is_known_is_said_on() {
    let place = Place::new(Way::KeycloakAdmin);
    let searches = format!("{}?clientId=https", place.registrations());
    place.house.hop.fault(Matching::every("GET", &searches), Fault::Instead(Answer::status(503)));
    let controller = audience::controller(&place);
    for name in ["notes", "files", "mail"] {
        serve(&place, name, &json!({}));
    }
    let mut wanted = login();
    wanted["servers"] = json!(["notes", "files", "mail"]);
    place.apply(&wanted);
    let said = told(&place, "False", "ResourceUnknown");
    for server in ["notes", "files", "mail"] {
        assert!(said.contains(&format!("https://mcp.example.com/team/{server}: ")), "{said}");
    }
    assert_eq!(place.house.hop.count("GET", &searches), 1);
    look_again(&place, &controller, "again");
    assert_eq!(place.house.hop.count("GET", &searches), 1);

    // Something else is in the way: of the resources nothing else is known for that.
    let since = |place: &Place| {
        let all = place.now().unwrap()["status"]["conditions"].as_array().unwrap().clone();
        let one = all.into_iter().find(|one| one["type"] == "AudienceVerified").unwrap();
        (one["reason"].clone(), one["lastTransitionTime"].clone())
    };
    let before = since(&place);
    place.house.hop.fault(Matching::every("PUT", &place.registrations()), Fault::Instead(Answer::status(503)));
    wanted["clientName"] = json!("Other");
    place.apply(&wanted);
    until("it to be in trouble", || (place.asked("PUT") > 0).then_some(()));
    look_again(&place, &controller, "in trouble");
    assert_eq!(since(&place), before);
}
