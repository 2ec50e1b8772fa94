use serde_json::{Value, json};

use super::*;

const NEW: Revision = Revision::V2026_07_28;
const RULES: ResultRules = ResultRules { max_ttl_ms: 5000, keep_instructions: true };

fn envelope(text: &str) -> Envelope {
    Envelope::parse(Bytes::copy_from_slice(text.as_bytes()), &Limits::CLIENT).unwrap()
}

fn response(result: &str) -> Envelope {
    let text = format!(r#"{{"jsonrpc":"2.0","result":{result}, "id":"a"}}"#);
    Envelope::parse_server(Bytes::from(text), &Limits::SERVER).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn initialize(params: &str) -> Envelope {
    envelope(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{{params}}}}}"#))
}

#[test]
fn duty_21_a_request_that_needs_no_change_is_forwarded_as_it_came() {
    let call = envelope(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"capabilities":{"a":1}},
        "_meta":{"io.modelcontextprotocol/clientCapabilities":{ }}}}"#,
    );
    assert_eq!(request(&call, NEW, None), Ok(None));
    let init = initialize(r#""protocolVersion":"2025-06-18","capabilities":{}"#);
    assert_eq!(request(&init, Revision::V2025_06_18, None), Ok(None));
    let odd = envelope(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"capabilities":{"sampling":{}}}}"#);
    assert_eq!(request(&odd, Revision::V2025_06_18, None), Ok(None));
}

#[test]
fn duty_48_declared_client_capabilities_are_removed_from_initialize() {
    let init = initialize(
        r#""protocolVersion":"2025-06-18","capabilities":{"sampling":{},"elicitation":{"form":{}},
        "roots":{"listChanged":true},"experimental":{"x":{}},"tasks":{},"extensions":{},"new":1},"clientInfo":{"n":1}"#,
    );
    let new = request(&init, Revision::V2025_06_18, None).unwrap().unwrap();
    assert_eq!(
        text(&new),
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"n":1}}}"#
    );
}

#[test]
fn duty_48_declared_client_capabilities_are_removed_from_meta() {
    let call = envelope(concat!(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":"#,
        r#"{"io.modelcontextprotocol/clientCapabilities": {"sampling":{"tools":{}}} ,"x":1},"name":"x"}}"#
    ));
    let new = request(&call, NEW, None).unwrap().unwrap();
    assert_eq!(
        text(&new),
        concat!(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":"#,
            r#"{"io.modelcontextprotocol/clientCapabilities": {} ,"x":1},"name":"x"}}"#
        )
    );
}

