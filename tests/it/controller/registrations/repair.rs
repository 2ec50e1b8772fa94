//! `kubectl portcullis clients`: what is registered is shown, and what went wrong is repaired.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use super::place::{Place, WAYS, Way};
use crate::support::fault::{Fault, Matching};
use crate::support::kube::SYSTEM;
use crate::support::process::portcullis;
use crate::support::wait::until;

pub(super) const ADOPT: &str = "portcullis.dev/adopt-registration";
pub(super) const CLIENT: &str = "team/reports";

/// What a command said, all of it, and its exit code.
pub(super) struct Said {
    pub(super) text: String,
    pub(super) code: Option<i32>,
}

pub(super) fn clients(place: &Place, arguments: &[&str], stdin: &str) -> Said {
    let mut command = portcullis();
    // kubectl calls plugins by their name.
    command.arg0("kubectl-portcullis").arg("clients").args(arguments).env("KUBECONFIG", place.cluster.kubeconfig());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end before it has read anything.
    drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Said { text, code: status.code() }
}

pub(super) fn listed(place: &Place) -> (Vec<Value>, Option<i32>) {
    let said = clients(place, &["list", "-o", "json"], "");
    let all: Value = serde_json::from_str(&said.text).unwrap_or_else(|_| panic!("{}", said.text));
    (all.as_array().unwrap().clone(), said.code)
}

/// A client as its server and a ledger know it that are about to be parted.
pub(super) struct Lost {
    pub(super) id: String,
    pub(super) mark: String,
    pub(super) uri: Option<String>,
    pub(super) token: Option<String>,
}

/// The cluster with the McpClient is lost; the client stays at its server.
pub(super) fn lose(place: &Place) -> Lost {
    let controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    let uid = place.now().unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    controller.stop();
    let ledger = Place::ledger_of(&place.ledgers()[0]);
    let (current, cluster) = (&ledger["current"], ledger["cluster"].as_str().unwrap().replace('-', ""));
    let managed = |member: &str| current["handle"]["Protocol"][member].as_str().map(str::to_owned);
    let lost = Lost {
        id: current["client_id"].as_str().unwrap().to_owned(),
        mark: format!("portcullis:{}:{uid}", &cluster[..8]),
        uri: managed("uri"),
        token: managed("token"),
    };
    let name = place.ledgers()[0]["metadata"]["name"].as_str().unwrap().to_owned();
    place.cluster.delete("v1", "Secret", Some(SYSTEM), &name);
    place.collect_garbage();
    let released = r#"{"metadata":{"finalizers":null}}"#;
    place.cluster.kubectl(&["patch", "-n", "team", "mcpclient/reports", "--type=merge", "-p", released]);
    place.delete();
    place.wait_gone();
    lost
}

/// The same McpClient in a new cluster, which is not to be registered.
pub(super) fn apply_waiting(place: &Place, name: &str) {
    let mut client = place.client(name, &json!({}));
    client["metadata"]["annotations"] = json!({ADOPT: "soon"});
    place.cluster.apply(&client);
}

