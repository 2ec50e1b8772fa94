//! An issuer and an upstream behind it, on one scripted server.

use std::collections::BTreeMap;
use std::sync::Mutex as Plain;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Response};

mod away;
mod hostile;
mod scopes;

use super::super::{Means, Timeouts, Upstream};
use super::asking::Lacked;
use super::trouble::TOLD;
use super::*;
use crate::egress::testing::{Body, Seen, Server, full, json, open_egress, response, serve};
use crate::generated::server::{self, Credentials, Grant, Proof, UpstreamTls};
use crate::oauth::client_key::ClientKey;

/// What the issuer answers to its `n`th request (from 0), and the upstream to a token.
type Script = Box<dyn Fn(usize, &BTreeMap<String, String>) -> Response<Body> + Send + Sync>;
type Judge = Box<dyn Fn(&str) -> Response<Body> + Send + Sync>;

struct House {
    server: Server,
    upstream: Upstream,
    counters: TokenCounters,
}

fn form(asked: &Seen) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(&asked.body).into_owned().collect()
}

fn token(n: usize, seconds: u64) -> Response<Body> {
    json(format!(r#"{{"access_token":"token-{n}","token_type":"Bearer","expires_in":{seconds}}}"#))
}

fn lasting(n: usize, _: &BTreeMap<String, String>) -> Response<Body> {
    token(n, 3600)
}

fn open(_: &str) -> Response<Body> {
    json("{}")
}

fn challenged(status: u16, challenge: &str) -> Response<Body> {
    let mut refused = response(status, "application/json", full("{}"));
    refused.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
    refused
}

fn oauth(grant: Grant, says_resource: bool) -> Oauth {
    Oauth {
        issuer: "https://as.example".into(),
        ca_pem: None,
        token_endpoint: String::new(),
        client_id: "gateway".into(),
        proof: Proof::Basic(Sensitive::new("hunter2-secret")),
        grant,
        scopes: vec!["read".into()],
        resource: "https://up.example/mcp".into(),
        says_resource,
    }
}

impl House {
    async fn of(oauth: Oauth, issuer: Script, judge: Judge) -> Self {
        let asked = AtomicUsize::new(0);
        let server = serve(move |seen| match seen.path.as_str() {
            "/token" => issuer(asked.fetch_add(1, Ordering::SeqCst), &form(seen)),
            _ => judge(seen.headers.get("authorization").map_or("", |value| value.to_str().unwrap())),
        })
        .await;
        let oauth = Oauth { token_endpoint: server.url("/token"), ..oauth };
        let credentials = Credentials::Oauth(Box::new(oauth));
        let config = server::Upstream { url: server.url("/mcp"), tls: UpstreamTls::default(), credentials };
        let counters = TokenCounters::default();
        let means = Means { egress: &open_egress(), timeouts: Timeouts::default(), tokens: &counters };
        Self { upstream: Upstream::by(&config, &means).unwrap(), server, counters }
    }

    async fn new(issuer: Script, judge: Judge) -> Self {
        Self::of(oauth(Grant::ClientCredentials, true), issuer, judge).await
    }

    async fn call(&self, caller: Option<&Subject>) -> Result<u16, UpstreamError> {
        let request = |body| self.upstream.request(Method::POST, &HeaderMap::new(), body);
        let called = self.upstream.call(caller, Bytes::from_static(b"{}"), request).await;
        called.map(|response| response.status().as_u16())
    }

    fn tokens(&self) -> &Arc<Tokens> {
        self.upstream.tokens().unwrap()
    }

    /// What was asked of the issuer.
    fn asked(&self) -> Vec<BTreeMap<String, String>> {
        self.server.seen().iter().filter(|seen| seen.path == "/token").map(form).collect()
    }

    /// The tokens that came to the upstream, in order.
    fn sent(&self) -> Vec<String> {
        let calls = self.server.seen().into_iter().filter(|seen| seen.path != "/token");
        calls.map(|seen| seen.headers["authorization"].to_str().unwrap().to_owned()).collect()
    }
}

fn caller(token: &str, authority: &str) -> Subject {
    let (authority, issuer) = (authority.to_owned(), "https://as.example".to_owned());
    Subject { token: Sensitive::new(token), authority, issuer, expires: now() + 600 }
}

/// An issuer, and tokens of it without an upstream.
async fn bare(issuer: Script) -> (Server, Arc<Tokens>) {
    let asked = AtomicUsize::new(0);
    let server = serve(move |seen| issuer(asked.fetch_add(1, Ordering::SeqCst), &form(seen))).await;
    let oauth = Oauth { token_endpoint: server.url("/token"), ..oauth(Grant::ClientCredentials, true) };
    let tokens = Tokens::new(&oauth, &open_egress(), &TokenCounters::default()).unwrap();
    (server, tokens)
}

fn exchange() -> Oauth {
    oauth(Grant::TokenExchange { authority: "corp".into() }, true)
}

fn refusing(status: u16, error: &str) -> Response<Body> {
    response(status, "application/json", full(format!(r#"{{"error":"{error}"}}"#)))
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < patience, "in vain: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn fifty_first_calls_ask_once_and_nobody_asks_while_there_is_a_token() {
    let house = House::new(Box::new(lasting), Box::new(open)).await;
    let calls = join_all((0..50).map(|_| house.call(None))).await;
    assert!(calls.iter().all(|call| matches!(call, Ok(200))), "{calls:?}");
    for _ in 0..20 {
        house.call(None).await.unwrap();
    }
    let asked = house.asked();
    assert_eq!(asked.len(), 1);
    let expected = [("grant_type", "client_credentials"), ("resource", "https://up.example/mcp"), ("scope", "read")];
    assert_eq!(asked[0], expected.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect());
    assert!(house.sent().iter().all(|sent| sent == "Bearer token-0"));
    assert_eq!((house.counters.granted.get(), house.counters.held.get()), (1, 1));
    let counters = house.counters.clone();
    drop(house);
    assert_eq!(counters.held.get(), 0);
}

#[tokio::test]
async fn a_token_that_is_used_is_renewed_beside_the_calls_before_it_ends() {
    let house = House::new(Box::new(|n, _| token(n, 4)), Box::new(open)).await;
    let patience = Instant::now() + Duration::from_secs(30);
    while !house.sent().contains(&"Bearer token-1".to_owned()) {
        assert!(Instant::now() < patience, "it is not renewed");
        house.call(None).await.unwrap();
        tokio::task::yield_now().await;
    }
    // While the second was asked for, the first went on: no call waited for it.
    let seen = house.server.seen();
    let second = seen.iter().enumerate().filter(|(_, seen)| seen.path == "/token").nth(1).unwrap().0;
    let begun = seen.iter().position(|seen| seen.path == "/mcp").unwrap();
    assert!(second > begun && house.asked().len() <= 3, "{}", house.asked().len());
}

#[tokio::test]
async fn a_token_that_the_upstream_does_not_take_is_replaced_once() {
    let judge = |sent: &str| if sent == "Bearer token-0" { challenged(401, "Bearer") } else { open(sent) };
    let house = House::new(Box::new(lasting), Box::new(judge)).await;
    assert_eq!(house.call(None).await.unwrap(), 200);
    assert_eq!(house.sent(), ["Bearer token-0", "Bearer token-1"]);

    let closed = House::new(Box::new(lasting), Box::new(|_| challenged(401, "Bearer"))).await;
    for _ in 0..5 {
        assert_eq!(closed.call(None).await.unwrap(), 401, "whoever judges it says so");
    }
    assert_eq!((closed.asked().len(), closed.sent().len()), (2, 6), "one more token, and one call twice");
}

#[tokio::test]
async fn scopes_that_the_upstream_wants_are_asked_for_once() {
    let step = r#"Bearer error="insufficient_scope", scope="write admin""#;
    let judge = |sent: &str| if sent == "Bearer token-0" { challenged(403, step) } else { open(sent) };
    let house = House::new(Box::new(lasting), Box::new(judge)).await;
    for _ in 0..3 {
        assert_eq!(house.call(None).await.unwrap(), 200);
    }
    let scopes: Vec<String> = house.asked().iter().map(|asked| asked["scope"].clone()).collect();
    assert_eq!(scopes, ["read", "read admin write"]);
    assert_eq!(house.sent().len(), 4);

    // One that is never content, whatever it is given; and an issuer that gives no more.
    let never: Judge = Box::new(|_| challenged(403, step));
    let content = House::new(Box::new(lasting), never).await;
    for _ in 0..5 {
        let error = content.call(None).await.unwrap_err();
        assert_eq!(error.reason(), "UpstreamScopesLacking");
        assert!(error.to_string().contains("write admin") && error.to_string().contains("oauth.scopes"), "{error}");
    }
    assert_eq!((content.asked().len(), content.sent().len()), (2, 6));
    let strict = |n: usize, asked: &BTreeMap<String, String>| match asked["scope"].as_str() {
        "read" => token(n, 3600),
        _ => response(400, "application/json", full(r#"{"error":"invalid_scope"}"#)),
    };
    let house = House::new(Box::new(strict), Box::new(|_| challenged(403, step))).await;
    for _ in 0..5 {
        let error = house.call(None).await.unwrap_err();
        assert!(error.reason() == "UpstreamScopesLacking", "{error}");
    }
    assert_eq!((house.asked().len(), house.sent().len()), (2, 5), "what there is is kept");
    // A refusal that says nothing of scopes is one.
    let house = House::new(Box::new(lasting), Box::new(|_| challenged(403, "Bearer error=\"access_denied\""))).await;
    assert_eq!((house.call(None).await.unwrap(), house.asked().len()), (403, 1));
}

#[tokio::test]
async fn who_gives_no_token_is_not_asked_again_at_once_and_nothing_is_sent_without() {
    for (status, body, reason) in [
        (503, r#"{"error":"temporarily_unavailable"}"#, "UpstreamTokenUnavailable"),
        (401, r#"{"error":"invalid_client","error_description":"hunter2-secret"}"#, "UpstreamTokenRefused"),
        (200, r#"{"access_token":"t","token_type":"mac"}"#, "TokenNotBearer"),
        (302, "{}", "UpstreamTokenUnavailable"),
    ] {
        let house =
            House::new(Box::new(move |_, _| response(status, "application/json", full(body))), Box::new(open)).await;
        let calls = join_all((0..20).map(|_| house.call(None))).await;
        for error in calls.into_iter().map(Result::unwrap_err) {
            assert_eq!(error.reason(), reason);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        assert_eq!((house.asked().len(), house.sent().len()), (1, 0), "{status}");
    }
}

#[tokio::test]
async fn each_callers_token_is_exchanged_for_it_alone_and_at_its_own_issuer() {
    let grant = Grant::TokenExchange { authority: "corp".into() };
    let house = House::of(oauth(grant, true), Box::new(lasting), Box::new(open)).await;
    assert!(house.upstream.needs_callers());
    for token in ["ana", "bob", "ana", "bob"] {
        house.call(Some(&caller(token, "corp"))).await.unwrap();
    }
    let subjects: Vec<String> = house.asked().iter().map(|asked| asked["subject_token"].clone()).collect();
    assert_eq!(subjects, ["ana", "bob"]);
    assert_eq!(house.sent(), ["Bearer token-0", "Bearer token-1", "Bearer token-0", "Bearer token-1"]);
    let foreign = house.call(Some(&caller("eve", "elsewhere"))).await.unwrap_err();
    assert_eq!(foreign.reason(), "CallerOfOtherIssuer");
    assert_eq!(house.call(None).await.unwrap_err().reason(), "CallerTokenNeeded");
    assert_eq!((house.asked().len(), house.sent().len()), (2, 4));

    // What was got for a caller ends with the caller's token.
    let late = Subject { expires: now(), ..caller("carl", "corp") };
    house.call(Some(&late)).await.unwrap();
    house.call(Some(&late)).await.unwrap();
    assert_eq!(house.asked().len(), 4);

    let grant = Grant::JwtBearer { authority: "corp".into() };
    let house = House::of(oauth(grant, true), Box::new(lasting), Box::new(open)).await;
    house.call(Some(&caller("ana", "corp"))).await.unwrap();
    assert_eq!(house.asked()[0]["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    assert_eq!(house.asked()[0]["assertion"], "ana");
}

#[tokio::test]
async fn where_no_resource_is_named_a_token_must_name_it() {
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    for (claims, is_good) in [
        (r#"{"aud":"https://up.example/mcp"}"#, true),
        (r#"{"aud":["x","https://up.example/mcp"]}"#, true),
        (r#"{"aud":"https://up.example/mcp/"}"#, false),
        (r#"{"aud":"account"}"#, false),
        (r#"{}"#, false),
    ] {
        let jwt = format!("e30.{}.AA", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let answer = format!(r#"{{"access_token":"{jwt}","token_type":"Bearer","expires_in":60}}"#);
        let issuer = move |_: usize, _: &BTreeMap<String, String>| json(answer.clone());
        let house = House::of(oauth(Grant::ClientCredentials, false), Box::new(issuer), Box::new(open)).await;
        let called = house.call(None).await.map_err(|error| error.reason());
        assert_eq!(called, if is_good { Ok(200) } else { Err("UpstreamTokenAudience") }, "{claims}");
        assert!(!house.asked()[0].contains_key("resource"));
        assert_eq!(house.sent().len(), usize::from(is_good), "it goes nowhere that it is not for");
    }
}

#[tokio::test]
async fn a_key_proves_the_client_by_another_assertion_each_time() {
    let key = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, ClientKey::generate().unwrap());
    let signing = Oauth { proof: Proof::Key(Sensitive::new(key)), ..oauth(Grant::ClientCredentials, true) };
    let judge = |sent: &str| if sent == "Bearer token-0" { challenged(401, "Bearer") } else { open(sent) };
    let house = House::of(signing, Box::new(lasting), Box::new(judge)).await;
    house.call(None).await.unwrap();
    let asked = house.asked();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|asked| asked["client_id"] == "gateway" && asked.contains_key("client_assertion")));
    assert_ne!(asked[0]["client_assertion"], asked[1]["client_assertion"]);
    let broken = Oauth { proof: Proof::Key(Sensitive::new("hunter2")), ..oauth(Grant::ClientCredentials, true) };
    let error = Tokens::new(&broken, &open_egress(), &TokenCounters::default()).err().unwrap();
    assert!(error.reason() == "UpstreamCredentialInvalid" && !error.to_string().contains("hunter2"));
}
