//! Registrations whose owner is gone, or wants another issuer: what is left to do for them is done all the same.
//!
//! Invariant: a ledger is never dropped before the client that it tells of is gone at its server, was given up by its owner,
//! or cannot be removed from here and was told so.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;

use super::index::{Entry, Index};
use super::ledgers::Stored;
use super::servers::NotAsked;
use super::{Anchor, Left, Words, adoption, ledgers, now, remember_left, remove, resources, turn};
use crate::api::{Key, Kind};
use crate::controller::Context;
use crate::controller::error::{ApiError, Failure};
use crate::controller::queue::{Depth, Subject};
use crate::controller::store::Store;
use crate::generated::authority::KeySource;
use crate::registration::What;
use crate::registration::desired::{Deletion, DeletionPolicy, OnUnavailable};

/// Reads which ledgers there are, and has those looked at whose owner is gone.
///
/// # Errors
/// If they could not be read.
pub(in crate::controller) async fn sweep(context: &Context) -> Result<(), Failure> {
    let known = context.registrations.index().cluster.clone();
    match known {
        None => read_all(context).await?,
        Some(cluster) => {
            look_elsewhere(context, &cluster).await?;
            look_for_others(context, &cluster).await?;
        }
    }
    super::count_orphans(context);
    let owners = context.registrations.index().owners();
    let gone: Vec<String> = {
        let store = context.store();
        owners.into_iter().filter(|(uid, owner)| !is_there(&store, uid, owner)).map(|(uid, _)| uid).collect()
    };
    context.look_at(gone.into_iter().map(|uid| (Subject::Unowned(uid), Depth::Sweep)).collect());
    let registered = context.store().registered_clients();
    adoption::sweep(context, |uid| registered.contains(uid)).await?;
    resources::sweep(context).await
}

/// Whether the owner with this UID is there.
fn is_there(store: &Store, uid: &str, (namespace, name): &(String, String)) -> bool {
    let key = Key { kind: Kind::McpClient, namespace: namespace.clone(), name: name.clone() };
    store.source(&key).is_some_and(|source| source.id.uid == uid)
}

/// Whether another McpClient that is there has this client of an issuer: it was taken over from the owner with this UID.
pub(super) fn is_anothers(context: &Context, (issuer, client_id): (&str, &str), uid: &str) -> bool {
    let owner = |(uid, entry): (&String, &Entry)| (uid.clone(), entry.owner.clone());
    let holders: Vec<_> = context.registrations.index().holders(issuer, client_id, uid).map(owner).collect();
    let store = context.store();
    // Who goes as well takes it nowhere.
    let stays = |(uid, (namespace, name)): &(String, (String, String))| {
        let key = Key { kind: Kind::McpClient, namespace: namespace.clone(), name: name.clone() };
        store.source(&key).is_some_and(|source| source.id.uid == *uid && source.ending.is_none())
    };
    let is = holders.iter().any(stays);
    if is {
        tracing::info!(client_id, issuer, "another McpClient has taken the client over: it is left to that one");
    }
    is
}

async fn read_all(context: &Context) -> Result<(), Failure> {
    let namespace = &context.installation.system_namespace;
    let stored = ledgers::all(&context.client, namespace).await.map_err(Failure::Dereference)?;
    let cluster = namespace_uid(context).await?;
    let mut index = context.registrations.index();
    stored.into_iter().for_each(|one| take_in(&mut index, one, namespace, &cluster));
    context.metrics.ledgers_elsewhere.set(i64::try_from(index.elsewhere.len()).unwrap_or(i64::MAX));
    index.cluster = Some(cluster);
    Ok(())
}

/// Notes that there is this ledger.
fn take_in(index: &mut Index, one: Stored, namespace: &str, cluster: &str) {
    let (name, (_, version)) = (one.name.clone(), one.version.clone());
    let (is_elsewhere, is_nobodys) = (one.is_elsewhere(cluster), one.place.is_none());
    if let Some((uid, entry)) = one.place.clone().filter(|_| !is_elsewhere) {
        index.know(&uid, &name, entry);
    }
    if let Err(not) = one.usable(namespace, cluster) {
        tracing::error!(secret = name, reason = not.what.reason(), why = not.detail, "a ledger is not used");
    }
    if is_elsewhere {
        index.nobodys.remove(&name);
        index.elsewhere.insert(name);
    } else if is_nobodys {
        index.nobodys.insert(name, version);
    }
}

