//! The evaluator against its reference, and the policies that other products get wrong.

use std::sync::Arc;

use proptest::prelude::*;

use super::decision::{Decision, Reason};
use super::evaluate::evaluate;
use super::index::{Layer, Layers, PrincipalKeys};
use super::list::{Foreseen, Visibility, foresee, list};
use super::reference::{self, Answer};
use super::request::{Facts, Request, Target};
use super::rule::{CompiledPolicy, compile};
use super::{arbitrary, decision::RuleRef};
use crate::generated::policy::{Effect, Mode, PrincipalMatch, Rule, Selector, Standing, Targets, ToolMatch};
use crate::generated::{ObjectId, Policy, Risk};
use crate::identity::principal::{Actor, Groups, Kind, Principal};
use crate::tools::risk::KnownRisk;

struct Reaching {
    guardrails: Layer,
    own: Layer,
    none: Layer,
    denied: bool,
}

impl Reaching {
    fn of(policies: &[Policy]) -> Self {
        let compiled: Vec<CompiledPolicy> =
            policies.iter().map(|policy| compile(Arc::new(policy.clone())).unwrap()).collect();
        let layer = |guardrail| Layer::of(compiled.iter().filter(|c| c.source.guardrail == guardrail));
        let denied = policies.iter().any(|policy| matches!(policy.standing, Standing::DenyAll { .. }));
        Self { guardrails: layer(true), own: layer(false), none: Layer::default(), denied }
    }

    fn layers(&self) -> Layers<'_> {
        let layers = [&self.none, &self.own, &self.guardrails];
        Layers { layers, denied: self.denied.then_some("Broken") }
    }

    fn decide(&self, principal: &Principal, target: Target<'_>, arguments: Option<&str>, now: i64) -> Decision {
        let keys = PrincipalKeys::of(principal);
        evaluate(self.layers(), &Request { principal, keys: &keys, target, arguments }, &Facts { now })
    }

    fn list(&self, principal: &Principal, target: Target<'_>) -> Visibility {
        list(self.layers(), principal, &PrincipalKeys::of(principal), target, &Facts { now: 0 })
    }
}

fn answer(decision: Decision) -> Answer {
    let name = |rule: Arc<RuleRef>| (rule.namespace.to_string(), rule.policy.to_string(), rule.rule.to_string());
    Answer {
        effect: decision.effect,
        reason: decision.reason,
        visible: decision.visible,
        rule: decision.rule.map(name),
        shadow: decision.shadow.map(|shadow| shadow.effect),
    }
}

proptest! {
    // The rare meetings (an actor, an exception, a window) need more cases than usual; PROPTEST_CASES still scales them.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 4, ..ProptestConfig::default() })]

    #[test]
    fn decides_as_the_reference_does(
        policies in arbitrary::policies(4),
        principal in arbitrary::principal(),
        target in arbitrary::target(),
        arguments in arbitrary::arguments(),
        now in 0..4i64,
    ) {
        let expected = reference::decide(&policies.iter().collect::<Vec<_>>(), &principal, &target, arguments, &Facts { now });
        let decision = Reaching::of(&policies).decide(&principal, target, arguments, now);
        prop_assert_eq!(answer(decision), expected);
    }

    #[test]
    fn lists_as_the_reference_does(
        policies in arbitrary::policies(3),
        principal in arbitrary::principal(),
        target in arbitrary::target(),
        arguments in arbitrary::arguments(),
        now in 0..4i64,
    ) {
        let (facts, reaching) = (Facts { now }, Reaching::of(&policies));
        let possible = reference::possible_effects(&policies.iter().collect::<Vec<_>>(), &principal, &target, &facts);
        let keys = PrincipalKeys::of(&principal);
        let Foreseen { visibility, effect } = foresee(reaching.layers(), &principal, &keys, target, &facts).enforced;
        let expected = match possible.len() {
            0 => Visibility::Hidden,
            1 => Visibility::Visible,
            _ => Visibility::DependsOnArguments,
        };
        prop_assert_eq!(visibility, expected);
        let decision = reaching.decide(&principal, target, arguments, now);
        prop_assert_eq!(decision.visible, visibility != Visibility::Hidden);
        if visibility == Visibility::Visible {
            prop_assert_eq!(decision.effect, effect);
        }
    }

    #[test]
    fn the_order_of_policies_rules_and_layers_decides_nothing(
        policies in arbitrary::policies(4).prop_shuffle(),
        principal in arbitrary::principal(),
        target in arbitrary::target(),
        arguments in arbitrary::arguments(),
    ) {
        let mut sorted = policies.clone();
        sorted.sort_by(|a, b| a.id.name.cmp(&b.id.name));
        for policy in &mut sorted {
            policy.rules.reverse();
        }
        let shuffled = Reaching::of(&policies).decide(&principal, target, arguments, 0);
        prop_assert_eq!(shuffled, Reaching::of(&sorted).decide(&principal, target, arguments, 0));
    }

    #[test]
    fn an_exchanged_policy_leaves_the_layer_that_was_never_there(
        before in arbitrary::policies(4),
        after in arbitrary::policies(4),
        principal in arbitrary::principal(),
        target in arbitrary::target(),
        arguments in arbitrary::arguments(),
    ) {
        let compiled = |policies: &[Policy]| -> Vec<_> {
            policies.iter().map(|p| compile(Arc::new(Policy { guardrail: false, ..p.clone() })).unwrap()).collect()
        };
        let (old, new) = (compiled(&before), compiled(&after));
        let mut layer = Layer::of(&old);
        for index in 0..old.len().max(new.len()) {
            layer = layer.with(old.get(index), new.get(index));
        }
        let (direct, none, keys) = (Layer::of(&new), Layer::default(), PrincipalKeys::of(&principal));
        let decide = |layer| {
            let layers = Layers { layers: [layer, &none, &none], denied: None };
            evaluate(layers, &Request { principal: &principal, keys: &keys, target, arguments }, &Facts { now: 0 })
        };
        prop_assert_eq!(layer.len(), direct.len());
        prop_assert_eq!(decide(&layer), decide(&direct));
    }
}

