use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::mcp::malformed::Fault;

fn parse(text: &str) -> Result<Envelope, Malformed> {
    Envelope::parse(Bytes::copy_from_slice(text.as_bytes()), &Limits::CLIENT)
}

fn parse_server(text: &str) -> Result<Envelope, Malformed> {
    Envelope::parse_server(Bytes::copy_from_slice(text.as_bytes()), &Limits::SERVER)
}

fn fault(text: &str) -> Fault {
    parse(text).expect_err(text).fault
}

/// A `tools/call` with this in front of its other parameters.
fn call(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{params}"name":"get"}}}}"#)
}

#[test]
fn duty_21_the_judged_bytes_are_the_forwarded_bytes() {
    let text = " {\"id\" : 1 ,\"method\":\"x\", \"jsonrpc\":\"2.0\"}\n";
    let body = Bytes::copy_from_slice(text.as_bytes());
    let envelope = Envelope::parse(body.clone(), &Limits::CLIENT).unwrap();
    assert_eq!(envelope.body().as_ptr(), body.as_ptr());
    assert_eq!(envelope.body(), &body);
}

#[test]
fn everything_that_decides_is_read() {
    let envelope = parse(
        r#"{"jsonrpc":"2.0","id":"\u0061-1","method":"tools\/call","params":{
            "_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",
                "io.modelcontextprotocol/clientInfo":{"name":"x"},
                "io.modelcontextprotocol/clientCapabilities":{"sampling":{}},
                "progressToken": 1.5,"traceparent":"00-ab-cd-01","x/y":[1]},
            "name":"g\u00e9t","uri":"file:///a","cursor":"","taskId":"t","requestId":7,"progressToken":"p",
            "protocolVersion":"2025-11-25","capabilities":{ },"clientInfo":{"a":1},"task":{},
            "arguments": {"a":[1, 2]} }}"#,
    )
    .unwrap();
    assert_eq!(envelope.kind(), Kind::Request);
    assert_eq!(envelope.id_raw(), Some(br#""\u0061-1""#.as_slice()));
    assert_eq!(envelope.id_bytes().unwrap(), envelope.id_raw().unwrap());
    assert_eq!(envelope.method(), Some("tools/call"));
    assert_eq!(envelope.name(), Some("gét"));
    assert_eq!(envelope.uri(), Some("file:///a"));
    assert_eq!(envelope.cursor(), Some(""));
    assert_eq!(envelope.task_id(), Some("t"));
    assert_eq!(envelope.request_id_raw(), Some(b"7".as_slice()));
    assert_eq!(envelope.progress_token_raw(), Some(br#""p""#.as_slice()));
    assert_eq!(envelope.protocol_version(), Some("2025-11-25"));
    assert_eq!(envelope.capabilities_raw(), Some(b"{ }".as_slice()));
    assert_eq!(envelope.client_info_raw(), Some(br#"{"a":1}"#.as_slice()));
    assert_eq!(envelope.arguments_raw(), Some(br#"{"a":[1, 2]}"#.as_slice()));
    assert_eq!(envelope.arguments_bytes().unwrap(), envelope.arguments_raw().unwrap());
    assert!(envelope.asks_for_task() && !envelope.is_retry());
    assert!(envelope.params_raw().unwrap().starts_with(b"{\n"));
    let meta = envelope.meta();
    assert!(meta.is_present());
    assert_eq!(meta.protocol_version(), Some("2026-07-28"));
    assert_eq!(meta.client_info_raw(), Some(br#"{"name":"x"}"#.as_slice()));
    assert_eq!(meta.client_capabilities_raw(), Some(br#"{"sampling":{}}"#.as_slice()));
    assert_eq!(meta.progress_token_raw(), Some(b"1.5".as_slice()));
    assert_eq!(meta.traceparent(), Some("00-ab-cd-01"));
}

#[test]
fn duty_22_duplicate_members_in_envelope_params_meta_and_arguments() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{},"params":{}}"#.to_owned(),
        call(r#""name":"delete","#),
        call(r#""\u006eame":"delete","#),
        call(r#""arguments":{"a":1,"\u0061":2},"#),
        call(r#""arguments":{"a":{"b":[{"c":1,"c":1}]}},"#),
        call(r#""_meta":{"progressToken":1,"progressToken":1},"#),
        call(r#""_meta":{"x":{"y":1,"y":1}},"#),
    ] {
        assert_eq!(fault(&text), Fault::DuplicateMember, "{text}");
    }
}

#[test]
fn duty_23_case_variants_of_security_members() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"a","Method":"b"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","ID":1,"method":"a"}"#.to_owned(),
        r#"{"JSONRPC":"2.0","id":1,"method":"a"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"a","Params":{}}"#.to_owned(),
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"param\u{17f}\":{}}".to_owned(),
        call(r#""Name":"delete","#),
        call(r#""NAME":"delete","#),
        call(r#""\u004eame":"delete","#),
        call(r#""Arguments":{},"#),
        call(r#""URI":"x","#),
        call(r#""_Meta":{},"#),
        call("\"argument\u{17f}\":{},"),
        call(r#""_meta":{"io.modelcontextprotocol/ProtocolVersion":"2026-07-28"},"#),
        call(r#""_meta":{"progresstoken":1},"#),
    ] {
        assert_eq!(fault(&text), Fault::CaseVariant, "{text}");
    }
    assert!(parse(&call(r#""arguments":{"Name":1,"name":2,"METHOD":3},"#)).is_ok());
}

#[test]
fn duty_25_version_and_id() {
    for version in [r#""1.0""#, "2.0", r#""2.0 ""#, "null", r#"["2.0"]"#] {
        let text = format!(r#"{{"jsonrpc":{version},"id":1,"method":"ping"}}"#);
        assert_eq!(fault(&text), Fault::WrongVersion, "{text}");
    }
    assert_eq!(fault(r#"{"id":1,"method":"ping"}"#), Fault::WrongVersion);
    for id in ["null", "1.0", "1e3", "-0.5", "true", "{}", "[]"] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        assert_eq!(fault(&text), Fault::BadId, "{text}");
    }
    for id in ["0", "-1", "9007199254740993", r#""""#, r#""\u00e9\"""#, r#""x y""#] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        assert_eq!(parse(&text).unwrap().id_raw(), Some(id.as_bytes()));
    }
    let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(257));
    assert_eq!(fault(&long), Fault::TooLong);
    assert_eq!(fault(r#"{"jsonrpc":"2.0","id":"a\u0000","method":"ping"}"#), Fault::ControlCharacter);
}

#[test]
fn duty_26_batches_are_refused() {
    for text in ["[]", r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, " [", "[1"] {
        assert_eq!(fault(text), Fault::Batch, "{text}");
    }
}

#[test]
fn duty_24_what_is_no_object_is_refused() {
    for text in ["1", "null", r#""x""#, "true"] {
        assert_eq!(fault(text), Fault::NotAnObject, "{text}");
    }
    for text in ["", "nope", "{", r#"{"jsonrpc":"2.0","id":1,"method":"ping""#] {
        assert_eq!(fault(text), Fault::NotJson, "{text}");
    }
}

#[test]
fn duty_27_kinds_are_told_apart_by_their_members_alone() {
    let kind = |members: &str| parse(&format!(r#"{{"jsonrpc":"2.0",{members}}}"#)).map(|envelope| envelope.kind());
    assert_eq!(kind(r#""id":1,"method":"x""#), Ok(Kind::Request));
    assert_eq!(kind(r#""method":"tools/call""#), Ok(Kind::Notification));
    assert_eq!(kind(r#""id":1,"result":{}"#), Ok(Kind::Response));
    assert_eq!(kind(r#""id":1,"error":{}"#), Ok(Kind::Response));
    for members in [
        r#""id":1"#,
        r#""id":1,"method":"x","result":{}"#,
        r#""id":1,"result":{},"error":{}"#,
        r#""method":"x","error":{}"#,
    ] {
        assert_eq!(kind(members).unwrap_err().fault, Fault::NotAMessage, "{members}");
    }
    assert_eq!(kind(r#""result":{}"#).unwrap_err().fault, Fault::BadId);
    assert_eq!(kind(r#""error":{}"#).unwrap_err().fault, Fault::BadId);
}

#[test]
fn duty_44_an_upstream_that_could_not_read_an_id_may_leave_it_out() {
    for id in ["", r#""id":null,"#] {
        let error =
            parse_server(&format!(r#"{{"jsonrpc":"2.0",{id}"error":{{"code":-32700,"message":"x"}}}}"#)).unwrap();
        assert_eq!((error.kind(), error.id_raw()), (Kind::Response, None));
        let result = format!(r#"{{"jsonrpc":"2.0",{id}"result":{{}}}}"#);
        assert_eq!(parse_server(&result).unwrap_err().fault, Fault::BadId);
    }
}

#[test]
fn duty_30_names_are_exact_and_bounded() {
    for (written, name) in [(" get", " get"), ("GET", "GET"), ("g\u{301}", "g\u{301}"), (r"\u0067et", "get")] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{written}"}}}}"#);
        assert_eq!(parse(&text).unwrap().name(), Some(name));
    }
    let name = |name: &str| fault(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"name":{name}}}}}"#));
    assert_eq!(name(&format!("\"{}\"", "x".repeat(513))), Fault::TooLong);
    for control in [r#""a\u0000""#, r#""a\n""#, r#""\u007f""#, "\"\u{85}\""] {
        assert_eq!(name(control), Fault::ControlCharacter, "{control}");
    }
    for wrong in ["1", "null", "[]", "{}"] {
        assert_eq!(name(wrong), Fault::BadMember, "{wrong}");
    }
}

#[test]
fn duty_28_methods_are_bounded_strings() {
    let method = |method: &str| fault(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":{method}}}"#));
    assert_eq!(method(r#""""#), Fault::BadMethod);
    assert_eq!(method("7"), Fault::BadMethod);
    assert_eq!(method(&format!("\"{}\"", "m".repeat(129))), Fault::TooLong);
    assert_eq!(method(r#""tools/call\u0000""#), Fault::ControlCharacter);
}

#[test]
fn params_and_results_are_objects() {
    for params in ["[]", "1", r#""x""#] {
        assert_eq!(fault(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{params}}}"#)), Fault::BadParams);
        assert_eq!(fault(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{params}}}"#)), Fault::BadResult);
        assert_eq!(fault(&format!(r#"{{"jsonrpc":"2.0","id":1,"error":{params}}}"#)), Fault::BadResult);
    }
    assert_eq!(fault(r#"{"jsonrpc":"2.0","id":1,"result":null}"#), Fault::BadResult);
    for meta in [
        "[]",
        r#"{"io.modelcontextprotocol/clientCapabilities":null}"#,
        r#"{"progressToken":{}}"#,
        r#"{"io.modelcontextprotocol/protocolVersion":null}"#,
    ] {
        assert_eq!(fault(&call(&format!(r#""_meta":{meta},"#))), Fault::BadMeta, "{meta}");
    }
    // `traceparent` decides nothing: what is no string is as if it were not there.
    assert_eq!(parse(&call(r#""_meta":{"traceparent":1},"#)).unwrap().meta().traceparent(), None);
}

#[test]
fn null_in_an_optional_place_is_absence() {
    let params = r#""arguments":null,"cursor":null,"_meta":null,"task":null,"requestState":null,"clientInfo":null,"#;
    let envelope = parse(&call(params)).unwrap();
    assert_eq!((envelope.arguments_raw(), envelope.cursor(), envelope.client_info_raw()), (None, None, None));
    assert!(!envelope.meta().is_present() && !envelope.asks_for_task() && !envelope.is_retry());
    assert_eq!(parse(r#"{"jsonrpc":"2.0","id":1,"method":"m","params":null}"#).unwrap().params_raw(), None);
    let retry = parse(&call(r#""inputResponses":{},"requestState":null,"#)).unwrap();
    assert!(retry.is_retry());
    for required in ["name", "uri", "capabilities", "requestId", "protocolVersion"] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"{required}":null}}}}"#);
        assert_eq!(fault(&text), Fault::BadMember, "{required}");
    }
}

#[test]
fn duty_25_a_refusal_echoes_the_id_that_was_read_and_never_one_of_two() {
    let id = |text: &str| parse(text).unwrap_err().id;
    assert_eq!(id(r#"{"jsonrpc":"2.0","id":"a","method":1}"#).unwrap(), r#""a""#);
    assert_eq!(id(r#"{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":1,"a":2}}"#).unwrap(), "7");
    assert_eq!(id(r#"{"jsonrpc":"2.0","method":1,"id":"a"}"#), None);
    assert_eq!(id(r#"{"jsonrpc":"2.0","id":1,"method":"m","id":2}"#), None);
    let answer = parse(r#"{"jsonrpc":"2.0","id":"a","method":1}"#).unwrap_err().answer();
    assert_eq!(answer.status, 400);
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&body["id"], &body["error"]["code"]), (&Value::from("a"), &Value::from(-32600)));
}

#[test]
fn duty_6_a_large_body_is_413() {
    let limits = Limits { body: 10, ..Limits::CLIENT };
    let refused = Envelope::parse(Bytes::from_static(b"{\"jsonrpc\":\"2.0\"}"), &limits).unwrap_err();
    assert_eq!((refused.fault, refused.answer().status.as_u16()), (Fault::TooLarge, 413));
}

#[test]
fn duty_97_debug_and_refusals_show_no_content() {
    let envelope = parse(&call(r#""arguments":{"password":"hunter2"},"#)).unwrap();
    assert!(!format!("{envelope:?}").contains("hunter2"));
    let refused = parse(&call(r#""arguments":{"hunter2":1,"hunter2":2},"#)).unwrap_err();
    assert!(!refused.to_string().contains("hunter2"));
}

#[test]
fn duty_29_ids_are_compared_by_what_they_say() {
    let same = |one: &str, other: &str| same_id(Some(one.as_bytes()), Some(other.as_bytes()));
    assert!(same("1", "1") && same(r#""a""#, r#""\u0061""#));
    assert!(!same("1", r#""1""#) && !same("1", "01") && !same(r#""a""#, r#""A""#));
    assert!(!same_id(None, None) && !same_id(None, Some(b"1")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn duty_21_what_is_read_is_what_any_reader_reads(
        name: String, uri in "[ -~é]{0,20}", argument: String, escape: bool, id in prop_oneof!["-?[1-9][0-9]{0,9}", "\"[a-z]{0,9}\""],
    ) {
        let quote = |text: &str| {
            let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            if escape { format!("\"{units}\"") } else { serde_json::to_string(text).unwrap() }
        };
        let text = format!(
            r#"{{"params":{{"arguments":{{{}:1}},"uri":{},"name":{}}},"method":"m","id":{id},"jsonrpc":"2.0"}}"#,
            quote(&argument), quote(&uri), quote(&name),
        );
        let Ok(envelope) = parse(&text) else {
            let long = name.len() * 6 > 512;
            prop_assert!(long || name.chars().chain(uri.chars()).any(char::is_control), "{}", text);
            return Ok(());
        };
        let value: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(envelope.name().map(Value::from), Some(value["params"]["name"].clone()));
        prop_assert_eq!(envelope.uri().map(Value::from), Some(value["params"]["uri"].clone()));
        let arguments: Value = serde_json::from_slice(envelope.arguments_raw().unwrap()).unwrap();
        prop_assert_eq!(&arguments, &value["params"]["arguments"]);
        prop_assert_eq!(envelope.id_raw().unwrap(), id.as_bytes());
    }
}
