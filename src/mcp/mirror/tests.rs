use bytes::Bytes;
use http::HeaderValue;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::mcp::scan::Limits;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    headers
}

fn envelope(value: &serde_json::Value) -> Envelope {
    Envelope::parse(Bytes::from(value.to_string()), &Limits::CLIENT).unwrap()
}

fn new_call(name: &str) -> Envelope {
    envelope(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}}}))
}

fn plain(method: &str) -> Envelope {
    envelope(&json!({"jsonrpc": "2.0", "id": 1, "method": method}))
}

fn with_meta(version: &str) -> Envelope {
    envelope(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": {
        "io.modelcontextprotocol/protocolVersion": version}}}))
}

fn initialize(version: &str) -> Envelope {
    envelope(&json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": version}}))
}

const NEW: (&str, &str) = ("MCP-Protocol-Version", "2026-07-28");

fn call_method() -> &'static Method {
    Method::find(Revision::V2026_07_28, "tools/call").unwrap()
}

fn check_call(name: &str, pairs: &[(&str, &str)]) -> Result<(), &'static str> {
    check(&headers(pairs), &new_call(name), call_method()).map_err(|mismatch| {
        assert_eq!((mismatch.code(), mismatch.answer(None).status.as_u16()), (-32020, 400));
        mismatch.reason()
    })
}

fn reason(headers_of: &[(&str, &str)], envelope: &Envelope, session: Option<Revision>) -> (&'static str, i32) {
    let mismatch = revision(&headers(headers_of), envelope, session).unwrap_err();
    assert_eq!(mismatch.answer(None).status, 400);
    (mismatch.reason(), mismatch.code())
}

#[test]
fn duty_32_the_version_header_is_present_and_equal_to_meta() {
    let call = new_call("get");
    assert_eq!(revision(&headers(&[NEW]), &call, None), Ok(Revision::V2026_07_28));
    assert_eq!(revision(&headers(&[NEW]), &call, Some(Revision::V2025_06_18)), Ok(Revision::V2026_07_28));
    assert_eq!(reason(&[], &call, None), ("HeaderMissing", -32020));
    assert_eq!(reason(&[("mcp-protocol-version", "2026-07-29")], &call, None), ("HeaderMismatch", -32020));
}

#[test]
fn duty_33_method_and_name_headers() {
    let good = [NEW, ("Mcp-Method", "tools/call"), ("Mcp-Name", "get")];
    assert_eq!(check_call("get", &good), Ok(()));
    assert_eq!(check_call("get", &[NEW, ("Mcp-Name", "get")]), Err("HeaderMissing"));
    assert_eq!(check_call("get", &[NEW, ("Mcp-Method", "tools/call")]), Err("HeaderMissing"));
    assert_eq!(check_call("delete", &good), Err("HeaderMismatch"));
    for method in ["tools/list", "Tools/Call", "tools/call/", ""] {
        assert_eq!(check_call("get", &[NEW, ("Mcp-Method", method), ("Mcp-Name", "get")]), Err("HeaderMismatch"));
    }
    for name in ["GET", "Get", "ge", "get2", ""] {
        assert_eq!(check_call("get", &[NEW, ("Mcp-Method", "tools/call"), ("Mcp-Name", name)]), Err("HeaderMismatch"));
    }
}

#[test]
fn duty_33_the_name_comes_from_the_member_that_the_method_mirrors() {
    let revision = Revision::V2026_07_28;
    for (method, name, expected) in [
        ("prompts/get", "n", true),
        ("resources/read", "u", true),
        ("tasks/get", "t", true),
        ("tasks/cancel", "t", true),
        ("tasks/update", "n", false),
        ("resources/read", "n", false),
        ("tools/call", "u", false),
    ] {
        let envelope = envelope(&json!({"jsonrpc": "2.0", "id": 1, "method": method,
            "params": {"name": "n", "uri": "u", "taskId": "t"}}));
        let headers = headers(&[("mcp-method", method), ("mcp-name", name)]);
        let row = Method::find(revision, method).unwrap();
        assert_eq!(check(&headers, &envelope, row).is_ok(), expected, "{method} {name}");
    }
}