fn alice() -> Principal {
    Principal {
        authority: "corp".into(),
        issuer: "https://corp".into(),
        tenant: None,
        subject: "alice".into(),
        kind: Kind::User,
        client: Some("ide".into()),
        groups: Groups::Known(Box::new(["dev".into()])),
        actor: None,
    }
}

fn any_of_corp() -> Vec<PrincipalMatch> {
    vec![PrincipalMatch { authority: Some("corp".into()), any: true, ..PrincipalMatch::default() }]
}

fn rule(name: &str, effect: Effect, pattern: &str) -> Rule {
    Rule {
        name: name.into(),
        effect,
        principals: any_of_corp(),
        except: vec![],
        tools: vec![ToolMatch { patterns: vec![pattern.into()], ..ToolMatch::default() }],
        resources: vec![],
        prompts: vec![],
        when: None,
        not_before: None,
        not_after: None,
        break_glass: None,
        message: None,
    }
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy {
        id: ObjectId { uid: "uid".into(), namespace: "team".into(), name: "policy".into(), generation: 3 },
        guardrail: false,
        targets: Targets { selector: Some(Selector::default()), ..Targets::default() },
        mode: Mode::Enforce,
        standing: Standing::InForce,
        rules,
    }
}

fn tool(name: &str) -> Target<'_> {
    Target::Tool { name, risk: KnownRisk::default() }
}

