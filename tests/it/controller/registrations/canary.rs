//! No secret of a registration comes out anywhere but where it belongs.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::place::{Place, WAYS, Way};
use crate::controller::{ACCOUNT, Controller, VERSION};
use crate::support::canary;
use crate::support::fault::{Answer, Fault, Matching};
use crate::support::keycloak::MANAGER;
use crate::support::kube::SYSTEM;
use crate::support::process::portcullis;
use crate::support::wait::until;

/// The token of an adoption that is refused.
const CLAIMED: &str = "canary-registration-token-51c0de";

/// Members of requests and answers that are secrets.
const SECRET: [&str; 6] =
    ["client_secret", "registration_access_token", "access_token", "client_assertion", "secret", "refresh_token"];

/// Every secret that went over the wire.
fn secrets_in(text: &str, found: &mut BTreeSet<String>) {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let authorization = head.lines().filter_map(|line| line.split_once(": "));
    let authorization = authorization.filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    found.extend(authorization.filter_map(|(_, value)| Some(value.split_once(' ')?.1.to_owned())));
    match serde_json::from_str::<Value>(body) {
        Ok(body) => walk(&body, found),
        Err(_) => {
            let pairs = url::form_urlencoded::parse(body.as_bytes());
            let secret = pairs.filter(|(name, _)| SECRET.contains(&name.as_ref()));
            found.extend(secret.map(|(_, value)| value.into_owned()));
        }
    }
}

fn walk(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        Value::Object(members) => members.iter().for_each(|(name, item)| match item {
            // Keycloak's answer for a new secret is `{"type": "secret", "value": …}`.
            Value::String(text)
                if SECRET.contains(&name.as_str()) || (name == "value" && members["type"] == "secret") =>
            {
                found.insert(text.clone());
            }
            item => walk(item, found),
        }),
        _ => {}
    }
}

/// Secrets that Secrets of the cluster hold, without names and ids.
fn secrets_kept(place: &Place, found: &mut BTreeSet<String>) {
    for (namespace, secret) in [SYSTEM, "team"].into_iter().flat_map(|namespace| {
        place.cluster.list("v1", "Secret", Some(namespace)).into_iter().map(move |secret| (namespace, secret))
    }) {
        for (key, value) in secret["data"].as_object().into_iter().flatten() {
            let text = String::from_utf8(BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap();
            match key.as_str() {
                "ledger.json" => ledger(&serde_json::from_str(&text).unwrap(), found),
                "token" | "client_secret" | "registration_access_token" if namespace == SYSTEM => {
                    found.insert(text);
                }
                "client_secret" => {
                    found.insert(text);
                }
                // One line of it is enough to tell.
                "private_key.pem" => found.extend(text.lines().filter(|line| line.len() == 64).map(str::to_owned)),
                _ => {}
            }
        }
    }
}

fn ledger(ledger: &Value, found: &mut BTreeSet<String>) {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    found.extend(ledger["keys"].as_array().unwrap().iter().filter_map(|key| text(&key["pkcs8"])));
    let retired = ledger["retired"].as_array().unwrap().iter().map(|one| &one["registration"]);
    for one in retired.chain([&ledger["current"]]) {
        found.extend(text(&one["client_secret"]));
        found.extend(text(&one["handle"]["Protocol"]["token"]));
    }
}

/// Everything that people and programs may read without being trusted with secrets, as it is now.
fn readable(place: &Place) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (version, kind) in [
        (VERSION, "McpClient"),
        (VERSION, "McpAuthorizationServer"),
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
fn assert_owners(place: &Place, managing: &BTreeSet<String>) {
    for secret in place.cluster.list("v1", "Secret", Some("team")) {
        for (key, value) in secret["data"].as_object().unwrap() {
            let known =
                ["client_id", "issuer", "token_endpoint_auth_method", "client_secret", "private_key.pem", "kid"];
            assert!(known.contains(&key.as_str()), "{key}");
            let text = BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap();
            let secrets: Vec<&str> = managing.iter().map(String::as_str).collect();
            canary::assert_none(&secrets, &[(key, &text)]);
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
        let (mut secrets, mut texts, mut logs) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        let mut note = |place: &Place, controller: Option<&Controller>| {
            secrets_kept(place, &mut secrets);
            place.house.hop.passed().iter().for_each(|text| secrets_in(text, &mut secrets));
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
        let is_managing =
            |secret: &&String| secret.len() >= 12 && !owned.iter().any(|own| own.contains(secret.as_str()));
        let managing = known.iter().filter(is_managing).cloned().collect();
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

        assert!(
            all.contains(CLAIMED) && (way == Way::KeycloakAdmin || all.contains(&initial)),
            "{way:?}: {}",
            all.len()
        );
        assert!(all.contains(MANAGER.1) && all.len() >= 6, "{way:?}: {}", all.len());
        let secrets: Vec<&str> = all.iter().map(String::as_str).filter(|secret| secret.len() >= 12).collect();
        let texts: Vec<(&str, &[u8])> = texts.iter().map(|(place, text)| (place.as_str(), text.as_slice())).collect();
        canary::assert_none(&secrets, &texts);
    }
}
