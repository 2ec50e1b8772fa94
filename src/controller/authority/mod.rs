//! `McpAuthorizationServer`: dereference, validate, build, apply, status.

mod build;
mod dereference;
pub mod keys;
mod status;
mod validate;

use std::time::Duration;

pub use build::Verdict;
pub use status::status;

use self::keys::Supply;
use super::apply::Applied;
use super::conditions::{FETCHING, KEYS_AVAILABLE};
use super::error::Failure;
use super::signing::{self, SigningError};
use super::{Context, Settled, apply, speak};
use crate::api::Key;
use crate::generated::Authority;
use crate::generated::authority::{KeySet, KeySource};
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
    let cluster = context.cluster();
    let validated = validate::validate(raw, &context.installation.settings(&cluster));
    let supply = supply(context, key, validated.authority()).await?;
    let prepared = build::build(validated, supply, SystemClock::default().unix())?;
    let (applied, informed) = apply::apply(context, prepared).await?;
    let touched = context.store().settle(key, Settled::Authority(applied.clone().into()));
    context.look_at(touched);
    tell(context, &applied).await?;
    informed?;
    Ok(rereads.then_some(REREAD))
}

/// What is known of an authority's keys: fetched from its issuer, the gateway's own, or the API server's.
async fn supply(context: &Context, key: &Key, authority: Option<&Authority>) -> Result<Supply, Failure> {
    let fetched = context.keys.follow(key, authority);
    match authority.map(|authority| (authority, &authority.keys)) {
        Some((_, KeySource::Kubernetes)) => {
            let (key_set, failure) = context.issuer.keys();
            Ok(Supply { key_set, failure, distrusted: false })
        }
        Some((authority, KeySource::Local)) => {
            let system = &context.installation.system_namespace;
            match signing::signer(&context.client, system, authority, &context.fence).await {
                Ok(signer) => {
                    let key_set = KeySet { jwks: signer.jwks().to_owned(), valid_until: i64::MAX };
                    Ok(Supply { key_set: Some(key_set), ..Supply::default() })
                }
                Err(SigningError::Fenced) => Err(Failure::NotLeading),
                Err(SigningError::Api(error)) => Err(Failure::Dereference(error)),
                Err(error) => Ok(Supply { failure: Some((error.reason(), error.to_string())), ..Supply::default() }),
            }
        }
        Some((_, KeySource::Discovery { .. })) | None => Ok(fetched),
    }
}

/// Says what was applied. While the first attempt of this process to fetch keys is under way, an object that says something
/// of its keys already goes on saying it: a controller that begins to lead knows nothing better.
///
/// # Errors
/// If the status could not be written.
pub async fn tell(context: &Context, applied: &Applied<Verdict>) -> Result<(), Failure> {
    let statement = status(applied, context.programming(applied));
    let fetching = statement.said(KEYS_AVAILABLE).is_some_and(|said| said.reason == FETCHING);
    if fetching && context.store().source(&applied.key).is_some_and(|source| source.is_told()) {
        return Ok(());
    }
    speak::speak(context, &applied.key, &applied.id.uid, &statement).await
}
