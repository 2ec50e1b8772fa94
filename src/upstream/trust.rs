//! Whom an upstream trusts: its challenge, its metadata (RFC 9728), and its issuer's own (RFC 8414).
//!
//! Invariant: nothing that proves anybody is sent to find that out; every URL that a remote document names goes through the
//! dialer, and no redirect is followed; and a document counts only if it is about the resource, or the issuer, in question.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::Url;

use super::{Means, Timeouts, TokenCounters, Upstream, UpstreamError};
use crate::egress::{Egress, EgressError, FetchError, Limits, TlsOptions};
use crate::generated::server::{self, Credentials, UpstreamTls};
use crate::issuer::metadata::{self, MetadataError};
use crate::oauth::DocumentError;
use crate::oauth::bearer_challenge::Challenge;
use crate::oauth::identifier::{Identifier, IdentifierError};
use crate::oauth::protected_resource::{ProtectedResource, metadata_url};
use crate::oauth::upstream_trust::{Question, Trust, others};

/// For the upstream's document.
const LIMITS: Limits = Limits { max_bytes: 256 * 1024, timeout: Duration::from_secs(10) };
/// For the upstream's refusal. A call may take long; to be refused takes no time.
const REFUSAL: Duration = Duration::from_secs(10);
/// For everything.
const TIME: Duration = Duration::from_secs(30);
/// What asks for nothing, and needs a token all the same.
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// Why nobody knows whom an upstream trusts.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TrustError {
    /// It gives no answer.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Its document, or its issuer, cannot be asked for.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// It names a document by a URL that is none to fetch from.
    #[error("its challenge names its metadata by an unacceptable URL: {0}")]
    Url(#[from] IdentifierError),
    /// Its document cannot be fetched.
    #[error("its metadata is not to be had: {0}")]
    Fetch(#[from] FetchError),
    /// Its document is not about it, or says nothing.
    #[error("its metadata at {url} cannot be used: {cause}")]
    Document {
        /// Where it was found.
        url: String,
        /// What is wrong with it.
        cause: DocumentError,
    },
    /// The issuer's metadata is not to be had.
    #[error(transparent)]
    Issuer(#[from] MetadataError),
    /// The issuer gives no tokens.
    #[error("the metadata of {issuer} names no token endpoint")]
    NoTokenEndpoint {
        /// The issuer.
        issuer: String,
    },
    /// More time than allowed.
    #[error("it took longer than {} s to find out", TIME.as_secs())]
    Timeout,
}

impl TrustError {
    /// A stable word for conditions and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            TrustError::Upstream(error) => error.reason(),
            TrustError::Egress(error) => error.reason(),
            TrustError::Url(error) => error.reason(),
            TrustError::Fetch(error) => error.reason(),
            TrustError::Document { cause, .. } => cause.reason(),
            TrustError::Issuer(_) => "IssuerMetadataUnavailable",
            TrustError::NoTokenEndpoint { .. } => "TokenEndpointMissing",
            TrustError::Timeout => "TrustTimeout",
        }
    }
}

/// Asks an upstream whom it trusts, and its issuer where tokens are.
///
/// # Errors
/// If one of them does not say. Then nothing is known that was not known before.
pub async fn trust(question: &Question, egress: &Egress) -> Result<Trust, TrustError> {
    tokio::time::timeout(TIME, ask(question, egress)).await.unwrap_or(Err(TrustError::Timeout))
}

async fn ask(question: &Question, egress: &Egress) -> Result<Trust, TrustError> {
    let url = match challenged(question, egress).await? {
        Some(url) => Identifier::resource(&url).map(|url| url.as_str().to_owned())?,
        None => metadata_url(&question.resource)?,
    };
    // The name stands for the upstream's own host: one that it names elsewhere must be who its URL says.
    let server_name = question.server_name.clone().filter(|_| is_same_origin(&url, &question.url));
    let tls = TlsOptions { ca_pem: question.ca_pem.clone(), server_name };
    let fetched = egress.fetcher(&tls)?.get(&url, LIMITS).await?;
    let document = ProtectedResource::parse(&fetched.body, &question.resource)
        .map_err(|cause| TrustError::Document { url, cause })?;
    if let Some(issuers) = others(&document, &question.issuer) {
        return Ok(Trust::Changed { issuers });
    }
    let tls = TlsOptions { ca_pem: question.issuer_ca_pem.clone(), server_name: None };
    let metadata = metadata::fetch(&egress.fetcher(&tls)?, &question.issuer).await?;
    match metadata.token_endpoint {
        Some(token_endpoint) => Ok(Trust::Holds { token_endpoint }),
        None => Err(TrustError::NoTokenEndpoint { issuer: question.issuer.clone() }),
    }
}

fn is_same_origin(one: &str, other: &str) -> bool {
    matches!((Url::parse(one), Url::parse(other)), (Ok(one), Ok(other)) if one.origin() == other.origin())
}

/// Where its own 401 says that its metadata is (RFC 9728 section 5.1); `None`: it does not say.
async fn challenged(question: &Question, egress: &Egress) -> Result<Option<String>, TrustError> {
    let tls = UpstreamTls { ca_pem: question.ca_pem.clone(), server_name: question.server_name.clone() };
    let plain = server::Upstream { url: question.url.clone(), tls, credentials: Credentials::None };
    let timeouts = Timeouts { headers: REFUSAL, ..Timeouts::default() };
    let upstream = Upstream::by(&plain, &Means { egress, timeouts, tokens: &TokenCounters::default() })?;
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let response = upstream.send(upstream.request(Method::POST, &headers, Bytes::from_static(PING.as_bytes()))).await?;
    if response.status() != StatusCode::UNAUTHORIZED {
        return Ok(None);
    }
    Ok(challenge(response.headers()).and_then(|challenge| challenge.resource_metadata))
}

/// What an upstream asks for in its refusal.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    Challenge::read(headers.get_all(WWW_AUTHENTICATE).iter().map(HeaderValue::as_bytes))
}

#[cfg(test)]
mod tests;
