//! What an answer means for a registration.
//!
//! Invariant: whatever an answer says anew (a secret, a registration access token) is in the ledger before the next question
//! is asked, and the ledger then counts as not stored. What is not known to have failed counts as done where that is worse.

use super::call::{Answer, Call, Client, Heard, Purpose};
use super::ledger::{Handle, Key, Registration, Step, Substitution, WhyLost};
use super::next::{Wish, lose, replace};
use super::seen::{News, Seen, What};
use super::wanted::{Marks, Wanted};
use super::{probe, profile};
use crate::oauth::client_registration::{AuthMethod, Difference};

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
        Some(registration) => profile::managing(&registration.handle, ledger.profile),
        None => profile::of(ledger.profile, ledger.method),
    };
    let marks = Marks::of(ledger);
    adapter.hear(call.purpose, answer, &marks, wish.wanted(ledger).as_ref())
}

/// Takes in what came of a request.
pub fn absorb(seen: &mut Seen, purpose: Purpose, heard: Heard, wish: &Wish<'_>, now: i64) {
    if heard == Heard::Foreign && matches!(wish, Wish::Remove { .. }) {
        // It is not ours to remove.
        seen.ledger.current = None;
        return seen.set_step(Step::Idle);
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
        Purpose::Create | Purpose::Find => created(seen, purpose, heard, wish, now),
        Purpose::Read => read(seen, heard, wish, now),
        Purpose::Update => updated(seen, heard, wish, now),
        Purpose::Renew => renewed(seen, heard, now),
        Purpose::Delete => deleted(seen, heard),
        Purpose::DeleteRetired => retired_deleted(seen, heard, now),
        Purpose::Probe => probed(seen, heard, now),
    }
}

/// Whether nothing was done, and why.
fn not_now(purpose: Purpose, heard: &Heard) -> Option<(What, String, Option<u32>)> {
    match heard {
        Heard::Refused(detail) => Some((What::Refused, detail.clone(), None)),
        Heard::Denied(detail) => Some((What::Denied, detail.clone(), None)),
        Heard::Foreign => Some((What::Foreign, "a client of our id is there, and it is not ours".to_owned(), None)),
        Heard::Later { retry_after, status } => {
            Some((What::Busy, format!("it answered with status {status}"), *retry_after))
        }
        Heard::Unsent(detail) => Some((What::Unreachable, detail.clone(), None)),
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
            let mut registration = Registration::of(*client, wanted.digest(), wanted.kids.clone(), now);
            if purpose == Purpose::Create {
                registration.substituted = substitutions(&differences);
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
        // It went between being refused and being looked for.
        Heard::Absent => seen.set_step(Step::Idle),
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

/// The owner is gone: all that is needed is how to delete it.
fn found_for_removal(seen: &mut Seen, client: Client, now: i64) {
    seen.ledger.current = Some(Registration::of(client, String::new(), Vec::new(), now));
    seen.set_step(Step::Idle);
}

fn read(seen: &mut Seen, heard: Heard, wish: &Wish<'_>, now: i64) {
    seen.checked = now;
    match heard {
        Heard::Client(client) => {
            let Some(mut current) = seen.ledger.current.clone() else { return };
            if client.client_id != current.client_id {
                return seen.is_in_trouble(What::Refused, Some(Purpose::Read), "it describes another client");
            }
            let wanted = wish.wanted(&seen.ledger);
            let differences = client.differences.clone();
            seen.found.clone_from(&client.found);
            let has_new_secret = takes(&mut current, *client, now);
            if let (Step::Updating { digest, renews }, Some(wanted)) = (seen.ledger.step.clone(), &wanted) {
                let is_done = differences.is_empty() && wanted.digest() == digest && (!renews || has_new_secret);
                if is_done {
                    settle(&mut current, wanted, Vec::new(), now);
                    seen.set_step(Step::Idle);
                } else {
                    seen.begun = true;
                }
            } else {
                let known =
                    |one: &Difference| current.substituted.iter().any(|s| s.field == one.field && s.got == one.got);
                seen.drift = differences.into_iter().filter(|one| !known(one)).collect();
                if !seen.drift.is_empty() {
                    seen.news.push(News::Drifted { fields: seen.drift.iter().map(|one| one.field).collect() });
                }
            }
            keep(seen, current, has_new_secret);
        }
        Heard::Absent => vanished(seen),
        Heard::Unmanageable => seen.doubt = true,
        _ => {}
    }
}

fn updated(seen: &mut Seen, heard: Heard, wish: &Wish<'_>, now: i64) {
    match heard {
        Heard::Client(client) => {
            let Some(mut current) = seen.ledger.current.clone() else { return };
            let renews = matches!(seen.ledger.step, Step::Updating { renews: true, .. });
            let differences = substitutions(&client.differences);
            let has_new_secret = takes(&mut current, *client, now);
            if let Some(wanted) = wish.wanted(&seen.ledger) {
                settle(&mut current, &wanted, differences, now);
            }
            seen.drift.clear();
            seen.set_step(Step::Idle);
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
            let Some(mut current) = seen.ledger.current.clone() else { return };
            if let Some(wanted) = wish.wanted(&seen.ledger) {
                settle(&mut current, &wanted, Vec::new(), now);
                let method = wanted.metadata.auth_method;
                let shares = matches!(method, AuthMethod::ClientSecretBasic | AuthMethod::ClientSecretPost);
                if shares && current.client_secret.is_none() {
                    // It was given one just now, and nobody has said which.
                    seen.checked = 0;
                }
            }
            seen.drift.clear();
            seen.news.push(News::Updated);
            seen.set_step(Step::Idle);
            keep(seen, current, true);
        }
        Heard::Absent => vanished(seen),
        Heard::Unmanageable => seen.doubt = true,
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
        Heard::Absent => vanished(seen),
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
        Heard::Unmanageable => seen.doubt = true,
        _ => {}
    }
}

fn retired_deleted(seen: &mut Seen, heard: Heard, now: i64) {
    if seen.ledger.retired.is_empty() || !matches!(heard, Heard::Absent | Heard::Unmanageable) {
        return;
    }
    let retired = seen.ledger.retired.remove(0).registration;
    seen.stored = false;
    match heard {
        Heard::Absent => seen.news.push(News::Deleted { client_id: retired.client_id }),
        // It may be there or not, and nothing of ours can tell.
        _ => lose(seen, Some(retired.client_id), now, WhyLost::Unmanageable),
    }
}

fn probed(seen: &mut Seen, heard: Heard, now: i64) {
    if seen.ledger.is_only_told() {
        return believed(seen, heard, now);
    }
    match heard {
        Heard::Alive => {
            seen.doubt = false;
            if let Some(current) = seen.ledger.current.take() {
                lose(seen, Some(current.client_id), now, WhyLost::Unmanageable);
            }
            seen.set_step(Step::Idle);
        }
        Heard::Unbelieved(_) => {
            seen.doubt = false;
            let client_id = seen.ledger.current.as_ref().filter(|current| current.client_secret.is_some());
            let client_id = client_id.map(|current| current.client_id.clone());
            match (&seen.ledger.step, client_id) {
                // An update that was under way may have given it another secret, which nobody here has seen.
                (Step::Updating { .. }, Some(client_id)) => {
                    seen.ledger.current = None;
                    lose(seen, Some(client_id), now, WhyLost::Unmanageable);
                    seen.set_step(Step::Idle);
                }
                _ => vanished(seen),
            }
        }
        _ => {}
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

fn settle(current: &mut Registration, wanted: &Wanted, substituted: Vec<Substitution>, now: i64) {
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