#[test]
fn duty_38_a_name_header_that_mirrors_nothing_is_refused() {
    let list = with_meta("2026-07-28");
    let row = Method::find(Revision::V2026_07_28, "tools/list").unwrap();
    assert_eq!(check(&headers(&[("mcp-method", "tools/list")]), &list, row), Ok(()));
    let stray = headers(&[("mcp-method", "tools/list"), ("mcp-name", "x")]);
    assert_eq!(check(&stray, &list, row).unwrap_err().reason(), "HeaderMismatch");
}

#[test]
fn duty_34_base64_names_are_decoded_before_they_are_compared() {
    let with = |name: &str, header: &str| check_call(name, &[NEW, ("mcp-method", "tools/call"), ("mcp-name", header)]);
    // The examples of the specification.
    assert_eq!(with("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="), Ok(()));
    assert_eq!(with(" padded ", "=?base64?IHBhZGRlZCA=?="), Ok(()));
    assert_eq!(with("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="), Ok(()));
    // Without one of the markers, exactly written, a value stands for itself.
    for literal in ["=?BASE64?Z2V0?=", "=?base64?Z2V0", "Z2V0?=", "=?base64?="] {
        assert_eq!(with(literal, literal), Ok(()), "{literal}");
        assert_eq!(with("get", literal), Err("HeaderMismatch"), "{literal}");
    }
    for bad in [
        "=?base64?Z2V?=",
        "=?base64?Z2V0*?=",
        "=?base64?Z2V0 ?=",
        "=?base64?Z2U?=",
        "=?base64?/w==?=",
        "=?base64?Z2V1=?=",
    ] {
        assert_eq!(with("get", bad), Err("HeaderEncoding"), "{bad}");
    }
    assert_eq!(with("=?base64?literal?=", "=?base64?literal?="), Err("HeaderEncoding"));
}

#[test]
fn duty_35_repeated_headers_illegal_characters_and_spaces() {
    let base = [NEW, ("mcp-method", "tools/call"), ("mcp-name", "get")];
    for twice in [("mcp-method", "tools/call"), ("MCP-NAME", "get"), ("Mcp-Name", "delete")] {
        assert_eq!(check_call("get", &[base.as_slice(), &[twice]].concat()), Err("HeaderRepeated"));
    }
    let params = [base.as_slice(), &[("mcp-param-a", "1"), ("mcp-param-a", "1")]].concat();
    assert_eq!(check_call("get", &params), Err("HeaderRepeated"));
    let odd = [base.as_slice(), &[("mcp-param-a", "é")]].concat();
    assert_eq!(check_call("get", &odd), Err("HeaderCharacters"));
    let spaced = [NEW, ("mcp-method", "\t tools/call "), ("mcp-name", " get\t")];
    assert_eq!(check_call("get", &spaced), Ok(()));
    assert_eq!(check_call("gét", &[NEW, ("mcp-method", "tools/call"), ("mcp-name", "gét")]), Err("HeaderCharacters"));
    assert_eq!(reason(&[NEW, NEW], &new_call("x"), None), ("HeaderRepeated", -32020));
}

#[test]
fn duty_36_unknown_param_headers_pass() {
    let pairs = [NEW, ("mcp-method", "tools/call"), ("mcp-name", "get"), ("Mcp-Param-Region", "eu")];
    assert_eq!(check_call("get", &pairs), Ok(()));
}

#[test]
fn duty_38_mirrored_headers_are_known_by_name() {
    for name in ["mcp-method", "mcp-name", "mcp-param-x"] {
        assert!(is_mirrored(&HeaderName::from_static(name)));
    }
    for name in ["mcp-protocol-version", "mcp-session-id", "x-mcp-name", "mcp-names"] {
        assert!(!is_mirrored(&HeaderName::from_static(name)));
    }
}