/// Sees whether somebody has restored or mended ledgers, of this installation or of another.
async fn look_for_others(context: &Context, cluster: &str) -> Result<(), Failure> {
    let namespace = &context.installation.system_namespace;
    let all = ledgers::versions(&context.client, namespace).await.map_err(Failure::Dereference)?;
    let unread = context.registrations.index().unread(all);
    for name in unread {
        let stored = ledgers::get(&context.client, namespace, &name).await.map_err(Failure::Dereference)?;
        let Some(stored) = stored else { continue };
        let mut index = context.registrations.index();
        take_in(&mut index, stored, namespace, cluster);
        context.metrics.ledgers_elsewhere.set(i64::try_from(index.elsewhere.len()).unwrap_or(i64::MAX));
    }
    Ok(())
}

/// Sees whether somebody has said since that a ledger of another installation is this one's now.
async fn look_elsewhere(context: &Context, cluster: &str) -> Result<(), Failure> {
    let names = context.registrations.index().elsewhere.clone();
    for name in names {
        let namespace = &context.installation.system_namespace;
        let stored = ledgers::get(&context.client, namespace, &name).await.map_err(Failure::Dereference)?;
        if stored.as_ref().is_some_and(|stored| stored.is_elsewhere(cluster)) {
            continue;
        }
        let mut index = context.registrations.index();
        index.elsewhere.remove(&name);
        context.metrics.ledgers_elsewhere.set(i64::try_from(index.elsewhere.len()).unwrap_or(i64::MAX));
        if let Some((uid, entry)) = stored.and_then(|stored| stored.place) {
            tracing::warn!(secret = name, issuer = entry.issuer, "a ledger of another installation is taken over");
            index.know(&uid, &name, entry);
        }
    }
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
    let owner = context.registrations.index().of(uid).into_values().next().map(|entry| entry.owner);
    let Some((namespace, name)) = owner else { return Ok(None) };
    let _turn = match turn(context, uid, (&namespace, &name), None) {
        Ok(turn) => turn,
        Err(wait) => return Ok(Some(wait)),
    };
    let again = take_back(context, uid, Waits::default(), |_| true).await?.again;
    if again.is_none() {
        adoption::withdraw(context, uid).await?;
        remember_left(context, uid, None);
    }
    Ok(again.map(|again| Duration::from_secs(u64::try_from(again.at.saturating_sub(now())).unwrap_or_default().max(1))))
}

/// Who waits for a registration to be taken back.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::controller) struct Waits<'w> {
    /// Since when its owner does (Unix seconds), if it does.
    pub(in crate::controller) since: Option<i64>,
    /// What its author says is to become of it, if that can be read.
    pub(in crate::controller) deletion: Option<Deletion>,
    /// What its author says, if the owner is there and goes on without it.
    pub(in crate::controller) stays: Option<&'w Words>,
}

impl Waits<'_> {
    /// Whether the owner need not wait, or has waited for long enough.
    pub(super) fn are_over(&self, now: i64) -> bool {
        let Some(Deletion { policy, timeout_seconds, on_unavailable }) = self.deletion else { return false };
        let until = self.since.map(|since| since.saturating_add(i64::from(timeout_seconds)));
        let is_late = until.is_some_and(|until| now >= until);
        policy == DeletionPolicy::Retain || (is_late && on_unavailable == OnUnavailable::Orphan)
    }
}

/// When to go on with what is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) struct Again {
    /// Unix seconds.
    pub(in crate::controller) at: i64,
    /// Whether nobody waits for it any more.
    pub(in crate::controller) is_released: bool,
}

