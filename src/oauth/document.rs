//! What all documents share: limits, and reading members strictly. A member that is null says no more than one that is
//! absent.

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

/// A member of the wrong type, or with too many items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl From<Malformed> for DocumentError {
    fn from(Malformed(member): Malformed) -> Self {
        DocumentError::Malformed(member)
    }
}

/// A decoded document.
pub(super) struct Document(Map<String, Value>);

impl Document {
    /// Decodes `text` and compares its `member` with what was asked for, by code point.
    pub(super) fn about(text: &[u8], member: &'static str, expected: &str) -> Result<Document, DocumentError> {
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLarge);
        }
        let document = Document::read(text)?;
        match document.text(member)? {
            Some(subject) if subject == expected => Ok(document),
            Some(_) => Err(DocumentError::Mismatch { member, expected: expected.to_owned() }),
            None => Err(DocumentError::Missing(member)),
        }
    }

    /// Decodes `text`, whoever it is about.
    pub(super) fn read(text: &[u8]) -> Result<Document, JsonError> {
        Ok(Document(json::object(text)?))
    }

    /// Whether the name is there, even with null.
    pub(super) fn has(&self, member: &str) -> bool {
        self.0.contains_key(member)
    }

    pub(super) fn into_members(self) -> Map<String, Value> {
        self.0
    }

    pub(super) fn member(&self, member: &str) -> Option<&Value> {
        self.0.get(member).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, member: &'static str) -> Result<Option<&str>, Malformed> {
        let Some(value) = self.member(member) else { return Ok(None) };
        value.as_str().map(Some).ok_or(Malformed(member))
    }

    /// What is not said is not so.
    pub(super) fn flag(&self, member: &'static str) -> Result<bool, Malformed> {
        self.member(member).map_or(Some(false), Value::as_bool).ok_or(Malformed(member))
    }

    /// A number of seconds: whole, and not negative.
    pub(super) fn seconds(&self, member: &'static str) -> Result<Option<i64>, Malformed> {
        let Some(value) = self.member(member) else { return Ok(None) };
        value.as_i64().filter(|seconds| *seconds >= 0).map(Some).ok_or(Malformed(member))
    }

    /// A URL to send requests to.
    pub(super) fn url(&self, member: &'static str) -> Result<Option<String>, DocumentError> {
        let Some(text) = self.text(member)? else { return Ok(None) };
        Identifier::resource(text).map_err(|cause| DocumentError::Url { member, cause })?;
        Ok(Some(text.to_owned()))
    }

    /// An absent list is an empty one.
    pub(super) fn list(&self, member: &'static str) -> Result<Vec<String>, Malformed> {
        Ok(self.optional_list(member)?.unwrap_or_default())
    }

    pub(super) fn optional_list(&self, member: &'static str) -> Result<Option<Vec<String>>, Malformed> {
        let malformed = || Malformed(member);
        let Some(value) = self.member(member) else { return Ok(None) };
        let items = value.as_array().filter(|items| items.len() <= MAX_ITEMS).ok_or_else(malformed)?;
        items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(malformed))
            .collect::<Result<_, _>>()
            .map(Some)
    }
}
