//! Ledgers of registrations, each in a Secret of the system namespace.
//!
//! Invariant: a ledger is written over the version that was read, or as a new object, and never over another's: of two
//! controllers that hold one, one goes on and the other begins again with what is there. It says which installation goes on
//! with it, and no other does, wherever it was restored. No tenant and no proxy reads it.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client};

use super::index::Entry;
use super::servers::NotAsked;
use super::{
    AUTHORITY_ANNOTATION, CLIENT_ID_ANNOTATION, CLUSTER_ANNOTATION, ISSUER_ANNOTATION, LABEL, METHOD_ANNOTATION,
    REGISTERED_AT_ANNOTATION,
};
use crate::controller::error::{ApiError, code};
use crate::controller::object::FIELD_MANAGER;
use crate::generated::kind::{SOURCE, SOURCE_UID};
use crate::registration::ledger::LedgerError;
use crate::registration::{Ledger, What};

/// The key, in `data`, of a ledger.
const KEY: &str = "ledger.json";
/// The longest id that is annotated, in bytes: a server may give one that is too long for all annotations together.
const LONGEST_ID: usize = 1024;
/// How many ledgers are read at once.
const PAGE: u32 = 200;

/// A ledger that is stored.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// Its Secret's name.
    pub(super) name: String,
    /// Its UID and version: what it is written over.
    pub(super) version: (String, String),
    /// The installation that goes on with it, if that can be told.
    pub(super) cluster: Option<String>,
    /// Its owner's UID, and where it belongs, if that can be told.
    pub(super) place: Option<(String, Entry)>,
    /// The ledger, if it can be read.
    pub(super) ledger: Result<Ledger, LedgerError>,
}

impl Stored {
    /// Whether another installation goes on with it: this one has it of a backup, or shares its namespace's name alone.
    pub(super) fn is_elsewhere(&self, cluster: &str) -> bool {
        self.cluster.as_deref().is_some_and(|owner| owner != cluster)
    }

    /// The ledger, if this installation may go on with it; or why nothing is done with it.
    pub(super) fn usable(self, namespace: &str, cluster: &str) -> Result<(Ledger, (String, String)), NotAsked> {
        let name = format!("Secret {namespace}/{}", self.name);
        let not = |detail: String| Err(NotAsked::new(What::Ledger, detail));
        if self.is_elsewhere(cluster) {
            return not(format!(
                "{name} tells of a client of another installation, so nothing is done with it. If this installation has taken \
                 its place, run: portcullis clients adopt --ledger {}. Otherwise delete the Secret here",
                self.name
            ));
        }
        match self.ledger {
            Ok(ledger) => Ok((ledger, self.version)),
            Err(error) => not(format!(
                "{name} cannot be read ({error}): restore it from a backup. If you delete it, the client that it tells of stays \
                 at its authorization server"
            )),
        }
    }
}

/// The name of the Secret that holds what is known of a registration of the owner with this UID at an issuer: another one for
/// each issuer, so that nothing of one is ever taken for another's.
pub(super) fn name(uid: &str, issuer: &str) -> String {
    let hash = digest(&SHA256, issuer.as_bytes());
    let short: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("registration-{uid}-{short}")
}

