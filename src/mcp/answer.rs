//! Every JSON-RPC body that the gateway itself writes, and every error code that it uses.
//!
//! | code | when | HTTP |
//! |---|---|---|
//! | -32700 | the body is not JSON, or not readable alike by all | 400, 413 |
//! | -32600 | JSON, but no message of this protocol, or not one that may be sent so | 400 |
//! | -32601 | a method that is unknown, or that this build does not police | 200 (old era), 404 (new) |
//! | -32602 | a parameter, `_meta` included; also `Unknown tool`, for hidden and nonexistent alike | 200, 400 |
//! | -32603 | the gateway failed | 500 |
//! | -32020, -32022 | as the specification defines them: header mismatch, unsupported version | 400 |
//! | [`Own`] | the gateway's own | see there |
//!
//! The specification reserves -32768 to -32000 (2026-07-28, "Error Codes"), so the gateway's own codes lie outside.
//! Codes of earlier revisions (-32001 to -32004, -32042) are never written, nor is -32021 (missing capability): only an
//! upstream knows what its tools need, and its errors pass as they came.

use bytes::Bytes;
use http::StatusCode;

use super::revision::{Era, SUPPORTED};

/// Invalid JSON.
pub const PARSE_ERROR: i32 = -32700;
/// Not a valid message.
pub const INVALID_REQUEST: i32 = -32600;
/// Unknown method.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// Wrong parameters, or an unknown tool.
pub const INVALID_PARAMS: i32 = -32602;
/// The gateway failed.
pub const INTERNAL_ERROR: i32 = -32603;
/// Headers and body disagree (2026-07-28).
pub const HEADER_MISMATCH: i32 = -32020;
/// The protocol version is not supported (2026-07-28).
pub const UNSUPPORTED_VERSION: i32 = -32022;

/// The gateway's own errors: codes -31000 downwards, outside everything that JSON-RPC or MCP reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Own {
    /// -31001: the upstream could not be reached or did not answer in time. HTTP 502.
    UpstreamUnavailable,
    /// -31002: the upstream answered with what the gateway cannot vouch for. HTTP 502.
    UpstreamInvalid,
    /// -31003: the upstream refused the gateway's credentials, or redirected it. HTTP 502.
    UpstreamRefused,
    /// -31004: the call could not be recorded, so it was not forwarded. HTTP 503.
    NotRecorded,
    /// -31005: this server is not served now: disabled, in conflict, or its policy is not known yet. HTTP 503.
    NotServed,
    /// -31006: too many calls or streams at once. HTTP 429.
    TooMany,
    /// -31007: the session is unknown, over, or someone else's. HTTP 404.
    UnknownSession,
    /// -31008: the request's form is refused before its body is read: type, encoding, origin, host. HTTP 400.
    BadRequest,
    /// -31009: the HTTP method is not offered. HTTP 405.
    MethodNotAllowed,
    /// -31010: the `Content-Type` or `Content-Encoding` is not accepted. HTTP 415.
    UnsupportedMediaType,
}

impl Own {
    /// The JSON-RPC code.
    pub fn code(self) -> i32 {
        match self {
            Own::UpstreamUnavailable => -31001,
            Own::UpstreamInvalid => -31002,
            Own::UpstreamRefused => -31003,
            Own::NotRecorded => -31004,
            Own::NotServed => -31005,
            Own::TooMany => -31006,
            Own::UnknownSession => -31007,
            Own::BadRequest => -31008,
            Own::MethodNotAllowed => -31009,
            Own::UnsupportedMediaType => -31010,
        }
    }

