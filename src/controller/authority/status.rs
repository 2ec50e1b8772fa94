//! What is said of a trust anchor, made of what was applied.

use super::build::{Keys, Verdict};
use crate::controller::apply::Applied;
use crate::controller::conditions::{self, ENFORCED, FETCHING, KEYS_AVAILABLE, NOT_ACCEPTED, Said, Statement, Truth};
use crate::controller::proxies::Programming;

const MEANWHILE: &str = "none of its tokens is believed.";

/// What is said of a trust anchor. `programming` is what proxies make of what was written, if they were told of it.
pub fn status(applied: &Applied<Verdict>, programming: Option<Programming>) -> Statement {
    let Verdict { errors, warnings, keys } = &applied.verdict;
    let accepted = conditions::accepted(errors, warnings, MEANWHILE);
    let resolved = conditions::resolved_refs(accepted.truth == Truth::True, warnings);
    let available = match keys {
        None => Said::new(KEYS_AVAILABLE, Truth::Unknown, NOT_ACCEPTED, "keys are fetched once it is accepted"),
        Some(keys) => keys_available(keys),
    };
    let enforced = match accepted.truth {
        Truth::True => conditions::programming(ENFORCED, programming),
        // What proxies enforce is not this generation.
        Truth::False | Truth::Unknown => Said::new(ENFORCED, Truth::False, accepted.reason.clone(), MEANWHILE),
    };
    Statement::new(applied.id.generation, vec![accepted, resolved, available, enforced])
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
