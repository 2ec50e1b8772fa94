//! What is to be done next for a registration. Pure: what is known, what is wanted, and the time are given.
//!
//! Invariant: a ledger that is not stored as it is comes before everything else, so nothing is sent before what it may do is
//! remembered, and nothing else is done before what a server answered is kept. What cannot be sent twice is sent by the
//! process that wrote down that it would be, and by no other. Nothing is updated at a server unless what it has, or was last
//! asked for, is not what is wanted. No client is given up before its server was asked whether it is there; and of those that may
//! be left, and of those that are kept for a while, there are only so many.

use super::call::{Call, Place, Purpose};
use super::claim::Claim;
use super::desired::{DeletionPolicy, Desired, Method, OnUnavailable};
use super::ledger::{Handle, Ledger, MOST_LOST, MOST_RETIRED, Registration, Retired, Step, Substitution, WhyLost};
use super::seen::{Action, Doubt, News, Seen, What};
use super::wanted::{Marks, Wanted, needs_keys, needs_secret, signing};
use super::{document, given, probe, profile};

/// A client is read back this often, and at most half as long after that.
pub const CHECK_SECONDS: i64 = 1800;
/// A secret is replaced after this much of its life.
const RENEWED_AFTER: (i64, i64) = (2, 3);
/// A secret that lasts for less is of no use: whoever was given it would have it renewed over and over again.
const LEAST_LIFE: i64 = 600;
/// A client that somebody has switched off is read back this often.
const DISABLED_SECONDS: i64 = 300;
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
        /// Whether the owner is there, and goes on without it.
        stays: bool,
    },
}

impl Wish<'_> {
    /// What is wanted, as far as it is known.
    pub(super) fn wanted(&self, ledger: &Ledger) -> Option<Wanted> {
        match self {
            Wish::Keep(desired) => Some(Wanted::new(desired, ledger)),
            Wish::Remove { .. } => None,
        }
    }

    /// Whether the owner is there, and is to be.
    pub fn owner_stays(&self) -> bool {
        matches!(self, Wish::Keep(_) | Wish::Remove { stays: true, .. })
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
        seen.ledger.had_client |= seen.ledger.current.is_some();
        return Some(Action::Persist);
    }
    let removes = seen.ledger.step == Step::Deleting || matches!(wish, Wish::Remove { .. });
    if seen.trouble.is_some() && !seen.ledger.is_only_told() {
        if let Wish::Remove { waits_since, .. } = wish {
            release(seen, *waits_since, now)?;
        }
        return Some(Action::Settled { again: settled(seen, wish, now) });
    }
    match wish {
        Wish::Keep(desired) if !removes => keep(seen, desired, place, now),
        Wish::Keep(_) | Wish::Remove { .. } => remove(seen, place, now),
    }
}

