//! The controller and a proxy of the real binary: from a manifest to a call, and back to what the manifest's status says.

use std::sync::Arc;

use portcullis::generated::codec::Generated;
use serde_json::Value;

use super::house::{House, PUBLIC_URL, RULES};
use crate::support::gateway::{policy, server};
use crate::support::issuer::Issuer;
use crate::support::kube::Cluster;
use crate::support::process::{Process, portcullis};
use crate::support::token::Key;
use crate::support::wait::until;

const VERSION: &str = "portcullis.dev/v1alpha1";

/// A controller that may do everything: what it may not do is other tests' matter.
fn controller(cluster: &Cluster) -> Process {
    let mut command = portcullis();
    command.args(["controller", "--public-url", PUBLIC_URL, "--allow-private-upstreams=127.0.0.0/8"]);
    command.env("KUBECONFIG", cluster.kubeconfig());
    Process::start(command)
}

/// A house in which only what a person wrote and the controller made of it is there.
fn governed(issuer: &Issuer) -> (House, Process) {
    let mut house = House::build();
    house.stop_beating();
    house.remove(&Generated::Server(house.server.clone()));
    house.remove(&Generated::Policy(house.policy.clone()));
    house.remove(&Generated::Authority(house.authority.clone()));
    let controller = controller(&house.cluster);
    house.cluster.apply_yaml(&format!(
        "apiVersion: {VERSION}\nkind: McpAuthorizationServer\nmetadata: {{name: local}}\nspec: {{issuer: \"{}\"}}\n",
        issuer.url()
    ));
    house.cluster.apply_yaml(&server("items", house.upstream.url()));
    house.cluster.apply_yaml(&policy("persons", "items", RULES));
    house.start(&[]);
    (house, controller)
}

/// Waits until a condition of an object, as it is now, has this status.
fn wait_condition(house: &House, kind: &str, name: &str, condition: &str, status: &str) {
    until(&format!("{kind} {name} to be {condition}={status}"), || {
        let object = house.cluster.get(VERSION, kind, Some("default"), name)?;
        let is_it = |one: &&Value| {
            one["type"] == condition
                && one["status"] == status
                && one["observedGeneration"] == object["metadata"]["generation"]
        };
        object["status"]["conditions"].as_array()?.iter().find(is_it).map(drop)
    });
}

#[test]
fn a_manifest_is_enforced_when_its_status_says_so() {
    let issuer = Issuer::start();
    let (house, _controller) = governed(&issuer);
    wait_condition(&house, "McpServer", "items", "Programmed", "True");
    wait_condition(&house, "McpPolicy", "persons", "Enforced", "True");
    let resource = format!("{PUBLIC_URL}/default/items");
    let (ana, ben) = (issuer.token("ana", &resource, "", &[]), issuer.token("ben", &resource, "", &[]));
    assert!(house.is_allowed(&ana) && !house.is_allowed(&ben));
    house.cluster.apply_yaml(&policy("persons", "items", &RULES.replace("[ana]", "[ben]")));
    wait_condition(&house, "McpPolicy", "persons", "Enforced", "True");
    assert!(house.is_allowed(&ben) && !house.is_allowed(&ana), "what is said to be enforced is enforced");

    // A proxy that the network has cut off.
    house.process().signal("STOP");
    house.cluster.apply_yaml(&policy("persons", "items", RULES));
    wait_condition(&house, "McpPolicy", "persons", "Enforced", "False");
    house.process().signal("CONT");
    wait_condition(&house, "McpPolicy", "persons", "Enforced", "True");
    assert!(house.is_allowed(&ana) && !house.is_allowed(&ben));
    house.cluster.delete(VERSION, "McpPolicy", Some("default"), "persons");
    house.wait_denied(&ana);
}

#[test]
fn a_key_that_an_issuer_changed_to_reaches_the_proxy_that_asked_for_it() {
    let issuer = Issuer::start();
    let (house, _controller) = governed(&issuer);
    let resource = format!("{PUBLIC_URL}/default/items");
    house.wait_ready();
    house.wait_allowed(&issuer.token("ana", &resource, "", &[]));
    issuer.set_keys(vec![Arc::new(Key::es256("new"))]);
    // It is not fetched again before it is asked for, and then not more often than the controller's window allows.
    house.wait_allowed(&issuer.token("ana", &resource, "", &[]));
}
