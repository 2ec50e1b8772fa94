//! `McpServer`: dereference, validate, build, apply, status.

mod build;
mod dereference;
mod status;
mod validate;

pub use build::Verdict;
pub use status::{status, with_tools};

use super::apply::Applied;
use super::conditions::{TOOLS_LISTED, TOOLS_REVIEWED};
use super::error::Failure;
use super::{Context, Settled, apply, speak};
use crate::api::Key;
use std::time::Duration;

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
    let prepared = build::build(validated, &context.installation)?;
    let wanted = prepared.generated.clone();
    let (applied, informed) = apply::apply(context, prepared).await?;
    context.store().settle(key, Settled::Server(applied.clone().into()));
    if let Some(wanted) = wanted {
        context.tools.follow(key, &wanted);
    }
    tell(context, &applied).await?;
    informed?;
    Ok(reread.into_iter().chain(renew).min())
}

/// Says what was applied, and what the upstream lists. While this process has not asked it, what is said of it already
/// stays.
///
/// # Errors
/// If the status could not be written.
pub async fn tell(context: &Context, applied: &Applied<Verdict>) -> Result<(), Failure> {
    let Some(source) = context.store().source(&applied.key) else { return Ok(()) };
    let statement = status(applied, context.programming(applied));
    let statement = match context.tools.told(&applied.id.uid) {
        Some(told) => with_tools(statement, &told),
        None => statement.carrying(&source.status, &[TOOLS_LISTED, TOOLS_REVIEWED], "tools"),
    };
    speak::speak(context, &applied.key, &applied.id.uid, &statement).await
}

#[cfg(test)]
mod tests;
