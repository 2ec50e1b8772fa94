//! Secrets that clients are given their tokens and credentials in.
//!
//! Invariant: only a Secret that the client owns is written or deleted: one that somebody else made is left alone, whatever
//! its name; and a new one is created, not written over. What is written is all that is in it: a credential that a client no
//! longer has goes, whoever put it there.

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
    /// A Secret that the client owns, and what is in it.
    Own {
        /// Its UID.
        uid: String,
        /// Its version.
        version: String,
        /// What it holds; what is no text is not what was written.
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
    let version = secret.metadata.uid.clone().zip(secret.metadata.resource_version.clone()).filter(|_| is_owned);
    let text = |(key, value): (&String, &ByteString)| {
        (key.clone(), Sensitive::new(std::str::from_utf8(&value.0).unwrap_or("\u{fffd}")))
    };
    let data = secret.data.iter().flatten().map(text).collect();
    version.map_or(Found::Foreign, |(uid, version)| Found::Own { uid, version, data })
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
            let secret: Secret = match serde_json::from_value(manifest(owner, name, data)) {
                Ok(secret) => secret,
                Err(_) => return Ok(false),
            };
            let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            secrets.create(&params, &secret).await.map(drop)
        }
        Found::Own { version, data: before, .. } => {
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            secrets.patch(name, &params, &Patch::Merge(change(version, before, data))).await.map(drop)
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

/// Removes the Secret `name`, if the client owns it: it has another name by now. `false`: nobody lets the controller look
/// whether there is one.
///
/// # Errors
/// If the API server does not do it.
pub(super) async fn remove(client: &Client, owner: &ObjectId, name: &str) -> Result<bool, ApiError> {
    let uid = match find(client, owner, name).await? {
        Found::Own { uid, .. } => uid,
        Found::Absent | Found::Foreign => return Ok(true),
        Found::Forbidden => return Ok(false),
    };
    let preconditions = Preconditions { uid: Some(uid), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match secrets(client, owner).delete(name, &params).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(true),
        Err(error) => Err(failed("deleting", owner, name, &error)),
    }
}

fn manifest(owner: &ObjectId, name: &str, data: &Data) -> Value {
    json!({
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
        "data": data.iter().map(encoded).collect::<Map<_, _>>(),
    })
}

/// What makes of a Secret of this version, with `before` in it, one with `data` (RFC 7396). An apply would not do: it leaves
/// what was created by another verb, which is what the first write is.
fn change(version: &str, before: &Data, data: &Data) -> Value {
    let gone = before.keys().filter(|key| !data.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let data: Map<String, Value> = data.iter().map(encoded).chain(gone).collect();
    // The version is a precondition: another Secret of the name is another one.
    json!({"metadata": {"resourceVersion": version}, "data": data})
}

fn encoded((key, value): (&String, &Sensitive)) -> (String, Value) {
    (key.clone(), BASE64_STANDARD.encode(value.expose()).into())
}

fn secrets(client: &Client, owner: &ObjectId) -> Api<Secret> {
    Api::namespaced(client.clone(), &owner.namespace)
}

fn failed(doing: &str, owner: &ObjectId, name: &str, error: &kube::Error) -> ApiError {
    ApiError::new(format!("{doing} Secret {}/{name}", owner.namespace), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_no_longer_has_is_not_left_to_it() {
        let data = |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), Sensitive::new(*key))).collect::<Data>();
        let change = change("7", &data(&["client_id", "client_secret"]), &data(&["client_id", "kid"]));
        assert_eq!(
            change,
            json!({"metadata": {"resourceVersion": "7"},
                "data": {"client_id": "Y2xpZW50X2lk", "kid": "a2lk", "client_secret": null}})
        );
    }

    #[test]
    fn what_is_no_text_is_seen() {
        let owner = ObjectId { uid: "u".into(), namespace: "team".into(), name: "c".into(), generation: 1 };
        let mut secret: Secret = serde_json::from_value(manifest(&owner, "s", &Data::new())).unwrap();
        assert!(matches!(read(&secret, &owner), Found::Foreign), "nobody stored it");
        (secret.metadata.uid, secret.metadata.resource_version) = (Some("s".into()), Some("1".into()));
        secret.data = Some(BTreeMap::from([("odd".to_owned(), ByteString(vec![0xff]))]));
        let Found::Own { data, .. } = read(&secret, &owner) else { panic!() };
        assert_eq!(data.keys().collect::<Vec<_>>(), ["odd"]);
    }
}
