//! A web server over TLS on loopback whose documents a test sets: where a client publishes its metadata and its keys.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{runtime, trusted};

#[derive(Default)]
struct State {
    documents: BTreeMap<String, String>,
    /// Paths as they were asked for.
    asked: Vec<String>,
}

/// The running server; dropping it ends it. Its certificate is of [`trusted::authority`].
pub(crate) struct Documents {
    origin: String,
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
}

impl Documents {
    pub(crate) fn start() -> Self {
        let (certificate, key) = trusted::certificate();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let origin = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let (state, stop): (Arc<Mutex<State>>, _) = (Arc::default(), CancellationToken::new());
        let (served, ended) = (state.clone(), stop.clone());
        runtime().spawn(async move {
            while let Some(Ok((stream, _))) = ended.run_until_cancelled(listener.accept()).await {
                tokio::spawn(answer(acceptor.clone(), stream, served.clone()));
            }
        });
        Self { origin, state, stop }
    }

    /// Where `path` is.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// Serves this document from now on.
    pub(crate) fn put(&self, path: &str, document: &Value) {
        self.state.lock().unwrap().documents.insert(path.to_owned(), document.to_string());
    }

    /// How often `path` was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.state.lock().unwrap().asked.iter().filter(|asked| *asked == path).count()
    }
}

impl Drop for Documents {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One request for each connection.
async fn answer(acceptor: TlsAcceptor, stream: TcpStream, state: Arc<Mutex<State>>) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let found = {
        let mut state = state.lock().unwrap();
        state.asked.push(path.clone());
        state.documents.get(&path).cloned()
    };
    let status = if found.is_some() { "200 OK" } else { "404 Not Found" };
    let body = found.unwrap_or_default();
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