#[test]
fn duty_47_initialize_asks_for_a_version_that_can_be_policed() {
    for requested in ["2026-07-28", "1999", r"\u0032"] {
        let init = initialize(&format!(r#""capabilities":{{}},"protocolVersion": "{requested}""#));
        let new = request(&init, Revision::V2025_11_25, None).unwrap().unwrap();
        assert!(text(&new).ends_with(r#""params":{"capabilities":{},"protocolVersion": "2025-11-25"}}"#));
    }
}

#[test]
fn duty_55_a_cursor_is_replaced_in_place() {
    let list = envelope(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor" : "a\u0062", "x":"\"cursor\":\"ab\""}}"#,
    );
    let new = request(&list, Revision::V2025_11_25, Some("c\"\\")).unwrap().unwrap();
    assert_eq!(
        text(&new),
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor" : "c\"\\", "x":"\"cursor\":\"ab\""}}"#
    );
    assert_eq!(Envelope::parse(new, &Limits::CLIENT).unwrap().cursor(), Some("c\"\\"));
    let empty = envelope(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":""}}"#);
    assert!(text(&request(&empty, NEW, Some("z")).unwrap().unwrap()).contains(r#""cursor":"z""#));
}

#[test]
fn duty_82_a_task_is_not_asked_for() {
    for (params, expected) in [
        (r#"{"task":{"ttl":1},"name":"x"}"#, r#"{"name":"x"}"#),
        (r#"{"name":"x", "task":{"ttl":1} }"#, r#"{"name":"x" }"#),
        (r#"{"name":"x","\u0074ask":{},"arguments":{"task":1}}"#, r#"{"name":"x","arguments":{"task":1}}"#),
        (r#"{"task":{}}"#, "{}"),
    ] {
        let call = envelope(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#));
        let new = request(&call, Revision::V2025_11_25, None).unwrap().unwrap();
        assert_eq!(text(&new), format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{expected}}}"#));
    }
}

#[test]
fn duty_40_no_rewrite_changes_what_headers_mirror() {
    let call = envelope(concat!(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"task":{},"name":"x","uri":"u","taskId":"t","_meta":"#,
        r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"a":1}},"#,
        r#""arguments":{"region":"eu"},"cursor":"c"}}"#
    ));
    let new = request(&call, NEW, Some("s")).unwrap().unwrap();
    let new = Envelope::parse(new, &Limits::CLIENT).unwrap();
    assert_eq!((new.method(), new.name(), new.uri()), (call.method(), call.name(), call.uri()));
    assert_eq!((new.task_id(), new.arguments_raw()), (call.task_id(), call.arguments_raw()));
    assert_eq!(new.meta().protocol_version(), call.meta().protocol_version());
}

#[test]
fn several_edits_of_one_request_do_not_disturb_one_another() {
    let list = envelope(concat!(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"task":{},"cursor":"a","_meta":"#,
        r#"{"io.modelcontextprotocol/clientCapabilities":{"roots":{}}}}}"#
    ));
    let new = request(&list, NEW, Some("b")).unwrap().unwrap();
    let value: Value = serde_json::from_slice(&new).unwrap();
    let meta = json!({"io.modelcontextprotocol/clientCapabilities": {}});
    assert_eq!(value["params"], json!({"cursor": "b", "_meta": meta}));
}

#[test]
fn duty_48_unpoliced_server_capabilities_are_removed() {
    let answer = response(
        r#"{"protocolVersion":"2025-06-18","capabilities":{"logging":{},"tools":{"listChanged": true},"prompts":{},
        "resources":{"subscribe":true},"completions":{},"tasks":{},"experimental":{"x":{}},"extensions":{}},
        "serverInfo":{"name":"s","version":"1"},"instructions":"use it","x":[1, 2]}"#,
    );
    let (body, negotiated) = initialize_result(&answer, RULES).unwrap();
    assert_eq!(negotiated, Negotiated { revision: Revision::V2025_06_18, tells_changes: true });
    assert_eq!(
        text(&body),
        concat!(
            r#"{"jsonrpc":"2.0","result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged": true}},"#,
            r#""serverInfo":{"name":"s","version":"1"},"instructions":"use it","x":[1, 2]}, "id":"a"}"#
        )
    );
}

#[test]
fn duty_49_instructions_can_be_withheld() {
    let rules = ResultRules { keep_instructions: false, ..RULES };
    let old = response(r#"{"protocolVersion":"2025-06-18","instructions":"call hidden_tool","capabilities":{}}"#);
    assert!(!text(&initialize_result(&old, rules).unwrap().0).contains("hidden_tool"));
    let new = response(r#"{"supportedVersions":["2026-07-28"],"instructions":"call hidden_tool","capabilities":{}}"#);
    assert!(!text(&discover_result(&new, rules).unwrap()).contains("hidden_tool"));
}

#[test]
fn duty_47_an_upstream_version_that_cannot_be_policed_is_refused() {
    for version in ["2026-07-28", "2025-12-01", ""] {
        let answer = response(&format!(r#"{{"protocolVersion":"{version}","capabilities":{{}}}}"#));
        assert_eq!(initialize_result(&answer, RULES).unwrap_err(), Hostile::Version, "{version}");
    }
    for result in ["{}", r#"{"protocolVersion":"2025-06-18"}"#, r#"{"capabilities":{}}"#, r#"{"protocolVersion":1}"#] {
        assert_eq!(initialize_result(&response(result), RULES).unwrap_err(), Hostile::BadResult, "{result}");
    }
    let error = Envelope::parse_server(
        Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}"#),
        &Limits::SERVER,
    );
    assert_eq!(initialize_result(&error.unwrap(), RULES).unwrap_err(), Hostile::NoResult);
}

#[test]
fn duty_47_51_52_discovery_offers_policed_versions_privately() {
    let answer = response(
        r#"{"resultType":"complete","supportedVersions":["2027-01-01","2026-07-28","2025-11-25"],
        "capabilities":{"tools":{"listChanged":true,"x":1},"resources":{}},"ttlMs":3600000,"cacheScope":"public","_meta":{"a":1}}"#,
    );
    let value: Value = serde_json::from_slice(&discover_result(&answer, RULES).unwrap()).unwrap();
    assert_eq!(
        value["result"],
        json!({"resultType": "complete", "supportedVersions": ["2026-07-28", "2025-11-25"],
            "capabilities": {"tools": {"x": 1}}, "ttlMs": 5000, "cacheScope": "private", "_meta": {"a": 1}})
    );
    for (result, hostile) in [
        (r#"{"supportedVersions":["2027-01-01"],"capabilities":{}}"#, Hostile::Version),
        (r#"{"supportedVersions":"2026-07-28","capabilities":{}}"#, Hostile::BadResult),
        (r#"{"supportedVersions":["2026-07-28"]}"#, Hostile::BadResult),
        (r#"{"capabilities":{}}"#, Hostile::BadResult),
        (
            r#"{"resultType":"input_required","supportedVersions":["2026-07-28"],"capabilities":{}}"#,
            Hostile::ResultType,
        ),
        (
            r#"{"supportedVersions":["2026-07-28"],"Capabilities":{"logging":{}},"capabilities":{}}"#,
            Hostile::Malformed(Fault::CaseVariant),
        ),
        (
            r#"{"supportedVersions":["2026-07-28"],"capabilities":{"Resources":{}}}"#,
            Hostile::Malformed(Fault::CaseVariant),
        ),
    ] {
        assert_eq!(discover_result(&response(result), RULES).unwrap_err(), hostile, "{result}");
    }
}

#[test]
fn duty_47_errors_offer_policed_versions_only() {
    let error = |error: &str| {
        let text = format!(r#"{{"id":1, "error":{error},"jsonrpc":"2.0"}}"#);
        super::error(&Envelope::parse_server(Bytes::from(text), &Limits::SERVER).unwrap())
    };
    let offered = r#"{"code":-32022,"message":"no","data":{"requested":"2026-07-28","supported":["2030-01-01","2025-06-18"],"x":1}}"#;
    assert_eq!(
        text(&error(offered).unwrap().unwrap()),
        concat!(
            r#"{"id":1, "error":{"code":-32022,"message":"no","data":{"requested":"2026-07-28","supported":["2025-06-18"],"x":1}},"#,
            r#""jsonrpc":"2.0"}"#
        )
    );
    assert!(
        error(&offered.replace(r#","2025-06-18""#, ""))
            .unwrap()
            .is_some_and(|body| text(&body).contains(r#""supported":[]"#))
    );
    assert!(error(r#"{"code":-32022,"message":"no"}"#).unwrap().is_some_and(|body| text(&body).contains("-32022")));
    assert_eq!(error(&offered.replace("-32022", "-32020")).unwrap(), None, "others pass as they came");
    assert_eq!(error(&offered.replace("[\"2030-01-01\",\"2025-06-18\"]", "1")).unwrap_err(), Hostile::BadResult);
}

#[test]
fn duty_52_ttl_is_an_integer_within_the_promise() {
    for (ttl, capped) in [("0", 0), ("4999", 4999), ("5001", 5000), ("-1", 0), ("1.5", 0), ("null", 0), ("\"9\"", 0)] {
        assert_eq!(cap_ttl(ttl, 5000), capped, "{ttl}");
    }
    let answer = response(r#"{"supportedVersions":["2026-07-28"],"capabilities":{}}"#);
    assert!(text(&discover_result(&answer, RULES).unwrap()).contains(r#""ttlMs":0,"cacheScope":"private""#));
}

#[test]
fn duty_81_result_types() {
    for (result, allowed) in [
        ("{}", true),
        (r#"{"resultType":"complete"}"#, true),
        (r#"{"resultType":"input_required","requestState":"s"}"#, false),
        (r#"{"resultType":"task"}"#, false),
        (r#"{"resultType":"Complete"}"#, false),
        (r#"{"resultType":""}"#, false),
    ] {
        assert_eq!(check_result_type(&response(result), NEW).is_ok(), allowed, "{result}");
        assert_eq!(check_result_type(&response(result), Revision::V2025_11_25), Ok(()));
    }
}
