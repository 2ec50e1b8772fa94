//! What is said of a policy, made of what was applied.

use serde_json::Value;

use super::build::Verdict;
use crate::controller::apply::Applied;
use crate::controller::conditions::{self, EFFECTIVE, ENFORCED, Said, Statement, Truth};
use crate::controller::proxies::Programming;
use crate::controller::store::Reaching;

/// What is said of a policy. `programming` is what proxies make of what was written, if they were told of it; `before` its
/// status.
pub fn status(
    applied: &Applied<Verdict>,
    programming: Option<Programming>,
    reaching: &Reaching,
    before: &Value,
) -> Statement {
    let Verdict { errors, warnings, meanwhile } = &applied.verdict;
    let accepted = conditions::accepted(errors, warnings, meanwhile);
    let resolved = conditions::resolved_refs(accepted.truth == Truth::True, warnings);
    let enforced = match accepted.truth {
        Truth::True => conditions::programming(ENFORCED, programming),
        // What proxies enforce is not this generation.
        Truth::False | Truth::Unknown => Said::new(ENFORCED, Truth::False, accepted.reason.clone(), meanwhile.clone()),
    };
    let effective = match reaching {
        _ if accepted.truth != Truth::True => None,
        Reaching::Unsaid => None,
        // Who begins to lead knows less than what is said already.
        Reaching::NotYet => conditions::said_of(before, applied.id.generation, EFFECTIVE),
        Reaching::Around(around) => Some(conditions::effective(&around.findings())),
    };
    let mut statement = Statement::new(applied.id.generation, vec![accepted, resolved, enforced]);
    effective.into_iter().for_each(|said| statement.beside(said));
    statement
}