/// All of them.
pub(super) async fn all(client: &Client, namespace: &str) -> Result<Vec<Stored>, ApiError> {
    let mut params = ListParams::default().labels(LABEL).limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = secrets(client, namespace).list(&params).await.map_err(|error| ApiError::new("ledgers", &error))?;
        found.extend(page.items.into_iter().filter_map(read));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// The names of all of them, with their versions.
pub(super) async fn versions(client: &Client, namespace: &str) -> Result<Vec<(String, String)>, ApiError> {
    let listed = secrets(client, namespace).list_metadata(&ListParams::default().labels(LABEL).match_any()).await;
    let listed = listed.map_err(|error| ApiError::new("ledgers", &error))?;
    let metadata = listed.items.into_iter().map(|secret| secret.metadata);
    Ok(metadata.filter_map(|metadata| metadata.name.zip(metadata.resource_version)).collect())
}

/// One of them.
pub(super) async fn get(client: &Client, namespace: &str, name: &str) -> Result<Option<Stored>, ApiError> {
    let found = secrets(client, namespace).get_opt(name).await;
    Ok(found.map_err(|error| failed("reading", namespace, name, &error))?.and_then(read))
}

fn read(secret: Secret) -> Option<Stored> {
    let metadata = secret.metadata;
    let ledger = secret.data.and_then(|mut data| data.remove(KEY)).map(|bytes| Ledger::decode(&bytes.0));
    let ledger = ledger.unwrap_or(Err(LedgerError::Malformed));
    let (labels, annotations) = (metadata.labels.unwrap_or_default(), metadata.annotations.unwrap_or_default());
    // What cannot be read is somebody's all the same.
    let place = match &ledger {
        Ok(ledger) => Some((ledger.owner.uid.clone(), Entry::of(ledger))),
        Err(_) => labels.get(SOURCE_UID).cloned().zip(Entry::told(&annotations)),
    };
    let cluster = annotations.get(CLUSTER_ANNOTATION).cloned();
    Some(Stored {
        name: metadata.name?,
        version: (metadata.uid?, metadata.resource_version?),
        cluster: cluster.or_else(|| ledger.as_ref().ok().map(|ledger| ledger.cluster.clone())),
        place,
        ledger,
    })
}

/// Writes a ledger, as that of the installation `cluster`, over the version that was read, or as a new object. `None`: it is
/// not as it was read any more.
pub(super) async fn write(
    client: &Client,
    (namespace, name): (&str, &str),
    cluster: &str,
    over: Option<&(String, String)>,
    (ledger, text): (&Ledger, Vec<u8>),
) -> Result<Option<(String, String)>, ApiError> {
    let secret = secret(name, cluster, over, (ledger, text));
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let secrets = secrets(client, namespace);
    let written = match over {
        Some(_) => secrets.replace(name, &params, &secret).await,
        None => secrets.create(&params, &secret).await,
    };
    match written {
        Ok(secret) => Ok(secret.metadata.uid.zip(secret.metadata.resource_version)),
        Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(None),
        Err(error) => Err(failed("writing", namespace, name, &error)),
    }
}

/// Removes a ledger, if it is as it was read. `false`: it is not.
pub(super) async fn remove(
    client: &Client,
    namespace: &str,
    name: &str,
    (uid, version): &(String, String),
) -> Result<bool, ApiError> {
    let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: Some(version.clone()) };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match secrets(client, namespace).delete(name, &params).await {
        Ok(_) => Ok(true),
        Err(error) if code(&error) == Some(404) => Ok(true),
        Err(error) if code(&error) == Some(409) => Ok(false),
        Err(error) => Err(failed("deleting", namespace, name, &error)),
    }
}

fn secret(name: &str, cluster: &str, over: Option<&(String, String)>, (ledger, text): (&Ledger, Vec<u8>)) -> Secret {
    let state = match ledger.released {
        _ if ledger.is_over() => "orphans",
        Some(_) => "tombstone",
        None => "live",
    };
    let owner = &ledger.owner;
    let labels = [(LABEL.to_owned(), state.to_owned()), (SOURCE_UID.to_owned(), owner.uid.clone())];
    let mut annotations = BTreeMap::from([
        (SOURCE.to_owned(), format!("{}/{}", owner.namespace, owner.name)),
        (ISSUER_ANNOTATION.to_owned(), ledger.issuer.clone()),
        (AUTHORITY_ANNOTATION.to_owned(), ledger.authority.clone()),
        // Not always that of the ledger, of which the client's marks are made: another may have taken its place since.
        (CLUSTER_ANNOTATION.to_owned(), cluster.to_owned()),
        (METHOD_ANNOTATION.to_owned(), ledger.method.as_str().to_owned()),
    ]);
    if let Some(current) = &ledger.current {
        let id = Some(&current.client_id).filter(|id| id.len() <= LONGEST_ID);
        annotations.extend(id.map(|id| (CLIENT_ID_ANNOTATION.to_owned(), id.clone())));
        let at = Timestamp::from_second(current.registered_at).ok().filter(|_| !current.is_given());
        annotations.extend(at.map(|at| (REGISTERED_AT_ANNOTATION.to_owned(), at.to_string())));
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            uid: over.map(|(uid, _)| uid.clone()),
            resource_version: over.map(|(_, version)| version.clone()),
            labels: Some(BTreeMap::from(labels)),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(text))])),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

fn secrets(client: &Client, namespace: &str) -> Api<Secret> {
    Api::namespaced(client.clone(), namespace)
}