/// What came of taking back what an owner has registered.
pub(in crate::controller) struct Taken {
    /// When to go on, if something is to be done yet.
    pub(in crate::controller) again: Option<Again>,
    /// What is left.
    pub(in crate::controller) left: Left,
    /// Whether that is all: each ledger was there to be read.
    pub(in crate::controller) is_all_seen: bool,
}

/// Takes back what an owner has registered, as far as `which` chooses.
///
/// # Errors
/// If the API server does not do what it has to; it is to be tried again.
pub(in crate::controller) async fn take_back(
    context: &Context,
    uid: &str,
    waits: Waits<'_>,
    which: impl Fn(&Entry) -> bool,
) -> Result<Taken, Failure> {
    if !context.registrations.are_known() {
        let again = Some(Again { at: now() + 1, is_released: false });
        return Ok(Taken { again, left: Left::default(), is_all_seen: false });
    }
    let all = context.registrations.index().of(uid);
    let (mut again, mut left, mut is_all_seen): (Option<Again>, Left, bool) = (None, Left::default(), true);
    for (name, entry) in all.into_iter().filter(|(_, entry)| which(entry)) {
        let anchor = anchor(context, &entry.authority);
        let outcome = remove(context, anchor.as_ref().map_err(Clone::clone), &name, waits).await?;
        if outcome.is_over && outcome.left.losses == 0 {
            context.registrations.index().forget(uid, &name);
            continue;
        }
        // By which method something is registered is known of every ledger that can be used.
        is_all_seen &= outcome.is_over || outcome.method.is_some();
        let Entry { issuer, .. } = entry;
        let lost = outcome.left.lost.iter().map(|one| format!("{one} at {issuer}")).collect();
        let behind = outcome.trouble.map(|trouble| (issuer, trouble));
        left.add(Left { behind, lost, losses: outcome.left.losses });
        if !outcome.is_over {
            let (at, is_released) = (outcome.again, outcome.is_released);
            again = Some(again.map_or(Again { at, is_released }, |before: Again| Again {
                at: before.at.min(at),
                is_released: before.is_released && is_released,
            }));
        }
    }
    Ok(Taken { again, left, is_all_seen })
}

/// A trust anchor, as far as clients are registered at it.
///
/// # Errors
/// If there is none of the name; or none yet of what it says by now, whose certificates alone may be believed.
pub(in crate::controller) fn anchor(context: &Context, name: &str) -> Result<Anchor, NotAsked> {
    anchor_in(&context.store(), name)
}

fn anchor_in(store: &Store, name: &str) -> Result<Anchor, NotAsked> {
    let known = store.registration(name).zip(store.source(&anchor_key(name)));
    let Some((registration, source)) = known else {
        let detail =
            format!("McpAuthorizationServer {name} is not there, or is no issuer at which clients are registered");
        return Err(NotAsked::new(What::NoEndpoint, detail));
    };
    let written = store.last_authority(&source.id.uid).filter(|written| written.id.generation == source.id.generation);
    match written.map(|authority| authority.keys) {
        Some(KeySource::Discovery { ca_pem }) => Ok(Anchor { name: name.to_owned(), registration, ca_pem }),
        Some(KeySource::Local | KeySource::Kubernetes) | None => {
            let detail =
                format!("McpAuthorizationServer {name}, as it is by now, is not in force yet: see what it says");
            Err(NotAsked::new(What::Unsettled, detail))
        }
    }
}

fn anchor_key(name: &str) -> Key {
    Key { kind: Kind::McpAuthorizationServer, namespace: String::new(), name: name.to_owned() }
}

