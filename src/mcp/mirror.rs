//! A request's revision is one that headers, body and session agree on, and its mirrored headers say what its body
//! says: whoever routes on the headers and whoever runs the body see the same call (duties 32-40, 45, 46).

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, StatusCode};

use super::answer::{self, Answer};
use super::envelope::{Envelope, Kind};
use super::method::{Method, Subject};
use super::revision::{Era, Revision};

/// `MCP-Protocol-Version`.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// `Mcp-Method`.
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// `Mcp-Name`.
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// What the names of all headers begin with that mirror a tool's parameters.
pub const PARAM_PREFIX: &str = "mcp-param-";

/// Why headers and body do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// A header that must stand alone occurs more than once.
    #[error("Header mismatch: {header} occurs more than once")]
    Repeated {
        /// The header's name.
        header: String,
    },
    /// A value has characters other than visible ASCII, space and tab.
    #[error("Header mismatch: {header} has characters that a header must not have")]
    IllegalCharacters {
        /// The header's name.
        header: String,
    },
    /// A value is marked as Base64 and is not, or does not hold UTF-8.
    #[error("Header mismatch: {header} is not valid Base64 of UTF-8")]
    BadEncoding {
        /// The header's name.
        header: String,
    },
    /// A required header is absent.
    #[error("Header mismatch: {header} is required")]
    Missing {
        /// The header's name.
        header: String,
    },
    /// A header contradicts the body, or stands for something that the body does not have.
    #[error("Header mismatch: {header} does not match the body")]
    Differs {
        /// The header's name.
        header: String,
    },
    /// The version header contradicts the session, or an `initialize` claims the new era.
    #[error("Header mismatch: the protocol version contradicts how this session was opened")]
    Era,
    /// A version that this build cannot police.
    #[error("Unsupported protocol version")]
    Unsupported {
        /// The version that was asked for.
        requested: String,
    },
    /// A member of `_meta` that every request of the new era must have is absent.
    #[error("`_meta` lacks \"io.modelcontextprotocol/{member}\", which every request must have")]
    MissingMeta {
        /// The member's name, without its prefix.
        member: &'static str,
    },
}

impl Mismatch {
    /// A stable CamelCase word.
    pub fn reason(&self) -> &'static str {
        match self {
            Mismatch::Repeated { .. } => "HeaderRepeated",
            Mismatch::IllegalCharacters { .. } => "HeaderCharacters",
            Mismatch::BadEncoding { .. } => "HeaderEncoding",
            Mismatch::Missing { .. } => "HeaderMissing",
            Mismatch::Differs { .. } => "HeaderMismatch",
            Mismatch::Era => "EraConflict",
            Mismatch::Unsupported { .. } => "UnsupportedProtocolVersion",
            Mismatch::MissingMeta { .. } => "MetaMissing",
        }
    }

    /// The JSON-RPC code.
    pub fn code(&self) -> i32 {
        match self {
            Mismatch::Unsupported { .. } => answer::UNSUPPORTED_VERSION,
            Mismatch::MissingMeta { .. } => answer::INVALID_PARAMS,
            _ => answer::HEADER_MISMATCH,
        }
    }

    /// The answer, always HTTP 400.
    pub fn answer(&self, id: Option<&[u8]>) -> Answer {
        match self {
            Mismatch::Unsupported { requested } => answer::unsupported_version(id, requested),
            _ => Answer {
                status: StatusCode::BAD_REQUEST,
                body: answer::error(id, self.code(), &self.to_string(), None),
            },
        }
    }
}

/// The revision of a message: `_meta` with a version makes it one of the new era, all else is of the old one.
/// `session` is what the message's session negotiated, if it names a live one.
pub fn revision(headers: &HeaderMap, envelope: &Envelope, session: Option<Revision>) -> Result<Revision, Mismatch> {
    let header = single(headers, &PROTOCOL_VERSION)?;
    let initialize = envelope.method() == Some("initialize");
    match (envelope.meta().protocol_version(), header) {
        (Some(_), _) if initialize => Err(Mismatch::Era),
        (Some(_), None) => Err(Mismatch::Missing { header: PROTOCOL_VERSION.to_string() }),
        (Some(meta), Some(header)) if meta != header => Err(Mismatch::Differs { header: PROTOCOL_VERSION.to_string() }),
        (Some(meta), Some(_)) => match Revision::parse(meta) {
            Some(revision) if revision.era() == Era::New => Ok(revision),
            // A version with sessions has no per-request metadata: nothing can be served under it like this.
            _ => Err(unsupported(meta)),
        },
        (None, _) if initialize => negotiated(header, envelope),
        (None, header) => match (version(header)?, envelope.kind()) {
            (Some(revision), Kind::Request) if revision.era() == Era::New => {
                Err(Mismatch::MissingMeta { member: "protocolVersion" })
            }
            (Some(revision), _) if revision.era() == Era::New => Ok(revision),
            (old, _) => in_session(old, session),
        },
    }
}

