use std::sync::atomic::Ordering;

use super::super::testing::{Scripted, full, json, open_egress, response, serve, serve_with, tls_for};
use super::super::{AllowPrivate, Limits, Policy};
use super::*;

fn egress(allow: &str, resolver: &Scripted) -> Egress {
    let policy = Policy { allow_private: allow.parse().unwrap(), ..Policy::default() };
    Egress::with_resolver(policy, Arc::new(resolver.clone())).unwrap()
}

async fn reason(egress: &Egress, url: &str) -> &'static str {
    let connector = egress.connector(&TlsOptions::default(), PlainHttp::Internal).unwrap();
    // As a manifest's URL gets here: normalized by `url`.
    let url = url::Url::parse(url).unwrap();
    match connector.connect(&url.as_str().parse().unwrap()).await {
        Ok(_) => "connected",
        Err(error) => error.reason(),
    }
}

#[tokio::test]
async fn odd_spellings_of_internal_addresses_are_refused_before_anything_is_dialed() {
    let server = serve(|_| json("{}")).await;
    let port = server.address.port();
    let egress = Egress::new(Policy::default()).unwrap();
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "%31%32%37.0.0.1",
        "①②⑦.0.0.1",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "100.64.0.1",
        "10.0.0.1",
        "[fd12::1]",
        "[fe80::1]",
    ] {
        assert_eq!(reason(&egress, &format!("http://{host}:{port}/")).await, "AddressNotAllowed", "{host}");
        assert_eq!(reason(&egress, &format!("https://{host}:{port}/")).await, "AddressNotAllowed", "{host}");
    }
    let resolver = Scripted::new(&[&[&server.address.to_string()]]);
    for host in ["localhost", "LOCALHOST", "localhost.", "a.localhost", "127.0.0.1.nip.io"] {
        let egress = self::egress("false", &resolver);
        assert_eq!(reason(&egress, &format!("http://{host}:{port}/")).await, "AddressNotAllowed", "{host}");
    }
    assert_eq!(server.connections(), 0);
    // Zones choose an interface, and no URL has them (WHATWG URL, host parsing).
    for url in
        ["http://[fe80::1%25lo]/", "http://[::1%lo]/", "http://256.0.0.1/", "http://127.0.0.1.1/", "http://1.2.3/4:x@/"]
    {
        assert!(url::Url::parse(url).map_or(true, |url| url.host_str() != Some("127.0.0.1")), "{url}");
    }
}

#[tokio::test]
async fn one_internal_address_among_public_ones_refuses_all() {
    for answers in
        [["8.8.8.8:443", "10.0.0.1:443"], ["10.0.0.1:443", "8.8.8.8:443"], ["[2606:4700::1]:443", "[::1]:443"]]
    {
        let resolver = Scripted::new(&[&answers]);
        assert_eq!(reason(&egress("false", &resolver), "https://mixed.example/").await, "AddressNotAllowed");
    }
}

#[tokio::test]
async fn a_name_that_rebinds_is_asked_once_and_the_checked_address_is_dialed() {
    let good = serve(|_| json("{}")).await;
    let evil = serve(|_| json("{}")).await;
    let (first, second) = (good.address.to_string(), evil.address.to_string());
    let resolver = Scripted::new(&[&[&first], &[&second]]);
    assert_eq!(reason(&egress("127.0.0.0/8", &resolver), "http://rebind.example/").await, "connected");
    assert_eq!(resolver.asked.load(Ordering::SeqCst), 1);
    assert_eq!(evil.connections(), 0);

    // And a name that turns internal later is refused at the next connection.
    let resolver = Scripted::new(&[&[&first], &["10.0.0.1:80"]]);
    let egress = egress("127.0.0.0/8", &resolver);
    assert_eq!(reason(&egress, "http://rebind.example/").await, "connected");
    assert_eq!(reason(&egress, "http://rebind.example/").await, "AddressNotAllowed");
}

