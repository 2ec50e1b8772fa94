//! `McpPolicy`: dereference, validate, build, apply, status.

mod build;
mod dereference;
mod status;
mod validate;

use std::time::Duration;

pub use build::Verdict;
pub use status::status;

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
    context.store().settle(key, Settled::Policy(applied.clone().into()));
    speak::speak(context, key, &applied.id.uid, &status(&applied, context.programming(&applied))).await?;
    informed?;
    Ok(None)
}

#[cfg(test)]
mod tests;
