//! Clients that are at their server and in no ledger, taken over as an administrator asks: in a Secret of the system namespace.
//!
//! Invariant: the author of an McpClient can keep it from being registered, and no more: which client is taken over is said where
//! tenants do not write. The request is kept until its client is as it is wanted, and goes then, with the token in it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Preconditions};
use kube::{Api, Client};

use super::ledgers::failed;
use super::{SWEEP, now};
use crate::controller::Context;
use crate::controller::error::{ApiError, Failure, code};
use crate::registration::claim::Mark;
use crate::registration::wanted::Marks;
use crate::registration::{Claim, ClaimError, Desired, Ledger, Method, Trouble, What};

/// The annotation that keeps an McpClient from being registered until it is said which client it takes over. Another word is
/// another request.
pub const ADOPT: &str = "portcullis.dev/adopt-registration";
/// The label of such a request: the UID of the owner that it is for.
pub const REQUEST_LABEL: &str = "portcullis.dev/adoption";
/// As much of that word is repeated.
const MOST_WORD: usize = 40;

/// The name of the Secret that asks for this: of the owner with this UID.
pub fn request_name(uid: &str) -> String {
    format!("registration-{uid}-adoption")
}

/// What is asked for.
pub(super) enum Asked {
    /// Nothing.
    Nothing,
    /// A client is to be taken over, and nobody has said which.
    Waits,
    /// A client is to be taken over.
    Claim {
        /// By which word.
        word: String,
        /// The request's UID.
        uid: String,
        /// The client, or why it is not taken over.
        claim: Box<Result<Claim, ClaimError>>,
    },
}

impl Asked {
    /// Whether nobody asks for a client to be taken over.
    pub(super) fn is_for_none(&self) -> bool {
        matches!(self, Asked::Nothing | Asked::Waits)
    }

    /// The client that is to be taken over.
    pub(super) fn claim(&self) -> Option<&Claim> {
        match self {
            Asked::Claim { claim, .. } => claim.as_ref().as_ref().ok(),
            Asked::Nothing | Asked::Waits => None,
        }
    }

    /// What keeps an owner that has no client from being given one.
    pub(super) fn hindrance(&self) -> Option<(What, String)> {
        match self {
            Asked::Waits => Some((
                What::AwaitsAdoption,
                format!(
                    "the annotation {ADOPT} keeps it from being registered: say which client it is to take over (portcullis \
                     clients adopt), or remove the annotation"
                ),
            )),
            Asked::Claim { claim, .. } => {
                claim.as_ref().as_ref().err().map(|error| (What::AdoptionRefused, error.to_string()))
            }
            Asked::Nothing => None,
        }
    }

    /// Why the request is not met, by the word that asked for it. `trouble`: what came of it at the server.
    pub(super) fn refusal(&self, trouble: Option<&Trouble>) -> Option<String> {
        let Asked::Claim { word, claim, .. } = self else { return None };
        let why = match claim.as_ref() {
            Err(error) => error.to_string(),
            Ok(_) => trouble.filter(|trouble| trouble.what == What::AdoptionRefused)?.detail.clone(),
        };
        let word: String = word.chars().filter(char::is_ascii_graphic).take(MOST_WORD).collect();
        Some(format!("asked for at {word}: {why}"))
    }
}

/// What an administrator asks for an owner whose author uses this word. `ledger`: what is known of it.
pub(super) async fn asked(
    context: &Context,
    desired: &Desired,
    ledger: Option<&Ledger>,
    cluster: &str,
    word: Option<&str>,
) -> Result<Asked, Failure> {
    let Some(word) = word.map(str::to_owned) else { return Ok(Asked::Nothing) };
    let (namespace, name) = (&context.installation.system_namespace, request_name(&desired.owner.uid));
    let found = secrets(&context.client, namespace).get_opt(&name).await;
    let found = found.map_err(|error| Failure::Dereference(failed("reading", namespace, &name, &error)))?;
    let Some((uid, secret)) = found.and_then(|mut secret| Some((secret.metadata.uid.take()?, secret))) else {
        return Ok(Asked::Waits);
    };
    let fresh = Ledger::new(desired, "McpClient", Method::Dcr, cluster);
    let ledger = ledger.unwrap_or(&fresh);
    let claim = parse(&secret).and_then(|claim| {
        claim.check(desired, ledger, holder(context, &claim, ledger))?;
        Ok(claim)
    });
    if let Err(error) = &claim {
        tracing::warn!(owner = desired.owner.name, reason = error.reason(), %error, "a client is not taken over");
    }
    Ok(Asked::Claim { word, uid, claim: Box::new(claim) })
}

