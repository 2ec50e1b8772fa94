//! No secret of a registration comes out anywhere but where it belongs.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::place::{Place, WAYS, Way};
use crate::controller::{ACCOUNT, Controller, VERSION};
use crate::support::canary::{self, Secrets};
use crate::support::fault::{Answer, Fault, Matching};
use crate::support::keycloak::MANAGER;
use crate::support::kube::SYSTEM;
use crate::support::process::portcullis;
use crate::support::wait::until;

/// The token of an adoption that is refused.
const CLAIMED: &str = "canary-registration-token-51c0de";

/// Secrets that Secrets of the cluster hold, without names and ids.
pub(super) fn note_cluster(place: &Place, secrets: &mut Secrets) {
    for namespace in [SYSTEM, "team"] {
        for secret in place.cluster.list("v1", "Secret", Some(namespace)) {
            for (key, value) in secret["data"].as_object().into_iter().flatten() {
                let text = String::from_utf8(BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap();
                match key.as_str() {
                    "ledger.json" => note_ledger(&serde_json::from_str(&text).unwrap(), secrets),
                    "token" | "registration_access_token" if namespace == SYSTEM => secrets.note(key, &text),
                    "client_secret" => secrets.note(&format!("{namespace}: {key}"), &text),
                    // One line of it is enough to tell.
                    "private_key.pem" => {
                        text.lines().filter(|line| line.len() == 64).for_each(|line| secrets.note(key, line));
                    }
                    _ => {}
                }
            }
        }
    }
}

fn note_ledger(ledger: &Value, secrets: &mut Secrets) {
    let mut note = |class: &str, value: &Value| value.as_str().into_iter().for_each(|text| secrets.note(class, text));
    ledger["keys"].as_array().unwrap().iter().for_each(|key| note("ledger: key", &key["pkcs8"]));
    let retired = ledger["retired"].as_array().unwrap().iter().map(|one| &one["registration"]);
    for one in retired.chain([&ledger["current"]]) {
        note("ledger: secret", &one["client_secret"]);
        note("ledger: token", &one["handle"]["Protocol"]["token"]);
    }
}

/// What there is at least one of in the life of a client that is registered in this way.
fn classes(way: Way) -> Vec<&'static str> {
    let cluster = ["token", "registration_access_token", "private_key.pem", "portcullis-system: client_secret"];
    let wire = ["Basic", "Bearer", "access_token", "client_assertion", "team: client_secret"];
    let own: &[_] = match way {
        Way::KeycloakAdmin => &["secret"],
        _ => &["client_secret", "ledger: token"],
    };
    [&cluster[..], &wire, &["ledger: key", "ledger: secret"], own].concat()
}

/// Everything that people and programs may read without being trusted with secrets, as it is now.
pub(super) fn readable(place: &Place) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (version, kind) in [
        (VERSION, "McpClient"),
        (VERSION, "McpAuthorizationServer"),
        (VERSION, "McpServer"),
        ("v1", "ConfigMap"),
        ("v1", "Namespace"),
        ("events.k8s.io/v1", "Event"),
        ("coordination.k8s.io/v1", "Lease"),
    ] {
        all.push((kind.to_owned(), json!(place.cluster.list(version, kind, None)).to_string().into_bytes()));
    }
    let secrets = place.cluster.list("v1", "Secret", None);
    let metadata: Vec<&Value> = secrets.iter().map(|secret| &secret["metadata"]).collect();
    all.push(("metadata of Secrets".to_owned(), json!(metadata).to_string().into_bytes()));
    all.push(("the API server's audit log".to_owned(), json!(place.cluster.audited()).to_string().into_bytes()));
    let mut list = portcullis();
    list.args(["clients", "list", "-o", "json"]).env("KUBECONFIG", place.cluster.kubeconfig());
    let listed = list.output().unwrap();
    all.push(("clients list".to_owned(), [listed.stdout, listed.stderr].concat()));
    all
}

/// What the owner's Secret may hold, and no more.
fn assert_owners(place: &Place, managing: &[&str]) {
    for secret in place.cluster.list("v1", "Secret", Some("team")) {
        for (key, value) in secret["data"].as_object().unwrap() {
            let known =
                ["client_id", "issuer", "token_endpoint_auth_method", "client_secret", "private_key.pem", "kid"];
            assert!(known.contains(&key.as_str()), "{key}");
            let text = BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap();
            canary::assert_none(managing, &[(key, &text)]);
        }
    }
}

