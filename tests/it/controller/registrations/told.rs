//! Clients that nobody here manages at the server: by a document that a real proxy serves, and as their author gives them.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use portcullis::generated::Client;
use portcullis::generated::codec::Generated;
use portcullis::oauth::client_metadata_document;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::place::{Place, Way, assertion};
use crate::authorization_servers::house::{House, RESOURCE, Server, claims, service};
use crate::authorization_servers::log_in::{VERIFIER, authorization_url_to, scope, with_ana};
use crate::authorization_servers::metadata_documents::switch_on;
use crate::controller::{ACCOUNT, Controller, VERSION, generated_of, message, wait_condition};
use crate::support::browser::Browser;
use crate::support::http::Response;
use crate::support::kube::{GATEWAY, SYSTEM};
use crate::support::ports::free_port;
use crate::support::process::{Process, portcullis};
use crate::support::trusted;
use crate::support::wait::until;

/// Where persons come back to.
const REDIRECT: &str = "https://localhost/callback";
const HOUR: i64 = 3600;

/// A place whose gateway is reached by TLS, with a proxy of it. Dropping it ends the proxy.
pub(super) struct Hosted {
    pub(super) place: Place,
    pub(super) url: String,
    proxy: Option<Process>,
    folder: TempDir,
}

impl Hosted {
    pub(super) fn new(way: Way) -> Self {
        let options = json!({"cimd": true, "fetchFromLoopback": true});
        let mut place = Place::with(way, &options);
        place.house = with_ana(place.house);
        if place.house.is_keycloak() {
            switch_on(&place.house, &[RESOURCE]);
        }
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = trusted::certificate();
        std::fs::write(folder.path().join("tls.crt"), certificate).unwrap();
        std::fs::write(folder.path().join("tls.key"), key).unwrap();
        let url = format!("https://localhost:{}", free_port());
        let mut hosted = Self { place, url, proxy: None, folder };
        hosted.start_proxy();
        hosted
    }

    /// As an administrator: no Pod is here that a report could be bound to, which is another test's matter.
    pub(super) fn start_proxy(&mut self) {
        let listen = self.url.replace("https://localhost", "127.0.0.1");
        let at = |name: &str| self.folder.path().join(name);
        let mut command = portcullis();
        command.args(["proxy", "--gateway-namespace", GATEWAY, "--pod-name", "gate-0", "--public-url", &self.url]);
        command.args(["--listen", &listen]).arg("--state-dir").arg(at("state"));
        command.arg("--tls-cert").arg(at("tls.crt")).arg("--tls-key").arg(at("tls.key"));
        command.env("KUBECONFIG", self.place.cluster.kubeconfig());
        self.proxy = Some(Process::start(command));
    }

    pub(super) fn stop_proxy(&mut self) {
        self.proxy = None;
    }

    pub(super) fn controller(&self) -> Controller {
        let kubeconfig = self.place.cluster.kubeconfig_of(SYSTEM, ACCOUNT);
        self.controller_as(&kubeconfig)
    }

    pub(super) fn controller_as(&self, kubeconfig: &Path) -> Controller {
        Controller::launch_in(&self.url, kubeconfig, &[], &["--no-inventory"])
    }

    /// A client with this method, and further members of `registration`.
    pub(super) fn apply(&self, method: Option<&str>, more: &Value) {
        let mut client = self.place.client("reports", more);
        if let Some(method) = method {
            client["spec"]["method"] = json!(method);
        }
        self.place.cluster.apply(&client);
    }

    /// The same, of one whose id is given: what is registered is not said again.
    pub(super) fn apply_given(&self, method: &str, registration: &Value) {
        self.place.cluster.apply(&json!({"apiVersion": VERSION, "kind": "McpClient",
            "metadata": {"namespace": "team", "name": "reports"},
            "spec": {"authorizationServer": "corp", "method": method, "registration": registration}}));
    }

    /// What is generated of the client.
    pub(super) fn document(&self) -> Option<Client> {
        match generated_of(&self.place.cluster, "client", &self.place.now()?) {
            Some(Generated::Client(client)) => Some(client),
            _ => None,
        }
    }