#[test]
fn duty_41_missing_meta_is_invalid_params_and_other_versions_are_listed() {
    assert_eq!(reason(&[NEW], &plain("tools/list"), None), ("MetaMissing", -32602));
    for version in ["1900-01-01", "2025-11-25", "", "2027-01-01"] {
        let pairs = [("mcp-protocol-version", version)];
        assert_eq!(reason(&pairs, &with_meta(version), None), ("UnsupportedProtocolVersion", -32022), "{version}");
    }
}

#[test]
fn duty_45_contradicting_eras_are_refused() {
    let old = ("mcp-protocol-version", "2025-11-25");
    assert_eq!(reason(&[old], &new_call("x"), None), ("HeaderMismatch", -32020));
    assert_eq!(reason(&[NEW], &initialize("2025-11-25"), None), ("EraConflict", -32020));
    let both = envelope(&json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}}));
    assert_eq!(reason(&[NEW], &both, None), ("EraConflict", -32020));
    assert_eq!(reason(&[old], &plain("ping"), Some(Revision::V2025_06_18)), ("EraConflict", -32020));
}

#[test]
fn duty_46_the_old_era_by_header_session_or_assumption() {
    let ping = plain("ping");
    let found = |pairs: &[(&str, &str)], session| revision(&headers(pairs), &ping, session);
    assert_eq!(found(&[], None), Ok(Revision::V2025_03_26));
    assert_eq!(found(&[], Some(Revision::V2025_11_25)), Ok(Revision::V2025_11_25));
    let june = [("mcp-protocol-version", "2025-06-18")];
    assert_eq!(found(&june, None), Ok(Revision::V2025_06_18));
    assert_eq!(found(&june, Some(Revision::V2025_06_18)), Ok(Revision::V2025_06_18));
    assert_eq!(reason(&[("mcp-protocol-version", "1.0")], &ping, None), ("UnsupportedProtocolVersion", -32022));
    let none = |pairs: &[(&str, &str)], session| revision_without_body(&headers(pairs), session);
    assert_eq!(none(&[], Some(Revision::V2025_06_18)), Ok(Revision::V2025_06_18));
    assert_eq!(none(&[NEW], Some(Revision::V2025_06_18)), Ok(Revision::V2026_07_28));
    assert_eq!(none(&june, Some(Revision::V2025_11_25)), Err(Mismatch::Era));
}

#[test]
fn duty_47_initialize_comes_to_a_version_that_can_be_policed() {
    for (requested, revision_of) in [
        ("2024-11-05", Revision::V2024_11_05),
        ("2025-11-25", Revision::V2025_11_25),
        ("2026-07-28", Revision::V2025_11_25),
        ("1999", Revision::V2025_11_25),
    ] {
        assert_eq!(revision(&HeaderMap::new(), &initialize(requested), None), Ok(revision_of), "{requested}");
    }
}

#[test]
fn duty_97_refusals_do_not_repeat_header_values() {
    let mismatch = check(&headers(&[("mcp-method", "se\tcret")]), &new_call("x"), call_method()).unwrap_err();
    assert!(!mismatch.to_string().contains("cret"));
    let long = "v".repeat(500);
    let mismatch = revision(&headers(&[("mcp-protocol-version", &long)]), &plain("ping"), None).unwrap_err();
    assert!(mismatch.answer(None).body.len() < 300);
}

proptest! {
    #[test]
    fn duty_34_every_name_survives_its_encoding(name in "[^\\p{Cc}]{1,40}") {
        let encoded = format!("=?base64?{}?=", STANDARD.encode(&name));
        let pairs = [NEW, ("mcp-method", "tools/call"), ("mcp-name", encoded.as_str())];
        prop_assert_eq!(check_call(&name, &pairs), Ok(()));
    }
}
