//! A gateway whose server believes one authorization server, as `docs/connect.md` says to set both up. It is shared by the
//! clients that log in there, each under a name of its own.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::{Value, json};

use super::table::{Refresh, Server, Way};
use crate::authorization_servers::house::House as AuthorizationServer;
use crate::authorization_servers::log_in::native;
use crate::authorization_servers::metadata_documents;
use crate::support::browser::Browser;
use crate::support::documents::Documents;
use crate::support::gateway::{Gateway, TRUST};
use crate::support::keycloak::{audience_of, groups};
use crate::support::login::{Login, REDIRECT};
use crate::support::upstream::{Sdk, Upstream};

/// What every call takes, what deleting takes besides, and what creating takes.
const SCOPES: [&str; 3] = ["mcp:use", "mcp:admin", "mcp:write"];

/// Who gets every scope, and who never gets `mcp:admin`.
const PERSONS: [&str; 2] = ["ana", "ben"];

pub(super) struct House {
    server: AuthorizationServer,
    gateway: Gateway,
    _upstream: Upstream,
    documents: Documents,
}

/// The house of all who ask while somebody lives in it.
pub(super) fn house(at: Server) -> Arc<House> {
    static HOUSES: [Mutex<Weak<House>>; 2] = [const { Mutex::new(Weak::new()) }; 2];
    let mut known = HOUSES[at as usize].lock().unwrap_or_else(PoisonError::into_inner);
    known.upgrade().unwrap_or_else(|| {
        let built = Arc::new(House::build(at));
        *known = Arc::downgrade(&built);
        built
    })
}

impl House {
    fn build(at: Server) -> Self {
        let server = match at {
            Server::Keycloak => AuthorizationServer::keycloak(),
            Server::OidcProvider => AuthorizationServer::provider(&json!({"initialAccessToken": false, "cimd": true,
                "fetchFromLoopback": true, "scopes": SCOPES, "resourcePrefix": "http://127.0.0.1:",
                "groups": {"ana": ["engineers"], "ben": ["engineers"]}, "withheld": {"ben": ["mcp:admin"]}})),
        };
        let upstream = Upstream::start(Sdk::Rmcp);
        let gateway = Gateway::start(&[
            ("local.yaml", TRUST),
            ("corp.yaml", &trust(&server)),
            ("items.yaml", &governed("items", upstream.url(), SCOPED)),
            ("open.yaml", &governed("open", upstream.url(), "")),
            ("policies.yaml", POLICIES),
        ]);
        let house = Self { server, gateway, _upstream: upstream, documents: Documents::start() };
        if at == Server::Keycloak {
            house.set_up_keycloak();
        }
        house
    }

    /// A client that registers itself has the scopes that it registers for, and no others: so what makes tokens for the
    /// server hangs on the scope that it asks every client for.
    fn set_up_keycloak(&self) {
        let (realm, [items, open]) = (self.server.realm(), [self.url(), self.open()]);
        realm.stand_for(&items);
        realm.optional_scope("mcp:use", &[audience_of(&items), groups()], None);
        realm.optional_scope("mcp:write", &[], None);
        realm.optional_scope("mcp:admin", &[], Some("mcp-admin"));
        realm.stand_for(&open);
        realm.default_scope("open", &[audience_of(&open)]);
        for person in PERSONS {
            realm.user(person, &password(person), &[]);
        }
        realm.join("engineers", &PERSONS);
        realm.has_role("ana", "mcp-admin");
        realm.anybody_here_may_register();
        metadata_documents::switch_on(&self.server, &[&items, &open]);
    }

    /// The governed server, which is the resource.
    pub(super) fn url(&self) -> String {
        self.gateway.url("items")
    }

    /// The same, where no call takes a scope.
    pub(super) fn open(&self) -> String {
        self.gateway.url("open")
    }

