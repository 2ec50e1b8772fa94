//! Controller and proxy together: what is applied is enforced, and its status says so only then.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Controller, PUBLIC_URL, policy, server, trust, wait_condition};
use crate::chart::installed_with;

use crate::support::http::{self, Response};
use crate::support::issuer::Issuer;
use crate::support::kube::{Cluster, GATEWAY};
use crate::support::process::{Process, portcullis};
use crate::support::token::Key;
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::until;

/// A proxy of the real binary. Dropping it kills it.
pub(super) struct Proxy {
    process: Process,
    _state: TempDir,
}

impl Proxy {
    pub(super) fn start(cluster: &Cluster) -> Self {
        Self::start_in(cluster, &[])
    }

    /// The same, in this environment.
    pub(super) fn start_in(cluster: &Cluster, environment: &[(&str, &str)]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut command = portcullis();
        command.args(["proxy", "--gateway-namespace", GATEWAY, "--pod-name", "gate-0", "--public-url", PUBLIC_URL]);
        command.arg("--state-dir").arg(state.path()).args(["--listen", "127.0.0.1:0"]);
        command.args(["--tls-terminated-before-proxy", "--allow-private-upstreams=127.0.0.0/8"]);
        command.envs(environment.iter().copied());
        command.env("KUBECONFIG", cluster.kubeconfig_of(GATEWAY, "portcullis-proxy"));
        Self { process: Process::start(command), _state: state }
    }

    /// Everything that it said so far.
    pub(super) fn said(&self) -> String {
        format!("{}\n{}", self.process.stderr(), self.process.stdout())
    }

    fn address(&self) -> SocketAddr {
        until("the proxy to serve", || {
            let log = self.process.stderr();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.find(|line| line["message"] == "serving")?["address"].as_str()?.parse().ok()
        })
    }

    pub(super) fn call(&self, token: &str, tool: &str) -> Response {
        let url = format!("{}/team/notes", PUBLIC_URL.replace("https", "http"));
        let params = json!({"name": tool, "arguments": {}});
        http::send(&self.address().to_string(), &http::request_2026(&url, Some(token), "tools/call", &params))
    }

    pub(super) fn is_allowed(&self, token: &str) -> bool {
        let answer = self.call(token, "echo");
        answer.status == 200 && answer.json().get("result").is_some_and(|result| result["isError"] != true)
    }
}

#[test]
fn what_is_applied_is_enforced_as_soon_as_its_status_says_so() {
    // The policies bind a proxy's Lease to its Pod, and there are no Pods here: another test's matter.
    let cluster = installed_with("without-admission");
    cluster.namespace("team", &[]);
    let (issuer, upstream) = (Issuer::start(), Upstream::start(Sdk::Rmcp));
    let mut corp = trust("corp");
    corp["spec"]["issuer"] = json!(issuer.url());
    let notes = |state: &str| {
        let upstream = json!({"url": upstream.url(), "credentials": {"none": {}}});
        server("team", "notes", &json!({"upstream": upstream, "state": state, "audit": {"delivery": "BestEffort"}}))
    };
    let controller = Controller::start_with(&cluster, &[]);
    let proxy = Proxy::start(&cluster);
    cluster.apply(&policy("team", "readers", "notes", "echo"));
    cluster.apply(&notes("Enabled"));
    cluster.apply(&corp);
    let (of_server, of_policy) = (("McpServer", Some("team"), "notes"), ("McpPolicy", Some("team"), "readers"));
    wait_condition(&cluster, of_server, ("Ready", "True", "Ready"));
    wait_condition(&cluster, of_policy, ("Ready", "True", "Ready"));
    wait_condition(&cluster, ("McpAuthorizationServer", None, "corp"), ("Ready", "True", "Ready"));
    let ana = issuer.token("ana", "https://mcp.example.com/team/notes", "", &[]);
    // Keys are no policy: they may be on their way still.
    until("the first call to be allowed", || proxy.is_allowed(&ana).then_some(()));

    cluster.apply(&policy("team", "readers", "notes", "another"));
    wait_condition(&cluster, of_policy, ("Enforced", "True", "Enforced"));
    assert!(!proxy.is_allowed(&ana), "it says that every proxy enforces it");
    cluster.apply(&policy("team", "readers", "notes", "echo"));
    wait_condition(&cluster, of_policy, ("Enforced", "True", "Enforced"));
    assert!(proxy.is_allowed(&ana));

    let mut broken = policy("team", "readers", "notes", "echo");
    broken["spec"]["rules"][0]["whne"] = json!("true");
    cluster.apply(&broken);
    wait_condition(&cluster, of_policy, ("Accepted", "False", "UnknownField"));
    until("what allowed to stop", || (!proxy.is_allowed(&ana)).then_some(()));
    cluster.apply(&policy("team", "readers", "notes", "echo"));
    wait_condition(&cluster, of_policy, ("Enforced", "True", "Enforced"));
    assert!(proxy.is_allowed(&ana));

    cluster.apply(&notes("Disabled"));
    wait_condition(&cluster, of_server, ("Ready", "True", "Disabled"));
    assert!(!proxy.is_allowed(&ana));
    cluster.apply(&notes("Enabled"));
    wait_condition(&cluster, of_server, ("Ready", "True", "Ready"));
    assert!(proxy.is_allowed(&ana));

    // The tools that the upstream lists are in the status; their definitions where no proxy looks.
    let listed = wait_condition(&cluster, of_server, ("ToolsListed", "True", "ToolsListed"));
    let tools = listed["status"]["tools"]["items"].as_array().unwrap();
    let echo = tools.iter().find(|tool| tool["name"] == "echo").unwrap();
    assert!(echo["digest"].as_str().unwrap().starts_with("sha256:"), "{echo}");
    let inventory = format!("inventory-{}-0", listed["metadata"]["uid"].as_str().unwrap());
    let definitions = until("the definitions to be kept", || cluster.get("v1", "ConfigMap", Some(GATEWAY), &inventory));
    assert!(definitions["data"]["tools-lock.json"].as_str().unwrap().contains("inputSchema"), "{definitions}");
    assert!(definitions["metadata"]["labels"]["portcullis.dev/generated"].is_null());

    // The controller is gone: calls go on. The issuer's keys are rotated meanwhile.
    controller.stop();
    assert!(proxy.is_allowed(&ana));
    issuer.set_keys(vec![Arc::new(Key::es256("key-2"))]);
    let ben = issuer.token("ben", "https://mcp.example.com/team/notes", "", &[]);
    assert!(!proxy.is_allowed(&ben));
    let _controller = Controller::start_with(&cluster, &[]);
    until("the new key to be believed", || proxy.is_allowed(&ben).then_some(()));
    cluster.delete(super::VERSION, "McpPolicy", Some("team"), "readers");
    until("nothing to be allowed", || (!proxy.is_allowed(&ben)).then_some(()));

    // Neither what proxies were given of a server nor what its upstream listed outlives it.
    wait_condition(&cluster, of_server, ("ToolsListed", "True", "ToolsListed"));
    cluster.delete(super::VERSION, "McpServer", Some("team"), "notes");
    until("nothing to be left of it", || {
        let mut left = cluster.list("v1", "ConfigMap", Some(GATEWAY)).into_iter().chain(cluster.list(
            "v1",
            "Secret",
            Some(GATEWAY),
        ));
        let uid = listed["metadata"]["uid"].as_str().unwrap();
        (!left.any(|one| one["metadata"]["name"].as_str().unwrap().contains(uid))).then_some(())
    });
}
