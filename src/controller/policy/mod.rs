//! `McpPolicy`: dereference, validate, build, apply, status.

mod build;
mod dereference;
mod status;
mod validate;

use std::time::Duration;

use serde_json::Value;

pub use build::Verdict;
pub use status::status;

use super::apply::Applied;
use super::error::Failure;
use super::{Context, Settled, apply, speak};
use crate::api::Key;

/// Looks at one policy.
///
/// # Errors
/// If a step could not be taken; it is to be tried again.
pub async fn reconcile(context: &Context, key: &Key) -> Result<Option<Duration>, Failure> {
    let Some(raw) = dereference::dereference(context, key) else { return Ok(None) };
    let cluster = context.cluster();
    let validated = validate::validate(raw, &context.installation.settings(&cluster));
    let prepared = build::build(validated)?;
    let (applied, informed) = apply::apply(context, prepared).await?;
    let touched = context.store().settle(key, Settled::Policy(applied.clone().into()));
    context.look_at(touched);
    tell(context, &applied).await?;
    informed?;
    Ok(None)
}

/// Says what was applied, what proxies make of it, and what it comes to where it reaches.
///
/// # Errors
/// If the status could not be written.
pub async fn tell(context: &Context, applied: &Applied<Verdict>) -> Result<(), Failure> {
    let (reaching, before) = {
        let store = context.store();
        (store.reaching(&applied.key, &applied.id), store.source(&applied.key))
    };
    let before = before.as_ref().map_or(&Value::Null, |source| &source.status);
    let statement = status(applied, context.programming(applied), &reaching, before);
    speak::speak(context, &applied.key, &applied.id.uid, &statement).await
}

#[cfg(test)]
mod tests;
