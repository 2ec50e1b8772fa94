//! What shows only where every policy and server is known, and what is not said where something is not.

use super::*;
use crate::tools::{digest::sha256, lock};

const TOOLS: [&str; 3] = [
    r#"{"name":"get_repo","inputSchema":{"type":"object","required":["repo"]}}"#,
    r#"{"name":"create_issue","inputSchema":{"type":"object","required":["repo","title"]}}"#,
    r#"{"name":"search","inputSchema":{"type":"object","properties":{"repo":{}}}}"#,
];

/// A server with a lock of these tools, and the lock.
fn locked(name: &str, tools: &[&str]) -> [Value; 2] {
    let found = lock::lockable(tools.iter().copied());
    let reviewed =
        found.values().map(|(tool, digest)| lock::Reviewed { tool: tool.clone(), digest: *digest, risk: None });
    let text = lock::write(reviewed).unwrap().text;
    let lock = json!({"configMapName": name, "sha256": sha256(text.as_bytes()).hex()});
    let mut server = server_with(json!({"tools": {"lock": lock}}));
    patch(&mut server, json!({"metadata": {"name": name}}));
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "team"},
        "data": {"tools-lock.json": text}
    });
    [server, map]
}

fn named(name: &str, mut policy: Value) -> Value {
    patch(&mut policy, json!({"metadata": {"name": name}}));
    policy
}

fn grant() -> Value {
    named("grant", policy_with("Allow", json!({})))
}

/// What is found of policies at the server s, but that nobody can be asked yet.
fn of(policies: &[Value]) -> Vec<(&'static str, String)> {
    let mut documents = vec![authority_named("corp"), server_with(json!({}))];
    documents.extend_from_slice(policies);
    let mut found = found(&resolve(&documents));
    found.retain(|(reason, _)| *reason != "ApprovalsUnavailable");
    found
}

#[test]
fn a_policy_that_only_narrows_what_nothing_grants_is_named() {
    let deny = |more: Value| policy_with("Deny", more);
    let nothing = vec![("NothingAllowed", "spec.rules".to_owned())];
    let elsewhere = |mut policy: Value| {
        patch(&mut policy, json!({"spec": {"targets": {"servers": null, "selector": {"matchLabels": {"l": "w"}}}}}));
        policy
    };
    let shadow = |mut policy: Value| {
        patch(&mut policy, json!({"spec": {"mode": "Shadow"}}));
        policy
    };
    let guardrail = |effect: &str| {
        let rule = json!({"name": "r", "effect": effect, "principals": [{"any": true}], "tools": [{"names": ["t"]}]});
        let targets = json!({"selector": {}, "namespaceSelector": {}});
        policy_in("sys", json!({"authority": "corp", "targets": targets, "rules": [rule]}))
    };
    assert_eq!(of(&[deny(json!({}))]), nothing);
    assert_eq!(of(&[policy_with("RequireApproval", json!({}))]), nothing);
    assert_eq!(of(&[deny(json!({})), grant()]), []);
    assert_eq!(of(&[deny(json!({})), elsewhere(grant())]), nothing, "it reaches no server");
    assert_eq!(of(&[deny(json!({})), shadow(grant())]), nothing, "it decides nothing");
    assert_eq!(of(&[shadow(deny(json!({})))]), []);
    assert_eq!(of(&[elsewhere(deny(json!({})))]), []);
    // Of guardrails nothing is said, and theirs count.
    assert_eq!(of(&[guardrail("Deny")]), []);
    assert_eq!(of(&[deny(json!({})), guardrail("Allow")]), []);
    assert_eq!(of(&[policy_with("RequireApproval", json!({})), guardrail("Allow")]), [], "whatever it allows");
    // Nobody knows what an invalid one is meant to allow.
    let invalid = named("broken", policy_with("Allow", json!({"whne": "x"})));
    assert_eq!(of(&[deny(json!({})), invalid]), [("UnknownField", "spec.rules[0].whne".to_owned())]);
}

