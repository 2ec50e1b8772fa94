//! What can go wrong with the API server, in words that hold no content of any object.

use kube::Error;

use super::fitness::{NOT_FOLLOWED, NOT_WRITTEN};
use crate::cluster::in_words;

/// Why the API server did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// It refused.
    #[error("{what}: the API server answered {code} ({reason})")]
    Refused {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        code: u16,
        /// Kubernetes' word for it. Its message may quote what was sent.
        reason: String,
    },
    /// It could not be reached, or its answer could not be read.
    #[error("{what}: the API server cannot be reached: {cause}")]
    Unreachable {
        /// What was asked for.
        what: String,
        /// Down to the cause.
        cause: String,
    },
}

impl ApiError {
    /// In words.
    pub fn new(what: impl Into<String>, error: &Error) -> Self {
        let what = what.into();
        match error {
            Error::Api(status) => Self::Refused { what, code: status.code, reason: status.reason.clone() },
            other => Self::Unreachable { what, cause: in_words(other) },
        }
    }

    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            ApiError::Refused { code: 403, .. } => "ApiForbidden",
            ApiError::Refused { code: 409, .. } => "ApiConflict",
            ApiError::Refused { .. } => "ApiRefused",
            ApiError::Unreachable { .. } => "ApiUnreachable",
        }
    }
}

/// The HTTP status that the API server answered with, if it did.
pub fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// A step of a reconciliation that could not be taken. It is tried again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Something that is referred to could not be fetched.
    #[error("cannot fetch what it refers to: {0}")]
    Dereference(ApiError),
    /// What there should be could not be encoded, or made.
    #[error("cannot be made: {0}")]
    Build(&'static str),
    /// What there should be could not be written.
    #[error("cannot be written: {0}")]
    Apply(ApiError),
    /// An object of the name that is to be written is somebody else's.
    #[error("{0} is not ours, and is left alone: rename or remove it")]
    NameTaken(String),
    /// The status could not be written.
    #[error("the status cannot be written: {0}")]
    Status(ApiError),
    /// Not every collection is followed.
    #[error("no sign of life is given, for what these hold is not seen: {0}")]
    Blind(String),
    /// Nothing that proxies serve can be written.
    #[error("no sign of life is given: {0}")]
    Mute(String),
    /// Another controller leads, or this one no longer does.
    #[error("this controller does not lead")]
    NotLeading,
}

impl Failure {
    /// Every reason there is, for counters.
    pub const REASONS: [&'static str; 15] = [
        "ApiForbidden",
        "ApiConflict",
        "ApiRefused",
        "ApiUnreachable",
        "GeneratedEncode",
        "CertificateNotMade",
        "NameTaken",
        "KeyNotMade",
        "LedgerOvertaken",
        "LedgersUnread",
        "NamespaceWithoutUid",
        "RegistrationRestless",
        NOT_FOLLOWED,
        NOT_WRITTEN,
        "NotLeading",
    ];

    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Failure::Dereference(error) | Failure::Apply(error) | Failure::Status(error) => error.reason(),
            Failure::Build(reason) => reason,
            Failure::NameTaken(_) => "NameTaken",
            Failure::Blind(_) => NOT_FOLLOWED,
            Failure::Mute(_) => NOT_WRITTEN,
            Failure::NotLeading => "NotLeading",
        }
    }
}
