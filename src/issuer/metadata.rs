//! Metadata of authorization servers, fetched (RFC 8414, OpenID Connect Discovery).
//!
//! Invariant: what is handed out names exactly the issuer that was asked for; a document that speaks for another is told
//! apart from one that is not there.

use std::time::Duration;

use crate::egress::{FetchError, Fetcher, Limits};
use crate::oauth::DocumentError;
use crate::oauth::server_metadata::{ServerMetadata, discovery_urls};

const LIMITS: Limits = Limits { max_bytes: 256 * 1024, timeout: Duration::from_secs(10) };

/// Why there is no metadata.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MetadataError {
    /// The issuer is not a URL under which metadata can be found.
    #[error("the issuer is not an https URL without query and fragment")]
    Issuer,
    /// No document could be fetched.
    #[error("no authorization server metadata was found (RFC 8414, OpenID Connect Discovery): {0}")]
    Unavailable(FetchError),
    /// A document was found that is not usable, or speaks for another issuer.
    #[error("the metadata at {url} cannot be used: {cause}")]
    Malformed {
        /// Where it was found.
        url: String,
        /// What is wrong with it.
        cause: DocumentError,
    },
}

/// Fetches the metadata of `issuer`.
///
/// # Errors
/// If there is none that can be used. A document that was found says more than the places where none was.
pub async fn fetch(fetcher: &Fetcher, issuer: &str) -> Result<ServerMetadata, MetadataError> {
    let mut failure = None;
    for url in discovery_urls(issuer).map_err(|_| MetadataError::Issuer)? {
        let error = match fetcher.get(&url, LIMITS).await {
            Err(error) => MetadataError::Unavailable(error),
            Ok(fetched) => match ServerMetadata::parse(&fetched.body, issuer) {
                Ok(metadata) => return Ok(metadata),
                Err(cause) => MetadataError::Malformed { url, cause },
            },
        };
        if !matches!(failure, Some(MetadataError::Malformed { .. })) {
            failure = Some(error);
        }
    }
    Err(failure.unwrap_or(MetadataError::Issuer))
}
