//! An envelope is one JSON-RPC message that was read once, strictly, together with the very bytes it was read from:
//! what is forwarded is what was judged.
//!
//! [`Envelope::parse`] is for what clients send, [`Envelope::parse_server`] for what upstreams answer. Both refuse
//! what two readers could understand differently; see [`super::malformed::Fault`] for the whole list.

use bytes::Bytes;

use super::malformed::Malformed;
use super::scan::{Limits, Span};

mod parse;

/// Which of the three JSON-RPC messages an envelope is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `method` and `id`.
    Request,
    /// `method` without `id`.
    Notification,
    /// `result` or `error`, without `method`.
    Response,
}

/// A string value: where it stands, and its decoded form if it is written with escapes.
#[derive(Debug, Clone, Default)]
pub(super) struct Word {
    span: Span,
    decoded: Option<Box<str>>,
}

/// The members of a message that decide, as byte ranges of its body.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    id: Option<Span>,
    method: Option<Word>,
    params: Option<Span>,
    name: Option<Word>,
    uri: Option<Word>,
    task_id: Option<Word>,
    cursor: Option<Word>,
    protocol_version: Option<Word>,
    arguments: Option<Span>,
    capabilities: Option<Span>,
    client_info: Option<Span>,
    request_id: Option<Span>,
    progress_token: Option<Span>,
    task: bool,
    retry: bool,
    meta: MetaParts,
    result: Option<Span>,
    result_type: Option<Word>,
    tool_error: bool,
    error: Option<Span>,
    error_code: Option<i64>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct MetaParts {
    present: bool,
    protocol_version: Option<Word>,
    client_info: Option<Span>,
    client_capabilities: Option<Span>,
    progress_token: Option<Span>,
    traceparent: Option<Word>,
}

/// A message that was read strictly, with its bytes.
#[derive(Clone)]
pub struct Envelope {
    body: Bytes,
    kind: Kind,
    parts: Parts,
}

/// Bodies hold arguments, so none is ever printed.
impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Envelope").field("kind", &self.kind).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

impl Envelope {
    /// Reads what a client sent. Costs one pass; allocates only for strings that are written with escapes.
    pub fn parse(body: Bytes, limits: &Limits) -> Result<Envelope, Malformed> {
        parse::parse(body, limits, parse::Sender::Client)
    }

    /// Reads what an upstream sent: a JSON body, or the data of one event. An error may lack its id.
    pub fn parse_server(body: Bytes, limits: &Limits) -> Result<Envelope, Malformed> {
        parse::parse(body, limits, parse::Sender::Server)
    }

    /// Request, notification or response.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The bytes that were judged, to be forwarded as they are.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The id byte for byte, quotes included; `None` for notifications and for errors without id.
    pub fn id_raw(&self) -> Option<&[u8]> {
        self.raw(self.parts.id)
    }

    /// The id as a slice that shares the body, to keep beyond the envelope.
    pub fn id_bytes(&self) -> Option<Bytes> {
        self.parts.id.map(|span| self.body.slice(span.range()))
    }

    /// The method, decoded; `None` for responses.
    pub fn method(&self) -> Option<&str> {
        self.word(self.parts.method.as_ref())
    }

    /// `params`, which is always an object.
    pub fn params_raw(&self) -> Option<&[u8]> {
        self.raw(self.parts.params)
    }

    /// `params.name`, decoded.
    pub fn name(&self) -> Option<&str> {
        self.word(self.parts.name.as_ref())
    }

    /// `params.uri`, decoded.
    pub fn uri(&self) -> Option<&str> {
        self.word(self.parts.uri.as_ref())
    }

    /// `params.taskId`, decoded.
    pub fn task_id(&self) -> Option<&str> {
        self.word(self.parts.task_id.as_ref())
    }

    /// `params.cursor`, decoded. The empty string is a cursor (duty 55).
    pub fn cursor(&self) -> Option<&str> {
        self.word(self.parts.cursor.as_ref())
    }

    /// `params.protocolVersion` of `initialize`, decoded.
    pub fn protocol_version(&self) -> Option<&str> {
        self.word(self.parts.protocol_version.as_ref())
    }

    /// `params.arguments`, any JSON value; [`super::judge::judge`] holds it to an object where it counts.
    pub fn arguments_raw(&self) -> Option<&[u8]> {
        self.raw(self.parts.arguments)
    }

    /// `params.arguments` as a slice that shares the body.
    pub fn arguments_bytes(&self) -> Option<Bytes> {
        self.parts.arguments.map(|span| self.body.slice(span.range()))
    }

    /// `params.capabilities` of `initialize`.
    pub fn capabilities_raw(&self) -> Option<&[u8]> {
        self.raw(self.parts.capabilities)
    }

    /// `params.clientInfo` of `initialize`: unverified, for the record only (duty 49).
    pub fn client_info_raw(&self) -> Option<&[u8]> {
        self.raw(self.parts.client_info)
    }

    /// `params.requestId` of `notifications/cancelled`: a string or an integer, as written.
    pub fn request_id_raw(&self) -> Option<&[u8]> {
        self.raw(self.parts.request_id)
    }

