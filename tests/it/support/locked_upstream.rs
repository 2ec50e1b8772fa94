//! An MCP server as vendors run it: behind TLS with a certificate of a private authority, and only for those who show a
//! key in a header.

use std::sync::Arc;

use portcullis::roles::demo;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::runtime;

/// The running server; dropping it ends it.
pub(crate) struct LockedUpstream {
    url: String,
    ca_pem: String,
    stop: CancellationToken,
}

impl LockedUpstream {
    /// The demo server, for requests that carry this header line.
    pub(crate) fn start(header: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let (acceptor, header, stop) =
            (TlsAcceptor::from(Arc::new(config)), header.to_lowercase(), CancellationToken::new());
        let (outside, inside) = runtime()
            .block_on(async { tokio::try_join!(TcpListener::bind("127.0.0.1:0"), TcpListener::bind("127.0.0.1:0")) })
            .unwrap();
        let url = format!("https://localhost:{}{}", outside.local_addr().unwrap().port(), demo::PATH);
        let behind = inside.local_addr().unwrap().to_string();
        runtime().spawn(demo::serve(inside, stop.clone()));
        let ended = stop.clone();
        runtime().spawn(async move {
            while let Some(Ok((stream, _))) = ended.run_until_cancelled(outside.accept()).await {
                tokio::spawn(serve(acceptor.clone(), stream, header.clone(), behind.clone()));
            }
        });
        Self { url, ca_pem: made.cert.pem(), stop }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }
}

impl Drop for LockedUpstream {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Lets a connection through whose first request has the header.
async fn serve(acceptor: TlsAcceptor, stream: TcpStream, header: String, behind: String) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    if !String::from_utf8_lossy(&head).to_lowercase().contains(&format!("\r\n{header}\r\n")) {
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
        return stream.shutdown().await;
    }
    let mut server = TcpStream::connect(behind).await?;
    server.write_all(&head).await?;
    tokio::io::copy_bidirectional(&mut stream, &mut server).await?;
    Ok(())
}
