//! Why a message was refused before it was understood: one closed list, each with the answer that it gets.

use bytes::Bytes;
use http::StatusCode;

use super::answer;

/// What is wrong with a message, as far as reading it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// The body is longer than [`super::scan::Limits::body`].
    #[error("the message is too large")]
    TooLarge,
    /// The body is not UTF-8 (RFC 8259 section 8.1).
    #[error("the message is not UTF-8")]
    NotUtf8,
    /// The body begins with a byte order mark (RFC 8259 section 8.1).
    #[error("the message begins with a byte order mark")]
    ByteOrderMark,
    /// The body breaks the JSON grammar (RFC 8259), or ends inside it.
    #[error("the message is not JSON")]
    NotJson,
    /// Something follows the JSON value.
    #[error("data follows the message")]
    TrailingData,
    /// Objects and arrays are nested deeper than [`super::scan::Limits::depth`].
    #[error("the message is nested too deeply")]
    TooDeep,
    /// More members and elements than [`super::scan::Limits::members`].
    #[error("the message has too many members")]
    TooManyMembers,
    /// A number is written with more characters than [`super::scan::Limits::number`].
    #[error("a number is too long")]
    NumberTooLong,
    /// A number is beyond the largest double (RFC 8259 section 6): some readers take it for infinity, some for null.
    #[error("a number is beyond what a double can hold")]
    NumberTooLarge,
    /// One object names a member twice, after unescaping.
    #[error("a member name occurs twice in one object")]
    DuplicateMember,
    /// A member differs from one that decides only by case: some readers would take it for that one.
    #[error("a member name differs from a protocol member only by case")]
    CaseVariant,
    /// A `\u` escape is half of a surrogate pair.
    #[error("a string has a lone surrogate")]
    LoneSurrogate,
    /// A method, name, URI, cursor, id or version has a control character.
    #[error("an identifier has a control character")]
    ControlCharacter,
    /// The message is an array: batches are refused in every revision.
    #[error("batches are not accepted")]
    Batch,
    /// The message is not a JSON object.
    #[error("the message is not an object")]
    NotAnObject,
    /// `jsonrpc` is missing or not the string `2.0`.
    #[error("`jsonrpc` must be \"2.0\"")]
    WrongVersion,
    /// `id` is null, a fraction or not an identifier at all; or a response has none.
    #[error("`id` must be a string or an integer")]
    BadId,
    /// `method` is not a string, or empty.
    #[error("`method` must be a non-empty string")]
    BadMethod,
    /// Neither a request, a notification nor a response, or several at once.
    #[error("the message is neither a request, a notification nor a response")]
    NotAMessage,
    /// `params` is not an object.
    #[error("`params` must be an object")]
    BadParams,
    /// `result` or `error` is not an object.
    #[error("`result` and `error` must be objects")]
    BadResult,
    /// A parameter that decides has the wrong type.
    #[error("a parameter has the wrong type")]
    BadMember,
    /// `_meta`, or a member of it that the protocol reserves, has the wrong type.
    #[error("`_meta` or one of its protocol members has the wrong type")]
    BadMeta,
    /// An id, method, name, URI, cursor, version or token is longer than its limit.
    #[error("an identifier is too long")]
    TooLong,
}

impl Fault {
    /// A stable CamelCase word for records, metrics and conditions.
    pub fn reason(self) -> &'static str {
        match self {
            Fault::TooLarge => "MessageTooLarge",
            Fault::NotUtf8 => "NotUtf8",
            Fault::ByteOrderMark => "ByteOrderMark",
            Fault::NotJson => "NotJson",
            Fault::TrailingData => "TrailingData",
            Fault::TooDeep => "TooDeep",
            Fault::TooManyMembers => "TooManyMembers",
            Fault::NumberTooLong => "NumberTooLong",
            Fault::NumberTooLarge => "NumberTooLarge",
            Fault::DuplicateMember => "DuplicateMember",
            Fault::CaseVariant => "CaseVariant",
            Fault::LoneSurrogate => "LoneSurrogate",
            Fault::ControlCharacter => "ControlCharacter",
            Fault::Batch => "Batch",
            Fault::NotAnObject => "NotAnObject",
            Fault::WrongVersion => "WrongJsonRpcVersion",
            Fault::BadId => "BadId",
            Fault::BadMethod => "BadMethod",
            Fault::NotAMessage => "NotAMessage",
            Fault::BadParams => "BadParams",
            Fault::BadResult => "BadResult",
            Fault::BadMember => "BadMember",
            Fault::BadMeta => "BadMeta",
            Fault::TooLong => "IdentifierTooLong",
        }
    }

    /// The JSON-RPC code: parse error for what is not JSON, invalid params for `_meta` and parameters (duty 41),
    /// invalid request for the rest.
    pub fn code(self) -> i32 {
        match self {
            Fault::NotUtf8 | Fault::ByteOrderMark | Fault::NotJson | Fault::TrailingData | Fault::LoneSurrogate => {
                answer::PARSE_ERROR
            }
            Fault::BadMember | Fault::BadMeta => answer::INVALID_PARAMS,
            _ => answer::INVALID_REQUEST,
        }
    }

    /// The HTTP status: 413 for size, 400 for all else.
    pub fn status(self) -> StatusCode {
        if self == Fault::TooLarge { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST }
    }
}

/// A message that was refused while it was read. Carries no content but the id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault} (byte {offset})")]
pub struct Malformed {
    /// What is wrong.
    pub fault: Fault,
    /// The byte offset in the body at which reading stopped.
    pub offset: usize,
    /// The message's id as it was written, if it had been read by then: what the answer echoes.
    pub id: Option<Bytes>,
}

impl Malformed {
    /// A stable CamelCase word; see [`Fault::reason`].
    pub fn reason(&self) -> &'static str {
        self.fault.reason()
    }

    /// The HTTP status and JSON-RPC body that this refusal is answered with.
    pub fn answer(&self) -> answer::Answer {
        let body = answer::error(self.id.as_deref(), self.fault.code(), &self.to_string(), None);
        answer::Answer { status: self.fault.status(), body }
    }
}

/// A fault and where it was met: the scanner's own error, small enough to return by value on the hot path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slip {
    pub(super) fault: Fault,
    pub(super) at: usize,
}

impl From<Slip> for Malformed {
    fn from(slip: Slip) -> Malformed {
        Malformed { fault: slip.fault, offset: slip.at, id: None }
    }
}
