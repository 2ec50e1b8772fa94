//! Only the API server is answered: whoever does not know the secret path learns nothing, and nobody is told it.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::bounds::{ask, review};
use super::house::{House, server, trust};
use super::rotation::connect;
use crate::chart::{installed, webhook_configurations};
use crate::support::kube::{Cluster, SYSTEM, Write};
use crate::support::process::{Process, portcullis};
use crate::support::wait::until;

const KIND: &str = "ValidatingWebhookConfiguration";

/// A review that nobody asked the API server for, in the name of somebody who may do everything.
fn forged() -> Vec<u8> {
    let mut forged: Value = serde_json::from_slice(&review(&trust())).unwrap();
    forged["request"]["userInfo"] = json!({"username": "root", "groups": ["system:masters"]});
    forged.to_string().into_bytes()
}

/// The status and the body that come of it.
fn answered(house: &House, path: &str) -> (String, String) {
    let (head, body) = ask(&mut connect(&house.address()), path, &forged());
    (head.split(' ').nth(1).unwrap().to_owned(), body)
}

#[track_caller]
fn assert_not_found(house: &House, path: &str) {
    assert_eq!(answered(house, path), ("404".to_owned(), "not found\n".to_owned()), "{path}");
}

#[test]
fn who_does_not_know_the_path_is_told_nothing_and_the_path_is_in_no_output() {
    let house = House::build_talkative();
    let word = house.word();
    for path in ["/", "/validate", "/validate/", "/validate/wrong", "/deletions", "/deletions/", "/metrics", "/readyz"]
    {
        assert_not_found(&house, path);
    }
    let shorter: String = word.chars().skip(1).collect();
    for path in
        [format!("/validate/{shorter}"), format!("/{word}"), format!("/validate/{word}/"), format!("/other/{word}")]
    {
        assert_not_found(&house, &path);
    }
    // The API server is answered, and so is who knows it.
    house.taken(&trust());
    house.taken(&server("notes"));
    house.cluster.kubectl(&["delete", "mcpserver", "notes", "-n", "team"]);
    let (status, body) = answered(&house, &format!("/validate/{word}"));
    assert!(status == "200" && body.contains("\"allowed\":true"), "{status} {body}");
    let metrics = house.metrics();
    assert!(metrics.contains("kind=\"McpServer\",operation=\"Delete\""), "{metrics}");

    let outputs = house.outputs();
    assert!(outputs.contains("serving") && outputs.contains("callers of the webhook are told"), "{outputs}");
    assert!(!outputs.contains(&word), "{:?}", outputs.lines().find(|line| line.contains(&word)));
}

#[test]
fn without_a_secret_path_nobody_is_answered_and_our_kinds_are_refused() {
    let mut house = House::without_webhook();
    let word = house.word();
    until("the certificate", || house.mounted("tls").join("tls.key").exists().then_some(()));
    house.end_kubelet();
    std::fs::remove_dir_all(house.mounted("path")).ok();
    house.start_webhook();
    let reason = |house: &House| house.readyz().1["checks"]["certificate"]["reason"].as_str().map(str::to_owned);
    until("the webhook to say what it lacks", || (reason(&house)? == "PathFileUnreadable").then_some(()));
    for path in ["/validate", "/validate/", &format!("/validate/{word}")] {
        assert_not_found(&house, path);
    }
    house.refused(&trust());
    // Another installation's is none either.
    std::fs::create_dir_all(house.mounted("path")).unwrap();
    std::fs::write(house.mounted("path").join("path"), "0".repeat(64)).unwrap();
    until("the webhook to say what is wrong", || (reason(&house)? == "PathMismatch").then_some(()));
    house.refused(&trust());
    std::fs::remove_dir_all(house.mounted("path")).unwrap();
    house.start_kubelet();
    house.wait_ready();
    house.taken(&trust());
}

