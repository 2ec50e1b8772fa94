use super::*;
use crate::generated::policy::{Mode, PrincipalMatch, Standing, ToolMatch};

fn with_policy(policy: Value) -> Resolution {
    resolve(&[authority_named("corp"), server_with(json!({})), policy])
}

fn with_rule(effect: &str, rule: Value) -> Resolution {
    with_policy(policy_with(effect, rule))
}

#[test]
fn a_rule_is_normalized() {
    let resolution = with_rule(
        "Allow",
        json!({
            "principals": [{"groups": ["g"]}], "tools": [{"patterns": ["get_*"], "risk": ["ReadOnly"]}],
            "notBefore": "1970-01-01T00:00:10Z", "notAfter": "1970-01-01T00:00:20Z", "message": "m"
        }),
    );
    assert_eq!(found(&resolution), []);
    let policy = policies_of(&resolution)[0];
    assert_eq!((policy.guardrail, policy.mode, &policy.standing), (false, Mode::Enforce, &Standing::InForce));
    let rule = &policy.rules[0];
    let principal =
        PrincipalMatch { authority: Some("corp".into()), groups: vec!["g".into()], ..PrincipalMatch::default() };
    assert_eq!(rule.principals, [principal]);
    let risk = vec![crate::generated::Risk::ReadOnly];
    assert_eq!(rule.tools, [ToolMatch { patterns: vec!["get_*".into()], risk, ..ToolMatch::default() }]);
    assert_eq!((rule.not_before, rule.not_after), (Some(10), Some(20)));
}

/// Design 3.3: any: true ignores the default authority in what narrows, and `except` reads inversely.
#[test]
fn principals_are_qualified_so_that_mistakes_narrow() {
    let any = json!({"any": true});
    // An Allow whose exceptions leave nobody is refused.
    let any_agent = json!({"any": true, "actor": {"any": true}});
    let anyone_at = |authority: &str| json!({"any": true, "authority": authority});
    let group = json!({"groups": ["g"]});
    let group_at = |authority: &str| json!({"groups": ["g"], "authority": authority});
    for (effect, list, entry, want, warns) in [
        ("Allow", "principals", &any, Some("corp"), false),
        ("Deny", "principals", &any, None, false),
        ("RequireApproval", "principals", &any, None, false),
        ("Allow", "except", &any_agent, None, false),
        ("Deny", "except", &any, Some("corp"), false),
        ("Deny", "principals", &anyone_at("corp"), Some("corp"), false),
        ("Deny", "principals", &group, Some("corp"), false),
        ("Allow", "principals", &group_at("typo"), Some("typo"), true),
        ("Deny", "principals", &group_at("typo"), None, true),
        ("RequireApproval", "principals", &group_at("typo"), None, true),
        ("Allow", "except", &group_at("typo"), None, true),
        ("Deny", "except", &group_at("typo"), Some("typo"), true),
    ] {
        let resolution = with_rule(effect, json!({list: [entry]}));
        let rule = &policies_of(&resolution)[0].rules[0];
        let matched = if list == "except" { &rule.except[0] } else { &rule.principals[0] };
        assert_eq!(matched.authority.as_deref(), want, "{effect} {list} {entry}");
        // Without an authority only `any` is a match; the groups still narrow it.
        assert_eq!(matched.any, want.is_none() || entry == &any || entry["any"] == true, "{effect} {list} {entry}");
        assert_eq!(matched.groups.is_empty(), entry["groups"].is_null(), "{effect} {list} {entry}");
        let warned = found(&resolution).contains(&("AuthorityNotFound", format!("spec.rules[0].{list}[0].authority")));
        assert_eq!(warned, warns, "{effect} {list} {entry}");
    }
}

#[test]
fn groups_of_an_authority_whose_tokens_carry_none_are_named() {
    let mut corp = authority_named("corp");
    patch(&mut corp, json!({"spec": {"validation": null}}));
    for effect in ["Allow", "Deny"] {
        let resolution = resolve(&[corp.clone(), policy_with(effect, json!({"name": effect}))]);
        let mut found = found(&resolution);
        found.retain(|(reason, _)| *reason != "ServerNotFound");
        assert_eq!(found, [("GroupsNotMapped", "spec.rules[0].principals[0].groups".to_owned())]);
    }
}

