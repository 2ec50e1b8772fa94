use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::mcp::revision::SUPPORTED;
use crate::mcp::scan::Limits;

const NEW: Revision = Revision::V2026_07_28;
const OLD: Revision = Revision::V2025_11_25;

fn envelope(value: &Value) -> Envelope {
    Envelope::parse(Bytes::from(value.to_string()), &Limits::CLIENT).unwrap()
}

fn request(method: &str, mut params: Value) -> Envelope {
    params["_meta"] = json!({"io.modelcontextprotocol/clientCapabilities": {}});
    envelope(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
}

fn notification(method: &str, params: Value) -> Envelope {
    envelope(&json!({"jsonrpc": "2.0", "method": method, "params": params}))
}

#[test]
fn duty_28_policed_methods_pass_and_all_else_is_denied() {
    for revision in SUPPORTED {
        let row = judge(&request("tools/call", json!({"name": "x", "arguments": {}})), revision).unwrap();
        assert_eq!((row.name, row.subject), ("tools/call", Subject::Tool));
        for row in Method::all(revision).filter(|row| row.form != Form::Notification) {
            let params = json!({"name": "x", "uri": "u", "taskId": "t", "protocolVersion": "2025-11-25"});
            let judged = judge(&request(row.name, params), revision);
            let policed = row.is_policed_from(Sender::Client);
            assert_eq!(judged, if policed { Ok(row) } else { Err(Refusal::UnknownMethod) }, "{revision} {}", row.name);
        }
        for unknown in ["Tools/Call", "tools/call ", "tools/", "x", "rpc.discover"] {
            assert_eq!(judge(&request(unknown, json!({"name": "x"})), revision), Err(Refusal::UnknownMethod));
        }
    }
    assert_eq!(judge(&request("initialize", json!({"protocolVersion": "x"})), NEW), Err(Refusal::UnknownMethod));
    assert_eq!(judge(&request("server/discover", json!({})), OLD), Err(Refusal::UnknownMethod));
}

#[test]
fn duty_28_the_answers_to_unknown_methods() {
    let unknown = request("resources/read", json!({"uri": "x"}));
    for (era, status) in [(Era::New, 404), (Era::Old, 200)] {
        let answer = Refusal::UnknownMethod.answer(&unknown, era);
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status.as_u16(), &body["error"]["code"], &body["id"]), (status, &json!(-32601), &json!(1)));
    }
    let silent = notification("x/y", json!({}));
    assert_eq!(Refusal::UnknownMethod.answer(&silent, Era::Old), Answer::accepted());
    assert_eq!(Refusal::UnknownMethod.answer(&silent, Era::New).status, 404);
}

#[test]
fn duty_27_requests_sent_as_notifications_are_refused() {
    for (method, params) in [("tools/call", json!({"name": "x"})), ("tools/list", json!({})), ("ping", json!({}))] {
        let sent = notification(method, params);
        assert_eq!(judge(&sent, OLD), Err(Refusal::WrongForm), "{method}");
        assert_eq!(Refusal::WrongForm.answer(&sent, Era::Old).status, 400);
    }
    assert_eq!(judge(&request("notifications/initialized", json!({})), OLD), Err(Refusal::WrongForm));
}

#[test]
fn duty_29_responses_of_clients_are_refused_without_echoing_their_id() {
    for body in [json!({"jsonrpc": "2.0", "id": 1, "result": {}}), json!({"jsonrpc": "2.0", "id": 1, "error": {}})] {
        let response = envelope(&body);
        for revision in SUPPORTED {
            assert_eq!(judge(&response, revision), Err(Refusal::UnexpectedResponse));
            let answer = Refusal::UnexpectedResponse.answer(&response, revision.era());
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!((answer.status.as_u16(), body.get("id")), (400, None));
        }
    }
}

#[test]
fn duty_41_requests_of_the_new_era_declare_their_capabilities() {
    let bare = envelope(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
    assert_eq!(judge(&bare, NEW), Err(Refusal::MissingMeta));
    let answer = Refusal::MissingMeta.answer(&bare, Era::New);
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status.as_u16(), &body["error"]["code"]), (400, &json!(-32602)));
    assert!(judge(&bare, OLD).is_ok());
}

#[test]
fn duty_65_cancellation_needs_its_target_and_has_no_place_in_the_new_era() {
    assert!(judge(&notification("notifications/cancelled", json!({"requestId": 1})), OLD).is_ok());
    assert_eq!(judge(&notification("notifications/cancelled", json!({})), OLD), Err(Refusal::MissingParam));
    let cancelled = notification("notifications/cancelled", json!({"requestId": 1}));
    assert_eq!(judge(&cancelled, NEW), Err(Refusal::UnpolicedNotification));
    assert_eq!(Refusal::UnpolicedNotification.answer(&cancelled, Era::New), Answer::accepted());
}

#[test]
fn duty_70_unpoliced_notifications_are_dropped_with_202() {
    let roots = notification("notifications/roots/list_changed", json!({}));
    assert_eq!(judge(&roots, OLD), Err(Refusal::UnpolicedNotification));
    let answer = Refusal::UnpolicedNotification.answer(&roots, Era::Old);
    assert_eq!((answer.status.as_u16(), answer.body.len()), (202, 0));
}

#[test]
fn a_call_needs_a_name_and_arguments_that_are_an_object() {
    assert_eq!(judge(&request("tools/call", json!({})), NEW), Err(Refusal::MissingParam));
    for arguments in [json!([]), json!(true), json!("x"), json!(1)] {
        let call = request("tools/call", json!({"name": "x", "arguments": arguments}));
        assert_eq!(judge(&call, NEW), Err(Refusal::BadArguments), "{arguments}");
    }
    assert_eq!(judge(&request("initialize", json!({})), OLD), Err(Refusal::MissingParam));
}

#[test]
fn duty_78_retries_with_input_are_refused_while_no_input_can_be_asked_for() {
    for retry in [json!({"name": "x", "requestState": "s"}), json!({"name": "x", "inputResponses": {}})] {
        assert_eq!(judge(&request("tools/call", retry.clone()), NEW), Err(Refusal::UnexpectedRetry));
        assert!(judge(&request("tools/call", retry), OLD).is_ok());
    }
}
