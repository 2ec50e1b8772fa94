//! The finalizer by which an McpClient stays until its registration is taken back.

use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::json;

use crate::api::{GROUP, Key, VERSION};
use crate::cluster;
use crate::controller::error::{ApiError, Failure, code};
use crate::controller::{Context, speak};

/// What keeps an object until its registration is taken back.
pub(in crate::controller) const FINALIZER: &str = "portcullis.dev/registration";
/// Finalizers are applied by a name of their own, so that nothing else of the object is.
const FINALIZER_MANAGER: &str = "portcullis-registration";

/// Puts the finalizer on an object.
///
/// # Errors
/// If the API server does not do it.
pub(super) async fn hold(context: &Context, key: &Key, uid: &str) -> Result<(), Failure> {
    let applied = apply(context, key, uid, &[FINALIZER]).await?;
    applied.map(drop).map_err(|error| failed(key, &error))
}

/// Takes the finalizer away, whoever put it there. `false`: somebody has changed the object meanwhile, and it may be there yet.
///
/// # Errors
/// If the API server does not do it.
pub(super) async fn release(context: &Context, key: &Key, uid: &str) -> Result<bool, Failure> {
    let object = match apply(context, key, uid, &[]).await? {
        Ok(object) => object,
        // It is gone, or is another object.
        Err(error) if matches!(code(&error), Some(404 | 409)) => return Ok(true),
        Err(error) => return Err(failed(key, &error)),
    };
    // An apply takes away only what nobody else has put there as well.
    let finalizers = object.metadata.finalizers.unwrap_or_default();
    let Some(index) = finalizers.iter().position(|one| one == FINALIZER) else { return Ok(true) };
    let patch = removal(uid, index).map_err(|_| Failure::Build("PatchNotMade"))?;
    match context.while_leading(api(context, key).patch(&key.name, &PatchParams::default(), &patch)).await? {
        Ok(_) => Ok(true),
        Err(error) if code(&error) == Some(404) => Ok(true),
        // It is another object, or has other finalizers by now (RFC 6902 section 5).
        Err(error) if matches!(code(&error), Some(409 | 422)) => Ok(false),
        Err(error) => Err(failed(key, &error)),
    }
}

/// What removes the finalizer at this place (RFC 6902), and nothing else, and not from another object of the name.
fn removal(uid: &str, index: usize) -> serde_json::Result<Patch<()>> {
    let at = format!("/metadata/finalizers/{index}");
    let operations = json!([
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": at, "value": FINALIZER},
        {"op": "remove", "path": at},
    ]);
    serde_json::from_value(operations).map(Patch::Json)
}

/// Applies which finalizers are ours.
async fn apply(
    context: &Context,
    key: &Key,
    uid: &str,
    finalizers: &[&str],
) -> Result<kube::Result<DynamicObject>, Failure> {
    // The UID makes it a precondition: an object of the same name is another one.
    let patch = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": key.kind.as_str(),
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid, "finalizers": finalizers},
    });
    let (api, params) = (api(context, key), PatchParams::apply(FINALIZER_MANAGER).force());
    context.while_leading(cluster::apply(&api, &key.name, &params, &patch)).await
}

fn api(context: &Context, key: &Key) -> Api<DynamicObject> {
    Api::namespaced_with(context.client.clone(), &key.namespace, &speak::resource(key.kind))
}

fn failed(key: &Key, error: &kube::Error) -> Failure {
    Failure::Apply(ApiError::new(format!("finalizer of {key}"), error))
}
