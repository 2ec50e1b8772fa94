//! What is wrong with a policy's rules taken together, though each of them is well-formed.
//!
//! Invariant: a finding is a fact about the policy alone, whatever other objects there are: what is called contradicted
//! never grants, and without what is called shadowed every decision is the same.

use super::{Finding, Findings, Reason, cover::Comparison};
use crate::{
    api::FieldPath,
    generated::policy::{Effect, Rule},
};

/// Looks at the rules of one policy. They are resolved, and each is valid by itself.
pub(super) fn rules(rules: &[Rule], guardrail: bool, errors: &mut Findings, warnings: &mut Findings) {
    let mut comparison = Comparison::within(guardrail);
    for (i, rule) in rules.iter().enumerate() {
        let field = FieldPath::of("spec.rules").index(i);
        if rule.effect == Effect::Allow && comparison.excepts_all(rule) {
            let message = format!("the rule {:?} is about nobody: except names all of its principals", rule.name);
            errors.push(
                Finding::new(Reason::PrincipalInvalid, field.field("except"), message)
                    .remedy("except fewer than principals names"),
            );
        } else if let Some(deny) = contradiction(rule, rules, &mut comparison) {
            let message = format!("the Allow {:?} can never grant: the Deny {deny:?} refuses all of it", rule.name);
            errors.push(Finding::new(Reason::RuleContradicted, field, message));
        } else if let Some(other) = shadow(i, rule, rules, &mut comparison) {
            let message = format!("the rule {:?} changes nothing: {:?} covers all of it", rule.name, other.name);
            warnings.push(Finding::new(Reason::RuleShadowed, field, message));
        }
    }
}

/// The Deny that refuses all that an Allow could grant, and has nothing to say. One with a message is no contradiction: the
/// Allow shows the tool to those who are to read it (design 3.7).
fn contradiction<'a>(allow: &Rule, rules: &'a [Rule], comparison: &mut Comparison) -> Option<&'a str> {
    if allow.effect != Effect::Allow {
        return None;
    }
    let silent = |rule: &&Rule| rule.effect == Effect::Deny && rule.message.is_none();
    let deny = rules.iter().filter(silent).find(|deny| comparison.covers(deny, allow))?;
    Some(&deny.name)
}

/// The rule that does all that a rule does. Of two that do the same, the later one is named.
fn shadow<'a>(i: usize, rule: &Rule, rules: &'a [Rule], comparison: &mut Comparison) -> Option<&'a Rule> {
    let (earlier, later) = rules.split_at(i);
    let mut covers = |other: &&Rule| replaces(other, rule) && comparison.covers(other, rule);
    if let Some(found) = earlier.iter().find(&mut covers) {
        return Some(found);
    }
    let found = later.iter().skip(1).find(&mut covers)?;
    let is_same = replaces(rule, found) && comparison.covers(rule, found);
    (!is_same).then_some(found)
}

/// Whether what `other` does to a call is what `rule` would do, to the caller's eyes too.
fn replaces(other: &Rule, rule: &Rule) -> bool {
    match (rule.effect, other.effect) {
        (Effect::Allow, Effect::Allow) | (Effect::RequireApproval, Effect::Deny) => true,
        (Effect::Deny, Effect::Deny) | (Effect::RequireApproval, Effect::RequireApproval) => {
            rule.message.is_none() || rule.message == other.message
        }
        _ => false,
    }
}