fn parse(secret: &Secret) -> Result<Claim, ClaimError> {
    let data = secret.data.iter().flatten();
    let members: BTreeMap<&str, &str> =
        data.filter_map(|(name, bytes)| Some((name.as_str(), std::str::from_utf8(&bytes.0).ok()?))).collect();
    Claim::parse(&members)
}

/// Which McpClient has that client already, or is there and has the mark that it is said to bear.
fn holder(context: &Context, claim: &Claim, ledger: &Ledger) -> Option<String> {
    let index = context.registrations.index();
    let of_mark = match &claim.claimed.mark {
        Some(Mark::Owner(mark)) => {
            let ours = Marks::of(ledger).owner;
            // What stands before the UID is the installation.
            let installation = ours.strip_suffix(&ledger.owner.uid).unwrap_or_default();
            mark.strip_prefix(installation).and_then(|uid| index.of(uid).into_values().next())
        }
        Some(Mark::None) | None => None,
    };
    let mut holders = index.holders(&claim.issuer, &claim.claimed.client_id, &ledger.owner.uid);
    let holder = holders.next().map(|(_, entry)| entry.clone()).or(of_mark)?;
    Some(format!("{}/{}", holder.owner.0, holder.owner.1))
}

/// The request is met.
pub(super) async fn done(context: &Context, desired: &Desired, asked: &Asked) -> Result<(), Failure> {
    let Asked::Claim { uid, .. } = asked else { return Ok(()) };
    let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    delete(context, &request_name(&desired.owner.uid), params).await
}

/// The owner of a request is not registered any more, or is gone: what it was to be given is nobody's.
///
/// # Errors
/// If the API server does not do it.
pub(in crate::controller) async fn withdraw(context: &Context, uid: &str) -> Result<(), Failure> {
    delete(context, &request_name(uid), DeleteParams::default()).await
}

/// Withdraws the requests of owners that are not registered, as `is_registered` tells of a UID.
pub(super) async fn sweep(context: &Context, is_registered: impl Fn(&str) -> bool) -> Result<(), Failure> {
    let namespace = &context.installation.system_namespace;
    let params = ListParams::default().labels(REQUEST_LABEL).match_any();
    let listed = secrets(&context.client, namespace).list_metadata(&params).await;
    let listed =
        listed.map_err(|error| Failure::Dereference(ApiError::new("requests to take clients over", &error)))?;
    let asking = listed.items.into_iter().filter_map(|request| asking(request.metadata, now()));
    for uid in asking.filter(|uid| !is_registered(uid)) {
        tracing::warn!(uid, "a request to take a client over is withdrawn: its McpClient is not registered");
        withdraw(context, &uid).await?;
    }
    Ok(())
}

/// For whom a request is that is old enough for its owner to be known here.
fn asking(request: ObjectMeta, now: i64) -> Option<String> {
    let made = request.creation_timestamp?.0.as_second();
    let is_old = now.saturating_sub(made) >= i64::try_from(SWEEP.as_secs()).ok()?;
    request.labels?.remove(REQUEST_LABEL).filter(|_| is_old)
}

async fn delete(context: &Context, name: &str, params: DeleteParams) -> Result<(), Failure> {
    let namespace = &context.installation.system_namespace;
    let secrets = secrets(&context.client, namespace);
    match context.while_leading(secrets.delete(name, &params)).await? {
        Ok(_) => Ok(()),
        // Another request is another one.
        Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(()),
        Err(error) => Err(Failure::Apply(failed("deleting", namespace, name, &error))),
    }
}

fn secrets(client: &Client, namespace: &str) -> Api<Secret> {
    Api::namespaced(client.clone(), namespace)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_is_withdrawn_by_its_owners_uid_and_not_before_its_owner_can_be_known_here() {
        let request = |labels| -> ObjectMeta {
            serde_json::from_value(json!({"creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels})).unwrap()
        };
        let made = request(json!({})).creation_timestamp.unwrap().0.as_second();
        let labelled = || request(json!({REQUEST_LABEL: "u-1"}));
        assert_eq!(asking(labelled(), made + 59), None);
        assert_eq!(asking(labelled(), made + 60).as_deref(), Some("u-1"));
        assert_eq!(asking(request(json!({})), made + 60), None);
    }
}
