//! Clients whose id is a document that the gateway serves (draft-ietf-oauth-client-id-metadata-document): nothing is kept at
//! the server, so nothing can be left there.
//!
//! Invariant: what the owner is given is served by every proxy before. A new key is served beside the one before for as long
//! as that may be cached, and for the overlap, before it is given out; and the one before is served on for as long after
//! that. So whoever has either of them is believed, whatever the server has kept of what it fetched.

use serde_json::json;

use super::call::Place;
use super::desired::Desired;
use super::ledger::{Handle, Key, Ledger, Registration};
use super::next::{CHECK_SECONDS, overlap, unsupported};
use super::probe;
use super::seen::{Action, News, Seen, What};
use super::wanted::{needs_keys, signing};
use crate::generated::Client;
use crate::generated::client::{MAX_AGE_SECONDS, keys_path, path};
use crate::oauth::client_metadata_document::{self, ClientDocumentError};
use crate::oauth::client_registration::Keys;

/// What is to be done next. `None`: something was noted, and it goes on from there.
pub(super) fn keep(seen: &mut Seen, desired: &Desired, place: &Place, now: i64) -> Option<Action> {
    let Some(gateway) = &desired.gateway else {
        let detail = "the gateway's public URL is not https, so no server takes a document of it";
        seen.is_in_trouble(What::NoEndpoint, None, detail);
        return Some(settled(seen, desired, now));
    };
    if needs_keys(desired) && seen.ledger.keys.is_empty() {
        return Some(Action::MakeKey);
    }
    let url = format!("{gateway}{}", path(&desired.owner.uid));
    let method = desired.metadata.auth_method;
    if let Some(current) = seen.ledger.current.as_mut().filter(|current| current.auth_method != method) {
        current.authenticates_by(method);
        return changed(seen);
    }
    let Some((current, is_served)) = known(seen, desired, &url, now) else { return changed(seen) };
    if is_served && !seen.published && (!needs_keys(desired) || signing(&seen.ledger).is_some()) {
        return Some(Action::Publish);
    }
    if !seen.served {
        return Some(match served(desired, &seen.ledger, gateway) {
            Ok(client) => Action::Serve(Box::new(client)),
            Err(error) => {
                seen.is_in_trouble(What::Document, None, error.to_string());
                settled(seen, desired, now)
            }
        });
    }
    if rotate(seen, desired, now) {
        return changed(seen);
    }
    if is_due_for_another_key(seen, desired, now) {
        return Some(Action::MakeKey);
    }
    if unsupported(seen, place) || seen.trouble.is_some() {
        return Some(settled(seen, desired, now));
    }
    let probe = probe::due(seen, desired, &current, place, now);
    Some(probe.map_or_else(|| settled(seen, desired, now), Action::Send))
}

/// The client of this URL, and whether it was served once. `None`: it was begun anew, since its id is another one, or its
/// keys are its author's by now.
fn known(seen: &mut Seen, desired: &Desired, url: &str, now: i64) -> Option<(Registration, bool)> {
    let ledger = &mut seen.ledger;
    let is_ours = needs_keys(desired);
    if let Some(current) = &ledger.current
        && current.client_id == url
        && let Handle::Document { is_served, .. } = current.handle
        && (is_ours || ledger.keys.is_empty())
    {
        return Some((current.clone(), is_served));
    }
    let before = ledger.current.take().map(|current| current.client_id);
    if !is_ours {
        ledger.keys.clear();
    }
    // At another URL nobody was told of any key.
    for key in &mut ledger.keys {
        (key.served, key.given) = (None, None);
    }
    let handle = Handle::Document { is_served: false, is_believed: false };
    ledger.current = Some(Registration::without_answer(url, handle, desired.metadata.auth_method, now));
    seen.news.push(match before.filter(|before| before != url) {
        Some(client_id) => News::Replaced { client_id },
        None => News::Registered { client_id: url.to_owned() },
    });
    None
}

fn changed(seen: &mut Seen) -> Option<Action> {
    (seen.stored, seen.served, seen.published) = (false, false, false);
    None
}