/// Notes that nobody waits: no owner does, or it has waited for long enough.
fn release(seen: &mut Seen, waits_since: Option<i64>, now: i64) -> Option<()> {
    let may_go = seen.ledger.deletion.on_unavailable == OnUnavailable::Orphan;
    let is_due = waits_since.is_none_or(|since| may_go && now >= deadline(seen, since));
    let released = match (seen.ledger.released, waits_since) {
        (None, _) if is_due => Some(now),
        // It was left behind before its owner went, who waits for it now.
        (Some(at), Some(since)) if at < since && !is_due => None,
        (released, _) => released,
    };
    if seen.ledger.released != released {
        seen.ledger.released = released;
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
    if seen.ledger.deletion != desired.deletion || seen.ledger.released.is_some() {
        (seen.ledger.deletion, seen.ledger.released) = (desired.deletion, None);
        seen.stored = false;
        return None;
    }
    if !desired.methods.contains(&seen.ledger.method) {
        let method = seen.ledger.method.as_str();
        let detail = format!(
            "it is registered by {method}, which is not among the methods that are allowed and fit: nothing is changed. Allow \
             it in spec.registration.methods of the McpAuthorizationServer; or set spec.method, which is another registration"
        );
        seen.is_in_trouble(What::NotAllowed, None, detail);
        return Some(Action::Settled { again: settled(seen, &Wish::Keep(desired), now) });
    }
    match seen.ledger.method {
        Method::Preregistered => return given::keep(seen, desired, place, now),
        // It has a document of its own.
        Method::Cimd if desired.client_id.is_some() => return given::keep(seen, desired, place, now),
        Method::Cimd => return document::keep(seen, desired, place, now),
        Method::Admin | Method::Dcr => {}
    }
    if needs_keys(desired) && seen.ledger.keys.is_empty() {
        return Some(Action::MakeKey);
    }
    let adapter = profile::of(seen.ledger.profile, seen.ledger.method);
    let claim = seen.claim.clone().filter(|claim| !seen.has(claim));
    if matches!(seen.ledger.step, Step::Creating { .. }) && (claim.is_none() || !adapter.is_repeatable()) {
        return creating(seen, &wanted, place, now);
    }
    if let Some(claim) = claim {
        return claiming(seen, &claim, place);
    }
    let Some(current) = seen.ledger.current.clone() else { return begin(seen, &wanted, place, now) };
    if knows_other_endpoint(&mut seen.ledger, place) {
        seen.stored = false;
        return None;
    }
    if let Some(doubt) = seen.doubt {
        return doubting(seen, doubt, &current, place, now);
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

/// Notes where tokens are asked for by now.
fn knows_other_endpoint(ledger: &mut Ledger, place: &Place) -> bool {
    let is_other = place.token_endpoint.is_some() && ledger.token_endpoint != place.token_endpoint;
    if is_other {
        ledger.token_endpoint.clone_from(&place.token_endpoint);
    }
    is_other
}

fn begin(seen: &mut Seen, wanted: &Wanted, place: &Place, now: i64) -> Option<Action> {
    let adapter = profile::of(seen.ledger.profile, seen.ledger.method);
    if !can_begin(seen, wanted, place) {
        return None;
    }
    if !adapter.is_repeatable() && is_crowded(seen, 0) {
        return None;
    }
    knows_other_endpoint(&mut seen.ledger, place);
    seen.ledger.attempts = seen.ledger.attempts.saturating_add(1);
    seen.set_step(Step::Creating { since: now });
    None
}

/// Whether another client could be registered, as far as that is known.
fn can_begin(seen: &mut Seen, wanted: &Wanted, place: &Place) -> bool {
    let can = profile::of(seen.ledger.profile, seen.ledger.method).create(wanted, place).is_some();
    if !can {
        let (what, detail) = match place.takes_documents {
            Some(_) => (What::NoEndpoint, "it offers no place where clients are registered"),
            None => (What::Unreachable, "where clients are registered is not known: its metadata could not be read"),
        };
        seen.is_in_trouble(what, Some(Purpose::Create), detail);
    }
    can
}

/// Whether so many clients may be left at the server, with this many more, that no others are made.
fn is_crowded(seen: &mut Seen, more: u64) -> bool {
    let losses = seen.ledger.losses();
    let is = losses.saturating_add(more) >= MOST_LOST as u64;
    if is {
        let detail = format!(
            "{losses} of its clients may be left there: no more are made before they are removed and forgotten"
        );
        seen.is_in_trouble(What::Crowded, Some(Purpose::Create), detail);
    }
    is
}

fn creating(seen: &mut Seen, wanted: &Wanted, place: &Place, now: i64) -> Option<Action> {
    let adapter = profile::of(seen.ledger.profile, seen.ledger.method);
    if seen.look {
        return sending(seen, adapter.find(&wanted.marks, place));
    }
    if seen.begun || adapter.is_repeatable() {
        seen.sent = true;
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
        if can_begin(seen, wanted, place) {
            replace(seen, now, 0);
        }
        return None;
    }
    if !seen.begun || seen.told.is_some() || (adapter.reads_before_updating() && seen.found.is_none()) {
        // What was sent before may have been done: it is looked at first.
        return sending(seen, adapter.read(current, place));
    }
    let call = adapter.update(current, wanted, seen.found.as_ref(), place);
    seen.sent = true;
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
    let weaker = current.substituted.iter().find(|one| one.weakens);
    if !seen.published && weaker.is_none() && is_usable(seen, desired) {
        return Some(Action::Publish);
    }
    // What its owner still uses stays until it has something else.
    let is_over = |retired: &&Retired| retired.until <= now && seen.published;
    if let Some(retired) = seen.ledger.retired.first().filter(is_over) {
        let retired = retired.registration.clone();
        return delete_retired(seen, &retired, place, now);
    }
    let overlap = overlap(desired);
    let period = desired.rotation.map(|rotation| i64::from(rotation.period_seconds));
    if needs_keys(desired) {
        let newest = seen.ledger.keys.last().map(|key| (key.kid.clone(), key.made));
        if let Some((kid, made)) = newest {
            let is_known = current.kids.contains(&kid);
            let is_over = now >= current.updated_at.saturating_add(overlap) && seen.published;
            if is_known && seen.ledger.keys.len() > 1 && is_over {
                seen.ledger.keys.retain(|key| key.kid == kid);
                seen.stored = false;
                return None;
            }
            if is_known && period.is_some_and(|period| now >= made.saturating_add(period)) {
                return Some(Action::MakeKey);
            }
        }
    } else if current.kids.is_empty() && !seen.ledger.keys.is_empty() {
        // The server knows of them no more, and nobody else did.
        seen.ledger.keys.clear();
        seen.stored = false;
        return None;
    }
    if now >= renewal(current, period) {
        return renew(seen, current, wanted, place, now, overlap);
    }
    if current.digest != wanted.digest() || !seen.drift.is_empty() {
        seen.set_step(Step::Updating { digest: wanted.digest(), renews: false });
        return None;
    }
    if needs_secret(desired) && weaker.is_none() && !is_usable(seen, desired) {
        // It has become one that has a secret, and nobody here has seen that.
        return renew(seen, current, wanted, place, now, 0);
    }
    let every = if current.is_disabled { DISABLED_SECONDS } else { CHECK_SECONDS };
    if current.handle != Handle::Unmanaged && now >= seen.checked.saturating_add(every) {
        let adapter = profile::managing(&current.handle, seen.ledger.profile);
        return sending(seen, adapter.read(current, place));
    }
    if let Some((what, detail)) = unusable(current, weaker) {
        seen.is_in_trouble(what, None, detail);
        return None;
    }
    Some(Action::Settled { again: settled(seen, &Wish::Keep(desired), now) })
}

/// Whether the client can prove itself in the way that is wanted, by what is known here.
fn is_usable(seen: &Seen, desired: &Desired) -> bool {
    let secret = seen.ledger.current.as_ref().and_then(|current| current.client_secret.as_ref());
    (secret.is_some() || !needs_secret(desired)) && (signing(&seen.ledger).is_some() || !needs_keys(desired))
}

/// Why nobody can or should use the client as it is at the server.
fn unusable(current: &Registration, weaker: Option<&Substitution>) -> Option<(What, String)> {
    if let Some(one) = weaker {
        return Some((What::Weakened, format!("{} was to be {}, and is {}", one.field, one.wanted, one.got)));
    }
    if current.is_disabled {
        let detail = "somebody has switched the client off there, and that stays as it is";
        return Some((What::Disabled, detail.to_owned()));
    }
    is_short_lived(current).then(|| {
        let life = current.secret_expires_at.unwrap_or_default().saturating_sub(current.secret_since);
        let detail = format!(
            "it gave a client secret that expires after {life} seconds: let it give them for {LEAST_LIFE} at least, and see \
             that its clock is right; or use private_key_jwt"
        );
        (What::ShortLived, detail)
    })
}

/// Whether the secret was hardly good when it came.
fn is_short_lived(current: &Registration) -> bool {
    let life = |end: i64| end.saturating_sub(current.secret_since);
    current.client_secret.is_some() && current.secret_expires_at.is_some_and(|end| life(end) < LEAST_LIFE)
}

/// When a client's secret is replaced (Unix seconds).
pub(super) fn renewal(current: &Registration, period: Option<i64>) -> i64 {
    if current.client_secret.is_none() {
        return i64::MAX;
    }
    if is_short_lived(current) {
        // Another one is hardly better: it is tried now and then.
        return current.secret_since.saturating_add(CHECK_SECONDS);
    }
    let (part, whole) = RENEWED_AFTER;
    let life = |end: i64| end.saturating_sub(current.secret_since) / whole * part;
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
            if can_begin(seen, wanted, place) {
                replace(seen, now, overlap);
            }
            None
        }
    }
}

/// The client makes room for another, and is kept for a while where it can be deleted then. It stays if there may be none in
/// its place.
pub(super) fn replace(seen: &mut Seen, now: i64, overlap: i64) {
    let Some(current) = seen.ledger.current.clone() else { return };
    let is_lost = current.handle == Handle::Unmanaged || seen.ledger.retired.len() >= MOST_RETIRED;
    if is_crowded(seen, u64::from(is_lost)) {
        return;
    }
    seen.ledger.current = None;
    seen.news.push(News::Replaced { client_id: current.client_id.clone() });
    if current.handle == Handle::Unmanaged {
        lose(seen, Some(current.client_id), now, WhyLost::Unmanageable);
    } else {
        // Nobody is believed by a secret that has expired.
        let until = now.saturating_add(overlap).min(current.secret_expires_at.unwrap_or(i64::MAX));
        if let Some(crowded_out) = seen.ledger.retire(Retired { registration: current, until }) {
            lose(seen, Some(crowded_out.client_id), now, WhyLost::Unmanageable);
        }
    }
    seen.drift.clear();
    seen.set_step(Step::Idle);
}

/// Nobody knows whether there still is a client: its server is asked in another way.
fn doubting(seen: &mut Seen, doubt: Doubt, current: &Registration, place: &Place, now: i64) -> Option<Action> {
    let adapter = profile::managing(&current.handle, seen.ledger.profile);
    if adapter.is_repeatable() {
        // Only a search that finds nothing proves that nothing is there.
        return sending(seen, adapter.find(&Marks::of_current(&seen.ledger), place));
    }
    if probe::has_proof(&seen.ledger, current) {
        let call = probe::call(&seen.ledger, current, place);
        if call.is_none() {
            let detail = "whether it still knows the client cannot be asked: its token endpoint is not known";
            seen.is_in_trouble(What::Unreachable, Some(Purpose::Probe), detail);
        }
        return call.map(Action::Send);
    }
    if doubt == Doubt::Missing && seen.ledger.step != Step::Deleting {
        seen.doubt = None;
        let detail = "nothing is found where the client is managed, and a client without credentials cannot ask whether it is \
                      known. If it is gone, make the McpClient anew";
        seen.is_in_trouble(What::Unfound, Some(Purpose::Read), detail);
        return None;
    }
    gone_or_lost(seen, current, now);
    None
}

/// It cannot be managed any more, and may be there or not.
pub(super) fn gone_or_lost(seen: &mut Seen, current: &Registration, now: i64) {
    seen.doubt = None;
    seen.ledger.current = None;
    seen.drift.clear();
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
    if seen.ledger.is_empty() {
        return Some(Action::Forget);
    }
    if seen.ledger.step != Step::Deleting {
        // Nobody needs those of before any longer.
        seen.ledger.retired.iter_mut().for_each(|retired| retired.until = retired.until.min(now));
        seen.set_step(Step::Deleting);
        return None;
    }
    let retired = seen.ledger.retired.first().map(|retired| (retired.registration.clone(), retired.until));
    match (retired, seen.ledger.current.clone()) {
        (Some((retired, until)), current) if until <= now || current.is_none() => {
            delete_retired(seen, &retired, place, now)
        }
        (_, Some(current)) => delete(seen, &current, place, now),
        (_, None) => Some(Action::Forget),
    }
}

fn delete(seen: &mut Seen, current: &Registration, place: &Place, now: i64) -> Option<Action> {
    if let Some(doubt) = seen.doubt {
        return doubting(seen, doubt, current, place, now);
    }
    if current.handle == Handle::Unmanaged {
        gone_or_lost(seen, current, now);
        return None;
    }
    let adapter = profile::managing(&current.handle, seen.ledger.profile);
    if adapter.reads_before_updating() && seen.found.is_none() {
        // Only one that bears our mark is ours to delete.
        return sending(seen, adapter.read(current, place));
    }
    sending(seen, adapter.delete(current, place))
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
