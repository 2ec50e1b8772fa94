//! Keycloak, one server for the test process, with a realm for each test.
//!
//! It takes seconds to start and half a gigabyte, so it is started by the first test that asks, and ends with the process,
//! however that ends. Realms share nothing, and a realm is deleted with its test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::daemon::Daemon;
use super::http::{self, Response};
use super::ports::free_port;
use super::wait::until_within;
use super::{testbed, trusted};

/// The administrator that the installed database has (`hack/testbed/keycloak/install`).
const ADMINISTRATOR: (&str, &str) = ("tests", "the-administrators-secret");

/// It starts with ten seconds of a core's work, which others want as well.
const PATIENCE: Duration = Duration::from_secs(300);

/// An administrator's token is good for an hour, since its minute by default may pass before a loaded machine answers.
const TOKEN_LIFETIME: u64 = 3600;

/// The secret of the client that a realm's clients may be managed with.
pub(crate) const MANAGER: (&str, &str) = ("portcullis", "the-managers-secret");

/// The attribute of a client that stands for a resource.
const RESOURCE_URL: &str = "resource_url";

/// Clients that Keycloak makes with each realm.
const ITS_OWN: [&str; 6] =
    ["account", "account-console", "admin-cli", "broker", "realm-management", "security-admin-console"];

struct Server {
    /// `host:port`.
    address: String,
    _daemon: Mutex<Daemon>,
    /// Administrators' tokens by the authority that they were asked for at: it is part of their issuer.
    tokens: Mutex<BTreeMap<String, String>>,
    /// Held while realms come and go: both change the roles of administrators, and Keycloak answers 500 to one of two at once.
    realms: Mutex<()>,
}

/// A realm that is this test's alone. Dropping it deletes it.
pub(crate) struct Realm {
    name: String,
    /// The origin that clients use.
    origin: String,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::start)
}

/// The installed Keycloak, once per test run.
fn installed() -> &'static Path {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOLDER.get_or_init(|| testbed::run_installer("hack/testbed/keycloak/install")) {
        Ok(folder) => folder,
        Err(why) => panic!("Keycloak is not there:\n{why}"),
    }
}

impl Server {
    /// Tried on other ports while they are taken.
    fn start() -> Self {
        let home = installed();
        for _ in 0..5 {
            let folder = TempDir::with_prefix("portcullis-keycloak-").unwrap().keep();
            let address = format!("127.0.0.1:{}", free_port());
            lay_out(home, &folder);
            let log = folder.join("keycloak.log");
            let mut daemon = Daemon::start(command(&folder, &address), &log, Some(&folder));
            let up = until_within(PATIENCE, "Keycloak to be ready", || {
                if daemon.has_ended() {
                    return Some(false);
                }
                let listens = std::net::TcpStream::connect(&address).is_ok();
                (listens && http::get(&format!("http://{address}/realms/master"), &[]).status == 200).then_some(true)
            });
            if up {
                let server =
                    Self { address, _daemon: Mutex::new(daemon), tokens: Mutex::default(), realms: Mutex::default() };
                server.lengthen_tokens();
                return server;
            }
        }
        panic!("Keycloak does not start in {}", home.display());
    }

    /// Sends a request as it would come by way of `origin`.
    fn send(&self, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        http::send(&self.address, &http::request(method, url, headers, body))
    }

    fn token(&self, origin: &str) -> String {
        let mut tokens = self.tokens.lock().unwrap();
        if let Some(token) = tokens.get(origin) {
            return token.clone();
        }
        let (client, secret) = ADMINISTRATOR;
        let body = format!("grant_type=client_credentials&client_id={client}&client_secret={secret}");
        let url = format!("{origin}/realms/master/protocol/openid-connect/token");
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let answer = self.send("POST", &url, &form, body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let token = answer.json()["access_token"].as_str().unwrap().to_owned();
        tokens.insert(origin.to_owned(), token.clone());
        token
    }

    fn administer(&self, method: &str, origin: &str, path: &str, body: &Value) -> Response {
        let bearer = format!("Bearer {}", self.token(origin));
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &format!("{origin}{path}"), &headers, body.as_bytes())
    }

