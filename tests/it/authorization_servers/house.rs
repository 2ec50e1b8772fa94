//! Both servers behind one face, each behind a hop: what is said here holds for any server that speaks the standards.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::fault::Hop;
use crate::support::http::{self, Response};
use crate::support::keycloak::{self, Realm};
use crate::support::now;
use crate::support::provider::Provider;
use crate::support::token::Key;

/// The resource of these tests.
pub(crate) const RESOURCE: &str = "https://mcp.example.com/team-a/github";

pub(crate) enum Server {
    Keycloak(Realm),
    Provider(Box<Provider>),
}

/// An authorization server behind a hop.
pub(crate) struct House {
    pub(crate) hop: Hop,
    pub(crate) server: Server,
}

impl House {
    pub(crate) fn keycloak() -> Self {
        let hop = Hop::start();
        hop.lead_to(keycloak::address());
        let realm = Realm::behind(&hop.url(), &json!({"accessTokenLifespan": 600}));
        Self { hop, server: Server::Keycloak(realm) }
    }

    /// With initial access tokens, as Keycloak wants them, and what `more` sets.
    pub(crate) fn provider(more: &Value) -> Self {
        let hop = Hop::start();
        let mut options = json!({"issuer": hop.url(), "initialAccessToken": true, "resources": [RESOURCE],
            "groups": {"ana": ["engineers"]}});
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let provider = Provider::start(&options);
        hop.lead_to(provider.address());
        Self { hop, server: Server::Provider(Box::new(provider)) }
    }

    pub(crate) fn both() -> [Self; 2] {
        [Self::provider(&json!({})), Self::keycloak()]
    }

    pub(crate) fn is_keycloak(&self) -> bool {
        matches!(self.server, Server::Keycloak(_))
    }

    pub(crate) fn realm(&self) -> &Realm {
        match &self.server {
            Server::Keycloak(realm) => realm,
            Server::Provider(_) => panic!("no Keycloak"),
        }
    }

    pub(crate) fn of_npm(&self) -> &Provider {
        match &self.server {
            Server::Provider(provider) => provider,
            Server::Keycloak(_) => panic!("Keycloak"),
        }
    }

    pub(crate) fn issuer(&self) -> String {
        match &self.server {
            Server::Keycloak(realm) => realm.issuer(),
            Server::Provider(provider) => provider.issuer().to_owned(),
        }
    }

    /// Its metadata, from where RFC 8414 section 3.1 puts it.
    pub(crate) fn metadata(&self) -> Value {
        let issuer = self.issuer();
        let path = issuer.strip_prefix(&self.hop.url()).unwrap();
        let answer = http::get(&format!("{}/.well-known/oauth-authorization-server{path}", self.hop.url()), &[]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    pub(crate) fn endpoint(&self, name: &str) -> String {
        self.metadata()[name].as_str().unwrap_or_else(|| panic!("no {name}")).to_owned()
    }

    pub(crate) fn initial_access_token(&self) -> String {
        match &self.server {
            Server::Keycloak(realm) => realm.initial_access_token(10),
            Server::Provider(provider) => provider.initial_access_token(),
        }
    }

    /// RFC 7591 section 3.1, with an initial access token if there is one.
    pub(crate) fn register_with(&self, token: Option<&str>, metadata: &Value) -> Response {
        request("POST", &self.endpoint("registration_endpoint"), token, Some(metadata))
    }

    /// A client with this metadata.
    pub(crate) fn register(&self, metadata: &Value) -> Client {
        let token = self.initial_access_token();
        let answer = self.register_with(Some(&token), metadata);
        assert_eq!(answer.status, 201, "{}", answer.text());
        Client::parse(&answer.json())
    }

    /// The ids of the clients that it has.
    pub(crate) fn clients(&self) -> Vec<String> {
        let (all, id) = match &self.server {
            Server::Keycloak(realm) => (realm.clients(), "clientId"),
            Server::Provider(provider) => (provider.clients(), "client_id"),
        };
        all.iter().map(|client| client[id].as_str().unwrap().to_owned()).collect()
    }

    /// Deletes a client behind the back of whoever registered it.
    pub(crate) fn delete_client(&self, client: &str) {
        match &self.server {
            Server::Keycloak(realm) => realm.delete_client(client),
            Server::Provider(provider) => provider.delete_client(client),
        }
    }

    /// Ends the registration access token of a client: at Keycloak, its administrator makes another.
    pub(crate) fn kill_registration_token(&self, client: &str) {
        match &self.server {
            Server::Keycloak(realm) => realm.renew_registration_token(client),
            Server::Provider(provider) => provider.kill_registration_token(client),
        }
    }

    /// Whether it knows the client by this name.
    pub(crate) fn describes(&self, id: &str, name: &str) -> bool {
        let (all, id_member, name_member) = match &self.server {
            Server::Keycloak(realm) => (realm.clients(), "clientId", "name"),
            Server::Provider(provider) => (provider.clients(), "client_id", "client_name"),
        };
        all.iter().any(|client| client[id_member] == id && client[name_member] == name)
    }

    /// Asks the token endpoint.
    pub(crate) fn token(&self, parameters: &[(&str, &str)]) -> Response {
        form(&self.endpoint("token_endpoint"), &[], parameters)
    }

    /// Asks for a token with a client's secret (RFC 6749 section 2.3.1).
    pub(crate) fn token_with_secret(&self, client: &Client, parameters: &[(&str, &str)]) -> Response {
        let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{}:{}", encode(&client.id), encode(client.secret.as_deref().unwrap()));
        let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        let parameters = [&[("grant_type", "client_credentials")], parameters].concat();
        form(&self.endpoint("token_endpoint"), &[("Authorization", &basic)], &parameters)
    }

    /// A client assertion (RFC 7523 section 3) for the issuer, as draft-ietf-oauth-rfc7523bis wants it.
    pub(crate) fn assertion(&self, key: &Key, client: &str) -> String {
        let claims = json!({"iss": client, "sub": client, "aud": self.issuer(), "iat": now(), "exp": now() + 60,
            "jti": uuid::Uuid::now_v7().to_string()});
        key.sign(&json!({"alg": key.alg(), "kid": key.kid(), "typ": "JWT"}), &claims)
    }
}

/// What a registration answers that matters.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) id: String,
    pub(crate) secret: Option<String>,
    pub(crate) uri: String,
    pub(crate) token: String,
    pub(crate) metadata: Value,
}

impl Client {
    pub(crate) fn parse(answer: &Value) -> Self {
        let text = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer}")).to_owned();
        Self {
            id: text("client_id"),
            secret: answer["client_secret"].as_str().map(str::to_owned),
            uri: text("registration_client_uri"),
            token: text("registration_access_token"),
            metadata: answer.clone(),
        }
    }

