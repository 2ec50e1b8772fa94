//! An authorization server on loopback that publishes metadata and keys, mints RFC 9068 tokens, and fails on demand.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, LOCATION};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::runtime;
use super::token::Key;

/// The documents that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    Metadata,
    Jwks,
}

/// How a document fails.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answers with this status and no document.
    Status(u16),
    /// Answers 302 to this URL.
    Redirect(String),
    /// Answers after this long.
    Slow(Duration),
    /// Answers with a JSON object of at least so many bytes.
    Huge(usize),
    /// Answers 200 with this body.
    Body(String),
}

struct State {
    keys: Vec<Arc<Key>>,
    /// Published instead of the keys.
    jwks: Option<Value>,
    metadata: Value,
    faults: Vec<(Document, Fault)>,
    hits: Vec<Document>,
}

/// The running issuer; dropping it ends it.
pub(crate) struct Issuer {
    url: String,
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
}

impl Issuer {
    /// Starts an issuer with one ES256 key, `key-1`.
    pub(crate) fn start() -> Self {
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let metadata = json!({
            "issuer": url,
            "jwks_uri": format!("{url}/jwks"),
            "authorization_endpoint": format!("{url}/authorize"),
            "token_endpoint": format!("{url}/token"),
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
        });
        let keys = vec![Arc::new(Key::es256("key-1"))];
        let state = State { keys, jwks: None, metadata, faults: Vec::new(), hits: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let stop = CancellationToken::new();
        runtime().spawn(stop.clone().run_until_cancelled_owned(accept(listener, state.clone())));
        Self { url, state, stop }
    }

    /// The issuer identifier.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The key that tokens are signed with: the newest.
    pub(crate) fn key(&self) -> Arc<Key> {
        self.state.lock().unwrap().keys.last().unwrap().clone()
    }

    /// Publishes and signs with these keys from now on.
    pub(crate) fn set_keys(&self, keys: Vec<Arc<Key>>) {
        self.state.lock().unwrap().keys = keys;
    }

    /// Publishes this document as the JWKS, whatever the keys are.
    pub(crate) fn publish(&self, jwks: Value) {
        self.state.lock().unwrap().jwks = Some(jwks);
    }

    /// Replaces one member of the metadata.
    pub(crate) fn set_metadata(&self, member: &str, value: Value) {
        self.state.lock().unwrap().metadata[member] = value;
    }

    /// Makes `document` fail until [`Self::heal`].
    pub(crate) fn fail(&self, document: Document, fault: Fault) {
        self.heal(document);
        self.state.lock().unwrap().faults.push((document, fault));
    }

    pub(crate) fn heal(&self, document: Document) {
        self.state.lock().unwrap().faults.retain(|(d, _)| *d != document);
    }

    /// How often `document` was asked for.
    pub(crate) fn hits(&self, document: Document) -> usize {
        self.state.lock().unwrap().hits.iter().filter(|d| **d == document).count()
    }

    /// Claims of a good token, valid for five minutes; change what a test is about.
    pub(crate) fn claims(&self, subject: &str, audience: &str) -> Value {
        let now = super::now();
        json!({
            "iss": self.url,
            "sub": subject,
            "aud": audience,
            "client_id": "testbed",
            "iat": now,
            "exp": now + 300,
            "jti": uuid::Uuid::now_v7().to_string(),
        })
    }

    /// A good token for `subject`, with `scope` and `groups`.
    pub(crate) fn token(&self, subject: &str, audience: &str, scope: &str, groups: &[&str]) -> String {
        let mut claims = self.claims(subject, audience);
        claims["scope"] = scope.into();
        claims["groups"] = groups.into();
        let key = self.key();
        key.sign(&key.header(), &claims)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: tokio::net::TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        let answer = hyper::service::service_fn(move |request| handle(state.clone(), request));
        tokio::spawn(async move {
            drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await);
        });
    }
}

async fn handle(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let document = match request.uri().path() {
        "/.well-known/openid-configuration" | "/.well-known/oauth-authorization-server" => Document::Metadata,
        "/jwks" => Document::Jwks,
        _ => return Ok(respond(StatusCode::NOT_FOUND, String::new())),
    };
    let (good, fault) = {
        let mut state = state.lock().unwrap();
        state.hits.push(document);
        let good = match document {
            Document::Metadata => state.metadata.clone(),
            Document::Jwks => match &state.jwks {
                Some(jwks) => jwks.clone(),
                None => json!({"keys": state.keys.iter().map(|k| k.jwk()).collect::<Vec<_>>()}),
            },
        };
        (good, state.faults.iter().find(|(d, _)| *d == document).map(|(_, f)| f.clone()))
    };
    Ok(match fault {
        None => respond(StatusCode::OK, good.to_string()),
        Some(Fault::Status(status)) => respond(StatusCode::from_u16(status).unwrap(), String::new()),
        Some(Fault::Redirect(to)) => {
            let mut response = respond(StatusCode::FOUND, String::new());
            response.headers_mut().insert(LOCATION, to.parse().unwrap());
            response
        }
        Some(Fault::Slow(pause)) => {
            tokio::time::sleep(pause).await;
            respond(StatusCode::OK, good.to_string())
        }
        Some(Fault::Huge(bytes)) => respond(StatusCode::OK, json!({"padding": "x".repeat(bytes)}).to_string()),
        Some(Fault::Body(body)) => respond(StatusCode::OK, body),
    })
}

fn respond(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().unwrap());
    response
}
