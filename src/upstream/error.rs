//! Why an upstream gave no usable answer.

use super::TokenFailure;
use crate::egress::EgressError;

/// Why an upstream gave no usable answer. For conditions, logs and records; a caller is told that the upstream failed,
/// not how.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The configured URL is not an absolute http(s) URL.
    #[error("the upstream's URL is not an absolute http or https URL")]
    Url,
    /// A credential header's name or value is not allowed.
    #[error("the credential header {name:?} {why}")]
    Credential {
        /// The header.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// No connection.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// The connection broke, or the upstream spoke no proper HTTP.
    #[error("the upstream's answer broke off or is not proper HTTP: {detail}")]
    Http {
        /// What went wrong.
        detail: String,
    },
    /// No response headers in time.
    #[error("the upstream sent no response headers within {seconds} s")]
    Timeout {
        /// The limit.
        seconds: u64,
    },
    /// The body did not end in time.
    #[error("the upstream's answer did not end within {seconds} s")]
    BodyTimeout {
        /// The limit.
        seconds: u64,
    },
    /// The body is larger than allowed.
    #[error("the upstream's answer is larger than {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: usize,
    },
    /// 401, 403 or 407: the gateway's own credentials are missing or refused.
    #[error("the upstream refused the gateway's credentials (status {status}): see upstream.credentials of the server")]
    CredentialsRefused {
        /// The status.
        status: u16,
    },
    /// There is no token to call it with.
    #[error(transparent)]
    Token(#[from] TokenFailure),
    /// 403: a token with more scopes is wanted, and there is none that the upstream is content with.
    #[error(
        "the upstream asks for a token with the scopes {scopes}{}: add them to upstream.credentials.oauth.scopes of the server, \
         and let its client have them at the issuer",
        why.as_ref().map_or_else(String::new, |why| format!(" ({why})"))
    )]
    ScopesLacking {
        /// The scopes, as it names them.
        scopes: String,
        /// Why there is no such token; `None`: there is, and it was not content with it.
        why: Option<TokenFailure>,
    },
    /// 3xx: never followed.
    #[error("the upstream answered with a redirect (status {status}), which is not followed: configure the final URL")]
    Redirected {
        /// The status.
        status: u16,
    },
    /// 5xx without a JSON body.
    #[error("the upstream failed with status {status}")]
    Failed {
        /// The status.
        status: u16,
    },
    /// The body is neither JSON nor an event stream, or is compressed although that was not asked for.
    #[error("the upstream answered with a body that is neither plain JSON nor an event stream")]
    ContentType,
}

impl UpstreamError {
    /// A stable word for conditions, records and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            UpstreamError::Url => "UpstreamUrlInvalid",
            UpstreamError::Credential { .. } => "UpstreamCredentialInvalid",
            UpstreamError::Egress(e) => e.reason(),
            UpstreamError::Http { .. } => "UpstreamBroken",
            UpstreamError::Timeout { .. } => "UpstreamTimeout",
            UpstreamError::BodyTimeout { .. } => "UpstreamBodyTimeout",
            UpstreamError::TooLarge { .. } => "UpstreamTooLarge",
            UpstreamError::CredentialsRefused { .. } => "UpstreamCredentialsRefused",
            UpstreamError::Token(error) => error.reason(),
            UpstreamError::ScopesLacking { .. } => super::tokens::SCOPES_LACKING,
            UpstreamError::Redirected { .. } => "UpstreamRedirected",
            UpstreamError::Failed { .. } => "UpstreamFailed",
            UpstreamError::ContentType => "UpstreamContentType",
        }
    }
}
