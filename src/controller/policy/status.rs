//! What is said of a policy, made of what was applied.

use super::build::Verdict;
use crate::controller::apply::Applied;
use crate::controller::conditions::{self, ENFORCED, Said, Statement, Truth};
use crate::controller::proxies::Programming;

/// What is said of a policy. `programming` is what proxies make of what was written, if they were told of it.
pub fn status(applied: &Applied<Verdict>, programming: Option<Programming>) -> Statement {
    let Verdict { errors, warnings, meanwhile } = &applied.verdict;
    let accepted = conditions::accepted(errors, warnings, meanwhile);
    let resolved = conditions::resolved_refs(accepted.truth == Truth::True, warnings);
    let enforced = match accepted.truth {
        Truth::True => conditions::programming(ENFORCED, programming),
        // What proxies enforce is not this generation.
        Truth::False | Truth::Unknown => Said::new(ENFORCED, Truth::False, accepted.reason.clone(), meanwhile.clone()),
    };
    Statement::new(applied.id.generation, vec![accepted, resolved, enforced])
}
