//! Headers that pass say what the body says, by a reference written from the specification's words alone. The input is
//! lines: version header, method header, name header, the body's method, the body's name, the version in `_meta`.
#![no_main]

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::mcp::envelope::Envelope;
use portcullis_fuzz::mcp::method::{Method, Subject};
use portcullis_fuzz::mcp::mirror;
use portcullis_fuzz::mcp::revision::{Era, SUPPORTED};
use portcullis_fuzz::mcp::scan::Limits;

fuzz_target!(|data: &[u8]| {
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let [version, method, name, body_method, body_name, body_version] = lines[..] else { return };
    let mut headers = HeaderMap::new();
    for (header, line) in [(mirror::PROTOCOL_VERSION, version), (mirror::METHOD, method), (mirror::NAME, name)] {
        // A tab-free `|` repeats the header.
        for value in line.split(|byte| *byte == b'|').filter(|_| !line.is_empty()) {
            let Ok(value) = HeaderValue::from_bytes(value) else { return };
            headers.append(header.clone(), value);
        }
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut params = serde_json::json!({"name": text(body_name), "uri": text(body_name)});
    if !body_version.is_empty() {
        params["_meta"] = serde_json::json!({"io.modelcontextprotocol/protocolVersion": text(body_version)});
    }
    let body = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": text(body_method), "params": params});
    let Ok(envelope) = Envelope::parse(Bytes::from(body.to_string()), &Limits::CLIENT) else { return };

    for session in SUPPORTED.into_iter().filter(|r| r.era() == Era::Old).map(Some).chain([None]) {
        let Ok(revision) = mirror::revision(&headers, &envelope, session) else { continue };
        let modern = envelope.meta().protocol_version().is_some();
        assert_eq!(modern, revision.era() == Era::New, "the body alone says which era it is");
        if modern {
            assert_eq!(only(&headers, "mcp-protocol-version").as_deref(), Some(revision.as_str()));
        }
        let Some(row) = Method::find(revision, envelope.method().unwrap_or_default()) else { continue };
        if mirror::check(&headers, &envelope, row).is_ok() {
            assert_eq!(only(&headers, "mcp-method").as_deref(), envelope.method());
            let mirrored = match row.subject {
                Subject::Tool | Subject::Prompt => envelope.name(),
                Subject::Resource => envelope.uri(),
                Subject::Task => envelope.task_id(),
                _ => None,
            };
            assert_eq!(only(&headers, "mcp-name").map(|value| decoded(&value)).as_deref(), mirrored);
        }
    }
});

/// The one value of a header, trimmed; none if there are more, or other bytes than a header may have.
fn only(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    let [value] = values[..] else { return None };
    value.to_str().ok().map(|text| text.trim_matches([' ', '\t']).to_owned())
}

fn decoded(value: &str) -> String {
    let (prefix, suffix) = ("=?base64?", "?=");
    if value.len() < prefix.len() + suffix.len() || !value.starts_with(prefix) || !value.ends_with(suffix) {
        return value.to_owned();
    }
    let inner = &value[prefix.len()..value.len() - suffix.len()];
    let bytes = base64::prelude::BASE64_STANDARD.decode(inner).expect("passed");
    String::from_utf8(bytes).expect("passed")
}