#[test]
fn a_deny_whose_condition_fails_denies() {
    let deny = Rule { when: Some("args.amount > 100".into()), ..rule("limit", Effect::Deny, "*") };
    let reaching = Reaching::of(&[policy(vec![rule("all", Effect::Allow, "*"), deny])]);
    for (arguments, effect, reason) in [
        (r#"{"amount":5}"#, Effect::Allow, Reason::Allowed),
        (r#"{"amount":500}"#, Effect::Deny, Reason::DeniedByRule),
        ("{}", Effect::Deny, Reason::DeniedByUnknown),
        (r#"{"amount":"500"}"#, Effect::Deny, Reason::DeniedByUnknown),
        (r#"{"amount":5,"Amount":500}"#, Effect::Deny, Reason::DeniedByUnknown),
        (r#"[1]"#, Effect::Deny, Reason::DeniedByUnknown),
    ] {
        let decision = reaching.decide(&alice(), tool("pay"), Some(arguments), 0);
        assert_eq!((decision.effect, decision.reason), (effect, reason), "{arguments}");
        assert!(decision.visible);
    }
}

#[test]
fn a_tool_with_a_rule_about_arguments_stays_listed() {
    let allow = Rule { when: Some("args.repo == \"acme/x\"".into()), ..rule("some", Effect::Allow, "create_*") };
    let reaching = Reaching::of(&[policy(vec![allow])]);
    assert_eq!(reaching.list(&alice(), tool("create_issue")), Visibility::DependsOnArguments);
    assert_eq!(reaching.list(&alice(), tool("delete_issue")), Visibility::Hidden);
    let refused = reaching.decide(&alice(), tool("create_issue"), Some(r#"{"repo":"other"}"#), 0);
    assert_eq!((refused.effect, refused.visible), (Effect::Deny, true));
    let hidden = reaching.decide(&alice(), tool("delete_issue"), Some(r#"{"repo":"acme/x"}"#), 0);
    assert_eq!((hidden.effect, hidden.visible), (Effect::Deny, false));
}

#[test]
fn long_tool_names_are_as_good_as_short_ones() {
    let name = "list_every_open_pull_request_of_a_repository";
    let exact = Rule {
        tools: vec![ToolMatch { names: vec![name.into()], ..ToolMatch::default() }],
        ..rule("exact", Effect::Allow, "*")
    };
    let reaching = Reaching::of(&[policy(vec![exact])]);
    assert_eq!(reaching.decide(&alice(), tool(name), None, 0).effect, Effect::Allow);
    assert_eq!(reaching.decide(&alice(), tool("list_every_open_pull"), None, 0).effect, Effect::Deny);
    assert_eq!(reaching.decide(&alice(), tool(&format!("{name}s")), None, 0).effect, Effect::Deny);
}

#[test]
fn denies_alone_allow_nothing() {
    let reaching = Reaching::of(&[policy(vec![rule("no", Effect::Deny, "delete_*")])]);
    let decision = reaching.decide(&alice(), tool("get_issue"), None, 0);
    assert_eq!((decision.effect, decision.reason, decision.visible), (Effect::Deny, Reason::NoMatchingAllow, false));
}

#[test]
fn the_same_subject_of_another_authority_is_somebody_else() {
    let users = vec![PrincipalMatch {
        authority: Some("corp".into()),
        users: vec!["alice".into()],
        ..PrincipalMatch::default()
    }];
    let reaching = Reaching::of(&[policy(vec![Rule { principals: users, ..rule("a", Effect::Allow, "*") }])]);
    assert_eq!(reaching.decide(&alice(), tool("t"), None, 0).effect, Effect::Allow);
    let stranger = Principal { authority: "other".into(), ..alice() };
    assert_eq!(reaching.decide(&stranger, tool("t"), None, 0).effect, Effect::Deny);
}

#[test]
fn who_acts_for_somebody_needs_a_grant_that_says_so() {
    let reaching = Reaching::of(&[policy(vec![rule("a", Effect::Allow, "*")])]);
    let delegated = Principal { actor: Some(Actor { subject: "agent".into(), issuer: None }), ..alice() };
    assert_eq!(reaching.decide(&delegated, tool("t"), None, 0).effect, Effect::Deny);
}

#[test]
fn unclassified_risk_grants_nothing_and_refuses_everything() {
    let risky = |effect| Rule {
        tools: vec![ToolMatch { risk: vec![Risk::ReadOnly], ..ToolMatch::default() }],
        ..rule("risk", effect, "*")
    };
    let grant = Reaching::of(&[policy(vec![risky(Effect::Allow)])]);
    assert_eq!(grant.decide(&alice(), tool("t"), None, 0).reason, Reason::NoMatchingAllow);
    let refuse = Reaching::of(&[policy(vec![rule("a", Effect::Allow, "*"), risky(Effect::Deny)])]);
    assert_eq!(refuse.decide(&alice(), tool("t"), None, 0).reason, Reason::DeniedByUnknown);
}

#[test]
fn every_error_is_found_and_says_where() {
    let broken = Rule {
        principals: vec![PrincipalMatch { users: vec!["a".into()], ..PrincipalMatch::default() }],
        except: vec![PrincipalMatch { authority: Some("corp".into()), ..PrincipalMatch::default() }],
        when: Some("args.a >".into()),
        not_before: Some(2),
        not_after: Some(2),
        break_glass: None,
        tools: vec![ToolMatch::default(), ToolMatch { patterns: vec!["x".repeat(600)], ..ToolMatch::default() }],
        ..rule("a", Effect::Allow, "*")
    };
    let nobody = Rule { principals: vec![], tools: vec![], ..rule("a", Effect::Deny, "*") };
    let mut policy = policy(vec![broken, nobody]);
    policy.targets = Targets { namespaces: Some(Selector::default()), ..Targets::default() };
    let errors = compile(Arc::new(policy)).unwrap_err();
    let found: Vec<_> = errors.iter().map(|e| (e.field.as_str(), e.reason())).collect();
    assert_eq!(
        found,
        [
            ("targets.namespaces", "NamespaceSelectorOutsideSystem"),
            ("targets", "NoTargets"),
            ("rules[0].principals[0].authority", "NoAuthority"),
            ("rules[0].except[0]", "EmptyPrincipal"),
            ("rules[0].notAfter", "EmptyWindow"),
            ("rules[0].when", "ConditionSyntax"),
            ("rules[0].tools[0]", "EmptyToolMatch"),
            ("rules[0].tools[1].patterns[0]", "PatternLength"),
            ("rules[1].name", "DuplicateRule"),
            ("rules[1].principals", "NoPrincipals"),
            ("rules[1]", "NoTargets"),
        ]
    );
}
