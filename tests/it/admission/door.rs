//! Only the API server is answered: whoever does not know the secret path learns nothing, and nobody is told it.

use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use portcullis::cluster::secret_path::{Asked, Key};
use serde_json::{Value, json};

use super::bounds::{ask, review};
use super::house::{House, server, trust};
use super::rotation::connect;
use crate::chart::{installed, webhook_configurations};
use crate::support::kube::{Cluster, SYSTEM, Write};
use crate::support::now;
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

/// By which paths are made here.
fn key(house: &House) -> Key {
    let secret = house.cluster.get("v1", "Secret", Some(SYSTEM), "portcullis-webhook-path").unwrap();
    Key::read(&BASE64_STANDARD.decode(secret["data"]["key"].as_str().unwrap()).unwrap()).unwrap()
}

#[test]
fn who_does_not_know_the_path_is_told_nothing_and_it_is_in_no_output() {
    let house = House::build_talkative();
    let path = house.path();
    for path in ["/", "/validate", "/validate/", "/validate/wrong", "/deletions", "/deletions/", "/metrics", "/readyz"]
    {
        assert_not_found(&house, path);
    }
    let (head, code) = path.rsplit_once('-').unwrap();
    let earlier = key(&house).path(Asked::Changes, 1);
    for path in
        [&format!("{path}0"), &format!("{path}/"), &format!("/{code}"), &format!("{head}-{}", "0".repeat(64)), &earlier]
    {
        assert_not_found(&house, path);
    }
    // The API server is answered, and so is who knows where it asks.
    house.taken(&trust());
    house.taken(&server("notes"));
    house.cluster.kubectl(&["delete", "mcpserver", "notes", "-n", "team"]);
    let (status, body) = answered(&house, &path);
    assert!(status == "200" && body.contains("\"allowed\":true"), "{status} {body}");
    let metrics = house.metrics();
    assert!(metrics.contains("kind=\"McpServer\",operation=\"Delete\""), "{metrics}");

    let outputs = house.outputs();
    assert!(outputs.contains("serving") && outputs.contains("callers of the webhook are told"), "{outputs}");
    for secret in [code, house.told("portcullis-deletions").rsplit_once('-').unwrap().1] {
        assert!(!outputs.contains(secret), "{:?}", outputs.lines().find(|line| line.contains(secret)));
    }
}

#[test]
fn without_a_key_nobody_is_answered_and_our_kinds_are_refused() {
    let mut house = House::without_webhook();
    let path = house.path();
    until("the certificate", || house.mounted("tls").join("tls.key").exists().then_some(()));
    house.end_kubelet();
    std::fs::remove_dir_all(house.mounted("path")).ok();
    house.start_webhook();
    let reason = |house: &House| house.readyz().1["checks"]["certificate"]["reason"].as_str().map(str::to_owned);
    until("the webhook to say what it lacks", || (reason(&house)? == "PathKeyUnreadable").then_some(()));
    for path in ["/validate", "/validate/", &path] {
        assert_not_found(&house, path);
    }
    house.refused(&trust());
    // Another installation's is none either.
    std::fs::create_dir_all(house.mounted("path")).unwrap();
    std::fs::write(house.mounted("path").join("key"), [7; 32]).unwrap();
    until("the webhook to say what is wrong", || (reason(&house)? == "PathMismatch").then_some(()));
    assert_not_found(&house, &Key::read(&[7; 32]).unwrap().path(Asked::Changes, 1));
    house.refused(&trust());
    std::fs::remove_dir_all(house.mounted("path")).unwrap();
    house.start_kubelet();
    house.wait_ready();
    house.taken(&trust());
}

/// Kubernetes shows the URL to whoever is refused because the webhook cannot be reached: so what was seen is of no use for long.
#[test]
fn a_path_is_another_one_after_an_hour_and_no_review_is_dropped() {
    let mut house = House::build();
    house.taken(&trust());
    house.kill_webhook();
    let said = house.refused(&server("notes"));
    assert!(said.contains(&house.path()), "Kubernetes does not show it any more: {said}");
    // As it was told an hour ago, while no controller led since.
    house.kill_controller();
    let hour_ago = i64::try_from(now()).unwrap() - 3_601;
    let old = key(&house).path(Asked::Changes, hour_ago);
    let url = format!("https://{}{old}", house.address());
    let patch = json!([{"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": url}]).to_string();
    house.cluster.kubectl(&["patch", KIND, "portcullis-validate", "--type=json", "-p", &patch]);
    house.start_webhook();
    house.wait_ready();
    assert_eq!(answered(&house, &old).0, "200");
    house.start_controller();
    let mut turn = 0;
    let new = until("another path", || {
        turn += 1;
        house.taken(&server(&format!("notes-{turn}")));
        Some(house.path()).filter(|path| *path != old)
    });
    house.taken(&server("notes"));
    assert_eq!(answered(&house, &new).0, "200");
    until("the old path to be closed", || (answered(&house, &old).0 == "404").then_some(()));
    house.taken(&server("more-notes"));
    house.wait_ready();
}

#[test]
fn a_key_that_is_deleted_is_made_anew_and_what_was_made_with_it_opens_no_more() {
    let house = House::build();
    let before = house.path();
    house.cluster.delete("v1", "Secret", Some(SYSTEM), "portcullis-webhook-path");
    until("another path", || Some(house.path()).filter(|path| *path != before));
    until("reviews to be answered again", || house.apply(&trust()).status.success().then_some(()));
    until("the old path to be closed", || (answered(&house, &before).0 == "404").then_some(()));
    house.wait_ready();
    // What is there and is no key is replaced.
    let before = house.path();
    house.cluster.apply(&json!({"apiVersion": "v1", "kind": "Secret", "data": {"key": "dmFsaWRhdGU="},
        "metadata": {"name": "portcullis-webhook-path", "namespace": SYSTEM}}));
    until("another path", || Some(house.path()).filter(|path| *path != before));
    until("reviews to be answered again", || house.apply(&server("notes")).status.success().then_some(()));
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
    let own = |write: &&Write| write.name.starts_with("portcullis-webhook") || write.resource.contains("webhook");
    let count = || cluster.writes().iter().filter(own).filter(|write| write.user.contains("controller")).count();
    let before = count();
    let _controller = controller(kubeconfig);
    for (name, place) in [("portcullis-validate", "/validate/"), ("portcullis-deletions", "/deletions/")] {
        let path = until("the path to be told", || told_path(&cluster, name));
        assert!(path.starts_with(place) && path.rsplit_once('-').unwrap().1.len() == 64, "{path}");
    }
    // What is written comes into the log a moment later.
    until("all to be on record", || (count() >= before + 3).then_some(()));
    let first = count();
    assert_eq!(first, before + 3, "a Secret and two configurations: {:?}", cluster.writes());
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
    until("it to be on record", || (count() > first).then_some(()));
    assert_eq!(count(), first + 1);
    assert_eq!(told_path(&cluster, "portcullis-validate"), before);
}
