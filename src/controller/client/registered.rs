//! A client that is registered at an authorization server: one look.
//!
//! Invariant: the finalizer is there before anything is registered that would have to be taken back; a status speaks of
//! credentials only once they are written.

use std::time::Duration;

use super::audience;
use super::dereference::Raw;
use super::finalizer::{FINALIZER, hold};
use super::told::Told;
use crate::api::Key;
use crate::api::v1alpha1::McpClientStatus;
use crate::controller::conditions;
use crate::controller::error::Failure;
use crate::controller::registrations::{
    self, ADOPT, Audiences, FORGET, ISSUER_ANNOTATION, Kept, Outcome, Publication, Words,
};
use crate::controller::store::Source;
use crate::controller::{Context, owned_secret, speak};
use crate::issuer::{Clock as _, SystemClock};
use crate::registration::Desired;
use crate::registration::desired::DeletionPolicy;
use crate::resolve::{Findings, RegisteredClient};

/// How long credentials are taken to be as they were written.
pub(super) const REREAD_SECONDS: i64 = 60;

/// Whether an authorization server is asked for what a client says, or for what is left of what it said.
pub(super) fn is_asked_for(source: &Source) -> bool {
    let says = source.client().is_some_and(|client| client.spec.registration.is_some());
    says || (source.ending.is_some() && source.has_finalizer(FINALIZER))
}

/// Whether something is left of what it was registered as, though it is not registered any more.
pub(super) fn has_left(context: &Context, source: &Source) -> bool {
    source.has_finalizer(FINALIZER) || registrations::has_any(context, &source.id.uid)
}

/// Looks at a client that is registered. Answers when to look again.
pub(super) async fn look(
    context: &Context,
    key: &Key,
    raw: &Raw,
    client: &RegisteredClient,
    warnings: &Findings,
) -> Result<Option<Duration>, Failure> {
    if !context.registrations.are_known() {
        // Nothing better is known yet than what is said already.
        return Ok(Some(Duration::from_secs(1)));
    }
    let now = SystemClock::default().unix();
    let account = (context.installation.system_namespace.as_str(), context.installation.service_account.as_str());
    let warnings = &conditions::with_role_binding(warnings.clone(), &client.id.namespace, account);
    let mut said = Told {
        warnings,
        last: raw.source.client_status(),
        outcome: None,
        tells_left: false,
        audiences: Audiences::default(),
        moved: None,
        secret_name: None,
    };
    let again = match &client.desired {
        Err(_) => now.saturating_add(REREAD_SECONDS),
        Ok(desired) => {
            let annotation = |name: &str| raw.source.annotation(name);
            match registrations::moved(context, desired, annotation(ISSUER_ANNOTATION).as_deref()) {
                Some(before) => {
                    said.moved = Some((before, desired.issuer.clone()));
                    now.saturating_add(REREAD_SECONDS)
                }
                None => {
                    let Kept { outcome, tells_left } = registered(context, key, raw, client, desired).await?;
                    said.tells_left = tells_left;
                    let earlier = said.last.registration.as_ref().and_then(|last| last.secret_name.clone());
                    said.secret_name = settle_secret(context, desired, &outcome, earlier).await?;
                    said.audiences = audiences(context, client, desired, &outcome, &said.last).await?;
                    let again = outcome.again.min(said.audiences.again).min(now.saturating_add(REREAD_SECONDS));
                    said.outcome = Some(outcome);
                    again
                }
            }
        }
    };
    speak::speak(context, key, &client.id.uid, &said.statement(client, account, now)).await?;
    Ok(Some(until(again, now)))
}

/// How long it is to this time, and never no time at all.
pub(super) fn until(at: i64, now: i64) -> Duration {
    Duration::from_secs(u64::try_from(at.saturating_sub(now)).unwrap_or_default().max(1))
}

async fn registered(
    context: &Context,
    key: &Key,
    raw: &Raw,
    client: &RegisteredClient,
    desired: &Desired,
) -> Result<Kept, Failure> {
    let anchor = match registrations::anchor(context, &desired.authority) {
        Ok(anchor) => anchor,
        Err(not) => return Ok(Kept::unseen(not, SystemClock::default().unix())),
    };
    // What somebody else registered is not taken back.
    let is_ours = desired.client_id.is_none() && desired.deletion.policy == DeletionPolicy::Delete;
    if is_ours && !raw.source.has_finalizer(FINALIZER) {
        hold(context, key, &desired.owner.uid).await?;
    }
    registrations::keep(context, &anchor, desired, client.given.as_ref(), &words(raw)).await
}

/// What its author says beside what is wanted.
pub(super) fn words(raw: &Raw) -> Words {
    Words { forget: raw.source.annotation(FORGET), adopt: raw.source.annotation(ADOPT) }
}

/// The name of the Secret that holds the credentials. One of another name, that held them before, goes once this one does.
async fn settle_secret(
    context: &Context,
    desired: &Desired,
    outcome: &Outcome,
    earlier: Option<String>,
) -> Result<Option<String>, Failure> {
    if outcome.publication != Publication::Written {
        return Ok(earlier);
    }
    if let Some(earlier) = earlier.filter(|earlier| *earlier != desired.secret_name) {
        let removal = owned_secret::remove(&context.client, &desired.owner, &earlier);
        context.while_leading(removal).await?.map_err(Failure::Apply)?;
    }
    Ok(Some(desired.secret_name.clone()))
}

/// What is known of the tokens that it gets for its servers.
async fn audiences(
    context: &Context,
    client: &RegisteredClient,
    desired: &Desired,
    outcome: &Outcome,
    last: &McpClientStatus,
) -> Result<Audiences, Failure> {
    let before = audience::before(last, &desired.issuer);
    match registrations::anchor(context, &desired.authority) {
        Ok(anchor) => registrations::verify(context, &anchor, (desired, &client.targets), outcome, before).await,
        Err(_) => Ok(Audiences::as_before(context, desired, before)),
    }
}