    /// Ids of the keys that are served.
    pub(super) fn kids(&self) -> Vec<String> {
        let document = self.document().expect("a document");
        let keys: Value = serde_json::from_str(&document.key_set.unwrap()).unwrap();
        keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    /// Names of all documents that are generated.
    pub(super) fn documents(&self) -> Vec<String> {
        let maps = self.place.cluster.list("v1", "ConfigMap", Some(GATEWAY));
        let names = maps.iter().map(|map| map["metadata"]["name"].as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("client-")).collect()
    }

    /// Of how many keys the ledger says this.
    pub(super) fn ledger_says(&self, member: &str) -> usize {
        let Some(secret) = self.place.ledgers().pop() else { return 0 };
        let text = BASE64_STANDARD.decode(secret["data"]["ledger.json"].as_str().unwrap()).unwrap();
        String::from_utf8(text).unwrap().matches(&format!("\"{member}\":")).count()
    }

    /// Has so much time pass for the client's keys, as far as the ledger tells it.
    pub(super) fn age(&self, seconds: i64) {
        let secret = self.place.ledgers().pop().expect("a ledger");
        let text = BASE64_STANDARD.decode(secret["data"]["ledger.json"].as_str().unwrap()).unwrap();
        let mut ledger: Value = serde_json::from_slice(&text).unwrap();
        for key in ledger["keys"].as_array_mut().unwrap() {
            for name in ["made", "served", "given"] {
                if let Some(at) = key[name].as_i64() {
                    key[name] = json!(at - seconds);
                }
            }
        }
        let (name, data) = (secret["metadata"]["name"].as_str().unwrap(), BASE64_STANDARD.encode(ledger.to_string()));
        let patch = json!({"data": {"ledger.json": data}}).to_string();
        self.place.cluster.kubectl(&["patch", "-n", SYSTEM, "secret", name, "--type=merge", "-p", &patch]);
        self.poke();
    }

    /// Has it looked at.
    pub(super) fn poke(&self) {
        let now = format!("n={}", uuid::Uuid::now_v7().simple());
        self.place.cluster.kubectl(&["annotate", "-n", "team", "mcpclient/reports", "--overwrite", &now]);
    }

    /// The client sends ana to log in, and trades what comes back with these credentials.
    fn token_of_ana(&self, credentials: &BTreeMap<String, String>) -> Response {
        let house = &self.place.house;
        let id = &credentials["client_id"];
        let url = authorization_url_to(house, id, scope(house), REDIRECT);
        let back = Browser::of("ana", "ana's password").authorize(&url, REDIRECT);
        let back = back.unwrap_or_else(|page| panic!("{page:?} {}", page.text()));
        let assertion = assertion(credentials);
        house.token(&[
            ("grant_type", "authorization_code"),
            ("code", &back["code"]),
            ("redirect_uri", REDIRECT),
            ("client_id", id),
            ("code_verifier", VERIFIER),
            ("resource", RESOURCE),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion.expose()),
        ])
    }

    /// Whether these credentials come to a token for the resource, as they do at this server.
    fn works(&self, credentials: &BTreeMap<String, String>) -> bool {
        let answer = match self.place.way {
            Way::KeycloakTold => self.token_of_ana(credentials),
            _ => self.place.token_for(credentials, &[RESOURCE.to_owned()]),
        };
        if answer.status != 200 {
            assert!(answer.text().contains("client"), "{}", answer.text());
            return false;
        }
        let token = claims(answer.json()["access_token"].as_str().unwrap());
        assert_eq!((&token["iss"], &token["aud"]), (&self.place.house.issuer().into(), &RESOURCE.into()), "{token}");
        let presenter = if self.place.house.is_keycloak() { &token["azp"] } else { &token["client_id"] };
        assert_eq!(presenter, &json!(credentials["client_id"]));
        true
    }

    /// What `portcullis clients list` says of the client: its method and its id.
    fn listed(&self) -> (String, String) {
        let mut command = portcullis();
        command.args(["clients", "list", "-o", "json"]).env("KUBECONFIG", self.place.cluster.kubeconfig());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((all.as_array().unwrap().len(), &all[0]["state"]), (1, &json!("Ready")), "{all}");
        let text = |name: &str| all[0][name].as_str().unwrap().to_owned();
        (text("method"), text("clientId"))
    }

