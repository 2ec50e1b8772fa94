//! Issuers, upstreams and callers that are not what they should be, and what whoever can mend it is told.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::*;
use crate::egress::Policy;
use crate::egress::testing::Scripted;

/// Its issuer's metadata says where that is, and may say anything.
#[tokio::test]
async fn nobody_inside_is_asked_for_a_token_whatever_the_token_endpoint_is() {
    let inside = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    inside.set_nonblocking(true).unwrap();
    let port = inside.local_addr().unwrap().port();
    let policy = Policy { allow_private: "127.0.0.1/32".parse().unwrap(), ..Policy::default() };
    let egress = Egress::new(policy).unwrap();
    for host in ["127.0.0.2", "2130706434", "[::ffff:127.0.0.2]", "10.0.0.1", "169.254.169.254", "[fd00:ec2::254]"] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}:{port}/token");
            let oauth = Oauth { token_endpoint: url.clone(), ..oauth(Grant::ClientCredentials, true) };
            let tokens = Tokens::new(&oauth, &egress, &TokenCounters::default()).unwrap();
            let Err(failure) = tokens.token(None).await else { panic!("{url}: a token") };
            let told = format!("{failure} {failure:?}");
            assert_eq!(failure.reason(), "UpstreamTokenUnavailable", "{url}");
            assert!(told.contains("resolves to an address that is ") && !told.contains("hunter2"), "{url}: {told}");
            assert!(inside.accept().is_err(), "{url}: somebody inside was called");
        }
    }
}

/// A name is looked up for each request, and each time it is checked.
#[tokio::test]
async fn a_token_endpoint_that_turns_inside_is_asked_for_no_other_token() {
    let server = serve(|_| token(0, 3600)).await;
    let inside = std::net::TcpListener::bind(("127.0.0.2", server.address.port())).unwrap();
    inside.set_nonblocking(true).unwrap();
    let names = [server.address.to_string(), inside.local_addr().unwrap().to_string()];
    let policy = Policy { allow_private: "127.0.0.1/32".parse().unwrap(), ..Policy::default() };
    let resolver = Scripted::new(&[&[&names[0]], &[&names[1]]]);
    let egress = Egress::with_resolver(policy, Arc::new(resolver)).unwrap();
    let token_endpoint = format!("http://localhost:{}/token", server.address.port());
    let oauth = Oauth { token_endpoint, ..oauth(Grant::ClientCredentials, true) };
    let ask = async || Tokens::new(&oauth, &egress, &TokenCounters::default()).unwrap().token(None).await;
    assert!(ask().await.is_ok(), "it was good");
    let Err(failure) = ask().await else { panic!("another token") };
    assert!(failure.to_string().contains("resolves to an address that is "), "{failure}");
    assert_eq!(server.connections(), 1);
    assert!(inside.accept().is_err(), "somebody inside was called");
}