#[test]
fn a_client_of_a_lost_cluster_is_taken_over_with_its_id() {
    for way in WAYS {
        let place = Place::new(way);
        let lost = lose(&place);
        assert_eq!(place.ours(), std::slice::from_ref(&lost.id), "{way:?}");
        let made = place.asked("POST");
        let _controller = place.controller();
        apply_waiting(&place, "reports");
        let said = place.wait_registered("False", "AwaitingAdoption");
        assert!(said.contains("clients adopt") && place.asked("POST") == made, "{way:?}: {said}");

        let mut arguments = vec!["adopt", CLIENT, "--client-id", &lost.id];
        let token = lost.token.clone().unwrap_or_default();
        if let Some(uri) = &lost.uri {
            arguments.extend(["--registration-url", uri, "--registration-token-file", "-"]);
        }
        if way != Way::KeycloakDcr {
            // It bears the mark of an McpClient that is gone. Keycloak keeps none of a dynamic registration.
            let refused = clients(&place, &arguments, &token);
            assert!(refused.code == Some(1) && refused.text.contains(&lost.mark), "{way:?}: {}", refused.text);
            assert!(token.is_empty() || !refused.text.contains(&token));
            assert_eq!(place.now().unwrap()["metadata"]["annotations"][ADOPT], "soon", "as it was before");
            assert_eq!(place.wait_registered("False", "AwaitingAdoption"), said);
            arguments.extend(["--mark", &lost.mark]);
        }
        let taken = clients(&place, &arguments, &token);
        assert_eq!(taken.code, Some(0), "{way:?}: {}", taken.text);
        let now = place.wait_ready();
        assert_eq!(now["status"]["clientId"], json!(lost.id), "{way:?}");
        assert!(now["metadata"]["annotations"].get(ADOPT).is_none(), "{way:?}: {now}");
        assert_eq!(place.works()["client_id"], lost.id, "{way:?}");
        assert_eq!(place.ours(), std::slice::from_ref(&lost.id), "{way:?}");
        let requests = place.cluster.list("v1", "Secret", Some(SYSTEM)).into_iter();
        let left = |secret: &Value| secret["metadata"]["name"].as_str().unwrap().ends_with("-adoption");
        assert!(!requests.into_iter().any(|secret| left(&secret)), "{way:?}: the request is met");

        // It is like any other from now on.
        place.apply(&json!({"clientName": "Weekly reports"}));
        until("the other name to arrive", || place.house.describes(&lost.id, "Weekly reports").then_some(()));
        place.delete();
        place.wait_gone();
        assert!(place.ours().is_empty(), "{way:?}: {:?}", place.ours());
        until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
    }
}