/// What the proxies are to serve.
fn served(desired: &Desired, ledger: &Ledger, gateway: &str) -> Result<Client, ClientDocumentError> {
    let uid = &desired.owner.uid;
    let mut metadata = desired.metadata.clone();
    let mut key_set = None;
    if !ledger.keys.is_empty() {
        let keys: Vec<_> = ledger.keys.iter().map(|key| key.public.clone()).collect();
        key_set = Some(json!({ "keys": keys }).to_string());
        metadata.keys = Keys::At(format!("{gateway}{}", keys_path(uid)));
    }
    let document = client_metadata_document::document(&format!("{gateway}{}", path(uid)), &metadata)?;
    Ok(Client { id: desired.owner.clone(), document, key_set })
}

/// For how long a key is served before it is given out, and after another was.
fn lead(desired: &Desired) -> i64 {
    overlap(desired).max(2 * i64::from(MAX_AGE_SECONDS))
}

/// Gives out a key that was served long enough, and takes away one that nobody needs any more.
fn rotate(seen: &mut Seen, desired: &Desired, now: i64) -> bool {
    let lead = lead(desired);
    let Some(newest) = seen.ledger.keys.last().cloned() else { return false };
    let is_over = |since: Option<i64>| since.is_some_and(|since| now >= since.saturating_add(lead));
    let several = seen.ledger.keys.len() > 1;
    let Some(current) = seen.ledger.current.as_mut() else { return false };
    if !current.kids.contains(&newest.kid) {
        if !is_over(newest.served) {
            return false;
        }
        current.kids.push(newest.kid);
        current.updated_at = now;
        seen.news.push(News::Rotated);
        return true;
    }
    if several && is_over(newest.given) {
        current.kids.retain(|kid| *kid == newest.kid);
        seen.ledger.keys.retain(|key| key.kid == newest.kid);
        return true;
    }
    false
}

fn is_due_for_another_key(seen: &Seen, desired: &Desired, now: i64) -> bool {
    let [key] = seen.ledger.keys.as_slice() else { return false };
    desired.rotation.is_some_and(|rotation| now >= key.made.saturating_add(i64::from(rotation.period_seconds)))
}

/// Every proxy serves what is to be served.
pub(super) fn is_served(seen: &mut Seen, now: i64) {
    seen.served = true;
    let before = (seen.ledger.current.clone(), seen.ledger.keys.clone());
    for key in &mut seen.ledger.keys {
        key.served.get_or_insert(now);
    }
    if let Some(current) = &mut seen.ledger.current
        && let Handle::Document { is_served, .. } = &mut current.handle
    {
        *is_served = true;
        if current.kids.is_empty() {
            // The first: nobody can have kept anything else.
            current.kids.extend(seen.ledger.keys.last().map(|key| key.kid.clone()));
        }
    }
    if before != (seen.ledger.current.clone(), seen.ledger.keys.clone()) {
        (seen.stored, seen.published) = (false, false);
    }
}

/// The owner has what it is to have.
pub(super) fn is_given(seen: &mut Seen, now: i64) {
    let Some(current) = &seen.ledger.current else { return };
    if !matches!(current.handle, Handle::Document { .. }) {
        return;
    }
    let newest: Option<&mut Key> = seen.ledger.keys.iter_mut().rev().find(|key| current.kids.contains(&key.kid));
    if let Some(key) = newest.filter(|key| key.given.is_none()) {
        key.given = Some(now);
        seen.stored = false;
    }
}

fn settled(seen: &Seen, desired: &Desired, now: i64) -> Action {
    let check = seen.checked.saturating_add(CHECK_SECONDS);
    let mut due = vec![check, now.saturating_add(CHECK_SECONDS)];
    let lead = lead(desired);
    if let Some(key) = seen.ledger.keys.last() {
        due.extend([key.served, key.given].into_iter().flatten().map(|since| since.saturating_add(lead)));
        let period = desired.rotation.map(|rotation| i64::from(rotation.period_seconds));
        due.extend(period.map(|period| key.made.saturating_add(period)));
    }
    let again = due.into_iter().filter(|due| *due > now).min();
    Action::Settled { again: again.unwrap_or_else(|| now.saturating_add(CHECK_SECONDS)) }
}
