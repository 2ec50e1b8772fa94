//! What is kept apart: installations, issuers, what waits and what must not, and what a client had from what it has.

use std::sync::{Arc, Condvar, Mutex};

use portcullis::controller::registrations::CLUSTER_ANNOTATION;
use serde_json::{Value, json};

use super::place::{Place, READER, Way};
use crate::controller::{VERSION, policy, server, wait_condition};
use crate::support::fault::{Answer, Fault, Hop, Matching};
use crate::support::kube::SYSTEM;
use crate::support::process::portcullis;
use crate::support::wait::until;

/// Holds up whoever comes, until it is dropped.
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn closed() -> (Self, Fault) {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let at = gate.clone();
        let wait = move || drop(at.1.wait_while(at.0.lock().unwrap(), |is_open| !*is_open).unwrap());
        (Self(gate), Fault::Before(Arc::new(wait)))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

impl Place {
    /// Has the client looked at once more, and waits for that.
    fn look(&self, controller: &crate::controller::Controller, word: &str) {
        let looks = controller.looks("registration");
        let annotation = format!("n={word}");
        self.cluster.kubectl(&["annotate", "-n", "team", "mcpclient/reports", "--overwrite", &annotation]);
        until("it to be looked at", || (controller.looks("registration") > looks).then_some(()));
    }

    fn ledger(&self) -> String {
        let ledgers = self.ledgers();
        assert_eq!(ledgers.len(), 1, "{ledgers:?}");
        ledgers[0]["metadata"]["name"].as_str().unwrap().to_owned()
    }

    /// The ledger is as if it was restored from another installation's backup.
    fn move_elsewhere(&self) -> String {
        let name = self.ledger();
        let other = format!("{CLUSTER_ANNOTATION}=another");
        self.cluster.kubectl(&["annotate", "-n", SYSTEM, "secret", &name, "--overwrite", &other]);
        name
    }

    fn clients(&self, arguments: &[&str]) -> String {
        let mut command = portcullis();
        command.arg("clients").args(arguments).env("KUBECONFIG", self.cluster.kubeconfig());
        let output = command.output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Another name for the client, which is an update at its server.
    fn rename(&self, name: &str) {
        self.apply(&json!({"clientName": name}));
    }
}

#[test]
fn what_another_installation_has_registered_is_left_alone_until_somebody_says_that_this_one_took_its_place() {
    let place = Place::new(Way::ProviderDcr);
    let controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    let id = place.assert_one("made");
    drop(controller);

    // Its owner is here.
    let ledger = place.move_elsewhere();
    let controller = place.controller();
    let said = place.wait_registered("False", "LedgerNotUsed");
    assert!(said.contains(&ledger) && said.contains("clients adopt"), "{said}");
    assert_eq!(place.asked("POST"), 1, "nothing is registered in its place");
    let told = place.clients(&["adopt", "--ledger", &ledger]);
    assert!(told.contains("team/reports"), "{told}");
    place.look(&controller, "adopted");
    place.wait_ready();
    assert_eq!((place.assert_one("adopted"), place.asked("POST")), (id.clone(), 1));
    drop(controller);

    // Its owner is not.
    place.move_elsewhere();
    let no_finalizers = r#"{"metadata":{"finalizers":null}}"#;
    place.cluster.kubectl(&["patch", "-n", "team", "mcpclient/reports", "--type=merge", "-p", no_finalizers]);
    place.delete();
    place.wait_gone();
    // No garbage collector runs here.
    place.cluster.delete("v1", "Secret", Some("team"), "reports-client");
    let controller = place.controller();
    controller.wait_leading();
    until("it to be counted", || (controller.metric("portcullis_registration_ledgers_elsewhere") == 1.0).then_some(()));
    place.apply(&json!({}));
    place.wait_ready();
    assert_eq!(place.asked("DELETE"), 0);
    assert!(place.ours().contains(&id), "{:?}", place.ours());
    let listed = place.clients(&["list"]);
    assert!(listed.contains("Elsewhere"), "{listed}");
    place.clients(&["adopt", "--ledger", &ledger]);
    drop(controller);
    let _controller = place.controller();
    until("it to be taken back", || (!place.ours().contains(&id)).then_some(()));
    place.assert_one("the new one");
}

#[test]
fn an_initial_access_token_goes_to_no_other_origin_whatever_metadata_says() {
    lends_nothing_to_another_origin(Way::ProviderDcr, "registration_endpoint");
}

#[test]
fn the_secret_of_an_administrative_client_goes_to_no_other_origin_whatever_metadata_says() {
    lends_nothing_to_another_origin(Way::KeycloakAdmin, "token_endpoint");
}

/// `member`: where its metadata says that what an administrator has lent is to go.
fn lends_nothing_to_another_origin(way: Way, member: &str) {
    let place = Place::new(way);
    let other = Hop::start();
    let mut metadata = place.house.metadata();
    metadata[member] = json!(format!("{}/x", other.url()));
    let answer = Fault::Replaced(Answer::json(200, &metadata.to_string()));
    place.house.hop.fault(Matching::every("GET", "/.well-known"), answer);
    let _controller = place.controller();
    place.apply(&json!({}));
    let said = place.wait_registered("False", "RegistrationDenied");
    assert!(said.contains(&other.url()), "{said}");
    assert!(other.seen().is_empty(), "{:?}", other.seen());
}

#[test]
fn a_server_that_hangs_keeps_nobody_waiting_but_its_own_clients() {
    let place = Place::new(Way::ProviderDcr);
    let (_gate, hang) = Gate::closed();
    place.house.hop.fault(Matching::every("GET", "/.well-known"), hang);
    // More than there are workers.
    for number in 0..24 {
        place.cluster.apply(&place.client(&format!("hangs-{number}"), &json!({})));
    }
    let controller = place.controller();
    controller.wait_leading();
    until("it to be asked", || (place.house.hop.count("GET", "/.well-known") > 0).then_some(()));
    place.cluster.apply(&server("team", "notes", &json!({})));
    place.cluster.apply(&policy("team", "rules", "notes", "search"));
    wait_condition(&place.cluster, ("McpPolicy", Some("team"), "rules"), ("Accepted", "True", "Accepted"));
    let told = place.cluster.list(VERSION, "McpClient", Some("team"));
    let told = told.iter().filter(|client| client["status"]["conditions"].is_array()).count();
    assert_eq!(told, 0, "the policy waited until a client had given up");
}

#[test]
fn an_edit_of_a_ledgers_labels_and_its_deletion_lose_nothing_that_the_server_has_answered() {
    for deletes in [false, true] {
        let place = Arc::new(Place::new(Way::ProviderDcr));
        let within = Arc::downgrade(&place);
        let meddle = move || {
            let Some(within) = within.upgrade() else { return };
            let name = within.ledger();
            let what = if deletes { vec!["delete"] } else { vec!["annotate"] };
            let with = if deletes { "--wait=true" } else { "note=seen" };
            within.cluster.kubectl(&[what, vec!["-n", SYSTEM, "secret", &name, with]].concat());
        };
        let fault = Fault::After(Arc::new(meddle));
        place.house.hop.fault(Matching::nth("POST", &place.registrations(), 1), fault);
        let _controller = place.controller();
        place.apply(&json!({}));
        place.wait_ready();
        let id = place.assert_one("meddled with");
        assert_eq!((place.ours(), place.asked("POST")), (vec![id], 1), "deleted: {deletes}");
        place.delete();
        place.wait_gone();
        assert!(place.ours().is_empty());
    }
}

#[test]
fn a_secret_that_has_another_name_or_other_credentials_leaves_none_of_before() {
    let place = Place::new(Way::KeycloakAdmin);
    let _controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    assert!(place.works().contains_key("private_key.pem"));
    place.apply(&json!({"tokenEndpointAuthMethod": "client_secret_basic"}));
    until("the secret to be there", || place.credentials().contains_key("client_secret").then_some(()));
    assert!(!place.works().contains_key("private_key.pem"));

    place.apply(&json!({"tokenEndpointAuthMethod": "client_secret_basic", "secretName": "elsewhere"}));
    let secret = |name: &str| place.cluster.get("v1", "Secret", Some("team"), name);
    until("the Secret to have moved", || (secret("reports-client").is_none()).then_some(()));
    assert!(secret("elsewhere").is_some());
    until("the status to say so", || {
        (place.now()?["status"]["registration"]["secretName"] == "elsewhere").then_some(())
    });
}

#[test]
fn what_works_is_said_to_work_while_its_server_is_away() {
    let place = Place::new(Way::ProviderDcr);
    let controller = place.controller();
    place.apply(&json!({}));
    let before = place.wait_ready();
    place.house.hop.down();
    place.rename("Other");
    until("it to be told of", || {
        let told = crate::controller::message(&place.now()?, "Registered");
        told.contains("not looked after just now").then_some(())
    });
    for word in ["1", "2", "3"] {
        place.look(&controller, word);
        assert_eq!(place.condition("Registered"), Some(("True".to_owned(), "Registered".to_owned())), "look {word}");
    }
    drop(controller);
    let controller = place.controller();
    controller.wait_leading();
    place.look(&controller, "anew");
    let now = place.now().unwrap();
    let checked = |client: &Value| client["status"]["registration"]["checkedAt"].clone();
    assert_eq!(checked(&now), checked(&before), "nobody has asked since");
}

#[test]
fn an_object_that_waits_to_be_deleted_says_why_and_its_author_may_have_another_mind() {
    let place = Place::new(Way::ProviderDcr);
    let _controller = place.controller();
    place.apply(&json!({"deletion": {"onUnavailable": "Block"}}));
    place.wait_ready();
    place.house.hop.down();
    place.cluster.kubectl(&["delete", "-n", "team", "mcpclient/reports", "--wait=false"]);
    let said = place.wait_registered("False", "AuthorizationServerUnreachable");
    assert!(said.contains("clients abandon team/reports") && said.contains(&place.house.hop.url()), "{said}");
    place.apply(&json!({"deletion": {"timeout": "1s"}}));
    place.wait_gone();
    place.house.hop.up();
    until("it to be taken back", || place.ours().is_empty().then_some(()));
}

#[test]
fn a_trust_anchor_of_another_name_is_followed_to_no_other_issuer_either() {
    let place = Place::new(Way::ProviderDcr);
    let other = Place::new(Way::ProviderDcr);
    let _controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    let id = place.assert_one("made");
    let renamed = |issuer: &str| {
        let mut anchor = place.anchor(issuer);
        anchor["metadata"]["name"] = json!("renamed");
        anchor
    };
    place.cluster.apply(&renamed(&place.house.issuer()));
    let mut client = place.client("reports", &json!({}));
    client["spec"]["authorizationServer"] = json!("renamed");
    place.cluster.apply(&client);
    wait_condition(&place.cluster, READER, ("Ready", "True", "Ready"));
    assert_eq!((place.assert_one("renamed"), place.asked("POST")), (id, 1));
    place.cluster.apply(&renamed(&other.house.issuer()));
    place.wait_registered("False", "IssuerChanged");
    assert_eq!(other.house.hop.count("POST", ""), 0, "nothing is sent there");
}
