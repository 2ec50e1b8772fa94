//! An authorization server, an MCP server that takes its tokens, and a gateway between that and its callers.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use portcullis::oauth::client_key::ClientKey;
use serde_json::{Value, json};

use crate::authorization_servers::house::{House, service};
use crate::support::fault::Fired;
use crate::support::gateway::{Gateway, TRUST, policy};
use crate::support::http::{self, Response};
use crate::support::resource_server::ResourceServer;
use crate::support::wait::until;

/// How the gateway proves that it is its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Secret,
    Key,
}

/// A client that was registered by hand, as manifests have it.
pub(super) struct Known {
    pub(super) id: String,
    method: &'static str,
    /// What its Secret holds.
    values: Value,
}

impl Known {
    /// What nobody but its issuer may see.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        let values = ["client_secret", "private_key.pem"].into_iter().filter_map(|name| self.values[name].as_str());
        values.flat_map(str::lines).filter(|line| line.len() >= 12 && !line.starts_with("-----"))
    }
}

pub(super) struct Place {
    pub(super) house: House,
    pub(super) upstream: ResourceServer,
    pub(super) client: Known,
}

impl Place {
    /// npm oidc-provider or Keycloak, and a client there.
    pub(super) fn new(house: House, by: By) -> Self {
        let upstream = ResourceServer::start(&house.issuer(), &house.endpoint("jwks_uri"));
        if house.is_keycloak() {
            let audience = json!({"included.custom.audience": upstream.url(), "access.token.claim": "true"});
            house.realm().default_scope("upstream", &[("oidc-audience-mapper", audience)]);
        }
        let client = registered(&house, by);
        Self { house, upstream, client }
    }

    pub(super) fn npm(by: By, more: &Value) -> Self {
        let mut options = json!({"resourcePrefix": "http://127.0.0.1", "scopes": ["read", "write", "admin"]});
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Self::new(House::provider(&options), by)
    }

    pub(super) fn keycloak(by: By) -> Self {
        Self::new(House::keycloak(), by)
    }

    /// The trust anchor of the upstream's issuer, the client, and its credentials.
    pub(super) fn trust(&self) -> String {
        self.trust_with(&[])
    }

    /// The same, with these audiences that servers may accept.
    pub(super) fn trust_with(&self, audiences: &[&str]) -> String {
        let profile = if self.house.is_keycloak() { "Keycloak" } else { "Generic" };
        let Known { id, method, values } = &self.client;
        // A key lies where a controller would write it; a secret that somebody was given, elsewhere.
        let (name, reference) = match *method {
            "private_key_jwt" => ("gate-client", ""),
            _ => ("gate-given", ", clientSecretRef: {name: gate-given, key: client_secret}"),
        };
        let anchor = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpAuthorizationServer",
            "metadata": {"name": "vendor"}, "spec": {"issuer": self.house.issuer(), "profile": profile,
                "allowedAudiences": audiences,
                "validation": {"typ": "Compatible", "algorithms": ["RS256", "ES256"]}}});
        let secret = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": "default"}, "stringData": values});
        format!(
            "{anchor}\n---\n{secret}\n---\napiVersion: portcullis.dev/v1alpha1\nkind: McpClient\n\
             metadata: {{name: gate, namespace: default}}\nspec:\n  authorizationServer: vendor\n  method: Preregistered\n  \
             registration: {{clientId: {id:?}, tokenEndpointAuthMethod: {method}{reference}}}\n"
        )
    }

    /// A server `default/NAME` before `url`, with these members of `oauth` besides the client.
    pub(super) fn server(name: &str, url: &str, more: &Value, trusted: &str) -> String {
        let mut oauth = json!({"client": "gate"});
        oauth.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"upstream": {"url": url, "credentials": {"oauth": oauth}},
                "authorization": {"servers": [trusted]}, "audit": {"delivery": "BestEffort"}}})
        .to_string()
    }

    /// Manifests of a gateway that governs the upstream as `default/notes`.
    pub(super) fn manifests(&self, more: &Value) -> Manifests {
        vec![
            ("1-local.yaml", TRUST.to_owned()),
            ("2-vendor.yaml", self.trust()),
            ("3-server.yaml", Self::server("notes", &self.upstream.url(), more, "local")),
            ("4-policy.yaml", policy("all", "notes", ALL)),
        ]
    }

    /// A gateway that governs the upstream as `default/notes`.
    pub(super) fn gateway(&self, more: &Value) -> Gateway {
        start(&[], &self.manifests(more))
    }

    /// The same with these flags.
    pub(super) fn gateway_with(&self, more: &Value, flags: &[&str]) -> Gateway {
        let manifests = self.manifests(more);
        let manifests: Vec<(&str, &str)> = manifests.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let gateway = Gateway::start_with(&manifests, &[&["--trust-every", "1s"], flags].concat());
        gateway.wait_ready();
        gateway
    }

    /// At Keycloak: tokens of the client are for somebody else as well, until the mapper is deleted at the path that is returned.
    pub(super) fn add_audience(&self, audience: &str) -> String {
        let realm = self.house.realm();
        let clients = realm.clients();
        let own = clients.iter().find(|one| one["clientId"] == self.client.id.as_str()).unwrap();
        let mappers = format!("/clients/{}/protocol-mappers/models", own["id"].as_str().unwrap());
        let config = json!({"included.custom.audience": audience, "access.token.claim": "true"});
        let mapper = json!({"name": audience, "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
            "config": config});
        let made = realm.admin("POST", &mappers, &mapper);
        format!("{mappers}/{}", made.header("location").and_then(|at| at.rsplit('/').next()).unwrap())
    }

    /// How many tokens were asked for.
    pub(super) fn asked(&self) -> usize {
        self.house.hop.count("POST", self.token_path())
    }

    pub(super) fn token_path(&self) -> &'static str {
        if self.house.is_keycloak() { "/realms/" } else { "/token" }
    }

    /// What happens to requests for tokens from now on.
    pub(super) fn at_token_endpoint(&self, fault: crate::support::fault::Fault) -> Fired {
        self.house.hop.fault(crate::support::fault::Matching::every("POST", self.token_path()), fault)
    }
}

