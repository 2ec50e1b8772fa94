//! Whether a target is shown to a principal in a list.
//!
//! Invariant: `Hidden` exactly if [`super::evaluate::evaluate`] answers `visible: false` under any arguments, and so
//! what a list does not show and what does not exist are answered alike. Both ask the same evaluator.

use super::condition::Asked;
use super::evaluate::{Tally, judge};
use super::index::{Layers, PrincipalKeys};
use super::request::{Facts, Target};
use crate::generated::policy::Effect;
use crate::identity::principal::Principal;

/// What a list does with a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Shown; every arguments are decided alike.
    Visible,
    /// Shown; what is decided depends on the arguments.
    DependsOnArguments,
    /// Not shown: no Allow could match under any arguments.
    Hidden,
}

/// Whether a target is listed for a principal. A target that an Allow reaches stays listed even where a Deny refuses
/// it: the call's answer then carries the rule's message.
pub fn list(
    layers: Layers<'_>,
    principal: &Principal,
    keys: &PrincipalKeys,
    target: Target<'_>,
    facts: &Facts,
) -> Visibility {
    foresee(layers, principal, keys, target, facts).enforced.visibility
}

/// What can be said of all calls to a target together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreseen {
    /// How it is listed.
    pub visibility: Visibility,
    /// What happens to every call, unless that depends on arguments.
    pub effect: Effect,
}

/// What is foreseen, and what would be with the Shadow policies enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prospect {
    /// What is foreseen.
    pub enforced: Foreseen,
    /// What would be with the Shadow policies enforced.
    pub with_shadow: Foreseen,
}

/// Decides all calls to a target together, as far as they are alike.
pub fn foresee(
    layers: Layers<'_>,
    principal: &Principal,
    keys: &PrincipalKeys,
    target: Target<'_>,
    facts: &Facts,
) -> Prospect {
    sum_up_all(layers, principal, keys, target, facts, &Asked::list(principal))
}

/// The same for a principal that stands for everybody who is like it: what a condition would say of them is open.
pub fn foresee_anybody(
    layers: Layers<'_>,
    principal: &Principal,
    keys: &PrincipalKeys,
    target: Target<'_>,
    facts: &Facts,
) -> Prospect {
    sum_up_all(layers, principal, keys, target, facts, &Asked::anybody(principal))
}

fn sum_up_all(
    layers: Layers<'_>,
    principal: &Principal,
    keys: &PrincipalKeys,
    target: Target<'_>,
    facts: &Facts,
    asked: &Asked<'_>,
) -> Prospect {
    if layers.denied.is_some() {
        let denied = Foreseen { visibility: Visibility::Hidden, effect: Effect::Deny };
        return Prospect { enforced: denied, with_shadow: denied };
    }
    let judged = judge(layers, principal, keys, &target, facts, asked);
    let with_shadow = judged.enforced.together(&judged.shadow);
    Prospect { enforced: sum_up(&judged.enforced), with_shadow: sum_up(&with_shadow) }
}

fn sum_up(tally: &Tally<'_>) -> Foreseen {
    if !tally.allow_possible {
        return Foreseen { visibility: Visibility::Hidden, effect: Effect::Deny };
    }
    let (effect, ..) = tally.conclude();
    let depends = match effect {
        // A sure Deny stays, whatever the arguments; without one, an Allow was not sure: it is open.
        Effect::Deny => !tally.denied(),
        Effect::RequireApproval => tally.open.deny,
        Effect::Allow => tally.open.deny || tally.open.approval,
    };
    Foreseen { visibility: if depends { Visibility::DependsOnArguments } else { Visibility::Visible }, effect }
}