    /// Until it is dropped, no realm comes or goes. A test that failed meanwhile has changed nothing here.
    fn alone(&self) -> MutexGuard<'_, ()> {
        self.realms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lengthen_tokens(&self) {
        let origin = format!("http://{}", self.address);
        let longer = json!({"accessTokenLifespan": TOKEN_LIFETIME});
        let answer = self.administer("PUT", &origin, "/admin/realms/master", &longer);
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
}

/// A home of its own around what is installed: nothing is written there.
fn lay_out(installed: &Path, home: &Path) {
    for part in ["lib", "conf", "providers", "themes"] {
        std::os::unix::fs::symlink(installed.join(part), home.join(part)).unwrap();
    }
    std::fs::create_dir_all(home.join("data/h2")).unwrap();
    let database = "data/h2/keycloakdb.mv.db";
    std::fs::copy(installed.join(database), home.join(database)).unwrap();
    std::fs::write(home.join("authority.pem"), trusted::authority()).unwrap();
}

/// What `bin/kc.sh start --optimized` runs, with a heap that is bounded and a start that is short.
fn command(home: &Path, address: &str) -> Command {
    let java = std::env::var_os("JAVA_HOME").map_or_else(|| "java".into(), |home| Path::new(&home).join("bin/java"));
    let (host, port) = address.split_once(':').unwrap();
    let mut command = Command::new(java);
    command.args(["-Xms64m", "-Xmx512m", "-XX:MaxMetaspaceSize=256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    command.args(
        ["java.util", "java.util.concurrent", "java.security"]
            .map(|it| format!("--add-opens=java.base/{it}=ALL-UNNAMED")),
    );
    command.args([
        format!("-Dkc.home.dir={}", home.display()),
        format!("-Djboss.server.config.dir={}", home.join("conf").display()),
        format!("-Djava.io.tmpdir={}", home.display()),
        "-Djava.util.logging.manager=org.jboss.logmanager.LogManager".to_owned(),
    ]);
    command.arg("-cp").arg(home.join("lib/quarkus-run.jar")).arg("io.quarkus.bootstrap.runner.QuarkusEntryPoint");
    command.args(["start", "--optimized", "--cache=local", "--http-enabled=true", "--hostname-strict=false"]);
    command.args([
        format!("--http-host={host}"),
        format!("--http-port={port}"),
        format!("--truststore-paths={}", home.join("authority.pem").display()),
    ]);
    command
}

/// The key that every realm signs with, PKCS #8 in base64. A realm that is given none makes two of them, which takes Keycloak
/// longer than all else about it.
fn signing_key() -> &'static str {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        BASE64_STANDARD.encode(&*AsDer::<Pkcs8V1Der>::as_der(&pair).unwrap())
    })
}

/// `host:port` of Keycloak, for a hop in front of it.
pub(crate) fn address() -> &'static str {
    &server().address
}

