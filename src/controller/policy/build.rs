//! From what a policy means to what there should be for it. No client is needed.

use super::validate::Validated;
use crate::api::FieldPath;
use crate::controller::apply::Prepared;
use crate::controller::error::Failure;
use crate::controller::object::Wanted;
use crate::generated::codec::{Generated, MOST_BYTES};
use crate::generated::policy::Standing;
use crate::generated::{Kind, ObjectId, Policy};
use crate::resolve::{self, Finding, Findings, Lookup, Reason};

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

/// What there should be for a policy: what it says, or what stands of it if its last edit is invalid.
pub(super) fn build(validated: Validated) -> Result<Prepared<Verdict>, Failure> {
    let Validated { key, id, guardrail, outcome, previous, callers } = validated;
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
            errors.push(too_large(&wanted));
            new = Err(Reason::ObjectTooLarge);
        }
    }
    let lookup = callers.lookup();
    let mut policy = resolve::judged_again(resolve::edit(previous.as_ref(), id.clone(), guardrail, new), &lookup);
    let mut wanted = encoded(&id, &policy)?;
    if !wanted.fits() {
        // It fitted when it was accepted, and comes to more by what is there now. What cannot be written would leave proxies
        // with what no longer holds.
        errors.push(too_large(&wanted));
        policy = resolve::edit(None, id.clone(), guardrail, Err(Reason::ObjectTooLarge));
        wanted = encoded(&id, &policy)?;
    }
    let verdict = Verdict { errors, warnings, meanwhile: meanwhile(&policy, &lookup) };
    Ok(Prepared { key, id, kind: Kind::Policy, generated: Some(wanted), document: None, verdict })
}

fn too_large(wanted: &Wanted) -> Finding {
    let message = format!("it comes to {} bytes, and {MOST_BYTES} can be stored", wanted.bytes.len());
    Finding::new(Reason::ObjectTooLarge, FieldPath::of("spec"), message)
}

fn encoded(id: &ObjectId, policy: &Policy) -> Result<Wanted, Failure> {
    Wanted::new(Kind::Policy, id, &Generated::Policy(policy.clone())).map_err(|error| Failure::Build(error.reason()))
}

fn meanwhile(policy: &Policy, lookup: &Lookup<'_>) -> String {
    match (&policy.standing, policy.guardrail) {
        (Standing::InForce, _) => String::new(),
        (Standing::NarrowingOnly { .. }, _) => {
            let count = policy.rules.len();
            let stands = format!(
                "of what was last accepted, Deny and RequireApproval rules stay in force ({count}), Allow rules do not."
            );
            let missing: Vec<String> = resolve::missing(policy, lookup).into_iter().collect();
            if missing.is_empty() {
                return stands;
            }
            format!("{stands} They deny more than was written while what they name is missing: {}.", missing.join(", "))
        }
        (Standing::DenyAll { .. }, true) => {
            "nothing of it is in force, so every call to every server is denied.".to_owned()
        }
        (Standing::DenyAll { .. }, false) => {
            let namespace = &policy.id.namespace;
            format!("nothing of it is in force, so every call to servers of the namespace {namespace} is denied.")
        }
    }
}