    /// The HTTP status that goes with it.
    pub fn status(self) -> StatusCode {
        match self {
            Own::UpstreamUnavailable | Own::UpstreamInvalid | Own::UpstreamRefused => StatusCode::BAD_GATEWAY,
            Own::NotRecorded | Own::NotServed => StatusCode::SERVICE_UNAVAILABLE,
            Own::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Own::UnknownSession => StatusCode::NOT_FOUND,
            Own::BadRequest => StatusCode::BAD_REQUEST,
            Own::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Own::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    /// A whole answer with this code; `message` says what, where and what to do, and holds no secret.
    pub fn answer(self, id: Option<&[u8]>, message: &str) -> Answer {
        Answer { status: self.status(), body: error(id, self.code(), message, None) }
    }
}

/// What the gateway answers instead of an upstream. The content type is `application/json`, unless the body is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// A JSON-RPC message, or nothing.
    pub body: Bytes,
}

impl Answer {
    /// HTTP 202 without body: what an accepted notification gets (duty 70), and one that is dropped in silence.
    pub fn accepted() -> Answer {
        Answer { status: StatusCode::ACCEPTED, body: Bytes::new() }
    }
}

/// An error response. `id` is written as it came, and left out if it is not known; `data` is a JSON value.
pub fn error(id: Option<&[u8]>, code: i32, message: &str, data: Option<&str>) -> Bytes {
    let mut body = open(id);
    body.extend_from_slice(b"\"error\":{\"code\":");
    body.extend_from_slice(code.to_string().as_bytes());
    body.extend_from_slice(b",\"message\":");
    push_string(&mut body, message);
    if let Some(data) = data {
        body.extend_from_slice(b",\"data\":");
        body.extend_from_slice(data.as_bytes());
    }
    body.extend_from_slice(b"}}");
    body.into()
}

/// A result response around `result`, a JSON object.
pub fn result(id: Option<&[u8]>, result: &[u8]) -> Bytes {
    let mut body = open(id);
    body.extend_from_slice(b"\"result\":");
    body.extend_from_slice(result);
    body.push(b'}');
    body.into()
}

/// The answer to a call of a tool that does not exist, or that this caller may not see: one and the same (duty 56).
pub fn unknown_tool(id: Option<&[u8]>, name: &str) -> Answer {
    let message = format!("Unknown tool: {name}");
    Answer { status: StatusCode::OK, body: error(id, INVALID_PARAMS, &message, None) }
}

/// The answer to a visible tool that policy refuses: a result that the model can read (design 3.7).
pub fn tool_denied(id: Option<&[u8]>, era: Era, message: &str) -> Answer {
    let mut denied = Vec::with_capacity(message.len() + 96);
    denied.extend_from_slice(b"{\"content\":[{\"type\":\"text\",\"text\":");
    push_string(&mut denied, message);
    denied.extend_from_slice(b"}],\"isError\":true");
    if era == Era::New {
        denied.extend_from_slice(b",\"resultType\":\"complete\"");
    }
    denied.push(b'}');
    Answer { status: StatusCode::OK, body: result(id, &denied) }
}

/// The answer to `ping`, which the gateway may give itself.
pub fn pong(id: Option<&[u8]>) -> Answer {
    Answer { status: StatusCode::OK, body: result(id, b"{}") }
}

/// The answer to a method that is not offered: HTTP 404 in the new era, 200 in the old one (duty 28).
pub fn unknown_method(id: Option<&[u8]>, era: Era, method: &str) -> Answer {
    let status = if era == Era::New { StatusCode::NOT_FOUND } else { StatusCode::OK };
    let message = format!("Method not found: {method}");
    Answer { status, body: error(id, METHOD_NOT_FOUND, &message, None) }
}

/// The answer to a version that is not supported, with the ones that are (duty 41).
pub fn unsupported_version(id: Option<&[u8]>, requested: &str) -> Answer {
    let mut data = Vec::with_capacity(128);
    data.extend_from_slice(b"{\"supported\":[");
    for (n, revision) in SUPPORTED.into_iter().enumerate() {
        if n > 0 {
            data.push(b',');
        }
        push_string(&mut data, revision.as_str());
    }
    data.extend_from_slice(b"],\"requested\":");
    push_string(&mut data, requested);
    data.push(b'}');
    let data = String::from_utf8(data).ok();
    let body = error(id, UNSUPPORTED_VERSION, "Unsupported protocol version", data.as_deref());
    Answer { status: StatusCode::BAD_REQUEST, body }
}

fn open(id: Option<&[u8]>) -> Vec<u8> {
    let mut body = Vec::with_capacity(192);
    body.extend_from_slice(b"{\"jsonrpc\":\"2.0\",");
    if let Some(id) = id {
        body.extend_from_slice(b"\"id\":");
        body.extend_from_slice(id);
        body.push(b',');
    }
    body
}

/// Writes a JSON string, quotes included.
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            c if c < ' ' || c == '\u{7f}' => out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn read(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn duty_25_ids_are_echoed_byte_for_byte() {
        for id in [r#""\u0061""#, "9007199254740993", "-0", r#""a b""#] {
            let body = pong(Some(id.as_bytes())).body;
            assert_eq!(body, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
        }
        assert_eq!(read(&error(None, -32700, "x", None)).get("id"), None);
    }

    #[test]
    fn duty_41_version_errors_offer_what_is_supported() {
        let answer = unsupported_version(Some(b"1"), "1900-01-01");
        assert_eq!(answer.status, 400);
        let body = read(&answer.body);
        assert_eq!(body["error"]["code"], -32022);
        assert_eq!(body["error"]["data"]["requested"], "1900-01-01");
        assert_eq!(body["error"]["data"]["supported"][0], "2026-07-28");
        assert_eq!(body["error"]["data"]["supported"].as_array().unwrap().len(), SUPPORTED.len());
    }

    #[test]
    fn duty_42_own_codes_lie_outside_the_reserved_range() {
        let all = [
            Own::UpstreamUnavailable,
            Own::UpstreamInvalid,
            Own::UpstreamRefused,
            Own::NotRecorded,
            Own::NotServed,
            Own::TooMany,
            Own::UnknownSession,
            Own::BadRequest,
            Own::MethodNotAllowed,
            Own::UnsupportedMediaType,
        ];
        let codes: std::collections::BTreeSet<_> = all.iter().map(|own| own.code()).collect();
        assert_eq!(codes.len(), all.len());
        assert!(codes.iter().all(|code| !(-32768..=-32000).contains(code)));
    }

    #[test]
    fn duty_43_errors_that_could_trigger_a_fallback_have_a_json_rpc_body() {
        for own in [Own::UnknownSession, Own::BadRequest, Own::MethodNotAllowed] {
            let answer = own.answer(Some(b"\"a\""), "why");
            assert!([400, 404, 405].contains(&answer.status.as_u16()));
            assert_eq!(read(&answer.body)["error"]["code"], own.code());
        }
    }

    #[test]
    fn duty_28_unknown_methods_are_404_in_the_new_era_and_200_in_the_old() {
        for (era, status) in [(Era::New, 404), (Era::Old, 200)] {
            let answer = unknown_method(Some(b"7"), era, "x/y");
            assert_eq!(answer.status, status);
            assert_eq!(read(&answer.body)["error"]["code"], -32601);
            assert_eq!(read(&answer.body)["id"], 7);
        }
    }

    #[test]
    fn duty_56_an_unknown_tool_is_named_and_escaped() {
        let answer = unknown_tool(Some(b"1"), "a\"\\\n\u{1}é");
        assert_eq!(answer.status, 200);
        assert_eq!(read(&answer.body)["error"]["message"], "Unknown tool: a\"\\\n\u{1}é");
        assert_eq!(read(&answer.body)["error"]["code"], -32602);
    }

    #[test]
    fn duty_81_a_denied_call_is_a_complete_result_in_the_new_era() {
        let new = read(&tool_denied(Some(b"1"), Era::New, "no \"way\"").body);
        assert_eq!(new["result"]["resultType"], "complete");
        assert_eq!(new["result"]["isError"], true);
        assert_eq!(new["result"]["content"][0]["text"], "no \"way\"");
        assert_eq!(read(&tool_denied(Some(b"1"), Era::Old, "no").body)["result"].get("resultType"), None);
    }
}
