//! What an answer means for a registration.
//!
//! Invariant: whatever an answer says anew (a secret, a registration access token) is in the ledger before the next question
//! is asked, and the ledger then counts as not stored. What is not known to have failed counts as done where that is worse; and
//! a client counts as gone only where its server has said so of this client, and as lost where that is merely likely.

use super::call::{Answer, Call, Client, Heard, Purpose};
use super::claim::Claim;
use super::ledger::{Handle, Key, Registration, Step, Substitution, WhyLost};
use super::next::{Wish, gone_or_lost, lose, replace};
use super::seen::{Doubt, News, Seen, Trouble, What};
use super::wanted::{Marks, Wanted};
use super::{probe, profile};
use crate::oauth::client_registration::{AuthMethod, Difference};

/// A client of before that could not be deleted is tried again after so long.
const POSTPONED_SECONDS: i64 = 300;
/// What was not there to ask with is looked for again after this (seconds).
const LACKING_SECONDS: u32 = 30;
/// The member that a server has to give where a client authenticates by it (RFC 7591 section 3.2.1).
const CLIENT_SECRET: &str = "client_secret";

/// What an answer to a request means.
pub fn hear(seen: &Seen, call: &Call, answer: &Answer, wish: &Wish<'_>) -> Heard {
    let ledger = &seen.ledger;
    if call.purpose == Purpose::Probe {
        return probe::hear(answer);
    }
    let registration = match call.purpose {
        Purpose::DeleteRetired => ledger.retired.first().map(|retired| &retired.registration),
        _ => ledger.current.as_ref(),
    };
    let adapter = match registration {
        _ if call.purpose == Purpose::Adopt => {
            profile::of(ledger.profile, seen.claim.as_ref().map_or(ledger.method, Claim::method))
        }
        Some(registration) => profile::managing(&registration.handle, ledger.profile),
        None => profile::of(ledger.profile, ledger.method),
    };
    let marks = Marks { claimed: seen.claim.as_ref().map(|claim| claim.claimed.clone()), ..Marks::of_current(ledger) };
    adapter.hear(call.purpose, answer, &marks, wish.wanted(ledger).as_ref())
}

/// Takes in what came of a request.
pub fn absorb(seen: &mut Seen, purpose: Purpose, heard: Heard, wish: &Wish<'_>, now: i64) {
    if heard == Heard::Foreign && matches!(wish, Wish::Remove { .. }) {
        // It is not ours to remove.
        seen.ledger.current = None;
        return seen.set_step(Step::Idle);
    }
    if purpose == Purpose::DeleteRetired {
        return retired_deleted(seen, heard, now);
    }
    if let (Purpose::Delete, Heard::NotDeleted(_), true) = (purpose, &heard, wish.owner_stays())
        && let Some(current) = seen.ledger.current.clone()
    {
        // The server deletes it for nobody, and the owner goes on without it.
        return gone_or_lost(seen, &current, now);
    }
    if let Some((what, detail, retry_after)) = not_now(purpose, &heard) {
        seen.is_in_trouble(what, Some(purpose), detail);
        if let Some(trouble) = &mut seen.trouble {
            trouble.retry_after = retry_after;
        }
        if purpose == Purpose::Create {
            // It was not done, and whoever begins again is not to think that it was.
            seen.set_step(Step::Idle);
        }
        return;
    }
    match purpose {
        Purpose::Find if seen.ledger.current.is_some() => sought(seen, heard, wish, now),
        Purpose::Create | Purpose::Find => created(seen, purpose, heard, wish, now),
        Purpose::Adopt => adopted(seen, heard, wish, now),
        Purpose::Read => read(seen, heard, wish, now),
        Purpose::Update => updated(seen, heard, wish, now),
        Purpose::Renew => renewed(seen, heard, now),
        Purpose::Delete => deleted(seen, heard),
        Purpose::Probe => probed(seen, heard, now),
        Purpose::DeleteRetired => {}
    }
}

