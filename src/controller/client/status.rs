//! What is said of a client, made of what was applied: which token it has, and never the token.

use super::apply::Outcome;
use super::next;
use crate::api::v1alpha1::McpClientStatus;
use crate::controller::conditions::{
    self, ENFORCED, NOT_YET_VALID, RESOLVED_REFS, SECRET_CONFLICT, Said, Statement, TOKEN_ISSUED, TOO_MANY_CLIENTS,
    Truth,
};
use crate::controller::proxies::Programming;
use crate::generated::ObjectId;
use crate::resolve::Findings;

/// What the author of a client is to be told.
pub(super) struct Verdict {
    /// What is wrong with it in itself.
    pub(super) errors: Findings,
    /// What depends on others.
    pub(super) warnings: Findings,
    /// What was said of its token last, and is said again where nothing new came of it: it tells what earlier tokens said.
    pub(super) last: McpClientStatus,
    /// What came of its token; `None` if it is not accepted.
    pub(super) outcome: Option<Outcome>,
}

const MEANWHILE: &str = "none of its tokens is believed.";

/// What is said of a client. `programming` is what proxies make of how its authority lists it, if it can; `account` the
/// controller's ServiceAccount.
pub(super) fn status(
    id: &ObjectId,
    verdict: &Verdict,
    programming: Option<Programming>,
    account: (&str, &str),
) -> Statement {
    let Verdict { errors, warnings, last, outcome } = verdict;
    let accepted = conditions::accepted(errors, warnings, MEANWHILE);
    let resolved = conditions::resolved_refs(accepted.truth == Truth::True, warnings);
    let issued = match outcome {
        None => Said::new(TOKEN_ISSUED, Truth::Unknown, "NotAccepted", "it is given a token once it is accepted"),
        Some(outcome) => token_issued(outcome, &resolved, id, account),
    };
    let not_listed = |why: &Said| Said::new(ENFORCED, Truth::False, why.reason.clone(), MEANWHILE);
    let enforced = match (outcome, programming) {
        (None, _) => not_listed(&accepted),
        (Some(Outcome::Crowded), _) | (Some(_), None) => not_listed(&issued),
        (Some(_), programming) => conditions::programming(ENFORCED, programming),
    };
    with_members(Statement::new(id.generation, vec![accepted, resolved, issued, enforced]), last)
}

fn token_issued(outcome: &Outcome, resolved: &Said, id: &ObjectId, account: (&str, &str)) -> Said {
    let not = |reason: &str, message: String| Said::new(TOKEN_ISSUED, Truth::False, reason, message);
    match outcome {
        Outcome::Holds { .. } => Said::new(TOKEN_ISSUED, Truth::True, TOKEN_ISSUED, ""),
        Outcome::Later { until } => {
            not(NOT_YET_VALID, format!("spec.validAfter lies ahead: a token is made at {}", next::time(*until)))
        }
        Outcome::Hindered => not(&resolved.reason, format!("see {RESOLVED_REFS}")),
        Outcome::Foreign => {
            let message = "there is a Secret of that name that is not the client's, and it is left alone: delete it, or set \
                           spec.token.secretName";
            not(SECRET_CONFLICT, message.to_owned())
        }
        Outcome::Forbidden => {
            let message = "the controller may not write Secrets of this namespace";
            let binding = conditions::role_binding("portcullis-token-writer", &id.namespace, account);
            not(conditions::SECRET_FORBIDDEN, format!("{message}; {binding}"))
        }
        Outcome::Crowded => {
            let message = "its McpAuthorizationServer has more clients than proxies are told of, and this one is among the \
                           youngest: delete some, or use another McpAuthorizationServer";
            not(TOO_MANY_CLIENTS, message.to_owned())
        }
        Outcome::Unsignable { reason, message } => not(reason, message.clone()),
    }
}

/// That a token which says less is about to be made, and from which time on its tokens count from now on.
pub(super) fn remembering(id: &ObjectId, last: &McpClientStatus) -> Statement {
    let issued = Said::new(TOKEN_ISSUED, Truth::False, conditions::PENDING, "a token that says less is being made");
    let enforced = conditions::programming(ENFORCED, Some(Programming::Waiting));
    let said = vec![conditions::accepted(&[], &[], ""), conditions::resolved_refs(true, &[]), issued, enforced];
    with_members(Statement::new(id.generation, said), last)
}

fn with_members(mut statement: Statement, last: &McpClientStatus) -> Statement {
    for (name, text) in [("clientId", &last.client_id), ("validAfter", &last.valid_after)] {
        if let Some(text) = text {
            statement = statement.member(name, text.as_str());
        }
    }
    match last.token.as_ref().and_then(|token| serde_json::to_value(token).ok()) {
        Some(token) => statement.member("token", token),
        None => statement,
    }
}
