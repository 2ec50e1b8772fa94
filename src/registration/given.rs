//! Clients that somebody else has registered: an id that their author names, and perhaps a secret.
//!
//! Invariant: nothing is made, changed or deleted at the server. What the owner is given is what the author gave, and whether
//! it is believed is asked only where the author says that the client speaks for itself.

use super::call::Place;
use super::desired::Desired;
use super::ledger::{Handle, Registration};
use super::next::{CHECK_SECONDS, unsupported};
use super::probe;
use super::seen::{Action, News, Seen, What};

/// What is to be done next. `None`: something was noted, and it goes on from there.
pub(super) fn keep(seen: &mut Seen, desired: &Desired, place: &Place, now: i64) -> Option<Action> {
    let Some(id) = &desired.client_id else {
        seen.is_in_trouble(What::NoEndpoint, None, "nothing says which id it has");
        return Some(settled(seen, now));
    };
    let (secret, method) = (seen.given.clone(), desired.metadata.auth_method);
    let current = seen.ledger.current.take();
    let known = current.filter(|current| current.client_id == *id && matches!(current.handle, Handle::Given { .. }));
    let Some(mut current) = known else {
        // Keys of a document that was the gateway's to serve go with it.
        seen.ledger.keys.clear();
        let handle = Handle::Given { is_believed: false };
        seen.ledger.current =
            Some(Registration { client_secret: secret, ..Registration::without_answer(id, handle, method, now) });
        seen.news.push(News::Registered { client_id: id.clone() });
        return changed(seen);
    };
    if current.client_secret != secret || current.auth_method != method {
        (current.client_secret, current.auth_method) = (secret, method);
        (current.secret_since, current.updated_at) = (now, now);
        current.handle = Handle::Given { is_believed: false };
        seen.ledger.current = Some(current);
        seen.trouble = None;
        seen.news.push(News::Rotated);
        return changed(seen);
    }
    seen.ledger.current = Some(current.clone());
    if !seen.published {
        return Some(Action::Publish);
    }
    if unsupported(seen, place) || seen.trouble.is_some() {
        return Some(settled(seen, now));
    }
    Some(probe::due(seen, desired, &current, place, now).map_or_else(|| settled(seen, now), Action::Send))
}

fn changed(seen: &mut Seen) -> Option<Action> {
    (seen.stored, seen.published) = (false, false);
    None
}

fn settled(seen: &Seen, now: i64) -> Action {
    let check = seen.checked.saturating_add(CHECK_SECONDS);
    Action::Settled { again: if check > now { check } else { now.saturating_add(CHECK_SECONDS) } }
}