    /// No private key and no secret is where proxies read.
    fn assert_nothing_leaked(&self) {
        let credentials = self.place.credentials();
        let secrets =
            credentials.iter().filter(|(key, _)| ["private_key.pem", "client_secret"].contains(&key.as_str()));
        for (_, secret) in secrets {
            let lines: Vec<&str> = secret.lines().filter(|line| !line.starts_with("-----")).collect();
            for kind in ["Secret", "ConfigMap"] {
                let all = json!(self.place.cluster.list("v1", kind, Some(GATEWAY))).to_string();
                assert!(lines.iter().all(|line| !all.contains(line)), "{kind}");
            }
            let said = self.place.now().unwrap().to_string();
            assert!(lines.iter().all(|line| !said.contains(line)), "{said}");
        }
    }
}

/// What a client is registered with at a server: at Keycloak, documents are of clients for persons.
fn wanted(way: Way) -> Value {
    let mut more = json!({"rotation": {"period": "1h", "overlap": "10m"}});
    if way == Way::KeycloakTold {
        // Without the second, Keycloak 26.7.2 fails at `resource`, as it does for a client that speaks for itself.
        more["grantTypes"] = json!(["authorization_code", "refresh_token"]);
        more["redirectUris"] = json!([REDIRECT]);
        more["tokenEndpointAuthMethod"] = json!("private_key_jwt");
    }
    more
}

#[test]
fn a_document_that_a_proxy_serves_is_a_client_and_its_keys_rotate_and_go_with_it() {
    for way in [Way::ProviderTold, Way::KeycloakTold] {
        let hosted = Hosted::new(way);
        let place = &hosted.place;
        let _controller = hosted.controller();
        hosted.apply(None, &wanted(way));
        let ready = place.wait_ready();
        let uid = ready["metadata"]["uid"].as_str().unwrap();
        let id = format!("{}/-/clients/{uid}", hosted.url);
        let status = &ready["status"]["registration"];
        assert_eq!(
            (&status["method"], &status["clientId"], &ready["status"]["clientId"]),
            (&json!("CIMD"), &json!(id), &json!(id))
        );
        assert_eq!(hosted.listed(), ("CIMD".to_owned(), id.clone()));
        let document = hosted.document().unwrap();
        let read = client_metadata_document::parse(document.document.as_bytes(), &id).unwrap();
        assert_eq!(read["jwks_uri"], json!(format!("{id}/jwks.json")));
        let first = place.credentials();
        assert_eq!((&first["client_id"], &first["token_endpoint_auth_method"]), (&id, &"private_key_jwt".to_owned()));
        assert_eq!(hosted.kids(), std::slice::from_ref(&first["kid"]));
        assert!(hosted.works(&first), "{way:?}");
        hosted.assert_nothing_leaked();

        // A new key is served beside the old one, and given out when its time has come; then the old one goes.
        hosted.age(HOUR);
        until("a second key to be served", || (hosted.kids().len() == 2).then_some(()));
        assert_eq!((place.credentials(), hosted.works(&first)), (first.clone(), true), "{way:?}");
        until("every proxy to serve it", || (hosted.ledger_says("served") == 2).then_some(()));
        hosted.age(600);
        let second = until("the new key to be given out", || Some(place.credentials()).filter(|now| *now != first));
        assert_eq!(hosted.kids(), [first["kid"].clone(), second["kid"].clone()]);
        until("the server to know the new key", || hosted.works(&second).then_some(()));
        assert!(hosted.works(&first), "{way:?}: whoever has not read the Secret since goes on");
        until("the new key to count as given", || (hosted.ledger_says("given") == 2).then_some(()));
        hosted.age(600);
        until("the old key to go", || (hosted.kids() == [second["kid"].clone()]).then_some(()));
        // Keycloak keeps keys that it has fetched for a day.
        if way == Way::ProviderTold {
            until("the server to forget the old key", || (!hosted.works(&first)).then_some(()));
        }
        assert!(hosted.works(&second), "{way:?}");
        hosted.assert_nothing_leaked();

        place.delete();
        place.wait_gone();
        assert_eq!(hosted.documents(), Vec::<String>::new(), "the document goes before the McpClient does");
        until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
        if way == Way::ProviderTold {
            until("the server to forget it", || (!hosted.works(&second)).then_some(()));
        }
    }
}