#[test]
fn secrets_tokens_and_assertions_are_in_no_output() {
    for way in WAYS {
        let place = Place::new(way);
        let kubeconfig = place.cluster.kubeconfig_of(SYSTEM, ACCOUNT);
        // Also not to whoever wants to know everything.
        let start = || {
            Controller::launch_in(
                crate::controller::PUBLIC_URL,
                &kubeconfig,
                &[("PORTCULLIS_LOG", "trace")],
                &["--no-inventory"],
            )
        };
        let (mut secrets, mut texts, mut logs) = (Secrets::default(), BTreeSet::new(), Vec::new());
        let mut note = |place: &Place, controller: Option<&Controller>| {
            note_cluster(place, &mut secrets);
            place.house.hop.passed().iter().for_each(|text| secrets.note_message(text));
            texts.extend(readable(place));
            if let Some(controller) = controller {
                texts.insert(("metrics".to_owned(), controller.get("/metrics").body));
                texts.insert(("readyz".to_owned(), controller.get("/readyz").body));
            }
            secrets.clone()
        };
        let initial = place.cluster.get("v1", "Secret", Some(SYSTEM), "initial-access").unwrap();
        let initial = BASE64_STANDARD.decode(initial["data"]["token"].as_str().unwrap()).unwrap();
        let initial = String::from_utf8(initial).unwrap();

        // A server that repeats what it was sent.
        let (path, status, repeated, reason) = match way {
            Way::KeycloakAdmin => ("/realms/".to_owned(), 401, MANAGER.1, "RegistrationDenied"),
            _ => (place.registrations(), 400, initial.as_str(), "RegistrationRefused"),
        };
        let refusal = json!({"error": "invalid_client_metadata", "error_description": format!("bad: {repeated}")});
        let answer = Answer::json(status, &refusal.to_string());
        place.house.hop.fault(Matching::every("POST", &path), Fault::Instead(answer));
        let mut controller = start();
        place.apply(&json!({"rotation": {"period": "1h", "overlap": "30m"}}));
        place.wait_registered("False", reason);
        note(&place, Some(&controller));
        place.house.hop.heal();
        place.apply(&json!({"clientName": "Other", "rotation": {"period": "1h", "overlap": "30m"}}));
        place.wait_ready();
        place.works();
        note(&place, Some(&controller));

        // Its key is replaced, and then it has a secret.
        let before = place.credentials();
        logs.push(controller.process.stderr());
        controller.stop();
        place.age(7200);
        controller = start();
        until("another key", || (place.credentials()["kid"] != before["kid"]).then_some(()));
        place.wait_ready();
        place.apply(&json!({"tokenEndpointAuthMethod": "client_secret_basic", "deletion": {"timeout": "1s"}}));
        until("a secret", || place.credentials().contains_key("client_secret").then_some(()));
        place.wait_ready();
        place.works();
        let known = note(&place, Some(&controller));
        let owned: BTreeSet<String> = place.credentials().into_values().collect();
        let is_managing = |secret: &&str| !owned.iter().any(|own| own.contains(secret));
        let managing: Vec<&str> = known.all(&[]).into_iter().filter(is_managing).collect();
        assert_owners(&place, &managing);

        // Somebody else's client is claimed by a token that is not its own.
        let name = format!("registration-{}-adoption", place.now().unwrap()["metadata"]["uid"].as_str().unwrap());
        let uri = format!("{}/nowhere", place.house.hop.url());
        place.secret(
            &name,
            &[
                ("client_id", "x"),
                ("issuer", &place.house.issuer()),
                ("registration_client_uri", &uri),
                ("registration_access_token", CLAIMED),
            ],
        );
        place.cluster.kubectl(&[
            "annotate",
            "-n",
            "team",
            "mcpclient/reports",
            "portcullis.dev/adopt-registration=now",
        ]);
        until("the claim to be refused", || place.condition("AdoptionRefused").map(drop));
        note(&place, Some(&controller));
        place.cluster.delete("v1", "Secret", Some(SYSTEM), &name);

        // A ledger that cannot be read any more, and the server away.
        place.house.hop.down();
        place.delete();
        place.wait_gone();
        note(&place, Some(&controller));
        place.house.hop.up();
        until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
        let all = note(&place, Some(&controller));
        controller.process.kill();
        logs.extend([controller.process.stderr(), controller.process.stdout()]);
        texts.extend(logs.into_iter().map(|log| ("a log".to_owned(), log.into_bytes())));

        let secrets = all.all(&classes(way));
        for known in [CLAIMED, &initial, MANAGER.1] {
            assert!(secrets.contains(&known), "{way:?}: {}", secrets.len());
        }
        let texts: Vec<(&str, &[u8])> = texts.iter().map(|(place, text)| (place.as_str(), text.as_slice())).collect();
        canary::assert_none(&secrets, &texts);
    }
}
