//! An authorization server that gives tokens by assertions of its own users alone (RFC 7523 section 2.1), to one client, and is
//! strict about all of it: what no server that runs without more gives.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::fault::Hop;
use super::token::Key;
use super::{now, runtime};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

struct State {
    issuer: String,
    /// With which it signs what it gives, to its users and for resources.
    key: Key,
    client: (String, Value),
    used: Mutex<BTreeSet<String>>,
    /// What it gave, and what it refused.
    answers: Mutex<Vec<Result<Value, String>>>,
}

/// The running server. Dropping it ends it.
pub(crate) struct Strict {
    state: Arc<State>,
    stop: CancellationToken,
}

impl Strict {
    /// Behind this hop, with one client, of this id and public key.
    pub(crate) fn start(hop: &Hop, client: &str, public: Value) -> Self {
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        hop.lead_to(&listener.local_addr().unwrap().to_string());
        let state = Arc::new(State {
            issuer: hop.url(),
            key: Key::es256("key-1"),
            client: (client.to_owned(), public),
            used: Mutex::default(),
            answers: Mutex::default(),
        });
        let stop = CancellationToken::new();
        runtime().spawn(stop.clone().run_until_cancelled_owned(accept(listener, state.clone(), stop.clone())));
        Self { state, stop }
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.state.issuer
    }

    pub(crate) fn jwks_uri(&self) -> String {
        format!("{}/jwks", self.state.issuer)
    }

    /// A token of one of its users.
    pub(crate) fn token_for(&self, user: &str, audience: &str) -> String {
        self.state.signed(user, audience)
    }

    pub(crate) fn answers(&self) -> Vec<Result<Value, String>> {
        self.state.answers.lock().unwrap().clone()
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: tokio::net::TcpListener, state: Arc<State>, stop: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        let answer = hyper::service::service_fn(move |request| handle(state.clone(), request));
        let serve = async move {
            drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await);
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve));
    }
}

async fn handle(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (status, answer) = match path.as_str() {
        "/.well-known/oauth-authorization-server" => (200, state.metadata()),
        "/jwks" => (200, json!({"keys": [state.key.jwk()]})),
        "/token" => state.token(&body),
        _ => (404, json!({})),
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    Ok(response)
}

impl State {
    fn metadata(&self) -> Value {
        json!({"issuer": self.issuer, "jwks_uri": format!("{}/jwks", self.issuer),
            "token_endpoint": format!("{}/token", self.issuer), "response_types_supported": [],
            "grant_types_supported": [GRANT], "token_endpoint_auth_methods_supported": ["private_key_jwt"]})
    }

    fn signed(&self, user: &str, audience: &str) -> String {
        let claims = json!({"iss": self.issuer, "sub": user, "aud": audience, "client_id": self.client.0, "iat": now(),
            "exp": now() + 300, "jti": uuid::Uuid::now_v7().to_string()});
        self.key.sign(&json!({"alg": self.key.alg(), "kid": self.key.kid(), "typ": "at+jwt"}), &claims)
    }

    fn token(&self, body: &[u8]) -> (u16, Value) {
        let given = self.give(body);
        self.answers.lock().unwrap().push(given.clone());
        match given {
            Ok(claims) => {
                let text = |name: &str| claims[name].as_str().unwrap().to_owned();
                let token = self.signed(&text("sub"), &text("resource"));
                (200, json!({"access_token": token, "token_type": "Bearer", "expires_in": 300}))
            }
            Err(_) => (400, json!({"error": "invalid_grant"})),
        }
    }

    /// For whom, and for which resource; or what is wrong.
    fn give(&self, body: &[u8]) -> Result<Value, String> {
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(body).into_owned().collect();
        let form: BTreeMap<&str, &str> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if form.len() != pairs.len() {
            return Err("a parameter twice (RFC 6749 section 3.2)".to_owned());
        }
        let known = ["assertion", "client_assertion", "client_assertion_type", "client_id", "grant_type", "resource"];
        if !form.keys().copied().eq(known) {
            return Err(format!("not what is to be said: {:?}", form.keys()));
        }
        if (form["grant_type"], form["client_assertion_type"]) != (GRANT, ASSERTION) {
            return Err("another grant, or another assertion".to_owned());
        }
        self.is_client(form["client_assertion"], form["client_id"])?;
        let user = read(form["assertion"], &self.key.jwk(), &self.issuer, &self.client.0)?;
        Ok(json!({"sub": user["sub"], "resource": form["resource"]}))
    }

    /// RFC 7523 section 3, and draft-ietf-oauth-rfc7523bis section 4.
    fn is_client(&self, assertion: &str, id: &str) -> Result<(), String> {
        let claims = read(assertion, &self.client.1, &self.client.0, &self.issuer)?;
        let header = decode_header(assertion).map_err(|error| error.to_string())?;
        let (iat, exp) = (claims["iat"].as_u64().unwrap_or(0), claims["exp"].as_u64().unwrap_or(u64::MAX));
        let jti = claims["jti"].as_str().unwrap_or_default().to_owned();
        if header.typ.as_deref() != Some("client-authentication+jwt") || id != self.client.0 || claims["sub"] != id {
            return Err(format!("not the client: {header:?} {id} {claims}"));
        }
        if exp - iat > 300 || jti.is_empty() || !self.used.lock().unwrap().insert(jti) {
            return Err("too long, or used before".to_owned());
        }
        Ok(())
    }
}

/// The claims of a JWT with this key, issuer and audience.
fn read(token: &str, key: &Value, issuer: &str, audience: &str) -> Result<Value, String> {
    let key: Jwk = serde_json::from_value(key.clone()).map_err(|error| error.to_string())?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.leeway = 0;
    validation.set_audience(&[audience]);
    validation.set_issuer(&[issuer]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    let key = DecodingKey::from_jwk(&key).map_err(|error| error.to_string())?;
    decode::<Value>(token, &key, &validation).map(|read| read.claims).map_err(|error| error.to_string())
}
