//! What is to be done next for a registration. Pure: what is known, what is wanted, and the time are given.
//!
//! Invariant: a ledger that is not stored as it is comes before everything else, so nothing is sent before what it may do is
//! remembered, and nothing else is done before what a server answered is kept. What cannot be sent twice is sent by the
//! process that wrote down that it would be, and by no other. Nothing is updated at a server unless what it has, or was last
//! asked for, is not what is wanted.

use super::call::{Call, Place, Purpose};
use super::claim::Claim;
use super::desired::{DeletionPolicy, Desired, Method, OnUnavailable};
use super::ledger::{Handle, Ledger, Registration, Retired, Step, WhyLost};
use super::seen::{Action, News, Seen, What};
use super::wanted::{Marks, Wanted, needs_keys, needs_secret, signing};
use super::{document, given, probe, profile};

/// A client is read back this often, and at most half as long after that.
pub const CHECK_SECONDS: i64 = 1800;
/// A secret is replaced after this much of its life.
const RENEWED_AFTER: (i64, i64) = (2, 3);
/// How long a client of before is kept, if its author does not say.
const OVERLAP_SECONDS: i64 = 3600;

/// What is wanted of a registration.
#[derive(Clone, Copy, Debug)]
pub enum Wish<'d> {
    /// That it is as its author wants it.
    Keep(&'d Desired),
    /// That it goes.
    Remove {
        /// Since when its owner waits for that (Unix seconds), if it waits.
        waits_since: Option<i64>,
        /// What is known of the wish of before, if the owner is still there.
        desired: Option<&'d Desired>,
    },
}

impl Wish<'_> {
    /// What is wanted, as far as it is known.
    pub(super) fn wanted(&self, ledger: &Ledger) -> Option<Wanted> {
        match self {
            Wish::Keep(desired) | Wish::Remove { desired: Some(desired), .. } => Some(Wanted::new(desired, ledger)),
            Wish::Remove { desired: None, .. } => None,
        }
    }
}

/// What is to be done next.
pub fn next(seen: &mut Seen, wish: &Wish<'_>, place: &Place, now: i64) -> Action {
    // One turn may end with nothing but another state of the ledger; each of them is nearer to the end.
    loop {
        if let Some(action) = turn(seen, wish, place, now) {
            return action;
        }
    }
}

/// `None`: something was noted, and it goes on from there.
fn turn(seen: &mut Seen, wish: &Wish<'_>, place: &Place, now: i64) -> Option<Action> {
    if !seen.stored {
        return Some(Action::Persist);
    }
    let removes = seen.ledger.step == Step::Deleting || matches!(wish, Wish::Remove { .. });
    if seen.trouble.is_some() && !seen.ledger.is_only_told() {
        if let Wish::Remove { waits_since: Some(since), .. } = wish {
            release(seen, *since, now)?;
        }
        return Some(Action::Settled { again: settled(seen, wish, now) });
    }
    match wish {
        Wish::Keep(desired) if !removes => keep(seen, desired, place, now),
        Wish::Keep(_) | Wish::Remove { .. } => remove(seen, place, now),
    }
}

/// Lets the owner go, if it has waited long enough.
fn release(seen: &mut Seen, since: i64, now: i64) -> Option<()> {
    let due = now >= deadline(seen, since) && seen.ledger.deletion.on_unavailable == OnUnavailable::Orphan;
    if due && seen.ledger.released.is_none() {
        seen.ledger.released = Some(now);
        seen.stored = false;
        return None;
    }
    Some(())
}

/// Until when an owner waits that has waited since then (Unix seconds).
fn deadline(seen: &Seen, since: i64) -> i64 {
    since.saturating_add(i64::from(seen.ledger.deletion.timeout_seconds))
}

