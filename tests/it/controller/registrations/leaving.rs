//! What is left when a client is registered otherwise, or not any more: it is told until somebody says that it is gone, and nobody
//! else's client goes with it.

use std::time::Duration;

use portcullis::controller::registrations::CLUSTER_ANNOTATION;
use serde_json::{Value, json};

use super::place::{Last, Place, Way};
use super::repair::{ADOPT, CLIENT, apply_waiting, clients, listed, lose};
use crate::controller::{VERSION, message};
use crate::support::fault::{Answer, Fault, Matching};
use crate::support::kube::SYSTEM;
use crate::support::wait::{until, until_within};

/// Before anybody looks again because time has passed, which is after a minute.
const PROMPTLY: Duration = Duration::from_secs(40);
/// Two sweeps, and time for a loaded machine.
pub(super) const SWEPT: Duration = Duration::from_secs(180);

impl Place {
    pub(super) fn gives_it(&self, id: &str) {
        let mut client = self.client("reports", &json!({}));
        client["spec"]["method"] = json!("Preregistered");
        client["spec"]["registration"] = json!({"clientId": id});
        self.cluster.apply(&client);
    }

    pub(super) fn gives_it_a_token(&self) {
        self.cluster.apply(&self.client_with_a_token());
    }

    /// The same client with the method `Token`, and what that needs is there.
    pub(super) fn client_with_a_token(&self) -> Value {
        let local = json!({"apiVersion": VERSION, "kind": "McpAuthorizationServer", "metadata": {"name": "local"},
            "spec": {"local": {}}});
        self.cluster.apply(&local);
        let upstream = json!({"url": "https://notes.example/mcp", "credentials": {"none": {}}});
        let spec = json!({"upstream": upstream, "authorization": {"servers": ["local"]}});
        self.cluster.apply(&json!({"apiVersion": VERSION, "kind": "McpServer",
            "metadata": {"name": "notes", "namespace": "team"}, "spec": spec}));
        let mut client = self.client("reports", &json!({}));
        client["spec"] = json!({"authorizationServer": "local", "method": "Token",
            "token": {"subject": "ana", "servers": ["notes"]}});
        client
    }

    pub(super) fn told(&self, type_: &str) -> Option<String> {
        self.condition(type_).filter(|(status, _)| status == "True")?;
        Some(message(&self.now()?, type_))
    }

    pub(super) fn label(&self) -> Value {
        self.ledgers().first().map(|one| one["metadata"]["labels"]["portcullis.dev/registration"].clone()).into()
    }

    pub(super) fn has_secret(&self, name: &str) -> bool {
        self.cluster.get("v1", "Secret", Some("team"), name).is_some()
    }

    fn request(&self) -> String {
        format!("registration-{}-adoption", self.now().unwrap()["metadata"]["uid"].as_str().unwrap())
    }
}

#[test]
fn what_was_lost_is_told_whatever_its_author_wants_next_and_until_it_is_forgotten() {
    let place = Place::new(Way::ProviderDcr);
    let _last = Last(&place);
    let _controller = place.controller();
    place.house.hop.fault(Matching::nth("POST", &place.registrations(), 1), Fault::LoseAnswer);
    place.apply(&json!({}));
    place.wait_ready();
    let lost = "software_version 1";
    until("the loss to be told", || place.told("Orphaned")?.contains(lost).then_some(()));

    // Another method.
    place.gives_it("somebody");
    place.wait_registered("True", "AsGiven");
    assert!(place.told("Orphaned").is_some_and(|told| told.contains(lost)), "{:?}", place.now());
    // The one of before again: the next attempt is not taken for the first.
    let mut client = place.client("reports", &json!({}));
    client["spec"]["method"] = json!("DCR");
    place.cluster.apply(&client);
    place.wait_ready();
    assert!(place.told("Orphaned").is_some_and(|told| told.contains(lost)));
    assert_eq!(Place::ledger_of(&place.ledgers()[0])["attempts"], 3);

    // None at all.
    place.gives_it_a_token();
    until("a token", || (place.condition("TokenIssued")?.0 == "True").then_some(()));
    until("the loss to be told beside it", || place.told("Orphaned")?.contains(lost).then_some(()));
    until("its credentials to go", || (!place.has_secret("reports-client")).then_some(()));
    until("nobody to be waited for", || place.now()?["metadata"]["finalizers"].is_null().then_some(()));
    assert!(place.has_secret("reports-token"));
    assert_eq!((place.ours().len(), place.label()), (1, json!("orphans")));
    assert!(listed(&place).0[0]["orphaned"] == true, "{:?}", listed(&place));
    let forgotten = clients(&place, &["forget", CLIENT], "");
    assert!(forgotten.code == Some(0) && forgotten.text.contains(lost), "{}", forgotten.text);
    until("no loss to be told", || place.condition("Orphaned").is_none().then_some(()));
    until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
}

