//! An McpClient that is registered no more, or elsewhere: nothing keeps it, and nothing is told, once nothing is left.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::leaving::SWEPT;
use super::place::{Last, Place, READER, Way};
use crate::authorization_servers::house::House;
use crate::controller::{ACCOUNT, Controller, USER, wait_condition};
use crate::support::kube::front::{Front, Interruption};
use crate::support::kube::{GATEWAY, SYSTEM};
use crate::support::wait::{PATIENCE, until, until_within};

const FINALIZER: &str = "portcullis.dev/registration";

#[test]
fn a_finalizer_that_somebody_else_put_there_keeps_no_mcp_client_that_is_not_registered() {
    let place = Place::new(Way::ProviderDcr);
    let _last = Last(&place);
    let controller = place.controller();
    let mut client = place.client_with_a_token();
    client["metadata"]["finalizers"] = json!(["example.com/held", FINALIZER]);
    place.cluster.apply(&client);
    until("it to be let go", || (place.now()?["metadata"]["finalizers"] == json!(["example.com/held"])).then_some(()));
    wait_condition(&place.cluster, READER, ("TokenIssued", "True", "TokenIssued"));
    // It comes back once, to see that; it may have done so by now.
    until("it to be looked at again", || (controller.looks("registration") >= 2.0).then_some(()));
    let writes = place.cluster.writes();
    let patches = writes.iter().filter(|write| write.user == USER && write.resource == "mcpclients").count();
    assert!(patches <= 4, "{patches}: {writes:#?}");

    // One that is deleted before anybody has looked at it.
    controller.stop();
    let released = r#"{"metadata":{"finalizers":null}}"#;
    place.cluster.kubectl(&["patch", "-n", "team", "mcpclient/reports", "--type=merge", "-p", released]);
    place.delete();
    place.wait_gone();
    client["metadata"]["finalizers"] = json!([FINALIZER]);
    place.cluster.apply(&client);
    place.delete();
    assert!(place.now().unwrap()["metadata"]["deletionTimestamp"].is_string());
    let _controller = place.controller();
    place.wait_gone();
}

#[test]
fn the_credentials_of_a_client_that_is_registered_no_more_go_though_that_fails_at_first() {
    let place = Place::new(Way::ProviderDcr);
    let _last = Last(&place);
    let front = Front::start(&place.cluster, SYSTEM, ACCOUNT);
    let _controller = Controller::launch_as(front.kubeconfig(), &["--no-inventory"]);
    let nothing_left = || {
        until("its credentials to go", || (!place.has_secret("reports-client")).then_some(()));
        until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
        until("no credentials to be told of", || place.now()?["status"]["registration"].is_null().then_some(()));
    };
    place.gives_it("somebody");
    place.wait_registered("True", "AsGiven");
    assert!(place.has_secret("reports-client"));
    let counts = |method: &str, path: &str| method == "DELETE" && path.contains("/secrets/reports-client");
    front.interrupt(Interruption { counts, nth: 1, is_after: false, call: Arc::new(|| {}) });
    place.gives_it_a_token();
    nothing_left();
    assert!(front.has_interrupted());

    // The owner of the namespace lets nobody do that for a while.
    place.gives_it("somebody");
    place.wait_registered("True", "AsGiven");
    place.let_it_write_no_secrets();
    place.gives_it_a_token();
    wait_condition(&place.cluster, READER, ("TokenIssued", "False", "SecretForbidden"));
    assert!(place.has_secret("reports-client"));
    place.let_it_write_secrets();
    place.nudge("allowed");
    nothing_left();
}

/// Whoever speaks of its token does so while its credentials are there yet, and has nothing more to say for a minute.
#[test]
fn what_is_said_of_its_token_first_is_not_said_on_once_its_credentials_are_gone() {
    let place = Place::new(Way::ProviderDcr);
    let _last = Last(&place);
    let controller = place.controller();
    place.gives_it("somebody");
    place.wait_registered("True", "AsGiven");
    // It may write Secrets, and delete none.
    let (version, role) = ("rbac.authorization.k8s.io/v1", "portcullis-token-writer");
    let whole = place.cluster.get(version, "ClusterRole", None, role).unwrap();
    let rules = |drop_delete: bool| {
        let mut rules = whole["rules"].clone();
        for rule in rules.as_array_mut().unwrap() {
            rule["verbs"].as_array_mut().unwrap().retain(|verb| !drop_delete || verb != "delete");
        }
        place.cluster.apply(&json!({"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": role},
            "rules": rules}));
    };
    rules(true);
    place.cluster.wait_may_not(USER, "delete", ("", "secrets"), "team");
    place.gives_it_a_token();
    wait_condition(&place.cluster, READER, ("TokenIssued", "True", "TokenIssued"));
    assert!(place.now().unwrap()["status"]["registration"]["secretName"].is_string(), "it is told yet");
    let id = place.now().unwrap()["status"]["clientId"].as_str().unwrap().to_owned();
    until("its authority to list it", || {
        let written = place.cluster.list("v1", "ConfigMap", Some(GATEWAY));
        written.iter().any(|map| map.to_string().contains(&id)).then_some(())
    });
    until("nobody to look any more", || {
        let before = controller.looks("McpClient");
        std::thread::sleep(Duration::from_secs(1));
        (controller.looks("McpClient") <= before).then_some(())
    });
    rules(false);
    until("its credentials to go", || (!place.has_secret("reports-client")).then_some(()));
    // After a minute it is looked at again in any case.
    until_within(PATIENCE / 2, "no credentials to be told of", || {
        place.now()?["status"]["registration"].is_null().then_some(())
    });
    assert!(place.ledgers().is_empty());
}

#[test]
fn what_is_left_behind_is_told_no_longer_once_it_is_gone_though_nothing_can_be_registered_instead() {
    let place = Place::new(Way::ProviderDcr);
    let _last = Last(&place);
    let other = House::provider(&json!({}));
    let mut anchor = place.anchor(&other.issuer());
    anchor["metadata"]["name"] = json!("other");
    anchor["spec"]["registration"] = json!({"methods": ["CIMD"]});
    place.cluster.apply(&anchor);
    let _controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    place.house.hop.down();
    let mut client = place.client("reports", &json!({}));
    client["spec"]["authorizationServer"] = json!("other");
    place.cluster.apply(&client);
    place.wait_registered("False", "RegistrationUnsupported");
    until("it to be told", || place.told("LeftBehind")?.contains(&place.house.issuer()).then_some(()));
    place.house.hop.up();
    until_within(SWEPT, "nothing to be registered", || place.ours().is_empty().then_some(()));
    until_within(SWEPT, "nothing to be told", || place.condition("LeftBehind").is_none().then_some(()));
    place.wait_registered("False", "RegistrationUnsupported");
    assert!(place.ledgers().is_empty());
}
