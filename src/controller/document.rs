//! The protected-resource metadata of a server as a ConfigMap in the server's own namespace, for people and for hosting
//! it elsewhere. Proxies do not read it.
//!
//! Invariant: an object that is not ours is left alone, whatever its name. What is ours goes with its server, by owner
//! reference; what somebody makes of it meanwhile is mended at the next look, at most [`TRUSTED_FOR`] later.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, GetParams, PatchParams, Preconditions};
use serde_json::{Value, json};

use super::Context;
use super::apply::resource;
use super::error::{ApiError, Failure, code};
use super::object::FIELD_MANAGER;
use crate::api::{GROUP, VERSION};
use crate::cluster;
use crate::generated::{Collection, ObjectId};

/// The label of such ConfigMaps.
pub const LABEL: &str = "portcullis.dev/document";
/// Its value.
pub const LABEL_VALUE: &str = "protected-resource-metadata";
/// The key of the document.
pub const KEY: &str = "oauth-protected-resource.json";
/// How long what was found as it should be is taken to be so.
pub const TRUSTED_FOR: Duration = Duration::from_secs(600);

/// The document of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The server.
    pub server: ObjectId,
    /// The document; `None`: there is to be none.
    pub content: Option<String>,
}

/// What was found as it should be, and when, by the UID of the server.
#[derive(Debug, Default)]
pub struct Documents(Mutex<HashMap<String, (Option<String>, Instant)>>);

impl Documents {
    fn is_trusted(&self, document: &Document) -> bool {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found
            .get(&document.server.uid)
            .is_some_and(|(content, at)| *content == document.content && at.elapsed() < TRUSTED_FOR)
    }

    fn found(&self, document: &Document) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.insert(document.server.uid.clone(), (document.content.clone(), Instant::now()));
    }

    /// The server is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

impl Document {
    fn name(&self) -> String {
        format!("{}-mcp-metadata", self.server.name)
    }

    fn manifest(&self, content: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": self.name(),
                "namespace": self.server.namespace,
                "labels": {LABEL: LABEL_VALUE},
                "ownerReferences": [{
                    "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "McpServer", "name": self.server.name,
                    "uid": self.server.uid, "controller": true, "blockOwnerDeletion": false,
                }],
            },
            "data": {KEY: content},
        })
    }

    /// Whether an object of the name is the document of this server, or one of an earlier server of its name.
    fn is_ours(object: &DynamicObject) -> bool {
        object.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL)).is_some_and(|value| value == LABEL_VALUE)
    }

    fn is(&self, object: &DynamicObject, content: &str) -> bool {
        let owners = object.metadata.owner_references.as_deref().unwrap_or_default();
        object.data.pointer("/data").and_then(|data| data.get(KEY)).and_then(Value::as_str) == Some(content)
            && owners.iter().any(|owner| owner.uid == self.server.uid)
    }
}

/// Writes the document, or removes it, if it is not as it should be.
///
/// # Errors
/// If the API server did not do it, or an object of the name is not ours.
pub async fn apply(context: &Context, document: &Document) -> Result<(), Failure> {
    if context.documents.is_trusted(document) {
        return Ok(());
    }
    let name = document.name();
    let place = format!("ConfigMap {}/{name}", document.server.namespace);
    let failed = |error: &kube::Error| Failure::Apply(ApiError::new(place.clone(), error));
    let config_maps = resource(Collection::ConfigMaps);
    let api: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &document.server.namespace, &config_maps);
    let found = match api.get_with(&name, &GetParams::any()).await {
        Ok(found) => Some(found),
        Err(error) if code(&error) == Some(404) => None,
        Err(error) => return Err(failed(&error)),
    };
    match (&found, &document.content) {
        (Some(found), content) if !Document::is_ours(found) => {
            return if content.is_some() { Err(Failure::NameTaken(place)) } else { Ok(()) };
        }
        (Some(found), Some(content)) if document.is(found, content) => {}
        (_, Some(content)) => {
            let (params, manifest) = (PatchParams::apply(FIELD_MANAGER).force(), document.manifest(content));
            let written = context.while_leading(cluster::apply(&api, &name, &params, &manifest)).await?;
            written.map_err(|error| failed(&error))?;
        }
        (Some(found), None) => {
            let preconditions = Preconditions { uid: found.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match context.while_leading(api.delete(&name, &params)).await? {
                Ok(_) => {}
                Err(error) if matches!(code(&error), Some(404 | 409)) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        (None, None) => {}
    }
    context.documents.found(document);
    Ok(())
}
