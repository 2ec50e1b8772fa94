//! Reads a message into [`Parts`]. Each object that decides has its list of names; other members are only scanned.

use bytes::Bytes;

use super::{Envelope, Kind, MetaParts, Parts, Word};
use crate::mcp::malformed::{Fault, Malformed, Slip};
use crate::mcp::scan::{Limits, Scanner, Span, Text, member_of};

/// Who wrote the message: an upstream's error may lack the id that it could not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Server,
}

const ENVELOPE: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];

const PARAMS: [&str; 14] = [
    "name",
    "arguments",
    "_meta",
    "uri",
    "cursor",
    "progressToken",
    "requestId",
    "taskId",
    "task",
    "inputResponses",
    "requestState",
    "protocolVersion",
    "capabilities",
    "clientInfo",
];

const META: [&str; 5] = [
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/clientCapabilities",
    "progressToken",
    "traceparent",
];

const RESULT: [&str; 2] = ["resultType", "isError"];

const ERROR: [&str; 1] = ["code"];

pub(super) fn parse(body: Bytes, limits: &Limits, sender: Sender) -> Result<Envelope, Malformed> {
    let mut parts = Parts::default();
    let outcome = Scanner::new(&body, limits).map_err(|slip| (slip, 0)).and_then(|mut scanner| {
        let kind = message(&mut scanner, &mut parts, sender);
        kind.map_err(|slip| (slip, scanner.depth()))
    });
    match outcome {
        Ok(kind) => Ok(Envelope { body, kind, parts }),
        Err((slip, depth)) => {
            // Of two ids none is echoed: which one would it be?
            let ambiguous = slip.fault == Fault::DuplicateMember && depth == 1;
            let id = parts.id.filter(|_| !ambiguous).map(|span| body.slice(span.range()));
            Err(Malformed { id, ..Malformed::from(slip) })
        }
    }
}

fn message(scanner: &mut Scanner<'_>, parts: &mut Parts, sender: Sender) -> Result<Kind, Slip> {
    match scanner.peek() {
        Some(b'{') => {}
        Some(b'[') => return Err(scanner.slip(Fault::Batch)),
        Some(b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
            scanner.value()?;
            return Err(scanner.slip(Fault::NotAnObject));
        }
        _ => return Err(scanner.slip(Fault::NotJson)),
    }
    let mut version = false;
    scanner.object(|scanner, name| {
        match member_of(scanner.text(), name, &ENVELOPE)? {
            Some("jsonrpc") => version = jsonrpc(scanner)?,
            Some("id") => parts.id = id(scanner, sender)?,
            Some("method") => parts.method = Some(method(scanner)?),
            Some("params") => parts.params = optional(scanner, |scanner| params(scanner, parts))?,
            Some("result") => parts.result = Some(result(scanner, parts)?),
            Some("error") => parts.error = Some(error(scanner, parts)?),
            _ => drop(scanner.value()?),
        }
        Ok(())
    })?;
    scanner.end()?;
    if !version {
        return Err(scanner.slip(Fault::WrongVersion));
    }
    kind(parts, sender).map_err(|fault| scanner.slip(fault))
}

fn kind(parts: &Parts, sender: Sender) -> Result<Kind, Fault> {
    let answered = (parts.result.is_some(), parts.error.is_some());
    match (parts.method.is_some(), parts.id.is_some(), answered) {
        (true, true, (false, false)) => Ok(Kind::Request),
        (true, false, (false, false)) => Ok(Kind::Notification),
        (false, true, (true, false) | (false, true)) => Ok(Kind::Response),
        (false, false, (false, true)) if sender == Sender::Server => Ok(Kind::Response),
        (false, false, (true, false) | (false, true)) => Err(Fault::BadId),
        _ => Err(Fault::NotAMessage),
    }
}

fn jsonrpc(scanner: &mut Scanner<'_>) -> Result<bool, Slip> {
    if scanner.peek() != Some(b'"') {
        return Err(scanner.slip(Fault::WrongVersion));
    }
    let text = scanner.string()?;
    if text.decode(scanner.text()) == "2.0" { Ok(true) } else { Err(scanner.slip(Fault::WrongVersion)) }
}

fn id(scanner: &mut Scanner<'_>, sender: Sender) -> Result<Option<Span>, Slip> {
    match sender {
        Sender::Client => identifier(scanner, Fault::BadId).map(Some),
        Sender::Server => optional(scanner, |scanner| identifier(scanner, Fault::BadId)),
    }
}

/// A string or an integer.
fn identifier(scanner: &mut Scanner<'_>, fault: Fault) -> Result<Span, Slip> {
    let span = token(scanner, fault)?;
    let raw = scanner.text().get(span.range()).unwrap_or_default();
    let fraction = !raw.starts_with('"') && raw.contains(['.', 'e', 'E']);
    if fraction { Err(scanner.slip(fault)) } else { Ok(span) }
}

/// A string or a number.
fn token(scanner: &mut Scanner<'_>, fault: Fault) -> Result<Span, Slip> {
    match scanner.peek() {
        Some(b'"') => {
            let text = word(scanner, scanner.limits().id, fault)?;
            Ok(text.quoted())
        }
        Some(b'-' | b'0'..=b'9') => {
            let span = scanner.value()?;
            if span.len() > scanner.limits().id { Err(scanner.slip(Fault::TooLong)) } else { Ok(span) }
        }
        _ => Err(scanner.slip(fault)),
    }
}

fn method(scanner: &mut Scanner<'_>) -> Result<Word, Slip> {
    let method = word(scanner, scanner.limits().method, Fault::BadMethod)?;
    if method.span.len() == 0 { Err(scanner.slip(Fault::BadMethod)) } else { Ok(method) }
}