    /// `params.progressToken` of `notifications/progress`: a string or a number, as written.
    pub fn progress_token_raw(&self) -> Option<&[u8]> {
        self.raw(self.parts.progress_token)
    }

    /// Whether `params` asks for a task (`task`, 2025-11-25).
    pub fn asks_for_task(&self) -> bool {
        self.parts.task
    }

    /// Whether `params` has `inputResponses` or `requestState` (2026-07-28): a retry with a client's answers.
    pub fn is_retry(&self) -> bool {
        self.parts.retry
    }

    /// `params._meta`.
    pub fn meta(&self) -> Meta<'_> {
        Meta(self)
    }

    /// `result`, which is always an object.
    pub fn result_raw(&self) -> Option<&[u8]> {
        self.raw(self.parts.result)
    }

    /// `result.resultType` (2026-07-28), decoded.
    pub fn result_type(&self) -> Option<&str> {
        self.word(self.parts.result_type.as_ref())
    }

    /// `error`, which is always an object.
    pub fn error_raw(&self) -> Option<&[u8]> {
        self.raw(self.parts.error)
    }

    /// Whether `result.isError` is true: the tool ran and failed.
    pub fn is_tool_error(&self) -> bool {
        self.parts.tool_error
    }

    /// `error.code`, if it is an integer.
    pub fn error_code(&self) -> Option<i64> {
        self.parts.error_code
    }

    /// Whether this response answers that request: the ids are the same string or the same number.
    pub fn answers(&self, request: &Envelope) -> bool {
        self.kind == Kind::Response && same_id(self.id_raw(), request.id_raw())
    }

    /// The range of a part in the body: for [`super::rewrite`], which replaces parts.
    pub(super) fn span_of(&self, part: impl FnOnce(&Parts) -> Option<Span>) -> Option<std::ops::Range<usize>> {
        part(&self.parts).map(Span::range)
    }

    fn raw(&self, span: Option<Span>) -> Option<&[u8]> {
        self.body.get(span?.range())
    }

    fn word<'a>(&'a self, word: Option<&'a Word>) -> Option<&'a str> {
        let word = word?;
        match &word.decoded {
            Some(decoded) => Some(decoded),
            // Checked when the body was read, so this never fails.
            None => std::str::from_utf8(self.body.get(word.span.range())?).ok(),
        }
    }
}

impl Parts {
    pub(super) fn params(&self) -> Option<Span> {
        self.params
    }

    pub(super) fn result(&self) -> Option<Span> {
        self.result
    }

    pub(super) fn error(&self) -> Option<Span> {
        self.error
    }

    pub(super) fn capabilities(&self) -> Option<Span> {
        self.capabilities
    }

    pub(super) fn meta_capabilities(&self) -> Option<Span> {
        self.meta.client_capabilities
    }

    /// With its quotes.
    pub(super) fn protocol_version(&self) -> Option<Span> {
        self.protocol_version.as_ref().map(Word::quoted)
    }

    /// With its quotes.
    pub(super) fn cursor(&self) -> Option<Span> {
        self.cursor.as_ref().map(Word::quoted)
    }
}

impl Word {
    fn quoted(&self) -> Span {
        Span { start: self.span.start - 1, end: self.span.end + 1 }
    }
}

/// Ids and progress tokens as JSON values: the bytes are compared first, and strings by what they say, since an
/// upstream may write back `"\u0061"` as `"a"`. An id that is absent equals none.
pub fn same_id(one: Option<&[u8]>, other: Option<&[u8]>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return false };
    if one == other {
        return true;
    }
    let strings = (serde_json::from_slice::<String>(one), serde_json::from_slice::<String>(other));
    matches!(strings, (Ok(one), Ok(other)) if one == other)
}

/// The members of `_meta` that the protocol reserves.
#[derive(Debug, Clone, Copy)]
pub struct Meta<'a>(&'a Envelope);

impl<'a> Meta<'a> {
    /// Whether there is a `_meta`.
    pub fn is_present(&self) -> bool {
        self.0.parts.meta.present
    }

    /// `io.modelcontextprotocol/protocolVersion`, decoded: its presence makes a request one of the new era.
    pub fn protocol_version(&self) -> Option<&'a str> {
        self.0.word(self.0.parts.meta.protocol_version.as_ref())
    }

    /// `io.modelcontextprotocol/clientInfo`: unverified, for the record only (duty 49).
    pub fn client_info_raw(&self) -> Option<&'a [u8]> {
        self.0.raw(self.0.parts.meta.client_info)
    }

    /// `io.modelcontextprotocol/clientCapabilities`, which is always an object.
    pub fn client_capabilities_raw(&self) -> Option<&'a [u8]> {
        self.0.raw(self.0.parts.meta.client_capabilities)
    }

    /// `progressToken`: a string or a number, as written.
    pub fn progress_token_raw(&self) -> Option<&'a [u8]> {
        self.0.raw(self.0.parts.meta.progress_token)
    }

    /// `traceparent`, if it is a short string: untrusted text, not yet held to its grammar (duty 97).
    pub fn traceparent(&self) -> Option<&'a str> {
        self.0.word(self.0.parts.meta.traceparent.as_ref())
    }
}

#[cfg(test)]
mod tests;
