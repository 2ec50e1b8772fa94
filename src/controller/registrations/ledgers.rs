//! Ledgers of registrations, each in a Secret of the system namespace.
//!
//! Invariant: a ledger is written over the version that was read, or as a new object, and never over another's: of two
//! controllers that hold one, one goes on and the other begins again with what is there. No tenant and no proxy reads it.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client};

use super::{ISSUER_ANNOTATION, LABEL};
use crate::controller::error::{ApiError, code};
use crate::controller::object::FIELD_MANAGER;
use crate::generated::kind::{SOURCE, SOURCE_UID};
use crate::registration::Ledger;
use crate::registration::ledger::LedgerError;

/// The key, in `data`, of a ledger.
const KEY: &str = "ledger.json";
/// How many ledgers are read at once.
const PAGE: u32 = 200;

/// A ledger that is stored.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// Its Secret's name.
    pub(super) name: String,
    /// Its UID and version: what it is written over.
    pub(super) version: (String, String),
    /// The ledger, if it can be read.
    pub(super) ledger: Result<Ledger, LedgerError>,
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

/// One of them.
pub(super) async fn get(client: &Client, namespace: &str, name: &str) -> Result<Option<Stored>, ApiError> {
    let found = secrets(client, namespace).get_opt(name).await;
    Ok(found.map_err(|error| failed("reading", namespace, name, &error))?.and_then(read))
}

fn read(secret: Secret) -> Option<Stored> {
    let metadata = secret.metadata;
    let ledger = secret.data.and_then(|mut data| data.remove(KEY)).map(|bytes| Ledger::decode(&bytes.0));
    Some(Stored {
        name: metadata.name?,
        version: (metadata.uid?, metadata.resource_version?),
        ledger: ledger.unwrap_or(Err(LedgerError::Malformed)),
    })
}

/// Writes a ledger over the version that was read, or as a new object. `None`: it is not as it was read any more.
pub(super) async fn write(
    client: &Client,
    namespace: &str,
    name: &str,
    over: Option<&(String, String)>,
    (ledger, text): (&Ledger, Vec<u8>),
) -> Result<Option<(String, String)>, ApiError> {
    let secret = secret(name, over, ledger, text);
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

fn secret(name: &str, over: Option<&(String, String)>, ledger: &Ledger, text: Vec<u8>) -> Secret {
    let state = if ledger.released.is_some() { "tombstone" } else { "live" };
    let owner = &ledger.owner;
    let labels = [(LABEL.to_owned(), state.to_owned()), (SOURCE_UID.to_owned(), owner.uid.clone())];
    let annotations = [
        (SOURCE.to_owned(), format!("{}/{}", owner.namespace, owner.name)),
        (ISSUER_ANNOTATION.to_owned(), ledger.issuer.clone()),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            uid: over.map(|(uid, _)| uid.clone()),
            resource_version: over.map(|(_, version)| version.clone()),
            labels: Some(BTreeMap::from(labels)),
            annotations: Some(BTreeMap::from(annotations)),
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
