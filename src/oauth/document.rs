//! What both metadata documents share: limits, and reading members strictly.

use serde_json::{Map, Value};

use super::identifier::{Identifier, IdentifierError};
use super::json::{self, JsonError};

/// The longest accepted document, in bytes.
pub(super) const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
/// The longest accepted list in a document.
const MAX_ITEMS: usize = 1000;

/// Why a metadata document must not be used. Carries none of the document's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// The document is longer than 256 KiB.
    #[error("the document is longer than {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge,
    /// Not strict JSON.
    #[error("the document is unreadable: {0}")]
    Json(#[from] JsonError),
    /// The document is about another resource or issuer (RFC 8414 section 3.3, RFC 9728 section 3.3).
    #[error("the document's `{member}` is not exactly {expected}")]
    Mismatch {
        /// `resource` or `issuer`.
        member: &'static str,
        /// What was asked for.
        expected: String,
    },
    /// A required member is missing.
    #[error("the document has no `{0}`")]
    Missing(&'static str),
    /// A member has the wrong type, or too many items.
    #[error("the document's `{0}` is malformed")]
    Malformed(&'static str),
    /// A member holds a URL that is not acceptable.
    #[error("the document's `{member}` holds an unacceptable URL: {cause}")]
    Url {
        /// The member.
        member: &'static str,
        /// What is wrong with it.
        cause: IdentifierError,
    },
}

impl DocumentError {
    /// A stable word for conditions and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            DocumentError::TooLarge => "MetadataTooLarge",
            DocumentError::Json(error) => error.reason(),
            DocumentError::Mismatch { .. } => "MetadataMismatch",
            DocumentError::Missing(_) => "MetadataIncomplete",
            DocumentError::Malformed(_) => "MetadataMalformed",
            DocumentError::Url { cause, .. } => cause.reason(),
        }
    }
}

/// A decoded document whose subject is proven to be the expected one.
pub(super) struct Document(Map<String, Value>);

impl Document {
    /// Decodes `text` and compares its `member` with what was asked for, by code point.
    pub(super) fn about(text: &[u8], member: &'static str, expected: &str) -> Result<Document, DocumentError> {
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLarge);
        }
        let document = Document(json::object(text)?);
        match document.text(member)? {
            Some(subject) if subject == expected => Ok(document),
            Some(_) => Err(DocumentError::Mismatch { member, expected: expected.to_owned() }),
            None => Err(DocumentError::Missing(member)),
        }
    }

    pub(super) fn text(&self, member: &'static str) -> Result<Option<&str>, DocumentError> {
        match self.0.get(member) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(DocumentError::Malformed(member)),
        }
    }

    /// A URL to send requests to.
    pub(super) fn url(&self, member: &'static str) -> Result<Option<String>, DocumentError> {
        let Some(text) = self.text(member)? else { return Ok(None) };
        Identifier::resource(text).map_err(|cause| DocumentError::Url { member, cause })?;
        Ok(Some(text.to_owned()))
    }

    /// An absent list is an empty one.
    pub(super) fn list(&self, member: &'static str) -> Result<Vec<String>, DocumentError> {
        let malformed = || DocumentError::Malformed(member);
        let Some(value) = self.0.get(member) else { return Ok(Vec::new()) };
        let items = value.as_array().filter(|items| items.len() <= MAX_ITEMS).ok_or_else(malformed)?;
        items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(malformed)).collect()
    }
}
