//! Whether a target is shown to a principal in a list.
//!
//! Invariant: `Hidden` exactly if [`super::evaluate::evaluate`] would answer `visible: false` under every arguments.

use super::index::{Layers, PrincipalKeys};
use super::request::{Facts, Target};
use crate::identity::principal::Principal;

/// What a list does with a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Shown; the decision does not depend on arguments.
    Visible,
    /// Shown; the decision depends on arguments.
    DependsOnArguments,
    /// Not shown: no Allow could match under any arguments.
    Hidden,
}

/// Whether a target is listed for a principal.
pub fn list(
    layers: Layers<'_>,
    principal: &Principal,
    keys: &PrincipalKeys,
    target: Target<'_>,
    facts: &Facts,
) -> Visibility {
    let _ = (layers, principal, keys, target, facts);
    Visibility::Hidden
}