#[test]
fn a_path_that_is_deleted_is_made_anew_and_the_old_one_opens_no_more() {
    let house = House::build();
    let before = house.word();
    house.cluster.delete("v1", "Secret", Some(SYSTEM), "portcullis-webhook-path");
    until("another path", || Some(house.word()).filter(|word| *word != before));
    until("reviews to be answered again", || house.apply(&trust()).status.success().then_some(()));
    until("the old path to be closed", || (answered(&house, &format!("/validate/{before}")).0 == "404").then_some(()));
    assert_eq!(answered(&house, &format!("/validate/{}", house.word())).0, "200");
    house.wait_ready();
    // What is there and is no path is replaced.
    house.cluster.apply(&json!({"apiVersion": "v1", "kind": "Secret", "data": {"path": "dmFsaWRhdGU="},
        "metadata": {"name": "portcullis-webhook-path", "namespace": SYSTEM}}));
    until("a path again", || Some(house.word()).filter(|word| word.len() == 64));
    until("reviews to be answered again", || house.apply(&trust()).status.success().then_some(()));
}

fn controller(kubeconfig: PathBuf) -> Process {
    let mut command = portcullis();
    command.args(["controller", "--public-url", "https://mcp.example.com", "--no-inventory", "--webhook"]);
    command.env("KUBECONFIG", kubeconfig);
    Process::start(command)
}

fn told_path(cluster: &Cluster, name: &str) -> Option<String> {
    let found = cluster.get("admissionregistration.k8s.io/v1", KIND, None, name)?;
    Some(found["webhooks"][0]["clientConfig"]["service"]["path"].as_str()?.to_owned())
}

/// As with cert-manager: the configurations are the chart's own, by Service, and somebody else writes `caBundle`.
#[test]
fn where_certificates_are_others_the_path_is_written_and_nothing_else() {
    let cluster = installed();
    for configuration in webhook_configurations(&cluster) {
        cluster.apply(&configuration);
    }
    let injected = r#"[{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "dGhlaXJz"}]"#;
    cluster.kubectl(&[
        "patch",
        KIND,
        "portcullis-validate",
        "--type=json",
        "-p",
        injected,
        "--field-manager=cainjector",
    ]);
    let kubeconfig = cluster.kubeconfig_of(SYSTEM, "portcullis-controller");
    let _controller = controller(kubeconfig);
    for (name, place) in [("portcullis-validate", "/validate/"), ("portcullis-deletions", "/deletions/")] {
        let path = until("the path to be told", || told_path(&cluster, name));
        assert!(path.strip_prefix(place).is_some_and(|word| word.len() == 64), "{path}");
    }
    let own = |write: &&Write| write.name.starts_with("portcullis-webhook") || write.resource.contains("webhook");
    let count = || cluster.writes().iter().filter(own).filter(|write| write.user.contains("controller")).count();
    let first = count();
    assert_eq!(
        first,
        3,
        "a Secret and two configurations: {:?}",
        cluster.writes().iter().filter(own).collect::<Vec<_>>()
    );
    let shown = cluster.kubectl(&["get", KIND, "portcullis-validate", "--show-managed-fields", "-o", "json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["webhooks"][0]["clientConfig"]["caBundle"], "dGhlaXJz");
    let managers = shown["metadata"]["managedFields"].as_array().unwrap();
    let own: Vec<&Value> = managers.iter().filter(|one| one["manager"] == "portcullis-webhook-ca").collect();
    let [own] = own[..] else { panic!("{managers:#?}") };
    let webhook = &own["fieldsV1"]["f:webhooks"]["k:{\"name\":\"validate.portcullis.dev\"}"];
    assert_eq!(webhook["f:clientConfig"], json!({"f:service": {"f:path": {}}}), "{own:#}");
    for name in ["portcullis-webhook-ca", "portcullis-webhook-tls"] {
        assert!(cluster.get("v1", "Secret", Some(SYSTEM), name).is_none(), "{name}");
    }
    // The next thing that is mended shows that it was looked at since, and that nothing else was written.
    let before = told_path(&cluster, "portcullis-validate");
    let removed = r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/service/path"}]"#;
    cluster.kubectl(&["patch", KIND, "portcullis-deletions", "--type=json", "-p", removed]);
    until("the path to be told again", || told_path(&cluster, "portcullis-deletions"));
    assert_eq!(count(), first + 1);
    assert_eq!(told_path(&cluster, "portcullis-validate"), before);
}