#[test]
fn an_authority_is_needed_where_a_match_depends_on_it() {
    for (effect, principals, needed) in [
        ("Allow", json!([{"any": true}]), true),
        ("Allow", json!([{"groups": ["g"]}]), true),
        ("Deny", json!([{"groups": ["g"]}]), true),
        ("Deny", json!([{"any": true}]), false),
        ("Allow", json!([{"groups": ["g"], "authority": "corp"}]), false),
    ] {
        let mut policy = policy_with(effect, json!({"principals": principals}));
        patch(&mut policy, json!({"spec": {"authority": null}}));
        let findings = found(&with_policy(policy));
        let want = ("AuthorityMissing", "spec.rules[0].principals[0]".to_owned());
        assert_eq!(findings.contains(&want), needed, "{effect} {principals}");
    }
}

/// A day begins, and ends.
const EVE: &str = "2026-01-01T00:00:00Z";
const DAY: &str = "2026-01-02T00:00:00Z";

#[test]
fn what_is_wrong_in_a_rule_is_named_where_it_stands() {
    let rule = "spec.rules[0]";
    let principal = format!("{rule}.principals[0]");
    let tool = format!("{rule}.tools[0]");
    for (reason, field, patched) in [
        ("BreakGlassInvalid", format!("{rule}.breakGlass"), json!({"breakGlass": {"reason": "r"}})),
        ("BreakGlassInvalid", format!("{rule}.breakGlass"), json!({"breakGlass": {"reason": "r"}, "notAfter": DAY})),
        (
            "BreakGlassInvalid",
            format!("{rule}.breakGlass.reason"),
            json!({"breakGlass": {"reason": " "}, "notBefore": EVE, "notAfter": DAY}),
        ),
        (
            "BreakGlassInvalid",
            format!("{rule}.breakGlass"),
            json!({"effect": "Deny", "breakGlass": {"reason": "r"}, "notBefore": EVE, "notAfter": DAY}),
        ),
        (
            "BreakGlassTooLong",
            format!("{rule}.breakGlass"),
            json!({"breakGlass": {"reason": "r"}, "notBefore": EVE, "notAfter": "2026-01-02T00:00:01Z"}),
        ),
        ("FieldMissing", format!("{rule}.breakGlass.reason"), json!({"breakGlass": {}})),
        ("UnknownField", format!("{rule}.breakGlass.tickt"), json!({"breakGlass": {"reason": "r", "tickt": "t"}})),
        ("RuleEmpty", format!("{rule}.tools"), json!({"tools": null})),
        ("RuleEmpty", tool.clone(), json!({"tools": [{}]})),
        ("BoundsExceeded", format!("{rule}.tools"), json!({"tools": []})),
        ("FieldMissing", format!("{rule}.principals"), json!({"principals": null})),
        ("BoundsExceeded", format!("{rule}.principals"), json!({"principals": []})),
        ("PrincipalInvalid", principal.clone(), json!({"principals": [{}]})),
        ("PrincipalInvalid", principal.clone(), json!({"principals": [{"users": ["u"], "clients": ["c"]}]})),
        ("PrincipalInvalid", format!("{principal}.any"), json!({"principals": [{"any": false}]})),
        ("PrincipalInvalid", format!("{principal}.any"), json!({"principals": [{"any": true, "groups": ["g"]}]})),
        (
            "PrincipalInvalid",
            format!("{principal}.mcpClients"),
            json!({"principals": [{"mcpClients": ["c"], "via": ["x"]}]}),
        ),
        (
            "PrincipalInvalid",
            format!("{principal}.serviceAccount"),
            json!({"principals": [{"serviceAccount": {"namespace": "ci", "name": "a:b"}}]}),
        ),
        (
            "PrincipalInvalid",
            format!("{principal}.serviceAccount"),
            json!({"principals": [{"serviceAccount": {"namespace": "ci", "name": "bot"}, "via": ["ide"]}]}),
        ),
        ("UnknownField", format!("{principal}.user"), json!({"principals": [{"user": ["u"]}]})),
        ("ChoiceInvalid", format!("{principal}.actor"), json!({"principals": [{"users": ["u"], "actor": {}}]})),
        (
            "ChoiceInvalid",
            format!("{principal}.actor"),
            json!({"principals": [{"users": ["u"], "actor": {"any": true, "subjects": ["a"]}}]}),
        ),
        ("PatternInvalid", format!("{tool}.patterns[0]"), json!({"tools": [{"patterns": ["get_[ab]"]}]})),
        ("PatternInvalid", format!("{tool}.patterns[0]"), json!({"tools": [{"patterns": ["\u{20ac}".repeat(200)]}]})),
        ("PatternInvalid", format!("{tool}.names[0]"), json!({"tools": [{"names": ["get_*"]}]})),
        ("ConditionInvalid", format!("{rule}.when"), json!({"when": "args.a =="})),
        ("TimeInvalid", format!("{rule}.notBefore"), json!({"notBefore": "2026-01-01"})),
        (
            "WindowInvalid",
            format!("{rule}.notAfter"),
            json!({"notBefore": "2026-01-02T00:00:00Z", "notAfter": "2026-01-02T01:00:00+01:00"}),
        ),
        ("NotYetEnforced", format!("{rule}.resources"), json!({"resources": [{"uris": ["x"]}]})),
        ("NotYetEnforced", format!("{rule}.prompts"), json!({"prompts": [{"names": ["*"]}]})),
        ("NotYetEnforced", format!("{rule}.limits"), json!({"limits": [{"name": "l", "calls": 1, "per": "1h"}]})),
        ("NotYetEnforced", format!("{rule}.approval"), json!({"effect": "RequireApproval", "approval": {}})),
        ("UnknownField", format!("{rule}.whne"), json!({"whne": "true"})),
        ("ValueInvalid", format!("{rule}.effect"), json!({"effect": "allow"})),
        ("BoundsExceeded", format!("{rule}.message"), json!({"message": "m".repeat(513)})),
    ] {
        let resolution = with_rule("Allow", patched.clone());
        let errors: Vec<_> = resolution
            .findings
            .iter()
            .filter(|f| f.finding.severity == Severity::Error)
            .map(|f| (f.finding.reason.as_str(), f.finding.field.to_string()))
            .collect();
        assert_eq!(errors, [(reason, field)], "{patched}");
        // Never accepted: the namespace denies.
        assert!(matches!(policies_of(&resolution)[0].standing, Standing::DenyAll { .. }));
    }
}

