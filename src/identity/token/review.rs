//! What the API server says about a ServiceAccount's token, judged: does it still stand by what was proven offline?
//!
//! Invariant: a review adds no right. It only confirms what [`super::verify`] proved: the same ServiceAccount, for an audience
//! that was asked about. A token that is good for the API server alone (no audience in the answer) is refused
//! (<https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/>).

use super::Verified;

/// The status of a TokenReview, as far as it decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `status.authenticated`: the token is genuine, and its ServiceAccount, and the Pod that it is bound to, exist.
    pub authenticated: bool,
    /// `status.audiences`: those that were asked about and that the token has.
    pub audiences: Vec<String>,
    /// `status.user.username`.
    pub username: Option<String>,
}

/// Why a token is refused after a review.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// It ended with its ServiceAccount or Pod, or the API server never made it.
    #[error("the API server does not accept the token, or not any more")]
    Refused,
    /// The answer names no audience, or none that was asked about.
    #[error("the API server does not say that the token is meant for this server")]
    Audience,
    /// The answer is about somebody else than the token.
    #[error("the API server takes the token for another's")]
    Account,
}

impl ReviewError {
    /// A stable word for records, logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            ReviewError::Refused => "TokenReviewRefused",
            ReviewError::Audience => "TokenReviewAudience",
            ReviewError::Account => "TokenReviewAccount",
        }
    }
}

/// Whether the API server stands by a token that was proven, having been asked about these audiences.
pub fn judge(verified: &Verified, asked: &[String], answer: &Answer) -> Result<(), ReviewError> {
    if !answer.authenticated {
        return Err(ReviewError::Refused);
    }
    if !answer.audiences.iter().any(|audience| asked.contains(audience)) {
        return Err(ReviewError::Audience);
    }
    if answer.username.as_deref() != Some(&*verified.principal().subject) {
        return Err(ReviewError::Account);
    }
    Ok(())
}
