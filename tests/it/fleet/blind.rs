//! A controller that leads, and does not see what people write or cannot write what proxies serve: its word is not taken for
//! a sign of life.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::away::wait_stale;
use super::house::{House, PUBLIC_URL, RULES};
use super::whole::{governed_by, wait_condition};
use crate::controller::{ACCOUNT, USER};
use crate::support::gateway::policy;
use crate::support::http;
use crate::support::issuer::Issuer;
use crate::support::kube::front::Front;
use crate::support::kube::{Cluster, GATEWAY, SYSTEM};
use crate::support::process::{Process, portcullis};
use crate::support::wait::{until, until_within};

const RBAC: &str = "rbac.authorization.k8s.io/v1";
/// Longer than two heartbeats.
const SOON: [&str; 2] = ["--max-staleness", "25s"];
const ANA_NO_MORE: &str = "  - {name: ana, effect: Deny, principals: [{any: true}], tools: [{patterns: [\"*\"]}]}\n";

struct Controller {
    process: Process,
    front: Front,
}

impl Controller {
    fn start(cluster: &Cluster) -> Self {
        rights(cluster);
        let front = Front::start(cluster, SYSTEM, ACCOUNT);
        let mut command = portcullis();
        command.args(["controller", "--public-url", PUBLIC_URL, "--allow-private-upstreams=127.0.0.0/8"]);
        command.args(["--admin-listen", "127.0.0.1:0", "--no-inventory"]);
        command.env("KUBECONFIG", front.kubeconfig());
        Self { process: Process::start(command), front }
    }

    fn admin(&self) -> SocketAddr {
        until("the controller's admin listener", || {
            let log = self.process.stderr();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.filter_map(|line| line["admin"].as_str()?.parse().ok()).next()
        })
    }

    /// What `/readyz` says of `check`, once that is `reason`.
    fn wait_check(&self, check: &str, reason: &str) -> String {
        let address = self.admin();
        // A fault is said when it has lasted for half a minute, and is looked at every ten seconds.
        until_within(Duration::from_secs(180), &format!("{check} to say {reason}"), || {
            let response = http::get(&format!("http://{address}/readyz"), &[]);
            let report = response.json();
            let said = &report["checks"][check];
            let is_it = said["reason"] == reason && (response.status == 200) == (reason == "Ready");
            is_it.then(|| said["message"].as_str().unwrap().to_owned())
        })
    }

    fn metric(&self, name: &str) -> f64 {
        let page = http::get(&format!("http://{}/metrics", self.admin()), &[]).text();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).trim().parse().unwrap()
    }
}

/// What it may do in the gateway namespace.
fn in_gateway(cluster: &Cluster, config_maps: &[&str]) {
    cluster.apply(&json!({"apiVersion": RBAC, "kind": "Role",
        "metadata": {"name": ACCOUNT, "namespace": GATEWAY},
        "rules": [{"apiGroups": ["", "coordination.k8s.io"], "resources": ["secrets", "leases", "pods"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": config_maps}]}));
}

/// What it may see and say everywhere.
fn everywhere(cluster: &Cluster) {
    cluster.apply(&json!({"apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": {"name": ACCOUNT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}]}));
}

/// Its rights, in the pieces that tests withdraw.
fn rights(cluster: &Cluster) {
    cluster.apply(&json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": ACCOUNT},
        "rules": [{"apiGroups": ["portcullis.dev"], "resources": ["*"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]}]}));
    everywhere(cluster);
    in_gateway(cluster, &["*"]);
    cluster.apply(&json!({"apiVersion": RBAC, "kind": "Role", "metadata": {"name": ACCOUNT, "namespace": SYSTEM},
        "rules": [{"apiGroups": ["", "coordination.k8s.io"], "resources": ["secrets", "leases"], "verbs": ["*"]}]}));
    for namespace in [SYSTEM, GATEWAY] {
        cluster.apply(&json!({"apiVersion": RBAC, "kind": "RoleBinding",
            "metadata": {"name": ACCOUNT, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}]}));
    }
}

fn serve(issuer: &Issuer) -> (House, Controller, String) {
    let (house, controller) = governed_by(issuer, Controller::start, &SOON);
    let ana = issuer.token("ana", &format!("{PUBLIC_URL}/default/items"), "", &[]);
    house.wait_allowed(&ana);
    (house, controller, ana)
}

#[test]
fn a_leader_that_no_longer_sees_what_people_write_lets_the_configuration_grow_old_and_heals() {
    let issuer = Issuer::start();
    let (house, controller, ana) = serve(&issuer);
    house.cluster.delete(RBAC, "ClusterRoleBinding", None, ACCOUNT);
    house.cluster.wait_may_not(USER, "list", ("portcullis.dev", "mcppolicies"), "");
    controller.front.cut();
    // Nobody is told.
    house.cluster.apply_yaml(&policy("persons", "items", ANA_NO_MORE));
    wait_stale(&house, &ana);
    let message = controller.wait_check("collections", "NotFollowed");
    assert!(message.contains("McpPolicy") && message.contains("403"), "{message}");
    assert_eq!(controller.metric("portcullis_followed{collection=\"McpPolicy\"}"), 0.0);
    assert_eq!(controller.metric("portcullis_followed{collection=\"Secrets\"}"), 1.0);
    everywhere(&house.cluster);
    house.wait_ready();
    controller.wait_check("collections", "Ready");
    wait_condition(&house, "McpPolicy", "persons", "Enforced", "True");
    assert!(!house.is_allowed(&ana), "what was written meanwhile counts");
    house.cluster.apply_yaml(&policy("persons", "items", RULES));
    house.wait_allowed(&ana);
}

#[test]
fn a_leader_that_can_write_nothing_lets_the_configuration_grow_old_and_heals() {
    let issuer = Issuer::start();
    let (house, controller, ana) = serve(&issuer);
    in_gateway(&house.cluster, &["get", "list", "watch"]);
    house.cluster.wait_may_not(USER, "delete", ("", "configmaps"), GATEWAY);
    house.cluster.apply_yaml(&policy("persons", "items", ANA_NO_MORE));
    let message = controller.wait_check("writes", "NotWritten");
    assert!(message.contains("policy-") && message.contains("ApiForbidden"), "{message}");
    assert!(controller.metric("portcullis_generated_unwritten") >= 1.0);
    wait_stale(&house, &ana);
    in_gateway(&house.cluster, &["*"]);
    house.wait_ready();
    controller.wait_check("writes", "Ready");
    wait_condition(&house, "McpPolicy", "persons", "Enforced", "True");
    // It is shown once a second.
    let unwritten = || controller.metric("portcullis_generated_unwritten");
    until("nothing to be left that was refused", || (unwritten() == 0.0).then_some(()));
    assert!(!house.is_allowed(&ana), "what was refused is written by now");
    house.cluster.apply_yaml(&policy("persons", "items", RULES));
    house.wait_allowed(&ana);
}
