//! A cluster, an authorization server behind a hop, and what is registered at it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kube::api::{Patch, PatchParams};
use portcullis::controller::conditions::role_binding;
use portcullis::controller::registrations::assumed_age;
use portcullis::oauth::client_key::ClientKey;
use portcullis::oauth::token_request::{Access, Authentication, client_credentials};
use portcullis::registration::CHECK_SECONDS;
use portcullis::sensitive::Sensitive;
use serde_json::{Value, json};

use crate::authorization_servers::house::House;
use crate::controller::{ACCOUNT, Controller, USER, VERSION, condition, message, object, wait_condition};
use crate::support::http;
use crate::support::keycloak::MANAGER;
use crate::support::kube::{Cluster, SYSTEM};
use crate::support::wait::until;
use crate::support::{now, runtime};

pub(super) const READER: (&str, Option<&str>, &str) = ("McpClient", Some("team"), "reports");

/// One of ninety UIDs is of that kind (seconds).
const SOON: i64 = 20;

/// By which method, at which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    ProviderDcr,
    KeycloakDcr,
    KeycloakAdmin,
    /// By documents that a proxy serves, or as an author gives it.
    ProviderTold,
    KeycloakTold,
}

pub(super) const WAYS: [Way; 3] = [Way::ProviderDcr, Way::KeycloakDcr, Way::KeycloakAdmin];

/// What proves that whoever has these credentials is the client.
pub(super) fn assertion(credentials: &BTreeMap<String, String>) -> Sensitive {
    let pem = &credentials["private_key.pem"];
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let key = ClientKey::new(&BASE64_STANDARD.decode(text).unwrap()).unwrap();
    assert_eq!(key.kid(), credentials["kid"]);
    let (now, jti) = (i64::try_from(now()).unwrap(), uuid::Uuid::now_v7().to_string());
    key.assertion(&credentials["client_id"], &credentials["issuer"], now, 60, &jti).unwrap()
}

/// Shows what was said last of the client, and what came to the server, if a test ends in between.
pub(super) struct Last<'p>(pub(super) &'p Place);

impl Drop for Last<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the client says: {:#}", self.0.now().unwrap_or_default()["status"]);
            eprintln!("the server was asked: {:#?}", self.0.house.hop.seen());
        }
    }
}

/// All of it.
pub(super) struct Place {
    pub(super) cluster: Cluster,
    pub(super) house: House,
    pub(super) way: Way,
}

impl Place {
    /// A cluster with a trust anchor at which clients are registered in this way. No controller runs.
    pub(super) fn new(way: Way) -> Self {
        Self::with(way, &json!({"keep": ["software_id", "software_version"]}))
    }

    /// The same, with these options of npm oidc-provider.
    pub(super) fn with(way: Way, options: &Value) -> Self {
        Self::on(crate::chart::installed(), way, options)
    }

    /// The same, on this cluster.
    pub(super) fn on(cluster: Cluster, way: Way, options: &Value) -> Self {
        cluster.namespace("team", &[]);
        let house = match way {
            Way::ProviderDcr | Way::ProviderTold => House::provider(options),
            Way::KeycloakDcr | Way::KeycloakAdmin | Way::KeycloakTold => House::keycloak(),
        };
        let place = Self { cluster, house, way };
        place.let_it_write_secrets();
        place.give_initial_access_token();
        place.secret("keycloak-admin", &[("client_id", MANAGER.0), ("client_secret", MANAGER.1)]);
        place.cluster.apply(&place.anchor(&place.house.issuer()));
        place
    }

    /// The owner of the namespace lets the controller write Secrets there.
    pub(super) fn let_it_write_secrets(&self) {
        let binding = role_binding("portcullis-token-writer", "team", (SYSTEM, ACCOUNT));
        self.cluster.apply_yaml(binding.split_once("applies:\n").unwrap().1);
        self.cluster.wait_may(USER, "delete", ("", "secrets"), "team");
    }