/// Gives up what an owner has registered: whatever is at the server stays there.
///
/// # Errors
/// If the API server does not do what it has to; it is to be tried again.
pub(in crate::controller) async fn abandon(context: &Context, uid: &str) -> Result<(), Failure> {
    // What is not known yet would be taken for what is not there.
    context.registrations.cluster()?;
    let namespace = &context.installation.system_namespace;
    let all = context.registrations.index().of(uid);
    for (name, entry) in all {
        let stored = ledgers::get(&context.client, namespace, &name).await.map_err(Failure::Dereference)?;
        if let Some(stored) = stored {
            if let Ok(ledger) = &stored.ledger {
                context.registrations.resources.stay(&name, ledger);
            }
            let removal = ledgers::remove(&context.client, namespace, &name, &stored.version);
            if !context.while_leading(removal).await?.map_err(Failure::Apply)? {
                return Err(Failure::Build("LedgerOvertaken"));
            }
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
    let mut known = context.registrations.index().of(&desired.owner.uid);
    known.retain(|_, entry| !entry.is_over);
    let is_known = known.values().any(|entry| entry.issuer == desired.issuer);
    let before = known.into_values().find(|entry| entry.authority == desired.authority)?;
    Some(before.issuer).filter(|_| !is_known)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::api::DynamicObject;
    use serde_json::json;

    use super::*;
    use crate::controller::Installation;
    use crate::controller::cluster_issuer::ClusterIssuer;
    use crate::controller::object::Wanted;
    use crate::generated;
    use crate::generated::Authority;
    use crate::generated::codec::Generated;
    use crate::resolve::PublicUrl;

    #[test]
    fn nobody_is_asked_by_certificates_that_a_trust_anchor_does_not_name_any_more() {
        let installation = Installation {
            public_url: PublicUrl::parse("https://mcp.example.com").unwrap(),
            system_namespace: "sys".into(),
            gateway_namespace: "gateway".into(),
            cluster_domain: "cluster.local".into(),
            service_account: "controller".into(),
            max_staleness: Duration::from_secs(3600),
            webhook: None,
        };
        let mut store = Store::new(Arc::new(installation), ClusterIssuer::default());
        let trust = |generation: i64| -> DynamicObject {
            let metadata = json!({"name": "corp", "uid": "uid-corp", "generation": generation,
                "resourceVersion": generation.to_string()});
            serde_json::from_value(json!({"metadata": metadata, "spec": {"issuer": "https://a.example"}})).unwrap()
        };
        let write = |store: &mut Store, generation: i64, pem: &str| {
            let mut authority = Authority::plain("corp", "https://a.example");
            (authority.id.uid, authority.id.generation) = ("uid-corp".to_owned(), generation);
            authority.keys = KeySource::Discovery { ca_pem: Some(pem.to_owned()) };
            let object = Generated::Authority(authority.clone());
            store.want(&Wanted::new(generated::Kind::Authority, &authority.id, &object).unwrap());
        };
        let why = |store: &Store| anchor_in(store, "corp").unwrap_err().what;
        let pem = |store: &Store| anchor_in(store, "corp").unwrap().ca_pem;
        assert_eq!(why(&store), What::NoEndpoint);
        store.put_source(Kind::McpAuthorizationServer, trust(1));
        assert_eq!(why(&store), What::Unsettled, "nobody has read yet which they are");
        write(&mut store, 1, "first");
        assert_eq!(pem(&store).as_deref(), Some("first"));
        store.put_source(Kind::McpAuthorizationServer, trust(2));
        assert_eq!(why(&store), What::Unsettled);
        write(&mut store, 2, "second");
        assert_eq!(pem(&store).as_deref(), Some("second"));
    }

    #[test]
    fn a_ledger_that_said_nothing_of_its_owner_is_read_again_once_somebody_has_mended_it() {
        let name = "registration-u-1-0";
        let unread = |index: &Index, version: &str| index.unread(vec![(name.to_owned(), version.to_owned())]);
        let mut index = Index::default();
        assert_eq!(unread(&index, "7"), [name]);
        let spoiled = ledgers::tests::stored("production", |secret| {
            secret.data = None;
            (secret.metadata.labels, secret.metadata.annotations) = (None, None);
        });
        take_in(&mut index, spoiled, "sys", "production");
        assert!(unread(&index, "7").is_empty() && !index.has_any("u-1"));
        assert_eq!(unread(&index, "8"), [name]);
        take_in(&mut index, ledgers::tests::stored("production", |_| {}), "sys", "production");
        assert!(unread(&index, "9").is_empty() && index.has_any("u-1") && index.nobodys.is_empty());
    }
}
