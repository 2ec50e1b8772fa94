//! What is no review is no answer.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::admission::review::{Malformed, Operation};
use crate::oauth::json::JsonError;

#[test]
fn a_review_is_read() {
    let new = policy("team", json!({"servers": ["a"]}), json!([rule("r", "Allow", json!({}))]));
    let read = review(None, Some(&new));
    assert_eq!((read.operation, read.key.to_string().as_str()), (Operation::Create, "McpPolicy team/p"));
    assert_eq!((read.user.username.as_str(), read.user.groups.len(), read.new), ("ana", 2, Some(new.clone())));
    let gone = review(Some(&new), None);
    assert_eq!((gone.operation, gone.new, gone.old), (Operation::Delete, None, Some(new)));
}

#[test]
fn what_is_no_review_of_ours_is_malformed() {
    let new = policy("team", json!({"servers": ["a"]}), json!([rule("r", "Allow", json!({}))]));
    let changed = |change: Value| {
        let mut whole = asked(Some(&new), Some(&new));
        patch(&mut whole, &change);
        read(whole.to_string().as_bytes()).map_err(|error| error.reason()).err()
    };
    assert_eq!(changed(json!({})), None);
    for (change, reason) in [
        (json!({"apiVersion": "admission.k8s.io/v1beta1"}), "ReviewVersion"),
        (json!({"kind": "ConversionReview"}), "ReviewVersion"),
        (json!({"request": null}), "ReviewMalformed"),
        (json!({"request": []}), "ReviewMalformed"),
        (json!({"request": {"uid": ""}}), "ReviewMalformed"),
        (json!({"request": {"uid": 7}}), "ReviewMalformed"),
        (json!({"request": {"uid": "x".repeat(1000)}}), "ReviewMalformed"),
        (json!({"request": {"kind": null}}), "ReviewMalformed"),
        (json!({"request": {"kind": {"kind": "Secret"}}}), "ReviewForeign"),
        (json!({"request": {"kind": {"group": "apps"}}}), "ReviewForeign"),
        (json!({"request": {"kind": {"version": "v1"}}}), "ReviewForeign"),
        (json!({"request": {"subResource": "status"}}), "ReviewForeign"),
        (json!({"request": {"operation": "CONNECT"}}), "ReviewForeign"),
        (json!({"request": {"operation": null}}), "ReviewForeign"),
        (json!({"request": {"object": null}}), "ReviewMalformed"),
        (json!({"request": {"oldObject": null}}), "ReviewMalformed"),
        (json!({"request": {"operation": "DELETE", "oldObject": null}}), "ReviewMalformed"),
        (json!({"request": {"userInfo": null}}), "ReviewMalformed"),
        (json!({"request": {"userInfo": {"username": ""}}}), "ReviewMalformed"),
        (json!({"request": {"userInfo": {"groups": [1]}}}), "ReviewMalformed"),
        (json!({"request": {"userInfo": {"extra": {"a": "b"}}}}), "ReviewMalformed"),
        (json!({"request": {"namespace": ""}}), "ReviewMalformed"),
        (json!({"request": {"namespace": "another"}}), "ReviewMalformed"),
        (json!({"request": {"object": {"metadata": {"namespace": "another"}}}}), "ReviewMalformed"),
        (json!({"request": {"oldObject": {"metadata": {"name": "another"}}}}), "ReviewMalformed"),
        (json!({"request": {"oldObject": {"kind": "McpServer"}}}), "ReviewMalformed"),
        (json!({"request": {"object": {"apiVersion": "portcullis.dev/v2"}}}), "ReviewMalformed"),
    ] {
        assert_eq!(changed(change.clone()), Some(reason), "{change}");
    }
}

#[test]
fn what_two_parsers_could_read_differently_is_malformed() {
    let text = asked(None, Some(&server("a", json!({}), json!({})))).to_string();
    let twice = text.replacen("\"operation\":", "\"operation\":\"DELETE\",\"operation\":", 1);
    assert_eq!(read(twice.as_bytes()), Err(Malformed::Json(JsonError::DuplicateMember)));
    let deep = text.replacen("\"spec\":{", &format!("\"spec\":{{\"x\":{}{},", "[".repeat(100), "]".repeat(100)), 1);
    assert_eq!(read(deep.as_bytes()), Err(Malformed::Json(JsonError::TooDeep)));
    for text in ["", "[]", "{", "null", "\u{feff}{}", "{} {}"] {
        assert!(matches!(read(text.as_bytes()), Err(Malformed::Json(_))), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_breaks_it(text in "\\PC{0,200}", at in 0usize..2000, put in "[\\[\\]{}\",:a0]{1,4}") {
        drop(read(text.as_bytes()));
        // A review with something in it that does not belong there.
        let mut whole = asked(None, Some(&server("a", json!({}), json!({})))).to_string();
        let at = at.min(whole.len());
        if whole.is_char_boundary(at) {
            whole.insert_str(at, &put);
        }
        if let Ok(review) = read(whole.as_bytes()) {
            let nothing = looked_up(&review, &world(), &[]);
            drop(judge(&review, &world(), &nothing).decide(&[]).tell(&review, &world(), &nothing, 0).encode());
        }
    }
}