    /// They let it no more: neither write nor read.
    pub(super) fn let_it_write_no_secrets(&self) {
        let binding = "rbac.authorization.k8s.io/v1";
        self.cluster.delete(binding, "RoleBinding", Some("team"), "portcullis-token-writer");
        self.cluster.wait_may_not(USER, "delete", ("", "secrets"), "team");
    }

    pub(super) fn give_initial_access_token(&self) {
        self.secret("initial-access", &[("token", &self.house.initial_access_token())]);
    }

    /// A Secret of the system namespace.
    pub(super) fn secret(&self, name: &str, values: &[(&str, &str)]) {
        let values: BTreeMap<&str, String> =
            values.iter().map(|(key, value)| (*key, BASE64_STANDARD.encode(value))).collect();
        self.cluster.apply(&json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"namespace": SYSTEM, "name": name}, "data": values}));
    }

    /// The trust anchor, with this issuer.
    pub(super) fn anchor(&self, issuer: &str) -> Value {
        let dcr = json!({"methods": ["DCR"], "initialAccessTokenRef": {"name": "initial-access", "key": "token"}});
        let cimd = json!({"methods": ["CIMD"]});
        let (profile, registration) = match self.way {
            Way::ProviderTold => ("Generic", cimd),
            Way::KeycloakTold => ("Keycloak", cimd),
            Way::ProviderDcr => ("Generic", dcr),
            Way::KeycloakDcr => ("Keycloak", dcr),
            Way::KeycloakAdmin => {
                ("Keycloak", json!({"methods": ["Admin"], "adminCredentialRef": {"name": "keycloak-admin"}}))
            }
        };
        json!({"apiVersion": VERSION, "kind": "McpAuthorizationServer", "metadata": {"name": "corp"},
            "spec": {"issuer": issuer, "profile": profile, "registration": registration}})
    }

    /// A service that authenticates by a key, with further members of `registration`.
    pub(super) fn client(&self, name: &str, more: &Value) -> Value {
        let mut registration = json!({"clientName": "Reports", "applicationType": "Web",
            "grantTypes": ["client_credentials"], "deletion": {"timeout": "10s"}});
        registration.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"apiVersion": VERSION, "kind": "McpClient", "metadata": {"namespace": "team", "name": name},
            "spec": {"authorizationServer": "corp", "registration": registration}})
    }

    pub(super) fn apply(&self, more: &Value) {
        self.cluster.apply(&self.client("reports", more));
    }

    /// A client that is read back within [`SOON`] of a controller's start, though nothing is to be done for it. When that is goes
    /// by its UID, so it is made until it has such a one. No controller runs.
    pub(super) fn apply_read_soon(&self, more: &Value) {
        for _ in 0..5000 {
            self.apply(more);
            let uid = self.now().unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
            if assumed_age(&uid) >= CHECK_SECONDS - SOON {
                return;
            }
            self.delete();
        }
        panic!("no UID that comes soon");
    }

    pub(super) fn controller(&self) -> Controller {
        Controller::start(&self.cluster)
    }

    pub(super) fn wait_ready(&self) -> Value {
        let _last = Last(self);
        wait_condition(&self.cluster, READER, ("Ready", "True", "Ready"))
    }

    /// Waits until the client says this of its registration, and returns the message.
    pub(super) fn wait_registered(&self, status: &str, reason: &str) -> String {
        let client = wait_condition(&self.cluster, READER, ("Registered", status, reason));
        message(&client, "Registered")
    }

    /// What the client says of itself now.
    pub(super) fn now(&self) -> Option<Value> {
        object(&self.cluster, READER.0, READER.1, READER.2)
    }

    pub(super) fn condition(&self, type_: &str) -> Option<(String, String)> {
        condition(&self.now()?, type_)
    }

    /// The credentials that the client's owner has.
    pub(super) fn credentials(&self) -> BTreeMap<String, String> {
        self.credentials_of(READER.2)
    }

    /// The same of the client of this name.
    pub(super) fn credentials_of(&self, name: &str) -> BTreeMap<String, String> {
        let secret = self.cluster.get("v1", "Secret", Some("team"), &format!("{name}-client"));
        let text = |value: &Value| String::from_utf8(BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap();
        let secret = secret.unwrap_or_else(|| panic!("no Secret"));
        secret["data"].as_object().unwrap().iter().map(|(key, value)| (key.clone(), text(value))).collect()
    }

    /// What the token endpoint answers to these credentials.
    pub(super) fn token_with(&self, credentials: &BTreeMap<String, String>) -> http::Response {
        self.token_for(credentials, &[])
    }

    /// The same, where a token for these resources is asked for.
    pub(super) fn token_for(&self, credentials: &BTreeMap<String, String>, resources: &[String]) -> http::Response {
        let id = &credentials["client_id"];
        let proof = match credentials.get("private_key.pem") {
            Some(_) => Authentication::private_key_jwt(id, &assertion(credentials)),
            None => Authentication::client_secret_basic(id, &Sensitive::new(&credentials["client_secret"])),
        };
        let body = client_credentials(Access { resources, scopes: &[] }, &proof);
        let url = self.house.endpoint("token_endpoint");
        let mut headers = vec![("Content-Type", "application/x-www-form-urlencoded")];
        let basic = proof.header.map(|header| header.expose().to_owned());
        headers.extend(basic.as_deref().map(|basic| ("Authorization", basic)));
        http::send(http::split(&url).0, &http::request("POST", &url, &headers, body.expose().as_bytes()))
    }

    /// The credentials that the owner has get a token.
    pub(super) fn works(&self) -> BTreeMap<String, String> {
        let credentials = self.credentials();
        let answer = self.token_with(&credentials);
        assert!(answer.status == 200 && answer.json()["access_token"].is_string(), "{}", answer.text());
        credentials
    }

    /// The clients that were registered here, as the server lists them; not its own ones.
    pub(super) fn ours(&self) -> Vec<String> {
        let mut all = self.house.clients();
        all.retain(|id| id != MANAGER.0);
        all
    }

    /// Exactly one client, whose credentials work; and the ids of others that it told of.
    pub(super) fn assert_one(&self, story: &str) -> String {
        self.assert_one_beside(&[], story)
    }

    /// The same, beside what is left of McpClients before it.
    pub(super) fn assert_one_beside(&self, left: &[String], story: &str) -> String {
        let id = self.works()["client_id"].clone();
        let told = self.now().map(|client| client["status"].to_string()).unwrap_or_default();
        for other in self.ours().into_iter().filter(|other| *other != id && !left.contains(other)) {
            let orphaned = self.condition("Orphaned").is_some_and(|(status, _)| status == "True");
            assert!(orphaned, "{story}: {other} is left beside {id}, and nobody was told: {told}");
        }
        id
    }

    /// Changes nothing that matters, so that it is looked at; by another word each time.
    pub(super) fn nudge(&self, word: &str) {
        self.nudge_one(READER.2, word);
    }

    /// The same of the client of this name.
    pub(super) fn nudge_one(&self, name: &str, word: &str) {
        let api = self.cluster.api(VERSION, READER.0, READER.1);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"nudge": word}}}));
        runtime().block_on(api.patch(name, &PatchParams::default(), &patch)).unwrap();
    }

    pub(super) fn delete(&self) {
        self.cluster.delete(VERSION, "McpClient", Some("team"), "reports");
    }

    pub(super) fn wait_gone(&self) {
        until("the McpClient to be gone", || self.now().is_none().then_some(()));
    }

    /// Its Secret goes after the McpClient, as Kubernetes' garbage collector does it: nobody does it here.
    pub(super) fn collect_garbage(&self) {
        self.cluster.delete("v1", "Secret", Some("team"), "reports-client");
    }

    /// Ledgers in the system namespace.
    pub(super) fn ledgers(&self) -> Vec<Value> {
        let mut all = self.cluster.list("v1", "Secret", Some(SYSTEM));
        all.retain(|secret| secret["metadata"]["labels"]["portcullis.dev/registration"].is_string());
        all
    }

    /// The ledger of the client of this name.
    pub(super) fn ledger_for(&self, name: &str) -> Value {
        let mut all = self.ledgers();
        all.retain(|secret| Self::ledger_of(secret)["owner"]["name"] == name);
        assert_eq!(all.len(), 1, "ledgers of {name}");
        all.remove(0)
    }

    /// What a ledger holds.
    pub(super) fn ledger_of(secret: &Value) -> Value {
        let text = BASE64_STANDARD.decode(secret["data"]["ledger.json"].as_str().unwrap()).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Edits the only ledger that there is. No controller is to run meanwhile, or none that would write it.
    pub(super) fn edit_ledger(&self, edit: impl FnOnce(&mut Value)) {
        let ledgers = self.ledgers();
        let [secret] = ledgers.as_slice() else { panic!("{} ledgers", ledgers.len()) };
        self.edit(secret, edit);
    }

    /// Edits this ledger.
    pub(super) fn edit(&self, secret: &Value, edit: impl FnOnce(&mut Value)) {
        let mut ledger = Self::ledger_of(secret);
        edit(&mut ledger);
        let name = secret["metadata"]["name"].as_str().unwrap();
        self.secret(name, &[("ledger.json", &ledger.to_string())]);
    }

    /// As if the controller had died in the middle of an update that was done: whoever finds that reads the client back first.
    pub(super) fn as_if_updating(&self) {
        self.edit_ledger(|ledger| {
            let digest = ledger["current"]["digest"].clone();
            ledger["step"] = json!({"Updating": {"digest": digest, "renews": false}});
        });
    }

    /// Has the client read back.
    pub(super) fn read_back(&self) {
        let reads = self.asked("GET");
        self.as_if_updating();
        self.nudge(&format!("read {reads}"));
        until("it to be read back", || (self.asked("GET") > reads).then_some(()));
        until("nothing to be under way", || (Self::ledger_of(&self.ledgers()[0])["step"] == "Idle").then_some(()));
    }

    /// Its credentials were made so many seconds earlier.
    pub(super) fn age(&self, seconds: i64) {
        self.edit_ledger(|ledger| {
            let earlier = |time: &mut Value| *time = json!(time.as_i64().unwrap() - seconds);
            ledger["keys"].as_array_mut().unwrap().iter_mut().for_each(|key| earlier(&mut key["made"]));
            earlier(&mut ledger["current"]["secret_since"]);
            earlier(&mut ledger["current"]["updated_at"]);
        });
    }

    /// The time of what was replaced is over.
    pub(super) fn end_overlap(&self) {
        self.edit_ledger(|ledger| {
            ledger["retired"].as_array_mut().unwrap().iter_mut().for_each(|one| one["until"] = json!(1));
        });
    }

    /// How many clients of before are kept.
    pub(super) fn retired(&self) -> usize {
        let ledgers = self.ledgers();
        ledgers.iter().map(|secret| Self::ledger_of(secret)["retired"].as_array().unwrap().len()).sum()
    }

    /// The path below which clients are registered and managed at this server.
    pub(super) fn registrations(&self) -> String {
        let path = |url: &str| url.strip_prefix(&self.house.hop.url()).unwrap().to_owned();
        match self.way {
            Way::ProviderDcr | Way::KeycloakDcr => path(&self.house.endpoint("registration_endpoint")),
            Way::ProviderTold | Way::KeycloakTold => path(&self.house.endpoint("token_endpoint")),
            Way::KeycloakAdmin => {
                format!("{}/clients", path(&self.house.issuer()).replace("/realms/", "/admin/realms/"))
            }
        }
    }

    /// How many requests of this method about registrations came.
    pub(super) fn asked(&self, method: &'static str) -> usize {
        self.house.hop.count(method, &self.registrations())
    }
}