/// Whether nothing was done, and why.
fn not_now(purpose: Purpose, heard: &Heard) -> Option<(What, String, Option<u32>)> {
    match heard {
        Heard::Refused(detail) if purpose == Purpose::Adopt => Some((What::AdoptionRefused, detail.clone(), None)),
        Heard::Refused(detail) | Heard::NotDeleted(detail) => Some((What::Refused, detail.clone(), None)),
        Heard::Denied(detail) => Some((What::Denied, detail.clone(), None)),
        Heard::Foreign => Some((What::Foreign, "a client of our id is there, and it is not ours".to_owned(), None)),
        Heard::Later { retry_after, status } => {
            Some((What::Busy, format!("it answered with status {status}"), *retry_after))
        }
        Heard::Unsent(detail) => Some((What::Unreachable, detail.clone(), None)),
        // Whoever puts it there waits for us, and the server has nothing to do with it.
        Heard::Lacking(detail) => Some((What::Denied, detail.clone(), Some(LACKING_SECONDS))),
        // What is asked for again does no harm.
        Heard::Unknown(detail) if purpose != Purpose::Create => Some((What::NoAnswer, detail.clone(), None)),
        _ => None,
    }
}

fn created(seen: &mut Seen, purpose: Purpose, heard: Heard, wish: &Wish<'_>, now: i64) {
    seen.look = false;
    match heard {
        Heard::Client(client) => {
            let client_id = client.client_id.clone();
            let Some(wanted) = wish.wanted(&seen.ledger) else { return found_for_removal(seen, *client, now) };
            let differences = client.differences.clone();
            let registration = Registration::of(*client, wanted.metadata.auth_method, now);
            let mut registration = Registration { digest: wanted.digest(), kids: wanted.kids.clone(), ..registration };
            if purpose == Purpose::Create {
                registration.substituted = substitutions(&differences);
                registration.substituted.extend(without_secret(&registration, &wanted));
            } else {
                // It was there already: what it was made of may be another wish.
                seen.drift = differences;
            }
            seen.ledger.current = Some(registration);
            seen.published = false;
            seen.checked = now;
            seen.news.push(match purpose {
                Purpose::Create => News::Registered { client_id },
                _ => News::Adopted { client_id },
            });
            seen.set_step(Step::Idle);
        }
        Heard::Exists => seen.look = true,
        Heard::Absent => {
            seen.set_step(Step::Idle);
            if matches!(wish, Wish::Keep(_)) {
                // It went between being told of and being looked for; or whoever looks may not see it.
                let detail = "it says that there is a client of our id, and lists none: see that the administrative client may \
                              view clients";
                seen.is_in_trouble(What::NoAnswer, Some(purpose), detail);
            }
        }
        Heard::Unusable { client_id, detail } => {
            seen.is_in_trouble(What::Refused, Some(purpose), detail);
            lose(seen, client_id, now, WhyLost::Unmanageable);
            seen.set_step(Step::Idle);
        }
        Heard::Unknown(detail) => {
            seen.is_in_trouble(What::NoAnswer, Some(purpose), detail);
            if !profile::of(seen.ledger.profile, seen.ledger.method).is_repeatable() {
                lose(seen, None, now, WhyLost::NoAnswer);
                seen.set_step(Step::Idle);
            }
        }
        _ => {}
    }
}

/// A server that gives no secret where one was asked for (RFC 7591 section 3.2.1) has made a client that nobody can use.
fn without_secret(registration: &Registration, wanted: &Wanted) -> Option<Substitution> {
    let is_missing = wanted.metadata.auth_method.shares_secret() && registration.client_secret.is_none();
    is_missing.then(|| Substitution {
        field: CLIENT_SECRET.to_owned(),
        wanted: "there".to_owned(),
        got: "missing".to_owned(),
        weakens: true,
    })
}

