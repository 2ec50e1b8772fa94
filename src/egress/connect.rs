//! From a URI to a connection: look up once, check everything, dial what was checked.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Egress, EgressError, Forbidden, TlsOptions, address, tls};

/// How long one address may keep the next one waiting (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// A name with more addresses than this is connected through the first ones only; all of them are checked.
const MOST_ATTEMPTS: usize = 6;

/// Where plain http is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    /// Nothing but loopback: for documents that decide who is believed.
    Loopback,
    /// Addresses that are not public and that the administrator opened: for upstreams inside a cluster.
    Internal,
}

/// A tower service from a URI to a connection, for `hyper_util::client::legacy::Client`.
#[derive(Clone)]
pub struct Connector {
    egress: Egress,
    // None: the shared one, which is only made when an https URI needs it.
    tls: Option<Arc<ClientConfig>>,
    server_name: Option<ServerName<'static>>,
    plain: PlainHttp,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("plain", &self.plain).finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(egress: Egress, options: &TlsOptions, plain: PlainHttp) -> Result<Self, EgressError> {
        let tls = options.ca_pem.as_deref().map(|pem| egress.inner.trust.own(pem)).transpose()?;
        let server_name = options.server_name.as_deref().map(tls::server_name).transpose()?;
        Ok(Self { egress, tls, server_name, plain })
    }

    /// Opens a connection to the host and port of `uri`, with TLS if its scheme is `https`.
    ///
    /// # Errors
    /// Every way in which that can fail, named; see [`EgressError`].
    pub async fn connect(&self, uri: &Uri) -> Result<Stream, EgressError> {
        let target = Target::of(uri)?;
        let limit = self.egress.inner.policy.connect_timeout;
        match tokio::time::timeout(limit, self.open(&target)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(EgressError::Timeout { host: target.host, seconds: limit.as_secs() }),
        }
    }

    async fn open(&self, target: &Target) -> Result<Stream, EgressError> {
        let addresses = self.checked_addresses(target).await?;
        let tcp =
            dial(&addresses).await.map_err(|detail| EgressError::Connect { host: target.host.clone(), detail })?;
        if !target.https {
            return Ok(Stream::Plain(tcp));
        }
        let config = match &self.tls {
            Some(config) => config.clone(),
            None => self.egress.inner.trust.shared()?,
        };
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => tls::server_name(&target.host)?,
        };
        match TlsConnector::from(config).connect(name, tcp).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(e) => Err(EgressError::Tls { host: target.host.clone(), detail: e.to_string() }),
        }
    }

    /// Resolves once. The addresses returned are the only ones that this attempt will dial.
    async fn checked_addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, EgressError> {
        let host = || target.host.clone();
        let found = match target.literal {
            Some(ip) => vec![SocketAddr::new(ip, target.port)],
            None => {
                let asked = self.egress.inner.policy.asked(&target.host);
                let lookup = self.egress.inner.resolver.lookup(&asked, target.port);
                lookup.await.map_err(|e| EgressError::Resolve { host: host(), detail: e.kind().to_string() })?
            }
        };
        if found.is_empty() {
            return Err(EgressError::Resolve { host: host(), detail: "it has no address".to_owned() });
        }
        for address in &found {
            self.egress.inner.policy.check(address.ip()).map_err(|forbidden| match forbidden {
                Forbidden::Internal(why) => EgressError::Internal { host: host(), why },
                Forbidden::Closed => EgressError::Closed { host: host() },
            })?;
            if !target.https && !self.plain.allows(address.ip()) {
                return Err(EgressError::PlainHttp { host: host() });
            }
        }
        Ok(interleave(found))
    }
}

impl PlainHttp {
    fn allows(self, ip: IpAddr) -> bool {
        match self {
            PlainHttp::Loopback => address::classify(ip) == Some(address::Internal::Loopback),
            PlainHttp::Internal => address::classify(ip).is_some(),
        }
    }
}

struct Target {
    host: String,
    literal: Option<IpAddr>,
    port: u16,
    https: bool,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, EgressError> {
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(EgressError::Url),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(EgressError::Url)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok(Self { literal: host.parse().ok(), host, port, https })
    }
}

/// Alternates families, the resolver's first choice first (RFC 8305 section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    loop {
        let (a, b) = (first.next(), second.next());
        if a.is_none() && b.is_none() {
            mixed.truncate(MOST_ATTEMPTS);
            return mixed;
        }
        mixed.extend(a);
        mixed.extend(b);
    }
}

/// The first connection that succeeds; a slow address lets the next one start (RFC 8305 section 5).
async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut waiting = addresses.iter().copied();
    let mut attempts = FuturesUnordered::new();
    let mut failure = "no address answered".to_owned();
    attempts.extend(waiting.next().map(open_tcp));
    loop {
        let next = tokio::time::timeout(STAGGER, attempts.next()).await;
        match next {
            Ok(Some(Ok(stream))) => return Ok(stream),
            // The kind only: the full text may hold the address.
            Ok(Some(Err(e))) => failure = e.kind().to_string(),
            Ok(None) => return Err(failure),
            Err(_) => {}
        }
        attempts.extend(waiting.next().map(open_tcp));
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where the gateway dials, with a checked address")]
async fn open_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = EgressError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, EgressError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), EgressError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(&uri).await.map(TokioIo::new) })
    }
}

/// An open connection.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Stream::Plain(_) => Connected::new(),
            Stream::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            Stream::Tls(_) => Connected::new(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
