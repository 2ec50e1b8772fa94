//! The ConfigMaps with the definitions that a server lists, in the gateway namespace.
//!
//! Invariant: what is there as it should be is not written again; what has no server any more is removed, when the server
//! goes or, if nobody led then, when somebody begins to lead. Nobody follows them: they are looked at with each inventory.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, GetParams, ListParams, PatchParams};

use super::{INVENTORY, MOST_OBJECTS};
use crate::cluster;
use crate::controller::Context;
use crate::controller::error::{ApiError, Failure, code};
use crate::controller::object::FIELD_MANAGER;
use crate::generated::Kind;

/// How many names are listed at once.
const PAGE: u32 = 500;

fn api(context: &Context) -> Api<ConfigMap> {
    Api::namespaced(context.client.clone(), &context.installation.gateway_namespace)
}

/// The name of a server's `n`th object.
pub(super) fn name(uid: &str, n: usize) -> String {
    format!("inventory-{uid}-{n}")
}

/// Writes these objects of a server where they are not there, and removes what it had beyond them.
///
/// # Errors
/// If the API server did not do it.
pub(super) async fn write(context: &Context, uid: &str, objects: Vec<ConfigMap>) -> Result<(), Failure> {
    let (api, count) = (api(context), objects.len());
    for (n, mut object) in objects.into_iter().enumerate() {
        let name = name(uid, n);
        let failed = |error: &kube::Error| Failure::Apply(ApiError::new(format!("ConfigMap {name}"), error));
        if there(&api, &name).await?.is_some_and(|there| is(&there, &object)) {
            continue;
        }
        object.metadata.namespace = Some(context.installation.gateway_namespace.clone());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = context.while_leading(cluster::apply(&api, &name, &params, &object)).await?;
        written.map_err(|error| failed(&error))?;
    }
    for n in count..MOST_OBJECTS {
        let name = name(uid, n);
        if there(&api, &name).await?.is_none() {
            break;
        }
        delete(context, &api, &name).await?;
    }
    Ok(())
}

/// Removes what there is of a server that is gone.
///
/// # Errors
/// If the API server did not do it.
pub async fn remove(context: &Context, uid: &str) -> Result<(), Failure> {
    write(context, uid, Vec::new()).await
}

/// Removes what there is of servers that are not there. Everything that exists was told by now.
///
/// # Errors
/// If the API server did not do it.
pub(super) async fn remove_strays(context: &Context) -> Result<(), Failure> {
    let api = api(context);
    let mut params = ListParams::default().labels(INVENTORY).limit(PAGE);
    let mut strays = BTreeSet::new();
    loop {
        let page = api.list_metadata(&params).await;
        let page = page.map_err(|error| Failure::Apply(ApiError::new("listing inventories", &error)))?;
        for object in page.items {
            let uid = object.metadata.labels.as_ref().and_then(|labels| labels.get(INVENTORY));
            let is_wanted = context.inventories.are_taken()
                && uid.is_some_and(|uid| context.store().owner(Kind::Server, uid).is_some());
            strays.extend(object.metadata.name.filter(|_| !is_wanted));
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    for name in strays {
        delete(context, &api, &name).await?;
    }
    Ok(())
}

async fn there(api: &Api<ConfigMap>, name: &str) -> Result<Option<ConfigMap>, Failure> {
    match api.get_with(name, &GetParams::any()).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if code(&error) == Some(404) => Ok(None),
        Err(error) => Err(Failure::Apply(ApiError::new(format!("ConfigMap {name}"), &error))),
    }
}

async fn delete(context: &Context, api: &Api<ConfigMap>, name: &str) -> Result<(), Failure> {
    match context.while_leading(api.delete(name, &DeleteParams::default())).await? {
        Ok(_) => Ok(()),
        Err(error) if code(&error) == Some(404) => Ok(()),
        Err(error) => Err(Failure::Apply(ApiError::new(format!("deleting ConfigMap {name}"), &error))),
    }
}

/// Whether what is there is as it should be: others may have added labels and annotations, but no data.
fn is(there: &ConfigMap, wanted: &ConfigMap) -> bool {
    let (has, wants) = (&there.metadata, &wanted.metadata);
    let holds = |there: &Option<std::collections::BTreeMap<String, String>>, key: &String, value: &String| {
        there.as_ref().and_then(|all| all.get(key)) == Some(value)
    };
    there.data == wanted.data
        && wants.labels.iter().flatten().all(|(key, value)| holds(&has.labels, key, value))
        && wants.annotations.iter().flatten().all(|(key, value)| holds(&has.annotations, key, value))
        && has.annotations.iter().flatten().all(|(key, _)| {
            key != super::LEFT_OUT || wants.annotations.iter().flatten().any(|(wanted, _)| wanted == key)
        })
}