#[test]
fn rule_names_are_unique() {
    let rule = json!({"name": "r", "effect": "Deny", "principals": [{"any": true}], "tools": [{"names": ["t"]}]});
    let policy = policy_in("team", json!({"targets": {"selector": {}}, "rules": [rule, rule]}));
    assert_eq!(found(&with_policy(policy)), [("DuplicateEntry", "spec.rules[1].name".into())]);
}

#[test]
fn targets_are_said_and_stay_in_the_namespace() {
    let with = |namespace: &str, targets: Value| {
        let resolution = with_policy(policy_in(namespace, json!({"targets": targets, "rules": []})));
        let guardrail = policies_of(&resolution)[0].guardrail;
        (found(&resolution), guardrail)
    };
    let target = "spec.targets";
    assert_eq!(with("team", json!({"servers": ["s"]})), (vec![], false));
    assert_eq!(with("team", json!({})), (vec![("TargetsInvalid", target.into())], false));
    let elsewhere = (vec![("NamespaceSelectorNotAllowed", format!("{target}.namespaceSelector"))], false);
    assert_eq!(with("team", json!({"selector": {}, "namespaceSelector": {}})), elsewhere);
    assert_eq!(with("sys", json!({"selector": {}, "namespaceSelector": {}})), (vec![], true));
    assert_eq!(with("sys", json!({"namespaceSelector": {}})), (vec![("TargetsInvalid", target.into())], true));
    let absent = (vec![("ServerNotFound", format!("{target}.servers[0]"))], false);
    assert_eq!(with("team", json!({"servers": ["x"]})), absent);
    let selector = json!({"selector": {"matchExpressions": [{"key": "k", "operator": "In"}]}});
    let values = (vec![("SelectorInvalid", format!("{target}.selector.matchExpressions[0].values"))], false);
    assert_eq!(with("team", selector), values);
}

