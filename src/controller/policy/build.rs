//! From what a policy means to what there should be for it. No client is needed.

use super::validate::Validated;
use crate::api::FieldPath;
use crate::controller::apply::Prepared;
use crate::controller::error::Failure;
use crate::controller::object::Wanted;
use crate::generated::codec::{Generated, MOST_BYTES};
use crate::generated::policy::Standing;
use crate::generated::{Kind, ObjectId, Policy};
use crate::resolve::{self, Finding, Findings, Reason};

/// What the author of a policy is to be told.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What is wrong with it in itself.
    pub errors: Findings,
    /// What depends on others.
    pub warnings: Findings,
    /// What is in force of one that is not accepted.
    pub meanwhile: String,
}

/// What there should be for a policy, and, if its last edit is invalid, what stands of it as it was accepted.
pub(super) fn build(validated: Validated) -> Result<(Prepared<Verdict>, Option<Policy>), Failure> {
    let Validated { key, id, guardrail, outcome, previous, authorities } = validated;
    let (mut errors, mut warnings) = (Findings::new(), Findings::new());
    let mut new = match outcome {
        Ok(resolved) => {
            warnings = resolved.warnings;
            Ok(resolved.object)
        }
        Err(findings) => {
            let reason = resolve::reason_of(&findings);
            errors = findings;
            Err(reason)
        }
    };
    if let Ok(policy) = &new {
        let wanted = encoded(&id, policy)?;
        if !wanted.fits() {
            let message = format!("it comes to {} bytes, and {MOST_BYTES} can be stored", wanted.bytes.len());
            errors.push(Finding::new(Reason::ObjectTooLarge, FieldPath::of("spec"), message));
            new = Err(Reason::ObjectTooLarge);
        }
    }
    let policy = resolve::edit(previous.as_ref(), id.clone(), guardrail, new);
    let meanwhile = meanwhile(&policy);
    let stands = (policy.standing != Standing::InForce).then(|| policy.clone());
    let judged = resolve::judged_again(policy, |name| authorities.iter().any(|known| known == name));
    let generated = Some(encoded(&id, &judged)?);
    let verdict = Verdict { errors, warnings, meanwhile };
    Ok((Prepared { key, id, kind: Kind::Policy, generated, document: None, verdict }, stands))
}

fn encoded(id: &ObjectId, policy: &Policy) -> Result<Wanted, Failure> {
    Wanted::new(Kind::Policy, id, &Generated::Policy(policy.clone())).map_err(|error| Failure::Build(error.reason()))
}

fn meanwhile(policy: &Policy) -> String {
    match (&policy.standing, policy.guardrail) {
        (Standing::InForce, _) => String::new(),
        (Standing::NarrowingOnly { .. }, _) => {
            let count = policy.rules.len();
            format!(
                "of what was last accepted, Deny and RequireApproval rules stay in force ({count}), Allow rules do not."
            )
        }
        (Standing::DenyAll { .. }, true) => {
            "it was never accepted, so every call to every server is denied.".to_owned()
        }
        (Standing::DenyAll { .. }, false) => {
            let namespace = &policy.id.namespace;
            format!("it was never accepted, so every call to servers of the namespace {namespace} is denied.")
        }
    }
}
