//! The decision about one call.
//!
//! Invariant: pure and total. Deny unless an Allow surely matches, no Deny could match, and no approval is asked for.

use super::decision::{Decision, Reason};
use super::index::Layers;
use super::request::{Facts, Request};
use crate::generated::policy::Effect;

/// Decides one call.
pub fn evaluate(layers: Layers<'_>, request: &Request<'_>, facts: &Facts) -> Decision {
    let _ = (layers, request, facts);
    Decision { effect: Effect::Deny, reason: Reason::NoMatchingAllow, visible: false, rule: None, shadow: None }
}
