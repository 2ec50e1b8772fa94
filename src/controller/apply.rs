//! The step that writes: what there should be, if it is not there.
//!
//! Invariant: only the leader writes; what is there as it should be is not written again; and a status can be made only
//! of what was applied, since only [`apply`] makes an [`Applied`].

use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, PatchParams, Preconditions};

use super::Context;
use super::document::{self, Document};
use super::error::{ApiError, Failure, code};
use super::object::{FIELD_MANAGER, Present, Wanted, object_kind};
use crate::api::Key;
use crate::cluster;
use crate::generated::{Collection, Kind, ObjectId};

/// Everything that there should be for one object. Whoever adds a member has to apply it: [`apply`] names them all.
#[derive(Debug)]
pub struct Prepared<V> {
    /// The object.
    pub key: Key,
    /// Its identity.
    pub id: ObjectId,
    /// What is generated from it.
    pub kind: Kind,
    /// The generated object; `None`: there is to be none.
    pub generated: Option<Wanted>,
    /// The metadata document beside a server.
    pub document: Option<Document>,
    /// What its author is to be told.
    pub verdict: V,
}

/// What is there now for one object.
#[derive(Clone, Debug)]
pub struct Applied<V> {
    /// The object.
    pub key: Key,
    /// Its identity.
    pub id: ObjectId,
    /// What is generated from it, if anything.
    pub generated: Option<Kind>,
    /// What its author is to be told.
    pub verdict: V,
}

/// Writes what there should be. What only informs may fail: that is told beside.
///
/// # Errors
/// If what proxies serve could not be written.
pub async fn apply<V>(context: &Context, prepared: Prepared<V>) -> Result<(Applied<V>, Result<(), Failure>), Failure> {
    let Prepared { key, id, kind, generated, document, verdict } = prepared;
    match &generated {
        Some(wanted) => write(context, wanted).await?,
        None => remove(context, kind, &id.uid).await?,
    }
    let informed = match document {
        Some(document) => document::apply(context, &document).await,
        None => Ok(()),
    };
    Ok((Applied { key, id, generated: generated.map(|_| kind), verdict }, informed))
}

/// Writes a generated object, if it is not there as it should be.
///
/// # Errors
/// If the API server did not take it.
pub(super) async fn write(context: &Context, wanted: &Wanted) -> Result<(), Failure> {
    let (is_there, version) = {
        let mut store = context.store();
        (store.want(wanted), store.version(wanted.kind, &wanted.uid))
    };
    if is_there {
        context.fitness().settled(wanted.kind, &wanted.uid);
        return Ok(());
    }
    let name = wanted.name();
    let mut manifest = wanted.manifest(&context.installation.gateway_namespace);
    if let Some(version) = version {
        // What another leader has written since is not written over: 409, and it is looked at again.
        manifest["metadata"]["resourceVersion"] = version.to_string().into();
    }
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let api = api(context, wanted.kind);
    let written = context.while_leading(cluster::apply(&api, &name, &params, &manifest)).await?;
    let written = written.map_err(|error| ApiError::new(format!("writing {name}"), &error));
    noted(context, wanted.kind, &wanted.uid, written.as_ref().err());
    let object = written.map_err(Failure::Apply)?;
    context.metrics.wrote(wanted.kind);
    if let Some(present) = Present::read(&object, wanted.kind.collection()) {
        let touched = context.store().wrote(wanted.kind, &wanted.uid, present);
        context.look_at(touched);
    }
    Ok(())
}

/// Removes a generated object for which there is no reason any more.
///
/// # Errors
/// If the API server did not do it.
pub async fn remove(context: &Context, kind: Kind, uid: &str) -> Result<(), Failure> {
    let Some(own_uid) = context.store().want_nothing(kind, uid) else {
        context.fitness().settled(kind, uid);
        return Ok(());
    };
    let name = kind.object_name(uid);
    // Another object of the name, written since by somebody else, is looked at again when the watch tells of it.
    let preconditions = Preconditions { uid: Some(own_uid), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let api = api(context, kind);
    let deleted = match context.while_leading(api.delete(&name, &params)).await? {
        Ok(_) => {
            context.metrics.wrote(kind);
            Ok(())
        }
        Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(()),
        Err(error) => Err(ApiError::new(format!("deleting {name}"), &error)),
    };
    noted(context, kind, uid, deleted.as_ref().err());
    deleted.map_err(Failure::Apply)
}

/// Whether the API server took something is what the controller's sign of life rests on.
fn noted(context: &Context, kind: Kind, uid: &str, refused: Option<&ApiError>) {
    let now = context.start.elapsed();
    match refused {
        None => context.fitness().written(kind, uid, now),
        Some(error) => context.fitness().refused(kind, uid, error.reason(), now),
    }
}

fn api(context: &Context, kind: Kind) -> Api<DynamicObject> {
    let namespace = &context.installation.gateway_namespace;
    Api::namespaced_with(context.client.clone(), namespace, &resource(kind.collection()))
}

/// The API of a collection's objects.
pub fn resource(collection: Collection) -> ApiResource {
    let (kind, plural) = match collection {
        Collection::Secrets => (object_kind(collection), "secrets"),
        Collection::ConfigMaps => (object_kind(collection), "configmaps"),
    };
    ApiResource {
        group: String::new(),
        version: "v1".to_owned(),
        api_version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}