/// The client that an administrator has named was looked at.
fn adopted(seen: &mut Seen, heard: Heard, wish: &Wish<'_>, now: i64) {
    let (Some(claim), Some(wanted)) = (seen.claim.clone(), wish.wanted(&seen.ledger)) else { return };
    let mut refuse = |why: &str| seen.is_in_trouble(What::AdoptionRefused, None, why);
    let client_id = claim.claimed.client_id.clone();
    match heard {
        Heard::Client(client) if client.client_id != client_id => refuse("its server describes another client"),
        Heard::Client(mut client) => {
            client.handle = client.handle.or_else(|| claim.handle());
            let found = client.found.clone();
            // Of what it was made is not known: it is brought to what is wanted in any case.
            seen.ledger.current = Some(Registration::of(*client, wanted.metadata.auth_method, now));
            seen.ledger.method = claim.method();
            seen.ledger.lost.retain(|lost| lost.client_id.as_ref() != Some(&client_id));
            // It may be one of before, which is not to be deleted any more.
            seen.ledger.retired.retain(|retired| retired.registration.client_id != client_id);
            (seen.look, seen.published, seen.checked) = (false, false, now);
            seen.news.push(News::Adopted { client_id });
            seen.set_step(Step::Updating { digest: wanted.digest(), renews: false });
            seen.found = found;
        }
        Heard::Absent => refuse("its server has no client of this id"),
        Heard::Unmanageable => {
            refuse("its server does not believe the registration access token, or has no such client")
        }
        _ => seen.is_in_trouble(What::NoAnswer, Some(Purpose::Adopt), "what it answered does not describe the client"),
    }
}

/// The owner is gone: all that is needed is how to delete it.
fn found_for_removal(seen: &mut Seen, client: Client, now: i64) {
    seen.ledger.current = Some(Registration::of(client, AuthMethod::ClientSecretBasic, now));
    seen.set_step(Step::Idle);
}

/// Nobody knew whether the client still was there, and the search for it says so.
fn sought(seen: &mut Seen, heard: Heard, wish: &Wish<'_>, now: i64) {
    match heard {
        Heard::Client(client)
            if client.handle == seen.ledger.current.as_ref().map(|current| current.handle.clone()) =>
        {
            let detail = "it lists the client, and finds nothing where it says that it is";
            seen.is_in_trouble(What::Unreachable, Some(Purpose::Find), detail);
        }
        // It is there by another name of the server's own, as after its data were restored.
        Heard::Client(_) => read(seen, heard, wish, now),
        Heard::Absent => vanished(seen),
        _ => return,
    }
    seen.doubt = None;
}

fn read(seen: &mut Seen, heard: Heard, wish: &Wish<'_>, now: i64) {
    match heard {
        Heard::Client(client) => {
            seen.checked = now;
            let Some(mut current) = seen.ledger.current.clone() else { return };
            if client.client_id != current.client_id {
                return seen.is_in_trouble(What::Refused, Some(Purpose::Read), "it describes another client");
            }
            let wanted = wish.wanted(&seen.ledger);
            let differences = client.differences.clone();
            seen.found.clone_from(&client.found);
            let told = seen.told.take();
            let is_told = |wanted: &&Wanted| told == Some(wanted.digest());
            if let Some(wanted) = wanted.as_ref().filter(is_told) {
                // It was asked for this, so whatever is otherwise is what the server wants.
                settle(&mut current, wanted, None, substitutions(&differences), now);
                takes(&mut current, *client, now);
                seen.set_step(Step::Idle);
                seen.news.push(News::Updated);
                return keep(seen, current, true);
            }
            let mut republishes = false;
            let substituted = current.substituted.clone();
            let known = |one: &Difference| substituted.iter().any(|s| s.field == one.field && s.got == one.got);
            // What the server has as it was asked for by now is none any more.
            let has_none = current.client_secret.is_none() && client.client_secret.is_none();
            let is_still = |s: &Substitution| {
                differences.iter().any(|one| one.field == s.field && one.got == s.got)
                    || (s.field == CLIENT_SECRET && has_none)
            };
            if let (Step::Updating { digest, renews }, Some(wanted)) = (seen.ledger.step.clone(), &wanted) {
                // What the server has made of the same wish before is no sign that it was not done.
                let is_same_wish = current.digest == digest;
                let is_as_wanted = differences.iter().all(|one| is_same_wish && known(one));
                if differences.is_empty() {
                    current.authenticates_by(wanted.metadata.auth_method);
                }
                let has_new_secret = takes(&mut current, *client, now);
                let is_whole = current.client_secret.is_some() || !current.auth_method.shares_secret();
                let is_renewed = !renews || has_new_secret || !current.auth_method.shares_secret();
                republishes = is_as_wanted && wanted.digest() == digest && is_whole && is_renewed;
                if republishes {
                    let auth_method = Some(current.auth_method);
                    let still = substituted.iter().filter(|s| is_same_wish && is_still(s)).cloned().collect();
                    settle(&mut current, wanted, auth_method, still, now);
                    seen.set_step(Step::Idle);
                } else {
                    seen.begun = true;
                }
                republishes |= has_new_secret;
            } else {
                republishes |= takes(&mut current, *client, now);
                seen.drift = differences.iter().filter(|one| !known(one)).cloned().collect();
                current.substituted.retain(is_still);
                // Nothing is reverted of what is about to be deleted.
                if !seen.drift.is_empty() && wanted.is_some() && seen.ledger.step != Step::Deleting {
                    seen.news.push(News::Drifted { fields: seen.drift.iter().map(|one| one.field).collect() });
                }
            }
            keep(seen, current, republishes);
        }
        Heard::Missing => seen.doubt = Some(Doubt::Missing),
        Heard::Unmanageable => seen.doubt = Some(Doubt::Unmanageable),
        _ => {}
    }
}