    /// RFC 7592 section 2.1.
    pub(crate) fn read(&self) -> Response {
        request("GET", &self.uri, Some(&self.token), None)
    }

    /// RFC 7592 section 2.2.
    pub(crate) fn update(&self, metadata: &Value) -> Response {
        request("PUT", &self.uri, Some(&self.token), Some(metadata))
    }

    /// RFC 7592 section 2.3.
    pub(crate) fn delete(&self) -> Response {
        request("DELETE", &self.uri, Some(&self.token), None)
    }
}

/// A service with a secret.
pub(crate) fn service() -> Value {
    json!({"client_name": "Reporting agent", "redirect_uris": [], "grant_types": ["client_credentials"],
        "response_types": [], "token_endpoint_auth_method": "client_secret_basic"})
}

/// A service with a key.
pub(crate) fn service_with(key: &Key) -> Value {
    let mut metadata = service();
    metadata["token_endpoint_auth_method"] = "private_key_jwt".into();
    metadata["jwks"] = json!({"keys": [key.jwk()]});
    metadata
}

/// `metadata` as an update of `client` (RFC 7592 section 2.2): its id, and nothing that only the server says.
pub(crate) fn update_of(client: &Client, metadata: &Value) -> Value {
    let mut body = metadata.clone();
    body["client_id"] = client.id.clone().into();
    if let Some(secret) = &client.secret {
        body["client_secret"] = secret.clone().into();
    }
    body
}

/// Sends JSON with a bearer token.
pub(crate) fn request(method: &str, url: &str, token: Option<&str>, body: Option<&Value>) -> Response {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("Accept", "application/json")];
    headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
    headers.extend(body.map(|_| ("Content-Type", "application/json")));
    let body = body.map(Value::to_string).unwrap_or_default();
    http::send(http::split(url).0, &http::request(method, url, &headers, body.as_bytes()))
}

/// Posts a form.
pub(crate) fn form(url: &str, headers: &[(&str, &str)], parameters: &[(&str, &str)]) -> Response {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    let own = [("Accept", "application/json"), ("Content-Type", "application/x-www-form-urlencoded")];
    http::send(http::split(url).0, &http::request("POST", url, &[&own[..], headers].concat(), body.as_bytes()))
}

/// The claims of a token that nobody verified.
pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap_or_else(|| panic!("no JWT: {token}"));
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The error code of an OAuth error, with its status.
pub(crate) fn error(answer: &Response) -> (u16, String) {
    (answer.status, answer.json()["error"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned())
}
