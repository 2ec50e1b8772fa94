//! One pool of connections per governed server and thread.
//!
//! Invariant: pools are never shared between servers, so neither trust settings nor credentials of one can reach
//! another; the target is the configured one, whatever the caller's request said.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use thread_local::ThreadLocal;

use super::credential::Prepared;
use super::tokens::{Subject, TokenCounters, Tokens, Tried, Trouble};
use super::{UpstreamError, headers};
use crate::egress::{Connector, Egress, PlainHttp, TlsOptions, egress_cause, root_cause};
use crate::generated::server::{self, Credentials};

/// Idle connections that each thread keeps for one upstream.
const MOST_IDLE: usize = 256;

/// How patiently an upstream is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From request to response headers. A tool that answers in one JSON document sends them when it is done.
    pub headers: Duration,
    /// How long an idle connection is kept.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { headers: Duration::from_secs(300), idle: Duration::from_secs(60) }
    }
}

type Pool = Client<Connector, Full<Bytes>>;

/// A governed server as the gateway reaches it. Cheap to clone; clones share the pools, of which each thread has its
/// own: a call and its connection to the upstream are driven by one thread, and need not wake another.
#[derive(Clone)]
pub struct Upstream {
    clients: Arc<ThreadLocal<Pool>>,
    connector: Connector,
    uri: Uri,
    credentials: Prepared,
    /// Where tokens come from that are asked for.
    tokens: Option<Arc<Tokens>>,
    timeouts: Timeouts,
}

/// What upstreams are reached by.
#[derive(Clone, Copy, Debug)]
pub struct Means<'m> {
    /// The dialer.
    pub egress: &'m Egress,
    /// How patiently.
    pub timeouts: Timeouts,
    /// What is counted of tokens.
    pub tokens: &'m TokenCounters,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("host", &self.uri.host()).finish_non_exhaustive()
    }
}

impl Upstream {
    /// Prepares a pool; opens no connection.
    ///
    /// # Errors
    /// If URL, CA bundle, server name or credentials are unusable.
    pub fn new(config: &server::Upstream, egress: &Egress) -> Result<Self, UpstreamError> {
        Self::by(config, &Means { egress, timeouts: Timeouts::default(), tokens: &TokenCounters::default() })
    }

    /// [`Upstream::new`] with other time limits, and counters.
    ///
    /// # Errors
    /// As [`Upstream::new`].
    pub fn by(config: &server::Upstream, means: &Means<'_>) -> Result<Self, UpstreamError> {
        let Means { egress, timeouts, tokens } = *means;
        let mut url = url::Url::parse(&config.url).map_err(|_| UpstreamError::Url)?;
        if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
            return Err(UpstreamError::Url);
        }
        url.set_fragment(None);
        let uri: Uri = url.as_str().parse().map_err(|_| UpstreamError::Url)?;
        let tls = TlsOptions { ca_pem: config.tls.ca_pem.clone(), server_name: config.tls.server_name.clone() };
        let connector = egress.connector(&tls, PlainHttp::Internal)?;
        let tokens = match &config.credentials {
            Credentials::Oauth(oauth) => Some(Tokens::new(oauth, egress, tokens)?),
            Credentials::None | Credentials::Headers(_) | Credentials::ServiceAccount { .. } => None,
        };
        let credentials = Prepared::new(&config.credentials)?;
        Ok(Self { clients: Arc::default(), connector, uri, credentials, tokens, timeouts })
    }

    /// The same server through connections of its own, which end with it: for what is asked once in a while, of thousands of
    /// servers.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { clients: Arc::default(), ..self.clone() }
    }

    fn pool(&self) -> &Pool {
        self.clients.get_or(|| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .pool_idle_timeout(self.timeouts.idle)
                .pool_max_idle_per_host(MOST_IDLE)
                // Finds dead peers under streams that are silent for long.
                .http2_keep_alive_interval(Duration::from_secs(30))
                .http1_max_headers(64)
                .http2_max_header_list_size(32 * 1024)
                .build(self.connector.clone())
        })
    }

    /// The upstream's endpoint.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// A request to the upstream that carries what of `caller`'s headers may cross, and the gateway's credentials.
    /// Session and event ids are for the proxy to insert.
    pub fn request(&self, method: Method, caller: &HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let mut headers = headers::to_upstream(caller);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION"))));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        self.credentials.apply(&mut headers);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        request
    }

    /// Whether it is called with tokens that are got with callers' tokens.
    pub fn needs_callers(&self) -> bool {
        self.tokens.as_ref().is_some_and(|tokens| tokens.need_callers())
    }

    /// What keeps it from being called with tokens, if something does.
    pub fn trouble(&self) -> Option<Arc<Trouble>> {
        self.tokens.as_ref()?.trouble()
    }

    #[cfg(test)]
    pub(super) fn tokens(&self) -> Option<&Arc<Tokens>> {
        self.tokens.as_ref()
    }

    /// Sends the request that `make` makes of a body, by [`Upstream::request`], with a token where the upstream is called
    /// with one. A request that the upstream refused for want of another token, and so did not carry out, is sent again: once
    /// because it does not take the token (401), and once because it asks for more scopes (RFC 6750 section 3.1). So, there, the
    /// body is held until the upstream has answered.
    ///
    /// # Errors
    /// As [`Upstream::send`]; if there is no token; or if the upstream asks for scopes that no token has.
    pub async fn call(
        &self,
        caller: Option<&Subject>,
        body: Bytes,
        make: impl Fn(Bytes) -> Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let Some(tokens) = &self.tokens else { return self.send(make(body)).await };
        let (mut token, mut tried) = (tokens.token(caller).await?, Tried::default());
        loop {
            let mut request = make(body.clone());
            token.apply(request.headers_mut());
            let response = self.send(request).await?;
            let (status, headers) = (response.status(), response.headers());
            match tokens.after(caller, token, status, headers, &mut tried).await? {
                Some(other) => token = other,
                None => return Ok(response),
            }
        }
    }

    /// Sends a request made by [`Upstream::request`]. The response's body streams; dropping the future or the body
    /// aborts the exchange. Redirects are not followed and nothing is decompressed; judge the head with
    /// [`super::Answer::judge`].
    ///
    /// # Errors
    /// If no connection could be opened, it broke, or no headers came in time.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, UpstreamError> {
        match tokio::time::timeout(self.timeouts.headers, self.pool().request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) => Err(match egress_cause(&e) {
                Some(egress) => UpstreamError::Egress(egress.clone()),
                None => UpstreamError::Http { detail: root_cause(&e) },
            }),
            Err(_) => Err(UpstreamError::Timeout { seconds: self.timeouts.headers.as_secs() }),
        }
    }
}

#[cfg(test)]
mod tests;