fn updated(seen: &mut Seen, heard: Heard, wish: &Wish<'_>, now: i64) {
    match heard {
        Heard::Client(client) => {
            let Some(mut current) = seen.ledger.current.clone() else { return };
            let renews = matches!(seen.ledger.step, Step::Updating { renews: true, .. });
            let withholds = current.substituted.iter().any(|one| one.field == CLIENT_SECRET);
            let differences = substitutions(&client.differences);
            if let Some(wanted) = wish.wanted(&seen.ledger) {
                settle(&mut current, &wanted, client.auth_method, differences, now);
            }
            let has_new_secret = takes(&mut current, *client, now);
            if let Some(wanted) = wish.wanted(&seen.ledger).filter(|_| withholds) {
                // It gives none to this one either.
                current.substituted.extend(without_secret(&current, &wanted));
            }
            seen.drift.clear();
            seen.set_step(Step::Idle);
            let renews = renews && current.auth_method.shares_secret();
            keep(seen, current, true);
            match (renews, has_new_secret) {
                (true, true) => seen.news.push(News::Rotated),
                // It has no way to give a client another secret: another client gets one.
                (true, false) => replace(seen, now, overlap(wish)),
                (false, _) => seen.news.push(News::Updated),
            }
        }
        // A server that describes nothing (a vendor's API) was told all the same: it is read back.
        Heard::Exists => {
            seen.told = wish.wanted(&seen.ledger).map(|wanted| wanted.digest());
            seen.drift.clear();
        }
        Heard::Missing => seen.doubt = Some(Doubt::Missing),
        Heard::Unmanageable => seen.doubt = Some(Doubt::Unmanageable),
        _ => {}
    }
}

fn renewed(seen: &mut Seen, heard: Heard, now: i64) {
    match heard {
        Heard::Secret(secret) => {
            let Some(mut current) = seen.ledger.current.clone() else { return };
            current.client_secret = Some(secret);
            current.secret_since = now;
            keep(seen, current, true);
            seen.news.push(News::Rotated);
        }
        Heard::Missing => seen.doubt = Some(Doubt::Missing),
        _ => {}
    }
}

fn deleted(seen: &mut Seen, heard: Heard) {
    match heard {
        Heard::Absent => {
            if let Some(current) = seen.ledger.current.take() {
                seen.news.push(News::Deleted { client_id: current.client_id });
            }
            seen.stored = false;
        }
        Heard::Missing => seen.doubt = Some(Doubt::Missing),
        Heard::Unmanageable => seen.doubt = Some(Doubt::Unmanageable),
        _ => {}
    }
}

/// What came of deleting the one of before that goes first. As long as there is a client, that is in nobody's way.
fn retired_deleted(seen: &mut Seen, heard: Heard, now: i64) {
    if seen.ledger.retired.is_empty() {
        return;
    }
    let mut retired = seen.ledger.retired.remove(0);
    seen.stored = false;
    match heard {
        Heard::Absent => seen.news.push(News::Deleted { client_id: retired.registration.client_id }),
        // It may be there or not, and nothing of ours can tell; or it is there, and the server deletes it for nobody.
        Heard::Missing | Heard::Unmanageable | Heard::NotDeleted(_) => {
            lose(seen, Some(retired.registration.client_id), now, WhyLost::Unmanageable);
        }
        heard => {
            let (what, detail, retry_after) =
                not_now(Purpose::DeleteRetired, &heard).unwrap_or((What::NoAnswer, String::new(), None));
            retired.until = now.saturating_add(retry_after.map_or(0, i64::from).max(POSTPONED_SECONDS));
            // There is room for it: it was among them.
            seen.ledger.retire(retired);
            if seen.ledger.current.is_none() {
                seen.trouble = Some(Trouble { what, during: Some(Purpose::DeleteRetired), detail, retry_after });
            }
        }
    }
}

