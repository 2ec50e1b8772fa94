use http_body_util::BodyExt as _;
use hyper::client::conn::http1::{SendRequest, handshake};
use kube::{Client, Config};
use prometheus_client::registry::Registry;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::TlsConnector;

use super::super::follow::Known;
use super::super::metrics::Metrics;
use super::super::world::Installation;
use super::*;
use crate::egress::testing::tls_for;
use crate::resolve::PublicUrl;

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// A desk that nobody has told anything, of a cluster that is not there.
fn desk() -> Arc<Desk> {
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let installation = Installation {
        public_url: PublicUrl::parse("https://mcp.example.com").unwrap(),
        system_namespace: "sys".into(),
        gateway_namespace: "gate".into(),
        cluster_domain: "cluster.local".into(),
    };
    Arc::new(Desk::new(client, Known::new(installation), Metrics::register(&mut Registry::default())))
}

/// A webhook that keeps connections for `linger` once it drains; its address, and a way to believe it.
async fn webhook(drain: &Drain, linger: Duration) -> (SocketAddr, TlsConnector) {
    let (acceptor, pem) = tls_for("webhook");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let door = Door::new("/dev/null".into());
    tokio::spawn(serve_lingering(socket, acceptor, door, desk(), drain.clone(), linger));
    (address, TlsConnector::from(Arc::new(config)))
}

#[expect(clippy::disallowed_methods, reason = "a test client on loopback")]
async fn dial(address: SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect(address).await
}

async fn connect(address: SocketAddr, tls: &TlsConnector) -> SendRequest<Full<Bytes>> {
    let stream = dial(address).await.unwrap();
    let stream = tls.connect(ServerName::try_from("webhook").unwrap(), stream).await.unwrap();
    let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Status and `Connection` of an answer that has come whole.
async fn ask(sender: &mut SendRequest<Full<Bytes>>) -> (StatusCode, Option<HeaderValue>) {
    sender.ready().await.unwrap();
    let request = Request::post("/whatever").header("host", "webhook").body(Full::default()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    #[expect(clippy::disallowed_methods, reason = "what it answers is a word")]
    body.collect().await.unwrap();
    (head.status, head.headers.get(CONNECTION).cloned())
}

/// Asks until it is so: nothing here has a time of its own.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    while !is_so().await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_asks_after_the_listener_is_shut_is_answered_and_told_that_it_was_the_last_time() {
    let drain = Drain::new();
    let (address, tls) = webhook(&drain, FOR_EVER).await;
    let (mut first, mut second) = (connect(address, &tls).await, connect(address, &tls).await);
    assert_eq!(ask(&mut first).await, (StatusCode::NOT_FOUND, None));
    assert_eq!(ask(&mut second).await, (StatusCode::NOT_FOUND, None));
    drain.start();
    until(async || dial(address).await.is_err()).await;
    for connection in [&mut first, &mut second] {
        let last = Some(HeaderValue::from_static("close"));
        assert_eq!(ask(connection).await, (StatusCode::NOT_FOUND, last));
        assert!(connection.ready().await.is_err(), "it is kept all the same");
    }
}

#[tokio::test]
async fn who_asks_no_more_is_let_go_once_a_drain_has_lingered() {
    let drain = Drain::new();
    let (address, tls) = webhook(&drain, Duration::ZERO).await;
    let mut idle = connect(address, &tls).await;
    assert_eq!(ask(&mut idle).await, (StatusCode::NOT_FOUND, None));
    drain.start();
    until(async || idle.ready().await.is_err()).await;
}