impl Realm {
    /// A realm whose clients reach Keycloak through a hop: all its URLs, and what tokens are bound to, have the hop's
    /// `origin`. `settings` are members of Keycloak's `RealmRepresentation`, such as `accessTokenLifespan`.
    pub(crate) fn behind(origin: &str, settings: &Value) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let realm = Self { name, origin: origin.to_owned() };
        // Passwords of tests are nobody's secrets, and to hash them as if they were is a fifth of all that Keycloak does here.
        let hashed = "hashAlgorithm(pbkdf2-sha256) and hashIterations(1)";
        let mut wanted = json!({"realm": realm.name, "enabled": true, "sslRequired": "none", "passwordPolicy": hashed,
            "privateKey": signing_key(),
            "clients": [{"clientId": MANAGER.0, "secret": MANAGER.1, "serviceAccountsEnabled": true,
                "standardFlowEnabled": false}],
            "users": [{"username": format!("service-account-{}", MANAGER.0), "enabled": true,
                "serviceAccountClientId": MANAGER.0, "clientRoles": {"realm-management": ["manage-clients"]}}]});
        wanted.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let made = {
            let _alone = server().alone();
            realm.administer("POST", "/admin/realms", &wanted)
        };
        assert_eq!(made.status, 201, "{}", made.text());
        // What an administrator may do in a realm is said by tokens that are younger than it.
        server().tokens.lock().unwrap().remove(origin);
        realm
    }

    /// The issuer identifier.
    pub(crate) fn issuer(&self) -> String {
        format!("{}/realms/{}", self.origin, self.name)
    }

    fn administer(&self, method: &str, path: &str, body: &Value) -> Response {
        server().administer(method, &self.origin, path, body)
    }

    /// A request to the admin API below this realm, which must succeed; null is no body.
    pub(crate) fn admin(&self, method: &str, path: &str, body: &Value) -> Response {
        let answer = self.administer(method, &format!("/admin/realms/{}{path}", self.name), body);
        assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.text());
        answer
    }

    /// An initial access token for so many registrations, good for an hour.
    pub(crate) fn initial_access_token(&self, registrations: u32) -> String {
        let wanted = json!({"count": registrations, "expiration": 3600});
        self.admin("POST", "/clients-initial-access", &wanted).json()["token"].as_str().unwrap().to_owned()
    }

    /// A group (which is made) of these persons.
    pub(crate) fn join(&self, group: &str, persons: &[&str]) {
        let made = self.admin("POST", "/groups", &json!({"name": group}));
        let id = made.header("location").and_then(|at| at.rsplit('/').next()).unwrap();
        for person in persons {
            self.admin("PUT", &format!("/users/{}/groups/{id}", self.id_of(person)), &Value::Null);
        }
    }

    fn id_of(&self, person: &str) -> String {
        let found = self.admin("GET", &format!("/users?exact=true&username={person}"), &Value::Null).json();
        found[0]["id"].as_str().unwrap().to_owned()
    }

    /// A person who can log in, in these groups (which are made).
    pub(crate) fn user(&self, name: &str, password: &str, groups: &[&str]) {
        for group in groups {
            self.admin("POST", "/groups", &json!({"name": group}));
        }
        let user = json!({"username": name, "enabled": true, "email": format!("{name}@example.com"),
            "emailVerified": true, "firstName": name, "lastName": "Example", "groups": groups,
            "credentials": [{"type": "password", "value": password, "temporary": false}]});
        self.admin("POST", "/users", &user);
    }

    /// What makes tokens for a resource: a client that stands for it ([`Self::stand_for`]), and a scope of every client that
    /// puts that into the audience, with the groups of whom a token is about.
    pub(crate) fn resource(&self, resource: &str) {
        self.stand_for(resource);
        self.default_scope("mcp", &[audience_of(resource), groups()]);
    }

    /// A client that stands for a resource, which Keycloak finds by `resource_url` (RFC 8707). Its id is the resource, since
    /// that is what an audience has.
    pub(crate) fn stand_for(&self, resource: &str) {
        let client =
            json!({"clientId": resource, "standardFlowEnabled": false, "attributes": {RESOURCE_URL: resource}});
        self.admin("POST", "/clients", &client);
    }

    /// A client scope with these mappers, which every client has that is made from now on.
    pub(crate) fn default_scope(&self, name: &str, mappers: &[(&str, Value)]) {
        let id = self.scope(name, mappers);
        self.admin("PUT", &format!("/default-default-client-scopes/{id}"), &Value::Null);
    }

    /// A client scope that every client may ask for that is made from now on. With `role`, only tokens of persons who have
    /// that role (which is made) carry it.
    pub(crate) fn optional_scope(&self, name: &str, mappers: &[(&str, Value)], role: Option<&str>) {
        let id = self.scope(name, mappers);
        self.admin("PUT", &format!("/default-optional-client-scopes/{id}"), &Value::Null);
        if let Some(role) = role {
            self.admin("POST", "/roles", &json!({"name": role}));
            self.admin("POST", &format!("/client-scopes/{id}/scope-mappings/realm"), &self.role(role));
        }
    }

    fn scope(&self, name: &str, mappers: &[(&str, Value)]) -> String {
        let mappers = mappers.iter().map(|(kind, config)| {
            json!({"name": kind, "protocol": "openid-connect", "protocolMapper": kind, "config": config})
        });
        let scope = json!({"name": name, "protocol": "openid-connect",
            "attributes": {"include.in.token.scope": "true"}, "protocolMappers": mappers.collect::<Vec<_>>()});
        let made = self.admin("POST", "/client-scopes", &scope);
        made.header("location").and_then(|at| at.rsplit('/').next()).unwrap().to_owned()
    }

    /// Gives a person a role.
    pub(crate) fn has_role(&self, person: &str, role: &str) {
        self.admin("POST", &format!("/users/{}/role-mappings/realm", self.id_of(person)), &self.role(role));
    }

    fn role(&self, role: &str) -> Value {
        json!([self.admin("GET", &format!("/roles/{role}"), &Value::Null).json()])
    }

    /// Lets clients on this machine register without an initial access token: the policy *Trusted Hosts*.
    pub(crate) fn anybody_here_may_register(&self) {
        let policy = "org.keycloak.services.clientregistration.policy.ClientRegistrationPolicy";
        let policies = self.admin("GET", &format!("/components?type={policy}"), &Value::Null).json();
        let is_it = |one: &&Value| one["providerId"] == "trusted-hosts" && one["subType"] == "anonymous";
        let mut trusted = policies.as_array().unwrap().iter().find(is_it).expect("the policy").clone();
        trusted["config"]["trusted-hosts"] = json!(["127.0.0.1"]);
        self.admin("PUT", &format!("/components/{}", trusted["id"].as_str().unwrap()), &trusted);
    }

    /// Every client as the admin API has it, beside Keycloak's own, [`MANAGER`], and those that stand for resources.
    pub(crate) fn clients(&self) -> Vec<Value> {
        let all = self.admin("GET", "/clients", &Value::Null).json();
        let is_own = |client: &&Value| {
            let id = client["clientId"].as_str().unwrap();
            ITS_OWN.contains(&id) || id == MANAGER.0 || client["attributes"].get(RESOURCE_URL).is_some()
        };
        all.as_array().unwrap().iter().filter(|client| !is_own(client)).cloned().collect()
    }

    /// A client as the admin API has it.
    pub(crate) fn client(&self, client: &str) -> Value {
        self.clients().into_iter().find(|found| found["clientId"] == client).unwrap_or_else(|| panic!("no {client}"))
    }

    /// Where the admin API has a client.
    fn place_of(&self, client: &str) -> String {
        format!("/clients/{}", self.client(client)["id"].as_str().unwrap())
    }

    /// Changes a client behind the back of whoever registered it.
    pub(crate) fn change_client(&self, client: &str, members: &Value) {
        self.admin("PUT", &self.place_of(client), members);
    }

    /// Deletes a client behind the back of whoever registered it.
    pub(crate) fn delete_client(&self, client: &str) {
        self.admin("DELETE", &self.place_of(client), &Value::Null);
    }

    /// Makes another registration access token for a client: the one before is dead.
    pub(crate) fn renew_registration_token(&self, client: &str) {
        self.admin("POST", &format!("{}/registration-access-token", self.place_of(client)), &Value::Null);
    }
}

/// The mapper that puts the client with this id into the audience.
pub(crate) fn audience_of(client: &str) -> (&'static str, Value) {
    ("oidc-audience-mapper", json!({"included.client.audience": client, "access.token.claim": "true"}))
}

/// The mapper that puts a person's groups into `groups`.
pub(crate) fn groups() -> (&'static str, Value) {
    let config = json!({"claim.name": "groups", "full.path": "false", "access.token.claim": "true"});
    ("oidc-group-membership-mapper", config)
}

impl Drop for Realm {
    fn drop(&mut self) {
        // A test that failed leaves its realm: what broke it may break this too.
        if !std::thread::panicking() {
            let _alone = server().alone();
            self.admin("DELETE", "", &Value::Null);
        }
    }
}