/// Whoever has a token may call everything.
pub(super) const ALL: &str =
    "  - {name: all, effect: Allow, principals: [{any: true}], tools: [{patterns: [\"*\"]}]}\n";

fn registered(house: &House, by: By) -> Known {
    match by {
        By::Secret => {
            let client = house.register(&service());
            let values = json!({"client_id": client.id, "client_secret": client.secret.unwrap()});
            Known { id: client.id, method: "client_secret_basic", values }
        }
        By::Key => {
            let pkcs8 = ClientKey::generate().unwrap();
            let mut metadata = service();
            metadata["token_endpoint_auth_method"] = "private_key_jwt".into();
            metadata["jwks"] = json!({"keys": [ClientKey::new(&pkcs8).unwrap().public_jwk()]});
            if !house.is_keycloak() {
                metadata["token_endpoint_auth_signing_alg"] = "ES256".into();
            }
            let client = house.register(&metadata);
            let text = BASE64_STANDARD.encode(pkcs8);
            let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
            let values = json!({"client_id": client.id, "private_key.pem": pem, "issuer": house.issuer()});
            Known { id: client.id, method: "private_key_jwt", values }
        }
    }
}

/// Files by name.
pub(super) type Manifests = Vec<(&'static str, String)>;

/// A gateway over these, in this environment, that asks upstreams each second whom they trust.
pub(super) fn start(environment: &[(&str, &str)], manifests: &Manifests) -> Gateway {
    let manifests: Vec<(&str, &str)> = manifests.iter().map(|(name, text)| (*name, text.as_str())).collect();
    Gateway::start_in(&[environment, &[("PORTCULLIS_TRUST_EVERY", "1s")]].concat(), &manifests)
}

/// Calls a tool as whoever has the token.
pub(super) fn call(gateway: &Gateway, server: &str, token: &str, tool: &str) -> Response {
    let params = json!({"name": tool, "arguments": {"text": "x"}});
    http::post_2026(&gateway.url(server), Some(token), "tools/call", &params)
}

/// Waits until a call of `echo` is answered with a result.
pub(super) fn wait_open(gateway: &Gateway, token: &str) {
    until("the server to take calls", || {
        let answer = call(gateway, "notes", token, "echo");
        (answer.status == 200 && answer.json()["result"].is_object()).then_some(())
    });
}

/// The word that a refused call was answered with.
pub(super) fn refusal(answer: &Response) -> String {
    assert!(answer.status >= 500, "{answer:?}");
    answer.json()["error"]["message"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}