#[tokio::test]
async fn a_callers_token_that_is_given_back_does_not_go_to_the_upstream() {
    let echo = |_: usize, asked: &BTreeMap<String, String>| {
        json(format!(r#"{{"access_token":"{}","token_type":"Bearer","expires_in":60}}"#, asked["subject_token"]))
    };
    let house = House::of(exchange(), Box::new(echo), Box::new(open)).await;
    let error = house.call(Some(&caller("canary-of-ana", "corp"))).await.unwrap_err();
    assert_eq!(error.reason(), "CallerTokenReturned");
    assert!(house.sent().is_empty() && !format!("{error} {error:?}").contains("canary"), "{error}");
}

/// An authority may be given another issuer, and proxies hear of it before they hear of the servers.
#[tokio::test]
async fn a_callers_token_goes_to_its_own_issuer_whatever_its_authority_is_called() {
    let house = House::of(exchange(), Box::new(lasting), Box::new(open)).await;
    let moved = Subject { issuer: "https://new.example".into(), ..caller("ana", "corp") };
    assert_eq!(house.call(Some(&moved)).await.unwrap_err().reason(), "CallerOfOtherIssuer");
    assert_eq!((house.asked().len(), house.sent().len()), (0, 0));
}

fn jwt(claims: &str) -> String {
    format!("e30.{}.AA", BASE64_URL_SAFE_NO_PAD.encode(claims))
}

fn given(jwt: &str) -> Response<Body> {
    json(format!(r#"{{"access_token":"{jwt}","token_type":"Bearer","expires_in":3600}}"#))
}

/// Who does not know `resource` ignores it (RFC 6749 section 3.2), and gives what is good somewhere else.
#[tokio::test]
async fn a_token_that_says_that_it_is_for_another_place_is_not_sent() {
    for (claims, is_good) in [
        (r#"{"aud":"https://up.example/mcp"}"#, true),
        (r#"{"aud":["https://up.example/mcp","account"]}"#, true),
        (r#"{"aud":["https://up.example/mcp","https://up.example"]}"#, true),
        // The issuer's own: where some let everybody read who is meant.
        (r#"{"aud":["https://up.example/mcp","https://as.example/userinfo"]}"#, true),
        (r#"{"aud":["https://up.example/mcp","https://as.example"]}"#, true),
        (r#"{"aud":["https://as.example"]}"#, false),
        (r#"{"aud":["https://up.example/mcp","https://as.example/api/v2/"]}"#, false),
        (r#"{"aud":["https://up.example/mcp","https://as.example.evil.example/userinfo"]}"#, false),
        // Whoever gets it could call the other with it.
        (r#"{"aud":["https://other.example/mcp","https://up.example/mcp"]}"#, false),
        (r#"{"aud":["https://up.example/mcp","https://up.example/other"]}"#, false),
        // More general, and a name that means something to the two of them (RFC 8707 section 2).
        (r#"{"aud":"https://up.example"}"#, true),
        (r#"{"aud":"https://up.example/"}"#, true),
        (r#"{"aud":"api://default"}"#, true),
        (r#"{}"#, true),
        (r#"{"aud":"https://other.example/mcp"}"#, false),
        (r#"{"aud":["https://other.example","account"]}"#, false),
        (r#"{"aud":"https://up.example/mc"}"#, false),
        (r#"{"aud":"https://up.example.evil.example"}"#, false),
        (r#"{"aud":"http://billing.internal/api"}"#, false),
        (r#"{"aud":["account","http://up.example/mcp"]}"#, false),
    ] {
        let house = House::new(Box::new(move |_, _| given(&jwt(claims))), Box::new(open)).await;
        let called = house.call(None).await.map_err(|error| error.reason());
        assert_eq!(called, if is_good { Ok(200) } else { Err("UpstreamTokenAudience") }, "{claims}");
        assert_eq!(house.sent().len(), usize::from(is_good), "{claims}");
    }
}

/// Keycloak is told of no resource: its audience mappers are all that says for whom a token is. One that names a resource of the
/// gateway besides would bring the upstream in as the caller.
#[tokio::test]
async fn a_token_that_is_good_at_the_gateway_or_at_another_upstream_too_is_sent_nowhere() {
    let (resource, gateway) = ("https://up.example/mcp", "https://gw.example/team/notes");
    let exchange = || Grant::TokenExchange { authority: "corp".into() };
    for (grant, audience, is_good) in [
        (Grant::ClientCredentials, vec![resource, "https://as.example/userinfo"], true),
        (Grant::ClientCredentials, vec![resource, gateway], false),
        (Grant::ClientCredentials, vec![resource, "gateway"], true),
        (exchange(), vec![resource, "https://as.example/userinfo"], true),
        (exchange(), vec![resource, "account"], true),
        (exchange(), vec![resource, gateway], false),
        // The client itself: what is for it can be exchanged on.
        (exchange(), vec![resource, "gateway"], false),
        (Grant::JwtBearer { authority: "corp".into() }, vec![resource, gateway], false),
    ] {
        for says_resource in [true, false] {
            let token = jwt(&serde_json::json!({"aud": audience}).to_string());
            let oauth = oauth(grant.clone(), says_resource);
            let house = House::of(oauth, Box::new(move |_, _| given(&token)), Box::new(open)).await;
            let called = house.call(Some(&caller("ana", "corp"))).await;
            let story = format!("{grant:?} {audience:?} {called:?}");
            assert_eq!(house.sent().len(), usize::from(is_good), "{story}");
            match called {
                Ok(status) => assert!(is_good && status == 200, "{story}"),
                Err(error) => {
                    assert!(!is_good && error.reason() == "UpstreamTokenAudience", "{story}");
                    assert!(error.to_string().contains(audience[1]), "whoever mends it is told which one: {error}");
                }
            }
        }
    }
}

/// Where scopes decide for whom a token is, an upstream that may choose them could have one made for another upstream.
#[tokio::test]
async fn scopes_that_the_upstream_chooses_do_not_make_a_token_good_for_anybody_else() {
    for (first, wider, is_taken) in [
        (r#"["https://up.example/mcp"]"#, r#"["https://up.example/mcp","mcp-b"]"#, false),
        (r#"["https://up.example/mcp"]"#, r#"["https://up.example/mcp","https://other.example/mcp"]"#, false),
        (r#"["https://up.example/mcp"]"#, r#""mcp-b""#, false),
        (r#""api://default""#, r#"["api://default","api://other"]"#, false),
        (r#"["https://up.example/mcp","mcp-b"]"#, r#"["mcp-b","https://up.example/mcp"]"#, true),
        (r#"["https://up.example/mcp","account"]"#, r#""https://up.example/mcp""#, true),
        (r#"[]"#, r#"["https://up.example/mcp","https://up.example"]"#, true),
        (r#"["https://up.example/mcp"]"#, r#"["https://up.example/mcp","https://as.example/userinfo"]"#, true),
    ] {
        let issuer = move |_: usize, asked: &BTreeMap<String, String>| {
            let aud = if asked["scope"].contains("mcp-b") { wider } else { first };
            given(&jwt(&format!(r#"{{"aud":{aud},"scope":"{}"}}"#, asked["scope"])))
        };
        let plain = format!("Bearer {}", jwt(&format!(r#"{{"aud":{first},"scope":"read"}}"#)));
        let own = plain.clone();
        let judge = move |sent: &str| match sent == own {
            true => challenged(403, r#"Bearer error="insufficient_scope", scope="mcp-b""#),
            false => open(sent),
        };
        let house = House::new(Box::new(issuer), Box::new(judge)).await;
        for _ in 0..3 {
            let called = house.call(None).await.map_err(|error| (error.reason(), error.to_string()));
            match called {
                Ok(status) => assert!(is_taken && status == 200, "{wider}"),
                Err((reason, told)) => {
                    assert!(!is_taken && reason == "UpstreamScopesLacking", "{wider}: {told}");
                }
            }
        }
        let others = house.sent().iter().filter(|sent| **sent != plain).count();
        assert_eq!(others, if is_taken { 3 } else { 0 }, "{wider}: the first is kept");
        assert_eq!(house.asked().len(), 2, "{wider}");
    }
}

/// What a wider token was good for is not forgotten when it is renewed.
#[tokio::test]
async fn a_wider_token_that_names_somebody_else_once_it_is_renewed_gives_way_to_one_without_the_scopes() {
    let issuer = |n: usize, asked: &BTreeMap<String, String>| {
        let is_wider = asked["scope"].contains("write");
        let aud =
            if is_wider && n > 1 { r#"["https://up.example/mcp","mcp-b"]"# } else { r#""https://up.example/mcp""# };
        given(&jwt(&format!(r#"{{"aud":{aud},"n":{n}}}"#)))
    };
    let (server, tokens) = bare(Box::new(issuer)).await;
    let first = tokens.token(None).await.unwrap();
    let wider = Why::Lacks(first, vec!["write".into()]);
    let wider = tokens.ask(tokens.own.clone(), None, wider).await.unwrap().unwrap();
    let renewed = tokens.ask(tokens.own.clone(), None, Why::Due(wider.clone())).await;
    assert!(matches!(renewed, Err(TokenFailure::OtherAudience { .. })));
    assert!(Arc::ptr_eq(&tokens.token(None).await.unwrap(), &wider), "it is good until its end");
    tokens.own.asking.lock().await.failures.clear();
    tokens.turns.forget();
    tokens.ask(tokens.own.clone(), None, Why::Due(wider)).await.unwrap().unwrap();
    let scopes: Vec<String> = server.seen().iter().map(|seen| form(seen)["scope"].clone()).collect();
    assert_eq!(scopes, ["read", "read write", "read write", "read"]);
}

#[tokio::test]
async fn tokens_that_end_as_they_come_are_not_asked_for_by_every_call() {
    let house = House::new(Box::new(|n, _| token(n, 0)), Box::new(open)).await;
    let calls = join_all((0..20).map(|_| house.call(None))).await;
    assert!(calls.iter().all(|call| matches!(call, Err(error) if error.reason() == "UpstreamTokenEnded")), "{calls:?}");
    assert_eq!((house.asked().len(), house.sent().len()), (1, 0));
}

#[tokio::test]
async fn what_ends_with_a_callers_token_is_not_renewed() {
    let (server, tokens) = bare(Box::new(lasting)).await;
    let endpoint = Oauth { token_endpoint: server.url("/token"), ..exchange() };
    let of_callers = Tokens::new(&endpoint, &open_egress(), &TokenCounters::default()).unwrap();
    let bound = of_callers.token(Some(&caller("ana", "corp"))).await.unwrap();
    assert!(bound.due >= bound.until, "no other could last longer");
    let own = tokens.token(None).await.unwrap();
    assert!(own.due < own.until);
}

/// A caller who gets an upstream to say 401 while the issuer is away does not take the token from everybody.
#[tokio::test]
async fn a_token_that_was_not_taken_once_is_kept_until_there_is_another() {
    let is_away = |n: usize, _: &BTreeMap<String, String>| {
        if n == 1 { refusing(503, "temporarily_unavailable") } else { token(n, 3600) }
    };
    let refuses = Plain::new(true);
    let judge = move |sent: &str| {
        let once = sent == "Bearer token-0" && std::mem::take(&mut *refuses.lock().unwrap());
        if once { challenged(401, "Bearer") } else { open(sent) }
    };
    let house = House::new(Box::new(is_away), Box::new(judge)).await;
    assert_eq!(house.call(None).await.unwrap_err().reason(), "UpstreamTokenUnavailable");
    for _ in 0..3 {
        assert_eq!(house.call(None).await.unwrap(), 200);
    }
    assert_eq!(house.asked().len(), 2);
}

/// An issuer that is away is told while there is a token still, and until there is another.
#[tokio::test]
async fn a_renewal_that_fails_is_told_though_calls_go_on() {
    let is_away = Arc::new(AtomicBool::new(false));
    let away = is_away.clone();
    let issuer = move |n: usize, _: &BTreeMap<String, String>| match away.load(Ordering::SeqCst) {
        true => refusing(503, "temporarily_unavailable"),
        false => token(n, 3600),
    };
    let (_server, tokens) = bare(Box::new(issuer)).await;
    tokens.token(None).await.unwrap();
    assert_eq!(tokens.trouble(), None);
    is_away.store(true, Ordering::SeqCst);
    let due = |tokens: &Arc<Tokens>| {
        let held = tokens.own.held.load_full().unwrap();
        tokens.counters.held.inc();
        let (header, scopes, until) = (held.header.clone(), held.scopes.clone(), held.until);
        let (since, counted) = (held.since, held.counted.clone());
        let due =
            Held { header, scopes, since, until, due: Instant::now(), is_renewed: AtomicBool::new(false), counted };
        tokens.own.held.store(Some(Arc::new(due)));
    };
    due(&tokens);
    tokens.token(None).await.unwrap();
    until("the trouble to be told", || tokens.trouble().is_some()).await;
    let held = tokens.token(None).await.unwrap();
    tokens.after(None, held, StatusCode::OK, &HeaderMap::new(), &mut Tried::default()).await.unwrap();
    assert_eq!(tokens.trouble().unwrap().reason(), "UpstreamTokenUnavailable", "a call that is made does not end it");
    is_away.store(false, Ordering::SeqCst);
    tokens.own.asking.lock().await.failures.clear();
    tokens.turns.forget();
    due(&tokens);
    tokens.token(None).await.unwrap();
    until("the trouble to end", || tokens.trouble().is_none()).await;
}

#[tokio::test]
async fn what_an_issuer_says_is_told_by_its_code_and_not_for_ever() {
    for (status, code, said) in [
        (401, "invalid_client", Some("invalid_client")),
        (400, "invalid_scope", Some("invalid_scope")),
        (400, "odd", None),
    ] {
        let (_server, tokens) = bare(Box::new(move |_, _| refusing(status, code))).await;
        assert!(tokens.token(None).await.is_err());
        let trouble = tokens.trouble().unwrap();
        assert_eq!((trouble.reason(), trouble.words()), ("UpstreamTokenRefused", said.unwrap_or("no reason")));
        let old = Trouble { at: Instant::now().checked_sub(TOLD).unwrap(), ..(*trouble).clone() };
        tokens.told.0.store(Some(Arc::new(old)));
        assert_eq!(tokens.trouble(), None, "nobody has called since, and nobody knows");
    }
}
