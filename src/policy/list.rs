//! Whether a target is shown to a principal in a list.
//!
//! Invariant: `Hidden` exactly if [`super::evaluate::evaluate`] answers `visible: false` under any arguments, and so
//! what a list does not show and what does not exist are answered alike. Both ask the same evaluator.

use super::condition::Asked;
use super::evaluate::judge;
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
    foresee(layers, principal, keys, target, facts).0
}

/// The visibility, and the effect on every call if it does not depend on arguments.
pub fn foresee(
    layers: Layers<'_>,
    principal: &Principal,
    keys: &PrincipalKeys,
    target: Target<'_>,
    facts: &Facts,
) -> (Visibility, Effect) {
    if layers.denied.is_some() {
        return (Visibility::Hidden, Effect::Deny);
    }
    let judged = judge(layers, principal, keys, &target, facts, &Asked::list(principal));
    let tally = &judged.enforced;
    let (effect, ..) = tally.conclude();
    if !tally.allow_possible {
        return (Visibility::Hidden, Effect::Deny);
    }
    let depends = match effect {
        // A sure Deny stays, whatever the arguments; without one, an Allow was not sure: it is open.
        Effect::Deny => !tally.denied(),
        Effect::RequireApproval => tally.open.deny,
        Effect::Allow => tally.open.deny || tally.open.approval,
    };
    (if depends { Visibility::DependsOnArguments } else { Visibility::Visible }, effect)
}