#[tokio::test]
async fn a_dead_address_does_not_hide_a_live_one() {
    let server = serve(|_| json("{}")).await;
    let live = server.address.to_string();
    // Nobody listens on the port of a listener that was closed.
    let closed = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap().local_addr().unwrap().to_string();
    let resolver = Scripted::new(&[&[&closed, &live]]);
    assert_eq!(reason(&egress("true", &resolver), "http://two.example/").await, "connected");
    let resolver = Scripted::new(&[&[&closed]]);
    assert_eq!(reason(&egress("true", &resolver), "http://one.example/").await, "ConnectFailed");
    assert_eq!(reason(&egress("true", &Scripted::new(&[&[]])), "http://none.example/").await, "HostUnresolved");
}

#[tokio::test]
async fn plain_http_never_reaches_the_public_internet() {
    let resolver = Scripted::new(&[&["8.8.8.8:80"]]);
    assert_eq!(reason(&egress("true", &resolver), "http://public.example/").await, "PlainHttpRefused");
}

#[tokio::test]
async fn errors_name_host_and_remedy_but_no_address() {
    let resolver = Scripted::new(&[&["10.77.66.55:443"]]);
    let connector = egress("false", &resolver).connector(&TlsOptions::default(), PlainHttp::Internal).unwrap();
    let error = connector.connect(&"https://inside.example/".parse().unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("inside.example") && error.contains("--allow-private-upstreams"), "{error}");
    assert!(!error.contains("10.77"), "{error}");
}

#[test]
fn families_alternate_and_attempts_are_bounded() {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
    let mixed = interleave(parse(&["1.0.0.1:1", "1.0.0.2:1", "1.0.0.3:1", "[2606::1]:1"]));
    assert_eq!(mixed, parse(&["1.0.0.1:1", "[2606::1]:1", "1.0.0.2:1", "1.0.0.3:1"]));
    assert_eq!(interleave(parse(&["1.0.0.1:1"; 50])).len(), MOST_ATTEMPTS);
}

#[tokio::test]
async fn a_peer_is_believed_by_its_own_ca_and_name_and_speaks_http2() {
    let (acceptor, ca) = tls_for("mcp.example");
    let server = serve_with(|_| response(200, "application/json", full("{}")), Some(acceptor)).await;
    let resolver = Scripted::new(&[&[&server.address.to_string()]]);
    let egress = egress("true", &resolver);
    let limits = Limits { max_bytes: 100, timeout: Duration::from_secs(10) };
    let fetch = |options: TlsOptions, url: &'static str| {
        let fetcher = egress.fetcher(&options).unwrap();
        async move { fetcher.get(url, limits).await.map(|_| "fetched").unwrap_or_else(|e| e.reason()) }
    };
    let own = TlsOptions { ca_pem: Some(ca.clone()), server_name: None };
    assert_eq!(fetch(own.clone(), "https://mcp.example/").await, "fetched");
    assert_eq!(fetch(own.clone(), "https://mcp.example./").await, "fetched");
    assert_eq!(server.seen()[0].version, http::Version::HTTP_2);
    assert_eq!(fetch(own, "https://other.example/").await, "TlsFailed");
    let renamed = TlsOptions { ca_pem: Some(ca), server_name: Some("mcp.example".to_owned()) };
    assert_eq!(fetch(renamed, "https://other.example/").await, "fetched");
    let (_, foreign) = tls_for("mcp.example");
    assert_eq!(
        fetch(TlsOptions { ca_pem: Some(foreign), server_name: None }, "https://mcp.example/").await,
        "TlsFailed"
    );
}

#[test]
fn unreadable_trust_is_an_error() {
    let egress = open_egress();
    for pem in ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let options = TlsOptions { ca_pem: Some(pem.to_owned()), server_name: None };
        assert_eq!(egress.connector(&options, PlainHttp::Internal).unwrap_err().reason(), "CaBundleInvalid", "{pem}");
    }
    let options = TlsOptions { ca_pem: None, server_name: Some("not a name".to_owned()) };
    assert_eq!(egress.connector(&options, PlainHttp::Internal).unwrap_err().reason(), "ServerNameInvalid");
    assert!(matches!(egress.policy().allow_private, AllowPrivate::Private));
}
