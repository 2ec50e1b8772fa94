//! An upstream and its issuer on one scripted server.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use http::Response;

use super::*;
use crate::egress::Policy;
use crate::egress::testing::{Body, Scripted, Server, full, json, open_egress, response, serve, serve_with, tls_for};

/// What it serves: the answer to a call, and documents by path. `{}` stands for its origin.
#[derive(Clone, Default)]
struct Says {
    challenge: Option<String>,
    documents: Vec<(&'static str, u16, String)>,
}

async fn house(says: Says) -> (Server, Question) {
    called("127.0.0.1", says).await
}

/// The same under a name.
async fn called(host: &str, says: Says) -> (Server, Question) {
    let origin: Arc<Mutex<String>> = Arc::default();
    let own = origin.clone();
    let server = serve(move |asked| answer(&says, &own.lock().unwrap(), &asked.path)).await;
    let url = format!("http://{host}:{}", server.address.port());
    origin.lock().unwrap().clone_from(&url);
    let question = Question {
        url: format!("{url}/mcp"),
        resource: format!("{url}/mcp"),
        ca_pem: None,
        server_name: None,
        issuer: format!("{url}/as"),
        issuer_ca_pem: None,
    };
    (server, question)
}

fn answer(says: &Says, origin: &str, path: &str) -> Response<Body> {
    if path == "/mcp" {
        return says.challenge.as_ref().map_or_else(|| json("{}"), |text| challenged(&text.replace("{}", origin)));
    }
    match says.documents.iter().find(|(of, ..)| *of == path) {
        Some((_, 302, to)) => {
            let mut redirect = response(302, "application/json", full("{}"));
            redirect.headers_mut().insert("location", to.replace("{}", origin).parse().unwrap());
            redirect
        }
        Some((_, status, text)) => response(*status, "application/json", full(text.replace("{}", origin))),
        None => response(404, "application/json", full("{}")),
    }
}

fn challenged(challenge: &str) -> Response<Body> {
    let mut refused = response(401, "application/json", full("{}"));
    refused.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
    refused
}

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource/mcp";
const METADATA: &str = "/.well-known/oauth-authorization-server/as";

fn resource(resource: &str, issuer: &str) -> String {
    format!(r#"{{"resource":"{resource}","authorization_servers":["{issuer}"]}}"#)
}

fn issuer(more: &str) -> (&'static str, u16, String) {
    (METADATA, 200, format!(r#"{{"issuer":"{{}}/as"{more}}}"#))
}

fn good() -> (&'static str, u16, String) {
    issuer(r#","token_endpoint":"{}/as/token""#)
}

async fn asked(says: Says) -> Result<Trust, &'static str> {
    let (_, question) = house(says).await;
    trust(&question, &open_egress()).await.map_err(|error| error.reason())
}

#[tokio::test]
async fn metadata_is_where_the_challenge_says_or_where_it_is_known_to_be() {
    let challenge = Some(r#"Bearer resource_metadata="{}/elsewhere""#.to_owned());
    let own = resource("{}/mcp", "{}/as");
    for (challenge, at) in [(challenge, "/elsewhere"), (None, WELL_KNOWN), (Some("Bearer".to_owned()), WELL_KNOWN)] {
        let (server, question) = house(Says { challenge, documents: vec![(at, 200, own.clone()), good()] }).await;
        let found = trust(&question, &open_egress()).await.unwrap();
        assert_eq!(found, Trust::Holds { token_endpoint: server.url("/as/token") });
        assert!(server.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
    }
    // A parent that the author meant.
    let (server, question) = house(Says {
        challenge: None,
        documents: vec![("/.well-known/oauth-protected-resource", 200, resource("{}", "{}/as")), good()],
    })
    .await;
    let question = Question { resource: server.url(""), ..question };
    assert!(matches!(trust(&question, &open_egress()).await, Ok(Trust::Holds { .. })));
}

#[tokio::test]
async fn an_upstream_that_names_others_has_turned_away_and_they_are_not_asked() {
    let documents = vec![(WELL_KNOWN, 200, resource("{}/mcp", "{}/other")), good()];
    let (server, question) = house(Says { challenge: None, documents }).await;
    let changed = Trust::Changed { issuers: vec![server.url("/other")] };
    assert_eq!(trust(&question, &open_egress()).await.unwrap(), changed);
    assert!(server.seen().iter().all(|seen| !seen.path.contains("other") && seen.path != METADATA));
}

#[tokio::test]
async fn what_cannot_be_believed_or_reached_says_nothing() {
    let named = |url: &str| Some(format!(r#"Bearer resource_metadata="{url}""#));
    let own = || (WELL_KNOWN, 200, resource("{}/mcp", "{}/as"));
    for (challenge, documents, reason) in [
        (None, vec![], "FetchStatus"),
        (None, vec![(WELL_KNOWN, 200, resource("{}/mcp/", "{}/as")), good()], "MetadataMismatch"),
        (None, vec![(WELL_KNOWN, 200, r#"{"resource":"{}/mcp"}"#.to_owned()), good()], "MetadataIncomplete"),
        (
            None,
            vec![(WELL_KNOWN, 302, "{}/elsewhere".to_owned()), ("/elsewhere", 200, own().2), good()],
            "FetchRedirected",
        ),
        (None, vec![own()], "IssuerMetadataUnavailable"),
        (None, vec![own(), issuer("")], "TokenEndpointMissing"),
        (named("http://10.0.0.1/x"), vec![own(), good()], "UrlNotHttps"),
        (named("file:///etc/passwd"), vec![own(), good()], "UrlNotHttps"),
        (named("https://169.254.169.254/latest"), vec![own(), good()], "AddressNotAllowed"),
    ] {
        assert_eq!(asked(Says { challenge: challenge.clone(), documents }).await, Err(reason), "{challenge:?}");
    }
    // Where tokens are is for the issuer to say: a place that is none by its text is not handed out, wherever it leads.
    for place in [
        "http://10.0.0.1/token",
        "http://169.254.169.254/latest/meta-data",
        "https://user:word@127.0.0.2/token",
        "file:///etc/passwd",
        "gopher://127.0.0.2/token",
        "/token",
    ] {
        let (server, question) =
            house(Says { challenge: None, documents: vec![own(), issuer(&format!(r#","token_endpoint":"{place}""#))] })
                .await;
        let error = trust(&question, &open_egress()).await.unwrap_err();
        let told = error.to_string();
        assert_eq!(error.reason(), "IssuerMetadataUnavailable", "{place}");
        assert!(
            told.contains("`token_endpoint` holds an unacceptable URL") && !told.contains("word"),
            "{place}: {told}"
        );
        assert!(server.seen().iter().all(|seen| seen.path != "/token"), "{place}");
    }
    // Where loopback is closed, nobody is asked at all.
    let (server, question) = house(Says { challenge: None, documents: vec![own(), good()] }).await;
    let closed = Egress::new(Policy::default()).unwrap();
    assert!(trust(&question, &closed).await.is_err());
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_waited_for_no_longer_than_a_refusal_takes() {
    // The kernel takes what comes, and nobody answers.
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mcp", hangs.local_addr().unwrap());
    let question = Question {
        issuer: url.clone(),
        resource: url.clone(),
        url,
        ca_pem: None,
        server_name: None,
        issuer_ca_pem: None,
    };
    let error = tokio::time::timeout(TIME / 2, trust(&question, &open_egress())).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), "UpstreamTimeout");
}

/// The certificate of the upstream's own host is verified by another name: a host that it names instead is not.
#[tokio::test]
async fn the_name_that_stands_for_the_upstreams_host_stands_for_no_other_host() {
    for (names, is_known) in [("127.0.0.1", true), ("up.internal", false)] {
        let (ours, own) = tls_for("up.internal");
        let (theirs, other) = tls_for(names);
        let at = Arc::new(Mutex::new((String::new(), String::new())));
        let known = at.clone();
        let elsewhere = serve_with(
            move |asked| {
                let (upstream, issuer) = &*known.lock().unwrap();
                match asked.path.as_str() {
                    "/metadata" => json(resource(&format!("{upstream}/mcp"), &format!("{issuer}/as"))),
                    _ => json(format!(r#"{{"issuer":"{issuer}/as","token_endpoint":"{issuer}/token"}}"#)),
                }
            },
            Some(theirs),
        )
        .await;
        let elsewhere = format!("https://{}", elsewhere.address);
        let challenge = format!(r#"Bearer resource_metadata="{elsewhere}/metadata""#);
        let upstream = serve_with(move |_| challenged(&challenge), Some(ours)).await;
        let upstream = format!("https://{}", upstream.address);
        *at.lock().unwrap() = (upstream.clone(), elsewhere.clone());
        let question = Question {
            url: format!("{upstream}/mcp"),
            resource: format!("{upstream}/mcp"),
            ca_pem: Some(format!("{own}{other}")),
            server_name: Some("up.internal".into()),
            issuer: format!("{elsewhere}/as"),
            issuer_ca_pem: Some(other),
        };
        let found = trust(&question, &open_egress()).await.map_err(|error| error.reason());
        let holds = Trust::Holds { token_endpoint: format!("{elsewhere}/token") };
        assert_eq!(found, if is_known { Ok(holds) } else { Err("TlsFailed") }, "{names}");
    }
}

/// A name is looked up for each connection, and each time it is checked.
#[tokio::test]
async fn a_name_that_turns_inside_on_the_way_is_not_followed_there() {
    let own = (WELL_KNOWN, 200, resource("{}/mcp", "{}/as"));
    let documents = vec![own, issuer(r#","token_endpoint":"{}/as/token""#)];
    let (server, question) = called("localhost", Says { challenge: None, documents }).await;
    let good = server.address.to_string();
    let evil = TcpListener::bind(("127.0.0.2", server.address.port())).unwrap();
    evil.set_nonblocking(true).unwrap();
    let inside = evil.local_addr().unwrap().to_string();
    // The challenge, the upstream's document, and its issuer's.
    for (before, reason) in [(0, "AddressNotAllowed"), (1, "AddressNotAllowed"), (2, "IssuerMetadataUnavailable")] {
        let (good, inside) = ([good.as_str()], [inside.as_str()]);
        let answers: Vec<&[&str]> = std::iter::repeat_n(&good[..], before).chain([&inside[..]]).collect();
        let policy = Policy { allow_private: "127.0.0.1/32".parse().unwrap(), ..Policy::default() };
        let egress = Egress::with_resolver(policy, Arc::new(Scripted::new(&answers))).unwrap();
        let error = trust(&question, &egress).await.unwrap_err();
        assert_eq!(error.reason(), reason, "after {before}");
        assert!(error.to_string().contains("resolves to an address"), "after {before}: {error}");
        assert!(evil.accept().is_err(), "after {before}: somebody inside was called");
    }
}
