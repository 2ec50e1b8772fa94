use super::*;
use crate::{
    api::{Key, Kind},
    generated::{policy::Standing, server::State},
};

#[test]
fn servers_that_claim_one_path_are_all_unserved() {
    let mut twin = server_with(json!({"path": "/team/s"}));
    patch(&mut twin, json!({"metadata": {"name": "twin"}}));
    let mut other = server_with(json!({}));
    patch(&mut other, json!({"metadata": {"name": "other"}}));
    let resolution = resolve(&[authority_named("corp"), server_with(json!({})), twin, other]);
    let states: Vec<_> = servers_of(&resolution)
        .iter()
        .map(|s| (s.id.name.as_str(), matches!(&s.state, State::Unserved { reason, .. } if reason == "PathConflict")))
        .collect();
    assert_eq!(states, [("other", false), ("s", true), ("twin", true)]);
    assert_eq!(found(&resolution), [("PathConflict", "spec.path".into()), ("PathConflict", "spec.path".into())]);
}

#[test]
fn a_server_whose_edit_is_invalid_keeps_its_place_and_takes_no_calls() {
    let first = resolve(&[authority_named("corp"), server_with(json!({}))]);
    for broken in [json!({"state": "Of"}), json!({"audit": {"level": "Full"}})] {
        let second = resolve_after(&[authority_named("corp"), server_with(broken)], &first.accepted);
        let server = servers_of(&second)[0];
        assert_eq!(server.path, "/team/s");
        assert!(matches!(server.state, State::Unserved { .. }));
        let third = resolve_after(&[authority_named("corp"), server_with(json!({}))], &second.accepted);
        assert_eq!(servers_of(&third)[0].state, State::Enabled);
    }
}

#[test]
fn what_was_never_read_denies_everything() {
    let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
    let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: None };
    let resolution = tree(&settings, &[], &BTreeMap::new(), true, &Accepted::default(), Observed::default());
    let [policy] = policies_of(&resolution)[..] else { panic!() };
    assert!(policy.guardrail && matches!(policy.standing, Standing::DenyAll { .. }));
    // It goes as soon as everything can be read, and is nobody's last accepted policy.
    assert_eq!(resolution.accepted, Accepted::default());
}

#[test]
fn an_object_that_is_only_known_by_name_counts() {
    let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
    let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: None };
    let key = Key { kind: Kind::McpPolicy, namespace: "team".into(), name: "p".into() };
    let invalid = BTreeMap::from([(key.clone(), Invalidity::Unreadable)]);
    let resolution = tree(&settings, &[], &invalid, false, &Accepted::default(), Observed::default());
    let [policy] = policies_of(&resolution)[..] else { panic!() };
    assert_eq!(policy.id.uid, key.stable_uid());
    assert!(!policy.guardrail && matches!(policy.standing, Standing::DenyAll { .. }));
    assert_eq!(found(&resolution), [("FileUnreadable", String::new())]);
}

fn namespace_labelled(labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": labels}})
}

#[test]
fn labels_of_a_namespace_are_known_empty_or_not_known() {
    let labels = |documents: &[Value]| servers_of(&resolve(documents))[0].namespace_labels.clone();
    let server = || server_with(json!({}));
    assert_eq!(labels(&[server()]), None);
    assert_eq!(labels(&[server(), namespace_labelled(json!({}))]), Some(Labels::new()));
    let gold = Labels::from([("tier".to_owned(), "gold".to_owned())]);
    assert_eq!(labels(&[server(), namespace_labelled(json!({"tier": "gold"}))]), Some(gold));
    // A Namespace that is wrong in itself says nothing about its labels.
    assert_eq!(labels(&[server(), namespace_labelled(json!({"tier": 1}))]), None);
}

#[test]
fn whoever_owns_a_server_is_told_that_guardrails_may_reach_it() {
    let guardrail = |selector: Value| {
        policy_in("sys", json!({"targets": {"selector": {}, "namespaceSelector": selector}, "rules": []}))
    };
    let by_label = json!({"matchLabels": {"tier": "gold"}});
    let by_name = json!({"matchLabels": {"kubernetes.io/metadata.name": "team"}});
    let told = vec![("NamespaceNotFound", "metadata.namespace".to_owned())];
    for (selector, namespace, want) in [
        (by_label.clone(), None, told),
        (by_label, Some(namespace_labelled(json!({}))), vec![]),
        (by_name, None, vec![]),
        (json!({}), None, vec![]),
    ] {
        let mut documents = vec![authority_named("corp"), server_with(json!({})), guardrail(selector.clone())];
        documents.extend(namespace);
        assert_eq!(found(&resolve(&documents)), want, "{selector}");
    }
}

#[test]
fn uids_are_stable_and_differ() {
    let key =
        |kind, namespace: &str, name: &str| Key { kind, namespace: namespace.into(), name: name.into() }.stable_uid();
    let uid = key(Kind::McpServer, "team", "s");
    assert_eq!(uid, key(Kind::McpServer, "team", "s"));
    assert_eq!((uid.len(), uid.chars().nth(14)), (36, Some('8')));
    assert_ne!(uid, key(Kind::McpPolicy, "team", "s"));
    assert_ne!(key(Kind::McpServer, "a", "b-c"), key(Kind::McpServer, "a-b", "c"));
}
