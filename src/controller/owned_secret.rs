//! Secrets that clients are given their tokens and credentials in.
//!
//! Invariant: only a Secret that the client owns is written or deleted: one that somebody else made is left alone, whatever
//! its name; and a new one is created, not written over.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use crate::api::{GROUP, VERSION};
use crate::controller::error::{ApiError, code};
use crate::generated::ObjectId;
use crate::sensitive::Sensitive;

/// The label that says whose token it is.
pub(super) const CLIENT: &str = "portcullis.dev/client";
const FIELD_MANAGER: &str = "portcullis";

/// What a Secret holds, as far as it is text.
pub(super) type Data = BTreeMap<String, Sensitive>;

/// What is there under the name.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// Nothing.
    Absent,
    /// A Secret that the client owns, and the texts in it.
    Own {
        /// Its UID.
        uid: String,
        /// What it holds.
        data: Data,
    },
    /// Somebody else's.
    Foreign,
    /// Nobody lets the controller look.
    Forbidden,
}

/// Looks for the Secret `name` beside a client.
///
/// # Errors
/// If the API server does not say.
pub(super) async fn find(client: &Client, owner: &ObjectId, name: &str) -> Result<Found, ApiError> {
    match secrets(client, owner).get_opt(name).await {
        Ok(None) => Ok(Found::Absent),
        Ok(Some(secret)) => Ok(read(&secret, owner)),
        Err(error) if code(&error) == Some(403) => Ok(Found::Forbidden),
        Err(error) => Err(failed("reading", owner, name, &error)),
    }
}

fn read(secret: &Secret, owner: &ObjectId) -> Found {
    let owners = secret.metadata.owner_references.iter().flatten();
    let is_owned = owners.into_iter().any(|one| one.uid == owner.uid && one.kind == "McpClient");
    let uid = secret.metadata.uid.clone().filter(|_| is_owned);
    let text =
        |(key, value): (&String, &ByteString)| Some((key.clone(), Sensitive::new(std::str::from_utf8(&value.0).ok()?)));
    let data = secret.data.iter().flatten().filter_map(text).collect();
    uid.map_or(Found::Foreign, |uid| Found::Own { uid, data })
}

/// Writes `data` into the Secret, which is as it was found. `false`: it is not as it was found any more.
///
/// # Errors
/// If the API server does not take it.
pub(super) async fn write(
    client: &Client,
    owner: &ObjectId,
    name: &str,
    found: &Found,
    data: &Data,
) -> Result<bool, ApiError> {
    let secrets = secrets(client, owner);
    let written = match found {
        Found::Absent => {
            let secret: Secret = match serde_json::from_value(manifest(owner, name, None, data)) {
                Ok(secret) => secret,
                Err(_) => return Ok(false),
            };
            let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            secrets.create(&params, &secret).await.map(drop)
        }
        Found::Own { uid, data: known } => {
            let mut manifest = manifest(owner, name, Some(uid), data);
            if let Some(members) = manifest.get_mut("data").and_then(Value::as_object_mut) {
                // Server-side apply would leave what it did not write itself: the credentials that the client was created with.
                members
                    .extend(known.keys().filter(|key| !data.contains_key(*key)).map(|key| (key.clone(), Value::Null)));
            }
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            secrets.patch(name, &params, &Patch::Merge(&manifest)).await.map(drop)
        }
        Found::Foreign | Found::Forbidden => return Ok(false),
    };
    match written {
        Ok(()) => Ok(true),
        // Somebody made one of that name, or deleted ours, since.
        Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(false),
        Err(error) => Err(failed("writing", owner, name, &error)),
    }
}

/// Removes the Secret `name`, if the client owns it: it has another name by now.
///
/// # Errors
/// If the API server does not do it.
pub(super) async fn remove(client: &Client, owner: &ObjectId, name: &str) -> Result<(), ApiError> {
    let Found::Own { uid, .. } = find(client, owner, name).await? else { return Ok(()) };
    let preconditions = Preconditions { uid: Some(uid), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match secrets(client, owner).delete(name, &params).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(()),
        Err(error) => Err(failed("deleting", owner, name, &error)),
    }
}

fn manifest(owner: &ObjectId, name: &str, uid: Option<&str>, data: &Data) -> Value {
    let encoded = |(key, value): (&String, &Sensitive)| (key.clone(), BASE64_STANDARD.encode(value.expose()).into());
    let data: Map<String, Value> = data.iter().map(encoded).collect();
    let mut manifest = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": {CLIENT: owner.name},
            "ownerReferences": [{
                "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "McpClient", "name": owner.name, "uid": owner.uid,
                "controller": true,
            }],
        },
        "type": "Opaque",
        "data": data,
    });
    // A precondition: another Secret of the name is another one.
    if let (Some(uid), Some(metadata)) = (uid, manifest.get_mut("metadata").and_then(Value::as_object_mut)) {
        metadata.insert("uid".to_owned(), uid.into());
    }
    manifest
}

fn secrets(client: &Client, owner: &ObjectId) -> Api<Secret> {
    Api::namespaced(client.clone(), &owner.namespace)
}

fn failed(doing: &str, owner: &ObjectId, name: &str, error: &kube::Error) -> ApiError {
    ApiError::new(format!("{doing} Secret {}/{name}", owner.namespace), error)
}
