//! What the scanner accepts, serde_json reads the same way, without a member twice; what it refuses as no JSON, serde_json
//! refuses too; and whatever is written anew is again strict, and says no more than it may.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::mcp::envelope::Envelope;
use portcullis_fuzz::mcp::judge::judge;
use portcullis_fuzz::mcp::list::{filter_tools, next_cursor, tools};
use portcullis_fuzz::mcp::malformed::Fault;
use portcullis_fuzz::mcp::revision::SUPPORTED;
use portcullis_fuzz::mcp::rewrite::{self, ResultRules};
use portcullis_fuzz::mcp::scan::{Limits, check};
use portcullis_fuzz::naive::{Opinion, opinion};
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    agree(data);
    if let Ok(envelope) = Envelope::parse(Bytes::copy_from_slice(data), &Limits::CLIENT) {
        request(&envelope);
    }
    if let Ok(envelope) = Envelope::parse_server(Bytes::copy_from_slice(data), &Limits::SERVER) {
        response(&envelope);
    }
});

fn agree(data: &[u8]) {
    match (check(data, &Limits::CLIENT), opinion(data)) {
        (Ok(()), Opinion::Refuses) => panic!("accepted what the reference refuses"),
        // Limits are the scanner's alone; a byte order mark is refused by both, under different names.
        (Err(Fault::NotJson | Fault::NotUtf8 | Fault::TrailingData | Fault::LoneSurrogate), Opinion::Accepts) => {
            panic!("refused what the reference accepts")
        }
        (Err(Fault::DuplicateMember), Opinion::Accepts) => panic!("saw a duplicate where there is none"),
        _ => {}
    }
}

fn request(envelope: &Envelope) {
    if let Ok(value) = serde_json::from_slice::<Value>(envelope.body()) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        assert_eq!(envelope.method().map(str::to_owned), text(&value["method"]));
        let params = &value["params"];
        assert_eq!(envelope.name().map(str::to_owned), text(&params["name"]));
        assert_eq!(envelope.uri().map(str::to_owned), text(&params["uri"]));
        assert_eq!(envelope.cursor().map(str::to_owned), text(&params["cursor"]));
        assert_eq!(same(envelope.arguments_raw()), params.get("arguments").filter(|value| !value.is_null()).cloned());
        assert_eq!(same(envelope.id_raw()), value.get("id").cloned());
        let meta = &params["_meta"]["io.modelcontextprotocol/protocolVersion"];
        assert_eq!(envelope.meta().protocol_version().map(str::to_owned), text(meta));
    }
    for revision in SUPPORTED {
        if let Err(refusal) = judge(envelope, revision) {
            let answer = refusal.answer(envelope, revision.era());
            assert!(answer.body.is_empty() || check(&answer.body, &Limits::SERVER).is_ok());
        }
        if let Some(body) = rewrite::request(envelope, revision, Some("sealed")).expect("was read already") {
            let again = Envelope::parse(body, &Limits::SERVER).expect("still strict");
            assert_eq!(again.name(), envelope.name());
            assert_eq!(again.arguments_raw(), envelope.arguments_raw());
            assert_eq!(again.id_raw(), envelope.id_raw());
            assert!(!again.asks_for_task());
            assert_eq!(again.cursor(), envelope.cursor().map(|_| "sealed"));
            assert_eq!(rewrite::request(&again, revision, None).expect("was read already"), None, "not settled");
        }
    }
}

fn response(envelope: &Envelope) {
    let rules = ResultRules { max_ttl_ms: 1000, keep_instructions: false };
    let mut written = Vec::new();
    written.extend(rewrite::initialize_result(envelope, rules).map(|(body, _)| body));
    written.extend(rewrite::discover_result(envelope, rules));
    drop((tools(envelope), next_cursor(envelope)));
    for revision in SUPPORTED {
        let keep = |name: &str| name.len() % 2 == 0;
        if let Ok(filtered) = filter_tools(envelope, revision, 1000, |tool| keep(&tool.name), |_| "sealed".to_owned()) {
            let again = Envelope::parse_server(filtered.body.clone(), &Limits::SERVER).expect("still strict");
            let left = tools(&again).expect("still a list");
            assert_eq!(left.len(), filtered.kept);
            assert!(left.iter().all(|tool| keep(&tool.name)));
            written.push(filtered.body);
        }
    }
    for body in written {
        let again = Envelope::parse_server(body, &Limits::SERVER).expect("still strict");
        assert_eq!(again.id_raw(), envelope.id_raw());
    }
}

fn same(raw: Option<&[u8]>) -> Option<Value> {
    raw.map(|raw| serde_json::from_slice(raw).expect("a part of what serde_json read"))
}