#[test]
fn a_document_is_no_client_before_every_proxy_serves_it_and_is_put_back_when_somebody_touches_it() {
    let mut hosted = Hosted::new(Way::ProviderTold);
    hosted.stop_proxy();
    hosted.place.cluster.delete("coordination.k8s.io/v1", "Lease", Some(GATEWAY), "proxy-gate-0");
    let _controller = hosted.controller();
    hosted.apply(Some("CIMD"), &json!({}));
    hosted.place.wait_registered("Unknown", "NoProxies");
    assert!(hosted.document().is_some());
    assert!(hosted.place.cluster.get("v1", "Secret", Some("team"), "reports-client").is_none(), "nobody could use it");
    hosted.start_proxy();
    hosted.place.wait_ready();
    assert!(hosted.works(&hosted.place.credentials()));

    let document = hosted.document().unwrap();
    let name = format!("client-{}", document.id.uid);
    hosted.place.cluster.delete("v1", "ConfigMap", Some(GATEWAY), &name);
    until("it to be back", || (hosted.document()? == document).then_some(()));
    hosted.place.cluster.kubectl(&[
        "patch",
        "-n",
        GATEWAY,
        "configmap",
        &name,
        "--type=merge",
        "-p",
        r#"{"data": {"object.json": "{}"}}"#,
    ]);
    until("it to be as it was", || {
        let map = hosted.place.cluster.get("v1", "ConfigMap", Some(GATEWAY), &name)?;
        map["data"]["object.json"].as_str()?.contains("private_key_jwt").then_some(())
    });
    hosted.place.wait_ready();
    // Its author wants something else, and then another method: nothing of the document is left.
    hosted.apply(Some("CIMD"), &json!({"clientName": "Weekly"}));
    until("the other name to be served", || hosted.document()?.document.contains("Weekly").then_some(()));
    hosted.place.wait_ready();
    let mut other = hosted.place.client("reports", &json!({}));
    other["spec"]["method"] = json!("Preregistered");
    other["spec"]["registration"] = json!({"clientId": "somebody"});
    hosted.place.cluster.apply(&other);
    until("the document to go", || hosted.document().is_none().then_some(()));
    hosted.place.wait_registered("True", "AsGiven");
    assert_eq!(hosted.place.credentials()["client_id"], "somebody");
}

#[test]
fn a_server_that_takes_no_documents_or_cannot_fetch_them_is_told_of() {
    let hosted = Hosted::new(Way::ProviderTold);
    let place = &hosted.place;
    let _controller = hosted.controller();
    let lead_to = |house: &House| {
        place.cluster.apply(&place.anchor(&house.issuer()));
        // Another watch tells of it than of the client.
        wait_condition(&place.cluster, ("McpAuthorizationServer", None, "corp"), ("Accepted", "True", "Accepted"));
    };
    // It may not fetch from where the gateway is.
    let house = House::provider(&json!({"cimd": true}));
    lead_to(&house);
    hosted.apply(Some("CIMD"), &json!({}));
    let said = place.wait_registered("False", "ClientNotBelieved");
    assert!(said.contains("/-/clients/") && said.contains("can fetch"), "{said}");
    place.delete();
    place.wait_gone();
    // It says nothing of documents.
    let house = House::provider(&json!({}));
    lead_to(&house);
    hosted.apply(None, &json!({}));
    let said = place.wait_registered("False", "RegistrationUnsupported");
    assert!(said.contains("client_id_metadata_document_supported"), "{said}");
    assert!(hosted.document().is_none());
}

/// A service that somebody registered at the server, with its id and its secret.
pub(super) fn registered(place: &Place) -> (String, String) {
    let made = place.house.register(&service());
    (made.id, made.secret.unwrap())
}

