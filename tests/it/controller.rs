//! The controller against a real API server, as the ServiceAccount that the chart makes, with its rights and under its
//! admission policies.

mod effective;
mod identities;
mod inventory;
mod isolation;
mod lead;
mod objects;
mod proxies;
pub(crate) mod random;
pub(crate) mod registrations;
mod secrets;
mod whole;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use portcullis::api::{self, Object};
use portcullis::generated::codec::{self, Generated};
use portcullis::generated::kind::{GENERATED, OBJECT_KEY};
use serde_json::{Value, json};

use crate::support::http;
use crate::support::kube::{Cluster, GATEWAY, SYSTEM};
use crate::support::process::{Process, portcullis};
use crate::support::wait::until;

const VERSION: &str = "portcullis.dev/v1alpha1";
/// The controller's ServiceAccount.
pub(crate) const ACCOUNT: &str = "portcullis-controller";
/// What the API server knows it as.
pub(crate) const USER: &str = "system:serviceaccount:portcullis-system:portcullis-controller";
const PUBLIC_URL: &str = "https://mcp.example.com";

/// A running controller. Dropping it kills it.
struct Controller {
    process: Process,
    admin: SocketAddr,
}

impl Controller {
    /// One that asks no upstream for its tools: most are made up.
    fn start(cluster: &Cluster) -> Self {
        Self::start_with(cluster, &["--no-inventory"])
    }

    fn start_with(cluster: &Cluster, arguments: &[&str]) -> Self {
        cluster.kubeconfig_of(SYSTEM, ACCOUNT);
        Self::launch(cluster, arguments)
    }

    /// [`Controller::start_with`] with a token that was made before.
    fn launch(cluster: &Cluster, arguments: &[&str]) -> Self {
        let kubeconfig = cluster.kubeconfig().with_file_name(format!("{SYSTEM}.{ACCOUNT}.kubeconfig"));
        Self::launch_as(&kubeconfig, arguments)
    }

    /// One that reaches the API server by this kubeconfig.
    fn launch_as(kubeconfig: &Path, arguments: &[&str]) -> Self {
        Self::launch_in(PUBLIC_URL, kubeconfig, &[], arguments)
    }

    /// [`Controller::launch_as`] of a gateway that is reached at this URL, in this environment.
    fn launch_in(public_url: &str, kubeconfig: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Self {
        let mut command = portcullis();
        command.envs(environment.iter().copied());
        command.args(["controller", "--public-url", public_url, "--admin-listen", "127.0.0.1:0"]);
        if !arguments.iter().any(|argument| argument.starts_with("--allow-private-upstreams")) {
            command.arg("--allow-private-upstreams=127.0.0.0/8");
        }
        command.args(arguments);
        command.env("KUBECONFIG", kubeconfig);
        let mut process = Process::start(command);
        let admin = until("the controller's admin listener", || {
            assert!(process.exit_status().is_none(), "it ended: {}", process.stderr());
            let log = process.stderr();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.filter_map(|line| line["admin"].as_str()?.parse().ok()).next()
        });
        Self { process, admin }
    }

    fn get(&self, path: &str) -> http::Response {
        http::get(&format!("http://{}{path}", self.admin), &[])
    }

    /// One number of `/metrics`.
    fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").text();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).trim().parse().unwrap()
    }

    /// How many looks at objects of a kind have ended well.
    fn looks(&self, kind: &str) -> f64 {
        self.metric(&format!("portcullis_reconciles_total{{kind=\"{kind}\",result=\"done\"}}"))
    }

    fn wait_leading(&self) {
        until("the controller to lead", || (self.metric("portcullis_leader") == 1.0).then_some(()));
    }

    /// Ends it as Kubernetes does.
    fn stop(mut self) {
        self.process.signal("TERM");
        assert!(self.process.wait_exit().success(), "{}", self.process.stderr());
    }
}

/// One of our objects, if it is there.
fn object(cluster: &Cluster, kind: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
    cluster.get(VERSION, kind, namespace, name)
}