#[test]
fn a_server_that_deletes_for_nobody_keeps_no_author_from_another_method() {
    let place = Place::new(Way::ProviderDcr);
    let _last = Last(&place);
    let _controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    let id = place.assert_one("made");
    place.house.hop.fault(Matching::every("DELETE", ""), Fault::Instead(Answer::json(405, "{}")));
    place.gives_it("somebody");
    place.wait_registered("True", "AsGiven");
    assert!(place.told("Orphaned").is_some_and(|told| told.contains(&id)), "{:?}", place.now());
    assert_eq!(place.ours(), [id]);
}

#[test]
fn what_a_client_with_a_token_could_not_remove_yet_is_told_beside_it() {
    let place = Place::new(Way::ProviderDcr);
    let _last = Last(&place);
    let _controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    place.house.hop.down();
    place.gives_it_a_token();
    let said = until("it to be told", || place.told("LeftBehind"));
    assert!(said.contains(&place.house.issuer()), "{said}");
    assert_eq!(place.condition("TokenIssued").unwrap().0, "True");
    assert_eq!(place.label(), json!("tombstone"));
    // The client with the token, which no proxy has been told of, and what is to be taken back beside it.
    let (all, code) = listed(&place);
    let of = |state: &str| all.iter().filter(|one| one["state"] == state && one["name"] == "reports").count();
    assert_eq!((code, all.len(), of("Tombstone")), (Some(1), 2, 1), "{all:?}");
    place.house.hop.up();
    until("nothing to be registered", || place.ours().is_empty().then_some(()));
    until_within(PROMPTLY, "nothing to be told", || place.condition("LeftBehind").is_none().then_some(()));
}

#[test]
fn an_mcp_client_that_somebody_else_holds_is_not_registered_again_while_it_goes() {
    let place = Place::new(Way::ProviderDcr);
    let controller = place.controller();
    place.apply(&json!({"deletion": {"onUnavailable": "Block"}}));
    place.wait_ready();
    let held = r#"{"metadata":{"finalizers":["portcullis.dev/registration","example.com/held"]}}"#;
    place.cluster.kubectl(&["patch", "-n", "team", "mcpclient/reports", "--type=merge", "-p", held]);
    place.house.hop.down();
    place.cluster.kubectl(&["delete", "-n", "team", "mcpclient/reports", "--wait=false"]);
    place.wait_registered("False", "AuthorizationServerUnreachable");
    place.house.hop.up();
    place.apply(&json!({"deletion": {"policy": "Retain"}}));
    until("it to be let go", || (place.now()?["metadata"]["finalizers"] == json!(["example.com/held"])).then_some(()));
    for number in 0..3 {
        let looks = controller.looks("registration");
        place.nudge(&number.to_string());
        until("it to be looked at", || (controller.looks("registration") > looks).then_some(()));
    }
    assert_eq!((place.asked("POST"), place.ledgers().len()), (1, 0));
}

#[test]
fn a_ledger_that_is_restored_is_seen_and_takes_no_client_away_that_another_mcp_client_has_by_now() {
    let place = Place::new(Way::ProviderDcr);
    let _last = Last(&place);
    let controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    let backup = place.ledgers().remove(0);
    controller.stop();
    let lost = lose(&place);
    let (ours, name) = (place.ours(), backup["metadata"]["name"].as_str().unwrap().to_owned());
    assert_eq!(ours, std::slice::from_ref(&lost.id));
    let controller = place.controller();
    apply_waiting(&place, "reports");
    place.wait_registered("False", "AwaitingAdoption");
    let (uri, token) = (lost.uri.unwrap(), lost.token.unwrap());
    let at = ["--registration-url", &uri, "--registration-token-file", "-", "--mark", &lost.mark];
    let taken = clients(&place, &[&["adopt", CLIENT, "--client-id", &lost.id], &at[..]].concat(), &token);
    assert_eq!(taken.code, Some(0), "{}", taken.text);

    let metadata = json!({"namespace": SYSTEM, "name": name, "labels": backup["metadata"]["labels"],
        "annotations": {CLUSTER_ANNOTATION: "another"}});
    place.cluster.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": backup["data"]}));
    let elsewhere = || controller.metric("portcullis_registration_ledgers_elsewhere");
    until_within(SWEPT, "it to be counted", || (elsewhere() == 1.0).then_some(()));
    let told = clients(&place, &["adopt", "--ledger", &name], "");
    assert!(told.code == Some(0) && told.text.contains("taken it over"), "{}", told.text);
    let is_kept = || place.cluster.get("v1", "Secret", Some(SYSTEM), &name);
    until_within(SWEPT, "it to be dropped", || is_kept().is_none().then_some(()));
    assert_eq!((place.asked("DELETE"), place.ours(), elsewhere()), (0, vec![lost.id], 0.0));
    place.works();
}