fn keep(seen: &mut Seen, desired: &Desired, place: &Place, now: i64) -> Option<Action> {
    let wanted = Wanted::new(desired, &seen.ledger);
    if seen.ledger.deletion != desired.deletion {
        seen.ledger.deletion = desired.deletion;
        seen.stored = false;
        return None;
    }
    match seen.ledger.method {
        Method::Preregistered => return given::keep(seen, desired, place, now),
        // It has a document of its own.
        Method::Cimd if desired.client_id.is_some() => return given::keep(seen, desired, place, now),
        Method::Cimd => return document::keep(seen, desired, place, now),
        Method::Admin | Method::Dcr => {}
    }
    let adapter = profile::of(seen.ledger.profile, seen.ledger.method);
    let claim = seen.claim.clone().filter(|claim| !seen.has(claim));
    if matches!(seen.ledger.step, Step::Creating { .. }) && (claim.is_none() || !adapter.is_repeatable()) {
        return creating(seen, &wanted, place, now);
    }
    if needs_keys(desired) && seen.ledger.keys.is_empty() {
        return Some(Action::MakeKey);
    }
    if let Some(claim) = claim {
        return claiming(seen, &claim, place);
    }
    let Some(current) = seen.ledger.current.clone() else { return begin(seen, &wanted, place, now) };
    if seen.doubt {
        return doubting(seen, &current, place, now);
    }
    if matches!(seen.ledger.step, Step::Updating { .. }) {
        return updating(seen, &current, &wanted, place, now);
    }
    tend(seen, desired, &current, &wanted, place, now)
}

/// An administrator has said which client it is: it is looked at, and then brought to what is wanted.
fn claiming(seen: &mut Seen, claim: &Claim, place: &Place) -> Option<Action> {
    let adapter = profile::of(seen.ledger.profile, claim.method());
    sending(seen, adapter.adopt(claim, place))
}

fn begin(seen: &mut Seen, wanted: &Wanted, place: &Place, now: i64) -> Option<Action> {
    let adapter = profile::of(seen.ledger.profile, seen.ledger.method);
    if adapter.create(wanted, place).is_none() {
        seen.is_in_trouble(What::NoEndpoint, Some(Purpose::Create), "it offers no place where clients are registered");
        return None;
    }
    seen.ledger.attempts = seen.ledger.attempts.saturating_add(1);
    seen.set_step(Step::Creating { since: now });
    None
}

fn creating(seen: &mut Seen, wanted: &Wanted, place: &Place, now: i64) -> Option<Action> {
    let adapter = profile::of(seen.ledger.profile, seen.ledger.method);
    if seen.look {
        return sending(seen, adapter.find(&wanted.marks, place));
    }
    if seen.begun || adapter.is_repeatable() {
        return sending(seen, adapter.create(wanted, place));
    }
    // Whoever began it is not here to say whether there was an answer.
    lose(seen, None, now, WhyLost::NoAnswer);
    seen.set_step(Step::Idle);
    None
}

fn updating(seen: &mut Seen, current: &Registration, wanted: &Wanted, place: &Place, now: i64) -> Option<Action> {
    let adapter = profile::managing(&current.handle, seen.ledger.profile);
    if current.handle == Handle::Unmanaged {
        replace(seen, now, 0);
        return None;
    }
    if !seen.begun || (adapter.reads_before_updating() && seen.found.is_none()) {
        // What was sent before may have been done: it is looked at first.
        return sending(seen, adapter.read(current, place));
    }
    let call = adapter.update(current, wanted, seen.found.as_ref(), place);
    sending(seen, call)
}

/// Nothing is under way, and there is a client.
fn tend(
    seen: &mut Seen,
    desired: &Desired,
    current: &Registration,
    wanted: &Wanted,
    place: &Place,
    now: i64,
) -> Option<Action> {
    if let Some(weaker) = current.substituted.iter().find(|one| one.weakens) {
        if current.digest == wanted.digest() {
            let detail = format!("{} was to be {}, and is {}", weaker.field, weaker.wanted, weaker.got);
            seen.is_in_trouble(What::Weakened, None, detail);
            return None;
        }
    } else if !seen.published && is_usable(seen, desired) {
        return Some(Action::Publish);
    }
    let overlap = overlap(desired);
    let period = desired.rotation.map(|rotation| i64::from(rotation.period_seconds));
    if let Some(retired) = seen.ledger.retired.first().filter(|retired| retired.until <= now) {
        let retired = retired.registration.clone();
        return delete_retired(seen, &retired, place, now);
    }
    if needs_keys(desired) {
        let newest = seen.ledger.keys.last().map(|key| (key.kid.clone(), key.made));
        if let Some((kid, made)) = newest {
            let is_known = current.kids.contains(&kid);
            if is_known && seen.ledger.keys.len() > 1 && now >= current.updated_at.saturating_add(overlap) {
                seen.ledger.keys.retain(|key| key.kid == kid);
                seen.stored = false;
                return None;
            }
            if is_known && period.is_some_and(|period| now >= made.saturating_add(period)) {
                return Some(Action::MakeKey);
            }
        }
    }
    if now >= renewal(current, period) {
        return renew(seen, current, wanted, place, now, overlap);
    }
    if current.digest != wanted.digest() || !seen.drift.is_empty() {
        seen.set_step(Step::Updating { digest: wanted.digest(), renews: false });
        return None;
    }
    if !is_usable(seen, desired) && needs_secret(desired) {
        // It has become one that has a secret, and nobody here has seen that.
        return renew(seen, current, wanted, place, now, 0);
    }
    if current.handle != Handle::Unmanaged && now >= seen.checked.saturating_add(CHECK_SECONDS) {
        let adapter = profile::managing(&current.handle, seen.ledger.profile);
        return sending(seen, adapter.read(current, place));
    }
    Some(Action::Settled { again: settled(seen, &Wish::Keep(desired), now) })
}