pub(super) fn failed(doing: &str, namespace: &str, name: &str, error: &kube::Error) -> ApiError {
    ApiError::new(format!("{doing} Secret {namespace}/{name}"), error)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// One that nothing is registered of.
    pub(in crate::controller::registrations) fn ledger() -> Ledger {
        let deletion = json!({"policy": "Delete", "timeout_seconds": 600, "on_unavailable": "Orphan"});
        let text = json!({"version": 1, "owner": {"kind": "McpClient", "namespace": "team", "name": "reports", "uid": "u-1"},
            "cluster": "production", "authority": "corp", "issuer": "https://as.example", "profile": "Generic",
            "method": "Dcr", "deletion": deletion, "keys": [], "attempts": 1, "step": "Idle", "current": null, "retired": [],
            "lost": [], "lost_besides": 0, "forgotten": null, "released": null});
        Ledger::decode(text.to_string().as_bytes()).unwrap()
    }

    /// What is read of a ledger that `cluster` wrote, after `spoil`.
    pub(in crate::controller::registrations) fn stored(cluster: &str, spoil: impl FnOnce(&mut Secret)) -> Stored {
        let over = ("uid".to_owned(), "7".to_owned());
        let mut secret = secret("registration-u-1-0", cluster, Some(&over), (&ledger(), ledger().encode().unwrap()));
        spoil(&mut secret);
        read(secret).unwrap()
    }

    #[test]
    fn a_ledger_is_its_installations_and_anothers_only_once_that_is_said() {
        let own = stored("production", |_| {});
        assert!(own.clone().usable("system", "production").is_ok() && !own.is_elsewhere("production"));
        let not = own.usable("system", "staging").unwrap_err();
        assert_eq!(not.what.reason(), "LedgerNotUsed");
        assert!(not.detail.contains("portcullis clients adopt --ledger registration-u-1-0"), "{}", not.detail);
        let adopted = stored("staging", |_| {});
        let (ledger, _) = adopted.clone().usable("system", "staging").unwrap();
        assert_eq!(ledger.cluster, "production", "the client's marks stay");
        assert!(adopted.is_elsewhere("production"));
        let unmarked = stored("staging", |secret| drop(secret.metadata.annotations.take()));
        assert!(unmarked.is_elsewhere("staging") && !unmarked.is_elsewhere("production"));
    }

    /// Whoever lists clients reads no Secret.
    #[test]
    fn what_may_be_told_of_a_tombstone_is_told_beside_what_is_secret() {
        let noted = |ledger: &Ledger| {
            let secret = secret("registration-u-1-0", "production", None, (ledger, ledger.encode().unwrap()));
            let annotations = secret.metadata.annotations.unwrap();
            [METHOD_ANNOTATION, CLIENT_ID_ANNOTATION, REGISTERED_AT_ANNOTATION]
                .map(|name| annotations.get(name).cloned())
        };
        let bare = ledger();
        assert_eq!(noted(&bare), [Some("DCR".to_owned()), None, None]);
        let with = |id: &str, handle: serde_json::Value| {
            let mut text = serde_json::to_value(&bare).unwrap();
            text["current"] = json!({"client_id": id, "client_secret": "hunter2", "secret_expires_at": null,
                "secret_since": 0, "registered_at": 60, "updated_at": 0, "handle": handle, "digest": "", "kids": [],
                "substituted": []});
            text["released"] = 70.into();
            Ledger::decode(text.to_string().as_bytes()).unwrap()
        };
        let handle = json!({"Protocol": {"uri": "https://as.example/c-1", "token": "hunter2"}});
        let at = Some("1970-01-01T00:01:00Z".to_owned());
        assert_eq!(noted(&with("c-1", handle.clone())), [Some("DCR".to_owned()), Some("c-1".to_owned()), at.clone()]);
        // One that is longer than all annotations may be keeps no ledger from being written.
        assert_eq!(noted(&with(&"c".repeat(300_000), handle)), [Some("DCR".to_owned()), None, at]);
        // Nobody here knows when somebody else has registered one.
        let given = with("c-1", json!({"Given": {"is_believed": true}}));
        assert_eq!(noted(&given)[1..], [Some("c-1".to_owned()), None]);
    }

    #[test]
    fn one_that_cannot_be_read_is_its_owners_all_the_same() {
        let spoil = |secret: &mut Secret| {
            secret.data.as_mut().unwrap().insert(KEY.to_owned(), ByteString(b"{".to_vec()));
        };
        let spoiled = stored("production", spoil);
        let (uid, entry) = spoiled.place.clone().unwrap();
        assert_eq!((uid.as_str(), entry), ("u-1", Entry::of(&ledger())));
        let not = spoiled.usable("system", "production").unwrap_err();
        assert!(
            not.detail.contains("Secret system/registration-u-1-0") && not.detail.contains("backup"),
            "{}",
            not.detail
        );
    }
}