fn probed(seen: &mut Seen, heard: Heard, now: i64) {
    if seen.ledger.is_only_told() {
        return believed(seen, heard, now);
    }
    if !matches!(heard, Heard::Alive | Heard::Unbelieved(_)) {
        return;
    }
    match (seen.doubt.take(), seen.ledger.current.clone()) {
        (Some(Doubt::Missing), _) if heard == Heard::Alive => {
            let detail = "the client is believed, and nothing is found where it is managed";
            seen.is_in_trouble(What::Unreachable, Some(Purpose::Probe), detail);
        }
        // What it is managed with is dead, or the client is gone: not to be believed proves neither.
        (_, Some(current)) => gone_or_lost(seen, &current, now),
        (_, None) => {}
    }
}

/// Whether a client that nobody here manages is believed.
fn believed(seen: &mut Seen, heard: Heard, now: i64) {
    let is = match heard {
        Heard::Alive => true,
        Heard::Unbelieved(detail) => {
            seen.is_in_trouble(What::Unbelieved, Some(Purpose::Probe), detail);
            false
        }
        _ => return,
    };
    if is {
        seen.checked = now;
    }
    let Some(current) = &mut seen.ledger.current else { return };
    if let Handle::Document { is_believed, .. } | Handle::Given { is_believed } = &mut current.handle
        && *is_believed != is
    {
        *is_believed = is;
        seen.stored = false;
    }
}

fn vanished(seen: &mut Seen) {
    let removes = seen.ledger.step == Step::Deleting;
    if let Some(current) = seen.ledger.current.take() {
        let client_id = current.client_id;
        seen.news.push(if removes { News::Deleted { client_id } } else { News::Vanished { client_id } });
    }
    seen.drift.clear();
    seen.set_step(Step::Idle);
}

/// Takes over what was given anew. Whether the secret is another one, or lasts longer.
fn takes(current: &mut Registration, client: Client, now: i64) -> bool {
    let before = (current.client_secret.clone(), current.secret_expires_at);
    current.take(client, now);
    before != (current.client_secret.clone(), current.secret_expires_at)
}

/// What was asked for is what it is, but for `substituted`. `auth_method`: as the server says, if it says anything of that.
fn settle(
    current: &mut Registration,
    wanted: &Wanted,
    auth_method: Option<AuthMethod>,
    substituted: Vec<Substitution>,
    now: i64,
) {
    current.authenticates_by(auth_method.unwrap_or(wanted.metadata.auth_method));
    current.digest = wanted.digest();
    current.kids.clone_from(&wanted.kids);
    current.substituted = substituted;
    current.updated_at = now;
}

fn keep(seen: &mut Seen, current: Registration, republishes: bool) {
    if republishes {
        seen.published = false;
    }
    if seen.ledger.current.as_ref() != Some(&current) {
        seen.ledger.current = Some(current);
        seen.stored = false;
    }
}

fn substitutions(differences: &[Difference]) -> Vec<Substitution> {
    let substitution = |one: &Difference| Substitution {
        field: one.field.to_owned(),
        wanted: one.wanted.clone(),
        got: one.got.clone(),
        weakens: one.weakens,
    };
    differences.iter().map(substitution).collect()
}

fn overlap(wish: &Wish<'_>) -> i64 {
    match wish {
        Wish::Keep(desired) => super::next::overlap(desired),
        Wish::Remove { .. } => 0,
    }
}

/// Adds a key that was made for the client.
pub fn add_key(seen: &mut Seen, key: Key) {
    seen.ledger.keys.push(key);
    (seen.stored, seen.served) = (false, false);
}
