use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::mcp::scan::Limits;

const NEW: Revision = Revision::V2026_07_28;
const OLD: Revision = Revision::V2025_11_25;

fn request(id: &Value) -> Envelope {
    let body = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": {"name": "x", "_meta": {"progressToken": "p"}}});
    Envelope::parse(Bytes::from(body.to_string()), &Limits::CLIENT).unwrap()
}

fn judge(message: &Value, revision: Revision) -> Verdict {
    let message = Envelope::parse_server(Bytes::from(message.to_string()), &Limits::SERVER).unwrap();
    classify(&message, Stream::Request(&request(&json!(7))), revision)
}

fn standalone(message: &Value) -> Verdict {
    let message = Envelope::parse_server(Bytes::from(message.to_string()), &Limits::SERVER).unwrap();
    classify(&message, Stream::Standalone, OLD)
}

#[test]
fn duty_29_only_the_requests_own_answer_is_the_answer() {
    for revision in [NEW, OLD] {
        assert_eq!(judge(&json!({"jsonrpc": "2.0", "id": 7, "result": {}}), revision), Verdict::Answer);
        assert_eq!(judge(&json!({"jsonrpc": "2.0", "id": 7, "error": {}}), revision), Verdict::Answer);
        assert_eq!(judge(&json!({"jsonrpc": "2.0", "error": {}}), revision), Verdict::Answer);
        for id in [json!("7"), json!(8), json!("")] {
            let foreign = json!({"jsonrpc": "2.0", "id": id, "result": {}});
            assert_eq!(judge(&foreign, revision), Verdict::Drop(Dropped::ForeignResponse), "{id}");
        }
    }
    assert_eq!(standalone(&json!({"jsonrpc": "2.0", "id": 7, "result": {}})), Verdict::Drop(Dropped::ForeignResponse));
}

#[test]
fn duty_63_requests_of_servers_are_dropped() {
    for method in ["sampling/createMessage", "elicitation/create", "roots/list", "ping", "x"] {
        let sent = json!({"jsonrpc": "2.0", "id": 1, "method": method});
        for revision in [NEW, OLD] {
            assert_eq!(judge(&sent, revision), Verdict::Drop(Dropped::ServerRequest), "{method}");
        }
        assert_eq!(standalone(&sent), Verdict::Drop(Dropped::ServerRequest));
    }
}

#[test]
fn duty_64_progress_passes_only_to_the_request_that_asked_for_it() {
    let progress = |token: Value| json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}});
    for revision in [NEW, OLD] {
        assert_eq!(judge(&progress(json!("p")), revision), Verdict::Forward);
        for token in [json!("q"), json!(7), json!(0)] {
            assert_eq!(judge(&progress(token), revision), Verdict::Drop(Dropped::ForeignNotification));
        }
        let bare = json!({"jsonrpc": "2.0", "method": "notifications/progress"});
        assert_eq!(judge(&bare, revision), Verdict::Drop(Dropped::ForeignNotification));
    }
    assert_eq!(standalone(&progress(json!("p"))), Verdict::Drop(Dropped::ForeignNotification));
}

#[test]
fn duty_68_changes_pass_where_the_era_has_them() {
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    assert_eq!(judge(&changed, OLD), Verdict::Forward);
    assert_eq!(standalone(&changed), Verdict::Forward);
    assert_eq!(judge(&changed, NEW), Verdict::Drop(Dropped::ForeignNotification));
}

#[test]
fn duty_92_log_messages_and_everything_unpoliced_are_dropped() {
    for method in [
        "notifications/message",
        "notifications/resources/updated",
        "notifications/resources/list_changed",
        "notifications/prompts/list_changed",
        "notifications/cancelled",
        "notifications/initialized",
        "notifications/elicitation/complete",
        "notifications/tasks/status",
        "notifications/tasks",
        "notifications/x",
        "tools/call",
    ] {
        let sent = json!({"jsonrpc": "2.0", "method": method});
        for revision in [NEW, OLD] {
            assert_eq!(judge(&sent, revision), Verdict::Drop(Dropped::UnpolicedNotification), "{method}");
        }
        assert_eq!(standalone(&sent), Verdict::Drop(Dropped::UnpolicedNotification), "{method}");
    }
}

#[test]
fn duty_81_results_of_other_types_fail_closed() {
    for kind in ["input_required", "task", "other"] {
        let answer = json!({"jsonrpc": "2.0", "id": 7, "result": {"resultType": kind}});
        assert_eq!(judge(&answer, NEW), Verdict::Refuse(Hostile::ResultType), "{kind}");
    }
}
