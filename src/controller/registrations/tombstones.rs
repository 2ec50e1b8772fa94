//! Registrations whose owner is gone, or wants another issuer: what is left to do for them is done all the same.
//!
//! Invariant: a ledger is never dropped before the client that it tells of is gone at its server, was given up by its owner,
//! or cannot be removed from here and was told so.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;

use super::index::Entry;
use super::{Anchor, Outcome, ledgers, now, remove};
use crate::api::{Key, Kind};
use crate::controller::Context;
use crate::controller::error::{ApiError, Failure};
use crate::controller::queue::{Depth, Subject};
use crate::generated::authority::KeySource;

/// Reads which ledgers there are, and has those looked at whose owner is gone.
///
/// # Errors
/// If they could not be read.
pub(in crate::controller) async fn sweep(context: &Context) -> Result<(), Failure> {
    if context.registrations.index().cluster.is_none() {
        let namespace = &context.installation.system_namespace;
        let stored = ledgers::all(&context.client, namespace).await.map_err(Failure::Dereference)?;
        let uid = namespace_uid(context).await?;
        let mut index = context.registrations.index();
        for one in stored {
            match &one.ledger {
                Ok(ledger) => index.know(ledger, &one.name),
                Err(error) => {
                    tracing::error!(secret = one.name, reason = error.reason(), %error, "a ledger cannot be read");
                }
            }
        }
        index.cluster = Some(uid);
    }
    let owners = context.registrations.index().owners();
    let gone: Vec<String> = {
        let store = context.store();
        let is_there = |(uid, (namespace, name)): &(String, (String, String))| {
            let key = Key { kind: Kind::McpClient, namespace: namespace.clone(), name: name.clone() };
            store.source(&key).is_some_and(|source| source.id.uid == *uid)
        };
        owners.into_iter().filter(|owner| !is_there(owner)).map(|(uid, _)| uid).collect()
    };
    gone.into_iter().for_each(|uid| context.queue.add(Subject::Unowned(uid), Depth::Sweep));
    Ok(())
}

/// The system namespace tells an installation from others: its UID is another one in every cluster.
async fn namespace_uid(context: &Context) -> Result<String, Failure> {
    let name = &context.installation.system_namespace;
    let api: Api<Namespace> = Api::all(context.client.clone());
    let found = api.get(name).await;
    let found = found.map_err(|error| Failure::Dereference(ApiError::new(format!("namespace {name}"), &error)))?;
    found.metadata.uid.ok_or(Failure::Build("NamespaceWithoutUid"))
}

/// Goes on taking back what an owner has left. Answers when to go on.
///
/// # Errors
/// If the API server does not do what it has to; it is to be tried again.
pub(in crate::controller) async fn look(context: &Context, uid: &str) -> Result<Option<Duration>, Failure> {
    take_back(context, uid, None, |_| true).await.map(|again| again.map(|again| until(again.at)))
}

/// When to go on with what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::controller) struct Again {
    /// Unix seconds.
    pub(in crate::controller) at: i64,
    /// Whether nobody waits for it any more.
    pub(in crate::controller) is_released: bool,
}

/// Takes back what an owner has registered, as far as `which` chooses. `None`: nothing of that is left.
///
/// # Errors
/// If the API server does not do what it has to; it is to be tried again.
pub(in crate::controller) async fn take_back(
    context: &Context,
    uid: &str,
    waits_since: Option<i64>,
    which: impl Fn(&Entry) -> bool,
) -> Result<Option<Again>, Failure> {
    if context.registrations.index().cluster.is_none() {
        return Ok(Some(Again { at: now() + 1, is_released: false }));
    }
    let all = context.registrations.index().of(uid);
    let mut left: Option<Again> = None;
    for (name, entry) in all.into_iter().filter(|(_, entry)| which(entry)) {
        let anchor = anchor(context, &entry.authority);
        let outcome: Outcome = remove(context, anchor.as_ref(), &name, waits_since).await?;
        if outcome.is_forgotten {
            context.registrations.index().forget(uid, &name);
        } else {
            let one = Again { at: outcome.again, is_released: outcome.is_released };
            left = Some(left.map_or(one, |left| Again {
                at: left.at.min(one.at),
                is_released: left.is_released && one.is_released,
            }));
        }
    }
    Ok(left)
}

fn until(again: i64) -> Duration {
    Duration::from_secs(u64::try_from(again.saturating_sub(now())).unwrap_or_default().max(1))
}

/// A trust anchor, as far as clients are registered at it.
pub(in crate::controller) fn anchor(context: &Context, name: &str) -> Option<Anchor> {
    let store = context.store();
    let registration = store.registration(name)?;
    let uid = &store.authority(name)?.id.uid;
    let ca_pem = match store.last_authority(uid).map(|authority| authority.keys) {
        Some(KeySource::Discovery { ca_pem }) => ca_pem,
        Some(KeySource::Local | KeySource::Kubernetes) | None => None,
    };
    Some(Anchor { name: name.to_owned(), registration, ca_pem })
}

/// Gives up what an owner has registered: whatever is at the server stays there.
///
/// # Errors
/// If the API server does not do what it has to; it is to be tried again.
pub(in crate::controller) async fn abandon(context: &Context, uid: &str) -> Result<(), Failure> {
    let namespace = &context.installation.system_namespace;
    let all = context.registrations.index().of(uid);
    for (name, entry) in all {
        let stored = ledgers::get(&context.client, namespace, &name).await.map_err(Failure::Dereference)?;
        if let Some(stored) = stored {
            let removal = ledgers::remove(&context.client, namespace, &name, &stored.version);
            context.while_leading(removal).await?.map_err(Failure::Apply)?;
            tracing::warn!(secret = name, issuer = entry.issuer, "a registration is given up, as its owner asks");
        }
        context.registrations.held().remove(&name);
        context.registrations.index().forget(uid, &name);
    }
    Ok(())
}

/// The issuer at which an object is registered, if its McpAuthorizationServer names another one by now and its author has not
/// agreed to that.
pub(in crate::controller) fn moved(
    context: &Context,
    desired: &crate::registration::Desired,
    agreed: Option<&str>,
) -> Option<String> {
    if agreed == Some(&desired.issuer) {
        return None;
    }
    let known = context.registrations.index().of(&desired.owner.uid);
    let is_known = known.values().any(|entry| entry.issuer == desired.issuer);
    let before = known.into_values().find(|entry| entry.authority == desired.authority)?;
    Some(before.issuer).filter(|_| !is_known)
}
