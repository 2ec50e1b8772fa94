//! The decision about one call.
//!
//! Invariant: pure and total. A call is allowed only if an Allow surely matches, no Deny could match, and no approval
//! could be asked for; nothing depends on the order in which rules are met.

use std::sync::Arc;

use super::condition::{Asked, Outcome};
use super::decision::{Decision, Reason, RuleRef, Shadow};
use super::index::{Layers, PrincipalKeys};
use super::request::{Facts, Request, Target};
use super::rule::Rule;
use super::tri::Tri;
use crate::generated::policy::Effect;
use crate::identity::principal::Principal;

/// Decides one call.
pub fn evaluate(layers: Layers<'_>, request: &Request<'_>, facts: &Facts) -> Decision {
    if layers.denied.is_some() {
        let reason = Reason::PolicyInvalid;
        return Decision { effect: Effect::Deny, reason, visible: false, rule: None, shadow: None };
    }
    let asked = Asked::call(request.principal, request.arguments);
    let judged = judge(layers, request.principal, request.keys, &request.target, facts, &asked);
    let (effect, reason, rule) = judged.enforced.conclude();
    let shadow = judged.shadow.any().then(|| judged.enforced.together(&judged.shadow).conclude());
    Decision {
        effect,
        reason,
        visible: judged.enforced.allow_possible,
        rule: rule.cloned(),
        shadow: shadow
            .filter(|(would, ..)| *would != effect)
            .map(|(effect, reason, rule)| Box::new(Shadow { effect, reason, rule: rule.cloned() })),
    }
}

/// What the rules say, those of Shadow policies apart.
pub(super) struct Judged<'a> {
    pub(super) enforced: Tally<'a>,
    pub(super) shadow: Tally<'a>,
}

/// Judges every rule that could be about the call. `asked` knows the arguments, or that they are still open.
pub(super) fn judge<'a>(
    layers: Layers<'a>,
    principal: &Principal,
    keys: &PrincipalKeys,
    target: &Target<'_>,
    facts: &Facts,
    asked: &Asked<'_>,
) -> Judged<'a> {
    let mut judged = Judged { enforced: Tally::default(), shadow: Tally::default() };
    layers.candidates(keys, target, |rule| {
        let about = about_apart_from_condition(rule, principal, keys, target, facts);
        if about == Tri::No || about == Tri::Unknown && rule.effect == Effect::Allow {
            return;
        }
        let outcome = rule.when.as_ref().map_or(Outcome::Closed(Tri::Yes), |when| asked.judge(when));
        let tally = if rule.shadow { &mut judged.shadow } else { &mut judged.enforced };
        tally.count(rule, about, outcome);
    });
    judged
}

/// Whether a rule is about a call, its condition left aside.
pub(crate) fn about_apart_from_condition(
    rule: &Rule,
    principal: &Principal,
    keys: &PrincipalKeys,
    target: &Target<'_>,
    facts: &Facts,
) -> Tri {
    if !rule.holds_at(facts.now) {
        return Tri::No;
    }
    match rule.about_target(target) {
        Tri::No => Tri::No,
        target => target.and(rule.about_principal(principal, keys)),
    }
}

/// What matching rules add up to. Of several rules that say the same, the first by name is kept, so that records do not
/// depend on the order in which rules were met; of Denies, a sure one before one that could not be evaluated.
#[derive(Clone, Default)]
pub(super) struct Tally<'a> {
    deny: Option<(Doubt, &'a Arc<RuleRef>)>,
    approval: Option<&'a Arc<RuleRef>>,
    allow: Option<&'a Arc<RuleRef>>,
    /// An Allow could match under some arguments.
    pub(super) allow_possible: bool,
    /// A rule of this kind matches or not, depending on arguments that are not known.
    pub(super) open: Open,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    Sure,
    Unknown,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Open {
    pub(super) deny: bool,
    pub(super) approval: bool,
}

impl<'a> Tally<'a> {
    fn count(&mut self, rule: &'a Rule, about: Tri, outcome: Outcome) {
        let answer = match outcome {
            Outcome::Closed(answer) | Outcome::ForArguments(answer) => about.and(answer),
            Outcome::Open => Tri::No,
        };
        let open = matches!(outcome, Outcome::Open);
        match rule.effect {
            Effect::Allow => {
                self.allow_possible |= answer == Tri::Yes || !matches!(outcome, Outcome::Closed(_));
                if answer == Tri::Yes {
                    keep_first(&mut self.allow, &rule.reference);
                }
            }
            Effect::Deny => {
                self.open.deny |= open;
                if answer != Tri::No {
                    let doubt = if answer == Tri::Yes { Doubt::Sure } else { Doubt::Unknown };
                    keep_first(&mut self.deny, (doubt, &rule.reference));
                }
            }
            Effect::RequireApproval => {
                self.open.approval |= open;
                if answer != Tri::No {
                    keep_first(&mut self.approval, &rule.reference);
                }
            }
        }
    }

    fn any(&self) -> bool {
        self.deny.is_some() || self.approval.is_some() || self.allow.is_some()
    }

    /// What both say.
    pub(super) fn together(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.allow_possible |= other.allow_possible;
        both.open.deny |= other.open.deny;
        both.open.approval |= other.open.approval;
        if let Some(deny) = other.deny {
            keep_first(&mut both.deny, deny);
        }
        if let Some(approval) = other.approval {
            keep_first(&mut both.approval, approval);
        }
        if let Some(allow) = other.allow {
            keep_first(&mut both.allow, allow);
        }
        both
    }

    pub(super) fn denied(&self) -> bool {
        self.deny.is_some()
    }

    /// The effect on a call whose arguments are known, why, and by which rule.
    pub(super) fn conclude(&self) -> (Effect, Reason, Option<&'a Arc<RuleRef>>) {
        match (self.deny, self.allow, self.approval) {
            (Some((Doubt::Sure, rule)), ..) => (Effect::Deny, Reason::DeniedByRule, Some(rule)),
            (Some((Doubt::Unknown, rule)), ..) => (Effect::Deny, Reason::DeniedByUnknown, Some(rule)),
            (None, None, _) => (Effect::Deny, Reason::NoMatchingAllow, None),
            (None, Some(_), Some(rule)) => (Effect::RequireApproval, Reason::ApprovalRequired, Some(rule)),
            (None, Some(rule), None) => (Effect::Allow, Reason::Allowed, Some(rule)),
        }
    }
}

fn keep_first<T: Ord>(kept: &mut Option<T>, found: T) {
    if kept.as_ref().is_none_or(|kept| found < *kept) {
        *kept = Some(found);
    }
}