/// Whether the version header alone makes a request one of the new era, which ignores session ids (duty 77).
pub fn claims_new_era(headers: &HeaderMap) -> bool {
    let header = single(headers, &PROTOCOL_VERSION).ok().flatten();
    header.and_then(Revision::parse).is_some_and(|revision| revision.era() == Era::New)
}

/// The revision of a request without body: GET and DELETE, which only the old era has.
pub fn revision_without_body(headers: &HeaderMap, session: Option<Revision>) -> Result<Revision, Mismatch> {
    let header = version(single(headers, &PROTOCOL_VERSION)?)?;
    match header {
        Some(revision) if revision.era() == Era::New => Ok(revision),
        old => in_session(old, session),
    }
}

/// Holds the mirrored headers of a request of the new era to its body.
pub fn check(headers: &HeaderMap, envelope: &Envelope, method: &Method) -> Result<(), Mismatch> {
    for name in headers.keys().filter(|name| is_mirrored(name)) {
        single(headers, name)?;
    }
    match single(headers, &METHOD)? {
        None => return Err(Mismatch::Missing { header: METHOD.to_string() }),
        Some(value) if Some(value) != envelope.method() => return Err(differs(&METHOD)),
        Some(_) => {}
    }
    let mirrored = match method.subject {
        Subject::Tool | Subject::Prompt => envelope.name(),
        Subject::Resource => envelope.uri(),
        Subject::Task => envelope.task_id(),
        Subject::None | Subject::Completion | Subject::Subscription => None,
    };
    match (single(headers, &NAME)?, mirrored) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Mismatch::Missing { header: NAME.to_string() }),
        (Some(value), Some(name)) if decode(&NAME, value)? == name => Ok(()),
        (Some(_), _) => Err(differs(&NAME)),
    }
}

/// Whether this header mirrors the body. In the old era nothing holds it to the body, so it is not forwarded (duty 38).
pub fn is_mirrored(name: &HeaderName) -> bool {
    name == METHOD || name == NAME || name.as_str().starts_with(PARAM_PREFIX)
}

/// The only value of a header, without surrounding spaces and tabs.
pub(super) fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Mismatch> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Mismatch::Repeated { header: name.to_string() });
    }
    let text = std::str::from_utf8(value.as_bytes()).ok();
    let text = text.filter(|text| text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')));
    let text = text.ok_or_else(|| Mismatch::IllegalCharacters { header: name.to_string() })?;
    Ok(Some(text.trim_matches([' ', '\t'])))
}

/// Undoes `=?base64?..?=`. The markers are case-sensitive; a value that lacks one of them stands for itself.
pub(super) fn decode<'h>(name: &HeaderName, value: &'h str) -> Result<Cow<'h, str>, Mismatch> {
    let Some(encoded) = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Ok(Cow::Borrowed(value));
    };
    let decoded = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    decoded.map(Cow::Owned).ok_or_else(|| Mismatch::BadEncoding { header: name.to_string() })
}

fn differs(name: &HeaderName) -> Mismatch {
    Mismatch::Differs { header: name.to_string() }
}

fn unsupported(requested: &str) -> Mismatch {
    Mismatch::Unsupported { requested: requested.chars().take(64).collect() }
}

fn version(header: Option<&str>) -> Result<Option<Revision>, Mismatch> {
    header.map(|text| Revision::parse(text).ok_or_else(|| unsupported(text))).transpose()
}

/// Duty 46: an absent header means what the session says, else 2025-03-26.
fn in_session(header: Option<Revision>, session: Option<Revision>) -> Result<Revision, Mismatch> {
    match (header, session) {
        (Some(header), Some(session)) if header != session => Err(Mismatch::Era),
        (header, session) => Ok(header.or(session).unwrap_or(Revision::ASSUMED)),
    }
}

/// The revision that `initialize` will at best come to: the requested one, or the newest with a handshake.
fn negotiated(header: Option<&str>, envelope: &Envelope) -> Result<Revision, Mismatch> {
    if version(header)?.is_some_and(|revision| revision.era() == Era::New) {
        return Err(Mismatch::Era);
    }
    let requested = envelope.protocol_version().and_then(Revision::parse);
    Ok(requested.filter(|revision| revision.era() == Era::Old).unwrap_or(Revision::NEWEST_OLD))
}

#[cfg(test)]
mod tests;
