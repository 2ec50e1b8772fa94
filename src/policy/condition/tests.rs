//! What conditions may say, what they see, and that they end.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::identity::principal::Kind;

fn alice() -> Principal {
    Principal {
        authority: "corp".into(),
        issuer: "https://corp".into(),
        tenant: None,
        subject: "alice".into(),
        kind: Kind::User,
        client: None,
        groups: Groups::Known(Box::new(["dev".into(), "ops".into()])),
        actor: None,
    }
}

fn ask(condition: &str, arguments: &str) -> Tri {
    Condition::compile(condition).unwrap().run(&alice(), Some(arguments))
}

#[test]
fn conditions_mean_what_cel_means() {
    for (condition, arguments, expected) in [
        ("args.a == 1", r#"{"a":1}"#, Tri::Yes),
        ("args.a == 1", r#"{"a":1.0}"#, Tri::Yes),
        ("args.a == 1", r#"{"a":"1"}"#, Tri::No),
        ("args.a < 1.5", r#"{"a":1}"#, Tri::Yes),
        ("args.a == 1", "{}", Tri::Unknown),
        ("has(args.a)", "{}", Tri::No),
        ("has(args.a.b)", r#"{"a":{"b":null}}"#, Tri::Yes),
        ("has(args.a) && args.a.startsWith(\"x/\")", r#"{"a":"x/y"}"#, Tri::Yes),
        ("args[\"odd name\"] == \"x\"", r#"{"odd name":"x"}"#, Tri::Yes),
        ("args.l[1] == 2", r#"{"l":[1,2]}"#, Tri::Yes),
        ("\"a\" in args", r#"{"a":null}"#, Tri::Yes),
        ("args.a in [\"x\", \"y\"]", r#"{"a":"y"}"#, Tri::Yes),
        ("args.l.all(x, x > 0)", r#"{"l":[1,2]}"#, Tri::Yes),
        ("args.l.exists(x, x.n == \"b\")", r#"{"l":[{"n":"a"},{"n":"b"}]}"#, Tri::Yes),
        ("size(args.l) <= 2", r#"{"l":[1,2]}"#, Tri::Yes),
        ("args.a.matches(\"^[a-z]+$\")", r#"{"a":"abc"}"#, Tri::Yes),
        ("matches(args.a, \"^[a-z]+$\")", r#"{"a":"ABC"}"#, Tri::No),
        ("args.a.matches(\"b\") && args.a.matches(\"c\")", r#"{"a":"abc"}"#, Tri::Yes),
        ("args.l.exists(x, x.matches(\"^b\"))", r#"{"l":["a","b"]}"#, Tri::Yes),
        (
            "principal.subject == \"alice\" && principal.kind == \"User\" && principal.authority == \"corp\"",
            "{}",
            Tri::Yes,
        ),
        ("\"ops\" in principal.groups && !(\"x\" in principal.groups)", "{}", Tri::Yes),
        ("principal.subject in args.owners", r#"{"owners":["alice"]}"#, Tri::Yes),
        ("has(principal.client)", "{}", Tri::No),
        ("principal.client == \"ide\"", "{}", Tri::Unknown),
        ("args.a", r#"{"a":true}"#, Tri::Yes),
        ("args.a", r#"{"a":1}"#, Tri::Unknown),
        ("args.a == 1 || args.b == 1", r#"{"b":1}"#, Tri::Yes),
        ("args.a + 1 > 9223372036854775807", r#"{"a":9223372036854775807}"#, Tri::Unknown),
        ("double(args.a) > 100.0", r#"{"a":"200"}"#, Tri::Yes),
        ("double(args.a) > 100.0", r#"{"a":200}"#, Tri::Yes),
        ("double(args.a) > 100.0", r#"{"a":"NaN"}"#, Tri::Unknown),
        ("double(args.a) > 100.0", r#"{"a":"-inf"}"#, Tri::Unknown),
        ("double(args.a) > 100.0", r#"{"a":"1e999"}"#, Tri::Unknown),
        ("double(args.a) > 100.0", r#"{"a":"much"}"#, Tri::Unknown),
        ("int(args.a) > 100", r#"{"a":"200"}"#, Tri::Yes),
        ("int(args.a) == 9007199254740993", r#"{"a":"9007199254740993"}"#, Tri::Yes),
        ("int(args.a) > 100", r#"{"a":"much"}"#, Tri::Unknown),
    ] {
        assert_eq!(ask(condition, arguments), expected, "{condition} on {arguments}");
    }
}

#[test]
fn what_two_readers_could_read_differently_is_unknown() {
    for arguments in [
        r#"{"repo":"a","Repo":"b"}"#,
        r#"{"repo":"a","x":[{"REPO":1}]}"#,
        "{\"repo\":\"a\",\"\\u0052epo\":1}",
        r#"{"repo":"a","id":9007199254740992}"#,
        r#"{"repo":"a","x":{"id":-9007199254740992}}"#,
        r#"{"repo":"a","id":1e300}"#,
        r#"{"repo":"a","id":1e999}"#,
        r#"{"repo":"a","id":18446744073709551616}"#,
        r#"{"repo":"a","repo":"a"}"#,
        r#"[{"repo":"a"}]"#,
        r#"{"repo":"a"} {}"#,
        "",
    ] {
        assert_eq!(ask("args.repo == \"a\"", arguments), Tri::Unknown, "{arguments}");
    }
    assert_eq!(ask("args.kind == 1", "{\"kind\":1,\"\u{212a}ind\":2}"), Tri::Unknown, "Kelvin sign");
    assert_eq!(ask("args.rows == 1", "{\"rows\":1,\"row\u{17f}\":2}"), Tri::Unknown, "long s");
    assert_eq!(ask("args.repo == \"a\"", r#"{"repo":"a","repos":9007199254740991}"#), Tri::Yes);
}

#[test]
fn what_is_not_asked_for_may_be_large() {
    let large = format!(r#"{{"path":"a","content":{:?},"list":[{}1]}}"#, "x".repeat(1 << 20), "1,".repeat(100_000));
    assert_eq!(ask("args.path == \"a\"", &large), Tri::Yes);
    assert_eq!(ask("args.content.startsWith(\"x\")", &large), Tri::Unknown);
    assert_eq!(ask("size(args.list) > 1", &large), Tri::Unknown);
    assert_eq!(ask("size(args) > 1", &large), Tri::Unknown);
}

#[test]
fn groups_that_are_not_known_are_not_absent() {
    let unsure = Principal { groups: Groups::Unknown, ..alice() };
    for condition in ["\"dev\" in principal.groups", "!has(principal.groups)", "size(principal.groups) == 0"] {
        assert_eq!(Condition::compile(condition).unwrap().run(&unsure, None), Tri::Unknown, "{condition}");
    }
}

#[test]
fn what_cannot_run_is_refused_with_its_reason() {
    let long = format!("args.a == {:?}", "x".repeat(2000));
    let large = vec!["args.a == 1"; 65].join(" || ");
    let deep = format!("{}args.a{}", "(".repeat(20), ")".repeat(20));
    let heavy = format!("args.l.all(x, {})", vec!["x.a == 1"; 20].join(" || "));
    for (condition, reason) in [
        ("", "ConditionSyntax"),
        ("args.a ==", "ConditionSyntax"),
        ("args.?a", "ConditionSyntax"),
        (long.as_str(), "ConditionTooLong"),
        (large.as_str(), "ConditionTooLarge"),
        (heavy.as_str(), "ConditionTooLarge"),
        (deep.as_str(), "ConditionTooDeep"),
        (&"!".repeat(500), "ConditionTooDeep"),
        (&"-".repeat(500), "ConditionTooDeep"),
        ("arg.a == 1", "ConditionReference"),
        ("tool == \"x\"", "ConditionReference"),
        ("principal == args", "ConditionReference"),
        ("principal.email == \"a@b\"", "ConditionReference"),
        ("principal[\"subject\"] == \"a\"", "ConditionReference"),
        ("args[args.a] == 1", "ConditionReference"),
        ("args.l.all(args, true)", "ConditionReference"),
        ("args.l.all(x, true) && x", "ConditionReference"),
        ("args.l.all(x, x.all(y, y))", "ConditionNestedLoop"),
        ("args.l.map(x, args.m.filter(y, y)).size() > 0", "ConditionNestedLoop"),
        ("args.a.matches(args.b)", "ConditionRegex"),
        ("args.a.matches(\"(\")", "ConditionRegex"),
        ("args.a.matches(\"(a{1000}){1000}\")", "ConditionRegex"),
        ("type(args.a) == int", "ConditionFunction"),
        ("timestamp(args.a) > timestamp(args.b)", "ConditionFunction"),
        ("{\"a\": 1} == args", "ConditionFunction"),
        ("args.a == b\"x\"", "ConditionFunction"),
    ] {
        let refused = check(condition).unwrap_err();
        assert_eq!(refused.reason(), reason, "{condition}: {refused}");
    }
}

#[test]
fn the_dearest_conditions_end_soon() {
    let strings = format!("[{}]", vec![format!("{:?}", "a".repeat(1000)); 250].join(","));
    let arguments = format!(r#"{{"s":{:?},"l":{strings}}}"#, "a".repeat(4000));
    let sums = vec!["args.s"; 50].join(" + ");
    for condition in [
        "args.l.all(x, args.s.contains(x + \"b\") || args.s.contains(x + \"c\") || args.s.contains(x) || x == args.s)",
        "args.l.map(x, x + x + args.s + args.s).size() > args.l.filter(x, x != args.s).size()",
        "args.l.exists_one(x, args.s.matches(\"(a|aa)+b\"))",
        &format!("size({sums}) > 0"),
    ] {
        let begun = Instant::now();
        assert_ne!(ask(condition, &arguments), Tri::Unknown, "{condition}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{condition} took {:?}", begun.elapsed());
    }
}

proptest! {
    #[test]
    fn any_text_is_refused_or_ends(
        text in "(args|principal|\\.|a|size|all|x|1|\"s\"|in|has|matches|\\(|\\)|\\[|\\]|,|!|-|\\+|==|&&|\\?|:| |\\{|\\}|'|`|\\\\){0,40}",
        arguments in "[{}\\[\\]\",:a1 .e-]{0,24}",
    ) {
        if let Ok(condition) = Condition::compile(&text) {
            condition.run(&alice(), Some(&arguments));
        }
    }
}

#[test]
fn an_argument_of_a_type_that_is_not_expected_is_never_equal_or_makes_the_condition_fail() {
    use crate::tools::lock::JsonType;

    let values = [
        (JsonType::Array, "[5,\"x\",true]"),
        (JsonType::Boolean, "true"),
        (JsonType::Null, "null"),
        (JsonType::Number, "5"),
        (JsonType::Number, "5.0"),
        (JsonType::Object, r#"{"x":5}"#),
        (JsonType::String, "\"x\""),
        (JsonType::String, "\"5\""),
        (JsonType::String, "\"true\""),
    ];
    let operators = ["==", "<", "<=", ">", ">="];
    let literals = ["5", "5.0", "5u", "\"x\"", "\"5\"", "true"];
    let compared = operators.into_iter().flat_map(|operator| {
        literals.into_iter().flat_map(move |literal| {
            [format!("args.a {operator} {literal}"), format!("{literal} {operator} args[\"a\"]")]
        })
    });
    let others = ["args.a in [5, \"x\"]", "args.a in [true]", "args.a.startsWith(\"x\")", "args.a.matches(\"x\")"];
    let others = others.into_iter().map(str::to_owned).chain(literals.map(|literal| format!("!(args.a != {literal})")));
    let mut met = 0;
    for text in compared.chain(others) {
        let condition = Condition::compile(&text).unwrap();
        let expected: Vec<_> = condition.expected_types().collect();
        let [("a", types)] = expected[..] else { panic!("{text}: {expected:?}") };
        for (of, value) in values {
            let answer = ask(&text, &format!("{{\"a\":{value}}}"));
            met += usize::from(answer == Tri::Yes);
            assert!(types.contains(&of) || answer != Tri::Yes, "{text} of {value}");
        }
    }
    assert!(met > 40, "{met}");
}
