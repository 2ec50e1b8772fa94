//! Whether a client is still believed, learned by asking for a grant as it.
//!
//! Invariant: nothing is granted to anybody by it: a token that comes of it is dropped unread; and it never proves that a client
//! is gone, since a client that may not have the grant, or whose secret has expired, is answered like one that nobody knows. It is
//! asked where a management token was not believed, which servers answer alike for a token that died and for a client that is
//! gone (RFC 7592 section 2.1), before anything is made in the client's place; and, of a client that speaks for itself and that nobody here manages, from time to time.

use super::call::{Answer, Auth, Body, Call, Heard, Place, Purpose, Verb};
use super::desired::Desired;
use super::ledger::{Handle, Ledger, Registration};
use super::next::CHECK_SECONDS;
use super::profile::told;
use super::seen::Seen;
use crate::oauth::{json, token_request};
use crate::sensitive::Sensitive;

/// Whether there is anything to prove the client by.
pub(super) fn has_proof(ledger: &Ledger, current: &Registration) -> bool {
    current.client_secret.is_some() || ledger.keys.iter().any(|key| current.kids.contains(&key.kid))
}

/// A request for a grant as the client. `None`: there is nothing to prove it by, or nowhere to ask.
pub(super) fn call(ledger: &Ledger, current: &Registration, place: &Place) -> Option<Call> {
    let url = place.token_endpoint.as_ref().or(ledger.token_endpoint.as_ref());
    let url = url.filter(|_| has_proof(ledger, current))?.clone();
    Some(Call { purpose: Purpose::Probe, verb: Verb::Post, url, auth: Auth::Client, body: Body::Grant, says: None })
}

/// The same, of a client that nobody here manages, if it is time for that and means something: others than those that speak
/// for themselves may be refused this grant as if they were not believed.
pub(super) fn due(seen: &Seen, desired: &Desired, current: &Registration, place: &Place, now: i64) -> Option<Call> {
    let speaks_for_itself = desired.metadata.grant_types.iter().any(|grant| grant == "client_credentials");
    let is_believed = match current.handle {
        Handle::Document { is_believed, .. } | Handle::Given { is_believed } => is_believed,
        Handle::Protocol { .. } | Handle::Admin { .. } | Handle::Unmanaged => return None,
    };
    let is_due = !is_believed || now >= seen.checked.saturating_add(CHECK_SECONDS);
    if speaks_for_itself && is_due { call(&seen.ledger, current, place) } else { None }
}

/// What the answer means: whoever is told why it gets no token was believed to be who it is (RFC 6749 section 5.2).
pub(super) fn hear(answer: &Answer) -> Heard {
    let error = json::object(&answer.body).ok().and_then(|body| Some(body.get("error")?.as_str()?.to_owned()));
    match (answer.status, error.as_deref()) {
        (200..=299, _) => Heard::Alive,
        // Keycloak says `unauthorized_client` of a client that it does not believe, and with 401, which is for that alone.
        (400 | 401, Some("invalid_client")) | (401, Some("unauthorized_client")) => {
            let sent: Vec<&Sensitive> = answer.sent.iter().collect();
            let refusal = token_request::refusal(answer.status, &answer.body, &sent);
            Heard::Unbelieved(told(&refusal, answer.status))
        }
        (
            400 | 403,
            Some("unauthorized_client" | "invalid_scope" | "invalid_target" | "invalid_grant" | "access_denied"),
        ) => Heard::Alive,
        _ => Heard::neither(answer),
    }
}
