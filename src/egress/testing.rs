//! A scripted HTTP server on loopback, and resolvers that lie.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::resolve::{Lookup, Resolve};
use super::{AllowPrivate, Egress, Policy};

pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// What the server was asked.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) version: http::Version,
}

/// A server that lives as long as its test.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// Answers every request with what `script` makes of it.
pub(crate) async fn serve(script: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static) -> Server {
    serve_with(script, None).await
}

pub(crate) async fn serve_with(
    script: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static,
    tls: Option<TlsAcceptor>,
) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server { address: listener.local_addr().unwrap(), seen: Arc::default(), connections: Arc::default() };
    let (script, shared) = (Arc::new(script), server.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            shared.connections.fetch_add(1, Ordering::SeqCst);
            let (script, seen, tls) = (script.clone(), shared.seen.clone(), tls.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(script.clone(), seen.clone(), request));
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let served = match tls {
                    None => builder.serve_connection(TokioIo::new(stream), service).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => builder.serve_connection(TokioIo::new(stream), service).await,
                        Err(_) => return,
                    },
                };
                // Clients of these tests hang up as they please.
                drop(served);
            });
        }
    });
    server
}

async fn answer<F: Fn(&Seen) -> Response<Body>>(
    script: Arc<F>,
    seen: Arc<Mutex<Vec<Seen>>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, hyper::Error> {
    let (parts, body) = request.into_parts();
    #[expect(clippy::disallowed_methods, reason = "a test's own client sends little")]
    let body = body.collect().await?.to_bytes();
    let asked = Seen {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        headers: parts.headers,
        body,
        version: parts.version,
    };
    seen.lock().unwrap().push(asked.clone());
    Ok(script(&asked))
}

/// A body that is there at once.
pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// A body that begins with `text` and never ends.
pub(crate) fn stuck(text: &'static str) -> Body {
    let first = futures_util::stream::iter([Ok(hyper::body::Frame::data(Bytes::from_static(text.as_bytes())))]);
    let stream = futures_util::StreamExt::chain(first, futures_util::stream::pending());
    BoxBody::new(http_body_util::StreamBody::new(stream))
}

/// A body of `text` over and over, without end.
pub(crate) fn endless(text: &'static str) -> Body {
    let chunk = Bytes::from(text.repeat(1000));
    let frame = move || Ok::<_, Infallible>(hyper::body::Frame::data(chunk.clone()));
    BoxBody::new(http_body_util::StreamBody::new(futures_util::stream::repeat_with(frame)))
}

/// A response of this type.
pub(crate) fn response(status: u16, content_type: &str, body: Body) -> Response<Body> {
    Response::builder().status(status).header("content-type", content_type).body(body).unwrap()
}

pub(crate) fn json(text: impl Into<Bytes>) -> Response<Body> {
    response(200, "application/json", full(text))
}

/// An egress that may dial loopback.
pub(crate) fn open_egress() -> Egress {
    Egress::new(Policy { allow_private: AllowPrivate::Private, ..Policy::default() }).unwrap()
}

/// A resolver that gives each of its answers once, then the last one again, and counts.
#[derive(Clone)]
pub(crate) struct Scripted {
    answers: Arc<Vec<Vec<SocketAddr>>>,
    pub(crate) asked: Arc<AtomicUsize>,
}

impl Scripted {
    pub(crate) fn new(answers: &[&[&str]]) -> Self {
        let parse = |answer: &&[&str]| answer.iter().map(|ip| ip.parse().unwrap()).collect();
        Self { answers: Arc::new(answers.iter().map(parse).collect()), asked: Arc::default() }
    }
}

impl Resolve for Scripted {
    fn lookup(&self, _: &str, _: u16) -> Lookup {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst).min(self.answers.len() - 1);
        let answer = self.answers[turn].clone();
        Box::pin(async move { Ok(answer) })
    }
}

/// What a server needs to be `name`, and the certificate that vouches for it.
pub(crate) fn tls_for(name: &str) -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let certs = rustls::pki_types::CertificateDer::from(made.cert.der().to_vec());
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certs], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), made.cert.pem())
}