#[test]
fn an_invalid_edit_leaves_what_narrows_in_force() {
    let policy = |rule: Value| {
        let allow =
            json!({"name": "a", "effect": "Allow", "principals": [{"groups": ["g"]}], "tools": [{"names": ["t"]}]});
        let deny =
            json!({"name": "d", "effect": "Deny", "principals": [{"groups": ["h"]}], "tools": [{"names": ["t"]}]});
        let ask = json!({"name": "q", "effect": "RequireApproval", "principals": [{"groups": ["h"]}], "tools": [{"names": ["t"]}]});
        policy_in("team", json!({"authority": "corp", "targets": {"selector": {}}, "rules": [allow, deny, ask, rule]}))
    };
    let sound = json!({"name": "z", "effect": "Allow", "principals": [{"any": true}], "tools": [{"names": ["t"]}]});
    let broken =
        json!({"name": "z", "effect": "Deny", "principals": [{"any": true}], "tools": [{"names": ["t"]}], "whne": "x"});

    let first = with_policy(policy(sound.clone()));
    let second = resolve_after(&[authority_named("corp"), policy(broken.clone())], &first.accepted);
    let kept = policies_of(&second)[0];
    assert_eq!(kept.standing, Standing::NarrowingOnly { reason: "UnknownField".into() });
    assert_eq!(kept.rules.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["d", "q"]);
    // Again, and over a restart: what is remembered is what stands.
    let remembered: Accepted = serde_json::from_str(&serde_json::to_string(&second.accepted).unwrap()).unwrap();
    let third = resolve_after(&[authority_named("corp"), policy(broken.clone())], &remembered);
    assert_eq!(policies_of(&third)[0], kept);
    // Its authority is gone: what is left narrows whoever it could be about, and only until the authority is back.
    let orphaned = resolve_after(&[policy(broken.clone())], &remembered);
    let principal = &policies_of(&orphaned)[0].rules[0].principals[0];
    assert_eq!(
        (principal.authority.as_deref(), principal.any, &*principal.groups),
        (None, true, &["h".to_owned()][..])
    );
    let back = resolve_after(&[authority_named("corp"), policy(broken.clone())], &orphaned.accepted);
    assert_eq!(policies_of(&back)[0], kept);
    // Mended.
    let fourth = resolve_after(&[authority_named("corp"), policy(sound)], &third.accepted);
    assert_eq!(policies_of(&fourth)[0].standing, Standing::InForce);
    // Deleted, and written anew: never accepted.
    let deleted = resolve_after(&[authority_named("corp")], &fourth.accepted);
    assert!(policies_of(&deleted).is_empty());
    let anew = resolve_after(&[authority_named("corp"), policy(broken)], &deleted.accepted);
    let denies = policies_of(&anew)[0];
    assert_eq!(denies.standing, Standing::DenyAll { reason: "UnknownField".into() });
    assert!(denies.rules.is_empty());
}

/// Whoever may delete and make an McpClient has it under another id then: what stands of a policy follows the name.
#[test]
fn what_stands_of_an_invalid_edit_is_about_the_clients_that_are_there() {
    let client = |uid: &str| {
        json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpClient",
            "metadata": {"namespace": "team", "name": "agent", "uid": uid},
            "spec": {"method": "Token", "authorizationServer": "corp", "token": {"subject": "a", "servers": ["s"]}}})
    };
    let policy = |more: Value| {
        policy_with("Deny", {
            let mut rule = json!({"principals": [{"mcpClients": ["agent"]}]});
            patch(&mut rule, more);
            rule
        })
    };
    let denied = |resolution: &Resolution| {
        let entry = &policies_of(resolution)[0].rules[0].principals[0];
        (entry.authority.clone(), entry.any, entry.via.clone())
    };
    let corp = || authority_named("corp");
    let id = |short: &str| (Some("corp".to_owned()), false, vec![format!("team/agent/{short}")]);
    let first = resolve(&[corp(), client("aaaaaaaa-1"), policy(json!({}))]);
    assert_eq!(denied(&first), id("aaaaaaaa"));
    let broken = || policy(json!({"whne": "x"}));
    let stands = resolve_after(&[corp(), client("aaaaaaaa-1"), broken()], &first.accepted);
    assert_eq!(denied(&stands), id("aaaaaaaa"));
    let gone = resolve_after(&[corp(), broken()], &stands.accepted);
    assert_eq!(denied(&gone), (Some("corp".into()), true, vec![]));
    let remembered: Accepted = serde_json::from_str(&serde_json::to_string(&gone.accepted).unwrap()).unwrap();
    let anew = resolve_after(&[corp(), client("bbbbbbbb-2"), broken()], &remembered);
    assert_eq!(denied(&anew), id("bbbbbbbb"));
}