    /// What a client called `name` needs to log `person` in.
    pub(super) fn login(&self, way: Way, name: &str, person: &str, refresh: Refresh) -> Login {
        let mut login = Login::of(Browser::of(person, &password(person)));
        if refresh == Refresh::Never {
            login.grants = &["authorization_code"];
        }
        match way {
            Way::Dynamic => {}
            Way::Document => login.document = Some(self.publish(name, login.grants)),
            Way::Given => login.client = Some(self.register(name)),
        }
        login
    }

    /// A document of the client's own.
    fn publish(&self, name: &str, grants: &[&str]) -> String {
        let path = format!("/clients/{name}.json");
        let mut document = native();
        document["grant_types"] = json!(grants);
        document["client_id"] = self.documents.url(&path).into();
        document["client_uri"] = self.documents.url("/").into();
        self.documents.put(&path, &document);
        self.documents.url(&path)
    }

    /// What an administrator registers, and tells the client's owner.
    fn register(&self, name: &str) -> Value {
        let id = if self.server.is_keycloak() {
            let client = json!({"clientId": name, "publicClient": true, "redirectUris": [REDIRECT],
                "attributes": {"pkce.code.challenge.method": "S256"}});
            self.server.realm().admin("POST", "/clients", &client);
            name.to_owned()
        } else {
            let registered = self.server.register_with(None, &native());
            assert_eq!(registered.status, 201, "{}", registered.text());
            registered.json()["client_id"].as_str().unwrap().to_owned()
        };
        json!({"client_id": id, "token_endpoint_auth_method": "none"})
    }

    /// How many authorization requests of this client came to the server.
    pub(super) fn authorizations(&self, client: &str) -> usize {
        let id: String = url::form_urlencoded::byte_serialize(client.as_bytes()).collect();
        let endpoint = if self.server.is_keycloak() { "/protocol/openid-connect/auth?" } else { "/auth?" };
        let of_client = |path: &str| path.split(['?', '&']).any(|pair| pair == format!("client_id={id}"));
        self.server.hop.seen().iter().filter(|seen| seen.path.contains(endpoint) && of_client(&seen.path)).count()
    }
}

fn password(person: &str) -> String {
    format!("{person}'s password")
}

fn trust(server: &AuthorizationServer) -> String {
    let (profile, validation) = if server.is_keycloak() {
        ("Keycloak", "{typ: Compatible, algorithms: [RS256], groups: {claim: groups}}")
    } else {
        ("Generic", "{algorithms: [ES256], groups: {claim: groups}}")
    };
    format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpAuthorizationServer\nmetadata: {{name: corp}}\nspec:\n  \
         issuer: {}\n  profile: {profile}\n  validation: {validation}\n",
        server.issuer()
    )
}

/// It believes the gateway's own issuer too, and names it first: clients log in where persons can.
fn governed(name: &str, upstream: &str, scopes: &str) -> String {
    format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         upstream: {{url: {upstream:?}, credentials: {{none: {{}}}}}}\n  authorization:\n    servers: [local, corp]\n{scopes}"
    )
}

const SCOPED: &str = "    scopes:
      baseline: [mcp:use]
      tools:
      - {name: admin, match: [\"delete_*\"], scopes: [mcp:admin]}
      - {name: write, match: [\"create_*\"], scopes: [mcp:write]}
";

const POLICIES: &str = "\
apiVersion: portcullis.dev/v1alpha1
kind: McpPolicy
metadata: {name: persons, namespace: default}
spec:
  authority: corp
  targets: {servers: [items]}
  rules:
  - {name: engineers, effect: Allow, principals: [{groups: [engineers]}], tools: [{patterns: [\"*\"]}]}
---
apiVersion: portcullis.dev/v1alpha1
kind: McpPolicy
metadata: {name: anybody, namespace: default}
spec:
  authority: corp
  targets: {servers: [open]}
  rules:
  - {name: echo, effect: Allow, principals: [{any: true}], tools: [{names: [echo]}]}
";