/// Whether the client can prove itself in the way that is wanted, by what is known here.
fn is_usable(seen: &Seen, desired: &Desired) -> bool {
    let secret = seen.ledger.current.as_ref().and_then(|current| current.client_secret.as_ref());
    (secret.is_some() || !needs_secret(desired)) && (signing(&seen.ledger).is_some() || !needs_keys(desired))
}

/// When a client's secret is replaced (Unix seconds).
pub(super) fn renewal(current: &Registration, period: Option<i64>) -> i64 {
    if current.client_secret.is_none() {
        return i64::MAX;
    }
    let (part, whole) = RENEWED_AFTER;
    let life = |end: i64| end.saturating_sub(current.secret_since).saturating_mul(part) / whole;
    let expiry = current.secret_expires_at.map(|end| current.secret_since.saturating_add(life(end)));
    let period = period.map(|period| current.secret_since.saturating_add(period));
    expiry.into_iter().chain(period).min().unwrap_or(i64::MAX)
}

fn renew(
    seen: &mut Seen,
    current: &Registration,
    wanted: &Wanted,
    place: &Place,
    now: i64,
    overlap: i64,
) -> Option<Action> {
    let adapter = profile::managing(&current.handle, seen.ledger.profile);
    match &current.handle {
        Handle::Admin { .. } => sending(seen, adapter.renew(current, place)),
        // Some servers give a new secret with each update; RFC 7592 has no request for it.
        Handle::Protocol { .. } => {
            seen.set_step(Step::Updating { digest: wanted.digest(), renews: true });
            None
        }
        Handle::Document { .. } | Handle::Given { .. } | Handle::Unmanaged => {
            replace(seen, now, overlap);
            None
        }
    }
}

/// The client makes room for another, and is kept for a while where it can be deleted then.
pub(super) fn replace(seen: &mut Seen, now: i64, overlap: i64) {
    let Some(current) = seen.ledger.current.take() else { return };
    seen.news.push(News::Replaced { client_id: current.client_id.clone() });
    if current.handle == Handle::Unmanaged {
        lose(seen, Some(current.client_id), now, WhyLost::Unmanageable);
    } else {
        seen.ledger.retired.push(Retired { registration: current, until: now.saturating_add(overlap) });
    }
    seen.drift.clear();
    seen.set_step(Step::Idle);
}

/// What the client is managed with was not believed: is it gone, or did only that die?
fn doubting(seen: &mut Seen, current: &Registration, place: &Place, now: i64) -> Option<Action> {
    match probe::call(&seen.ledger, current, place) {
        Some(call) => Some(Action::Send(call)),
        None => {
            gone_or_lost(seen, current, now);
            None
        }
    }
}

fn gone_or_lost(seen: &mut Seen, current: &Registration, now: i64) {
    seen.doubt = false;
    seen.ledger.current = None;
    lose(seen, Some(current.client_id.clone()), now, WhyLost::Unmanageable);
    seen.set_step(Step::Idle);
}

