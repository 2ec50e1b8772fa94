//! Secrets, ConfigMaps and Services that objects refer to, and what lies beside them: by name, with `get` alone.
//!
//! Invariant: nobody's Secrets are listed, and none is read but those that an object names; where that is forbidden, the
//! object is told so, and nothing else is held up. They are not watched: a watch by name is a connection each, and one of a
//! whole namespace would show Secrets that nobody named. Reading them again every minute costs the API server little,
//! since it answers from memory (resource version 0).

use std::fmt::Debug;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DynamicObject, GetParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::apply::resource;
use super::error::{ApiError, Failure, code};
use super::object::object_kind;
use crate::api::core::{ConfigMap, Secret};
use crate::api::{Object, object};
use crate::generated::Collection;

/// What became of a reference.
#[derive(Clone, Debug)]
pub enum Fetched<T> {
    /// It is there.
    Found(T),
    /// It is not there, or nothing that can be read.
    Absent,
    /// It may not be read.
    Forbidden,
}

/// A Secret by its name.
///
/// # Errors
/// If the API server cannot say whether it is there.
pub async fn secret(client: &Client, namespace: &str, name: &str) -> Result<Fetched<Secret>, Failure> {
    let found = get(client, Collection::Secrets, namespace, name).await?;
    Ok(match found {
        Fetched::Found(Object::Secret(secret)) => Fetched::Found(secret),
        Fetched::Found(_) | Fetched::Absent => Fetched::Absent,
        Fetched::Forbidden => Fetched::Forbidden,
    })
}

/// A ConfigMap by its name.
///
/// # Errors
/// If the API server cannot say whether it is there.
pub async fn config_map(client: &Client, namespace: &str, name: &str) -> Result<Fetched<ConfigMap>, Failure> {
    let found = get(client, Collection::ConfigMaps, namespace, name).await?;
    Ok(match found {
        Fetched::Found(Object::ConfigMap(map)) => Fetched::Found(map),
        Fetched::Found(_) | Fetched::Absent => Fetched::Absent,
        Fetched::Forbidden => Fetched::Forbidden,
    })
}

/// A Service by its name.
///
/// # Errors
/// If the API server cannot say whether it is there.
pub async fn service(client: &Client, namespace: &str, name: &str) -> Result<Fetched<Service>, Failure> {
    by_name(&Api::namespaced(client.clone(), namespace), "Service", namespace, name).await
}

/// A NetworkPolicy by its name.
///
/// # Errors
/// If the API server cannot say whether it is there.
pub async fn network_policy(client: &Client, namespace: &str, name: &str) -> Result<Fetched<NetworkPolicy>, Failure> {
    by_name(&Api::namespaced(client.clone(), namespace), "NetworkPolicy", namespace, name).await
}

async fn get(client: &Client, collection: Collection, namespace: &str, name: &str) -> Result<Fetched<Object>, Failure> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource(collection));
    Ok(match by_name(&api, object_kind(collection), namespace, name).await? {
        Fetched::Found(found) => read(found, collection).map_or(Fetched::Absent, Fetched::Found),
        Fetched::Absent => Fetched::Absent,
        Fetched::Forbidden => Fetched::Forbidden,
    })
}

async fn by_name<K>(api: &Api<K>, kind: &str, namespace: &str, name: &str) -> Result<Fetched<K>, Failure>
where
    K: Clone + Debug + DeserializeOwned,
{
    // No object has such a name. It would become part of a request that the controller signs, and a request that cannot be
    // made at all would be tried again for ever, with everything else about the server left as it was.
    if !object::is_dns_subdomain(name) {
        return Ok(Fetched::Absent);
    }
    let found = match api.get_with(name, &GetParams::any()).await {
        // It may have been made a moment ago, with what refers to it: what is in memory may be older than that.
        Err(error) if code(&error) == Some(404) => api.get(name).await,
        found => found,
    };
    match found {
        Ok(found) => Ok(Fetched::Found(found)),
        Err(error) => match code(&error) {
            Some(404) => Ok(Fetched::Absent),
            Some(403) => Ok(Fetched::Forbidden),
            _ => Err(Failure::Dereference(ApiError::new(format!("{kind} {namespace}/{name}"), &error))),
        },
    }
}

fn read(mut found: DynamicObject, collection: Collection) -> Option<Object> {
    found.metadata.managed_fields = None;
    let metadata = serde_json::to_value(&found.metadata).ok()?;
    let members = found.data.as_object_mut()?;
    members.insert("apiVersion".to_owned(), Value::from("v1"));
    members.insert("kind".to_owned(), object_kind(collection).into());
    members.insert("metadata".to_owned(), metadata);
    object::read(&found.data).ok()
}
