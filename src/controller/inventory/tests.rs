use serde_json::json;

use super::*;
use crate::fleet::tests::server;
use crate::generated::Labels;
use crate::generated::server::{Lock, LockedTool, OnChange, RiskRule};
use crate::tools::lock::FILLED;

fn plain() -> Server {
    server("team", "s", Labels::new(), None)
}

fn with_lock(definitions: &[&str]) -> Server {
    let tools = lock::lockable(definitions.iter().copied());
    let tools = tools.into_iter().map(|(name, (_, digest))| (name, LockedTool(digest, None))).collect();
    Server { lock: Some(Lock { on_change: OnChange::Warn, tools }), ..plain() }
}

fn size(objects: &[ConfigMap]) -> usize {
    objects.iter().flat_map(|object| object.data.iter().flatten()).map(|(key, text)| key.len() + text.len()).sum()
}

#[test]
fn what_is_listed_is_summed_up_and_kept_for_people() {
    let listed = [r#"{"name":"get_x","description":"d"}"#, r#"{"name":"close_x"}"#, r#"{"name":"odd"}"#, "{}"];
    let rules = vec![RiskRule { name: "r".into(), patterns: vec!["odd".into()], class: Risk::Destructive }];
    let server = Server { risk: rules, ..plain() };
    let found = sum_up(&server, &listed);
    let names: Vec<_> = found.status.items.iter().map(|tool| (tool.name.as_str(), tool.risk)).collect();
    let (reads, writes, destroys) = (RiskClass::ReadOnly, RiskClass::Write, RiskClass::Destructive);
    assert_eq!(names, [("close_x", Some(writes)), ("get_x", Some(reads)), ("odd", Some(destroys))]);
    assert_eq!((found.status.count, found.status.unusable, found.status.drifted), (3, 1, None));
    assert_eq!(found.drift, None);
    let [object] = found.objects.as_slice() else { panic!("{:?}", found.objects) };
    assert_eq!(object.metadata.name.as_deref(), Some("inventory-uid-team-s-0"));
    let labels = object.metadata.labels.as_ref().unwrap();
    assert_eq!(labels[INVENTORY], "uid-team-s");
    assert!(!labels.contains_key(crate::generated::kind::GENERATED), "no proxy reads it");
    let text = &object.data.as_ref().unwrap()[LOCK_KEY];
    assert_eq!(lock::read(text).unwrap().len(), 3, "a lock can be made of it");
    assert!(text.contains("\"description\": \"d\""));
    let mut turned = listed;
    turned.reverse();
    assert_eq!(sum_up(&server, &turned), found, "the order of a list says nothing");
}

#[test]
fn drift_is_named_first() {
    let (a, b, c) = (r#"{"name":"a"}"#, r#"{"name":"b"}"#, r#"{"name":"c"}"#);
    let server = with_lock(&[a, b]);
    assert_eq!(sum_up(&server, &[b, a]).status.drifted, Some(0));
    let found = sum_up(&server, &[a, r#"{"name":"z","title":"t"}"#, c, r#"{"name":"c","title":"t"}"#]);
    let drift: Vec<_> = found.status.items.iter().map(|tool| (tool.name.as_str(), tool.drift)).collect();
    let (new, gone) = (Some(ToolDrift::New), Some(ToolDrift::Gone));
    assert_eq!(drift, [("b", gone), ("c", new), ("z", new), ("a", None)]);
    assert_eq!((found.status.count, found.status.unusable, found.status.drifted), (2, 2, Some(3)));
    assert_eq!(found.drift.as_deref(), Some("3 not as they were reviewed: \"b\" (Gone), \"c\" (New), \"z\" (New)"));
    let changed = sum_up(&server, &[r#"{"name":"a","title":"t"}"#, b]);
    assert_eq!(changed.drift.as_deref(), Some("1 not as they were reviewed: \"a\" (Changed)"));
}

#[test]
fn whatever_an_upstream_declares_what_is_written_is_bounded() {
    let named =
        |n: usize, size: usize| json!({"name": format!("{n:x>512}"), "description": "w".repeat(size)}).to_string();
    let many: Vec<String> = (0..5000).map(|n| named(n, 0)).collect();
    let large: Vec<String> = (0..16).map(|n| named(n, 1 << 20)).collect();
    let wide: Vec<String> = (0..200).map(|n| named(n, 80_000)).collect();
    for listed in [many, large, wide] {
        let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
        let found = sum_up(&with_lock(&[]), &listed);
        assert_eq!(found.status.count, number(listed.len()));
        assert!(found.status.items.len() <= SHOWN);
        let status = serde_json::to_vec(&found.status).unwrap().len();
        assert!(status < 200_000, "{status}");
        assert!(found.objects.len() <= MOST_OBJECTS);
        assert!(found.objects.iter().all(|object| size(std::slice::from_ref(object)) <= FILLED + LOCK_KEY.len()));
        let kept: usize = found
            .objects
            .iter()
            .map(|object| lock::read(&object.data.as_ref().unwrap()[LOCK_KEY]).unwrap().len())
            .sum();
        let left_out = found.objects.first().and_then(|object| object.metadata.annotations.as_ref()?.get(LEFT_OUT));
        let left_out: usize = left_out.map_or(0, |count| count.parse().unwrap());
        assert_eq!(kept + left_out, listed.len());
    }
}