#[test]
fn an_annotation_that_stays_keeps_nobody_from_another_client_who_had_one() {
    let place = Place::new(Way::KeycloakAdmin);
    let _last = Last(&place);
    let _controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    let id = place.assert_one("made");
    place.cluster.kubectl(&["annotate", "-n", "team", "mcpclient/reports", &format!("{ADOPT}=wait")]);
    let client = place.house.realm().clients().into_iter().find(|client| client["clientId"] == json!(id)).unwrap();
    let refused = Fault::Instead(Answer::too_many(1));
    place.house.hop.fault(Matching::nth("POST", &place.registrations(), 1), refused);
    place.house.realm().admin("DELETE", &format!("/clients/{}", client["id"].as_str().unwrap()), &Value::Null);
    place.apply(&json!({"clientName": "Other"}));
    until("another client", || (place.asked("POST") >= 3).then_some(()));
    until("it to be ready", || {
        let is_ready = place.condition("Registered")? == ("True".to_owned(), "Registered".to_owned());
        (is_ready && place.ours().len() == 1).then_some(())
    });
    place.works();
}

#[test]
fn a_request_to_take_a_client_over_goes_with_its_mcp_client() {
    let place = Place::new(Way::ProviderDcr);
    let _controller = place.controller();
    for is_deleted in [true, false] {
        apply_waiting(&place, "reports");
        place.wait_registered("False", "AwaitingAdoption");
        let name = place.request();
        place.secret(&name, &[("client_id", "x"), ("issuer", "https://other.example"), ("mark", "none")]);
        place.nudge(&is_deleted.to_string());
        place.wait_registered("False", "AdoptionRefused");
        if is_deleted {
            place.delete();
            place.wait_gone();
        } else {
            place.gives_it_a_token();
        }
        until("the request to go", || place.cluster.get("v1", "Secret", Some(SYSTEM), &name).is_none().then_some(()));
    }
}

#[test]
fn an_administrative_token_that_ended_before_its_time_is_replaced_at_once() {
    let place = Place::new(Way::KeycloakAdmin);
    let _last = Last(&place);
    let _controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    let id = place.assert_one("made");
    let ended = Fault::Instead(Answer::json(401, r#"{"error":"HTTP 401 Unauthorized"}"#));
    let fired = place.house.hop.fault(Matching::nth("GET", &place.registrations(), 1), ended);
    place.apply(&json!({"clientName": "Other"}));
    until("the other name to arrive", || place.house.describes(&id, "Other").then_some(()));
    assert_eq!(fired.times(), 1);
}

#[test]
fn whoever_gives_an_adoption_up_is_as_before() {
    let place = Place::new(Way::KeycloakAdmin);
    let _last = Last(&place);
    let made = json!({"clientId": "billing", "publicClient": true, "redirectUris": ["https://billing.example/cb"]});
    place.house.realm().admin("POST", "/clients", &made);
    let _controller = place.controller();
    apply_waiting(&place, "reports");
    place.wait_registered("False", "AwaitingAdoption");
    let refusal = Answer::json(400, r#"{"errorMessage":"no"}"#);
    place.house.hop.fault(Matching::every("PUT", &place.registrations()), Fault::Instead(refusal));
    let asked = clients(&place, &["adopt", CLIENT, "--client-id", "billing", "--mark", "none", "--timeout", "1"], "");
    assert!(asked.code == Some(1) && asked.text.contains("To give up"), "{}", asked.text);
    place.wait_registered("False", "RegistrationRefused");
    place.house.hop.heal();
    place.cluster.delete("v1", "Secret", Some(SYSTEM), &place.request());
    place.nudge("given up");
    place.wait_registered("False", "AwaitingAdoption");
    place.delete();
    place.wait_gone();
    assert_eq!(place.ours(), ["billing"]);
}
