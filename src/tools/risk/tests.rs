use super::*;

fn class(name: &str) -> Option<Risk> {
    class_with(name, "{}")
}

fn class_with(name: &str, schema: &str) -> Option<Risk> {
    classify(name, Some(schema)).into_iter().map(|reason| reason.risk).max()
}

fn tool(definition: &str) -> ToolView<'_> {
    ToolView::read(definition).unwrap()
}

#[test]
fn names_are_cut_into_words() {
    for (name, expected) in [
        ("delete_repo", "delete repo"),
        ("deleteRepo", "delete repo"),
        ("DeleteRepo", "delete repo"),
        ("HTTPServerGet", "http server get"),
        ("github.repos/delete-all", "github repos delete all"),
        ("get2Files", "get2 files"),
        ("__x__", "x"),
        ("", ""),
    ] {
        assert_eq!(words(name).join(" "), expected, "{name}");
    }
}

#[test]
fn verbs_decide_the_class() {
    for name in [
        "delete_repo",
        "repo_delete",
        "deleteRepo",
        "slack.removeUser",
        "run_query",
        "execute_sql",
        "send_email",
        "merge_pull_request",
        "github_merge_pull_request",
        "drop_table",
        "rotateKey",
        "transfer_funds",
        "kill",
    ] {
        assert_eq!(class(name), Some(Risk::Destructive), "{name}");
    }
    for name in
        ["create_issue", "update_issue", "add_comment", "slack_post_message", "set_status", "upload", "close_issue"]
    {
        assert_eq!(class(name), Some(Risk::Write), "{name}");
    }
    for name in ["get_file", "list_issues", "search", "github_get_me", "findUsers", "query_metrics", "whoami"] {
        assert_eq!(class(name), Some(Risk::ReadOnly), "{name}");
    }
}

#[test]
fn nouns_behind_a_reading_verb_are_what_is_read() {
    for name in
        ["get_order", "get_merge_request", "list_commits", "get_commit", "read_log", "get_workflow_run", "show_tag"]
    {
        assert_eq!(class(name), Some(Risk::ReadOnly), "{name}");
    }
}

#[test]
fn a_reading_verb_hides_no_other_verb() {
    assert_eq!(class("get_or_create_user"), Some(Risk::Write));
    assert_eq!(class("read_and_delete"), Some(Risk::Destructive));
    assert_eq!(class("check_then_merge"), Some(Risk::Destructive));
    assert_eq!(class("get_delete"), Some(Risk::Destructive));
    assert_eq!(class("search_and_replace"), Some(Risk::Destructive));
    assert_eq!(class("post_get"), Some(Risk::Write));
}

#[test]
fn a_name_that_says_nothing_is_unclassified() {
    for name in ["weather", "deleterepo", "admin", "", "лист", "status"] {
        assert_eq!(class(name), None, "{name}");
    }
}

#[test]
fn reasons_are_for_people() {
    let why: Vec<String> = classify("delete_repo", None).into_iter().map(|reason| reason.why).collect();
    assert_eq!(why, ["name has the verb \"delete\""]);
    let why: Vec<String> = classify("get_x", None).into_iter().map(|reason| reason.why).collect();
    assert_eq!(why, ["name has the verb \"get\" and no other"]);
}

