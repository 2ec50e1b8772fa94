//! A client that is registered no more, or goes: what it was registered as is taken back.
//!
//! Invariant: the finalizer goes as soon as what it is there for is taken back, is given up, or has been waited for long enough.

use std::time::Duration;

use serde_json::json;

use super::dereference::Raw;
use super::finalizer::{FINALIZER, release};
use super::registered::{REREAD_SECONDS, has_left, until, words};
use super::told::{leaving, left_over, still_left};
use super::validate::validate;
use crate::api::Key;
use crate::controller::conditions::Statement;
use crate::controller::error::{ApiError, Failure};
use crate::controller::queue::{Depth, Subject};
use crate::controller::registrations::{self, ABANDON, ADOPT, Taken, Waits};
use crate::controller::store::Source;
use crate::controller::{Context, owned_secret, speak};
use crate::issuer::{Clock as _, SystemClock};
use crate::registration::desired::Deletion;
use crate::resolve::ClientKind;

/// Goes on with an object that is being deleted: its registration is taken back, and then it is let go.
///
/// # Errors
/// If a step could not be taken; it is to be tried again.
pub(super) async fn end(context: &Context, key: &Key, raw: &Raw) -> Result<Option<Duration>, Failure> {
    let (uid, now) = (raw.source.id.uid.clone(), SystemClock::default().unix());
    // Whoever goes is told of it here, and beside no token.
    registrations::remember_left(context, &uid, None);
    if !raw.source.has_finalizer(FINALIZER) {
        return Ok(None);
    }
    if raw.source.annotation(ABANDON).is_some() {
        registrations::abandon(context, &uid).await?;
        return Ok(come_again(let_go(context, key, raw).await?));
    }
    let since = raw.source.ending.unwrap_or(now);
    let issuers = registrations::issuers(context, &uid);
    let waits = Waits { since: Some(since), deletion: deletion(context, raw), stays: None };
    let Taken { again, left, .. } = registrations::take_back(context, &uid, waits, |_| true).await?;
    match again.filter(|again| !again.is_released) {
        None => {
            // Not before: until then somebody may use what is registered.
            registrations::tidy(context, |issuer| issuers.contains(issuer)).await?;
            Ok(come_again(let_go(context, key, raw).await?))
        }
        Some(again) => {
            if let Some((issuer, trouble)) = &left.behind {
                speak::speak(context, key, &uid, &leaving(raw, (since, waits.deletion), issuer, trouble)).await?;
            }
            Ok(Some(until(again.at.min(now.saturating_add(REREAD_SECONDS)), now)))
        }
    }
}

/// Takes back what a client was registered as that is registered no more. Answers when to go on, if something is left.
///
/// # Errors
/// If a step could not be taken; it is to be tried again.
pub(super) async fn leave(context: &Context, key: &Key, raw: &Raw) -> Result<Option<Duration>, Failure> {
    if !context.registrations.are_known() {
        return Ok(Some(Duration::from_secs(1)));
    }
    let (uid, now) = (&raw.source.id.uid, SystemClock::default().unix());
    let words = words(raw);
    let waits = Waits { stays: Some(&words), ..Waits::default() };
    // First, since nobody comes back for them once nothing else is left.
    drop_credentials(context, raw).await?;
    let Taken { again, left, .. } = registrations::take_back(context, uid, waits, |_| true).await?;
    let mut next = again.as_ref().map(|again| until(again.at.min(now.saturating_add(REREAD_SECONDS)), now));
    if again.is_none() && raw.source.has_finalizer(FINALIZER) {
        // Whoever no longer wants to be registered says so no longer either.
        registrations::withdraw_request(context, uid).await?;
        // Before this process has heard of that, whoever speaks of its token takes it for one that has something left.
        next = come_again(let_go(context, key, raw).await?).or(Some(Duration::from_secs(1)));
    }
    // It is said beside what is said of its token, by whoever says that, who may have done so before this was over.
    let is_news =
        registrations::remember_left(context, uid, Some(left).filter(|left| again.is_some() || !left.is_none()));
    if is_news || again.is_none() && !has_left(context, &raw.source) {
        context.look_at(vec![(Subject::Source(key.clone()), Depth::Whole)]);
    }
    Ok(next)
}

/// Nothing is left to be taken back: the object may go, and nobody asks for anything on its behalf any more. `false`: it is kept
/// for that yet.
async fn let_go(context: &Context, key: &Key, raw: &Raw) -> Result<bool, Failure> {
    let uid = &raw.source.id.uid;
    registrations::withdraw(context, uid).await?;
    if raw.source.annotation(ADOPT).is_some() {
        registrations::withdraw_request(context, uid).await?;
    }
    release(context, key, uid).await
}

/// When to let an object go again.
fn come_again(is_let_go: bool) -> Option<Duration> {
    (!is_let_go).then(|| Duration::from_secs(REREAD_SECONDS.unsigned_abs()))
}

/// Removes what it had as a client that is registered no more, unless its token is there by now.
///
/// # Errors
/// If that could not be done, be it because nobody lets the controller.
async fn drop_credentials(context: &Context, raw: &Raw) -> Result<(), Failure> {
    let last = raw.source.client_status();
    let Some(name) = last.registration.and_then(|last| last.secret_name) else { return Ok(()) };
    let cluster = context.cluster();
    let is_tokens = match validate(raw, &context.installation.settings(&cluster)).map(|resolved| resolved.object) {
        Ok(ClientKind::Token(client)) => client.secret_name == name,
        Ok(ClientKind::Registered(_)) | Err(_) => true,
    };
    if is_tokens {
        return Ok(());
    }
    let removal = owned_secret::remove(&context.client, &raw.source.id, &name);
    if context.while_leading(removal).await?.map_err(Failure::Apply)? {
        return Ok(());
    }
    let what = format!("reading Secret {}/{name}", raw.source.id.namespace);
    Err(Failure::Apply(ApiError::Refused { what, code: 403, reason: "Forbidden".to_owned() }))
}

/// Says, beside what is said of its token, what is left of what a client was registered as.
pub(super) fn beside_token(context: &Context, source: &Source, statement: &mut Statement) {
    let id = &source.id;
    match registrations::left(context, &id.uid) {
        Some(left) => left_over(&left, id).into_iter().for_each(|said| statement.beside(said)),
        // Nobody knows yet: what was said stays, and so does where its credentials are.
        None if has_left(context, source) || !context.registrations.are_known() => {
            let last = source.client_status();
            still_left(&last).into_iter().for_each(|said| statement.beside(said));
            if let Some(registration) = last.registration {
                statement.tell("registration", json!(registration));
            }
        }
        None => {}
    }
}

/// What its author says is to become of the registration, if that can be read: they may have another mind while they wait.
fn deletion(context: &Context, raw: &Raw) -> Option<Deletion> {
    let cluster = context.cluster();
    match validate(raw, &context.installation.settings(&cluster)).ok()?.object {
        ClientKind::Registered(client) => Some(client.deletion),
        ClientKind::Token(_) => None,
    }
}
