//! An HTTP/2 client, in clear text with prior knowledge or over TLS, that sends what a test hands it.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use tokio::net::TcpStream;

use super::http::Event;
use super::runtime;

/// One connection, on which requests are sent side by side.
pub(crate) struct Http2 {
    sender: SendRequest<Full<Bytes>>,
    /// `scheme://authority` of every request.
    origin: String,
}

/// An answer whose body may go on.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    body: Incoming,
}

impl Http2 {
    /// In clear text: the client knows that the gateway speaks it.
    pub(crate) fn clear(address: &str) -> Self {
        let origin = format!("http://{address}");
        let sender = runtime().block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender
        });
        Self { sender, origin }
    }

    /// In clear text, as a client that lets `window` bytes of every answer come, and more only as they are read (RFC 9113
    /// section 5.2).
    pub(crate) fn narrow(address: &str, window: u32) -> Self {
        let origin = format!("http://{address}");
        let sender = runtime().block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut client = Builder::new(TokioExecutor::new());
            let (sender, connection) =
                client.initial_stream_window_size(window).handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender
        });
        Self { sender, origin }
    }

    /// Over TLS to `name`, which this certificate is for; HTTP/2 is agreed on in the handshake (RFC 9113 section 3.2).
    pub(crate) fn tls(address: &str, name: &'static str, certificate: &str) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let sender = runtime().block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            // As every client that cares for time.
            stream.set_nodelay(true).unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let stream = connector.connect(ServerName::try_from(name).unwrap(), stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender
        });
        Self { sender, origin: format!("https://{name}") }
    }

    /// Sends a request and gives the head of its answer.
    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = http::Request::builder().method(method).uri(format!("{}{path}", self.origin));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        let (head, body) = runtime().block_on(self.sender.send_request(request)).unwrap().into_parts();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// Posts a message of the 2026 line, whose tool, if its method has one, is named in the body.
    pub(crate) fn post(&mut self, token: &str, path: &str, method: &str, body: &str) -> Answer {
        let message: Value = serde_json::from_str(body).unwrap();
        let bearer = format!("Bearer {token}");
        let mut headers = vec![
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", method),
        ];
        let name = message["params"]["name"].as_str().filter(|_| method == "tools/call");
        headers.extend(name.map(|name| ("mcp-name", name)));
        self.send("POST", path, &headers, body)
    }

    /// Waits until the gateway has closed the connection.
    pub(crate) fn wait_closed(&self) {
        super::wait::until("the connection to be closed", || self.sender.is_closed().then_some(()));
    }
}

impl Answer {
    /// The next piece of the body; nothing at its end.
    pub(crate) fn read_some(&mut self) -> Option<Bytes> {
        let frame = runtime().block_on(self.body.frame())?;
        Some(frame.unwrap().into_data().unwrap())
    }

    /// The answer to a request, in JSON or as the last event of a stream.
    pub(crate) fn answer(mut self) -> Value {
        if self.headers["content-type"] != "text/event-stream" {
            return self.json();
        }
        let (mut buffer, mut last) = (String::new(), None);
        while let Some(event) = self.read_event(&mut buffer) {
            last = Some(event.data);
        }
        serde_json::from_str(&last.unwrap()).unwrap()
    }

    /// The whole body as JSON.
    pub(crate) fn json(mut self) -> Value {
        let mut body = Vec::new();
        while let Some(piece) = self.read_some() {
            body.extend_from_slice(&piece);
        }
        serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{e} in {:?}", String::from_utf8_lossy(&body)))
    }

    /// The next event of a stream; nothing at its end. Comments are skipped.
    pub(crate) fn read_event(&mut self, buffer: &mut String) -> Option<Event> {
        loop {
            if let Some(event) = Event::take(buffer) {
                return Some(event);
            }
            buffer.push_str(&String::from_utf8_lossy(&self.read_some()?));
        }
    }
}