#[test]
fn an_approval_that_nothing_makes_reachable_is_named() {
    let ask = |tools: Value| policy_with("RequireApproval", json!({"tools": tools}));
    let unreachable = vec![("ApprovalUnreachable", "spec.rules[0]".to_owned())];
    for (tools, reachable) in [
        (json!([{"names": ["t"]}]), true),
        (json!([{"patterns": ["t*"]}]), true),
        (json!([{"risk": ["Write"]}]), true),
        (json!([{"names": ["u"]}]), false),
        (json!([{"patterns": ["u*"]}]), false),
        (json!([{"names": ["u"]}, {"names": ["t"]}]), true),
    ] {
        let want = if reachable { vec![] } else { unreachable.clone() };
        assert_eq!(of(&[ask(tools.clone()), grant()]), want, "{tools}");
    }
}

#[test]
fn an_argument_that_is_compared_with_what_it_never_is_is_named() {
    const TYPED: [&str; 3] = [
        r#"{"name":"pay","inputSchema":{"type":"object","required":["n","s","b","m","l","u","r"],"properties":{
            "n":{"type":"integer"},"s":{"type":"string"},"b":{"type":"boolean"},"m":{"type":["string","null"]},
            "l":{"type":"array"},"u":{},"r":{"type":"string","$ref":"https://x.example/t"}}}}"#,
        r#"{"name":"send","inputSchema":{"type":"object","required":["n","s"],"properties":{
            "n":{"type":"string"},"s":{"type":"string"}}}}"#,
        r#"{"name":"odd","inputSchema":{"type":"object","required":["n"],"$ref":"https://x.example/t","properties":{"n":{"type":"string"}}}}"#,
    ];
    let (pay, both) = (&["pay"][..], &["pay", "send"][..]);
    for (tools, when, want) in [
        (pay, "args.s < 5", Some(r#"it takes "s" for number, and the reviewed definition of "pay" says string"#)),
        (pay, "5 >= args.s", Some(r#""s" for number"#)),
        (pay, r#"args["n"] == 'five'"#, Some(r#""n" for string"#)),
        (pay, "args.n != 'five'", Some(r#""n" for string"#)),
        (pay, "args.b == 'true' || principal.kind == 'User'", Some("says boolean")),
        (pay, "args.n in ['one', true]", Some(r#""n" for boolean or string"#)),
        (pay, "args.n.startsWith('1')", Some(r#""n" for string"#)),
        (pay, "args.n.matches('^1')", Some(r#""n" for string"#)),
        (pay, "args.m == 5", Some("says null or string")),
        (both, "args.s == 5", Some(r#"definition of "pay" and 1 more says string"#)),
        (pay, "args.n < 5.5 && args.s == 'x' && args.b == true && args.m == 'x'", None),
        (pay, "args.n in [1, 'one']", None),
        (pay, "args.m != null && args.s != null", None),
        (pay, "string(args.n) == 'five' && int(args.s) < 5", None),
        (pay, "args.l.exists(x, x == 5)", None),
        // Nothing, or not all, is said of it.
        (pay, "args.u < 5", None),
        (pay, "args.r < 5", None),
        (both, "args.n < 5", None),
        (&["odd"], "args.n < 5", None),
        (&["pay", "other"], "principal.kind == 'User'", None),
    ] {
        let found = at_locked("Allow", json!({"tools": [{"names": tools}], "when": when}), &[&TYPED]);
        let found: Vec<_> = found.iter().filter(|f| f.reason == Reason::ArgumentType).collect();
        match want {
            None => assert!(found.is_empty(), "{when}: {found:?}"),
            Some(want) => {
                let [found] = found[..] else { panic!("{when}: {found:?}") };
                assert_eq!(found.field.to_string(), "spec.rules[0].when");
                assert!(found.message.contains(want), "{when}: {found}");
            }
        }
    }
    // A server of which nothing is known, and two servers that have two tools of one name.
    let of = |locks: &[&[&str]]| {
        let rule = json!({"tools": [{"names": ["pay"]}], "when": "args.s < 5"});
        at_locked("Allow", rule, locks).iter().filter(|found| found.reason == Reason::ArgumentType).count()
    };
    let another =
        r#"{"name":"pay","inputSchema":{"type":"object","required":["s"],"properties":{"s":{"type":"number"}}}}"#;
    assert_eq!((of(&[&TYPED, &[]]), of(&[&TYPED, &[another]]), of(&[&TYPED, &TYPED[1..]])), (0, 0, 1));
}

/// What is found of a policy with one rule, at servers with these locks.
fn at_locked(effect: &str, rule: Value, locks: &[&[&str]]) -> Vec<Finding> {
    let mut documents = vec![authority_named("corp")];
    for (n, tools) in locks.iter().enumerate() {
        documents.extend(locked(&format!("s{n}"), tools));
    }
    let mut policy = policy_with(effect, rule);
    patch(&mut policy, json!({"spec": {"targets": {"servers": null, "selector": {}}}}));
    let mut all = grant();
    patch(&mut all, json!({"spec": {"targets": {"servers": null, "selector": {}}}}));
    patch(
        &mut all,
        json!({"spec": {"rules": [{"name": "all", "effect": "Allow", "principals": [{"any": true}],
        "tools": [{"patterns": ["*"]}]}]}}),
    );
    documents.extend([policy, all]);
    resolve(&documents).findings.into_iter().map(|found| found.finding).collect()
}

#[test]
fn a_tool_that_no_lock_lists_is_named_with_what_may_be_meant() {
    let two: &[&[&str]] = &[&TOOLS[..2], &TOOLS[2..]];
    for (effect, name, locks, want) in [
        ("Allow", "create_isue", two, Some("did you mean \"create_issue\"?")),
        ("Deny", "Create_Issue", two, Some("did you mean \"create_issue\"?")),
        ("Deny", "drop_database", two, Some("correct the name, or renew the tool lock")),
        ("Deny", "search", two, None),
        // One of the servers has no lock that lists anything: what it has is not known.
        ("Deny", "drop_database", &[&TOOLS, &[]], None),
    ] {
        let found = at_locked(effect, json!({"tools": [{"names": ["get_repo", name]}]}), locks);
        let said: Vec<_> = found.iter().map(|f| (f.reason, f.field.to_string(), f.remedy.as_ref())).collect();
        let field = "spec.rules[0].tools[0].names[1]".to_owned();
        let want: Vec<_> = want.map(|remedy| (Reason::ToolNotFound, field, remedy)).into_iter().collect();
        assert_eq!(said, want, "{effect} {name}");
    }
    let unlocked = json!({"tools": [{"names": ["drop_database"]}]});
    assert_eq!(of(&[named("grant", policy_with("Allow", unlocked))]), []);
}

#[test]
fn an_argument_that_a_call_may_leave_out_is_named() {
    let every = json!([{"patterns": ["*"]}]);
    let names = |names: &[&str]| json!([{"names": names}]);
    for (effect, tools, when, want) in [
        (
            "Allow",
            &every,
            "args.repo == \"x\"",
            Some(("calls of \"search\" may leave out \"repo\"", "has(args.repo) && …")),
        ),
        (
            "Allow",
            &every,
            "args.title == \"x\"",
            Some(("calls of \"get_repo\" and 1 more may", "has(args.title) && …")),
        ),
        ("Deny", &every, "args.repo == \"x\"", Some(("the rule matches", "!(has(args.repo)) || … does not"))),
        ("Allow", &every, "args[\"re po\"] == \"x\"", Some(("may leave out \"re po\"", "\"re po\" in args && …"))),
        ("Allow", &every, "args.repo.owner == \"x\"", Some(("may leave out \"repo\"", "has(args.repo) && …"))),
        ("Allow", &every, "args.l.exists(x, x == 1)", Some(("and 2 more may leave out \"l\"", "has(args.l) && …"))),
        ("Allow", &every, "has(args.repo) && args.repo == \"x\"", None),
        ("Deny", &every, "!has(args.repo) || args.repo == \"x\"", None),
        ("Allow", &every, "\"repo\" in args && args.repo == \"x\"", None),
        ("Allow", &every, "principal.kind == \"User\"", None),
        ("Allow", &names(&["get_repo", "create_issue"]), "args.repo == \"x\"", None),
        ("Allow", &names(&["create_issue"]), "args.title == \"x\"", None),
    ] {
        let found = at_locked(effect, json!({"tools": tools, "when": when}), &[&TOOLS]);
        let found: Vec<_> = found.iter().filter(|f| f.reason != Reason::RuleShadowed).collect();
        match want {
            None => assert!(found.is_empty(), "{when}: {found:?}"),
            Some((message, remedy)) => {
                let [found] = found[..] else { panic!("{when}: {found:?}") };
                assert_eq!(
                    (found.reason, found.field.to_string().as_str()),
                    (Reason::ArgumentNotRequired, "spec.rules[0].when")
                );
                assert!(found.message.contains(message) && found.remedy.contains(remedy), "{when}: {found}");
            }
        }
    }
}
