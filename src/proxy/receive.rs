//! Reads a request's body.
//!
//! Invariant: type, coding and size are judged before a byte is parsed; the one scan that follows is the only reading,
//! and the bytes that it read are the bytes that are forwarded (mcp-obligations 4-6, 21).

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::config::Limits;
use super::respond::Refused;
use crate::mcp::answer::Own;
use crate::mcp::envelope::Envelope;
use crate::mcp::malformed::{Fault, Malformed};
use crate::mcp::scan;

/// Why no message was received.
pub(super) enum Unreceived {
    /// It is not acceptable.
    Refused(Refused),
    /// The client went away.
    Gone,
}

/// Reads the message that a POST carries.
pub(super) async fn message(headers: &HeaderMap, body: Incoming, limits: &Limits) -> Result<Envelope, Unreceived> {
    check_type(headers).map_err(Unreceived::Refused)?;
    let bytes = match tokio::time::timeout(limits.body_timeout, read(body, limits.body_bytes)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(ReadError::TooLarge)) => {
            let malformed = Malformed { fault: Fault::TooLarge, offset: limits.body_bytes, id: None };
            return Err(refused(&malformed));
        }
        Ok(Err(ReadError::Broken)) => return Err(Unreceived::Gone),
        Err(_) => {
            let mut answer = Own::BadRequest.answer(None, "the request body did not arrive in time");
            answer.status = StatusCode::REQUEST_TIMEOUT;
            return Err(Unreceived::Refused(Refused::new("BodyTimeout", answer)));
        }
    };
    let scan = scan::Limits { body: limits.body_bytes, ..scan::Limits::CLIENT };
    Envelope::parse(bytes, &scan).map_err(|malformed| refused(&malformed))
}

fn refused(malformed: &Malformed) -> Unreceived {
    Unreceived::Refused(Refused::new(malformed.reason(), malformed.answer()))
}

/// `application/json`, UTF-8, without content coding: an upstream could decode anything else differently.
fn check_type(headers: &HeaderMap) -> Result<(), Refused> {
    let refuse = |reason, message| Err(Refused::new(reason, Own::UnsupportedMediaType.answer(None, message)));
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (Some(value), None) if is_json(value) => {}
        _ => return refuse("MediaType", "Content-Type must be application/json, in UTF-8"),
    }
    let identity = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().all(identity) {
        Ok(())
    } else {
        refuse("ContentCoding", "Content-Encoding is not accepted: send the message as it is")
    }
}

fn is_json(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let json = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    json && parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    })
}

/// Why a body could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadError {
    /// Longer than the limit.
    TooLarge,
    /// The peer went away.
    Broken,
}

/// Reads a body of at most `most` bytes: without copying, where it comes in one frame.
pub(super) async fn read(mut body: Incoming, most: usize) -> Result<Bytes, ReadError> {
    if body.size_hint().lower() > most as u64 {
        return Err(ReadError::TooLarge);
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ReadError::Broken)?.into_data() else { continue };
        let total = rest.len() + first.as_ref().map_or(0, Bytes::len) + data.len();
        if total > most {
            return Err(ReadError::TooLarge);
        }
        match first.take() {
            None if rest.is_empty() => first = Some(data),
            None => rest.extend_from_slice(&data),
            Some(begun) => {
                rest.reserve(begun.len() + data.len());
                rest.extend_from_slice(&begun);
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(pairs: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        check_type(&headers).is_ok()
    }

    #[test]
    fn duty_4_only_utf8_json_is_read() {
        const TYPE: &str = "content-type";
        for good in ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""] {
            assert!(checked(&[(TYPE, good)]), "{good}");
        }
        for bad in
            ["text/json", "application/json; charset=utf-16", "application/jsonx", "application/json, text/plain"]
        {
            assert!(!checked(&[(TYPE, bad)]), "{bad}");
        }
        assert!(!checked(&[]));
        assert!(!checked(&[(TYPE, "application/json"), (TYPE, "application/json")]));
    }

    #[test]
    fn duty_5_content_codings_are_refused() {
        let json = ("content-type", "application/json");
        assert!(checked(&[json, ("content-encoding", "identity")]));
        for coding in ["gzip", "br", "identity, gzip", ""] {
            assert!(!checked(&[json, ("content-encoding", coding)]), "{coding:?}");
        }
    }
}