fn remove(seen: &mut Seen, place: &Place, now: i64) -> Option<Action> {
    if seen.ledger.deletion.policy == DeletionPolicy::Retain || seen.ledger.is_only_told() {
        return Some(Action::Forget);
    }
    let marks = Marks::of(&seen.ledger);
    if matches!(seen.ledger.step, Step::Creating { .. }) {
        let adapter = profile::of(seen.ledger.profile, seen.ledger.method);
        if adapter.is_repeatable() {
            return sending(seen, adapter.find(&marks, place));
        }
        lose(seen, None, now, WhyLost::NoAnswer);
        seen.set_step(Step::Idle);
        return None;
    }
    if let Some(retired) = seen.ledger.retired.first().map(|retired| retired.registration.clone()) {
        return delete_retired(seen, &retired, place, now);
    }
    let Some(current) = seen.ledger.current.clone() else { return Some(Action::Forget) };
    if seen.doubt {
        return doubting(seen, &current, place, now);
    }
    if current.handle == Handle::Unmanaged {
        gone_or_lost(seen, &current, now);
        return None;
    }
    if seen.ledger.step != Step::Deleting {
        seen.set_step(Step::Deleting);
        return None;
    }
    let adapter = profile::managing(&current.handle, seen.ledger.profile);
    if adapter.reads_before_updating() && seen.found.is_none() {
        // Only one that bears our mark is ours to delete.
        return sending(seen, adapter.read(&current, place));
    }
    sending(seen, adapter.delete(&current, place))
}

fn delete_retired(seen: &mut Seen, retired: &Registration, place: &Place, now: i64) -> Option<Action> {
    let adapter = profile::managing(&retired.handle, seen.ledger.profile);
    match adapter.delete(retired, place) {
        Some(call) => Some(Action::Send(Call { purpose: Purpose::DeleteRetired, ..call })),
        None => {
            seen.ledger.retired.remove(0);
            lose(seen, Some(retired.client_id.clone()), now, WhyLost::Unmanageable);
            None
        }
    }
}

/// Whether the server says that it takes no documents any more, which it did when the method was chosen.
pub(super) fn unsupported(seen: &mut Seen, place: &Place) -> bool {
    let is = seen.ledger.method == Method::Cimd && place.takes_documents == Some(false);
    if is {
        let detail = "its metadata does not say client_id_metadata_document_supported any more";
        seen.is_in_trouble(What::NoEndpoint, None, detail);
    }
    is
}

pub(super) fn lose(seen: &mut Seen, client_id: Option<String>, now: i64, why: WhyLost) {
    seen.news.push(News::Lost { client_id: client_id.clone(), attempt: seen.ledger.attempts });
    seen.ledger.lose(client_id, now, why);
    seen.stored = false;
}

fn sending(seen: &mut Seen, call: Option<Call>) -> Option<Action> {
    if call.is_none() {
        seen.is_in_trouble(What::NoEndpoint, None, "it offers no place for what is to be done");
    }
    call.map(Action::Send)
}

/// How long a client, or a key, of before is kept (seconds).
pub(super) fn overlap(desired: &Desired) -> i64 {
    desired.rotation.map_or(OVERLAP_SECONDS, |rotation| i64::from(rotation.overlap_seconds))
}

/// When something is due next, though nothing changes.
fn settled(seen: &Seen, wish: &Wish<'_>, now: i64) -> i64 {
    let check = seen.checked.saturating_add(CHECK_SECONDS);
    let mut due = vec![if check > now { check } else { now.saturating_add(CHECK_SECONDS) }];
    due.extend(seen.ledger.retired.iter().map(|retired| retired.until));
    match wish {
        Wish::Keep(desired) => {
            let period = desired.rotation.map(|rotation| i64::from(rotation.period_seconds));
            if let Some(current) = &seen.ledger.current {
                due.push(renewal(current, period));
                if seen.ledger.keys.len() > 1 {
                    due.push(current.updated_at.saturating_add(overlap(desired)));
                }
            }
            if let (Some(key), Some(period)) = (seen.ledger.keys.last(), period) {
                due.push(key.made.saturating_add(period));
            }
        }
        Wish::Remove { waits_since, .. } => {
            let waits = waits_since.filter(|_| seen.ledger.released.is_none());
            due.extend(waits.map(|since| deadline(seen, since)));
        }
    }
    due.into_iter().filter(|due| *due > now).min().unwrap_or_else(|| now.saturating_add(CHECK_SECONDS))
}