pub(super) fn give(place: &Place, secret: &str) {
    place.cluster.apply(&json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"namespace": "team", "name": "given"}, "stringData": {"secret": secret}}));
}

#[test]
fn what_somebody_has_registered_is_handed_on_tried_and_left_alone() {
    for way in [Way::ProviderTold, Way::KeycloakTold] {
        let hosted = Hosted::new(way);
        let place = &hosted.place;
        let controller = hosted.controller();
        let (id, secret) = registered(place);
        let reference = json!({"name": "given", "key": "secret"});
        let tried = json!({"clientId": id, "clientSecretRef": reference, "grantTypes": ["client_credentials"]});
        // Its Secret is its owner's: nobody reads it before they say so, and what is wrong with it is said.
        place.let_it_write_no_secrets();
        hosted.apply_given("Preregistered", &tried);
        let said = place.wait_registered("False", "SecretForbidden");
        assert!(said.contains("portcullis-secret-reader"), "{said}");
        place.let_it_write_secrets();
        hosted.poke();
        place.wait_registered("False", "SecretNotFound");
        give(place, "with a line\nbreak");
        hosted.poke();
        place.wait_registered("False", "SecretInvalid");
        assert!(place.ledgers().is_empty(), "nothing is begun");

        give(place, "wrong");
        hosted.poke();
        let said = place.wait_registered("False", "ClientNotBelieved");
        assert!(said.contains(&id) && said.contains("clientSecretRef") && !said.contains("wrong"), "{said}");
        give(place, &secret);
        hosted.poke();
        let ready = place.wait_ready();
        let status = &ready["status"]["registration"];
        assert_eq!((&status["method"], &status["clientId"]), (&json!("Preregistered"), &json!(id)));
        assert_eq!(hosted.listed(), ("Preregistered".to_owned(), id.clone()));
        assert!(status["registeredAt"].is_null() && status["checkedAt"].is_string(), "{status}");
        assert!(ready["metadata"]["finalizers"].is_null(), "nothing is taken back");
        let credentials = place.works();
        assert_eq!((&credentials["client_id"], &credentials["client_secret"]), (&id, &secret));
        assert_eq!(credentials["token_endpoint_auth_method"], "client_secret_basic");
        hosted.assert_nothing_leaked();
        assert!(!controller.process.stderr().contains(&secret));

        // Nobody is asked where nothing could be learned; and it works while the server is away.
        let untried = json!({"clientId": id, "clientSecretRef": reference});
        hosted.apply_given("Preregistered", &untried);
        place.wait_registered("True", "Registered");
        place.house.hop.lead_to("127.0.0.1:1");
        hosted.apply_given("Preregistered", &json!({"clientId": "another", "clientSecretRef": reference}));
        let said = place.wait_registered("True", "AsGiven");
        assert!(said.contains("nobody asked"), "{said}");
        assert_eq!(place.credentials()["client_id"], "another");
        hosted.apply_given("Preregistered", &untried);
        until("its id to be back", || (place.credentials()["client_id"] == id).then_some(()));

        place.delete();
        place.wait_gone();
        until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
        let restored = match &place.house.server {
            Server::Keycloak(_) => crate::support::keycloak::address().to_owned(),
            Server::Provider(provider) => provider.address().to_owned(),
        };
        place.house.hop.lead_to(&restored);
        assert_eq!(place.token_with(&credentials).status, 200, "{way:?}: it is there as before");
    }
}

#[test]
fn a_client_with_a_document_of_its_own_is_known_by_that_alone() {
    let hosted = Hosted::new(Way::ProviderTold);
    let _controller = hosted.controller();
    let own = "https://ide.example/client.json";
    hosted.apply_given("CIMD", &json!({"clientId": own}));
    let said = hosted.place.wait_registered("True", "AsGiven");
    assert!(said.contains("nobody asked"), "{said}");
    assert_eq!(hosted.place.credentials()["client_id"], own);
    assert_eq!(message(&hosted.place.now().unwrap(), "Ready"), "");
    assert!(hosted.document().is_none());
    assert_eq!(hosted.listed(), ("CIMD".to_owned(), own.to_owned()));
}
