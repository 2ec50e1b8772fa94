//! A protected resource: an MCP server behind a real check of access tokens, with metadata (RFC 9728) and challenges
//! (RFC 6750 section 3). Whatever lies below `/mcp` is a resource of its own, so that one server stands for many.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::upstream::{Sdk, Upstream};
use super::{http, runtime};

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// A call that came, and how it was judged.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) tool: String,
    pub(crate) status: u16,
    /// As it was sent; empty if there was none.
    pub(crate) token: String,
    /// The claims of a token that was good.
    pub(crate) claims: Value,
}

/// What it asks for, which a test may change at any time.
#[derive(Default)]
pub(crate) struct Rules {
    /// The issuers that its metadata names.
    pub(crate) named: Vec<String>,
    /// Whether it serves its metadata.
    pub(crate) is_silent: bool,
    /// The scope that a call of a tool needs.
    pub(crate) scopes: BTreeMap<String, String>,
    /// Tokens that it does not take any more.
    pub(crate) rejected: BTreeSet<String>,
    /// It takes none at all.
    pub(crate) rejects_all: bool,
    /// It repeats the token that it does not take.
    pub(crate) repeats: bool,
}

struct State {
    address: SocketAddr,
    behind: String,
    issuer: String,
    keys: Vec<Jwk>,
    rules: Mutex<Rules>,
    calls: Mutex<Vec<Call>>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// The running server. Dropping it ends it.
pub(crate) struct ResourceServer {
    state: Arc<State>,
    stop: CancellationToken,
    _upstream: Upstream,
}

impl ResourceServer {
    /// Believes tokens of this issuer, by the keys at `jwks_uri`.
    pub(crate) fn start(issuer: &str, jwks_uri: &str) -> Self {
        let upstream = Upstream::start_with(Sdk::Rmcp, &json!({"json": true}));
        let keys: JwkSet = serde_json::from_value(http::get(jwks_uri, &[]).json()).unwrap();
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let rules = Rules { named: vec![issuer.to_owned()], ..Rules::default() };
        let _guard = runtime().enter();
        let state = Arc::new(State {
            address: listener.local_addr().unwrap(),
            behind: upstream.url().to_owned(),
            issuer: issuer.to_owned(),
            keys: keys.keys,
            rules: Mutex::new(rules),
            calls: Mutex::default(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        });
        let stop = CancellationToken::new();
        runtime().spawn(stop.clone().run_until_cancelled_owned(accept(listener, state.clone(), stop.clone())));
        Self { state, stop, _upstream: upstream }
    }

    /// The URL of its MCP endpoint, which is its resource identifier.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.state.address)
    }

    pub(crate) fn rules(&self) -> MutexGuard<'_, Rules> {
        self.state.rules.lock().unwrap()
    }

    /// Calls of tools so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state.calls.lock().unwrap().clone()
    }
}

impl Drop for ResourceServer {
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

fn answer(status: u16, challenge: Option<String>, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    if let Some(challenge) = challenge {
        response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
    }
    response
}

async fn handle(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if let Some(of) = path.strip_prefix(WELL_KNOWN) {
        return Ok(state.metadata(of));
    }
    let bearer = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let token = bearer.and_then(|bearer| bearer.strip_prefix("Bearer ").map(str::to_owned)).unwrap_or_default();
    let (mut parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let tool = message["params"]["name"].as_str().filter(|_| message["method"] == "tools/call").map(str::to_owned);
    let judged = state.judge(&path, &token, tool.as_deref());
    if let Some(tool) = tool {
        let (status, claims) = match &judged {
            Ok(claims) => (200, claims.clone()),
            Err((status, _)) => (*status, Value::Null),
        };
        state.calls.lock().unwrap().push(Call { tool, status, token, claims });
    }
    if let Err((status, challenge)) = judged {
        return Ok(answer(status, Some(challenge), &json!({"error": "refused"})));
    }
    parts.headers.remove("authorization");
    parts.headers.remove("host");
    parts.uri = state.behind.parse().unwrap();
    parts.version = hyper::Version::HTTP_11;
    let response = state.client.request(Request::from_parts(parts, Full::new(body))).await;
    let Ok(response) = response else { return Ok(answer(502, None, &json!({}))) };
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(Response::from_parts(parts, Full::new(body)))
}

impl State {
    fn metadata(&self, path: &str) -> Response<Full<Bytes>> {
        let rules = self.rules.lock().unwrap();
        if rules.is_silent {
            return answer(503, None, &json!({}));
        }
        let resource = format!("http://{}{path}", self.address);
        answer(200, None, &json!({"resource": resource, "authorization_servers": rules.named}))
    }

    /// The claims of a token that is good for this; else a status and a challenge.
    fn judge(&self, path: &str, token: &str, tool: Option<&str>) -> Result<Value, (u16, String)> {
        let resource = format!("http://{}{path}", self.address);
        let metadata = format!("resource_metadata=\"http://{}{WELL_KNOWN}{path}\"", self.address);
        let invalid =
            |why: &str| (401, format!("Bearer error=\"invalid_token\", error_description=\"{why}\", {metadata}"));
        if token.is_empty() {
            return Err((401, format!("Bearer {metadata}")));
        }
        let rules = self.rules.lock().unwrap();
        let repeated = if rules.repeats { token } else { "refused" };
        if rules.rejects_all || rules.rejected.contains(token) {
            return Err(invalid(repeated));
        }
        let header = decode_header(token).map_err(|_| invalid("no JWT"))?;
        let key = self.keys.iter().find(|key| key.common.key_id == header.kid).ok_or_else(|| invalid("no key"))?;
        let mut validation = Validation::new(header.alg);
        if !matches!(header.alg, Algorithm::ES256 | Algorithm::RS256) {
            return Err(invalid("algorithm"));
        }
        validation.leeway = 0;
        validation.set_audience(&[&resource]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        let key = DecodingKey::from_jwk(key).map_err(|_| invalid("key"))?;
        let claims = decode::<Value>(token, &key, &validation).map_err(|error| invalid(&error.to_string()))?.claims;
        let has = |scope: &str| claims["scope"].as_str().is_some_and(|all| all.split(' ').any(|one| one == scope));
        match tool.and_then(|tool| rules.scopes.get(tool)).filter(|scope| !has(scope)) {
            Some(scope) => {
                let why = format!("error_description=\"{repeated}\", scope=\"{scope}\"");
                Err((403, format!("Bearer error=\"insufficient_scope\", {why}, {metadata}")))
            }
            None => Ok(claims),
        }
    }
}
