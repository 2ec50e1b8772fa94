//! What a pattern stands for, and what not.

use super::*;
use crate::access::targets::targets;

proptest! {
    /// Where nobody knows the tools, a line holds for every tool that its pattern matches and that is no exception.
    #[test]
    fn what_a_pattern_is_said_to_get_every_tool_of_it_gets((old, new) in versions(), now in 0..3i64) {
        let version = |policies| Version { policies: unconditional(policies), authorities: vec!["corp", "other"] };
        let (old, new) = (version(old), version(new));
        let (one, other) = (old.fleet(), new.fleet());
        let of = |fleet| Fleet::by_name(fleet, "team", "a");
        let compared = compare(of(&one), of(&other), None, &Facts { now }, &Limits::default());
        for change in compared.changes.iter().filter(|change| change.kind == "Tool") {
            let class = [Risk::ReadOnly, Risk::Write, Risk::Destructive].into_iter().find(|c| Some(c.as_str()) == change.risk);
            let principal = named(change);
            for tool in arbitrary::TOOLS.into_iter().chain(SOME_TOOLS).filter(|tool| stands_for(change, tool)) {
                let target = Target::Tool { name: tool, risk: KnownRisk { own: class, guardrail: class } };
                let now = change.from.unwrap_or(now);
                let answers = [&old, &new].map(|version| version.decide(&principal, &target, None, now));
                prop_assert_eq!(answers, [change.before, change.after], "{} of {:#?}", tool, change);
            }
        }
    }
}

#[test]
fn what_stays_denied_of_a_pattern_is_an_exception() {
    let all = rule("all", "Allow", group("dev"), tools(&[], &["*"]));
    let secret = rule("secret", "Deny", everyone(), tools(&["delete_all"], &["secret_*"]));
    let others = rule("others", "Deny", group("ops"), tools(&[], &["ops_*"]));
    let changes = diff(
        &fleet(&[policy(serde_json::json!([secret, others]))]),
        &fleet(&[policy(serde_json::json!([all, secret, others]))]),
    )
    .changes;
    let told: Vec<_> = changes.iter().map(|change| change.except.of(&change.target, 9, true)).collect();
    // An exception to nobody of them is a tool like others.
    assert_eq!(told, ["* except delete_all, secret_*", "ops_*"]);
    assert_eq!(changes[0].except.of("*", 1, true), "* except delete_all and 1 more");
    let rules = serde_json::json!([all, secret, others]);
    let fleet = fleet(&[policy(rules)]);
    let whom = Whom { authority: "corp".into(), subject: None, groups: vec!["dev".into()] };
    let answers = what_can(&fleet, &whom, &Inventories::new(), &Facts { now: 0 });
    let told: Vec<_> = answers.grants.iter().map(|grant| grant.row.except.of(&grant.row.target, 9, true)).collect();
    assert_eq!(told, ["* except delete_all, secret_*", "ops_*"]);
}

/// What a star stands for is a letter that no pattern has.
#[test]
fn a_pattern_of_rare_letters_is_not_taken_for_all_tools() {
    let all = rule("all", "Allow", everyone(), tools(&[], &["*"]));
    let deny = rule("x", "Deny", everyone(), tools(&[], &["x*", "*Q"]));
    let told = told(&[&deny], &[&all, &deny]);
    assert_eq!(told, ["Gained any@corp *: Deny -> Allow"]);
}

#[test]
fn patterns_that_are_too_many_to_meet_are_not_built() {
    let classed = |patterns: Vec<String>| serde_json::json!([{"names": [], "patterns": patterns, "risk": ["Write"]}]);
    let many = |stem: &str, count: usize| (0..count).map(|n| format!("*{stem}{n}_*")).collect::<Vec<String>>();
    // As many ways to overlap as there are letters.
    let (begin, end) = (format!("{}*", "a".repeat(300)), format!("*{}", "a".repeat(300)));
    let begins = (0..30).map(|n| format!("{}*", "a".repeat(300 + n))).collect();
    let ends = (0..30).map(|n| format!("*{}", "a".repeat(300 + n))).collect();
    let cases = [
        (many("granted", 960), many("narrowed", 960), 4 * 2 * 960, false),
        (many("granted", 32), many("narrowed", 32), 4 * (2 * 32 + 2 * 32 * 32), true),
        (vec![begin], vec![end], 4 * 400, true),
        (begins, ends, 4 * 2048, false),
    ];
    for (granted, narrowed, most, few) in cases {
        let allow = rule("allow", "Allow", everyone(), classed(granted));
        let deny = rule("deny", "Deny", everyone(), classed(narrowed));
        let rules = serde_json::json!([allow, deny]);
        let (none, fleet) = (fleet(&[]), fleet(&[policy(rules)]));
        let served = fleet.by_name("team", "a").unwrap();
        let rules = served.layers.rules();
        let rules: Vec<_> = rules.iter().map(|rule| &**rule).collect();
        let asked = targets(&rules, None, &[served.server], 4096);
        assert!(asked.asked.len() <= most, "{}", asked.asked.len());
        assert_eq!(asked.whole, few, "{}", asked.asked.len());
        let limits = Limits { changes: 256, questions: 4096, times: 4, pairs: 4096 };
        let compared = compare(none.by_name("team", "a"), Some(served), None, &Facts { now: 0 }, &limits);
        assert!(!compared.whole || few);
    }
}