#[test]
fn inputs_raise_the_class() {
    let schema = r#"{"properties":{"sql":{"type":"string"}}}"#;
    assert_eq!(class_with("get_rows", schema), Some(Risk::Destructive));
    assert_eq!(class_with("x", r#"{"properties":{"shellCommand":{"type":"string"}}}"#), Some(Risk::Destructive));
    assert_eq!(class_with("list_x", r#"{"properties":{"force":{"type":"boolean"}}}"#), Some(Risk::Destructive));
    // Search text, an enumeration by number, and a schema that is none say nothing.
    assert_eq!(class_with("search", r#"{"properties":{"query":{"type":"string"}}}"#), Some(Risk::ReadOnly));
    assert_eq!(class_with("get_x", r#"{"properties":{"code":{"type":"integer"}}}"#), Some(Risk::ReadOnly));
    for schema in ["", "[]", r#"{"properties":[]}"#, r#"{"properties":{"sql":true}}"#] {
        assert_eq!(class_with("get_x", schema), Some(Risk::ReadOnly), "{schema}");
    }
}

#[test]
fn duty_59_annotations_only_raise() {
    let claims_harmless = tool(r#"{"name":"delete_repo","annotations":{"readOnlyHint":true}}"#);
    assert_eq!(assess(&claims_harmless, None, []).class, Some(Risk::Destructive));
    let warns = tool(r#"{"name":"get_x","annotations":{"destructiveHint":true}}"#);
    let assessment = assess(&warns, None, []);
    assert_eq!((assessment.class, assessment.class_for_guardrails), (Some(Risk::Destructive), Some(Risk::Destructive)));
    assert_eq!(assessment.reasons[0].source, Source::Annotations);
}

#[test]
fn duty_59_what_only_annotations_assert_is_unclassified() {
    for hints in [r#"{"readOnlyHint":true}"#, r#"{"destructiveHint":true}"#, r#"{"readOnlyHint":false}"#] {
        let definition = format!(r#"{{"name":"weather","annotations":{hints}}}"#);
        let assessment = assess(&tool(&definition), None, []);
        assert_eq!((assessment.class, assessment.class_for_guardrails), (None, None), "{hints}");
        assert_eq!(assessment.asserted_only_by, Some(Source::Annotations));
        assert_eq!(assessment.reasons.len(), 1);
    }
    for nothing in [r#"{"name":"weather"}"#, r#"{"name":"weather","annotations":{"title":"x","readOnlyHint":"yes"}}"#] {
        let assessment = assess(&tool(nothing), None, []);
        assert_eq!((assessment.class, assessment.asserted_only_by, assessment.reasons.len()), (None, None, 0));
    }
}

#[test]
fn what_only_lock_or_configuration_assert_is_unclassified_for_guardrails() {
    let weather = tool(r#"{"name":"weather","annotations":{"destructiveHint":true}}"#);
    let locked = assess(&weather, Some(Risk::ReadOnly), []);
    assert_eq!((locked.class, locked.class_for_guardrails), (Some(Risk::Destructive), None));
    let configured = assess(&tool(r#"{"name":"weather"}"#), None, [("reads", Risk::ReadOnly)]);
    assert_eq!((configured.class, configured.class_for_guardrails), (Some(Risk::ReadOnly), None));
    assert_eq!(configured.asserted_only_by, Some(Source::Configured));
    assert_eq!(configured.reasons[0].why, "rule \"reads\" of spec.tools.risk matches");
}

#[test]
fn duty_59_the_class_of_a_former_definition_raises_and_vouches_for_nothing() {
    for (definition, locked, own) in [
        (r#"{"name":"weather"}"#, Risk::ReadOnly, None),
        (r#"{"name":"weather"}"#, Risk::Destructive, None),
        (r#"{"name":"get_x"}"#, Risk::Destructive, Some(Risk::Destructive)),
        (r#"{"name":"delete_x"}"#, Risk::ReadOnly, Some(Risk::Destructive)),
    ] {
        let said = Said::of(&tool(definition));
        let known = |source| KnownRisk::of(said.statements().chain([(source, locked)]));
        assert_eq!(known(Source::FormerLock).own, own, "{definition} {locked}");
        assert_eq!(known(Source::FormerLock).guardrail, own, "{definition} {locked}");
        // Of the reviewed definition it does vouch, but not to guardrails.
        assert_eq!(known(Source::Lock).own, own.max(Some(locked)), "{definition} {locked}");
        assert_eq!(known(Source::Lock).guardrail, own, "{definition} {locked}");
    }
}

#[test]
fn what_is_kept_of_a_definition_says_what_the_definition_says() {
    for definition in [
        r#"{"name":"weather"}"#,
        r#"{"name":"weather","annotations":{"destructiveHint":true}}"#,
        r#"{"name":"get_x","annotations":{"destructiveHint":true}}"#,
        r#"{"name":"get_rows","inputSchema":{"properties":{"sql":{"type":"string"}}},"annotations":{"readOnlyHint":true}}"#,
    ] {
        let assessment = assess(&tool(definition), None, []);
        let known = KnownRisk::of(Said::of(&tool(definition)).statements());
        assert_eq!((known.own, known.guardrail), (assessment.class, assessment.class_for_guardrails), "{definition}");
    }
}

#[test]
fn the_highest_statement_counts_and_none_lowers() {
    let read = tool(r#"{"name":"get_x"}"#);
    let raised = assess(&read, Some(Risk::Write), [("a", Risk::ReadOnly), ("b", Risk::Destructive)]);
    assert_eq!((raised.class, raised.class_for_guardrails), (Some(Risk::Destructive), Some(Risk::Destructive)));
    assert_eq!(raised.asserted_only_by, None);
    let delete = tool(r#"{"name":"delete_x"}"#);
    assert_eq!(assess(&delete, Some(Risk::ReadOnly), [("a", Risk::ReadOnly)]).class, Some(Risk::Destructive));
}

#[test]
fn classes_are_ordered() {
    assert!(Risk::ReadOnly < Risk::Write && Risk::Write < Risk::Destructive);
}
