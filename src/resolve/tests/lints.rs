//! Rules that can never grant, or change nothing: what is found, what is not, and that it is so.

use std::time::{Duration, Instant};

use proptest::{
    prelude::any,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use super::*;
use crate::{
    generated::{
        ObjectId,
        policy::{ActorMatch, Effect, Mode, PrincipalMatch, Rule, Standing, Targets, ToolMatch},
    },
    policy::{
        arbitrary, reference,
        request::{Facts, Target},
    },
};

/// A policy with these rules, each about group g and tool t unless it says otherwise.
fn with_rules(namespace: &str, rules: &[Value]) -> Vec<(&'static str, String)> {
    let whole = rules.iter().enumerate().map(|(i, rule)| {
        let mut whole =
            json!({"name": format!("r{i}"), "principals": [{"groups": ["g"]}], "tools": [{"names": ["t"]}]});
        patch(&mut whole, rule.clone());
        whole
    });
    let rules: Vec<Value> = whole.collect();
    let policy = policy_in(namespace, json!({"authority": "corp", "targets": {"selector": {}}, "rules": rules}));
    let mut found = found(&resolve(&[authority_named("corp"), policy]));
    found.retain(|(reason, _)| !matches!(*reason, "ApprovalsUnavailable" | "AuthorityNotFound" | "ClientNotFound"));
    found
}

fn contradicted(allow: Value, deny: Value) -> bool {
    let (mut allow, mut deny) = (allow, deny);
    patch(&mut allow, json!({"effect": "Allow"}));
    patch(&mut deny, json!({"effect": "Deny"}));
    let found = with_rules("team", &[allow, deny]);
    assert!(found.is_empty() || found == [("RuleContradicted", "spec.rules[0]".to_owned())], "{found:?}");
    !found.is_empty()
}

#[test]
fn an_allow_that_a_deny_covers_is_contradicted() {
    let any = json!([{"any": true}]);
    for (allow, deny) in [
        (json!({}), json!({})),
        (json!({}), json!({"principals": any})),
        (json!({"principals": any}), json!({"principals": any})),
        (json!({"principals": [{"groups": ["g"], "via": ["ide"]}]}), json!({})),
        (json!({"principals": [{"groups": ["g"], "actor": {"subjects": ["a"]}}]}), json!({})),
        (
            json!({"principals": [{"groups": ["g"], "actor": {"subjects": ["a"]}}]}),
            json!({"principals": [{"groups": ["g"], "actor": {"any": true}}]}),
        ),
        (json!({"principals": [{"users": ["u"]}, {"groups": ["g"]}]}), json!({"principals": any})),
        (json!({"principals": [{"mcpClients": ["c"]}]}), json!({"principals": [{"mcpClients": ["c", "d"]}]})),
        (
            json!({"principals": [{"serviceAccount": {"namespace": "ci", "name": "bot"}}]}),
            json!({"principals": [{"serviceAccount": {"namespace": "ci", "name": "bot"}}]}),
        ),
        // Nobody is excepted from the Deny who is not excepted from the Allow too.
        (
            json!({"principals": any, "except": [{"groups": ["sre"]}, {"users": ["u"]}]}),
            json!({"principals": any, "except": [{"groups": ["sre"]}]}),
        ),
        (json!({"except": [{"groups": ["sre"]}]}), json!({})),
        (json!({"tools": [{"patterns": ["get_*"]}]}), json!({"tools": [{"patterns": ["*"]}]})),
        (json!({"tools": [{"patterns": ["get_*_x"]}]}), json!({"tools": [{"patterns": ["get_*"]}]})),
        (json!({"tools": [{"risk": ["Write"]}]}), json!({"tools": [{"risk": ["Write", "Destructive"]}]})),
        (json!({}), json!({"tools": [{"risk": ["ReadOnly", "Write", "Destructive"]}]})),
        (json!({"tools": [{"names": ["t", "u"]}]}), json!({"tools": [{"names": ["u"]}, {"patterns": ["t*"]}]})),
        (json!({"when": "args.n > 1"}), json!({})),
        (json!({"when": "args.n > 1"}), json!({"when": "args.n > 1"})),
        (json!({"notBefore": "2026-02-01T00:00:00Z"}), json!({"notBefore": "2026-01-01T00:00:00Z"})),
    ] {
        assert!(contradicted(allow.clone(), deny.clone()), "{allow} {deny}");
    }
}

#[test]
fn an_allow_that_may_grant_something_is_not() {
    let any = json!([{"any": true}]);
    for (allow, deny) in [
        (json!({}), json!({"principals": [{"groups": ["h"]}]})),
        (json!({}), json!({"principals": [{"groups": ["g"], "via": ["ide"]}]})),
        (json!({}), json!({"principals": [{"groups": ["g"], "actor": {"any": true}}]})),
        (json!({"principals": [{"groups": ["g", "h"]}]}), json!({})),
        (json!({"principals": [{"users": ["u"]}, {"groups": ["g"]}]}), json!({})),
        (json!({}), json!({"principals": any, "except": [{"groups": ["sre"]}]})),
        // In an exception, an entry without an actor is about tokens without one.
        (
            json!({"principals": any, "except": [{"groups": ["sre"], "actor": {"any": true}}]}),
            json!({"principals": any, "except": [{"groups": ["sre"]}]}),
        ),
        // What the author named counts, not what is made of it while something is missing.
        (json!({}), json!({"principals": [{"any": true, "authority": "typo"}]})),
        (json!({}), json!({"principals": [{"groups": ["g"], "authority": "typo"}]})),
        (json!({"principals": [{"via": ["ide"]}]}), json!({"principals": [{"mcpClients": ["none"]}]})),
        (json!({"tools": [{"patterns": ["*"]}]}), json!({"tools": [{"patterns": ["get_*"]}]})),
        (json!({"tools": [{"patterns": ["get_*"]}]}), json!({"tools": [{"names": ["get_x"]}]})),
        (json!({"tools": [{"patterns": ["get_*"]}]}), json!({"tools": [{"patterns": ["*_x"]}]})),
        (json!({"tools": [{"risk": ["ReadOnly", "Write"]}]}), json!({"tools": [{"risk": ["Write"]}]})),
        (json!({"tools": [{"risk": ["Destructive"]}]}), json!({"tools": [{"risk": ["Write"]}]})),
        (json!({"tools": [{"names": ["t", "u"]}]}), json!({})),
        // It shows the tool to those who are to read why they may not call it.
        (json!({}), json!({"message": "Ask the owner."})),
        (json!({}), json!({"when": "args.n > 1"})),
        (json!({"when": "args.n > 1"}), json!({"when": "args.n > 2"})),
        (json!({}), json!({"notAfter": "2026-02-01T00:00:00Z"})),
        (json!({"notAfter": "2026-02-02T00:00:00Z"}), json!({"notAfter": "2026-02-01T00:00:00Z"})),
    ] {
        assert!(!contradicted(allow.clone(), deny.clone()), "{allow} {deny}");
    }
}

/// In a guardrail's Deny, a class stands for those above it.
#[test]
fn a_guardrails_class_covers_those_above_it() {
    let allow = json!({"effect": "Allow", "tools": [{"risk": ["Destructive"]}]});
    let deny = json!({"effect": "Deny", "tools": [{"risk": ["Write"]}]});
    let contradicted = vec![("RuleContradicted", "spec.rules[0]".to_owned())];
    assert_eq!(with_rules("sys", &[allow.clone(), deny.clone()]), contradicted);
    assert_eq!(with_rules("team", &[allow, deny]), []);
}

#[test]
fn an_allow_that_excepts_all_of_its_principals_is_about_nobody() {
    let nobody = vec![("PrincipalInvalid", "spec.rules[0].except".to_owned())];
    let rule = |except: Value| json!({"effect": "Allow", "principals": [{"groups": ["g"]}], "except": except});
    assert_eq!(with_rules("team", &[rule(json!([{"any": true}]))]), nobody);
    assert_eq!(with_rules("team", &[rule(json!([{"groups": ["g", "h"]}]))]), nobody);
    assert_eq!(with_rules("team", &[rule(json!([{"groups": ["h"]}]))]), []);
    assert_eq!(with_rules("team", &[rule(json!([{"any": true, "authority": "typo"}]))]), []);
}

#[test]
fn a_rule_that_another_covers_is_shadowed() {
    let of = |effect: &str, more: Value| {
        let mut rule = json!({"effect": effect});
        patch(&mut rule, more);
        rule
    };
    let wide = json!({"tools": [{"patterns": ["*"]}]});
    for (rules, at) in [
        (vec![of("Allow", json!({})), of("Allow", wide.clone())], Some(0)),
        (vec![of("Allow", wide.clone()), of("Allow", json!({}))], Some(1)),
        (vec![of("Allow", json!({})), of("Allow", json!({}))], Some(1)),
        (vec![of("Deny", json!({})), of("Deny", wide.clone())], Some(0)),
        // A caller reads the message of one or the other.
        (vec![of("Deny", json!({"message": "m"})), of("Deny", wide.clone())], None),
        (vec![of("RequireApproval", json!({"message": "m"})), of("Deny", wide.clone())], Some(0)),
        (vec![of("Deny", json!({})), of("RequireApproval", wide.clone())], None),
        (vec![of("RequireApproval", json!({})), of("RequireApproval", wide.clone())], Some(0)),
        // Of a tool whose class is not known, the narrower one speaks alone.
        (
            vec![
                of("Allow", json!({})),
                of("Allow", json!({"tools": [{"risk": ["ReadOnly", "Write", "Destructive"]}]})),
            ],
            None,
        ),
        // A token with an actor is one for which only the second counts.
        (
            vec![
                of("Allow", json!({})),
                of("Allow", json!({"principals": [{"groups": ["g"], "actor": {"any": true}}]})),
            ],
            None,
        ),
    ] {
        let want: Vec<_> = at.map(|i| ("RuleShadowed", format!("spec.rules[{i}]"))).into_iter().collect();
        assert_eq!(with_rules("team", &rules), want, "{rules:?}");
    }
}

#[test]
fn a_pattern_that_can_never_grant_is_refused() {
    let long = format!("{}*", "x".repeat(129));
    for (pattern, allowed) in [
        ("delete file*", false),
        ("caf\u{e9}*", false),
        ("files/*", false),
        (long.as_str(), false),
        ("*", true),
        ("get_*.v1-*", true),
        // Without a star it is a name, which means itself.
        ("delete file", true),
    ] {
        let tools = json!([{"patterns": [pattern]}]);
        let want = if allowed { vec![] } else { vec![("PatternInvalid", "spec.rules[0].tools[0].patterns[0]".into())] };
        assert_eq!(with_rules("team", &[json!({"effect": "Allow", "tools": tools})]), want, "{pattern}");
        assert_eq!(with_rules("team", &[json!({"effect": "Deny", "tools": tools})]), [], "{pattern}");
    }
}

/// Every rule of 64 is about as many names, patterns and callers as a mebibyte holds, and none covers another.
#[test]
fn a_policy_as_large_as_an_object_may_be_is_judged_soon() {
    let filler = "x".repeat(200);
    let list = |of: &str, rule: usize, n: usize| -> Vec<String> {
        (0..n).map(|i| format!("{of}{filler}{}", if i + 1 == n { rule } else { 1000 + i })).collect()
    };
    for (users, names, patterns) in [(70, 1, 1), (1, 70, 1), (1, 1, 70)] {
        let rule = |n: usize| Rule {
            name: format!("r{n}"),
            effect: if n.is_multiple_of(2) { Effect::Allow } else { Effect::Deny },
            principals: vec![PrincipalMatch {
                authority: Some("corp".into()),
                users: list("u", if users > 1 { n } else { 0 }, users),
                ..PrincipalMatch::default()
            }],
            except: Vec::new(),
            tools: vec![ToolMatch {
                names: list("n", if names > 1 { n } else { 0 }, names),
                patterns: list("*p*", if patterns > 1 { n } else { 0 }, patterns),
                risk: Vec::new(),
            }],
            resources: Vec::new(),
            prompts: Vec::new(),
            when: None,
            not_before: None,
            not_after: None,
            break_glass: None,
            message: None,
        };
        let rules: Vec<Rule> = (0..64).map(rule).collect();
        let started = Instant::now();
        let (mut errors, mut warnings) = (Findings::new(), Findings::new());
        lint::rules(&rules, false, &mut errors, &mut warnings);
        let took = started.elapsed();
        println!("{users} users, {names} names, {patterns} patterns: {took:?}");
        assert!(errors.is_empty() && warnings.is_empty(), "{errors:?} {warnings:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

/// Some rules, and one that is like the first but for a few members: so they meet.
fn alike() -> impl Strategy<Value = Policy> {
    let others = (arbitrary::policy(), arbitrary::policy(), any::<[u8; 7]>());
    (arbitrary::policy(), others).prop_map(|(mut policy, (one, other, dice))| {
        let (one, other) = (&one.rules[0], &other.rules[0]);
        let [effect, principals, except, tools, every_tool, rest, more] = dice.map(|die| die.is_multiple_of(3));
        let every = || ToolMatch { patterns: vec!["*".to_owned()], ..ToolMatch::default() };
        // Rules about resources and prompts are not compared.
        for rule in policy.rules.iter_mut().filter(|_| !more) {
            (rule.resources, rule.prompts) = (Vec::new(), Vec::new());
            if rule.tools.is_empty() {
                rule.tools.push(every());
            }
        }
        let mut like = policy.rules[0].clone();
        like.name = "like".to_owned();
        like.effect = if effect { one.effect } else { Effect::Deny };
        like.principals = if principals { one.principals.clone() } else { like.principals };
        like.except = if except { like.except } else { Vec::new() };
        like.tools = if tools { other.tools.clone() } else { like.tools };
        if every_tool {
            like.tools = vec![every()];
        }
        if rest {
            (like.when, like.not_before, like.not_after) = (one.when.clone(), one.not_before, one.not_after);
        }
        // What is left open in what narrows is not in what grants.
        for entry in like.principals.iter_mut().chain(&mut like.except) {
            entry.authority.get_or_insert_with(|| "corp".to_owned());
        }
        policy.rules.push(like);
        Policy { standing: Standing::InForce, mode: Mode::Enforce, ..policy }
    })
}

/// Calls, drawn once: to draw each anew would take most of the time.
struct Calls<P> {
    principals: Vec<P>,
    targets: Vec<Target<'static>>,
    arguments: Vec<Option<&'static str>>,
    state: u64,
}

impl<P: std::fmt::Debug> Calls<P> {
    fn draw(runner: &mut TestRunner, principal: impl Strategy<Value = P>) -> Self {
        fn all<S: Strategy>(runner: &mut TestRunner, n: usize, one: S) -> Vec<S::Value> {
            (0..n).map(|_| one.new_tree(runner).unwrap().current()).collect()
        }
        Self {
            principals: all(runner, 2_000, principal),
            targets: all(runner, 200, arbitrary::target()),
            arguments: all(runner, 30, arbitrary::arguments()),
            state: all(runner, 1, any::<u64>())[0] | 1,
        }
    }

    /// Xorshift (Marsaglia 2003).
    fn die(&mut self, sides: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) as usize % sides
    }
}

/// Whatever is found in random policies is so for random calls, by the reference.
#[test]
fn what_is_called_dead_is_dead() {
    let mut runner = TestRunner::default();
    let mut calls = Calls::draw(&mut runner, arbitrary::principal());
    let mut seen: BTreeMap<(Reason, Effect), [usize; 2]> = BTreeMap::new();
    for _ in 0..1_600 {
        let policy = alike().new_tree(&mut runner).unwrap().current();
        let (mut errors, mut warnings) = (Findings::new(), Findings::new());
        lint::rules(&policy.rules, policy.guardrail, &mut errors, &mut warnings);
        for finding in errors.iter().chain(&warnings) {
            let field = finding.field.to_string();
            let i: usize = field.trim_start_matches("spec.rules[").split(']').next().unwrap().parse().unwrap();
            let effect = policy.rules[i].effect;
            let [found, asked] = seen.entry((finding.reason, effect)).or_default();
            *found += 1;
            let only = |keep: &dyn Fn(usize, Effect) -> bool| {
                let rules = policy.rules.iter().enumerate().filter(|(n, rule)| keep(*n, rule.effect));
                Policy { rules: rules.map(|(_, rule)| rule.clone()).collect(), ..policy.clone() }
            };
            let (itself, others) = (only(&|n, _| n == i), only(&|n, _| n != i));
            let alone = only(&|n, effect| n == i || effect != Effect::Allow);
            for _ in 0..600 {
                let dice = [2_000, 200, 30, 4].map(|sides| calls.die(sides));
                let (principal, target) = (&calls.principals[dice[0]], &calls.targets[dice[1]]);
                let (arguments, facts) = (calls.arguments[dice[2]], Facts { now: dice[3] as i64 });
                let ask = |policies: &[&Policy]| reference::decide(policies, principal, target, arguments, &facts);
                // What somebody else grants shows whether a rule that narrows counts.
                let grants = everything();
                let besides: &[&Policy] = if effect == Effect::Allow { &[] } else { &[&grants] };
                let with = |policy| ask(&[&[policy], besides].concat()).effect;
                if with(&itself) != effect {
                    continue;
                }
                *asked += 1;
                match finding.reason {
                    Reason::RuleShadowed => assert_eq!(with(&policy), with(&others), "{finding} {policy:#?}"),
                    // As the only Allow, it grants nothing.
                    _ => assert_eq!(ask(&[&alone]).effect, Effect::Deny, "{finding} {principal:?} {policy:#?}"),
                }
            }
        }
    }
    // What excepts all of its principals is never about anybody.
    let nobody = seen.remove(&(Reason::PrincipalInvalid, Effect::Allow)).unwrap_or_default();
    assert!(nobody[0] >= 30 && nobody[1] == 0, "{nobody:?}");
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(seen.values().all(|[found, asked]| *found >= 10 && *asked >= 100), "{seen:?}");
}

/// Everything to everybody.
fn everything() -> Policy {
    let of =
        |authority: &str| PrincipalMatch { authority: Some(authority.into()), any: true, ..PrincipalMatch::default() };
    let acting = |authority: &str| PrincipalMatch { actor: Some(ActorMatch::Any), ..of(authority) };
    let names = arbitrary::TOOLS.map(str::to_owned).to_vec();
    let rule = Rule {
        name: "everything".into(),
        effect: Effect::Allow,
        principals: vec![of("corp"), of("other"), acting("corp"), acting("other")],
        except: Vec::new(),
        tools: vec![ToolMatch { names, ..ToolMatch::default() }],
        resources: vec!["**".into()],
        prompts: vec!["*".into()],
        when: None,
        not_before: None,
        not_after: None,
        break_glass: None,
        message: None,
    };
    Policy {
        id: ObjectId { uid: "all".into(), namespace: "team".into(), name: "all".into(), generation: 1 },
        guardrail: false,
        targets: Targets::default(),
        mode: Mode::Enforce,
        standing: Standing::InForce,
        rules: vec![rule],
    }
}