/// A string that identifies something: bounded, and without control characters.
fn word(scanner: &mut Scanner<'_>, longest: usize, fault: Fault) -> Result<Word, Slip> {
    if scanner.peek() != Some(b'"') {
        return Err(scanner.slip(fault));
    }
    let text = scanner.string()?;
    let at = text.span.start as usize;
    if text.span.len() > longest {
        return Err(Slip { fault: Fault::TooLong, at });
    }
    let decoded = text.decode(scanner.text());
    if decoded.chars().any(char::is_control) {
        return Err(Slip { fault: Fault::ControlCharacter, at });
    }
    Ok(Word { span: text.span, decoded: text.escaped.then(|| decoded.into()) })
}

fn object_value<'a>(
    scanner: &mut Scanner<'a>,
    fault: Fault,
    member: impl FnMut(&mut Scanner<'a>, Text) -> Result<(), Slip>,
) -> Result<Span, Slip> {
    if scanner.peek() != Some(b'{') {
        return Err(scanner.slip(fault));
    }
    let start = scanner.position();
    scanner.object(member)?;
    Ok(scanner.span_from(start))
}

fn any_object(scanner: &mut Scanner<'_>, fault: Fault) -> Result<Span, Slip> {
    object_value(scanner, fault, |scanner, _| scanner.value().map(drop))
}

/// `None` for null: in an optional place it carries nothing to any reader, and serializers that know no absence write it.
fn optional<'a, T>(
    scanner: &mut Scanner<'a>,
    read: impl FnOnce(&mut Scanner<'a>) -> Result<T, Slip>,
) -> Result<Option<T>, Slip> {
    if scanner.peek() == Some(b'n') {
        scanner.value()?;
        return Ok(None);
    }
    read(scanner).map(Some)
}

fn params(scanner: &mut Scanner<'_>, parts: &mut Parts) -> Result<Span, Slip> {
    let limits = scanner.limits();
    object_value(scanner, Fault::BadParams, |scanner, name| {
        match member_of(scanner.text(), name, &PARAMS)? {
            Some("name") => parts.name = Some(word(scanner, limits.name, Fault::BadMember)?),
            Some("arguments") => parts.arguments = optional(scanner, Scanner::value)?,
            Some("_meta") => parts.meta = optional(scanner, meta)?.unwrap_or_default(),
            Some("uri") => parts.uri = Some(word(scanner, limits.uri, Fault::BadMember)?),
            Some("cursor") => {
                parts.cursor = optional(scanner, |scanner| word(scanner, limits.uri, Fault::BadMember))?;
            }
            Some("progressToken") => parts.progress_token = Some(token(scanner, Fault::BadMember)?),
            Some("requestId") => parts.request_id = Some(identifier(scanner, Fault::BadMember)?),
            Some("taskId") => parts.task_id = Some(word(scanner, limits.name, Fault::BadMember)?),
            Some("protocolVersion") => {
                parts.protocol_version = Some(word(scanner, limits.name, Fault::BadMember)?);
            }
            Some("capabilities") => parts.capabilities = Some(any_object(scanner, Fault::BadMember)?),
            Some("clientInfo") => parts.client_info = optional(scanner, Scanner::value)?,
            Some("task") => parts.task = optional(scanner, Scanner::value)?.is_some(),
            Some("inputResponses" | "requestState") => {
                parts.retry |= optional(scanner, Scanner::value)?.is_some();
            }
            _ => drop(scanner.value()?),
        }
        Ok(())
    })
}

fn meta(scanner: &mut Scanner<'_>) -> Result<MetaParts, Slip> {
    let mut meta = MetaParts { present: true, ..MetaParts::default() };
    let limits = scanner.limits();
    object_value(scanner, Fault::BadMeta, |scanner, name| {
        match member_of(scanner.text(), name, &META)? {
            Some("io.modelcontextprotocol/protocolVersion") => {
                meta.protocol_version = Some(word(scanner, limits.name, Fault::BadMeta)?);
            }
            Some("io.modelcontextprotocol/clientInfo") => meta.client_info = optional(scanner, Scanner::value)?,
            Some("io.modelcontextprotocol/clientCapabilities") => {
                meta.client_capabilities = Some(any_object(scanner, Fault::BadMeta)?);
            }
            Some("progressToken") => {
                meta.progress_token = optional(scanner, |scanner| token(scanner, Fault::BadMeta))?;
            }
            Some("traceparent") if scanner.peek() == Some(b'"') => {
                meta.traceparent = Some(word(scanner, limits.name, Fault::BadMeta)?);
            }
            _ => drop(scanner.value()?),
        }
        Ok(())
    })?;
    Ok(meta)
}

fn result(scanner: &mut Scanner<'_>, parts: &mut Parts) -> Result<Span, Slip> {
    let limits = scanner.limits();
    object_value(scanner, Fault::BadResult, |scanner, name| {
        match member_of(scanner.text(), name, &RESULT)? {
            Some("resultType") => parts.result_type = Some(word(scanner, limits.name, Fault::BadResult)?),
            Some("isError") => {
                let span = scanner.value()?;
                parts.tool_error = scanner.text().get(span.range()) == Some("true");
            }
            _ => drop(scanner.value()?),
        }
        Ok(())
    })
}

fn error(scanner: &mut Scanner<'_>, parts: &mut Parts) -> Result<Span, Slip> {
    object_value(scanner, Fault::BadResult, |scanner, name| {
        let code = member_of(scanner.text(), name, &ERROR)?.is_some();
        let span = scanner.value()?;
        if code {
            parts.error_code = scanner.text().get(span.range()).and_then(|code| code.parse().ok());
        }
        Ok(())
    })
}
