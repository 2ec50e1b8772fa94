//! What is to be done next about the secret paths and the certificates of the webhook.
//!
//! Invariant: a certificate is served only while whoever calls the webhook believes its authority. So a new authority is
//! told to the callers beside the old one before it signs anything that is served, and the old one is told until the last
//! that it signed has run out: it loses its key first, after which nothing more of it can come. And once everything is as it
//! should be, nothing is done until time has passed.

use crate::process::certificate::Validity;

/// A day, in seconds.
pub const DAY: i64 = 86_400;
/// How long an authority holds.
pub const AUTHORITY: i64 = 365 * DAY;
/// How long a certificate of the webhook holds: short, since nobody would hear of its revocation.
pub const LEAF: i64 = 7 * DAY;
/// Clocks differ: everything holds since so long before it was made.
pub const SKEW: i64 = 3_600;
/// For how long callers have been told of an authority before it signs what is served. They hear of it by a watch within a
/// moment; and it takes the kubelet about a minute more to bring the certificate into a Pod.
pub const SETTLE: i64 = 30;

/// One of the two authorities that there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that was made last.
    Newest,
    /// The one before.
    Previous,
}

/// An authority, as it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// When it holds.
    pub validity: Validity,
    /// Whether its key is there.
    pub signs: bool,
    /// Whether every caller was told of it.
    pub believed: bool,
}

/// A certificate of the webhook with the right names and its own key, signed by an authority that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// When it holds.
    pub validity: Validity,
    /// Who signed it.
    pub by: Which,
}

/// Everything, as it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether there is a key of secret paths.
    pub key: bool,
    /// Whether certificates are made by others.
    pub foreign: bool,
    /// The authority that was made last.
    pub newest: Option<Held>,
    /// The one before.
    pub previous: Option<Held>,
    /// Since when the one before has no key.
    pub retired_at: Option<i64>,
    /// What is served, or will be.
    pub leaf: Option<Leaf>,
    /// Whether callers are told of a secret path that is young enough, and of exactly these authorities.
    pub told: bool,
    /// For how many seconds all callers have been told of the newest, as far as this process saw.
    pub believed_for: i64,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// All is as it should be.
    Nothing,
    /// Make a key of secret paths.
    Hide,
    /// Make an authority. The newest becomes the one before.
    Found,
    /// Tell callers of a secret path and of the authorities that there are.
    Tell,
    /// Make a certificate for the webhook.
    Issue(Which),
    /// Take the key of the authority before away.
    Retire,
    /// Drop the authority before.
    Forget,
}

/// What is to be done first.
pub fn next(seen: &Observed, now: i64) -> Action {
    match seen {
        Observed { key: false, .. } => Action::Hide,
        Observed { foreign: true, told: true, .. } => Action::Nothing,
        Observed { foreign: true, told: false, .. } => Action::Tell,
        Observed { foreign: false, .. } => next_of_certificates(seen, now),
    }
}

/// What is to be done first where certificates are ours.
fn next_of_certificates(seen: &Observed, now: i64) -> Action {
    let signs = |held: &Held| held.signs && held.validity.holds(now);
    let Some(newest) = seen.newest.filter(signs) else { return Action::Found };
    if is_due(newest.validity, now) && seen.previous.is_none() {
        return Action::Found;
    }
    let previous = seen.previous.filter(|held| signs(held) && held.believed);
    let settled = newest.believed && seen.believed_for >= SETTLE;
    let leaf = seen.leaf.filter(|leaf| leaf.validity.holds(now));
    if leaf.is_none_or(|leaf| is_due(leaf.validity, now)) {
        // Callers who believe one that can still sign are not to wait until they are told of another.
        if previous.is_some() && !settled {
            return Action::Issue(Which::Previous);
        }
        if newest.believed && (settled || leaf.is_none()) {
            return Action::Issue(Which::Newest);
        }
    }
    if !seen.told {
        return Action::Tell;
    }
    if settled && leaf.is_some_and(|leaf| leaf.by == Which::Previous) {
        return Action::Issue(Which::Newest);
    }
    match seen.previous {
        Some(previous) if leaf.is_some_and(|leaf| leaf.by == Which::Newest) => leave(previous, seen.retired_at, now),
        _ => Action::Nothing,
    }
}

/// How the authority before goes, once nothing that it signed is to be served any more.
fn leave(previous: Held, retired_at: Option<i64>, now: i64) -> Action {
    // A clock that was ahead does not keep it for ever.
    match retired_at.filter(|at| *at <= now && !previous.signs) {
        None => Action::Retire,
        Some(at) if now > at + LEAF => Action::Forget,
        Some(_) => Action::Nothing,
    }
}

/// Whether two thirds of it have passed.
fn is_due(validity: Validity, now: i64) -> bool {
    now >= validity.not_before + (validity.not_after - validity.not_before) / 3 * 2
}

#[cfg(test)]
mod tests;
