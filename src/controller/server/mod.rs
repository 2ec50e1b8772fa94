//! `McpServer`: dereference, validate, build, apply, status.

mod build;
mod dereference;
pub mod isolation;
mod status;
mod validate;

pub use build::Verdict;
pub use status::status;
pub use validate::Reviewed;

use self::isolation::{Isolation, Step, Told};
use super::apply::Applied;
use super::error::Failure;
use super::{Context, Settled, apply, speak};
use crate::api::Key;
use std::time::Duration;

use serde_json::Value;

/// How long what a server refers to is taken to be as it was read: a rotated Secret is served after that, at the latest.
const REREAD: Duration = Duration::from_secs(60);
/// The same while something is missing or may not be read: whoever mends that waits for it.
const REREAD_MISSING: Duration = Duration::from_secs(10);

/// Looks at one server. Answers when it has to be looked at again though nothing was told.
///
/// # Errors
/// If a step could not be taken; it is to be tried again.
pub async fn reconcile(context: &Context, key: &Key) -> Result<Option<Duration>, Failure> {
    let Some(raw) = dereference::dereference(context, key).await? else { return Ok(None) };
    let reread = raw.refers().then_some(if raw.is_complete() { REREAD } else { REREAD_MISSING });
    let renew = raw.upstream_token.as_ref().map(|token| token.renew_in);
    let cluster = context.cluster();
    let validated = validate::validate(raw, &context.installation.settings(&cluster));
    let trust = (validated.question.clone(), validated.trust.clone());
    let (prepared, isolation) = build::build(validated, &context.installation)?;
    let (mut applied, informed) = apply::apply(context, prepared).await?;
    let isolated = isolate(context, &mut applied, isolation).await;
    let checked = applied.verdict.isolation.as_ref().map(Told::reread);
    context.inventories.follow(key, &applied.id.uid, applied.verdict.basis);
    let (question, before) = trust;
    context.trusts.follow(key, &applied.id.uid, question, before);
    let touched = context.store().settle(key, Settled::Server(applied.clone().into()));
    context.look_at(touched);
    tell(context, &applied).await?;
    informed?;
    isolated?;
    Ok(reread.into_iter().chain(renew).chain(checked).min())
}

/// Takes the step towards what a server's isolation is to be. It is beside the server, which is served meanwhile.
async fn isolate(context: &Context, applied: &mut Applied<Verdict>, isolation: Isolation) -> Result<(), Failure> {
    if matches!(isolation.step, Step::Write(_)) && !isolation.is_noted {
        tell(context, applied).await?;
    }
    applied.verdict.isolation = isolation::take(context, &applied.id, isolation).await?;
    Ok(())
}

/// Says what was applied, what proxies make of it, and which tools it has.
///
/// # Errors
/// If the status could not be written.
pub async fn tell(context: &Context, applied: &Applied<Verdict>) -> Result<(), Failure> {
    let heard = context.inventories.heard(&applied.id.uid);
    let before = context.store().source(&applied.key);
    let before = before.as_ref().map_or(&Value::Null, |source| &source.status);
    let said = (context.programming(applied), context.store().proxies.trouble(&applied.id.uid));
    let statement = status(applied, said, heard.as_ref(), before);
    speak::speak(context, &applied.key, &applied.id.uid, &statement).await
}

#[cfg(test)]
mod tests;