#[test]
fn what_is_not_surely_meant_is_not_taken_over() {
    let place = Place::new(Way::ProviderDcr);
    let lost = lose(&place);
    let (uri, token) = (lost.uri.unwrap(), lost.token.unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let file = file.to_str().unwrap();
    let controller = place.controller();
    apply_waiting(&place, "reports");
    place.wait_registered("False", "AwaitingAdoption");
    let adopt = |name: &str, id: &str, uri: &str, token_file: &str, token: &str| {
        let client = format!("team/{name}");
        let at = ["--registration-url", uri, "--registration-token-file", token_file, "--mark", &lost.mark];
        clients(&place, &[&["adopt", &client, "--client-id", id], &at[..]].concat(), token)
    };
    let asked = place.asked("");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let elsewhere = format!("http://{}/reg/{}", listener.local_addr().unwrap(), lost.id);
    for (uri, why) in [(elsewhere.as_str(), "origin"), ("https://evil.example/reg", "origin"), ("nowhere", "origin")] {
        let refused = adopt("reports", &lost.id, uri, file, "");
        assert!(refused.code == Some(1) && refused.text.contains(why), "{uri}: {}", refused.text);
        assert!(!refused.text.contains(&token), "{uri}");
    }
    assert!(listener.accept().is_err(), "the token went elsewhere");
    assert_eq!(place.asked(""), asked, "nobody was asked");
    for (id, token, why) in [
        (lost.id.as_str(), "not-its-registration-token", "does not believe"),
        ("another-client", token.as_str(), "another client"),
    ] {
        let refused = adopt("reports", id, &uri, "-", token);
        assert!(refused.code == Some(1) && refused.text.contains(why), "{id}: {}", refused.text);
        assert!(!refused.text.contains(token), "{id}");
    }
    // Usage: a token without a place, none at all, and a McpClient that is not there.
    for (arguments, stdin) in [
        (vec!["adopt", CLIENT, "--client-id", "x", "--registration-token-file", "-"], "secret-token"),
        (vec!["adopt", CLIENT, "--client-id", "x", "--registration-url", &uri, "--registration-token-file", "-"], ""),
        (vec!["adopt", "team/nobody", "--client-id", "x"], ""),
        (vec!["adopt", "nobody", "--client-id", "x"], ""),
    ] {
        let wrong = clients(&place, &arguments, stdin);
        assert!(wrong.code == Some(2) && !wrong.text.contains("secret-token"), "{arguments:?}: {}", wrong.text);
    }
    // The administrative API is not what this one is managed by.
    let refused = clients(&place, &["adopt", CLIENT, "--client-id", &lost.id], "");
    assert!(refused.code == Some(1) && refused.text.contains("Admin"), "{}", refused.text);

    let taken = adopt("reports", &lost.id, &uri, file, "");
    assert_eq!(taken.code, Some(0), "{}", taken.text);
    // Whoever has a client keeps it, and nobody else gets it.
    let refused = adopt("reports", "another-client", &uri, file, "");
    assert!(refused.code == Some(1) && refused.text.contains(&lost.id), "{}", refused.text);
    until("it to be as before", || (place.condition("AdoptionRefused").is_none()).then_some(()));
    assert_eq!(place.condition("Ready").unwrap().0, "True");
    apply_waiting(&place, "others");
    let refused = adopt("others", &lost.id, &uri, file, "");
    assert!(
        refused.code == Some(1) && refused.text.contains("belongs to the McpClient team/reports"),
        "{}",
        refused.text
    );
    assert_eq!(place.works()["client_id"], lost.id);

    // A request that names another issuer, as one that was made for another cluster.
    let uid = place.cluster.get("portcullis.dev/v1alpha1", "McpClient", Some("team"), "others").unwrap();
    let name = format!("registration-{}-adoption", uid["metadata"]["uid"].as_str().unwrap());
    place.secret(&name, &[("client_id", "x"), ("issuer", "https://other.example")]);
    place.cluster.kubectl(&["annotate", "--overwrite", "-n", "team", "mcpclient/others", &format!("{ADOPT}=again")]);
    // Whoever looks between the two lines above says that of what was asked for before.
    until("the request to be refused", || {
        let others = place.cluster.get("portcullis.dev/v1alpha1", "McpClient", Some("team"), "others")?;
        crate::controller::condition(&others, "AdoptionRefused").filter(|is| is.0 == "True")?;
        let said = crate::controller::message(&others, "AdoptionRefused");
        (said.contains("https://other.example") && said.contains("again")).then_some(())
    });
    assert!(!controller.process.stderr().contains(&token));
}

#[test]
fn a_client_that_nobody_has_marked_is_somebodys_application_unless_that_is_said() {
    let place = Place::new(Way::KeycloakAdmin);
    let made = json!({"clientId": "billing", "publicClient": true, "redirectUris": ["https://billing.example/cb"]});
    place.house.realm().admin("POST", "/clients", &made);
    let _controller = place.controller();
    apply_waiting(&place, "reports");
    place.wait_registered("False", "AwaitingAdoption");
    let refused = clients(&place, &["adopt", CLIENT, "--client-id", "billing"], "");
    assert!(refused.code == Some(1) && refused.text.contains("its mark is none"), "{}", refused.text);
    let absent = clients(&place, &["adopt", CLIENT, "--client-id", "nobodys", "--mark", "none"], "");
    assert!(absent.code == Some(1) && absent.text.contains("no client of this id"), "{}", absent.text);
    let before = place.house.realm().clients();
    let kept = before.iter().find(|client| client["clientId"] == "billing").unwrap();
    assert_eq!(kept["redirectUris"], made["redirectUris"], "left alone");
    let taken = clients(&place, &["adopt", CLIENT, "--client-id", "billing", "--mark", "none"], "");
    assert_eq!(taken.code, Some(0), "{}", taken.text);
    assert_eq!(place.works()["client_id"], "billing");
    assert_eq!(place.ours(), ["billing"]);
}

#[test]
fn orphans_and_tombstones_are_listed_and_what_is_forgotten_or_given_up_is_said() {
    let place = Place::new(Way::ProviderDcr);
    let _controller = place.controller();
    assert!(clients(&place, &["list"], "").text.contains("No client is registered anywhere."));
    place.house.hop.fault(Matching::nth("POST", &place.registrations(), 1), Fault::LoseAnswer);
    place.apply(&json!({"deletion": {"timeout": "5s", "onUnavailable": "Block"}}));
    place.wait_ready();
    let id = place.works()["client_id"].clone();
    let (all, code) = listed(&place);
    assert_eq!((all.len(), code), (1, Some(1)), "{all:?}");
    let one = &all[0];
    assert_eq!((&one["state"], &one["method"], &one["clientId"]), (&json!("Ready"), &json!("DCR"), &json!(id)));
    assert_eq!((&one["orphaned"], &one["issuer"]), (&json!(true), &json!(place.house.issuer())));
    assert!(one["registeredAt"].is_string() && one["checkedAt"].is_string(), "{one}");
    let table = clients(&place, &["list"], "").text;
    assert!(table.contains(CLIENT) && table.contains("orphans left"), "{table}");
    assert!(clients(&place, &["list", "--namespace", "elsewhere"], "").text.contains("No client"));

    // What is left there is named, removed by hand, and forgotten.
    let forgotten = clients(&place, &["forget", CLIENT], "");
    assert!(forgotten.code == Some(0) && forgotten.text.contains("software_version 1"), "{}", forgotten.text);
    until("no orphan to be told of", || place.condition("Orphaned").is_none().then_some(()));
    let again = clients(&place, &["forget", "-n", "team", "reports"], "");
    assert!(again.code == Some(1) && again.text.contains("has no orphans"), "{}", again.text);
    assert_eq!(listed(&place).1, Some(0));

    // One that is not being deleted is not given up.
    let nowhere = clients(&place, &["abandon", "reports"], "");
    assert!(
        nowhere.code == Some(2) && nowhere.text.contains("write NAMESPACE/reports, or -n NAMESPACE reports"),
        "{}",
        nowhere.text
    );
    let kept = clients(&place, &["abandon", CLIENT], "");
    assert!(kept.code == Some(2) && kept.text.contains("deletion.policy: Retain"), "{}", kept.text);
    place.house.hop.down();
    drop(place.cluster.try_kubectl(&["delete", "-n", "team", "mcpclient/reports", "--wait=false"], None));
    until("it to be shown as deleted", || (listed(&place).0[0]["state"] == "Deleting").then_some(()));
    let given_up = clients(&place, &["abandon", CLIENT], "");
    assert!(given_up.code == Some(0) && given_up.text.contains(&id), "{}", given_up.text);
    place.wait_gone();
    until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
    place.house.hop.up();
    assert!(place.ours().contains(&id), "it stays where it is");

    // One that went on its own leaves a tombstone, which is listed.
    place.cluster.delete("v1", "Secret", Some("team"), "reports-client");
    place.apply(&json!({"deletion": {"timeout": "1s"}}));
    place.wait_ready();
    let last = place.works()["client_id"].clone();
    place.house.hop.down();
    place.delete();
    place.wait_gone();
    let (all, code) = listed(&place);
    assert_eq!((all.len(), &all[0]["state"], &all[0]["name"]), (1, &json!("Tombstone"), &json!("reports")), "{all:?}");
    assert_eq!((code, &all[0]["method"], &all[0]["clientId"]), (Some(1), &json!("DCR"), &json!(last)), "{all:?}");
    assert!(all[0]["registeredAt"].is_string(), "{all:?}");
    // Whoever may not list Secrets of the system namespace is told what is missing.
    let theirs = place.cluster.kubeconfig_of("team", "somebody");
    let their_list = || {
        let mut command = portcullis();
        let Output { status, stdout, stderr } =
            command.args(["clients", "list"]).env("KUBECONFIG", &theirs).output().unwrap();
        let [said, noted] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (status.code(), said, noted)
    };
    place.cluster.kubectl(&["create", "clusterrole", "readers", "--verb=list", "--resource=mcpclients.portcullis.dev"]);
    place.cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "readers",
        "--clusterrole=readers",
        "--serviceaccount=team:somebody",
    ]);
    let (_, said, noted) = until("the right to list", || Some(their_list()).filter(|(code, ..)| *code == Some(0)));
    assert!(said.contains("No client") && noted.contains("you may not list Secrets"), "{said} {noted}");
    // And whoever may not read which installation this is, that it is perhaps another one's.
    let of_system = ["-n", SYSTEM, "ledgers"];
    place.cluster.kubectl(&[&["create", "role"][..], &of_system, &["--verb=list", "--resource=secrets"]].concat());
    let to_them = ["--role=ledgers", "--serviceaccount=team:somebody"];
    place.cluster.kubectl(&[&["create", "rolebinding"][..], &of_system, &to_them].concat());
    let (_, said, noted) = until("the right to count", || Some(their_list()).filter(|(code, ..)| *code == Some(1)));
    let told = said.contains("Tombstone") && said.contains("perhaps another installation's");
    assert!(told && noted.contains("you may not read namespace"), "{said} {noted}");
}
