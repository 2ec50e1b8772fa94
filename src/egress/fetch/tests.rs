use std::time::Duration;

use super::super::testing::{endless, full, json, open_egress, response, serve, stuck};
use super::super::{Egress, Policy, TlsOptions};
use super::*;

const LIMITS: Limits = Limits { max_bytes: 1000, timeout: Duration::from_secs(10) };

async fn reason(url: &str, limits: Limits) -> &'static str {
    let fetcher = open_egress().fetcher(&TlsOptions::default()).unwrap();
    match fetcher.get(url, limits).await {
        Ok(_) => "fetched",
        Err(error) => error.reason(),
    }
}

#[tokio::test]
async fn a_document_comes_back_whole_and_the_request_says_little() {
    let server = serve(|_| {
        http::Response::builder()
            .header("content-type", "application/jwk-set+json")
            .header("cache-control", "max-age=600")
            .body(full("{\"keys\":[]}"))
            .unwrap()
    })
    .await;
    let fetcher = open_egress().fetcher(&TlsOptions::default()).unwrap();
    let fetched = fetcher.get(&server.url("/jwks"), LIMITS).await.unwrap();
    assert_eq!(fetched.body, "{\"keys\":[]}");
    assert_eq!(fetched.headers["cache-control"], "max-age=600");
    let mut names: Vec<_> = server.seen()[0].headers.keys().map(|name| name.as_str().to_owned()).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "accept-encoding", "host", "user-agent"]);
}

#[tokio::test]
async fn what_is_not_a_plain_json_document_is_refused() {
    let canary = serve(|_| json("{}")).await;
    let target = canary.url("/");
    let server = serve(move |asked| match asked.path.as_str() {
        "/redirect" => http::Response::builder().status(302).header("location", &target).body(full("")).unwrap(),
        "/error" => response(500, "application/json", full("{}")),
        "/html" => response(200, "text/html", full("{}")),
        "/gzip" => http::Response::builder()
            .header("content-type", "application/json")
            .header("content-encoding", "gzip")
            .body(full("{}"))
            .unwrap(),
        "/large" => json("x".repeat(1001)),
        "/exact" => json("x".repeat(1000)),
        "/endless" => response(200, "application/json", endless("{\"keys\":[")),
        _ => response(404, "application/json", full("{}")),
    })
    .await;
    for (path, expected) in [
        ("/redirect", "FetchRedirected"),
        ("/error", "FetchStatus"),
        ("/none", "FetchStatus"),
        ("/html", "FetchNotJson"),
        ("/gzip", "FetchNotJson"),
        ("/large", "FetchTooLarge"),
        ("/exact", "fetched"),
        ("/endless", "FetchTooLarge"),
    ] {
        assert_eq!(reason(&server.url(path), LIMITS).await, expected, "{path}");
    }
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn a_slow_body_is_given_up() {
    let server = serve(|_| response(200, "application/json", stuck("{"))).await;
    let limits = Limits { timeout: Duration::from_millis(100), ..LIMITS };
    assert_eq!(reason(&server.url("/"), limits).await, "FetchTimeout");
}

#[tokio::test]
async fn plain_http_is_for_loopback_that_was_opened() {
    let server = serve(|_| json("{}")).await;
    let fetcher = Egress::new(Policy::default()).unwrap().fetcher(&TlsOptions::default()).unwrap();
    assert_eq!(fetcher.get(&server.url("/"), LIMITS).await.unwrap_err().reason(), "AddressNotAllowed");
    assert_eq!(reason("http://10.0.0.1/", LIMITS).await, "PlainHttpRefused");
    assert_eq!(reason("ftp://127.0.0.1/", LIMITS).await, "UrlInvalid");
    assert_eq!(reason("nonsense", LIMITS).await, "UrlInvalid");
}

#[tokio::test]
async fn errors_show_no_query_and_no_password() {
    let server = serve(|_| response(500, "application/json", full(""))).await;
    let url = format!("http://user:canary@{}/a?token=canary", server.address);
    let fetcher = open_egress().fetcher(&TlsOptions::default()).unwrap();
    let error = fetcher.get(&url, LIMITS).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
}

/// A peer that ends every HTTP/2 connection with words of its own choice.
async fn parting(words: &'static [u8]) -> (std::net::SocketAddr, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (acceptor, ca) = super::super::testing::tls_for("peer.example");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
            // RFC 9113 section 6: an empty SETTINGS frame, then GOAWAY with INTERNAL_ERROR and debug data.
            let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
            frames.extend([0, 0, 8 + words.len() as u8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            frames.extend(words);
            drop(stream.write_all(&frames).await);
            drop(stream.read_to_end(&mut Vec::new()).await);
        }
    });
    (address, ca)
}

#[tokio::test]
async fn errors_do_not_repeat_what_a_peer_says_in_parting() {
    let (address, ca) = parting(b"canary-echoed-credential").await;
    let policy = Policy { allow_private: super::super::AllowPrivate::Private, ..Policy::default() };
    let resolver = super::super::testing::Scripted::new(&[&[&address.to_string()]]);
    let egress = Egress::with_resolver(policy, std::sync::Arc::new(resolver)).unwrap();
    let fetcher = egress.fetcher(&TlsOptions { ca_pem: Some(ca), server_name: None }).unwrap();
    let error = fetcher.get("https://peer.example/keys", LIMITS).await.unwrap_err();
    assert_eq!(error.reason(), "FetchFailed");
    assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
}
