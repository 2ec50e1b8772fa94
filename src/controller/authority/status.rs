//! What is said of a trust anchor, made of what was applied.

use super::build::{Keys, Verdict};
use crate::controller::apply::Applied;
use crate::controller::conditions::{self, FETCHING, KEYS_AVAILABLE, NOT_ACCEPTED, Said, Statement, Truth};

/// What is said of a trust anchor.
pub fn status(applied: &Applied<Verdict>) -> Statement {
    let Verdict { errors, warnings, keys } = &applied.verdict;
    let accepted = conditions::accepted(errors, warnings, "none of its tokens is believed.");
    let resolved = conditions::resolved_refs(accepted.truth == Truth::True, warnings);
    let available = match keys {
        None => Said::new(KEYS_AVAILABLE, Truth::Unknown, NOT_ACCEPTED, "keys are fetched once it is accepted"),
        Some(keys) => keys_available(keys),
    };
    Statement::new(applied.id.generation, vec![accepted, resolved, available])
}

fn keys_available(keys: &Keys) -> Said {
    match (keys.available, &keys.failure) {
        (true, None) => Said::new(KEYS_AVAILABLE, Truth::True, KEYS_AVAILABLE, ""),
        (true, Some((_, failure))) => {
            let message = format!("its keys are known, and could not be fetched anew: {failure}");
            Said::new(KEYS_AVAILABLE, Truth::True, KEYS_AVAILABLE, message)
        }
        (false, Some((reason, failure))) => {
            let message = format!("none of its tokens is believed until its keys are known: {failure}");
            Said::new(KEYS_AVAILABLE, Truth::False, *reason, message)
        }
        (false, None) => Said::new(KEYS_AVAILABLE, Truth::Unknown, FETCHING, "its keys are being fetched"),
    }
}