/// Status and reason of a condition, if it is about the object as it is.
fn condition(object: &Value, type_: &str) -> Option<(String, String)> {
    let generation = &object["metadata"]["generation"];
    let conditions = object["status"]["conditions"].as_array()?;
    let one = conditions.iter().find(|one| one["type"] == type_ && one["observedGeneration"] == *generation)?;
    let text = |name: &str| one[name].as_str().unwrap().to_owned();
    Some((text("status"), text("reason")))
}

/// The message of a condition.
fn message(object: &Value, type_: &str) -> String {
    let conditions = object["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|one| one["type"] == type_).unwrap()["message"].as_str().unwrap().to_owned()
}

/// Waits for a condition of the object as it is, and returns the object.
fn wait_condition(
    cluster: &Cluster,
    (kind, namespace, name): (&str, Option<&str>, &str),
    (type_, status, reason): (&str, &str, &str),
) -> Value {
    until(&format!("{kind} {name} to say {type_}={status} ({reason})"), || {
        let object = object(cluster, kind, namespace, name)?;
        (condition(&object, type_)? == (status.to_owned(), reason.to_owned())).then_some(object)
    })
}

/// Everything that is generated, by the name of the object that holds it; `None` while something cannot be read.
fn try_generated(cluster: &Cluster) -> Option<BTreeMap<String, Generated>> {
    let mut found = BTreeMap::new();
    for kind in ["Secret", "ConfigMap"] {
        for mut object in cluster.list("v1", kind, Some(GATEWAY)) {
            // Items of a list do not say what they are.
            object["kind"] = kind.into();
            if object["metadata"]["labels"][GENERATED].is_string() && object["data"][OBJECT_KEY].is_string() {
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                found.insert(name, codec::decode(&content(&object)).ok()?);
            }
        }
    }
    Some(found)
}

fn generated(cluster: &Cluster) -> BTreeMap<String, Generated> {
    try_generated(cluster).unwrap()
}

fn content(object: &Value) -> Vec<u8> {
    use base64::Engine as _;
    let text = object["data"][OBJECT_KEY].as_str().unwrap();
    if object["kind"] == "Secret" {
        base64::prelude::BASE64_STANDARD.decode(text).unwrap()
    } else {
        text.as_bytes().to_vec()
    }
}

/// What is generated of one object, if anything is.
fn generated_of(cluster: &Cluster, label: &str, source: &Value) -> Option<Generated> {
    let name = format!("{label}-{}", source["metadata"]["uid"].as_str().unwrap());
    let kind = if label == "server" { "Secret" } else { "ConfigMap" };
    let object = cluster.get("v1", kind, Some(GATEWAY), &name)?;
    Some(codec::decode(&content(&object)).unwrap())
}

/// An object of the API server as the resolver reads it.
fn read(api_version: &str, kind: &str, mut object: Value) -> Object {
    // Items of a list do not say what they are.
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    api::object::read(&object).unwrap()
}

fn trust(name: &str) -> Value {
    json!({"apiVersion": VERSION, "kind": "McpAuthorizationServer", "metadata": {"name": name},
        "spec": {"issuer": format!("https://{name}.invalid"), "validation": {"groups": {"claim": "groups"}}}})
}

fn server(namespace: &str, name: &str, spec: &Value) -> Value {
    let mut object = json!({"apiVersion": VERSION, "kind": "McpServer", "metadata": {"namespace": namespace, "name": name},
        "spec": {"upstream": {"url": "https://vendor.example/mcp", "credentials": {"none": {}}},
            "authorization": {"servers": ["corp"]}}});
    for (member, value) in spec.as_object().unwrap() {
        object["spec"][member] = value.clone();
    }
    object
}

/// A policy with a rule `allow` for some tool and a rule `deny` for another.
fn policy(namespace: &str, name: &str, server: &str, tool: &str) -> Value {
    json!({"apiVersion": VERSION, "kind": "McpPolicy", "metadata": {"namespace": namespace, "name": name}, "spec": {
        "authority": "corp", "targets": {"servers": [server]}, "rules": [
            {"name": "allow", "effect": "Allow", "principals": [{"any": true}], "tools": [{"names": [tool]}]},
            {"name": "deny", "effect": "Deny", "principals": [{"any": true}], "tools": [{"names": ["purge"]}]}]}})
}
