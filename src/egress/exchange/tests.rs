use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::testing::{Scripted, endless, full, json, open_egress, response, serve, stuck, tls_for};
use super::super::{AllowPrivate, Egress, Policy, TlsOptions};
use super::*;

const LIMITS: Limits = Limits { max_bytes: 1000, timeout: Duration::from_secs(30) };

fn message(url: String) -> Message {
    Message {
        method: Method::POST,
        url,
        authorization: Some(Sensitive::new("Bearer canary")),
        content: Content::Json(Sensitive::new(r#"{"secret":"canary"}"#)),
    }
}

fn exchanger() -> Exchanger {
    open_egress().exchanger(&TlsOptions::default()).unwrap()
}

async fn sent(url: String) -> Result<Answer, ExchangeError> {
    exchanger().send(&message(url), LIMITS).await
}

/// A peer that does `with` each connection what it pleases, and counts nothing.
async fn peer<F: Future<Output = ()> + Send>(with: impl Fn(TcpStream) -> F + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/register", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            with(stream).await;
        }
    });
    url
}

#[tokio::test]
async fn a_message_arrives_as_it_is_and_says_little_else() {
    let server = serve(|_| response(201, "application/json; charset=utf-8", full("{\"client_id\":\"c\"}"))).await;
    let answer = sent(server.url("/register")).await.unwrap();
    assert_eq!((answer.status, answer.retry_after, answer.is_json), (201, None, true));
    assert!(answer.body == "{\"client_id\":\"c\"}" && answer.challenges.is_empty());
    let seen = server.seen().remove(0);
    assert_eq!((seen.method, &*seen.body), (Method::POST, &br#"{"secret":"canary"}"#[..]));
    assert_eq!(
        (&seen.headers["authorization"], &seen.headers["content-type"]),
        (&"Bearer canary".parse().unwrap(), &"application/json".parse().unwrap())
    );
    let mut names: Vec<_> = seen.headers.keys().map(|name| name.as_str().to_owned()).collect();
    names.sort_unstable();
    let expected =
        ["accept", "accept-encoding", "authorization", "content-length", "content-type", "host", "user-agent"];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn forms_and_empty_bodies_say_what_they_are() {
    let server = serve(|_| response(204, "text/plain", full(""))).await;
    let form = Message {
        authorization: None,
        content: Content::Form(Sensitive::new("grant_type=client_credentials")),
        ..message(server.url("/token"))
    };
    let delete = Message { method: Method::DELETE, content: Content::Empty, ..message(server.url("/register/c")) };
    for message in [&form, &delete] {
        let answer = exchanger().send(message, LIMITS).await.unwrap();
        assert_eq!((answer.status, answer.is_json, answer.body.len()), (204, false, 0));
    }
    let seen = server.seen();
    assert_eq!(seen[0].headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!((&*seen[0].body, seen[0].headers.get("authorization")), (&b"grant_type=client_credentials"[..], None));
    assert_eq!((&seen[1].method, seen[1].headers.get("content-type")), (&Method::DELETE, None));
    assert!(seen[1].body.is_empty());
}

#[tokio::test]
async fn every_status_but_a_redirect_is_an_answer() {
    let canary = serve(|_| json("{}")).await;
    let target = canary.url("/");
    let server = serve(move |asked| {
        let status: u16 = asked.path.trim_start_matches('/').parse().unwrap();
        let built = http::Response::builder().status(status).header("location", &target).header("retry-after", "7");
        built.body(full("{}")).unwrap()
    })
    .await;
    for status in [200, 201, 400, 401, 403, 404, 409, 429, 500, 503] {
        let answer = sent(server.url(&format!("/{status}"))).await.unwrap();
        assert_eq!((answer.status, answer.retry_after), (status, Some(Duration::from_secs(7))));
    }
    for status in [301, 302, 303, 307, 308] {
        let error = sent(server.url(&format!("/{status}"))).await.unwrap_err();
        assert_eq!((error.reason(), error.was_sent()), ("ExchangeRedirected", true), "{status}");
    }
    assert_eq!(canary.connections(), 0, "credentials go where they were meant to go");
}

#[tokio::test]
async fn answers_are_bounded_and_a_failure_is_known_by_its_status_alone() {
    let server = serve(|asked| match asked.path.as_str() {
        "/exact" => json("x".repeat(1000)),
        "/large" => json("x".repeat(1001)),
        "/endless" => response(201, "application/json", endless("{\"a\":")),
        "/busy" => response(503, "text/html", endless("<p>busy</p>")),
        _ => response(200, "application/json", stuck("{")),
    })
    .await;
    assert_eq!(sent(server.url("/exact")).await.unwrap().body.len(), 1000);
    for path in ["/large", "/endless"] {
        let error = sent(server.url(path)).await.unwrap_err();
        assert_eq!((error.reason(), error.was_sent()), ("ExchangeTooLarge", true), "{path}");
    }
    let busy = sent(server.url("/busy")).await.unwrap();
    assert_eq!((busy.status, busy.is_json, busy.body.len()), (503, false, 0));
    let limits = Limits { timeout: Duration::from_millis(100), ..LIMITS };
    let error = exchanger().send(&message(server.url("/stuck")), limits).await.unwrap_err();
    assert_eq!((error.reason(), error.was_sent()), ("ExchangeTimeout", true));
}

#[tokio::test]
async fn compressed_and_other_answers_are_not_json() {
    let server = serve(|asked| {
        let built = http::Response::builder().header("content-type", asked.path.trim_start_matches("/as/"));
        match asked.path.as_str() {
            "/gzip" => http::Response::builder()
                .header("content-type", "application/json")
                .header("content-encoding", "gzip")
                .body(full("{}"))
                .unwrap(),
            _ => built.body(full("{}")).unwrap(),
        }
    })
    .await;
    for (path, is_json) in [
        ("/as/application/json", true),
        ("/as/application/problem+json", true),
        ("/as/text/html", false),
        ("/gzip", false),
    ] {
        assert_eq!(sent(server.url(path)).await.unwrap().is_json, is_json, "{path}");
    }
}

/// An address at which nobody listens, while it is held.
fn closed() -> (socket2::Socket, std::net::SocketAddr) {
    let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    held.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = held.local_addr().unwrap().as_socket().unwrap();
    (held, address)
}

#[tokio::test]
async fn what_certainly_did_not_arrive_is_told_from_what_may_have() {
    let (_held, closed) = closed();
    let (acceptor, _) = tls_for("as.example");
    let stranger = serve_tls(acceptor).await;
    let lost = peer(|mut stream: TcpStream| async move {
        // The request is read, and its answer is lost.
        let mut read = [0; 1024];
        assert!(stream.read(&mut read).await.unwrap() > 0);
    })
    .await;
    let reset = peer(|stream: TcpStream| async move {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    let garbage = peer(|mut stream: TcpStream| async move {
        stream.write_all(b"SSH-2.0-canary\r\n\r\n").await.unwrap();
        drop(stream.read_to_end(&mut Vec::new()).await);
    })
    .await;
    for (url, reason, was_sent) in [
        (format!("http://{closed}/"), "ConnectFailed", false),
        ("http://10.0.0.1/".to_owned(), "PlainHttpRefused", false),
        ("https://169.254.169.254/".to_owned(), "AddressNotAllowed", false),
        ("ftp://127.0.0.1/".to_owned(), "UrlInvalid", false),
        ("nonsense".to_owned(), "UrlInvalid", false),
        (stranger, "TlsFailed", false),
        (lost, "ExchangeFailed", true),
        (reset, "ExchangeFailed", true),
        (garbage, "ExchangeFailed", true),
    ] {
        let error = sent(url.clone()).await.unwrap_err();
        assert_eq!((error.reason(), error.was_sent()), (reason, was_sent), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }
}

/// A server whose certificate nobody vouches for.
async fn serve_tls(acceptor: tokio_rustls::TlsAcceptor) -> String {
    let server = super::super::testing::serve_with(|_| json("{}"), Some(acceptor)).await;
    format!("https://{}/register", server.address)
}

#[tokio::test]
async fn a_connection_that_is_never_made_was_not_used() {
    // Accepted by the system, and never answered: the handshake cannot end.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/register", listener.local_addr().unwrap());
    let policy = Policy {
        allow_private: AllowPrivate::Private,
        connect_timeout: Duration::from_millis(50),
        ..Policy::default()
    };
    let exchanger = Egress::new(policy).unwrap().exchanger(&TlsOptions::default()).unwrap();
    let error = exchanger.send(&message(url), LIMITS).await.unwrap_err();
    assert_eq!((error.reason(), error.was_sent()), ("ConnectTimeout", false));
}

#[tokio::test]
async fn what_cannot_be_sent_is_not() {
    let server = serve(|_| json("{}")).await;
    let most = "x".repeat(MAX_REQUEST_BYTES);
    let good = Message { content: Content::Form(Sensitive::new(most.clone())), ..message(server.url("/a")) };
    let large = Message { content: Content::Form(Sensitive::new(most + "x")), ..good.clone() };
    let split = Message { authorization: Some(Sensitive::new("Bearer canary\r\nX-Evil: 1")), ..good.clone() };
    assert!(exchanger().send(&good, LIMITS).await.is_ok());
    for message in [large, split] {
        let error = exchanger().send(&message, LIMITS).await.unwrap_err();
        assert_eq!((error.reason(), error.was_sent()), ("ExchangeImpossible", false));
        assert!(!format!("{error} {error:?} {message:?}").contains("canary"), "{error}");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn nothing_that_is_secret_is_shown() {
    let server = serve(|_| json("{\"client_secret\":\"canary\"}")).await;
    let url = format!("http://user:canary@{}/a?token=canary", server.address);
    let answer = sent(url).await.unwrap();
    assert!(!format!("{answer:?}").contains("canary"), "{answer:?}");
    assert!(!format!("{:?}", message(server.url("/"))).contains("canary"));
    let (_held, closed) = closed();
    let error = sent(format!("http://user:canary@{closed}/a?token=canary")).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
}

#[tokio::test]
async fn a_certificate_authority_of_its_own_is_enough() {
    let (acceptor, ca) = tls_for("as.example");
    let server = super::super::testing::serve_with(|_| json("{}"), Some(acceptor)).await;
    let policy = Policy { allow_private: AllowPrivate::Private, ..Policy::default() };
    let resolver = Scripted::new(&[&[&server.address.to_string()]]);
    let egress = Egress::with_resolver(policy, Arc::new(resolver)).unwrap();
    let exchanger = egress.exchanger(&TlsOptions { ca_pem: Some(ca), server_name: None }).unwrap();
    let answer = exchanger.send(&message("https://as.example/register".to_owned()), LIMITS).await.unwrap();
    assert_eq!((answer.status, server.seen()[0].version), (200, http::Version::HTTP_2));
}

#[test]
fn a_wait_is_read_in_both_forms_and_never_long() {
    let now: Timestamp = "1994-11-06T08:49:30Z".parse().unwrap();
    for (text, seconds) in [
        ("0", Some(0)),
        ("120", Some(120)),
        (" 120 ", Some(120)),
        ("86400", Some(3600)),
        ("99999999999999999999999999", Some(3600)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
        ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
        ("Mon, 06 Nov 2034 08:49:00 GMT", Some(3600)),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("Mon, 06 Nov 1994 08:49:37 GMT", None),
    ] {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
        assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
    }
    assert_eq!(retry_after(&HeaderMap::new(), now), None);
}

/// A server that is public when its metadata is read, and somewhere inside when a credential is sent: whoever owns a name says
/// anew each time where it is.
#[tokio::test]
async fn a_name_that_turns_inwards_after_its_metadata_was_read_gets_no_credential() {
    let (good, canary) = (serve(|_| json("{}")).await, TcpListener::bind("127.0.0.2:0").await.unwrap());
    let (first, inside) = (good.address.to_string(), canary.local_addr().unwrap());
    let port = inside.port();
    let (v4, mapped) = (inside.to_string(), format!("[::ffff:127.0.0.2]:{port}"));
    let nat64 = format!("[64:ff9b::7f00:2]:{port}");
    let answers: [&[&str]; 9] = [
        &[&v4],
        &[&first, &v4],
        &[&v4, &first],
        &[&mapped],
        &[&nat64],
        &["[::1]:80"],
        &["10.0.0.1:443"],
        &["169.254.169.254:80"],
        &["[fd00:ec2::254]:80"],
    ];
    for answer in answers {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let resolver = Scripted::new(&[&[&first], answer]);
            let open = "127.0.0.1/32".parse::<AllowPrivate>().unwrap();
            let policy = Policy { allow_private: open, ..Policy::default() };
            let egress = Egress::with_resolver(policy, Arc::new(resolver.clone())).unwrap();
            let tls = TlsOptions::default();
            let limits = LIMITS;
            egress.fetcher(&tls).unwrap().get("http://rebind.example/metadata", limits).await.unwrap();
            let message = Message { method, ..message("http://rebind.example/register".to_owned()) };
            let error = egress.exchanger(&tls).unwrap().send(&message, limits).await.unwrap_err();
            assert_eq!((error.reason(), error.was_sent()), ("AddressNotAllowed", false), "{answer:?}");
            assert!(!error.to_string().contains("127.0.0.2") && !error.to_string().contains("canary"), "{error}");
            assert_eq!(resolver.asked.load(std::sync::atomic::Ordering::SeqCst), 2, "asked once for each connection");
        }
    }
    assert!(
        good.seen().iter().all(|seen| seen.path == "/metadata"),
        "the first one that was checked is not dialed again"
    );
    let nobody = tokio::time::timeout(Duration::ZERO, canary.accept()).await;
    assert!(nobody.is_err(), "somebody inside was called");
}
