//! `McpAuthorizationServer`: dereference, validate, build, apply, status.

mod build;
mod dereference;
pub mod keys;
mod status;
mod validate;

use std::time::Duration;

pub use build::Verdict;
pub use status::status;

use super::apply::Applied;
use super::conditions::{FETCHING, KEYS_AVAILABLE};
use super::error::Failure;
use super::{Context, Settled, apply, speak};
use crate::api::Key;
use crate::issuer::{Clock as _, SystemClock};

/// How long the certificates that a trust anchor refers to are taken to be as they were read.
const REREAD: Duration = Duration::from_secs(60);

/// Looks at one trust anchor. Answers when it has to be looked at again though nothing was told.
///
/// # Errors
/// If a step could not be taken; it is to be tried again.
pub async fn reconcile(context: &Context, key: &Key) -> Result<Option<Duration>, Failure> {
    let Some(raw) = dereference::dereference(context, key).await? else {
        context.keys.forget(&key.name);
        return Ok(None);
    };
    let rereads = raw.refers();
    let validated = validate::validate(raw, &context.installation.settings());
    let supply = context.keys.follow(key, validated.authority());
    let prepared = build::build(validated, supply, SystemClock::default().unix())?;
    let (applied, informed) = apply::apply(context, prepared).await?;
    context.store().settle(key, Settled::Authority(applied.clone().into()));
    tell(context, &applied).await?;
    informed?;
    Ok(rereads.then_some(REREAD))
}

/// Says what was applied. While the first attempt of this process to fetch keys is under way, an object that says something
/// of its keys already goes on saying it: a controller that begins to lead knows nothing better.
///
/// # Errors
/// If the status could not be written.
pub async fn tell(context: &Context, applied: &Applied<Verdict>) -> Result<(), Failure> {
    let statement = status(applied);
    let fetching = statement.said(KEYS_AVAILABLE).is_some_and(|said| said.reason == FETCHING);
    if fetching && context.store().source(&applied.key).is_some_and(|source| source.is_told()) {
        return Ok(());
    }
    speak::speak(context, &applied.key, &applied.id.uid, &statement).await
}
