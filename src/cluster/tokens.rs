//! What the API server says of a ServiceAccount's token (TokenReview).
//!
//! Invariant: neither the token nor anything that was answered is logged or part of an error.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Client;

use super::client::in_words;

/// Where reviews are created.
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Whoever asks may not `create tokenreviews.authentication.k8s.io`.
    #[error("reviews of tokens are forbidden")]
    Forbidden,
    /// The API server cannot be reached, or what it said cannot be read: in words, without content.
    #[error("{0}")]
    Failed(String),
}

impl Unanswered {
    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Unanswered::Forbidden => "TokenReviewForbidden",
            Unanswered::Failed(_) => "TokenReviewFailed",
        }
    }
}

/// Asks whether a token is genuine and for one of these audiences.
///
/// # Errors
/// If the API server does not answer, or refuses to.
pub async fn review(client: &Client, token: &str, audiences: &[String]) -> Result<TokenReviewStatus, Unanswered> {
    let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(audiences.to_vec()) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let unreadable = || Unanswered::Failed("an answer could not be read".to_owned());
    let body = serde_json::to_vec(&review).map_err(|_| unreadable())?;
    let request = http::Request::post(PATH).header(http::header::CONTENT_TYPE, "application/json").body(body);
    let request = request.map_err(|_| unreadable())?;
    // Read here: what the client cannot read it logs, and the answer holds the token.
    let answer = client.request_text(request).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => Unanswered::Forbidden,
        error => Unanswered::Failed(in_words(&error)),
    })?;
    let answer: TokenReview = serde_json::from_str(&answer).map_err(|_| unreadable())?;
    answer.status.ok_or_else(unreadable)
}
