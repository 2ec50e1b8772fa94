//! The sign of life of the leading controller, by which proxies measure how old what they have may be.
//!
//! Invariant: it is written by whoever leads, follows every collection and can write, and says which encoding is written.
//! Its time is that of writing, so a clock that is wrong shows; and a controller that is dead, blind or mute does too.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DynamicObject, PatchParams};
use serde_json::json;

use super::Context;
use super::apply::resource;
use super::error::{ApiError, Failure};
use super::object::{FIELD_MANAGER, object_kind};
use crate::cluster;
use crate::generated::report::{HEARTBEAT, WRITES};
use crate::generated::{Collection, codec};

/// How often.
pub const EVERY: Duration = Duration::from_secs(10);
/// The name of the object by which it is found out whether anything is taken.
const PROBE: &str = "portcullis-probe";

/// Says that the controller lives, if it is fit.
///
/// # Errors
/// If it is not, or it could not be said.
pub async fn beat(context: &Context) -> Result<(), Failure> {
    if let Some(unseen) = context.fitness().blind() {
        return Err(Failure::Blind(unseen));
    }
    let suspect = context.fitness().suspect(context.start.elapsed());
    if let Some(mute) = suspect {
        // Its next turn may be minutes away. Whether it can be written by now is to be known soon.
        context.look_at(context.store().again(mute.kind, &mute.uid));
        let collection = mute.kind.collection();
        if !takes_anything(context, collection).await? {
            context.fitness().takes_nothing(collection);
            return Err(Failure::Mute(mute.to_string()));
        }
        context.fitness().takes(collection, context.start.elapsed());
    }
    let namespace = &context.installation.gateway_namespace;
    let api: Api<Lease> = Api::namespaced(context.client.clone(), namespace);
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": HEARTBEAT, "annotations": {WRITES: codec::VERSION.to_string()}},
        "spec": {
            "holderIdentity": context.identity,
            "leaseDurationSeconds": EVERY.as_secs() * 3,
            "renewTime": MicroTime(Timestamp::now()),
        },
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = context.while_leading(cluster::apply(&api, HEARTBEAT, &params, &lease)).await?;
    written.map(drop).map_err(|error| Failure::Apply(ApiError::new(format!("Lease {HEARTBEAT}"), &error)))
}

/// Whether the API server would take an empty object of a collection. Nothing is written.
async fn takes_anything(context: &Context, collection: Collection) -> Result<bool, Failure> {
    let namespace = &context.installation.gateway_namespace;
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &resource(collection));
    let probe = json!({"apiVersion": "v1", "kind": object_kind(collection), "metadata": {"name": PROBE}});
    let params = PatchParams { dry_run: true, ..PatchParams::apply(FIELD_MANAGER) };
    Ok(context.while_leading(cluster::apply(&api, PROBE, &params, &probe)).await?.is_ok())
}
